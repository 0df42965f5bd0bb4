"""Build, prove, find and describe training images.

The answer of `build` is one line on stdout: the image's reference or path.
"""

from __future__ import annotations

import argparse

from runner.commands import _family

HELP = "build, prove, find and describe training images"


def arguments(parser: argparse.ArgumentParser) -> None:
    _family.arguments(parser, __name__)
