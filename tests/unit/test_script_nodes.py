"""What a node's part of the batch script decides there, run by bash with stand-ins for the rest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from msgspec import json

from containers import host
from runner.meeting import Ended, Meeting
from slurm.script import Present
from tests.unit.parts_script import ENGINE, RANK, Cluster, alive, until

WORDS = ("podman", "--cgroup-manager", "cgroupfs", "run", "--mount=x", "image", "node")
"""Of a container, as Podman.run_argv has it for another machine; a node's own come before --mount."""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, tmp_path / "a run, it's")


def test_a_missing_engine_ends_the_chain(cluster: Cluster) -> None:
    assert cluster.finish(cluster.batch(container=("no-such-engine", "node"), restarts=2))[0] == 20
    told = (cluster.run / "finished").read_text()
    assert told.startswith("it could not begin: node 0 (n1) has no no-such-engine on its PATH")
    assert json.decode(cluster.attempt("meeting/ended-0").read_bytes(), type=Ended).hopeless


def test_a_missing_module_ends_the_chain(cluster: Cluster) -> None:
    cluster.program("module", "#!/bin/sh\nexit 1\n")
    (cluster.run / "chain").write_text("7\n8\n")
    assert cluster.finish(cluster.batch(modules=("cuda",), restarts=1))[0] == 20
    assert "it could not begin: n1 cannot load the module cuda" in (cluster.run / "finished").read_text()
    assert (cluster.record / "scancel").read_text() == "8\n"


def test_what_may_be_better_another_time_does_not(cluster: Cluster) -> None:
    assert cluster.finish(cluster.batch(have=("false",), fetch=("false",), restarts=2))[0] == 40
    assert not (cluster.run / "finished").exists()
    assert "hopeless" not in cluster.attempt("meeting/ended-0").read_text()


def test_signs_of_life_while_the_image_comes(cluster: Cluster) -> None:
    """Until the runner inside gives them, over the same file."""
    cluster.program("fetch", '#!/bin/sh\nuntil [ -e "$RECORD/image" ]; do sleep 0.05; done\n')
    cluster.container('await go; printf 000000000999 >"$RECORD/taken"; printf 000000000999 1<>alive-0; '
                      'read -r -t 2.5 <> <(:); cp alive-0 "$RECORD/last"; ended 0')  # fmt: skip
    job = cluster.start(cluster.batch(have=("false",), fetch=("fetch",)))
    meeting = Meeting(cluster.attempt("meeting"))
    until(lambda: meeting.fetching(0) and meeting.lives("0"), "the first sign")
    alive = cluster.attempt("meeting/alive-0")
    for _ in range(2):
        before = alive.read_text()
        until(lambda before=before: alive.read_text() != before, "another sign")  # type: ignore[misc]
    (cluster.record / "image").touch()
    until(lambda: cluster.words("engine-0"), "the container")
    assert not cluster.attempt("meeting/fetching-0").exists()
    before = alive.read_text()
    until(lambda: alive.read_text() != before, "a sign while the container begins")
    cluster.attempt("meeting/go").touch()
    assert job.communicate(timeout=60) and job.returncode == 0
    assert (cluster.record / "last").read_text() == "000000000999", "the script has left it to the container"


