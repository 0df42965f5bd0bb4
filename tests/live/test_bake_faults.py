"""A registry that fails for 30 % of the requests: every image comes out right, and none is called missing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_cache import bake
from image_cache.bake import Added, Baked
from image_cache.places import Origin, Remembered
from image_cache.places.registry import RegistrySource, RegistryTarget
from image_cache.registry import Registry
from kit.errors import HashMismatchError, NetworkError, QuotaError
from tests.live.parts_bake import AMD64, Bases, added, pulled
from tests.live.parts_faulty import KINDS, FaultyProxy, faulty
from tests.live.parts_registry import registry

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
IMAGES, JOBS = 40, 8
PASSING = (NetworkError, QuotaError, HashMismatchError)


def some_bases(host: str, folder: Path, size: int = 2000) -> tuple[Bases, list[Origin]]:
    """Of both families, in a few repositories, with layers that they share and layers of their own."""
    bases = Bases(host, folder)
    made = [
        bases.make(
            "etc/shared", f"etc/of-{number % 4}", f"etc/own-{number}", docker=number % 2 == 0, size=size,
            repository=f"bases/some-{number % 4}", tag=f"v{number}",
        )
        for number in range(IMAGES)
    ]  # fmt: skip
    return bases, made


def planned(host: str, base: Origin, more: Added) -> Baked:
    got = RegistrySource(Registry(host)).image(base, AMD64)
    return bake.planned(got.manifest, got.config, f"{base}", got.digest, more)


class Crew:
    """Bakes until all are done; a failure that may pass is counted, any other one is raised."""

    def __init__(self, source: RegistrySource, target: RegistryTarget, more: Added) -> None:
        self.source, self.target, self.more = source, target, more
        self.known, self.again = Remembered(), 0
        self._lock = threading.Lock()

    def bake(self, base: Origin) -> str:
        while True:
            try:
                got = self.source.image(base, AMD64)
                baked = bake.planned(got.manifest, got.config, f"{base}", got.digest, self.more)
                at = f"baked/{base.repository}"
                return bake.do(baked, self.source, base, self.target, at, self.known).digest
            except PASSING:
                with self._lock:
                    self.again += 1


def patient(host: str) -> Registry:
    return Registry(host, pause=0.01, timeout=1.0)


def assert_all_right(
    crew: Crew, clean: str, source: str, bases: Bases, made: list[Origin], through: dict[Origin, Origin]
) -> None:
    """Each image is what the pure plan says, and each of its blobs hashes to its digest."""
    with ThreadPoolExecutor(JOBS) as pool:
        digests = list(pool.map(lambda base: crew.bake(through[base]), made))
    for base, digest in zip(made, digests, strict=True):
        got = RegistrySource(Registry(source)).image(base, AMD64)
        wanted = bake.planned(got.manifest, got.config, f"{through[base]}", got.digest, crew.more)
        assert digest == wanted.digest
        _, config, tars = pulled(clean, f"baked/{base.repository}", wanted.tag)
        ours = [one.diff_id for one in (crew.more.gzip, crew.more.tiny) if one]
        assert tars == config["rootfs"]["diff_ids"] == [*bases.tars(base), *ours]


def seen_at(proxy: FaultyProxy, made: list[Origin]) -> dict[Origin, Origin]:
    """The same bases by the proxy's name."""
    return {base: Origin("registry", proxy.host, base.repository, base.tag, base.digest) for base in made}


def test_every_image_is_right_within_a_faulty_registry(registry_host: str, tmp_path: Path) -> None:
    bases, made = some_bases(registry_host, tmp_path)
    with faulty(registry_host) as proxy:
        at = patient(proxy.host)
        crew = Crew(RegistrySource(at), RegistryTarget(at), added(tmp_path))
        assert_all_right(crew, registry_host, registry_host, bases, made, seen_at(proxy, made))
        assert sum(proxy.faults.values()) > 0.25 * proxy.requests
        assert all(proxy.faults[kind] for kind in KINDS)


def test_every_image_is_right_from_one_faulty_registry_to_another(registry_host: str, tmp_path: Path) -> None:
    """Layers go as streams, which break too."""
    bases, made = some_bases(registry_host, tmp_path, size=400_000)
    with (
        registry(tmp_path / "other") as other,
        faulty(registry_host, seed=2) as from_,
        faulty(other, seed=3) as to,
    ):
        crew = Crew(RegistrySource(patient(from_.host)), RegistryTarget(patient(to.host)), added(tmp_path))
        assert_all_right(crew, other, registry_host, bases, made, seen_at(from_, made))
