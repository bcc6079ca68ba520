"""A pytest plugin that ends a run with the figures that passing tests recorded.

A test calls `record_property("figures", text)`; xdist carries it to the process that prints.
"""

import pytest

PROPERTY = "figures"


class Figures:
    """Collects the figures by test; registered in the process that prints."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a test that passed has recorded: a failure says its own."""
        if report.when == "call" and report.passed:
            recorded = [str(text) for name, text in report.user_properties if name == PROPERTY]
            if recorded:
                self._texts[report.nodeid] = "\n".join(recorded)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print them below the test's name."""
        if not self._texts:
            return
        terminalreporter.section("figures")
        for nodeid, text in self._texts.items():
            terminalreporter.write_line(f"{nodeid}\n{text}")


def pytest_configure(config: pytest.Config) -> None:
    """Register the collector, but not in xdist's workers: they print nothing."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Figures(), "figures")
