"""What a job says of time, code, checkpoints, services, artifacts and sbatch's own options."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.errors import InvalidFileError, UnknownNameError, UnsupportedError, UsageError
from runner import job as jobs
from runner.job import Checkpoints, Code
from runner.launch import Artifact, Service
from slurm import times
from tests.unit.test_job import PLAIN, loaded, refused


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30", 1800),
        ("12:30", 750),
        ("12:00:00", 43200),
        ("1-00", 86400),
        ("1-02:03", 93780),
        ("2-03:04:05", 183845),
        ("UNLIMITED", float("inf")),
    ],
)
def test_a_time_is_what_is_written(tmp_path: Path, written: str, seconds: float) -> None:
    """12:00:00 is a number to YAML: 43200."""
    from_file = loaded(tmp_path, f"{PLAIN}time: {written}\n")
    from_override = loaded(tmp_path, PLAIN, f"time={written}")
    assert from_file.time == from_override.time == written
    assert times.seconds(written) == seconds


def test_options_of_sbatch_are_passed_as_written(tmp_path: Path) -> None:
    text = (
        PLAIN + "sbatch: {--mem: 010, constraint: 'a&b', requeue: true, time-min: 1:00:00, qos: null-ish}\n"
    )
    assert loaded(tmp_path, text).sbatch == {
        "mem": "010", "constraint": "a&b", "requeue": True, "time-min": "1:00:00", "qos": "null-ish"
    }  # fmt: skip
    assert loaded(tmp_path, PLAIN, "sbatch.begin=16:00").sbatch == {"begin": "16:00"}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("array: 1-4", "one run folder is one job"),
        ("wrap: true", "run:"),
        ("ntasks: 4", "one container is started a node"),
        ("ntasks-per-node: 2", "one container is started a node"),
        ("export: ALL", "env:"),
        ("comment: mine", "found again by it"),
        ("time: 30", "time:"),
        ("--job-name: x", "name:"),
    ],
)
def test_options_that_break_a_run_are_refused_with_the_reason(tmp_path: Path, option: str, said: str) -> None:
    told = refused(tmp_path, f"{PLAIN}sbatch:\n  {option}\n", kind=UnsupportedError)
    assert "job.yaml:5" in told and said in told


def test_what_asks_for_one_task_a_node_is_no_harm(tmp_path: Path) -> None:
    assert loaded(tmp_path, PLAIN + "sbatch: {ntasks-per-node: 1}\n").sbatch == {"ntasks-per-node": "1"}


@pytest.mark.parametrize(
    ("more", "line", "found"),
    [
        ("time: soon\n", 4, "'soon'"),
        ("time: 0\n", 4, "'0'"),
        ("time: 1\nwarn: 60\n", 5, "60 s before the end of a job of 60 s"),
        ("warn: 0\n", 4, "0 seconds"),
        ("warn: 65536\n", 4, "65536"),
        ("restarts: -1\n", 4, "-1 restarts"),
        ("restarts: 100\n", 4, "99"),
        ("code: [none]\n", 4, "does not exist"),
        ("code: ['']\n", 4, "empty source"),
        ("code: [job.yaml]\n", 4, "is no folder"),
        ("code:\n- source: .\n  imports: [../up]\n", 6, "'../up'"),
        ("code:\n- source: .\n  imports: [lib]\n", 5, "no folder lib"),
        ("code:\n- source: .\n  limit: 0\n", 6, "0 MB"),
        ("checkpoints: {target: here}\n", 4, "'here'"),
        ("checkpoints:\n  shared: a/b\n", 5, "'a/b'"),
        ("services:\n- name: a/b\n  run: x\n", 5, "'a/b'"),
        ("services:\n- {name: a, run: x}\n- {name: a, run: x}\n", 6, "two services"),
        ("services:\n- name: a\n  run: []\n", 6, "empty command"),
        ("services:\n- name: a\n  run: x\n  ready: 80\n", 7, "expected text"),
        ("services:\n- name: a\n  run: x\n  ready: '80'\n", 7, "'80'"),
        ("services:\n- name: a\n  run: x\n  env: {A B: c}\n", 7, "'A B'"),
        ("artifacts: [out]\n", 4, "'out'"),
        ("artifacts:\n- source: /out\n  every: 0\n", 6, "0 seconds"),
        ("keep_env: ['*']\n", 4, "'*'"),
        ("sbatch: {p: x}\n", 4, "'p'"),
        ('sbatch:\n  qos: "a\\nb"\n', 5, "line break"),
        ("sbatch: {mem: 1, --mem: 2}\n", 4, "twice"),
        ('binds:\n- "a\\ud800:/x"\n', 5, "lone surrogate"),
    ],
)
def test_bad_values_name_their_line(tmp_path: Path, more: str, line: int, found: str) -> None:
    said = refused(tmp_path, PLAIN + more)
    assert found in said and f"job.yaml:{line}:" in said and len(said.splitlines()) == 1


def test_unknown_keys_of_what_is_inside_name_the_meant_one(tmp_path: Path) -> None:
    for more, meant in (
        ("checkpoints: {targt: /x}\n", "target"),
        ("code:\n- sorce: .\n", "source"),
        ("services:\n- {name: a, run: x, redy: 'port:1'}\n", "ready"),
    ):
        said = refused(tmp_path, PLAIN + more, kind=UnknownNameError)
        assert f"did you mean '{meant}'?" in said


def test_short_forms_become_whole_ones(tmp_path: Path) -> None:
    (tmp_path / "fork/lib").mkdir(parents=True)
    text = PLAIN + (
        "code: [fork, {source: fork, imports: [lib], limit: 5}]\n"
        "checkpoints: true\nartifacts: [/out, {source: /x, every: 60}]\n"
        "services: [{name: s, run: [sleep, 1, on], env: {A: 1}}]\n"
    )
    job = loaded(tmp_path, text)
    fork = str(tmp_path / "fork")
    assert job.checkouts == (Code(source=fork), Code(source=fork, imports=("lib",), limit=5))
    assert job.saved == Checkpoints()
    assert job.kept == (Artifact(source="/out"), Artifact(source="/x", every=60.0))
    assert job.services == (Service(name="s", run=("sleep", "1", "on"), env={"A": "1"}),)
    assert loaded(tmp_path, PLAIN).saved is None


def test_neither_arch_nor_image_is_for_the_cluster_to_say(tmp_path: Path) -> None:
    job = loaded(tmp_path, "name: j\nrun: [true]\n")
    assert job.arch is None and job.image is None


def test_more_than_exec_takes_is_refused(tmp_path: Path) -> None:
    big = "x" * (120 << 10)
    said = refused(tmp_path, PLAIN, *(f"env.A{number}={big}" for number in range(9)))
    assert "1 MiB" in said
    assert "128 KiB" in refused(tmp_path, PLAIN, f"run=[echo, {'x' * (128 << 10)}]")
    with pytest.raises(UsageError, match="128 KiB"):
        jobs.secret_values(loaded(tmp_path, PLAIN + "secrets: [S]\n"), {"S": "x" * (128 << 10)})


def test_bytes_that_are_no_text_are_carried(tmp_path: Path) -> None:
    odd = b"\xff\xfe'\"$(x)".decode("utf-8", "surrogateescape")
    assert loaded(tmp_path, PLAIN, f"env.A={odd}").env == {"A": odd}


def test_an_image_has_no_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="only an arch"):
        loaded(tmp_path, "name: j\nimage: x\nline: cu129\nrun: [true]\n")
