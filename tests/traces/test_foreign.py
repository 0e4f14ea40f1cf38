"""Logs and tables of other tools: what is read, what is missing, how broken files end."""

from __future__ import annotations

import gzip
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tightfit.traces.errors import TraceError
from tightfit.traces.event import Action
from tightfit.traces.history import lift
from tightfit.traces.load import load
from tightfit.traces.made_up import made_up_addresses
from tightfit.traces.program import Op
from tightfit.traces.store import read_store as load_store
from tightfit.traces.store import save
from tightfit.traces.validator import problems

from .test_kineto import EVENTS as KINETO_EVENTS
from .test_kineto import document as kineto_document

RMM = """Thread,Time,Action,Pointer,Size,Stream
7,23:59:59.999990,allocate,0x7f0000000000,1000,0x2
8,23:59:59.999999,allocate,0x7f0000000400,2048,0x0
7,00:00:00.000004,free,0x7f0000000000,1000,0x2
7,00:00:01.000000,allocate failure,(nil),1073741824,0x2
7,00:00:02.000000,free,0x7f0000010000,512,0x2
"""
STALLOC = """1 0x7f0000000000 1000 0
Iteration Index : 0
micro-batch : F
1 0x7f0000000400 2048 0x55d0c0
layers.0.mlp->SwitchMLP Layer : F-start
0 0x7f0000000000 1000 0
"""
LIFETIMES = """id,lower,upper,size
a,0,10,1000
b,5,7,2048
c,7,12,2048
"""
PLAIN = """action,id,size,stream,device
malloc,w,1000,,
malloc,x,2048,3,
free,w,,,
malloc,w,512,0,1
"""
FORMATS = {"rmm.csv": RMM, "mem_log_dev0.txt": STALLOC, "l.csv": LIFETIMES, "p.csv": PLAIN}


