"""Sandboxes by podman: root's, with the limits of control groups; any user's, with those that there are."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterable, Sequence
from typing import Any

from containers import host
from containers.engines.podman import Podman
from kit import share
from runner.sandboxes.backends.containers import Containers
from runner.sandboxes.nouns import Start
from runner.sandboxes.settings import Settings

LOG = 16 << 20  # bytes of a log, of which a sandbox could write without an end
GROUPS = {"cpuset": "cpus", "memory": "memory", "pids": "pids", "freezer": "freezer"}


class PodmanSandboxes(Containers):
    name = "podman"
    info = "{{json .Host}}"
    _engine: Podman

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Podman())

    def program(self) -> list[str]:
        words = self._engine.command()
        # Of systemd's scopes Slurm knows nothing: what runs there is not the job's, and outlives it.
        if "SLURM_JOB_ID" in os.environ and "--cgroup-manager" not in words:
            words += ["--cgroup-manager", "cgroupfs"]
        return words

    def able(self, info: dict[str, Any]) -> frozenset[str]:
        """Without root those of version 2 alone, where the user's own control group has them."""
        found = {GROUPS[each] for each in info.get("cgroupControllers") or () if each in GROUPS}
        if info.get("cgroupVersion") == "v2" and found:  # every group can be frozen there
            found.add("freezer")
        return frozenset(found)

    def listed(self, words: Sequence[str]) -> Iterable[tuple[str, str, int]]:
        for each in json.loads(self.ask([*words, "--format=json"], "list sandboxes") or "[]") or []:
            yield each["Names"][0], str(each["State"]), int(each.get("Pid") or 0)

    def own_words(self, start: Start, limits: Sequence[str]) -> list[str]:
        words = [
            "--http-proxy=false", "--env-host=false",  # the server's own
            "--image-volume=ignore",  # in the container's layer, which is measured and removed
            "--log-driver=k8s-file", f"--log-opt=max-size={LOG}",
            *host.ulimit_flags(self._engine.on),
        ]  # fmt: skip
        if "pids" not in limits and os.geteuid() != 0:
            words.append(self._processes(start.limits.pids))
        return words

    def _processes(self, each: int) -> str:
        """The kernel counts a user's processes in all containers together: enough for all slots. A bomb ends
        here at the latest, within a second by the warden."""
        slots = max(1, self._settings.slots or share.cpus() // max(1, self._settings.cpus))
        most, hard = each * slots + 512, resource.getrlimit(resource.RLIMIT_NPROC)[1]
        number = most if hard == resource.RLIM_INFINITY else min(most, hard)
        return f"--ulimit=nproc={number}:{number}"

    def inside(self, argv: Sequence[str]) -> list[str]:
        if os.geteuid() == 0:
            return list(argv)
        return [*self.program(), "unshare", *argv]

    def remove_words(self, grace: float) -> list[list[str]]:
        return [["rm", "--force", f"--time={grace:.0f}", "--ignore", "--volumes"]]


BACKEND = PodmanSandboxes
