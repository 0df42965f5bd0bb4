"""What a client is told when something goes wrong: a status, and {"error", "detail"} of one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from msgspec import json
from starlette.exceptions import HTTPException

from kit import errors
from kit.errors import SlipworksError

AGAIN = 5.0
"""Seconds after which to ask again, where nobody knows better."""
LONGEST = 4000
"""Characters of a detail."""

STATUSES: dict[type[SlipworksError], int] = {
    errors.UsageError: 409,
    errors.NotFoundError: 404,
    errors.BusyError: 429,
    errors.UnsupportedError: 501,
    errors.InvalidFileError: 422,
    errors.UnknownNameError: 422,
    errors.QuotaError: 503,
    errors.HeldError: 503,
    errors.HostError: 503,
    errors.NoSpaceError: 503,
    errors.NetworkError: 502,
    errors.AuthError: 502,
}
MEANING = {
    400: "no JSON",
    401: "no key, or a wrong one",
    404: "there is no such sandbox, or no such image",
    409: "there is one by that name, of another image",
    422: "not what this server understands",
    429: "no slot is free: come again after Retry-After seconds",
    501: "this server cannot",
    502: "a registry, an engine or another server did not do what was asked of it",
    503: "not now: come again after Retry-After seconds",
}
WORDS = {400: "bad request", 404: "not found", 405: "method not allowed", 409: "conflict", 422: "invalid",
         429: "busy", 501: "unsupported", 502: "failed", 503: "unavailable"}  # fmt: skip


async def ours(_: Request, failure: SlipworksError) -> Response:
    """Of a failure that we have a class for. The hint is left out: it is for whoever runs the server."""
    status = next((found for kind, found in STATUSES.items() if isinstance(failure, kind)), 500)
    seconds = getattr(failure, "seconds", None) or AGAIN
    again = {"Retry-After": str(max(1, math.ceil(seconds)))} if status in (429, 503) else {}
    return problem(status, failure.message, again)


async def invalid(_: Request, failure: RequestValidationError) -> Response:
    """Of a request that is not understood: where, and what was expected; not what was found, which may be
    a secret."""
    told = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in failure.errors())
    return problem(422, "; ".join(told))


async def refused(_: Request, failure: HTTPException) -> Response:
    """Of a path or method that there is not."""
    return problem(failure.status_code, failure.detail, failure.headers or {})


async def unforeseen(_: Request, failure: Exception) -> Response:
    """Of a bug: the trace is on the server's stderr."""
    return problem(500, f"the server failed: {type(failure).__name__}")


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    SlipworksError: ours,
    RequestValidationError: invalid,
    HTTPException: refused,
    Exception: unforeseen,
}


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    line = " ".join(detail.split())[:LONGEST]
    body = encoded({"error": WORDS.get(status, "internal"), "detail": line})
    return Response(body, status, dict(headers or {}), "application/json")


def encoded(found: Any) -> bytes:
    """JSON, also of what a log or a client wrote that is no Unicode."""
    try:
        return json.encode(found)
    except UnicodeEncodeError:
        from json import dumps

        return dumps(found).encode()
