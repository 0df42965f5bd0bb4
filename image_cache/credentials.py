"""Who we are at a registry: read from where docker, podman and skopeo keep it. Nothing is ever written.

What is found stays in memory: no message, argv or log holds it.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from kit import process
from kit.errors import InvalidFileError, MissingToolError, SlipworksError
from kit.say import once


class Credentials(Struct, frozen=True):
    """A name and a password, or an identity token (`identity`), and the place where they were found."""

    source: str
    user: str = ""
    password: str = ""
    identity: str = ""

    def __repr__(self) -> str:
        return f"Credentials(from {self.source})"

    __str__ = __repr__


Helper = Callable[[str, str, Mapping[str, str]], Credentials | None]


def lookup(
    host: str, repository: str = "", environment: Mapping[str, str] = os.environ, *,
    helper: Helper | None = None,
) -> Credentials | None:  # fmt: skip
    """The credentials for a repository: the first file that has some, in podman's order, then docker's.

    A key of the file may name a registry, or a part of one (`quay.io/group`): the longest that fits wins.
    helper: asks a program by its name, in place of `helped`.
    """
    for path in _files(environment):
        if not path.is_file():
            continue
        found = _in_file(path, host, repository, environment, helper or helped)
        if found:
            return found
    return None


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environment.get("HOME") or Path.home())
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


class _File(Struct):
    auths: dict[str, dict[str, Any]] = {}
    credHelpers: dict[str, str] = {}
    credsStore: str = ""


def _in_file(
    path: Path, host: str, repository: str, environment: Mapping[str, str], ask: Helper
) -> Credentials | None:
    try:
        table = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError) as bad:
        # The decoder's words name a place in the file, never its values.
        raise InvalidFileError(f"cannot read the registry credentials in {path}: {bad}") from bad
    helper = table.credHelpers.get(host)
    if helper and (found := ask(helper, host, environment)):
        return found
    for key in _keys(host, repository):
        for name, entry in table.auths.items():
            if _plain(name) == key and (found := _entry(entry, str(path))):
                return found
    asked = "https://index.docker.io/v1/" if host == "docker.io" else host
    return ask(table.credsStore, asked, environment) if table.credsStore else None


def _keys(host: str, repository: str) -> Iterator[str]:
    parts = [host, *repository.split("/")] if repository else [host]
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])


def _plain(name: str) -> str:
    """`https://index.docker.io/v1/` is docker's old spelling of docker.io."""
    bare = name.removeprefix("https://").removeprefix("http://").rstrip("/")
    bare = bare.removesuffix("/v1").removesuffix("/v2")
    return "docker.io" if bare in ("index.docker.io", "registry-1.docker.io") else bare


def _entry(entry: Mapping[str, Any], source: str) -> Credentials | None:
    if token := entry.get("identitytoken"):
        return Credentials(source, identity=str(token))
    if entry.get("username"):
        return Credentials(source, str(entry["username"]), str(entry.get("password", "")))
    try:
        pair = base64.b64decode(str(entry.get("auth") or ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidFileError(f"{source} has an auth entry that is not base64 of user:password") from None
    user, colon, password = pair.partition(":")
    return Credentials(source, user, password.rstrip("\0")) if colon else None


def helped(name: str, host: str, environment: Mapping[str, str]) -> Credentials | None:
    """Asks docker-credential-<name>. A helper that has nothing or is not installed is not an error: many
    images need no credentials."""
    program = f"docker-credential-{name}"
    try:
        done = process.run(
            [program, "get"], what="ask for credentials", stdin=host.encode(), env=dict(environment),
            timeout=30, check=False,
        )  # fmt: skip
        answer = msgspec.json.decode(done.out, type=dict[str, Any]) if done.code == 0 else {}
    except MissingToolError:
        once(f"{program} is named in the registry credentials but not installed; going on without")
        return None
    except (SlipworksError, msgspec.DecodeError):
        once(f"{program} gave no usable answer; going on without credentials for {host}")
        return None
    user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    if not secret:
        return None
    return Credentials(program, identity=secret) if user == "<token>" else Credentials(program, user, secret)
