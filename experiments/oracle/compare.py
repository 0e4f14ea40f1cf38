"""Hold a simulated run against what the real allocator did: everything it said, to the last number.

Two things are not compared because the allocator itself leaves them open: the order in which
memory of several private pools comes back within one call, and, if several streams were recorded
on blocks, the order in which frees complete while it waits for everything (both follow the slots
of a hash table), with the accumulators of inactive_split that depend on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from ...policies.native import replay_native
from ...sim.packing import pack
from ...sim.release import Release
from ...sim.run import Run
from ...traces.event import Action, BlockState
from .commands import HANDLE, Case, Code
from .defects import RETURNS, Defect, known_defect, missing_syncs
from .run import EXPANDABLE, SMALL, Answer
from .translate import Translated, translate

RELEASING = (*RETURNS, int(Action.FREE_COMPLETED))
ORDER_OF_FREES = tuple(
    f"inactive_split{unit}.{row}.{part}"
    for unit in ("", "_bytes")
    for row in ("all", "small_pool", "large_pool")
    for part in ("peak", "allocated", "freed")
)


@dataclass
class Verdict:
    """How a case ended.

    Attributes:
        differences: what the simulator says differently, in words; empty if nothing.
        defect: an upstream defect the case runs into; only what came before it was compared.
        events: trace entries compared.
        mallocs, ooms: requests and out-of-memory errors of the real allocator.
    """

    differences: list[str] = field(default_factory=list)
    defect: Defect | None = None
    events: int = 0
    mallocs: int = 0
    ooms: int = 0


def kind(verdict: Verdict) -> str:
    """Return what sort of difference a verdict begins with, without its figures; "" if none."""
    words = verdict.differences[0] if verdict.differences else ""
    return re.sub(r"0x[0-9a-f]+|\d+", "#", words if "raised" in words else words.split(":")[0])


def judge(case: Case, answer: Answer, rules: Release) -> Verdict:
    """Simulate a case and compare with the real allocator's answer."""
    if answer.errors and answer.reached and not len(answer.trace) and not answer.stats:
        return Verdict([f"the allocator refuses the settings: {answer.errors[0][1]}"])
    translated = translate(case, answer, rules)
    run = simulate(case, rules, translated)
    verdict = compare(case, answer, rules, translated, run)
    # What is asked for nothing special runs other code (assumed.py): it must say the same.
    lean = simulate(case, rules, translated, full=False).stats
    verdict.differences += [
        f"{name}: {value} in a replay without statistics, {run.stats[name]} with"
        for name, value in lean.items()
        if run.stats[name] != value
    ]
    return verdict


def simulate(case: Case, rules: Release, translated: Translated, full: bool = True) -> Run:
    """Replay a translated case; with everything on, or with nothing."""
    packed = pack(translated.program)
    first, *later = case.conditions(rules)
    return replay_native(
        packed, first.settings, rules, first.device, limit_fraction=first.limit_fraction,
        later=later[: len(packed.changes)], stop_at_oom=False, recorded_driver=case.scattered,
        track=full, events=full, layout=full,
    )  # fmt: skip


def compare(
    case: Case, answer: Answer, rules: Release, translated: Translated, run: Run
) -> Verdict:
    """Compare a run of the translated program with the answer it was translated from."""
    settings = [c.settings for c in case.conditions(rules)]
    defect = known_defect(answer, rules, settings, translated, run)
    end = answer.reached if defect is None else min(answer.reached, defect.command)
    theirs = _their_events(answer, end)
    ours = _our_events(translated, run, end)
    verdict = Verdict(
        defect=defect,
        events=len(theirs),
        mallocs=int((case.commands["code"][:end] == Code.MALLOC).sum()),
        ooms=int((theirs[:, 1] == Action.OOM).sum()),
    )
    out = verdict.differences
    out += _event_differences(theirs, ours, run, translated)
    addr = run.addr[translated.malloc < end]
    returned = answer.returned[translated.malloc[translated.malloc < end]]
    if not np.array_equal(addr, returned):
        k = int(np.flatnonzero(addr != returned)[0])
        out.append(
            f"command {translated.malloc[k]}: returned {returned[k]:#x}, simulated {addr[k]:#x}"
        )
    out += [
        f"command {command}: the allocator raised '{words}'"
        for command, words in answer.errors
        if command < end and not _is_expected(case, command, rules)
    ]
    if defect is None:
        if answer.status:
            out.append(
                f"the allocator's process died (wait status {answer.status}) after command "
                f"{answer.reached - 1}"
            )
        else:
            out += _stat_differences(
                answer, run, translated, missing_syncs(settings, translated, run)
            )
            out += layout_differences(answer, run)
    return verdict


def _is_expected(case: Case, command: int, rules: Release) -> bool:
    """Whether an exception is the known answer to a call that makes no sense.

    In capture context empty_cache fails an assertion, of one pool always, of everything until 2.7.
    """
    is_of_one = case.commands["id"][command] != 0
    may_fail = is_of_one or not rules.empties_pools_in_capture
    return case.commands["code"][command] == Code.EMPTY and bool(may_fail)


# Events as rows (command, action, addr, size, stream).


def _their_events(answer: Answer, end: int) -> np.ndarray:
    rows = answer.trace[answer.trace["command"] < end]
    columns = [rows[c].astype(np.int64) for c in ("command", "action", "addr", "size", "stream")]
    columns[4] //= HANDLE
    return np.stack(columns, axis=1)


