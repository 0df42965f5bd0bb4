"""The installed packages are those of the lock, and each file is the one that its package's RECORD names."""

from __future__ import annotations

import base64

from containers.checks import distributions
from containers.checks.distributions import LOCK, Distribution
from containers.contents import HEADER
from containers.findings import Check, Expected, Finding
from containers.image_tree import ImageTree
from kit.errors import InvalidFileError
from kit.nouns import digest

NAME = "packages"
CHECKED = (0b11).to_bytes(4, "little")  # the flags: by the source's hash, and compared when it is loaded


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result = Check(NAME, expected)
    if expected.line is None:
        result.unknown("lock", expected.unknown)
        return result.findings
    found = distributions.installed(tree, expected)
    _lock(tree, expected, found, result)
    counted = _records(tree, expected, found, result)
    return result.tally("packages", f"{len(found)} as locked, {counted} files as recorded")


def _lock(tree: ImageTree, expected: Expected, found: list[Distribution], result: Check) -> None:
    lock = distributions.locked(tree)
    if lock is None:
        result.wrong("lock", "no lock in the image", LOCK, LOCK)
        return
    hashed = digest((tree.text(LOCK) or "").encode())
    if expected.lock_digest != hashed:
        result.wrong("lock", hashed, f"{expected.lock_digest or 'its digest'} (label slipworks.lock)", LOCK)
    there = {one.name: one for one in found}
    for name, version in sorted(lock.items()):
        one = there.get(name)
        if one is None:
            result.wrong(name, "is not installed", f"version {version}", distributions.site(expected), name)
        elif not _same(one.version, version):
            result.wrong(name, f"version {one.version}", f"version {version}", one.folder, name)
    for one in found:
        if one.name not in lock and one.name not in expected.left_out:
            result.wrong(
                one.name, f"version {one.version} is installed", "not in the lock", one.folder, one.name
            )


def _same(found: str, locked: str) -> bool:
    """The lock's version; a wheel from another index may add where it came from (2.8.0+cu129)."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(found) == Version(locked) or Version(found).public == str(Version(locked))
    except InvalidVersion:
        return found == locked


def _records(tree: ImageTree, expected: Expected, found: list[Distribution], result: Check) -> int:
    """Holds every RECORD against the tree and the tree against all of them; how many files agreed."""
    site = distributions.site(expected)
    owned: set[str] = set()
    counted = 0
    for one in found:
        try:
            rows = list(distributions.recorded(tree, one))
        except InvalidFileError as bad:
            result.wrong(one.name, bad.message, "path, hash and size", f"{one.folder}/RECORD")
            continue
        if not rows:
            result.wrong(one.name, "has no RECORD", "one", f"{one.folder}/RECORD")
        for path, hashed, size in rows:
            owned.add(path)
            wrong = _differs(tree, path, hashed, size)
            if wrong:
                result.wrong(one.name, wrong, "as its RECORD says", path)
            counted += not wrong
    strays = [path for path, entry in tree.entries.items()
              if path.startswith(f"{site}/") and path not in owned and entry.kind != "folder"
              and not _cached(path, owned) and not _alias(tree, path, owned)]  # fmt: skip
    for path in sorted(strays):
        result.wrong("file", "belongs to no package", "named by a RECORD", path)
    _byte_code(tree, site, result)
    return counted


def _byte_code(tree: ImageTree, site: str, result: Check) -> None:
    """Byte code names its source by a hash that Python compares whenever it loads it (PEP 552): only such is
    compiled anew where it is not its source's. That of a wheel, beside its sources, is held to its RECORD."""
    for path, entry in sorted(tree.entries.items()):
        if path.startswith(f"{site}/") and _is_cache(path) and entry.kind == "file":
            header = tree.fact(path).header
            if len(header) < HEADER or header[4:8] != CHECKED:
                begins = header[:8].hex() or "with nothing"
                result.wrong("byte code", f"begins {begins}", "checked by its source's hash", path)


def _differs(tree: ImageTree, path: str, hashed: str, size: str) -> str | None:
    entry = tree.entry(path)
    if _is_cache(path):
        return None  # some wheels bring what Python compiled; it is compiled anew
    if entry is None or entry.kind != "file":
        return "is missing"
    if size and size != str(entry.size):
        return f"has {entry.size} bytes of {size[:20]}"
    kind, _, value = hashed.partition("=")
    if kind == "sha256" and base64.urlsafe_b64encode(entry.sha256).rstrip(b"=").decode() != value:
        return "is changed: another hash"
    return None


def _alias(tree: ImageTree, path: str, owned: set[str]) -> bool:
    """Whether this is a link to a neighbour: a file that a package owns (libx.so.1), or a folder."""
    real = tree.real(path)
    if real is None or tree.entries[path].kind != "link" or _folder(real) != _folder(path):
        return False
    return real in owned or tree.entries[real].kind == "folder"


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _cached(path: str, owned: set[str]) -> bool:
    """Whether this is what Python compiled from a file that a package owns."""
    folder, _, name = path.rpartition("/")
    return _is_cache(path) and f"{folder.removesuffix('__pycache__')}{name.partition('.')[0]}.py" in owned


def _is_cache(path: str) -> bool:
    return path.endswith(".pyc") and _folder(path).endswith("/__pycache__")
