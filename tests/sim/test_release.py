"""Releases: which are known, and what is said of those that are not."""

import pytest

from tightfit.sim.release import KNOWN, release
from tightfit.traces.errors import ConfigError


@pytest.mark.parametrize("text", [*KNOWN, "2.15.0", "2.12.1+cu132"])
def test_a_patch_release_follows_its_minor(text: str) -> None:
    assert release(text).name == ".".join(text.split("+")[0].split(".")[:2])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2.16", "; 2.15 is the newest whose rules are known"),
        ("3.0.1", "; 2.15 is the newest whose rules are known"),
        ("1.13", "; 2.4 is the oldest whose rules are known"),
        ("2", "expected one of 2.4 .. 2.15"),
        ("2.15x", "; did you mean '2.15'?"),
        ("", "found '', expected"),
    ],
)
def test_an_unknown_release_is_answered_with_the_nearest_end(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        release(text)
    assert said in str(error.value)
