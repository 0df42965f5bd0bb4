"""The command of a skyrl section, read by the versions' own wheels, with Hydra and OmegaConf of the locks."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import structs

from definitions import lines
from kit import process
from kit.errors import NetworkError
from runner import job as jobs
from runner.skyrl import overrides, snapshot, versions
from runner.skyrl.versions import VERSIONS, Version
from tests.golden import examples, skyrl_commands
from tests.live.needs import need
from tests.unit.test_skyrl import PLAIN

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

READERS = ("antlr4-python3-runtime", "hydra-core", "omegaconf", "pyyaml")
LINE = {"0.3.1": "cu12", "0.4.0": "cu13"}
PROGRAM = Path(__file__).with_name("skyrl_configured.py")
Configured = Callable[..., Any]
Read = Callable[[Sequence[str]], Any]


def pinned(version: Version) -> list[str]:
    """What reads the configuration, as the lock of the version's line has it."""
    (lock,) = lines.load(LINE[version.version]).folder.glob("cp312-amd64.lock")
    found = re.findall(r"^([a-z0-9-]+==[^ ]+) ", lock.read_text(), re.MULTILINE)
    return [each for each in found if each.partition("==")[0] in READERS]


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda each: each.version)
def version(request: pytest.FixtureRequest) -> Version:
    found = request.param
    assert isinstance(found, Version)
    return found


def fetched(version: Version, folder: Path) -> Path:
    """The folder, with the version's wheel in it, without its dependencies."""
    try:
        snapshot.install(version, folder)
    except NetworkError as away:
        need(False, away.message)
    return folder


def install_readers(version: Version, folder: Path) -> Path:
    """The folder, with what reads the version's configuration."""
    from uv import find_uv_bin

    argv = [find_uv_bin(), "pip", "install", "-q", "--no-deps", "--python", sys.executable, "--target",
            str(folder), "packaging", *pinned(version)]  # fmt: skip
    process.run(argv, what="install what reads configurations")
    return folder


