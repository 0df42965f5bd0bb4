"""What a base becomes: pure, from manifest and config to manifest and config."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_cache import bake, oci
from image_cache.bake import Added
from image_cache.oci import Artifact
from image_cache.unfit import ForeignLayerError, SchemaOneError, TooManyLayersError, WrongPlatformError
from kit.errors import InvalidFileError, SlipworksError
from kit.nouns import Platform, digest

AMD64, ARM64 = Platform("amd64"), Platform("arm64")
DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
NAME, BASE = "docker.io/some/base:v1", "sha256:" + "b" * 64


def hexed(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def layer(name: str, kind: str = oci.GZIP, tar: str = "") -> Artifact:
    return Artifact(
        key=hexed(name)[7:], digest=hexed(name + kind), diff_id=hexed(tar or name), size=len(name),
        media_type=kind, path=Path("/nowhere"), name=name,
    )  # fmt: skip


GZIP, TINY = layer("agent-server"), layer("client-path")
PACKED = layer("agent-server", oci.ZSTD)
FULL = Added(
    platform=AMD64, gzip=GZIP, zstd=PACKED, tiny=TINY, entrypoint=("/a/tini", "--", "/a/start"),
    env={"LANG": "C.UTF-8"}, labels={"kept": "yes"}, version="1.2",
)  # fmt: skip


def base(
    layers: int = 2, *, docker: bool = False, kind: str = "", inner: dict[str, Any] | None = None,
    manifest: dict[str, Any] | None = None, **config: Any,
) -> tuple[bytes, bytes]:  # fmt: skip
    """The bytes of a manifest and of a config."""
    kind = kind or (DOCKER + ".gzip" if docker else oci.GZIP)
    body = {
        "architecture": "amd64", "os": "linux", "config": inner or {},
        "rootfs": {"type": "layers", "diff_ids": [hexed(f"tar {each}") for each in range(layers)]},
        "history": [{"created_by": f"RUN {each}"} for each in range(layers)], **config,
    }  # fmt: skip
    raw = json.dumps(body).encode()
    family = oci.DOCKER_MANIFEST if docker else oci.MANIFEST
    described = {
        "mediaType": DOCKER_CONFIG if docker else oci.CONFIG,
        "digest": digest(raw),
        "size": len(raw),
    }
    blobs = [{"mediaType": kind, "digest": hexed(f"blob {each}"), "size": each} for each in range(layers)]
    table = {
        "schemaVersion": 2,
        "mediaType": family,
        "config": described,
        "layers": blobs,
        **(manifest or {}),
    }
    return json.dumps(table).encode(), raw


def made(raw: tuple[bytes, bytes], added: Added = FULL) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the config that come out, which always fit each other."""
    baked = bake.planned(*raw, NAME, BASE, added)
    manifest, config = json.loads(baked.manifest), json.loads(baked.config)
    assert manifest["config"]["digest"] == digest(baked.config) == baked.config_descriptor.digest
    assert manifest["config"]["size"] == len(baked.config)
    assert manifest["mediaType"] == baked.media_type
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"])
    assert len(config["rootfs"]["diff_ids"]) == sum(not one.get("empty_layer") for one in config["history"])
    assert baked.digest == digest(baked.manifest)
    return manifest, config


@pytest.mark.parametrize(
    ("docker", "kind", "ours"),
    [
        (True, "", [DOCKER + ".gzip"] * 2),
        (True, DOCKER, [DOCKER + ".gzip"] * 2),
        (True, DOCKER + ".zstd", [DOCKER + ".gzip"] * 2),
        (False, "", [oci.GZIP] * 2),
        (False, oci.TAR, [oci.GZIP] * 2),
        (False, oci.ZSTD, [oci.ZSTD, oci.GZIP]),
    ],
)
def test_the_bases_own_family_of_media_types_is_kept(docker: bool, kind: str, ours: list[str]) -> None:
    raw = base(docker=docker, kind=kind)
    manifest, _ = made(raw)
    was = json.loads(raw[0])
    assert manifest["mediaType"] == was["mediaType"]
    assert manifest["config"]["mediaType"] == was["config"]["mediaType"]
    assert manifest["layers"][:2] == was["layers"]
    assert [one["mediaType"] for one in manifest["layers"][2:]] == ours


def test_zstd_is_taken_where_it_is_wanted_and_possible() -> None:
    wanted = Added(platform=AMD64, gzip=GZIP, zstd=PACKED, wanted="zstd")
    assert made(base(), wanted)[0]["layers"][-1]["digest"] == PACKED.digest
    assert made(base(docker=True), wanted)[0]["layers"][-1]["digest"] == GZIP.digest
    alone = Added(platform=AMD64, gzip=GZIP, wanted="zstd")
    assert made(base(), alone)[0]["layers"][-1]["digest"] == GZIP.digest


def test_an_early_oci_manifest_says_what_it_is_afterwards() -> None:
    raw, config = base()
    table = json.loads(raw)
    del table["mediaType"]
    assert made((json.dumps(table).encode(), config))[0]["mediaType"] == oci.MANIFEST


