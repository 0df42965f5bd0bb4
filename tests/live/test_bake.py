"""Baked against Docker's own registry: every byte is pulled back and compared."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_cache import bake, oci
from image_cache.bake import Added, Moved
from image_cache.oci import Descriptor
from image_cache.places import Origin, Remembered
from image_cache.places.registry import RegistrySource, RegistryTarget
from image_cache.references import Reference
from image_cache.registry import Registry
from image_cache.unfit import TagTakenError, WrongPlatformError
from kit.errors import AuthError, NotFoundError, UnsupportedError
from kit.nouns import Platform, digest
from tests.live.parts_bake import AMD64, Bases, added, pulled
from tests.live.parts_pushed import log_in
from tests.live.parts_registry import PASSWORD, Faulty, Tokens, registry

pytestmark = pytest.mark.live


class Oven:
    """Bakes from one registry into another, or the same, and counts the requests to the target."""

    def __init__(self, host: str, more: Added, to: str = "") -> None:
        self.source = RegistrySource(Registry(host))
        self.target = RegistryTarget(Registry(to or host))
        self.more, self.known = more, Remembered()

    def planned(self, base: Origin) -> bake.Baked:
        got = self.source.image(base, AMD64)
        return bake.planned(got.manifest, got.config, f"{base}", got.digest, self.more)

    def bake(self, base: Origin, repository: str = "") -> Moved:
        baked, at = self.planned(base), repository or self.at(base)
        return bake.do(baked, self.source, base, self.target, at, self.known)

    def at(self, base: Origin) -> str:
        return f"baked/{base.repository}"

    @property
    def counts(self) -> dict[str, int]:
        return self.target.registry.counts

    def assert_right(self, base: Origin, bases: Bases, repository: str = "") -> None:
        """As another client pulls it: each blob is what its digest says, the tars are the base's and ours."""
        host, baked = self.target.name, self.planned(base)
        manifest, config, tars = pulled(host, repository or self.at(base), baked.tag)
        assert manifest == oci.manifest(baked.manifest, "planned")
        ours = [one.diff_id for one in (self.more.gzip, self.more.tiny) if one]
        assert tars == oci.diff_ids(config, "baked") == [*bases.tars(base), *ours]


@pytest.fixture
def other_host(tmp_path: Path) -> Iterator[str]:
    with registry(tmp_path / "other registry") as host:
        yield host


def name() -> str:
    return f"test/{os.urandom(6).hex()}"


@pytest.mark.parametrize("docker", [False, True])
def test_a_baked_image_is_its_base_with_the_layers_on_top(
    registry_host: str, tmp_path: Path, docker: bool
) -> None:
    bases = Bases(registry_host, tmp_path)
    base = bases.make("etc/one", "etc/two", docker=docker, repository=name())
    oven = Oven(registry_host, added(tmp_path))
    moved = oven.bake(base)
    assert moved.digest == oven.planned(base).digest and not moved.there
    oven.assert_right(base, bases)
    again = oven.bake(base)
    assert (again.digest, again.there, again.bytes) == (moved.digest, True, 0)


def test_within_a_registry_nothing_but_the_new_documents_moves(registry_host: str, tmp_path: Path) -> None:
    bases, repository = Bases(registry_host, tmp_path), name()
    made = [bases.make("etc/shared", f"etc/{each}", repository=repository) for each in range(3)]
    oven = Oven(registry_host, added(tmp_path))
    oven.bake(made[0])
    before = dict(oven.counts)
    planned = [oven.planned(base) for base in made[1:]]
    for base, wanted in zip(made[1:], planned, strict=True):
        assert oven.bake(base).bytes == len(wanted.config) + len(wanted.manifest) < 20_000
    spent = {method: count - before.get(method, 0) for method, count in oven.counts.items()}
    # Of each: the tag; one mount, the rest is known; the config and the manifest. Planning asked the source.
    assert spent == {"HEAD": 2, "POST": 4, "PUT": 4}
    for base in made:
        oven.assert_right(base, bases)


def test_the_layer_goes_up_once_and_is_mounted_everywhere_else(registry_host: str, tmp_path: Path) -> None:
    bases = Bases(registry_host, tmp_path)
    made = [bases.make("etc/x", repository=name()) for _ in range(12)]
    more = added(tmp_path)
    oven = Oven(registry_host, more)
    with ThreadPoolExecutor(12) as pool:
        moved = list(pool.map(oven.bake, made))
    layer = more.gzip.size + (more.tiny.size if more.tiny else 0)
    documents = sum(len(one.config) + len(one.manifest) for one in map(oven.planned, made))
    assert sum(one.bytes for one in moved) == layer + documents
    for base in made:
        oven.assert_right(base, bases)


def test_many_threads_and_one_repository(registry_host: str, tmp_path: Path) -> None:
    """Docker's registry 2.8 answers 400 when a blob is mounted twice at once: each is mounted once."""
    bases, repository = Bases(registry_host, tmp_path), name()
    made = [bases.make("etc/a", "etc/b", f"etc/{each}", repository=repository) for each in range(24)]
    oven = Oven(registry_host, added(tmp_path))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(oven.bake, made))
    # Layers of their own and configs; layers that are shared; our two, which are uploaded.
    assert oven.counts["POST"] == 24 * 2 + 2 + 2
    for base in made:
        oven.assert_right(base, bases)


