"""A job file: a small YAML that says what is to run where, read strictly, every complaint with its line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct, structs

from kit import decode
from kit.errors import InvalidFileError, UnsupportedError, UsageError
from kit.suggest import unknown
from runner import yaml_lines
from runner.launch import Artifact, Service

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
AS_WRITTEN = ("env", "run")  # keys in whose values a word is a word, whatever YAML takes it for
LONGEST_VALUE = (128 << 10) - 1  # bytes of NAME=value that exec takes, less the closing NUL


class Ray(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the job says of Ray; what it does not say is decided on the node.

    num_cpus, num_gpus   a node's.
    object_store_memory  bytes, a node's.
    args                 further words for `ray start`, as Ray documents them.
    ready_within         seconds until all nodes must have joined.
    """

    num_cpus: int | None = None
    num_gpus: int | None = None
    object_store_memory: int | None = None
    args: tuple[str, ...] = ()
    ready_within: float = 180.0


class Throughput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for tokens per second from the log at the end; see throughput.py."""

    trajectories: int


class Mount(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder or file of this machine, seen in the container at `target`."""

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
    arch, image which container: an arch of ours (with `line`, `base`), or the reference of an image that the
                engine has. Exactly one of the two.
    nodes, gpus how many nodes, and GPUs a node.
    run         the command, run on the first node once Ray is ready: a list of words, or a script for sh.
    workdir     where it runs, inside.
    env         variables for Ray and the command.
    secrets     names of variables of the submitter's environment that go inside, and into no log or argv.
    binds       "source:target" or "source:target:ro", or a mapping for paths with colons; a relative source
                begins at the job file's folder.
    ray         how Ray is started; false: not at all, and the command runs on every node.
    time        the longest that it may take, as Slurm writes it: "30" (minutes), "12:00:00", "1-00:00:00".
    warn        seconds before that end at which the command gets SIGUSR2; None: not at all.
    code        checkouts of the user's own, as they are at submission: see Code.
    checkpoints a folder that outlives attempts: see Checkpoints. true: with its defaults.
    services    programs beside the command; artifacts: files that are kept. See launch.py.
    restarts    how many jobs may go on where one failed, lost a node or ran out of time.
    keep_env    names and prefixes (`MY_*`) of the image's variables that Ray must get too.
    sbatch      any option of sbatch, its long name without dashes: value, or true. Passed unchanged.
    """

    name: str
    run: str | tuple[str, ...]
    arch: str | None = None
    line: str | None = None
    base: str | None = None
    image: str | None = None
    nodes: int = 1
    gpus: int = 0
    workdir: str | None = None
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    binds: tuple[str | Mount, ...] = ()
    ray: Ray | bool = True
    throughput: Throughput | None = None
    time: str | int | None = None
    warn: int | None = None
    code: tuple[str | Code, ...] = ()
    checkpoints: Checkpoints | bool = False
    services: tuple[Service, ...] = ()
    artifacts: tuple[str | Artifact, ...] = ()
    restarts: int = 0
    keep_env: tuple[str, ...] = ()
    sbatch: dict[str, str | int | bool] = {}

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """The binds of a loaded job: sources are absolute and exist."""
        return tuple(bind for bind in self.binds if isinstance(bind, Mount))

    @property
    def command(self) -> tuple[str, ...]:
        return ("/bin/sh", "-euc", self.run) if isinstance(self.run, str) else self.run


def load(path: Path, overrides: Sequence[str] = ()) -> Job:
    """The job in `path` with `key=value` overrides (dotted keys; the value is YAML), checked.

    InvalidFileError and UnknownNameError name the line, or the override.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as bad:
        raise InvalidFileError(f"cannot read the job file {path}: {bad}", "runner submit JOB.YAML") from bad
    root = yaml_lines.composed(text, str(path))
    lines = yaml_lines.lines(root, str(path))
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value in AS_WRITTEN:
            yaml_lines.keep_words(value)
    data = yaml_lines.plain(root, str(path))
    if not isinstance(data, dict):
        raise InvalidFileError(f"{path}: found no mapping, expected `name:`, `run:` and so on")
    for override in overrides:
        key, value = _override(override)
        _put(data, key, value, override)
        for inner in [each for each in lines if each.startswith((f"{key}.", f"{key}["))]:
            del lines[inner]
        lines[key] = f"{key}= on the command line"
    job = decode.convert(data, Job, str(path), lambda at: yaml_lines.locate(at, lines, str(path)))
    _check(job, lines, str(path))
    _check_names(job, lines, str(path))
    mounts = (
        _mount(bind, path.parent, yaml_lines.locate(f"binds[{place}]", lines, str(path)))
        for place, bind in enumerate(job.binds)
    )
    return structs.replace(job, binds=tuple(mounts))


