"""`tightfit workloads`: programs to try things on, made up or recorded anew."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import MAIN_PATH_SECONDS, AsJson, Force

if TYPE_CHECKING:
    from ..traces.requests import Requests
    from .corpus.catalogue import Workload

EVENTS = 1_000_000
MOST_LONG_EVENTS = 100_000_000_000
LENGTHS = "conversation"


def workloads(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Which; without, all are listed.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            help="The file to write: OUT.npz, a recording, or OUT.events, a long trace, which is "
            "never in memory as a whole.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another run.")] = 0,
    events: Annotated[
        int, typer.Option("--events", min=1000, help="Allocations and frees, of synthetic ones.")
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
    """Make a recording to try things on, synthetic or real.

    The programs (training, fine-tuning, serving, as shipped in traces/data) run in PyTorch's CUDA
    build on a stand-in for a GPU, which is fetched once; what is synthetic needs neither.
    """
    from ..traces.errors import ConfigError, did_you_mean

    if name is None:
        _list(as_json)
        return
    from ..traces.long_trace import SUFFIX
    from ..traces.serving import MOST_EVENTS, WORKLOADS
    from ..traces.synthetic import PATTERNS
    from .corpus.catalogue import WORKLOADS as RECORDED

    recorded = {workload.name: workload for workload in RECORDED}
    known = [*WORKLOADS, *PATTERNS, *recorded]
    if name not in known:
        raise ConfigError(
            f"found no workload {name!r}, expected one of {', '.join(known)}"
            + did_you_mean(name, known)
        )
    if out is None:
        raise ConfigError(f"the file to write is missing: tightfit workloads {name} {name}.npz")
    is_long = out.suffix.lower() == SUFFIX
    most = MOST_LONG_EVENTS if is_long else MOST_EVENTS
    if events > most:
        longer = "" if is_long else f"; OUT{SUFFIX} can hold {MOST_LONG_EVENTS:,}"
        raise ConfigError(f"--events: found {events:,}, expected at most {most:,}{longer}")
    if name not in WORKLOADS and (requests is not None or lengths != LENGTHS):
        raise ConfigError(f"--requests and --lengths are for {', '.join(WORKLOADS)}")
    if name in recorded and (events != EVENTS or seed):
        raise ConfigError(f"--events and --seed are for synthetic workloads; {name} is recorded")
    from ..traces.pattern_recording import make_pattern
    from ..traces.serving import make_workload
    from ..traces.store import save
    from .outfile import check_output
    from .screen import announce_compiling, emit_json, note, suggest, verdict

    check_output(out, SUFFIX if is_long and name not in recorded else ".npz", force)
    if name in recorded:
        _record(recorded[name], out, as_json)
        return
    announce_compiling(MAIN_PATH_SECONDS)
    if is_long:
        drawn = None if name in PATTERNS else _requests(requests, lengths, events, seed)
        _write_long(name, out, drawn, events, seed, as_json)
        return
    if name in PATTERNS:
        recording = make_pattern(name, events, seed)
    else:
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


def _write_long(
    name: str, out: Path, requests: Requests | None, events: int, seed: int, as_json: bool
) -> None:
    """Write a long trace, of a server if there are requests."""
    from .long_made import write_pattern, write_workload
    from .screen import emit_json, note, progress, suggest, verdict

    with progress(events, "writing events") as advance:
        if requests is None:
            findings = write_pattern(out, name, events, seed, advance)
        else:
            findings = write_workload(out, name, requests, events, seed, advance)
    if as_json:
        emit_json(
            {"file": out.name, "workload": name, "seed": seed, "events": events,
             "findings": findings}
        )  # fmt: skip
        return
    verdict(f"{out.name}: {events:,} allocations and frees, synthetic")
    note(findings)
    path = shlex.quote(str(out))
    suggest(f"tightfit info {path}", f"tightfit replay {path}")


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
    return drawn_requests(lengths, events, seed)


def drawn_requests(lengths: str, events: int, seed: int) -> Requests:
    """Return as many requests as so many events can serve, drawn like a public log."""
    from ..traces.requests import FITTED

    return FITTED[lengths].draw(events // 256 + 64, seed)  # a request's prompt alone takes more


def _record(workload: Workload, out: Path, as_json: bool) -> None:
    """Record a program of the corpus; of several ranks each gets a file, OUT.rankK.npz."""
    import tempfile

    from .corpus.rerecord import rerecord
    from .screen import emit_json, suggest, verdict

    done = []
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".tightfit-") as folder:
        names = workload.files("default")
        rerecord(workload, "default", Path(folder))
        for rank, name in names.items():
            alone = len(names) == 1
            path = out if alone else out.with_name(f"{out.stem}.rank{rank}.npz")
            done.append((Path(folder) / name).replace(path))
    if as_json:
        emit_json({"files": [str(path) for path in done], "workload": workload.name})
        return
    for path in done:
        verdict(f"{path}: {workload.what} Recorded on a stand-in for {workload.profile}.")
    path = shlex.quote(str(done[0]))
    suggest(f"tightfit check {path}", f"tightfit tune {path}")


def _list(as_json: bool) -> None:
    from ..traces.pattern_recording import DESCRIPTIONS as PATTERNS
    from ..traces.requests import FITTED
    from ..traces.serving import DESCRIPTIONS
    from .corpus.catalogue import WORKLOADS as RECORDED
    from .screen import emit_json, say, suggest, table, verdict

    recorded = {w.name: (" ".join((w.program, *w.options)), w.profile, w.what) for w in RECORDED}
    if as_json:
        sources = {name: fit.source for name, fit in FITTED.items()}
        programs = {name: what for name, (_, _, what) in recorded.items()}
        emit_json(
            {
                "workloads": DESCRIPTIONS, "patterns": PATTERNS, "recorded": programs,
                "lengths": sources,
            }
        )  # fmt: skip
        return
    count = len(DESCRIPTIONS) + len(PATTERNS)
    verdict(f"{count} synthetic workloads, and {len(recorded)} programs to record")
    table("", ["server, synthetic", "what it does"], [[n, t] for n, t in DESCRIPTIONS.items()])
    table("", ["pattern, synthetic", "what it is"], [[n, t] for n, t in PATTERNS.items()])
    table(
        "",
        ["recorded", "on", "what it does"],
        [[name, profile, f"{words}: {what}"] for name, (words, profile, what) in recorded.items()],
    )
    table(
        "",
        ["--lengths", "requests are drawn like"],
        [[name, fit.source] for name, fit in FITTED.items()],
    )
    say("What is served can also be a log of your own: --requests LOG.")
    first = next(iter(DESCRIPTIONS))
    suggest(f"tightfit workloads {first} {first}.npz")
