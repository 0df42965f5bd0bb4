"""Where baked images go: a target as it is kept, and the name of an image there."""

from __future__ import annotations

from image_cache.places import Origin
from image_cache.references import HUB, Reference
from kit.errors import UsageError


def target(text: str) -> str:
    """`--to` as it is kept: `host[:port]/namespace`, a registry alone, or a layout or archive with its whole
    path."""
    bare = text.rstrip("/")
    if is_local(bare):
        return str(Origin.parse(bare))
    host, _, namespace = bare.partition("/")
    if not namespace and (host == "localhost" or any(mark in host for mark in ".:")):
        return Reference.parse(f"{host}/x").host
    found = Reference.parse(bare)
    if found.digest or (namespace or host).rpartition("/")[2].count(":"):
        raise UsageError(
            f"--to takes a registry and a namespace: found {text!r}", "such as localhost:5000/sandboxes"
        )
    # A name alone is Docker's library in a reference; here it is somebody's namespace.
    name = found.repository if "library/" in bare else found.repository.removeprefix("library/")
    return f"{found.host}/{name}"


def is_local(to: str) -> bool:
    """A layout or an archive."""
    return to.startswith(("oci:", "oci-archive:", "docker-archive:"))


def repository(to: str, origin: Origin) -> str:
    """Where in the target a base's image goes. Docker Hub has no folders within a namespace."""
    if is_local(to):
        return origin.repository
    host, _, namespace = to.partition("/")
    name = origin.repository.replace("/", "-") if host == HUB else origin.repository
    return f"{namespace}/{name}" if namespace else name
