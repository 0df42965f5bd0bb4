"""Libraries ask the hub for models and data sets on nodes that have no internet.

Symptom: a job that hangs for minutes in its first `from_pretrained` or `load_dataset`, then "We couldn't
connect to 'https://huggingface.co'", although all files are in the cache.
Cause: they ask for newer files first, with retries, where no answer can come; told that they are offline,
they take what is in HF_HOME, and fail at once where it is not. Jobs with a way out (`egress`) that stage
nothing are left alone: they may download by it.
Remove when: no cluster has nodes without internet.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, said, with_env

FLAGS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.internet is not False or (launch.egress is not None and not launch.staged):
        return None
    if all(said(name, facts, launch) for name in FLAGS):
        return None
    return "nodes have no internet: the hub's libraries take what is in HF_HOME, and ask nobody"


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_env(facts, launch, dict.fromkeys(FLAGS, "1"))


EXAMPLE = Example(
    facts_like(),
    launch_like(internet=False, env={"HF_DATASETS_OFFLINE": "0"}),
    launch_like(
        internet=False,
        env={"HF_DATASETS_OFFLINE": "0", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
    ),
)
