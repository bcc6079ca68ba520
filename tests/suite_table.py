"""A pytest plugin that ends a run with a table of its suites: what passed, and the seconds it took.

Under xdist the seconds are those of all workers together, so they add up to more than the run's.
"""

from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pytest

# Folders under tests that make a suite; a folder in OPENED makes one of each folder inside it.
DEPTH = 2
OPENED = frozenset({"generator/backend"})
# A test has three reports; the worst of their outcomes counts.
OUTCOMES = ("passed", "skipped", "failed")


@dataclass(slots=True)
class Suite:
    """The outcome of each test of a suite, and the seconds of setups, calls and teardowns."""

    seconds: float = 0.0
    outcomes: dict[str, str] = field(default_factory=dict)

    def add(self, report: pytest.TestReport) -> None:
        """Count a setup, a call or a teardown."""
        self.seconds += report.duration
        before = self.outcomes.get(report.nodeid, OUTCOMES[0])
        self.outcomes[report.nodeid] = max(before, report.outcome, key=OUTCOMES.index)

    def row(self, name: str) -> str:
        """Return the suite's line of the table."""
        counts = [list(self.outcomes.values()).count(outcome) for outcome in OUTCOMES]
        numbers = "".join(f"{count:9}" for count in (len(self.outcomes), *counts))
        return f"{name:32}{numbers}{self.seconds:10.1f}"


def suite_of(nodeid: str) -> str:
    """Return a test's suite, for example `generator/engine`."""
    folders = PurePosixPath(nodeid.partition("::")[0]).parent.parts[1:]
    is_opened = "/".join(folders[:DEPTH]) in OPENED
    return "/".join(folders[: DEPTH + is_opened]) or "."


class SuiteTable:
    """Sorts the reports by suite; registered in the process that prints."""

    def __init__(self) -> None:
        self._suites: dict[str, Suite] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a report, of this process or of one of xdist's workers."""
        self._suites.setdefault(suite_of(report.nodeid), Suite()).add(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the suites, the longest first."""
        if not self._suites:
            return
        terminalreporter.section("seconds per suite")
        heads = "".join(f"{head:>9}" for head in ("tests", *OUTCOMES))
        terminalreporter.write_line(f"{'suite':32}{heads}{'seconds':>10}")
        whole = Suite()
        for name, suite in sorted(self._suites.items(), key=lambda item: -item[1].seconds):
            terminalreporter.write_line(suite.row(name))
            whole.seconds += suite.seconds
            whole.outcomes |= suite.outcomes
        terminalreporter.write_line(whole.row("all"))


def pytest_configure(config: pytest.Config) -> None:
    """Register the table, but not in xdist's workers: they print nothing."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SuiteTable(), "suite-table")
