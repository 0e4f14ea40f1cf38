"""Load a recording from any file that can hold one; what a file is, its first bytes say."""

from __future__ import annotations

import mmap
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .errors import TraceError
from .long_trace import MAGIC
from .units import GiB, KiB, MiB, format_bytes

if TYPE_CHECKING:
    from .recording import Recording

MAX_UNPACKED = 64 * GiB
# Real snapshots unpack to 5 to 60 times their packed size, deflate can make it 1032 times.
MAX_RATIO, FREE_OF_RATIO = 200, 64 * MiB
_STORE_MEMBER = "header.json"
KNOWN = (  # what `foreign` reads
    "a PyTorch profiler trace (JSON, made with profile_memory=True), an RMM log, an STAlloc log, "
    "minimalloc's id,lower,upper,size, or a CSV of action,id,size"
)
_HEAD = 512  # bytes that say what a file is
_BEGINNING = MiB  # of a snapshot; looked at before the rest is unpacked
MAX_MEMBERS = 100_000  # of a gzip file; parallel packers write one per 64 KiB
_PACKED, _UNPACKED = 64 * KiB, 4 * MiB  # read and unpacked at a time


def check_there(*paths: Path) -> None:
    """Refuse what cannot hold a recording before anything is compiled for it.

    Raises:
        TraceError: there is no such file, or it is a folder or empty.
    """
    for path in paths:
        name = path.name
        if path.is_dir():
            raise TraceError(f"{name}: found a folder, expected a file; name one snapshot in it")
        if not path.exists():
            raise TraceError(f"{name}: found no such file in {_folder(path)}")
        if path.is_file() and not path.stat().st_size:
            raise _empty(name)


def load(path: str | Path) -> Recording:
    """Load a recording.

    Accepted: a PyTorch memory snapshot as dumped, a trace of another tool that `foreign` knows,
    either of them compressed with gzip or alone in a zip archive; and this package's own .npz
    store.

    Args:
        path: the file; its name does not matter.

    Raises:
        TraceError: it cannot be read, or is no recording. Nothing in it is ever executed.
    """
    path = Path(path)
    name = path.name
    try:
        check_there(path)
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            status = os.fstat(file.fileno())
            is_pipe, size = not stat.S_ISREG(status.st_mode), status.st_size
            if head.startswith(MAGIC) and is_pipe:
                raise TraceError(
                    f"{name}: found a long trace in a pipe, expected it in a file: it is never in "
                    "memory as a whole"
                )
            if head.startswith(MAGIC):
                raise TraceError(
                    f"{name}: found a long trace, which holds what a program asked for and nothing "
                    "else; expected a recording (info, replay, tune and compare read both)"
                )
            if not head:  # a pipe, of which nothing shows it beforehand
                raise _empty(name)
            if head[:2] == b"\x1f\x8b":
                return _read(_gunzip(head, file, size, name), name)
            if head[:4] == b"PK\x03\x04" or head[:4] == b"PK\x05\x06":
                if is_pipe:
                    raise TraceError(
                        f"{name}: found a zip archive in a pipe, expected it in a file: its "
                        "directory stands at its end"
                    )
                return _open_zip(path, size)
            if is_pipe or head[0] != 0x80:
                return _read(chain([head], iter(lambda: file.read(_UNPACKED), b"")), name)
            # Mapped, not read: the pages stay the operating system's to give away.
            # Nor closed here: an error on its way out still holds arrays that look into it.
            return _read_snapshot(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), name)
    except OSError as error:
        raise TraceError(f"{name}: cannot be read: {error.strerror or error}") from None


def _read(chunks: Iterator[bytes], name: str) -> Recording:
    """Read a recording that comes in pieces, none of them empty; only a snapshot is joined."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= (_BEGINNING if head[0] == 0x80 else _HEAD):
            break
    if head[0] != 0x80:
        return _read_foreign(head, chunks, name)
    from .snapshot import check_beginning  # loads Numba

    check_beginning(head, name)  # before the rest takes memory
    data = bytearray(head)
    try:
        for chunk in chunks:
            data += chunk
    except MemoryError:
        raise TraceError(f"{name}: not enough memory to unpack it") from None
    return _read_snapshot(data, name)


def _read_snapshot(data: mmap.mmap | bytearray, name: str) -> Recording:
    from .snapshot import read_snapshot  # loads Numba

    return read_snapshot(data, name)  # pyright: ignore[reportArgumentType]


def _read_foreign(head: bytes, chunks: Iterator[bytes], name: str) -> Recording:
    from .foreign import read_foreign  # loads Numba

    found = read_foreign(head, chunks, name)
    if found is None:
        raise _no_recording(head[:_HEAD], name)
    return found


def _empty(name: str) -> TraceError:
    return TraceError(f"{name}: found an empty file, expected a memory snapshot")


def _folder(path: Path) -> str:
    """Say which folder was meant, the user's own words first."""
    return f"'{path.parent}'" if str(path.parent) != "." else "this folder"