@pytest.fixture(scope="module")
def wheel(version: Version, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetched(version, tmp_path_factory.mktemp(version.version))


@pytest.fixture(scope="module")
def readers(version: Version, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_readers(version, tmp_path_factory.mktemp("readers"))


@pytest.fixture(scope="module")
def read(version: Version, wheel: Path, readers: Path) -> Read:
    """What the version makes of the words behind its entrypoint; AssertionError with what it says of them."""

    def made(words: Sequence[str]) -> Any:
        how, folder = ("hydra", wheel / "skyrl_train/config") if version.hydra else ("dotlist", wheel)
        done = subprocess.run(
            [sys.executable, str(PROGRAM), how, str(folder), *words], capture_output=True, text=True,
            env={"PYTHONPATH": str(readers), "HOME": "/home/ada", "HYDRA_FULL_ERROR": "1", "LANG": "C.UTF-8"},
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return made


@pytest.fixture
def configured(version: Version, read: Read, tmp_path: Path) -> Configured:
    """What the version makes of a job."""

    def made(text: str, *more: str) -> Any:
        (tmp_path / "job.yaml").write_text(text)
        # The run folder of the job, where Hydra writes down what it read, is not here.
        hydra = (f"skyrl.overrides.hydra.run.dir={tmp_path}/hydra",) if version.hydra else ()
        job = jobs.load(tmp_path / "job.yaml", (f"skyrl.version={version.version}", *hydra, *more))
        return read(job.command[3:])

    return made


def test_the_committed_keys_are_the_wheels(version: Version, wheel: Path) -> None:
    committed = Path(snapshot.__file__).parent / versions.FOLDER / f"{version.version}.toml"
    assert committed.read_text() == snapshot.text(snapshot.read(version, wheel)), "make skyrl-keys"


def test_the_keys_are_those_of_the_configuration_itself(version: Version, configured: Configured) -> None:
    """Which is read here by running it, and there without."""
    known = version.snapshot
    config = configured(PLAIN)
    there = dict(overrides.flat(config, known))
    unknown = [key for key in there if overrides.kind(known, key) is None and "deepspeed_config" not in key]
    assert not unknown and len(there) > 200
    for key in known.keys:
        place: Any = config
        for name in key.split("."):
            if place is None:
                break  # an optional part, which the default leaves out
            assert name in place, key
            place = place[name]


def test_a_job_is_the_configuration_that_it_says(version: Version, configured: Configured) -> None:
    config = configured(
        PLAIN
        + """    trainer: {strategy: fsdp2, epochs: 20, use_sample_packing: false, seed: "7"}
    trainer.policy.optimizer_config.lr: 1e-6
    trainer.run_name: "null"
    trainer.resume_mode: none
    trainer.policy.optimizer_config.adam_betas: [0.9, 0.95]
    generator.inference_engine_tensor_parallel_size: 2
    generator.async_engine: true
    generator.sampling_params.stop: ["</answer>", "it's \\\\"]
    generator.engine_init_kwargs: {max_model_len: 4096, hf_overrides: {rope: "a: b, [c]"}}
    generator.max_input_length: ${trainer.max_prompt_length}
    trainer.max_prompt_length: 333
"""
    )
    trainer, generator = config["trainer"], config["generator"]
    engine = generator if version.hydra else generator["inference_engine"]
    assert config["data"]["train_data"] == ["/data/gsm8k/train.parquet"]
    assert config["data"]["val_data"] == ["/data/it's, here/val.parquet"]
    assert trainer["policy"]["model"]["path"] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert trainer["ref"]["model"]["path"] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert trainer["ckpt_path"] == "/checkpoints" and trainer["export_path"] == "/checkpoints/exports"
    assert trainer["strategy"] == ("fsdp2" if version.hydra else "fsdp")
    assert trainer["use_sample_packing" if version.hydra else "remove_microbatch_padding"] is False
    assert (trainer["epochs"], trainer["seed"], trainer["algorithm"]["gamma"]) == (20, 7, 1)
    assert trainer["policy"]["optimizer_config"]["lr"] == 1e-6
    assert trainer["policy"]["optimizer_config"]["adam_betas"] == [0.9, 0.95]
    assert (trainer["run_name"], trainer["resume_mode"]) == ("null", "none")
    assert generator["sampling_params"]["stop"] == ["</answer>", "it's \\"]
    assert generator["max_input_length"] == trainer["max_prompt_length"] == 333
    assert engine["engine_init_kwargs"] == {"max_model_len": 4096, "hf_overrides": {"rope": "a: b, [c]"}}
    assert engine["num_inference_engines" if version.hydra else "num_engines"] == 2


def test_groups_of_a_checkout_are_found(version: Version, configured: Configured, tmp_path: Path) -> None:
    """With what the job adds to them, as examples/skyrl-terminal-bench/old.yaml does."""
    if not version.hydra:
        return  # refused: a unit test
    folder = tmp_path / "it's, a checkout/terminal_bench_config"
    folder.mkdir(parents=True)
    (folder / "default.yaml").write_text(
        "# @package terminal_bench_config\nagent: {kwargs: {max_turns: 1}}\n"
    )
    config = configured(
        f"""{PLAIN}  search: ["{folder.parent}"]
  groups: {{terminal_bench_config: default}}
  extra: {{terminal_bench_config: {{trials_dir: /t, agent.kwargs.max_turns: 32}}}}
"""
    )
    assert config["terminal_bench_config"] == {"agent": {"kwargs": {"max_turns": 32}}, "trials_dir": "/t"}


HOSTILE = [
    "", " ", "a b", "null", "Null", "~", "true", "False", "on", "no", "y", "1", "01", "1_000",
    "0x1f", "12:30", "2026-01-01", "inf", ".nan", "-", "- a", "[a", "]", "{a: b}", "a: b", "a #b", "#a",
    "'", '"', "''", "it's", "\\", "\\\\", "\\'", "'\\", "a\\", 'a\\"', "a\\\\'b\\", "$", "$HOME", "{}",
    "a=b", "+a", "~a", "a,b", "(a)", "a;b", "é", "日本", "\U0001f600", "\t", "a\nb", "\n", "a\n", "\r",
    "\x07", "\x7f", "\x85", "\u2028", "\ufeff", "`id`", "%(a)s", "!a", "&a", "*a", "@a", "|", ">", "?",
    "/a/b-c_d.e", "s3://b/k", "C:\\d", "<|im_end|>", "a\\${b", "=",
]  # fmt: skip


def test_every_value_arrives_as_it_is(version: Version, configured: Configured) -> None:
    """Text of every kind, also in lists and in mappings of lists; numbers, truth and nothing."""
    chance = random.Random(6)
    letters = "ab1. \t\n'\"\\,:[]{}()=#&*!|>%@~+-/é😀\x85"
    texts = ["".join(chance.choices(letters, k=chance.randint(1, 9))) for _ in range(300)]
    values: list[Any] = [*HOSTILE, *(each for each in texts if not re.fullmatch(r"[-+\d.]+e[-+\d]+", each))]
    values += [chance.sample(values, 3) for _ in range(30)]
    values += [[{"a": each, "b_c": [each]}] for each in values[:60]]
    values += [0, -1, 1.5, 1e-6, 1e22, -0.0, True, False, None, [], [[1], [None, True]], [{}], float("inf")]
    asked = {f"k{number}": value for number, value in enumerate(values)}
    flow = yaml.safe_dump(asked, default_flow_style=True, width=1 << 20)
    config = configured(f"{PLAIN}    generator.engine_init_kwargs: {flow}\n")
    engine = config["generator"] if version.hydra else config["generator"]["inference_engine"]
    came = engine["engine_init_kwargs"]
    wrong = {repr(value): came.get(key) for key, value in asked.items()
             if came.get(key) != expected(value) or type(came.get(key)) is not type(value)}  # fmt: skip
    assert not wrong and len(came) == len(asked) > 400


def expected(value: Any) -> Any:
    """OmegaConf's own escape is taken off."""
    if isinstance(value, list):
        return [expected(each) for each in value]
    if isinstance(value, dict):
        return {key: expected(each) for key, each in value.items()}
    return value.replace("\\${", "${") if isinstance(value, str) else value


def test_what_is_refused_here_is_refused_by_the_version_itself(
    version: Version, read: Read, tmp_path: Path
) -> None:
    """A key that it has not, and Hydra's plus where there is none: the checks are about this very program."""
    hydra = [f"hydra.run.dir={tmp_path}"] if version.hydra else []
    with pytest.raises(AssertionError, match=r"Key 'epoch' is not in struct|Invalid fields \{'epoch'\}"):
        read([*hydra, "trainer.epoch=2"])
    with pytest.raises(AssertionError, match=r"already at|is not supported"):
        read([*hydra, "+trainer.epochs=2"])


def test_the_examples_are_taken_by_the_version_that_they_are_for(
    version: Version, read: Read, tmp_path: Path
) -> None:
    """Also its own check of batch sizes. What another entrypoint adds is for that one to read."""
    read_before: dict[tuple[str, ...], str] = {}
    for name, example, cluster in skyrl_commands.cases():
        typed = (*example.overrides.get(cluster, ()), "skyrl.extra={}", "skyrl.groups={}", "skyrl.search=[]")
        job = examples.dry(structs.replace(example, overrides={cluster: typed}), cluster).job
        if job.env["SLIPWORKS_SKYRL"] != version.requirement or job.command in read_before:
            continue  # the sites at Juelich differ in nothing that the command says
        read_before[job.command] = name
        words = [word for word in job.command[3:] if not word.startswith("hydra.run.dir=")]
        config = read([*words, f"hydra.run.dir={tmp_path}"] if version.hydra else words)
        placement = config["trainer"]["placement"]
        engine = config["generator"] if version.hydra else config["generator"]["inference_engine"]
        engines = engine["num_inference_engines" if version.hydra else "num_engines"]
        gpus = placement["policy_num_nodes"] * placement["policy_num_gpus_per_node"]
        assert gpus == job.nodes * job.gpus == engines, name
        assert config["trainer"]["ckpt_path"] == "/checkpoints", name
    assert len(read_before) == (3 if version.hydra else 9), read_before.values()
