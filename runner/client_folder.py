"""What a bake did to the folder of the client path, as containers see it.

The layer that holds the path names no folder, so nothing of the base's should change; an engine that keeps
layers apart (overlay) makes a folder where that layer names none, and it covers the base's own: its mode, its
owner, and a link that it may be. Looked at from inside by the layer's own Python: a base may have no program.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from msgspec import DecodeError, Struct, json

from containers.engine import ContainerRun, Engine
from kit import process
from kit.errors import VerifyError
from runner import agent_layer

FOLDER = str(PurePosixPath(agent_layer.CLIENT).parent)
SCRIPT = f"""
import json, os, stat
try:
    found = os.lstat({FOLDER!r})
except OSError:
    print("null")
else:
    link = os.readlink({FOLDER!r}) if stat.S_ISLNK(found.st_mode) else None
    print(json.dumps([stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, link]))
"""


class Place(Struct, frozen=True, array_like=True):
    """A folder, or the link that stands for it."""

    mode: int
    uid: int
    gid: int
    link: str | None

    def __str__(self) -> str:
        if self.link is not None:
            return f"a link to {self.link}"
        return f"a folder of {self.uid}:{self.gid} with mode {self.mode:04o}"


def seen(engine: Engine, image: str, layer: Path | None = None) -> Place | None:
    """The folder in a container of an image; None: there is none. layer: to be mounted, where the image has
    no layer of its own."""
    spec = agent_layer.spec()
    python = f"{spec.folder}/python/bin/python{spec.python}"
    run = ContainerRun(image=image, argv=(python, "-I", "-c", SCRIPT), plain=True)
    argv = engine.run_argv(run)
    at = argv.index(image)
    mount = agent_layer.mount_argv(engine.name, layer) if layer else []
    done = process.run(
        [*argv[:at], *mount, *argv[at:]], what=f"look into {image}", timeout=120, error=VerifyError
    )
    try:
        return json.decode(done.out, type=Place | None)
    except DecodeError as bad:
        raise VerifyError(f"could not look into {image}: found {done.out[:200]!r}") from bad


def difference(base: Place | None, baked: Place | None) -> str | None:
    """What a bake changed under this engine; None: nothing, or there was no such folder."""
    if base is None or base == baked:
        return None
    return f"{FOLDER} is {baked or 'not there'}, and in the base {base}"
