"""Tokens per second from logs as they really are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from runner import throughput
from runner.cli import main

STEP = """\
\x1b[32m2026-01-01 10:00:00\x1b[0m | \x1b[1mINFO\x1b[m | Started: 'step'\x1b[K
(main pid=12, ip=10.0.0.1) Started: 'generate'
(main pid=12, ip=10.0.0.1) Finished: 'generate', time cost: 78.47s
(main pid=12) avg_final_rewards: {reward}, avg_response_length: 273.68
\x1b[36m(main pid=12)\x1b[0m Finished: 'step', time cost: 99.00s
"""


def measured(text: str, trajectories: int = 396) -> throughput.Throughput:
    return throughput.measure(text.splitlines(), trajectories)


def test_the_published_step() -> None:
    """396 trajectories of 273.68 tokens in 78.47 s."""
    result = measured(STEP.format(reward="0.13"))
    assert result.steps == 1 and result.cut_off == 0
    assert result.tokens_per_second == pytest.approx(396 * 273.68 / 78.47, abs=0.1)
    assert (result.first_reward, result.last_reward) == (0.13, 0.13)


def test_cut_off_last_step_does_not_count() -> None:
    whole = STEP.format(reward="0.1")
    cut = "\n".join(STEP.format(reward="0.9").splitlines()[:-1])
    result = measured(whole + cut)
    assert (result.steps, result.cut_off, len(result.rates)) == (1, 1, 1)
    assert result.last_reward == 0.1


def test_nan_and_inf_rewards_are_left_out_and_json_stays_json(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    text = STEP.format(reward="nan") + STEP.format(reward="0.2") + STEP.format(reward="inf")
    result = measured(text)
    assert (result.first_reward, result.last_reward) == (0.2, 0.2)
    assert math.isnan(throughput.steps(text.splitlines())[0].reward or 0)
    (tmp_path / "log").write_text(text)
    assert main(["throughput", str(tmp_path / "log"), "--trajectories", "396", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3


@pytest.mark.parametrize("length", ["nan", "inf"])
def test_length_that_is_no_number_gives_no_rate(length: str) -> None:
    assert measured(STEP.format(reward="0.1").replace("273.68", length)).tokens_per_second is None


def test_zero_seconds_give_no_rate() -> None:
    assert measured(STEP.format(reward="0.1").replace("78.47s", "0.00s")).tokens_per_second is None


def test_no_generate_timer() -> None:
    text = "\n".join(line for line in STEP.format(reward="0.1").splitlines() if "generate" not in line)
    result = measured(text)
    assert result.steps == 1 and result.tokens_per_second is None
    assert ("tokens per second", "not in the log") in throughput.rows(result)


def test_several_generations_of_one_step_add_up() -> None:
    line = "Finished: 'generate', time cost: 78.47s"
    result = measured(STEP.format(reward="0.1").replace(line, f"{line}\n{line}"))
    assert result.generate_seconds == pytest.approx(156.94)


def test_lines_before_the_first_step_are_not_a_step() -> None:
    head = "Finished: 'generate', time cost: 1.0s\navg_final_rewards: 0.5, avg_response_length: 1.0\n"
    assert measured(head + STEP.format(reward="0.1")).first_reward == 0.1
    assert measured(head).steps == 0


def test_a_resumed_run_goes_on() -> None:
    """It logs `step 1` again; steps are counted by the markers' order alone."""
    assert (
        measured("step 1/2\n" + STEP.format(reward="0.1") + "step 1/2\n" + STEP.format(reward="0.2")).steps
        == 2
    )


def test_missing_log(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["throughput", str(tmp_path / "none"), "--trajectories", "1"]) == 11
    assert main(["throughput", str(tmp_path), "--trajectories", "1"]) == 11
    assert "Traceback" not in capsys.readouterr().err


def test_unknown_trajectories_are_asked_for(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "log").write_text(STEP)
    assert main(["throughput", str(tmp_path / "log")]) == 2
    assert "--trajectories" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-3"])
def test_trajectories_that_cannot_be(number: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "log").touch()
    assert main(["throughput", str(tmp_path / "log"), "--trajectories", number]) == 2
    assert f"found --trajectories-per-step {number}, expected 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", '{"name": 1}', "[]"])
def test_a_damaged_job_of_a_run(text: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "attempt-1").mkdir()
    (tmp_path / "attempt-1/node-0.log").touch()
    (tmp_path / "job.json").write_text(text)
    assert main(["throughput", str(tmp_path)]) == 11
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "job.json" in said[0]
