"""An arm of ThunderAgent's comparison on one node, with stand-ins of router and trainer, and no container."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from runner import comparison, training_log
from runner.launch import Artifact, Service
from runner.runs import RunFolder
from tests.unit.parts_node import alone, job

pytestmark = pytest.mark.timeout(120)
HERE = Path(__file__).parents[1] / "live/thunderagent"
ROUTER = (
    'exec "$PYTHON" -m ThunderAgent --host 127.0.0.1 --port {} --router "$ROUTER" --acting-token-weight "$W"'
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(("router", "weight", "rate"), [("default", "1.0", 1222.7), ("tr", "0.1", 1809.6)])
def test_the_router_is_ready_first_and_artifacts_come_however_it_ends(
    router: str, weight: str, rate: float, folder: RunFolder
) -> None:
    """The trainer asks the router once; it goes on when a file was copied, and ends badly as `tr`."""
    port, profiles = free_port(), folder.root / "profiles"
    url = f"http://127.0.0.1:{port}/health"
    job(
        folder, sys.executable, "train.py", url, str(profiles), *(["--fail"] if router == "tr" else []),
        workdir=str(HERE), env={"ROUTER": router, "W": weight, "PYTHON": sys.executable},
        services=(Service(name="router", run=ROUTER.format(port), nodes="head", ready=url),),
        artifacts=(Artifact(source=f"{profiles}/**", every=0.1),),
    )  # fmt: skip
    code, log = alone(folder)
    assert code == (3 if router == "tr" else 0), log
    kept = folder.artifacts / str(profiles / "step_profiles.csv").lstrip("/")
    assert kept.read_text() == "last\n", "copied once more at the end"
    run = comparison.Run(
        label=router, source="", trajectories=396, steps=tuple(training_log.steps(log.splitlines()))
    )
    rates, left = comparison.counted(run)
    assert [round(each.rate(396) or 0, 1) for each in rates.values()] == [rate, rate]
    assert [(each.step, each.why[:7]) for each in left] == [(3, "cut off")]
