"""The training YAML of a job, and variables from files: checked at submission, carried, seen on nodes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.errors import InvalidFileError, LaunchError
from runner import env_files, fixing, job, submission, training
from runner.chosen import Chosen
from runner.fixes import datasets_cache
from runner.fixing import facts_like
from runner.job import Job
from runner.runs import RunFolder
from runner.variables import of_command, of_node
from slurm import clusters

YAML = """
# comments stay
model_name_or_path: allenai/OLMo-3-1025-7B
chat_template_name: olmo
num_learners_per_node: [1]
actor: {model: {path: inner}}
dataset_mixer_list: [a, "1.0"]
learning_rate: 1.0e-6
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "grpo.yaml").write_text(YAML)
    (tmp_path / "url").write_text(" http://holy8a24101:8000\n")
    return tmp_path


def loaded(place: Path, more: str) -> Job:
    (place / "job.yaml").write_text(f"name: j\narch: cpu\nrun: 'true'\n{more}")
    return job.load(place / "job.yaml")


def test_it_is_carried_byte_for_byte_and_the_command_is_told_where(place: Path) -> None:
    found = loaded(place, "training: grpo.yaml\n")
    assert found.training == str(place / "grpo.yaml")
    plan = submission.launch(found, clusters.load("isambard"), "0badcafe")
    assert plan.env["SLIPWORKS_TRAINING"] == "/slipworks-run/training.yaml"
    folder = RunFolder(place / "run")
    submission.write(folder, found, plan, Chosen(reference="x", engine="apptainer"), {})
    carried = folder.root / Path(plan.env["SLIPWORKS_TRAINING"]).name
    assert carried.read_text() == YAML and stat.S_IMODE(carried.stat().st_mode) == 0o600


def test_a_job_without_one_says_nothing_of_it(place: Path) -> None:
    found = loaded(place, "")
    assert training.of(found) == {} and training.variables(found) == {} and not training.tokenized_for(found)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a: [1\n", "grpo.yaml:2: not YAML"),
        ("- a\n", "found no mapping"),
        ("", "empty, expected keys and values for the program"),
        ("a: 1\nb: 2\na: 3\n", "grpo.yaml:3: a is given twice"),
        ("a: !!python/object:os.system x\n", "not YAML that a job may hold"),
    ],
)
def test_what_is_no_yaml_is_told_at_submission(place: Path, text: str, wrong: str) -> None:
    (place / "grpo.yaml").write_text(text)
    with pytest.raises(InvalidFileError, match=wrong):
        loaded(place, "training: grpo.yaml\n")


def test_one_that_is_not_there_is_told_with_the_jobs_line(place: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"job.yaml:4: .*/none.yaml does not exist"):
        loaded(place, "training: none.yaml\n")


def test_data_sets_are_cached_by_what_the_yaml_tokenizes_for(place: Path) -> None:
    """Another chat template in the YAML is another folder, though the command is the same."""
    found = loaded(place, "training: grpo.yaml\n")
    isambard = clusters.load("isambard")
    plan = submission.launch(found, isambard, "0badcafe")
    assert plan.datasets_key == (
        "actor.model.path=inner\nchat_template_name=olmo\nmodel_name_or_path=allenai/OLMo-3-1025-7B"
    )
    (place / "grpo.yaml").write_text(YAML.replace("olmo\n", "olmo_thinker\n"))
    other = submission.launch(found, isambard, "0badcafe")
    named = replace(plan, command=("python", "x.py", "--tokenizer_name", "t"))
    folders = {
        datasets_cache.apply(facts_like(), each).env["HF_DATASETS_CACHE"] for each in (plan, other, named)
    }
    assert len(folders) == 3


def test_variables_from_files_are_read_on_the_node_and_are_in_no_plan(place: Path) -> None:
    found = loaded(place, "env_files: {SANDBOX_URL: url}\n")
    assert found.env_files == {"SANDBOX_URL": str(place / "url")}
    (bind,) = env_files.binds(found)
    assert (bind.source, bind.target, bind.read_only) == (place / "url", "/slipworks-env/SANDBOX_URL", True)
    plan = submission.launch(found, clusters.load("fasrc"), "0badcafe")
    assert plan.env_files == {"SANDBOX_URL": "/slipworks-env/SANDBOX_URL"} and "SANDBOX_URL" not in plan.env
    here = replace(plan, env_files={"SANDBOX_URL": str(place / "url")})
    facts = facts_like(env={"PATH": "/bin", "MODULEPATH": "x"}, foreign=("MODULEPATH",))
    fixed, _ = fixing.fixed(facts, here)
    env = of_node(facts, fixed, RunFolder(place))
    assert env["SANDBOX_URL"] == "http://holy8a24101:8000" and "MODULEPATH" not in env
    assert of_command(env, fixed)["SANDBOX_URL"] == "http://holy8a24101:8000"


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ("env_files: {A-B: url}\n", "job.yaml:4: found 'A-B'"),
        ("env_files: {A: url}\nenv: {A: x}\n", "A is given twice: in env_files, and in env"),
        ("env_files: {A: url}\nsecrets: [A]\n", "A is given twice: in env_files, and in secrets"),
        ("env_files: {A: ''}\n", "found an empty path"),
        ("env_files: {A: none}\n", "/none does not exist"),
        ("env_files: {A: .}\n", "is no file"),
    ],
)
def test_wrong_files_of_variables_are_told_at_submission(place: Path, more: str, wrong: str) -> None:
    with pytest.raises(InvalidFileError, match=wrong):
        loaded(place, more)


@pytest.mark.parametrize(
    ("held", "wrong"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"a\0b", "NUL"), (b"\xff", "no text"), (b"x" * 131072, "KiB")],
)
def test_a_value_that_no_program_can_be_given_is_not_quoted(place: Path, held: bytes, wrong: str) -> None:
    (place / "url").write_bytes(held)
    plan = fixing.launch_like(env_files={"A": str(place / "url")})
    with pytest.raises(LaunchError, match=wrong) as told:
        env_files.read(plan)
    assert "xxx" not in told.value.message
    with pytest.raises(LaunchError, match="No such file"):
        env_files.read(fixing.launch_like(env_files={"A": str(place / "none")}))
