"""torch is a CUDA build, for the CUDA of its line: a CPU build resolves and imports just as well."""

from __future__ import annotations

import re

from containers.checks import distributions
from containers.findings import Check, Expected, Finding
from containers.image_tree import ImageTree

NAME = "torch"
_CUDA = re.compile(r"^cuda\b[^=]*= *(?:'([^']*)'|\"([^\"]*)\"|None)", re.MULTILINE)
LIBRARY = "torch/lib/libtorch_cuda.so"


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result = Check(NAME, expected)
    needed = result.cuda("torch")
    if needed is None:
        return result.findings
    site = distributions.site(expected)
    version = f"{site}/torch/version.py"
    text = tree.text(version)
    if text is None:
        result.wrong("torch", "is not there", f"a build for CUDA {needed}", version)
        return result.findings
    said = _CUDA.search(text)
    cuda = (said[1] or said[2]) if said else None
    wanted = f"a build for CUDA {needed}"
    if cuda is None:
        result.wrong("torch", "a CPU build: its version.py names no CUDA", wanted, version)
    elif cuda.split(".")[:2] != needed.split("."):
        result.wrong("torch", f"a build for CUDA {cuda}", wanted, version)
    if tree.elf(f"{site}/{LIBRARY}") is None:
        result.wrong("torch", f"has no {LIBRARY}", wanted, f"{site}/{LIBRARY}")
    return result.tally("torch", f"a build for CUDA {cuda}", version)
