"""Jobs of two sites' profiles that really run: `--cluster`, a user's file, and a Slurm with their partitions.

What sbatch says of every site's script is tested in test_slurm_script.py.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import json
from msgspec.structs import replace

from runner import submitted
from slurm import clusters
from tests.live.parts_engines import User
from tests.live.parts_jobs import Login, environment, logs, mounted_agent
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_sites import shapes_of
from tests.pages import ROOT, typed

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

# What this machine cannot have: podman of ordinary users in a node's namespace, their scratch, their GPUs.
OWN = """
[clusters.vista]
account = "ada-lab"
arch = "cpu"

[clusters.fasrc]
arch = "cpu"
engines = ["apptainer"]
scratch = "{scratch}"
"""


@pytest.fixture(scope="module")
def sites(slurm_like: Starter) -> Slurm:
    """A node of Vista's gh, which Slurm has no GPUs of, one of FASRC's gpu_test, and one of its `test`."""
    vista = replace(shapes_of(clusters.load("vista"))[0], count=1, prefix="c610-", gres=None)
    fasrc = Shape(partitions=("gpu_test",), count=1, prefix="holy8a24", gres="gpu:4", memory=64_000)
    cpus = Shape(partitions=("test",), count=1, prefix="holy7c", gres=None, cpus=48, memory=200_000)
    return slurm_like(vista, fasrc, cpus)


@pytest.fixture(scope="module")
def login(sites: Slurm, cached_sif: Path, ordinary_user: User) -> Login:
    folder = sites.shared / "config/slipworks"
    folder.mkdir(parents=True)
    scratch = sites.shared / "the user's scratch"
    scratch.mkdir()
    shutil.chown(scratch, ordinary_user.name)
    (folder / "config.toml").write_text(OWN.format(scratch=scratch))
    for path in (folder.parent, folder):
        shutil.chown(path, ordinary_user.name)
    return Login(sites, ordinary_user, cached_sif, XDG_CONFIG_HOME=str(folder.parent), SCRATCH=str(scratch))


JOB = """
name: {name}
arch: cpu
gpus: {gpus}
ray: false
checkpoints: true
run: |
  touch "$SLIPWORKS_CHECKPOINTS/seen"
  echo "{name} has ${{CUDA_VISIBLE_DEVICES-no word of GPUs}}"
"""


def test_whole_nodes_without_a_gpu_directive(login: Login) -> None:
    """As on Vista: sbatch is asked for no GPU; time limit, module and folders are the profile's."""
    told = login.submit(JOB.format(name="whole", gpus=0), "--cluster", "vista")
    assert login.ended(told) == "COMPLETED", logs(told.folder)
    shown, found = login.slurm.show(told.jobs[0]), logs(told.folder)
    assert (shown["Partition"], shown["Account"], shown["TimeLimit"]) == ("gh", "ada-lab", "01:00:00"), shown
    assert "TresPerNode" not in shown and shown["NumCPUs"] == "72", shown
    assert "whole has no word of GPUs\n" in found
    assert "tacc-apptainer is not loaded" in found
    record = submitted.read(told.folder)
    assert record and record.cluster == "vista"
    scratch = login.slurm.shared / "the user's scratch/slipworks"
    assert (scratch / "checkpoints" / told.folder.root.name / "seen").exists()


def test_gpus_by_gres(login: Login) -> None:
    """As on FASRC: of a node's GPUs the job gets as many as it asks for, by --gres."""
    told = login.submit(JOB.format(name="part", gpus=2), "--cluster", "fasrc")
    assert login.ended(told) == "COMPLETED", logs(told.folder)
    shown = login.slurm.show(told.jobs[0])
    assert shown["Partition"] == "gpu_test" and shown["TresPerNode"].endswith("gpu:2"), shown
    assert "part has 0,1\n" in logs(told.folder)
    step = environment(told.folder, 0)
    assert step["CUDA_VISIBLE_DEVICES"] == "0,1" and step["SLURMD_NODENAME"] == "holy8a241"


TRAINER = """
import hashlib, json, os, sys, urllib.request
import ray
from skyrl_agent import MARK

@ray.remote(num_gpus=1)
class Worker:
    def look(self):
        from skyrl_agent import MARK
        url, key = os.environ["SANDBOX_REMOTE_RUNTIME_API_URL"], os.environ["ALLHANDS_API_KEY"]
        asked = urllib.request.Request(url + "/list", headers={"X-API-Key": key})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            total = json.load(answer)["total"]
        return {"url": url, "mark": MARK, "total": total, "gpu": os.environ["CUDA_VISIBLE_DEVICES"],
                "key": hashlib.sha256(key.encode()).hexdigest()}

handed_on = {name: os.environ[name] for name in ("SANDBOX_REMOTE_RUNTIME_API_URL", "ALLHANDS_API_KEY")}
ray.init(runtime_env={"env_vars": {"VLLM_USE_V1": "1", **handed_on}}, num_cpus=None)
key = handed_on["ALLHANDS_API_KEY"].encode()
report = {"argv": sys.argv[1:], "cwd": os.getcwd(), "data": os.listdir("/data"),
          "url": handed_on["SANDBOX_REMOTE_RUNTIME_API_URL"], "key": hashlib.sha256(key).hexdigest(),
          "worker": ray.get(Worker.remote().look.remote())}
json.dump(report, open("/slipworks-run/report.json", "w"))
"""
PAGE = ROOT / "docs/how-to/skyrl-agent-on-fasrc.md"
SUBMIT = ["submit", "examples/fasrc-mig/job.yaml", "--cluster", "fasrc"]
KEY = "w4ndb-$(of)'the page"


