"""No file asks the C and C++ libraries of the image for versions of symbols that they do not have."""

from __future__ import annotations

import functools
import re

from containers.checks.distributions import STACK
from containers.findings import Check, Expected, Finding, some
from containers.image_tree import ImageTree, Loader

NAME = "symbols"
_FAMILIES = re.compile(r"(GLIBC|GLIBCXX|CXXABI|GCC)_[0-9.]+")
_DOTTED = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result, loader = Check(NAME, expected), Loader(tree, expected.platform)
    asked = 0
    newest: dict[str, str] = {}

    @functools.cache
    def defined(library: str) -> frozenset[str]:
        claims = tree.elf(library)
        return frozenset(claims.defined) if claims else frozenset()

    for path, claims in tree.programs():
        if claims.machine != expected.platform.machine:
            continue
        for name, versions in claims.versions.items():
            there = loader.find(path, claims, name) or loader.loaded_before(path, claims, name)
            if there is None or not defined(there):
                continue  # a missing library is told by another check
            asked += 1
            wanted = [version for version in versions if _FAMILIES.fullmatch(version)]
            if lacking := [version for version in wanted if version not in defined(there)]:
                has = _newest(defined(there), lacking[0].partition("_")[0])
                result.wrong("symbols", f"needs {some(lacking)}", f"{there} has {has} at most", path, name)
            elif name == "libc.so.6" and path.startswith(f"{STACK}/"):
                newest[path] = _newest(frozenset(wanted), "GLIBC")
    return result.tally("symbol versions", _summary(tree, loader, asked, newest))


def _summary(tree: ImageTree, loader: Loader, asked: int, newest: dict[str, str]) -> str:
    libc = next((p for d in loader.defaults if (p := tree.real(f"{d}/libc.so.6"))), None)
    has = _newest(frozenset(claims.defined), "GLIBC") if libc and (claims := tree.elf(libc)) else "no glibc"
    most = max(newest.values(), key=_numbers, default="nothing")
    return (
        f"{asked} files and libraries agree; the newest that the stack asks for is {most}, the base has {has}"
    )


def _newest(versions: frozenset[str], family: str) -> str:
    return max((each for each in versions if each.partition("_")[0] == family and _numbers(each)),
               key=_numbers, default=f"no {family}")  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    text = version.partition("_")[2]
    return tuple(map(int, text.split("."))) if _DOTTED.fullmatch(text) else ()
