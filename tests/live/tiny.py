"""A tiny recipe for apptainer, and what a process in a tiny image sees: for tests of engines."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from containers.engine import Bind, ContainerRun, Engine
from kit.errors import (
    AuthError,
    NetworkError,
    NotFoundError,
    QuotaError,
    SlipworksError,
)
from kit.nouns import Base, Platform, Recipe

CREDENTIAL = "hunter2-do-not-keep"
LABELS = {"org.example.title": "a, b; c=d # e", "slipworks.line": "tiny"}
ENVIRONMENT = {"PATH": "/bin", "FROM_IMAGE": "it's here"}
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

%runscript
    exec "$@"
"""


def tiny_recipe(**changes: object) -> Recipe:
    base = Base(name="tiny", kind="bootstrap", reference="localhost/slipworks/test-tiny:1", digest=None,
                python="3.13", interpreter="/bin/python", distribution="debian", suite="trixie")  # fmt: skip
    recipe = Recipe(
        arch="tiny", line="tiny", platform=Platform.host(), python="3.13", base=base,
        containerfile="", apptainer_def=DEFINITION, context={"folder/plain.txt": "from the context\n"},
        inputs={"a": "1"}, labels=LABELS,
    )  # fmt: skip
    return structs.replace(recipe, **changes)


ANSWERS: dict[int, type[SlipworksError]] = {
    401: AuthError,
    404: NotFoundError,
    429: QuotaError,
    503: NetworkError,
}


def pulled(reference: str) -> Recipe:
    recipe = tiny_recipe(apptainer_def=f"Bootstrap: docker\nFrom: {reference}\n")
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
