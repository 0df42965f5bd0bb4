"""Small images and a store for them, in a folder whose name is as odd as names get."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from pathlib import Path

import pytest

from image_cache.store import Store
from kit.nouns import Image, Platform

AMD64, ARM64 = Platform("amd64"), Platform("arm64")
KEY, OTHER = "a" * 64, "b" * 64


def tar_of(tree: dict[str, bytes], folder: str = "slipworks") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as out:
        for name, body in sorted(tree.items()):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(body)
            out.addfile(member, io.BytesIO(body))
    return raw.getvalue()


def sha(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / 'a store\'s "own"\nfolder')


@pytest.fixture
def image(store: Store, tmp_path: Path) -> Image:
    (tmp_path / "root.tar").write_bytes(tar_of({"hello": b"world"}, "etc"))
    return store.put_root(
        tmp_path / "root.tar", key=KEY, name="base-amd64", platform=AMD64, labels={"org.example": "x"}
    )


def fresh() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="store ")
