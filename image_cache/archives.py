"""Reading one image out of what engines write: OCI archives, OCI layout folders, `docker save` archives.

Nothing is unpacked and nothing is held in memory but manifests and configs: a layer is a function that
opens a stream. Newer `docker save` archives hold an OCI layout too, which then is what is read.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from msgspec import Struct

from image_cache import oci
from image_cache.streams import compression
from kit.errors import HashMismatchError, InvalidFileError, UnsupportedError
from kit.nouns import Platform, check_digest
from kit.nouns import digest as hash_of

MOST_JSON = 32 * 2**20  # no manifest or config is larger; an archive that says so is not one


class Layer(Struct, frozen=True):
    """A layer to be read. digest and size are its manifest's promise, None in old docker archives."""

    open: Callable[[], BinaryIO]
    media_type: str
    digest: str | None = None
    size: int | None = None


class Found(Struct, frozen=True):
    """One image of one platform, as it lies in an archive."""

    config: dict[str, Any]
    layers: tuple[Layer, ...]
    where: str


class Source(Protocol):
    """Files by name, of a tar archive or of a folder."""

    where: str

    def has(self, name: str) -> bool: ...

    def open(self, name: str) -> BinaryIO: ...


@contextlib.contextmanager
def reading(path: Path, platform: Platform) -> Iterator[Found]:
    """The image for `platform` in the archive or layout at `path`; its layers can be opened inside the block.

    InvalidFileError when it is neither, UnsupportedError when it has no image for the platform.
    """
    with _source(path) as source:
        if source.has("oci-layout") and source.has("index.json"):
            yield _from_layout(source, platform)
        elif source.has("manifest.json"):
            yield _from_docker(source, platform)
        else:
            raise InvalidFileError(
                f"{path} is no image: found neither oci-layout and index.json nor a manifest.json"
            )


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root, self.where = root, str(root)

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()

    def open(self, name: str) -> BinaryIO:
        try:
            return (self.root / name).open("rb")
        except OSError as bad:
            raise InvalidFileError(f"{self.where} lacks {name}: {bad.strerror}") from bad


class _Tar:
    """Members are looked up in a list made once: an archive of 10 GB has a few dozen of them."""

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self.where, self.tar = str(path), tar
        self.members = {member.name.removeprefix("./"): member for member in tar.getmembers()}

    def has(self, name: str) -> bool:
        return name in self.members

    def open(self, name: str) -> BinaryIO:
        # `docker save` before 25 writes a repeated layer as a symlink; extractfile follows it inside the tar.
        try:
            file = self.tar.extractfile(self.members[name])
        except KeyError:
            file = None
        if file is None:
            raise InvalidFileError(f"{self.where} lacks {name}")
        return file  # type: ignore[return-value]


@contextlib.contextmanager
def _source(path: Path) -> Iterator[Source]:
    if path.is_dir():
        yield _Folder(path)
        return
    try:
        tar = tarfile.open(path, "r:")  # noqa: SIM115
    except (OSError, tarfile.TarError) as bad:
        raise InvalidFileError(f"{path} is not a tar archive of an image: {bad}") from bad
    with tar:
        try:
            source = _Tar(path, tar)
        except (OSError, tarfile.TarError) as bad:
            raise InvalidFileError(f"{path} is a damaged tar archive: {bad}") from bad
        yield source


def _json(source: Source, name: str) -> bytes:
    with source.open(name) as file:
        raw = file.read(MOST_JSON + 1)
    if len(raw) > MOST_JSON:
        raise InvalidFileError(
            f"{name} in {source.where} is larger than any image's: {MOST_JSON} bytes expected"
        )
    return raw


def _blob(source: Source, digest: str) -> bytes:
    raw = _json(source, _blob_name(digest))
    if (found := hash_of(raw)) != digest:
        raise HashMismatchError(f"{source.where} is damaged: a blob hashes to {found}, expected {digest}")
    return raw


