"""Keep tokens and keys for jobs: in one file that only you can open, beside your settings.

A job names what it needs (`secrets: [HF_TOKEN]`); a variable of your environment comes before the file. No
verb prints a value, and none takes one on its command line, which everybody on the machine can read.
"""

from __future__ import annotations

import argparse

from runner.commands import _family

HELP = "keep tokens and keys for jobs"


def arguments(parser: argparse.ArgumentParser) -> None:
    _family.arguments(parser, __name__)
