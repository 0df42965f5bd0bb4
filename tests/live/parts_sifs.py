"""Tiny images in a real registry, and the runner that makes SIFs of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from image_cache import transfer
from image_cache.store import Store
from kit.nouns import Platform, key_of
from tests.live.parts_cpu import MAIN


def pushed(store: Store, root: Path, host: str, names: Sequence[str], size: int = 1000) -> list[str]:
    """References of images that share a layer; each has a file of its own, of `size` random bytes."""
    base = store.put_root(root, key=key_of({"sif": "base"}), name="sif-base", platform=Platform.host())
    found = []
    for name in names:
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w") as tar:
            member = tarfile.TarInfo(f"own/{name}")
            member.size, member.mtime = size, 1_600_000_000
            tar.addfile(member, io.BytesIO(os.urandom(size)))
        layer = store.put_tar(key_of({"layer": name, "size": str(size)}), [held.getvalue()])
        key = key_of({"image": name, "size": str(size)})
        image = store.put_on(base, [layer], key=key, name=f"sif-{name}", labels={"of": name}, cmd=("sh",))
        found.append(f"{host}/bases/{name}:1")
        transfer.push(store, image, found[-1])
    return found


def typed(cache: Path, *words: str | Path, **env: str) -> tuple[int, str, str]:
    """`runner prebuild sif …` with a cache of its own."""
    argv = [sys.executable, "-c", MAIN, "prebuild", "sif", *map(str, words)]
    mine = {**os.environ, "SLIPWORKS_CACHE": str(cache), **env}
    done = subprocess.run(argv, env=mine, capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def listed(folder: Path, references: Sequence[str]) -> Path:
    path = folder / "a list.txt"
    path.write_text("".join(f"{each}\n" for each in references))
    return path


def report(out: str) -> dict[str, Any]:
    """By the path that the command answers with."""
    found: dict[str, Any] = json.loads(Path(out.strip()).read_text())
    return found