@pytest.fixture
def agent(ordinary_user: User, login: Login) -> Iterator[Path]:
    """What the example's user has: a checkout whose trainer reports, data, and the agent's layer, as whoever
    ran `runner prebuild` has it."""
    mounted_agent(login.cache, ordinary_user)
    home = ordinary_user.folder
    verl = home / "src/SkyRL/skyrl-agent/skyrl_agent/integrations/verl"
    verl.mkdir(parents=True)
    for folder in (verl, *verl.parents[:2]):
        (folder / "__init__.py").write_text('MARK = "the checkout"\n')
    (verl / "verl_main_ppo.py").write_text(TRAINER)
    (home / "data/r2e-all").mkdir(parents=True)
    (home / "data/r2e-all/train.parquet").touch()
    mine = [home / name for name in ("src", "data")]
    for path in (*mine, *(each for above in mine for each in above.rglob("*"))):
        shutil.chown(path, ordinary_user.name)
    yield home
    for path in mine:
        shutil.rmtree(path)


def test_fasrcs_page_as_it_is_typed(login: Login, agent: Path) -> None:
    """The example as it stands, but for its image, and for slots of this machine's processors. Its sandboxes'
    server, on the node of the partition `test`, is asked by Ray's worker, with the key."""
    (sif,) = (login.cache / "images/sif").glob("cpu-*.sif")
    server = (
        "sandboxes.server.cpus=1",
        "sandboxes.server.reserve=0",
        "sandboxes.server.slots=1",
    )
    assert SUBMIT in typed(PAGE)
    told, said = None, ""
    for words in typed(PAGE):
        more = (f"image={sif}", *server, "--json") if words == SUBMIT else ()
        each = login.type(*words, *more, given=KEY if words[0] == "secrets" else "", cwd=ROOT,
                          SLIPWORKS_CLUSTER="fasrc")  # fmt: skip
        assert each.code == 0, (words, each.err)
        said += each.out + each.err
        if words == SUBMIT:
            told = each
            assert login.ended(told) == "COMPLETED", logs(told.folder)
    assert told and "#SBATCH --partition=test" in said and "state  completed" in said
    shown = login.slurm.show(f"{told.jobs[0]}+0")
    assert shown["Partition"] == "gpu_test" and shown["TresPerNode"].endswith("gpu:1"), shown
    report = json.decode((told.folder.root / "report.json").read_bytes())
    assert report["cwd"] == "/slipworks-run/code/0/skyrl-agent" and report["data"] == ["train.parquet"]
    assert "actor_rollout_ref.model.path=Qwen/Qwen3-1.7B" in report["argv"]
    assert report["worker"] == {
        "url": report["url"], "mark": "the checkout", "gpu": "0", "key": report["key"], "total": 0,
    }  # fmt: skip
    assert KEY not in said + logs(told.folder)


FILES = """
name: files
arch: cpu
ray: false
env_files: {SANDBOX_REMOTE_RUNTIME_API_URL: URL, ALLHANDS_API_KEY: KEY}
run: 'echo "$SANDBOX_REMOTE_RUNTIME_API_URL"; printf %s "$ALLHANDS_API_KEY" | sha256sum'
"""


def test_a_servers_address_and_key_come_from_files(login: Login) -> None:
    """Of another job's server, say: into no script, log or Slurm's memory."""
    place = login.slurm.shared / "sandboxes"
    place.mkdir()
    (place / "url").write_text("http://holy8a24101:8000\n")
    (place / "key").write_text(KEY)
    (place / "key").chmod(0o600)
    for path in (place, *place.iterdir()):
        shutil.chown(path, login.name)
    text = FILES.replace(" URL", f" '{place}/url'").replace(" KEY", f" '{place}/key'")
    told = login.submit(text, "--cluster", "vista")
    assert login.ended(told) == "COMPLETED", logs(told.folder)
    found, shown = logs(told.folder), login.slurm.show(told.jobs[0])
    assert "http://holy8a24101:8000\n" in found and hashlib.sha256(KEY.encode()).hexdigest() in found
    kept = [each for each in told.folder.root.rglob("*") if each.is_file()]
    assert not [each for each in kept if KEY.encode() in each.read_bytes()]
    assert "w4ndb-" not in str(shown)
