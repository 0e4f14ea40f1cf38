"""One release after the other: what every kind of `tightfit prove` does around its comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from ...traces.errors import TightfitError
from ..screen import emit_json, say, verdict, warn

DIFFERENT, BAD_INPUT, INTERRUPTED = 1, 2, 130


class Proof(Protocol):
    """What was compared with one release.

    Attributes:
        torch: full version.
        differences: empty if nothing differs.
        failure: why the release could not be asked; "" if it could.
    """

    torch: str
    failure: str

    @property
    def differences(self) -> Sequence[Any]: ...


P = TypeVar("P", bound=Proof)


def prove_each(
    proofs: Sequence[P], prove: Callable[[P], None], ended: Callable[[P], None] = lambda proof: None
) -> tuple[list[P], bool]:
    """Compare with each release; one of several that cannot be asked stops none of the others.

    Args:
        proofs: one for each release, empty.
        prove: fills one.
        ended: called with each that was begun, however it ended.

    Returns:
        Those that were begun, and whether it was interrupted.

    Raises:
        TightfitError: the only release cannot be asked.
    """
    begun: list[P] = []
    for proof in proofs:
        begun.append(proof)
        try:
            prove(proof)
        except KeyboardInterrupt:
            return begun, True
        except TightfitError as error:
            if len(proofs) == 1:
                raise
            proof.failure = str(error)
            warn(f"tightfit: {error}")
        finally:
            ended(proof)
    return begun, False


def answer(
    proofs: Sequence[P],
    interrupted: bool,
    verdict_of: Callable[[Sequence[P]], str],
    show: Callable[[Sequence[P]], None],
    as_json: bool,
) -> None:
    """Print what was found.

    Raises:
        typer.Exit: with the exit code of what happened, unless all is well.
    """
    import typer  # absent where only the parser is asked

    if as_json:
        emit_json({"verdict": verdict_of(proofs), "interrupted": interrupted, "releases": proofs})
    else:
        verdict(verdict_of(proofs))
        if interrupted:
            say("interrupted: what was compared until then counts")
        show(proofs)
    if any(proof.differences for proof in proofs):
        raise typer.Exit(DIFFERENT)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if any(proof.failure for proof in proofs):
        raise typer.Exit(BAD_INPUT)


def say_failures(proofs: Iterable[Proof]) -> None:
    """Say which releases were not compared to the end, and why."""
    for proof in proofs:
        if proof.failure:
            say(f"torch {proof.torch} was not compared to the end: {proof.failure}")


def say_difference(torch: str, name: str, words: Sequence[str], label: str, case: str) -> None:
    """Say a difference in words, and print the case that shows it."""
    say()
    say(f"torch {torch}, {name}:")
    for line in words[:5]:
        say(line)
    print(f"{label}: {case}")
