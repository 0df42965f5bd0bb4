"""The image store: how fast a tree is taken in, an image found, and a push that has nothing to do. Prints.

.venv/bin/python -m tests.bench.store [megabytes]
"""

from __future__ import annotations

import random
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from image_cache.store import Store
from kit import say
from kit.nouns import Platform

AMD64 = Platform("amd64")


def timed(what: str, act: Callable[[], object], of: float | None = None, times: int = 1) -> None:
    began = time.perf_counter()
    for _ in range(times):
        act()
    took = (time.perf_counter() - began) / times
    rate = f"   {of / took:6.0f} MB/s" if of else ""
    say.answer(f"{what:<40} {took * 1000:10.2f} ms{rate}")


def tree(path: Path, megabytes: int) -> None:
    """Python sources of this interpreter, repeated with a little noise, as an image's tree is."""
    sources = b"".join(each.read_bytes() for each in sorted(Path(random.__file__).parent.glob("*.py")))
    noise = random.Random(1)
    with tarfile.open(path, "w") as out, tempfile.TemporaryFile() as file:
        while file.tell() < megabytes * 10**6:
            file.write(noise.randbytes(200_000) + sources)
        member = tarfile.TarInfo("tree")
        member.size = file.tell()
        file.seek(0)
        out.addfile(member, file)


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        root, saved = Path(folder, "root.tar"), Path(folder, "saved.tar")
        tree(root, megabytes)
        store = Store(Path(folder, "store"))
        put = {"key": "a" * 64, "name": "bench", "platform": AMD64}
        timed("put_root (hash, pack, hash, sync)", lambda: store.put_root(root, **put), megabytes)
        image = store.list()[0]
        timed("find", lambda: store.find(image.key, "oci"), times=200)
        timed("write_docker_archive", lambda: store.write_docker_archive(image, saved), megabytes)
        for number in range(300):
            store.records.put(store_record(store, number))
        timed("find among 301", lambda: store.find(image.key, "oci"), times=200)


def store_record(store: Store, number: int) -> object:
    import msgspec

    first = store.records.all()[0]
    return msgspec.structs.replace(first, key=f"{number:064}", name=f"n{number}")


if __name__ == "__main__":
    main()
