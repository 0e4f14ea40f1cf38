"""`tightfit replay`: the recorded program under another settings line, release or device."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    MAIN_PATH_SECONDS,
    AsJson,
    Capacity,
    Conf,
    DeviceIndex,
    Force,
    Other,
    Then,
    Torch,
    TraceOrLong,
)

if TYPE_CHECKING:
    from ..sim.device import Device
    from ..sim.release import Release
    from ..sim.run import Run
    from ..traces.recording import Finding
    from .subject import Subject


@dataclass(frozen=True)
class Replayed:
    """What one device's program would have done; simulated.

    Attributes:
        device: device index.
        conf, torch: what was simulated.
        capacity_bytes: memory of the simulated device; None = it never runs out.
        other_bytes: what others use of it.
        events: requests and frees carried out.
        peak_reserved_bytes .. peak_requested_bytes: greatest values reached.
        final_reserved_bytes: reserved when the replay ended.
        device_allocs, device_frees: successful driver calls (cudaMalloc or map, cudaFree or unmap).
        alloc_retries: requests that gave all cached memory back before a last attempt.
        ooms: requests that failed.
        first_oom_event: index of the recorded entry at which memory first ran out; None = never.
        first_oom_bytes: size of the block it needed.
    """

    device: int
    conf: str
    torch: str
    capacity_bytes: int | None
    other_bytes: int
    events: int
    peak_reserved_bytes: int
    peak_allocated_bytes: int
    peak_active_bytes: int
    peak_requested_bytes: int
    final_reserved_bytes: int
    device_allocs: int
    device_frees: int
    alloc_retries: int
    ooms: int
    first_oom_event: int | None
    first_oom_bytes: int


def replay(
    trace: TraceOrLong,
    conf: Conf = None,
    then: Then = None,
    torch: Torch = None,
    capacity: Capacity = None,
    other: Other = None,
    device: DeviceIndex = None,
    snapshot: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.pickle",
            help="Write the simulated run as a snapshot for PyTorch's own viewers.",
            show_default=False,
        ),
    ] = None,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going", help="Drop an allocation that fails, and its free, and go on."
        ),
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Replay under other settings, release or device size."""
    from ..traces.load import check_there
    from .asked_calls import make_calls, parse_then, then_words
    from .asked_device import device_words, parse_device, torch_words
    from .line_notes import notes_on
    from .out_of_memory import advice_on_capacity
    from .outfile import check_output
    from .release_fit import find_release
    from .screen import announce_compiling, emit_json
    from .subject import load_subjects
    from .unseen_notes import unseen_notes

    if snapshot is not None:
        check_output(snapshot, ".pickle", force)
        if snapshot.exists() and trace.exists() and snapshot.samefile(trace):
            from ..traces.errors import ConfigError

            raise ConfigError(f"--snapshot: {snapshot} is the recording itself; name another file")
    gpu = parse_device(capacity, other)
    calls = parse_then(then or [])
    check_there(trace)
    announce_compiling(MAIN_PATH_SECONDS)
    subjects = load_subjects(trace, device)
    make_calls(subjects, calls)
    if snapshot is not None and subjects[0].kept.source is not None:
        from ..traces.errors import ConfigError

        raise ConfigError(f"--snapshot: {trace.name} is a long trace, too long for a snapshot")
    if snapshot is not None and len(subjects) > 1:
        from ..traces.errors import ConfigError

        found = ", ".join(str(s.device) for s in subjects)
        raise ConfigError(f"--snapshot: {trace.name} has devices {found}; choose one with --device")
    fit = find_release(subjects, torch)
    results: list[Replayed] = []
    notes: list[Finding] = []
    for subject in subjects:
        run, line, _ = replay_subject(
            subject, conf, fit.rules, gpu, keep_going, whole=snapshot is not None
        )
        results.append(result_of(subject, run, line, fit.rules, gpu))
        refused = subject.recorded_settings(fit.rules)[1] if conf is None else []
        notes += refused + subject.program.findings
        if subject.is_warm:
            notes.append(subject.about_start(conf, fit.rules, gpu))
        if conf is not None or gpu.capacity_bytes is not None:
            notes += unseen_notes(subject, fit.rules, run)
        if snapshot is not None:
            _write(snapshot, subject, run, line, fit.rules)
    if gpu.capacity_bytes is None:
        notes += advice_on_capacity(subjects)
    notes = notes_on(results[0].conf, fit.rules, gpu) + notes
    out_of_memory = any(r.ooms for r in results)
    if as_json:
        emit_json(
            {
                "simulated": True,
                "verdict": _verdict(results),
                "torch_found": fit.words,
                "devices": results,
                "files": [] if snapshot is None else [snapshot],
                "findings": notes,
            }
        )
    else:
        path, asked = shlex.quote(str(trace)), device_words(gpu, device) + torch_words(torch)
        asked = then_words(then or []) + asked
        _show(results, notes, fit.words, conf, keep_going, path, asked, snapshot)
    if out_of_memory:
        raise typer.Exit(1)


