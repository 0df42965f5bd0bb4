"""Against Docker's own registry: what is pushed is there byte by byte, and nothing is moved twice."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from image_cache import oci
from image_cache.references import Reference
from image_cache.registry import Registry, resolve
from image_cache.store import Store
from image_cache.transfer import pull, push
from kit.errors import (
    AuthError,
    NetworkError,
    NotFoundError,
    UnsupportedError,
)
from kit.nouns import Image, Platform
from tests.live.parts_pushed import log_in, tar
from tests.live.parts_registry import PASSWORD, Tokens, free_port

pytestmark = pytest.mark.live
AMD64, ARM64 = Platform("amd64"), Platform("arm64")
ROOT = Path(__file__).parents[2]


def fetched(host: str, path: str) -> bytes:
    request = urllib.request.Request(f"http://{host}/v2/{path}", headers={"Accept": oci.MANIFEST})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


def name() -> str:
    return f"test/{os.urandom(6).hex()}"


def test_what_is_pushed_is_there_byte_by_byte(registry_host: str, store: Store, image: Image) -> None:
    repository = name()
    assert push(store, image, f"{registry_host}/{repository}:v1") == image.digest
    raw = fetched(registry_host, f"{repository}/manifests/v1")
    assert raw == store.blob(image.digest).read_bytes()
    for blob in oci.manifest(raw, "pushed").blobs:
        sent = fetched(registry_host, f"{repository}/blobs/{blob.digest}")
        assert "sha256:" + hashlib.sha256(sent).hexdigest() == blob.digest


def test_pushing_again_moves_nothing(registry_host: str, store: Store, image: Image) -> None:
    target = f"{registry_host}/{name()}"
    push(store, image, f"{target}:v1")
    again, retagged = Registry(registry_host), Registry(registry_host)
    push(store, image, f"{target}:v1", registry=again)
    assert again.counts == {"HEAD": 1}
    push(store, image, f"{target}:v2", registry=retagged)
    assert retagged.counts == {
        "HEAD": 4,
        "PUT": 1,
    }  # the tag and three blobs are asked for; the manifest goes


def test_blobs_of_another_repository_are_mounted(registry_host: str, store: Store, image: Image) -> None:
    first, second = name(), name()
    push(store, image, f"{registry_host}/{first}:v1")
    client = Registry(registry_host)
    lines: list[str] = []
    push(
        store,
        image,
        f"{registry_host}/{second}:v1",
        registry=client,
        mount_from=[first],
        progress=lines.append,
    )
    assert client.counts["PUT"] == 1 and not lines  # the manifest alone
    assert resolve(f"{registry_host}/{second}:v1") == image.digest


def test_pull_gives_what_was_pushed(registry_host: str, store: Store, image: Image, tmp_path: Path) -> None:
    target = f"{registry_host}/{name()}:v1"
    push(store, image, target)
    other = Store(tmp_path / "other")
    got = pull(target, AMD64, other)
    assert got.digest == image.digest
    assert {path.name: path.read_bytes() for path in other.blobs.iterdir()} == {
        path.name: path.read_bytes() for path in store.blobs.iterdir() if (other.blobs / path.name).exists()
    }
    client = Registry(registry_host)
    assert pull(target, AMD64, other, registry=client) == got
    assert client.counts["GET"] == 2  # the manifest and the config; no layer


def test_a_push_killed_midway_goes_on(registry_host: str, store: Store, tmp_path: Path) -> None:
    """Killed while it sends the second layer; then only that one is sent."""
    layers = [
        store.put_artifact(f"{n}" * 64, tar(tmp_path / f"{n}.tar", f"file{n}", size=3_000_000))
        for n in (1, 2)
    ]
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}
    image = store.put_image(
        oci.appended(config, layers),
        [one.descriptor for one in layers],
        key="d" * 64,
        name="big",
        platform=AMD64,
    )
    repository = name()
    child = (
        "import sys, os, signal; from pathlib import Path\n"
        "from image_cache import transfer; from image_cache.store import Store\n"
        "transfer.AT_ONCE = 1; begun = set()\n"
        "def progress(line):\n"
        "    begun.add(line.split(':')[0])\n"
        "    if len(begun) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store = Store(Path(sys.argv[1]))\n"
        "transfer.push(store, store.find('d' * 64, 'oci'), sys.argv[2], progress=progress)\n"
    )
    target = f"{registry_host}/{repository}:v1"
    killed = subprocess.run([sys.executable, "-c", child, str(store.root), target], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(NotFoundError):
        resolve(target)
    sent: set[str] = set()
    push(store, image, target, progress=lambda line: sent.add(line.split(":")[0].split()[1]))
    assert len(sent) == 2 and sum(one.digest[7:19] in sent for one in layers) == 1  # one layer, the config
    assert resolve(target) == image.digest


def put_index(host: str, repository: str, tag: str, *entries: tuple[str, int, Platform]) -> str:
    manifests = tuple(
        oci.Descriptor(oci.MANIFEST, digest, size, platform={"os": one.os, "architecture": one.arch})
        for digest, size, one in entries
    )
    raw = oci.encode(oci.Index(manifests))
    return Registry(host).put_manifest(Reference(host, repository, tag), raw, oci.INDEX)


def test_an_index_is_not_a_manifest(registry_host: str, store: Store, image: Image, tmp_path: Path) -> None:
    repository = name()
    arm = store.put_root(tar(tmp_path / "arm.tar", "etc/arm"), key="e" * 64, name="arm", platform=ARM64)
    entries = []
    for one in (image, arm):
        push(store, one, f"{registry_host}/{repository}:{one.platform.arch}")
        entries.append((one.digest, store.blob(one.digest).stat().st_size, one.platform))
    both = put_index(registry_host, repository, "both", *entries)
    put_index(registry_host, repository, "intel", entries[0])
    assert resolve(f"{registry_host}/{repository}:both") == both
    assert resolve(f"{registry_host}/{repository}:both", ARM64) == arm.digest
    assert pull(f"{registry_host}/{repository}@{both}", ARM64, Store(tmp_path / "o")).digest == arm.digest
    with pytest.raises(UnsupportedError, match="has no image for linux/arm64: it has linux/amd64"):
        resolve(f"{registry_host}/{repository}:intel", ARM64)
    with pytest.raises(UnsupportedError, match="is an image for linux/amd64: expected linux/arm64"):
        resolve(f"{registry_host}/{repository}:amd64", ARM64)


def test_dockers_own_media_types_become_oci(
    registry_host: str, store: Store, image: Image, tmp_path: Path
) -> None:
    """As `docker push` writes it: the same blobs under Docker's names."""
    repository = name()
    push(store, image, f"{registry_host}/{repository}:oci")
    raw = store.blob(image.digest).read_bytes().decode()
    raw = raw.replace(oci.GZIP, "application/vnd.docker.image.rootfs.diff.tar.gzip")
    raw = raw.replace(oci.CONFIG, "application/vnd.docker.container.image.v1+json")
    raw = raw.replace(oci.MANIFEST, oci.DOCKER_MANIFEST)
    target = Reference(registry_host, repository, "docker")
    Registry(registry_host).put_manifest(target, raw.encode(), oci.DOCKER_MANIFEST)
    other = Store(tmp_path / "other")
    assert pull(f"{target}", AMD64, other).digest == image.digest
    assert "docker" not in other.blob(image.digest).read_text()


