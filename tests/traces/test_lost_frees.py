"""Frees that were not recorded, placed where the later recorded addresses come out right."""

import random

import numpy as np

from tightfit.sim.device import Device
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.event import Action
from tightfit.traces.history import lift
from tightfit.traces.lost_frees import settle_lost_frees
from tightfit.traces.program import Op
from tightfit.traces.units import KiB, MiB

from ..strategies import random_program
from .recorded import (
    FREE_BLOCK,
    LIVE_BLOCK,
    by_hand,
    departures,
    kinds,
    ops,
    record,
    without,
)

RULES = release("2.11")


def replayed(program):
    run = replay_reference(
        program, Settings(), RULES, Device(), recorded_driver=True, stop_at_oom=False
    )
    return run.addr


def test_a_choice_of_other_memory_shows_that_a_block_was_free_before():
    # Free of a (entry lost) joins it with the hole behind it: 3 KiB at 0 instead of 1 KiB at
    # 2048. So the next KiB comes from the hole of 1 KiB at 4096, and only the one after that
    # lies where a was. The latest moment by addresses alone, just before it, would have put the
    # first of the two into the hole behind a.
    entries = [
        ("segment_alloc", 0, 2 * MiB), ("alloc", 0, 2048), ("alloc", 2048, 1024),
        ("alloc", 3072, 1024), ("alloc", 4096, 1024), ("alloc", 5120, 2 * MiB - 5120 - MiB),
        ("alloc", MiB, MiB),
        ("free_requested", 2048, 1024), ("free_completed", 2048, 1024),
        ("free_requested", 4096, 1024), ("free_completed", 4096, 1024),
        ("alloc", 4096, 1024), ("alloc", 0, 1024),
    ]  # fmt: skip
    final = [
        (0, {"small"}, [
            (1024, LIVE_BLOCK, 1024), (2048, FREE_BLOCK, 0), (1024, LIVE_BLOCK, 1024),
            (1024, LIVE_BLOCK, 1024), (MiB - 5120, LIVE_BLOCK, MiB - 5120), (MiB, LIVE_BLOCK, MiB),
        ])
    ]  # fmt: skip
    lifted = lift(by_hand(entries, final), 0)
    assert ops(lifted)[-3:] == ["MALLOC 6", "FREE 0", "MALLOC 7"]
    assert departures(lifted, Settings(), RULES)
    settled = settle_lost_frees(lifted, replayed)
    assert ops(settled)[-3:] == ["FREE 0", "MALLOC 6", "MALLOC 7"]
    assert departures(settled, Settings(), RULES) == []
    assert kinds(settled)["settled_free"] == 1 and not settled.complete


def test_a_program_without_lost_frees_is_returned_as_it_is():
    entries = [("segment_alloc", 0, 2 * MiB), ("alloc", 0, 512)]
    final = [(0, {"small"}, [(512, LIVE_BLOCK, 512), (2 * MiB - 512, FREE_BLOCK, 0)])]
    lifted = lift(by_hand(entries, final), 0)
    assert settle_lost_frees(lifted, replayed) is lifted


def test_what_no_move_explains_is_left_as_it_was():
    # b begins behind what is free memory to everybody: not the fault of a's lost free.
    entries = [
        ("segment_alloc", 0, 2 * MiB), ("alloc", 0, 512), ("alloc", 4 * KiB, 512),
        ("alloc", 0, 512),
    ]  # fmt: skip
    final = [
        (0, {"small"}, [
            (512, LIVE_BLOCK, 512), (4 * KiB - 512, FREE_BLOCK, 0), (512, LIVE_BLOCK, 512),
            (2 * MiB - 4 * KiB - 512, FREE_BLOCK, 0),
        ])
    ]  # fmt: skip
    lifted = lift(by_hand(entries, final), 0)
    assert settle_lost_frees(lifted, replayed) is lifted


def test_random_programs_come_out_exact_although_three_frees_are_lost():
    rng = random.Random(3)
    exact = by_addresses_alone = 0
    for seed in range(25):
        program = random_program(seed, 250, pools=0, sizes=[3 * KiB, 40 * KiB, MiB, 3 * MiB])
        keep = (program.op == Op.MALLOC) | (program.op == Op.FREE)
        pending = np.isin(program.arg, program.arg[program.op == Op.FREE_LATER])
        keep &= ~(pending & (program.op == Op.FREE))
        program.op, program.arg = program.op[keep], program.arg[keep]
        run = replay_reference(program, Settings(), RULES)
        recording = record(program, run, Settings(), stacks=False)
        frees = np.flatnonzero(run.events["action"] == Action.FREE_REQUESTED).tolist()
        drop = [k + step for k in rng.sample(frees, 3) for step in (0, 1)]
        lifted = lift(without(recording, *drop), 0)
        assert sum(kinds(lifted).get(k, 0) for k in ("lost_free", "late_free")) == 3
        by_addresses_alone += not departures(lifted, Settings(), RULES)
        exact += not departures(settle_lost_frees(lifted, replayed), Settings(), RULES)
    assert by_addresses_alone < exact == 25
