"""A training with SkyRL on its nodes: what Ray gets that SkyRL does not pass on, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from kit import exact, files
from kit.errors import LaunchError
from runner import fixing, prerequisites, ray_hook, submission, variables
from runner.chosen import Chosen
from runner.fixes import printed_token, worker_argv
from runner.fixing import facts_like, launch_like
from runner.job import Job
from runner.launch import Launch
from runner.runs import RunFolder

# What neither version hands from its driver to Ray's workers, so that it must be Ray's own, on every node.
NOT_PASSED_ON = (
    "HF_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_DATASETS_OFFLINE", "HF_DATASETS_CACHE",
    "TRANSFORMERS_OFFLINE", "TRANSFORMERS_CACHE", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "WANDB_MODE",
    "WANDB_DIR", "WANDB_PROJECT", "WANDB_ENTITY", "NCCL_SOCKET_IFNAME", "NCCL_NET", "NCCL_IB_HCA",
    "GLOO_SOCKET_IFNAME", "VLLM_HOST_IP", "VLLM_CACHE_ROOT", "FI_PROVIDER", "TRITON_CACHE_DIR", "http_proxy",
    "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "SKYRL_RAY_PG_TIMEOUT_IN_S", "SKYRL_PYTHONPATH_EXPORT",
    "HYDRA_FULL_ERROR", "PYTORCH_CUDA_ALLOC_CONF", "TOKENIZERS_PARALLELISM", "RAY_CGRAPH_get_timeout",
)  # fmt: skip
SKYRL = ("python", "-m", "skyrl.train.entrypoints.main_base")


def environments(
    root: Path, launch: Launch, rank: int, env: dict[str, str], secrets: dict[str, str]
) -> list[dict[str, str]]:
    """Ray's and the command's on a node, after all fixes. `env`: what came in from outside."""
    folder = RunFolder(root / "run")
    folder.make()
    files.write(folder.secrets, exact.encode(secrets), mode=0o600)
    facts = facts_like(rank=rank, nodes=2, env={"PATH": "/bin", **env}, foreign=tuple(sorted(env)))
    launch = fixing.fixed(facts, launch)[0]
    ray = variables.of_node(facts, launch, folder)
    return [ray, variables.of_command(ray, launch)]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("way", ["the job's env", "secrets", "from outside"])
def test_ray_has_on_every_node_what_skyrl_does_not_pass_on(tmp_path: Path, rank: int, way: str) -> None:
    given = {name: f"value of {name}" for name in NOT_PASSED_ON}
    launch = launch_like(nodes=2, env=given if way == "the job's env" else {})
    ray, command = environments(
        tmp_path, launch, rank, given if way == "from outside" else {}, given if way == "secrets" else {}
    )
    wrong = [name for name in given if ray.get(name) != given[name] or command.get(name) != given[name]]
    assert not wrong


@pytest.mark.parametrize("rank", [0, 1])
def test_the_interface_of_the_profile_is_rays_too(tmp_path: Path, rank: int) -> None:
    ray, _ = environments(tmp_path, launch_like(nodes=2, interface="eth0"), rank, {}, {})
    assert ray["NCCL_SOCKET_IFNAME"] == ray["GLOO_SOCKET_IFNAME"] == "eth0"


def test_skyrls_driver_does_not_get_the_token_that_it_would_print(tmp_path: Path) -> None:
    secrets = {"HF_TOKEN": "hf_x", "WANDB_API_KEY": "w"}
    launch = launch_like(command=SKYRL, secrets=tuple(secrets))
    ray, command = environments(tmp_path, launch, 0, {}, secrets)
    assert ray["HF_TOKEN"] == "hf_x" and "HF_TOKEN" not in command
    assert command["WANDB_API_KEY"] == ray["WANDB_API_KEY"] == "w"


@pytest.mark.parametrize(
    "given", [{"env_files": {"HF_TOKEN": "/slipworks-env/HF_TOKEN"}}, {"env": {"HF_TOKEN": "x"}}]
)
def test_it_does_not_matter_which_way_the_token_is_given(given: dict[str, dict[str, str]]) -> None:
    launch = launch_like(command=SKYRL, **given)
    assert printed_token.applies(facts_like(), launch)
    assert printed_token.apply(facts_like(), launch).withheld == ("HF_TOKEN",)


@pytest.mark.parametrize(
    ("command", "env", "applies"),
    [
        (SKYRL, {}, True),
        (("sh", "-euc", "python -m skyrl.train.entrypoints.main_base a=b"), {}, True),
        (("python", "-m", "mine"), {"SLIPWORKS_SKYRL": "skyrl==0.4.0"}, True),
        (("python", "-m", "mine"), {}, False),
        (("python", "-m", "mine"), {"SLIPWORKS_SKYRL": "skyrl-train==0.3.1"}, False),
    ],
)
def test_only_the_version_that_prints_goes_without(
    command: tuple[str, ...], env: dict[str, str], applies: bool
) -> None:
    launch = launch_like(command=command, env=env, secrets=("HF_TOKEN",))
    assert bool(printed_token.applies(facts_like(), launch)) is applies
    assert not printed_token.applies(facts_like(), launch_like(command=command, env=env))


# The version in the image


@pytest.mark.parametrize(
    ("made_for", "there", "code", "refused"),
    [
        ("skyrl==0.4.0", {"skyrl": "0.4.0"}, (), None),
        ("skyrl==0.4.0", {"skyrl": "0.4.1"}, (), None),
        ("skyrl==0.4.0", {"skyrl": "0.3.0"}, (), "made for skyrl 0.4.0, and the image has skyrl 0.3.0"),
        ("skyrl==0.4.0", {"skyrl_train": "0.3.1"}, (), "the image has skyrl-train 0.3.1"),
        ("skyrl-train==0.3.1", {"skyrl_train": "0.3.1"}, (), None),
        ("skyrl-train==0.3.1", {"skyrl": "0.4.0"}, (), "made for skyrl-train 0.3.1"),
        ("skyrl==0.4.0", {}, (), None),
        ("skyrl==0.4.0", {"skyrl": "0.3.0"}, ("/slipworks-run/code/0",), None),
        (None, {"skyrl": "0.3.0"}, (), None),
    ],
)
def test_a_command_for_another_version_is_refused_on_the_node(
    made_for: str | None, there: dict[str, str], code: tuple[str, ...], refused: str | None
) -> None:
    launch = launch_like(env={"SLIPWORKS_SKYRL": made_for} if made_for else {}, code=code)
    facts = facts_like(skyrl=there)
    if refused is None:
        return prerequisites.check(facts, launch, {})
    with pytest.raises(LaunchError, match=refused) as failure:
        prerequisites.check(facts, launch, {})
    assert failure.value.hint and "skyrl.version=" in failure.value.hint


def test_the_image_is_asked_for_both_packages(tmp_path: Path) -> None:
    from runner import facts as facts_

    for info in ("skyrl-0.4.0.dist-info", "skyrl_gym-0.2.0.dist-info", "skyrl_train-0.3.1.dist-info"):
        (tmp_path / "lib/python3.12/site-packages" / info).mkdir(parents=True)
    found = facts_.gather(0, 1, None, {"VIRTUAL_ENV": str(tmp_path), "PATH": "/none"})
    assert found.skyrl == {"skyrl": "0.4.0", "skyrl_train": "0.3.1"}


# Keys that a program passes on to Ray's workers

HAS = {"WANDB_API_KEY": "w-key", "OF_A_FILE": "a file's", "PLAIN": "p"}


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"env_vars": {"WANDB_API_KEY": "w-key", "OF_A_FILE": "a file's", "X": "1"}, "pip": []},
         {"env_vars": {"X": "1"}, "pip": []}),
        ({"env_vars": {"WANDB_API_KEY": "another", "PLAIN": "p"}},) * 2,
        ({"env_vars": {"WANDB_API_KEY": "w-key"}}, {"env_vars": {}}),
        ({"env_vars": {}},) * 2, ({"env_vars": None},) * 2, ({},) * 2, (None,) * 2,
    ],
)  # fmt: skip
def test_what_ray_would_have_on_command_lines_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, object] | None, left: dict[str, object] | None
) -> None:
    for name, value in {**HAS, "SLIPWORKS_SECRETS": "OF_A_FILE WANDB_API_KEY"}.items():
        monkeypatch.setenv(name, value)
    before = copy.deepcopy(given)
    assert ray_hook.without_secrets(given) == left
    assert given == before


def test_the_command_alone_is_led_to_the_hook(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a file's\n")
    files_of = {"OF_A_FILE": str(tmp_path / "key")}
    launch = launch_like(secrets=("WANDB_API_KEY",), env_files=files_of, code=("/mine",))
    ray, command = environments(tmp_path, launch, 0, {}, {"WANDB_API_KEY": "w"})
    assert command["RAY_RUNTIME_ENV_HOOK"] == "slipworks_ray_hook.without_secrets"
    assert command["SLIPWORKS_SECRETS"] == "OF_A_FILE WANDB_API_KEY"
    assert command["PYTHONPATH"] == "/slipworks-run/hooks:/mine" and ray["PYTHONPATH"] == "/mine"
    assert "RAY_RUNTIME_ENV_HOOK" not in ray


def test_a_hook_of_the_jobs_own_stays(tmp_path: Path) -> None:
    launch = launch_like(secrets=("WANDB_API_KEY",), env={"RAY_RUNTIME_ENV_HOOK": "mine.hook"})
    _, command = environments(tmp_path, launch, 0, {}, {})
    assert command["RAY_RUNTIME_ENV_HOOK"] == "mine.hook" and "PYTHONPATH" not in command


def test_the_run_folder_has_the_hook_as_ray_finds_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run-0badcafe")
    job = Job(name="j", arch="cpu", run=("true",))
    submission.write(folder, job, launch_like(), Chosen(reference="i", engine="podman"), {})
    module, _, function = worker_argv.EXAMPLE.after.command_env["RAY_RUNTIME_ENV_HOOK"].partition(".")
    assert folder.hook == folder.root / "hooks" / f"{module}.py"
    assert f"def {function}(" in folder.hook.read_text()
    assert worker_argv.EXAMPLE.after.hooks == ("/slipworks-run/hooks",)
