"""Fixtures that every test may use."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

# Compiled kernels leave millions of objects that stay: to look through them again and again for
# garbage took a tenth of the time.
gc.set_threshold(50_000, 10, 20)

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recordings beside the repository, which are not ours to pass on.

    A test that needs it is skipped, with the reason printed, where the folder is absent.
    """
    if not SHARED.is_dir():
        pytest.skip("the folder of recordings '../shared' is not beside this repository")
    return SHARED.resolve()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print why tests were skipped even without `-rs`: a skipped check must not look passed."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped {count}: {reason}")
