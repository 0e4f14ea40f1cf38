"""Every error a user can meet: one base class, four children."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TightfitError(Exception):
    """Bad input of some kind. The message says where, what was found, what was expected."""


class TraceError(TightfitError):
    """A recording cannot be read, or contradicts itself."""


class PolicyError(TightfitError):
    """A policy, a parameter or a settings line is not acceptable."""


class ConfigError(TightfitError):
    """An experiment file or a command line is not acceptable."""


class VerificationError(TightfitError):
    """A check against a real run could not be carried out."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest choice, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
