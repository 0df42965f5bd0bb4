"""What podman and docker are told of a sandbox, and what they tell."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs

from containers import host
from containers.engines.podman import Podman
from containers.host import Host
from kit import process
from kit.errors import HostError, NotFoundError, SlipworksError, UsageError, VerifyError
from kit.process import Result
from runner.sandboxes.backends import container_words
from runner.sandboxes.backends.container_words import Where
from runner.sandboxes.backends.docker import DockerSandboxes
from runner.sandboxes.backends.podman import PodmanSandboxes
from runner.sandboxes.nouns import Limits, Ready, Start
from runner.sandboxes.settings import Settings

ID = "0123456789abcdef"
HELD = frozenset({"cpus", "memory", "pids"})


def host_like(**more: object) -> Host:
    return structs.replace(host.facts(), **more)


def start(tmp_path: Path | str = "/", **more: object) -> Start:
    given = {
        "id": ID, "name": f"slipworks-{ID}", "state": "abc", "port": 20001, "folder": str(tmp_path),
        "image": Ready(reference="an/image:1", command=("/slipworks-agent/bin/start", "--x")),
        "limits": Limits(cpus=(2, 3), memory=1 << 30, pids=99, disk=5 << 30), **more,
    }  # fmt: skip
    return Start(**given)  # type: ignore[arg-type]


def test_words_of_a_sandbox() -> None:
    words = container_words.run(start(), Where(), HELD)
    assert words[:5] == [
        "run",
        "--detach",
        "--pull=never",
        f"--name=slipworks-{ID}",
        "--label=slipworks.sandbox=abc",
    ]
    for each in ("--cap-drop=ALL", "--security-opt=no-new-privileges", "--publish=127.0.0.1:20001:60000/tcp",
                 "--memory=1073741824", "--memory-swap=1073741824", "--pids-limit=99", "--cpuset-cpus=2,3",
                 "--ulimit=fsize=5368709120:5368709120", "--entrypoint="):  # fmt: skip
        assert each in words
    assert not [each for each in words if each.startswith(("--volume", "--mount", "--env", "--privileged"))]
    assert not {"SYS_ADMIN", "MKNOD", "NET_RAW", "SYS_PTRACE"} & set(container_words.CAPABILITIES)
    assert container_words.image(start(), Where()) == [
        "an/image:1", "/slipworks-agent/bin/start", "--x", "--host", "0.0.0.0", "--port", "60000",
    ]  # fmt: skip


def test_words_where_the_host_gives_less() -> None:
    where = Where(own=False, groups=False)
    words = container_words.run(start(), where, ())
    assert "--network=host" in words
    assert not [each for each in words if each.startswith(("--publish", "--memory", "--pids", "--cpuset"))]
    assert container_words.image(start(), where)[-4:] == ["--host", "127.0.0.1", "--port", "20001"]
    assert container_words.image(start(address="node7"), where)[-4:] == [
        "--host",
        "0.0.0.0",
        "--port",
        "20001",
    ]


def test_a_kept_entrypoint_a_user_a_folder_and_a_mount() -> None:
    image = Ready(
        reference="i", entrypoint=("tini",), mount=("--volume", "/l:/slipworks-agent:O"), user="1000"
    )
    asked = start(image=image, workdir="/work here", address="::1")
    words = container_words.run(asked, Where(folder=True), ())
    assert "--entrypoint=" not in words
    for each in (
        "--user=1000",
        "--workdir=/work here",
        "--mount=type=volume,destination=/work here",
        "--publish=[::1]:20001:60000/tcp",
    ):
        assert each in words
    assert words[words.index("--volume") + 1] == "/l:/slipworks-agent:O"


def test_variables_go_by_a_file_and_by_nothing_else() -> None:
    def text(values: dict[str, str]) -> str:
        return "|".join(f"{name}={value}" for name, value in values.items())

    asked = start(secret={"PLAIN": "a b", "KEY": "hidden"})
    assert container_words.environment(asked, text) == "PLAIN=a b|KEY=hidden"
    assert container_words.run(asked, Where(), HELD) == container_words.run(start(), Where(), HELD)
    assert container_words.image(asked, Where()) == container_words.image(start(), Where())
    for bad in ("", "A=B", "A\0", "A B", "#odd"):
        with pytest.raises(UsageError, match="no name of a variable"):
            container_words.environment(start(secret={bad: "x"}), text)
    for value in ("hid\nden", "hid\0den"):
        with pytest.raises(UsageError, match="KEY") as told:
            container_words.environment(start(secret={"KEY": value}), text)
        assert "hid" not in told.value.message


class Told:
    """An engine whose answers a test gives; what it was asked is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *runs: Result) -> None:
        self.runs, self.asked = list(runs), []
        monkeypatch.setattr(process, "run", self)

    asked: list[list[str]]
    inspected = '[{"State": {"Pid": 0}}]'

    def __call__(self, argv: Sequence[str], **_: object) -> Result:
        self.asked.append(list(argv))
        if argv[1] == "run":
            return self.runs.pop(0)
        if argv[1] == "info":
            return Result(0, '{"MemoryLimit": true, "PidsLimit": true, "CPUSet": true}', "")
        if argv[1] == "inspect":
            return Result(0, self.inspected, "")
        return Result(0, "the log" if argv[1] == "logs" else "", "")

    @property
    def began(self) -> list[list[str]]:
        return [argv for argv in self.asked if argv[1] == "run"]


