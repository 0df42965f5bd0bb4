"""The program that byte-compiles: how it shares out its work."""

from __future__ import annotations

from pathlib import Path

import pytest

from containers import compile_tree


def test_no_more_processes_than_asked_even_after_one_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(stage: Path, at: Path, names: list[str]) -> None:
        raise RuntimeError("no room")

    most = 0
    reap = compile_tree.reap

    def counted(running: set[int]) -> int:
        nonlocal most
        most = max(most, len(running))
        return reap(running)

    monkeypatch.setattr(compile_tree, "compile_slice", fails)
    monkeypatch.setattr(compile_tree, "reap", counted)
    assert compile_tree.run(Path(), Path(), [["x"]] * 8, 2) == 1
    assert most == 2
