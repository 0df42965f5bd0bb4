"""Training runs with an NCCL that is not the one it was built for.

Symptom: slow collectives (weights took 47 to 52 s to reach the engines, 21 to 24 s with the wheel's NCCL), or
"undefined symbol: nccl…".
Cause: a libnccl.so.2 of the system, or of the site's modules, is found before the one that torch brings.
It must not be preloaded into Ray's daemons and into every shell, so the command gets it, and Ray's workers by
the job's runtime environment; a program's own `ray.init(runtime_env=…)` goes over that. VLLM_NCCL_SO_PATH in
a job's env chooses another one, for all of them.
Remove when: torch loads its NCCL by a path of its own.
"""

from msgspec import json
from msgspec.structs import replace

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, RayPlan, said
from runner.python_packages import Nccl

VLLM, PRELOAD, WORKERS = "VLLM_NCCL_SO_PATH", "LD_PRELOAD", "RAY_JOB_CONFIG_JSON_ENV_VAR"


def _path(facts: Facts, launch: Launch) -> str | None:
    """The one that was chosen, for the job or for vLLM; else the wheel's where there are GPUs to use it."""
    named = launch.nccl or launch.env.get(VLLM) or facts.env.get(VLLM)
    if named or not facts.gpus:
        return named
    return facts.nccl.path if facts.nccl else None


def _further(facts: Facts, launch: Launch, path: str) -> Launch:
    """With what is not yet set, neither by the user nor by us."""
    if not said(VLLM, facts, launch):
        launch = replace(launch, env={**launch.env, VLLM: path})
    if launch.preload or said(PRELOAD, facts, launch) or PRELOAD in launch.command_env:
        return launch
    launch = replace(launch, preload=(path,))
    if launch.ray and not said(WORKERS, facts, launch) and WORKERS not in launch.command_env:
        workers = {"runtime_env": {"env_vars": {PRELOAD: path}}}
        theirs = {WORKERS: json.encode(workers).decode(), "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
        launch = replace(launch, command_env={**theirs, **launch.command_env})
    return launch


def applies(facts: Facts, launch: Launch) -> str | None:
    path = _path(facts, launch)
    if path is None or _further(facts, launch, path) == launch:
        return None
    version = facts.nccl.version if facts.nccl and facts.nccl.path == path else None
    return f"the command and Ray's workers load {path}" + (f", NCCL {version}" if version else "")


def apply(facts: Facts, launch: Launch) -> Launch:
    path = _path(facts, launch)
    return _further(facts, launch, path) if path else launch


EXAMPLE = Example(
    facts_like(
        gpus=("GPU 0: H100 (UUID: GPU-00000000-0000-0000-0000-000000000000)",),
        nccl=Nccl("/stack/nvidia/nccl/lib/libnccl.so.2", "2.27.5"),
    ),
    launch_like(),
    launch_like(
        ray=RayPlan(),
        env={"VLLM_NCCL_SO_PATH": "/stack/nvidia/nccl/lib/libnccl.so.2"},
        preload=("/stack/nvidia/nccl/lib/libnccl.so.2",),
        command_env={
            "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env":{"env_vars":'
            '{"LD_PRELOAD":"/stack/nvidia/nccl/lib/libnccl.so.2"}}}',
            "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
        },
    ),
)
