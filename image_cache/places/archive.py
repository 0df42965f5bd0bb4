"""An archive that baked images go to: worked at in a folder beside it, and put in its place at once.

The folder, `.FILE.layout`, outlives a process that is killed, and with it all that was put: the next one goes
on with it. It remembers what the file was when it was begun, by the index, which says by digest all that the
file holds. So these are told apart, and nothing of one's own or of others is lost:

    the file is what it was       the folder goes on from it
    the file has the same index   the folder was packed already, and only not removed
    anything else                 somebody made another file: refused, nothing is touched

Whoever writes holds a claim, so that two do not work in one folder.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from image_cache import oci, streams
from image_cache.oci import Descriptor
from image_cache.places import Known, Source
from image_cache.places.files import Archive, Files, Folder, checked
from image_cache.places.index import EMPTY, Index
from image_cache.places.layout import INDEX, LayoutTarget
from image_cache.prebuild import turn
from kit import files
from kit.errors import HashMismatchError, InvalidFileError, NotFoundError
from kit.nouns import digest

BASE = "base"  # in the folder: the digest of the file's index when the folder was begun; empty: of none
_MEMBER = re.compile(r"oci-layout|index\.json|blobs/sha256/[0-9a-f]{64}")


class ArchiveTarget(LayoutTarget):
    """`oci-archive:FILE`. Only `close` writes the file; nothing at all is written before the first blob."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._starting = threading.Lock()
        self._turn = contextlib.ExitStack()
        self._begun = False
        super().__init__(file.with_name(f".{file.name}.layout"))
        self.name = str(file)
        self._open()

    def take(
        self, repository: str, blob: Descriptor, source: Source, source_repository: str, known: Known
    ) -> int:
        self._begin()
        return super().take(repository, blob, source, source_repository, known)

    def give(self, repository: str, blob: Descriptor, raw: bytes) -> int:
        self._begin()
        return super().give(repository, blob, raw)

    def put(self, repository: str, tag: str, raw: bytes, media_type: str) -> str:
        self._begin()
        return super().put(repository, tag, raw, media_type)

    def close(self) -> None:
        """Packs what was put, by this process or by one that was killed. The file is replaced only by one
        that has, sound, every blob that its index names."""
        if not self.root.exists():
            return
        self._begin()
        try:
            if (self.root / INDEX).exists() and (self.root / INDEX).read_bytes() != self._held:
                self._pack()
            self._retire()
            self._open()
        finally:
            self._end()

    def there(self) -> Files:
        return Folder(self.root) if self._archive is None or self.root.exists() else self._archive

    # -- beginning and ending --------------------------------------------------------------------------------

    def _open(self) -> None:
        """What is there now: the file, and the folder of one that was killed, which must belong to it."""
        self._archive = Archive(self.file) if self.file.exists() else None
        self._held = self._index_of(self._archive) if self._archive else None
        if self.root.exists() and _text(self.root / BASE) != _told(self._held):
            there = self.root / INDEX
            if self._held is None or not there.exists() or there.read_bytes() != self._held:
                raise InvalidFileError(
                    f"{self.file} was replaced after a run that was broken off had begun with it: what that "
                    f"run made is in {self.root}",
                    f"rm -r {self.root} to give that up, or put the file back that was there",
                )
        self.index = Index(self.root / INDEX, self._held or EMPTY, self.name)

    def _index_of(self, archive: Archive) -> bytes:
        try:
            return archive.read(INDEX)
        except NotFoundError as none:
            raise InvalidFileError(f"{self.file} is no OCI archive: it has no {INDEX}") from none

    def _begin(self) -> None:
        """Once, before anything is written."""
        with self._starting:
            if self._begun:
                return
            try:
                with self.blobs.writable():
                    self._turn.enter_context(turn.held(self._claim, name=self.file))
                    self._sweep()
                    self._open()  # another process may just have ended
                    if not self.root.exists():
                        self._unpack()
                    files.write(self.root / BASE, _told(self._held))
            except BaseException:
                self._end()
                raise
            self._begun = True

    @property
    def _claim(self) -> Path:
        return self.file.with_name(f".{self.file.name}.turn")

    @property
    def _gone(self) -> Path:
        return self.file.with_name(f".{self.file.name}.gone")

    def _end(self) -> None:
        """Lets others have it; of the claim nothing stays."""
        self._begun = False
        self._turn.close()
        with contextlib.suppress(OSError):  # somebody has it already
            for each in (self._claim / "claim").iterdir():
                if turn.holder(self._claim) is None:
                    each.unlink()
            (self._claim / "claim").rmdir()
            self._claim.rmdir()

    def _retire(self) -> None:
        """By one rename: a folder that is half removed is never taken for one to go on with."""
        shutil.rmtree(self._gone, ignore_errors=True)
        self.root.rename(self._gone)
        shutil.rmtree(self._gone, ignore_errors=True)

    def _sweep(self) -> None:
        """What those left who were killed. Who holds the claim may."""
        shutil.rmtree(self._gone, ignore_errors=True)
        names = "|".join(re.escape(each.name) for each in (self.file, self.root))
        for each in self.file.parent.iterdir():
            if re.fullmatch(rf"\.({names})\.\d+-[0-9a-f]{{8}}\.tmp", each.name):
                if each.is_dir() and not each.is_symlink():
                    shutil.rmtree(each, ignore_errors=True)
                else:
                    each.unlink(missing_ok=True)

    # -- the file and the folder -----------------------------------------------------------------------------

    def _unpack(self) -> None:
        """The folder, with what the file holds: only what belongs to a layout, each blob hashed."""
        with files.beside(self.root) as temporary, files.space_named(self.root):
            (temporary / "blobs/sha256").mkdir(parents=True)
            (temporary / BASE).write_text(_told(self._held))
            for name in self._archive.names() if self._archive else ():
                if self._archive and _MEMBER.fullmatch(name):
                    _fill(temporary / name, _sound(self._archive, name))
            files.settle(temporary, self.root)

    def _pack(self) -> None:
        if lacking := [*self._lacking(oci.index((self.root / INDEX).read_bytes(), self.name).manifests)]:
            raise InvalidFileError(
                f"{self.root} lacks {len(lacking)} blobs that its index names, {lacking[0]} first: "
                f"{self.file} stays as it was",
                f"rm -r {self.root} gives up what a run that was broken off had made",
            )
        with files.beside(self.file) as temporary, files.space_named(self.file):
            with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
                for path in (self.root / "oci-layout", self.root / INDEX, *self._blobs()):
                    _add(tar, path, str(path.relative_to(self.root)))
            files.settle(temporary, self.file)

    def _lacking(self, entries: Iterable[Descriptor]) -> Iterator[str]:
        """Of an index within, images may be elsewhere; those that are here are here whole."""
        for entry in entries:
            if not self.blobs.has(entry):
                yield entry.digest
            elif entry.media_type in (oci.INDEX, oci.DOCKER_LIST):
                inner = oci.index(self.blobs.read(entry.digest), entry.digest).manifests
                yield from self._lacking(one for one in inner if self.blobs.blob(one.digest).exists())
            elif entry.media_type in (oci.MANIFEST, oci.DOCKER_MANIFEST):
                made = oci.manifest(self.blobs.read(entry.digest), entry.digest)
                yield from (one.digest for one in made.blobs if not one.urls and not self.blobs.has(one))

    def _blobs(self) -> list[Path]:
        return sorted(path for path in self.blobs.blobs.iterdir() if not path.name.startswith("."))


def _told(index: bytes | None) -> str:
    return "" if index is None else digest(index)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _sound(archive: Archive, name: str) -> Iterator[bytes]:
    if not name.startswith("blobs/"):
        return archive.pieces(name)
    promised = Descriptor("", f"sha256:{name.rpartition('/')[2]}", archive.size(name))
    return checked(archive.pieces(name), promised, archive.name)


def _fill(path: Path, pieces: Iterator[bytes]) -> None:
    with path.open("wb") as out:
        for piece in pieces:
            out.write(piece)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """Equal images, equal archives. A blob is hashed as it passes."""
    with path.open("rb") as file:
        member = tarfile.TarInfo(name)
        member.size, member.mode = path.stat().st_size, 0o644
        hashed = _Hashed(file)
        tar.addfile(member, hashed)
    if name.startswith("blobs/") and hashed.seen.digest != f"sha256:{path.name}":
        raise HashMismatchError(f"{path} is damaged: it hashes to {hashed.seen.digest}")


class _Hashed:
    """What is read of a file, hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seen = file, streams.Hash()

    def read(self, size: int = -1) -> bytes:
        return b"".join(self.seen.through([self.file.read(size)]))
