"""`runner code-server`: what was asked for, the key, the server, and what is told at the start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from kit import say
from kit.share import cpus
from runner.code_server import kernel, keys
from runner.code_server.grading import Grader
from runner.code_server.server import Server
from runner.code_server.wanted import VARIABLE, CodeServer
from runner.runs import INSIDE

MOST = 16  # workers where nobody says how many
KEY_FILE = "~/.config/slipworks/code-server.key"


def serve(
    wanted: CodeServer, key_file: Path | None, netrc: Path | None, env: Mapping[str, str] = os.environ
) -> int:
    """Serves until it is ended. The key: of the variable, else of the file, which is made if it is not there.

    `netrc` is there, with the key in it, before it listens, and gone when it has ended.
    """
    path = key_file or Path(KEY_FILE).expanduser()
    key = (env.get(VARIABLE) if key_file is None else None) or keys.ensured(path) if wanted.key else None
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # what runs as the same user does not look into it
    grader = Grader(wanted, env, [INSIDE, str(path.parent.resolve())])
    workers = wanted.workers or min(MOST, cpus())
    try:
        if key and netrc:
            keys.write_netrc(netrc, wanted.where.rpartition(":")[0], key, Path("~/.netrc").expanduser())
        with Server(grader, key, workers) as server:
            _tell(grader, workers, "none: whoever reaches it may ask" if key is None else
                  f"${VARIABLE}" if env.get(VARIABLE) == key else str(path))  # fmt: skip
            server.serve_forever()
    finally:
        if netrc:
            netrc.unlink(missing_ok=True)
    return 0


def _tell(grader: Grader, workers: int, key: str) -> None:
    say.say(f"listening on {grader.wanted.where}, {workers} at once; the key: {key}")
    say.say(f"programs are run by {grader.python}, kept apart by {grader.way}")
    for way, why in grader.refusals.items():
        say.say(f"warning: not by {way}, which this node refuses ({why})")
    for each in grader.missing():
        say.say(f"warning: {each}")
