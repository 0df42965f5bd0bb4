"""slurm.conf and what stands in it, wherever a site keeps it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from slurm.rooted import below

PLACES = (
    "/etc/slurm",
    "/run/slurm/conf",
    "/etc/slurm-llnl",
    "/etc/opt/slurm",
    "/opt/slurm/etc",
    "/usr/local/etc",
)
"""Folders where slurm.conf lies; the second is of sites whose nodes are sent theirs."""
DEEPEST = 5  # includes within includes


def find(environment: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """The path of slurm.conf as programs below `root` see it; None: it is in none of the usual places."""
    if said := environment.get("SLURM_CONF"):
        return said if below(root, said).is_file() else None
    return next(
        (f"{place}/slurm.conf" for place in PLACES if below(root, f"{place}/slurm.conf").is_file()), None
    )


def lack(environment: Mapping[str, str]) -> str:
    """What `find` did not find, in words."""
    if said := environment.get("SLURM_CONF"):
        return f"there is no slurm.conf at {said}, which SLURM_CONF names"
    return f"there is no slurm.conf (looked in {', '.join(PLACES)})"


def values(path: str, root: Path = Path("/")) -> dict[str, str]:
    """Name in small letters -> value, of the lines with one name each; those of included files too."""
    found: dict[str, str] = {}
    for line in _lines(path, root, DEEPEST):
        if match := _VALUE.fullmatch(line):
            found.setdefault(match["name"].lower(), match["value"].strip().strip('"'))
    return found


def cluster_name(said: str) -> str | None:
    """ClusterName in what `scontrol show config` says."""
    lines = (_VALUE.fullmatch(line) for line in said.splitlines())
    return next((found["value"].strip() for found in lines if found and found["name"] == "ClusterName"), None)


def spank(path: str, values: Mapping[str, str], root: Path = Path("/")) -> tuple[str, ...]:
    """Plugins that every client has to load, by absolute path: those that plugstack.conf demands."""
    stack = values.get("plugstackconfig") or str(Path(path).parent / "plugstack.conf")
    return tuple(dict.fromkeys(_required(stack, root, DEEPEST)))


_VALUE = re.compile(r"\s*(?P<name>\w+)\s*=\s*(?P<value>\"[^\"]*\"|[^#]*)(#.*)?")
_INCLUDE = re.compile(r"\s*include\s+(?P<file>[^\s#]+).*", re.IGNORECASE)
_REQUIRED = re.compile(r"\s*required\s+(?P<file>/[^\s#]+).*")


def _lines(path: str, root: Path, depth: int) -> Iterator[str]:
    try:
        lines = below(root, path).read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if (included := _INCLUDE.fullmatch(line)) and depth:
            yield from _lines(str(Path(path).parent / included["file"]), root, depth - 1)
        else:
            yield line


def _required(path: str, root: Path, depth: int) -> Iterator[str]:
    try:
        lines = below(root, path).read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if found := _REQUIRED.fullmatch(line):
            yield found["file"]
        elif (included := _INCLUDE.fullmatch(line)) and depth:
            pattern = Path(path).parent / included["file"]
            for file in sorted(below(root, str(pattern.parent)).glob(pattern.name)):
                yield from _required(str(pattern.parent / file.name), root, depth - 1)
