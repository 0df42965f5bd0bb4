"""Temporary folders that engines read from, under names without surprises.

Engines take several of these as `key=value,…` or `transport:path:name`, where a comma or a colon in a path
would be read as punctuation; relative names in a folder of our own never hold one.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Any

from msgspec import json

from kit import files
from kit.errors import InvalidFileError, NotFoundError
from kit.nouns import Image


@contextlib.contextmanager
def workplace(context: Mapping[str, str], above: Path) -> Iterator[Path]:
    """A folder of our own in `above`, with a folder `context` that holds these texts; gone afterwards."""
    above.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".slipworks-build-", suffix=".tmp", dir=above) as name:
        place = Path(name) / "context"
        with files.space_named(place):
            place.mkdir()
            for inner, body in context.items():
                if PurePosixPath(inner).is_absolute() or ".." in PurePosixPath(inner).parts:
                    raise InvalidFileError(f"a name in a build context must stay inside it: found {inner!r}")
                target = place / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(body)
        yield Path(name)


@contextlib.contextmanager
def layout(image: Image, name: str | None = None) -> Iterator[tuple[Path, str]]:
    """A folder and a word: to commands started in that folder, the word names the store's image.

    It is a layout of that image alone, on the store's own blobs: engines disagree on how to name one of many
    (podman and apptainer 1.3 want `oci:path:name`, apptainer 1.4 `oci:path@digest`).
    name  of the layout in that folder. None: one of its own, since podman makes an image name of it.
    """
    with tempfile.TemporaryDirectory(prefix="slipworks-layout-") as made:
        folder = Path(made)
        place = folder / (name or f"layout-{token_hex(6)}")
        lay_out(image, place)
        yield folder, f"oci:{place.name}"


def lay_out(image: Image, place: Path) -> None:
    """Makes `place` a layout of one image of the store, on the store's own blobs."""
    blob = image.path / "blobs" / image.digest.replace(":", "/")
    try:
        manifest = {"mediaType": _media_type(blob), "digest": image.digest, "size": blob.stat().st_size}
    except OSError as reason:
        raise NotFoundError(f"the store has no readable {image.name}: {blob}: {reason.strerror}") from reason
    place.mkdir(parents=True)
    (place / "oci-layout").write_bytes(json.encode({"imageLayoutVersion": "1.0.0"}))
    (place / "index.json").write_bytes(json.encode({"schemaVersion": 2, "manifests": [manifest]}))
    (place / "blobs").symlink_to((image.path / "blobs").absolute())


def config_digest(image: Image) -> str:
    """What engines call the image's id: the digest of its config, as its manifest in the layout says."""
    return str(_manifest(image)["config"]["digest"])


def packed_size(image: Image) -> int:
    """Bytes of all its layers, as they lie in the store."""
    return sum(int(layer["size"]) for layer in _manifest(image)["layers"])


def created(image: Image) -> int:
    """The newest time that its config states, in seconds since 1970: as a rule no file of it is newer."""
    config = _blob(image, config_digest(image))
    said = [config.get("created"), *(entry.get("created") for entry in config.get("history") or [])]
    return max((int(datetime.fromisoformat(text).timestamp()) for text in said if text), default=0)


def _media_type(manifest: Path) -> str:
    """What the manifest says of itself; OCI allows it to say nothing."""
    found = json.decode(manifest.read_bytes()).get("mediaType")
    return found or "application/vnd.oci.image.manifest.v1+json"


def _manifest(image: Image) -> dict[str, Any]:
    found = _blob(image, image.digest)
    if "digest" not in (found.get("config") or {}) or not isinstance(found.get("layers"), list):
        raise InvalidFileError(f"no readable manifest of {image.name} in {image.path}")
    return found


def _blob(image: Image, digest: str) -> dict[str, Any]:
    path = image.path / "blobs" / digest.replace(":", "/")
    try:
        found = json.decode(path.read_bytes())
    except (OSError, ValueError) as broken:
        raise InvalidFileError(f"no readable manifest or config of {image.name} at {path}") from broken
    if not isinstance(found, dict):
        raise InvalidFileError(f"no readable manifest or config of {image.name} at {path}")
    return found
