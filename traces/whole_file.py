"""A file that is there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file beside `path` for writing, and rename it to `path` if the body succeeds.

    Raises:
        OSError: the file cannot be written there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    # Not tempfile: its files are for their owner only, and the rename would keep that.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as out:
            yield out
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # a write that failed names no file
            error.filename = str(path)
        elif str(error.filename) == str(temporary):  # which nobody asked for
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(temporary)
