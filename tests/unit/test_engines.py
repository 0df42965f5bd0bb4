"""Engines without an engine: what is passed to them, what their complaints mean, what a host lacks."""

from __future__ import annotations

import csv
import os
import shlex
import tempfile
from pathlib import Path

import pytest
from msgspec import json

from containers import complaints, engine, host, mounts, sif, sif_header, workplace
from containers.engine import Bind, ContainerRun
from kit import share
from kit.errors import (
    AuthError,
    BuildError,
    HashMismatchError,
    HostError,
    InvalidFileError,
    MissingToolError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    QuotaError,
    SlipworksError,
    UnknownNameError,
    UnsupportedError,
)
from kit.nouns import Image, Platform, digest

RECORDED = Path(__file__).parent / "recorded"
KINDS = {
    "401": AuthError,
    "403": AuthError,
    "404": NotFoundError,
    "429": QuotaError,
    "503": NetworkError,
    "refused": NetworkError,
    "name": NetworkError,
    "hash": HashMismatchError,
    "space": NoSpaceError,
    "subids": HostError,
    "capabilities": HostError,
    "zstd": UnsupportedError,
}


@pytest.mark.parametrize("recorded", sorted(RECORDED.glob("*.txt")), ids=lambda path: path.stem)
def test_recorded_complaints_are_understood(recorded: Path) -> None:
    kind = KINDS[recorded.stem.rpartition("-")[2]]
    found = complaints.explain("build tiny", recorded.read_text(), "localhost/base:1", code=1)
    assert type(found) is kind, found.message
    assert found.message.startswith("could not build tiny: ")
    assert found.hint
    assert "\n" not in found.message


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_a_hash_mismatch_names_package_and_both_hashes(tool: str) -> None:
    found = complaints.explain("build tiny", (RECORDED / f"{tool}-hash.txt").read_text(), None)
    assert isinstance(found, HashMismatchError)
    assert "tinything" in found.message
    assert "found sha256:a3eedf6b" in found.message
    assert "expected sha256:0000" in found.message
    assert "nothing was installed" in found.message


def test_an_unknown_complaint_keeps_its_last_lines() -> None:
    found = complaints.explain("build tiny", "one\n\ntwo\n", None, code=3)
    assert type(found) is BuildError
    assert found.message == "could not build tiny: ended with exit code 3, its last lines:\n  one\n  two"


def test_a_quoted_line_never_shows_credentials() -> None:
    text = "error: dial tcp: http://me:hunter2@index.invalid/simple: connection refused"
    assert "hunter2" not in complaints.explain("build tiny", text, None).message


def test_a_hash_mismatch_names_its_lock_and_what_to_do() -> None:
    text = (RECORDED / "uv-hash.txt").read_text()
    locks = {
        "tools/build.lock": "",
        "stacks/cpu/cp313-amd64.lock": f"tinything==1.0 --hash=sha256:{'0' * 64}",
    }
    found = complaints.explain("build tiny", text, None, context=locks)
    assert "tinything==1.0" in found.message and "lock: stacks/cpu/cp313-amd64.lock" in found.message
    assert found.hint and "runner lock --line cpu --again" in found.hint
    assert "(lock: " not in complaints.explain("build tiny", text, None, context={}).message


def test_a_pull_without_network_names_its_base() -> None:
    base = "docker.io/library/python@sha256:12ab"
    text = "Error: initializing source docker://python@sha256:12ab: pinging container registry: no such host"
    found = complaints.explain("build tiny", text, base)
    assert "docker://python@sha256:12ab" in found.message
    assert f"pulling {base}" in found.message
    index = complaints.explain("build tiny", "error: tcp connect error: http://index/simple", base)
    assert base not in index.message, "not every trouble with the network is about the base"


def test_a_long_line_is_quoted_from_a_whole_word_on() -> None:
    words = " ".join(f"word{number}" for number in range(100))
    quoted = complaints.explain("build tiny", f"{words} no such host", None).message.partition("… ")[2]
    assert quoted.split()[0] in words.split() and quoted.endswith("no such host")
    assert len(quoted) <= complaints.LONGEST


def test_a_silence_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(complaints, "QUIET", 0.2)
    argv = ["sh", "-c", "echo Trying to pull x:1; sleep 1"]
    complaints.stream(argv, what="build tiny", base=None, update=lambda line: None)
    told = capsys.readouterr().err.splitlines()
    assert told == ["still trying to build tiny: not a word for 0 s, after: Trying to pull x:1"]
    argv = ["sh", "-c", "for word in 1 2 3 4 5 6 7 8 9; do echo same; sleep 0.05; done"]
    complaints.stream(argv, what="build tiny", base=None, update=lambda line: None)
    assert capsys.readouterr().err == ""


# What is passed to an engine


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


def test_mksquashfs_gets_the_share_of_a_job_and_not_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "cpus", lambda: 3)
    for limit, given in ((4 << 30, "1024M"), (100 << 20, "256M"), (1 << 40, "8192M")):
        monkeypatch.setattr(share, "memory", lambda limit=limit: limit)
        words = sif.squash().split()
        assert words[words.index("-mem") + 1] == given
        assert words[words.index("-processors") + 1] == "3"


def test_a_small_disk_is_refused_before_apptainer_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APPTAINER_TMPDIR", str(tmp_path / "scratch, a"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    making = sif.Making(what="convert x", source="x", cwd=tmp_path, epoch=0, packed=1 << 60)
    with pytest.raises(NoSpaceError, match=r"could not convert x: .* needed") as raised:
        sif.make(making, tmp_path / "sifs/x.sif", print)
    assert str(tmp_path) in raised.value.message
    assert raised.value.hint and raised.value.hint.endswith("runner image gc")
    assert not list((tmp_path / "sifs").iterdir())


def test_a_file_that_is_no_sif_is_left_alone(tmp_path: Path) -> None:
    for raw in (b"", b"short", bytes(200)):
        (tmp_path / "x").write_bytes(raw)
        sif_header.steady(tmp_path / "x", 1)
        assert (tmp_path / "x").read_bytes() == raw


def store_like(folder: Path, config: object, layers: object = ()) -> Image:
    """The files of an image as a store keeps them: as far as engines look at them."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(value: object) -> str:
        raw = json.encode(value)
        (blobs / digest(raw)[7:]).write_bytes(raw)
        return digest(raw)

    manifest = put({"config": {"digest": put(config)}, "layers": layers})
    return Image(key="0" * 64, name="x", format="oci", platform=Platform.host(), digest=manifest, path=folder)


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ({}, 0),
        ({"created": "1970-01-01T00:00:00Z", "history": [{"created": "1970-01-01T00:00:10Z"}, {}]}, 10),
        ({"created": "2026-01-02T03:04:05.123456789Z"}, 1767323045),
        ({"created": "2026-01-02T04:04:05+01:00", "history": None}, 1767323045),
    ],
)
def test_the_newest_time_of_an_image(tmp_path: Path, config: object, seconds: int) -> None:
    image = store_like(tmp_path, config, [{"size": 3}, {"size": 4}])
    assert workplace.created(image) == seconds
    assert workplace.packed_size(image) == 7


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"config": {"digest": "x"}}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: bytes) -> None:
    image = store_like(tmp_path, {})
    (tmp_path / "blobs" / image.digest.replace(":", "/")).write_bytes(damage)
    with pytest.raises(InvalidFileError, match="no readable manifest"):
        workplace.config_digest(image)
