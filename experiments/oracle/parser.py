"""`tightfit prove --lines N`: our reading of settings lines against the compiled parsers.

Each line is put to a process that loads PyTorch's libraries with it in the environment. That it is
accepted or refused must be the same here, and of an accepted line every value.
"""

from __future__ import annotations

import random
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...sim.release import Release, release
from ...sim.settings import OFF
from ...sim.settings_parser import FAR, MOST_MB, WRAPPED_ROUNDING, Parser
from ...traces.errors import PolicyError, VerificationError
from ...traces.units import MiB
from ..screen import Column, progress, say, table
from .build import build_program
from .releases import answer, prove_each, say_failures
from .wheels import find_wheel
from .wild_lines import wild_line

BATCH = 100
MOST_DIFFERENCES = 5
SECONDS_PER_BATCH = 300
TOTAL = 1 << 40  # device memory of standin/settings.cpp
U64_MAX = (1 << 64) - 1
BEYOND = "a list that does not end, beyond which the parsers until 2.9 read"
Values = dict[str, Any]


@dataclass
class Lines:
    """What was compared with one release's parser.

    Attributes:
        torch: full version.
        seed, lines: lines number seed .. seed + lines - 1 were read.
        accepted, refused: what PyTorch did with them.
        excluded: lines that no answer is right for, by reason.
        differences: [line, what differs]; empty if nothing.
        seconds: wall time.
        failure: why the release could not be asked; "" if it could.
    """

    torch: str
    seed: int
    lines: int = 0
    accepted: int = 0
    refused: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    differences: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""


def ask_parser(program: Path, lines: Sequence[str]) -> list[Values | None]:
    """Return what a release makes of lines: values by key, None if it refuses one.

    Raises:
        VerificationError: the program did not run, or died of something else than a refusal.
    """
    # What is no UTF-8 stands in an environment byte by byte.
    texts = [line.encode(errors="surrogateescape") for line in lines]
    payload = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    try:
        done = subprocess.run([program], input=payload, capture_output=True, env={"LC_ALL": "C"},
                              timeout=SECONDS_PER_BATCH)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VerificationError(f"oracle: {program.name} did not run: {error}") from error
    answers: list[Values | None] = []
    at = 0
    for line in lines:
        if len(done.stdout) < at + 8:
            raise VerificationError(
                f"oracle: {program.name} ended with status {done.returncode} before the line "
                f"'{line}', expected an answer"
            )
        status, size = struct.unpack_from("<II", done.stdout, at)
        text = done.stdout[at + 8 : at + 8 + size].decode(errors="replace")
        at += 8 + size
        answers.append(_values(text) if status == 0 else None)
    return answers


def _values(text: str) -> Values:
    out: Values = {}
    for row in text.splitlines():
        name, *words = row.split()
        if name == "backend":
            out[name] = words[0]
        elif name == "roundup_power2_divisions":
            out[name] = tuple(min(int(word), FAR) for word in words)
        elif name in ("garbage_collection_threshold", "per_process_memory_fraction"):
            out[name] = float(words[0])
        else:
            out[name] = int(words[0])
    return out


def read_line(line: str, rules: Release) -> Values | None:
    """Return what we make of a line, under the same names; None if we refuse it."""
    parser = Parser(line, rules)
    try:
        s = parser.parse()
    except PolicyError:
        return None
    found = parser.found

    def flag(name: str) -> int:
        return int(found.get(name) == "True")

    def capped(name: str) -> int:
        return U64_MAX if name not in found else found[name] * MiB

    values: Values = {
        "backend": s.backend,
        "large_segment_size_mb": s.large_segment_size,
        "max_split_size_mb": s.max_split_size,
        "max_non_split_rounding_mb": s.max_non_split_rounding,
        "garbage_collection_threshold": s.garbage_collection_threshold,
        "roundup_power2_divisions": s.roundup_divisions,
        "expandable_segments": int(s.expandable_segments),
        "per_process_memory_fraction": s.per_process_memory_fraction,
        "throw_on_cudamalloc_oom": int(s.throw_on_cudamalloc_oom),
        "graph_capture_record_stream_reuse": int(s.graph_capture_record_stream_reuse),
        "pinned_num_register_threads": found.get("pinned_num_register_threads", 1),
        "pinned_reserve_segment_size_mb": found.get("pinned_reserve_segment_size_mb", 0),
        "pinned_max_round_threshold_mb": capped("pinned_max_round_threshold_mb"),
        "pinned_max_cached_size_mb": capped("pinned_max_cached_size_mb"),
    }
    for name in (
        "release_lock_on_cudamalloc", "pinned_use_cuda_host_register",
        "pinned_use_background_threads", "pinned_free_catch_all",
    ):  # fmt: skip
        values[name] = flag(name)
    if s.reserve_fraction is not None:
        values["expandable_segments_reserve"] = min(int(s.reserve_fraction * TOTAL), FAR)
    elif s.reserve_bytes is not None:
        values["expandable_segments_reserve"] = s.reserve_bytes
    return values


