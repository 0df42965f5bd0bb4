"""What every engine can do, and which engines there are.

An engine is one file in containers/engines/ with a class named ENGINE; adding one needs no edit here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from kit import say
from kit.errors import InvalidFileError, MissingToolError, SlipworksError, UnsupportedError
from kit.nouns import Format, Image, Platform
from kit.suggest import unknown

Update = Callable[[str], None]
"""Takes each line of progress."""

Export = Callable[[Image, Path], None]
"""Writes an image of the store as a `docker save` archive, for engines that cannot read an OCI layout."""


class Bind(Struct, frozen=True):
    """A folder or file of the host, seen inside at `target` (an absolute path).

    image  the source is a squashfs file, and its files are seen there. Apptainer alone can do that.
    """

    source: Path
    target: str
    read_only: bool = False
    image: bool = False


class ContainerRun(Struct, frozen=True, kw_only=True):
    """One process in a container; what it sees is the same under every engine.

    image     a reference that the engine has (`load`), or a SIF's path.
    env       values that may be seen in a process list. Nothing of the caller's environment gets inside.
    env_file  values that may not: a 0600 file holding `Engine.env_text` of them. Not HOME.
    workdir   absolute; must exist in the image or be bound. None: the image's, / in a SIF.
    name      of the container, where the engine names them.
    gpus      all GPUs that this process may use.
    elsewhere the command is for another machine: no daemon of this one is asked, and nothing of this one is
              in it. What only that machine can tell is for whoever runs it (see slurm/templates).
    temporary whoever runs the command adds a mount at /tmp.
    stdin     the caller's standard input goes inside; terminal: it is a terminal, and so it is inside.
    plain     user, HOME, /dev/shm and first process are the image's and the engine's own, as for one who
              knows nothing of this kit. entrypoint: the image's own is kept too. Docker and podman alone.
    port      with `plain`: the network is the container's own, and loopback reaches this port of it by one
              that the engine chooses: `port_argv` asks for it. None: the host's network.
    The network and /dev/shm are the host's; HOME is /tmp unless `env` says otherwise. Files written to a bind
    belong to the caller. No container is left behind; TERM to the client ends the process inside. A SIF is
    read-only but for binds and a small /tmp: bind a folder to /tmp for more.
    """

    image: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    env_file: Path | None = None
    binds: tuple[Bind, ...] = ()
    workdir: str | None = None
    name: str | None = None
    gpus: bool = False
    elsewhere: bool = False
    temporary: bool = False
    stdin: bool = False
    terminal: bool = False
    plain: bool = False
    entrypoint: bool = False
    port: int | None = None


class Engine(Protocol):
    """Takes images of the store, and runs them where `runs` says so.

    formats  of the images that it takes. The store makes OCI images without any engine.
    """

    name: str
    formats: tuple[Format, ...]
    runs: bool

    def check(self) -> str:
        """Its version, if it works here. MissingToolError or HostError with a hint if not."""

    def load(self, image: Image, reference: str) -> None:
        """Makes the store's image known under `reference`. Idempotent, and fast when it is known."""

    def has(self, reference: str) -> str | None:
        """The engine's own id of the image, None if it has no such image."""

    def env_text(self, values: Mapping[str, str]) -> str:
        """What an env_file for this engine holds; each engine has its own syntax. Pure."""

    def run_argv(self, run: ContainerRun) -> list[str]:
        """The command that does it. Pure apart from what was found out about this host."""

    def port_argv(self, name: str, port: int) -> list[str]:
        """The command that prints where loopback reaches a port of the container of that name. Pure."""

    def pull_argv(self, reference: str, platform: Platform, *, insecure: bool = False) -> list[str]:
        """The command by which the engine pulls an image for itself, and prints its id or its name; insecure:
        without TLS. Pure.

        docker's daemon decides that by itself, and takes loopback for insecure.
        """

    def inspect_argv(self, reference: str) -> list[str]:
        """The command that prints an image's config (variables, labels, entrypoint) as JSON. Pure."""

    def remove_image_argv(self, reference: str) -> list[str]:
        """The command by which the engine forgets an image that no container uses. Pure."""

    def remove_argv(self, names: Sequence[str], *, elsewhere: bool = False) -> list[str]:
        """The command that ends and removes the containers of these names, if they are there. Pure.

        For a client that was ended before its container ran: it leaves what it made so far. Empty where an
        engine keeps no containers.
        """


FIRST = ("podman", "docker", "apptainer", "buildah")
"""The order in which `detect` tries; engines not named here come after."""


def names() -> tuple[str, ...]:
    """The engines that there are, in the order in which they are tried."""
    folder = Path(__file__).parent / "engines"
    there = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))
    return tuple(sorted(there, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)))


def get(name: str, export: Export | None = None) -> Engine:
    """The engine of that name, whether or not it works here (`check` says so)."""
    if name not in names():
        raise unknown("engine", name, names())
    made: Engine = importlib.import_module(f"containers.engines.{name}").ENGINE(export)
    return made


def detect(format: Format | None = None, *, to_run: bool = False, export: Export | None = None) -> Engine:
    """The first engine that works here and takes `format`; with `to_run`, one that runs it as well.

    If none does, one MissingToolError that lists each reason.
    """
    failures: list[tuple[str, SlipworksError]] = []
    for name in names():
        engine = get(name, export)
        if (format and format not in engine.formats) or (to_run and not engine.runs):
            continue
        try:
            engine.check()
        except SlipworksError as reason:
            failures.append((name, reason))
            if not isinstance(
                reason, MissingToolError
            ):  # it is here, so someone may wonder why it is not taken
                say.once(f"note: {name} is passed over: {reason.message}")
            continue
        return engine
    if not failures:
        raise UnsupportedError(f"no engine takes the format {format!r}")
    wanted = f"no engine for {format} images" if format else "no container engine"
    raise MissingToolError(
        f"{wanted} works here: " + "; ".join(f"{name}: {reason.message}" for name, reason in failures),
        next((reason.hint for _, reason in failures if reason.hint), None),
    )


def home(env: Mapping[str, str]) -> dict[str, str]:
    """With HOME, which would differ between engines: /tmp unless the caller chose one."""
    return {"HOME": "/tmp", **env}


def refuse_newlines(values: Mapping[str, str]) -> None:
    """Docker's and podman's env files are lines: a value with a line break would become two variables."""
    for name, value in values.items():
        if "\n" in value or "\0" in value:
            raise InvalidFileError(f"the variable {name} holds a line break, which an env file cannot carry")