def test_what_the_config_becomes() -> None:
    inner = {
        "Env": ["PATH=/bin", "LANG=de_DE"], "Entrypoint": ["/entry"], "Cmd": ["serve", "--all"],
        "User": "1000:5", "WorkingDir": "/testbed", "Labels": {"theirs": "1"},
        "Healthcheck": {"Test": ["NONE"]}, "Later": 1,
    }  # fmt: skip
    _, config = made(base(inner=inner, **{"created": "2024-01-01T00:00:00Z", "moby.x": [1, {"y": 2.5}]}))
    got = config["config"]
    assert got["Env"] == ["PATH=/bin", "LANG=C.UTF-8"]
    assert got["Entrypoint"] == ["/a/tini", "--", "/a/start"] and got["Cmd"] == []
    kept = ("User", "WorkingDir", "Healthcheck", "Later")
    assert {name: got[name] for name in kept} == {name: inner[name] for name in kept}
    assert config["created"] == "2024-01-01T00:00:00Z" and config["moby.x"] == [1, {"y": 2.5}]
    assert got["Labels"] == {
        "theirs": "1", "kept": "yes", bake.BASE_NAME: NAME, bake.BASE_DIGEST: BASE, bake.VERSION: "1.2",
        bake.ADDRESS: FULL.address, bake.LAYER: GZIP.digest, bake.KEY: GZIP.key,
        bake.BASE_ENTRYPOINT: '["/entry"]', bake.BASE_CMD: '["serve","--all"]',
    }  # fmt: skip


def test_without_an_entry_point_the_bases_own_stays() -> None:
    _, config = made(base(inner={"Entrypoint": ["/e"], "Cmd": ["c"]}), Added(platform=AMD64, gzip=GZIP))
    assert (config["config"]["Entrypoint"], config["config"]["Cmd"]) == (["/e"], ["c"])


def test_annotations_are_kept_and_name_the_base_and_a_subject_is_not() -> None:
    manifest, _ = made(base(manifest={"annotations": {"a": "b", bake.BASE_NAME: "older"}, "subject": {}}))
    assert manifest["annotations"] == {"a": "b", bake.BASE_NAME: NAME, bake.BASE_DIGEST: BASE}
    assert "subject" not in manifest
    assert "annotations" not in made(base(docker=True))[0]  # Docker's have none


@pytest.mark.parametrize("history", [None, [], [{"created_by": "only one"}]])
def test_a_history_that_does_not_fit_the_layers_is_made_to(history: list[Any] | None) -> None:
    _, config = made(base(history=history))
    assert [one["created_by"].startswith("slipworks") for one in config["history"]] == [False] * 2 + [
        True
    ] * 2


def test_entries_of_history_without_layers_are_kept() -> None:
    history = [{"created_by": "a"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "b"}]
    assert made(base(history=history))[1]["history"][:3] == history


def test_a_base_of_no_layers_at_all() -> None:
    assert len(made(base(0))[0]["layers"]) == 2


@pytest.mark.parametrize(
    ("layers", "added", "fits"),
    [(125, FULL, True), (126, FULL, False), (126, Added(platform=AMD64, gzip=GZIP), True)],
)
def test_127_layers_at_most(layers: int, added: Added, fits: bool) -> None:
    if fits:
        made(base(layers), added)
    else:
        with pytest.raises(TooManyLayersError, match="128 layers: engines take 127"):
            made(base(layers), added)


FOREIGN = {"mediaType": DOCKER.replace("diff", "foreign.diff") + ".gzip", "digest": hexed("f"), "size": 9}


@pytest.mark.parametrize(
    ("raw", "refusal", "said"),
    [
        ((b'{"schemaVersion": 1, "fsLayers": []}', b"{}"), SchemaOneError, "manifest schema 1"),
        (base(architecture="arm64"), WrongPlatformError, "is an image for linux/arm64: expected linux/amd64"),
        (base(1, manifest={"layers": [FOREIGN]}), ForeignLayerError, "which is nowhere"),
        (base(rootfs={"diff_ids": [hexed("x")]}), InvalidFileError, "2 layers, and its config names 1"),
        (base(rootfs=None), InvalidFileError, "without rootfs.diff_ids"),
        ((b'{"schemaVersion": 2, "manifests": []}', b"{}"), InvalidFileError, "not an image manifest"),
        ((b"<html>", b"{}"), InvalidFileError, "is not valid"),
        ((base()[0], b"\xff{"), InvalidFileError, "is not valid"),
    ],
)
def test_what_cannot_be_baked_is_refused_by_kind(
    raw: tuple[bytes, bytes], refusal: type[SlipworksError], said: str
) -> None:
    with pytest.raises(refusal, match=said):
        bake.planned(*raw, NAME, BASE, FULL)


def test_a_layer_that_is_to_be_fetched_elsewhere_stays_there() -> None:
    raw = base(1, manifest={"layers": [{**FOREIGN, "urls": ["https://there/x"]}]})
    baked = bake.planned(*raw, NAME, BASE, FULL)
    assert baked.blobs == () and json.loads(baked.manifest)["layers"][0]["urls"] == ["https://there/x"]


