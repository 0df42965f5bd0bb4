"""Bytes on their way: read in pieces, hashed while they pass, packed and unpacked. Memory stays flat.

What the store packs itself is zstd: it packs and unpacks several times faster than gzip, and smaller. Layers
that come packed keep their bytes. Who reads a zstd layer:

    read      podman 4.3, buildah 1.28, apptainer 1.4 from an OCI layout, several frames in a blob too: tried;
              any registry that takes OCI manifests: a blob is bytes to it
    not read  Docker before 23 and containerd before 1.5 when they pull from a registry; and nobody in a
              manifest of Docker's own family, which is never written here (oci.py): so podman 4.3 and buildah
              1.28 refuse to `save` what they have in Docker's format; `--format oci-archive` works
    not asked engines that are given a `docker load` archive: its layers are plain tars (docker_archive.py)
"""

from __future__ import annotations

import functools
import hashlib
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from image_cache import oci
from kit import share
from kit.errors import InvalidFileError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from gzip import GzipFile

    from zstandard import ZstdCompressor

PIECE = 2**20
FRAME = 4 * 2**20  # tar bytes in one zstd frame: packing looks no farther back than 2 MiB
LEVEL = 2  # of a CUDA stack: 1.3 times as fast as 3 and 6 % larger; 1 is 1.2 times as fast as 2, 7 % larger
MOST_CORES = 8  # beyond, the hash of the plain tar is what takes the time


@functools.cache
def packing(level: int = LEVEL) -> str:
    """What decides the bytes that come out."""
    from importlib import metadata

    return f"zstd {level} in frames of {FRAME}, by zstandard {metadata.version('zstandard')}"


class Hash:
    """The digest and the size of all that passed through."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def through(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._hash.update(piece)
            self.size += len(piece)
            yield piece

    def beside(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The same for large blocks, hashed by a thread of its own: done when the last block was taken."""
        from concurrent.futures import ThreadPoolExecutor

        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1) as lane:
            for block in blocks:
                waiting.append(lane.submit(self._hash.update, block))
                self.size += len(block)
                if len(waiting) > 1:
                    waiting.popleft().result()
                yield block

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


def pieces(file: BinaryIO | GzipFile, size: int = PIECE) -> Iterator[bytes]:
    """All that is left in a file."""
    while piece := file.read(size):
        yield piece


def packed(plain: Iterable[bytes], seen: Hash, level: int = LEVEL) -> Iterator[bytes]:
    """zstd, packed by all the cores that this process may use, and the same bytes with any number of them.

    The stream is one frame for each FRAME bytes, at one level: frames can be packed side by side, and
    readers of zstd read their sequence as one file (RFC 8878, section 3.1). `seen` hashes what goes in. Equal
    bytes are promised for one version of the zstd library: packing() names it.
    """
    from concurrent.futures import ThreadPoolExecutor

    cores = min(share.cpus(), MOST_CORES)
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for block in seen.beside(_blocks(plain)):
            waiting.append(pool.submit(_frame, block, level))
            if len(waiting) > cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _blocks(plain: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks of exactly FRAME bytes however the input was cut; the last may be shorter, and there is one."""
    block = bytearray()
    empty = True
    for piece in plain:
        block += piece
        while len(block) >= FRAME:
            yield bytes(memoryview(block)[:FRAME])
            del block[:FRAME]
            empty = False
    if block or empty:
        yield bytes(block)


_packers = threading.local()


def _frame(block: bytes, level: int) -> bytes:
    packer: ZstdCompressor | None = getattr(_packers, "one", None)  # a packer serves one thread at a time
    if packer is None:  # the threads are those of one `packed`, which has one level
        import zstandard

        packer = _packers.one = zstandard.ZstdCompressor(level=level)
    return packer.compress(block)


def unpacked(file: BinaryIO, media_type: str, where: str) -> Iterator[bytes]:
    """The tar inside a layer. InvalidFileError when the packed stream is damaged or ends early."""
    import gzip

    import zstandard

    try:
        if media_type == oci.GZIP:
            with gzip.GzipFile(fileobj=file) as plain:
                yield from pieces(plain)
        elif media_type == oci.ZSTD:
            yield from _zstd(file)
        else:
            yield from pieces(file)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as bad:
        raise InvalidFileError(f"{where} is a damaged layer: {bad}") from bad


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    """zstd's own reader ends without a word on a stream that was cut short; the frames are followed here."""
    import zstandard

    unpacker = zstandard.ZstdDecompressor().decompressobj()
    begun = False
    for piece in pieces(file):
        while piece:
            begun = True
            yield unpacker.decompress(piece)
            piece = unpacker.unused_data if unpacker.eof else b""
            if unpacker.eof:
                unpacker, begun = zstandard.ZstdDecompressor().decompressobj(), bool(piece)
    if begun:
        raise EOFError("it ends in the middle")


def compression(head: bytes) -> str:
    """The media type of a layer by its first four bytes."""
    if head.startswith(b"\x1f\x8b"):
        return oci.GZIP
    return oci.ZSTD if head == b"\x28\xb5\x2f\xfd" else oci.TAR


def tar_only(plain: Iterable[bytes], where: str) -> Iterator[bytes]:
    """The same bytes; InvalidFileError before the first of them when they are not a tar's."""
    head = b""
    for piece in plain:
        if len(head) < 512:
            head += piece
            if len(head) >= 512:
                _check_tar(head, where)
                yield head
        else:
            yield piece
    if len(head) < 512:
        _check_tar(head, where)


def _check_tar(head: bytes, where: str) -> None:
    # A tar of nothing is zeros only.
    if head[257:262] != b"ustar" and (len(head) < 512 or any(head[:512])):
        raise InvalidFileError(f"{where} is not a tar archive, packed or plain")
