"""What must be true of a node before anything is started there; LaunchError says what is not."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from kit.errors import LaunchError
from runner import fixing, services
from runner.facts import Facts
from runner.launch import Launch
from runner.skyrl import versions
from runner.staging import staged


def check(facts: Facts, launch: Launch, env: Mapping[str, str], secrets: Collection[str] = ()) -> None:
    """Everything; `env` is the command's, `secrets` the names of those that are there."""
    _check_secrets(facts, launch, secrets)
    _check_driver(facts, launch)
    _check_staged(facts, launch)
    _check_libraries(launch, env)
    _check_skyrl(facts, launch)
    if refusal := fixing.refusal(facts, launch):
        raise refusal
    for service in launch.services:
        services.check_form(service)


def _check_secrets(facts: Facts, launch: Launch, secrets: Collection[str]) -> None:
    if missing := [name for name in launch.secrets if name not in secrets]:
        raise LaunchError(
            f"node {facts.rank} ({facts.hostname}) finds no value of the job's secret {', '.join(missing)}: "
            "secrets are removed from the run folder when a run is cancelled, or counts as over",
            "runner submit …, which writes them anew",
        )


def _check_driver(facts: Facts, launch: Launch) -> None:
    found, needed = facts.driver, launch.driver_floor
    if found is None or needed is None or _version(found) >= _version(needed):
        return
    raise LaunchError(
        f"node {facts.rank} ({facts.hostname}) has driver {found}, the image needs {needed} or newer: "
        "change one of the two",
        "choose a partition with a newer driver, or an image of an older CUDA: line=cu12",
    )


def _check_staged(facts: Facts, launch: Launch) -> None:
    """On one node, as all see one cache. A site's cleaner may have been there while the job waited."""
    for each in launch.staged if facts.rank == 0 else ():
        if lack := staged.missing(each):
            raise LaunchError(
                f"the {each.told} of this job is not whole any more in {each.home}: {lack} is not there",
                "runner stage JOB, on a login node; then runner submit JOB",
            )


def _check_libraries(launch: Launch, env: Mapping[str, str]) -> None:
    """The loader only warns of a missing preload, and vLLM dies late of a missing NCCL."""
    named = [("LD_PRELOAD", path) for path in launch.preload]
    if path := env.get("VLLM_NCCL_SO_PATH"):
        named.append(("VLLM_NCCL_SO_PATH", path))
    for name, path in named:
        if "/" in path and not Path(path).is_file():
            raise LaunchError(f"{name} names {path}, which is not in the image")


def _check_skyrl(facts: Facts, launch: Launch) -> None:
    """A command for one of its versions tells another nothing: their keys have other names. With code of the
    user's own the installed one says nothing: a checkout of SkyRL would come before it."""
    package, _, wanted = launch.env.get(versions.VARIABLE, "").partition("==")
    if not wanted or launch.code or not facts.skyrl:
        return
    found = facts.skyrl.get(package.replace("-", "_"), "")
    if _version(found)[:2] != _version(wanted)[:2]:
        there = ", ".join(f"{name.replace('_', '-')} {number}" for name, number in facts.skyrl.items())
        raise LaunchError(
            f"the command was made for {package} {wanted}, and the image has {there}",
            f"skyrl.version={next(iter(facts.skyrl.values()))}, or an image with {package} {wanted}",
        )


def _version(text: str) -> tuple[int, ...]:
    """Its numbers, without zeros at the end: 580 and 580.0 are one."""
    numbers = [int(part) for part in re.findall(r"\d+", text)]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