def written(tmp_path: Path, text: str | bytes, name: str = "x.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def story(recording, device=0):
    """The program as (op, bytes, stream) per op."""
    p = lift(recording, device)
    is_try = p.op == Op.TRY
    request = np.where(is_try, p.arg, p.request[np.where(is_try, 0, p.arg)])
    return [
        (Op(op).name, int(p.req_size[r]), int(p.streams[p.req_stream[r]]))
        for op, r in zip(p.op.tolist(), request.tolist(), strict=True)
    ]


def kinds(findings):
    return {f.kind: f.count for f in findings}


def test_an_rmm_log(tmp_path):
    recording = load(written(tmp_path, RMM, "log.dev2.csv"))
    assert story(recording, 2) == [
        ("MALLOC", 1000, 2), ("MALLOC", 2048, 0), ("FREE", 1000, 2), ("TRY", 1 << 30, 2),
        ("FREE", 512, 2),
    ]  # fmt: skip
    times = recording.devices[2].entries["time_us"]
    assert times[3] - times[0] == 14, "midnight passes"
    program = lift(recording, 2)
    assert kinds(program.findings) == {"unseen_allocs": 1} and program.n_start == 1


def test_rmm_logs_of_other_releases(tmp_path):
    text = (
        "Thread,Time,Action,Pointer,Size,Stream\n"
        "7,1634567890.123456,allocate,0x7f0000000000,1000,0\n"
        "7,1634567890.2,deallocate,0x7f0000000000,1000,0\n"
    )
    recording = load(written(tmp_path, text.replace("\n", "\r\n")))
    assert recording.devices[0].entries["time_us"].tolist()[:2] == [
        1634567890_123456, 1634567890_200000
    ]  # fmt: skip
    assert story(recording) == [("MALLOC", 1000, 0), ("FREE", 1000, 0)]


def test_an_stalloc_log(tmp_path):
    recording = load(written(tmp_path, STALLOC, "mem_log_dev3.txt"))
    assert story(recording, 3) == [
        ("MALLOC", 1000, 0), ("MALLOC", 2048, 0x55D0C0), ("FREE", 1000, 0)
    ]  # fmt: skip
    assert kinds(recording.findings)["dropped_lines"] == 3


def test_lifetimes_are_half_open(tmp_path):
    """b ends where c begins: its memory is free by then."""
    recording = load(written(tmp_path, LIFETIMES))
    ops = [(op, size) for op, size, _ in story(recording)]
    assert ops == [
        ("MALLOC", 1000), ("MALLOC", 2048), ("FREE", 2048), ("MALLOC", 2048), ("FREE", 1000),
        ("FREE", 2048),
    ]  # fmt: skip
    addr = recording.devices[0].entries["addr"]
    assert addr[4] == addr[1] and addr[0] != addr[1], "c has b's address again"


def test_a_plain_csv(tmp_path):
    recording = load(written(tmp_path, PLAIN))
    assert story(recording) == [("MALLOC", 1000, 0), ("MALLOC", 2048, 3), ("FREE", 1000, 0)]
    assert story(recording, 1) == [("MALLOC", 512, 0)]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_imported_is_sound_says_what_it_lacks_and_can_be_kept(name, tmp_path):
    text = FORMATS[name].replace("7,00:00:02.000000,free,0x7f0000010000,512,0x2\n", "")
    recording = load(written(tmp_path, text, name))
    # No final state: what is live at the end looks lost to a check of snapshots, and only that.
    assert {f.kind for f in problems(recording)} <= {"lost_free"}
    assert kinds(recording.findings)["no_driver"] == 1
    for number, device in recording.devices.items():
        program = lift(recording, number)
        assert program.complete and not program.findings and not device.shows_driver
    save(recording, tmp_path / "kept.npz")
    kept = load_store(tmp_path / "kept.npz")
    assert kept.extra == recording.extra and kept.findings == recording.findings


def test_what_is_live_at_the_end_stays_live(tmp_path):
    program = lift(load(written(tmp_path, "action,id,size\nmalloc,a,7\n")), 0)
    assert program.op.tolist() == [Op.MALLOC] and program.complete


def test_allocations_of_no_bytes_are_left_out_and_counted(tmp_path):
    text = "action,id,size\nmalloc,a,0\nmalloc,b,5\nfree,a,\nmalloc,c,5\n"
    recording = load(written(tmp_path, text))
    assert story(recording) == [("MALLOC", 5, 0)] * 2
    assert kinds(recording.findings)["zero_size"] == 2


def test_a_format_inside_a_zip_or_with_a_mark_is_recognized(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("rmm.csv", RMM)
    assert story(load(tmp_path / "z.zip"))[0] == ("MALLOC", 1000, 2)
    assert len(story(load(written(tmp_path, b"\xef\xbb\xbf" + PLAIN.encode())))) == 3


def test_packing_instances_have_the_peak_they_are_known_for(shared, tmp_path):
    """Each of A to K fits in 1,048,576 bytes, so no more is live at once."""
    for path in sorted((shared / "packing").glob("?.1048576.csv")):
        program = lift(load(path), 0)
        size = program.req_size[program.request[program.arg]]
        live = np.cumsum(np.where(program.op == Op.MALLOC, size, -size))
        assert 900_000 < live.max() <= 1_048_576 and live[-1] == 0, path.name
        assert program.n_ops == 2 * (len(path.read_text().splitlines()) - 1)


def rmm(row):
    return "Thread,Time,Action,Pointer,Size,Stream\n7,00:00:00.1,allocate,0x7f00,8,0x0\n" + row


def lifetimes(row):
    return "id,lower,upper,size\na,0,10,8\n" + row


def plain(row):
    return "action,id,size\nmalloc,a,8\n" + row


def stalloc(row):
    return "1 0x7f00 8 0\n" + row


DIGITS = "9" * 5000
BROKEN = {
    "rmm: cut short": (rmm("7,00:00:01,free,0x7f"), "line 3: found 4 values, expected 6"),
    "rmm: action": (rmm("7,00:00:01,alocate,0x1,8,0"), "did you mean 'allocate'?"),
    "rmm: size": (rmm("7,00:00:01,free,0x7f00,8.5,0"), "line 3: found the size '8.5'"),
    "rmm: negative": (rmm("7,00:00:01,allocate,0x7f00,-8,0"), "line 3: found the size -8"),
    "rmm: huge": (rmm(f"7,00:00:01,allocate,0x7f00,{DIGITS},0"), "line 3: found the size"),
    "rmm: address": (rmm("7,00:00:01,allocate,0xg,8,0"), "line 3: found the pointer '0xg'"),
    "rmm: high": (rmm(f"7,00:00:01,allocate,0x{'f' * 16},8,0"), "line 3: found the pointer"),
    "rmm: null": (rmm("7,00:00:01,allocate,(nil),8,0"), "8 bytes at address 0"),
    "rmm: time": (rmm("7,yesterday,allocate,0x7f00,8,0"), "line 3: found the time 'yesterday'"),
    "rmm: clock": (rmm("7,1:2,allocate,0x7f00,8,0"), "line 3: found the time '1:2'"),
    "rmm: thread": (rmm("main,00:00:01,allocate,0x7f00,8,0"), "found the thread 'main'"),
    "rmm: empty": ("Thread,Time,Action,Pointer,Size,Stream\n", "found no allocations"),
    "rmm: hour": (rmm("7,24:00:00,allocate,0x7f00,8,0"), "line 3: found the time '24:00:00'"),
    "rmm: column": ("Thread,Time,Action,Ptr,Size,Stream\n", "'pointer' is missing"),
    "lifetimes: column": ("id,lower,uper,size\na,0,1,8\n", "did you mean 'uper'?"),
    "plain: id": ("action,ident,size\nmalloc,a,8\n", "'id' is missing"),
    "stalloc: first line": ("1 0x7f00 nan 0\n", "line 1: found '1 0x7f00 nan 0', expected '1 addr"),
    "lifetimes: cut short": (lifetimes("b,5"), "line 3: found 2 values, expected 4"),
    "lifetimes: word": (lifetimes("b,5,x,8"), "line 3: found the upper 'x'"),
    "lifetimes: negative": (lifetimes("b,5,6,-8"), "line 3: found the size -8"),
    "lifetimes: huge": (lifetimes(f"b,5,{DIGITS},8"), "line 3: found the upper '9999"),
    "lifetimes: twice": (lifetimes("a,5,6,8"), "line 3: found the id 'a' a second time"),
    "lifetimes: backwards": (lifetimes("b,6,5,8"), "a life from 6 to 5"),
    "lifetimes: no id": ("lower,upper,size\n1,2,3\n", "the column 'id' once, found it not at all"),
    "plain: cut short": (plain("free"), "line 3: found 1 values, expected 3"),
    "plain: word": (plain("malloc,b,big"), "line 3: found the size 'big'"),
    "plain: negative": (plain("malloc,b,-8"), "line 3: found the size -8"),
    "plain: huge": (plain("malloc,b,1" + "0" * 20), "line 3: found the size 1000"),
    "plain: twice": (plain("malloc,a,8"), "malloc of 'a', which is live since line 2"),
    "plain: free first": (plain("free,b,8"), "line 3: found free of 'b', which is not live"),
    "plain: free twice": (plain("free,a,8\nfree,a,8"), "line 4: found free of 'a'"),
    "plain: other size": (plain("free,a,9"), "with 9 bytes, expected the 8 of line 2"),
    "plain: action": (plain("realloc,a,8"), "found the action 'realloc'"),
    "plain: column": ("action,id,sice\nmalloc,a,8\n", "column 'size' once, found it not at all"),
    "plain: columns": ("action,id,size,id\n", "column 'id' once, found it twice"),
    "plain: empty": ("action,id,size\n", "found no allocations"),
    "plain: not text": (plain("").encode() + b"\xff\xfe,a,8", "line 3: found bytes that are not"),
    "plain: endless line": (plain("x" * 70_000), "line 3: found more than 65,536 bytes"),
    "stalloc: cut short": (stalloc("0 0x7f00"), "line 2: found '0 0x7f00'"),
    "stalloc: word": (stalloc("1 0x7f00 big 0"), "line 2: found '1 0x7f00 big 0'"),
    "stalloc: negative": (stalloc("1 0x7f00 -8 0"), "line 2: found '1 0x7f00 -8 0'"),
    "stalloc: huge": (stalloc(f"1 0x7f00 {DIGITS} 0"), "line 2: found the size '9999"),
    "stalloc: null": (stalloc("1 0 8 0"), "line 2: found 8 bytes at address 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_ends_in_one_error_that_says_where(case, tmp_path):
    text, message = BROKEN[case]
    with pytest.raises(TraceError) as error:
        load(written(tmp_path, text))
    assert str(error.value).startswith("x.csv: ") and message in str(error.value)
    assert len(str(error.value)) < 300


def test_a_message_names_the_file_once(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(
        gzip.compress(b'{"traceEvents": [' + os.urandom(90_000).hex().encode())[:-9000]
    )
    with pytest.raises(TraceError, match="the file is cut short") as error:
        load(path)
    assert str(error.value).count("x.json.gz") == 1


@pytest.mark.parametrize("text", ["a,b,c\n1,2,3\n", "hello world\n", "2 0x7f00 8 0\n", "\n\n"])
def test_what_no_importer_knows_is_refused_as_before(text, tmp_path):
    with pytest.raises(TraceError, match="found a text file .* expected a PyTorch memory snapshot"):
        load(written(tmp_path, text))


def test_recorded_addresses_that_are_live_are_followed_as_a_lost_free(tmp_path):
    recording = load(written(tmp_path, rmm("7,00:00:01,allocate,0x7f00,16,0x0\n")))
    program = lift(recording, 0)
    assert kinds(program.findings) == {"lost_free": 1} and not program.complete


def test_made_up_addresses_never_overlap_and_are_used_again():
    rng = np.random.default_rng(5)
    alloc, is_alloc, live, sizes = [], [], [], rng.choice([1, 512, 513, 5000, 1 << 21], 400)
    for a in range(400):
        alloc.append(a)
        is_alloc.append(True)
        live.append(a)
        while len(live) > 20 or (live and rng.random() < 0.4):
            alloc.append(live.pop(rng.integers(len(live))))
            is_alloc.append(False)
    alloc, is_alloc = np.array(alloc), np.array(is_alloc)
    addr = made_up_addresses(alloc, is_alloc, sizes[alloc])
    held: dict[int, tuple[int, int]] = {}
    for a, new, at in zip(alloc.tolist(), is_alloc.tolist(), addr.tolist(), strict=True):
        if new:
            end = at + int(sizes[a])
            assert all(end <= low or high <= at for low, high in held.values())
            held[a] = (at, end)
        else:
            assert held.pop(a)[0] == at
    assert len(set(addr.tolist())) < 150


def test_more_than_all_addresses_is_refused(tmp_path):
    rows = "".join(f"malloc,{k},{(1 << 50) - 1}\n" for k in range(2100))
    with pytest.raises(TraceError, match="live at once"):
        load(written(tmp_path, "action,id,size\n" + rows))


def test_entries_of_a_free_are_two(tmp_path):
    entries = load(written(tmp_path, plain("free,a,"))).devices[0].entries
    assert entries["action"].tolist() == [
        Action.ALLOC, Action.FREE_REQUESTED, Action.FREE_COMPLETED
    ]  # fmt: skip


def hostile(rng: random.Random, files: list[bytes]) -> bytes:
    """A valid file with bytes changed, pieces left out, doubled or swapped with another's."""
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 2, 5))):
        i, j = rng.randrange(len(data) or 1), rng.randrange(len(data) or 1)
        match rng.randrange(5):
            case 0:
                data[i : i + 1] = bytes([rng.randrange(256)])
            case 1:
                data[i : i + 1] = bytes([rng.choice(b"0123456789-.,:xe\n\"'{}[] ")])
            case 2:
                del data[i : i + rng.randrange(1, 40)]
            case 3:
                data[i:i] = data[j : j + rng.randrange(1, 60)]
            case _:
                other = rng.choice(files)
                data[i:] = other[rng.randrange(len(other)) :]
    return bytes(data) or b"x"


def test_hostile_files_end_in_a_recording_or_a_trace_error(tmp_path):
    """And whatever is read can be lifted."""
    rng = random.Random(11)
    files = [text.encode() for text in FORMATS.values()] + [kineto_document(KINETO_EVENTS)]
    read = 0
    for _ in range(3000):
        data = hostile(rng, files)
        try:
            recording = load(written(tmp_path, data))
        except TraceError as error:
            assert str(error).startswith("x.csv: ") and len(str(error)) < 500
            continue
        read += 1
        for device in recording.devices:
            program = lift(recording, device)
            assert program.n_ops or program.n_start or program.findings
    assert 100 < read < 2900
