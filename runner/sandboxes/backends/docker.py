"""Sandboxes by Docker, whose daemon is root's as a rule and holds limits by control groups."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from containers.engines.docker import Docker
from runner.sandboxes.backends.containers import Containers
from runner.sandboxes.nouns import Start
from runner.sandboxes.settings import Settings
from runner.sandboxes.warden import Measure
from runner.sandboxes.written import counting

LOG = "16m"
GROUPS = {"CPUSet": "cpus", "MemoryLimit": "memory", "PidsLimit": "pids"}


class DockerSandboxes(Containers):
    name = "docker"
    info = "{{json .}}"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Docker())

    def program(self) -> list[str]:
        return ["docker"]

    def able(self, info: dict[str, Any]) -> frozenset[str]:
        return frozenset({"freezer", *(name for key, name in GROUPS.items() if info.get(key))})

    def listed(self, words: Sequence[str]) -> Iterable[tuple[str, str, int]]:
        lines = self.ask([*words, "--format={{.Names}}\t{{.State}}"], "list sandboxes").splitlines()
        for name, _, told in (line.partition("\t") for line in lines):
            yield name, told, 0

    def own_words(self, start: Start, limits: Sequence[str]) -> list[str]:
        return ["--log-driver=json-file", f"--log-opt=max-size={LOG}", "--log-opt=max-file=1"]

    def measure(self, told: dict[str, Any], pid: int) -> Measure:
        """Without root by the daemon, which does not count volumes."""
        if os.geteuid() == 0:
            return super().measure(told, pid)
        argv = [*self.program(), "inspect", "--size", "--format={{.SizeRw}}", str(told.get("Id"))]

        def asked() -> int | None:
            done = counting(argv)
            return int(done.out) if done.code == 0 and done.out.strip().isdecimal() else None

        return asked

    def remove_words(self, grace: float) -> list[list[str]]:
        return [["stop", "-t", f"{grace:.0f}"], ["rm", "--force", "--volumes"]]


BACKEND = DockerSandboxes
