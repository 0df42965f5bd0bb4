"""The example of open-instruct on Isambard, as it stands, on a Slurm with Isambard's profile.

A program in the place of the training reports what it, and Ray's workers on both nodes, see. Its image is the
cpu image, as a user's own file; GPUs are Slurm's word alone, and any library stands for NCCL.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import json

from slurm import clusters
from tests.live.parts_engines import User
from tests.live.parts_jobs import Login, Told, environment, logs
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_daemons import until
from tests.pages import ROOT, blocks, typed

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

PAGE = ROOT / "docs/how-to/open-instruct-on-isambard.md"
EXAMPLE = ROOT / "examples/open-instruct-isambard/job.yaml"
LIBRARY = f"/usr/lib/{platform.machine()}-linux-gnu/libBrokenLocale.so.1"  # stands for the wheel's NCCL
BAD = tuple(node for each in clusters.load("isambard").exclude for node in each.nodes)
KEY = "w4ndb-$(key)'"
SUBMIT = ["submit", "examples/open-instruct-isambard/job.yaml", "--cluster", "isambard"]
# What this machine has not: Isambard's interfaces, its processors.
OWN = """
[clusters.isambard]
arch = "cpu"
engines = ["apptainer"]
interface = "eth0"
interfaces = { nccl = "eth" }
"""
PROGRAM = """
import hashlib, json, os, pathlib, sys, urllib.request
import ray, ray.util.scheduling_strategies, yaml
import open_instruct

NAMES = ("NCCL_", "FI_", "GLOO_", "VLLM_", "RAY_raylet", "RAY_gcs_rpc", "RAY_CGRAPH", "HF_", "CODE_API_URL",
         "LD_PRELOAD", "RAY_ADDRESS", "SLIPWORKS_TRAINING", "SLIPWORKS_CHECKPOINTS", "SLURM_NTASKS",
         "CUDA_VISIBLE_DEVICES")

def has(pid):
    return "libBrokenLocale" in pathlib.Path(f"/proc/{pid}/maps").read_text()

def seen():
    key = os.environ.get("WANDB_API_KEY", "")
    return {
        "env": {name: value for name, value in os.environ.items() if name.startswith(NAMES)},
        "cwd": os.getcwd(), "imported": open_instruct.__file__, "mark": open_instruct.MARK,
        "preloaded": has("self"), "daemon": has(os.getppid()),
        "judge": urllib.request.urlopen(os.environ["CODE_API_URL"] + "/health", timeout=10).status,
        "key": hashlib.sha256(key.encode()).hexdigest(), "address": ray.util.get_node_ip_address(),
    }

@ray.remote(num_gpus=1, num_cpus=0)
class Learner:
    def look(self):
        return seen()

config = yaml.safe_load(open(sys.argv[1]))
ray.init(dashboard_host="0.0.0.0", runtime_env={"excludes": [".git/"], "env_vars": dict(os.environ)})
state = pathlib.Path(config["checkpoint_state_dir"])
before = (state / "latest").read_text() if (state / "latest").exists() else None
learners = [
    Learner.options(scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        node["NodeID"], soft=False)).remote()
    for node, number in zip(ray.nodes(), config["num_learners_per_node"], strict=True) for _ in range(number)
]
report = {
    "argv": sys.argv, "training": config, "path": sys.path, "driver": seen(), "before": before,
    "learners": ray.get([each.look.remote() for each in learners]), "resources": ray.cluster_resources(),
}
number = 1 if before is None else 2
pathlib.Path(f"/slipworks-run/report-{number}.json").write_text(json.dumps(report))
if before is None:
    state.mkdir(parents=True)
    (state / "latest").write_text("step 20")
    sys.exit("ImportError: libtorch_cuda.so: undefined symbol: ncclCommWindowRegister")
print("went on from", before)
"""


@pytest.fixture(scope="module")
def isambard(slurm_like: Starter) -> Slurm:
    """Two nodes as Isambard's are called, and those that its profile leaves out."""
    like = {"cpus": 288, "memory": 200_000, "gres": "gpu:4"}
    good = Shape(names=("nid010001", "nid010002"), **like)  # type: ignore[arg-type]
    return slurm_like(good, Shape(names=BAD, **like), addresses=True)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def login(isambard: Slurm, cached_sif: Path, ordinary_user: User) -> Iterator[Login]:
    """A user with a checkout, an image and a config.toml of their own."""
    shared, home = isambard.shared, ordinary_user.folder
    (shared / "config/slipworks").mkdir(parents=True)
    (shared / "config/slipworks/config.toml").write_text(settings(shared))
    checkout = home / "src/open-instruct/open_instruct"
    checkout.mkdir(parents=True)
    (checkout / "grpo_fast.py").write_text(PROGRAM)
    (checkout / "__init__.py").write_text('MARK = "the checkout, as it was"\n')
    (home / "images").mkdir()
    (sif,) = (cached_sif / "images/sif").glob("cpu-*.sif")
    shutil.copyfile(sif, home / "images/open-instruct.sif")
    for folder in (shared / "the user's scratch", shared / "config/slipworks"):
        folder.mkdir(exist_ok=True)
        shutil.chown(folder, ordinary_user.name)
    mine = [home / "src", home / "images"]
    for path in (*mine, *(each for above in mine for each in above.rglob("*"))):
        shutil.chown(path, ordinary_user.name)
    yield Login(
        isambard, ordinary_user, cached_sif, XDG_CONFIG_HOME=str(shared / "config"), SLIPWORKS_RUNS="",
        SLIPWORKS_CLUSTER="",
    )  # fmt: skip
    for path in mine:
        shutil.rmtree(path)


