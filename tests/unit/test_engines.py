"""Engines without an engine: what is passed to them, what a host lacks."""

from __future__ import annotations

import csv
import os
import shlex
from pathlib import Path

import pytest

from containers import engine, host, mounts, workplace
from containers.engine import Bind, ContainerRun
from kit.errors import (
    HostError,
    InvalidFileError,
    MissingToolError,
    SlipworksError,
    UnknownNameError,
)


def paths() -> list[str]:
    return ["/plain", "/with space", "/com,ma", "/co:lon", '/quo"te', "/it's", '/all, of: "it"\'s $HOME']


@pytest.mark.parametrize("path", paths())
def test_a_mount_is_one_csv_record(path: str) -> None:
    option = mounts.mount_option(Bind(Path(path), "/inside, too", read_only=True), "readonly")
    assert next(csv.reader([option])) == ["type=bind", f"source={path}", "target=/inside, too", "readonly"]


def test_a_mount_with_a_line_break_is_refused() -> None:
    with pytest.raises(InvalidFileError):
        mounts.mount_option(Bind(Path("/two\nlines"), "/inside"), "ro")


VALUES = {"PLAIN": "1", "ODD": 'it\'s "a" $HOME `id` \\n #, ', "EMPTY": ""}


def test_apptainers_env_file_is_read_back_by_a_shell() -> None:
    values = {**VALUES, "TWO": "two\nlines"}
    text = engine.get("apptainer").env_text(values)
    assert dict(word.split("=", 1) for word in shlex.split(text, posix=True)) == values


@pytest.mark.parametrize("name", ["podman", "docker"])
def test_an_env_file_of_lines_is_literal_and_refuses_line_breaks(name: str) -> None:
    made = engine.get(name)
    assert dict(line.split("=", 1) for line in made.env_text(VALUES).splitlines()) == VALUES
    with pytest.raises(InvalidFileError, match="TWO"):
        made.env_text({"TWO": "two\nlines"})


def plain_host(**changes: object) -> host.Host:
    from msgspec import structs

    ordinary = host.Host(
        root=False, user="ada", cgroups="v2", systemd=True, capabilities=0, every_capability=False,
        limits=(1024, 4096), fuse="open", subids=65536, user_namespaces=True, runtime_dir="ok",
        runtimes=("crun",), init=None,
    )  # fmt: skip
    return structs.replace(ordinary, **changes)


def test_an_ordinary_host_gets_no_adaptation() -> None:
    on = plain_host()
    assert host.podman_flags(on) == []
    assert host.podman_run_flags(on) == ["--ipc=host"]
    assert all(point.ok for point in on.points() if point.name != "init for containers")


def test_odd_hosts_are_adapted_to_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    from kit import say

    say._said.clear()
    on = plain_host(root=True, cgroups="hybrid", systemd=False, runtimes=("crun", "runc"))
    for _ in range(2):
        assert host.podman_flags(on) == ["--cgroup-manager", "cgroupfs", "--runtime", "runc"]
        assert host.podman_run_flags(on) == [
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=4096:4096",
            "--ipc=host",
        ]
    assert capsys.readouterr().err.count("\n") == 2


def test_without_mqueue_only_shm_is_shared() -> None:
    assert host.podman_run_flags(plain_host(mqueue=False)) == ["--volume=/dev/shm:/dev/shm"]


def test_a_stale_runtime_folder_is_not_handed_on() -> None:
    from containers.engines.podman import Podman

    run = ContainerRun(image="x:1", argv=("true",))
    assert Podman(on=plain_host(runtime_dir="stale")).run_argv(run)[:4] == [
        "env", "-u", "XDG_RUNTIME_DIR", "podman",
    ]  # fmt: skip
    assert Podman(on=plain_host()).run_argv(run)[:2] == ["podman", "run"]


def test_gpus_are_asked_for_in_each_engines_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """And which of them a process gets is never said there: that is known on the node alone."""
    from containers.engines.apptainer import Apptainer
    from containers.engines.docker import Docker
    from containers.engines.podman import Podman

    with_gpus = ContainerRun(image="x", argv=("true",), gpus=True)
    without = ContainerRun(image="x", argv=("true",))
    for rootless, docker in ((False, ["--gpus=all", "--ulimit=memlock=-1:-1"]), (True, ["--gpus=all"])):
        monkeypatch.setattr(Docker, "_rootless", lambda _self, rootless=rootless: rootless)
        for made, words in (
            (Podman(on=plain_host()), ["--device=nvidia.com/gpu=all"]),
            (Apptainer(on=plain_host()), ["--nv"]),
            (Docker(on=plain_host()), docker),
        ):
            argv, plain = made.run_argv(with_gpus), made.run_argv(without)
            assert [word for word in argv if word not in plain] == words
            assert "CUDA_VISIBLE_DEVICES" not in " ".join(argv)


def test_podman_in_a_job_asks_no_systemd_for_a_scope() -> None:
    from containers.engines.podman import Podman

    run = ContainerRun(image="x", argv=("true",), elsewhere=True)
    argv = Podman(on=plain_host()).run_argv(run)
    assert argv[:4] == ["podman", "--cgroup-manager", "cgroupfs", "run"]


