"""Files of node 0's container that the job keeps: copied to the run folder now and then, and at the end.

A file keeps its whole path below the folder `artifacts`. What cannot be copied is told, and ends nothing.
Where a second attempt has another file of the same path, the first one's stays as NAME.before-attempt-2.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kit import files
from kit.errors import SlipworksError
from runner.launch import Artifact

MAGIC = frozenset("*?[")


class Artifacts:
    """Copies from a thread of its own, from `start` to `finish`; without artifacts there is no thread."""

    def __init__(
        self, artifacts: tuple[Artifact, ...], folder: Path, tell: Callable[[str], None], attempt: int = 1
    ) -> None:
        self.artifacts, self.folder, self.tell, self.attempt = artifacts, folder, tell, attempt
        self._copied: dict[str, tuple[int, int, int]] = {}
        self._told: set[str] = set()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self.artifacts:
            self._thread = threading.Thread(target=self._work, name="artifacts", daemon=True)
            self._thread.start()

    def finish(self, within: float) -> None:
        """A last copy of everything, for which there are `within` seconds. Does nothing a second time."""
        if self._thread is None:
            return
        self._done.set()
        self._thread.join(within)
        if self._thread.is_alive():
            self.tell(f"not all artifacts were copied: the {within:g} s for it are over")
        self._thread = None

    def _work(self) -> None:
        now = time.monotonic()
        due = {each: now + each.every for each in self.artifacts if each.every}
        while not self._done.wait(min(due.values()) - time.monotonic() if due else None):
            for each in [each for each, at in due.items() if at <= time.monotonic()]:
                self._copy_all(each)
                due[each] = time.monotonic() + (each.every or 0.0)
        for each in self.artifacts:
            if not self._copy_all(each):
                self._once(f"no file matches the artifact {each.source}")

    def _copy_all(self, artifact: Artifact) -> int:
        """Copies what has changed; returns how many files match."""
        found = 0
        for path in _matching(artifact.source, self._once):
            found += 1
            try:
                self._copy(path)
            except (OSError, shutil.Error, SlipworksError) as bad:
                self._once(f"the artifact {path} was not copied: {bad}")
        return found

    def _copy(self, path: Path) -> None:
        state = path.stat()
        mark = (state.st_size, state.st_mtime_ns, state.st_ino)
        if self._copied.get(str(path)) == mark:
            return
        target = self.folder / str(path).lstrip("/")
        if str(path) not in self._copied and target.exists():
            there = target.stat()
            if (there.st_size, there.st_mtime_ns) == mark[:2]:
                self._copied[str(path)] = mark
                return
            _stay(target, target.with_name(f"{target.name}.before-attempt-{self.attempt}"))
        with files.beside(target) as temporary:
            shutil.copyfile(path, temporary)
            os.utime(temporary, ns=(state.st_atime_ns, state.st_mtime_ns))
            files.settle(temporary, target)
        self._copied[str(path)] = mark

    def _once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self.tell(message)


def _matching(source: str, tell: Callable[[str], None]) -> Iterator[Path]:
    """The regular files that match, and those below folders that do, in order.

    Folders are never entered by a link. A link to a file that lies outside of the folder which `source` names
    before its first `*` is told and left out.
    """
    start, pattern = _split(source)
    inside = start.resolve()
    for path in sorted(set(start.glob(pattern))):
        if any(folder.is_symlink() for folder in path.parents if start in folder.parents):
            continue
        if path.is_dir() and ("**" in source or path.is_symlink()):
            continue
        for each in _below(path) if path.is_dir() else (path,):
            if inside not in each.resolve().parents:
                tell(f"the artifact {each} was not copied: it is a link that leads out of {inside}")
            elif _is_file(each):
                yield each


def _stay(path: Path, name: Path) -> None:
    """Gives a file, before it is replaced, another name too; where that cannot be, in place of its own."""
    try:
        name.hardlink_to(path)
    except FileExistsError:  # a copy that failed has done so
        return
    except OSError:  # a folder, or a file system without links
        path.rename(name)


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISREG(path.stat().st_mode)
    return False


def _split(source: str) -> tuple[Path, str]:
    """The folder that a pattern names before its first `*`, and the rest of it."""
    parts = Path(source).parts
    first = next((place for place, part in enumerate(parts) if MAGIC & set(part)), len(parts) - 1)
    rest = [*parts[first:], "*"] if parts[-1] == "**" else parts[first:]
    return Path(*parts[:first]), "/".join(rest)
