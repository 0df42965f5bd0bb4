"""`runner compare` and `runner throughput` on a real Slurm, with stand-ins of router and trainer."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec import json

from runner.runs import RunFolder
from tests.live.parts_jobs import Login, Told, logs

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
