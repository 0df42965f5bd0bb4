"""Engines for real: a tiny recipe is built, taken into a store, loaded and run by each of them."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from containers import engine, host
from containers.engine import Bind, Build, ContainerRun, Engine
from containers.engines.apptainer import Apptainer
from containers.secrets import BuildSecrets
from containers.workplace import config_digest
from image_cache.store import Store
from kit.errors import (
    AuthError,
    HostError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    QuotaError,
    SlipworksError,
    UnsupportedError,
)
from kit.nouns import Base, Image, Platform, Recipe, key_of
from tests.live.needs import need
from tests.live.parts_engines import Registry, User

pytestmark = pytest.mark.live

CREDENTIAL = "hunter2-do-not-keep"
BASE = "localhost/slipworks/test-tiny:1"
CONTAINERFILE = f"""
FROM --platform=$BUILDPLATFORM {BASE} AS stack
COPY ["folder/a b, c.txt", "/build/"]
RUN --mount=type=secret,id=index,target=/run/secrets/index \\
    --mount=type=secret,id=ca,target=/run/secrets/ca \\
    --mount=type=cache,target=/build/cache \\
    /bin/sh -c '. /run/secrets/index && cat /build/a* /run/secrets/ca > /made && \\
                echo "$PIP_INDEX_URL" | /bin/sha256sum >> /made'
FROM {BASE}
COPY --from=stack /made /made
ENV PATH=/bin FROM_IMAGE="it's here"
"""
DEFINITION = """
Bootstrap: localimage
From: build/base
Stage: stack

%files
    folder/plain.txt /build/plain.txt

%post
    . /run/secrets/index
    cat /build/plain.txt /run/secrets/ca > /made
    echo "$PIP_INDEX_URL" | sha256sum >> /made

Bootstrap: localimage
From: build/base
Stage: image

%files from stack
    /made /made

%environment
    export FROM_IMAGE="it's here"
"""


def tiny_recipe(**changes: object) -> Recipe:
    base = Base(name="tiny", kind="bootstrap", reference=BASE, digest=None, python="3.13",
                interpreter="/bin/python", distribution="debian", suite="trixie")  # fmt: skip
    recipe = Recipe(
        arch="tiny", line="tiny", platform=Platform.host(), python="3.13", base=base,
        containerfile=CONTAINERFILE, apptainer_def=DEFINITION,
        context={"folder/a b, c.txt": "from the context\n", "folder/plain.txt": "from the context\n"},
        inputs={"a": "1"}, labels={"org.example.title": "a, b; c=d", "slipworks.line": "tiny"},
    )  # fmt: skip
    return structs.replace(recipe, **changes)


@pytest.fixture
def build_secrets(open_folder: Path) -> BuildSecrets:
    index, ca = open_folder / "index, one", open_folder / "ca: two"
    index.write_text(f"PIP_INDEX_URL='https://me:{CREDENTIAL}@index.invalid/simple'\n")
    ca.write_text("a certificate\n")
    return BuildSecrets(index, ca)


@pytest.fixture(params=["podman", "buildah", "docker"])
def oci_engine(request: pytest.FixtureRequest, tiny_store: Store) -> Engine:
    name = request.param
    request.getfixturevalue("private_dockerd" if name == "docker" else "private_storage")
    need(shutil.which(name), f"{name} is not installed")
    made = engine.get(name, tiny_store.write_docker_archive)
    assert made.check()[0].isdigit()
    return made


def built(
    made: Engine, tiny_base: Image, secrets: BuildSecrets, out: Path, recipe: Recipe | None = None
) -> list[str]:
    said: list[str] = []
    made.build(Build(recipe=recipe or tiny_recipe(), out=out, base=tiny_base, secrets=secrets), said.append)
    return said


def taken_in(store: Store, name: str, out: Path) -> Image:
    recipe = tiny_recipe()
    return store.put_archive(
        out,
        key=key_of({"built by": name}),
        name=f"tiny-{name}",
        platform=recipe.platform,
        labels=recipe.labels,
    )


def everything(image: Image) -> bytes:
    """Every byte of an image: manifest, config with its history, and each layer's tar, uncompressed."""
    found = io.BytesIO()
    for blob in (image.path / "blobs/sha256").iterdir():
        raw = blob.read_bytes()
        found.write(raw)
        if raw[:2] == b"\x1f\x8b":
            import gzip

            found.write(gzip.decompress(raw))
    return found.getvalue()