def _gunzip(head: bytes, file: IO[bytes], size: int, name: str) -> Iterator[bytes]:
    """Yield the unpacked bytes of a gzip file, of all its members, in pieces.

    Args:
        head: its first bytes.
        file: open behind them.
        size: of the file; 0 = not known.
        name: of the file.
    """
    total = taken = 0
    members = 1
    unpacker = zlib.decompressobj(wbits=31)
    try:
        for raw in chain([head], iter(lambda: file.read(_PACKED), b"")):
            taken += len(raw)
            size = max(size, taken)
            while raw:
                if unpacker.eof:
                    if not raw.strip(b"\0"):
                        raw = b""
                        continue
                    unpacker = zlib.decompressobj(wbits=31)
                    members += 1
                    if members > MAX_MEMBERS:
                        raise TraceError(f"{name}: found more than {MAX_MEMBERS:,} gzip members")
                more = unpacker.decompress(raw, _UNPACKED)
                total += len(more)
                _check_growth(total, size, name)
                if more:
                    yield more
                raw = unpacker.unconsumed_tail or unpacker.unused_data
            while not unpacker.eof and (more := unpacker.decompress(b"", _UNPACKED)):
                total += len(more)
                _check_growth(total, size, name)
                yield more
    except zlib.error as error:
        raise TraceError(f"{name}: the gzip data is damaged: {error}") from None
    if not unpacker.eof:
        raise TraceError(
            f"{name}: found the end of the file inside the gzip data, after {total:,} unpacked"
            " bytes; the file is cut short"
        )
    if not total:
        raise TraceError(f"{name}: found nothing inside the gzip data, expected a memory snapshot")


def _check_growth(unpacked: int, packed: int, name: str) -> None:
    if unpacked > MAX_UNPACKED:
        raise TraceError(
            f"{name}: {packed:,} packed bytes unpack to more than {format_bytes(unpacked)},"
            f" expected at most {format_bytes(MAX_UNPACKED)}"
        )
    if unpacked > FREE_OF_RATIO + MAX_RATIO * packed:
        raise TraceError(
            f"{name}: {packed:,} packed bytes unpack to more than {format_bytes(unpacked)},"
            f" expected at most {MAX_RATIO} times as many; unpack it yourself if you trust it"
        )


def _open_zip(path: Path, size: int) -> Recording:
    name = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if any(m.filename == _STORE_MEMBER for m in members):
                from .store import read_store

                return read_store(path)
            if len(members) != 1:
                shown = ", ".join(repr(m.filename[:60]) for m in members[:4]) or "nothing"
                raise TraceError(
                    f"{name}: found a zip archive of {len(members):,} files ({shown}), expected"
                    f" exactly one memory snapshot, or this package's store ({_STORE_MEMBER})"
                )
            return _read(_unzip(archive, members[0], size, name), name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        if not zipfile.is_zipfile(path):
            raise TraceError(
                f"{name}: found the beginning of a zip archive and in {size:,} bytes no end; is it "
                "cut short? Copy it again"
            ) from None
        raise TraceError(f"{name}: the zip archive is damaged or unusual: {error}") from None


def _unzip(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int, name: str
) -> Iterator[bytes]:
    """Yield the unpacked bytes of a zip archive's member, in pieces."""
    total = 0
    with archive.open(member) as file:
        while more := file.read(_UNPACKED):
            total += len(more)
            _check_growth(total, size, name)
            yield more
    if not total:
        raise TraceError(f"{name}: found an empty file in the archive, expected a memory snapshot")


def _no_recording(head: bytes, name: str) -> TraceError:
    """Return the error for a file that is neither pickle nor archive, saying what it looks like."""
    if head[:2] in (b"}q", b"]q") or head[:4] in (b"(dp0", b"(lp0"):
        kind = "a pickle of protocol 0 or 1, which PyTorch never writes"
    elif b"\0" not in head and (text := _as_text(head)) is not None:
        if text.lstrip()[:14].lower().startswith(("<!doctype html", "<html")):
            kind = "an HTML page, perhaps a saved viewer or an error page"
        elif text.startswith("version https://git-lfs"):
            kind = "a Git LFS pointer; fetch the file itself with 'git lfs pull'"
        else:
            kind = f"a text file that starts with {text[:24]!r}"
    else:
        kind = f"a file that starts with {head[:8].hex(' ')}"
    return TraceError(
        f"{name}: found {kind}, expected a PyTorch memory snapshot"
        " (pickle of protocol 2 to 5, also as .gz or .zip), this package's .npz, or another tool's"
        f" trace: {KNOWN}"
    )


def _as_text(head: bytes) -> str | None:
    for cut in range(4):  # the head may end inside a character
        try:
            return head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
    return None
