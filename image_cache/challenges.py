"""What a registry wants of us, told by its WWW-Authenticate header. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

from msgspec import Struct

from image_cache.credentials import Credentials
from kit.errors import NetworkError

Scope = tuple[str, str]  # a repository, and `pull` or `pull,push`
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class TokenRequest(Struct, frozen=True):
    """A request to a token service: GET with `query`, or POST with `form` where there is one."""

    url: str
    query: dict[str, str | list[str]]
    form: dict[str, str]
    authorization: dict[str, str]

    def __repr__(self) -> str:
        return f"TokenRequest(to {self.url})"


def answer(challenge: str, scopes: Sequence[Scope], found: Credentials | None) -> str | TokenRequest | None:
    """The header that opens the door, or the request that gets it, or None: we have nothing to show."""
    if "bearer" not in challenge.lower():
        return _basic(found) if found else None
    asked = dict(_PARAMETER.findall(challenge))
    wanted = [f"repository:{name}:{actions}" for name, actions in scopes]
    service, realm = asked.get("service", ""), asked.get("realm", "")
    if not realm.startswith(("https://", "http://")):
        raise NetworkError(
            "a registry asks for a token, and its WWW-Authenticate header has no realm to get it"
        )
    if found and found.identity:
        form = {"grant_type": "refresh_token", "refresh_token": found.identity, "client_id": "slipworks"}
        return TokenRequest(realm, {}, {**form, "service": service, "scope": " ".join(wanted)}, {})
    shown = {"Authorization": _basic(found)} if found else {}
    return TokenRequest(realm, {"service": service, "scope": wanted}, {}, shown)


def _basic(found: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{found.user}:{found.password}".encode()).decode()
