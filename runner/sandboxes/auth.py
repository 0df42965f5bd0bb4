"""Who may ask a sandbox server: whoever has its API key, nobody else. There is no way to switch it off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from msgspec import json

from runner.code_server import keys

HEADER = keys.HEADER
OPEN = "/health"
"""The one path that is answered without a key; it says nothing that is secret."""
FILE = "key"
"""Of a server's state folder: its API key, 0600."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

WRONG = f"found a wrong key, or none: expected this server's in the header {HEADER}, or Authorization: Bearer"


def ensured(state: Path) -> str:
    """The API key of a server's state folder, which is there; made, 0600, if there is none yet."""
    return keys.ensured(state / FILE, "the sandbox server")


class Locked:
    """Answers 401 to all that has no key, before anything of it is read: also where there is no such path."""

    def __init__(self, app: App, key: str) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # none of ours is there to be asked for
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] == "lifespan" or scope["path"] == OPEN or self._opens(scope):
            return await self._app(scope, receive, send)
        body = json.encode({"error": "unauthorized", "detail": WRONG})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                   (b"www-authenticate", b"Bearer")]  # fmt: skip
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _opens(self, scope: Message) -> bool:
        given = {name: value.decode("latin-1") for name, value in scope["headers"]}
        return keys.opens(self._key, given.get(HEADER.lower().encode()), given.get(b"authorization"))