GOOD = Result(0, "", "")


def bad(text: str) -> Result:
    return Result(125, "", text)


def test_what_a_host_cannot_give_is_asked_for_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = Told(monkeypatch, bad("docker: network bridge not found"), bad("cgroup: no memory"), GOOD, GOOD)
    engine = DockerSandboxes(Settings())
    assert engine.enforced()["network"] == "own" and engine.enforced()["memory"] == "cgroup"
    assert engine.start(start(tmp_path)) == "http://127.0.0.1:20001"
    assert len(told.began) == 3 and "--network=host" in told.began[2]
    engine.start(start(tmp_path))
    assert len(told.began) == 4 and not [each for each in told.began[3] if each.startswith("--memory")]
    assert engine.enforced()["network"] == "the host's"
    assert list(tmp_path.iterdir()) == []  # no file with the key is left


def test_a_port_that_is_published_nowhere_is_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of a dockerd without a bridge, which refuses nothing."""
    told = Told(monkeypatch, GOOD, GOOD)
    told.inspected = '[{"State": {"Pid": 4194305}, "NetworkSettings": {"Ports": {}}}]'
    engine = DockerSandboxes(Settings())
    engine.start(start(tmp_path))
    engine.stop(ID)
    assert "--network=host" in told.began[1] and "--network=host" not in told.began[0]


PUBLISHED = (
    '[{"State": {"Pid": 4194305}, "NetworkSettings": {"Ports": {"60000/tcp": [{"HostPort": "20001"}]}}}]'
)


@pytest.mark.parametrize("told_of", ["docker: network bridge not found", "cgroup: no memory"])
def test_an_error_of_a_moment_takes_no_isolation_away(
    told_of: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once a container had it, a failure is that sandbox's own; and the next one has it again."""
    told = Told(monkeypatch, GOOD, bad(told_of), GOOD)
    told.inspected = PUBLISHED
    engine = DockerSandboxes(Settings())
    engine.start(start(tmp_path))
    with pytest.raises(VerifyError, match=told_of.split(":")[0]):
        engine.start(start(tmp_path))
    engine.start(start(tmp_path))
    engine.stop(ID)
    assert len(told.began) == 3
    for each in told.began:
        assert "--network=host" not in each and "--memory=1073741824" in each
    assert engine.enforced()["network"] == "own"


