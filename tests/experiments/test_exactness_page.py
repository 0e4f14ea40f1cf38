"""The ledger of what was proven, and the page and the README's line written from it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tightfit.experiments import cli
from tightfit.experiments.oracle import defects, ledger, page
from tightfit.experiments.oracle.fuzz import Difference, Proof
from tightfit.traces.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def proof(torch: str, seed: int, programs: int, events: int, *differences: str) -> Proof:
    return Proof(
        torch,
        seed,
        programs,
        events,
        events // 3,
        7,
        [Difference(name, ["x"], "{}") for name in differences],
        Counter({defects.POOL_COUNT: 2}),
        1.5,
    )


@pytest.mark.parametrize("line", [b"[" * 100_000, b"\xff\xfe\x00", b"{}", b"5"])
def test_what_is_no_ledger_is_refused(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(line)
    with pytest.raises(ConfigError, match="line 1: found .*expected an entry of the ledger"):
        ledger.read(path)


def test_an_entry_of_another_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, proof("2.15.0", 5, 10, 300))
    text = path.read_text()
    for old, new in (('"seed": 5', '"seed": "5"'), ('"torch": "2.15.0"', '"torch": 2.15'),
                     ('"excluded": {', '"excluded": {"x": [], ')):  # fmt: skip
        assert old in text
        path.write_text(text + text.replace(old, new))
        with pytest.raises(ConfigError, match=f"line 2: .* of the ledger .{old[1:5]}.*: found "):
            ledger.read(path)


def test_a_ledger_goes_on_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "fuzz.jsonl"
    assert ledger.read(path) == []
    for p in (proof("2.15.0", 5, 10, 300), proof("2.9.1", 0, 4, 90), proof("2.15.0", 15, 2, 30)):
        ledger.append(path, p)
    ledger.append(path, Proof("2.11.0", 0))  # nothing was compared
    entries = ledger.read(path)
    assert [e.torch for e in entries] == ["2.15.0", "2.9.1", "2.15.0"]
    assert [ledger.next_seed(entries, t) for t in ("2.15.0", "2.9.1", "2.11.0")] == [17, 4, 0]
    total = ledger.totals(entries)["2.15.0"]
    assert (total.seed, total.programs, total.events) == (5, 12, 330)
    assert total.excluded == {defects.POOL_COUNT: 4}


def test_a_ledger_s_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fuzz.jsonl"
    ledger.append(path, proof("2.15.0", 0, 1, 1))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"torch": 3}\n')
    with pytest.raises(ConfigError, match="fuzz.jsonl: line 2: found"):
        ledger.read(path)
    assert cli.main(["prove", "--events", "1", "--log", str(path)]) == 2


def test_the_page_tells_differences_and_exclusions(tmp_path: Path) -> None:
    ledger.append(tmp_path / "fuzz.jsonl", proof("2.15.0", 0, 10, 3000, "one", "two"))
    ledger.append(tmp_path / "fuzz.jsonl", proof("2.9.1", 0, 10, 1000))
    fault = {"name": "no merge", "caught": False, "torch": "", "seconds": 9.0, "events": 5}
    (tmp_path / "faults.json").write_text(json.dumps([fault]))
    text = page.page(tmp_path)
    assert "**2 differences in 4,000 events** of 20 random programs on 2 releases" in text
    assert text.index("| 2.9.1 |") < text.index("| 2.15.0 |")
    assert f"| {defects.POOL_COUNT} | 2.9.1 (2), 2.15.0 (2) |" in text
    assert "| no merge | **no** |" in text
    assert set(page.WHY) == {
        value for name, value in vars(defects).items() if name.isupper() and type(value) is str
    }


def test_the_page_and_the_readme_are_what_the_records_say() -> None:
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    rewrite = "rewrite: python -m tightfit.experiments.oracle.page docs README.md"
    written = (ROOT / "docs" / "exactness.md").read_text(encoding="utf-8")
    assert page.page(ROOT / "docs" / "exactness") == written, rewrite
    assert page.readme(front, ROOT / "docs" / "exactness") == front, rewrite


def test_nothing_that_was_recorded_differs() -> None:
    entries = ledger.read(ROOT / "docs" / "exactness" / "fuzz.jsonl")
    assert entries
    assert all(e.differences == 0 for e in entries)
