"""The image says which NVIDIA driver it needs at least, and that is enough for its CUDA."""

from __future__ import annotations

import re

from containers.findings import Check, Expected, Finding
from containers.image_tree import ImageTree

NAME = "driver"
LABEL = "label slipworks.driver-floor"
# Minor-version compatibility (CUDA compatibility guide): the oldest branch that runs a major version.
FLOORS = {"12": 525, "13": 580}


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result = Check(NAME, expected)
    cuda = result.cuda("driver")
    if cuda is None:
        return result.findings
    major = cuda.partition(".")[0]
    found = expected.label_floor or ""
    if major not in FLOORS:
        result.unknown("driver", f"which driver CUDA {major} needs is not recorded")
    elif not re.fullmatch(r"[0-9]{1,9}", found) or int(found) < FLOORS[major]:
        result.wrong(
            "driver", f"floor {found or 'not stated'}", f"{FLOORS[major]} or newer for CUDA {major}", LABEL
        )
    if expected.driver_floor and found != expected.driver_floor:
        result.wrong(
            "driver", f"floor {found or 'not stated'}", f"{expected.driver_floor}, by the definitions", LABEL
        )
    return result.tally("driver", f"{found} or newer, for CUDA {cuda}", LABEL)
