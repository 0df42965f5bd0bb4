"""The node's own programs, started from within a job's container: for what no image can bring, as apptainer.

Such a job has the node's whole root at ROOT. A program that is built for the node runs in that root and with
the node's PATH, so it finds its helpers, libraries and settings where it expects them, whatever the image is.
That takes a user namespace, as apptainer itself does for ordinary users, and no other right: in it the
process is root of its own files alone. A container's /tmp is the same for both.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from runner.runs import INSIDE

ROOT = "/slipworks-node"
"""Where such a job's containers have the node's root."""
PROGRAMS = ("apptainer", "mksquashfs")

# `unshare` and `chroot` are the image's, all behind them the node's. Every step is an exec, so that signals
# and the exit code are the program's.
_SCRIPT = r"""#!/bin/sh
{ IFS= read -r path; IFS= read -r libraries; } <INSIDE/path-0
export SLIPWORKS_NODE_PATH="$path" SLIPWORKS_NODE_LIBRARIES="$libraries"
exec unshare --user --map-root-user --mount /bin/sh -c '
    mount --rbind /tmp ROOT/tmp || exit
    exec chroot ROOT /bin/sh -c "$0" "$PWD" "$@"
' '
    PATH=$SLIPWORKS_NODE_PATH LD_LIBRARY_PATH=$SLIPWORKS_NODE_LIBRARIES
    export PATH LD_LIBRARY_PATH
    [ -n "$LD_LIBRARY_PATH" ] || unset LD_LIBRARY_PATH
    unset SLIPWORKS_NODE_PATH SLIPWORKS_NODE_LIBRARIES
    cd "$0" && exec "$@"
' PROGRAM "$@"
"""


@contextlib.contextmanager
def on_path(root: Path = Path(ROOT)) -> Iterator[None]:
    """While the block lasts, the node's PROGRAMS are on this process's PATH, behind all others. Does nothing
    where this is no such job."""
    if not root.is_dir():
        yield
        return
    before = os.environ.get("PATH", os.defpath)
    with tempfile.TemporaryDirectory(prefix="slipworks-node-") as name:
        for program in PROGRAMS:
            file = Path(name, program)
            file.write_text(script(program, root))
            file.chmod(0o700)
        os.environ["PATH"] = f"{before}:{name}"
        try:
            yield
        finally:
            os.environ["PATH"] = before


def script(program: str, root: Path) -> str:
    """What starts one of them. Pure."""
    words = {"INSIDE": INSIDE, "ROOT": str(root), "PROGRAM": program}
    text = _SCRIPT
    for name, value in words.items():
        text = text.replace(name, value)
    return text
