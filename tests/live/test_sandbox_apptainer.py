"""Sandboxes by Apptainer of an ordinary user, as on a cluster: what they may, what they may not, and that
nothing of them is left. (The agent's own server in one: test_sandbox_clients.py.)"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, structs

from containers import host
from kit.errors import HostError, NotFoundError, SlipworksError
from kit.shell import quote
from runner.sandboxes import apptainer_found, apptainer_words, foreign_files
from runner.sandboxes.backends.apptainer import ApptainerSandboxes
from runner.sandboxes.nouns import Limits, Ready, Start
from runner.sandboxes.settings import Settings
from tests.live.needs import need
from tests.live.parts_bases import busybox
from tests.live.parts_registry import free_port
from tests.live.parts_sandbox_standin import APPLETS
from tests.live.parts_served import Bottom, Entry, served, tar
from tests.live.parts_slurm_daemons import until
from tests.live.parts_users import User

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]
CPU = max(os.sched_getaffinity(0))
"".encode("idna")  # loads what a process that is another user by then could not load any more
STATE = f"{os.getpid():012x}"  # where parts run in processes of their own, still this one's
LIMITS = Limits(cpus=(CPU,), memory=96 << 20, pids=60, disk=30 << 20)
SERVE = 'echo begun; exec /bin/busybox httpd -f -p "$2:$4" -h /etc'
MANY = "(for n in $(busybox seq 200); do sleep 60 & done); echo full; exec sleep 60"
FILL = "for n in 1 2 3 4 5; do dd if=/dev/zero of=$1/fill.$n bs=1M count=10; done; sleep 60"
EAT = "busybox dd if=/dev/zero of=/dev/null bs=160M count=100000"
MOUNT = "busybox mount -t tmpfs t /mnt; busybox unshare -U true; busybox unshare -m true; echo $?"
CHANGE = 'id -u; pwd; cat code; echo changed >code && cat code; echo "$SESSION $LINES"; ls -A /dev/shm'
SPY = "cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'"
HIDE = "cd /testbed; mkdir -m 700 hidden; echo x >hidden/x; busybox chown -R 1000:1000 hidden; ls -ldn hidden"


class Place(Struct, frozen=True):
    """Where sandboxes are tried: by whom, with a folder whose name is a nuisance, and an image."""

    user: User
    folder: Path
    sif: Path

    def do(self, work: Callable[[], Any]) -> Any:
        """As the user. A process that changed its user is closed to its own children, which no server is."""

        def opened() -> Any:
            ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE
            return work()

        return self.user.do(opened)


@pytest.fixture(scope="module")
def place(ordinary_user: User) -> Iterator[Place]:
    need(shutil.which("apptainer"), "apptainer is not installed")
    folder = ordinary_user.folder / "it's a, state:1"
    links = [Entry(f"bin/{each}", link="busybox") for each in APPLETS if each != "busybox"]
    owned = [
        Entry("testbed"),
        Entry("testbed/code", b"original\n"),
        Entry("mnt"),
        Entry("etc/passwd", PASSWD),
    ]
    base = Bottom(name="sandboxed", image=served(tar(busybox()), [*links, *owned]))
    base.layout(ordinary_user.folder / "sandboxed")

    def make() -> None:
        folder.mkdir()
        argv = ["apptainer", "build", "--disable-cache", "sandboxed.sif", "oci:sandboxed"]
        subprocess.run(argv, cwd=ordinary_user.folder, check=True, capture_output=True)

    ordinary_user.do(make)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_OF_THE_SERVER", "not for sandboxes")
        patch.setenv("APPTAINERENV_SECRET", "not for sandboxes")
        patch.setenv("APPTAINER_BIND", f"{ordinary_user.folder}:/mnt")
        yield Place(ordinary_user, folder, ordinary_user.folder / "sandboxed.sif")


PASSWD = b"root:x:0:0:root:/root:/bin/sh\n"


def begun(place: Place, engine: ApptainerSandboxes, number: int, **more: Any) -> Start:
    id = f"{STATE}{number:04x}"
    folder = place.folder / id
    folder.mkdir(mode=0o700, exist_ok=True)
    given: dict[str, Any] = {
        "state": STATE, "limits": LIMITS, "folder": str(folder), "port": free_port(),
        "image": structs.replace(running(place, SERVE), workdir="/testbed"),
        "secret": {"SESSION": "of this one", "LINES": "1\n2 $HOME"}, **more,
    }  # fmt: skip
    start = Start(id=id, name=f"slipworks-{id}", **given)
    assert engine.start(start) == f"http://127.0.0.1:{start.port}"
    return start


@contextlib.contextmanager
def sandbox(place: Place, number: int, **more: Any) -> Iterator[tuple[ApptainerSandboxes, Start]]:
    """One that runs, while the block lasts."""
    engine = ApptainerSandboxes(Settings())
    start = begun(place, engine, number, **more)
    try:
        yield engine, start
    finally:
        engine.stop(start.id, 0.0)


def running(place: Place, line: str, *words: str) -> Ready:
    return Ready(reference=str(place.sif), command=("/bin/sh", "-c", line, "sh", *words))


def said(engine: ApptainerSandboxes, start: Start, line: str) -> str:
    argv = engine.exec_argv(start.id, ["/bin/sh", "-c", line])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def answers(start: Start) -> bool:
    asked = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with asked.open(f"{start.url}/passwd", timeout=2) as answer:
            return bool(answer.read() == PASSWD)
    except OSError:
        return False


def left(start: Start) -> list[str]:
    """Of a sandbox that was stopped: processes, mounts, and files but the log."""
    folder = Path(start.folder)
    found = [each.name for each in folder.iterdir() if each.name != apptainer_words.LOG]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if start.id in line]
    return found + mounts + [str(each) for each in apptainer_found.every().values() if each.id == start.id]


def test_a_sandbox_from_its_start_to_its_end(place: Place) -> None:
    def life() -> Start:
        with sandbox(place, 1) as (engine, start):
            until(lambda: answers(start), "the sandbox to answer", 60, lambda: engine.logs(start.id))
            assert engine.logs(start.id) == "begun\n"
            assert engine.states(STATE)[start.id] == "running" and start.id not in engine.states("other")
            found = engine.use(start.id)
            assert found.pids and 0 < found.pids < LIMITS.pids and found.memory
            engine.pause(start.id)
            assert engine.states(STATE)[start.id] == "paused" and not answers(start)
            engine.resume(start.id)
            assert engine.states(STATE)[start.id] == "running" and answers(start)
            assert engine.logs(start.id, 0) == ""
            engine.stop(start.id)
            assert start.id not in engine.states(STATE) and not answers(start)
            engine.stop(start.id)
            with pytest.raises(NotFoundError):
                engine.exec_argv(start.id, ["true"])
            return start

    assert left(place.do(life)) == []


def test_inside_it_is_root_of_an_image_that_it_may_change_and_sees_nothing_of_the_host(place: Place) -> None:
    def seen() -> tuple[str, str, str]:
        with sandbox(place, 2) as (engine, start):
            return said(engine, start, CHANGE), said(engine, start, spy), said(engine, start, HIDE)

    spy = f"{SPY}; ls -a / /mnt; ls {quote(str(place.folder))} {place.user.folder}; busybox hostname"
    before = place.sif.read_bytes()
    told, spied, hidden = place.do(seen)
    assert told == "0\n/testbed\noriginal\nchanged\nof this one 1\n2 $HOME\n"
    assert place.sif.read_bytes() == before
    assert "SESSION=of this one" in spied and "not for sandboxes" not in spied
    assert [each[:5] for each in spied.splitlines() if "ls: " in each] == ["ls: /"] * 2, spied
    assert f"slipworks-{STATE}0002" in spied
    if place.do(lambda: host.facts().subids):  # else there is no other user inside
        assert "1000" in hidden, hidden
    assert not [each for each in (place.folder / f"{STATE}0002").iterdir() if each.name != "log"]


def test_mounts_and_namespaces_are_refused_and_processes_limited_by_the_kernel(place: Place) -> None:
    """By the sandbox's own words: what `exec` runs comes from outside."""

    def tried() -> tuple[str, int]:
        line = f"{MOUNT}; echo tried; {MANY}"
        with sandbox(place, 3, image=running(place, line)) as (engine, start):
            until(lambda: "full" in engine.logs(start.id), "all attempts", 30, lambda: engine.logs(start.id))
            return engine.logs(start.id), engine.use(start.id).pids or 0

    log, most = place.do(tried)
    assert "permission denied" in log and log.count("Operation not permitted") == 2, log
    assert "fork" in log and 30 < most <= LIMITS.pids


