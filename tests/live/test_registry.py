"""Against Docker's own registry: what is pushed is there byte by byte, and nothing is moved twice."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_cache import oci
from image_cache.references import Reference
from image_cache.registry import Registry, resolve
from image_cache.store import Store
from image_cache.transfer import pull, push
from kit.errors import (
    AuthError,
    HashMismatchError,
    NetworkError,
    NotFoundError,
    QuotaError,
    UnsupportedError,
)
from kit.nouns import Image, Platform
from tests.live.needs import need
from tests.live.parts_registry import PASSWORD, USER, Faulty, Tokens, free_port

pytestmark = pytest.mark.live
AMD64, ARM64 = Platform("amd64"), Platform("arm64")
ROOT = Path(__file__).parents[2]


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


def log_in(folder: Path, host: str, password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))
    for variable in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "nothing"))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


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


def asking(faulty: Faulty) -> Registry:
    return Registry(faulty.host, pause=0.001, timeout=0.5)


def test_a_quota_is_waited_for_if_short_and_told_if_long(faulty: Faulty) -> None:
    faulty.then(429, Retry_After="0")
    faulty.then(200, Docker_Content_Digest="sha256:" + "1" * 64)
    assert asking(faulty).head(Reference(faulty.host, "a/b", "c")) == "sha256:" + "1" * 64
    faulty.then(429, Retry_After="7200")
    with pytest.raises(QuotaError, match="come back after 7200"):
        asking(faulty).head(Reference(faulty.host, "a/b", "c"))


def test_a_failing_server_is_asked_again_and_then_told(faulty: Faulty) -> None:
    for _ in range(4):
        faulty.then(503)
    faulty.then(200, Docker_Content_Digest="sha256:" + "2" * 64)
    assert asking(faulty).head(Reference(faulty.host, "a/b", "c"))
    for _ in range(5):
        faulty.then(500)
    with pytest.raises(NetworkError, match="failed with 500"):
        asking(faulty).head(Reference(faulty.host, "a/b", "c"))
    assert not faulty.answers


def test_silence_is_a_network_error(faulty: Faulty) -> None:
    done = threading.Event()
    for _ in range(5):
        faulty.then_silence(done)
    try:
        with pytest.raises(NetworkError, match="no answer in time"):
            asking(faulty).head(Reference(faulty.host, "a/b", "c"))
    finally:
        done.set()


def test_a_broken_download_goes_on_where_it_broke_off(faulty: Faulty, store: Store) -> None:
    body = random.Random(5).randbytes(300_000)
    blob = oci.Descriptor(oci.GZIP, "sha256:" + hashlib.sha256(body).hexdigest(), len(body))
    faulty.then(200, body, cut=100_000)
    faulty.then(206, body[100_000:], cut=50_000)
    faulty.then(200, body)  # a server that knows no ranges
    assert store.put_blob(asking(faulty).blob("a/b", blob), oci.GZIP, blob.digest) == blob
    assert [headers.get("Range") for _, _, headers in faulty.seen] == [None, "bytes=100000-", "bytes=150000-"]


def test_other_bytes_than_promised_are_not_taken(faulty: Faulty, store: Store) -> None:
    blob = oci.Descriptor(oci.GZIP, "sha256:" + "3" * 64, 4)
    faulty.then(200, b"evil")
    with pytest.raises(HashMismatchError):
        store.put_blob(asking(faulty).blob("a/b", blob), oci.GZIP, blob.digest)
    assert not list(store.blobs.iterdir())
    faulty.then(200, b'{"schemaVersion": 2}')
    with pytest.raises(HashMismatchError):
        asking(faulty).manifest(Reference(faulty.host, "a/b", None, "sha256:" + "4" * 64))


def test_more_bytes_than_promised_are_not_taken(faulty: Faulty, store: Store) -> None:
    blob = oci.Descriptor(oci.GZIP, "sha256:" + "3" * 64, 4)
    faulty.then(200, b"much more")
    with pytest.raises(HashMismatchError, match="more than the 4 bytes"):
        store.put_blob(asking(faulty).blob("a/b", blob), oci.GZIP, blob.digest)


def test_credentials_go_to_the_registry_alone(
    faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a registry does that keeps its blobs in a store elsewhere: the redirect's target gets none."""
    log_in(tmp_path, faulty.host, PASSWORD, monkeypatch)
    elsewhere = faulty.host.replace("localhost", "127.0.0.1")
    blob = oci.Descriptor(oci.GZIP, "sha256:" + "3" * 64, 4)
    faulty.then(401, WWW_Authenticate='Basic realm="x"')
    faulty.then(307, Location=f"http://{elsewhere}/signed?by=them")
    faulty.then(200, b"abcd")
    assert b"".join(asking(faulty).blob("a/b", blob)) == b"abcd"
    shown = [(path, "Authorization" in headers) for _, path, headers in faulty.seen]
    assert shown == [(shown[0][0], False), (shown[0][0], True), ("/signed?by=them", False)]
    faulty.seen.clear()
    faulty.then(401, WWW_Authenticate='Basic realm="x"')
    faulty.then(202, Location=f"http://{elsewhere}/upload?state=x")
    faulty.then(201)
    client = asking(faulty)
    client.put_blob("a/b", blob, lambda: iter([b"abcd"]))
    shown = [(path, "Authorization" in headers) for _, path, headers in faulty.seen]
    uploads, upload = "/v2/a/b/blobs/uploads/", "/upload?state=x&digest=sha256%3A" + "3" * 64
    assert shown == [(uploads, False), (uploads, True), (upload, False)]


