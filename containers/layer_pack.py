"""Packs folders of a layer into one tar.gz, the same bytes on every machine.

Run as a program by the layer's own interpreter (so it imports nothing of ours): its tar and its zlib are
pinned with the layer, those of the building machine are not. Arguments: the tar.gz to write; the body that it
begins with, or ""; the folder that they are relative to; the folders. Prints sha256 and size of the tar.

What is written without a body lacks a tar's end, and so is the body of others: these hold its very bytes, and
then a second gzip member with the folders and the tar's end. Readers of gzip read members as one file
(RFC 1952, section 2.2).
"""

import gzip
import hashlib
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

MTIME = 315532800  # 1980-01-01: the oldest time that zip files can carry too
LEVEL = 6
PIECE = 2**20


class Sink(Protocol):
    """What takes bytes."""

    def write(self, data: bytes, /) -> int: ...


class Tee:
    """Writes on, and hashes what passes: the uncompressed tar is never on disk."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self.sink.write(data) if self.sink else len(data)

    def tell(self) -> int:
        return self.size


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


def below(stage: Path, folders: list[str]) -> Iterator[Path]:
    """The folders and all that is in them, sorted by name."""
    for folder in folders:
        yield stage / folder
        yield from sorted((stage / folder).rglob("*"), key=lambda each: each.parts)


def pack(stage: Path, folders: list[str], out: BinaryIO, body: BinaryIO | None = None) -> Tee:
    """Writes folders into `out` as tar.gz: a body, or what completes one."""
    tee = Tee()
    if body:
        while piece := body.read(PIECE):
            out.write(piece)
        body.seek(0)
        with gzip.GzipFile(fileobj=body) as plain:
            while piece := plain.read(PIECE):
                tee.write(piece)
    with gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=out, mtime=0) as packed:
        tee.sink = packed
        tar = tarfile.TarFile(fileobj=tee, mode="w", format=tarfile.PAX_FORMAT)  # type: ignore[arg-type]
        for path in below(stage, folders):
            info = member(path, str(path.relative_to(stage)))
            if info.isreg():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
        if body:
            tar.close()  # writes the end
    return tee


if __name__ == "__main__":
    written, given, stage, folders = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4:]
    with written.open("wb") as out:
        if given:
            with Path(given).open("rb") as body:
                tee = pack(stage, folders, out, body)
        else:
            tee = pack(stage, folders, out)
    print(tee.hash.hexdigest(), tee.size)  # noqa: T201
