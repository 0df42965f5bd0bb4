"""The temporary folder in which an engine builds: context, text and secrets under names without surprises.

Engines take several of these as `key=value,…` or `transport:path:name`, where a comma or a colon in a path
would be read as punctuation; relative names in a folder of our own never hold one.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from secrets import token_hex

from msgspec import Struct, json

from containers.secrets import BuildSecrets
from kit import files
from kit.errors import InvalidFileError, NotFoundError
from kit.nouns import Image


class Workplace(Struct, frozen=True):
    """`folder` is the working directory of the engine's command; `context` and `text` are names in it.

    secrets  the ids of the secrets that are there, each the name of a link in `folder`.
    """

    folder: Path
    secrets: tuple[str, ...]
    context: str = "context"
    text: str = "text"


@contextlib.contextmanager
def workplace(context: Mapping[str, str], text: str, secrets: BuildSecrets) -> Iterator[Workplace]:
    """Writes all that a build reads; gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="slipworks-build-") as name:
        folder = Path(name)
        with files.space_named(folder):
            place = folder / "context"
            place.mkdir()
            for inner, body in context.items():
                if PurePosixPath(inner).is_absolute() or ".." in PurePosixPath(inner).parts:
                    raise InvalidFileError(f"a name in a build context must stay inside it: found {inner!r}")
                target = place / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(body)
            (folder / "text").write_text(text)
        there = {"index": secrets.index, "ca": secrets.ca}
        for secret, path in there.items():
            if path is not None:
                (folder / secret).symlink_to(path.absolute())
        yield Workplace(folder, tuple(secret for secret, path in there.items() if path is not None))


@contextlib.contextmanager
def layout(image: Image) -> Iterator[tuple[Path, str]]:
    """A folder and a word: to commands started in that folder, the word names the store's image.

    It is a layout of that image alone, on the store's own blobs: engines disagree on how to name one of many
    (podman and apptainer 1.3 want `oci:path:name`, apptainer 1.4 `oci:path@digest`).
    """
    blob = image.path / "blobs" / image.digest.replace(":", "/")
    try:
        manifest = {"mediaType": _media_type(blob), "digest": image.digest, "size": blob.stat().st_size}
    except OSError as reason:
        raise NotFoundError(f"the store has no readable {image.name}: {blob}: {reason.strerror}") from reason
    with tempfile.TemporaryDirectory(prefix="slipworks-layout-") as name:
        folder = Path(name)
        place = (
            folder / f"layout-{token_hex(6)}"
        )  # podman makes an image name of it, which must be ours alone
        place.mkdir()
        (place / "oci-layout").write_bytes(json.encode({"imageLayoutVersion": "1.0.0"}))
        (place / "index.json").write_bytes(json.encode({"schemaVersion": 2, "manifests": [manifest]}))
        (place / "blobs").symlink_to((image.path / "blobs").absolute())
        yield folder, f"oci:{place.name}"


def _media_type(manifest: Path) -> str:
    """What the manifest says of itself; OCI allows it to say nothing."""
    found = json.decode(manifest.read_bytes()).get("mediaType")
    return found or "application/vnd.oci.image.manifest.v1+json"


def config_digest(image: Image) -> str:
    """What engines call the image's id: the digest of its config, as its manifest in the layout says."""
    algorithm, _, value = image.digest.partition(":")
    path = image.path / "blobs" / algorithm / value
    try:
        manifest = json.decode(path.read_bytes())
        found: str = manifest["config"]["digest"]
    except (OSError, ValueError, KeyError, TypeError) as broken:
        raise InvalidFileError(f"no readable manifest of {image.name} at {path}") from broken
    return found
