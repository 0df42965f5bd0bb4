"""Bases of the zoo with the real agent's layer baked on, in a real registry, for tests that start them.

An engine unpacks the agent's layer, tens of thousands of files, anew for whatever lies below it. So podman
has it once, apart from the tests (`chain`); and where the layer's own bytes prove nothing, a hollow one is
baked in its place, and the unpacked layer mounted upon that.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from containers import engine
from containers.engine import Engine
from image_cache import bake
from image_cache.bake import Added
from image_cache.oci import Artifact
from image_cache.places import Origin, Remembered
from image_cache.places.registry import RegistrySource, RegistryTarget
from image_cache.registry import Registry
from runner import agent_layer, images, sandbox_proof
from runner.agent_layer import AgentLayer
from tests.live.needs import need
from tests.live.parts_bake import artifact
from tests.live.parts_bases import Zoo, put
from tests.live.parts_roots import NATIVE, need_apt

Bake = Callable[..., str]


@pytest.fixture(scope="session")
def agent() -> AgentLayer:
    """The layer in the user's own store, where other tests find it too."""
    need_apt()
    return agent_layer.made(NATIVE, images.store())


@pytest.fixture(scope="session")
def baked(zoo: Zoo, registry_host: str, agent: AgentLayer, tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """What a base of the zoo becomes: its reference.

    tiny: with the client path. hollow: with an agent's folder that is empty. under: first in its repository.
    """
    target = RegistryTarget(Registry(registry_host))
    known = Remembered()

    @cache
    def nothing() -> Artifact:
        return artifact(tmp_path_factory.mktemp("hollow"), f"{agent.folder.lstrip('/')}/.nothing", 0)

    @cache
    def made(name: str, *, tiny: bool = True, hollow: bool = False, under: str = "baked") -> str:
        base = Origin.parse(put(zoo(name), registry_host, f"zoo/{name}"))
        source = RegistrySource(Registry(registry_host))
        got = source.image(base, NATIVE)
        added = Added(
            platform=NATIVE, gzip=nothing() if hollow else agent.gzip, zstd=None if hollow else agent.zstd,
            tiny=agent.tiny if tiny else None, entrypoint=agent.entrypoint,
            labels={agent_layer.CLIENT_LABEL: agent_layer.CLIENT} if tiny else {},
        )  # fmt: skip
        plan = bake.planned(got.manifest, got.config, str(base), got.digest, added)
        bake.do(plan, source, base, target, f"{under}/{name}", known)
        return f"{registry_host}/{under}/{name}:{plan.tag}"

    return made


@pytest.fixture(scope="session")
def chain(baked: Bake, private_storage: Path) -> Engine:
    """The podman of these tests, which has the agent's layer on busybox under a name that no test takes away:
    of other bases that are made of busybox alone it then unpacks nothing."""
    need(shutil.which("podman"), "podman is not installed")
    podman = engine.get("podman")
    podman.check()
    sandbox_proof.pulled(podman, Origin.parse(baked("busybox", under="kept")), NATIVE)
    return podman
