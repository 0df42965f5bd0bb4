"""The namespaces of a sandbox of apptainer, entered from outside by who made them: util-linux' nsenter."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from kit import process
from runner.sandboxes.written import counting, nameless

LONGEST = 300.0  # seconds in which what a sandbox wrote is removed
ENTER = r"""
_pid=$1 _term=$TERM; shift
eval "$(tr '\n\0' '\1\n' </proc/$_pid/environ |
    sed -n "s/'/'\\\\''/g; s/^\([A-Za-z_][A-Za-z0-9_]*\)=\(.*\)$/export \1='\2'/p" | tr '\1' '\n')"
[ -z "$_term" ] || export TERM="$_term"
cd "$PWD" && exec "$@"
"""
"""Becomes a command as the sandbox's own would be: with its variables and its folder. They are read inside,
for what a sandbox says of itself must not reach a program of the host."""


class Namespace:
    """The user namespace of a sandbox, which stays until `close`, also after the sandbox. All that it wrote
    is its own there, of whatever user."""

    def __init__(self, pid: int) -> None:
        self._held = -1
        with contextlib.suppress(OSError):  # it has ended just now
            self._held = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)

    @staticmethod
    def command(first: int, inner: int, argv: Sequence[str], term: str) -> list[str]:
        """Runs a command in the sandbox whose first process is `first`; nothing of our environment gets there
        but the terminal's kind. The image needs a shell, tr and sed."""
        return [
            "env", "-i", f"TERM={term}", str(_nsenter()), f"--target={first}", "--user",
            "--preserve-credentials", "--mount", "--pid", "--ipc", "--uts",
            "--", "/bin/sh", "-c", ENTER, "sh", str(inner), *argv,
        ]  # fmt: skip

    def written(self, folder: Path, servers: Iterable[int]) -> int | None:
        """Bytes on disk below a folder, and of files that have no name any more; None: not known now.
        TimeoutError where they are too many to count."""
        argv = ["du", "--summarize", "--block-size=1", "--one-file-system", "--", str(folder)]
        done = counting(self._inside(argv), keep=self._kept)
        number = done.out.split("\t")[0]
        return int(number) + nameless(servers) if number.isdecimal() else None

    def remove(self, paths: Iterable[Path]) -> None:
        argv = ["rm", "-rf", "--one-file-system", "--", *map(str, paths)]
        inside, keep = self._inside(argv), self._kept
        process.run(inside, what="remove what a sandbox wrote", check=False, timeout=LONGEST, keep=keep)

    def close(self) -> None:
        """Idempotent."""
        held, self._held = self._held, -1
        if held >= 0:
            os.close(held)

    @property
    def _kept(self) -> list[int]:
        return [self._held] if self._held >= 0 else []

    def _inside(self, argv: Sequence[str]) -> list[str]:
        """Within the namespace. By a descriptor of the command's own: a server lets no other process of its
        user look at its descriptors (PR_SET_DUMPABLE)."""
        if self._held < 0:
            return list(argv)
        return [str(_nsenter()), f"--user=/proc/self/fd/{self._held}", "--preserve-credentials", "--", *argv]


def _nsenter() -> Path:
    return process.find("nsenter", "apt-get install util-linux")