@pytest.mark.parametrize(
    ("number", "line", "words", "why"),
    [(4, FILL, ("/testbed",), "disk"), (5, FILL, ("/dev/shm",), "disk"), (6, EAT, (), "memory")],
    ids=["changes", "shared memory", "memory"],
)
def test_what_passes_a_watched_limit_is_ended(
    number: int, line: str, words: tuple[str, ...], why: str, place: Place
) -> None:
    def ended() -> str:
        with sandbox(place, number, image=running(place, line, *words)) as (engine, start):
            until(lambda: start.id not in engine.states(STATE), "its end", 60, lambda: engine.logs(start.id))
            return engine.why(start.id)

    assert why in place.do(ended)


def test_one_that_ended_says_how_and_one_that_cannot_start_says_why(place: Place) -> None:
    def ends() -> tuple[str, list[str], str]:
        with sandbox(place, 7, image=running(place, "echo so long; sleep 3; exit 5")) as (engine, start):
            until(lambda: start.id not in engine.states(STATE), "its end", 30)
            assert "so long" in engine.logs(start.id)
            told = engine.why(start.id)
        (place.folder / "none.sif").write_bytes(b"no image")
        broken = Ready(reference=str(place.folder / "none.sif"), command=("true",))
        with pytest.raises(SlipworksError) as refused:
            begun(place, engine, 8, image=broken)
        return told, left(start), str(refused.value)

    told, rest, refused = place.do(ends)
    assert told == "exit code 5" and rest == []
    assert "none.sif" in refused and "\n  " in refused, "the end of the log"


