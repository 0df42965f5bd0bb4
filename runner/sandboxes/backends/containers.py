"""What podman and docker do for sandboxes in the same words; podman.py and docker.py say where they differ.

Found out by the first containers, and kept once one has begun: whether the engine can give a network of its
own here, and which limits its control groups really hold. What they do not is watched by a warden of ours.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from containers import complaints
from kit import process, say
from kit.errors import HostError, NotFoundError, SlipworksError, UnsupportedError
from runner.sandboxes import held_limits, processes
from runner.sandboxes.backend import State
from runner.sandboxes.backends import container_words, refusals
from runner.sandboxes.backends.container_words import Where
from runner.sandboxes.nouns import LABEL, Limits, Start, Use
from runner.sandboxes.settings import Settings
from runner.sandboxes.warden import Measure, Warden, use_of
from runner.sandboxes.written import written

ASKED = 60.0  # seconds for a question
BEGUN = 600.0  # and for a start: storage without overlay copies the image


class Containers:
    """A backend but for the words of one engine. Any thread may call it."""

    name: str

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._own = settings.network == "own"
        self._settling = threading.Lock()
        self._groups = True  # whether control groups are asked for limits
        self._proved: set[str] = set()  # "own", "groups": that a container of ours had it here
        self._held: frozenset[str] | None = None
        self._warden = Warden(self._kill)

    # What engines differ in

    def program(self) -> list[str]:
        raise NotImplementedError

    def check(self) -> str:
        raise NotImplementedError

    def controllers(self) -> frozenset[str]:
        """Of "cpus", "memory", "pids", "freezer": what the engine says its control groups can do."""
        raise NotImplementedError

    def listed(self, words: Sequence[str]) -> Iterable[tuple[str, str, int]]:
        """What `ps` tells by these words: name, state, and first process (0: not known) of each container."""
        raise NotImplementedError

    def own_words(self, start: Start, limits: Sequence[str]) -> list[str]:
        """Words of `run` that are only this engine's."""
        raise NotImplementedError

    def env_text(self, values: dict[str, str]) -> str:
        raise NotImplementedError

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command with the right to read what sandboxes wrote."""
        return list(argv)

    def measure(self, told: dict[str, Any], pid: int) -> Measure:
        """What tells how much a sandbox has written, by what `inspect` told of it."""
        return written(told, pid, self.inside)

    def remove_words(self, grace: float) -> list[list[str]]:
        """The commands that end a container in order and remove it, but for its name."""
        raise NotImplementedError

    def ask(self, words: Sequence[str], what: str) -> str:
        """What the engine answers. NotFoundError for a container that is not there."""
        done = process.run([*self.program(), *words], what=what, check=False, timeout=ASKED)
        told = done.out + done.err
        if done.code and refusals.GONE.search(told):
            raise NotFoundError(f"could not {what}: there is no such container")
        if done.code:
            raise complaints.explain(what, told, None, error=HostError)
        return done.out

    # Backend

    @property
    def pauses(self) -> str | None:
        return None

    def enforced(self) -> dict[str, str]:
        held = self._held if self._held is not None else self.controllers() & held_limits.NAMES
        holds = {name: "cgroup" if name in held else "watched" for name in ("cpus", "memory", "pids")}
        holds["cpus"] = "cgroup" if "cpus" in held else "affinity, watched"
        return {**holds, "disk": "watched", "network": "own" if self._own else "the host's"}

    def start(self, start: Start) -> str:
        folder = Path(start.folder).absolute()
        env_file = folder / "env"
        argv_env, text = container_words.environment(start, self.env_text)
        env_file.touch(mode=0o600)
        env_file.write_text(text)
        try:
            told = self._begin(start, [*argv_env, f"--env-file={env_file}"])
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
        pid = int((told.get("State") or {}).get("Pid") or 0)
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
        if "freezer" not in self.controllers():
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
            state = self._inspected(id).get("State") or {}
        except SlipworksError:
            return ""
        if state.get("Running"):
            return ""
        code = state.get("ExitCode")
        if state.get("OOMKilled") and code == 137:
            return f"it had more memory than it may: the kernel ended it (exit code {code})"
        told = str(state.get("Error") or "").strip()
        return f"exit code {code}{f': {told}' if told else ''}"

    def exec_argv(self, id: str, argv: Sequence[str], *, terminal: bool = False) -> list[str]:
        words = ["--interactive", *(["--tty"] if terminal else [])]
        return [*self.program(), "exec", *words, _name(id), *argv]

    def use(self, id: str) -> Use:
        if self._warden.root(id) == (0, ""):  # another process's: `runner sandbox list` asks, too
            pid = int((self._inspected(id).get("State") or {}).get("Pid") or 0)
            return use_of(processes.namespace(pid)) if pid else Use()
        return self._warden.use(id)

    # Steps

    def _begin(self, start: Start, env: list[str]) -> dict[str, Any]:
        """Runs it, and gives what `inspect` tells. What this host cannot give is found out by the first, and
        then no longer asked for."""
        where = Where(own=self._own, groups=self._groups)
        while True:
            limits = held_limits.NAMES & self.controllers() if where.groups else frozenset()
            words = container_words.run(start, where, limits)
            image = container_words.image(start, where)
            argv = [*self.program(), *words, *self.own_words(start, sorted(limits)), *env, *image]
            # A container's monitor leaves a file `oom` where it was started, once the kernel has ended one.
            done = process.run(argv, what=f"start {start.image.reference}", check=False, timeout=BEGUN,
                               cwd=Path(start.folder))  # fmt: skip
            told = done.out + done.err
            if done.code == 0:
                found = self._inspected(start.id)
                if where.own and not _reached(found):  # docker without a bridge
                    told = "setting up network: its port is published nowhere"
                elif self._settled(where, found):
                    return found
                else:  # it lacks what another got meanwhile: the error was one of a moment
                    self._remove(start.name, 0.0)
                    where = Where(own=self._own, groups=self._groups, folder=where.folder)
                    continue
            log = self.logs(start.id, process.TAIL)
            self._remove(start.name, 0.0)
            changed = self._other(where, start, told)
            if changed is None:
                raise refusals.failure(start, told, log, done.code)
            where = changed

    def _settled(self, where: Where, told: dict[str, Any]) -> bool:
        """Keeps what a container began with: what one had, this host gives, and all later ones have it, too.
        False of one that has less than that."""
        had = {"own"} if where.own and _published(told) else set()
        had |= {"groups"} if where.groups else set()
        with self._settling:
            if ("own" in self._proved and not where.own) or ("groups" in self._proved and not where.groups):
                return False
            self._proved |= had
            self._own = "own" in self._proved or (self._own and where.own)
            self._groups = "groups" in self._proved or (self._groups and where.groups)
            return True

    def _other(self, where: Where, start: Start, told: str) -> Where | None:
        """What to ask for instead, where the engine refused for a reason that can be lived with: while no
        container of ours had it yet. Later it is an error of the moment."""
        if (
            where.own
            and "own" not in self._proved
            and refusals.NO_NETWORK.search(told)
            and not refusals.TAKEN.search(told)
        ):
            say.once(f"note: {self.name} gives no network of its own here, sandboxes share the host's: "
                     f"{refusals.line(told)}")  # fmt: skip
            return Where(own=False, groups=where.groups, folder=where.folder)
        no_groups = where.groups and "groups" not in self._proved and refusals.NO_GROUPS.search(told)
        if no_groups and self.controllers():
            say.once(
                f"note: {self.name} has no control groups here, limits are watched: {refusals.line(told)}"
            )
            return Where(own=where.own, groups=False, folder=where.folder)
        if start.workdir and not where.folder and refusals.NO_FOLDER.search(told):
            return Where(own=where.own, groups=where.groups, folder=True)
        return None

    def _root(self, id: str) -> tuple[int, str]:
        pid, namespace = self._warden.root(id)
        if not namespace:
            pid = int((self._inspected(id).get("State") or {}).get("Pid") or 0)
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


def _reached(told: dict[str, Any]) -> bool:
    """Whether a port of the container is one of the host's; true of one that has ended already."""
    return _published(told) or not (told.get("State") or {}).get("Pid")


def _published(told: dict[str, Any]) -> bool:
    return any(((told.get("NetworkSettings") or {}).get("Ports") or {}).values())


def _name(id: str) -> str:
    return f"slipworks-{id}"
