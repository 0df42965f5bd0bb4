"""The environment of what runs on a node: Ray, the services, the command."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from kit import exact
from kit.errors import InvalidFileError
from runner import env_files
from runner.facts import Facts
from runner.launch import Launch
from runner.runs import Attempt, RunFolder

FROM_STEP = (
    "CUDA_VISIBLE_DEVICES",
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NNODES",
    "SLURM_NODEID",
)
"""What goes on of all that the scheduler said. SLURM_NTASKS and the like stay behind: libraries take them for
the word of srun that it had started each of their processes."""


def step(attempt: Attempt, rank: int) -> dict[str, str]:
    """What the scheduler said to this node (see Attempt.step); nothing where there is none."""
    with contextlib.suppress(FileNotFoundError):
        pairs = attempt.step(rank).read_bytes().decode("utf-8", "surrogateescape").split("\0")
        return {name: value for name, equals, value in (pair.partition("=") for pair in pairs) if equals}
    return {}


def secrets(folder: RunFolder) -> dict[str, str]:
    """The job's secrets by name; none once they are gone. InvalidFileError for a file that cannot be read."""
    try:
        return exact.decode(folder.secrets.read_bytes(), dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):  # which would quote what is in it
        raise InvalidFileError(f"cannot read {folder.secrets}", "runner submit …") from None


def of_node(facts: Facts, launch: Launch, folder: RunFolder) -> dict[str, str]:
    """For all that runs: the container's, the scheduler's, the job's, its secrets, each over the former.

    The job's own code comes first on Python's import path, here and so in Ray's workers.
    """
    said = {name: facts.step[name] for name in FROM_STEP if name in facts.step}
    own = {
        "SLIPWORKS_RUN": str(folder.root),
        "SLIPWORKS_RANK": str(facts.rank),
        "SLIPWORKS_NODES": str(launch.nodes),
    }
    if launch.checkpoints:
        own["SLIPWORKS_CHECKPOINTS"] = launch.checkpoints
    container = {name: value for name, value in facts.env.items() if name not in launch.drop}
    made = {**container, **said, **launch.env, **env_files.read(launch), **secrets(folder), **own}
    made = _before(made, "PYTHONPATH", launch.code)
    made = _behind(made, "PATH", launch.path)
    return _behind(made, "LD_LIBRARY_PATH", launch.library_path)


def of_command(node: Mapping[str, str], launch: Launch) -> dict[str, str]:
    """The command's: the node's but for what is withheld, what is for the command alone, the modules that
    hook into it, and the libraries that it preloads."""
    given = {name: value for name, value in node.items() if name not in launch.withheld}
    made = _before({**given, **launch.command_env}, "PYTHONPATH", launch.hooks)
    return _before(made, "LD_PRELOAD", launch.preload)


def _behind(env: dict[str, str], name: str, paths: tuple[str, ...]) -> dict[str, str]:
    """`env` with `paths` behind what the variable holds: the image's own come first."""
    there = [each for each in env.get(name, "").split(":") if each]
    more = [each for each in paths if each not in there]
    return {**env, name: ":".join([*([env[name]] if there else []), *more])} if more else env


def _before(env: dict[str, str], name: str, paths: tuple[str, ...]) -> dict[str, str]:
    """`env` with `paths` in front of what the variable holds; untouched without paths."""
    if not paths:
        return env
    rest = env.get(name)
    return {**env, name: ":".join([*paths, rest] if rest else paths)}
