"""The proof of an image, from inventories of its layers alone: no GPU, no engine, nothing of it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from containers.checks import (
    driver,
    gpu_code,
    interpreter,
    libraries,
    nccl,
    packages,
    platforms,
    stacks,
    symbols,
    system,
    torch,
)
from containers.findings import Expected, Finding, Report
from containers.image_tree import ImageTree
from containers.inventory import Inventory

CHECKS: tuple[Callable[[ImageTree, Expected], list[Finding]], ...] = tuple(
    each.check
    for each in (
        platforms, libraries, symbols, stacks, interpreter, packages, torch, gpu_code, nccl, driver, system,
    )
)  # fmt: skip


def verify(layers: Sequence[Inventory], expected: Expected) -> Report:
    """All findings on an image whose layers, lowest first, are these. Pure."""
    tree = ImageTree(layers)
    return Report(
        platform=str(expected.platform),
        findings=tuple(finding for check in CHECKS for finding in check(tree, expected)),
    )
