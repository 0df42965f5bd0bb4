"""Options that say which sandboxes are meant: alike in all verbs."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "its name or its id, or the beginning of either: see runner sandbox list"


def state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", type=Path, metavar="FOLDER",
        help="of a server with this state folder (default: those by hand, and your server's)",
    )  # fmt: skip
