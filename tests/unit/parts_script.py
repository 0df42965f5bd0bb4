"""A host for batch scripts: bash, and stand-ins for Slurm and an engine that write down what they were asked.

Real Slurm runs the same scripts in tests/live.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import structs

from slurm.script import Batch, render

RANK = "@rank-0badcafe@"

SRUN = """#!/bin/bash
# One task a node, all on this machine. A TERM ends all of them, as srun's does.
{ flock 9; printf '%s\\0' "$@" >&9; } 9>>"$RECORD/srun" # bash writes line by line: two at once would mix
[ ! -e "$RECORD/no-srun" ] || exit 1
nodes=1
while [ $# -gt 0 ]; do
    case $1 in
        --nodes=*) nodes=${1#*=} ;;
        -*) ;;
        *) break ;;
    esac
    shift
done
if [ -e "$RECORD/patient-srun" ]; then
    trap : TERM
else
    trap 'echo "srun: got TERM" >>"$RECORD/srun-ended"; kill -KILL "${tasks[@]}"; exit 15' TERM
fi
tasks=()
for ((rank = 0; rank < nodes; rank++)); do
    SLURM_NODEID=$rank SLURMD_NODENAME=n$((rank + 1)) "$@" &
    tasks+=($!)
done
worst=0
for task in "${tasks[@]}"; do
    while wait "$task"; code=$?; kill -0 "$task" 2>/dev/null; do :; done
    [ "$code" -le "$worst" ] || worst=$code
done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
printf '%s\\0' "$@" >>"$RECORD/scontrol"
case "$1 $2" in
    "show hostnames") cat "$RECORD/hosts" ;;
    *) cat "$RECORD/job" ;;
esac
"""
SCANCEL = """#!/bin/bash
printf '%s\\n' "$@" >>"$RECORD/scancel"
"""
ENGINE = """#!/bin/bash
# What a node's container does is written by the test, as bash. It is in the meeting's folder; $rank is set.
rank=$SLURM_NODEID
printf '%s\\0' "${0##*/}" "$@" >>"$RECORD/engine-$rank"
while [ $# -gt 0 ]; do
    [ "$1" != --attempt ] || attempt=$2
    shift
done
meeting=$RUN/attempt-${attempt-0}/meeting
ended() {
    printf '{"code":%s}' "$1" >"$meeting/.tmp-$rank"
    mv "$meeting/.tmp-$rank" "$meeting/ended-$rank"
}
exec {nothing}<> <(:)
await() { # a minute at most, and while the folder is there: nobody else ends what a test leaves
    local turns=0
    until [ -e "$meeting/$1" ]; do
        [ $((turns += 1)) -lt 3000 ] && [ -d "$meeting" ] || exit 1
        read -r -t 0.02 -u "$nothing"
    done
}
[ -z "${attempt-}" ] || { cd "$meeting" && . "$RECORD/container"; }
"""
FAREWELL = "ended 0\n"
"""A container in which all goes well."""


class Cluster:
    """A folder with the stand-ins, a run folder, and what was written down."""

    def __init__(self, folder: Path, run: Path | None = None) -> None:
        self.record = folder / "record"
        self.bin = folder / "bin"
        self.run = run or folder / "run"
        for each in (self.record, self.bin, self.run):
            each.mkdir(parents=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("scancel", SCANCEL), ("engine", ENGINE)):
            self.program(name, text)
        self.answer("job", "JobId=7 Requeue=1 Restarts=0 BatchFlag=1\n")
        self.container(FAREWELL)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def answer(self, name: str, text: str) -> None:
        (self.record / name).write_text(text)

    def container(self, text: str) -> None:
        """What each node's container does."""
        self.answer("container", text)

    def batch(self, **changes: object) -> Batch:
        plain = Batch(
            options={"job-name": "test"}, run=self.run, nodes=1, rank_token=RANK,
            container=("engine", "run", "image", "node"), patience=3.0,
        )  # fmt: skip
        return structs.replace(plain, **changes)

    def start(self, batch: Batch, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        """The script, as Slurm starts it: not from the run folder, and in a group of its own."""
        hosts = [f"n{rank + 1}" for rank in range(batch.nodes)]
        if not (self.record / "hosts").exists():
            self.answer("hosts", "".join(f"{host}\n" for host in hosts))
        script = self.run / "job.sbatch"
        script.write_bytes(os.fsencode(render(batch)))
        given = {
            "PATH": f"{self.bin}:{os.environ['PATH']}", "RECORD": str(self.record), "RUN": str(self.run),
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-9]", "SLURM_JOB_NUM_NODES": str(batch.nodes),
            "SLURMD_NODENAME": "n1", "TMPDIR": str(self.record), **env,
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", str(script), *arguments], env=given, cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def finish(self, batch: Batch, *arguments: str, **env: str) -> tuple[int, str]:
        """Exit code and output of the script."""
        job = self.start(batch, *arguments, **env)
        said = job.communicate(timeout=60)[0]
        return job.returncode, os.fsdecode(said)

    def words(self, name: str) -> list[str]:
        """The words that a stand-in was given, over all of its starts."""
        file = self.record / name
        return [os.fsdecode(word) for word in file.read_bytes().split(b"\0")[:-1]] if file.exists() else []

    def attempt(self, name: str, number: int = 1) -> Path:
        return self.run / f"attempt-{number}" / name


def until(what: Callable[[], object], awaited: str, seconds: float = 20.0) -> None:
    """Returns as soon as `what` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {awaited}"
        time.sleep(0.01)


def send(job: subprocess.Popen[bytes], number: signal.Signals, group: bool = False) -> None:
    (os.killpg if group else os.kill)(job.pid, number)


def alive(group: int) -> Sequence[str]:
    """The processes of a group, but for zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(owner) == group and state != "Z":
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found