def test_builds_loads_and_keeps_no_secret(
    oci_engine: Engine, tiny_base: Image, tiny_store: Store, build_secrets: BuildSecrets, open_folder: Path
) -> None:
    out = open_folder / f"out of {oci_engine.name}, it's: 1.tar"
    said = built(oci_engine, tiny_base, build_secrets, out)
    assert said, "no progress was told"
    assert not list(open_folder.glob(".out of*")), "a temporary file was left"
    image = taken_in(tiny_store, oci_engine.name, out)
    assert image.labels.items() >= tiny_recipe().labels.items()
    assert CREDENTIAL not in "\n".join(said)
    whole = everything(image)
    assert b"from the context\na certificate\n" in whole, "the layer was not looked into"
    assert CREDENTIAL.encode() not in whole
    assert b"/run/secrets/" not in layer_names(image)

    reference = f"localhost/slipworks/test-{oci_engine.name}:1"
    assert oci_engine.has(reference) is None
    oci_engine.load(image, reference)
    assert oci_engine.has(reference) == config_digest(image)
    before = time.monotonic()
    oci_engine.load(image, reference)
    assert time.monotonic() - before < 1


def layer_names(image: Image) -> bytes:
    names: list[str] = []
    for blob in (image.path / "blobs/sha256").iterdir():
        if tarfile.is_tarfile(blob):
            with tarfile.open(blob) as tar:
                names += [f"/{member.name.removeprefix('./')}" for member in tar if member.isfile()]
    return "\n".join(names).encode()


def test_a_foreign_image_is_built_without_running_foreign_code(
    oci_engine: Engine, tiny_base: Image, tiny_root: Path, tiny_store: Store, build_secrets: BuildSecrets,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The busybox in the "foreign" base is the host's: what matters is that nothing asks to run it."""
    foreign = Platform("arm64" if Platform.host().arch == "amd64" else "amd64")
    reference = f"localhost/slipworks/test-foreign:{foreign.arch}"
    root = tmp_path / "root.tar"
    shutil.copyfile(tiny_root, root)
    with tarfile.open(root, "a") as tar:  # equal layers would come from buildah's cache, platform and all
        tar.addfile(tarfile.TarInfo("foreign"))
    base = tiny_store.put_root(
        root, key=key_of({"base": str(foreign)}), name="base-foreign", platform=foreign
    )
    recipe = tiny_recipe(
        platform=foreign,
        base=structs.replace(tiny_recipe().base, reference=reference),
        containerfile=CONTAINERFILE.replace(f"FROM {BASE}", f"FROM --platform={foreign} {reference}"),
    )
    out = tmp_path / "out"
    order = Build(recipe=recipe, out=out, base=base, more_bases={BASE: tiny_base}, secrets=build_secrets)
    oci_engine.build(order, lambda line: None)
    image = tiny_store.put_archive(
        out, key=key_of({"foreign by": oci_engine.name}), name=f"foreign-{oci_engine.name}", platform=foreign
    )
    assert image.platform == foreign
    assert b"from the context\na certificate\n" in everything(image)


ANSWERS: dict[int, type[SlipworksError]] = {
    401: AuthError,
    404: NotFoundError,
    429: QuotaError,
    503: NetworkError,
}


@pytest.mark.parametrize("status", [401, 404, 503])
def test_what_a_registry_answers_has_a_kind(
    oci_engine: Engine, refusing_registry: Registry, tmp_path: Path, status: int
) -> None:
    refused(oci_engine, refusing_registry.reference(status), tmp_path / "out", ANSWERS[status])


@pytest.mark.usefixtures("private_dockerd")
def test_a_used_up_quota_has_a_kind(refusing_registry: Registry, tmp_path: Path) -> None:
    """By docker alone: podman and buildah ask for a minute first; their words are in tests/unit/recorded."""
    need(shutil.which("docker"), "docker is not installed")
    refused(engine.get("docker"), refusing_registry.reference(429), tmp_path / "out", QuotaError)


def refused(made: Engine, reference: str, out: Path, kind: type[SlipworksError]) -> None:
    with pytest.raises(kind) as raised:
        made.build(Build(recipe=pulled(reference), out=out), lambda line: None)
    assert raised.value.hint
    assert not out.exists()


def pulled(reference: str) -> Recipe:
    recipe = tiny_recipe(
        containerfile=f"FROM {reference}\n", apptainer_def=f"Bootstrap: docker\nFrom: {reference}\n"
    )
    return structs.replace(recipe, base=structs.replace(recipe.base, kind="registry", reference=reference))


def test_a_failed_step_ends_in_its_last_lines(oci_engine: Engine, tiny_base: Image, tmp_path: Path) -> None:
    recipe = tiny_recipe(containerfile=f"FROM {BASE}\nRUN echo the reason >&2; exit 3\n")
    with pytest.raises(SlipworksError, match="the reason") as raised:
        built(oci_engine, tiny_base, BuildSecrets(), tmp_path / "out", recipe)
    assert raised.value.code == 40
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    need(os.geteuid() == 0, "a small file system needs root")
    disk = tmp_path / "small disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_named(
    oci_engine: Engine, tiny_base: Image, build_secrets: BuildSecrets, small_disk: Path
) -> None:
    with pytest.raises(NoSpaceError) as raised:
        built(oci_engine, tiny_base, build_secrets, small_disk / "out")
    assert raised.value.hint
    assert not list(small_disk.iterdir())


