"""Two runs step by step: the arithmetic, what is left out, the table, the plot, and how runs are named."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import comparison, comparison_plot, training_log
from runner.cli import main
from runner.comparison import Comparison, Run
from runner.runs import RunFolder
from tests.unit.parts_training_log import RESUMES, SCRATCH, STARTS, at_rate, cut, step, without
from tests.unit.parts_watch import attempt, run, runs

__all__ = ["runs"]
DEFAULT, TR = 1222.7, 1809.6
"""Tokens per second that ThunderAgent's README shows for a step of 396 trajectories."""


def a_run(*logs: str, label: str = "a", trajectories: int = 396) -> Run:
    steps = training_log.of_run([log.splitlines() for log in logs])
    return Run(label=label, source=f"/logs/{label}", trajectories=trajectories, steps=tuple(steps))


def compared(first: str, second: str) -> Comparison:
    return comparison.compared(a_run(first), a_run(second, label="b"))


def test_the_published_reference_as_arithmetic() -> None:
    """A step of each at the published rates: what they come to, not that anything was run."""
    found = compared(at_rate(DEFAULT), at_rate(TR))
    assert found.average and found.paired == 1
    assert found.average.first == pytest.approx(1222.7) and found.average.second == pytest.approx(1809.6)
    assert found.average.delta == pytest.approx(586.9) and found.average.percent == pytest.approx(
        48.0003, abs=1e-3
    )
    lines = comparison.markdown(found).splitlines()
    assert lines[0] == "# Rollout tokens/sec: a against b"
    assert lines[5:] == [
        "|         Step | a tokens/sec | b tokens/sec |  Delta | Delta % |",
        "|-------------:|-------------:|-------------:|-------:|--------:|",
        "|            1 |       1222.7 |       1809.6 | +586.9 |  +48.0% |",
        "| Average of 1 |       1222.7 |       1809.6 | +586.9 |  +48.0% |",
    ]


def test_the_average_is_over_what_both_completed() -> None:
    found = compared(
        at_rate(100) + at_rate(300) + without(at_rate(9), "generate") + at_rate(500),
        at_rate(200) + at_rate(150) + at_rate(800) + cut(at_rate(9)),
    )
    assert [(row.step, row.paired) for row in found.rows] == [(1, True), (2, True), (3, False), (4, False)]
    assert found.average and (found.paired, round(found.average.delta)) == (2, -25)
    assert found.average.percent == pytest.approx(-12.5)
    assert {(each.run, each.step, each.why) for each in found.left_out} == {
        ("a", 3, "no generate timer, as of asynchronous trainers"),
        ("a", 4, "b has not completed it"),
        ("b", 3, "a has not completed it"),
        ("b", 4, "cut off: its end is not in the log"),
    }
    table = comparison.markdown(found)
    assert "|            3 |            - |        800.0 |      - |       - |" in table
    assert "\n- a, step 3: no generate timer" in table and "\n- b, step 4: cut off" in table


def test_a_step_made_twice_counts_as_it_was_made_last() -> None:
    one = STARTS + SCRATCH + at_rate(10) * 4 + cut(at_rate(10))
    two = STARTS + RESUMES.format(2) + at_rate(20) * 4
    found = comparison.compared(a_run(one, two), a_run(at_rate(20) * 6, label="b"))
    assert [round(row.first or 0) for row in found.rows] == [10, 10, 20, 20, 20, 20] and found.paired == 6
    assert [(each.step, each.attempt, each.why) for each in found.left_out] == [
        (3, 1, "made again after a resume"), (4, 1, "made again after a resume"),
        (5, 1, "cut off: its end is not in the log"),
    ]  # fmt: skip
    assert "- a, step 3-4 (attempt 1): made again after a resume" in comparison.markdown(found)


def test_a_step_that_was_cut_off_when_made_again_counts_as_before() -> None:
    log = STARTS + SCRATCH + at_rate(10) * 3 + STARTS + RESUMES.format(2) + cut(at_rate(20))
    found = compared(log, at_rate(10) * 3)
    assert found.paired == 3 and [each.why for each in found.left_out] == [
        "cut off: its end is not in the log"
    ]


def test_nothing_in_common() -> None:
    found = compared(without(step(), "generate") * 3, "no log of a training at all\n")
    assert found.average is None and found.rows == () and found.paired == 0
    table = comparison.markdown(found)
    assert "No step was completed by both." in table and "- a, step 1-3: no generate timer" in table
    ElementTree.fromstring(comparison_plot.svg(found))


def test_a_rate_of_zero_has_no_percent() -> None:
    found = compared(step(length="0.0"), at_rate(10))
    assert found.average and found.average.percent is None
    assert "|            1 |          0.0 |         10.0 | +10.0 |       - |" in comparison.markdown(found)


def drawn(found: Comparison) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(comparison_plot.svg(found)))


