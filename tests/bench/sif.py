"""A SIF packed with zstd beside one packed with gzip, Apptainer's default: time, size, and time of imports.

    .venv/bin/python -m tests.bench.sif IMAGE [--statement 'import torch, ray']

IMAGE is in the store. Its files are unpacked once and packed twice by mksquashfs, with all processors of this
process; then each is run by apptainer, cold (with root: the page cache is emptied first) and warm.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from containers.engines.apptainer import Apptainer
from image_cache import unpacking
from kit import say, share
from runner import images

PACKERS = {
    "gzip": ["-comp", "gzip"],
    "zstd, level 8 (ours)": ["-comp", "zstd", "-Xcompression-level", "8"],
}


def seconds(argv: list[str]) -> float:
    began = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{argv} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.monotonic() - began


def emptied() -> bool:
    """Whether the page cache could be emptied."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image")
    parser.add_argument("--statement", default="import ray, numpy")
    args = parser.parse_args()
    store, engine = images.store(), Apptainer()
    image = images.named(args.image, "oci")
    own = ["--userns"] if os.geteuid() == 0 and not engine.on.every_capability else []
    above = store.root.parent / "scratch"
    above.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=above) as name:
        root = Path(name) / "root"
        with say.step(f"unpacking {image.name}"):
            unpacking.unpack(store, image, root)
        for folder in ("proc", "sys", "dev", "tmp"):
            (root / folder).mkdir(exist_ok=True)
        say.answer(f"{'':<24} {'packed in':>10} {'size':>10} {'import, cold':>14} {'warm':>8}")
        for title, words in PACKERS.items():
            made = Path(name) / "image.sqfs"
            argv = ["mksquashfs", str(root), str(made), "-no-progress", "-all-root", "-noappend"]
            packed = seconds([*argv, "-processors", str(share.cpus()), *words])
            run = ["apptainer", "--quiet", "exec", *own, "--cleanenv", "--no-home", str(made)]
            run += ["/opt/stack/bin/python", "-c", args.statement]
            cold = seconds(run) if emptied() else float("nan")
            warm = min(seconds(run) for _ in range(3))
            size = made.stat().st_size / 1e6
            say.answer(f"{title:<24} {packed:8.1f} s {size:7.0f} MB {cold:12.2f} s {warm:6.2f} s")
            made.unlink()


if __name__ == "__main__":
    main()
