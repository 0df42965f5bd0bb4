"""Job files: what they may say, and how they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kit.errors import InvalidFileError, SlipworksError, UnknownNameError, UnsupportedError, UsageError
from runner import job as jobs
from runner.runs import RunFolder
from runner.submission import container, launch
from slurm import clusters

ROOT = Path(__file__).parents[2]
PLAIN = "name: j\narch: cpu\nrun: [true]\n"


def loaded(folder: Path, text: str, *overrides: str) -> jobs.Job:
    (folder / "job.yaml").write_text(text)
    return jobs.load(folder / "job.yaml", overrides)


def refused(folder: Path, text: str, *overrides: str, kind: type[SlipworksError] = InvalidFileError) -> str:
    with pytest.raises(kind) as failure:
        loaded(folder, text, *overrides)
    assert type(failure.value) is kind
    return failure.value.message + "\n" + (failure.value.hint or "")


def test_the_example_is_a_job() -> None:
    job = jobs.load(ROOT / "examples/hello-grpo/job.yaml")
    assert job.nodes == 2 and job.command == ("python", "train.py")
    assert job.mounts[0].source == str(ROOT / "examples/hello-grpo") and job.mounts[0].read_only


def test_unknown_key_names_line_and_meant_one(tmp_path: Path) -> None:
    said = refused(tmp_path, PLAIN + "node: 2\n", kind=UnknownNameError)
    assert "job.yaml:4" in said and "'node'" in said and "did you mean 'nodes'?" in said


def test_unknown_nested_key_names_its_line(tmp_path: Path) -> None:
    said = refused(tmp_path, PLAIN + "ray:\n  num_cpus: 1\n  num_gpu: 1\n", kind=UnknownNameError)
    assert "job.yaml:6" in said and "did you mean 'num_gpus'?" in said


@pytest.mark.parametrize(
    ("more", "line", "found"),
    [
        ("nodes: two\n", 4, "expected a whole number"),
        ("\n\nray:\n  args: [1]\n", 7, "expected text"),
        ("nodes: 0\n", 4, "0 nodes"),
        ("gpus: -1\n", 4, "-1 GPUs"),
        ("env:\n  A: 1\n  'B C': x\n", 6, "'B C'"),
        ("env:\n  A: [1]\n", 4, "found a list in env, expected text"),
        ("nodes: 1\nnodes: 2\n", 5, "given twice"),
        ("binds:\n- data\n", 5, "'data'"),
        ("binds: ['./none:/none']\n", 4, "does not exist"),
        ("binds: ['~no-such-user/x:/x']\n", 4, "no such home"),
        ("image: x\n", 4, "both"),
        ('env:\n  A: "a\\0b"\n', 5, "NUL"),
        ("x: [\n", 5, "not YAML"),
        ("workdir: ''\n", 4, "an empty workdir"),
        ("line: ''\n", 4, "an empty line"),
        ("a: &x [*x]\n", 4, "itself part of"),
        ("a: &x\n  b: {c: *x}\n", 5, "itself part of"),
        ("x: a\x07\n", 4, "not YAML: found the character"),
        ("x: !!python/object:os.system {}\n", 4, "not YAML that a job may hold"),
        ("x: 2026-02-31\n", 0, "not YAML that a job may hold: day"),
        ("binds:\n- {source: ., target: x}\n", 5, "found target 'x', expected an absolute path"),
        ("ray:\n  num_cpus: -1\n", 5, "-1 CPUs"),
        ("ray:\n  num_gpus: -1\n", 5, "-1 GPUs"),
        ("ray:\n  object_store_memory: 0\n", 5, "0 bytes"),
        ("ray:\n  ready_within: 0\n", 5, "0 seconds"),
        ("ray:\n  ready_within: .nan\n", 5, "nan seconds"),
        ("throughput:\n  trajectories: 0\n", 5, "0 trajectories"),
        ("secrets:\n- A\n- A B\n", 6, "'A B'"),
    ],
)
def test_bad_values_name_their_line(tmp_path: Path, more: str, line: int, found: str) -> None:
    said = refused(tmp_path, PLAIN + more)
    assert found in said
    assert (f"job.yaml:{line}" if line else "job.yaml: ") in said
    assert "<unicode string>" not in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(("key", "line"), [("arch", 2), ("image", 2)])
def test_neither_an_empty_arch_nor_an_empty_image(tmp_path: Path, key: str, line: int) -> None:
    said = refused(tmp_path, f"name: j\n{key}: ''\nrun: [true]\n")
    assert f"job.yaml:{line}: found an empty {key}" in said


@pytest.mark.parametrize(
    ("text", "line", "meant"),
    [
        (PLAIN.replace("cpu", "gh20"), 2, "gh200"),
        (PLAIN + "line: cu1\n", 4, "cu1"),
        (PLAIN + "base: bootstra\n", 4, "bootstrap"),
    ],
)
def test_unknown_names_name_their_line(tmp_path: Path, text: str, line: int, meant: str) -> None:
    said = refused(tmp_path, text, kind=UnknownNameError)
    assert f"job.yaml:{line}" in said and f"did you mean '{meant}" in said


def test_unknown_key_of_a_bind_names_those_that_there_are(tmp_path: Path) -> None:
    text = PLAIN + "binds:\n- source: .\n  target: /x\n  readonly: true\n"
    said = refused(tmp_path, text, kind=UnknownNameError)
    assert "job.yaml:7" in said and "did you mean 'read_only'?" in said


@pytest.mark.parametrize("text", ["", "- 1\n", "just text\n"])
def test_what_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert "job.yaml" in refused(tmp_path, text)


def test_missing_file_and_missing_field(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError):
        jobs.load(tmp_path / "none.yaml")
    assert "no run, which must be given" in refused(tmp_path, "name: j\narch: cpu\n")


def test_name_is_safe_for_a_folder(tmp_path: Path) -> None:
    assert "job.yaml:1" in refused(tmp_path, PLAIN.replace("name: j", "name: ../up"))


def test_values_that_exec_would_refuse(tmp_path: Path) -> None:
    assert "128 KiB" in refused(tmp_path, PLAIN, "env.BIG=" + "x" * (128 << 10))


def test_env_is_taken_as_written(tmp_path: Path) -> None:
    job = loaded(tmp_path, PLAIN + "env: {A: yes, B: 010, C: 1.50, D: null, E: ''}\n")
    assert job.env == {"A": "yes", "B": "010", "C": "1.50", "D": "null", "E": ""}


def test_words_of_run_are_taken_as_written(tmp_path: Path) -> None:
    assert loaded(tmp_path, "name: j\narch: cpu\nrun: [sleep, 1, on]\n").command == ("sleep", "1", "on")


def test_a_script_runs_by_sh(tmp_path: Path) -> None:
    assert loaded(tmp_path, "name: j\narch: cpu\nrun: |\n  a\n  b\n").command == ("/bin/sh", "-euc", "a\nb\n")


def test_overrides_win_and_are_yaml(tmp_path: Path) -> None:
    job = loaded(tmp_path, PLAIN, "nodes=2", "run=[echo, 'a b']", "env.A=yes", "ray.num_cpus=3")
    assert (job.nodes, job.command, job.env) == (2, ("echo", "a b"), {"A": "yes"})
    assert isinstance(job.ray, jobs.Ray) and job.ray.num_cpus == 3


def test_words_of_an_override_are_taken_as_written(tmp_path: Path) -> None:
    assert loaded(tmp_path, PLAIN, "run=[sleep, 1000, on]").command == ("sleep", "1000", "on")
    assert loaded(tmp_path, PLAIN, "env={A: 1, B: no}").env == {"A": "1", "B": "no"}


def test_bad_overrides(tmp_path: Path) -> None:
    assert "nodse= on the command line" in refused(tmp_path, PLAIN, "nodse=2", kind=UnknownNameError)
    assert "key=value" in refused(tmp_path, PLAIN, "nodes", kind=UsageError)
    assert "not YAML" in refused(tmp_path, PLAIN, "run=[", kind=UsageError)
    assert "nodes= on the command line" in refused(tmp_path, PLAIN, "nodes=two")
    assert "itself part of" in refused(tmp_path, PLAIN, "run=&x [*x]")
    assert "line= on the command line" in refused(tmp_path, PLAIN, "line=cp", kind=UnknownNameError)


def test_several_nodes_need_no_ray(tmp_path: Path) -> None:
    job = loaded(tmp_path, PLAIN + "ray: false\nnodes: 2\n")
    assert job.asked_of_ray is None and job.nodes == 2


def test_paths_with_colons_go_in_a_mapping(tmp_path: Path) -> None:
    odd = tmp_path / "a:b, 'c' \"d\"\ne"
    odd.mkdir()
    text = (
        PLAIN + f"binds:\n- source: {yaml.safe_dump(str(odd), default_style=chr(34)).strip()}\n  target: /x\n"
    )
    assert loaded(tmp_path, text).mounts[0].source == str(odd)


def test_secrets_come_from_the_environment(tmp_path: Path) -> None:
    job = loaded(tmp_path, PLAIN + "secrets: [A_KEY]\n")
    assert jobs.secret_values(job, {"A_KEY": "s3cret", "B": "x"}) == {"A_KEY": "s3cret"}
    with pytest.raises(UsageError, match="A_KEY"):
        jobs.secret_values(job, {})


def test_neither_env_nor_secrets_are_on_the_containers_command_line(tmp_path: Path) -> None:
    job = loaded(tmp_path, PLAIN + "env: {A: from-env}\nsecrets: [HOME]\n")
    run = container(job, RunFolder(tmp_path), "image", tmp_path, 1)
    assert run.env == {"SLIPWORKS_RANK": "1"} and "from-env" not in " ".join(run.argv)


def test_gpus_of_one_machine_are_not_shared_by_nodes(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError):
        launch(loaded(tmp_path, PLAIN + "nodes: 2\ngpus: 1\n"), clusters.load("local"), "00000000")


def test_unknown_cluster() -> None:
    with pytest.raises(UnknownNameError) as failure:
        clusters.load("locl")
    assert failure.value.hint == "did you mean 'local'?"
