"""A policy in a file of the user's: `my_fit.py:MyFit` wherever a policy has a name."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

from ..sim.blame import place_of_error
from ..sim.mechanism import Mechanism
from ..traces.errors import PolicyError, TightfitError, did_you_mean
from .playing import AnyPolicy
from .variant import Variant

# (full path, text) -> what the file defines; a file that has changed is read again.
_read: dict[tuple[str, str], dict[str, AnyPolicy]] = {}


def is_user_file(text: str) -> bool:
    """A policy's name is said by a file: `path.py`, `path.py:Name`, with parameters behind."""
    return ".py" in text and split_words(text)[0].endswith(".py")


def split_words(text: str) -> tuple[str, str, str]:
    """Split `path.py:Name:key=value,...` into its three parts; the last two may be missing."""
    at = text.find(".py:")
    path, rest = (text, "") if at < 0 else (text[: at + 3], text[at + 4 :])
    name, _, params = rest.partition(":")
    if "=" in name:
        name, params = "", rest
    return path.strip(), name.strip(), params.strip()


def load_user_policy(text: str, where: str = "--policy") -> AnyPolicy:
    """Return the policy that a file defines.

    Args:
        text: `path.py:Name`; the name may be missing if the file defines one policy only.
        where: what is said in front of a message.

    Raises:
        PolicyError: there is no such file, it fails, or it defines no such policy.
    """
    path, name, _ = split_words(text)
    found = policies_in(Path(path), where)
    if not name:
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise PolicyError(
                f"{where}: {path} defines {', '.join(found)}; say which: {path}:{next(iter(found))}"
            )
        raise PolicyError(
            f"{where}: {path} defines no policy; expected a name with a Mechanism(...) or a "
            "Variant(...) in it (`tightfit policy new` writes an example)"
        )
    if name not in found:
        raise PolicyError(
            f"{where}: {path} defines no policy '{name}'"
            + (did_you_mean(name, found) or f"; it defines {', '.join(found) or 'none'}")
        )
    return found[name]


def policies_in(path: Path, where: str = "--policy") -> dict[str, AnyPolicy]:
    """Run a file and return the policies it leaves in its names.

    Raises:
        PolicyError: it cannot be read, or it fails.
    """
    try:
        words = path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise PolicyError(f"{where}: {path}: found a folder, expected a file") from None
    except OSError as error:
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.py")])
        raise PolicyError(f"{where}: {path}: {error.strerror}{near}") from None
    except UnicodeDecodeError:
        raise PolicyError(f"{where}: {path}: not text in UTF-8") from None
    except ValueError:  # no file's name has a NUL in it
        raise PolicyError(f"{where}: found {str(path)!r}, expected the name of a file") from None
    full = str(path.resolve())
    known = _read.get((full, words))
    if known is not None:
        return known
    # A module of its own, entered nowhere but for pickling and for messages that look it up. It is
    # named by its text: compiled code is found again by the text alone, whatever the file is called
    # by then, and looks up the module it was compiled from.
    digest = hashlib.sha256(words.encode()).hexdigest()[:16]
    module = ModuleType(f"tightfit_policy_{digest}")
    module.__file__ = full
    sys.modules[module.__name__] = module
    try:
        exec(compile(words, full, "exec"), module.__dict__)
        found = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, Mechanism | Variant) and full in value.files
        }
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit too: a policy does not end the command
        said = place_of_error(error, (full,))
        if isinstance(error, TightfitError):
            raise PolicyError(said or str(error)) from error
        raise PolicyError(f"{where}: {said or f'{path}: {error}'}") from error
    _read[full, words] = found
    return found