def test_a_layer_that_a_base_has_twice_is_taken_once() -> None:
    same = {"mediaType": oci.GZIP, "digest": hexed("same"), "size": 7}
    baked = bake.planned(*base(2, manifest={"layers": [same, same]}), NAME, BASE, FULL)
    assert [one.digest for one in baked.blobs] == [same["digest"]]
    assert len(json.loads(baked.manifest)["layers"]) == 4


def test_equal_input_gives_equal_bytes_whatever_the_order_of_keys() -> None:
    manifest, config = base(inner={"Env": ["A=1"], "User": "x"})
    turned = json.dumps(dict(reversed(json.loads(config).items()))).encode()
    once, again = (bake.planned(manifest, one, NAME, BASE, FULL) for one in (config, turned))
    assert once.config == again.config and once == bake.planned(manifest, config, NAME, BASE, FULL)


def test_the_tag_is_known_from_the_digest_and_the_address_alone() -> None:
    tag = bake.tag(BASE, FULL)
    assert tag == f"{'b' * 12}-{FULL.address[:12]}" == bake.planned(*base(), NAME, BASE, FULL).tag
    assert oci.check_name(tag)


def test_the_address_changes_with_all_that_changes_the_image_and_with_nothing_else() -> None:
    others = [
        Added(platform=AMD64, gzip=layer("other")),
        Added(platform=AMD64, gzip=GZIP),
        Added(platform=AMD64, gzip=GZIP, zstd=PACKED),
        Added(platform=AMD64, gzip=GZIP, zstd=PACKED, wanted="zstd"),
        Added(platform=AMD64, gzip=GZIP, tiny=TINY),
        Added(platform=AMD64, gzip=GZIP, entrypoint=("/x",)),
        Added(platform=AMD64, gzip=GZIP, entrypoint=()),
        Added(platform=AMD64, gzip=GZIP, env={"A": "b"}),
    ]
    assert len({one.address for one in others}) == len(others)
    told = Added(platform=AMD64, gzip=GZIP, labels={"a": "b"}, version="9")
    assert told.address == others[1].address


def test_forms_that_are_not_of_one_tar_are_refused() -> None:
    with pytest.raises(InvalidFileError, match="not of the same tar"):
        Added(platform=AMD64, gzip=GZIP, zstd=layer("x", oci.ZSTD))
    with pytest.raises(InvalidFileError, match="expected gzip"):
        Added(platform=AMD64, gzip=PACKED)


def test_a_mirrored_base_keeps_its_bytes() -> None:
    raw = base(docker=True)
    copied = bake.copied(*raw, NAME, "v1")
    assert (copied.manifest, copied.config, copied.media_type) == (*raw, oci.DOCKER_MANIFEST)
    assert len(copied.blobs) == 2 and not copied.ours


@pytest.mark.parametrize("kind", ["", DOCKER, DOCKER + ".zstd"])
def test_for_a_layout_dockers_family_becomes_oci(kind: str) -> None:
    raw = base(docker=True, kind=kind)
    baked = bake.planned(*raw, NAME, BASE, FULL)
    made = bake.as_oci(baked)
    table = json.loads(made.manifest)
    assert made.media_type == table["mediaType"] == oci.MANIFEST and made.digest != baked.digest
    assert table["config"] == {**json.loads(baked.manifest)["config"], "mediaType": oci.CONFIG}
    assert "docker" not in made.manifest.decode() and made.tag == baked.tag
    assert [one["digest"] for one in table["layers"]] == [
        one["digest"] for one in json.loads(baked.manifest)["layers"]
    ]
    assert bake.as_oci(made) is made


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.text("ABCDEFXYZ_", min_size=1, max_size=6)


@given(
    layers=st.integers(0, 5),
    docker=st.booleans(),
    inner=st.dictionaries(names, plain, max_size=4),
    more=st.dictionaries(names, plain, max_size=4),
    env=st.none() | st.lists(st.tuples(names, st.text(max_size=4)).map("=".join), max_size=4),
    empty=st.integers(0, 3),
)
def test_nothing_of_a_base_is_lost(
    layers: int, docker: bool, inner: dict[str, Any], more: dict[str, Any], env: list[str] | None, empty: int
) -> None:
    """Whatever a base says: it says it afterwards too, and its layers are the lowest."""
    history = [{"created_by": f"{each}"} for each in range(layers)] + [{"empty_layer": True}] * empty
    raw = base(layers, docker=docker, inner={**inner, "Env": env}, history=history, **more)
    manifest, config = made(raw)
    was = json.loads(raw[0]), json.loads(raw[1])
    assert {name: config[name] for name in more} == more
    assert {name: config["config"][name] for name in inner} == inner
    assert manifest["layers"][:layers] == was[0]["layers"]
    assert config["rootfs"]["diff_ids"][:layers] == was[1]["rootfs"]["diff_ids"]
    assert config["history"][: layers + empty] == history
    assert [each for each in config["config"]["Env"] if each in (env or [])] == (env or [])
