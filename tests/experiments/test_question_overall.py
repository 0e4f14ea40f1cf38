"""Over all recordings: means, intervals and tests against their definitions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from tightfit.experiments.question.overall import LEAST_PAIRS, Overall, overall
from tightfit.experiments.question.runner import Measured
from tightfit.experiments.question.tables import overall_words
from tightfit.experiments.row import Row

PUBLISHED = Path(__file__).parents[2] / "experiments" / "published" / "what_settings_leave"


def table(name: str, peaks: dict[str, int | None], bound: int = 50, program: str = "") -> Measured:
    rows = [Row("peak live bytes", "bound", "", bound, None)]
    for policy, peak in peaks.items():
        role = "baseline" if policy == "base" else "policy"
        above = None if peak is None else peak / bound - 1
        rows.append(Row(policy, role, "", peak, above, ooms=int(peak is None)))
    return Measured(name, program or name, name, 0, 1, "2.15.0", "", False, [], None, rows, {}, [])


def found(peaks: list[dict[str, int | None]]) -> dict[str, Overall]:
    tables = [table(str(k), p) for k, p in enumerate(peaks)]
    return {o.policy: o for o in overall(tables, seed=0)}


def test_what_is_saved_is_a_geometric_mean_over_what_both_run_on() -> None:
    out = found([
        {"base": 100, "a": 50}, {"base": 100, "a": 200}, {"base": 100, "a": 100},
        {"base": 100, "a": 80}, {"base": 100, "a": None}, {"base": None, "a": 80},
    ])  # fmt: skip
    a = out["a"]
    assert (a.fits, a.of, a.pairs, a.better, a.same, a.worse) == (5, 6, 4, 2, 1, 1)
    assert a.saved == pytest.approx(1 - (0.5 * 2 * 1 * 0.8) ** 0.25)
    assert a.worst == pytest.approx(-1)
    assert a.above_bound == pytest.approx((1 * 4 * 2 * 1.6 * 1.6) ** 0.2 - 1)
    assert out["base"].saved == 0 and a.p is None and a.smallest_saved is None


def test_the_interval_holds_the_mean_and_shrinks_with_recordings() -> None:
    rng = np.random.default_rng(5)
    widths = []
    for n in (8, 200):
        peaks: list[dict[str, int | None]] = [
            {"base": 10_000, "a": int(10_000 * r)} for r in rng.uniform(0.5, 1, n)
        ]
        a = found(peaks)["a"]
        assert a.low is not None and a.high is not None and a.saved is not None
        assert a.low < a.saved < a.high
        widths.append(a.high - a.low)
    assert widths[1] < widths[0] / 3
    assert found([{"base": 4, "a": 2}] * LEAST_PAIRS)["a"].low == pytest.approx(0.5)
    assert found([{"base": 4, "a": 2}] * (LEAST_PAIRS - 1))["a"].low is None


def test_p_is_the_share_of_signs_that_are_as_one_sided() -> None:
    """Of all signs that equal magnitudes could have had, by counting them."""
    ratios = [0.5, 0.6, 0.7, 0.8, 0.9, 1.05, 0.95]
    p = found([{"base": 1000, "a": int(1000 * r)} for r in ratios])["a"].p
    logs = np.log(ratios)
    ranks = np.argsort(np.argsort(np.abs(logs))) + 1
    seen = ranks[logs > 0].sum()
    sums = [
        sum(r for r, up in zip(ranks, ups, strict=True) if up)
        for ups in itertools.product((False, True), repeat=len(ratios))
    ]
    below, above = (sum(s <= seen for s in sums), sum(s >= seen for s in sums))
    assert p == pytest.approx(min(1, 2 * min(below, above) / len(sums)))
    assert math.isclose(2 / 2**LEAST_PAIRS, 0.03125)  # the least that so many pairs can reach
    pair: dict[str, int | None] = {"base": 100, "a": 50}
    few = [pair] * (LEAST_PAIRS - 1) + [{"base": 100, "a": 100}]
    assert found(few)["a"].p is None


def test_the_legend_says_when_interval_and_p_are_left_out() -> None:
    pair: dict[str, int | None] = {"base": 100, "a": 50}
    same: dict[str, int | None] = {"base": 100, "a": 100}
    few = [pair] * (LEAST_PAIRS - 1) + [same] * LEAST_PAIRS
    assert found(few)["a"].low is not None and found(few)["a"].p is None
    assert found([*few, {"base": 1000, "a": 1001}])["a"].p is not None
    words = overall_words([table(str(k), p) for k, p in enumerate(few)])
    said = "No interval with fewer than 6 of them, no p with fewer than 6 whose peaks differ at all"
    assert said in words
    for name in ("tables.md", "tables.tex"):
        assert said in (PUBLISHED / name).read_text(encoding="utf-8")


def test_the_best_stands_first_and_what_fails_last() -> None:
    peaks = {"base": 100, "a": 90, "b": 50, "c": None}
    out = found([peaks, peaks | {"b": None, "c": 10}, peaks | {"c": 10}])
    assert list(out) == ["a", "base", "b", "c"] or list(out) == ["a", "base", "c", "b"]
    assert list(out)[2] == "c"  # one failure each; it saves more where it runs


def test_variants_of_a_program_count_as_one() -> None:
    """Ten seeds of one program are no ten witnesses."""
    ratios = {"x": [0.5, 0.6, 0.7, 0.5], "y": [1.0], "z": [0.9, 0.8]}
    tables = [
        table(f"{name}{k}", {"base": 1000, "a": int(1000 * r)}, program=name)
        for name, of in ratios.items()
        for k, r in enumerate(of)
    ]
    (a,) = [o for o in overall(tables, seed=0) if o.policy == "a"]
    assert (a.pairs, a.programs, a.better, a.same) == (7, 3, 6, 1)
    logs = [np.mean(np.log(of)) for of in ratios.values()]
    assert a.saved == pytest.approx(1 - math.exp(np.mean(logs)))
    assert a.low is None and a.p is None  # three programs are too few, whatever seven say


def test_of_equals_the_baseline_stands_first() -> None:
    assert list(found([{"a": 100, "base": 100}])) == ["base", "a"]
