"""Where this machine's sandboxes have their state. A home may be many machines', containers are one's."""

from __future__ import annotations

import platform
from pathlib import Path

from kit import settings

SERVER = "server.json"
"""Of a state folder, while a server serves from it: {url, pid, host, started}."""


def served() -> Path:
    """Of the server that was given no other folder."""
    return _here() / "server"


def by_hand() -> Path:
    """Of those that `runner sandbox run` started, which no server looks after."""
    return _here() / "by-hand"


def _here() -> Path:
    return settings.state() / "sandboxes" / (platform.node() or "localhost")
