"""The commands that the examples for SkyRL become: on their clusters, and for both versions of SkyRL.

`python -m tests.golden.skyrl_commands` writes the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import structs

from kit import shell
from runner.job import Job
from tests.golden import examples, written
from tests.golden.examples import Example

FOLDER = Path(__file__).with_name("skyrl-commands")
OLD = ("line=cu12",)
"""What is typed for skyrl-train 0.3.1."""
MINI_SWE = (
    *OLD,
    "skyrl.entrypoint=examples.mini_swe_agent.main_mini_swe",
    "skyrl.extra.generator.miniswe_config_path=examples/mini_swe_agent/swebench.yaml",
    "env.LITELLM_MODEL_REGISTRY_PATH=/slipworks-run/code/0/examples/mini_swe_agent/litellm.json",
)
BOTH = {"skyrl-gsm8k": OLD, "skyrl-mini-swe": MINI_SWE}


def cases() -> Iterator[tuple[str, Example, str]]:
    """Name, example, cluster."""
    for each in examples.SKYRL:
        for cluster in each.clusters:
            yield f"{each.name}-{cluster}", each, cluster
        if more := BOTH.get(each.name):
            typed = {name: (*each.overrides.get(name, ()), *more) for name in each.clusters}
            yield f"{each.name}-old-jureca", structs.replace(each, overrides=typed), "jureca"


def texts() -> dict[str, str]:
    """File name -> text. The same on every machine."""
    return {f"{name}.txt": _shown(examples.dry(each, cluster).job) for name, each, cluster in cases()}


def write() -> None:
    written.write(FOLDER, texts())


def _shown(job: Job) -> str:
    """A word a line, as a shell takes it."""
    return "".join(f"{shell.line([word])}\n" for word in job.command)


if __name__ == "__main__":
    write()
