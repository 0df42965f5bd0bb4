"""A store with an image of two layers, and a login, for tests of registries and engines."""

from __future__ import annotations

import base64
import io
import json
import random
import tarfile
from pathlib import Path

import pytest

from image_cache import oci
from image_cache.store import Store
from kit.nouns import Image, Platform
from tests.live.parts_registry import USER

AMD64 = Platform("amd64")


def tar(path: Path, *names: str, size: int = 3000, seed: int = 0) -> Path:
    noise = random.Random(f"{path.name} {seed}")
    with tarfile.open(path, "w") as out:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = size
            out.addfile(member, io.BytesIO(noise.randbytes(size)))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / 'the store\'s "own" folder')


@pytest.fixture
def image(store: Store, tmp_path: Path) -> Image:
    base = store.put_root(tar(tmp_path / "base.tar", "etc/hello"), key="a" * 64, name="base", platform=AMD64)
    layer = store.put_artifact("b" * 64, tar(tmp_path / "layer.tar", "slipworks/bin/runner"))
    config = store.opened(base)[1]
    layers = [*store.opened(base)[0].layers, layer.descriptor]
    return store.put_image(
        oci.appended(config, [layer]), layers, key="c" * 64, name="two-layers", platform=AMD64
    )


def log_in(folder: Path, host: str, password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))
    for variable in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "nothing"))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
