"""A job file: a small YAML that says what is to run where, read strictly, every complaint with its line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from kit import decode
from runner.after.asked import After
from runner.beside.asked import Podman
from runner.code_server.wanted import CodeServer
from runner.egress.asked import Egress
from runner.launch import Artifact, Service
from runner.sandboxes.wanted import Sandboxes
from runner.skyrl.section import Skyrl
from runner.staging.asked import Stage
from slurm.clusters import Cluster


class Ray(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the job says of Ray; what it does not say is decided on the node.

    num_cpus, num_gpus   a node's.
    object_store_memory  bytes, a node's.
    args                 further words for `ray start`, as Ray documents them.
    ready_within         seconds until all nodes must have joined: two tries of each, with Ray's own patience.
    """

    num_cpus: int | None = None
    num_gpus: int | None = None
    object_store_memory: int | None = None
    args: tuple[str, ...] = ()
    ready_within: float = 300.0


class Throughput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for tokens per second from the log at the end.

    trajectories  how many there are in a step.
    """

    trajectories: int


class Mount(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder or file of this machine, seen in the container at another place.

    source     its path; a relative one begins at the job file's folder.
    target     where it is inside.
    read_only  whether nothing inside may change it.
    """

    source: str
    target: str
    read_only: bool = False


class Code(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkout of the user's that rides along as it is at submission.

    source     its folder; relative to the job file's. .gitignore is honoured.
    imports    folders below it that come first on the import path; ".": itself.
    limit      megabytes that a snapshot may have.
    """

    source: str
    imports: tuple[str, ...] = (".",)
    limit: int = 200


class Checkpoints(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder for checkpoints, on the cluster's scratch, outside the attempts.

    target  where it is seen inside; SLIPWORKS_CHECKPOINTS says it to the command.
    shared  None: this run's own. A name: one folder for all runs that say this name.
    """

    target: str = "/checkpoints"
    shared: str | None = None


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job.

    name        letters, digits and ._- ; begins the run folder's name.
    arch, image which container: an arch of ours (with `line`, `base`), or any image: an OCI reference, or the
                path of a SIF. Not both; neither: the arch of the cluster's profile.
    line        of an arch: the stack; None: the arch's own.
    base        of an arch: what its image stands on; None: the arch's own.
    nodes       how many.
    gpus        of one node.
    run         the command, run on the first node once Ray is ready: a list of words, or a script for sh.
                Left out where a section makes it.
    workdir     where it runs, inside.
    env         variables for Ray and the command.
    env_files   variables whose values are in files, read on each node when an attempt begins: NAME: path.
    secrets     names of variables that go inside, and into no log or argv: of the submitter's environment,
                else of what `runner secrets set` has stored.
    binds       "source:target" or "source:target:ro", or a mapping for paths with colons; a relative source
                begins at the job file's folder.
    ray         how Ray is started; false: not at all, and the command runs on every node.
    time        the longest that it may take, as Slurm writes it: "30" (minutes), "12:00:00", "1-00:00:00".
    warn        seconds before that end at which the command gets SIGUSR2; None: not at all.
    code        checkouts of the user's own, as they are at submission: see Code.
    training    a YAML file for the program, carried along as it is at submission; SLIPWORKS_TRAINING says
                where it is inside: /slipworks-run/training.yaml.
    stage       models and data sets of the Hugging Face hub, downloaded at submission: see Stage.
    checkpoints a folder that outlives attempts: see Checkpoints. true: with its defaults.
    services    programs beside the command: see Service.
    code_server a server that runs the model's programs against their tests: see CodeServer. true: with its
                defaults; None: where `training` has a code_pass_rate_reward_threshold.
    egress      who gets out of nodes without internet: see Egress. true: the command.
    podman      the command may start containers beside its own: see Podman. true: with its defaults.
    sandboxes   nodes of the job's own on which sandboxes for agents run: see Sandboxes.
    skyrl       training with SkyRL, which makes the command: see Skyrl.
    artifacts   files inside that are kept: see Artifact; text: the path alone.
    throughput  tokens per second from the log at the end: see Throughput.
    after       what comes after the run, as a run of its own: see After.
    restarts    how many jobs may go on where one failed, lost a node or ran out of time. After a command that
                failed by itself only once a step was made: SkyRL's mark in the log, or a new file in the
                run's own `checkpoints`.
    keep_env    names and prefixes (`MY_*`) of the image's variables that Ray must get too.
    submits     the command may submit jobs: it gets `runner`, your home and the folders of your settings at
                their own paths, and of the host, read-only, Slurm's client with its libraries.
    sbatch      any option of sbatch, its long name without dashes: value, or true. Passed unchanged.
    """

    name: str
    run: str | tuple[str, ...] | None = None
    arch: str | None = None
    line: str | None = None
    base: str | None = None
    image: str | None = None
    nodes: int = 1
    gpus: int = 0
    workdir: str | None = None
    env: dict[str, str] = {}
    env_files: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    binds: tuple[str | Mount, ...] = ()
    ray: Ray | bool = True
    throughput: Throughput | None = None
    time: str | None = None
    warn: int | None = None
    code: tuple[str | Code, ...] = ()
    training: str | None = None
    stage: Stage | None = None
    checkpoints: Checkpoints | bool = False
    services: tuple[Service, ...] = ()
    code_server: CodeServer | bool | None = None
    egress: Egress | bool = False
    podman: Podman | bool = False
    sandboxes: Sandboxes | None = None
    skyrl: Skyrl | None = None
    artifacts: tuple[str | Artifact, ...] = ()
    after: After | None = None
    restarts: int = 0
    keep_env: tuple[str, ...] = ()
    submits: bool = False
    sbatch: dict[str, str | bool] = {}

    @property
    def is_sif(self) -> bool:
        """Whether `image` names a file: by its ending, or as a path that begins with a slash, a dot or ~."""
        return self.image is not None and (
            self.image.endswith(".sif") or self.image.startswith(("/", "./", "../", "~"))
        )

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """The binds of a loaded job: sources are absolute and exist."""
        return tuple(bind for bind in self.binds if isinstance(bind, Mount))

    @property
    def checkouts(self) -> tuple[Code, ...]:
        """The code of a loaded job: sources are absolute folders."""
        return tuple(each for each in self.code if isinstance(each, Code))

    @property
    def kept(self) -> tuple[Artifact, ...]:
        """The artifacts, in their whole form."""
        return tuple(Artifact(source=each) if isinstance(each, str) else each for each in self.artifacts)

    @property
    def saved(self) -> Checkpoints | None:
        """The checkpoints, where the job asks for any."""
        if isinstance(self.checkpoints, Checkpoints):
            return self.checkpoints
        return Checkpoints() if self.checkpoints else None

    @property
    def asked_of_ray(self) -> Ray | None:
        """What the job says of Ray; None where there is to be none."""
        if isinstance(self.ray, Ray):
            return self.ray
        return Ray() if self.ray else None

    @property
    def command(self) -> tuple[str, ...]:
        """Empty before a section has made it."""
        return ("/bin/sh", "-euc", self.run) if isinstance(self.run, str) else self.run or ()


def load(path: Path, overrides: Sequence[str] = (), cluster: Cluster | None = None) -> Job:
    """The job in `path` with `key=value` overrides (dotted keys; the value is YAML), checked and resolved:
    every value has its whole form, paths of this machine are absolute and there, and a section that makes the
    command has made it. cluster: where it will run; while that is not known, a section that needs to know it
    makes nothing, and `run` is None.

    InvalidFileError, UnsupportedError and UnknownNameError name the line, or the override.
    """
    from runner import job_checks, job_paths, job_text
    from runner.skyrl import making

    text = job_text.read(path, overrides)
    job = making.worn(decode.convert(text.data, Job, str(path), text.locate), cluster, text.locate)
    job_checks.check(job, text.locate)
    return job_paths.resolved(job, path.parent, text.locate)


def secret_values(job: Job, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The secrets by name: of the environment, else of the user's file; errors as of own_secrets.demanded."""
    from runner import own_secrets

    return own_secrets.demanded(job.secrets, environment)
