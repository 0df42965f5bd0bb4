"""Run programs that a model wrote against their tests, over HTTP, each request in a cage of its own.

A job starts it by itself (`code_server: true`). By hand, in a container or on any machine:
    runner code-server &
    curl -H "X-API-Key: $(cat ~/.config/slipworks/code-server.key)" http://127.0.0.1:1234/test_program \\
        -d '{"program": "x = 1", "tests": ["assert x == 1"], "max_execution_time": 1}'
The answer: {"results": [1], "runtimes": [0.0001]}. `POST /test_program_stdio` takes tests {input, output};
`GET /health`, without a key, says how programs are kept apart here, and what they are not kept from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

BARE = True  # what it needs it is told; it runs inside the job's container
HELP = "run programs against their tests, over HTTP"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", metavar="JSON", default="{}", help="keys of a job's code_server")
    parser.add_argument("--port", type=int, help="where it listens (default: 1234)")
    parser.add_argument("--listen", metavar="ADDRESS", help="default: 127.0.0.1")
    parser.add_argument("--no-key", action="store_true", help="whoever reaches it may ask")
    parser.add_argument("--key-file", type=Path, metavar="FILE",
                        help="made, 0600, if it is not there (default: $SLIPWORKS_CODE_SERVER_KEY, "
                        "else ~/.config/slipworks/code-server.key)")  # fmt: skip
    parser.add_argument("--netrc", type=Path, metavar="FILE", help="while it runs, a netrc with the key")


def run(args: argparse.Namespace) -> int:
    from msgspec import DecodeError, ValidationError, json, structs

    from kit.errors import UsageError
    from runner.code_server import serving, wanted

    try:
        asked = json.decode(args.set, type=wanted.CodeServer)
    except (DecodeError, ValidationError) as bad:
        raise UsageError(f"--set: {bad}", "runner code-server --help") from bad
    given = {name: getattr(args, name) for name in ("port", "listen") if getattr(args, name) is not None}
    asked = structs.replace(asked, **given, key=asked.key and not args.no_key)
    for key, complaint in wanted.wrong(asked):
        if complaint:
            raise UsageError(f"{key}: {complaint}", "runner code-server --help")
    return serving.serve(asked, args.key_file, args.netrc)
