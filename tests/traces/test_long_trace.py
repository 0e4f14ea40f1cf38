"""Long traces on disk: whole, checked, and refused when anything about them is wrong."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tightfit.experiments.long_made import write_pattern, write_program, write_workload
from tightfit.sim.packing import pack
from tightfit.traces import event_words, serving, synthetic
from tightfit.traces.errors import TraceError
from tightfit.traces.long_packer import LongPacker
from tightfit.traces.long_read import open_long
from tightfit.traces.long_trace import EVENTS_AT, FRONT, LongTrace
from tightfit.traces.requests import FITTED
from tightfit.traces.serving import Workload, make_workload
from tightfit.traces.synthetic import PATTERNS, PIECES, Piece, joined

from .. import strategies as make


def written(tmp_path: Path, seed: int = 3, piece: int = 16, start_ops: int = 30) -> Path:
    program = make.random_program(seed, 120, start_ops=start_ops)
    path = tmp_path / "some.events"
    write_program(path, program, True, {"PYTORCH_CUDA_ALLOC_CONF": ""}, {}, piece)
    return path


def opened(data: bytes, tmp_path: Path) -> LongTrace:
    path = tmp_path / "other.events"
    path.write_bytes(data)
    return open_long(path)


def rewritten(trace: LongTrace, path: Path, words: np.ndarray) -> Path:
    """The trace with other events, and checksums that fit them."""
    from tightfit.traces.long_write import LongWriter

    with open(path, "wb") as out:
        writer = LongWriter(out, trace.piece)
        writer.add(words)
        writer.add_entries(np.zeros(len(words) - trace.prefix, np.int64))
        writer.finish(
            trace.program, trace.n_slots, trace.max_live, trace.prefix, trace.starts_as_recorded
        )
    return path


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_is_read(seed: int, tmp_path: Path) -> None:
    program = make.random_program(seed, 200, start_ops=40 * (seed % 2))
    packed = pack(program, keep_start=False)
    path = tmp_path / "some.events"
    write_program(
        path, program, True, {"a": 1}, {"b": [2]}, piece=random.Random(seed).randint(1, 99)
    )
    trace = open_long(path)
    assert np.array_equal(trace.events, packed.events)
    assert trace.entry is not None and np.array_equal(trace.entry, program.entry)
    assert (trace.prefix, trace.n_slots, trace.max_live) == (
        packed.prefix, packed.n_slots, packed.max_live,
    )  # fmt: skip
    for name in ("req_size", "req_stream", "req_pool", "streams"):
        assert np.array_equal(getattr(trace.program, name), getattr(program, name))
    assert trace.program.pools == program.pools
    assert trace.program.n_ops == program.n_ops
    assert trace.program.n_start == program.n_start
    for part in ("segments", "blocks"):
        ours, theirs = getattr(trace.program.start, part), getattr(program.start, part)
        assert all(np.array_equal(ours[k], theirs[k]) for k in theirs)
    assert (trace.settings, trace.extra) == ({"a": 1}, {"b": [2]})
    for op in {int(o) for o in program.op}:
        assert trace.program.counts[op] == int((program.op == op).sum())


def test_a_program_gives_the_same_file_however_it_comes_in_pieces(tmp_path: Path) -> None:
    """Class numbers are those of first appearance, so that the pieces do not show."""
    whole = joined(PIECES["serve"](20_000, 1))
    rng = random.Random(1)
    for _ in range(5):
        packer, words = LongPacker(), []
        cuts = sorted(rng.sample(range(20_000), 12))
        made = 0
        for low, high in zip([0, *cuts], [*cuts, 20_000], strict=True):
            n = int(whole.is_malloc[low:high].sum())
            sizes = whole.size[made : made + n]
            part = Piece(whole.is_malloc[low:high], whole.alloc[low:high], sizes)
            words.append(packer.words(part))
            made += n
        alone = LongPacker()
        size = alone.program().req_size
        want = alone.words(whole)
        size = alone.program().req_size
        # The order of first appearance is that of sizes within a piece.
        order = packer.program().req_size
        got = np.concatenate(words)
        klass = (got >> event_words.OP_BITS) & event_words.CLASS_MASK
        assert np.array_equal(got >> 32, want >> 32)
        assert np.array_equal(got & 15, want & 15)
        expected = (want >> event_words.OP_BITS) & event_words.CLASS_MASK
        assert np.array_equal(order[klass - 1], size[expected - 1])
        assert (packer.n_slots, packer.max_live) == (alone.n_slots, alone.max_live)
        assert packer.peak_requested_bytes == alone.peak_requested_bytes


@pytest.mark.parametrize("name", PATTERNS)
def test_words_are_those_of_packing_the_whole(name: str) -> None:
    n = 60_000
    program = PATTERNS[name](n)
    packed = pack(program)
    packer = LongPacker()
    words = np.concatenate([packer.words(p) for p in PIECES[name](n)])
    assert np.array_equal(words >> 32, packed.events >> 32)
    assert np.array_equal(words & 15, packed.events & 15)
    klass = ((words >> 4) & event_words.CLASS_MASK) - 1
    whole = ((packed.events >> 4) & event_words.CLASS_MASK) - 1
    assert np.array_equal(packer.program().req_size[klass], program.req_size[whole])
    assert (packer.n_slots, packer.max_live) == (packed.n_slots, packed.max_live)


@pytest.mark.parametrize("name", serving.WORKLOADS)
@pytest.mark.parametrize("piece", [1000, 7777])
def test_a_server_made_in_pieces_is_the_same(
    name: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = FITTED["conversation"].draw(300, 5)
    whole = Workload(name, requests, 60_000, 5)
    want = joined(whole.pieces())
    monkeypatch.setattr(serving, "PIECE", piece)
    parts = Workload(name, requests, 60_000, 5)
    pieces = list(parts.pieces())
    assert len(pieces) > 5
    assert all(map(np.array_equal, joined(iter(pieces)), want))
    assert parts.served == whole.served


@pytest.mark.parametrize("drawn", [1000, 4321])
def test_a_pattern_drawn_in_pieces_is_the_same(drawn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    want = joined(PIECES["random"](20_000, 3))
    monkeypatch.setattr(synthetic, "DRAWN", drawn)
    pieces = list(PIECES["random"](20_000, 3))
    assert len(pieces) > 4
    assert all(map(np.array_equal, joined(iter(pieces)), want))


def test_what_workloads_say_is_what_their_recordings_say(tmp_path: Path) -> None:
    path = tmp_path / "kv.events"
    requests = FITTED["conversation"].draw(100, 1)
    said = write_workload(path, "kv_cat", requests, 30_000, 1, lambda n: None)
    assert said == make_workload("kv_cat", requests, 30_000, 1).findings
    trace = open_long(path)
    assert trace.program.findings == said
    assert len(trace.events) == 30_000


def test_equal_programs_give_equal_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.events", tmp_path / "b.events"]
    for path in paths:
        write_pattern(path, "pinned", 30_000, 1, lambda n: None)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    data = written(tmp_path).read_bytes()
    for end in [0, 1, 15, 63, 64, 4095, 4096, 4103, len(data) // 2, len(data) - 1]:
        with pytest.raises(TraceError, match=r"other\.events: "):
            opened(data[:end], tmp_path)
    with pytest.raises(TraceError, match="expected"):
        opened(data + b"\0", tmp_path)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    data = written(tmp_path).read_bytes()
    rng = random.Random(0)
    places = [*range(72), *rng.sample(range(EVENTS_AT, len(data)), 200)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        with pytest.raises(TraceError):
            opened(bytes(damaged), tmp_path)


def first_of(words: np.ndarray, op: int) -> int:
    return int(np.flatnonzero(words & 15 == op)[0])


def set_op(op: int) -> Callable[[np.ndarray], None]:
    def change(words: np.ndarray) -> None:
        words[-1] = words[-1] >> 4 << 4 | op

    return change


def again(words: np.ndarray) -> None:
    words[first_of(words, event_words.MALLOC) + 1] = words[first_of(words, event_words.MALLOC)]


def free_twice(words: np.ndarray) -> None:
    at = first_of(words, event_words.FREE)
    words[at + 1] = words[at]


def of_another_class(words: np.ndarray) -> None:
    at = first_of(words, event_words.FREE)
    words[at] ^= 1 << event_words.OP_BITS


def beyond(words: np.ndarray) -> None:
    words[first_of(words, event_words.MALLOC)] |= 1 << 40


def negative(words: np.ndarray) -> None:
    words[first_of(words, event_words.MALLOC)] |= np.int64(-(1 << 63))


def unknown_request(words: np.ndarray) -> None:
    words[first_of(words, event_words.MALLOC)] |= event_words.CLASS_MASK << event_words.OP_BITS


def complete_nothing(words: np.ndarray) -> None:
    at = first_of(words, event_words.FREE)
    words[at] = words[at] >> 4 << 4 | event_words.COMPLETE


def pool_beyond(words: np.ndarray) -> None:
    words[-1] = np.int64(1 << 40) | event_words.RELEASE_POOL


@pytest.mark.parametrize(
    "change",
    [
        set_op(15), set_op(9), set_op(12), again, free_twice, of_another_class, beyond, negative,
        unknown_request, complete_nothing, pool_beyond,
    ],
)  # fmt: skip
def test_events_that_break_a_rule_are_refused(
    change: Callable[[np.ndarray], None], tmp_path: Path
) -> None:
    """With checksums that fit: a stranger can compute those as well."""
    trace = open_long(written(tmp_path, start_ops=0))
    words = trace.events.copy()
    change(words)
    path = rewritten(trace, tmp_path / "forged.events", words)
    with pytest.raises(TraceError, match=r"forged\.events: event "):
        open_long(path)


def test_events_that_place_another_start_are_refused(tmp_path: Path) -> None:
    trace = open_long(written(tmp_path))
    assert trace.prefix
    words = trace.events.copy()
    words[0] = (words[0] >> 32 << 32) | (((words[0] >> 4 & event_words.CLASS_MASK) % 3 + 1) << 4)
    if words[0] == trace.events[0]:
        words[0] += 16
    path = rewritten(trace, tmp_path / "forged.events", words)
    with pytest.raises(TraceError):
        open_long(path)


def test_fewer_slots_or_blocks_than_needed_are_refused(tmp_path: Path) -> None:
    trace = open_long(written(tmp_path, start_ops=0))
    trace.max_live -= 1
    with pytest.raises(TraceError, match="live allocations"):
        open_long(rewritten(trace, tmp_path / "forged.events", trace.events))
    trace.n_slots -= 1
    with pytest.raises(TraceError, match="slot"):
        open_long(rewritten(trace, tmp_path / "forged.events", trace.events))


@pytest.mark.parametrize("column", ["segments", "blocks"])
def test_a_start_that_contradicts_itself_is_refused(column: str, tmp_path: Path) -> None:
    trace = open_long(written(tmp_path))
    for name, values in getattr(trace.program.start, column).items():
        if name in ("requested_size", "reservation", "is_small", "is_expandable"):
            continue
        was = int(values[0])
        values[0] = was + 1 if name != "state" else 0 if was else 1
        if name in ("stream", "pool"):
            values[0] = 99
        path = rewritten(trace, tmp_path / "forged.events", trace.events)
        values[0] = was
        with pytest.raises(TraceError):
            open_long(path)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"columns": True}, "found true for 'columns', expected an object"),
        ({"columns": "text"}, "found \"text\" for 'columns', expected an object"),
        ({"columns": {}}, "columns too many or too few: 'blocks.address'"),
        ({"pools": {}}, "found an object for 'pools', expected a list"),
        ({"pools": ["00"]}, 'found "00" for a pool'),
        ({"pools": [[0, 0], [0, "1"]]}, 'found "1" for a pool'),
        ({"findings": None}, "found null for 'findings', expected a list"),
        ({"findings": ["kind"]}, 'found "kind" for a finding'),
        ({"findings": [{"kind": [], "text": "", "count": 1, "device": 0}]}, "is no text"),
        ({"settings": []}, "found a list for 'settings', expected an object"),
        ({"extra": 1.5}, "found 1.5 for 'extra', expected an object"),
        ({"has_entries": "no"}, "found \"no\" for 'has_entries', expected true or false"),
        ({"complete": 3}, "found 3 for 'complete', expected true or false"),
        ({"events": True}, "found true for 'events', expected a whole number"),
        ({"slots": None}, "found null for 'slots', expected a whole number"),
        (None, "found a list, expected an object"),
    ],
)
def test_a_header_of_another_shape_is_refused(
    change: dict[str, object] | None, words: str, tmp_path: Path
) -> None:
    data = written(tmp_path).read_bytes()
    magic, version, at, _, _ = FRONT.unpack(data[: FRONT.size])
    end = at + 8 + int.from_bytes(data[at : at + 8], "little")
    header = json.loads(data[at + 8 : end])
    text = json.dumps([] if change is None else header | change).encode()
    tables = len(text).to_bytes(8, "little") + text + data[end:]
    front = FRONT.pack(magic, version, at, len(tables), hashlib.sha256(tables).digest())
    with pytest.raises(TraceError, match=re.escape(words)):
        opened(front + data[FRONT.size : at] + tables, tmp_path)


def test_numbers_of_words_are_those_the_replay_loop_knows() -> None:
    from tightfit.sim import engine
    from tightfit.traces import long_trace

    for name in ("OP_BITS", "OP_MASK", "MALLOC_REVIVES"):
        assert getattr(engine, name) == getattr(event_words, name)
    assert long_trace.OP_MASK == event_words.OP_MASK


def test_a_recording_is_no_long_trace_and_the_reverse(tmp_path: Path) -> None:
    from tightfit.traces.load import load

    with pytest.raises(TraceError, match="found a long trace"):
        load(written(tmp_path))
    with pytest.raises(TraceError, match="at its beginning"):
        opened(b"PK\3\4" + bytes(5000), tmp_path)
