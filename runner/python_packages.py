"""What is installed in the image's own Python, without starting it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

NCCL = ("nvidia/nccl/lib/libnccl.so.2",)
VLLM_PLATFORM = "vllm/platforms/cuda.py"


class Nccl(Struct, frozen=True):
    """The NCCL that torch's wheel brings with it: an absolute path, and a version as "2.27.5"."""

    path: str
    version: str | None = None


def folders(env: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """The site-packages of the Python that PATH finds first; of a virtual environment its own come first."""
    python = shutil.which("python", path=env.get("PATH")) or shutil.which("python3", path=env.get("PATH"))
    for home in (env.get("VIRTUAL_ENV"), python and str(Path(python).parent.parent)):
        if home:
            for pattern in ("site-packages", "dist-packages"):
                yield from sorted(Path(home).glob(f"lib/python3*/{pattern}"))


def version(name: str, env: Mapping[str, str] = os.environ) -> str | None:
    """The version of a package; None where it is not installed."""
    for site in folders(env):
        for info in site.glob(f"{name}-*.dist-info"):
            return info.name[len(name) + 1 : -len(".dist-info")]
    return None


def nccl(env: Mapping[str, str] = os.environ) -> Nccl | None:
    """The wheel's NCCL; None where there is none."""
    for site in folders(env):
        for place in NCCL:
            if (path := site / place).is_file():
                info = next(site.glob("nvidia_nccl_cu*.dist-info"), None)
                number = info.name.partition("-")[2].removesuffix(".dist-info") if info else None
                return Nccl(str(path), number)
    return None


def vllm_takes_uuids(env: Mapping[str, str] = os.environ) -> bool:
    """Whether the vLLM that is installed, if any, understands the UUID of a GPU or of a slice.

    Read from its source and not from its version: the first that does asks NVML for the device by its UUID;
    those before turn the name into an integer.
    """
    for site in folders(env):
        try:
            return "HandleByUUID" in (site / VLLM_PLATFORM).read_text(errors="replace")
        except OSError:
            continue
    return False
