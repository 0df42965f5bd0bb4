"""Users of this machine for tests: an ordinary one, and what it is to be it."""

from __future__ import annotations

import contextlib
import os
import pickle
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from containers import host
from tests.live import parts_left
from tests.live.needs import need


class User(Struct):
    """An ordinary user of this machine, with a folder of its own that is its home for these tests."""

    name: str
    folder: Path

    def do(self, work: Callable[[], Any]) -> Any:
        """What `work` returns or raises, done by a child process that is this user."""
        into, out_of = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(into)
            self._become()
            try:
                answer: tuple[bool, Any] = (True, work())
            except BaseException as failure:
                answer = (False, failure)
            with os.fdopen(out_of, "wb") as pipe:
                pickle.dump(answer, pipe)
            os._exit(0)
        os.close(out_of)
        with os.fdopen(into, "rb") as pipe:
            good, value = pickle.load(pipe)
        os.waitpid(child, 0)
        if not good:
            raise value
        return value

    def _become(self) -> None:
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.name)
            os.initgroups(self.name, entry.pw_gid)
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
        for variable in (
            "XDG_RUNTIME_DIR",
            "CONTAINERS_STORAGE_CONF",
            "CONTAINERS_REGISTRIES_CONF",
            "LOGNAME",
        ):
            os.environ.pop(variable, None)
        os.environ.update(HOME=str(self.folder), TMPDIR=str(self.folder), USER=self.name)
        tempfile.tempdir = None
        os.chdir(self.folder)
        host.facts.cache_clear()


MADE = "slipworks-test-"


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[User]:
    """This process's own user, or, for root, one with subordinate ids; in CI one is made for the tests."""
    with ordinary() as user:
        yield user


@contextlib.contextmanager
def ordinary() -> Iterator[User]:
    """See `ordinary_user`."""
    with parts_left.apart("user") as folder, contextlib.ExitStack() as stack:
        name = host._user()
        if os.geteuid() == 0:
            name = _able() or stack.enter_context(_made(folder))
            shutil.chown(folder, name)
        user = User(name, folder)
        if shutil.which("podman"):  # ends the process that keeps a rootless podman's namespace
            migrate = ["podman", "system", "migrate"]
            stack.callback(user.do, partial(subprocess.run, migrate, capture_output=True, check=False))
        yield user


def _able() -> str | None:
    """A user with subordinate ids; another session of these tests may have made one, which will go."""
    others = [each.pw_name for each in pwd.getpwall() if each.pw_uid >= 1000 and MADE not in each.pw_name]
    able = [each for each in others if host._subids(Path("/etc/subuid"), each) >= host.ENOUGH_IDS]
    making = os.environ.get("CI") == "true"
    need(able or making, "no ordinary user with subordinate ids is here (one is made where CI=true)")
    return able[0] if able else None


@contextlib.contextmanager
def _made(home: Path) -> Iterator[str]:
    """A user for these tests alone; those of earlier ones that were killed go now."""
    for each in pwd.getpwall():
        if each.pw_name.startswith(MADE) and not Path("/proc", each.pw_name.removeprefix(MADE)).exists():
            _forget(each.pw_name)
    name = f"{MADE}{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--home-dir", home, name], check=True)
    try:
        yield name
    finally:
        _forget(name)


def _forget(name: str) -> None:
    end_processes(pwd.getpwnam(name).pw_uid)  # else userdel refuses
    done = subprocess.run(["userdel", name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"userdel {name}: {done.stderr}"


def end_processes(uid: int) -> None:
    """Ends all that a user of the tests runs; returns when it is gone."""
    end = time.monotonic() + 30
    while found := _processes(uid):
        assert time.monotonic() < end, f"user {uid} still has {found}"
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes(uid: int) -> list[int]:
    """Those that have not ended: nobody may have asked after others yet."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            told = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            if told["Uid"].split()[0] == str(uid) and not told["State"].startswith("Z"):
                found.append(int(status.parent.name))
    return found
