"""The command of a training with SkyRL, and what else the section says of its job."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kit.errors import InvalidFileError, UnsupportedError, UsageError
from runner.runs import INSIDE
from runner.skyrl import overrides, values, versions
from runner.skyrl.section import Skyrl
from runner.skyrl.versions import Version

if TYPE_CHECKING:
    from runner.job import Job
    from slurm.clusters import Cluster

Locate = Callable[[str], str]

PLACEMENT = "trainer.placement"


def worn(job: Job, cluster: Cluster | None, locate: Locate) -> Job:
    """The job with the command that its section makes, and with checkpoints; any other job as it is.

    cluster: whose arch and line count for a job that names none; None: not known yet, and a job that needs to
    know it stays without its command. Errors name the line.
    """
    section = job.skyrl
    if section is None:
        return job
    if job.run is not None:
        raise InvalidFileError(f"{locate('run')}: found both of run and skyrl, which makes the command")
    if job.asked_of_ray is None:
        raise InvalidFileError(f"{locate('ray')}: found no Ray, which SkyRL needs")
    if job.saved is None:
        from runner.job import Checkpoints

        job = replace(job, checkpoints=Checkpoints())
    if cluster is None and section.version is None and job.image is None and job.line is None:
        return job
    version = _version(job, section, cluster, locate)
    env = {"HYDRA_FULL_ERROR": "1"} if version.hydra else {}
    return replace(
        job,
        run=command(job, section, version, locate),
        env={**env, versions.VARIABLE: version.requirement, **job.env},
    )


def command(job: Job, section: Skyrl, version: Version, locate: Locate) -> tuple[str, ...]:
    """The words, for a job with checkpoints. What the job says itself comes first, then its overrides."""
    _check(section, version, locate)
    own = overrides.settled(version, section.overrides, locate)
    more = overrides.beyond(version, section.extra, locate)
    _check_logger(job, own, locate)
    made = {**_given(job, section, version), **_placed(job, version, own, locate), **own}
    written = values.hydra if version.hydra else values.dotlist
    known = version.snapshot.keys
    return (
        "python", "-m", section.entrypoint or version.entrypoint,
        *_groups(section, version),
        *(f"{_plus(version, known, key)}{key}={written(value)}" for key, value in made.items()),
        *(f"{'++' if version.hydra else ''}{key}={written(value)}" for key, value in more.items()),
    )  # fmt: skip


def _plus(version: Version, known: dict[str, Any], key: str) -> str:
    """Hydra takes a key that its files have not only with a plus; two: whether or not it is there."""
    return "++" if version.hydra and key not in known and not key.startswith("hydra.") else ""


def _version(job: Job, section: Skyrl, cluster: Cluster | None, locate: Locate) -> Version:
    if section.version is not None:
        return versions.of(section.version, locate("skyrl.version"))
    if job.image is not None:
        raise UsageError(
            f"{locate('image')}: which SkyRL the image {job.image} has is not known before it runs",
            f"skyrl.version={versions.WHOLE.version}",
        )
    line = job.line or _line(job, cluster, locate)
    return versions.of_line(line, locate("line" if job.line else "arch"))


def _line(job: Job, cluster: Cluster | None, locate: Locate) -> str:
    from definitions import archs
    from kit.suggest import unknown
    from runner import chosen

    arch = job.arch or (cluster.arch if cluster else None)
    if arch is None:
        raise UsageError(f"{locate('skyrl')}: neither version nor arch says which SkyRL is meant", "arch=…")
    if arch not in archs.names():
        raise unknown("arch", arch, archs.names(), locate("arch"))
    return (chosen.line_of(job, arch, cluster) if cluster else None) or archs.load(arch).line


def _check(section: Skyrl, version: Version, locate: Locate) -> None:
    for key, value in (("model", section.model), ("entrypoint", section.entrypoint)):
        if value == "":
            raise InvalidFileError(f"{locate(f'skyrl.{key}')}: found an empty {key}")
    if not section.data.train:
        raise InvalidFileError(f"{locate('skyrl.data.train')}: found nothing to train on")
    for key in ("groups", "search"):
        if getattr(section, key) and not version.hydra:
            raise UnsupportedError(
                f"{locate(f'skyrl.{key}')}: {version.requirement} has no config groups: the keys of its "
                "entrypoints go into skyrl.extra",
                "skyrl.extra",
            )


def _groups(section: Skyrl, version: Version) -> Iterator[str]:
    """A group that the defaults list does not have is added."""
    if section.search:
        yield f"hydra.searchpath={values.hydra([f'file://{folder}' for folder in section.search])}"
    for group, choice in section.groups.items():
        plus = "" if group in version.snapshot.groups else "+"
        yield f"{plus}{group}={choice}"


def _given(job: Job, section: Skyrl, version: Version) -> dict[str, Any]:
    """What the job says by keys of its own, and defaults of SkyRL's that would let runs meet: its folders
    are below the home, and every run is called test_run."""
    saved = job.saved
    assert saved is not None
    given: dict[str, Any] = {
        "data.train_data": list(section.data.train),
        "data.val_data": list(section.data.val),
        "trainer.policy.model.path": section.model,
        "trainer.ckpt_path": saved.target,
        "trainer.export_path": f"{saved.target}/exports",
        "trainer.resume_mode": "latest",
        "trainer.run_name": job.name,
    }
    if not section.data.val:
        given |= {"trainer.eval_interval": -1, "trainer.eval_before_train": False}
    if version.log:
        given[version.log] = f"{INSIDE}/skyrl-logs"
    if version.hydra:
        given["hydra.run.dir"] = f"{INSIDE}/hydra"  # else below the working folder, which may be read-only
    return given


def _placed(job: Job, version: Version, own: dict[str, Any], locate: Locate) -> dict[str, Any]:
    """All GPUs of the job for each model, and inference engines on all of them: what SkyRL demands of models
    that share GPUs. Only where the job has GPUs, and its overrides say nothing else."""
    if not job.gpus or own.get(f"{PLACEMENT}.colocate_all") is False or own.get(version.local) is False:
        return {}
    placed: dict[str, Any] = {}
    for model in ("policy", "ref", "critic"):
        placed[f"{PLACEMENT}.{model}_num_nodes"] = job.nodes
        placed[f"{PLACEMENT}.{model}_num_gpus_per_node"] = job.gpus
    if version.engines in own:
        return placed
    sizes = {key: own.get(key, 1) for key in version.parallel}
    if not all(isinstance(size, int) and size > 0 for size in sizes.values()):
        return placed  # an interpolation, say
    each, rest = math.prod(sizes.values()), {**placed, **own}
    gpus = rest[f"{PLACEMENT}.policy_num_nodes"] * rest[f"{PLACEMENT}.policy_num_gpus_per_node"]
    if gpus % each:
        at = locate(f"skyrl.overrides.{next(key for key in version.parallel if key in own)}")
        raise InvalidFileError(
            f"{at}: found inference engines of {each} GPUs each, which do not fill {gpus} GPUs",
            f"{version.engines}, with {PLACEMENT}.colocate_all: false",
        )
    return {**placed, **sizes, version.engines: gpus // each}


def _check_logger(job: Job, own: dict[str, Any], locate: Locate) -> None:
    """SkyRL asks for the key of W&B minutes into the job, offline, too."""
    key = "WANDB_API_KEY"
    logger = own.get("trainer.logger", "wandb")
    if "wandb" not in (logger if isinstance(logger, list) else [logger]):
        return
    if not any(key in names for names in (job.secrets, job.env, job.env_files)):
        raise UsageError(
            f"{locate('skyrl.overrides.trainer.logger')}: SkyRL's logger wandb ends a job without {key}, "
            "also where W&B is offline",
            f"secrets: [{key}], or trainer.logger: console",
        )