@pytest.mark.parametrize("last", ["orphan; kill -KILL $$", "orphan; ended 0"])
def test_what_apptainer_could_not_unmount_is_ended(cluster: Cluster, last: str) -> None:
    """Slurm's TERM may meet it as it begins: what holds the image ignores that, and nobody else ends it."""
    cluster.program("apptainer", ENGINE)
    shutil.copy("/bin/sleep", cluster.bin / "fuse-overlayfs")
    (cluster.record / "other").mkdir()
    shutil.copy("/bin/sleep", cluster.record / "other/fuse-overlayfs")
    cluster.container(
        "orphan() { setsid fuse-overlayfs 1000 </dev/null &>/dev/null & local held=$!\n"
        'until grep -qa "s.1000" "/proc/$held/cmdline" && ! grep -qa bash "/proc/$held/cmdline"; do\n'
        'read -r -t 0.02 -u "$nothing"; done; echo $held >"$RECORD/holder"; kill -TERM $held; }\n' + last
    )
    holder = cluster.record / "holder"  # its group: setsid gave it one of its own
    another = subprocess.Popen([cluster.record / "other/fuse-overlayfs", "1000"])
    try:
        cluster.finish(cluster.batch(container=("apptainer", "exec", "image", "node")))
        until(lambda: not alive(int(holder.read_text())), "the end of what holds the image", 1)
        assert another.poll() is None, "it is not this job's"
        assert not list(cluster.record.glob("slipworks-mounts-*"))
    finally:
        another.kill()
        another.wait()
        if holder.exists() and alive(group := int(holder.read_text())):
            os.killpg(group, signal.SIGKILL)


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("JobState=RUNNING Reason=None Requeue=1 Restarts=0", ["requeue", "7"]),
        ("JobState=RUNNING Reason=None Requeue=0 Restarts=0", ["7"]),
        ("JobState=PENDING Reason=None Requeue=1 Restarts=1", []),
        ("", []),
    ],
)
def test_slurm_is_told_by_one_node_that_the_first_is_lost(
    cluster: Cluster, said: str, asked: list[str]
) -> None:
    """It would see it minutes later; and what it has done already is not done again."""
    cluster.answer("job", f"JobId=7 {said} BatchFlag=1\n")
    cluster.container(
        'if [ "$rank" -gt 0 ]; then\n'
        'printf \'{"code":50,"headless":true}\' >"$meeting/ended-$rank"; exit 50; fi\n'
        "await ended-1; await ended-2; await reported; ended 50"
    )
    cluster.finish(cluster.batch(nodes=3))
    words = cluster.words("scontrol")
    assert words.count("job") == 1, "one of the two"
    requeued = words[words.index("requeue") :][:2] if "requeue" in words else []
    cancelled = cluster.record / "scancel"
    assert [*requeued, *(cancelled.read_text().split() if cancelled.exists() else [])] == asked


def test_slurm_hears_nothing_of_another_nodes_end(cluster: Cluster) -> None:
    cluster.container('[ "$rank" -eq 0 ] || { ended 50; exit 50; }; await ended-1; ended 50')
    cluster.finish(cluster.batch(nodes=2))
    assert "job" not in cluster.words("scontrol") and not (cluster.record / "scancel").exists()


class TestLeftovers:
    @pytest.fixture
    def folders(self, cluster: Cluster) -> dict[str, Path]:
        names = {
            "killed": "slipworks-6-0.aBcDeF", "podmans": "slipworks-podman-6-1.aBcDeF",
            "mounts": "slipworks-mounts-6-0.aBcDeF",
            "locked": "slipworks-5-0.aBcDeF", "other": "slipworks-6-0.aB", "mine": "slipworks-cache.aBcDeF",
        }  # fmt: skip
        made = {key: cluster.record / name for key, name in names.items()}
        for each in made.values():
            each.mkdir()
            (each / "file").touch()
        return made

    def test_of_killed_jobs_are_removed_and_no_others(
        self, cluster: Cluster, folders: dict[str, Path]
    ) -> None:
        (cluster.record / "slipworks-4-0.aBcDeF").symlink_to(folders["mine"])
        held = subprocess.Popen(["flock", str(folders["locked"]), "sleep", "100"], start_new_session=True)
        try:
            until(lambda: subprocess.run(["flock", "-n", folders["locked"], "true"]).returncode, "the lock")
            assert cluster.finish(cluster.batch(temporary=True))[0] == 0
        finally:
            os.killpg(held.pid, 9)
            held.wait()
        assert {key for key, each in folders.items() if each.exists()} == {"locked", "other", "mine"}
        assert (folders["mine"] / "file").exists()
        assert f"removing {folders['killed']}" in cluster.attempt("node-0.log").read_text()

    def test_a_node_parts_own_is_held(self, cluster: Cluster) -> None:
        """Another job of this user begins on the same node meanwhile."""
        cluster.container('await go; ls -d "$RECORD"/slipworks-7-0.* >"$RECORD/seen"; ended 0')
        job = cluster.start(cluster.batch(temporary=True))
        until(lambda: cluster.words("engine-0"), "the container")
        (folder,) = cluster.record.glob("slipworks-7-0.*")
        assert subprocess.run(["flock", "-n", folder, "true"]).returncode == 1
        cluster.attempt("meeting/go").touch()
        assert job.communicate(timeout=30) and job.returncode == 0
        assert (cluster.record / "seen").read_text().strip() == str(folder) and not folder.exists()


