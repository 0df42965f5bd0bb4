"""Every base of the zoo, with the agent's layer baked on, runs the agent-server; and stays what it was."""

from __future__ import annotations

import pytest

from containers import engine
from image_cache.references import Reference
from image_cache.registry import Registry
from kit.nouns import Platform
from runner import agent_layer, images, sandbox_proof
from runner.sandbox_proof import Asked, Proof
from tests.live.parts_bases import ALL, Zoo, put
from tests.live.parts_roots import NATIVE
from tests.live.parts_sandboxes import Bake

pytestmark = pytest.mark.live
COVERED = {"symlinked-bin": "a link to ../bin", "staff-bin": "a folder of 0:50 with mode 2775"}
"""Bases whose /usr/local/bin an overlay shows otherwise once a layer lies over it."""


@pytest.mark.parametrize("name", ALL)
def test_a_registry_serves_it(name: str, zoo: Zoo, registry_host: str) -> None:
    made = zoo(name)
    reference = Reference.parse(put(made, registry_host, f"zoo/{name}"))
    registry = Registry(registry_host)
    assert registry.head(reference) == made.digest
    assert registry.image(reference, Platform.host())[0] == made.image.manifest


@pytest.fixture(scope="module")
def proofs(baked: Bake, private_storage: object) -> dict[str, Proof]:
    references = {name: baked(name) for name in ALL}
    podman = engine.get("podman")
    podman.check()
    asked = Asked(engine=podman, platform=NATIVE, layer=agent_layer.unpacked(NATIVE, images.store()))
    found = sandbox_proof.prove(list(references.values()), asked, lambda each: print(each))
    return dict(zip(references, found, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_it_runs_the_agent_server(name: str, proofs: dict[str, Proof]) -> None:
    proof = proofs[name]
    assert proof.good, proof
    names = [each.name for each in proof.steps if each.name != "pull"]
    assert names == ["start", "command", "files", "stop", "client path", "folder"]
    assert [each for each in proof.notes if COVERED.get(name, "in the base") in each] == list(proof.notes)
