"""Every base of the zoo, with the agent's layer baked on, runs the agent-server; and stays what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from containers import engine
from containers.engine import ContainerRun
from image_cache.places import Origin
from image_cache.references import Reference
from image_cache.registry import Registry
from kit import process
from kit.nouns import Platform
from runner import agent_layer, images, sandbox_proof
from runner.sandbox_proof import Asked, Proof
from tests.live.parts_bases import ALL, Zoo, put
from tests.live.parts_roots import NATIVE
from tests.live.parts_sandboxes import Bake

pytestmark = pytest.mark.live
COVERED = {"symlinked-bin": "a link to ../bin", "staff-bin": "a folder of 0:50 with mode 2775"}
"""Bases whose /usr/local/bin an overlay shows otherwise once a layer lies over it."""
SERVED = (
    "bullseye", "sid", "musl", "deep", "non-root", "named-user", "entrypoint", "hostile", "symlinked-opt",
    "symlinked-bin", "staff-bin",
)  # fmt: skip
"""Those in which a server could fail to come up. What the others differ in is seen once they run at all."""


@pytest.mark.parametrize("name", ALL)
def test_a_registry_serves_it(name: str, zoo: Zoo, registry_host: str) -> None:
    made = zoo(name)
    reference = Reference.parse(put(made, registry_host, f"zoo/{name}"))
    registry = Registry(registry_host)
    assert registry.head(reference) == made.digest
    assert registry.image(reference, Platform.host())[0] == made.image.manifest


@pytest.fixture(scope="module")
def asked(private_storage: object) -> Asked:
    podman = engine.get("podman")
    podman.check()
    layer = agent_layer.unpacked(NATIVE, images.store())
    return Asked(engine=podman, platform=NATIVE, layer=layer, deadline=300.0)


@pytest.fixture(scope="module")
def pulled(baked: Bake, asked: Asked) -> Iterator[Callable[..., str]]:
    """Lets podman have a baked base, to the end of this module: each unpacks the agent's layer anew."""
    had = []

    def pull(name: str, *, tiny: bool = True) -> str:
        had.append(sandbox_proof.pulled(asked.engine, Origin.parse(baked(name, tiny=tiny)), NATIVE))
        return had[-1]

    yield pull
    for image in had:
        process.finish(asked.engine.remove_image_argv(image), what=f"remove {image}")


@pytest.mark.parametrize("name", ALL)
def test_its_own_programs_stay_what_they_were(
    name: str, pulled: Callable[..., str], asked: Asked, zoo: Zoo
) -> None:
    """A command that is none of the layer's is run as the base would run it."""
    bottom = zoo(name)
    # Where an overlay covers what the base has at the client path, it is baked without that path.
    image = pulled(name, tiny=name not in COVERED)
    run = ContainerRun(image=image, argv=("sh", "-c", bottom.command), plain=True, entrypoint=True)
    done = process.run(asked.engine.run_argv(run), what=f"run {name}")
    assert done.out.strip() == bottom.says, done


@pytest.fixture(scope="module")
def proofs(baked: Bake, asked: Asked) -> dict[str, Proof]:
    """All at once, two at a time: most of it is waiting for a server to come up."""
    images = {baked(name): name for name in SERVED}
    told: list[Proof] = []
    given = sandbox_proof.prove(list(images), asked, told.append)
    assert sorted(told, key=lambda each: each.image) == sorted(given, key=lambda each: each.image)
    return {images[each.image]: each for each in given}


@pytest.mark.parametrize("name", SERVED)
def test_it_runs_the_agent_server(name: str, proofs: dict[str, Proof]) -> None:
    proof = proofs[name]
    assert proof.good, proof
    names = [each.name for each in proof.steps if each.name != "pull"]
    assert names == ["start", "command", "files", "stop", "client path", "folder"]
    before = COVERED.get(name)
    assert [each.rpartition("in the base ")[2] for each in proof.notes] == ([before] if before else [])


def test_without_the_client_path_the_entrypoint_alone_starts_it(baked: Bake, asked: Asked) -> None:
    """Then nothing at all lies over the base's own folders, under any engine."""
    (proof,) = sandbox_proof.prove([baked("symlinked-bin", tiny=False)], asked, lambda each: None)
    assert proof.good, proof
    assert [each.name for each in proof.steps if each.name != "pull"] == ["start", "command", "files", "stop"]
    assert "was not baked" in proof.notes[0]
