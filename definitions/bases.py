"""Bases: what images stand on, read from bases.toml."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from kit.decode import convert, toml_file
from kit.errors import InvalidFileError
from kit.nouns import Base, Platform, check_digest
from kit.suggest import unknown

FILE = Path(str(files("definitions") / "bases.toml"))
LOCAL = "localhost/slipworks/bootstrap"
"""The local name of bootstrapped bases: no engine asks a registry for it."""


class _Table(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One table of the file; its `kind` says which."""


class Registry(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="registry"):
    """A base that is pulled.

    digest   of the index (all platforms) or of the manifest; empty: not pinned
    date     when the tag was seen to point at the digest
    sources  where the digest was found: two independent ones, or the registry itself
    """

    reference: str
    digest: str = ""
    date: str = ""
    sources: tuple[str, ...] = ()
    python: str
    interpreter: str
    distribution: str
    suite: str


class System(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bootstrapped base is made of on one distribution."""

    suite: str
    python: str
    interpreter: str
    packages: tuple[str, ...]
    headers: tuple[str, ...] = ()


class Bootstrap(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="bootstrap"):
    """A base that is made on this machine of packages, from its own apt sources."""

    debian: System
    ubuntu: System


def names(file: Path = FILE) -> tuple[str, ...]:
    """All bases, sorted."""
    return tuple(sorted(_read(file)))


def load(name: str, distribution: str = "debian", file: Path = FILE) -> Base:
    """A base by name; `distribution` is which system a bootstrapped one is made of.

    Its digest is None where it is not pinned (registry) or not made yet (bootstrap).
    """
    there = _read(file)
    if name not in there:
        raise unknown("base", name, there)
    found = there[name]
    if isinstance(found, Registry):
        return _pulled(name, found, file)
    systems = {"debian": found.debian, "ubuntu": found.ubuntu}
    if distribution not in systems:
        raise unknown("distribution", distribution, systems)
    system = systems[distribution]
    return Base(
        name=name, kind="bootstrap", reference=f"{LOCAL}:{distribution}-{system.suite}", digest=None,
        distribution=distribution, **structs.asdict(system),
    )  # fmt: skip


def at(base: Base, platform: Platform, digest: str | None) -> Base:
    """A base as it was found or made for one platform: with its digest, under a name of its own.

    The local name of a bootstrapped base holds platform and digest, so that builds on different ones can run
    side by side in one engine.
    """
    check = check_digest(digest, f"base {base.name}") if digest else None
    if base.kind == "registry":
        return structs.replace(base, digest=check or base.digest)
    short = f"-{check.removeprefix('sha256:')[:12]}" if check else ""
    return structs.replace(base, digest=check, reference=f"{base.reference}-{platform.arch}{short}")


def pinned(base: Base) -> str:
    """What FROM names: by digest where it is known, then without the tag: some engines refuse both."""
    if base.kind == "bootstrap" or not base.digest:
        return base.reference
    name, _, tag = base.reference.rpartition(":")
    return f"{name if name and '/' not in tag else base.reference}@{base.digest}"


def _read(file: Path) -> dict[str, Registry | Bootstrap]:
    return {name: _table(name, raw, file) for name, raw in toml_file(file, dict[str, dict[str, Any]]).items()}


KINDS: dict[str, type[Registry] | type[Bootstrap]] = {"registry": Registry, "bootstrap": Bootstrap}


def _table(name: str, raw: dict[str, Any], file: Path) -> Registry | Bootstrap:
    """Read one by one: of a table among many, a complaint could not say which one it is."""
    if raw.get("kind") not in KINDS:
        raise unknown("kind", str(raw.get("kind", "")), KINDS, f"{file}, table [{name}]")

    def locate(at: str) -> str:
        return f"{file}, table [{'.'.join([name, *at.split('.')[:-1]])}]"

    return convert(raw, KINDS[raw["kind"]], str(file), locate)


def _pulled(name: str, found: Registry, file: Path) -> Base:
    where = f"{file}, table [{name}]"
    if found.digest:
        check_digest(found.digest, where)
        if not found.sources or not found.date:
            raise InvalidFileError(f"{where}: a digest needs its sources and its date beside it")
    return Base(
        name=name,
        kind="registry",
        reference=found.reference,
        digest=found.digest or None,
        python=found.python,
        interpreter=found.interpreter,
        distribution=found.distribution,
        suite=found.suite,
    )