class TestNode:
    def test_what_a_dead_client_left_is_removed(self, cluster: Cluster) -> None:
        batch = cluster.batch(remove=("engine", "rm", f"x-{RANK}"))
        cluster.container("kill -KILL $$")
        cluster.finish(batch)
        assert cluster.words("engine-0")[-3:] == ["engine", "rm", "x-0"]

    def test_nothing_is_removed_after_a_good_end(self, cluster: Cluster) -> None:
        assert cluster.finish(cluster.batch(remove=("engine", "rm", f"x-{RANK}")))[0] == 0
        assert "rm" not in cluster.words("engine-0")

    def test_the_image_is_fetched_where_it_is_not(self, cluster: Cluster) -> None:
        cluster.program("have", '#!/bin/sh\necho noise\n[ -e "$RECORD/image" ]\n')
        cluster.program("fetch", '#!/bin/sh\necho fetching "$@"\n: >"$RECORD/image"\n')
        batch = cluster.batch(have=("have", "it"), fetch=("fetch", "it's"))
        assert cluster.finish(batch)[0] == 0
        log = cluster.attempt("node-0.log").read_text()
        assert "fetching it's" in log
        assert "noise" not in log
        assert cluster.finish(batch)[0] == 0
        assert "fetching" not in cluster.attempt("node-0.log", 2).read_text()

    def test_an_image_that_cannot_be_fetched(self, cluster: Cluster) -> None:
        batch = cluster.batch(have=("false",), fetch=("false",))
        code, _ = cluster.finish(batch)
        assert code == 40
        assert "node 0 (n1) could not get the image" in cluster.attempt("meeting/ended-0").read_text()

    def test_a_temporary_folder_of_its_own(self, cluster: Cluster) -> None:
        cluster.container('ls -ld "$RECORD"/slipworks-7-* >"$RECORD/seen"; ended 0')
        assert cluster.finish(cluster.batch(temporary=True, words_at=2))[0] == 0
        (mount,) = [word for word in cluster.words("engine-0") if word.startswith("--mount")]
        assert mount.startswith(f'--mount=type=bind,"source={cluster.record}/slipworks-7-0.')
        assert mount.endswith(',"target=/tmp"')
        assert cluster.words("engine-0")[:3] == ["engine", "run", mount]
        assert (cluster.record / "seen").read_text().startswith("drwx------")
        assert not list(cluster.record.glob("slipworks-7-*"))

    def test_the_nodes_own_libraries_and_devices(self, cluster: Cluster) -> None:
        host = cluster.record / 'lib a, "b" $(c)'
        for name in ("one/libx.so.1", "two/libx.so.1", "two/liby.so"):
            (host / name).parent.mkdir(parents=True, exist_ok=True)
            (host / name).write_text("")
        batch = cluster.batch(
            words_at=2, fabric=(f"{host}/one/*.so*", f"{host}/two/*", f"{host}/none*"),
            devices=(f"{host}/two/liby*", "/dev/none*"),
        )  # fmt: skip
        assert cluster.finish(batch)[0] == 0
        quoted = str(host).replace('"', '""')
        assert cluster.words("engine-0")[2:5] == [
            f'--mount=type=bind,"source={quoted}/one/libx.so.1","target=/slipworks-fabric/libx.so.1",ro',
            f'--mount=type=bind,"source={quoted}/two/liby.so","target=/slipworks-fabric/liby.so",ro',
            f"--device={host}/two/liby.so",
        ]

    def test_what_a_node_has(self, cluster: Cluster) -> None:
        """In its order, behind /tmp and before the mounts that the container's own words say."""
        host = cluster.record / 'a, "b" $(c)'
        (host / "home").mkdir(parents=True)
        present = (
            Present(str(host / "home"), "/home/me", False),
            Present(str(host / "none"), "/x"),
            Present(str(host), "/y"),
        )
        batch = cluster.batch(words_at=1, present=present, temporary=True)
        assert cluster.finish(batch)[0] == 0
        quoted = str(host).replace('"', '""')
        assert cluster.words("engine-0")[2:5] == [
            f'--mount=type=bind,"source={quoted}/home","target=/home/me"',
            f'--mount=type=bind,"source={quoted}","target=/y",ro',
            "run",
        ]

    def test_the_nodes_own_slurm_conf(self, cluster: Cluster) -> None:
        """Once; of a folder of everybody's the file alone; nothing where Slurm says nothing of it."""
        conf = cluster.record / "it's/slurm.conf"
        conf.parent.mkdir()
        conf.write_text("")
        mount = f'--mount=type=bind,"source={conf.parent}","target={conf.parent}",ro'
        there = (Present(str(conf.parent), str(conf.parent)),)
        for number, (present, given, words) in enumerate((
            ((), str(conf), [mount]),
            (there, str(conf), [mount]),
            ((), "/etc/passwd", ['--mount=type=bind,"source=/etc/passwd","target=/etc/passwd",ro']),
            ((), "/none/slurm.conf", []),
        )):  # fmt: skip
            (cluster.record / "engine-0").unlink(missing_ok=True)
            batch = cluster.batch(words_at=1, present=present, submits=True)
            assert cluster.finish(batch, SLURM_CONF=given)[0] == 0
            assert [word for word in cluster.words("engine-0") if word.startswith("--mount")] == words, number
        (cluster.record / "engine-0").unlink()
        assert cluster.finish(cluster.batch(submits=True))[0] == 0
        assert cluster.words("engine-0")[:2] == ["engine", "run"]


