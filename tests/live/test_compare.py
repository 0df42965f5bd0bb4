"""`runner compare` and `runner throughput` on a real Slurm, with stand-ins of router and trainer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec import json

from runner.runs import RunFolder
from tests.live.parts_jobs import Login, Told, logs
from tests.pages import ROOT, typed

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
HERE = Path(__file__).with_name("thunderagent")
JOB = """
name: ta
arch: cpu
ray: false
sbatch: {exclusive: true}
code: [standin]
env: {ROUTER: default, ACTING_TOKEN_WEIGHT: "1.0"}
services:
  - name: router
    nodes: head
    ready: http://127.0.0.1:18471/health
    run: |
      exec python -m ThunderAgent --host 127.0.0.1 --port 18471 --backends http://127.0.0.1:18472/engines/0 \\
        --router "$ROUTER" --backend-type skyrl --acting-token-weight "$ACTING_TOKEN_WEIGHT" --metrics
run: python /slipworks-run/code/0/train.py http://127.0.0.1:18471/health /tmp/profiles $MORE
throughput: {trajectories: 396}
artifacts: [{source: "/tmp/profiles/**", every: 1}]
"""
ARMS = """
settings: [env.ROUTER, env.ACTING_TOKEN_WEIGHT, env.MORE]
arms:
  default: [env.ROUTER=default, env.MORE=]
  tr: [env.ROUTER=tr, env.ACTING_TOKEN_WEIGHT=0.1, env.MORE=--fail]
  more: [env.ROUTER=tr, env.ACTING_TOKEN_WEIGHT=0.1, env.MORE=, nodes=2]
"""


@pytest.fixture(scope="module")
def folder(user: Login) -> Path:
    made = user.slurm.shared / "it's a comparison"
    shutil.copytree(HERE, made / "standin", ignore=shutil.ignore_patterns("__pycache__"))
    (made / "job.yaml").write_text(JOB)
    (made / "arms.yaml").write_text(ARMS)
    for path in (made, *made.rglob("*")):
        shutil.chown(path, user.name)
        path.chmod(0o755)
    return made


def test_arms_that_differ_elsewhere_are_refused(user: Login, folder: Path) -> None:
    told = user.type("compare", str(folder), "--arms", "default,more")
    assert told.code == 11 and "the arms default and more differ in nodes" in told.err, told.err
    assert told.out == "" and not list(user.runs.glob("ta-*"))


def test_two_arms_from_submission_to_the_table(user: Login, folder: Path) -> None:
    """The command finds the router ready; artifacts come while it runs, and at last once it has failed."""
    told = user.type("compare", str(folder), "--arms", "default,tr", "--json")
    assert told.code == 0, told.err
    assert "default and tr differ in env.ROUTER 'default' against 'tr'" in told.err
    arms = json.decode(told.out)["arms"]
    found = {name: RunFolder(Path(each["run"])) for name, each in arms.items()}
    for name, each in arms.items():
        state = user.ended(Told(0, json.encode(each).decode(), ""))
        assert state == ("FAILED" if name == "tr" else "COMPLETED"), logs(found[name])
        assert user.slurm.show(int(each["jobs"][0]))["ExitCode"] == ("3:0" if name == "tr" else "0:0")
        kept = found[name].artifacts / "tmp/profiles/step_profiles.csv"
        assert kept.read_text() == "last\n", logs(found[name])
        router = found[name].attempt(1).service_log("router", 0).read_text()
        assert f"Router mode: {name}\n" in router
    out = user.slurm.shared / "a table"
    out.mkdir()
    shutil.chown(out, user.name)
    told = user.type("throughput", *(each.run_id for each in found.values()), "--out", str(out))
    assert told.code == 0, told.err
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in told.out.splitlines() if line[:1] == "|"
    ]
    numbers = ["1222.7", "1809.6", "+586.9", "+48.0%"]
    assert rows[2:] == [["1", *numbers], ["2", *numbers], ["Average of 2", *numbers]], told.out
    for line in (
        "- ta-default, step 3: cut off: its end is not in the log",
        "- ta-tr, step 3: cut off: its end is not in the log",
    ):
        assert line in told.out.splitlines(), told.out
    assert "the jobs differ in env.ROUTER, env.ACTING_TOKEN_WEIGHT, env.MORE" in told.err
    written = json.decode((out / "throughput-ta-default-ta-tr.json").read_bytes())
    assert written["paired"] == 2 and round(written["average"]["percent"], 1) == 48.0
    assert len(ElementTree.parse(out / "throughput-ta-default-ta-tr.svg").getroot()) > 5
    user.slurm.quiet()


PAGE = ROOT / "docs/how-to/compare-thunderagent.md"
UV = """#!/bin/sh
# `uv run` where there is no index: without its own words, what it was to run is run.
shift
while :; do
    case $1 in
        --isolated | --no-project) shift ;;
        --with-editable | --extra) shift 2 ;;
        -m | *.py) exec python "$@" ;;
        *) exec "$@" ;;
    esac