def test_nothing_of_this_host_is_in_a_command_for_another(capsys: pytest.CaptureFixture[str]) -> None:
    from containers.engines.apptainer import Apptainer
    from containers.engines.podman import Podman

    run = ContainerRun(image="x", argv=("true",), elsewhere=True)
    odd = plain_host(
        runtime_dir="stale", systemd=False, cgroups="hybrid", runtimes=("runc",), root=True, capabilities=0,
        every_capability=False, mqueue=False, init="/usr/bin/catatonit",
    )  # fmt: skip
    for kind in (Podman, Apptainer):
        here, there = kind(on=odd), kind(on=plain_host())
        assert here.run_argv(run) == there.run_argv(run)
        assert here.remove_argv(["x"], elsewhere=True) == there.remove_argv(["x"], elsewhere=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["apptainer", "podman"])
def test_for_nodes_elsewhere_this_machine_is_not_looked_at(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its subordinate ids may be a directory's, which is slow to say."""
    monkeypatch.setattr(host, "facts", lambda: pytest.fail("asked"))
    made = engine.get(name)
    assert made.run_argv(ContainerRun(image="x", argv=("true",), elsewhere=True))
    made.remove_argv(["x"], elsewhere=True)


def test_no_value_of_an_env_file_reaches_argv(tmp_path: Path) -> None:
    from containers.engines.apptainer import Apptainer
    from containers.engines.podman import Podman

    secret = tmp_path / "env file"
    run = ContainerRun(image="x", argv=("true",), env_file=secret)
    for made in (Podman(on=plain_host()), Apptainer(on=plain_host())):
        secret.write_text(made.env_text({"TOKEN": "hunter2"}))
        argv = made.run_argv(run)
        assert f"--env-file={secret}" in argv
        assert "hunter2" not in " ".join(argv)


# What a host has


def tree(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_host_is_read_from_its_files(tmp_path: Path) -> None:
    made = host.read(
        tree(
            tmp_path,
            proc__self__status="Name:\tx\nCapEff:\t000001fffeffffff\n",
            proc__sys__kernel__cap_last_cap="40\n",
            proc__sys__kernel__pid_max="100\n",
            proc__sys__user__max_user_namespaces="0\n",
            etc__subuid=f"someone:1:9\n{host._user()}:100000:65536\n",
            etc__subgid=f"{host._user()}:100000:1000\n",
            **{"sys__fs__cgroup__unified__cgroup.controllers": ""},
        )
    )
    assert (made.cgroups, made.fuse, made.subids, made.user_namespaces) == ("hybrid", "missing", 1000, False)
    assert not made.every_capability
    assert not made.may_raise_limits
    assert made.limits[1] <= 100
    lacking = {point.name for point in made.points() if not point.ok}
    assert {"/dev/fuse", "user namespaces", "init for containers"} <= lacking
    assert all(point.hint for point in made.points() if not point.ok)


def test_ubuntus_switch_against_user_namespaces_is_known(tmp_path: Path) -> None:
    made = host.read(tree(tmp_path, proc__sys__kernel__apparmor_restrict_unprivileged_userns="1\n"))
    assert not made.user_namespaces


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"subids": 0}, HostError, "subordinate ids"),
        ({"user_namespaces": False}, HostError, "user namespaces"),
    ],
)
def test_rootless_engines_say_what_the_user_lacks(
    changes: dict[str, object], kind: type[SlipworksError], says: str
) -> None:
    from containers.engines.buildah import Buildah

    made = Buildah(on=plain_host(**changes))
    with pytest.raises(kind, match=says) as raised:
        made._check_rootless(find=lambda program, hint: Path(program))
    assert raised.value.hint


# Names


def test_engines_are_found_by_listing_their_folder() -> None:
    assert engine.names() == ("podman", "docker", "apptainer", "buildah")
    assert [engine.get(name).name for name in engine.names()] == list(engine.names())


def test_an_unknown_engine_is_met_with_a_guess() -> None:
    with pytest.raises(UnknownNameError) as raised:
        engine.get("podmann")
    assert raised.value.hint == "did you mean 'podman'?"


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", ["podman", "docker", "apptainer", "buildah"])
def test_an_engine_that_is_missing_says_how_to_get_it(name: str) -> None:
    with pytest.raises(MissingToolError, match=name) as raised:
        engine.get(name).check()
    assert raised.value.hint


@pytest.mark.usefixtures("nothing_installed")
def test_without_any_engine_each_reason_is_told() -> None:
    with pytest.raises(MissingToolError) as raised:
        engine.detect("oci")
    for name in ("podman", "docker", "buildah"):
        assert f"{name}: " in raised.value.message
    assert "apptainer" not in raised.value.message
    assert "install podman" in (raised.value.hint or "")


OLD = {"podman": "podman version 3.4.4", "buildah": "buildah version 1.19.6 (image-spec 1.0.1-dev)",
       "apptainer": "apptainer version 1.1.3-1"}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_an_engine_that_is_too_old_names_both_versions(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\necho '{OLD[name]}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(MissingToolError, match=r"found, .* or newer needed") as raised:
        engine.get(name).check()
    assert OLD[name].split()[2].split("-")[0] in raised.value.message


@pytest.mark.parametrize("daemon", [True, False])
def test_a_docker_daemon_that_does_not_answer(
    daemon: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for program in ("docker", "dockerd") if daemon else ("docker",):
        (tmp_path / program).write_text("#!/bin/sh\necho 'Docker version 20.10.24, build 297e128'\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no socket")
    with pytest.raises(HostError if daemon else MissingToolError, match="no socket") as raised:
        engine.get("docker").check()
    assert "docker" in (raised.value.hint or "")


# What apptainer is given


def test_a_name_in_the_context_stays_inside(tmp_path: Path) -> None:
    with (
        pytest.raises(InvalidFileError, match="inside"),
        workplace.workplace({"../out": ""}, tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())
