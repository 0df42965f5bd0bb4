"""Sandboxes by Apptainer, for any user but root: a SIF with the agent's layer mounted, nothing baked.

Each is a plain `apptainer exec` in a session of its own, which outlives the server: apptainer_found.py says
why it is no instance, and how it is found again; apptainer_words.py what it may do. Inside it is root; of
the image's own user apptainer could only say the name. What it writes lies in its own folder.

No control groups are asked for, which an ordinary user seldom may use: processes are limited by the kernel
in the user namespace of each sandbox; memory and disk are watched.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from containers import complaints, host
from containers.engines.apptainer import Apptainer
from kit import process, say
from kit.errors import HostError, NotFoundError, VerifyError
from runner.sandboxes import apptainer_folder, apptainer_found, apptainer_words, processes
from runner.sandboxes.apptainer_found import Found
from runner.sandboxes.apptainer_inside import Namespace
from runner.sandboxes.apptainer_words import LOG, Where
from runner.sandboxes.backend import State
from runner.sandboxes.nouns import Limits, Start, Use
from runner.sandboxes.settings import Settings
from runner.sandboxes.warden import Warden, use_of

BEGUN = 120.0  # seconds for a container to be there: file systems of many that start at once take their time
POLL = 0.03
KILLED = 10.0  # seconds for what was killed to be gone
NO_FOLDER = re.compile(r"failed to set working directory", re.IGNORECASE)
NO_FILTER = re.compile(r"seccomp", re.IGNORECASE)


class _Known(Struct, kw_only=True):
    """A sandbox that this process started or adopted."""

    folder: Path
    starter: int
    child: process.Child[bytes] | None = None
    namespace: Namespace | None = None


class ApptainerSandboxes:
    """The backend. Any thread may call it."""

    name = "apptainer"

    def __init__(self, _: Settings) -> None:
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._warden = Warden(self._kill)
        self._filter = True

    @property
    def pauses(self) -> str | None:
        return None

    def check(self) -> str:
        version = Apptainer().able()
        if os.geteuid() == 0:
            raise HostError(
                "apptainer's sandboxes are for an ordinary user: root of one would be root of this machine",
                "runner sandbox serve --engine podman",
            )
        process.find("nsenter", host.install_hint("util-linux"))
        return version

    def enforced(self) -> dict[str, str]:
        return {"cpus": "affinity, watched", "memory": "watched", "pids": "rlimit, watched",
                "disk": "watched", "network": "the host's"}  # fmt: skip

    def start(self, start: Start) -> str:
        log = Path(start.folder, LOG)
        apptainer_folder.prepare(start)
        where = Where(filter=self._filter)
        try:
            while True:
                log.write_bytes(b"")
                child = self._begin(start, where)
                if found := self._up(start.id, start.limits, child):
                    break
                told = log.read_text(errors="replace")
                changed = _other(where, told)
                if changed is None:
                    raise _failure(start, told, child.returncode)
                where = changed
                self._end(start.id, 0.0)
            self._filter = self._filter and where.filter
            self._take(start.id, found, start.limits)
        except BaseException:
            self.stop(start.id, 0.0)
            raise
        finally:
            Path(start.folder, apptainer_words.ENV).unlink(missing_ok=True)  # apptainer has read it
        return start.url

    def adopt(self, id: str, limits: Limits, folder: str) -> None:
        found = apptainer_found.every().get(id)
        if not found or not found.first:  # it ended already: `states` tells it
            return
        with self._lock:
            self._known[id] = _Known(folder=Path(folder), starter=found.starter)
        self._take(id, found, limits)

    def states(self, state: str) -> dict[str, State]:
        for one in list(self._known.values()):
            if one.child:
                one.child.poll()  # else it stays in the kernel's table
        return {id: _state(found) for id, found in apptainer_found.every().items() if found.state == state}

    def pause(self, id: str) -> None:
        first = self._first(id)
        processes.freeze(processes.namespace(first))
        if not processes.frozen(first):
            raise HostError(f"could not pause the sandbox {id}: its first process goes on")

    def resume(self, id: str) -> None:
        processes.thaw(processes.namespace(self._first(id)))

    def stop(self, id: str, grace: float = 10.0) -> None:
        self._warden.forget(id)
        found = apptainer_found.every().get(id)
        known = self._known.get(id) or _unknown(found)
        self._end(id, grace, found)
        if known:
            apptainer_folder.remove(known.folder, known.namespace)
        if known and known.namespace:
            known.namespace.close()
        with self._lock:
            self._known.pop(id, None)

    def logs(self, id: str, lines: int = 100) -> str:
        known = self._known.get(id)
        folder = known.folder if known else None
        if not folder and (found := apptainer_found.every().get(id)):
            folder = apptainer_found.folder(found.starter)
        if not folder or lines <= 0:
            return ""
        return "".join(apptainer_folder.said(folder).splitlines(keepends=True)[-lines:])

    def why(self, id: str) -> str:
        if ours := self._warden.why(id):
            return ours
        known = self._known.get(id)
        code = known.child.poll() if known and known.child else None
        if code is None:
            return ""
        return f"exit code {code}" if code >= 0 else f"ended by signal {-code}"

    def exec_argv(self, id: str, argv: Sequence[str], *, terminal: bool = False) -> list[str]:
        first = self._first(id)
        return Namespace.command(first, apptainer_found.inner(first), argv, os.environ.get("TERM", ""))

    def use(self, id: str) -> Use:
        if self._warden.root(id) != (0, ""):
            return self._warden.use(id)
        found = apptainer_found.every().get(id)
        return use_of(processes.namespace(found.first)) if found and found.first else Use()

    # Steps

    def _begin(self, start: Start, where: Where) -> process.Child[bytes]:
        argv = apptainer_words.argv(start, where)
        env = apptainer_words.own_environment(start, dict(os.environ))
        with _on(start.limits.cpus):
            child = process.start(argv, what=f"start {start.image.reference}", log=Path(start.folder, LOG),
                                  env=env, cwd=start.folder)  # fmt: skip
        with self._lock:
            self._known[start.id] = _Known(folder=Path(start.folder), starter=child.pid, child=child)
        return child

    def _up(self, id: str, limits: Limits, child: process.Child[bytes]) -> Found | None:
        """Once its command runs; None where it ended before. What is inside is limited before that, for the
        first process is there a while before it begins the command, which takes its limits from it."""
        end = time.monotonic() + BEGUN
        limited = False
        while child.poll() is None:
            starter, first = apptainer_found.begins(child.pid)
            if first and not limited:
                limited = _limit(starter, first, limits)
            if first and apptainer_found.begun(first) and (found := apptainer_found.every().get(id)):
                return found
            if time.monotonic() > end:
                raise VerifyError(f"apptainer had not started the sandbox {id} after {BEGUN:g} s")
            time.sleep(POLL)  # no event tells of a grandchild
        return None

    def _take(self, id: str, found: Found, limits: Limits) -> None:
        """Watches what runs inside, and holds its user namespace."""
        known = self._known[id]
        known.namespace = Namespace(found.first)
        measure = functools.partial(known.namespace.written, known.folder, found.servers)
        self._warden.watch(id, found.first, limits, disk=measure)

    def _first(self, id: str) -> int:
        found = apptainer_found.every().get(id)
        if not found or not found.first:
            raise NotFoundError(f"the sandbox {id} does not run", "runner sandbox list")
        return found.first

    def _end(self, id: str, grace: float, found: Found | None = None) -> None:
        """TERM to the starter, which hands it on; then the first process is killed, by which the kernel ends
        all inside, and the starter takes the file systems away."""
        child = known.child if (known := self._known.get(id)) else None
        if grace > 0 and found and found.first and found.starter:
            processes.thaw(processes.namespace(found.first))  # else it would not hear of its end
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.starter, signal.SIGTERM)
            _gone(id, child, grace)
        if found := apptainer_found.every().get(id):
            processes.kill(found.first, processes.namespace(found.first))
            _gone(id, child, KILLED / 2 if found.starter else 0.0)
        if child and child.poll() is None:
            process.end_group(child)
        for pid in left.outside if (left := apptainer_found.every().get(id)) else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not _gone(id, child, KILLED):
            raise HostError(f"the sandbox {id} goes on {KILLED:g} s after it was killed", "ps -ef")

    def _kill(self, id: str) -> None:
        self._end(id, 0.0)


def _other(where: Where, told: str) -> Where | None:
    """What to ask for instead, where apptainer refused for a reason that can be lived with."""
    if not where.folder and NO_FOLDER.search(told):
        return Where(filter=where.filter, folder=True)
    if where.filter and NO_FILTER.search(told):
        say.once(
            "note: apptainer filters no system calls here: a sandbox can have memory that is not counted"
        )
        return Where(filter=False, folder=where.folder)
    return None


def _failure(start: Start, told: str, code: int) -> Exception:
    return complaints.explain(
        f"start {start.image.reference}", told, start.image.reference, error=VerifyError, code=code
    )


def _limit(starter: int, first: int, limits: Limits) -> bool:
    """By the kernel, which counts processes in each user namespace: the starter is in it, and is not limited
    by it. Were it limited from its start, all that the user runs would count."""
    wanted = ((resource.RLIMIT_NPROC, limits.pids + apptainer_found.threads(starter)),
              (resource.RLIMIT_FSIZE, limits.disk), (resource.RLIMIT_CORE, 0))  # fmt: skip
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it ended, which its log explains
        for kind, most in wanted:
            hard = resource.prlimit(first, kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(first, kind, (most, most))
        Path(f"/proc/{first}/oom_score_adj").write_text("500")  # before the server, and what else is here
    return True


@contextlib.contextmanager
def _on(cpus: Sequence[int]) -> Iterator[None]:
    """What this thread starts meanwhile keeps to these processors."""
    before = os.sched_getaffinity(0)
    wanted = set(cpus) & before
    try:
        if wanted:
            os.sched_setaffinity(0, wanted)
        yield
    finally:
        os.sched_setaffinity(0, before)


def _state(found: Found) -> State:
    if not found.first:
        return "running" if found.starter else "ended"
    return "paused" if processes.frozen(found.first) else "running"


def _gone(id: str, child: process.Child[bytes] | None, within: float) -> bool:
    end = time.monotonic() + within
    while (child and child.poll() is None) or id in apptainer_found.every():
        if time.monotonic() > end:
            return False
        time.sleep(POLL)
    return True


def _unknown(found: Found | None) -> _Known | None:
    """What can be told of one that another process started."""
    folder = apptainer_found.folder(found.starter) if found and found.starter else None
    if not found or not folder:
        return None
    return _Known(
        folder=folder, starter=found.starter, namespace=Namespace(found.first) if found.first else None
    )


BACKEND = ApptainerSandboxes
