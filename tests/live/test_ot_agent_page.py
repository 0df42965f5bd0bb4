"""The page for those who trained with OpenThoughts-Agent's launcher, followed on a Slurm like JURECA's.

Its commands are typed as they stand. The hub is a stand-in on loopback, SkyRL's main_base one that reports:
the cpu image has no SkyRL, and what its example reads Parquet with rides along as code.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from msgspec import json
from pyarrow import parquet

from runner.images import Made
from slurm import clusters
from tests.golden import examples
from tests.live.parts_engines import User
from tests.live.parts_jobs import Login, Told, logs
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_sites import shapes_of
from tests.pages import ROOT, blocks, typed
from tests.unit.parts_hub import StandIn, serving

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
PAGE = ROOT / "docs/how-to/ot-agent-on-tacc-and-jsc.md"
KEY = "w4ndb-$(key)'"
SUBMIT = ["submit", "examples/skyrl-gsm8k/job.yaml", "--cluster", "jureca"]
# What this machine has not: JURECA's interfaces and its GPUs' libraries.
OWN = """[clusters.jureca]
interface = "eth0"
node_suffix = ""
"""
MAIN_BASE = """
import json, os, pathlib, sys
from pyarrow import parquet

def main():
    row = parquet.read_table("/slipworks-run/gsm8k/train.parquet").to_pylist()[0]
    names = ("HF_HUB_OFFLINE", "WANDB_MODE", "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES")
    report = {"argv": sys.argv[1:], "truth": row["reward_spec"]["ground_truth"],
              "env": {name: os.environ.get(name) for name in names}, "wandb": "WANDB_API_KEY" in os.environ,
              "model": pathlib.Path("/slipworks-run/staged/Qwen2.5-1.5B-Instruct/config.json").read_text()}
    pathlib.Path("/slipworks-run/report.json").write_text(json.dumps(report))
