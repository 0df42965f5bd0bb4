"""SIFs of a list of images beside `apptainer build docker://…`, which is Apptainer's own way.

    .venv/bin/python -m tests.bench.prebuild_sif [IMAGE] [--images 4]

IMAGE is in the store (default: the newest cpu image). Its layers are packed anew by gzip, as public images
are; so many images of them, each with a small layer of its own, are pushed to a registry on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from image_cache import streams, transfer
from image_cache.oci import Descriptor
from image_cache.store import Store
from kit import say
from kit.nouns import Image, Platform, key_of
from runner import images
from tests.bench.sif import seconds
from tests.live import parts_registry

MAIN = "import sys; from runner.cli import main; sys.exit(main())"


def pushed(image: Image, store: Store, folder: Path, host: str, count: int) -> list[str]:
    """References; the layers are shared but for one of a few bytes."""
    source, mine = images.store(), store
    manifest, config = source.opened(image)
    layers: list[Descriptor] = []
    for number, layer in enumerate(manifest.layers):
        packed = folder / f"{number}.tar.gz"
        with packed.open("wb") as out, source.blob(layer.digest).open("rb") as file:
            gzip = subprocess.Popen(["gzip", "-6", "-n"], stdin=subprocess.PIPE, stdout=out)
            assert gzip.stdin
            for piece in streams.unpacked(file, layer.media_type, "a layer"):
                gzip.stdin.write(piece)
            gzip.stdin.close()
            assert gzip.wait() == 0
        layers.append(mine.put_layer_file(packed)[0])
        packed.unlink()
    base = mine.put_image(config, layers, key=key_of({"bench": "base"}), name="base", platform=image.platform)
    found = []
    for number in range(count):
        own = mine.put_tar(key_of({"bench": str(number)}), [_tar(number)])
        made = mine.put_on(
            base, [own], key=key_of({"image": str(number)}), name=f"b{number}", labels={"slipworks.line": ""}
        )
        found.append(f"{host}/bench/b{number}:1")
        transfer.push(mine, made, found[-1])
    return found


def _tar(number: int) -> bytes:
    import io
    import tarfile

    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        member = tarfile.TarInfo(f"own-{number}")
        tar.addfile(member, io.BytesIO())
    return held.getvalue()


class Peak:
    """The most bytes that a folder held while the block lasted, its SIFs left out."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.most, self._end = folder, 0, threading.Event()

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.5):
            done = subprocess.run(
                ["du", "-sb", "--exclude=*.sif", self.folder], capture_output=True, text=True, check=False
            )
            self.most = max(self.most, int(done.stdout.split()[0]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", nargs="?", default="cpu")
    parser.add_argument("--images", type=int, default=4)
    args = parser.parse_args()
    image = images.named(args.image, "oci") if args.image != "cpu" else _newest()
    with tempfile.TemporaryDirectory(prefix="slipworks-bench-") as name:
        folder = Path(name)
        (folder / "registry").mkdir()
        serving: Iterator[str] = parts_registry._serving(folder / "registry", "")
        host = next(serving)
        wanted = pushed(image, Store(folder / "pushed"), folder, host, args.images)
        shutil.rmtree(folder / "pushed")
        (folder / "list").write_text("\n".join(wanted))
        say.answer(f"load {os.getloadavg()[0]:.1f}: {image.name}, {args.images} images by gzip")
        _theirs(wanted[0], folder)
        for jobs in (1, 2):
            _ours(folder, jobs, args.images)


def _newest() -> Image:
    found = [
        each for each in images.store().list() if each.format == "oci" and each.name.startswith("cpu-cpu-")
    ]
    found = [each for each in found if each.platform == Platform.host()]
    return max(found, key=lambda each: images.store().records.path(each.key, "oci").stat().st_mtime)


def _theirs(reference: str, folder: Path) -> None:
    out = folder / "theirs.sif"
    argv = ["apptainer", "build", "--disable-cache", "--no-https", str(out), f"docker://{reference}"]
    took = seconds(argv)
    say.answer(f"apptainer build docker://…: {took:.1f} s an image, {out.stat().st_size / 1e6:.0f} MB (gzip)")
    out.unlink()


def _ours(folder: Path, jobs: int, count: int) -> None:
    cache = folder / f"cache-{jobs}"
    cache.mkdir()
    argv = [sys.executable, "-c", MAIN, "prebuild", "sif", str(folder / "list"), "--jobs", str(jobs)]
    began = time.monotonic()
    with Peak(cache) as peak:
        done = subprocess.run(argv, env={**os.environ, "SLIPWORKS_CACHE": str(cache)}, capture_output=True,
                              text=True, check=True)  # fmt: skip
    took = time.monotonic() - began
    made = json.loads(Path(done.stdout.strip()).read_text())
    size = made["images"][0]["size"]
    told = next(line for line in done.stderr.splitlines() if "of layers" in line)
    say.answer(
        f"prebuild sif --jobs {jobs}: {took / count:.1f} s an image, {size / 1e6:.0f} MB (zstd), at most "
        f"{peak.most / 1e6:.0f} MB of temporary files and layers; load {os.getloadavg()[0]:.1f}\n  {told}"
    )
    again = seconds(argv_with(argv, cache))
    say.answer(f"  the same command again: {again:.2f} s")
    shutil.rmtree(cache)


def argv_with(argv: list[str], cache: Path) -> list[str]:
    return ["env", f"SLIPWORKS_CACHE={cache}", *argv]


if __name__ == "__main__":
    main()
