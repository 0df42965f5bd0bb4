"""Extensions: packages with CUDA code that exist only as sources. Adding one is adding a table of data."""

from __future__ import annotations

import re
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from msgspec import Struct, structs
from packaging.utils import canonicalize_name

from definitions.lockfile import Lock
from kit import process
from kit.decode import toml_file
from kit.errors import HashMismatchError, InvalidFileError, NetworkError, NotFoundError
from kit.suggest import unknown

FILE = Path(str(files("definitions") / "extensions.toml"))
_HEX = re.compile(r"[0-9a-f]{64}")


class Extension(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One extension, as it is compiled.

    sha256       of the source archive.
    module       what is imported from it.
    memory       GB (2**30 bytes) that one compile job takes at its peak.
    build        packages that its setup needs beside the standard library, by normalized name.
    environment  what its setup reads, with placeholders; see `variables`.
    """

    name: str = ""
    version: str
    sha256: str
    module: str
    memory: int
    build: tuple[str, ...] = ()
    environment: dict[str, str] = {}

    def variables(self, capabilities: Sequence[str], jobs: int) -> dict[str, str]:
        """The environment of a build for these compute capabilities ("9.0") with so many jobs. Pure."""
        places = {
            "{numbers}": ";".join(each.replace(".", "") for each in capabilities),
            "{capabilities}": ";".join(capabilities),
        }
        found = {
            "TORCH_CUDA_ARCH_LIST": "{capabilities}",
            **self.environment,
            # Files are the jobs: with one GPU a second thread of the compiler has nothing to do.
            **{"MAX_JOBS": str(jobs), "NVCC_THREADS": "1"},
        }
        for place, text in places.items():
            found = {name: value.replace(place, text) for name, value in found.items()}
        return found

    def missing(self, lock: Lock) -> tuple[str, ...]:
        """Packages that its setup needs and that a stack does not have."""
        return tuple(name for name in self.build if lock.version(name) is None)


def names(file: Path = FILE) -> tuple[str, ...]:
    """All extensions, sorted."""
    return tuple(sorted(_all(file)))


def load(name: str, file: Path = FILE) -> Extension:
    """An extension by name, however it is spelt (flash_attn). UnknownNameError with a did-you-mean."""
    found = _all(file)
    if (normal := canonicalize_name(name)) not in found:
        raise unknown("extension", name, found, str(file.name))
    return found[normal]


def _all(file: Path) -> dict[str, Extension]:
    table = toml_file(file, dict[str, Extension])
    for name, each in table.items():
        if not _HEX.fullmatch(each.sha256) or each.memory < 1 or name != canonicalize_name(name):
            raise InvalidFileError(
                f"{file}, table [{name}]: expected a normalized name, a sha256 of 64 hex digits, memory in GB"
            )
    return {name: structs.replace(each, name=name) for name, each in table.items()}


def jobs(extension: Extension, cpus: int, memory: int) -> int:
    """How many compile jobs fit: one a CPU, and each with its memory (`memory`: bytes). 0: not even one."""
    return min(cpus, memory // (extension.memory * 2**30))


def locate(extension: Extension, environment: Mapping[str, str]) -> str:
    """The address of the source archive on the machine's package index.

    By uv, which knows that index and its keys; `environment` as `locking.environment` makes it. Told that the
    package needs nothing, uv neither downloads nor runs it. HashMismatchError when the index names another
    hash than ours, NotFoundError when it has no such file.
    """
    from uv import find_uv_bin

    wanted = f"{extension.name}=={extension.version}"
    with tempfile.TemporaryDirectory(prefix="slipworks-source-") as name:
        folder = Path(name)
        (folder / "in.txt").write_text(f"{wanted}\n")
        (folder / "uv.toml").write_text(
            f'[[dependency-metadata]]\nname = "{extension.name}"\nversion = "{extension.version}"\n'
        )
        argv = [
            find_uv_bin(), "pip", "compile", "in.txt", "--config-file", "uv.toml", "--no-deps", "--no-header",
            "--no-binary", extension.name, "--format", "pylock.toml", "--output-file", "pylock.toml",
            "--quiet", "--python", sys.executable, "--python-version", "3.13",
        ]  # fmt: skip
        result = process.run(argv, what=f"find {wanted}", env=environment, cwd=folder, check=False)
        if result.code:
            tail = "\n".join(f"  {line}" for line in result.err.strip().splitlines()[-process.TAIL :])
            kind = NotFoundError if "No solution found" in result.err else NetworkError
            raise kind(
                f"could not find the sources of {wanted} on the package index:\n{tail}", "runner doctor"
            )
        answer = (folder / "pylock.toml").read_text()
    return address(extension, answer)


def address(extension: Extension, answer: str) -> str:
    for package in tomllib.loads(answer).get("packages", []):
        sdist = package.get("sdist")
        if canonicalize_name(package["name"]) != extension.name or not sdist:
            continue
        found = sdist.get("hashes", {}).get("sha256", extension.sha256)  # an index may name none
        if found != extension.sha256:
            raise HashMismatchError(
                f"the package index has other sources of {extension.name} {extension.version}:"
                f" found sha256 {found}, expected {extension.sha256}"
            )
        return str(sdist["url"])
    raise NotFoundError(f"the package index has no sources of {extension.name} {extension.version}")