def settings(shared: Path) -> str:
    """The page's own, with the user's folders in the place of those that stand for them, and OWN."""
    text = "\n".join(blocks(PAGE.read_text(), "toml"))
    assert "/projects/your_project/you" in text
    text = text.replace("/projects/your_project/you", f"{shared}/the user's scratch")
    return text.replace("[clusters.isambard]", OWN.strip())


@pytest.fixture(scope="module")
def typing(login: Login) -> dict[str, Told]:
    """The page, followed as far as the submission, which is `told`'s: what each command said. The training
    file of the user's own is for more nodes than there are: that is looked at, as a dry run."""
    assert login.user
    (login.user.folder / "mine.yaml").write_text("num_learners_per_node: [1, 1]\n")
    found = {}
    for words in typed(PAGE):
        if words == SUBMIT or words[0] in ("status", "logs", "why"):
            continue
        own = [each.replace("~", str(login.user.folder)) for each in words]
        more = ["--dry-run"] if "nodes=10" in words else []
        given = KEY if words[0] == "secrets" else ""
        found[" ".join(words)] = each = login.type(*own, *more, given=given, cwd=ROOT)
        assert each.code == 0, (words, each.err)
    return found


def test_the_page_up_to_the_submission(typing: dict[str, Told]) -> None:
    said = {words: told.out + told.err for words, told in typing.items()}
    submit = " ".join(SUBMIT)
    assert list(typing) == [
        "doctor --cluster isambard", "secrets set WANDB_API_KEY", f"{submit} --dry-run",
        f"{submit} training=~/mine.yaml nodes=10", f"{submit} --explain",
    ]  # fmt: skip
    assert "WANDB_API_KEY: stored" in said["secrets set WANDB_API_KEY"]
    assert "isambard" in said["doctor --cluster isambard"]
    assert "#SBATCH --nodes=2\n" in typing[f"{submit} --dry-run"].out
    assert "#SBATCH --nodes=10\n" in typing[f"{submit} training=~/mine.yaml nodes=10"].out
    assert "NCCL" in said[f"{submit} --explain"]
    assert KEY not in "".join(said.values())


@pytest.fixture(scope="module")
def told(login: Login, typing: dict[str, Told]) -> Told:
    """The example, submitted with what no profile can know, once a later job of its chain has ended well."""
    assert SUBMIT in typed(PAGE)
    made = login.type(*SUBMIT, "restarts=3", f"env.VLLM_NCCL_SO_PATH={LIBRARY}", "--json", cwd=ROOT)
    assert made.code == 0, made.err
    # What is changed after the submission is not what runs.
    assert login.user
    (login.user.folder / "src/open-instruct/open_instruct/__init__.py").write_text("1 / 0\n")
    until(made.folder.finished.exists, "the end of the chain", 400, lambda: logs(made.folder))
    assert made.folder.finished.read_text() == "succeeded\n", logs(made.folder)
    return made


@pytest.fixture(scope="module")
def report(told: Told) -> dict[str, Any]:
    found: dict[str, Any] = json.decode((told.folder.root / "report-1.json").read_bytes())
    return found


def test_the_job_has_whole_nodes_and_no_bad_one(login: Login, told: Told) -> None:
    shown = login.slurm.show(told.jobs[0])
    assert shown["NumNodes"] == "2" and shown["TresPerNode"].endswith("gpu:4"), shown
    assert shown["OverSubscribe"] == "NO" and shown["TimeLimit"] == "1-00:00:00", shown
    assert {environment(told.folder, rank)["SLURMD_NODENAME"] for rank in (0, 1)} == {
        "nid010001",
        "nid010002",
    }


def test_logs_lie_where_the_profile_says(login: Login, told: Told) -> None:
    assert told.folder.root.parent == login.slurm.shared / "the user's scratch/logs"
    names = {each.name for each in told.folder.root.iterdir()}
    assert {f"slurm-{job}.out" for job in told.jobs[: len(told.folder.attempts())]} <= names
    assert told.folder.attempt(1).log(1).exists()


