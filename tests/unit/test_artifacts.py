"""Files that a job keeps."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from runner import artifacts
from runner.artifacts import Artifacts
from runner.launch import Artifact
from tests.unit.parts_node import seen


class Kept:
    """A source, what was kept of it, and what was told."""

    def __init__(self, tmp: Path) -> None:
        self.source, self.folder = tmp / "it's a\nsource", tmp / "run/artifacts"
        self.told: list[str] = []
        self.source.mkdir()

    def keep(self, pattern: str, every: float | None = None, attempt: int = 1) -> Artifacts:
        kept = (Artifact(source=f"{self.source}/{pattern}", every=every),)
        made = Artifacts(kept, self.folder, self.told.append, attempt)
        made.start()
        return made

    def once(self, pattern: str) -> list[str]:
        self.keep(pattern).finish(30)
        return self.names()

    def names(self) -> list[str]:
        below = self.folder / str(self.source).lstrip("/")
        return sorted(str(each.relative_to(below)) for each in below.rglob("*") if each.is_file())

    def write(self, name: str, text: str = "x") -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.json", ["a.json"]),
        ("a.json", ["a.json"]),
        ("sub", ["sub/.hidden", "sub/b.json", "sub/deep/c.txt"]),
        ("*/*.json", ["sub/b.json"]),
        ("**/*.json", ["a.json", "sub/b.json"]),
        ("**", ["a.json", "sub/.hidden", "sub/b.json", "sub/deep/c.txt"]),
    ],
)
def test_what_a_pattern_keeps(kept: Kept, pattern: str, names: list[str]) -> None:
    for name in ("a.json", "sub/b.json", "sub/deep/c.txt", "sub/.hidden"):
        kept.write(name)
    assert kept.once(pattern) == names and not kept.told


def test_links_never_lead_out(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/one").write_text("x")
    kept.write("true")
    for name, target in (
        ("inner", "true"),
        ("outer", "../secret"),
        ("folder", "../secrets"),
        ("gone", "nowhere"),
        ("up", ".."),
    ):
        (kept.source / name).symlink_to(target)
    assert kept.once("*") == ["inner", "true"]
    assert any("outer was not copied: it is a link that leads out of" in line for line in kept.told)
    assert kept.once("**") == kept.once("*/*") == ["inner", "true"]


def test_only_what_changed_is_copied_again(kept: Kept) -> None:
    kept.write("a"), kept.write("b")
    keeping = kept.keep("*", every=0.02)
    seen(lambda: kept.names() == ["a", "b"])
    copy = kept.folder / str(kept.source / "a").lstrip("/")
    first, other = copy.stat().st_ino, copy.with_name("b").stat().st_ino
    kept.write("b", "new")
    seen(lambda: copy.with_name("b").read_text() == "new")
    keeping.finish(30)
    assert copy.stat().st_ino == first and copy.with_name("b").stat().st_ino != other
    assert copy.stat().st_mtime_ns == (kept.source / "a").stat().st_mtime_ns


def test_what_another_attempt_left_stays(kept: Kept) -> None:
    """Its files have the same names; a file that is the very same is there once."""
    old, same = kept.write("old", "1"), kept.write("same", "x")
    kept.write("gone", "of the first alone")
    assert kept.once("*") == ["gone", "old", "same"]
    before = {path.name: path.stat().st_mtime_ns for path in (same,)}
    for path in kept.source.iterdir():
        path.unlink()
    kept.write("same", "x")
    os.utime(same, ns=(0, before["same"]))
    kept.write("old", "22")
    keeping = kept.keep("*", every=0.02, attempt=2)
    below = kept.folder / str(kept.source).lstrip("/")
    seen(lambda: (below / "old").read_text() == "22")
    old.write_text("333")
    keeping.finish(30)
    assert kept.names() == ["gone", "old", "old.before-attempt-2", "same"] and not kept.told
    assert (below / "old").read_text() == "333" and (below / "old.before-attempt-2").read_text() == "1"


def test_what_fails_is_told_once_and_the_rest_is_kept(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.write("bad"), kept.write("good")
    copy = artifacts.shutil.copyfile  # type: ignore[attr-defined]

    def broken(source: Path, target: Path) -> None:
        if source.name == "bad":
            raise OSError(5, "Input/output error")
        copy(source, target)

    monkeypatch.setattr("shutil.copyfile", broken)
    keeping = kept.keep("*", every=0.02)
    seen(lambda: kept.names() == ["good"])
    time.sleep(0.1)
    keeping.finish(30)
    (line,) = kept.told
    assert "bad was not copied: " in line and "Input/output error" in line
    assert kept.names() == ["good"]


def test_a_copy_that_takes_too_long_is_told(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.write("slow")
    go = threading.Event()
    monkeypatch.setattr("shutil.copyfile", lambda *_: go.wait(30))
    keeping = kept.keep("*")
    keeping.finish(0.1)
    go.set()
    assert kept.told[0] == "not all artifacts were copied: the 0.1 s for it are over"


def test_a_pipe_is_no_artifact(kept: Kept) -> None:
    kept.write("true")
    os.mkfifo(kept.source / "pipe")
    assert kept.once("*") == ["true"]


def test_without_artifacts_there_is_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    none = Artifacts((), tmp_path, pytest.fail)
    none.start()
    assert threading.active_count() == before
    none.finish(0)
