"""Say which tests were skipped and why; a reason that is not on the committed list fails the run.

A skipped test is a claim that nobody checked. The list keeps that visible: tests/allowed_skips.txt, one pattern a line.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")


def allowed_patterns() -> list[re.Pattern[str]]:
    lines = ALLOWED.read_text(encoding="utf-8").splitlines()
    return [re.compile(line) for line in lines if line and not line.startswith("#")]


def reason_of(report: Any) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def folder_seconds(stats: dict[str, list[Any]]) -> Counter[str]:
    """Seconds of each folder of tests, set-up and teardown included, added up over all processes."""
    seconds: Counter[str] = Counter()
    for report in (report for reports in stats.values() for report in reports):
        if hasattr(report, "duration") and hasattr(report, "nodeid"):
            seconds["/".join(report.nodeid.split("::")[0].split("/")[:2])] += report.duration
    return seconds


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    seconds = folder_seconds(terminalreporter.stats)
    if len(seconds) > 1:
        terminalreporter.section("seconds, by folder")
        for folder, spent in seconds.most_common():
            terminalreporter.write_line(f"{spent:7.1f}  {folder}")
    skipped = Counter(reason_of(report) for report in terminalreporter.stats.get("skipped", []))
    if not skipped:
        return
    patterns = allowed_patterns()
    terminalreporter.section("skipped, by reason")
    for reason, count in skipped.most_common():
        known = any(pattern.search(reason) for pattern in patterns)
        terminalreporter.write_line(f"{count:5d}  {reason}{'' if known else '   <- not in tests/allowed_skips.txt'}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    patterns = allowed_patterns()
    reasons = {reason_of(report) for report in reporter.stats.get("skipped", [])}
    if any(not any(pattern.search(reason) for pattern in patterns) for reason in reasons) and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
