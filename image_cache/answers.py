"""What a registry's answer means, in our words. Pure: status codes and headers in, errors out."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

import msgspec

from kit.errors import AuthError, NetworkError, NotFoundError, QuotaError, SlipworksError, UnsupportedError

PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Answers that may be others a moment later."""
LONGEST = 7 * 86400.0  # seconds


class BlobsMissingError(NetworkError):
    """A registry takes no manifest because it lacks blobs that it had: they can be brought again."""


def refusal(host: str, what: str, code: int, retry_after: str | None = None) -> SlipworksError | None:
    """The error for an answer that says nothing about `what`, only about us or the registry."""
    if code in (401, 403):
        return AuthError(
            f"{host} does not let us use {what} ({code}): it wants other credentials than ours, or there is "
            "no such repository, which some registries answer in the same way",
            f"podman login {host}",
        )
    if code == 429:
        unit = " s" if retry_after and _number(retry_after) else ""
        when = f"; it says to come back after {retry_after}{unit}" if retry_after else ""
        refused = QuotaError(f"{host} has had too many requests from us{when}", f"podman login {host}")
        refused.seconds = seconds(retry_after)
        return refused
    if code >= 500:
        return NetworkError(f"{host} failed with {code} when asked for {what}, again and again")
    return None


def failure(host: str, what: str, code: int, words: str) -> SlipworksError:
    """The error for any other answer that is no success."""
    if code == 404:
        return NotFoundError(f"{what} does not exist{words}", "check the name and the tag")
    return UnsupportedError(f"{host} refused {what} with {code}{words}")


def unreachable(host: str, api: str, what: str, trouble: str) -> NetworkError:
    """No answer at all."""
    if "CERTIFICATE_VERIFY_FAILED" in trouble:
        return NetworkError(
            f"could not ask for {what}: the certificate of {host} is signed by nobody we know",
            "export SSL_CERT_FILE=<PEM file with your authority>",
        )
    return NetworkError(f"could not ask for {what}: {trouble}", f"curl -I {api}/")


def words(body: bytes) -> str:
    """The registry's own explanation, short and on one line; empty when there is none."""
    try:
        first = msgspec.json.decode(body)["errors"][0]
        return f": {first.get('code')} {first.get('message', '')}".rstrip().replace("\n", " ")[:200]
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        return ""


def seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds from now: it is a number, or a date. LONGEST at most; None: it is neither."""
    if retry_after is None:
        return None
    if _number(retry_after):
        return min(LONGEST, float(retry_after))
    try:
        return min(LONGEST, max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time()))
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> bool:
    return text.isascii() and text.strip().isdecimal()
