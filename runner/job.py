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
    ray         how Ray is started; false: not at all.
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
    root = _composed(text, str(path))
    lines = _lines(root, str(path))
    data = _plain(root)
    if not isinstance(data, dict):
        raise InvalidFileError(f"{path}: found no mapping, expected `name:`, `run:` and so on")
    for override in overrides:
        key, value = _override(override)
        _put(data, key, value, override)
        for inner in [each for each in lines if each.startswith((f"{key}.", f"{key}["))]:
            del lines[inner]
        lines[key] = f"{key}= on the command line"
    job = decode.convert(data, Job, str(path), lambda at: _locate(at, lines, str(path)))
    _check(job, lines, str(path))
    mounts = (
        _mount(bind, path.parent, _locate(f"binds[{place}]", lines, str(path)))
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


def _composed(text: str, where: str) -> yaml.Node:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as bad:
        mark = getattr(bad, "problem_mark", None)
        at = f"{where}:{mark.line + 1}" if mark else where
        raise InvalidFileError(f"{at}: not YAML: {getattr(bad, 'problem', None) or bad}") from bad
    if root is None:
        raise InvalidFileError(f"{where}: empty, expected a job", "examples/hello-grpo/job.yaml is one")
    return root


def _lines(root: yaml.Node, where: str) -> dict[str, str]:
    """Dotted path -> `file:line` of its key; a key that is given twice is an error."""
    found = {"": where}

    def walk(node: yaml.Node, at: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                path = f"{at}.{key.value}" if at else str(key.value)
                place = f"{where}:{key.start_mark.line + 1}"
                if path in found:
                    raise InvalidFileError(f"{place}: {path} is given twice, first at {found[path]}")
                found[path] = place
                walk(value, path)
        elif isinstance(node, yaml.SequenceNode):
            for place_in_list, value in enumerate(node.value):
                path = f"{at}[{place_in_list}]"
                found[path] = f"{where}:{value.start_mark.line + 1}"
                walk(value, path)

    walk(root, "")
    return found


def _plain(root: yaml.Node) -> Any:
    """The data; the values of `env` and the words of `run` as they are written (`on` stays on, 1 stays 1)."""
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value in AS_WRITTEN:
            _keep_words(value)
    try:
        return yaml.SafeLoader("").construct_document(root)
    except yaml.YAMLError as bad:
        raise InvalidFileError(f"not YAML that a job may hold: {bad}") from bad


def _keep_words(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        for each in node.value:
            word = each[1] if isinstance(each, tuple) else each
            if isinstance(word, yaml.ScalarNode):
                word.tag = "tag:yaml.org,2002:str"


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
            _keep_words(node)
        return key, yaml.SafeLoader("").construct_document(node)
    except yaml.YAMLError as bad:
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


def _locate(at: str, lines: Mapping[str, str], where: str) -> str:
    """`file:line` of a path, or of the nearest thing around it."""
    at = at.replace("[...]", "")
    while at and at not in lines:
        at = re.sub(r"(\.[^.\[]*|\[[^\]]*\])$|^[^.\[]*$", "", at)
    return lines.get(at, where)


def _check(job: Job, lines: Mapping[str, str], where: str) -> None:
    """What types alone do not say."""
    for at, wrong in _wrong(job):
        if wrong:
            raise InvalidFileError(f"{_locate(at, lines, where)}: {wrong}")
    if job.ray is False and job.nodes > 1:
        message = f"{job.nodes} nodes without Ray are not supported: the command runs on the first node"
        raise UnsupportedError(f"{_locate('ray', lines, where)}: {message}")


def _wrong(job: Job) -> Iterator[tuple[str, str | None]]:
    """Place and complaint; None where nothing is wrong."""
    if not NAME.fullmatch(job.name):
        yield "name", f"found name {job.name!r}, expected at most 63 letters, digits and ._-"
    if (job.arch is None) == (job.image is None):
        found = "neither" if job.arch is None else "both"
        yield "image", f"found {found} of arch and image, expected exactly one"
    yield "nodes", f"found {job.nodes} nodes, expected 1 or more" if job.nodes < 1 else None
    yield "gpus", f"found {job.gpus} GPUs, expected 0 or more" if job.gpus < 0 else None
    yield "run", None if job.run and all(job.command[:1]) else "found an empty command"
    yield "run", "found a NUL byte" if any("\0" in word for word in job.command) else None
    for name, value in job.env.items():
        if not VARIABLE.fullmatch(name):
            yield f"env.{name}", f"found {name!r}, expected a variable's name"
        if "\0" in value or len(f"{name}={value}".encode()) > LONGEST_VALUE:
            yield f"env.{name}", f"{name} holds a NUL byte or more than 128 KiB, which exec refuses"


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
    source_path = Path(os.path.abspath(folder / Path(bind.source).expanduser()))  # noqa: PTH100
    if not source_path.exists():
        raise InvalidFileError(f"{where}: the bind's source {source_path} does not exist")
    return Mount(source=str(source_path), target=bind.target, read_only=bind.read_only)
