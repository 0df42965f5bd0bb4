"""How an agent-server is started in an image: from the words of a client, and what the image says. Pure.

An image is one of three:

    baked    by this kit: `start` of its layer is the entrypoint, and knows the server under all of its names.
    serving  others put an agent-server into it (OpenHands' own images): its entrypoint or its command starts
             it. That start stays; of the client's words what comes behind the executable is kept.
    bare     any other. Its entrypoint is cleared, the layer is mounted, and the layer's start is the command.

Clients name the executable in several ways, and send the same words whatever the image: a name of theirs
becomes that of the image. Words that start something else are run as they are.

The one rule of `run_as_user`: what the client sends counts for nothing, and a sandbox runs as its image's own
user, who is root of the container where the image names none. Every client sends 10001, whatever the image:
OpenHands' own images name that user themselves, R2E's have none of that number and need root's home, and an
engine without root may lack the number altogether. So the value never makes anything fail. Under Apptainer it
is root always: of the image's own user that could only say the name.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from image_cache.bake import KEY
from kit.errors import InvalidFileError

Kind = Literal["baked", "serving", "bare"]
NAMES = ("openhands-agent-server", "agent-server")
"""Of the executable, in whatever folder."""
MODULE = "openhands.agent_server"
OLDER = ("openhands.runtime.action_execution_server", "openhands.runtime.client.client")
"""What the older client starts, in images of its own: the agent-server stands in for it."""
INIT = ("tini", "dumb-init", "catatonit")
OURS = ("--host", "--port")
"""Options that the server is always given by us, whatever the client says."""


class Said(Struct, frozen=True, kw_only=True):
    """What an image's config says. user, workdir: None where it names none."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str | None = None
    workdir: str | None = None
    labels: dict[str, str] = {}


class Begin(Struct, frozen=True, kw_only=True):
    """How the server is started. entrypoint: what of the image's is kept; mounted: the layer is needed."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    mounted: bool = False

    @property
    def whole(self) -> tuple[str, ...]:
        """For an engine that knows no entrypoint."""
        return (*self.entrypoint, *self.command)


def words(command: str | Sequence[str] | None) -> tuple[str, ...]:
    """Of a command as one line, as sh reads it, or as the list that it is. InvalidFileError where a quote is
    open; what was found is not told, for it may hold a secret."""
    if not isinstance(command, str):
        return tuple(command or ())
    try:
        return tuple(shlex.split(command))
    except ValueError as bad:
        raise InvalidFileError(f"command: it is no line of words: {bad}") from bad


def said(config: Mapping[str, Any]) -> Said:
    """Of a config as engines and registries tell it (the inner one)."""

    def listed(name: str) -> tuple[str, ...]:
        found = config.get(name) or ()
        return (found,) if isinstance(found, str) else tuple(found)  # an old builder's

    labels = {str(name): str(value) for name, value in (config.get("Labels") or {}).items()}
    return Said(
        entrypoint=listed("Entrypoint"), cmd=listed("Cmd"), user=config.get("User") or None,
        workdir=config.get("WorkingDir") or None, labels=labels,
    )  # fmt: skip


def kind(image: Said) -> Kind:
    if KEY in image.labels:
        return "baked"
    serving = any(_behind(each) is not None for each in (image.entrypoint, image.cmd))
    return "serving" if serving else "bare"


def begun(image: Said, command: Sequence[str], start: tuple[str, ...]) -> Begin:
    """How a server is started in the image for a client's words; none: as it is by itself.

    start: the entrypoint that a bake sets.
    """
    found = kind(image)
    options = _options(command)
    if options is None:  # something else, which its client knows
        return Begin(command=tuple(command), mounted=found == "bare")
    if found == "serving":
        if _behind(image.entrypoint) is not None:
            return Begin(entrypoint=image.entrypoint, command=options)
        return Begin(entrypoint=image.entrypoint, command=(*image.cmd, *options))
    if image.entrypoint == start and found == "baked":
        return Begin(entrypoint=start, command=options)
    # What was built upon a baked one has the layer, and may have another entrypoint.
    return Begin(command=(*start, *options), mounted=found == "bare")


def _options(command: Sequence[str]) -> tuple[str, ...] | None:
    """What a client says to the server, but for what we say; None where its words start something else."""
    if any(each in command for each in OLDER):
        return ()
    given = tuple(command)
    found = given if not given or given[0].startswith("-") else _behind(given)
    return None if found is None else _without_ours(found)


def _behind(command: Sequence[str]) -> tuple[str, ...] | None:
    """The words behind an agent-server's executable; None where it is another's."""
    given = tuple(command)
    if given and _name(given[0]) in INIT:
        given = given[given.index("--") + 1 :] if "--" in given else given[1:]
    if given and _name(given[0]) in NAMES:
        return given[1:]
    pairs = enumerate(itertools.pairwise(given))
    at = next((at for at, pair in pairs if pair == ("-m", MODULE)), None)
    return None if at is None else given[at + 2 :]


def _without_ours(options: Sequence[str]) -> tuple[str, ...]:
    kept: list[str] = []
    rest = iter(options)
    for each in rest:
        if each in OURS:
            next(rest, None)
        elif not each.startswith(tuple(f"{name}=" for name in OURS)):
            kept.append(each)
    return tuple(kept)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
