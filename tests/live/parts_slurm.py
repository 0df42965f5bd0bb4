"""A real Slurm of several nodes on this machine, apart from any other: own key, ports, folders and names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from msgspec import Struct

from tests.live import parts_left
from tests.live import parts_slurm_daemons as daemons
from tests.live.needs import need
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_daemons import Daemons, until

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")
Starter = Callable[..., "Slurm"]


class Slurm(Struct, kw_only=True):
    """A running Slurm.

    conf    its slurm.conf; env: what its users log in with, SLURM_CONF among it.
    nodes   names; each is a slurmd whose processes are alone in a process and mount namespace of their own.
    shared  a folder that all nodes and users reach and may write to; scripts and logs go there by default.
    """

    folder: Path
    conf: Path
    env: dict[str, str]
    nodes: tuple[str, ...]
    shared: Path
    daemons: Daemons

    def run(
        self,
        *argv: str | Path,
        user: str | None = None,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        check: bool = True,
        given: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """A command with this Slurm's environment (and `env` laid over it), as root or as `user`."""
        whole = self.env | (env or {})
        if user:
            whole |= {"USER": user, "LOGNAME": user}
        done = subprocess.run(
            argv, env=whole, cwd=cwd or self.shared, capture_output=True, text=True, timeout=120, check=False,
            errors="surrogateescape", **daemons.identity(user),
            **({"input": given} if given else {"stdin": subprocess.DEVNULL}),
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def sbatch(self, script: Path | str, *options: str, user: str | None = None) -> int:
        """The id of a job made of a script's path, or of a script's text."""
        if isinstance(script, str):
            descriptor, name = tempfile.mkstemp(prefix="job-", suffix=".sh", dir=self.shared)
            os.write(descriptor, script.encode())
            os.fchmod(descriptor, 0o755)
            os.close(descriptor)
            script = Path(name)
        answer = self.run("sbatch", "--parsable", *options, script, user=user).stdout
        return int(answer.split(";")[0])

    def show(self, job: int | str) -> dict[str, str]:
        """What scontrol says of a job (its name and folder must hold no blanks)."""
        said = self.run("scontrol", "--oneliner", "show", "job", str(job)).stdout
        return dict(word.split("=", 1) for word in said.split() if "=" in word)

    def state(self, job: int) -> str:
        return self.show(job)["JobState"]

    def wait_for(self, job: int, *states: str, seconds: float = 30) -> str:
        """Waits until a job is in one of the states (none given: has ended); gives the state."""
        wanted = states or ENDED
        last = ""

        def reached() -> bool:
            nonlocal last
            last = self.state(job)
            # A job that ended otherwise will not get there: there is nothing to wait for.
            return last in wanted or (last in ENDED and "PENDING" not in wanted)

        until(reached, f"job {job} to be {' or '.join(wanted)}", seconds, lambda: f"it is {last}")
        assert last in wanted, f"job {job} is {last}, not {' or '.join(wanted)}"
        return last

    def begin_anew(self, job: int) -> None:
        """A job that was put back into the queue starts in some seconds, and not in two minutes.

        Not at once: in the second in which a node was told to end a job, it refuses to start it ("already
        killed"), and Slurm takes that for the job's failure. The two minutes are against that.
        """
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def node_state(self, name: str) -> str:
        """As sinfo has it, without the marks (`*`, `~`) after it: "idle", "mixed", "down"."""
        said = self.run("sinfo", "--noheader", f"--nodes={name}", "--Format=StateLong").stdout
        return re.sub(r"[^a-z]", "", said.splitlines()[0])

    def kill_node(self, name: str) -> None:
        """What a power cut does: every process of the node is gone at once, and the network with it."""
        self.daemons.kill(name)

    def start_node(self, name: str, seconds: float = 30) -> None:
        """A killed node comes back."""
        self.daemons.start_node(name)
        until(lambda: self.node_state(name) in ("idle", "mixed"), f"{name} to be idle", seconds)

    def processes(self, name: str) -> list[str]:
        """The command lines of what runs on a node, the node's own first process and slurmd left out."""
        return self.daemons.processes(name)

    def quiet(self, seconds: float = 30) -> None:
        """Waits until nothing runs on any node that is up."""
        up = [name for name in self.nodes if self.daemons.alive(name)]
        until(lambda: not any(self.processes(name) for name in up), "all nodes to be empty", seconds,
              lambda: str({name: self.processes(name) for name in up}))  # fmt: skip


@pytest.fixture(scope="session")
def slurm_like() -> Iterator[Starter]:
    """(*shapes, real=True, cluster=…, prolog=…, accounting=…, extra=…) -> another Slurm: see `started`."""
    made: list[Slurm] = []

    def start(*shapes: Shape, **how: object) -> Slurm:
        made.append(started(shapes, **how))  # type: ignore[arg-type]
        return made[-1]

    try:
        yield start
    finally:
        for each in reversed(made):
            ended(each)


@pytest.fixture(scope="session")
def slurm(slurm_like: Starter) -> Slurm:
    """Four nodes n1 to n4 with 8 CPUs and four h100 each, in the partitions `main` and `debug`."""
    return slurm_like(Shape(partitions=("main", "debug")))


def started(
    shapes: Sequence[Shape] = (Shape(),),
    *,
    real: bool = True,
    cluster: str = "slipworks",
    prolog: str | None = None,
    accounting: bool = False,
    addresses: bool = False,
    extra: Sequence[str] = (),
) -> Slurm:
    """A Slurm whose nodes are idle.

    real        False: a controller alone, whose nodes are said to be switched off. It takes jobs and judges
                them (sbatch --test-only); none ever runs.
    prolog      text of a TaskProlog: prints `export NAME=value` for tasks.
    accounting  a slurmdbd and a database of its own: sacct works. Some seconds more.
    addresses   each node is a host of its own: name, address, interface eth0, and no way to the internet.
    extra       further lines of slurm.conf.
    """
    need(os.geteuid() == 0, "Slurm's daemons run as root here")
    for program, package in daemons.PROGRAMS.items():
        need(shutil.which(program), f"{program} is not installed (apt-get install {package})")
    if accounting:
        for program in ("slurmdbd", "mariadbd"):
            need(
                shutil.which(program), f"{program} is not installed (apt-get install slurmdbd mariadb-server)"
            )
    folder = parts_left.made("slurm")
    folder.chmod(0o755)
    running = Daemons(folder)
    try:
        running.start(shapes, real=real, cluster=cluster, prolog=prolog, accounting=accounting,
                      addresses=addresses, extra=extra)  # fmt: skip
        return _ready(running)
    except BaseException:
        running.end()
        parts_left.removed(folder)
        raise


def _ready(running: Daemons) -> Slurm:
    shared = running.folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    env = daemons.ENVIRONMENT | {"SLURM_CONF": str(running.conf)}
    made = Slurm(
        folder=running.folder, conf=running.conf, env=env, nodes=running.nodes, shared=shared, daemons=running
    )

    def idle() -> bool:
        said = made.run("sinfo", "--noheader", "--Node", "--Format=StateLong", check=False)
        states = said.stdout.split()
        return bool(states) and all(state.startswith("idle") for state in states)

    until(idle, "all nodes to be idle", 60, running.logs)
    return made


def ended(made: Slurm) -> None:
    """Ends the jobs, the nodes with all that runs on them, and the daemons; removes the folder."""
    made.daemons.end()
    parts_left.removed(made.folder)
    parts_left.jobs_folders()
