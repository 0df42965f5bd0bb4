"""A cluster to measure on: 16 nodes that are all this machine, an ordinary user, the cpu image as a SIF."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from tests.live import parts_cpu, parts_engines, parts_jobs, parts_slurm
from tests.live.parts_jobs import MAIN, PACKAGES, Login
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_daemons import identity, until

NODES = 16
# Slurm itself counts the processor seconds of all that a job's steps start.
COUNTED = ("JobAcctGatherType=jobacct_gather/linux", "JobAcctGatherFrequency=0")


class Cost(Struct, frozen=True):
    """Seconds by the clock, and of processors, of a process and all that it has waited for; what it said."""

    wall: float
    cpu: float
    out: str = ""


class Counted(Struct, frozen=True):
    """What Slurm's accounting has of a job: processor seconds of all its steps, and how many sruns."""

    cpu: float
    sruns: int


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """Each node is a host of its own: address, processes, mounts."""
    os.environ["CI"] = "true"  # what is missing is an error, and an ordinary user is made where there is none
    with (
        parts_engines.ordinary() as user,
        tempfile.TemporaryDirectory(prefix="slipworks-cache-", dir="/tmp") as above,
    ):
        Path(above).chmod(0o755)
        cache = Path(above) / "cache"
        parts_jobs.stock(cache, parts_cpu.made(parts_cpu.HERE), user)
        slurm = parts_slurm.started([Shape(count=NODES)], accounting=True, addresses=True, extra=COUNTED)
        try:
            yield Site(Login(slurm, user, cache))
        finally:
            parts_slurm.ended(slurm)


class Site:
    def __init__(self, login: Login) -> None:
        assert login.user
        self.login, self.slurm, self.user = login, login.slurm, login.user.name
        # -S: without what the machine's own .pth files run at each start of its Python, 60 ms on one that was
        # measured. What `site` itself takes in an environment of the runner's own is 4 ms.
        self.python = [parts_jobs.interpreter(login.user), "-S"]
        self.env = self.slurm.env | login.settings | {
            "SLIPWORKS_CLUSTER": "generic", "SLIPWORKS_RUNS": str(login.runs), "HOME": str(login.user.folder),
            "PYTHONPATH": os.pathsep.join(map(str, PACKAGES)), "USER": self.user, "LOGNAME": self.user,
        }  # fmt: skip
        self.place = self.slurm.shared / "jobs"
        self.place.mkdir()
        self.place.chmod(0o777)
        (sif,) = (Path(login.settings["SLIPWORKS_CACHE"]) / "images/sif").glob("*.sif")
        self.sif = sif

    def runner(self, *words: str) -> list[str]:
        return [*self.python, "-c", MAIN, *words]

    def job(self, text: str) -> Path:
        """The file of a job in the cpu image."""
        path = self.place / "job.yaml"
        path.write_text(f"name: bench\narch: cpu\n{text}")
        return path

    def spent(self, argv: Sequence[str | Path]) -> Cost:
        """What a command costs the user; a failing one ends the benchmark with its output."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            began = time.perf_counter()
            child = subprocess.Popen(argv, env=self.env, cwd=self.place, stdin=subprocess.DEVNULL, stdout=out,
                                     stderr=err, **identity(self.user))  # fmt: skip
            _, status, used = os.wait4(child.pid, 0)
            wall = time.perf_counter() - began
            child.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0), err.seek(0)
            if child.returncode:
                raise SystemExit(f"{argv} ended with {child.returncode}:\n{err.read().decode()}")
            return Cost(wall, used.ru_utime + used.ru_stime, out.read().decode())

    def container(self, *words: str) -> list[str]:
        """The shortest command that runs something in the image."""
        return ["apptainer", "exec", str(self.sif), *words]

    def batch(self, nodes: int, lines: str) -> tuple[float, Counted]:
        """Seconds between the first and the last line of a job on the first `nodes` nodes, as its own clock
        has them, and what Slurm counted."""
        clock = self.place / f"clock-{time.monotonic_ns()}"
        names = ",".join(self.slurm.nodes[:nodes])
        text = (
            f"#!/bin/bash\n#SBATCH --nodes={nodes} --nodelist={names} --output={clock}.out --time=10\n"
            f"began=$EPOCHREALTIME\n{lines}\ncode=$?\necho $began $EPOCHREALTIME $code >{clock}\n"
        )
        job = self.slurm.sbatch(text, user=self.user)
        self.slurm.wait_for(job, seconds=300)
        began, ended, code = clock.read_text().split()
        if code != "0":
            raise SystemExit(f"a job ended with {code}:\n{Path(f'{clock}.out').read_text()}")
        return float(ended) - float(began), self.counted(job)

    def counted(self, job: int) -> Counted:
        rows: list[list[str]] = []

        def there() -> bool:
            words = ["sacct", "-nP", "-j", str(job), "--format=JobID,State,TotalCPU"]
            rows[:] = [line.split("|") for line in self.slurm.run(*words).stdout.splitlines()]
            return bool(rows) and all(state == "COMPLETED" for _, state, _ in rows)

        until(there, "the accounting", 60, lambda: str(rows))
        steps = [name.partition(".")[2] for name, _, _ in rows]
        return Counted(_seconds(rows[0][2]), sum(step.isdigit() for step in steps))


def _seconds(text: str) -> float:
    """Of [DD-[HH:]]MM:SS.mmm."""
    total = 0.0
    for part in text.replace("-", ":").split(":"):
        total = 60 * total + float(part)
    return total


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def load() -> str:
    return "load average " + " ".join(f"{each:.1f}" for each in os.getloadavg())
