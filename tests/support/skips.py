"""A pytest plugin that fails a run in CI when a test is skipped that `tests/allowed_skips.txt` does not name."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

ALLOWED = Path(__file__).parents[1] / "allowed_skips.txt"


def allowed(path: Path = ALLOWED) -> set[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line}


def unexpected(skipped: Iterable[str], permitted: set[str]) -> list[str]:
    """Return the skipped node ids that are not permitted; a permission for `file::test` covers its parameters."""
    return sorted({node for node in skipped if node not in permitted and node.split("[")[0] not in permitted})


class SkipRule:
    """A plugin that collects skipped tests, so that a missing dependency does not make a run look complete."""

    def __init__(self, permitted: set[str]) -> None:
        self._permitted = permitted
        self._skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._skipped.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._skipped.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if unexpected(self._skipped, self._permitted):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for node in unexpected(self._skipped, self._permitted):
            terminalreporter.write_line(f"SKIPPED without leave (tests/allowed_skips.txt): {node}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(SkipRule(allowed()), "skip-rule")
