"""The few nouns that every part shares. All frozen; all plain data that msgspec can write as JSON.

A noun that only one part needs lives in that part.
"""

from __future__ import annotations

import hashlib
import platform as _host
import re
from pathlib import Path
from typing import Literal

from msgspec import Struct, json

from kit.errors import InvalidFileError
from kit.suggest import unknown

Format = Literal["oci", "sif"]
FORMATS: tuple[Format, ...] = ("oci", "sif")

# OCI's word for an architecture -> the kernel's word (uname -m), which wheels use too.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class Platform(Struct, frozen=True, order=True):
    """An OCI platform. `arch` is OCI's (and Debian's) word: amd64, arm64."""

    arch: str
    os: str = "linux"

    def __post_init__(self) -> None:
        if self.os != "linux" or self.arch not in MACHINES:
            raise unknown("platform", f"{self.os}/{self.arch}", [f"linux/{arch}" for arch in MACHINES])

    def __str__(self) -> str:
        return f"{self.os}/{self.arch}"

    @classmethod
    def parse(cls, text: str) -> Platform:
        """From `linux/arm64`, or from `arm64` alone."""
        os, _, arch = text.rpartition("/")
        return cls(arch=arch, os=os or "linux")

    @classmethod
    def host(cls) -> Platform:
        """The platform of the machine that this process runs on."""
        by_machine = {machine: arch for arch, machine in MACHINES.items()}
        machine = _host.machine()
        if machine not in by_machine:
            raise unknown("machine", machine, by_machine)
        return cls(arch=by_machine[machine])

    @property
    def machine(self) -> str:
        """The kernel's word: x86_64, aarch64."""
        return MACHINES[self.arch]


