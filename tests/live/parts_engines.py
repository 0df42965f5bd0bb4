"""Real engines for tests, apart from the machine's own: private storage, a private dockerd, a tiny base."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from image_cache.store import Store
from kit.nouns import Image, Platform, key_of
from tests.live import parts_left
from tests.live.needs import need
from tests.live.parts_users import User as User
from tests.live.parts_users import ordinary as ordinary
from tests.live.tiny import ENVIRONMENT, LABELS

APPLETS = (
    "sh",
    "cat",
    "env",
    "id",
    "ls",
    "sleep",
    "stat",
    "sha256sum",
    "touch",
    "mkdir",
    "pwd",
    "df",
    "grep",
)


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder whose name is a nuisance, in a place that other users of this machine can reach."""
    with tempfile.TemporaryDirectory(prefix="slipworks test, ", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def tiny_root(open_folder: Path) -> Path:
    """The tar of a root file system that holds a static busybox and nothing else."""
    busybox = shutil.which("busybox")
    need(busybox, "busybox-static is not installed (apt-get install busybox-static)")
    assert busybox
    root = open_folder / "tiny root"
    (root / "bin").mkdir(parents=True)
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    for empty in ("tmp", "etc", "proc", "sys", "dev", "run"):
        (root / empty).mkdir()
    out = open_folder / "tiny.tar"
    with tarfile.open(out, "w") as tar:
        tar.add(root, ".")
    return out


@pytest.fixture(scope="session")
def tiny_store(open_folder: Path) -> Store:
    return Store(open_folder / "it's a store")


@pytest.fixture(scope="session")
def tiny_base(tiny_store: Store, tiny_root: Path) -> Image:
    """The tiny root as an image of the store; readable by every user."""
    key = key_of({"base": "tiny"})
    image = tiny_store.put_root(tiny_root, key=key, name=f"base-tiny-{key[:12]}", platform=Platform.host())
    open_to_all(tiny_store)
    return image


@pytest.fixture(scope="session")
def tiny_image(tiny_store: Store, tiny_base: Image) -> Image:
    """The tiny base with a zstd layer on top, variables, labels and a command; readable by every user."""
    return layered(tiny_store, tiny_base, "tiny")


def layered(store: Store, base: Image, name: str) -> Image:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        member = tarfile.TarInfo("layer/file")
        member.size, member.mtime = len(name), 1_600_000_000
        tar.addfile(member, io.BytesIO(name.encode()))
    layer = store.put_tar(key_of({"layer": name}), [held.getvalue()])
    key = key_of({"image": name})
    image = store.put_on(base, [layer], key=key, name=name, labels=LABELS, env=ENVIRONMENT, cmd=("id", "-u"))
    open_to_all(store)
    return image


def open_to_all(store: Store) -> None:
    for path in (store.root, *store.root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture(scope="session")
def private_storage() -> Iterator[Path]:
    """podman's and buildah's images, containers and registry settings in a folder of these tests."""
    need(shutil.which("podman") or shutil.which("buildah"), "neither podman nor buildah is installed")
    folder = parts_left.made("storage")
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    )
    (folder / "registries.conf").write_text('[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n')
    names = {"CONTAINERS_STORAGE_CONF": "storage.conf", "CONTAINERS_REGISTRIES_CONF": "registries.conf"}
    with pytest.MonkeyPatch.context() as patch:
        for variable, file in names.items():
            patch.setenv(variable, str(folder / file))
        yield folder
        if shutil.which("buildah"):
            subprocess.run(["buildah", "rmi", "--all", "--force"], capture_output=True, check=False)
    parts_left.removed(folder)


@pytest.fixture(scope="session")
def private_dockerd() -> Iterator[str]:
    """A dockerd with its own data, socket and process files; gives its address."""
    need(shutil.which("dockerd"), "dockerd is not installed (apt-get install docker.io)")
    need(os.geteuid() == 0, "a private dockerd needs root")
    folder = parts_left.made("dockerd")
    address = f"unix://{folder}/socket"
    daemon = subprocess.Popen(
        ["setpriv", "--pdeathsig=TERM", "dockerd", "--host", address, "--data-root", folder / "data",
         "--exec-root", folder / "exec", "--pidfile", folder / "pid", "--bridge=none", "--iptables=false"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    ready, said = threading.Event(), []

    def listen() -> None:
        assert daemon.stderr
        for line in daemon.stderr:
            said.append(line)
            if "API listen on" in line:
                ready.set()
        ready.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        assert ready.wait(60), "".join(said[-20:])
        assert daemon.poll() is None, "".join(said[-20:])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", address)
            yield address
    finally:
        daemon.terminate()
        daemon.wait(60)
        parts_left.removed(folder)  # the daemon leaves its namespace mounted, and on some hosts its data


class Registry(Struct):
    """A registry on loopback that answers every question with one status."""

    address: str

    def reference(self, status: int) -> str:
        return f"{self.address}/answers-{status}/x:1"


BODIES = {401: "UNAUTHORIZED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS"}


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = int(self.path.partition("answers-")[2][:3] or 200)
        body = f'{{"errors":[{{"code":"{BODIES.get(status, "")}","message":"as asked"}}]}}'.encode()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def refusing_registry() -> Iterator[Registry]:
    """A fake, for the faults that a real registry does not show on demand (429 first of all)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Registry(f"127.0.0.1:{server.server_port}")
    server.shutdown()
