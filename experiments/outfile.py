"""What may be written where: checked before the work begins, not after."""

from __future__ import annotations

from pathlib import Path

from ..traces.errors import ConfigError


def check_output(path: Path, suffix: str, force: bool = False) -> None:
    """Refuse an output path before the work begins.

    Args:
        path: where the file is to be.
        suffix: what its name must end in, e.g. ".npz".
        force: whether an existing file may be replaced.

    Raises:
        ConfigError: the name ends otherwise, the folder does not exist, or the file does.
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
