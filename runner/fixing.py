"""Fixes: what is known to break on nodes, each repaired by one file of runner/fixes.

A fix module has a docstring (its first line names the symptom; then Symptom, Cause, Remove when) and
    applies(facts, launch) -> str | None    the reason, which is logged, or None
    apply(facts, launch) -> Launch          pure; sets defaults only: what the user set wins
    EXAMPLE: Example                        run by a test
Fixes commute, so their order means nothing; a test applies every pair in both orders.
It may also have, for what no fix can mend,
    refuses(facts, launch) -> LaunchError | None    asked of the launch after all fixes: ends the job before
                                                    anything is started
    warns(facts, launch) -> str | None              likewise: a line in the node's log, and it goes on
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol

from msgspec import Struct

from kit.errors import LaunchError
from runner import fixes
from runner.facts import Facts, Folder, Interface
from runner.launch import Launch, RayPlan


class Example(Struct, frozen=True):
    """Facts and a launch for which the fix applies, and the launch that it makes of them."""

    facts: Facts
    before: Launch
    after: Launch


class Fix(Protocol):
    """A module of runner/fixes."""

    __name__: str
    __doc__: str | None
    EXAMPLE: Example

    def applies(self, facts: Facts, launch: Launch) -> str | None: ...

    def apply(self, facts: Facts, launch: Launch) -> Launch: ...

    # And, in some: refuses(facts, launch) -> LaunchError | None, warns(facts, launch) -> str | None.


class Applied(Struct, frozen=True):
    """A fix that was applied, or that warns, and why."""

    name: str
    reason: str


def names() -> tuple[str, ...]:
    """All fixes: the files of runner/fixes."""
    return tuple(sorted(each.name for each in pkgutil.iter_modules(fixes.__path__)))


def load(name: str) -> Fix:
    return importlib.import_module(f"runner.fixes.{name}")


def fixed(facts: Facts, launch: Launch) -> tuple[Launch, list[Applied]]:
    """The launch after every fix that applies to this node, and what was done to it. Pure."""
    done = []
    for name in names():
        fix = load(name)
        reason = fix.applies(facts, launch)
        if reason is not None:
            launch = fix.apply(facts, launch)
            done.append(Applied(name, reason))
    return launch, done


def refusal(facts: Facts, launch: Launch) -> LaunchError | None:
    """Why a launch, after its fixes, cannot work on this node: the first reason by the fixes' names. Pure."""
    for name in names():
        refuses = getattr(load(name), "refuses", None)
        if refuses and (reason := refuses(facts, launch)):
            assert isinstance(reason, LaunchError)
            return reason
    return None


def warnings(facts: Facts, launch: Launch) -> list[Applied]:
    """What a launch, after its fixes, may run into on this node, by fix. Pure."""
    found = []
    for name in names():
        warns = getattr(load(name), "warns", None)
        if warns and (reason := warns(facts, launch)):
            found.append(Applied(name, reason))
    return found


def facts_like(**changes: object) -> Facts:
    """An ordinary node without GPUs, for examples and tests, with some things other than ordinary."""
    plain: dict[str, object] = {
        "rank": 0, "nodes": 1, "hostname": "n1", "cpus": 8, "memory": 64 << 30, "shm_free": 32 << 30,
        "interfaces": (Interface("lo", "127.0.0.1"), Interface("eth0", "10.0.0.5")),
        "temporary": (Folder("/tmp", True, 50 << 30),), "env": {"LANG": "C.UTF-8"},
        "port_base": 20000, "ray": "2.57.0",
    }  # fmt: skip
    return Facts(**{**plain, **changes})  # type: ignore[arg-type]


def launch_like(**changes: object) -> Launch:
    """A launch of one command with Ray in which nothing was said by the user, with some things said."""
    plain: dict[str, object] = {"run_id": "0badcafe", "name": "job", "command": ("true",), "ray": RayPlan()}
    return Launch(**{**plain, **changes})  # type: ignore[arg-type]
