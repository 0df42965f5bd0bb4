"""Packs a layer's folder into one tar.gz, the same bytes on every machine.

Run as a program by the layer's own interpreter (so it imports nothing of ours): its tar and its zlib are
pinned with the layer, those of the building machine are not. Arguments: the folder that holds the layer's
top-level folder, that folder's name, the tar.gz to write. Prints sha256 and size of the tar.
"""

import gzip
import hashlib
import sys
import tarfile
from pathlib import Path
from typing import BinaryIO

MTIME = 315532800  # 1980-01-01: the oldest time that zip files can carry too
LEVEL = 6


class Tee:
    """Writes on, and hashes what passes: the uncompressed tar is never on disk."""

    def __init__(self, sink: gzip.GzipFile) -> None:
        self.sink = sink
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self.sink.write(data)


def member(path: Path, name: str) -> tarfile.TarInfo:
    """A tar entry with nothing of this machine in it: owner 0, one time, plain modes."""
    info = tarfile.TarInfo(name)
    info.mtime = MTIME
    if path.is_symlink():
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
    elif path.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.size = path.stat().st_size
        info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    return info


def pack(stage: Path, folder: str, out: BinaryIO) -> Tee:
    """Writes the folder's tree, sorted by name, into `out` as tar.gz."""
    with gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=out, mtime=0) as packed:
        tee = Tee(packed)
        with tarfile.open(fileobj=tee, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            top = stage / folder
            for path in [top, *sorted(top.rglob("*"), key=lambda each: each.parts)]:
                info = member(path, str(path.relative_to(stage)))
                if info.isreg():
                    with path.open("rb") as file:
                        tar.addfile(info, file)
                else:
                    tar.addfile(info)
    return tee


if __name__ == "__main__":
    stage, folder, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    with out.open("wb") as file:
        tee = pack(stage, folder, file)
    print(tee.hash.hexdigest(), tee.size)  # noqa: T201
