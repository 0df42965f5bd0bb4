"""Give thousands of sandbox images an agent-server, by editing manifests in the registry instead of building.

`layer` makes what is added, `plan` looks at a list of base images, `run` bakes them, `verify` starts some and
drives their agent-server. A prebuild is kept in a journal: `run` goes on wherever it was interrupted.
"""

from __future__ import annotations

import argparse

from runner.commands import _family

HELP = "bake the agent-server into thousands of sandbox images"


def arguments(parser: argparse.ArgumentParser) -> None:
    _family.arguments(parser, __name__)
