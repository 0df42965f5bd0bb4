"""Slurm as a client sees it: submit, cancel, ask. `find` chooses the way to its programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kit import process
from kit.errors import HostError, LaunchError, MissingToolError, NetworkError, SlipworksError
from kit.process import Result
from slurm import answers, config
from slurm.answers import PartitionState, Past, Queued
from slurm.ways import Own, Remote, Way, caller

HOST = "/slipworks-host"
"""Where a container has parts of its host, as slurm.host_client lays them out."""
CONTAINERS = (".dockerenv", "run/.containerenv", ".singularity.d")
"""What Docker, Podman and Apptainer leave in the root of their containers."""
SUBMIT, ASK = 120.0, 60.0  # seconds; a busy controller is slow, and a second submission would be a second job
LOGIN = 10.0  # seconds for the first word from a login node, or none
PROBE = 4.0  # seconds for a client whose slurm.conf is in no usual place: without one it would try for 60

# What Slurm says -> what to do about it.
_HINTS = {
    "invalid account": "sacctmgr show assoc; then account in [clusters.NAME] of config.toml",
    "invalid partition": "sinfo -s; then partition=… of the job",
    "invalid qos": "sacctmgr show qos; then sbatch.qos=… of the job",
    "time limit": "sinfo -o '%P %l'; then time=… of the job",
    "munge": "the munge daemon's socket must be reachable from here: runner doctor",
    "unable to contact slurm controller": "scontrol ping; it may be down, or out of reach from here",
    "permission denied (publickey": "ssh-add, or a key without a passphrase: nobody is asked for one here",
    "could not resolve hostname": "login = [\"…\"] below [clusters.NAME] in config.toml",
}  # fmt: skip


class Client:
    """Slurm, reached in one way. Every call ends after a while; none leaves a process behind."""

    def __init__(self, way: Way, environment: Mapping[str, str] = os.environ) -> None:
        self.way = way
        self._environment = way.environment(environment)

    def submit(self, script: Path, options: Sequence[str] = (), arguments: Sequence[str] = ()) -> str:
        """The id of the new job; `arguments` are the script's. LaunchError where Slurm refuses it.

        Nothing of a job that this may run in is passed on. NetworkError where no answer came in time: the job
        may be there all the same.
        """
        words = ["--parsable", *self._identity(), *options, str(script), *arguments]
        said = self._run("sbatch", words, "submit the job", SUBMIT).out
        if not (found := answers.job_id(said)):
            raise LaunchError(f"sbatch was content but named no job: it said {said.strip()!r}", "squeue")
        return found

    def test(self, script: Path, options: Sequence[str] = (), arguments: Sequence[str] = ()) -> str:
        """What Slurm says of a job that it would take: when it could start. Makes no job."""
        words = ["--test-only", *self._identity(), *options, str(script), *arguments]
        return self._run("sbatch", words, "have the job judged", SUBMIT).err.strip()

    def cancel(self, ids: Sequence[str]) -> None:
        """Ends these jobs, running or not. One that has ended already, or never was, is no error."""
        if not ids:
            return
        done = self._run("scancel", [*ids], f"cancel {', '.join(ids)}", ASK, check=False)
        if done.code and "Invalid job id" not in done.err and "already completing" not in done.err:
            raise _failure(f"cancel {', '.join(ids)}", self.way, done)

    def signal(self, id: str, name: str) -> None:
        """Sends a signal ("USR2") to a job's batch script and no further."""
        self._run("scancel", [f"--signal={name}", "--batch", id], f"send {name} to {id}", ASK)

    def jobs(self, ids: Sequence[str] | None = None, *, prefix: str = "") -> tuple[Queued, ...]:
        """This user's jobs (or those of `ids`, whosever they are) that Slurm has not forgotten, with comments
        that begin with `prefix`. A job is forgotten some minutes after its end."""
        if ids is not None and not ids:
            return ()
        words = answers.queue_words(ids=ids or (), user=self._user() if ids is None else None)
        done = self._run("squeue", words, "ask for jobs", ASK, check=False)
        if done.code and ids and "Invalid job id" in done.err:
            return ()
        if done.code:
            raise _failure("ask for jobs", self.way, done)
        return tuple(each for each in answers.queued(done.out) if each.comment.startswith(prefix))

    def commented(self, prefix: str) -> dict[str, str]:
        """Comment -> id of this user's jobs whose comment begins so, as far as Slurm remembers."""
        return {each.comment: each.id for each in self.jobs(prefix=prefix)}

    def history(
        self, seconds: int, *, states: Sequence[str] = (), ids: Sequence[str] = ()
    ) -> tuple[Past, ...] | None:
        """This user's jobs of the last `seconds`, oldest first. None: there is no accounting here.

        The accounting may lag some seconds behind: slurmctld tells it of starts every 5 s, and a job that has
        ended before then is without its name and comment for so long.
        """
        words = answers.history_words(seconds=seconds, states=states, ids=ids, user=self._user())
        try:
            done = self._run("sacct", words, "ask the accounting", ASK, check=False)
        except MissingToolError:
            return None
        if done.code == 0:
            return answers.past(done.out)
        if "storage is disabled" in done.err or _absent("sacct", done):
            return None
        raise _failure("ask the accounting", self.way, done)

    def partitions(self) -> tuple[PartitionState, ...]:
        return answers.partitions(
            self._run("sinfo", answers.partition_words(), "ask for partitions", ASK).out
        )

    def cluster_name(self) -> str | None:
        """Slurm's ClusterName."""
        said = self._run("scontrol", ["show", "config"], "ask Slurm for its name", ASK).out
        return config.cluster_name(said)

    def version(self) -> str:
        """ "22.05.8", of the client."""
        return self._run("sbatch", ["--version"], "ask for Slurm's version", LOGIN).out.split()[-1]

    def _user(self) -> str | None:
        """Numbers need no names where this runs; a login node may number users otherwise."""
        return str(caller()[0]) if self.way.shared else None

    def _identity(self) -> list[str]:
        """In a user namespace sbatch would name a user whom munge does not vouch for."""
        user, group = caller()
        if not self.way.shared or user == os.getuid():
            return []
        return [f"--uid={user}", f"--gid={group}"]

    def _run(
        self, program: str, words: Sequence[str], what: str, seconds: float, *, check: bool = True
    ) -> Result:
        dated = dict([answers.TIMES]) if program in answers.DATED else {}
        done = process.run(
            self.way.argv(program, words), what=f"{what} (by {self.way.name})", env=self._environment | dated,
            timeout=seconds, check=False, error=NetworkError, errors="surrogateescape",
        )  # fmt: skip
        if check and done.code:
            raise _failure(what, self.way, done)
        return done