def test_what_does_not_exist(registry_host: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"{registry_host}/no/such:tag does not exist"):
        resolve(f"{registry_host}/no/such:tag")
    with pytest.raises(NotFoundError, match="does not exist: MANIFEST_UNKNOWN"):
        pull(f"{registry_host}/no/such:tag", AMD64, Store(tmp_path))


def test_nobody_there_says_nothing_about_existence() -> None:
    client = Registry(f"localhost:{free_port()}", pause=0.001)
    with pytest.raises(NetworkError, match="could not ask for") as told:
        client.head(Reference(client.host, "a/b", "c"))
    assert told.value.hint and told.value.hint.startswith("curl -I http://localhost:")


def test_credentials_open_a_locked_registry(
    locked_registry_host: str, store: Store, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"{locked_registry_host}/{name()}:v1"
    log_in(tmp_path, "somewhere.else", PASSWORD, monkeypatch)
    with pytest.raises(AuthError, match=r"does not let us use .* \(401\)") as refused:
        push(store, image, target)
    assert refused.value.hint == f"podman login {locked_registry_host}"
    log_in(tmp_path, locked_registry_host, "wrong-password", monkeypatch)
    with pytest.raises(AuthError) as refused:
        push(store, image, target)
    assert "wrong-password" not in str(refused.value)
    log_in(tmp_path, locked_registry_host, PASSWORD, monkeypatch)
    assert push(store, image, target) == image.digest
    assert pull(target, AMD64, Store(tmp_path / "other")).digest == image.digest


def test_a_token_is_asked_for_with_the_scopes_that_are_needed(
    token_registry: tuple[str, Tokens],
    store: Store,
    image: Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, tokens = token_registry
    log_in(tmp_path, host, "wrong-password", monkeypatch)
    with pytest.raises(AuthError) as refused:
        resolve(f"{host}/a/b:c")
    assert "wrong-password" not in str(refused.value)
    log_in(tmp_path, host, PASSWORD, monkeypatch)
    tokens.granted.clear()  # of what other files' tests have asked for
    first, second = name(), name()
    assert push(store, image, f"{host}/{first}:v1") == image.digest
    assert {tuple(scopes) for scopes in tokens.granted} == {
        (f"repository:{first}:pull",),
        (f"repository:{first}:pull,push",),
    }
    tokens.granted.clear()
    client = Registry(host)
    push(store, image, f"{host}/{second}:v1", registry=client, mount_from=[first])
    assert client.counts["PUT"] <= 2  # the manifest, perhaps twice for its token: no blob went up
    assert [f"repository:{second}:pull,push", f"repository:{first}:pull"] in tokens.granted
    assert pull(f"{host}/{second}:v1", AMD64, Store(tmp_path / "other")).digest == image.digest


def test_this_machine_is_asked_without_a_proxy(
    registry_host: str, store: Store, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, f"http://localhost:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert push(store, image, f"{registry_host}/{name()}:v1") == image.digest