def test_the_plot_has_a_line_a_run_with_gaps() -> None:
    """What it shows is where the numbers say: the higher rate is higher up, later steps further right."""
    labels = (
        a_run(at_rate(10) * 5, label='<a> & "b"'),
        a_run(at_rate(20) + step(seconds=0) + at_rate(40) * 3),
    )
    parts = drawn(comparison.compared(*labels))
    lines = [each.get("points", "").split() for each in parts if each.tag.endswith("polyline")]
    assert [len(points) for points in lines] == [5, 3]
    places = [[tuple(map(float, point.split(","))) for point in points] for points in lines]
    assert places[0][2:] and all(x == far for (x, _), (far, _) in zip(places[0][2:], places[1], strict=True))
    assert all(low > high for (_, low), (_, high) in zip(places[0][2:], places[1], strict=True))
    assert [x for x, _ in places[0]] == sorted(x for x, _ in places[0])
    dots = [each for each in parts if each.tag.endswith("circle")]
    assert len(dots) == 5 + 4
    texts = [each.text or "" for each in parts if each.tag.endswith("text")]
    assert any(text.startswith('<a> & "b": 10.0 tokens/sec over 4 paired steps') for text in texts)


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(0, 1e12)), max_size=120))
def test_every_plot_lies_on_its_page(rates: list[tuple[float, float]]) -> None:
    found = compared("".join(at_rate(a) for a, _ in rates), "".join(at_rate(b) for _, b in rates))
    for each in drawn(found):
        for name, most in (("x", comparison_plot.WIDTH), ("cx", comparison_plot.WIDTH),
                           ("y", comparison_plot.HEIGHT), ("cy", comparison_plot.HEIGHT)):  # fmt: skip
            assert 0 <= float(each.get(name, "0")) <= most
    assert json.loads(json.dumps([row.step for row in found.rows])) == list(range(1, len(rates) + 1))


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["throughput", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_two_logs_of_the_old_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rate in (("slurm-25609.err", DEFAULT), ("slurm-25610.err", TR)):
        (tmp_path / name).write_text(at_rate(rate) + step(reward="nan"))
    logs = [str(tmp_path / "slurm-25609.err"), str(tmp_path / "slurm-25610.err")]
    out = tmp_path / "it's\nout"
    code, answer, said = typed(capsys, *logs, "--trajectories-per-step", "396", "--out", str(out))
    assert (
        code == 0
        and "| +586.9 |  +48.0% |" in answer
        and answer.startswith("# Rollout tokens/sec: slurm-25609")
    )
    assert "Average of 2" in answer, "a nan reward loses no step"
    written = json.loads((out / "throughput-slurm-25609-slurm-25610.json").read_text())
    assert written["paired"] == 2 and written["runs"][0]["trajectories_per_step"] == 396
    assert ElementTree.parse(out / "throughput-slurm-25609-slurm-25610.svg") and "written: " in said
    code, answer, _ = typed(capsys, *logs, "--trajectories", "396", "--json", "--out", str(out))
    assert code == 0 and json.loads(answer) == written
    assert typed(capsys, *logs)[0] == 2, "a log says no trajectories"
    assert typed(capsys, *logs, logs[0])[0] == 2
    assert typed(capsys, logs[0], str(tmp_path / "none"))[0] == 11


def logged(runs: Path, name: str, id: str, *logs: str, **more: object) -> RunFolder:
    made = run(runs, name, id)
    job = {"name": name, "nodes": 1, "throughput": {"trajectories": 396}, "env": {"ROUTER": name}} | more
    made.job.write_text(json.dumps(job))
    for number, log in enumerate(logs, 1):
        attempt(made, number, log=log)
    return made


def test_two_runs_by_their_ids(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = logged(runs, "x-default", "0badcafe", at_rate(100), at_rate(100))
    second = logged(runs, "x-tr", "0badcaff", at_rate(150) * 2)
    code, answer, said = typed(capsys, "0badcafe", str(second.root))
    assert code == 0, said
    assert "# Rollout tokens/sec: x-default against x-tr" in answer and "Average of 2 |" in answer
    assert "the jobs differ in env.ROUTER" in said
    assert (tmp_path / "throughput-x-default-x-tr.svg").is_file()
    assert typed(capsys, "0badcafe", "nothing")[0] == 10
    for folder in (first, second):
        say = json.loads(folder.job.read_text())
        say |= {"skyrl": {"model": "m"}, "run": ["python", f"trainer.run_name={say['name']}"]}
        folder.job.write_text(json.dumps(say))
    assert "differ in env.ROUTER\n" in typed(capsys, "0badcafe", "0badcaff")[2], "what skyrl makes is no word"
    one = typed(capsys, "x-default")[1]
    assert "tokens per second        100" in one and "steps                    2\n" in one


def test_two_runs_of_one_name(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = logged(runs, "x", "0badcafe", at_rate(100))
    second = logged(runs, "x", "0badcaff", at_rate(100), throughput={"trajectories": 8})
    code, answer, said = typed(capsys, "0badcafe", "0badcaff")
    assert code == 0 and f"{first.root.name} against {second.root.name}" in answer
    assert "note: a step has 396 trajectories in one and 8 in the other" in said
    assert typed(capsys, "0badcafe", "0badcafe")[1].startswith("# Rollout tokens/sec: x (1) against x (2)")


def test_a_run_without_a_log(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged(runs, "x", "0badcafe")
    code, _, said = typed(capsys, "x")
    assert code == 11 and "no training log" in said


@pytest.mark.parametrize("name", ["caf\udce9.log", "a\nb|c.log", "<&>\x07.log"])
def test_awkward_names(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text(at_rate(10))
    (tmp_path / "b.log").write_text(
        at_rate(10) + "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")
    )
    words = (str(tmp_path / name), str(tmp_path / "b.log"), "--trajectories", "396", "--out", str(tmp_path))
    code, answer, said = typed(capsys, *words)
    assert code == 0, said
    assert len([line for line in answer.splitlines() if line.startswith("|")]) == 4
    (made,) = tmp_path.glob("*.json")
    assert json.loads(made.read_text())["paired"] == 1
    ElementTree.parse(made.with_suffix(".svg"))