def replay_subject(
    subject: Subject,
    conf: str | None,
    rules: Release,
    gpu: Device,
    keep_going: bool = False,
    whole: bool = False,
) -> tuple[Run, str, bool]:
    """Replay one device's program.

    Args:
        subject: the device's program.
        conf: settings line; None = the recorded one.
        rules: the release.
        gpu: the simulated device.
        keep_going: go on after an out-of-memory error.
        whole: keep all events and the final layout.

    Returns:
        (the run, the settings line simulated, whether the start layout was kept).
    """
    from ..policies.native import replay_native

    settings, kept = subject.settings_under(conf, rules, gpu)
    run = replay_native(
        subject.kept if kept else subject.anew,
        settings,
        rules,
        gpu,
        stop_at_oom=not keep_going,
        track=True,  # code that the validation has compiled already: one run is not worth other
        events=whole,
        layout=whole,
    )
    return run, settings.conf, kept


def result_of(subject: Subject, run: Run, line: str, rules: Release, gpu: Device) -> Replayed:
    stats = run.stats
    ooms = stats["num_ooms"] + stats["num_oom_rejections"]
    entry = None
    if ooms:
        entry = subject.program.entry_of(run.first_oom_op) if run.first_oom_op >= 0 else 0
    return Replayed(
        device=subject.device,
        conf=line,
        torch=rules.name,
        capacity_bytes=gpu.capacity_bytes,
        other_bytes=gpu.other_bytes,
        events=run.n_ops,
        peak_reserved_bytes=stats["reserved_bytes.all.peak"],
        peak_allocated_bytes=stats["allocated_bytes.all.peak"],
        peak_active_bytes=stats["active_bytes.all.peak"],
        peak_requested_bytes=stats["requested_bytes.all.peak"],
        final_reserved_bytes=stats["reserved_bytes.all.current"],
        device_allocs=stats["num_device_alloc"],
        device_frees=stats["num_device_free"],
        alloc_retries=stats["num_alloc_retries"],
        ooms=ooms,
        first_oom_event=entry,
        first_oom_bytes=run.first_oom_bytes,
    )


def _write(path: Path, subject: Subject, run: Run, line: str, rules: Release) -> None:
    from ..sim.export import write_snapshot

    write_snapshot(
        path,
        subject.program,
        run,
        conf=line,
        release=rules.name,
        recording=subject.recording,
    )


def _verdict(results: list[Replayed]) -> str:
    """The answer in one sentence."""
    from ..traces.units import format_bytes

    failed = next((r for r in results if r.ooms), None)
    capacity = results[0].capacity_bytes
    if failed is not None:
        return (
            f"OUT OF MEMORY on device {failed.device} at entry {failed.first_oom_event:,}: a block "
            f"of {format_bytes(failed.first_oom_bytes)} was not to be had"
        )
    if capacity is not None:
        return f"FITS on {format_bytes(capacity)} (simulated)"
    peak = max(r.peak_reserved_bytes for r in results)
    return f"peak reserved {format_bytes(peak)} (simulated)"


def _show(
    results: list[Replayed],
    notes: list[Finding],
    rules: str,
    conf: str | None,
    keep_going: bool,
    path: str,
    asked: str,
    snapshot: Path | None,
) -> None:
    from .screen import Column, note, say, suggest, table, verdict

    failed = [r for r in results if r.ooms]
    verdict(_verdict(results))
    table(
        "",
        [
            "device",
            Column("peak reserved", "bytes"),
            Column("peak requested", "bytes"),
            Column("wasted", "%"),
            "driver allocs",
            "driver frees",
            "retries",
            "OOMs",
        ],
        [
            [
                str(r.device),
                r.peak_reserved_bytes,
                r.peak_requested_bytes,
                1 - r.peak_requested_bytes / max(1, r.peak_reserved_bytes),
                r.device_allocs,
                r.device_frees,
                r.alloc_retries,
                r.ooms,
            ]
            for r in results
        ],
    )
    unlike = ("no_driver", "refused_settings")
    as_recorded = conf is None and all(f.kind not in unlike for f in notes)
    say(f"settings: {results[0].conf or '(default)'}{', as recorded' if as_recorded else ''}")
    say(f"rules: {rules}")
    if failed and not keep_going:
        say("The replay ends there, as the program would; --keep-going drops the allocation.")
    note(notes)
    if snapshot is not None:
        print("written:", snapshot)
    line = "" if conf is None else f" --conf {shlex.quote(conf)}"
    why = [f"tightfit explain {path}{line}{asked}"] if failed else []
    suggest(*why, f"tightfit tune {path}{asked}")
