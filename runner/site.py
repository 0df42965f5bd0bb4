"""Which cluster a command is for: the one asked for or the one here, and the settings that hold there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from kit import settings
from kit.errors import InvalidFileError
from kit.settings import Settings, Sourced
from slurm import clusters, detect
from slurm.clusters import Cluster, Profile
from slurm.detect import Detected

FOLDERS = ("cache", "runs")
"""Settings for which a cluster has a value of its own."""


class Site(Struct, frozen=True, kw_only=True):
    """A cluster as it counts here. `how` tells how it was found, `sourced` what settings hold there."""

    name: str
    how: str
    profile: Profile
    sourced: Sourced

    @property
    def cluster(self) -> Cluster:
        return self.profile.cluster

    @property
    def settings(self) -> Settings:
        return self.sourced.settings

    @property
    def scratch(self) -> str | None:
        """Its scratch folder, expanded; None: its file says none. Errors as of clusters.folder."""
        return clusters.folder(self.profile, "scratch")


def chosen(flags: Mapping[str, Any] | None = None, *, lenient: bool = False) -> Site:
    """The cluster of the flag, the environment or the user's file; else the detected one.

    `flags` are as for settings.load. From now on this process's settings are those that hold there.
    UsageError with the candidates if it cannot be told; UnknownNameError and InvalidFileError as of
    clusters.profile and, for the folders, of clusters.folder; `lenient`: such folders are left out.
    """
    asked = settings.load(flags, cluster={})
    found = detected(asked)
    profile = clusters.profile(found.sure(), asked.settings.clusters, str(settings.user_file()))
    profile = clusters.accounted(profile)
    own = _values(profile, lenient)
    settings.follow(lambda: own)
    sourced = settings.load(flags)
    told = {name: profile.sources[name] for name in own if sourced.sources[name] == "cluster file"}
    return Site(
        name=profile.name,
        how=found.how,
        profile=profile,
        sourced=Sourced(sourced.settings, sourced.sources | told),
    )


def detected(asked: Sourced, environment: Mapping[str, str] = os.environ) -> Detected:
    """What was asked for, else what this machine looks like; never an error but for a wrong file."""
    if asked.settings.cluster:
        return Detected(name=asked.settings.cluster, how=f"said by {_named(asked.sources['cluster'])}")
    own, file = asked.settings.clusters, str(settings.user_file())
    profiles = {name: clusters.load(name, own, file) for name in clusters.names(own)}
    return detect.detect(detect.look(environment), profiles)


def values() -> Mapping[str, str]:
    """The settings that the cluster here has values for; none where it cannot be told which it is."""
    asked = settings.load(cluster={})
    found = detected(asked)
    if found.name is None:
        return {}
    return _values(clusters.profile(found.name, asked.settings.clusters, str(settings.user_file())))


def _values(profile: Profile, lenient: bool = False) -> Mapping[str, str]:
    found = {}
    for name in FOLDERS:
        with contextlib.suppress(*([InvalidFileError] if lenient else [])):
            if (value := clusters.folder(profile, name)) is not None:
                found[name] = value
    return found


def _named(source: str) -> str:
    return "--cluster" if source == "flag" else source
