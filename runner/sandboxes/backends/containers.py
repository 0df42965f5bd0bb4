"""What podman and docker do for sandboxes in the same words; podman.py and docker.py say where they differ.

What the engine cannot give here is found out by the first containers (granted.py), as is which limits its
control groups really hold. What they do not is watched by a warden of ours.
"""

from __future__ import annotations

import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from containers import complaints
from containers.engine import Engine
from kit import process
from kit.errors import HostError, NotFoundError, SlipworksError, UnsupportedError
from runner.sandboxes import held_limits, processes
from runner.sandboxes.backend import State
from runner.sandboxes.backends import container_words, inspected, refusals
from runner.sandboxes.backends.granted import Granted
from runner.sandboxes.nouns import LABEL, Limits, Start, Use
from runner.sandboxes.settings import Settings
from runner.sandboxes.warden import Measure, Warden, use_of
from runner.sandboxes.written import written

ASKED = 60.0  # seconds for a question
BEGUN = 600.0  # and for a start: storage without overlay copies the image


class Containers(ABC):
    """A backend but for the words of one engine. Any thread may call it.

    info  the form in which the engine's `info` is asked for, as JSON.
    """

    name: str
    info: str

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._granted = Granted(self.name, own=settings.network == "own")
        self._held: frozenset[str] | None = None
        self._warden = Warden(self._kill)

    # What engines differ in

    @abstractmethod
    def program(self) -> list[str]:
        """The first words of each command."""

    @abstractmethod
    def able(self, info: dict[str, Any]) -> frozenset[str]:
        """Of "cpus", "memory", "pids", "freezer": what by its `info` the engine's control groups can do."""

    @abstractmethod
    def listed(self, words: Sequence[str]) -> Iterable[tuple[str, str, int]]:
        """What `ps` tells by these words: name, state, and first process (0: not known) of each container."""

    @abstractmethod
    def own_words(self, start: Start, limits: Sequence[str]) -> list[str]:
        """Words of `run` that are only this engine's."""

    @abstractmethod
    def remove_words(self, grace: float) -> list[list[str]]:
        """The commands that end a container in order and remove it, but for its name."""

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command with the right to read what sandboxes wrote."""
        return list(argv)

    def measure(self, told: dict[str, Any], pid: int) -> Measure:
        """What tells how much a sandbox has written, by what `inspect` told of it."""
        return written(told, pid, self.inside)

    def ask(self, words: Sequence[str], what: str) -> str:
        """What the engine answers. NotFoundError for a container that is not there."""
        done = process.run([*self.program(), *words], what=what, check=False, timeout=ASKED)
        told = done.out + done.err
        if done.code and refusals.GONE.search(told):
            raise NotFoundError(f"could not {what}: there is no such container")
        if done.code:
            raise complaints.explain(what, told, None, error=HostError)
        return done.out

    @functools.cached_property
    def controllers(self) -> frozenset[str]:
        """What is `able` here; asked once."""
        told = self.ask(["info", f"--format={self.info}"], f"ask {self.name} what it can")
        return self.able(json.loads(told))

    # Backend

    def check(self) -> str:
        return self._engine.check()

    @property
    def pauses(self) -> str | None:
        return None

    def enforced(self) -> dict[str, str]:
        held = self._held if self._held is not None else self.controllers & held_limits.NAMES
        holds = {name: "cgroup" if name in held else "watched" for name in ("cpus", "memory", "pids")}
        holds["cpus"] = "cgroup" if "cpus" in held else "affinity, watched"
        return {**holds, "disk": "watched", "network": "own" if self._granted.own else "the host's"}

    def start(self, start: Start) -> str:
        folder = Path(start.folder).absolute()
        env_file = folder / "env"
        text = container_words.environment(start, self._engine.env_text)
        env_file.touch(mode=0o600)
        env_file.write_text(text)
        try:
            told = self._begin(start, env_file)
            self._watch(start.id, start.limits, told)
        except BaseException:
            self._remove(start.name, 0.0)
            raise
        finally:
            env_file.unlink(missing_ok=True)  # the engine has read it
        return start.url

    def adopt(self, id: str, limits: Limits, folder: str) -> None:
        self._watch(id, limits, self._inspected(id))

    def _watch(self, id: str, limits: Limits, told: dict[str, Any]) -> None:
        pid = inspected.pid(told)
        if not pid:  # it ended already: `states` tells it
            return
        held = held_limits.held(pid, limits)
        self._held = held if self._held is None else self._held & held
        self._warden.watch(id, pid, limits, held, self.measure(told, pid))

    def states(self, state: str) -> dict[str, State]:
        words = ["ps", "--all", "--no-trunc", f"--filter=label={LABEL}={state}"]
        found: dict[str, State] = {}
        for name, told, pid in self.listed(words):
            if name.startswith("slipworks-"):
                found[name.removeprefix("slipworks-")] = _state(told.lower(), pid)
        return found

    def pause(self, id: str) -> None:
        """By the freezer of its control group; where it has none, each of its processes is stopped."""
        pid, namespace = self._root(id)
        if self._by_freezer("pause", id):
            return
        try:
            processes.freeze(namespace)
        except PermissionError as refused:
            raise UnsupportedError(
                f"could not pause the sandbox {id}: its processes may not be signalled by this user"
            ) from refused
        if not processes.frozen(pid):
            raise HostError(f"could not pause the sandbox {id}: its first process goes on")

    def resume(self, id: str) -> None:
        pid, namespace = self._root(id)
        if processes.frozen(pid):
            processes.thaw(namespace)
        elif not self._by_freezer("unpause", id):
            raise HostError(f"could not resume the sandbox {id}: it is not paused")

    def _by_freezer(self, verb: str, id: str) -> bool:
        if "freezer" not in self.controllers:
            return False
        argv = [*self.program(), verb, _name(id)]
        return process.run(argv, what=f"{verb} {id}", check=False, timeout=ASKED).code == 0

    def stop(self, id: str, grace: float = 10.0) -> None:
        pid, namespace = self._warden.root(id)
        if pid and processes.frozen(pid):  # else it would not hear of its end
            processes.thaw(namespace)
        self._warden.forget(id)
        self._remove(_name(id), grace)

    def logs(self, id: str, lines: int = 100) -> str:
        done = process.run(
            [*self.program(), "logs", f"--tail={lines}", _name(id)],
            what=f"read the log of {id}", check=False, timeout=ASKED,
        )  # fmt: skip
        return done.out + done.err if done.code == 0 else ""

    def why(self, id: str) -> str:
        if ours := self._warden.why(id):
            return ours
        try:
            return inspected.why(self._inspected(id))
        except SlipworksError:
            return ""

    def exec_argv(self, id: str, argv: Sequence[str], *, terminal: bool = False) -> list[str]:
        words = ["--interactive", *(["--tty"] if terminal else [])]
        return [*self.program(), "exec", *words, _name(id), *argv]

    def use(self, id: str) -> Use:
        if self._warden.root(id) == (0, ""):  # another process's: `runner sandbox list` asks, too
            pid = inspected.pid(self._inspected(id))
            return use_of(processes.namespace(pid)) if pid else Use()
        return self._warden.use(id)

    # Steps

    def _begin(self, start: Start, env_file: Path) -> dict[str, Any]:
        """Runs it, and gives what `inspect` tells."""
        where = self._granted.asked()
        while True:
            limits = held_limits.NAMES & self.controllers if where.groups else frozenset()
            words = container_words.run(start, where, limits)
            image = container_words.image(start, where)
            own = self.own_words(start, sorted(limits))
            argv = [*self.program(), *words, *own, f"--env-file={env_file}", *image]
            # A container's monitor leaves a file `oom` where it was started, once the kernel has ended one.
            done = process.run(argv, what=f"start {start.image.reference}", check=False, timeout=BEGUN,
                               cwd=Path(start.folder))  # fmt: skip
            told = done.out + done.err
            if done.code == 0:
                found = self._inspected(start.id)
                if where.own and not inspected.reached(found):  # docker without a bridge
                    told = "setting up network: its port is published nowhere"
                elif self._granted.settled(where, found):
                    return found
                else:  # it lacks what another got meanwhile: the error was one of a moment
                    self._remove(start.name, 0.0)
                    where = self._granted.asked(where.folder)
                    continue
            log = self.logs(start.id, process.TAIL)
            self._remove(start.name, 0.0)
            controlled = where.groups and bool(self.controllers)
            changed = self._granted.other(where, told, controlled=controlled, workdir=bool(start.workdir))
            if changed is None:
                raise refusals.failure(start, told, log, done.code)
            where = changed

    def _root(self, id: str) -> tuple[int, str]:
        pid, namespace = self._warden.root(id)
        if not namespace:
            pid = inspected.pid(self._inspected(id))
            namespace = processes.namespace(pid)
        if not namespace:
            raise NotFoundError(f"the sandbox {id} does not run")
        return pid, namespace

    def _inspected(self, id: str) -> dict[str, Any]:
        found = json.loads(self.ask(["inspect", "--type=container", _name(id)], f"look at {id}"))
        one: dict[str, Any] = found[0]
        return one

    def _kill(self, id: str) -> None:
        process.run([*self.program(), "kill", "--signal=KILL", _name(id)], what=f"end {id}", check=False,
                    timeout=ASKED)  # fmt: skip

    def _remove(self, name: str, grace: float) -> None:
        for words in self.remove_words(grace):
            done = process.run(
                [*self.program(), *words, name], what=f"end {name}", check=False, timeout=ASKED + grace
            )
        told = done.out + done.err
        if done.code and not refusals.GONE.search(told):
            raise complaints.explain(f"remove {name}", told, None, error=HostError)


def _state(told: str, pid: int) -> State:
    if told == "paused" or (told == "running" and pid and processes.frozen(pid)):
        return "paused"
    return "running" if told == "running" else "ended"


def _name(id: str) -> str:
    return f"slipworks-{id}"
