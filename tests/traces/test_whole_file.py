"""Whole files: what is left when writing fails, and what is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tightfit.traces.whole_file import replacing


def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space") as error, replacing(path) as out:
        out.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write on a full disk does
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.npz"]


def test_a_name_that_cannot_be_taken_is_the_one_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "none" / "out", tmp_path / "file" / "out"):
        with pytest.raises(OSError) as error, replacing(path) as out:
            out.write(b"new")
        assert error.value.filename == str(path) and error.value.filename2 is None
        assert str(error.value).endswith(f"'{path}'")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
