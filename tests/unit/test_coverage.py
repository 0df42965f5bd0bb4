"""docs/coverage.md: every row says how it is covered, and what it points to is there and ran."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import cited
from tests.cited import PAGE

ROOT = PAGE.parents[1]
TEXT = PAGE.read_text()
OPEN = "**not yet**"
PATHS = re.compile(r"`((?:runner|slurm|definitions|containers|image_cache|kit|examples|docs)/[^`\s*…]+)`")


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, heads left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[each.strip() for each in line.strip("|").split(" | ")] for line in lines]
    return [each for each in cells if each[0] != "what"]


def unfounded(text: str) -> list[str]:
    """The rows that name no test and do not say that there is none."""
    return [row[0] for row in rows(text) if len(row) != 3 or not (cited.cited(row[2]) or OPEN in row[2])]


def missing(text: str) -> list[str]:
    """Cited tests that pytest would not collect."""
    found = []
    for each in cited.cited(text):
        file, _, test = each.partition("::")
        path = ROOT / "tests" / file
        tree = ast.parse(path.read_text()) if path.exists() else ast.parse("")
        if test not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            found.append(each)
    return found


def test_every_row_names_a_test_or_says_that_there_is_none() -> None:
    assert unfounded(TEXT) == []
    assert len(rows(TEXT)) > 100


def test_a_row_without_either_is_found() -> None:
    text = "| what | how | test |\n|---|---|---|\n| a | b | c |\n| d | e | **not yet** |\n| f | g |\n"
    assert unfounded(text + "| h | i | `unit/test_x.py::test_y` |\n") == ["a", "f"]


def test_every_cited_test_is_one() -> None:
    assert missing(TEXT) == []


def test_a_test_that_is_not_there_is_found() -> None:
    here = "unit/test_coverage.py"
    text = f"`{here}::test_every_cited_test_is_one` `{here}::test_none` `live/test_none.py::test_none`"
    assert missing(text) == [f"{here}::test_none", "live/test_none.py::test_none"]


def test_every_file_that_it_names_is_there() -> None:
    named = PATHS.findall(TEXT)
    assert len(named) > 20
    assert [each for each in named if not (ROOT / each).exists()] == []


def session(*names: str, whole: bool) -> Any:
    source = pytest.Config.ArgsSource
    option = SimpleNamespace(keyword="", markexpr="", deselect=None, ignore=None)
    config = SimpleNamespace(
        ArgsSource=source, args_source=source.TESTPATHS if whole else source.ARGS, option=option,
        getoption=lambda name, default: default,
    )  # fmt: skip
    return SimpleNamespace(items=[SimpleNamespace(nodeid=f"tests/{each}") for each in names], config=config)


def test_what_did_not_run_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"unit/a.py::test_ran": {"passed"}, "live/b.py::test_skipped": {"skipped", "passed"}}
    monkeypatch.setattr(cited, "_ends", ends)
    names = [*ends, "live/b.py::test_idle", "live/b.py::test_left_out"]
    some = session(*(f"{each}[x]" for each in names[:3]), whole=False)
    monkeypatch.setenv("CI", "true")
    assert cited.idle(some, names) == names[1:3]
    assert cited.idle(session(*names[:3], whole=True), names) == names[1:]
    monkeypatch.delenv("CI")
    assert cited.idle(some, names) == names[2:3]


LACKS = "1 failed, 1 passed"


@pytest.mark.parametrize(("options", "told"), [([], LACKS), (["-n1"], LACKS), (["-k", "none"], "1 passed")])
def test_a_session_of_all_that_leaves_one_out_fails(options: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_none.py").write_text("def test_none():\n    pass\n")
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["tests"]\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.cited", *options], cwd=tmp_path, text=True, check=False,
        capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert told in done.stdout.splitlines()[-1], done.stdout + done.stderr
    assert done.returncode == (1 if "failed" in told else 0)
    assert (f"cited, and did not run: {cited.cited(TEXT)[0]}" in done.stdout) == ("failed" in told)
