"""Which tests docs/coverage.md cites, and which of them ran.

A citation is `unit/test_x.py::test_y` or `live/test_x.py::test_y`, in backquotes; it means all values of a
test's parameters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs/coverage.md"
CITATION = re.compile(r"`((?:unit|live)/test_\w+\.py::test_\w+)`")
_ends: dict[str, set[str]] = {}
"""How the tests of this session ended: "passed", "failed", "skipped"."""


def cited(text: str) -> list[str]:
    """Each test that a text cites, once, in its order."""
    return list(dict.fromkeys(CITATION.findall(text)))


def name(nodeid: str) -> str:
    """What a citation calls the test with this id of pytest's."""
    return nodeid.removeprefix("tests/").partition("[")[0]


def idle(session: pytest.Session, names: Iterable[str]) -> list[str]:
    """Those of the names that this session has and that did not run until now: as a whole or, where nothing
    may skip (CI), in some of their forms. Of a session that is all of the tests: those that it lacks, too."""
    has = {name(item.nodeid) for item in session.items}
    skipped = {"skipped"} if os.environ.get("CI") == "true" else set()
    return [
        each for each in names
        if (each in has or whole(session.config)) and (not _ends.get(each) or _ends[each] & skipped)
    ]  # fmt: skip


def whole(config: pytest.Config) -> bool:
    """Whether no test was left out on purpose."""
    narrowed = [config.option.keyword, config.option.markexpr, config.option.deselect, config.option.ignore]
    lately = [config.getoption(each, None) for each in ("lf", "stepwise", "ignore_glob")]
    return config.args_source is config.ArgsSource.TESTPATHS and not any([*narrowed, *lately])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _ends.setdefault(name(report.nodeid), set()).add(report.outcome)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A session that leaves a cited test out fails like one with a failed test, and says which."""
    ended_early = exitstatus > pytest.ExitCode.TESTS_FAILED or session.shouldfail or session.shouldstop
    if ended_early or session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return  # the last is one process of a session that has several
    if left := idle(session, cited(PAGE.read_text())):
        where = str(PAGE.relative_to(PAGE.parents[1]))
        session.config.hook.pytest_runtest_logreport(report=pytest.TestReport(
            nodeid=where, location=(where, None, "every cited test runs"), keywords={}, outcome="failed",
            when="call", longrepr="cited, and did not run: " + ", ".join(left),
        ))  # fmt: skip
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