def secret_values(job: Job, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The secrets by name; UsageError naming those that the environment lacks."""
    missing = [name for name in job.secrets if name not in environment]
    if missing:
        raise UsageError(
            f"the job needs the secret {missing[0]}, which is not set here", f"export {missing[0]}=…"
        )
    return {name: environment[name] for name in job.secrets}


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"not an override: found {text!r}, expected key=value", "runner submit --help")
    if key.startswith("env."):
        return key, value
    try:
        node = yaml.compose(value, Loader=yaml.SafeLoader)
        if node is None:
            return key, None
        if key in AS_WRITTEN:
            yaml_lines.keep_words(node)
        yaml_lines.lines(node, f"{key}= on the command line")
        return key, yaml_lines.plain(node, f"{key}= on the command line")
    except (yaml.YAMLError, RecursionError) as bad:
        raise UsageError(f"the value of {key}= is not YAML: {value!r}") from bad


def _put(data: dict[str, Any], key: str, value: Any, override: str) -> None:
    *folders, last = key.split(".")
    for folder in folders:
        inner = data.setdefault(folder, {})
        if not isinstance(inner, dict):
            data[folder] = inner = {}
        data = inner
    if last in data and isinstance(data[last], dict) and not isinstance(value, dict | bool):
        raise UsageError(f"cannot set {override!r}: {key} holds {', '.join(data[last]) or 'a mapping'}")
    data[last] = value


def _check(job: Job, lines: Mapping[str, str], where: str) -> None:
    """What types alone do not say."""
    for at, wrong in _wrong(job):
        if wrong:
            raise InvalidFileError(f"{yaml_lines.locate(at, lines, where)}: {wrong}")
    if job.ray is False and job.nodes > 1:
        message = f"{job.nodes} nodes without Ray are not supported: the command runs on the first node"
        raise UnsupportedError(f"{yaml_lines.locate('ray', lines, where)}: {message}")


def _check_names(job: Job, lines: Mapping[str, str], where: str) -> None:
    """UnknownNameError, with the line of the job, for an arch, line or base that there is not."""
    from definitions import archs
    from definitions import lines as stacks
    from runner import planning

    for key, names in (("arch", archs.names), ("line", stacks.names), ("base", planning.base_names)):
        word = getattr(job, key)
        if word is not None and word not in names():
            raise unknown(key, word, names(), yaml_lines.locate(key, lines, where))


def _wrong(job: Job) -> Iterator[tuple[str, str | None]]:
    """Place and complaint; None where nothing is wrong."""
    if not NAME.fullmatch(job.name):
        yield "name", f"found name {job.name!r}, expected at most 63 letters, digits and ._-"
    for key in ("arch", "image", "line", "base", "workdir"):
        yield key, f"found an empty {key}" if getattr(job, key) == "" else None
    if (job.arch is None) == (job.image is None):
        found = "neither" if job.arch is None else "both"
        yield "image", f"found {found} of arch and image, expected exactly one"
    yield "run", None if job.run and all(job.command[:1]) else "found an empty command"
    yield "run", "found a NUL byte" if any("\0" in word for word in job.command) else None
    yield from _wrong_numbers(job)
    for place, name in enumerate(job.secrets):
        if not VARIABLE.fullmatch(name):
            yield f"secrets[{place}]", f"found {name!r}, expected a variable's name"
    for name, value in job.env.items():
        if not VARIABLE.fullmatch(name):
            yield f"env.{name}", f"found {name!r}, expected a variable's name"
        if "\0" in value or len(f"{name}={value}".encode()) > LONGEST_VALUE:
            yield f"env.{name}", f"{name} holds a NUL byte or more than 128 KiB, which exec refuses"


def _wrong_numbers(job: Job) -> Iterator[tuple[str, str]]:
    ray = job.ray if isinstance(job.ray, Ray) else Ray()
    least = (
        ("nodes", job.nodes, 1, "nodes"),
        ("gpus", job.gpus, 0, "GPUs"),
        ("ray.num_cpus", ray.num_cpus, 0, "CPUs"),
        ("ray.num_gpus", ray.num_gpus, 0, "GPUs"),
        ("ray.object_store_memory", ray.object_store_memory, 1, "bytes of object store"),
        (
            "throughput.trajectories",
            job.throughput.trajectories if job.throughput else None,
            1,
            "trajectories",
        ),
    )
    for at, number, smallest, what in least:
        if number is not None and number < smallest:
            yield at, f"found {number} {what}, expected {smallest} or more"
    if not ray.ready_within > 0:
        yield "ray.ready_within", f"found {ray.ready_within:g} seconds, expected more than 0"


def _mount(bind: str | Mount, folder: Path, where: str) -> Mount:
    """A bind with an absolute source; InvalidFileError if the source is missing."""
    if isinstance(bind, str):
        source, _, rest = bind.partition(":")
        target, _, mode = rest.partition(":")
        if not target.startswith("/") or mode not in ("", "ro", "rw"):
            raise InvalidFileError(
                f"{where}: found bind {bind!r}, expected source:/target or source:/target:ro"
            )
        bind = Mount(source=source, target=target, read_only=mode == "ro")
    if not bind.target.startswith("/"):
        raise InvalidFileError(f"{where}: found target {bind.target!r}, expected an absolute path")
    try:
        source_path = Path(os.path.abspath(folder / Path(bind.source).expanduser()))  # noqa: PTH100
    except RuntimeError as nobody:  # ~name of a user that there is not
        raise InvalidFileError(f"{where}: there is no such home: {bind.source}") from nobody
    if not source_path.exists():
        raise InvalidFileError(f"{where}: the bind's source {source_path} does not exist")
    return Mount(source=str(source_path), target=bind.target, read_only=bind.read_only)
