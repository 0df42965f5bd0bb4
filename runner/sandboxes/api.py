"""The sandbox server's HTTP side: what clients of OpenHands ask, put to a host (one node's desk, or a front).

Every answer but that of `/health` needs the API key. What goes wrong is {"error", "detail"} with the status
that says whose turn it is: 4xx the client's, 429 and 503 with Retry-After, 501 where this server cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from msgspec import Struct

from kit.errors import NotFoundError, SlipworksError
from runner.sandboxes import models, problems
from runner.sandboxes.auth import HEADER, App, Locked
from runner.sandboxes.host import Host
from runner.sandboxes.listing import Listing
from runner.sandboxes.models import Problem
from runner.sandboxes.nouns import Session

T = TypeVar("T")
AT_ONCE = 256
"""Calls that may wait for an engine or another server at one time; quick ones are answered meanwhile."""
LINES = 50
"""Of the log of a sandbox that failed, told to whoever asks for it."""


class Served(Struct, frozen=True):
    """What the routes serve. prefix: what older clients put before an image's name; engine, limits: for
    `/health`."""

    host: Host
    prefix: str = ""
    engine: str = ""
    limits: Mapping[str, str] = {}


def app(serving: Served, key: str) -> App:
    """The whole, behind its API key."""
    return Locked(unlocked(serving), key)


def unlocked(serving: Served) -> FastAPI:
    """The routes alone, of which the OpenAPI is made."""
    from runner.sandboxes import older

    made = FastAPI(title="slipworks sandboxes", version="1", docs_url=None, redoc_url=None,
                   description=__doc__, exception_handlers=problems.HANDLERS)  # fmt: skip
    made.state.served = serving
    made.state.slow, made.state.listing = CapacityLimiter(AT_ONCE), Listing()
    made.add_api_route("/health", health, response_model=models.Health, methods=["GET"])
    made.include_router(routes())
    made.include_router(older.routes())
    return made


def locked_router() -> APIRouter:
    """A router whose OpenAPI tells of the key, either way of sending it; the lock itself is Locked's."""
    return APIRouter(dependencies=[
        Security(APIKeyHeader(name=HEADER, scheme_name="key", auto_error=False)),
        Security(HTTPBearer(scheme_name="bearer", auto_error=False)),
    ], responses=declared(401))  # fmt: skip


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's OpenAPI says of its failures."""
    return {each: {"model": Problem, "description": problems.MEANING[each]} for each in statuses}


def routes() -> APIRouter:
    router = locked_router()
    add = partial(router.add_api_route, response_model=models.Runtime)
    add("/start", start, methods=["POST"], responses=declared(400, 404, 409, 422, 429, 501, 502, 503))
    add("/pause", pause, methods=["POST"], responses=declared(400, 404, 409, 422, 501, 502, 503))
    add("/resume", resume, methods=["POST"], responses=declared(400, 404, 409, 422, 501, 502, 503))
    add("/stop", stop, methods=["POST"], responses=declared(400, 404, 422, 502, 503))
    add("/sessions/{session_id}", session, methods=["GET"], responses=declared(404, 422))
    router.add_api_route("/list", listed, response_model=models.Listed, methods=["GET"])
    return router


async def health(request: Request) -> Response:
    """That it answers. Needs no key."""
    about = served(request)
    return answer({"status": "ok", "engine": about.engine, "limits": dict(about.limits)})


async def start(request: Request, body: models.StartRequest) -> Response:
    """Begins a sandbox, or gives the one that lives by that session's name. Returns at once: it is ready
    when its session says so. Its URL and its key are in this answer already."""
    return answer(models.runtime(await slowly(request, served(request).host.start, body.wish())))


async def pause(request: Request, body: models.RuntimeRequest) -> Response:
    """Freezes it: no processor time, its memory stays. 501 where the engine cannot."""
    return answer(models.runtime(await slowly(request, served(request).host.pause, body.runtime_id)))


async def resume(request: Request, body: models.RuntimeRequest) -> Response:
    """Goes on with a paused one."""
    return answer(models.runtime(await slowly(request, served(request).host.resume, body.runtime_id)))


async def stop(request: Request, body: models.RuntimeRequest) -> Response:
    """Ends it; one that has ended already is no error."""
    return answer(models.runtime(await slowly(request, served(request).host.stop, body.runtime_id)))


async def session(request: Request, session_id: str) -> Response:
    """The newest sandbox of that name, living or ended."""
    found = await quickly(served(request).host.find, session_id)
    if found is None:
        raise NotFoundError(f"there is no session {session_id}")
    return await told(request, found)


async def listed(request: Request) -> Response:
    """Those that live, the oldest first."""
    host, listing = served(request).host, request.app.state.listing
    raw = await quickly(lambda: listing.written(host.sessions(), host.counts()))
    return Response(raw, media_type="application/json")


async def told(request: Request, found: Session) -> Response:
    """A sandbox that a client asked for; of one that failed, with the end of its log."""
    logs = await slowly(request, _logs, served(request).host, found.id) if found.phase == "failed" else ""
    return answer(models.runtime(found, logs))


def _logs(host: Host, id: str) -> str:
    try:
        return host.logs(id, LINES)
    except SlipworksError:
        return ""


async def quickly(asked: Callable[..., T], *words: Any) -> T:
    """In a thread: what is answered from memory, but for a lock."""
    return await anyio.to_thread.run_sync(partial(asked, *words))


async def slowly(request: Request, asked: Callable[..., T], *words: Any) -> T:
    """In a thread of those that may wait: quick answers have others."""
    return await anyio.to_thread.run_sync(partial(asked, *words), limiter=request.app.state.slow)


def answer(found: Mapping[str, Any]) -> Response:
    return Response(problems.encoded(found), media_type="application/json")


def served(request: Request) -> Served:
    found: Served = request.app.state.served
    return found
