"""Self-contained layers: layers/<name>/ read into a LayerSpec."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from definitions import bases
from kit import decode
from kit.errors import UnpinnedError, UnsupportedError
from kit.nouns import MACHINES, LayerSpec
from kit.suggest import unknown


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a layer's interpreter and libraries come from on one distribution."""

    suite: str
    python: str
    packages: tuple[str, ...]


class Pulled(Struct, frozen=True, forbid_unknown_fields=True):
    """Where they come from without apt: a pinned base that holds a whole Python below `prefix`."""

    base: str
    python: str
    prefix: str


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    summary: str
    folder: str
    entries: dict[str, str]
    debian: Source
    ubuntu: Source
    pulled: Pulled | None = None
    sources: tuple[str, ...] = ()
    files: dict[str, str] = {}
    texts: dict[str, str] = {}
    source: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()


def _root() -> Traversable:
    return resources.files("definitions") / "layers"


def names() -> tuple[str, ...]:
    """The layers there are."""
    return tuple(sorted(each.name for each in _root().iterdir() if (each / "layer.toml").is_file()))


def load(name: str, distribution: str | None = "debian") -> LayerSpec:
    """The layer as made from one distribution's packages, or, for None, from the files of a pinned base.

    Pure: reads our own data files only. UnpinnedError where that base has no digest.
    """
    if name not in names():
        raise unknown("layer", name, names())
    at = _root() / name
    file = decode.toml((at / "layer.toml").read_text(), _File, f"layers/{name}/layer.toml")
    return LayerSpec(
        name=name,
        folder=file.folder,
        entries=file.entries,
        sources=file.sources,
        files=file.files,
        texts={path: (at / "files" / name).read_text() for path, name in file.texts.items()},
        source=file.source,
        tools=(resources.files("definitions") / "tools/build.lock").read_text() if file.source else "",
        libraries=file.libraries,
        leave_out=file.leave_out,
        **(_packaged(file, distribution, at) if distribution else _pulled(file, at)),
    )


def _packaged(file: _File, distribution: str, at: Traversable) -> dict[str, Any]:
    by_distribution = {"debian": file.debian, "ubuntu": file.ubuntu}
    if distribution not in by_distribution:
        raise unknown("distribution", distribution, by_distribution)
    source = by_distribution[distribution]
    return {
        **structs.asdict(source),
        "distribution": distribution,
        "locks": _by_arch(at, lambda arch: lock_name(source.python, arch)),
        "pins": _by_arch(at, lambda arch: pins_name(distribution, arch)),
    }


def _pulled(file: _File, at: Traversable) -> dict[str, Any]:
    given = file.pulled
    if given is None:
        raise UnsupportedError(
            f"layer {at.name} is made of a distribution's packages only",
            "use a machine with Debian's or Ubuntu's apt",
        )
    base = bases.load(given.base)
    if not base.digest:
        raise UnpinnedError(
            f"base {base.name} is not pinned: the layer cannot be made of {base.reference}", "make pins"
        )
    return {
        "distribution": base.distribution,
        "suite": base.suite,
        "python": given.python,
        "prefix": given.prefix,
        "base": bases.pinned(base),
        "locks": _by_arch(at, lambda arch: lock_name(given.python, arch)),
    }


def lock_name(python: str, arch: str) -> str:
    """The file that pins the wheels: `cp313-arm64.lock`."""
    return f"cp{python.replace('.', '')}-{arch}.lock"


def pins_name(distribution: str, arch: str) -> str:
    """The file that pins the distribution's packages: `debian-arm64.packages`."""
    return f"{distribution}-{arch}.packages"


def folder(name: str) -> Path:
    """Where the layer's files lie, for the command that writes them: in a checkout."""
    return Path(__file__).parent / "layers" / name


def _by_arch(at: Traversable, name: Callable[[str], str]) -> dict[str, str]:
    """OCI architecture -> text, of those files that there are."""
    files = {arch: at / name(arch) for arch in MACHINES}
    return {arch: file.read_text() for arch, file in files.items() if file.is_file()}
