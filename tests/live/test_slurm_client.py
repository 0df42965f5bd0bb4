"""The client against a real Slurm: this machine's programs, and a login node's by ssh."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from kit.errors import LaunchError, MissingToolError
from slurm import client
from slurm.client import Client
from slurm.ways import Own, Remote
from tests.live.parts_engines import User
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_daemons import until
from tests.live.parts_slurm_login import Login, serve

pytestmark = pytest.mark.live
NEW_USER_NAMESPACE, DUMPABLE = 0x10000000, 4
AWKWARD = "a|b, c;d 'e' \"f\" $(touch hit) é\nsecond line"
# What a job is told of itself, and what turns a client's answer round.
NESTED = {
    "SLURM_JOB_ID": "4711", "SLURM_NTASKS": "64", "SLURM_PROCID": "3", "SBATCH_PARTITION": "nowhere",
    "SBATCH_TEST_ONLY": "1", "SRUN_DEBUG": "3", "SQUEUE_FORMAT": "%i", "SQUEUE_STATES": "PENDING",
    "SACCT_FORMAT": "JobID", "PMI_RANK": "3", "PMIX_NAMESPACE": "x",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(slurm: Slurm) -> Path:
    made = slurm.shared / "client"
    made.mkdir()
    made.chmod(0o777)
    return made


def script(folder: Path, text: str) -> Path:
    path = folder / f"{abs(hash(text))}.sh"
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def own(slurm: Slurm) -> Client:
    return client.find((), slurm.env | NESTED)


def test_submitted_seen_and_cancelled(own: Client, slurm: Slurm, folder: Path) -> None:
    assert own.way == Own()
    options = [f"--job-name={AWKWARD}", "--comment=slipworks:0abc:0", f"--chdir={folder}"]
    id = own.submit(script(folder, "sleep 600"), options)
    slurm.wait_for(int(id), "RUNNING")
    (job,) = own.jobs([id])
    assert (job.id, job.name, job.state, job.comment) == (id, AWKWARD, "RUNNING", "slipworks:0abc:0")
    assert job.submitted is not None and job.started is not None and abs(job.started - time.time()) < 60
    assert (job.nodes, job.node_count, job.partition) == ("n1", "1", "main")
    assert own.jobs(prefix="slipworks:0abc:") == (job,)
    assert own.commented("slipworks:0abc:") == {"slipworks:0abc:0": id}
    assert own.commented("slipworks:0abd:") == {}
    own.cancel([id])
    slurm.wait_for(int(id), "CANCELLED")
    own.cancel([id, "999999"])
    assert own.jobs(["999999"]) == () == own.jobs([])
    assert not list(folder.rglob("hit"))


def test_nothing_of_a_job_around_it_leaks(own: Client, slurm: Slurm, folder: Path) -> None:
    id = own.submit(script(folder, "env"), [f"--output={folder}/env"])
    slurm.wait_for(int(id), "COMPLETED")
    env = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines() if "=" in line)
    assert (env["SLURM_JOB_ID"], env["SLURM_PROCID"], env["SLURM_CONF"]) == (id, "0", str(slurm.conf))
    assert not (NESTED.keys() - {"SLURM_JOB_ID", "SLURM_PROCID"}) & env.keys()
    assert "SLURM_TIME_FORMAT" not in env


def test_nothing_private_is_in_the_scripts_environment(slurm: Slurm, folder: Path) -> None:
    """Nor, before that, in what the controller keeps: the one comes from the other."""
    private = {
        "MY_API_TOKEN": "s3cret",
        "APPTAINER_DOCKER_PASSWORD": "s3cret",
        "http_proxy": "http://a:s3cret@p",
    }
    found = client.find((), slurm.env | private | {"SCRATCH": "/scratch/me"})
    id = found.submit(
        script(folder, "cat /proc/$$/environ; read -t 60 <> <(:)"), [f"--output={folder}/environ"]
    )
    until(lambda: (folder / "environ").exists() and (folder / "environ").stat().st_size > 0, "the script", 30)
    (kept,) = (each.read_bytes() for each in slurm.folder.glob(f"state/*/job.{id}/environment"))
    found.cancel([id])
    told = (folder / "environ").read_bytes()
    for each in (told, kept):
        assert b"SCRATCH=/scratch/me\0" in each and b"\0PATH=" in each
        assert b"s3cret" not in each


def test_arguments_arrive_byte_for_byte(own: Client, slurm: Slurm, folder: Path) -> None:
    words = [AWKWARD, "", "-x", "\udcff\udcfe not utf-8"]
    id = own.submit(script(folder, "printf '%s\\0' \"$@\""), [f"--output={folder}/words"], words)
    slurm.wait_for(int(id), "COMPLETED")
    assert (folder / "words").read_bytes() == b"".join(os.fsencode(word) + b"\0" for word in words)


@pytest.mark.parametrize(
    ("option", "said", "hint"),
    [("--partition=nowhere", "invalid partition", "sinfo"), ("--time=soon", "invalid --time", None)],
)
def test_a_refusal_is_one_line(own: Client, folder: Path, option: str, said: str, hint: str | None) -> None:
    with pytest.raises(LaunchError) as refused:
        own.submit(script(folder, "true"), [option])
    assert said in refused.value.message.lower()
    assert "\n" not in refused.value.message
    assert (hint or "") in (refused.value.hint or "")


def test_judged_without_a_job(own: Client, folder: Path) -> None:
    before = len(own.jobs())
    assert "to start at" in own.test(script(folder, "true"), ["--nodes=2"])
    assert len(own.jobs()) == before


def test_what_the_cluster_says(own: Client) -> None:
    assert own.cluster_name() == "slipworks"
    found = {each.name: each for each in own.partitions()}
    assert set(found) == {"main", "debug"}
    assert (found["main"].default, found["debug"].default, found["main"].up) == (True, False, True)
    assert found["main"].gres == "gpu:h100:4"


def test_an_ordinary_user_in_a_user_namespace(
    slurm: Slurm, ordinary_user: User, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in podman without root: there it is root, and munge vouches for somebody else."""
    path = script(folder, "id -un")
    monkeypatch.chdir(folder)

    def submit() -> tuple[str, int]:
        user, group = os.geteuid(), os.getegid()
        kernel = ctypes.CDLL(None)
        kernel.prctl(DUMPABLE, 1)  # or /proc/self is root's still
        assert kernel.unshare(NEW_USER_NAMESPACE) == 0
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        found = client.find((), slurm.env)
        return found.submit(path, [f"--output={folder}/namespace"]), os.getuid()

    id, inside = ordinary_user.do(submit)
    assert inside == 0
    slurm.wait_for(int(id), "COMPLETED")
    assert (folder / "namespace").read_text().strip() == ordinary_user.name


