"""Hostile and broken snapshots: each ends in a Recording or a TraceError, and in nothing else.

The seeds are fixed. TIGHTFIT_HOSTILE_SHARE=20 runs every twentieth file only (for interpreted
kernels); NUMBA_BOUNDSCHECK=1 makes the compiled reader check every index.
"""

import builtins
import copyreg
import gc
import io
import os
import pickle
import random
import resource
import struct
import sys

import pytest

from tightfit.traces.errors import TraceError
from tightfit.traces.recording import Recording
from tightfit.traces.restricted import restricted_loads
from tightfit.traces.snapshot import read_snapshot

from .make_pickles import assert_same, pickled, snapshot, torchscript_pickled

MiB = 1 << 20
SHARE = int(os.environ.get("TIGHTFIT_HOSTILE_SHARE", "1"))
SYSTEM = os.system  # as it is before the canary takes its place
COUNTS = {"flips": 4000, "cuts": 1500, "splices": 2000, "opcodes": 2000, "values": 2000}


@pytest.fixture(autouse=True)
def canary(monkeypatch):
    """Fail if reading a file runs anything a file could name."""

    def ran(*args, **kwargs):
        raise AssertionError(f"a snapshot ran code: {args!r}")

    builtins.tightfit_canary = ran  # type: ignore[attr-defined]
    monkeypatch.setattr(os, "system", ran)
    monkeypatch.setattr(os, "popen", ran)
    copyreg.add_extension("builtins", "tightfit_canary", 77)
    yield
    copyreg.remove_extension("builtins", "tightfit_canary", 77)
    del builtins.tightfit_canary  # type: ignore[attr-defined]


def outcome(data: bytes) -> Recording | str:
    """Read a file; anything but a recording or a TraceError fails the test."""
    try:
        return read_snapshot(data, "hostile")
    except TraceError as error:
        message = str(error)
        assert message.startswith("hostile: ") and len(message) < 1000
        return message


def recording(data: bytes) -> Recording:
    """Read a file that must be readable."""
    rec = outcome(data)
    assert not isinstance(rec, str), rec
    return rec


def base_files() -> list[bytes]:
    """Small valid files of several releases and picklers."""
    files = [pickled(snapshot(r, n=8, seed=k), 4) for k, r in enumerate([(1, 13), (2, 4), (2, 15)])]
    files += [pickled(snapshot(n=6), protocol, pure=True) for protocol in (2, 5)]
    return [*files, torchscript_pickled(snapshot(n=6))]


def flips(rng, files):
    """Bytes changed at random, mostly few."""
    for _ in range(COUNTS["flips"] // SHARE):
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8, 40))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        yield bytes(data)