def _blob_name(digest: str) -> str:
    return "blobs/sha256/" + check_digest(digest, "a layout").removeprefix("sha256:")


def _from_layout(source: Source, platform: Platform) -> Found:
    where = source.where
    descriptors = list(oci.index(_json(source, "index.json"), f"{where}: index.json").manifests)
    fitting = [found for one in descriptors for found in _images(source, one, platform)]
    if not fitting:
        names = [config for one in descriptors for _, config in _manifests(source, one)]
        there = ", ".join(sorted({oci.spelled(config) for config in names})) or "no image"
        raise UnsupportedError(f"{where} has no image for {platform}: it has {there}")
    if len({found.digest for found, _ in fitting}) > 1:
        raise UnsupportedError(f"{where} has {len(fitting)} images for {platform}: expected one")
    chosen, config = fitting[0]
    manifest = oci.manifest(_blob(source, chosen.digest), where)
    layers = tuple(
        Layer(
            _opener(source, _blob_name(one.digest)),
            oci.layer_type(one.media_type, where),
            one.digest,
            one.size,
        )
        for one in manifest.layers
    )
    return _checked(Found(config, layers, where))


def _images(
    source: Source, descriptor: oci.Descriptor, platform: Platform
) -> list[tuple[oci.Descriptor, dict[str, Any]]]:
    """The manifests for `platform` under an entry of an index. The config decides, not the entry."""
    found = list(_manifests(source, descriptor))
    return [(one, config) for one, config in found if oci.spelled(config) == str(platform)]


def _manifests(source: Source, descriptor: oci.Descriptor) -> Iterator[tuple[oci.Descriptor, dict[str, Any]]]:
    """Every image manifest under an entry with its config; entries whose blobs were left out are passed over,
    since archives of one platform of an index often keep the whole index."""
    if "vnd.docker.reference.type" in descriptor.annotations or not source.has(_blob_name(descriptor.digest)):
        return
    raw = _blob(source, descriptor.digest)
    if oci.kind_of(raw, source.where) in (oci.INDEX, oci.DOCKER_LIST):
        for one in oci.index(raw, source.where).manifests:
            yield from _manifests(source, one)
        return
    config = oci.manifest(raw, source.where).config
    yield descriptor, oci.config(_blob(source, config.digest), source.where)


def _from_docker(source: Source, platform: Platform) -> Found:
    import msgspec

    where = f"{source.where}: manifest.json"
    try:
        entries = msgspec.json.decode(_json(source, "manifest.json"), type=list[_DockerEntry])
    except msgspec.DecodeError as bad:
        raise InvalidFileError(f"{where} is not valid: {bad}") from bad
    configs = [oci.config(_json(source, entry.config), where) for entry in entries]
    fitting = [pair for pair in zip(entries, configs, strict=True) if oci.spelled(pair[1]) == str(platform)]
    if len(fitting) != 1:
        there = ", ".join(oci.spelled(config) for config in configs) or "nothing"
        raise UnsupportedError(f"{source.where} must have one image for {platform}: it has {there}")
    entry, config = fitting[0]
    layers = tuple(Layer(_opener(source, name), _sniffed(source, name)) for name in entry.layers)
    return _checked(Found(config, layers, source.where))


class _DockerEntry(Struct, frozen=True, rename="pascal"):
    config: str
    layers: tuple[str, ...] = ()


def _opener(source: Source, name: str) -> Callable[[], BinaryIO]:
    return lambda: source.open(name)


def _sniffed(source: Source, name: str) -> str:
    with source.open(name) as file:
        return compression(file.read(4))


def _checked(found: Found) -> Found:
    ids = oci.diff_ids(found.config, found.where)
    if len(ids) != len(found.layers):
        raise InvalidFileError(
            f"{found.where} is damaged: its config names {len(ids)} layers, its manifest {len(found.layers)}"
        )
    return found
