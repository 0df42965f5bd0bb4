"""Bind mounts in the form that docker, podman and apptainer share, and what the first two share beside."""

from __future__ import annotations

import csv
import io

from containers.engine import Bind, ContainerRun, home
from kit.errors import InvalidFileError, UnsupportedError


def mount_option(bind: Bind, read_only_word: str) -> str:
    """The value of `--mount`: fields of one CSV record, so that commas, quotes and colons are just text."""
    source = str(bind.source.absolute())
    if "\n" in source or "\n" in bind.target:
        raise InvalidFileError(f"a line break in a path cannot be passed to a container engine: {source!r}")
    fields = ["type=bind", f"source={source}", f"target={bind.target}"]
    if bind.image:
        fields.append("image-src=/")
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([*fields, *([read_only_word] if bind.read_only else [])])
    return text.getvalue()


def docker_bind(bind: Bind) -> list[str]:
    if bind.image:
        raise UnsupportedError(f"only apptainer mounts a squashfs file: found {bind.source}")
    return ["--mount", mount_option(bind, "readonly")]


def docker_words(run: ContainerRun) -> list[str]:
    """What docker and podman are told of a run in the same words: variables, binds, streams, folder, name."""
    words = [f"--env={name}={value}" for name, value in (run.env if run.plain else home(run.env)).items()]
    if run.env_file:
        words.append(f"--env-file={run.env_file}")
    words += [word for bind in run.binds for word in docker_bind(bind)]
    if run.stdin:
        words.append("--interactive")
    if run.terminal:
        words.append("--tty")
    if run.workdir:
        words.append(f"--workdir={run.workdir}")
    if run.name:
        words.append(f"--name={run.name}")
    return words


def network(run: ContainerRun) -> str:
    """How a container's ports are reached: as the host's own, or one of its own by way of loopback."""
    return "--network=host" if run.port is None else f"--publish=127.0.0.1::{run.port}"
