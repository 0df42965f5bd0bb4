"""From what podman saves to what podman pulls: registries, layouts and archives, each way."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from image_cache import bake
from image_cache.places import Origin, Remembered, finding
from tests.live.needs import need
from tests.live.parts_bake import AMD64, added, tar_of
from tests.live.parts_engines import private_storage

__all__ = ["private_storage"]
pytestmark = pytest.mark.live
SAVED = {"docker-archive": "saved.tar", "oci-archive": "saved.tar", "oci": "saved"}


def podman(*words: str | Path) -> bytes:
    done = subprocess.run(["podman", *words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("kind", SAVED)
def test_what_podman_saves_is_baked_and_pulled_by_podman(
    private_storage: Path, registry_host: str, tmp_path: Path, kind: str
) -> None:
    need(AMD64.host() == AMD64, "podman imports for its own platform, and these layers are for amd64")
    (tmp_path / "root.tar").write_bytes(tar_of("etc/base"))
    podman("import", "--quiet", tmp_path / "root.tar", "localhost/bottom:v1")
    saved = tmp_path / SAVED[kind]
    format_ = "oci-dir" if kind == "oci" else kind
    podman("save", "--quiet", "--format", format_, "--output", saved, "localhost/bottom:v1")
    origin = Origin.parse(f"{kind}:{saved}")
    source = finding.source(origin)
    got = source.image(origin, AMD64)
    baked = bake.planned(got.manifest, got.config, f"{origin}", got.digest, added(tmp_path))
    host = registry_host.replace("localhost", "127.0.0.1")
    for to, name in (
        (f"{host}/engines", f"docker://{host}/engines/{kind}:{baked.tag}"),
        (f"oci:{tmp_path}/layout", f"oci:{tmp_path}/layout:engines/{kind}:{baked.tag}"),
        (f"oci-archive:{tmp_path}/out.tar", f"oci-archive:{tmp_path}/out.tar:engines/{kind}:{baked.tag}"),
    ):
        target = finding.target(to)
        bake.do(baked, source, origin, target, f"engines/{kind}", Remembered())
        target.close()
        pulled = podman("pull", "--quiet", name).decode().strip()
        made = podman("create", pulled).decode().strip()
        with tarfile.open(fileobj=io.BytesIO(podman("export", made))) as tar:
            files = {member.name for member in tar if member.isreg()}
        assert {"etc/base", "slipworks-agent/big", "usr/local/bin/tiny"} <= files
        podman("rm", made)
        podman("rmi", "--force", pulled)