def find(
    logins: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
    host: Path = Path(HOST),
) -> Client:
    """A client that works here: from within a container the host's, else this machine's own, else ssh to the
    first of `logins` that answers. MissingToolError that says of each what it lacks, within a few seconds."""
    lacks: list[str] = []
    for way in _ways(logins, environment, host, lacks):
        return Client(way, environment)
    raise MissingToolError(
        f"no way from here to Slurm: {'; '.join(lacks)}", _way_out(logins, environment, host)
    )


def _way_out(
    logins: Sequence[str], environment: Mapping[str, str], host: Path, root: Path = Path("/")
) -> str:
    """What would lead to Slurm from where this is."""
    ssh = 'or login = ["HOST"] below [clusters.NAME] of config.toml: ssh is then used'
    if logins:
        return f"ssh -o BatchMode=yes {logins[0]} sbatch --version must work: a key without a question"
    if host.is_dir():
        return f"leave this shell, and submit on the login node; {ssh}"
    if any((root / mark).exists() for mark in CONTAINERS):
        return f"on the login node: make shell, whose container has what is needed; {ssh}"
    if shutil.which("sbatch", path=environment.get("PATH", os.defpath)):
        return "export SLURM_CONF=…/slurm.conf, as this site has it"
    return f"submit on a login node, or run it on this machine: --cluster local; {ssh}"


def _ways(
    logins: Sequence[str], environment: Mapping[str, str], host: Path, lacks: list[str]
) -> Iterator[Way]:
    """Those that work, tried only as far as somebody asks; the others' lacks."""
    # In a container, first the host's: what an image has on its PATH is of another release than the site's.
    if host.is_dir():
        from slurm import host_client

        try:
            yield host_client.loaded(host, environment)
        except SlipworksError as lack_there:
            lacks.append(lack_there.message)
    else:
        lacks.append(f"no client of a host's is bound at {host}")
    if shutil.which("sbatch", path=environment.get("PATH", os.defpath)) is None:
        lacks.append("sbatch is not on PATH")
    elif lack := _unconfigured(environment):
        lacks.append(lack)
    else:
        yield Own()
    if not logins:
        lacks.append("no login node is known for ssh")
    for place, login in enumerate(logins):
        if lack := _silent(Remote(login), environment):
            lacks.insert(place, lack)  # before the others: whoever named it means to go that way
        else:
            yield Remote(login)


def _unconfigured(environment: Mapping[str, str]) -> str | None:
    """Why the programs on PATH would not work. One that keeps its settings elsewhere gets a moment to say."""
    if config.find(environment):
        return None
    lack = config.lack(environment)
    if environment.get("SLURM_CONF"):
        return lack
    try:
        Client(Own(), environment)._run("scontrol", ["ping"], "ask Slurm", PROBE)
    except SlipworksError:
        return lack
    return None


def _silent(way: Remote, environment: Mapping[str, str]) -> str | None:
    try:
        Client(way, environment).version()
    except SlipworksError as lack:
        return lack.message.splitlines()[0]
    return None


def _absent(program: str, done: Result) -> bool:
    return done.code == 127 and program in done.err


def _failure(what: str, way: Way, done: Result) -> SlipworksError:
    """In one line, as Slurm's own last words say best what it was."""
    lines = [line.strip() for line in (done.err + done.out).splitlines() if line.strip()]
    said = " / ".join(lines[-2:]) or f"exit code {done.code}"
    hint = next((hint for words, hint in _HINTS.items() if words in said.lower()), None)
    kind: type[SlipworksError] = LaunchError
    if "munge" in said.lower() or "ssh:" in said:
        kind = HostError
    elif "timed out" in said.lower():
        kind = NetworkError
    return kind(f"could not {what} by {way.name}: {said}", hint)
