"""A sandbox's own folder, as apptainer needs it; what is left of it in the end is the log."""

from __future__ import annotations

import shutil
from pathlib import Path

from kit.errors import HostError
from runner.sandboxes import apptainer_words, foreign_files
from runner.sandboxes.apptainer_inside import Namespace
from runner.sandboxes.apptainer_words import LOG
from runner.sandboxes.nouns import Start

TAIL = 65536  # bytes of a log's end


def prepare(start: Start) -> None:
    """All that apptainer reads or binds. Idempotent."""
    folder = Path(start.folder)
    text = apptainer_words.env_text(start)
    for each in ("upper", "work"):
        (folder / apptainer_words.overlay(start.state, start.id) / each).mkdir(parents=True, exist_ok=True)
    for each in (apptainer_words.SHM, apptainer_words.WORKDIR):
        (folder / each).mkdir(exist_ok=True)
    (folder / apptainer_words.SHM).chmod(0o1777)
    for name, content in ((apptainer_words.ENV, text), (apptainer_words.PROFILE, apptainer_words.profile())):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(content)


def remove(folder: Path, namespace: Namespace | None) -> None:
    """All but the log. What the sandbox wrote may be of users that only its namespace knows."""
    rest = [each for each in folder.iterdir() if each.name != LOG] if folder.is_dir() else []
    for each in rest:
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)
    left = [each for each in rest if each.exists()]
    if left and namespace:
        namespace.remove(left)
    if left := [each for each in left if not foreign_files.removed(each)]:
        raise HostError(f"could not remove {left[0]}: files of subordinate users are there",
                        f"podman unshare rm -rf {left[0]}")  # fmt: skip


def said(folder: Path) -> str:
    """The end of the log; empty where there is none."""
    path = folder / apptainer_words.LOG
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
