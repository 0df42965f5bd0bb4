"""Bases of the zoo with the real agent's layer baked on, in a real registry, for tests that start them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from image_cache import bake
from image_cache.bake import Added
from image_cache.places import Origin, Remembered
from image_cache.places.registry import RegistrySource, RegistryTarget
from image_cache.registry import Registry
from runner import agent_layer, images
from runner.agent_layer import AgentLayer
from tests.live.parts_bases import Zoo, put
from tests.live.parts_roots import NATIVE, need_apt

Bake = Callable[..., str]


@pytest.fixture(scope="session")
def agent() -> AgentLayer:
    """The layer in the user's own store, where other tests find it too."""
    need_apt()
    return agent_layer.made(NATIVE, images.store())


@pytest.fixture(scope="session")
def baked(zoo: Zoo, registry_host: str, agent: AgentLayer) -> Bake:
    """What a base of the zoo becomes: its reference. tiny: with the client path."""
    target = RegistryTarget(Registry(registry_host))
    known = Remembered()

    @cache
    def made(name: str, *, tiny: bool = True) -> str:
        base = Origin.parse(put(zoo(name), registry_host, f"zoo/{name}"))
        source = RegistrySource(Registry(registry_host))
        got = source.image(base, NATIVE)
        added = Added(
            platform=NATIVE, gzip=agent.gzip, zstd=agent.zstd, tiny=agent.tiny if tiny else None,
            entrypoint=agent.entrypoint,
            labels={agent_layer.CLIENT_LABEL: agent_layer.CLIENT} if tiny else {},
        )  # fmt: skip
        plan = bake.planned(got.manifest, got.config, str(base), got.digest, added)
        bake.do(plan, source, base, target, f"baked/{name}", known)
        return f"{registry_host}/baked/{name}:{plan.tag}"

    return made
