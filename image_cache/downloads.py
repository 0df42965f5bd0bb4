"""One file from the web, known by its hash: a published wheel, a source archive.

The second HTTP door. Unlike a registry such a host has no tokens and no names of its own; it gives bytes, and
those are taken only if they hash to what was promised.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from image_cache.answers import PASSING
from image_cache.trust import trusted
from kit import files
from kit.errors import AuthError, HashMismatchError, NetworkError, NotFoundError, QuotaError, UnsupportedError

TRIES = 4
DIRECT = ("all://localhost", "all://127.0.0.1", "all://[::1]")  # no proxy can reach this machine for us


def fetch(
    url: str,
    out: Path,
    *,
    sha256: str,
    authorities: str = "",
    update: Callable[[str], None] = lambda line: None,
    pause: float = 0.5,
    timeout: float = 60.0,
) -> None:
    """Puts what `url` gives at `out`, if it hashes to `sha256`; else HashMismatchError, and nothing is there.

    authorities: PEM certificates to trust beside the machine's. Credentials of the URL are used and never
    told, nor is its query, which may be a signature. What may pass (429, 5xx, a broken connection) is tried
    again; the last error says of which kind it was.
    """
    told = shown(url)
    client = httpx.Client(
        timeout=httpx.Timeout(timeout, connect=min(timeout, 15.0)), verify=trusted(authorities),
        follow_redirects=True, headers={"User-Agent": "slipworks", "Accept-Encoding": "identity"},
        mounts=dict.fromkeys(DIRECT),
    )  # fmt: skip
    with client, files.beside(out) as temporary:
        for attempt in range(TRIES):
            try:
                found = _taken(client, url, told, temporary, update)
                break
            except (httpx.RequestError, _PassingError) as trouble:
                if attempt == TRIES - 1 or "[SSL" in str(trouble):  # TLS fails the same way every time
                    raise _worded(trouble, told) from trouble
                time.sleep(pause * 2**attempt)
        if found != sha256:
            raise HashMismatchError(f"{told} sent a file with sha256 {found}: expected {sha256}")
        files.settle(temporary, out)


def shown(url: str) -> str:
    """The URL without what may not be told: credentials, query. UnsupportedError for what is no URL."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as bad:
        raise UnsupportedError(f"not a URL: {bad}") from bad
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UnsupportedError("a download begins with https:// or http:// and names a host")
    return str(parsed.copy_with(username=None, password=None, query=None, fragment=None))


class _PassingError(Exception):
    """An answer that may be another a moment later."""

    def __init__(self, code: int) -> None:
        super().__init__(f"it answered {code}")
        self.code = code


def _taken(client: httpx.Client, url: str, told: str, path: Path, update: Callable[[str], None]) -> str:
    """Writes the body to `path`; returns its sha256."""
    seen, done = hashlib.sha256(), 0
    with client.stream("GET", url) as answer:
        if answer.status_code in PASSING:
            raise _PassingError(answer.status_code)
        if answer.status_code in (401, 403):
            raise AuthError(f"{told} is not ours to read ({answer.status_code})")
        if answer.status_code in (404, 410):
            raise NotFoundError(f"{told} does not exist ({answer.status_code})")
        if not answer.is_success:
            raise UnsupportedError(f"{told} was refused with {answer.status_code}")
        whole = answer.headers.get("Content-Length", "")
        with files.space_named(path), path.open("wb") as file:
            for piece in answer.iter_raw(2**20):
                file.write(piece)
                seen.update(piece)
                done += len(piece)
                update(
                    f"{done / 2**20:.0f} MB" + (f" of {int(whole) / 2**20:.0f}" if whole.isdigit() else "")
                )
    return seen.hexdigest()


def _worded(trouble: Exception, told: str) -> NetworkError | QuotaError:
    if isinstance(trouble, _PassingError) and trouble.code == 429:
        return QuotaError(f"{told}: too many requests from us, again and again")
    if "CERTIFICATE_VERIFY_FAILED" in str(trouble):
        return NetworkError(f"could not download {told}: its certificate is signed by nobody we know",
                            "export SSL_CERT_FILE=<PEM file with your authority>")  # fmt: skip
    reason = "no answer in time" if isinstance(trouble, httpx.TimeoutException) else str(trouble)
    return NetworkError(f"could not download {told}: {reason or type(trouble).__name__}", f"curl -I {told}")
