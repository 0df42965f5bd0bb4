"""No ELF file asks for an executable stack: glibc 2.41 and newer refuse to load such libraries."""

from __future__ import annotations

from containers.findings import Check, Expected, Finding
from containers.image_tree import ImageTree

NAME = "stacks"


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result, count = Check(NAME, expected), 0
    for path, claims in tree.programs():
        count += 1
        if claims.executable_stack and claims.machine == expected.platform.machine:
            result.wrong("ELF file", "asks for an executable stack", "none", path)
    return result.tally("ELF files", f"{count} without an executable stack")
