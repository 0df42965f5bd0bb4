"""Paths of another root: a host's files, seen from a container in which they lie below a folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from kit.errors import HostError

LONGEST = 40  # links in one path, as the kernel has it


def real(root: Path, path: str) -> str:
    """The path without links, as processes whose root folder is `root` would find it. It need not exist.

    Links are followed as that root has them: an absolute one begins at `root`. HostError for circles.
    """
    todo, done, links = list(reversed(PurePosixPath("/", path).parts[1:])), PurePosixPath("/"), 0
    while todo:
        part = todo.pop()
        if part == "..":
            done = done.parent
            continue
        here = root / (done / part).relative_to("/")
        if not here.is_symlink():
            done /= part
            continue
        links += 1
        if links > LONGEST:
            raise HostError(f"{path} is a link that leads in circles")
        target = PurePosixPath(here.readlink())
        done = PurePosixPath("/") if target.is_absolute() else done
        todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    return str(done)


def below(root: Path, path: str) -> Path:
    """Where a path of that root is, from here."""
    return root / real(root, path).lstrip("/") if root != Path("/") else Path(path)
