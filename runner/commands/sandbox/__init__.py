"""Sandboxes for agents: by hand, one at a time, or by a server that clients of OpenHands ask for them."""

from __future__ import annotations

import argparse

from runner.commands import _family

HELP = "sandboxes for agents, by hand or by a server"
WORDS = ("run", "exec")
"""The verbs that take another command's words."""


def arguments(parser: argparse.ArgumentParser) -> None:
    _family.arguments(parser, __name__)
