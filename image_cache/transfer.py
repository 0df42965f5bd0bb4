"""Images between the store and registries. Only what the other side lacks is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from image_cache import oci, streams
from image_cache.ensure import ensure
from image_cache.oci import Descriptor
from image_cache.references import Reference
from image_cache.registry import Registry
from image_cache.store import Store
from kit.errors import InvalidFileError, UnsupportedError
from kit.nouns import Image, Platform, digest, key_of

AT_ONCE = 4  # blobs on their way; registries slow down clients that open more

Progress = Callable[[str], None]


def push(
    store: Store,
    image: Image,
    reference: str,
    progress: Progress = lambda line: None,
    *,
    registry: Registry | None = None,
    mount_from: Sequence[str] = (),
) -> str:
    """Pushes an image under a reference with a tag; returns its digest, the store's.

    Blobs that the registry has are not sent; others are mounted from the repositories `mount_from` of the
    same registry where they are, else uploaded. The manifest goes last, so a tag never stands for half an
    image, and a push that was broken off goes on with the blobs that are missing. Idempotent.
    """
    target = Reference.parse(reference)
    if image.format != "oci":
        raise UnsupportedError(
            f"{image.name} is a {image.format} file: registries take OCI images",
            "make image FORMAT=oci PUSH=…",
        )
    if target.digest:
        raise InvalidFileError(f"cannot push to {target}: expected a tag, found a digest")
    client = registry or Registry(target.host)
    raw = store.read(image.digest)
    if client.head(target) == image.digest:
        progress(f"{target} is there already")
        return image.digest
    blobs = {blob.digest: blob for blob in oci.manifest(raw, image.name).blobs}
    for blob in blobs.values():
        if not store.has(blob):
            raise InvalidFileError(f"{image.name} in {store.root} is damaged: it lacks {blob.digest}")
    _each(list(blobs.values()), lambda blob: _push_blob(store, client, target, blob, mount_from, progress))
    return client.put_manifest(target, raw, oci.MANIFEST)


def pull(
    reference: str,
    platform: Platform,
    store: Store,
    progress: Progress = lambda line: None,
    *,
    key: str | None = None,
    name: str | None = None,
    registry: Registry | None = None,
) -> Image:
    """Brings the image of one platform into the store. Blobs that are there are not asked for.

    An OCI manifest keeps its bytes and its digest; one of Docker's family is written anew as OCI, with the
    same blobs. Without a key, that is made of the manifest's digest. Idempotent; of all that ask for one key
    at once one pulls, and the others wait.
    """
    wanted = Reference.parse(reference)
    client = registry or Registry(wanted.host)
    raw, _ = client.image(wanted, platform)
    return bring(wanted, raw, platform, store, client, progress, key=key or key_of_pulled(raw), name=name)


def key_of_pulled(raw: bytes) -> str:
    """The key of an image that is known by its manifest alone."""
    return key_of({"pulled": digest(raw)})


def bring(
    wanted: Reference,
    raw: bytes,
    platform: Platform,
    store: Store,
    client: Registry,
    progress: Progress = lambda line: None,
    *,
    key: str,
    name: str | None = None,
) -> Image:
    """What `pull` does once the platform's manifest is there, as the registry sent it."""
    manifest = oci.manifest(raw, f"{wanted}")
    name = name or name_of(wanted, platform, key)
    store.records.check_free(key, name, "oci")  # before gigabytes are moved
    layers = tuple(_as_oci(layer, f"{wanted}") for layer in manifest.layers)
    config = Descriptor(oci.CONFIG, manifest.config.digest, manifest.config.size)

    def fetch(blob: Descriptor) -> None:
        if not store.keep(blob):
            pieces = client.blob(wanted.repository, blob)
            store.put_blob(_told(pieces, blob, "pulling", progress), blob.media_type, blob.digest)

    def take() -> Image:
        _each(list({blob.digest: blob for blob in (config, *layers)}.values()), fetch)
        same = manifest.media_type == oci.MANIFEST
        bytes_ = raw if same else oci.encode(oci.Manifest(config, layers))
        return store.put_manifest(bytes_, key=key, name=name, platform=platform)

    return ensure(store, key, "oci", take)


def name_of(wanted: Reference, platform: Platform, key: str) -> str:
    """What an image is called in the store where nobody says otherwise."""
    return f"{wanted.repository.rpartition('/')[2]}-{platform.arch}-{key[:12]}"


def _as_oci(layer: Descriptor, where: str) -> Descriptor:
    return Descriptor(oci.layer_type(layer.media_type, where), layer.digest, layer.size)


def _push_blob(
    store: Store,
    client: Registry,
    target: Reference,
    blob: Descriptor,
    sources: Sequence[str],
    progress: Progress,
) -> None:
    if client.has_blob(target.repository, blob):
        return
    if any(client.mount(target.repository, blob, source) for source in sources):
        return

    def body() -> Iterator[bytes]:
        with store.blob(blob.digest).open("rb") as file:
            yield from _told(streams.pieces(file), blob, "pushing", progress)

    client.put_blob(target.repository, blob, body)


def _told(pieces: Iterator[bytes], blob: Descriptor, verb: str, progress: Progress) -> Iterator[bytes]:
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        progress(f"{verb} {blob.digest[7:19]}: {done / 1e6:.1f} of {blob.size / 1e6:.1f} MB")


def _each(blobs: Sequence[Descriptor], work: Callable[[Descriptor], None]) -> None:
    """Some at once, the largest first; the first failure is raised, and what was not begun is left."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for done in [pool.submit(work, blob) for blob in sorted(blobs, key=lambda blob: -blob.size)]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
