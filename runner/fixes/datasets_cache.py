"""A data set that was tokenized for another model is taken from the cache.

Symptom: losses that start far too high, or token ids beyond the vocabulary, after the tokenizer or the chat
template was changed.
Cause: trainers key what they have tokenized by the data set's name, in a cache that outlives the job.
Here each tokenizer and chat template that the command names has a cache of its own for processed data;
downloads stay shared. A template that is edited in place keeps its name: then set HF_DATASETS_CACHE, or
remove the folder.
Remove when: no trainer keys its cache by less than all that goes into it.
"""

import re

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, said, with_env

VARIABLE = "HF_DATASETS_CACHE"
# key=value of Hydra and YAML, --key value and --key=value of argparse; dots, dashes and underscores alike.
NAMED = re.compile(
    r"(?:^|[\s{,+-])((?:[\w-]+\.)*[\w-]*(?:tokenizer|chat[_-]template|model)(?:[_-](?:name|path|or|id|file))*"
    r"(?:\.(?:path|name|file))?)[=:\s]+[\"']?([^\s\"',}]+)",
    re.IGNORECASE,
)


def _key(launch: Launch) -> str | None:
    """What the job tokenizes for, by its training YAML and its command; None where neither names anything."""
    found = sorted(set(NAMED.findall(" ".join(launch.command))))
    named = [f"{name}={value}" for name, value in found]
    return "\n".join([*([launch.datasets_key] if launch.datasets_key else []), *named]) or None


def _folder(launch: Launch) -> str | None:
    key = _key(launch)
    if key is None or launch.scratch is None:
        return None
    import hashlib  # slow to load, and few jobs come here

    return f"{launch.scratch}/datasets/{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def applies(facts: Facts, launch: Launch) -> str | None:
    folder = _folder(launch)
    if folder is None or said(VARIABLE, facts, launch):
        return None
    return f"processed data sets lie in {folder}, for {' '.join(str(_key(launch)).split())}"


def apply(facts: Facts, launch: Launch) -> Launch:
    folder = _folder(launch)
    return with_env(facts, launch, {VARIABLE: folder}) if folder else launch


EXAMPLE = Example(
    facts_like(),
    launch_like(scratch="/scratch", datasets_key="Qwen/Qwen3-8B, chatml.jinja"),
    launch_like(
        scratch="/scratch",
        datasets_key="Qwen/Qwen3-8B, chatml.jinja",
        env={"HF_DATASETS_CACHE": "/scratch/datasets/f545b2210a38"},
    ),
)
