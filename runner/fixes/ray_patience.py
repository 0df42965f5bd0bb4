"""Ray gives up on nodes that are slow to start.

Symptom: "The current node timed out during startup", or a worker that never finds the head, on large jobs and
right after an image was mounted.
Cause: Ray waits 30 s for its raylet and a few for the head's server; a shared file system that is read by all
nodes at once takes longer.
Remove when: Ray's own limits are minutes.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, said, with_env

SECONDS = {"RAY_raylet_start_wait_time_s": "120", "RAY_gcs_rpc_server_connect_timeout_s": "60"}


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.ray is None or all(said(name, facts, launch) for name in SECONDS):
        return None
    return "Ray waits 120 s for its raylet and 60 s for the head"


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_env(facts, launch, SECONDS)


EXAMPLE = Example(
    facts_like(),
    launch_like(env={"RAY_raylet_start_wait_time_s": "300"}),
    launch_like(env={"RAY_raylet_start_wait_time_s": "300", "RAY_gcs_rpc_server_connect_timeout_s": "60"}),
)