def test_this_machine_is_asked_without_a_proxy(
    registry_host: str, store: Store, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, f"http://localhost:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert push(store, image, f"{registry_host}/{name()}:v1") == image.digest


def test_schema_1_is_named(faulty: Faulty) -> None:
    faulty.then(200, b'{"schemaVersion": 1, "fsLayers": []}')
    with pytest.raises(UnsupportedError, match="manifest schema 1"):
        asking(faulty).manifest(Reference(faulty.host, "a/b", "old"))


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """An engine with storage of its own, as the beginning of an argv."""
    need(shutil.which(request.param), f"{request.param} is not installed")
    # Not in tmp_path: podman takes no run root of more than 50 characters.
    with tempfile.TemporaryDirectory() as short:
        yield [
            request.param,
            "--root",
            f"{short}/root",
            "--runroot",
            f"{short}/run",
            "--storage-driver",
            "vfs",
        ]


def done(argv: list[str]) -> str:
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def pulled(engine: list[str], store: Store, image: Image, tmp_path: Path) -> str:
    """Through a link with a plain name: podman makes a name of the path, and refuses quotes in that."""
    link = tmp_path / f"layout-{len(list(tmp_path.iterdir()))}"
    link.symlink_to(store.root)
    return done([*engine, "pull", "-q", f"oci:{link}:{image.name}"]).split()[-1]


@pytest.mark.parametrize("engine", ["podman", "buildah"], indirect=True)
def test_engines_read_the_layout(engine: list[str], store: Store, image: Image, tmp_path: Path) -> None:
    identity = pulled(engine, store, image, tmp_path)
    assert store.opened(image)[0].config.digest == f"sha256:{identity}"


def loaded(engine: list[str], store: Store, image: Image, out: Path) -> str:
    store.write_docker_archive(image, out)
    return done([*engine, "pull", "-q", f"docker-archive:{out}"]).split()[-1]


@pytest.mark.parametrize("engine", ["podman", "buildah"], indirect=True)
def test_engines_load_the_docker_archive(
    engine: list[str], store: Store, image: Image, tmp_path: Path
) -> None:
    identity = loaded(engine, store, image, tmp_path / "saved.tar")
    assert store.opened(image)[0].config.digest == f"sha256:{identity}"


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive", "oci"])
@pytest.mark.parametrize("engine", ["buildah"], indirect=True)
def test_what_engines_write_is_taken_in(
    engine: list[str], transport: str, store: Store, image: Image, tmp_path: Path
) -> None:
    identity = pulled(engine, store, image, tmp_path)
    done([*engine, "push", identity, f"{transport}:{tmp_path}/written"])
    again = store.put_archive(tmp_path / "written", key="f" * 64, name=transport, platform=AMD64)
    ids = [oci.diff_ids(store.opened(one)[1], "it") for one in (image, again)]
    assert ids[0] == ids[1]
    assert pulled(engine, store, again, tmp_path)  # and what was taken in can be read once more