def _our_events(translated: Translated, run: Run, end: int) -> np.ndarray:
    rows = run.events
    columns = [rows[c].astype(np.int64) for c in ("op", "action", "addr", "size", "stream")]
    columns[0] = translated.command[columns[0]] if len(rows) else columns[0]
    table = np.stack(columns, axis=1)
    return table[table[:, 0] < end]


def _event_differences(
    theirs: np.ndarray, ours: np.ndarray, run: Run, translated: Translated
) -> list[str]:
    """Return the first event that differs, in words, with some before it."""
    if np.array_equal(theirs, ours):
        return []
    rows = run.events[np.isin(run.events["action"], RETURNS)]
    action, addr, size, pool = (rows[c].tolist() for c in ("action", "addr", "size", "pool"))
    pool_of = dict(zip(zip(action, addr, size, strict=True), pool, strict=True))
    several = len(translated.side_streams) > 1
    theirs, ours = (_in_any_order(rows, pool_of, several) for rows in (theirs, ours))
    n = min(len(theirs), len(ours))
    wrong = np.flatnonzero((theirs[:n] != ours[:n]).any(axis=1))
    if not len(wrong) and len(theirs) == len(ours):
        return []
    at = int(wrong[0]) if len(wrong) else n
    lines = [f"event {at} of {len(theirs)}: real {_word(theirs, at)}, simulated {_word(ours, at)}"]
    lines += [f"   before: {_word(theirs, k)}" for k in range(max(0, at - 3), at)]
    return ["\n".join(lines)]


def _in_any_order(
    rows: np.ndarray, pool_of: dict[tuple[int, int, int], int], several_streams: bool
) -> np.ndarray:
    """Sort what the allocator leaves open within each run of returning memory in one command."""
    releasing = np.isin(rows[:, 1], RELEASING)
    out: list[list[int]] = []
    group: list[list[int]] = []

    completed = int(Action.FREE_COMPLETED)

    def key(row: list[int]) -> tuple[int, int, int]:
        if row[1] == completed:
            return 0, 0, row[2] if several_streams else 0
        return 1, pool_of.get((row[1], row[2], row[3]), -1), 0

    for row, is_release in zip(rows.tolist(), releasing.tolist(), strict=True):
        if group and (not is_release or row[0] != group[0][0]):
            out += sorted(group, key=key)
            group = []
        if is_release:
            group.append(row)
        else:
            out.append(row)
    out += sorted(group, key=key)
    return np.array(out, np.int64).reshape(-1, 5)


def _word(rows: np.ndarray, i: int) -> str:
    if i >= len(rows):
        return "nothing"
    command, action, addr, size, stream = rows[i].tolist()
    where = f"device_free {addr}" if action == Action.OOM else f"at {addr:#x}"
    name = Action(action).name.lower()
    return f"{name} of {size} {where} on stream {stream} (command {command})"


def _stat_differences(
    answer: Answer, run: Run, translated: Translated, unseen_syncs: tuple[int, int]
) -> list[str]:
    out = []
    for name, value in answer.stats.items():
        simulated = run.stats.get(name)
        if name in ORDER_OF_FREES and len(translated.side_streams) > 1:
            continue
        if name == "num_sync_all_streams" and simulated is not None:
            simulated = min(max(simulated + unseen_syncs[0], value), simulated + unseen_syncs[1])
        if simulated != value:
            out.append(f"{name}: real {value}, simulated {simulated}")
    return out


def layout_differences(answer: Answer, run: Run) -> list[str]:
    """Compare the final snapshot, segments and blocks in address order."""
    assert run.layout is not None
    s, b = run.layout.segments, run.layout.blocks
    theirs, ours = answer.segments, np.argsort(s["address"])
    out = []
    flags = theirs["flags"]
    for name, real, simulated in (
        ("address", theirs["addr"], s["address"][ours]),
        ("total_size", theirs["size"], s["size"][ours]),
        ("stream", theirs["stream"] // HANDLE, s["stream"][ours]),
        ("pool", theirs["pool"], s["pool"][ours]),
        ("is_small", (flags & SMALL) != 0, s["is_small"][ours] != 0),
        ("is_expandable", (flags & EXPANDABLE) != 0, s["is_expandable"][ours] != 0),
    ):
        out += _column_difference(f"segments.{name}", real, simulated)
    theirs, ours = answer.blocks, np.argsort(b["address"])
    state = theirs["flags"]
    out += _column_difference("blocks.address", theirs["addr"], b["address"][ours])
    out += _column_difference("blocks.size", theirs["size"], b["size"][ours])
    out += _column_difference("blocks.state", state, b["state"][ours])
    if not out:
        # requested_size of an inactive block is whatever its object last served.
        used = state != BlockState.INACTIVE
        real, simulated = theirs["stream"][used], b["requested_size"][ours][used]
        out += _column_difference("blocks.requested_size", real, simulated)
    return out


def _column_difference(name: str, real: np.ndarray, simulated: np.ndarray) -> list[str]:
    if len(real) != len(simulated):
        return [f"{name}: real {len(real)} rows, simulated {len(simulated)}"]
    wrong = np.flatnonzero(real.astype(np.int64) != simulated.astype(np.int64))
    if not len(wrong):
        return []
    k = int(wrong[0])
    return [f"{name}: row {k}: real {int(real[k])}, simulated {int(simulated[k])}"]
