"""Every library that an ELF file needs is in the image, or is one that the host's driver supplies.

Libraries of the stack may need what is loaded before them (torch, before its extensions): such a one must be
somewhere in the same tree, and how many there are is told. Elsewhere it must be in the same folder: one of
its own, that its programs name in their runpath (systemd's). A program has nobody who loads for it.
"""

from __future__ import annotations

from collections import defaultdict

from containers.findings import Check, Expected, Finding
from containers.image_tree import ImageTree, Loader

NAME = "libraries"


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result, loader = Check(NAME, expected), Loader(tree, expected.platform)
    needed = before = 0
    driver: dict[str, int] = defaultdict(int)
    for path, claims in tree.programs():
        if claims.machine != expected.platform.machine:
            continue  # the platform's check has told it
        for name in claims.needed:
            needed += 1
            if loader.find(path, claims, name):
                continue
            if name in expected.driver:
                driver[name] += 1
            elif loader.loaded_before(path, claims, name):
                before += 1
            else:
                result.wrong("library", f"needs {name}", "found in the image", path, name)
    told = "; ".join(f"{name} {count} times by the driver" for name, count in sorted(driver.items()))
    return result.tally(
        "needed libraries",
        f"{needed}, of which {before} are loaded before by others" + (told and f"; {told}"),
    )
