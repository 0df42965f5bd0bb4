"""Whether what lies in the store is what its names promise."""

from __future__ import annotations

from collections.abc import Sequence

from image_cache.blobs import Blobs, file_size
from image_cache.oci import Descriptor
from kit import share
from kit.nouns import digest_file


def cut_short(blobs: Blobs, wanted: Sequence[Descriptor]) -> str | None:
    """The first of some blobs that is gone or has another size, in words; None when there is none. Fast."""
    for blob in wanted:
        if not blobs.has(blob):
            return f"blob {blob.digest} has {file_size(blobs.blob(blob.digest))} bytes of {blob.size}"
    return None


def damaged(
    blobs: Blobs, wanted: Sequence[Descriptor], seen: dict[str, str | None]
) -> list[tuple[Descriptor, str]]:
    """Those of some blobs that are not what their digests say, with what is there. Reads every byte, but of
    those that are in `seen`, to which what is found is added."""
    from concurrent.futures import ThreadPoolExecutor

    each = {blob.digest: blob for blob in wanted}
    unseen = [blob for digest, blob in each.items() if digest not in seen]
    with ThreadPoolExecutor(share.cpus()) as pool:
        found = pool.map(lambda blob: _wrong(blobs, blob), unseen)
        seen.update(zip((blob.digest for blob in unseen), found, strict=True))
    return [(blob, wrong) for digest, blob in each.items() if (wrong := seen[digest])]


def _wrong(blobs: Blobs, blob: Descriptor) -> str | None:
    if short := cut_short(blobs, [blob]):
        return short
    try:
        found = digest_file(blobs.blob(blob.digest))
    except OSError as bad:
        return f"blob {blob.digest} cannot be read: {bad.strerror}"
    return None if found == blob.digest else f"blob {blob.digest} hashes to {found}"
