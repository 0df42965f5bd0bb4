"""What a job's nodes for sandboxes need before they begin: layers, made where the job is submitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from runner.sandboxes import in_job
from slurm.script import Servers

if TYPE_CHECKING:
    from kit.nouns import Platform
    from runner.job import Job
    from runner.runs import RunFolder
    from runner.site import Site
    from slurm.clusters import Cluster


def servers(job: Job, site: Site, folder: RunFolder, *, dry: bool) -> Servers | None:
    """The job's second part; None where it asks for none. dry: what is not there yet goes by the name that it
    will have; else it is made. Errors as of in_job.servers, and of what makes layers."""
    asked = job.sandboxes
    if asked is None:
        return None
    cluster, cache = site.cluster, site.settings.cache_folder
    engine = in_job.engine_of(asked, cluster)
    partition = in_job.partition_of(asked, cluster, site.name)
    platform = platform_of(cluster, partition)
    mounted = asked.settings.bake_to is None and asked.settings.layer is None
    own, agent = paths(platform, engine, mounted) if dry else made(platform, engine, mounted)
    return in_job.servers(job, cluster, site.name, folder.root, own, agent, cache)


def platform_of(cluster: Cluster, partition: str) -> Platform:
    """Of the nodes of a partition, which may be others than the cluster's with GPUs."""
    from runner import node_platforms

    known = cluster.partitions.get(partition)
    arch = known.arch if known and known.arch else cluster.arch
    return node_platforms.likely(structs.replace(cluster, arch=arch))


def paths(platform: Platform, engine: str, mounted: bool) -> tuple[Path, Path | None]:
    """Where slipworks' layer and, where it is mounted, the agent's lie, or will."""
    from runner import agent_layer, images, layer_mounts, mounted_layer

    store = images.store()
    squashed = engine == "apptainer"
    agent = layer_mounts.path_of(store, agent_layer.spec(), platform, squashed=squashed)
    return mounted_layer.path_of(store, platform, FOLDER), agent if mounted else None


def made(platform: Platform, engine: str, mounted: bool) -> tuple[Path, Path | None]:
    from runner import agent_layer, images, mounted_layer

    store = images.store()
    form = agent_layer.squashfs if engine == "apptainer" else agent_layer.unpacked
    return mounted_layer.made(store, platform, FOLDER), form(platform, store) if mounted else None


FOLDER = "podman"
"""For which a layer is a folder, whose loader can be started as it lies."""