_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest(data: bytes) -> str:
    """`sha256:<hex>` of the bytes: OCI's form, used for everything that is hashed here."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(text: str, where: str) -> str:
    """The text itself if it is a sha256 digest; InvalidFileError naming `where` if not."""
    if not _DIGEST.fullmatch(text):
        raise InvalidFileError(f"not a digest in {where}: found {text!r}, expected sha256: and 64 hex digits")
    return text


class Base(Struct, frozen=True, kw_only=True):
    """What an image stands on, for one platform.

    kind       "registry": `reference` is pulled by the engine, pinned by `digest`.
               "bootstrap": a root file system made on this machine of packages; `reference` is the local
               name under which an engine must have it, `digest` that of its layer once it was made.
    digest     None: not pinned (registry) or not made yet (bootstrap).
    python     the interpreter that it holds, as "3.13", at `interpreter`.
    headers    distribution packages with the interpreter's C headers, where the base itself has none.
    """

    name: str
    kind: Literal["registry", "bootstrap"]
    reference: str
    digest: str | None
    python: str
    interpreter: str
    distribution: str
    suite: str
    packages: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


class Wheel(Struct, frozen=True, order=True):
    """A wheel of the wheelhouse: `file` is its name, sha256 in hex."""

    name: str
    version: str
    file: str
    sha256: str


class Group(Struct, frozen=True, kw_only=True):
    """A part of a stack that becomes one layer of the image.

    lock    a hash lock of the group's packages alone; empty where it is made of wheels only.
    whole   in the group that is the environment itself (interpreter's link, pyvenv.cfg) and has no package:
            the text of the whole stack's lock, which rides in the image. None in all others.
    wheels  extensions, from the wheelhouse.
    """

    name: str
    lock: str
    whole: str | None = None
    wheels: tuple[Wheel, ...] = ()


class StackLayer(Struct, frozen=True, kw_only=True):
    """What a layer of a stack is made of: all that decides its bytes.

    python, interpreter  of the image: "3.13", at "/usr/bin/python3.13"
    glibc     the oldest glibc that its wheels may ask for, as "2.35"
    source    packages that exist only as sources (pure Python): the only ones built at installation
    tools     a hash lock of what builds them
    compiler  names the Python that byte-compiles: a package and its version, or the digest of the base whose
              own it is (of a bootstrapped one that is not made yet, ""); "" where nothing is compiled
    cuda_home text of a Python program that lays out CUDA's folder, in the group that has CUDA's compiler:
              run with the site folder and the machine's word
    """

    group: Group
    platform: Platform
    python: str
    interpreter: str
    glibc: str
    source: tuple[str, ...] = ()
    tools: str = ""
    compiler: str = ""
    cuda_home: str = ""


class Recipe(Struct, frozen=True, kw_only=True):
    """All that makes one image of one platform. Pure data: made without an engine and without network.

    system     distribution packages that the image has beside those of its base.
    stack      the layers of the stack, lowest first.
    environment  of every process in the image.
    context    name in the build context -> the file's text (locks, scripts): all that the two texts COPY.
    inputs     name -> digest or plain value, of everything that went in; `key` is made of these alone.
    labels     OCI labels of the image; also in the SIF.
    extensions packages of the line without wheels that the wheelhouse lacks too: named in its record.
    """

    arch: str
    line: str
    platform: Platform
    python: str
    base: Base
    system: tuple[str, ...] = ()
    stack: tuple[StackLayer, ...] = ()
    environment: dict[str, str] = {}
    containerfile: str
    apptainer_def: str
    context: dict[str, str]
    inputs: dict[str, str]
    labels: dict[str, str]
    compute_capabilities: tuple[str, ...] = ()
    driver_floor: str | None = None
    extensions: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """64 hex digits over `inputs`: equal inputs, equal key, on every machine."""
        return key_of(self.inputs)

    @property
    def name(self) -> str:
        """Short and human: `cpu-cpu-amd64-1a2b3c4d5e6f` (arch, line, platform, the key's first 12)."""
        return f"{self.arch}-{self.line}-{self.platform.arch}-{self.key[:12]}"

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """The extensions that come from the wheelhouse."""
        return tuple(wheel for layer in self.stack for wheel in layer.group.wheels)


def key_of(inputs: dict[str, str]) -> str:
    """64 hex digits over a canonical form of name -> value."""
    return hashlib.sha256(json.encode(sorted(inputs.items()))).hexdigest()


class Image(Struct, frozen=True, kw_only=True):
    """An image that lies in the store.

    digest     of the manifest (oci) or of the file (sif): what came out.
    path       the store's OCI layout directory (oci), or the SIF file.
    name       the recipe's name, also its tag in the layout.
    """

    key: str
    name: str
    format: Format
    platform: Platform
    digest: str
    path: Path
    labels: dict[str, str] = {}


class LayerSpec(Struct, frozen=True, kw_only=True):
    """A self-contained layer, as data: what one top-level folder of its own is made of.

    folder       absolute and at the top level ("/slipworks"), so that no entry restates a base's own folder.
    python       "3.13", as the distribution's packages have it.
    packages     the distribution's packages whose files are taken; libraries: those opened by name only.
    base         where there are no packages to be had: the image, by digest, whose files are taken.
    prefix       where the interpreter lies in those packages, or in that base.
    entries      command -> "module:function"; each becomes an executable in `folder`/bin.
    sources      packages of this kit that ride along.
    files        path in `folder` -> program, file or folder of those packages.
    texts        path in `folder` -> what is written there; {folder} in it stands for the folder.
    source       packages that exist as sources only (pure Python), built by what the lock `tools` names.
    leave_out    glob patterns below `folder`/python; those that begin with / below `folder`.
    locks, pins  by OCI architecture: a hash lock of wheels; lines of `package version sha256`.
    """

    name: str
    folder: str
    distribution: str
    suite: str
    python: str
    entries: dict[str, str]
    locks: dict[str, str]
    packages: tuple[str, ...] = ()
    pins: dict[str, str] = {}
    base: str | None = None
    prefix: str = "/usr"
    libraries: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    files: dict[str, str] = {}
    texts: dict[str, str] = {}
    source: tuple[str, ...] = ()
    tools: str = ""
    leave_out: tuple[str, ...] = ()


class LayerBuild(Struct, frozen=True, kw_only=True):
    """A layer that was built: a gzip-compressed tar at `path`.

    digest, size      of the compressed file; diff_id, unpacked: of the tar inside.
    packages          distribution package -> "version sha256:…", as really taken.
    """

    name: str
    key: str
    platform: Platform
    path: Path
    digest: str
    size: int
    diff_id: str
    unpacked: int
    packages: dict[str, str]