def test_the_program_runs_from_the_checkout_with_both_layers(told: Told, report: dict[str, Any]) -> None:
    driver = report["driver"]
    assert driver["cwd"] == "/slipworks-run/code/0"
    assert driver["imported"] == "/slipworks-run/code/0/open_instruct/__init__.py"
    assert "/slipworks-run/code/0" in report["path"]
    assert report["argv"] == ["open_instruct/grpo_fast.py", "/slipworks-run/training.yaml"]
    assert driver["env"]["SLIPWORKS_TRAINING"] == "/slipworks-run/training.yaml"
    assert told.folder.training.read_bytes() == (EXAMPLE.parent / "training.yaml").read_bytes()
    assert report["training"]["model_name_or_path"] == "allenai/OLMo-3-1025-7B"


def test_one_learner_a_node_sees_what_the_driver_sees(report: dict[str, Any]) -> None:
    driver, learners = report["driver"], report["learners"]
    assert len({each["address"] for each in learners}) == 2
    assert report["resources"]["GPU"] == 8.0, "as Slurm said, though this machine has none"
    for each in learners:
        assert each["mark"] == "the checkout, as it was"
        assert each["judge"] == 200, "the code server of its own node, which the training file asks for"
        assert each["imported"] == "/slipworks-run/code/0/open_instruct/__init__.py"
        assert each["key"] == hashlib.sha256(KEY.encode()).hexdigest() == driver["key"]
        assert each["env"]["VLLM_HOST_IP"] == each["address"], "its own, not the driver's"
        assert len(each["env"]["CUDA_VISIBLE_DEVICES"]) == 1, "Ray's word, not Slurm's"
        assert each["env"]["HF_DATASETS_CACHE"] == driver["env"]["HF_DATASETS_CACHE"]
    assert "VLLM_HOST_IP" not in driver["env"] and "SLURM_NTASKS" not in driver["env"]


def test_slingshot_ray_and_the_preload(report: dict[str, Any]) -> None:
    """The table of what open-instruct needed there; Ray's own daemons have no preload."""
    fabric = clusters.load("isambard").fabric
    assert fabric
    for each in (report["driver"], *report["learners"]):
        env = each["env"]
        for name, value in {**fabric.environment, "RAY_raylet_start_wait_time_s": "120"}.items():
            assert env[name] == value
        assert env["GLOO_SOCKET_IFNAME"] == "eth0" and env["RAY_gcs_rpc_server_connect_timeout_s"] == "60"
        assert env["RAY_CGRAPH_get_timeout"] == "300" and env["VLLM_LOGGING_LEVEL"] == "WARNING"
        assert env["LD_PRELOAD"].split(":")[0] == LIBRARY and each["preloaded"]
    assert not any(each["daemon"] for each in report["learners"]), "raylets"
    address = report["driver"]["env"]["RAY_ADDRESS"]
    assert address.partition(":")[0] == report["driver"]["address"].strip()


def test_the_page_after_the_submission(login: Login, told: Told) -> None:
    said = {}
    for words in typed(PAGE):
        if words[0] in ("status", "logs", "why"):
            said[words[0]] = each = login.type(*words, cwd=ROOT)
            assert each.code == 0, (words, each.err)
    assert told.folder.run_id in said["status"].out and "node 1" in said["logs"].out + said["logs"].err
    assert "state  completed" in said["why"].out


def test_what_broke_it_off_is_known(login: Login, told: Told) -> None:
    """`runner why` of the attempt in which the program ended by itself, and the end of that attempt's log."""
    number = str(len(told.folder.attempts()) - 1)
    said = login.type("why", str(told.folder.root), "--attempt", number, "--json")
    assert said.code == 0, said.err
    (found,) = json.decode(said.out)["failures"]
    assert found["name"] == "nccl-too-old" and found["log"].endswith(f"attempt-{number}/node-0.log")
    log = login.type("logs", str(told.folder.root), "--attempt", number)
    assert log.err.startswith("note: nccl-too-old: ") and "note:" not in log.out


def test_the_chain_goes_on_from_the_checkpoint(login: Login, told: Told) -> None:
    """The command failed by itself after it had left a state: the next of the chain goes on from there."""
    second = json.decode((told.folder.root / "report-2.json").read_bytes())
    assert second["before"] == "step 20" and "went on from step 20" in logs(told.folder)
    attempts = len(told.folder.attempts())
    states = [login.slurm.wait_for(job) for job in told.jobs]
    assert states[attempts - 2 :] == ["FAILED", "COMPLETED", *["CANCELLED"] * (4 - attempts)]
    login.slurm.quiet()
    assert KEY not in logs(told.folder) + (told.folder.root / "job.sbatch").read_text()
