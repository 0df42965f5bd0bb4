"""A key that the program passes on to Ray's workers can be read by everybody on the node.

Symptom: WANDB_API_KEY in `ps` while workers start, and in runtime_env_agent.log among the logs of Ray's
daemons, which are kept when a job fails.
Cause: Ray starts each worker by a program that has the job's runtime environment on its command line, and
logs it, too (seen with 2.57.0); SkyRL puts WANDB_API_KEY, DAYTONA_API_KEY and others there. Ray's daemons
have the job's secrets, and workers inherit them, so Ray's own hook leaves them out of that environment.
Remove when: Ray hands runtime environments to workers by a file or a pipe.
"""

from msgspec.structs import replace

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, said
from runner.runs import HOOK, INSIDE

VARIABLE = "RAY_RUNTIME_ENV_HOOK"
NAMES = "SLIPWORKS_SECRETS"


def _secrets(launch: Launch) -> str:
    return " ".join(sorted({*launch.secrets, *launch.env_files}))


def applies(facts: Facts, launch: Launch) -> str | None:
    theirs = said(VARIABLE, facts, launch) or VARIABLE in launch.command_env
    if launch.ray is None or not _secrets(launch) or theirs:
        return None
    return f"Ray would have them on command lines of its workers: {_secrets(launch)}"


def apply(facts: Facts, launch: Launch) -> Launch:
    hook = {VARIABLE: f"{HOOK}.without_secrets", NAMES: _secrets(launch)}
    return replace(
        launch, command_env={**launch.command_env, **hook}, hooks=(*launch.hooks, f"{INSIDE}/hooks")
    )


EXAMPLE = Example(
    facts_like(),
    launch_like(secrets=("WANDB_API_KEY", "DAYTONA_API_KEY")),
    launch_like(
        secrets=("WANDB_API_KEY", "DAYTONA_API_KEY"),
        command_env={VARIABLE: f"{HOOK}.without_secrets", NAMES: "DAYTONA_API_KEY WANDB_API_KEY"},
        hooks=(f"{INSIDE}/hooks",),
    ),
)
