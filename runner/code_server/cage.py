"""One request's cage: started as a process of its own, it starts the judge inside and tells how that ended.

    stdin   the plan, as JSON (see grading.py)
    stdout  {"lines": [the judge's], "why": …}, whatever the program did; nothing, and an exit code, where the
            cage itself failed

By "namespaces" the tested program sees a root of its own with nothing in it but what a Python needs, all
read-only, and one small folder in memory to write to; no network, no process but its own. By "landlock" it
shares the machine's lists of processes and users, but opens, connects to and signals nothing outside. By
"limits" it is held by resource limits alone, and, where this process is root, by being another user.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from runner.code_server import kernel, room

INSIDE_ID = 1000  # user and group inside: no root, so that an exec has no capabilities
OUTSIDE_IDS = range(61200, 65200)  # where root starts it: users that nobody is, and that containers have, too
LOOK = 0.05  # seconds between two looks at memory and disk
STARTING = 20.0  # seconds for the judge to begin: an interpreter on a network file system
SLACK = 2.0  # seconds beyond the tests' own limits, which the judge keeps
FAILED = 70  # exit code of a cage that could not be made


def main() -> None:
    plan = json.load(sys.stdin)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if plan["way"] == "namespaces":
            sys.exit(_first_of_its_own(plan))
        with tempfile.TemporaryDirectory(prefix="sw-code-", ignore_cleanup_errors=True) as work:
            outcome = _judged(plan, work)
    except OSError as refused:
        print(refused, file=sys.stderr)  # noqa: T201
        sys.exit(FAILED)
    _tell(outcome)


def _tell(outcome: dict[str, Any]) -> None:
    with os.fdopen(1, "w", closefd=False) as out:
        json.dump(outcome, out)


def _first_of_its_own(plan: dict[str, Any]) -> int:
    """Makes the namespaces; their first process, a child, does the rest. Returns its exit code."""
    crowd = 0 if _counts_by_namespace() else _tasks_of(os.getuid())
    if os.geteuid() == 0:
        _be_nobody()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or the maps would belong to root
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(
        kernel.NEWUSER | kernel.NEWNS | kernel.NEWPID | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS
    )
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{INSIDE_ID} {group} 1")
    Path("/proc/self/uid_map").write_text(f"{INSIDE_ID} {user} 1")
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) & 0xFF
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        room.build(plan["see"], plan["hide"], plan["disk"])
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        _tell(_judged({**plan, "crowd": crowd}, "/tmp"))
    except OSError as refused:
        os.write(2, f"{refused}\n".encode())
        os._exit(FAILED)
    os._exit(0)


def _be_nobody() -> None:
    """Of all users one that nobody is; where a container has root alone, root it stays."""
    own = OUTSIDE_IDS[os.getpid() % len(OUTSIDE_IDS)]
    for each in (own, 65534):
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setresgid(each, each, each)
            os.setresuid(each, each, each)
            return


def _counts_by_namespace() -> bool:
    """Since Linux 5.14 the limit of processes is a user's in a namespace; before, of all that it runs."""
    major, minor = (int(each) for each in os.uname().release.split(".")[:2])
    return (major, minor) >= (5, 14)


def _tasks_of(user: int) -> int:
    """Threads of a user on this machine."""
    found = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == user:
                    found += Path(f"/proc/{entry.name}/task").stat().st_nlink - 2
    return found


def _judged(plan: dict[str, Any], work: str) -> dict[str, Any]:
    """Runs the judge to its end, or ends it and all that it started."""
    request = os.memfd_create("request")
    with os.fdopen(os.dup(request), "w") as file:
        json.dump(plan["request"], file)
    os.lseek(request, 0, 0)
    reading, writing = os.pipe()
    crowd = plan["crowd"] if plan["way"] == "namespaces" else _tasks_of(os.getuid())
    limits = _limits(plan, crowd)
    child = os.fork()
    if child == 0:
        _be_judge(plan, work, limits, (request, writing))
    os.close(writing)
    os.close(request)
    watch = _Watch(plan, child, work)
    try:
        return {"lines": watch.lines(reading), "why": watch.why}
    finally:
        watch.end()


