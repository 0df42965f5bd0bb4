"""An image's bill of materials: CycloneDX 1.6 as JSON, by cyclonedx-python-lib.

Pure: equal contents, equal bytes, on every machine. It states no time, and its serial number is made of what
it lists; so its digest can stand in the image's labels.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Any

from msgspec import Struct, json

from containers.debs import Deb
from kit.errors import MissingToolError
from kit.nouns import Base, Platform, Wheel

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License
    from packageurl import PackageURL

# A name space of our own: what is named in it are bills, by their whole text.
_SPACE = uuid.UUID("7d1f8d0c-6f0b-5c57-9a52-6f1d1f3e5a10")


class OwnLayer(Struct, frozen=True, kw_only=True):
    """A self-contained layer on top: it brings an interpreter, libraries and wheels of its own.

    lock      its wheels, as a hash lock
    packages  the distribution's packages that its files were taken from
    base      where there were none to be had: the image, by digest, that they were taken from
    """

    name: str
    version: str
    lock: str
    distribution: str
    suite: str
    packages: tuple[Deb, ...] = ()
    base: str | None = None


class Contents(Struct, frozen=True, kw_only=True):
    """All that an image is made of.

    locks     hash locks of the stack's packages, in any order
    status    the text of dpkg's status file; empty where the image has none
    wheels    extensions that are in it; missing: those that its line asks for and that are not
    licenses  Python package -> what it states of its licence; those that are not here are listed without
    labels    more that is worth saying of the image: becomes its properties
    """

    name: str
    key: str
    platform: Platform
    base: Base
    locks: tuple[str, ...]
    status: str = ""
    wheels: tuple[Wheel, ...] = ()
    missing: tuple[str, ...] = ()
    licenses: dict[str, str] = {}
    layers: tuple[OwnLayer, ...] = ()
    labels: dict[str, str] = {}


class Installed(Struct, frozen=True, order=True):
    """A package that dpkg counts as installed. source: name and version of what it was built from."""

    name: str
    version: str
    architecture: str
    source: tuple[str, str]


def bill(contents: Contents) -> bytes:
    """The bill, as JSON. Deterministic. MissingToolError where the library is not there: in the runner's own
    layer, which builds no images."""
    try:
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as none:
        raise MissingToolError(
            f"cannot write a bill of materials: {none.name} is not installed here", "build from a checkout"
        ) from none

    bom = _bom(contents)
    table = json.decode(JsonV1Dot6(bom).output_as_string())
    del table["metadata"]["timestamp"]  # the library insists on both
    del table["serialNumber"]
    table["serialNumber"] = uuid.uuid5(_SPACE, json.encode(table, order="deterministic").decode()).urn
    return json.format(json.encode(table, order="deterministic"), indent=1) + b"\n"


def _bom(contents: Contents) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType

    properties = {"key": contents.key, "platform": str(contents.platform), **contents.labels}
    if contents.missing:
        properties["missing-extensions"] = " ".join(contents.missing)
    image = Component(
        name=contents.name, version=contents.key[:12], type=ComponentType.CONTAINER, bom_ref="image",
        properties=_properties(properties),
    )  # fmt: skip
    bom = Bom(metadata=BomMetaData(component=image), components=_components(contents))
    bom.register_dependency(image, bom.components)
    return bom


def _components(contents: Contents) -> Iterator[Component]:
    base, arch = contents.base, contents.platform.arch
    yield _container("base", base.reference, base.digest, arch)
    for installed in installed_packages(contents.status):
        yield _distribution(installed, base)
    stated = contents.licenses
    for lock in contents.locks:
        for name, version, hashes in locked(lock):
            yield _python(name, version, hashes, license=stated.get(name))
    for each in contents.wheels:
        yield _python(each.name, each.version, [each.sha256], license=stated.get(each.name), file=each.file)
    for layer in contents.layers:
        yield _own(layer, arch)


def _own(layer: OwnLayer, arch: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    inside = [_python(*one, f"{layer.name}/") for one in locked(layer.lock)]
    inside += [_taken(deb, layer, arch) for deb in layer.packages]
    if layer.base:
        reference, _, digest = layer.base.partition("@")
        inside.append(_container(f"{layer.name}/base", reference, digest or None, arch))
    return Component(
        name=layer.name, version=layer.version, type=ComponentType.APPLICATION, bom_ref=layer.name,
        components=inside,
    )  # fmt: skip


def _python(
    name: str, version: str, hashes: Iterable[str], within: str = "", *, license: str | None = None,
    file: str | None = None,
) -> Component:  # fmt: skip
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    purl = PackageURL("pypi", None, name, version, {"file_name": file} if file else None)
    return Component(
        name=name, version=version, purl=purl, bom_ref=_ref(within, purl), hashes=_hashes(hashes),
        licenses=_licenses(license),
    )  # fmt: skip


def _distribution(package: Installed, base: Base) -> Component:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    found = {"arch": package.architecture, "distro": base.suite}
    # By the source's name and version vulnerabilities are looked up.
    name, version = package.source
    if (name, version) != (package.name, package.version):
        found["upstream"] = name if version == package.version else f"{name}@{version}"
    purl = PackageURL("deb", base.distribution, package.name, package.version, found)
    return Component(name=package.name, version=package.version, purl=purl, bom_ref=_ref("", purl))


def _taken(deb: Deb, layer: OwnLayer, arch: str) -> Component:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    purl = PackageURL("deb", layer.distribution, deb.name, deb.version, {"arch": arch, "distro": layer.suite})
    return Component(
        name=deb.name, version=deb.version, purl=purl, bom_ref=_ref(f"{layer.name}/", purl),
        hashes=_hashes([deb.sha256]),
    )  # fmt: skip


def _container(ref: str, reference: str, digest: str | None, arch: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    repository, tag = split_reference(reference)
    more = {"arch": arch, "repository_url": repository} | ({"tag": tag} if tag else {})
    purl = PackageURL("oci", None, repository.rpartition("/")[2], digest, more)
    return Component(
        name=repository, version=tag or digest, type=ComponentType.CONTAINER, purl=purl, bom_ref=ref,
        hashes=_hashes([digest.removeprefix("sha256:")] if digest else []),
    )  # fmt: skip


def split_reference(reference: str) -> tuple[str, str | None]:
    """`host:5000/a/b:tag` as repository and tag; a digest in it is left out."""
    name = reference.partition("@")[0]
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, None)


def _ref(within: str, purl: PackageURL) -> str:
    return f"{within}{purl.to_string()}"


def _hashes(found: Iterable[str]) -> list[HashType]:
    """Several where the lock allows several files for one package: which of them was taken is not known."""
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=each) for each in found]


def _properties(found: Mapping[str, str]) -> list[Property]:
    from cyclonedx.model import Property

    return [Property(name=f"slipworks:{name}", value=value) for name, value in sorted(found.items())]


def _licenses(stated: str | None) -> list[License]:
    from cyclonedx.contrib.license.factories import LicenseFactory

    return [LicenseFactory().make_from_string(stated)] if stated else []


_PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def locked(text: str) -> list[tuple[str, str, list[str]]]:
    """Name, version and hashes of the packages of a hash lock that was checked before."""
    found: list[tuple[str, str, list[str]]] = []
    for line in text.splitlines():
        if package := _PACKAGE.match(line):
            found.append((package["name"], package["version"], []))
        if found:
            found[-1][2].extend(_HASH.findall(line))
    return found


def licenses(metadata: Iterable[str]) -> dict[str, str]:
    """Package (by its normalized name) -> what it states of its licence, from texts of METADATA files.

    Its SPDX expression; else a short License line; else the classifiers. What states nothing is left out.
    """
    heads = map(HeaderParser().parsestr, metadata)
    found = {re.sub(r"[-_.]+", "-", head.get("Name", "")).lower(): _stated(head) for head in heads}
    return {name: license for name, license in found.items() if name and license}


_CLASSIFIER = "License :: "


def _stated(head: Message[str, str]) -> str:
    classified = [each.rpartition("::")[2].strip() for each in head.get_all("Classifier", ())
                  if each.startswith(_CLASSIFIER) and each.strip() != "License :: OSI Approved"]  # fmt: skip
    line = head.get("License", "").strip()
    short = line if line.upper() != "UNKNOWN" and "\n" not in line and len(line) <= 80 else ""
    return head.get("License-Expression", "").strip() or short or ", ".join(classified)


_NOT_THERE = ("config-files", "not-installed", "half-installed")


def installed_packages(status: str) -> list[Installed]:
    """What a dpkg status file says is there: also packages whose scripts were not run."""
    found = (_fields(stanza) for stanza in re.split(r"\n\s*\n", status))
    return sorted(
        _installed(each) for each in found
        if {"Package", "Version"} <= each.keys()
        if each.get("Status", "installed").split()[-1] not in _NOT_THERE
    )  # fmt: skip


def _installed(fields: Mapping[str, str]) -> Installed:
    name, version = fields["Package"], fields["Version"]
    source = re.fullmatch(r"(\S+)(?: \((.+)\))?", fields.get("Source", name))
    built_from = (source[1], source[2] or version) if source else (name, version)
    return Installed(name, version, fields.get("Architecture", "all"), built_from)


def _fields(stanza: str) -> dict[str, str]:
    lines = (line.partition(":") for line in stanza.splitlines() if not line.startswith((" ", "\t")))
    return {name: value.strip() for name, _, value in lines}


def packages_in(bill: bytes) -> dict[str, int]:
    """How many components of each kind a bill lists, by the kind's word in their address: pypi, deb, oci.

    Needs no library. Raises msgspec.DecodeError for what is no JSON.
    """
    counts: dict[str, int] = {}
    table: Any = json.decode(bill)
    for component in table.get("components", ()):
        kind = re.match(r"pkg:([a-z]+)/", component.get("purl", ""))
        counts[kind[1] if kind else "other"] = counts.get(kind[1] if kind else "other", 0) + 1
    return counts
