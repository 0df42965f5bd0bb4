"""Anyone who reaches Ray's ports runs code as you.

Symptom: none, until it is used.
Cause: Ray listens on all interfaces and by default asks nobody for a secret.
Remove when: Ray asks for a token by default.
"""

import re

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, RayPlan, said, with_env

SINCE = (2, 52)
OTHERS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


def _has_tokens(version: str) -> bool:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= SINCE


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.ray is None or launch.ray.token_file is None or facts.ray is None:
        return None
    if not _has_tokens(facts.ray) or any(said(name, facts, launch) for name in OTHERS):
        return None
    return "Ray asks for this job's token"


def apply(facts: Facts, launch: Launch) -> Launch:
    assert launch.ray and launch.ray.token_file
    return with_env(facts, launch, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": launch.ray.token_file})


def warns(facts: Facts, launch: Launch) -> str | None:
    if launch.ray is None or facts.ray is None or _has_tokens(facts.ray):
        return None
    return f"Ray {facts.ray} knows no tokens (2.52 does): whoever reaches its ports runs code as you"


EXAMPLE = Example(
    facts_like(ray="2.57.0"),
    launch_like(ray=RayPlan(token_file="/slipworks-run/ray.token")),
    launch_like(
        ray=RayPlan(token_file="/slipworks-run/ray.token"),
        env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/slipworks-run/ray.token"},
    ),
)
