"""What the nodes of a cluster can run, as far as its profile tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from definitions import archs
from kit.errors import UnsupportedError
from kit.nouns import Platform

if TYPE_CHECKING:
    from slurm.clusters import Cluster


def common(arch: str, cluster: Cluster) -> str | None:
    """The platform of an arch's image there; None: the arch's own choice. UnsupportedError where the arch has
    no image that runs there."""
    wanted = _of(cluster)
    if not wanted:
        return None
    there = archs.load(arch).all_platforms()
    both = [each for each in wanted if each in there]
    if not both:
        raise UnsupportedError(
            f"images of the arch {arch} are for {_listed(there)}, and the nodes of this cluster (arch "
            f"{cluster.arch}) are {_listed(wanted)}",
            f"arch={cluster.arch}",
        )
    return str(both[0]) if Platform.host() not in wanted else None


def demand(file: str, platform: Platform, cluster: Cluster) -> None:
    """UnsupportedError for an image file whose platform the nodes are known not to have."""
    wanted = _of(cluster)
    if wanted and platform not in wanted:
        raise UnsupportedError(
            f"{file} is for {platform}, and the nodes of this cluster are {_listed(wanted)}",
            f"make image ARCH={cluster.arch} FORMAT=sif",
        )


def likely(cluster: Cluster) -> Platform:
    """What the nodes are; this machine's where the profile does not tell."""
    there = _of(cluster)
    return there[0] if there and Platform.host() not in there else Platform.host()


def _of(cluster: Cluster) -> tuple[Platform, ...]:
    return archs.load(cluster.arch).all_platforms() if cluster.arch else ()


def _listed(platforms: tuple[Platform, ...]) -> str:
    return " or ".join(map(str, platforms))
