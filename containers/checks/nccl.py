"""NCCL is the one that the lock pins: by its package, and by what the library itself says."""

from __future__ import annotations

import re

from containers.checks import distributions
from containers.findings import Check, Expected, Finding
from containers.image_tree import ImageTree

NAME = "nccl"
_PACKAGE = re.compile(r"nvidia-nccl-cu\d+")
_LIBRARY = re.compile(r".*/libnccl\.so[.0-9]*")


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result = Check(NAME, expected)
    if cuda := result.cuda("NCCL"):
        _pinned(tree, expected, cuda, result)
    return result.findings


def _pinned(tree: ImageTree, expected: Expected, cuda: str, result: Check) -> None:
    lock = distributions.locked(tree) or {}
    pin = next((version for name, version in lock.items() if _PACKAGE.fullmatch(name)), None)
    if pin is None:
        result.wrong("NCCL", "no nvidia-nccl-cu… in the lock", "a pinned version", distributions.LOCK)
        return
    for one in distributions.installed(tree, expected):
        if _PACKAGE.fullmatch(one.name) and one.version != pin:
            result.wrong("NCCL", f"package {one.version}", f"version {pin}, as locked", one.folder)
    copies = [path for path in sorted(tree.facts) if _LIBRARY.fullmatch(path) and tree.facts[path].elf]
    if not copies:
        result.wrong("NCCL", "no libnccl.so", f"version {pin}, as locked", distributions.site(expected))
    major = cuda.partition(".")[0]
    for path in copies:
        says = tree.facts[path].says
        if not any(_is(each, pin, major) for each in says):
            found = " and ".join(says) or "no version in its text"
            result.wrong("NCCL", found, f"{pin} for CUDA {major}, as locked", path)
        else:
            result.ok("NCCL", f"{' and '.join(says)} as locked ({pin})", path)


def _is(says: str, pin: str, major: str) -> bool:
    version, _, cuda = says.partition("+cuda")
    return pin in (version, f"{version}.0") and cuda.partition(".")[0] == major
