"""Files that unpack to far more than they hold, and files that are read from a pipe."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tightfit.traces import load as loading
from tightfit.traces.errors import TraceError
from tightfit.traces.load import load
from tightfit.traces.long_trace import MAGIC, is_long
from tightfit.traces.recording import Recording

from .make_pickles import assert_same, pickled, snapshot

MiB = 1 << 20
NOTHING_BUT_NONE = b"\x80\x04](" + b"N" * (8 * MiB)


def packed(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", data)
    return out.getvalue()


@pytest.mark.parametrize("pack", [gzip.compress, packed])
def test_a_file_that_unpacks_to_far_more_than_it_holds_is_refused(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "FREE_OF_RATIO", 2 * MiB)
    path = tmp_path / "a"
    path.write_bytes(pack(NOTHING_BUT_NONE))
    with pytest.raises(TraceError, match="packed bytes unpack to .* expected at most 200 times"):
        load(path)
    path.write_bytes(pack(pickled(snapshot(n=3), 4)))
    assert_same(load(path), snapshot(n=3))


@pytest.mark.parametrize(
    "beginning, words",
    [
        (b"\x80\x04\0", "found the opcode 0x00"),
        (b"\x80\x04cos\nsystem\n", "asks its reader to run"),
    ],
)
def test_what_is_no_snapshot_is_refused_before_the_rest_is_unpacked(
    beginning: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.gz"
    whole = gzip.compress(beginning + bytes(16 * MiB))
    path.write_bytes(whole[:-2000])  # who unpacked it all would say that it is cut short
    with pytest.raises(TraceError, match=words):
        load(path)


def piped(data: bytes, read: Callable[[Path], Any]) -> Any:
    """Read a pipe by its name, as a shell's <(...) has one."""
    assert len(data) < 1 << 16  # what a pipe holds; nobody has to write while it is read
    out, into = os.pipe()
    try:
        os.write(into, data)
        os.close(into)
        return read(Path(f"/dev/fd/{out}"))
    finally:
        os.close(out)


def long_or_recording(path: Path) -> Any:
    assert not is_long(path)  # and nothing of it is taken away
    return load(path)


def test_a_pipe_is_read_as_a_file_is() -> None:
    data = pickled(snapshot(n=8), 4)
    for form in (data, gzip.compress(data)):
        found: Recording = piped(form, long_or_recording)
        assert_same(found, snapshot(n=8))
    text = b"action,id,size\nalloc,1,512\nfree,1,\n"
    assert piped(text, load).devices[0].n_entries > 0


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "found an empty file"),
        (MAGIC + bytes(5000), "found a long trace in a pipe, expected it in a file"),
        (packed(b"x" * 5000), "found a zip archive in a pipe, expected it in a file"),
        (pickled(snapshot(n=8), 4)[:-9], "cut short"),
    ],
)
def test_what_a_pipe_cannot_hold_is_said(data: bytes, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        piped(data, long_or_recording)