"""


def answers(*given: tuple[str, str]) -> bytes:
    made = io.BytesIO()
    rows = [{"question": question, "answer": answer} for question, answer in given]
    parquet.write_table(pyarrow.Table.from_pylist(rows), made)
    return made.getvalue()


@pytest.fixture
def hub() -> Iterator[str]:
    made = StandIn()
    made.publish("model", "Qwen/Qwen2.5-1.5B-Instruct", {"config.json": b"tiny", "model.safetensors": b"0"})
    files = {f"main/{split}-0.parquet": answers(("1 + 1?", "Two.\n#### 2")) for split in ("train", "test")}
    made.publish("dataset", "openai/gsm8k", files)
    with serving(made) as address:
        yield address


@pytest.fixture
def jureca(slurm_like: Starter) -> Slurm:
    (shape,) = shapes_of(clusters.load("jureca"), nodes=1)
    return slurm_like(shape, addresses=True)


@pytest.fixture
def login(jureca: Slurm, cached_sif: Path, ordinary_user: User, hub: str) -> Iterator[Login]:
    """A user with the page's settings, its folders in the place of those that stand for them; with an old
    secret.env, and what other examples of the page take from a home."""
    shared, home = jureca.shared, ordinary_user.folder
    config = shared / "config/slipworks/config.toml"
    config.parent.mkdir(parents=True)
    text = "\n".join(blocks(PAGE.read_text(), "toml"))
    assert "/p/scratch/your-project/you" in text
    text = text.replace("/p/scratch/your-project/you", f"{shared}/scratch")
    config.write_text(text.replace("[clusters.jureca]\n", OWN, 1))
    (shared / "scratch").mkdir()
    (home / "secret.env").write_text("export HF_TOKEN='hf_$(x)'\n# DAYTONA_API_KEY=none\n")
    wanted = {name for each in examples.SKYRL for name in each.home}
    for name in wanted:
        (home / name).mkdir(parents=True)
    tops = {home / Path(name).parts[0] for name in wanted}
    mine = [shared / "config", shared / "scratch", home / "secret.env", *tops]
    for path in (*mine, *(each for above in mine for each in above.rglob("*"))):
        shutil.chown(path, ordinary_user.name)
    yield Login(
        jureca, ordinary_user, cached_sif, XDG_CONFIG_HOME=str(config.parents[1]), SLIPWORKS_RUNS="",
        SLIPWORKS_CLUSTER="jureca",  # which its host names tell
        HF_ENDPOINT=hub,
    )  # fmt: skip
    (home / "secret.env").unlink()
    for path in tops:
        shutil.rmtree(path)


@pytest.fixture
def here(login: Login, cpu: Made) -> tuple[str, ...]:
    """What is given on the command line for what is not here: the image, and SkyRL's part of the code."""
    code = login.slurm.shared / "code"
    main = code / "standin/skyrl/train/entrypoints"
    main.mkdir(parents=True)
    for folder in (main, *main.parents[:2]):
        (folder / "__init__.py").touch()
    (main / "main_base.py").write_text(MAIN_BASE)
    shutil.copytree(ROOT / "examples/skyrl-gsm8k", code / "example")  # git takes the checkout for another's
    (sif,) = (login.cache / "images/sif").glob("cpu-*.sif")
    _install_pyarrow(code / "libraries", cpu.recipe.python)
    for path in (code, *code.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    checkouts = (
        f"{{source: '{code}/example'}}, {{source: '{code}/standin'}}, "
        f"{{source: '{code}/libraries', limit: 500}}"
    )
    return f"image={sif}", f"code=[{checkouts}]", "skyrl.version=0.4.0"


def _install_pyarrow(folder: Path, version: str) -> None:
    """For the image's Python."""
    from uv import find_uv_bin

    argv = [find_uv_bin(), "pip", "install", "-q", "--no-deps", "--python-version", version, "--target",
            str(folder), "--only-binary=:all:", f"pyarrow=={pyarrow.__version__}"]  # fmt: skip
    subprocess.run(argv, check=True)


def test_the_page_as_it_is_typed(login: Login, here: tuple[str, ...]) -> None:
    """In its order, and once the job has ended the rest. Sites that are not here get a dry run."""
    assert SUBMIT in typed(PAGE)
    said: dict[str, Told] = {}
    told: Told | None = None
    for words in typed(PAGE):
        own = [each.replace("~", str(login.user.folder)) if login.user else each for each in words]
        if words == SUBMIT:
            own += [*here, "--json"]
        elif words[0] == "submit" and "--dry-run" not in words:
            own += ["--dry-run", *(() if "--cluster" in words else ("--cluster", "jureca"))]
        given = KEY if words[:2] == ["secrets", "set"] else ""
        said[" ".join(words)] = each = login.type(*own, given=given, cwd=ROOT)
        assert each.code == 0, (words, each.err)
        if words == SUBMIT:
            told = each
            assert login.ended(told) == "COMPLETED", logs(told.folder)
    assert told
    texts = {words: each.out + each.err for words, each in said.items()}
    assert not [words for words, text in texts.items() if KEY in text or "hf_$(x)" in text]
    assert "HF_TOKEN" in texts["secrets list"] and "WANDB_API_KEY" in texts["secrets list"]
    assert "#SBATCH --partition=dc-hwai" in texts[" ".join([*SUBMIT, "--dry-run"])]
    assert "juwels" in texts["clusters"] and "completed" in texts["status"]
    assert "state  completed" in texts["why last"]
    shown = login.slurm.show(told.jobs[0])
    assert (shown["Partition"], shown["Account"]) == ("dc-hwai", "your-project"), shown
    report = json.decode((told.folder.root / "report.json").read_bytes())
    assert report["truth"] == "2" and report["model"] == "tiny" and report["wandb"]
    assert report["env"]["HF_HUB_OFFLINE"] == "1" and report["env"]["WANDB_MODE"] == "offline"
    assert "trainer.strategy=fsdp" in report["argv"], "as skyrl 0.4 calls it"
    assert told.folder.root.is_relative_to(login.slurm.shared / "scratch/runs")