done
"""
MAIN_MINI_SWE = """
import json, os, sys
import train
json.dump(sys.argv[1:], open("/slipworks-run/argv.json", "w"))
sys.argv[1:] = ["http://127.0.0.1:8001/health", "/tmp/thunderagent_profiles"]
sys.exit(train.main())
"""


@pytest.fixture
def checkout(user: Login) -> Iterator[Path]:
    """~/ThunderAgent as far as the example asks for it, with the stand-ins; and a `uv` for its image."""
    assert user.user
    made = user.user.folder / "ThunderAgent"
    shutil.copytree(
        HERE / "ThunderAgent", made / "ThunderAgent", ignore=shutil.ignore_patterns("__pycache__")
    )
    below = made / "examples/rl_training/SkyRL/skyrl-train"
    (below / "examples/mini_swe_agent").mkdir(parents=True)
    shutil.copy(HERE / "train.py", below)
    (below / "examples/mini_swe_agent/preprocess_swegym.py").write_text(PREPROCESS)
    (below / "examples/mini_swe_agent/main_mini_swe.py").write_text(MAIN_MINI_SWE)
    (made / "uv").write_text(UV)
    for path in (made, *made.rglob("*")):
        shutil.chown(path, user.name)
        path.chmod(0o755)
    yield made
    shutil.rmtree(made)


PREPROCESS = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
folder.mkdir(parents=True)
for name in ("train", "validation"):
    (folder / f"{name}.parquet").touch()
"""


def test_the_page_and_the_example_as_they_stand(user: Login, checkout: Path) -> None:
    """Typed in the page's order. What is not here is given in its place: the image, `uv`, eight GPUs; files
    are kept every second, for the stand-in waits for the first copy."""
    (sif,) = (user.cache / "images/sif").glob("cpu-*.sif")
    here = (
        f"image={sif}", "gpus=4", f"binds=['{checkout}/uv:/usr/local/bin/uv:ro']",
        "artifacts=[{source: '/tmp/thunderagent_profiles/**', every: 1}]",
    )  # fmt: skip
    arms: dict[str, RunFolder] = {}
    out = user.slurm.shared / "the page's logs"
    out.mkdir()
    shutil.chown(out, user.name)
    for words in typed(PAGE):
        if words[0] == "secrets":
            said = user.type(*words, given="a key", cwd=ROOT)
        elif words[0] == "compare":
            more = [] if "--dry-run" in words else ["--json"]
            said = user.type(*words, *here, *more, cwd=ROOT)
            if more:
                arms = _ended(user, said)
        else:
            runs = [each.run_id for each in arms.values()]
            own = ["throughput", *runs] if words[1:] == ["RUN", "RUN"] else words
            said = user.type(*own, cwd=out)
            rows = [" ".join(line.split()) for line in said.out.splitlines()]
            assert "| Average of 2 | 1222.7 | 1809.6 | +586.9 | +48.0% |" in rows, said.out
        assert said.code == 0, (words, said.err)
        for name, run in arms.items():
            shutil.copyfile(run.attempt(1).log(0), out / f"{name}.log")
    assert {each.name for each in (out / "comparison").iterdir()} == {
        "throughput-default-tr.json", "throughput-default-tr.svg",
    }  # fmt: skip
    for run in arms.values():
        argv = json.decode((run.root / "argv.json").read_bytes(), type=list[str])
        assert "data.train_data=['/tmp/swe_gym_subset/train.parquet']" in argv
        assert "trainer.ckpt_path=/checkpoints" in argv and "trainer.policy.model.path=Qwen/Qwen3-14B" in argv


def _ended(user: Login, said: Told) -> dict[str, RunFolder]:
    """The runs of a comparison's arms, once all of them went well."""
    assert said.code == 0, said.err
    found = {}
    for name, each in json.decode(said.out)["arms"].items():
        found[name] = RunFolder(Path(each["run"]))
        assert user.ended(Told(0, json.encode(each).decode(), "")) == "COMPLETED", logs(found[name])
    return found
