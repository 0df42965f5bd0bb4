"""The run folder: every file that a job makes, by name. It holds all that is known of a run."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from msgspec import Struct

INSIDE = "/slipworks-run"
"""Where the run folder is seen inside the job's containers."""

HOOK = "slipworks_ray_hook"
"""The module in the run folder's `hooks`, which is a copy of runner/ray_hook.py."""

CHECKPOINTS = "checkpoints"
"""The link in the run folder to its checkpoints, which lie elsewhere and stay."""

TAIL = 15  # lines of a log that an error quotes
END = 64 << 10  # bytes at the end of a log in which they are looked for


class Attempt(Struct, frozen=True):
    """One start of a job's nodes; a requeued job has several."""

    folder: Path

    @property
    def number(self) -> int:
        """Which start it is, from 1."""
        return int(self.folder.name.rpartition("-")[2])

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

    @property
    def job_log(self) -> Path:
        """What the batch script itself said, beside Slurm's own words."""
        return self.folder / "job.log"

    @property
    def slurm(self) -> Path:
        """Which Slurm job this attempt was: job id, restart count, host list; lines of NAME=value."""
        return self.folder / "slurm"

    def step(self, rank: int) -> Path:
        """What Slurm said to a node's task: NAME=value, each ended by a NUL (see slurm/script.py)."""
        return self.folder / f"step-{rank}"

    def service_log(self, name: str, rank: int) -> Path:
        """All that a service printed on a node."""
        return self.folder / f"service-{name}-{rank}.log"

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
        """All events in the order of time, written when the job has ended; on Slurm by who looks first then:
        see settling.py. So is the result."""
        return self.root / "events.jsonl"

    @property
    def result(self) -> Path:
        """Exit code and, where the job asks for it, throughput; on Slurm state and last attempt, too."""
        return self.root / "result.json"

    @property
    def script(self) -> Path:
        """The batch script, as it was given to sbatch."""
        return self.root / "job.sbatch"

    @property
    def submission(self) -> Path:
        """What was submitted where, written before and after sbatch (see runner/submitted.py)."""
        return self.root / "submission.json"

    @property
    def finished(self) -> Path:
        """There once no further attempt may run; holds the reason: succeeded, cancelled, no step was made."""
        return self.root / "finished"

    @property
    def code(self) -> Path:
        """Snapshots of the user's checkouts: code/0, code/1 …, each beside its code/N.json."""
        return self.root / "code"

    @property
    def training(self) -> Path:
        """The job's training YAML, as it was at submission; 0600."""
        return self.root / "training.yaml"

    @property
    def hook(self) -> Path:
        """The module by which Ray's runtime environments lose what is secret."""
        return self.root / "hooks" / f"{HOOK}.py"

    @property
    def staged(self) -> Path:
        """Links, which lead somewhere inside only, to what was staged for the job."""
        return self.root / "staged"

    @property
    def artifacts(self) -> Path:
        """Files of the container that the job asked to keep."""
        return self.root / "artifacts"

    @property
    def prepull(self) -> Path:
        """Images that nodes pull before the command starts, one a line."""
        return self.root / "prepull"

    def attempts(self) -> list[Attempt]:
        """The attempts that were begun, in their order."""
        numbers = [each.name.removeprefix("attempt-") for each in self.root.glob("attempt-*")]
        return [self.attempt(number) for number in sorted(int(each) for each in numbers if each.isdigit())]

    def attempt(self, number: int) -> Attempt:
        return Attempt(self.root / f"attempt-{number}")

    def make(self) -> None:
        """Makes the folder so that only its owner can enter."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(mode=0o700)

    def forget(self) -> None:
        """Removes what is private, the secrets and Ray's token: for when no attempt may need them again."""
        for private in (self.secrets, self.token):
            private.unlink(missing_ok=True)

    @property
    def run_id(self) -> str:
        return self.root.name.rpartition("-")[2]


def named(runs: Path, name: str) -> RunFolder:
    """A name for a new run, `<name>-<time>-<8 hex>`; makes nothing."""
    return RunFolder(runs / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(4).hex()}")


def last_lines(log: Path) -> str:
    """The last lines of a log, indented; of a huge one no more than its end is read."""
    if not log.exists():
        return f"  (there is no {log.name})"
    lines = tail(log).decode("utf-8", "replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-TAIL:])


def tail(path: Path, size: int = END) -> bytes:
    """The last `size` bytes of a file; of one that cannot be read, none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read(size)
    return b""