def test_who_began_with_less_than_another_got_begins_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two at once: the first is refused a network for a moment, the second gets one meanwhile."""
    told = Told(monkeypatch, bad("docker: network bridge not found"), GOOD, GOOD)
    told.inspected = PUBLISHED
    engine = DockerSandboxes(Settings())
    other = engine._granted.other

    def meanwhile(where: Where, text: str, **asked: bool) -> Where | None:
        found = other(where, text, **asked)
        assert engine._granted.settled(Where(), json.loads(PUBLISHED)[0])
        return found

    monkeypatch.setattr(engine._granted, "other", meanwhile)
    engine.start(start(tmp_path))
    engine.stop(ID)
    assert ["--network=host" in each for each in told.began] == [False, True, False]


def test_one_that_ended_at_once_proves_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its ports are gone, whether or not it ever had one of the host's."""
    told = Told(monkeypatch, GOOD, bad("docker: network bridge not found"), GOOD)
    engine = DockerSandboxes(Settings())
    engine.start(start(tmp_path))
    engine.start(start(tmp_path))
    assert "--network=host" in told.began[2]


def test_a_folder_that_the_image_lacks_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = Told(monkeypatch, bad('Error: workdir "/w" does not exist on container x'), GOOD, GOOD)
    engine = DockerSandboxes(Settings())
    engine.start(start(tmp_path, workdir="/w"))
    assert "--mount=type=volume,destination=/w" in told.began[1]
    engine.start(start(tmp_path, workdir="/w"))
    assert "--mount=type=volume,destination=/w" not in told.began[2]  # another image may have it


@pytest.mark.parametrize(("text", "kind", "says"), [
    ("Error: an/image:1: image not known", NotFoundError, "no such image"),
    ("listen tcp 127.0.0.1:20001: bind: address already in use", HostError, "20001"),
    ("exec: /nothing: no such file or directory", VerifyError, "the log"),
])  # fmt: skip
def test_a_start_that_fails_says_why_and_leaves_nothing(
    text: str, kind: type[SlipworksError], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = Told(monkeypatch, bad(text))
    with pytest.raises(kind, match=says):
        DockerSandboxes(Settings()).start(start(tmp_path, secret={"KEY": "hidden"}))
    assert ["docker", "rm", "--force", "--volumes", f"slipworks-{ID}"] in told.asked
    assert list(tmp_path.iterdir()) == []
    assert "hidden" not in str(told.asked)


def test_what_ps_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = DockerSandboxes(Settings())
    told = {f"slipworks-{ID}": "running", "slipworks-b": "exited", "slipworks-c": "paused",
            "slipworks-d": "created", "other": "running"}  # fmt: skip
    lines = "\n".join(f"{name}\t{state}" for name, state in told.items())
    monkeypatch.setattr(process, "run", lambda argv, **_: Result(0, lines, ""))
    assert engine.states("abc") == {ID: "running", "b": "ended", "c": "paused", "d": "ended"}


def test_a_container_that_is_gone_is_stopped_already(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Result(1, "", "Error response from daemon: No such container: x")
    monkeypatch.setattr(process, "run", lambda argv, **_: gone)
    engine = DockerSandboxes(Settings())
    engine.stop(ID)
    assert (engine.logs(ID), engine.why(ID)) == ("", "")
    with pytest.raises(NotFoundError):
        engine.pause(ID)


def test_in_a_job_containers_are_the_jobs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PodmanSandboxes(Settings())
    monkeypatch.setattr(engine, "_engine", Podman(on=host_like(systemd=True)))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert "cgroupfs" not in engine.program()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert engine.program()[-2:] == ["--cgroup-manager", "cgroupfs"]


def test_processes_of_a_user_are_limited_for_all_slots_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no control group does it for one."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("resource.getrlimit", lambda kind: (0, resource.RLIM_INFINITY))
    engine = PodmanSandboxes(Settings(slots=3))
    monkeypatch.setattr(engine, "_engine", Podman(on=host_like(root=False)))
    assert "--ulimit=nproc=809:809" in engine.own_words(start(), ["memory"])
    assert not [each for each in engine.own_words(start(), ["pids"]) if "nproc" in each]
    monkeypatch.setattr("resource.getrlimit", lambda kind: (0, 100))
    assert "--ulimit=nproc=100:100" in engine.own_words(start(), [])