class TestPodman:
    @pytest.fixture
    def podman(self, cluster: Cluster) -> Cluster:
        cluster.program("podman", ENGINE)
        return cluster

    def test_a_node_decides_what_it_needs_as_we_do_here(self, podman: Cluster) -> None:
        code, said = podman.finish(podman.batch(container=WORDS, words_at=4), HOME=str(podman.record))
        assert code == 0, said
        words = podman.words("engine-0")
        assert words[-7:] == ["--mount=x", "image", "node", "--attempt", "1", "--rank", "0"]
        here = host.facts()
        assert sorted(words[words.index("run") + 1 : -7]) == sorted(host.podman_run_flags(here))
        runtime = ["--runtime", "runc"] if "runc" in host.podman_flags(here) else []
        assert words[: words.index("run")] == ["podman", *runtime, "--cgroup-manager", "cgroupfs"]

    def test_one_that_is_not_there_is_told(self, cluster: Cluster) -> None:
        """Whatever the machine knows that the job was submitted from."""
        container = ("no-podman", *WORDS[1:])
        assert cluster.finish(cluster.batch(container=container, words_at=4))[0] == 20

    def test_what_is_left_is_removed_by_the_same_podman(self, podman: Cluster) -> None:
        podman.container("kill -KILL $$")
        remove = ("podman", "--cgroup-manager", "cgroupfs", "rm", f"x-{RANK}")
        podman.finish(podman.batch(container=WORDS, words_at=4, remove=remove), HOME=str(podman.record))
        assert podman.words("engine-0")[-5:][-2:] == ["rm", "x-0"]
