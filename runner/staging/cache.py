"""Where things lie: HF_HOME as the hub's own library has it, and what this kit keeps in it of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct

from kit.errors import InvalidFileError
from runner.job import Mount
from runner.staging.asked import Item
from runner.submission import SCRATCH

VARIABLE = "HF_HOME"
OWN = "slipworks"
"""The folder in HF_HOME with records, claims and extracted tasks."""
COMMIT = re.compile(r"[0-9a-f]{40}")


class Home(Struct, frozen=True):
    """HF_HOME: its path here, on the login node, and inside, on the nodes."""

    here: Path
    inside: str


def home(env: Mapping[str, str], mounts: Sequence[Mount], scratch: Path) -> Home:
    """Of a job: what its variables say, else a folder of the caches that outlive jobs. Pure.

    InvalidFileError where the job's HF_HOME is no folder of this machine. `scratch`: as of Places.
    """
    said = env.get(VARIABLE)
    if said is None:
        return Home(scratch / "huggingface", f"{SCRATCH}/huggingface")
    inside = PurePosixPath(said)
    known = [*((PurePosixPath(each.target), Path(each.source), each.read_only) for each in mounts),
             (PurePosixPath(SCRATCH), scratch, False)]  # fmt: skip
    for target, source, read_only in sorted(known, key=lambda each: len(each[0].parts), reverse=True):
        if inside.is_relative_to(target):
            if read_only:
                raise InvalidFileError(f"{VARIABLE} of the job is {said}, which its binds make read-only")
            return Home(source / inside.relative_to(target), said)
    raise InvalidFileError(
        f"{VARIABLE} of the job is {said}, which none of its binds leads to, so nothing can be staged there",
        f"binds: [/a/shared/folder:{said}], or leave {VARIABLE} out",
    )


class Place(Struct, frozen=True):
    """Where one item lies in HF_HOME; all but `home` relative to it."""

    home: Path
    item: Item

    @property
    def repository(self) -> str:
        """The hub's library has the name of this folder."""
        return "--".join([f"{self.item.kind}s", *self.item.id.split("/")])

    @property
    def blobs(self) -> Path:
        return self.home / "hub" / self.repository / "blobs"

    @property
    def ref(self) -> str | None:
        """The file with the commit of a revision that is none."""
        revision = self.item.revision
        return None if COMMIT.fullmatch(revision) else f"hub/{self.repository}/refs/{revision}"

    @property
    def claim(self) -> Path:
        return self.home / OWN / self.repository / "claim"

    def snapshot(self, commit: str) -> str:
        return f"hub/{self.repository}/snapshots/{commit}"

    def record(self, commit: str) -> str:
        return f"{OWN}/{self.repository}/{self._part(commit)}.json"

    def tasks(self, commit: str) -> str:
        return f"{OWN}/{self.repository}/{self._part(commit)}.tasks"

    def _part(self, commit: str) -> str:
        """A commit, and of it what the patterns take."""
        if not self.item.patterns:
            return commit
        said = "\0".join(sorted(set(self.item.patterns)))
        return f"{commit}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"

    def known_commit(self) -> str | None:
        """The commit, as far as it is known without the hub."""
        if self.ref is None:
            return self.item.revision
        try:
            return (self.home / self.ref).read_text().strip() or None
        except OSError:
            return None
