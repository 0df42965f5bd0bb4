"""The part of a layer that is kept: what completes it holds its bytes, and a damaged one is made again."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from containers import layer, layer_pack
from definitions import layers
from image_cache.store import Store
from kit import process
from kit.errors import BuildError
from kit.nouns import Platform, digest
from runner import building, record
from tests.unit.parts_images import tar_of
from tests.unit.test_layer import small_tree

OWN, ARM64 = layers.load("slipworks"), Platform("arm64")
KEYS = ("2" * 64, "3" * 64, "4" * 64)


@pytest.mark.parametrize("own", [["top/b"], []])
def test_what_completes_a_body_holds_its_bytes(tmp_path: Path, own: list[str]) -> None:
    stage = small_tree(tmp_path, ["a.py", "b/c.py"])
    with (tmp_path / "body").open("wb") as out:
        layer_pack.pack(stage, ["top/a.py", "top/link"], out)
    with (tmp_path / "body").open("rb") as body, (tmp_path / "whole").open("wb") as out:
        tee = layer_pack.pack(stage, own, out, body)
    whole = (tmp_path / "whole").read_bytes()
    assert whole.startswith((tmp_path / "body").read_bytes())
    raw = gzip.decompress(whole)
    assert (tee.hash.hexdigest(), tee.size) == (hashlib.sha256(raw).hexdigest(), len(raw))
    assert raw.endswith(bytes(1024)) and len(raw) % tarfile.RECORDSIZE == 0
    inside = ["top/a.py", "top/link", *(["top/b", "top/b/c.py", "top/b/run"] if own else [])]
    for argv in (["tar"], ["busybox", "tar"]):
        if shutil.which(argv[0]):
            told = process.run([*argv, "-tzf", tmp_path / "whole"], what="list a layer")
            assert ([name.rstrip("/") for name in told.out.split()], told.err) == (inside, "")


def test_a_damaged_body_is_no_part_of_a_layer(tmp_path: Path) -> None:
    stage = small_tree(tmp_path, ["a.py", "b/c.py"])
    (tmp_path / "body").write_bytes(gzip.compress(bytes(5000))[:-20])
    argv = [sys.executable, layer_pack.__file__, tmp_path / "whole", tmp_path / "body", stage, "top"]
    with pytest.raises(BuildError, match="could not pack"):
        process.run(argv, what="pack a layer")


def test_a_body_is_kept_and_one_that_is_damaged_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, body = Store(tmp_path / "store"), tar_of({"a": b"a"})
    made, keys = [], iter(KEYS)

    def body_at(path: Path) -> SimpleNamespace:
        made.append(path)
        path.write_bytes(body)
        return SimpleNamespace(diff_id=digest(body), packages={"libc6": "9"})

    def build(
        spec: object, platform: object, out: Path, update: object, pulled: object, keep: layer.Keep
    ) -> SimpleNamespace:
        path, packages = keep("5" * 64, cast(Any, body_at))
        tar = tar_of({"a": b"a", "b": str(len(made)).encode()})
        out.write_bytes(tar)
        assert path == store.artifacts.get("5" * 64).path  # type: ignore[union-attr]
        return SimpleNamespace(diff_id=digest(tar), packages=packages)

    monkeypatch.setattr(layer, "build", build)
    monkeypatch.setattr(layer, "key", lambda spec, platform: next(keys))
    store.root.mkdir()
    for builds in (1, 1, 2):
        found = building.layer_artifact(OWN, ARM64, store)
        assert store.note(found.diff_id, record.TAKEN) == b'{"libc6":"9"}'
        assert len(made) == builds
        path = store.artifacts.get("5" * 64).path  # type: ignore[union-attr]
        if found.key == KEYS[1]:
            path.write_bytes(path.read_bytes()[:-1] + b"x")