def in_64_bits(values: Values) -> Values:
    """Turn PyTorch's unsigned sizes into what Settings holds."""
    out = dict(values)
    for name, most in (
        ("large_segment_size_mb", FAR), ("max_split_size_mb", OFF),
        ("max_non_split_rounding_mb", FAR), ("expandable_segments_reserve", FAR),
    ):  # fmt: skip
        if name in out:
            capped = name == "max_non_split_rounding_mb" and out[name] == MOST_MB * MiB
            out[name] = WRAPPED_ROUNDING if capped else min(out[name], most)
    return out


def difference(line: str, theirs: Values | None, rules: Release) -> str:
    """Return how our reading of a line differs from PyTorch's, in words; "" if it does not."""
    ours = read_line(line, rules)
    if theirs is None or ours is None:
        if (theirs is None) == (ours is None):
            return ""
        return "PyTorch refuses it" if theirs is None else "PyTorch accepts it"
    theirs = in_64_bits(theirs)
    if "expandable_segments_reserve" in ours:
        theirs.setdefault("expandable_segments_reserve", None)
    wrong = [
        f"{name}: PyTorch {value}, here {ours.get(name)}"
        for name, value in theirs.items()
        if ours.get(name) != value
    ]
    return "; ".join(wrong)


def left_open(line: str, rules: Release) -> str:
    """Return why no answer to a line is the right one; "" mostly."""
    parser = Parser(line, rules)
    if not parser.strict:
        return ""
    try:
        parser.parse()
    except PolicyError as refusal:
        ended = "found the end of the line" in str(refusal)
        return BEYOND if ended and "[" in line else ""
    return BEYOND if parser.tokens and "[" in parser.tokens and "]" not in parser.tokens else ""


def prove_lines(
    proof: Lines,
    n: int,
    wheels: Path | None,
    seeds: tuple[str, ...] = (),
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Compare n lines; fills in `proof`, which is complete after every batch.

    Args:
        proof: says which release, and with which line to begin.
        n: number of lines.
        wheels: where to look for the release's libraries.
        seeds: lines to use and to spoil, besides random ones.
        advance: called with the number of lines after each batch.

    Raises:
        VerificationError: the release cannot be had, built or run.
    """
    rules = release(proof.torch)
    program = build_program(find_wheel(proof.torch, wheels), "settings.cpp")
    start = time.monotonic()
    while proof.lines < n and len(proof.differences) < MOST_DIFFERENCES:
        first = proof.seed + proof.lines
        lines = [
            wild_line(random.Random(f"line {proof.torch}/{first + k}"), rules, seeds)
            for k in range(min(BATCH, n - proof.lines))
        ]
        for line, theirs in zip(lines, ask_parser(program, lines), strict=True):
            proof.lines += 1
            why = left_open(line, rules)
            if why:
                proof.excluded[why] += 1
                continue
            proof.accepted += theirs is not None
            proof.refused += theirs is None
            words = difference(line, theirs, rules)
            if words:
                proof.differences.append((line, words))
        proof.seconds = time.monotonic() - start
        advance(len(lines))


def run_lines(versions: list[str], n: int, seed: int, wheels: Path | None, as_json: bool) -> None:
    """Compare n lines with each release, and report.

    Raises:
        typer.Exit: as releases.answer does.
    """

    def prove(proof: Lines) -> None:
        with progress(n, f"torch {proof.torch}, lines") as advance:
            prove_lines(proof, n, wheels, advance=advance)

    proofs, interrupted = prove_each([Lines(version, seed) for version in versions], prove)
    answer(proofs, interrupted, _verdict, _show, as_json)


def _verdict(proofs: Sequence[Lines]) -> str:
    lines = sum(p.accepted + p.refused for p in proofs)
    wrong = sum(len(p.differences) for p in proofs)
    if not lines:
        return "NOTHING COMPARED"
    what = f"{lines:,} lines on {sum(p.lines > 0 for p in proofs)} releases"
    return f"DIFFERENT: {wrong} of {what}" if wrong else f"THE SAME: {what}, every value"


def _show(proofs: Sequence[Lines]) -> None:
    table(
        "",
        [
            "torch", "seed", "lines", "accepted", "refused", "left open", "differences",
            Column("time", "s"),
        ],
        [
            [
                p.torch, p.seed, p.lines, p.accepted, p.refused, p.excluded.total(),
                len(p.differences), p.seconds,
            ]
            for p in proofs
        ],
    )  # fmt: skip
    for name, count in sum((p.excluded for p in proofs), Counter[str]()).items():
        say(f"left open, {count}: {name}")
    say_failures(proofs)
    for proof in proofs:
        for line, words in proof.differences:
            print(f"torch {proof.torch}: {line!r}: {words}")
