"""Writes keys/VERSION.toml from the wheels of SkyRL: `make skyrl-keys`.

The wheels are installed without their dependencies, and nothing of them is run: 0.3.1's configuration is YAML
that Hydra puts together, 0.4.0's are dataclasses, whose source is read.
"""

from __future__ import annotations

import ast
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kit import files, process, say
from kit.errors import NetworkError
from runner.skyrl.versions import FOLDER, VERSIONS, Kind, Snapshot, Version

HEAD = "# Written by `make skyrl-keys` from the wheel {wheel}. Not edited by hand.\n"
PYTHON = "3.12"
OPEN = "_kwargs"
"""How keys end below which a program of others decides what there is."""


def main() -> None:
    for version in VERSIONS:
        with tempfile.TemporaryDirectory(prefix="slipworks-skyrl-") as folder:
            install(version, Path(folder))
            files.write(Path(__file__).parent / FOLDER / f"{version.version}.toml",
                        text(read(version, Path(folder))))  # fmt: skip
        say.say(f"{FOLDER}/{version.version}.toml")


def install(version: Version, folder: Path) -> None:
    """Puts the version's wheel, without its dependencies, into a folder. NetworkError where it cannot."""
    from uv import find_uv_bin

    argv: list[str | Path] = [
        find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", folder,
        "--python", sys.executable, "--python-version", PYTHON, version.requirement,
    ]  # fmt: skip
    process.run(argv, what=f"install {version.requirement}", error=NetworkError)


def read(version: Version, folder: Path) -> Snapshot:
    """The keys of an installed wheel."""
    groups: tuple[str, ...] = ()
    if version.hydra:
        config = folder / "skyrl_train/config"
        data, groups = _composed(config)
        keys = dict(_leaves(data, ""))
    else:
        keys = dict(_Dataclasses(folder).keys("SkyRLTrainConfig", ""))
    return Snapshot(package=version.package, version=version.version, groups=groups, keys=keys)


def text(snapshot: Snapshot) -> str:
    """The file of a snapshot."""
    lines = [HEAD.format(wheel=f"{snapshot.package}=={snapshot.version}").rstrip("\n")]
    lines += [f'package = "{snapshot.package}"', f'version = "{snapshot.version}"']
    if snapshot.groups:
        lines += ["groups = [", *(f'  "{each}",' for each in snapshot.groups), "]"]
    lines += ["", "[keys]", *(f'"{key}" = "{kind}"' for key, kind in sorted(snapshot.keys.items()))]
    return "\n".join([*lines, ""])


# -- Hydra's YAML -------------------------------------------------------------------------------------------


def _composed(config: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The primary file with the files of its defaults list, each below the package that it goes to."""
    data = yaml.safe_load((config / "ppo_base_config.yaml").read_text())
    groups = []
    for entry in data.pop("defaults"):
        if entry == "_self_":
            continue
        ((group, choice),) = entry.items()
        groups.append(group)
        folder, _, package = group.partition("@")
        written = (config / folder / f"{choice}.yaml").read_text()
        if not package:
            found = re.search(r"^# @package (\S+)", written)
            package = found[1] if found else folder
        place = data
        for name in package.split("."):
            place = place.setdefault(name, {})
        place.update(yaml.safe_load(written))
    return data, tuple(groups)


def _leaves(data: Mapping[str, Any], above: str) -> Iterator[tuple[str, Kind]]:
    for name, value in data.items():
        at = f"{above}{name}"
        if isinstance(value, dict):
            if not value or name.endswith(OPEN):
                yield at, "mapping"
            yield from _leaves(value, f"{at}.")
        else:
            yield at, _kind(value)


def _kind(value: Any) -> Kind:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, str):
        if "${" in value:
            return "any"
        return "number" if re.fullmatch(r"[-+]?\d+(\.\d+)?e[-+]?\d+", value) else "text"  # 1e-2 to YAML 1.1
    return "number" if isinstance(value, int | float) else "list" if isinstance(value, list) else "any"


# -- dataclasses --------------------------------------------------------------------------------------------


class _Dataclasses:
    """The classes of a wheel's configuration, read from their source."""

    CONFIG = "skyrl/train/config/config.py"
    GYM = "skyrl-gym/skyrl_gym"
    """The wheel of 0.4.0 brings a copy of this package's source, which its configuration imports from."""

    def __init__(self, folder: Path) -> None:
        self.classes: dict[str, ast.ClassDef] = {}
        tree = ast.parse((folder / self.CONFIG).read_text())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skyrl_gym."):
                source = folder / self.GYM / f"{(node.module or '').partition('.')[2].replace('.', '/')}.py"
                self._add(ast.parse(source.read_text()), {each.name for each in node.names})
        self._add(tree, None)

    def _add(self, tree: ast.Module, names: set[str] | None) -> None:
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and (names is None or node.name in names):
                self.classes[node.name] = node

    def keys(self, name: str, above: str) -> Iterator[tuple[str, Kind]]:
        for node in self.classes[name].body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            at, kind = f"{above}{node.target.id}", ast.unparse(node.annotation)
            inner, optional = re.subn(r"^Optional\[(.*)\]$", r"\1", kind)
            if inner in self.classes:
                if optional:
                    yield at, "any"
                yield from self.keys(inner, f"{at}.")
            else:
                yield at, _annotated(inner)


def _annotated(kind: str) -> Kind:
    simple: dict[str, Kind] = {"int": "number", "float": "number", "bool": "truth", "str": "text"}
    if kind in simple:
        return simple[kind]
    if kind.startswith(("List[", "list")):
        return "list"
    return "mapping" if kind.startswith(("Dict[", "dict")) else "any"


if __name__ == "__main__":
    main()
