"""Serve sandboxes of this node to agents, until it is ended: the API that OpenHands' clients ask.

A job starts it by itself (`sandboxes:`). By hand:
    runner sandbox serve --cpus 2 --queue 600 &
On stdout its URL, once it answers. Its API key is in the file `key` of the state folder, which it makes,
0600; clients send it as X-API-Key. A server that was killed and begun again finds its sandboxes; one that is
ended (TERM, Ctrl-C) ends them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

BARE = True  # what it needs it is told; on a node it has no cluster to ask
HELP = "serve sandboxes to agents"

OPTIONS = {
    "engine": "podman, apptainer or docker (default: the first that works here)",
    "listen": "address where it and its sandboxes listen (default: 127.0.0.1; others need the key)",
    "address": "by which clients call it (default: --listen, or this machine's own)",
    "port": "where it listens (default: one that is free)",
    "cpus": "processors of a slot (default: 4)",
    "memory": "megabytes of a slot (default: 8192)",
    "slots": "how many (default: as many as have processors and memory of their own)",
    "reserve": "processors that no sandbox gets (default: 0)",
    "pids": "processes of a sandbox (default: 512)",
    "disk": "megabytes that a sandbox may write (default: 20480)",
    "network": "own or host (default: own where the engine can)",
    "queue": "seconds that a request may wait for a slot (default: 0: it is told to come again)",
    "idle": "seconds without use after which a sandbox is stopped, 0: never (default: 3600)",
    "longest": "seconds after which a sandbox is stopped, 0: never (default: 86400)",
    "start_within": "seconds for an agent-server to say that it is alive (default: 120)",
    "pull_within": "seconds for an image to be there (default: 1800)",
    "bake_to": "REGISTRY/NAMESPACE to which bases without an agent-server are baked (default: none is)",
    "layer": "the agent-server's layer as the engine mounts it (default: made when it is needed)",
    "prefix": "what older clients put before their images' names",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FOLDER",
        help="where its key and its sandboxes' records lie (default: this machine's own)",
    )
    parser.add_argument(
        "--front",
        action="append",
        metavar="URL",
        help="stand before this server of another node, and all others given so, which have the same key",
    )
    parser.add_argument("--set", metavar="JSON", default="{}", help="the options below as one")
    for name, meaning in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar=name.upper(), help=meaning)


def run(args: argparse.Namespace) -> int:
    from msgspec import DecodeError, convert, json

    from kit.errors import UsageError
    from runner.sandboxes import places, serving
    from runner.sandboxes.settings import Settings

    given = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    try:
        settings = convert(json.decode(args.set, type=dict[str, Any]) | given, Settings, strict=False)
    except DecodeError as bad:
        raise UsageError(f"a wrong option: {bad}", "runner sandbox serve --help") from bad
    return serving.serve(settings, (args.state or places.served()).absolute(), args.front or ())