# --- what is missing


def test_no_way_is_told_quickly(tmp_path: Path, slurm: Slurm) -> None:
    """Without slurm.conf, Slurm's own programs would try for a minute."""
    began = time.monotonic()
    with pytest.raises(MissingToolError) as lacking:
        client.find((), slurm.env | {"SLURM_CONF": str(tmp_path / "no such.conf")})
    assert f"no slurm.conf at {tmp_path}/no such.conf" in lacking.value.message
    with pytest.raises(MissingToolError, match="sbatch is not on PATH"):
        client.find((), {"PATH": str(tmp_path)})
    with pytest.raises(MissingToolError, match="Connection refused"):
        client.find(("gone.test",), {"PATH": str(_refusing(tmp_path))})
    assert time.monotonic() - began < 5


def _refusing(folder: Path) -> Path:
    """A folder with an ssh that goes to a port where nobody listens."""
    made = folder / "bin"
    made.mkdir()
    (made / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -p 1 -o HostName=127.0.0.1 "$@"\n')
    (made / "ssh").chmod(0o755)
    return made


# --- by ssh


@pytest.fixture(scope="module")
def login(slurm: Slurm) -> Login:
    return serve(slurm, "root")


def test_by_ssh(slurm: Slurm, login: Login, folder: Path) -> None:
    """Found where neither Slurm nor a host's client is; words arrive as they are, through two shells."""
    found = client.find(("nobody.invalid", login.host), {"PATH": str(login.path)} | NESTED)
    assert found.way == Remote(login.host)
    words = ["a b", "$(touch hit)", "it's\nso", ""]
    options = [f"--output={folder}/remote", f"--job-name={AWKWARD}", "--comment=slipworks:ssh:0"]
    id = found.submit(script(folder, "printf '%s\\0' \"$@\"; env -0"), options, words)
    slurm.wait_for(int(id), "COMPLETED")
    said = (folder / "remote").read_bytes().split(b"\0")
    assert [each.decode() for each in said[: len(words)]] == words
    assert not {each.split(b"=")[0].decode() for each in said} & (
        NESTED.keys() - {"SLURM_JOB_ID", "SLURM_PROCID"}
    )
    (job,) = found.jobs([id])
    assert job.name == AWKWARD
    assert job.ended is not None
    assert found.commented("slipworks:ssh:") == {"slipworks:ssh:0": id}
    with pytest.raises(LaunchError, match="invalid partition"):
        found.submit(script(folder, "true"), ["--partition=nowhere"])


# --- the accounting


@pytest.fixture(scope="module")
def accounted(slurm_like: Starter) -> Slurm:
    return slurm_like(Shape(count=1), accounting=True, cluster="counted")


def test_history(accounted: Slurm) -> None:
    found = Client(Own(), accounted.env | NESTED)
    name = "a|b, c;d 'e'\nf"
    bad = found.submit(script(accounted.shared, "exit 3"), [f"--job-name={name}", "--output=/dev/null"])
    good = found.submit(script(accounted.shared, "true"), ["--output=/dev/null"])
    for id in (bad, good):
        accounted.wait_for(int(id))

    def settled() -> bool:
        """Its rows are there, and no longer called "allocation", as they are for a moment."""
        rows = found.history(600, states=("FAILED", "COMPLETED")) or ()
        return len(rows) == 2 and name in {each.name for each in rows}

    until(settled, "the accounting", 30, lambda: str(found.history(600)))
    (failed,) = found.history(600, states=("FAILED",)) or ()
    assert (failed.id, failed.name, failed.state, failed.exit_code) == (bad, name, "FAILED", "3:0")
    assert failed.ended is not None and abs(failed.ended - time.time()) < 60
    assert [each.id for each in found.history(600, ids=(good,)) or ()] == [good]


def test_without_accounting(own: Client) -> None:
    assert own.history(600) is None


# --- the testbed itself


def test_a_killed_node_takes_everything_with_it(slurm_like: Starter) -> None:
    """The job's end is noticed, nothing of the node is left, and it comes back."""
    few = slurm_like(Shape(count=2), cluster="few")
    job = few.sbatch("#!/bin/bash\nsrun --nodes=2 sleep 4242\n", "--nodes=2", "--no-requeue")
    until(lambda: any("sleep 4242" in each for each in few.processes("n2")), "the step", 30)
    few.kill_node("n2")
    assert few.processes("n2") == []
    assert few.wait_for(job, seconds=60) == "NODE_FAIL"
    few.start_node("n2")
    few.quiet()


def test_hosts_with_addresses_of_their_own(slurm_like: Starter) -> None:
    net = slurm_like(Shape(count=2), addresses=True, cluster="net")
    job = net.sbatch("#!/bin/bash\nsrun --nodes=2 sh -c 'hostname; ip -brief -4 address show eth0'\n",
                     "--nodes=2", "--output=out")  # fmt: skip
    assert net.wait_for(job) == "COMPLETED"
    said = (net.shared / "out").read_text()
    addresses = {line.split()[2].split("/")[0] for line in said.splitlines() if "eth0" in line}
    assert addresses == set(net.daemons.net.addresses.values()) if net.daemons.net else False
    assert {"n1", "n2"} <= set(said.split())


def test_no_daemon_outlives_the_tests(slurm_like: Starter) -> None:
    """A testbed whose process is killed takes its daemons along."""
    root = Path(__file__).parents[2]
    program = (
        "import os; from tests.live import parts_slurm as p; made = p.started([p.Shape(count=1)]); "
        "print(made.folder, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [str(root / ".venv/bin/python"), "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    folder = done.stdout.strip()
    assert done.returncode == -9 and folder, done.stderr
    try:
        until(lambda: not _naming(folder), "the daemons to end", 20, lambda: str(_naming(folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _naming(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found