def test_a_server_after_a_killed_one_has_its_sandboxes_and_ends_them(place: Place) -> None:
    """The one that began it ends without a word to it; a folder that the image lacks is made meanwhile."""
    first = place.do(lambda: begun(place, ApptainerSandboxes(Settings()), 9, workdir="/made/for it"))
    other = place.do(lambda: begun(place, ApptainerSandboxes(Settings()), 10))

    def again() -> tuple[str, str, str]:
        engine = ApptainerSandboxes(Settings())
        until(lambda: answers(first) and answers(other), "both to answer", 60)
        assert {first.id, other.id} <= set(engine.states(STATE))
        log, cwd = engine.logs(first.id), said(engine, first, "pwd; echo x >here; ls")
        engine.adopt(first.id, LIMITS, first.folder)
        until(lambda: bool(engine.use(first.id).disk), "the watch of its disk", 30)
        for each in (first, other):  # one of them was not adopted
            engine.stop(each.id)
        return log, cwd, str(engine.states(STATE))

    assert place.do(again) == ("begun\n", "/made/for it\nhere\n", "{}")
    assert left(first) == left(other) == []


def test_of_one_whose_starter_was_killed_nothing_is_left(place: Place) -> None:
    def killed() -> Start:
        with sandbox(place, 11) as (engine, start):
            starter = apptainer_found.every()[start.id].starter
            os.kill(starter, signal.SIGKILL)
            until(lambda: engine.states(STATE).get(start.id) == "ended", "its end", 60)
            engine.stop(start.id)
        return start

    start = place.do(killed)
    assert left(start) == [] and not answers(start)


def test_of_one_that_was_lost_with_its_server_nothing_is_left(place: Place) -> None:
    """As when a node is out of memory: nobody holds the namespace any more whose users own some files."""
    start = place.do(lambda: begun(place, ApptainerSandboxes(Settings()), 14))

    def lost() -> None:
        said(ApptainerSandboxes(Settings()), start, HIDE)
        found = apptainer_found.every()[start.id]
        for pid in (found.starter, *found.servers):
            os.kill(pid, signal.SIGKILL)
        until(lambda: start.id not in apptainer_found.every(), "its end", 60)
        ApptainerSandboxes(Settings()).stop(start.id)
        assert foreign_files.removed(Path(start.folder)) and not Path(start.folder).exists()
        assert foreign_files.removed(Path(start.folder))

    place.do(lost)


def test_term_comes_first_and_kill_after_grace(place: Place) -> None:
    def deaf() -> tuple[str, str]:
        logs = []
        both = ((12, "trap 'echo heard; exit' TERM", 30.0), (13, "trap 'echo deaf' TERM", 4.0))
        for number, line, grace in both:
            line += "; echo up; while :; do sleep 0.1; done"
            with sandbox(place, number, image=running(place, line)) as (engine, start):
                log = Path(start.folder, apptainer_words.LOG)
                until(partial(_has, log, "up\n"), "it to be up", 60)
                engine.stop(start.id, grace)
                logs.append(log.read_text())
                assert start.id not in engine.states(STATE)
        return logs[0], logs[1]

    heard, deaf_one = place.do(deaf)
    assert "heard" in heard and "deaf" in deaf_one


def _has(log: Path, word: str) -> bool:
    return word in log.read_text()


def test_a_user_without_subordinate_ids_has_sandboxes_too(place: Place) -> None:
    """They are hidden in a mount namespace, whose processes see no others."""
    need(os.geteuid() == 0, "only root can hide a file from others")

    def hidden() -> None:
        os.setpgid(0, 0)
        ctypes.CDLL(None).unshare(0x20000)  # CLONE_NEWNS
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        for each in ("/etc/subuid", "/etc/subgid"):
            subprocess.run(["mount", "--bind", "/dev/null", each], check=True)
        place.do(life)

    def life() -> None:
        assert host.facts().subids == 0
        with sandbox(place, 15) as (engine, start):
            until(lambda: answers(start), "the sandbox to answer", 60, lambda: engine.logs(start.id))
            assert said(engine, start, CHANGE).startswith("0\n/testbed\noriginal\nchanged\n")
            engine.stop(start.id)
            assert left(start) == []

    child = multiprocessing.get_context("fork").Process(target=hidden)
    child.start()
    child.join(140)
    for number in (signal.SIGINT, signal.SIGKILL):  # of the first it ends what it began
        if child.exitcode is None:
            os.killpg(child.pid or 0, number)
            child.join(15)
    assert child.exitcode == 0


def test_root_is_refused() -> None:
    need(shutil.which("apptainer"), "apptainer is not installed")
    need(os.geteuid() == 0, "only root can be refused")
    with pytest.raises(HostError, match="ordinary user") as refused:
        ApptainerSandboxes(Settings()).check()
    assert refused.value.hint