# Running


SHOW = r"""
printf 'env %s|%s|%s|%s\n' "$SHOWN" "$HIDDEN" "$FROM_IMAGE" "$HOME"
printf 'caller %s\n' "$CALLERS_OWN"
printf 'cwd %s\n' "$(pwd)"
printf 'read %s\n' "$(cat '/in, side/file')"
touch '/in, side/new' 2>/dev/null || echo 'refused'
echo made > written
printf 'shm %s\n' "$(stat -f -c %b /dev/shm)"
test -e /host-tmp-marker || ls /tmp | grep -q slipworks && echo 'sees the host'
exit 7
"""
ODD = 'it\'s "a", $HOME `id` \\n #'


def show(made: Engine, image: str, folder: Path, caller: Callable[[list[str]], tuple[int, str]]) -> list[str]:
    """What a process sees in a container, as lines; and that what it left behind is the caller's."""
    (folder / "read, only: it's").mkdir(parents=True)
    (folder / "read, only: it's/file").write_text("host's file")
    (folder / "work").mkdir()
    (folder / "env").write_text(made.env_text({"HIDDEN": ODD}))
    (folder / "env").chmod(0o600)
    run = ContainerRun(
        image=image,
        argv=("sh", "-c", SHOW),
        env={"SHOWN": ODD},
        env_file=folder / "env",
        workdir="/work dir",
        binds=(
            Bind(folder / "read, only: it's", "/in, side", read_only=True),
            Bind(folder / "work", "/work dir"),
        ),
        name=f"slipworks-test-{os.getpid()}",
    )
    os.environ["CALLERS_OWN"] = "seen"
    code, text = caller(made.run_argv(run))
    assert code == 7, text
    written = folder / "work/written"
    assert (written.stat().st_uid, written.stat().st_gid) == (folder.stat().st_uid, folder.stat().st_gid)
    return text.splitlines()


def expected() -> list[str]:
    blocks = os.statvfs("/dev/shm").f_blocks
    return [f"env {ODD}|{ODD}|it's here|/tmp", "caller ", "cwd /work dir", "read host's file", "refused",
            f"shm {blocks}"]  # fmt: skip


