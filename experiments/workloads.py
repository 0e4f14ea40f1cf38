"""`tightfit workloads`: synthetic programs of a server for language models."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import MAIN_PATH_SECONDS, AsJson, Force

if TYPE_CHECKING:
    from ..traces.requests import Requests

EVENTS = 1_000_000
LENGTHS = "conversation"


def workloads(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Which; all are listed without.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(metavar="OUT.npz", help="The file to write.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another run.")] = 0,
    events: Annotated[
        int, typer.Option("--events", min=1000, help="Allocations and frees, together.")
    ] = EVENTS,
    lengths: Annotated[
        str,
        typer.Option("--lengths", metavar="KIND", help="Requests drawn: conversation, code, long."),
    ] = LENGTHS,
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            metavar="LOG",
            help="Serve the requests of a log instead: Azure's CSV or Mooncake's JSON lines.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a synthetic LLM-serving recording to try things on."""
    from ..traces.errors import ConfigError, did_you_mean

    if name is None:
        _list(as_json)
        return
    from ..traces.serving import MOST_EVENTS, WORKLOADS, make_workload

    if name not in WORKLOADS:
        raise ConfigError(
            f"found no workload {name!r}, expected one of {', '.join(WORKLOADS)}"
            + did_you_mean(name, WORKLOADS)
        )
    if out is None:
        raise ConfigError(f"the file to write is missing: tightfit workloads {name} {name}.npz")
    if events > MOST_EVENTS:
        raise ConfigError(f"--events: found {events:,}, expected at most {MOST_EVENTS:,}")
    from ..traces.store import save
    from .outfile import check_output
    from .screen import announce_compiling, emit_json, note, suggest, verdict

    check_output(out, ".npz", force)
    announce_compiling(MAIN_PATH_SECONDS)
    recording = make_workload(name, _requests(requests, lengths, events, seed), events, seed)
    recording.name = out.name
    save(recording, out)
    if as_json:
        made = recording.extra["synthetic"]
        emit_json({"file": out.name, **made, "findings": recording.findings})
        return
    verdict(f"{out.name}: {events:,} allocations and frees, synthetic")
    note(recording.findings)
    path = shlex.quote(str(out))
    suggest(f"tightfit info {path}", f"tightfit tune {path}")


def _requests(log: Path | None, lengths: str, events: int, seed: int) -> Requests:
    """Return the requests of a log, or as many drawn as the events can serve."""
    from ..traces.errors import ConfigError, did_you_mean
    from ..traces.requests import FITTED, read_requests

    if log is not None:
        if lengths != LENGTHS:
            raise ConfigError("--lengths is for drawn requests, --requests names a log; give one")
        return read_requests(log)
    if lengths not in FITTED:
        raise ConfigError(
            f"--lengths: found {lengths!r}, expected one of {', '.join(FITTED)}"
            + did_you_mean(lengths, FITTED)
        )
    return FITTED[lengths].draw(events // 256 + 64, seed)  # a request's prompt alone takes more


def _list(as_json: bool) -> None:
    from ..traces.requests import FITTED
    from ..traces.serving import DESCRIPTIONS
    from .screen import emit_json, say, suggest, table, verdict

    if as_json:
        sources = {name: fit.source for name, fit in FITTED.items()}
        emit_json({"workloads": DESCRIPTIONS, "lengths": sources})
        return
    verdict(f"{len(DESCRIPTIONS)} workloads of a server for language models, all synthetic")
    table("", ["name", "what it does"], [[n, text] for n, text in DESCRIPTIONS.items()])
    table(
        "",
        ["--lengths", "requests are drawn like"],
        [[name, fit.source] for name, fit in FITTED.items()],
    )
    say("What is served can also be a log of your own: --requests LOG.")
    first = next(iter(DESCRIPTIONS))
    suggest(f"tightfit workloads {first} {first}.npz")
