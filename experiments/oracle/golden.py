"""Answers of the real allocator kept as files, so that tests need no wheel.

    python -m tightfit.experiments.oracle.golden tests/golden [VERSION ...]

writes `allocator-<version>.json` for each release: every scenario, every case that was once
answered wrongly, and some short random ones with what the release's own compiled allocator did;
and, if no release is named, the files of `golden_predictions.py` and `golden_lines.py`. Nothing of
PyTorch is in the files, only figures.
"""

from __future__ import annotations

import argparse
import json
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from ...sim.device import FIRST_ADDRESS
from ...sim.release import release
from ...traces.event import Action
from .build import build_driver
from .commands import Case, Code, case_from_json, case_to_json
from .compare import judge
from .programs import random_case
from .regressions import regressions
from .run import ROW, Answer, run_cases
from .scenarios import scenarios
from .wheels import RELEASES, find_wheel

UNIT = 512  # every address and block is a multiple; the files count in it
RANDOM_CASES = 14
SHORT = 64  # commands


def write_golden(folder: Path, version: str) -> Path:
    """Write one release's file.

    Raises:
        VerificationError: the release cannot be had, built or run.
    """
    rules = release(version)
    short = (
        case
        for case in (random_case(version, rules, seed) for seed in count())
        if len(case.commands) <= SHORT and (case.commands["code"] == Code.MALLOC).sum() > 9
    )
    kept = [*scenarios().values(), *regressions(rules).values()]
    cases = [*kept, *islice(short, RANDOM_CASES)]
    answers = run_cases(build_driver(find_wheel(version)), cases)
    lines = []
    for case, answer in zip(cases, answers, strict=True):
        if judge(case, answer, rules).defect is None:
            row = case_to_json(case) | {"answer": answer_to_json(answer)}
            lines.append(json.dumps(row, separators=(",", ":")))
    path = folder / f"allocator-{version}.json"
    names = json.dumps(list(answers[0].stats))
    head = f'{{"torch":"{version}","stats":{names},"cases":[\n'
    path.write_text(head + ",\n".join(lines) + "\n]}\n")
    return path


def read_golden(path: Path) -> tuple[str, list[tuple[Case, Answer]]]:
    """Return a file's release and its cases with the real answers."""
    value = json.loads(path.read_text())
    return value["torch"], [
        (case, answer_from_json(case, row["answer"], value["stats"]))
        for row in value["cases"]
        for case in [case_from_json(row)]
    ]


TRACE = ("command", "action", "flags", "addr", "size", "stream")


def answer_to_json(answer: Answer, with_pools: bool = False) -> dict[str, Any]:
    """Return an answer as JSON values; counters in the order of the file's list of names."""
    return {
        "trace": _rows(answer.trace, (*TRACE, "pool") if with_pools else TRACE),
        "stats": list(answer.stats.values()),
        "segments": _rows(answer.segments, ("flags", "pool", "addr", "size", "stream")),
        "blocks": _rows(answer.blocks, ("flags", "addr", "size", "stream")),
        "errors": answer.errors,
    }


def answer_from_json(case: Case, value: dict[str, Any], names: list[str]) -> Answer:
    """Read what `answer_to_json` wrote; `names` are those of the counters."""
    has_pools = bool(value["trace"]) and len(value["trace"][0]) > len(TRACE)
    trace = _table(value["trace"], (*TRACE, "pool") if has_pools else TRACE)
    returned = np.zeros(len(case.commands), np.uint64)
    served = trace[trace["action"] == Action.ALLOC]
    returned[served["command"]] = served["addr"]
    return Answer(
        status=0,
        trace=trace,
        returned=returned,
        errors=[(command, words) for command, words in value["errors"]],
        stats=dict(zip(names, value["stats"], strict=True)),
        segments=_table(value["segments"], ("flags", "pool", "addr", "size", "stream")),
        blocks=_table(value["blocks"], ("flags", "addr", "size", "stream")),
        reached=len(case.commands),
    )


def _is_address(rows: np.ndarray) -> np.ndarray:
    return rows["action"] != Action.OOM


def _rows(rows: np.ndarray, columns: tuple[str, ...]) -> list[list[int]]:
    table = {name: rows[name].astype(np.int64) for name in columns}
    table["addr"][_is_address(rows)] -= FIRST_ADDRESS
    table["addr"][_is_address(rows)] //= UNIT
    return np.stack([table[name] for name in columns], axis=1).tolist()


def _table(values: list[list[int]], columns: tuple[str, ...]) -> np.ndarray:
    rows = np.zeros(len(values), ROW)
    for k, name in enumerate(columns):
        rows[name] = [row[k] for row in values]
    is_address = _is_address(rows)
    rows["addr"][is_address] = rows["addr"][is_address] * UNIT + FIRST_ADDRESS
    return rows


def main() -> None:
    """Write the files and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folder", type=Path)
    parser.add_argument("versions", nargs="*", default=list(RELEASES))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for version in given.versions:
        _say(write_golden(given.folder, version))
    if given.versions == list(RELEASES):
        from .golden_lines import write_lines
        from .golden_predictions import write_predictions

        _say(write_predictions(given.folder))
        _say(write_lines(given.folder))


def _say(path: Path) -> None:
    print(f"{path.name}: {path.stat().st_size:,} B")


if __name__ == "__main__":
    main()
