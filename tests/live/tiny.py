"""A tiny recipe, what a build of it leaves, and what a process in it sees: for tests of engines."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from containers.engine import Bind, Build, ContainerRun, Engine
from containers.secrets import BuildSecrets
from image_cache.store import Store
from kit.errors import (
    AuthError,
    NetworkError,
    NotFoundError,
    QuotaError,
    SlipworksError,
)
from kit.nouns import Base, Image, Platform, Recipe, key_of

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


ANSWERS: dict[int, type[SlipworksError]] = {
    401: AuthError,
    404: NotFoundError,
    429: QuotaError,
    503: NetworkError,
}


def pulled(reference: str) -> Recipe:
    recipe = tiny_recipe(
        containerfile=f"FROM {reference}\n", apptainer_def=f"Bootstrap: docker\nFrom: {reference}\n"
    )
    return structs.replace(recipe, base=structs.replace(recipe.base, kind="registry", reference=reference))


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
