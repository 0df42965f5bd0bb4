"""A job's skyrl section: the command for each version, and what is refused with its line."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from kit import exact
from kit.errors import InvalidFileError, SlipworksError, UnknownNameError, UnsupportedError, UsageError
from runner import cli
from runner import job as jobs
from runner.job import Job
from runner.skyrl import overrides, versions
from slurm import clusters

PLAIN = """name: math
arch: h100
gpus: 4
secrets: [WANDB_API_KEY]
skyrl:
  model: Qwen/Qwen2.5-1.5B-Instruct
  data:
    train: [/data/gsm8k/train.parquet]
    val: ["/data/it's, here/val.parquet"]
  overrides:
    trainer.algorithm.gamma: 1
"""
OLD, NEW = "line=cu12", "line=cu13"


def loaded(folder: Path, text: str, *more: str, cluster: str | None = "generic") -> Job:
    (folder / "job.yaml").write_text(text)
    return jobs.load(folder / "job.yaml", more, clusters.load(cluster) if cluster else None)


def refused(folder: Path, text: str, *more: str, kind: type[SlipworksError] = InvalidFileError) -> str:
    with pytest.raises(kind) as failure:
        loaded(folder, text, *more)
    assert type(failure.value) is kind
    assert len(failure.value.message.splitlines()) == 1
    return f"{failure.value.message}\n{failure.value.hint or ''}"


def written(job: Job) -> dict[str, str]:
    """Key, with its plus, -> value, as they stand in the command."""
    pairs = [word.partition("=") for word in job.command[3:]]
    assert len({key for key, _, _ in pairs}) == len(pairs), "a key is there twice"
    return {key: value for key, _, value in pairs}


# The command


def test_one_job_is_the_command_of_either_version(tmp_path: Path) -> None:
    text = PLAIN + "    trainer: {strategy: fsdp2, epochs: 20}\n    generator.backend: vllm\n"
    old, new = loaded(tmp_path, text, OLD), loaded(tmp_path, text, NEW)
    assert old.command == (
        "python", "-m", "skyrl_train.entrypoints.main_base",
        "data.train_data=[/data/gsm8k/train.parquet]",
        "data.val_data=['/data/it\\'s, here/val.parquet']",
        "trainer.policy.model.path=Qwen/Qwen2.5-1.5B-Instruct",
        "trainer.ckpt_path=/checkpoints",
        "trainer.export_path=/checkpoints/exports",
        "trainer.resume_mode=latest",
        "trainer.run_name=math",
        "hydra.run.dir=/slipworks-run/hydra",
        "trainer.placement.policy_num_nodes=1", "trainer.placement.policy_num_gpus_per_node=4",
        "trainer.placement.ref_num_nodes=1", "trainer.placement.ref_num_gpus_per_node=4",
        "trainer.placement.critic_num_nodes=1", "trainer.placement.critic_num_gpus_per_node=4",
        "generator.inference_engine_tensor_parallel_size=1",
        "generator.inference_engine_pipeline_parallel_size=1",
        "generator.inference_engine_data_parallel_size=1",
        "generator.num_inference_engines=4",
        "trainer.algorithm.gamma=1", "trainer.strategy=fsdp2", "trainer.epochs=20", "generator.backend=vllm",
    )  # fmt: skip
    assert new.command[:5] == (
        "python", "-m", "skyrl.train.entrypoints.main_base",
        "data.train_data=[/data/gsm8k/train.parquet]", 'data.val_data=["/data/it\'s, here/val.parquet"]',
    )  # fmt: skip
    assert new.command[-5:] == (
        "generator.inference_engine.num_engines=4", "trainer.algorithm.gamma=1", "trainer.strategy=fsdp",
        "trainer.epochs=20", "generator.inference_engine.backend=vllm",
    )  # fmt: skip
    assert written(new)["trainer.log_path"] == "/slipworks-run/skyrl-logs"
    assert old.env == {"HYDRA_FULL_ERROR": "1", "SLIPWORKS_SKYRL": "skyrl-train==0.3.1"}
    assert new.env == {"SLIPWORKS_SKYRL": "skyrl==0.4.0"}


def test_checkpoints_are_turned_on_and_are_the_runs_own(tmp_path: Path) -> None:
    job = loaded(tmp_path, PLAIN)
    assert job.saved and job.saved.shared is None and written(job)["trainer.ckpt_path"] == job.saved.target
    job = loaded(tmp_path, PLAIN + "checkpoints: {target: /mine, shared: base}\n")
    assert job.saved and job.saved.shared == "base"
    assert written(job)["trainer.ckpt_path"] == "/mine"
    assert written(job)["trainer.export_path"] == "/mine/exports"


def test_what_the_job_overrides_wins_over_what_the_section_makes(tmp_path: Path) -> None:
    text = (
        PLAIN + "    trainer: {resume_mode: from_path, resume_path: /old, run_name: mine, export_path: /e}\n"
    )
    found = written(loaded(tmp_path, text, "env.SLIPWORKS_SKYRL=x"))
    assert [found[f"trainer.{key}"] for key in ("resume_mode", "run_name", "export_path")] == [
        "from_path", "mine", "/e",
    ]  # fmt: skip


def test_without_data_to_evaluate_on_nothing_is_evaluated(tmp_path: Path) -> None:
    text = PLAIN.replace('\n    val: ["/data/it\'s, here/val.parquet"]', "")
    found = written(loaded(tmp_path, text))
    assert (found["data.val_data"], found["trainer.eval_interval"]) == ("[]", "-1")
    assert found["trainer.eval_before_train"] == "false"


@pytest.mark.parametrize(("version", "which"), [("0.3.1", OLD), ("0.3", OLD), ("0.4.0", NEW), (0.4, NEW)])
def test_a_version_is_said_or_read_from_the_line(tmp_path: Path, version: str | float, which: str) -> None:
    said = loaded(tmp_path, PLAIN, f"skyrl.version={version}")
    assert said.command == loaded(tmp_path, PLAIN, which).command


def test_the_line_may_be_the_clusters(tmp_path: Path) -> None:
    text = PLAIN.replace("arch: h100\n", "")
    assert loaded(tmp_path, text, cluster="jureca").command[2].startswith("skyrl.train.")
    assert clusters.load("isambard").line == "cu12", "which the next line is about"
    assert loaded(tmp_path, text, cluster="isambard").command[2].startswith("skyrl_train.")
    assert "neither version nor arch" in refused(tmp_path, text, kind=UsageError)


def test_a_job_that_is_only_looked_at_needs_no_cluster(tmp_path: Path) -> None:
    """As by runner secrets check; one that says its version, or its line, has its command."""
    job = loaded(tmp_path, PLAIN, cluster=None)
    assert job.run is None and job.command == () and job.secrets == ("WANDB_API_KEY",)
    assert loaded(tmp_path, PLAIN, OLD, cluster=None).command[2] == "skyrl_train.entrypoints.main_base"
    assert loaded(tmp_path, PLAIN, "skyrl.version=0.4", cluster=None).run


def test_an_image_says_nothing_of_its_skyrl(tmp_path: Path) -> None:
    text = PLAIN.replace("arch: h100", "image: example.org/train:1")
    said = refused(tmp_path, text, kind=UsageError)
    assert "job.yaml:2" in said and "skyrl.version=0.4.0" in said
    assert loaded(tmp_path, text, "skyrl.version=0.3.1").command[2] == "skyrl_train.entrypoints.main_base"


def test_groups_and_folders_of_groups_are_hydras(tmp_path: Path) -> None:
    text = (
        PLAIN + "  search: [/code/it's]\n  groups: {terminal_bench_config: default, skyrl_gym_config: mine}\n"
    )
    words = loaded(tmp_path, text, OLD).command
    assert words[3:6] == (
        "hydra.searchpath=['file:///code/it\\'s']", "+terminal_bench_config=default", "skyrl_gym_config=mine",
    )  # fmt: skip
    said = refused(tmp_path, text, NEW, kind=UnsupportedError)
    assert "skyrl==0.4.0 has no config groups" in said and "job.yaml:13" in said


def test_what_only_ones_own_entrypoint_knows(tmp_path: Path) -> None:
    text = PLAIN.replace("  overrides:\n", "  entrypoint: mine.main\n  extra:\n").replace(
        "trainer.algorithm.", ""
    ) + ("    generator.rate_limit: {enabled: true}\n    mine: {a: 1e-3, empty: {}}\n")
    old, new = loaded(tmp_path, text, OLD).command, loaded(tmp_path, text, NEW).command
    assert old[2] == new[2] == "mine.main"
    assert new[-3:] == ("generator.rate_limit.enabled=true", "mine.a=0.001", "mine.empty={}")
    assert old[-3:] == tuple(f"++{word}" for word in new[-3:])
    said = refused(tmp_path, text + "    trainer.epochs: 3\n")
    assert "job.yaml:15" in said and "trainer.epochs is SkyRL's own key" in said


def test_keys_below_an_open_mapping_get_hydras_plus(tmp_path: Path) -> None:
    text = PLAIN + "    generator.engine_init_kwargs: {max_model_len: 4096, hf_overrides: {a: x y}}\n"
    assert loaded(tmp_path, text, OLD).command[-2:] == (
        "++generator.engine_init_kwargs.max_model_len=4096",
        "++generator.engine_init_kwargs.hf_overrides.a='x y'",
    )
    assert loaded(tmp_path, text, NEW).command[-2:] == (
        "generator.inference_engine.engine_init_kwargs.max_model_len=4096",
        'generator.inference_engine.engine_init_kwargs.hf_overrides.a="x y"',
    )


def test_a_date_is_text(tmp_path: Path) -> None:
    """To YAML it is none."""
    text = "    trainer.project_name: 2026-01-02\n    generator.engine_init_kwargs.since: 2026-01-02\n"
    assert loaded(tmp_path, PLAIN + text, OLD).command[-2:] == (
        "trainer.project_name='2026-01-02'", "++generator.engine_init_kwargs.since='2026-01-02'",
    )  # fmt: skip


def test_a_command_line_changes_a_key_however_the_file_writes_it(tmp_path: Path) -> None:
    text = PLAIN + "    trainer.epochs: 20\n    trainer: {seed: 1, placement.colocate_all: true}\n"
    job = loaded(tmp_path, text, *(f"skyrl.overrides.trainer.{each}" for each in (
        "epochs=3", "seed=2", "placement.colocate_all=false", "policy.optimizer_config.lr=1e-6",
    )))  # fmt: skip
    found = written(job)
    assert (found["trainer.epochs"], found["trainer.seed"]) == ("3", "2")
    assert found["trainer.placement.colocate_all"] == "false"
    assert found["trainer.policy.optimizer_config.lr"] == "1e-06"


def test_a_job_with_a_section_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    job = loaded(
        tmp_path, PLAIN + "    generator.sampling_params.stop: ['</a>', null]\n", "skyrl.version=0.4"
    )
    assert exact.decode(exact.encode(job), Job) == job


# Where models and engines go


def test_all_gpus_are_filled(tmp_path: Path) -> None:
    text = PLAIN + "    generator.inference_engine_tensor_parallel_size: 2\n"
    for which, engines in ((OLD, "generator.num_inference_engines"),
                           (NEW, "generator.inference_engine.num_engines")):  # fmt: skip
        found = written(loaded(tmp_path, text, which, "nodes=3"))
        assert found[engines] == "6" and found["trainer.placement.policy_num_nodes"] == "3"


def test_engines_that_do_not_fill_the_gpus_are_refused(tmp_path: Path) -> None:
    text = PLAIN + "    generator.inference_engine.tensor_parallel_size: 2\n"
    said = refused(tmp_path, text, "gpus=3")
    assert "job.yaml:12" in said and "engines of 2 GPUs each, which do not fill 3 GPUs" in said


@pytest.mark.parametrize(
    "more", ["trainer.placement.colocate_all: false", "generator.run_engines_locally: false"]
)
def test_who_places_models_apart_says_all_of_it(tmp_path: Path, more: str) -> None:
    found = written(loaded(tmp_path, f"{PLAIN}    {more}\n", OLD))
    assert not [key for key in found if "num_nodes" in key or "num_inference" in key]
    assert "trainer.placement.policy_num_nodes" not in written(loaded(tmp_path, PLAIN, "gpus=0"))


# What is refused


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("data.train_data", "skyrl.data.train"),
        ("data.val_data", "skyrl.data.val"),
        ("trainer.policy.model.path", "skyrl.model"),
        ("trainer.ckpt_path", "checkpoints.shared"),
        ("hydra.searchpath", "skyrl.search"),
        ("trainer.override_entrypoint", "skyrl.entrypoint"),
    ],
)
@pytest.mark.parametrize("which", [OLD, NEW])
def test_guarded_keys_name_the_key_to_use(tmp_path: Path, key: str, instead: str, which: str) -> None:
    for text in (f"    {key}: x\n", "    {}: {{{}: x}}\n".format(*key.rsplit(".", 1))):
        said = refused(tmp_path, PLAIN + text, which, kind=UnsupportedError)
        assert f"job.yaml:12: {key} cannot be overridden" in said and instead in said
    said = refused(tmp_path, PLAIN, which, f"skyrl.overrides.{key}=x", kind=UnsupportedError)
    assert f"skyrl.overrides.{key}= on the command line" in said
    said = refused(
        tmp_path, PLAIN.split("  overrides:")[0] + f"  extra: {{{key}: x}}\n", which, kind=UnsupportedError
    )
    assert instead in said


@pytest.mark.parametrize(
    ("key", "which", "meant"),
    [
        ("trainer.epoch", NEW, "trainer.epochs"),
        ("trainer.algoritm.eps_clip_low", OLD, "trainer.algorithm.eps_clip_low"),
        ("generator.gpu_memory_utilisation", OLD, "generator.gpu_memory_utilization"),
        ("generator.gpu_memory_utilisation", NEW, "generator.gpu_memory_utilization"),
        ("generator.inference_engine.num_engine", NEW, "generator.inference_engine.num_engines"),
    ],
)
def test_unknown_keys_name_what_may_have_been_meant(tmp_path: Path, key: str, which: str, meant: str) -> None:
    said = refused(tmp_path, f"{PLAIN}    {key}: 1\n", which, kind=UnknownNameError)
    assert "job.yaml:12: skyrl" in said and f"no key {key!r}" in said and f"did you mean {meant!r}?" in said
    assert "skyrl.extra" in said


def test_a_key_of_the_other_version_is_told_as_such(tmp_path: Path) -> None:
    said = refused(tmp_path, PLAIN + "    trainer.mtp.enabled: true\n", OLD, kind=UnknownNameError)
    assert "skyrl-train==0.3.1 has no key 'trainer.mtp.enabled', which skyrl==0.4.0 has" in said
    said = refused(tmp_path, PLAIN + "    trainer.rope_theta: 1\n", NEW, kind=UnknownNameError)
    assert "which skyrl-train==0.3.1 has" in said


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("trainer.epochs: ten", "found 'ten' for trainer.epochs, expected a number"),
        ("trainer.epochs: true", "expected a number"),
        ("trainer.epochs: [1]", "expected a number"),
        ("trainer.epochs: 2026-01-01", "expected a number"),
        ("trainer.bf16: maybe", "expected true or false"),
        ("trainer.logger: on", "expected text (in quotes)"),
        ("trainer.policy.optimizer_config.adam_betas: 0.9", "expected a list"),
        ("trainer.policy.model_config_kwargs: x", "expected a mapping"),
        ("trainer.placement: 3", "trainer.placement holds keys of its own"),
        ("+trainer.epochs: 3", "the key alone"),
        ("trainer. epochs: 3", "names with dots between"),
        ("trainer: {epochs: 1}\n    trainer.epochs: 2", "is given twice"),
    ],
)
def test_values_that_are_none_name_their_line(tmp_path: Path, value: str, expected: str) -> None:
    line = 12 + value.count("\n")
    said = refused(tmp_path, f"{PLAIN}    {value}\n")
    assert f"job.yaml:{line}: " in said and expected in said


def test_a_key_by_both_of_its_names_is_given_twice(tmp_path: Path) -> None:
    both = "    generator.backend: vllm\n    generator.inference_engine.backend: vllm\n"
    assert "generator.inference_engine.backend is given twice" in refused(tmp_path, PLAIN + both, NEW)


def test_what_0_4_needs_no_more_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = loaded(tmp_path, PLAIN + "    generator.async_engine: true\n", NEW)
    assert not [word for word in job.command if "async_engine" in word]
    told = capsys.readouterr().err
    assert "job.yaml:12: generator.async_engine is left out" in told and "always asynchronous" in told


@pytest.mark.parametrize(
    ("text", "said", "kind"),
    [
        (PLAIN + "run: [true]\n", "found both of run and skyrl", InvalidFileError),
        (PLAIN + "ray: false\n", "found no Ray", InvalidFileError),
        (PLAIN.replace("[/data/gsm8k/train.parquet]", "[]"), "nothing to train on", InvalidFileError),
        (PLAIN.replace("Qwen/Qwen2.5-1.5B-Instruct", "''"), "an empty model", InvalidFileError),
        (PLAIN.replace("h100", "cpu"), "the line cpu has no SkyRL", UsageError),
        (PLAIN.replace("secrets: [WANDB_API_KEY]\n", ""), "ends a job without WANDB_API_KEY", UsageError),
        (PLAIN + "  version: '0.2'\n", "unknown version of SkyRL '0.2'", UnknownNameError),
        (PLAIN + "  modell: x\n", "unknown key 'modell'", UnknownNameError),
    ],
)
def test_sections_that_cannot_be(tmp_path: Path, text: str, said: str, kind: type[SlipworksError]) -> None:
    assert said in refused(tmp_path, text, kind=kind)


@pytest.mark.parametrize(
    "more",
    [
        "skyrl.overrides.trainer.logger=console",
        "env.WANDB_API_KEY=local-x",
        "env_files.WANDB_API_KEY=job.yaml",
    ],
)
def test_a_logger_that_has_what_it_needs(tmp_path: Path, more: str) -> None:
    text = PLAIN.replace("secrets: [WANDB_API_KEY]\n", "")
    assert loaded(tmp_path, text, more).command


# The tables


def test_what_was_renamed_is_a_key_of_each_version() -> None:
    old, new = (version.snapshot for version in versions.VERSIONS)
    table = versions.renamed()
    assert all(overrides.kind(old, key) and not overrides.kind(new, key) for key in table.names)
    assert all(overrides.kind(new, key) and not overrides.kind(old, key) for key in table.names.values())
    assert all(overrides.kind(old, key) and not overrides.kind(new, key) for key in table.left_out)
    assert all(overrides.kind(new, key) for key in table.values)
    assert len(set(table.names.values())) == len(table.names)


@pytest.mark.parametrize("version", versions.VERSIONS, ids=lambda each: each.version)
def test_the_keys_that_the_section_itself_writes_are_the_versions(version: versions.Version) -> None:
    known = version.snapshot.keys
    assert version.engines in known and version.local in known and set(version.parallel) <= set(known)
    assert version.log is None or version.log in known
    assert (version.snapshot.package, version.snapshot.version) == (version.package, version.version)
    assert len(known) > 200


def test_explain_shows_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text(PLAIN)
    assert cli.main(["submit", str(tmp_path / "job.yaml"), "--cluster", "jureca", "--explain"]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("command: ")]
    assert shlex.split(line)[1:] == list(loaded(tmp_path, PLAIN, cluster="jureca").command)
