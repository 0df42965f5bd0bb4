"""Prints the configuration that a command line makes, as JSON, the way that SkyRL's own main_base makes it.

Runs on a Python with SkyRL's wheel and what reads its configuration, and without this kit.

    python skyrl_configured.py hydra FOLDER WORD…      FOLDER: skyrl_train/config of the wheel
    python skyrl_configured.py dotlist FOLDER WORD…    FOLDER: where the wheel was installed
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.abc
import importlib.machinery
import json
import math
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for every package that is not installed: the configuration needs none of them."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__, module.__name__ = spec, [], spec.name
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def sizes_checked(source: Path, cfg: Any) -> None:
    """The version's own check of batch sizes, taken out of a module that imports torch and Ray."""
    tree = ast.parse(source.read_text())
    (check,) = [each for each in tree.body
                if isinstance(each, ast.FunctionDef) and each.name == "validate_batch_sizes"]  # fmt: skip
    names = {"math": math, "DictConfig": Any, "SkyRLTrainConfig": Any}
    exec(compile(ast.Module([check], []), str(source), "exec"), names)
    names["validate_batch_sizes"](cfg)  # type: ignore[operator]


def by_hydra(folder: Path) -> None:
    import hydra
    from omegaconf import DictConfig, OmegaConf

    @hydra.main(config_path=str(folder), config_name="ppo_base_config", version_base=None)
    def main(cfg: DictConfig) -> None:
        sizes_checked(folder.parent / "utils/utils.py", cfg)
        sys.stdout.write(json.dumps(OmegaConf.to_container(cfg, resolve=True)) + "\n")

    main()


def by_dotlist(folder: Path, words: list[str]) -> None:
    import omegaconf  # noqa: F401 -- what is there is imported before the stand-in for what is not

    with contextlib.suppress(ImportError):
        import requests  # noqa: F401

    sys.path[:0] = [str(folder), str(folder / "skyrl-gym")]
    # What the configuration asks of the backends in passing; they import torch and vLLM.
    above = "skyrl.backends"
    for name in (above, f"{above}.skyrl_train", f"{above}.skyrl_train.inference_servers"):
        sys.modules[name] = types.ModuleType(name)
    utils = types.ModuleType(f"{above}.skyrl_train.inference_servers.utils")
    utils._uses_lora_weight_sync = lambda cfg: False  # type: ignore[attr-defined]
    sys.modules[utils.__name__] = utils
    sys.meta_path.append(Absent())
    from skyrl.train.config import SkyRLTrainConfig  # type: ignore[import-not-found]

    cfg = SkyRLTrainConfig.from_cli_overrides(words)
    sizes_checked(folder / "skyrl/train/utils/utils.py", cfg)
    sys.stdout.write(json.dumps(dataclasses.asdict(cfg)) + "\n")


if __name__ == "__main__":
    how, place = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    if how == "hydra":
        by_hydra(place)
    else:
        by_dotlist(place, sys.argv[1:])
