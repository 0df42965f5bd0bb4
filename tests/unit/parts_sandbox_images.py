"""An engine that has and pulls images, and those who wish for them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from image_cache.bake import KEY
from image_cache.store import Store
from kit.nouns import Platform
from runner import agent_layer
from runner.sandboxes.nouns import Pull, Ready, Wish
from tests.unit.parts_sif import HERE

START = agent_layer.start(agent_layer.spec().folder)
BARE: dict[str, Any] = {"Cmd": ["sh"]}
BAKED: dict[str, Any] = {"Entrypoint": list(START), "Labels": {KEY: "1"}}
MADE = "2020-01-01T00:00:00Z"
COMMAND = ("/usr/local/bin/openhands-agent-server", "--port", "60000")


class Engine:
    """An engine whose images are files: what it has, and what a registry has for it."""

    name = "podman"

    def __init__(self, folder: Path) -> None:
        self.here, self.there = folder / "here", folder / "there"
        self.here.mkdir(parents=True)
        self.there.mkdir()
        self.pulls = folder / "pulls"
        self.slow = ""

    def put(self, folder: Path, name: str, config: dict[str, Any], arch: str = HERE.arch) -> None:
        told = {
            "config": config,
            "size": 7,
            "created": MADE,
            "os": "linux",
            "architecture": arch,
        }
        (folder / name.replace("/", "%")).write_text(json.dumps(told))

    def inspect_argv(self, name: str) -> list[str]:
        path = self.here / name.replace("/", "%")
        script = 'cat "$1" 2>/dev/null || { echo "Error: $2: image not known" >&2; exit 125; }'
        return ["sh", "-c", script, "--format={{json .Config}}", str(path), name]

    def pull_argv(self, name: str, platform: Platform, *, insecure: bool = False) -> list[str]:
        file = name.replace("/", "%")
        script = (
            f'echo "$1" >> {self.pulls}; {self.slow}\n'
            f'cp "{self.there}/$1" "{self.here}/$1" 2>&- || {{ echo "manifest unknown" >&2; exit 125; }}'
        )
        return ["sh", "-c", script, "sh", file]

    @property
    def pulled(self) -> list[str]:
        return self.pulls.read_text().split() if self.pulls.exists() else []


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine(tmp_path / "engine")
    monkeypatch.setattr("containers.engine.get", lambda name: made)
    monkeypatch.setattr("runner.own_store.store", lambda: Store(tmp_path / "images"))
    monkeypatch.setattr(agent_layer, "unpacked", lambda platform, store: Path("/layer"))
    monkeypatch.setattr(agent_layer, "squashfs", lambda platform, store: Path("/layer.sqfs"))
    return made


def wish(image: str, pull: Pull = "IfNotPresent") -> Wish:
    return Wish(session="s", image=image, command=COMMAND, pull=pull)


def mounted(reference: str) -> Ready:
    return Ready(reference=reference, mount=("--volume", "/layer:/slipworks-agent:O"), command=START)


def caught(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as failure:
        return failure


def at_once(count: int, work: Callable[[], Any]) -> list[Any]:
    """What each of many threads got, all of which began together."""
    gate = threading.Barrier(count)

    def one() -> Any:
        gate.wait(20)
        return caught(work)

    with ThreadPoolExecutor(count) as pool:
        return [each.result() for each in [pool.submit(one) for _ in range(count)]]
