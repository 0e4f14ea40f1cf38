"""A plan holds in every round of the iteration, and is as low as a packing can make it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tightfit.policies import packing
from tightfit.policies.packing_of_profile import BORN, DIES, END, EVER, OFFSET, pack_profile
from tightfit.policies.packing_validator import packing_fault

pytestmark = pytest.mark.interpreted
TIMES = 6


def recurring(seed: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Requests before an iteration, and an iteration several times: (died, size, start, step)."""
    rng = random.Random(seed)
    start, step = rng.randrange(0, 30), rng.randrange(5, 40)
    n = start + TIMES * step
    lives = [rng.choice((1, 2, 5, step - 1, step, step + 2, 3 * step)) for _ in range(step)]
    lives = lives if seed % 2 else [min(life, step) for life in lives]
    sizes = [512 * rng.randrange(1, 20) for _ in range(step)]
    died, size = [], []
    for k in range(start):
        # As in the iteration, if it has as many requests before it; else some stay for ever.
        like = k - start + step
        life = lives[like] if like >= 0 else rng.randrange(1, step + 1)
        died.append(n if like < 0 and rng.random() < 0.3 else k + life)
        size.append(sizes[like] if like >= 0 else 512 * rng.randrange(1, 20))
    for turn in range(TIMES):
        died += [min(n, start + turn * step + k + lives[k]) for k in range(step)]
        size += sizes
    return np.array(died), np.array(size), start, step


def test_no_two_places_overlap_that_are_in_use_at_once_in_any_round() -> None:
    left = around = 0
    for seed in range(60):
        died, size, start, step = recurring(seed)
        rounds = 1 + seed % 2
        plan = pack_profile(died, size, start, rounds * step, rounds)
        lower, upper, sizes, offsets = [], [], [], []
        for k in range(len(died)):
            like = k if k < start else start + (k - start) % (rounds * step)
            row = plan.row_of[like]
            if row < 0:
                assert died[like] - like > rounds * step
                left += 1
                continue
            around += plan.rows[row, DIES] > start + rounds * step and like >= start
            lower.append(k)
            upper.append(int(died[k]))
            sizes.append(int(size[k]))
            offsets.append(int(plan.rows[row, OFFSET]))
        height = max(a + b for a, b in zip(offsets, sizes, strict=True))
        assert packing_fault(lower, upper, sizes, offsets, height) == "", seed
        assert height <= plan.rows[:, END].max()
    assert left and around


def test_rows_are_pieces_then_those_of_every_iteration_then_the_others() -> None:
    for seed in range(20):
        died, size, start, step = recurring(seed)
        plan = pack_profile(died, size, start, step)
        pieces = plan.rows[: plan.n_pieces]
        recurring_rows = plan.rows[plan.n_pieces : plan.n_recurring]
        others = plan.rows[plan.n_recurring :]
        for rows in (pieces, recurring_rows):
            assert (np.diff(rows[:, OFFSET]) >= 0).all()
        assert ((recurring_rows[:, DIES] == EVER) | (recurring_rows[:, DIES] > start)).all()
        assert (others[:, BORN] < start).all() and (others[:, DIES] < EVER).all()
        assert (np.sort(plan.row_of[plan.row_of >= 0]) >= plan.n_pieces).all()
        used = {u for a, b in recurring_rows[:, :2].tolist() for u in range(a // 512, b // 512)}
        covered = [u for a, b in pieces[:, :2].tolist() for u in range(a // 512, b // 512)]
        assert used == set(covered) and len(used) == len(covered)
        assert (pieces[1:, OFFSET] > pieces[:-1, END]).all()


def test_what_is_there_before_an_iteration_and_after_it_has_its_place_for_ever() -> None:
    # 0 stays; 1 goes before the iteration; 2 and 3 are the iteration, which is gone through twice.
    died, size = np.array([6, 2, 3, 4, 5, 6]), np.full(6, 512)
    plan = pack_profile(died, size, 2, 2)
    assert plan.rows[plan.row_of][:, DIES].tolist() == [EVER, 2, 3, 4]
    assert plan.rows[:, END].max() == 1024


def test_what_is_handed_over_leaves_its_place_to_others_while_it_is_not_there() -> None:
    # An iteration of four: 0 is freed by the next one, before that needs as much for 2.
    died, size = [], []
    for turn in range(4):
        died += [4 * turn + k for k in (6, 2, 3, 4)]
        size += [1024, 512, 1024, 512]
    # 0 lives for 6 requests, so two iterations are planned as one.
    plan = pack_profile(np.minimum(died, 16), np.array(size), 0, 8, 2)
    assert plan.rows[:, END].max() <= 3 * 1024


def test_what_the_first_iteration_finds_has_the_place_of_what_is_handed_to_the_next() -> None:
    # 0 is freed in the next iteration; the one before the first did the same.
    died = np.minimum([4 * turn + k for turn in range(4) for k in (6, 2, 3, 4)], 16)
    size = np.array([512 * 100, 512, 512, 512] * 4)
    plan = pack_profile(died, size, 2, 8, 2)
    assert plan.rows[plan.row_of[0], OFFSET] == plan.rows[plan.row_of[8], OFFSET]
    assert plan.rows[:, END].max() <= 512 * 203


def test_a_program_that_does_not_repeat_is_packed_as_it_is() -> None:
    died, size = np.array([2, 3, 3]), np.array([512, 512, 1024])
    plan = pack_profile(died, size, 0, 3)
    assert plan.rows[plan.row_of][:, DIES].tolist() == [2, 3, 3]
    assert plan.n_recurring - plan.n_pieces == 3 and plan.rows[:, END].max() == 1536


def test_ctrl_c_during_a_plan_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search answers with the best so far; a policy that plans must not go on with that."""

    def pressed(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packing._Attempt, "improve", pressed)
    with pytest.raises(KeyboardInterrupt):
        pack_profile(np.array([2, 2]), np.array([512, 1024]), 0, 2)
