"""Offline runs of Weights & Biases go to its server, from the login node, by `wandb sync` itself.

Its exit code is 0 whether or not it could, and it marks a run as synced whose upload broke off (seen with
0.31.0): so what it says decides. What was uploaded in part is uploaded again, which gives the same run.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import Literal

from msgspec import Struct

from image_cache.claim import BEAT, SILENCE, Claim
from image_cache.prebuild import turn
from kit import process, say
from kit.errors import AuthError, MissingToolError, NetworkError, SlipworksError
from runner import offline_runs, own_secrets
from runner.offline_runs import Mark, Offline
from runner.run_states import Now
from runner.runs import RunFolder

State = Literal["synced", "cut off", "before", "growing", "held", "failed"]
KEY = "WANDB_API_KEY"
PATIENT = {"WANDB_X_GRAPHQL_RETRY_MAX": "5", "WANDB_X_FILE_STREAM_RETRY_MAX": "8"}
"""How often it asks a server that does not answer: about a minute, in place of hours. Settings of the user's
own win."""
OTHERS = (
    "WANDB_MODE",
    "WANDB_DIR",
    "WANDB_SILENT",
    "WANDB_QUIET",
    "WANDB_RUN_ID",
    "WANDB_PROJECT",
    "WANDB_ENTITY",
)
"""What is meant for a run that begins, and would make another of the one that is synced, or hide what is
said of it."""
_SEEN = re.compile(r"View run .* at (https?://\S+)")
_ERROR = re.compile(r"^(?:wandb: ERROR\s+(?:\[[^\]]*\]\s+)?|Error: )(?!Find detailed error logs)(.*)")
_CUT = "ends with an incomplete record"
_REFUSED = re.compile(r"\b40[13]\b|unauthori[sz]ed|forbidden|permission|logged in|api.key|credential", re.I)


class Synced(Struct, frozen=True, kw_only=True):
    """What became of one offline run.

    state  "synced"; "cut off": all that its log has, which ends within a record; "before": it was already;
           "growing": its attempt still runs; "held": another `runner sync` is at it; "failed": why.
    """

    run: str
    wandb: str
    state: State
    url: str | None = None
    why: str | None = None


def sync(now: Now, environment: Mapping[str, str] = os.environ) -> list[Synced]:
    """Brings a run's offline runs to the server, each once, and says what became of each.

    The API key is that of the environment or of `runner secrets`, else of W&B's own files. May be interrupted
    and begun again. MissingToolError without the wandb package.
    """
    folder = now.files.folder
    there = offline_runs.found(folder)
    if not there:
        return []
    with _turn(folder.root / ".wandb-sync") as ours:
        marks, env = offline_runs.marks(folder), _environment(environment)
        return [_one(each, marks.get(each.name), now, ours, env) for each in there]


@contextlib.contextmanager
def _turn(folder: Path, silence: float = SILENCE, beat: float = BEAT) -> Iterator[bool]:
    """Whether nobody else that lives brings them. One on another machine, or before this one's last boot, is
    watched until it gives a sign of life, or has given none for so long that it is dead."""
    claim = Claim(folder, silence, beat)
    while True:
        with claim.taken() as mine:
            if mine:
                yield True
                return
        if turn.living(claim, beat):
            yield False
            return


def failure(done: list[Synced]) -> SlipworksError | None:
    """The error that a command ends with, where one could not be synced."""
    failed = [each for each in done if each.state == "failed"]
    if not failed:
        return None
    first = failed[0]
    why = first.why or "wandb sync failed"
    what = f"could not sync {first.wandb} of {first.run}: {why}"
    if len(failed) > 1:
        what += f"; nor {len(failed) - 1} more"
    if _REFUSED.search(why):
        return AuthError(what, f"runner secrets set {KEY}")
    return NetworkError(what, f"runner sync {first.run.rpartition('-')[2]}")


def _one(each: Offline, marked: Mark | None, now: Now, ours: bool, env: Mapping[str, str]) -> Synced:
    folder = now.files.folder

    def made(state: State, url: str | None = None, why: str | None = None) -> Synced:
        return Synced(run=folder.root.name, wandb=each.name, state=state, url=url, why=why)

    if offline_runs.is_done(each, marked):
        return made("before", marked.url if marked else None)
    if offline_runs.growing(each, now):
        return made("growing")
    if not ours:
        return made("held")
    url, wrong, code = _told(each, folder, env)
    cut = len(wrong) == 1 and _CUT in wrong[0]
    if cut or not (code or wrong):
        at = datetime.now(UTC).isoformat(timespec="seconds")
        offline_runs.mark(folder, each.name, Mark(size=each.size, whole=not cut, at=at, url=url))
        return made("cut off" if cut else "synced", url)
    offline_runs.beside(each).unlink(missing_ok=True)
    return made("failed", url, wrong[0] if wrong else f"wandb sync ended with exit code {code}")


def _told(each: Offline, folder: RunFolder, env: Mapping[str, str]) -> tuple[str | None, list[str], int]:
    """Where the run is seen, what was wrong, and the exit code; its own progress is the step's."""
    if util.find_spec("wandb") is None:
        raise MissingToolError("the package wandb is not installed beside the runner", "./setup.sh kit")
    url: list[str] = []
    wrong: list[str] = []
    with say.step(f"syncing {each.name}") as update:

        def heard(line: str) -> None:
            update(line)
            if found := _SEEN.search(line):
                url.append(found[1])
            if found := _ERROR.match(line):
                wrong.append(found[1])
            elif line.startswith("wandb: Not authenticated"):
                wrong.append("no API key was taken")

        code = process.stream(
            [sys.executable, "-m", "wandb", "sync", "--include-synced", "--yes", each.file.parent],
            what=f"sync {each.name}", on_line=heard, env=env, cwd=folder.root, check=False,
        )  # fmt: skip
    return (url[-1] if url else None), wrong, code


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environment.items() if name not in OTHERS}
    values, _ = own_secrets.found((KEY,), environment)
    return {**PATIENT, **kept, **values}