def _limits(plan: dict[str, Any], crowd: int) -> dict[int, int]:
    return {
        resource.RLIMIT_AS: plan["memory"],
        resource.RLIMIT_CPU: int(plan["total"]) + 2,
        resource.RLIMIT_FSIZE: plan["disk"],
        resource.RLIMIT_NPROC: plan["processes"] + crowd + 3,  # this one, its parent and the judge
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_STACK: min(plan["memory"] // 4, 256 << 20),
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }


def _be_judge(plan: dict[str, Any], work: str, limits: dict[int, int], streams: tuple[int, int]) -> None:
    """The child's part: gives up all that it may, and becomes the judge."""
    try:
        os.setsid()
        os.dup2(streams[0], 0)
        os.dup2(streams[1], 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        if plan["way"] != "namespaces" and os.geteuid() == 0:
            Path(work).chmod(0o777)
            _be_nobody()
        for kind, most in limits.items():
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
        os.chdir(work)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if plan["way"] == "landlock":
            kernel.landlock(plan["see"], [work, "/dev/null"])
        for sign in (signal.SIGINT, signal.SIGPIPE):
            signal.signal(sign, signal.SIG_DFL)
        env = {**plan["env"], "HOME": work, "TMPDIR": work}
        os.closerange(3, 256)
        os.execve(plan["python"], [plan["python"], "-I", "-B", "-c", plan["judge"]], env)
    except OSError as refused:
        os.write(1, f"{json.dumps({'refused': str(refused)})}\n".encode())
    finally:
        os._exit(FAILED)


class _Watch:
    """Reads what the judge says until it has ended, or has had too much of something: `why`."""

    def __init__(self, plan: dict[str, Any], child: int, work: str) -> None:
        self.plan, self.child, self.work = plan, child, work
        self.why = "ended"
        self.alone = plan["way"] == "namespaces"
        self._until = time.monotonic() + STARTING
        self._begun = False

    def lines(self, reading: int) -> list[str]:
        said = b""
        while True:
            ready, _, _ = select.select([reading], [], [], LOOK)
            if ready:
                more = os.read(reading, 1 << 16)
                said += more
                if not more:
                    break
                if not self._begun and b"\n" in said:
                    self._begun = True
                    self._until = time.monotonic() + self.plan["total"] + SLACK
            if self._too_much(len(said)):
                self.end()
                said += _rest(reading)
                break
        return said.decode("utf-8", "replace").splitlines()

    def _too_much(self, said: int) -> bool:
        if time.monotonic() > self._until:
            self.why = "time" if self._begun else "start"
        elif said > self.plan["output"]:
            self.why = "output"
        elif self._memory() > self.plan["memory"]:
            self.why = "memory"
        elif not self.alone and _size(self.work) > self.plan["disk"]:
            self.why = "disk"
        return self.why != "ended"

    def _memory(self) -> int:
        """Bytes of all that runs inside, each page counted for every process that has it to itself."""
        total = 0
        for pid in self._inside():
            with contextlib.suppress(OSError, ValueError):
                _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
                total += int(resident) - int(shared)
        return total * resource.getpagesize()

    def _inside(self) -> list[int]:
        if self.alone:
            with contextlib.suppress(OSError):
                names = [each.name for each in os.scandir("/proc")]
                return [int(each) for each in names if each.isdigit() and each != "1"]
            return []
        from runner import family

        return family.descendants(os.getpid())

    def end(self) -> None:
        """Kills what is left, until nothing is."""
        for _ in range(1000):
            if self.alone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
            for pid in [] if self.alone else self._inside():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.001)  # of the end of many processes no event tells


def _rest(reading: int) -> bytes:
    """What was said before the end and not yet read: a pipe holds little."""
    os.set_blocking(reading, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(reading, 1 << 20)
    return b""


def _size(folder: str) -> int:
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(f"{place}/{name}").st_blocks * 512
    return found


if __name__ == "__main__":
    main()
