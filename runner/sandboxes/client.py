"""A client of the sandbox server's API: what a front asks its nodes, and a command this machine's server.

A named HTTP door. No proxy is asked: servers are on this machine, or on nodes of the same job.
"""

from __future__ import annotations

from typing import Any

import httpx

from kit import errors
from kit.errors import AuthError, BusyError, NetworkError, SlipworksError
from runner.sandboxes.auth import HEADER

LONGEST = 300  # characters of an answer that an error quotes
AGAIN = 5.0
KINDS: dict[int, type[SlipworksError]] = {
    401: AuthError, 404: errors.NotFoundError, 409: errors.UsageError, 422: errors.InvalidFileError,
    501: errors.UnsupportedError,
}  # fmt: skip
"""What a status means; all others that are no success: NetworkError, as of who did not do what was asked."""


class Client:
    """Of one server. Any thread may call it; connections are kept."""

    def __init__(self, url: str, key: str, timeout: float = 60.0) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, headers={HEADER: key}, timeout=timeout, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> dict[str, Any]:
        """The answer's object. Its failure is of the class that the server's was (`KINDS`; BusyError with its
        seconds); NetworkError where it gives no answer, or none of ours."""
        try:
            answer = self._http.request(method, path, json=body, params=query)
        except httpx.RequestError as broken:
            told = str(broken) or type(broken).__name__
            raise NetworkError(f"the sandbox server at {self.url} does not answer: {told}") from broken
        found = _object(answer)
        if answer.status_code < 400 and found is not None:
            return found
        detail = str((found or {}).get("detail") or answer.text[:LONGEST].strip())
        if answer.status_code == 429:
            raise BusyError(detail, _seconds(answer))
        kind = KINDS.get(answer.status_code, NetworkError)
        raise kind(f"the sandbox server at {self.url} answers {answer.status_code}: {detail}")


def _object(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _seconds(answer: httpx.Response) -> float:
    try:
        return float(answer.headers.get("Retry-After", AGAIN))
    except ValueError:  # a date, of some proxy
        return AGAIN
