"""Bases of every kind in the zoo, with the agent's layer baked on, stay what they were; and those in which an
agent-server could fail to come up for a reason of their own run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from containers.engine import ContainerRun, Engine
from image_cache.places import Origin
from image_cache.references import Reference
from image_cache.registry import Registry
from kit import process
from kit.nouns import Platform
from runner import agent_layer, client_folder, images, sandbox_proof
from runner.sandbox_proof import Asked, Proof
from tests.live.parts_bases import ALL, Zoo, put
from tests.live.parts_roots import NATIVE
from tests.live.parts_sandboxes import Bake

pytestmark = pytest.mark.live
COVERED = {"symlinked-bin": "a link to ../bin", "staff-bin": "a folder of 0:50 with mode 2775"}
"""Bases whose /usr/local/bin an overlay shows otherwise once a layer lies over it."""
SERVED = ("bullseye", "sid", "non-root", "entrypoint", "hostile", "symlinked-bin")
"""The oldest glibc and the newest, and none; users, entrypoints and variables of the base's own; links."""
HOLLOW = ("symlinked-opt", "staff-bin", "whiteouts", "deep", "musl")
"""Bases that differ in their files, of which an engine would unpack the agent's layer once more: they get a
hollow one, with the unpacked layer mounted where it would lie."""


@pytest.mark.parametrize("name", ALL)
def test_a_registry_serves_it(name: str, zoo: Zoo, registry_host: str) -> None:
    made = zoo(name)
    reference = Reference.parse(put(made, registry_host, f"zoo/{name}"))
    registry = Registry(registry_host)
    assert registry.head(reference) == made.digest
    assert registry.image(reference, Platform.host())[0] == made.image.manifest


@pytest.fixture(scope="module")
def asked(chain: Engine) -> Asked:
    layer = agent_layer.unpacked(NATIVE, images.store())
    return Asked(engine=chain, platform=NATIVE, layer=layer, deadline=300.0)


@pytest.fixture(scope="module")
def pulled(asked: Asked) -> Iterator[Callable[[str], str]]:
    """Lets podman have a baked base, to the end of this module."""
    had = set()

    def pull(reference: str) -> str:
        if reference not in had:
            had.add(sandbox_proof.pulled(asked.engine, Origin.parse(reference), NATIVE))
        return reference

    yield pull
    for image in had:
        process.finish(asked.engine.remove_image_argv(image), what=f"remove {image}")


@pytest.mark.parametrize("name", ALL)
def test_its_own_programs_stay_what_they_were(
    name: str, baked: Bake, pulled: Callable[[str], str], asked: Asked, zoo: Zoo
) -> None:
    """A command that is none of the layer's is run as the base would run it."""
    bottom, hollow = zoo(name), name in HOLLOW
    # Where an overlay covers what the base has at the client path, it is baked without that path.
    image = pulled(baked(name, tiny=name not in COVERED, hollow=hollow))
    run = ContainerRun(image=image, argv=("sh", "-c", bottom.command), plain=True, entrypoint=True)
    argv = asked.engine.run_argv(run)
    if hollow:
        assert asked.layer
        at = argv.index(image)
        argv = [*argv[:at], *agent_layer.mount_argv("podman", asked.layer), *argv[at:]]
    done = process.run(argv, what=f"run {name}")
    assert done.out.strip() == bottom.says, done


def test_a_folder_that_an_overlay_covers_is_told(
    baked: Bake, pulled: Callable[[str], str], asked: Asked, zoo: Zoo, registry_host: str
) -> None:
    base = pulled(put(zoo("staff-bin"), registry_host, "zoo/staff-bin"))
    before = client_folder.seen(asked.engine, base, asked.layer)
    after = client_folder.seen(asked.engine, pulled(baked("staff-bin", hollow=True)), asked.layer)
    told = client_folder.difference(before, after) or ""
    assert told.rpartition("in the base ")[2] == COVERED["staff-bin"]


@pytest.fixture(scope="module")
def proofs(baked: Bake, pulled: Callable[[str], str], asked: Asked) -> dict[str, Proof]:
    """All at once, two at a time: most of it is waiting for a server to come up."""
    images = {pulled(baked(name)): name for name in SERVED}
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


def test_without_the_client_path_the_entrypoint_alone_starts_it(
    baked: Bake, pulled: Callable[[str], str], asked: Asked
) -> None:
    """Then nothing at all lies over the base's own folders, under any engine."""
    image = pulled(baked("symlinked-bin", tiny=False))
    (proof,) = sandbox_proof.prove([image], asked, lambda each: None)
    assert proof.good, proof
    assert [each.name for each in proof.steps] == ["start", "command", "files", "stop"]
    assert "was not baked" in proof.notes[0]
