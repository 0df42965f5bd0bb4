"""The Hugging Face token stands in the log of a training with SkyRL.

Symptom: "Exporting `HF_TOKEN` to ray runtime env: hf_…" in a job's log.
Cause: skyrl 0.4 passes some of its driver's variables on to Ray's workers, and prints each with its value.
Ray's daemons have the token from us, on every node, and so have its workers, which load models and data; the
driver, which only starts them, is started without it.
Remove when: SkyRL prints names alone.
"""

from msgspec.structs import replace

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch
from runner.skyrl.versions import VARIABLE, WHOLE

TOKEN = "HF_TOKEN"


def _is_skyrl(launch: Launch) -> bool:
    made_for = launch.env.get(VARIABLE)
    return made_for == WHOLE.requirement if made_for else "skyrl.train." in " ".join(launch.command)


def applies(facts: Facts, launch: Launch) -> str | None:
    given = any(TOKEN in names for names in (launch.secrets, launch.env_files, launch.env, facts.env))
    if launch.ray is None or not given or TOKEN in launch.withheld or not _is_skyrl(launch):
        return None
    return f"skyrl prints {TOKEN}: its driver does not get it, Ray and its workers do"


def apply(facts: Facts, launch: Launch) -> Launch:
    return replace(launch, withheld=(*launch.withheld, TOKEN))


EXAMPLE = Example(
    facts_like(),
    launch_like(command=("python", "-m", WHOLE.entrypoint), secrets=(TOKEN, "WANDB_API_KEY")),
    launch_like(
        command=("python", "-m", WHOLE.entrypoint), secrets=(TOKEN, "WANDB_API_KEY"), withheld=(TOKEN,)
    ),
)
