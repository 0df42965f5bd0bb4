"""A prebuild as `runner prebuild plan` and `run` do it, for tests/bench/bake.py: the journal, the crew, the
credentials, and a registry that wants tokens, which are made by a service as far away as itself."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from image_cache.bake import Added
from image_cache.places import Origin
from image_cache.prebuild.journal import Header, Journal
from image_cache.prebuild.lists import Entry
from runner import prebuilding
from runner.bake_targets import repository
from tests.live import parts_registry
from tests.live.parts_registry import PASSWORD, USER, Tokens

EVERY = 60.0  # seconds between two lines of the story


class Went(Struct):
    """Of `images`, after one that brought the layer."""

    images: int
    planned: float  # seconds
    took: float
    requests: int
    processors: float  # seconds of ours

    @property
    def told(self) -> str:
        each = 1000 / self.images
        return (
            f"planned in {self.planned:.0f} s; {self.requests / self.images:.1f} requests and "
            f"{self.processors * each:.1f} ms of our processors for each run"
        )


def ran(folder: Path, to: str, bases: Sequence[Origin], more: Added, jobs: int) -> Went:
    """Plans and runs them all within the registry of `to`: a host, or its namespace."""
    host = to.partition("/")[0]
    names = [Origin(base.kind, host, base.repository, base.tag) for base in bases]
    journal = Journal(folder, Header(to, more.platform))
    try:
        journal.add((Entry(f"{each}"), each.place, repository(to, each)) for each in names)
        journal.look_again(more.address, refresh=False)
        places = prebuilding.Places()
        began = time.perf_counter()
        prebuilding.look(journal, places, more, jobs=jobs, every=EVERY)
        planned = time.perf_counter() - began
        places = prebuilding.Places()  # as another process has it, which knows no tokens
        prebuilding.make(journal, places, more, jobs=1, every=EVERY, limit=1, wait=True)
        asked, ours = sum(places.requests.values()), time.process_time()
        began = time.perf_counter()
        session = prebuilding.make(journal, places, more, jobs=jobs, every=EVERY, limit=None, wait=True)
        took = time.perf_counter() - began
    finally:
        journal.close()
    assert session.done == len(bases) - 1 and not session.failed, session
    requests = sum(places.requests.values()) - asked
    return Went(len(bases) - 1, planned, took, requests, time.process_time() - ours)


@contextlib.contextmanager
def wire(host: str, delay: float) -> Iterator[tuple[str, list[int]]]:
    """Another name of a registry, `delay` seconds away each way; at the end the bytes sent and received."""
    argv = [sys.executable, "-m", "tests.bench.relay", host.replace("localhost", "127.0.0.1"), str(delay)]
    relay = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    passed: list[int] = []
    try:
        assert relay.stdout
        yield f"localhost:{relay.stdout.readline().strip()}", passed
    finally:
        relay.terminate()
        out, _ = relay.communicate()
        passed += map(int, out.split())


@contextlib.contextmanager
def with_tokens(folder: Path, delay: float) -> Iterator[tuple[str, Tokens]]:
    """A registry with its data in folder/"registry", and its token service behind a wire; both wanted."""
    folder.mkdir()
    tokens = Tokens(folder)
    try:
        with wire(f"localhost:{tokens.server.server_port}", delay) as (service, _):
            auth = {
                "realm": f"http://{service}/token", "service": "registry", "issuer": "tests",
                "rootcertbundle": str(tokens.certificate),
            }  # fmt: skip
            more = (
                f"auth: {json.dumps({'token': auth})}\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            )
            with parts_registry.registry(folder / "registry", more) as host:
                yield host, tokens
    finally:
        tokens.server.shutdown()


@contextlib.contextmanager
def logged_in(folder: Path, host: str) -> Iterator[None]:
    """The login that the token service wants."""
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (folder / "auth.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))
    before = os.environ.get("REGISTRY_AUTH_FILE")
    os.environ["REGISTRY_AUTH_FILE"] = str(folder / "auth.json")
    try:
        yield
    finally:
        del os.environ["REGISTRY_AUTH_FILE"]
        if before is not None:
            os.environ["REGISTRY_AUTH_FILE"] = before