def call(argv: list[str]) -> tuple[int, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout or done.stderr


@pytest.fixture(params=["podman", "docker"])
def running_engine(request: pytest.FixtureRequest, tiny_store: Store) -> Engine:
    name = request.param
    request.getfixturevalue("private_dockerd" if name == "docker" else "private_storage")
    need(shutil.which(name), f"{name} is not installed")
    return engine.get(name, tiny_store.write_docker_archive)


@pytest.fixture
def loaded(
    running_engine: Engine, tiny_base: Image, tiny_store: Store, build_secrets: BuildSecrets, tmp_path: Path
) -> str:
    reference = f"localhost/slipworks/test-run-{running_engine.name}:1"
    if running_engine.has(reference) is None:
        built(running_engine, tiny_base, build_secrets, tmp_path / "out")
        running_engine.load(taken_in(tiny_store, running_engine.name, tmp_path / "out"), reference)
    return reference


def test_a_process_sees_the_same_under_every_engine(
    running_engine: Engine, loaded: str, tmp_path: Path
) -> None:
    assert show(running_engine, loaded, tmp_path / "a folder", call) == expected()


def listed(made: Engine, *which: str) -> str:
    """The ids of the engine's containers."""
    program = made.run_argv(ContainerRun(image="x", argv=()))
    return call([*program[: program.index("run")], "ps", "--quiet", *which])[1].strip()


def started(made: Engine, run: ContainerRun) -> subprocess.Popen[str]:
    """The client, once the process inside has said that it is up and the engine knows that it runs.

    podman 4.3 loses a signal that comes between the two.
    """
    client = subprocess.Popen(made.run_argv(run), stdout=subprocess.PIPE, text=True)
    assert client.stdout
    assert client.stdout.readline() == "up\n"
    deadline = time.monotonic() + 30
    while not listed(made, "--filter=status=running"):
        assert time.monotonic() < deadline, "the engine never said that the container runs"
    return client


def test_ending_the_client_ends_the_process_and_leaves_nothing(
    running_engine: Engine, loaded: str, tmp_path: Path
) -> None:
    script = "trap 'echo told > /work/ended; exit 5' TERM; echo up; while :; do sleep 0.05; done"
    run = ContainerRun(image=loaded, argv=("sh", "-c", script), binds=(Bind(tmp_path, "/work"),))
    client = started(running_engine, run)
    client.send_signal(signal.SIGTERM)
    assert client.wait(30) == 5
    assert (tmp_path / "ended").read_text() == "told\n"
    assert listed(running_engine, "--all") == ""


def test_a_process_without_handlers_ends_at_term(running_engine: Engine, loaded: str) -> None:
    if running_engine.name == "podman":
        need(host.facts().init, "no static init is here (apt-get install catatonit)")
    client = started(running_engine, ContainerRun(image=loaded, argv=("sh", "-c", "echo up; exec sleep 60")))
    client.send_signal(signal.SIGTERM)
    assert client.wait(20) == 143
    assert listed(running_engine, "--all") == ""


# As an ordinary user


def test_podman_without_root(
    ordinary_user: User, tiny_base: Image, tiny_store: Store, build_secrets: BuildSecrets
) -> None:
    need(shutil.which("podman"), "podman is not installed")
    for secret in (build_secrets.index, build_secrets.ca):
        assert secret
        secret.chmod(0o644)
    home = ordinary_user.folder

    def work() -> list[str]:
        made = engine.get("podman")
        made.check()
        built(made, tiny_base, build_secrets, home / "out")
        made.load(tiny_base, "localhost/slipworks/test-rootless:1")
        mine = Store(home / "store")
        made.load(taken_in(mine, "rootless", home / "out"), "localhost/slipworks/test-rootless:2")
        return show(made, "localhost/slipworks/test-rootless:2", home / "run here", call)

    assert ordinary_user.do(work) == expected()


# Apptainer


@pytest.fixture(scope="session")
def apptainer_layer(open_folder: Path) -> Path:
    """A layer with a link that must stay a link."""
    out = open_folder / "lay'er, 1.tar.gz"
    with tarfile.open(out, "w:gz") as tar:
        body = tarfile.TarInfo("slipworks/bin/tool")
        body.size, body.mode = 5, 0o755
        tar.addfile(body, io.BytesIO(b"tool\n"))
        link = tarfile.TarInfo("slipworks/bin/link")
        link.type, link.linkname = tarfile.SYMTYPE, "tool"
        tar.addfile(link)
    return out


@pytest.fixture(scope="session")
def sif(
    ordinary_user: User, tiny_base: Image, open_folder: Path, apptainer_layer: Path
) -> tuple[Path, list[str]]:
    """A SIF that the ordinary user built, and what was said meanwhile."""
    need(shutil.which("apptainer"), "apptainer is not installed")
    index, ca = open_folder / "sif index", open_folder / "sif ca"
    index.write_text(f"PIP_INDEX_URL='https://me:{CREDENTIAL}@index.invalid/simple'\n")
    ca.write_text("a certificate\n")
    out = ordinary_user.folder / "it's a, image.sif"
    order = Build(
        recipe=tiny_recipe(), out=out, base=tiny_base, layer=apptainer_layer, secrets=BuildSecrets(index, ca)
    )

    def work() -> list[str]:
        said: list[str] = []
        made = Apptainer()
        assert made.check()[0].isdigit()
        made.build(order, said.append)
        return said

    return out, ordinary_user.do(work)


def test_a_sif_has_layer_and_labels_and_no_secret(ordinary_user: User, sif: tuple[Path, list[str]]) -> None:
    path, said = sif
    assert Apptainer().labels(path).items() >= tiny_recipe().labels.items()
    assert CREDENTIAL not in "\n".join(said)
    script = "cat /made; ls -la /slipworks/bin/link; ls /run"

    def work() -> tuple[int, str, int]:
        code, text = call(Apptainer().run_argv(ContainerRun(image=str(path), argv=("sh", "-c", script))))
        unpacked = ordinary_user.folder / "unpacked"
        done = subprocess.run(
            ["apptainer", "build", "--sandbox", unpacked, path], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found = subprocess.run(
            ["grep", "-r", "-a", "-F", CREDENTIAL, unpacked], capture_output=True, check=False
        )
        return code, text, found.returncode

    code, text, grep = ordinary_user.do(work)
    assert code == 0, text
    assert text.startswith("from the context\na certificate\n")
    assert "/slipworks/bin/link -> tool" in text
    assert text.splitlines()[-1].endswith("-> tool"), "something was left in /run"
    assert grep == 1


def test_a_process_in_a_sif_sees_the_same(ordinary_user: User, sif: tuple[Path, list[str]]) -> None:
    seen = ordinary_user.do(lambda: show(Apptainer(), str(sif[0]), ordinary_user.folder / "sif run", call))
    assert seen == expected()


def test_apptainer_passes_term_on(ordinary_user: User, sif: tuple[Path, list[str]]) -> None:
    script = "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"

    def work() -> int:
        argv = Apptainer().run_argv(ContainerRun(image=str(sif[0]), argv=("sh", "-c", script)))
        client = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert client.stdout
        assert client.stdout.readline() == "up\n"
        client.send_signal(signal.SIGTERM)
        return client.wait(30)

    assert ordinary_user.do(work) == 5


def test_an_oci_image_becomes_a_sif(tiny_base: Image, tmp_path: Path) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    Apptainer().convert(tiny_base, tmp_path / "a, b.sif", lambda line: None)
    argv = Apptainer().run_argv(
        ContainerRun(image=str(tmp_path / "a, b.sif"), argv=("sh", "-c", "echo $HOME"))
    )
    assert call(argv) == (0, "/tmp\n")


def test_apptainer_refuses_what_it_cannot_build(tmp_path: Path, tiny_base: Image) -> None:
    foreign = Platform("arm64" if Platform.host().arch == "amd64" else "amd64")
    with pytest.raises(UnsupportedError):
        built(Apptainer(), tiny_base, BuildSecrets(), tmp_path / "out", tiny_recipe(platform=foreign))
    lacking = structs.replace(host.facts(), root=True, every_capability=False)
    with pytest.raises(HostError) as raised:
        built(Apptainer(on=lacking), tiny_base, BuildSecrets(), tmp_path / "out")
    assert raised.value.hint


@pytest.mark.parametrize("status", ANSWERS)
def test_what_a_registry_answers_apptainer_has_a_kind(
    ordinary_user: User, refusing_registry: Registry, status: int
) -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    order = Build(recipe=pulled(refusing_registry.reference(status)), out=ordinary_user.folder / "none.sif")
    with pytest.raises(ANSWERS[status]) as raised:
        ordinary_user.do(lambda: Apptainer().build(order, lambda line: None))
    assert raised.value.hint
