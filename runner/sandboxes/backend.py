"""What an engine must do for sandboxes; each is one file in backends/, where `BACKEND(settings)` makes it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Literal, Protocol

from kit import say
from kit.errors import MissingToolError, SlipworksError
from kit.suggest import unknown
from runner.sandboxes.nouns import Limits, Start, Use
from runner.sandboxes.settings import Settings

FIRST = ("podman", "apptainer", "docker")
"""The backends, in the order in which `chosen` tries them."""

State = Literal["running", "paused", "ended"]


class Backend(Protocol):
    """Starts, finds and ends containers. Every call blocks, and may come from several threads at once.

    pauses  why it cannot pause here; None: it can.
    """

    name: str

    @property
    def pauses(self) -> str | None: ...

    def check(self) -> str:
        """Its version if it can run sandboxes here; MissingToolError or HostError with a hint if not."""

    def enforced(self) -> dict[str, str]:
        """cpus, memory, pids, disk, network -> how the limit is held here, in a word or two ("cgroup",
        "watched", "affinity", "own", "the host's"): `/health` and `serve` tell it."""

    def start(self, start: Start) -> str:
        """Starts the container and returns the URL of its server (`Start.url`: clients have it already),
        which may not listen yet. On failure nothing of it is left, and a SlipworksError has its log's end."""

    def adopt(self, id: str, limits: Limits, folder: str) -> None:
        """Takes over a running container of a server before this one: it is watched again."""

    def states(self, state: str) -> dict[str, State]:
        """id -> state of every container of this state folder's (`Start.state`), also of a server before
        this one. One call however many there are."""

    def pause(self, id: str) -> None: ...

    def resume(self, id: str) -> None: ...

    def stop(self, id: str, grace: float = 10.0) -> None:
        """TERM, KILL after `grace` seconds; then nothing of it is left: no container, mount, port, process
        or file but what is in Start.folder. Idempotent; one that is not there is no error."""

    def logs(self, id: str, lines: int = 100) -> str:
        """The end of what it wrote."""

    def why(self, id: str) -> str:
        """How one that ended did, in one line: "it had more than its 512 processes", "exit code 1". Empty
        where that is not known. To be asked before `stop`."""

    def exec_argv(self, id: str, argv: Sequence[str], *, terminal: bool = False) -> list[str]:
        """The command that runs one in the container, as its user and in its environment."""

    def use(self, id: str) -> Use: ...


def get(name: str, settings: Settings) -> Backend:
    """The backend of that name, whether or not it works here (`check` says so)."""
    if name not in FIRST:
        raise unknown("engine", name, FIRST)
    made: Backend = importlib.import_module(f"runner.sandboxes.backends.{name}").BACKEND(settings)
    return made


def chosen(settings: Settings) -> Backend:
    """The engine that the settings name, or else the first that works here; it was checked. If none does,
    one MissingToolError that lists each reason."""
    if settings.engine:
        named = get(settings.engine, settings)
        named.check()
        return named
    failures: list[tuple[str, SlipworksError]] = []
    for name in FIRST:
        backend = get(name, settings)
        try:
            backend.check()
        except SlipworksError as reason:
            failures.append((name, reason))
            if not isinstance(reason, MissingToolError):  # it is here: someone may wonder
                say.once(f"note: {name} is passed over: {reason.message}")
            continue
        return backend
    raise MissingToolError(
        "no engine can run sandboxes here: "
        + "; ".join(f"{name}: {each.message}" for name, each in failures),
        next((each.hint for _, each in failures if each.hint), None),
    )
