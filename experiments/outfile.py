"""What may be written where: checked before the work begins, not after."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..traces.errors import ConfigError


def check_output(path: Path, suffix: str, force: bool = False) -> None:
    """Refuse an output path before the work begins.

    Args:
        path: where the file is to be.
        suffix: what its name must end in, e.g. ".npz".
        force: whether an existing file may be replaced.

    Raises:
        ConfigError: the name ends otherwise, the folder does not exist or cannot be written to, or
            the file exists.
    """
    if path.suffix.lower() != suffix:
        raise ConfigError(
            f"{path}: the output's name must end in {suffix}; did you mean '{path.stem}{suffix}'?"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder '{path.parent}' to write to")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, expected a file name")
    if path.exists() and not force:
        raise ConfigError(f"{path}: the file exists; --force replaces it")
    _try_writing(path.parent, path)


def make_folder(path: Path) -> None:
    """Make a folder for results, unless it is there, before the work begins.

    Raises:
        ConfigError: it cannot be made, or cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{path}: found a file, expected a folder to write to") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be made: {error.strerror}") from None
    _try_writing(path, path)


def _try_writing(folder: Path, asked: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"{asked}: cannot be written: {error.strerror}") from None
