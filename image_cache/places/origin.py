"""What a base is called, wherever it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from msgspec import Struct

from image_cache.references import Reference
from kit.errors import InvalidFileError
from kit.nouns import check_digest

Kind = Literal["registry", "oci", "oci-archive", "docker-archive"]
_LOCAL = re.compile(r"(oci|oci-archive|docker-archive):(?!//)(.+)", re.DOTALL)
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


class Origin(Struct, frozen=True):
    """An image in a place.

    kind, place  "registry" and its host; or what is at a path, which is absolute.
    repository   in the registry; of a local one what it would be called there, made of the path's last part.
    tag, digest  as in a Reference. The tag of a local one is the whole name that it has there ("a/b:c"), and
                 None where none was given: then the place must hold a single image.
    """

    kind: Kind
    place: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Origin:
        """`python:3.12`, `localhost:5000/a/b@sha256:…`, `oci:DIR[:NAME]`, `oci-archive:FILE[:NAME]`,
        `docker-archive:FILE[:NAME]`, each local one also with `@sha256:…` at its end."""
        local = _LOCAL.fullmatch(text)
        if not local:
            found = Reference.parse(text)
            return cls("registry", found.host, found.repository, found.tag, found.digest)
        rest, at, digest = local[2].partition("@sha256:")
        path, _, name = rest.partition(":")
        if not path:
            raise InvalidFileError(f"no path in {text!r}", f"such as {local[1]}:FOLDER:NAME")
        whole = Path(path).absolute()
        checked = check_digest(f"sha256:{digest}", f"the reference {text!r}") if at else None
        kind: Kind = local[1]  # type: ignore[assignment]
        return cls(kind, str(whole), _named(whole, kind), name or None, checked)

    def __str__(self) -> str:
        if self.kind == "registry":
            return str(self.reference)
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.kind}:{self.place}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def reference(self) -> Reference:
        """Of an image in a registry."""
        return Reference(self.place, self.repository, self.tag, self.digest)

    def at(self, digest: str) -> Origin:
        """The same image by its digest."""
        return Origin(self.kind, self.place, self.repository, self.tag, digest)


def _named(path: Path, kind: Kind) -> str:
    bare = path.name if kind == "oci" else path.name.removesuffix(".tar")
    return _NOT_IN_NAMES.sub("-", bare.lower()).strip("-") or "image"
