"""What this machine knows about package indexes and certificates, for build steps only.

The two files are bound into a build while it runs. They may hold credentials: mode 0600, in a temporary
folder, never in argv, in logs or in an image.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from kit import files, say
from kit.errors import InvalidFileError
from kit.shell import quote


class BuildSecrets(Struct, frozen=True):
    """index: lines `NAME='value'` that sh can source. ca: certificates as PEM. None: nothing to say."""

    index: Path | None = None
    ca: Path | None = None


NONE = BuildSecrets()


# Taken over as they are: how to get out of this network, and how patient to be.
CARRIED = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "PIP_TRUSTED_HOST", "UV_INSECURE_HOST", "PIP_DEFAULT_TIMEOUT", "UV_HTTP_TIMEOUT", "UV_INDEX_STRATEGY",
)  # fmt: skip
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@contextlib.contextmanager
def gathered(
    torch_index: str | None = None, environment: Mapping[str, str] = os.environ, etc: Path = Path("/etc")
) -> Iterator[BuildSecrets]:
    """The two files, for as long as the block lasts. `torch_index` is added to the further indexes."""
    values = index_values(environment, etc, torch_index)
    bundle = certificates(environment, etc)
    with tempfile.TemporaryDirectory(prefix="slipworks-secrets-") as name:
        folder = Path(name)
        index = folder / "index" if values else None
        ca = folder / "ca" if bundle else None
        if index:
            lines = "".join(f"{key}={quote(value)}\n" for key, value in sorted(values.items()))
            files.write(index, lines, mode=0o600)
        if ca:
            files.write(ca, bundle, mode=0o600)
        yield BuildSecrets(index, ca)


def index_values(
    environment: Mapping[str, str], etc: Path = Path("/etc"), torch_index: str | None = None
) -> dict[str, str]:
    """Variables for pip and uv inside a build. A tool that has no setting of its own gets the other's.

    Variables win over files and the user's file over the machine's, as the tools themselves do it.
    """
    pip, uv = _pip(environment, etc), _uv(environment, etc)
    main = {"pip": pip[0] or uv[0], "uv": uv[0] or pip[0]}
    more = {"pip": list(pip[1] or uv[1]), "uv": list(uv[1] or pip[1])}
    values = {name: environment[name] for name in CARRIED if environment.get(name)}
    values |= {name: value for name, value in environment.items()
               if value and re.fullmatch(r"UV_INDEX_\w+_(USERNAME|PASSWORD)", name)}  # fmt: skip
    for tool in ("pip", "uv"):
        if torch_index:
            more[tool].append(torch_index)
    if torch_index:  # every file is checked by its hash, so it does not matter which index offers it
        values.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    # pip wants bare URLs; uv also takes name=URL, which is how credentials are found.
    found = {
        "PIP_INDEX_URL": _bare(main["pip"]),
        "PIP_EXTRA_INDEX_URL": " ".join(_bare(url) for url in more["pip"]),
        "UV_DEFAULT_INDEX": main["uv"],
        "UV_INDEX": " ".join(more["uv"]),
    }
    return values | {name: value for name, value in found.items() if value}


def certificates(environment: Mapping[str, str], etc: Path = Path("/etc")) -> str:
    """Every certificate that this machine is told to trust, once each, as PEM; never a private key."""
    named = [environment.get(name, "") for name in CA_VARIABLES]
    named.append(_pip_settings(environment, etc).get("cert", ""))
    blocks: dict[str, None] = {}
    for path in dict.fromkeys(Path(name) for name in named if name):
        try:
            text = path.read_text(errors="replace")
        except OSError as reason:
            say.once(f"note: the certificates in {path} are not passed on: {reason.strerror}")
            continue
        blocks |= dict.fromkeys(CERTIFICATE.findall(text))
    return "".join(block + "\n" for block in blocks)


Indexes = tuple[str, tuple[str, ...]]
"""The main index ("": the tool's own default) and the further ones."""


def _pip(environment: Mapping[str, str], etc: Path) -> Indexes:
    settings = _pip_settings(environment, etc)
    main = environment.get("PIP_INDEX_URL") or settings.get("index-url", "")
    more = environment.get("PIP_EXTRA_INDEX_URL") or settings.get("extra-index-url", "")
    return "".join(_reachable([main])), _reachable(more.split())


def _pip_settings(environment: Mapping[str, str], etc: Path) -> dict[str, str]:
    """pip's configuration files in its own order; a later one wins."""
    home = Path(environment.get("HOME") or Path.home())
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    paths = [etc / "xdg/pip/pip.conf", etc / "pip.conf", home / ".pip/pip.conf", config / "pip/pip.conf"]
    named = environment.get("PIP_CONFIG_FILE")
    if named == os.devnull:  # pip's own way to say: no files at all
        return {}
    found: dict[str, str] = {}
    for path in [*paths, *([Path(named)] if named else [])]:
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(path.read_text(), str(path))
        except OSError:
            continue
        except configparser.Error as broken:
            raise InvalidFileError(
                f"cannot read pip's settings in {path}: {type(broken).__name__}"
            ) from broken
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= dict(parser.items(section))
    return found


def _uv(environment: Mapping[str, str], etc: Path) -> Indexes:
    main = ""
    more: list[str] = []
    for path in _uv_files(environment, etc):
        try:
            table = tomllib.loads(path.read_text())
        except OSError:
            continue
        except tomllib.TOMLDecodeError as broken:
            raise InvalidFileError(f"cannot read uv's settings in {path}: {broken}") from broken
        file_main, file_more = _uv_table(table)
        main, more = file_main or main, file_more + more
    main = environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL") or main
    asked = f"{environment.get('UV_INDEX', '')} {environment.get('UV_EXTRA_INDEX_URL', '')}".split()
    return "".join(_reachable([main])), _reachable([*asked, *more])


def _uv_files(environment: Mapping[str, str], etc: Path) -> list[Path]:
    if named := environment.get("UV_CONFIG_FILE"):
        return [Path(named)]
    if environment.get("UV_NO_CONFIG"):
        return []
    home = Path(environment.get("HOME") or Path.home())
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    return [etc / "uv/uv.toml", config / "uv/uv.toml"]


def _uv_table(table: dict[str, Any]) -> tuple[str, list[str]]:
    main = table.get("index-url") or table.get("pip", {}).get("index-url") or ""
    more = list(table.get("extra-index-url") or table.get("pip", {}).get("extra-index-url") or [])
    for index in table.get("index", []):
        url = f"{index['name']}={index['url']}" if index.get("name") else index.get("url", "")
        if index.get("default"):
            main = url
        elif url:
            more.append(url)
    return main, more


def _reachable(urls: list[str]) -> tuple[str, ...]:
    """Without folders of this machine, which a build does not see."""
    kept = []
    for url in urls:
        if _bare(url).startswith(("http://", "https://")):
            kept.append(url)
        elif url:
            say.once("note: package indexes in folders of this machine are not used in builds")
    return tuple(kept)


def _bare(url: str) -> str:
    """Without uv's leading `name=`."""
    return re.sub(r"^[\w.-]+=(?=[a-z]+://)", "", url)
