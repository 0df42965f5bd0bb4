"""Writing locks: what uv is asked is planned purely, and `lock` alone acts.

Only the main package index is asked. What an additional index offers never enters a lock by itself:
such files are pins of the line, with their sources.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from packaging.utils import canonicalize_name
from packaging.version import Version

from definitions import lockfile
from definitions.lines import Line
from definitions.lockfile import Lock, Locked
from kit import files, process
from kit.errors import (
    AuthError,
    BuildError,
    DriftError,
    InvalidFileError,
    NetworkError,
    NoSpaceError,
    SlipworksError,
    UnpinnedError,
    UnsupportedError,
)
from kit.nouns import Platform

ANSWER = "pylock.toml"


class Plan(Struct, frozen=True):
    """What uv is asked: its arguments, and the files that they name, to lie in its working folder."""

    arguments: tuple[str, ...]
    files: dict[str, str]


class Written(Struct, frozen=True):
    """What became of one lock: how many packages it has, and the names that came, went or changed version."""

    path: Path
    packages: int
    changed: tuple[str, ...]


def plan(line: Line, platform: Platform, python: str, old: Lock | None = None) -> Plan:
    """What uv is asked for one lock. Versions of `old` are kept where they still fit. Pure."""
    difference = line.difference(platform)
    texts = {
        "requirements.in": (*line.requirements(), *difference.requirements),
        "constraints.txt": line.constraints,
        "overrides.txt": line.overrides,
        # Required by name, but without wheels: left out here and named in the image's record.
        "excludes.txt": (*line.excludes, *difference.excludes, *line.extensions),
    }
    arguments = [
        "pip", "compile", "requirements.in", "--constraints", "constraints.txt",
        "--overrides", "overrides.txt", "--excludes", "excludes.txt",
        "--python-version", python, "--python-platform", line.wheel_platform(platform),
        # The form that names each file, so that only those of this platform are kept.
        "--format", "pylock.toml", "--output-file", ANSWER, "--no-header", "--quiet", "--no-config",
        # Wheels only; what exists as source alone is let through by name.
        "--only-binary", ":all:", *(word for name in line.source for word in ("--no-binary", name)),
        "--exclude-newer", line.exclude_newer,
        *(word for item in sorted(line.exclude_newer_package.items())
          for word in ("--exclude-newer-package", "=".join(item))),
    ]  # fmt: skip
    given = {name: "".join(f"{line}\n" for line in lines) for name, lines in texts.items()}
    if old:
        given[ANSWER] = _preferences(old)
    return Plan(tuple(arguments), given)


def _preferences(old: Lock) -> str:
    """The old versions as uv reads them from its output file: preferred, not demanded."""
    head = 'lock-version = "1.0"\ncreated-by = "slipworks"\n'
    return head + "".join(
        f'\n[[packages]]\nname = "{each.name}"\nversion = "{Version(each.version).public}"\n'
        for each in old.packages
    )


def locked(line: Line, platform: Platform, python: str, answer: str) -> Lock:
    """The lock that follows from uv's answer and the line's pins. Pure."""
    packages: dict[str, Locked] = {}
    for package in tomllib.loads(answer).get("packages", []):
        name = canonicalize_name(package["name"])
        packages[name] = Locked(name, package["version"], _hashes(line, package))
    for pin in line.difference(platform).pins:
        found = packages.get(pin.name)
        if found and Version(found.version).public != Version(pin.version).public:
            raise UnpinnedError(
                f"line {line.name} on {platform} resolves to {pin.name} {found.version}, but the pin is for"
                f" {pin.version}", f"pin {pin.name} in {line.folder / 'requirements.in'}, or renew its hash",
            )  # fmt: skip
        packages[pin.name] = Locked(pin.name, pin.version, (pin.sha256,))
    return Lock(line.input(platform, python), tuple(sorted(packages.values())))


def _hashes(line: Line, package: dict[str, Any]) -> tuple[str, ...]:
    """Those of the wheels for this platform; of the source archive for what the line takes from source."""
    name = canonicalize_name(package["name"])
    given = [package["sdist"]] if name in line.source and "sdist" in package else package.get("wheels", [])
    found = tuple(sorted(each["hashes"]["sha256"] for each in given if "sha256" in each["hashes"]))
    if not found:
        raise UnsupportedError(
            f"line {line.name}: {name} {package['version']} has no wheel for this platform and Python",
            f"add {name} to source (pure Python) or extensions (left out) in {line.folder / 'line.toml'}",
        )
    return found


def lock(
    line: Line,
    platforms: Sequence[Platform],
    pythons: Sequence[str],
    environment: Mapping[str, str],
    *,
    upgrade: bool = False,
) -> list[Written]:
    """Resolves and writes, one after the other, each lock atomically. Untouched by what fails.

    `environment` is uv's whole environment: where the package index is, and what else it takes to reach it.
    """
    for python in pythons:  # all that is wrong with the question, before the first answer is waited for
        for platform in platforms:
            line.lock_path(platform, python)
            line.check_pinned(platform)
    return [_write(line, platform, python, environment, upgrade)
            for python in pythons for platform in platforms]  # fmt: skip


def _write(
    line: Line, platform: Platform, python: str, environment: Mapping[str, str], upgrade: bool
) -> Written:
    path = line.lock_path(platform, python)
    old = lockfile.parse(path.read_text(), str(path)) if path.exists() else None
    title = f"line {line.name}, Python {python}, {platform}, glibc {line.glibc} or newer"
    asked = plan(line, platform, python, None if upgrade else old)
    new = locked(line, platform, python, _resolve(asked, environment, title))
    files.write(path, lockfile.text(new, title, f"make lock LINE={line.name}"))
    before, after = ({each.name: each.version for each in (lock.packages if lock else ())}
                     for lock in (old, new))  # fmt: skip
    changed = {name for name, _ in before.items() ^ after.items()}
    return Written(path, len(after), tuple(sorted(changed)))


def _resolve(asked: Plan, environment: Mapping[str, str], title: str) -> str:
    """uv's answer."""
    from uv import find_uv_bin

    with tempfile.TemporaryDirectory(prefix="slipworks-lock-") as name:
        folder = Path(name)
        for file, content in asked.files.items():
            files.write(folder / file, content)
        # Our own interpreter reads metadata; else uv first looks at every Python of the machine.
        argv = [find_uv_bin(), *asked.arguments, "--python", sys.executable]
        result = process.run(argv, what=f"lock {title}", env=environment, cwd=folder, check=False)
        if result.code:
            raise _failure(title, result.err)
        return (folder / ANSWER).read_text()


