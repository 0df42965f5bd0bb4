"""The code server as a part of a job: whether there is one, its service, what the command is told. Pure but
for what is read of the job's training file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import json, structs

from runner import training
from runner.code_server.wanted import NEAR, PORT, VARIABLE, CodeServer, wrong
from runner.launch import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.job import Job

NAME = "code-server"
NETRC = "NETRC"
THRESHOLD = "code_pass_rate_reward_threshold"
URL = "code_api_url"
READY_WITHIN = 120.0  # seconds; it runs a test program first, of an image that may come over the network


def asked(job: Job) -> CodeServer | None:
    """What the job asks for, with its port: by its own word, else as its training file needs one.

    That is so where it rewards by tests that programs pass and names no server on another machine.
    """
    said = job.code_server
    if said is False:
        return None
    data = training.of(job)
    url = _address(data)
    if said is None and (data.get(THRESHOLD) is None or (url is not None and url[0] not in NEAR)):
        return None
    found = said if isinstance(said, CodeServer) else CodeServer()
    port = url[1] if url and url[0] in NEAR else None
    return structs.replace(found, port=found.port or port or PORT)


def why(job: Job) -> str | None:
    """Why a job that does not say so gets one, in words."""
    if job.code_server is None and asked(job):
        return f"a code server on every node: {job.training} has {THRESHOLD} (code_server=false: none)"
    return None


def services(job: Job, nodes_here: int) -> tuple[Service, ...]:
    """The job's services, and the server's. Nodes that share a machine share its server."""
    server = asked(job)
    if server is None:
        return job.services
    from runner.submission import RUNNER  # late: that has jobs made of this

    command = (RUNNER, NAME, "--set", json.encode(server).decode())
    mine = Service(
        name=NAME, run=command, restart=3, nodes="head" if nodes_here > 1 else "all",
        ready=f"http://{server.where}/health", ready_within=READY_WITHIN,
    )  # fmt: skip
    return (*job.services, mine)


def variables(job: Job) -> dict[str, str]:
    """What tells the command where it is. open-instruct adds `/test_program` to CODE_API_URL."""
    server = asked(job)
    return {"CODE_API_URL": f"http://{server.where}"} if server else {}


def netrc(job: Job) -> str | None:
    """The host of which each node's netrc has the key; None: no key, or the job has a netrc of its own.

    No part of the run folder, where it would outlive a node that was killed: see runner/private.py.
    """
    server = asked(job)
    if server is None or not server.key or NETRC in (*job.env, *job.env_files, *job.secrets):
        return None
    return server.where.rpartition(":")[0]


def secrets(job: Job) -> tuple[str, ...]:
    """The name of the key, where there is one: it is made when the run is written (see made)."""
    server = asked(job)
    return (VARIABLE,) if server and server.key else ()


def made(names: tuple[str, ...]) -> dict[str, str]:
    """A new key, where `names` of secrets have it."""
    if VARIABLE not in names:
        return {}
    from runner.code_server import keys  # late: a dry run makes none

    return {VARIABLE: keys.made()}


def checked(job: Job) -> Iterator[tuple[str, str | None]]:
    """Place and complaint; None where nothing is wrong."""
    if isinstance(job.code_server, CodeServer):
        for key, complaint in wrong(job.code_server):
            yield f"code_server.{key}", complaint
    if job.code_server and any(each.name == NAME for each in job.services):
        yield "services", f"a service is called {NAME}, which is the name of code_server's"


def _address(data: dict[str, Any]) -> tuple[str, int | None] | None:
    """Host and port that a training file names; None: it names none."""
    try:
        found = urlsplit(str(data.get(URL) or ""))
        return (found.hostname, found.port) if found.hostname else None
    except ValueError:
        return None
