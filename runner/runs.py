"""The run folder: every file that a job makes, by name. It holds all that is known of a run."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from msgspec import Struct

INSIDE = "/slipworks-run"
"""Where the run folder is seen inside the job's containers."""

TAIL = 15  # lines of a log that an error quotes


class Attempt(Struct, frozen=True):
    """One start of a job's nodes; a requeued job has several."""

    folder: Path

    @property
    def meeting(self) -> Path:
        """The folder in which nodes tell each other how they are (see meeting.py)."""
        return self.folder / "meeting"

    def log(self, rank: int) -> Path:
        """All that a node printed: its story and, on node 0, the command's output."""
        return self.folder / f"node-{rank}.log"

    def ray_log(self, rank: int) -> Path:
        """What `ray start` printed on a node."""
        return self.folder / f"ray-{rank}.log"

    def ray_logs(self, rank: int) -> Path:
        """A folder with the logs of a failed node's Ray daemons."""
        return self.folder / f"ray-{rank}"

    def facts(self, rank: int) -> Path:
        """What the node knew of itself, without the values of its environment."""
        return self.folder / f"facts-{rank}.json"

    def events(self, who: str) -> Path:
        """One writer's events; `RunFolder.events` has all of them once the job has ended."""
        return self.folder / f"events-{who}.jsonl"


class RunFolder(Struct, frozen=True):
    """A run's folder, mode 0700."""

    root: Path

    @property
    def job(self) -> Path:
        """The job as it was resolved: file, overrides and defaults."""
        return self.root / "job.json"

    @property
    def launch(self) -> Path:
        """The plan that every node reads."""
        return self.root / "launch.json"

    @property
    def image(self) -> Path:
        """Which image: digest, key, reference and engine."""
        return self.root / "image.json"

    @property
    def secrets(self) -> Path:
        """Values of the job's secrets, 0600; there only while the job runs."""
        return self.root / "secrets.json"

    @property
    def token(self) -> Path:
        """Ray's token for this run, 0600."""
        return self.root / "ray.token"

    @property
    def events(self) -> Path:
        """All events in the order of time, written when the job has ended."""
        return self.root / "events.jsonl"

    @property
    def result(self) -> Path:
        """Exit code and, where the job asks for it, throughput."""
        return self.root / "result.json"

    def attempt(self, number: int) -> Attempt:
        return Attempt(self.root / f"attempt-{number}")

    def make(self) -> None:
        """Makes the folder so that only its owner can enter."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(mode=0o700)

    @property
    def run_id(self) -> str:
        return self.root.name.rpartition("-")[2]


def named(runs: Path, name: str) -> RunFolder:
    """A name for a new run, `<name>-<time>-<8 hex>`; makes nothing."""
    return RunFolder(runs / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}")


def last_lines(log: Path) -> str:
    """The last lines of a log, indented."""
    try:
        lines = log.read_bytes().decode("utf-8", "replace").splitlines()
    except OSError:
        return f"  (there is no {log.name})"
    return "\n".join(f"  {line}" for line in lines[-TAIL:])