# What uv says -> what it means. In this order: a refusal also says that it could not fetch.
_MEANINGS: tuple[tuple[type[SlipworksError], str, tuple[str, ...]], ...] = (
    (NoSpaceError, "df -h; uv cache prune", ("No space left on device", "Disk quota exceeded")),
    (AuthError, "runner doctor", ("401 Unauthorized", "403 Forbidden")),
    (InvalidFileError, "loosen a pin in requirements.in, or raise exclude_newer in line.toml",
     ("No solution found",)),
    (NetworkError, "runner doctor",
     ("Failed to fetch", "error sending request", "dns error", "Could not connect")),
    (InvalidFileError, "correct the line that is named", ("Couldn't parse requirement", "Failed to parse")),
)  # fmt: skip


def _failure(title: str, said: str) -> SlipworksError:
    tail = "\n".join(f"  {line}" for line in said.strip().splitlines()[-process.TAIL :])
    for kind, hint, marks in _MEANINGS:
        if any(mark in said for mark in marks):
            return kind(f"could not lock {title}:\n{tail}", hint)
    return BuildError(f"could not lock {title}:\n{tail}")


def stale(line: Line, platform: Platform, python: str) -> str | None:
    """Why the lock does not stand for the line's input as it is now; None when it does. Without network."""
    try:
        line.lock(platform, python)
    except (DriftError, InvalidFileError, UnpinnedError) as reason:
        return reason.message
    return None


# uv's own variables that decide how it gets to the index, not what it finds there.
_REACH = (
    "UV_CACHE_DIR",
    "UV_HTTP_TIMEOUT",
    "UV_INSECURE_HOST",
    "UV_OFFLINE",
    "UV_SYSTEM_CERTS",
    "UV_NATIVE_TLS",
)
_ELSEWHERE = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")


def environment(outside: Mapping[str, str], index: Mapping[str, str]) -> dict[str, str]:
    """uv's environment: the machine's, with the main package index and without any that is added to it.

    `index` has the machine's index settings as variables.
    """
    kept = {name: value for name, value in outside.items()
            if name in _REACH or not (name.startswith(("UV_", "PIP_")) or name in _ELSEWHERE)}  # fmt: skip
    reach = {name: value for name, value in index.items()
             if name not in ("UV_INDEX", "UV_INDEX_STRATEGY") and not name.startswith("PIP_")}  # fmt: skip
    return kept | reach
