"""What `podman inspect` and `docker inspect` tell of a container. Pure."""

from __future__ import annotations

from typing import Any


def pid(told: dict[str, Any]) -> int:
    """Of its first process; 0 of one that has ended."""
    return int(_state(told).get("Pid") or 0)


def why(told: dict[str, Any]) -> str:
    """How it ended, in one line; empty of one that runs."""
    state = _state(told)
    if state.get("Running"):
        return ""
    code = state.get("ExitCode")
    if state.get("OOMKilled") and code == 137:
        return f"it had more memory than it may: the kernel ended it (exit code {code})"
    error = str(state.get("Error") or "").strip()
    return f"exit code {code}{f': {error}' if error else ''}"


def published(told: dict[str, Any]) -> bool:
    """Whether a port of the container is one of the host's."""
    return any(((told.get("NetworkSettings") or {}).get("Ports") or {}).values())


def reached(told: dict[str, Any]) -> bool:
    """The same; true of one that has ended already."""
    return published(told) or not pid(told)


def _state(told: dict[str, Any]) -> dict[str, Any]:
    return told.get("State") or {}