def test_from_one_registry_to_another_each_layer_is_copied_once(
    registry_host: str, other_host: str, tmp_path: Path
) -> None:
    bases = Bases(registry_host, tmp_path)
    made = [
        bases.make("etc/shared", f"etc/{each}", repository=name(), size=300_000, docker=each % 2 == 0)
        for each in range(6)
    ]
    oven = Oven(registry_host, added(tmp_path), other_host)
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(oven.bake, made))
    planned = [oven.planned(base) for base in made]
    layers = {blob.digest: blob.size for one in planned for blob in one.blobs}
    layers |= {one.digest: one.size for one in planned[0].ours}
    documents = sum(len(one.config) + len(one.manifest) for one in planned)
    assert len(layers) == 6 + 1 + 2 and sum(one.bytes for one in moved) == sum(layers.values()) + documents
    for base in made:
        oven.assert_right(base, bases)


def test_what_was_copied_before_is_found_by_a_new_run(
    registry_host: str, other_host: str, tmp_path: Path
) -> None:
    """A run that was killed remembers nothing here, and yet no layer goes a second time."""
    base = Bases(registry_host, tmp_path).make("etc/x", size=200_000, repository=name())
    more = added(tmp_path)
    oven = Oven(registry_host, more, other_host)
    baked = oven.planned(base)
    for blob in baked.blobs:
        oven.target.take("baked/x", blob, oven.source, base.repository, Remembered())
    anew = Oven(registry_host, more, other_host)
    first = anew.bake(base, "baked/x")
    assert first.bytes == sum(one.size for one in baked.ours) + len(baked.config) + len(baked.manifest)


def test_a_mirrored_base_is_its_base_byte_by_byte(
    registry_host: str, other_host: str, tmp_path: Path
) -> None:
    base = Bases(registry_host, tmp_path).make("etc/x", docker=True, repository=name())
    oven = Oven(registry_host, added(tmp_path), other_host)
    got = oven.source.image(base, AMD64)
    copy = bake.copied(got.manifest, got.config, f"{base}", "base-1")
    assert bake.do(copy, oven.source, base, oven.target, "mirror/x", oven.known).digest == got.digest
    pulled(other_host, "mirror/x", "base-1")
    # And baked within the other registry, nothing of the base moves any more.
    here = Origin("registry", other_host, "mirror/x", "base-1")
    near = Oven(other_host, oven.more)
    assert near.bake(here, "baked/x").bytes < sum(one.size for one in copy.blobs) + 60_000


def test_in_place_nothing_is_mounted(registry_host: str, tmp_path: Path) -> None:
    bases, repository = Bases(registry_host, tmp_path), name()
    base = bases.make("etc/x", repository=repository)
    oven = Oven(registry_host, added(tmp_path))
    oven.bake(base, repository)
    oven.assert_right(base, bases, repository)


def test_a_tag_of_somebody_else_is_not_touched(registry_host: str, tmp_path: Path) -> None:
    bases = Bases(registry_host, tmp_path)
    base, theirs = bases.make("etc/x", repository=name()), bases.make("etc/theirs", repository=name())
    oven, at = Oven(registry_host, added(tmp_path)), name()
    tag = oven.planned(base).tag
    raw, kind = Registry(registry_host).manifest(theirs.reference)
    for blob in oci.manifest(raw, "theirs").blobs:
        Registry(registry_host).mount(at, blob, theirs.repository)
    Registry(registry_host).put_manifest(Reference(registry_host, at, tag), raw, kind)
    with pytest.raises(TagTakenError, match=f"{at}:{tag} is there and was not made here"):
        oven.bake(base, at)
    assert oven.target.find(at, tag) == digest(raw)


def test_what_an_older_kit_baked_of_the_same_pair_counts_as_done(registry_host: str, tmp_path: Path) -> None:
    base = Bases(registry_host, tmp_path).make("etc/x", repository=name())
    older = Oven(registry_host, added(tmp_path, version="0.0.1"))
    newer = Oven(registry_host, added(tmp_path, version="9"))
    made = older.bake(base)
    assert newer.planned(base).digest != made.digest
    found = newer.bake(base)
    assert found.there and found.digest == made.digest


def test_blobs_that_the_target_lost_are_brought_again(registry_host: str, tmp_path: Path) -> None:
    """As after a garbage collection there: what the journal remembers is not so any more."""
    bases = Bases(registry_host, tmp_path)
    base = bases.make("etc/x", "etc/y", repository=name())
    oven = Oven(registry_host, added(tmp_path))
    for blob in (*oven.planned(base).blobs, *oven.planned(base).ours):
        oven.known.add(oven.at(base), blob.digest)
    oven.bake(base)
    oven.assert_right(base, bases)


