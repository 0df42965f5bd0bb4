"""Every ELF file is made for the image's platform: one of another cannot run, wherever it came from."""

from __future__ import annotations

from containers.findings import Check, Expected, Finding
from containers.image_tree import ImageTree

NAME = "platform"
GPU = "EM_CUDA"


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result = Check(NAME, expected)
    machine, right, gpu = expected.platform.machine, 0, 0
    for path, facts in sorted(tree.facts.items()):
        if facts.broken:
            result.wrong("ELF file", facts.broken, "a readable one", path)
        elif facts.elf and facts.elf.machine == machine:
            right += 1
        elif facts.elf and facts.elf.machine == GPU:
            gpu += 1
        elif facts.elf:
            result.wrong("ELF file", facts.elf.machine, machine, path)
    also = f", and {gpu} of GPU code" if gpu else ""
    return result.tally("ELF files", f"{right} for {machine}{also}")
