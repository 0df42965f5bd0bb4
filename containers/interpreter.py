"""A native Python taken from unpacked files: run by its own loader, without chroot and without root.

What it compiles fits every platform with the same minor version: byte code knows no machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from kit.errors import BuildError
from kit.nouns import Platform

# A fixed seed: the order of sets of constants is marshalled as hashing has it.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
COMPILE = Path(__file__).with_name("compile_tree.py")


class Interpreter(Struct, frozen=True, kw_only=True):
    """root: where the files of a root file system for this machine, or of a part of one, lie.
    program: as the root knows it ("/usr/bin/python3.13")."""

    root: Path
    program: str

    def argv(self, *words: str | Path) -> list[str | Path]:
        """The command that runs it, isolated from this machine's and this user's Python."""
        prefix = str(Path(self.program).parents[1])
        folders = library_folders(Platform.host(), prefix)
        there = [folder for each in folders if (folder := self.root / each.lstrip("/")).is_dir()]
        loader = next((found for each in there for found in sorted(each.glob("ld-linux*"))), None)
        program = self.root / self.program.lstrip("/")
        if loader is None or not program.exists():
            raise BuildError(f"no Python to run below {self.root}: expected {self.program} and its loader")
        search = ":".join(map(str, there))
        return [loader, "--library-path", search, program, "-B", "-P", "-s", "-S", *words]

    def compiling(self, stage: Path, folders: Iterable[str], at: Path, *, jobs: int) -> Sequence[str | Path]:
        """The command that byte-compiles folders, relative to `stage`, which stands for `at` in the image."""
        return self.argv(COMPILE, str(jobs), stage, at, *folders)


def library_folders(platform: Platform, prefix: str = "/usr") -> list[str]:
    """Where libraries are kept, in a root that a distribution's packages were unpacked to, or a base was."""
    triplet = f"{platform.machine}-linux-gnu"
    tops = dict.fromkeys((prefix, "/usr", ""))
    return [f"{top}/lib{tail}" for top in tops for tail in (f"/{triplet}", "64", "")]