def cuts(rng, files):
    """Files cut short, also with a proper end put on."""
    for _ in range(COUNTS["cuts"] // SHARE):
        data = rng.choice(files)
        yield data[: rng.randrange(len(data))] + rng.choice((b"", b".", b"u.", b"e.", b"eu."))


def splices(rng, files):
    """Pieces of two files put together, pieces doubled, pieces left out."""
    for _ in range(COUNTS["splices"] // SHARE):
        a, b = rng.choice(files), rng.choice(files)
        i, j = rng.randrange(len(a)), rng.randrange(len(b))
        k = min(len(a), i + rng.randrange(1, 30))
        yield rng.choice((a[:i] + b[j:], a[:k] + a[i:], a[:i] + a[k:]))


def opcodes(rng, files):
    """Random opcodes with random arguments, alone and inside a file."""
    codes = [bytes([c]) for c in range(256)]
    likely = [bytes([c]) for c in b"}](.ue)asth\x94\x85\x86\x87K\x8cqjNGJM\x88\x89\x8a\x95\x8d\x8b"]
    for k in range(COUNTS["opcodes"] // SHARE):
        body = bytearray()
        for _ in range(rng.randrange(1, 60)):
            body += rng.choice(likely if rng.random() < 0.95 else codes)
            if rng.random() < 0.5:
                body += rng.randbytes(rng.choice((1, 1, 2, 4, 8)))
            if rng.random() < 0.3:
                body += b"\x8c\x06action" + rng.choice((b"\x94", b""))
        if k % 2:
            yield b"\x80\x04" + bytes(body) + b"."
        else:
            data = rng.choice(files)
            i = rng.randrange(2, len(data))
            yield data[:i] + bytes(body) + data[i:]


def values(rng, files):
    """Well-formed pickles of a snapshot in which one value is another one."""
    odd = [
        None, True, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 2**700, 0.5, "", "x" * 300, [],
        {}, (), (1,), (1, 2), (2**62, -(2**62)), [[]], [{}], {"action": 1}, {1: 2}, {(): ()}, b"x",
        [1] * 50, {"filename": "a", "line": 1, "name": "b"}, ["a", "b"],
    ]  # fmt: skip
    for k in range(COUNTS["values"] // SHARE):
        value = snapshot(((1, 13), (2, 0), (2, 8), (2, 15))[k % 4], n=4, seed=k % 7)
        at, path = value, []
        for _ in range(rng.randrange(1, 9)):
            if isinstance(at, dict) and at:
                key = rng.choice(list(at))
            elif isinstance(at, list) and at:
                key = rng.randrange(len(at))
            else:
                break
            path.append((at, key))
            at = at[key]
        holder, key = path[-1]
        if rng.random() < 0.15:
            del holder[key]
        else:
            holder[key] = rng.choice([*odd, value, holder, value["segments"]])
        if rng.random() < 0.1 and isinstance(holder, dict):
            holder[rng.choice(["action", "blocks", "size", "state", "new", 3, None])] = 1
        try:
            yield pickled(value, rng.choice((2, 4)))
        except RecursionError:
            continue


def test_ten_thousand_broken_files_end_in_a_recording_or_a_trace_error():
    files = base_files()
    for data in files:
        assert isinstance(outcome(data), Recording)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n = read = 0
    for make in (flips, cuts, splices, opcodes, values):
        rng = random.Random(make.__name__)
        for data in make(rng, files):
            n += 1
            read += isinstance(outcome(data), Recording)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"{n:,} files, {read:,} read, memory grew by {grown / MiB:.0f} MiB")
    assert n >= 10_000 // SHARE
    assert 0.02 * n < read < 0.9 * n  # both endings are well covered
    assert grown < 200 * MiB


def test_what_both_readers_accept_they_read_alike():
    files = base_files()
    rng = random.Random("alike")
    same = 0
    for data in [*flips(rng, files), *splices(rng, files), *values(rng, files)]:
        if b"\x96" in data:
            continue  # for BYTEARRAY8 CPython prints a SystemError of its own
        try:
            plain = restricted_loads(data)
        except TraceError:
            continue
        rec = outcome(data)
        if isinstance(rec, str) or rec.findings:
            continue  # what was dropped is told, not compared
        assert_same(rec, plain)
        same += 1
    assert same > 200 // SHARE


WISHES = {
    "GLOBAL": b"cos\nsystem\n(X\x02\x00\x00\x00lstR.",
    "GLOBAL canary": b"cbuiltins\ntightfit_canary\n)R.",
    "STACK_GLOBAL": b"\x8c\x08builtins\x8c\x0ftightfit_canary\x93)R.",
    "INST": b"(ibuiltins\ntightfit_canary\n.",
    "OBJ": b"(cbuiltins\ntightfit_canary\no.",
    "NEWOBJ": b"cbuiltins\ntightfit_canary\n)\x81.",
    "NEWOBJ_EX": b"cbuiltins\ntightfit_canary\n)}\x92.",
    "REDUCE": b"N)R.",
    "BUILD": b"}}b.",
    "EXT1": b"\x82\x4d)R.",
    "EXT2": b"\x83\x4d\x00)R.",
    "EXT4": b"\x84\x4d\x00\x00\x00)R.",
    "PERSID": b"Pos.system\n.",
    "BINPERSID": b"\x8c\x09os.systemQ.",
}


@pytest.mark.parametrize("wish", WISHES)
def test_files_that_want_to_run_code_are_told_apart(wish):
    program = WISHES[wish]
    inside = pickled(snapshot(n=2), 4)
    for data in (
        b"\x80\x04" + program,
        b"\x80\x02" + program,
        b"\x80\x04}\x8c\x08segments]s\x8c\x05extra" + program[:-1] + b"s.",
        inside[:-1] + program,
        program,
    ):
        message = outcome(data)
        assert isinstance(message, str)
        assert "asks its reader to run code" in message and "Nothing was executed" in message


def test_pickled_objects_with_code_are_refused():
    class Evil:
        def __reduce__(self):
            return SYSTEM, ("true",)

    for protocol in (2, 3, 4, 5):
        value = snapshot(n=1)
        value["extra"] = Evil()
        message = outcome(pickled(value, protocol))
        assert isinstance(message, str) and "(it names posix.system)" in message


def bombs():
    """Small files that ask for much memory or much time."""
    yield "memo", b"\x80\x04Nr" + struct.pack("<I", 50_000_000) + b"."
    yield "memo sparse", b"\x80\x04" + b"Nr\xff\xff\xff\xff0" * 3 + b"."
    yield "bytearray", b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"."
    for code, width in (
        (b"\x8d", "<Q"),
        (b"\x8e", "<Q"),
        (b"X", "<I"),
        (b"B", "<I"),
        (b"\x8b", "<I"),
    ):
        for n in (1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
            if n < 1 << (8 * struct.calcsize(width)):
                yield f"length {code!r} {n}", b"\x80\x04" + code + struct.pack(width, n) + b"abc."
    yield "frame", b"\x80\x04\x95" + struct.pack("<Q", (1 << 64) - 1) + b"}."
    yield "deep marks", b"\x80\x04" + b"(" * 1_000_000
    yield "deep lists", b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."
    yield "deep dicts", b"\x80\x04" + b"}K\x01" * 100_000 + b"N" + b"s" * 100_000 + b"."
    yield "deep tuples", b"\x80\x04)" + b"\x85" * 100_000 + b"."
    # Each list holds the one before ten times: 10**30 values when written out.
    doubled = b"".join(
        b"\x8c\x02" + b"%02d" % k + b"]" + bytes([0x71, k]) + b"("
        + (b"h" + bytes([k - 1]) if k else b"K\x01") * 10 + b"e"
        for k in range(30)
    )  # fmt: skip
    yield "billion laughs", b"\x80\x04}(\x8c\x08segments]" + doubled + b"u."
    yield "laughs in notes", (
        b"\x80\x04}(\x8c\x08segments]\x8c\x01x(" + b"".join(
            b"]" + bytes([0x71, k]) + b"(" + (b"h" + bytes([k - 1]) if k else b"N") * 10 + b"e"
            for k in range(30)
        ) + b"t\x8c\x0ddevice_traces](](" + b"".join(
            b"}(\x8c\x06action\x8c\x05alloc\x8c\x04addrK\x01\x8c\x04sizeK\x01\x8c\x06streamK\x00"
            + b"\x8c\x05extrah\x1du" for _ in range(50)
        ) + b"eeu."
    )  # fmt: skip
    yield "list in itself", b"\x80\x04}\x8c\x08segments]q\x00h\x00as."
    yield "extra in itself", b"\x80\x04}(\x8c\x08segments]\x8c\x01x]q\x00h\x00au."
    yield "dict in itself", b"\x80\x04}q\x00(\x8c\x08segments]\x8c\x01xh\x00u."
    yield "traces in themselves", b"\x80\x04}\x8c\x0ddevice_traces]q\x00h\x00as."
    yield "many empty dicts", b"\x80\x04]" + b"(" + b"}" * 2_000_000 + b"e."
    yield "many memos", b"\x80\x04N" + b"\x94" * 2_000_000 + b"."
    yield "many strings", b"\x80\x04](" + b"".join(
        b"\x8c\x04" + struct.pack("<I", k) for k in range(300_000)
    ) + b"e."  # fmt: skip
    frame = b"}(\x8c\x08filename\x8c\x01f\x8c\x04line%s\x8c\x04name\x8c\x01gu"
    yield "many frames", b"\x80\x04](" + b"".join(
        frame % (b"J" + struct.pack("<i", k)) for k in range(30_000)
    ) + b"e."  # fmt: skip
    block = b"}q\x01(\x8c\x05state\x8c\x08inactive\x8c\x04sizeK\x00u"
    segment = (
        b"}(\x8c\x06deviceK\x00\x8c\x07address\x8a\x05%b\x8c\x0atotal_sizeK\x00\x8c\x06streamK\x00"
        b"\x8c\x0csegment_type\x8c\x05small\x8c\x06blocksh\x00u"
    )
    yield "shared blocks", (
        b"\x80\x04}(\x8c\x01a]q\x00(" + block + b"h\x01" * 5000 + b"e\x8c\x08segments]("
        + b"".join(segment % struct.pack("<IB", k, 0) for k in range(2000)) + b"eu."
    )  # fmt: skip
    entry = b"}(\x8c\x06action\x8c\x05alloc\x8c\x04addrK\x01\x8c\x04sizeK\x01\x8c\x06stream%bu"
    yield "many streams", b"\x80\x04}\x8c\x0ddevice_traces](](" + b"".join(
        entry % (b"J" + struct.pack("<i", k)) for k in range(70_000)
    ) + b"ees."  # fmt: skip
    yield "one stack for many entries", (
        b"\x80\x04}(\x8c\x01a]q\x00(" + frame.replace(b"}", b"}q\x02") % b"K\x01"
        + b"h\x02" * 20_000 + b"e\x8c\x0ddevice_traces](]("
        + (entry[:-1] % b"K\x00" + b"\x8c\x06framesh\x00u") * 3000 + b"eeu."
    )  # fmt: skip


def test_bombs_cost_no_more_than_a_small_multiple_of_the_file():
    outcome(pickled(snapshot(), 4))
    for name, data in bombs():
        if SHARE > 1 and len(data) > 100_000:
            continue
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = outcome(data)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < 40 * len(data) + 64 * MiB, name
        wanted = {"many streams": "streams", "shared blocks": "blocks that other segments"}
        assert isinstance(result, Recording) or wanted.get(name, "") in result, (name, result)


def test_values_that_contain_themselves_are_dropped_or_refused():
    found = dict(bombs())
    for name in ("extra in itself", "dict in itself"):
        rec = recording(found[name])
        assert [f.kind for f in rec.findings] == ["dropped_key"]
        assert "contains itself" in rec.findings[0].text
    for name in ("list in itself", "traces in themselves"):
        assert isinstance(outcome(found[name]), str)


def test_multiplying_values_are_dropped():
    for name in ("billion laughs", "laughs in notes"):
        rec = recording(dict(bombs())[name])
        assert {f.kind for f in rec.findings} <= {"dropped_key", "unknown_key"}
        assert any(f.kind == "dropped_key" for f in rec.findings)
        size = sum(len(n) for n in rec.notes)
        assert size < 100 * MiB


def test_a_list_changed_after_use_is_refused():
    """CPython would show the change in the entry too; no writer does this."""
    entry = (
        b"}(\x8c\x06action\x8c\x05alloc\x8c\x04addrK\x01\x8c\x04sizeK\x01\x8c\x06streamK\x00"
        b"\x8c\x06frames]q\x00u"
    )
    frame = b"}(\x8c\x08filename\x8c\x01f\x8c\x04lineK\x01\x8c\x04name\x8c\x01gu"
    late = b"\x80\x04}\x8c\x0ddevice_traces](](" + entry + b"h\x00" + frame + b"ae" + b"es."
    message = outcome(late)
    assert isinstance(message, str) and "changed after it was used" in message


def test_deep_recursion_in_plain_values_is_refused_before_python_overflows():
    limit = sys.getrecursionlimit()
    for depth in (50, 99, 150, 450):
        data = b"\x80\x04}(\x8c\x08segments]\x8c\x01x" + b"]" * depth + b"a" * (depth - 1) + b"u."
        rec = recording(data)
        assert ("x" in rec.extra) == (depth < 101)
    assert sys.getrecursionlimit() == limit


def test_the_restricted_unpickler_runs_nothing_either():
    for program in WISHES.values():
        with pytest.raises(TraceError):
            restricted_loads(b"\x80\x04" + program)
    with pytest.raises(TraceError):
        restricted_loads(b"")
    out = io.BytesIO()
    pickle.Pickler(out).dump(len)
    with pytest.raises(TraceError, match="wants to import builtins"):
        restricted_loads(out.getvalue())