def test_a_holder_that_lost_its_blob_is_forgotten(
    registry_host: str, other_host: str, tmp_path: Path
) -> None:
    bases = Bases(registry_host, tmp_path)
    base = bases.make("etc/x", repository=name())
    oven = Oven(registry_host, added(tmp_path), other_host)
    for blob in oven.planned(base).blobs:
        oven.known.add("gone/away", blob.digest)
    oven.bake(base)
    oven.assert_right(base, bases)
    assert not any(oven.known.has("gone/away", blob.digest) for blob in oven.planned(base).blobs)


def test_of_an_index_the_platform_is_baked_and_never_another(registry_host: str, tmp_path: Path) -> None:
    bases, repository = Bases(registry_host, tmp_path), name()
    entries = []
    for arch in ("amd64", "arm64"):
        one = bases.make(f"etc/{arch}", repository=repository, arch=arch)
        raw, kind = Registry(registry_host).manifest(one.reference)
        entries.append(
            Descriptor(kind, digest(raw), len(raw), platform={"os": "linux", "architecture": arch})
        )
    client = Registry(registry_host)
    both = Reference(registry_host, repository, "both")
    client.put_manifest(both, oci.encode(oci.Index(tuple(entries))), oci.INDEX)
    source = RegistrySource(client)
    base = Origin.parse(f"{both}")
    seen = source.look(base)
    assert seen and seen.media_type == oci.INDEX
    for arch, entry in zip(("amd64", "arm64"), entries, strict=True):
        assert source.image(base.at(seen.digest), Platform(arch)).digest == entry.digest
    only = Reference(registry_host, repository, "only")
    client.put_manifest(only, oci.encode(oci.Index((entries[1],))), oci.INDEX)
    with pytest.raises(WrongPlatformError, match="it has linux/arm64"):
        source.image(Origin.parse(f"{only}"), AMD64)


def test_what_does_not_exist_is_said_by_an_answer_alone(registry_host: str) -> None:
    source = RegistrySource(Registry(registry_host))
    base = Origin.parse(f"{registry_host}/no/such:tag")
    assert source.look(base) is None
    with pytest.raises(NotFoundError):
        source.image(base, AMD64)


def test_a_target_without_the_repository_says_nothing_of_the_base(faulty: Faulty) -> None:
    """Some registries make no repositories by themselves."""
    target = RegistryTarget(Registry(faulty.host, pause=0.001))
    faulty.then(404, b'{"errors": [{"code": "NAME_UNKNOWN"}]}')
    with pytest.raises(UnsupportedError, match="has no repository a/b and makes none") as told:
        target.give("a/b", Descriptor(oci.CONFIG, digest(b"x"), 1), b"x")
    assert not isinstance(told.value, NotFoundError)


def test_a_locked_registry_is_baked_in_with_the_login_of_engines(
    locked_registry_host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(tmp_path, locked_registry_host, "wrong", monkeypatch)
    with pytest.raises(AuthError):
        Bases(locked_registry_host, tmp_path).make("etc/x", repository=name())
    log_in(tmp_path, locked_registry_host, PASSWORD, monkeypatch)
    base = Bases(locked_registry_host, tmp_path).make("etc/x", repository=name())
    oven = Oven(locked_registry_host, added(tmp_path))
    made = oven.bake(base)
    assert oven.target.find(oven.at(base), oven.planned(base).tag) == made.digest


def test_tokens_have_the_scopes_of_both_repositories_and_are_asked_for_once(
    token_registry: tuple[str, Tokens], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, tokens = token_registry
    log_in(tmp_path, host, PASSWORD, monkeypatch)
    bases, repository = Bases(host, tmp_path), name()
    made = [bases.make("etc/shared", f"etc/{each}", repository=repository) for each in range(8)]
    oven = Oven(host, added(tmp_path))
    oven.bake(made[0])  # which uploads the layer too
    tokens.granted.clear()
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(oven.bake, made))
    assert sum(one.there for one in moved) == 1
    assert all(one.bytes < 20_000 for one in moved)
    assert tokens.granted == []  # those of the first image open the door for all others
    at = oven.at(made[0])
    fresh = Oven(host, oven.more)
    fresh.bake(bases.make("etc/later", repository=repository))
    scopes = {tuple(sorted(each)) for each in tokens.granted}
    assert (f"repository:{at}:pull,push", f"repository:{repository}:pull") in scopes


def test_a_token_that_has_expired_is_renewed_by_one_thread_for_all(
    token_registry: tuple[str, Tokens], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, tokens = token_registry
    log_in(tmp_path, host, PASSWORD, monkeypatch)
    base = Bases(host, tmp_path).make("etc/x", repository=name())
    client = Registry(host)
    assert client.head(base.reference)
    out = client._out
    scope = ((base.repository, "pull"),)
    out.door._tokens.keep(scope, "Bearer " + "stale." * 3)
    tokens.granted.clear()
    start = threading.Barrier(8)

    def ask(_: int) -> str | None:
        start.wait()
        return client.head(base.reference)

    with ThreadPoolExecutor(8) as pool:
        assert None not in list(pool.map(ask, range(8)))
    assert len(tokens.granted) == 1
