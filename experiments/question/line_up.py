"""Who is compared: every policy of an experiment file, one entrant for each combination."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...policies.contender import BASELINE, Contender, contender
from ...policies.named import find_policy
from ...policies.user_file import is_user_file, load_user_policy, split_words
from ...sim.release import Release
from ...traces.errors import ConfigError, PolicyError
from ..candidates import forbidden_keys
from ..row import BOUNDS, PACKING
from .question import TUNE_FOR, PolicyAsked, Question
from .recordings import Source

TUNED = "tuned on"


@dataclass(frozen=True)
class Entrant:
    """One row of the tables.

    Attributes:
        label: what tables call it.
        text: the policy with its values as `--policy` takes it; of one that is tuned its name.
        asked: where it comes from.
        is_baseline: the others are measured against it.
    """

    label: str
    text: str
    asked: PolicyAsked
    is_baseline: bool = False


def line_up(question: Question, rules: Release) -> list[Entrant]:
    """Return everybody who is compared; the baseline is one of them, PyTorch's defaults if none is.

    Args:
        question: the experiment.
        rules: a release by whose rules settings lines are checked.

    Raises:
        ConfigError: a policy does not exist or has an unacceptable value, two entrants are called
            the same, or there are two baselines.
    """
    folder = question.path.parent
    entrants: list[Entrant] = []
    for asked in question.policies:
        texts = _texts(asked, folder)
        if len(texts) > 1 and (asked.label or asked.is_baseline):
            key = "baseline" if asked.is_baseline else "label"
            raise ConfigError(f"{asked.where}: {key}: it is for one policy, found {len(texts)}")
        for text, written in texts:
            entrant = Entrant(asked.label or written, text, asked, asked.is_baseline)
            check(entrant, rules)
            entrants.append(entrant)
    if not any(e.is_baseline for e in entrants):
        usual = next((e for e in entrants if e.text == BASELINE and not e.asked.tune), None)
        if usual is None:
            nowhere = PolicyAsked(question.path.name, BASELINE, "", True, ("",), {}, "", "", 0, ())
            entrants.insert(0, Entrant(BASELINE, BASELINE, nowhere, True))
        else:
            entrants[entrants.index(usual)] = replace(usual, is_baseline=True)
    for entrant in entrants:
        if entrant.label in (PACKING, *(label for label, _, _ in BOUNDS)):
            raise ConfigError(
                f"{entrant.asked.where}: label: {entrant.label!r} is the name of a bound"
            )
        if entrant.is_baseline and playing(entrant.label, entrant.text, rules).knows:
            raise ConfigError(
                f"{entrant.asked.where}: baseline: it is told of the program beforehand, and "
                "could not run; expected an allocator"
            )
    for first, second in itertools.combinations(entrants, 2):
        if first.is_baseline and second.is_baseline:
            raise ConfigError(f"{second.asked.where}: baseline: there is one, {first.label}")
        if first.label == second.label:
            raise ConfigError(
                f"{second.asked.where}: found a second policy called {first.label!r}; expected "
                "each once, or a label of its own"
            )
    return entrants


def need_others(entrants: Sequence[Entrant], found: Sequence[Source]) -> None:
    """Whoever is searched on other programs than its own needs some.

    Raises:
        ConfigError: there is one program only.
    """
    where = next((e.asked.where for e in entrants if e.asked.tune == "others"), None)
    if where is not None and len({s.program for s in found}) == 1:
        raise ConfigError(
            f'{where}: tune: found "others" with recordings of a single program; expected "each", '
            "or recordings of several programs"
        )


def check(entrant: Entrant, rules: Release) -> None:
    """Refuse what cannot be played by the rules of a release.

    Raises:
        ConfigError: says why, and where in the file.
    """
    asked = entrant.asked
    try:
        if not asked.tune:
            playing(entrant.label, entrant.text, rules)
        elif asked.name == BASELINE:
            forbidden_keys(asked.without, rules)
        elif not find_policy(entrant.text)[1].params:
            raise ConfigError("it declares no parameters, so there is nothing to tune")
    except (PolicyError, ConfigError) as error:
        said = str(error).removeprefix("--policy: ").removeprefix(f"{asked.name}: ")
        raise ConfigError(f"{asked.where}: {said.removeprefix('policy: ')}") from error


def playing(label: str, text: str, rules: Release) -> Contender:
    """A policy as `--policy` takes it, called something.

    Raises:
        PolicyError: it does not exist, or has an unacceptable value.
    """
    return replace(contender(text, rules), label=label)


def identity(text: str) -> str:
    """A policy with its values, and what its own file holds if it has one."""
    if not is_user_file(text):
        return text
    policy = load_user_policy(text)
    digest = hashlib.sha256(policy.key.encode())
    for file in policy.files:
        digest.update(Path(file).read_bytes())
    return f"{':'.join(split_words(text)[1:])} {digest.hexdigest()[:16]}"


def _texts(asked: PolicyAsked, folder: Path) -> Sequence[tuple[str, str]]:
    """Each combination: as `--policy` takes it, and as the file would write it."""
    file, name, params = split_words(asked.name) if is_user_file(asked.name) else ("", "", "")
    if params or (not file and ":" in asked.name):
        raise ConfigError(
            f"{asked.where}: name: found values behind it; expected them as keys of their own"
        )
    full = ":".join(filter(None, (str(folder / file), name))) if file else asked.name
    if asked.tune:
        what = "" if asked.tune_for == TUNE_FOR[0] else f" for {asked.tune_for}"
        return [(full, f"{asked.name}, {TUNED} {asked.tune}{what}")]
    if asked.name == BASELINE:
        lines = [f"{BASELINE}:{line}" if line else BASELINE for line in asked.lines]
        return [(line, line) for line in lines]
    out = []
    for values in itertools.product(*asked.params.values()):
        chosen = ",".join(f"{k}={v}" for k, v in zip(asked.params, values, strict=True))
        out.append(
            (":".join(filter(None, (full, chosen))), ":".join(filter(None, (asked.name, chosen))))
        )
    return out
