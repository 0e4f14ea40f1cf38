"""tune --policy: values within their ranges, never worse than the defaults, repeatable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tightfit.experiments.cli import app, main
from tightfit.experiments.search import search_params
from tightfit.sim.param import Param
from tightfit.traces.units import GiB, MiB

ROOT = Path(__file__).resolve().parents[2]
TRACE = str(ROOT / "traces" / "data" / "cnn_resolutions.default.npz")
OTHER = str(ROOT / "traces" / "data" / "mlp_train.npz")
EXAMPLE = str(ROOT / "docs" / "examples" / "two_regions.py")


def tune(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["tune", *words])
    return result.exit_code, result.stdout


def test_values_proposed_lie_within_their_ranges_and_begin_at_the_defaults() -> None:
    params = (
        Param("page", 2048, 512, 4096, "a power of two", "bytes", True),
        Param("share", 7, 3, 9, "a plain number"),
        Param("segment", 20 * MiB, 0, 4 * GiB, "what the driver gives", "bytes"),
        Param("head", 96, 32, 640, "of some bytes", "bytes"),
    )
    seen: list[dict[str, int]] = []

    def judge(values: dict[str, int]) -> float:
        seen.append(dict(values))
        return float(values["page"] * values["share"])

    search_params(params, judge, 40)
    first = {"page": 2048, "share": 7, "segment": 20 * MiB, "head": 96}
    assert seen[0] == first and len(seen) == 40
    assert {v["segment"] % (2 * MiB) for v in seen} == {0} == {v["head"] % 32 for v in seen}
    for values in seen:
        for p in params:
            p.check(values[p.name], "proposed")
    assert min(v["page"] * v["share"] for v in seen) == 512 * 3


@pytest.mark.parametrize("value", [512, 1536, 65536, 134217728, 134217729])
def test_a_value_is_written_shortly_and_reads_back(value: int) -> None:
    size = Param("size", 512, 0, 1 << 40, "bytes", "bytes")
    count = Param("count", 512, 0, 1 << 40, "a plain number")
    for param in (size, count):
        assert param.parse(param.written(value), "here") == value
    assert size.written(134217728) == "128MiB" and count.written(65536) == "65536"


def test_the_example_is_tuned_and_never_gets_worse() -> None:
    code, out = tune(TRACE, "--policy", EXAMPLE, "--trials", "12", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["best"]["peak_reserved_bytes"] <= found["default"]["peak_reserved_bytes"]
    assert found["bound_bytes"] <= found["best"]["peak_reserved_bytes"]
    assert tune(TRACE, "--policy", EXAMPLE, "--trials", "12", "--json") == (code, out)


def test_what_is_said_can_be_typed_into_compare() -> None:
    code, out = tune(TRACE, OTHER, "--policy", "worst_fit", "--trials", "12")
    assert code == 0 and max(map(len, out.splitlines()[:-1])) <= 100
    (line,) = [x for x in out.splitlines() if x.startswith("next: ")]
    words = line.split()[2:]
    assert words[0] == "compare"
    assert main([*words, "--packing", "0"]) == 0


def test_a_device_that_is_too_small_is_the_answer_no() -> None:
    code, out = tune(TRACE, "--policy", "best_fit", "--trials", "3", "--capacity", "100MiB")
    assert code == 1 and "DOES NOT FIT on 100.0 MiB" in out.splitlines()[0]


def test_where_nothing_fits_the_best_wastes_least_all_the_same() -> None:
    """Not what asks the driver for least, which is what fails first."""
    words = [TRACE, OTHER, "--policy", "size_classes", "--trials", "12", "--json"]
    free = json.loads(tune(*words)[1])
    code, out = tune(*words, "--capacity", "20MiB")
    found = json.loads(out)
    assert code == 1 and found["best"]["failures"] == 2
    assert found["best"]["policy"] == free["best"]["policy"] != found["default"]["policy"]
    assert found["best"]["excess"] == free["best"]["above_bound"]
    assert found["best"]["above_bound"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--policy", "pytorch"), "`tightfit tune TRACE` without --policy tunes its settings line"),
        (("--policy", "expandable"), "expandable is PyTorch's own allocator, which declares no"),
        (("--policy", "best_fit_segmented"), "with segment=20MiB and no more; expected best_fit"),
        (("--policy", "best_fit:quantum=4096"), "the parameters 'quantum=4096', expected best_fit"),
        (("--policy", "best_fitt"), "did you mean 'best_fit'"),
        (("--policy", "best_fit", "--without", "expandable_segments"), "--without"),
        (("--policy", "nowhere.py"), "nowhere.py"),
    ],
)
def test_wrong_words_are_answered(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", TRACE, *words]) == 2
    assert said in capsys.readouterr().err
