"""Many bases in a registry, a stand-in for the agent's layer, and `runner prebuild` as a process of its own.

python -m tests.live.parts_prebuild VERB …      `runner prebuild VERB …` with the stand-in
"""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from image_cache import oci
from image_cache.references import Reference
from image_cache.registry import Registry
from image_cache.store import Store
from kit.nouns import Platform, digest
from runner import agent_layer, cli, prebuilding
from runner.agent_layer import AgentLayer
from tests.live.parts_bake import packed, tar_of
from tests.live.parts_faulty import FaultyProxy

ROOT = Path(__file__).parents[2]
PLATFORM = Platform("amd64")
REPOSITORIES = 10
PEAK = "PREBUILD_PEAK"  # a variable: the file for the kilobytes of the process's peak
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def fill(host: str, count: int, name: str = "team", first: int = 0, layers: int = 2) -> list[str]:
    """Puts tiny images into ten repositories, each with a config of its own; returns their references."""
    registry = Registry(host)
    plain = [tar_of(f"base/{number}") for number in range(layers)]
    raw = [packed(each) for each in plain]
    ids = [digest(each) for each in plain]
    held = tuple(oci.Descriptor(DOCKER_LAYER, digest(each), len(each)) for each in raw)
    repositories = [f"{name}/repo{number}_final" for number in range(min(REPOSITORIES, count))]
    for repository in repositories:
        for blob, body in zip(held, raw, strict=True):
            registry.put_blob(repository, blob, lambda body=body: iter([body]))  # type: ignore[misc]

    def put(number: int) -> str:
        repository = repositories[number % len(repositories)]
        config = oci.encode({
            "os": "linux", "architecture": "amd64", "author": f"{name} {number}",
            "config": {"Env": ["A=b"], "Cmd": ["sh"]}, "rootfs": {"type": "layers", "diff_ids": ids},
            "history": [{"created_by": "x"}] * layers,
        })  # fmt: skip
        described = oci.Descriptor(DOCKER_CONFIG, digest(config), len(config))
        registry.put_blob(repository, described, lambda: iter([config]))
        manifest = oci.encode(oci.Manifest(described, held, media_type=oci.DOCKER_MANIFEST))
        at = Reference(host, repository, f"{number:08x}")
        registry.put_manifest(at, manifest, oci.DOCKER_MANIFEST)
        return str(at)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(put, range(first, first + count)))


def listed(path: Path, references: Sequence[str]) -> Path:
    path.write_text("".join(f"{each}\n" for each in references))
    return path


def stand_in(platform: Platform, store: Store) -> AgentLayer:
    """A layer of a few kilobytes in place of the agent's."""
    key = {name: f"{number}" * 64 for number, name in enumerate(("gzip", "zstd", "tiny"), 1)}
    if (there := store.artifact(key["tiny"])) is None:
        file = store.root / f"big-{os.getpid()}.tar.gz"
        store.root.mkdir(parents=True, exist_ok=True)
        file.write_bytes(packed(tar_of("slipworks-agent/big", 50_000)))
        store.put_artifact(key["gzip"], file, name="agent-server")
        store.put_tar(key["zstd"], [tar_of("slipworks-agent/big", 50_000)], name="agent-server")
        file.write_bytes(packed(tar_of("usr/local/bin/tiny", 10)))
        there = store.put_artifact(key["tiny"], file, name="client path")
        file.unlink()
    gzip, zstd = store.artifact(key["gzip"]), store.artifact(key["zstd"])
    assert gzip and zstd and there
    folder = "/slipworks-agent"
    return AgentLayer(key=key["gzip"], platform=platform, folder=folder, gzip=gzip, zstd=zstd, tiny=there)


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "SLIPWORKS_CACHE": str(cache), "PYTHONPATH": str(ROOT)}


def argv(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "tests.live.parts_prebuild", *map(str, words)]


def ran(cache: Path, *words: str | Path, code: int = 0) -> tuple[str, str]:
    """Output and story of a run as a process, which must end with `code`."""
    done = subprocess.run(
        argv(*words), env=environment(cache), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


_ANSWERED = re.compile(r'"(?P<method>[A-Z]+) /v2/(?P<path>\S+?)(?:\?\S*)? HTTP/1.[01]" (?P<status>\d+)')


def answered(log: Path, method: str, what: str, status: int = 201) -> Counter[str]:
    """How often a registry answered so, by path, as its own log has it. what: a part of the path."""
    found = (_ANSWERED.search(line) for line in log.read_text(errors="replace").splitlines())
    return Counter(
        each["path"] for each in found
        if each and each["method"] == method and what in each["path"] and int(each["status"]) == status
    )  # fmt: skip


class Hub(FaultyProxy):
    """A registry that counts manifests as Docker Hub does: so many in a window, which it announces, then 429.

    HEAD is not counted, and blobs are not. `got` counts the manifests that were fetched, by path.
    """

    def __init__(self, registry: str, limit: int, window: int) -> None:
        super().__init__(registry, share=0.0)
        self.limit, self.window = limit, window
        self.got = Counter[str]()
        self._times: list[float] = []
        self._counting = threading.Lock()

    def _forwarded(
        self, handler: http.server.BaseHTTPRequestHandler, body: bytes, sent: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes] | None:
        manifest = "/manifests/" in handler.path
        if not manifest:
            return super()._forwarded(handler, body, sent)
        left = self._left(handler)
        if left < 0:
            words = b'{"errors":[{"code":"TOOMANYREQUESTS"}]}'
            return 429, [*self._headers(0), ("Content-Length", str(len(words)))], words
        answer = super()._forwarded(handler, body, sent)
        return answer and (answer[0], [*answer[1], *self._headers(left)], answer[2])

    def _left(self, handler: http.server.BaseHTTPRequestHandler) -> int:
        """How many more may be had after this one; -1: not this one either."""
        with self._counting:
            now = time.monotonic()
            self._times = [each for each in self._times if now - each < self.window]
            left = self.limit - len(self._times)
            if handler.command != "GET":
                return left
            if left == 0:
                return -1
            self._times.append(now)
            self.got[handler.path] += 1
            return left - 1

    def _headers(self, left: int) -> list[tuple[str, str]]:
        return [("RateLimit-Limit", f"{self.limit};w={self.window}"),
                ("RateLimit-Remaining", f"{left};w={self.window}")]  # fmt: skip


def main() -> int:
    agent_layer.made = stand_in
    agent_layer.find = stand_in  # type: ignore[assignment]
    assert prebuilding.agent_layer is agent_layer
    code = cli.main(["prebuild", *sys.argv[1:]])
    if peak := os.environ.get(PEAK):
        Path(peak).write_text(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    return code


if __name__ == "__main__":
    sys.exit(main())
