"""The OpenHands SDK's own client, unpatched, in an interpreter of its own: the agent layer's CPython, which
holds `openhands-workspace` by the layer's hash lock, run on this host by the layer's own loader.

    sdk("kept['box'] = APIRemoteWorkspace(runtime_api_url=url, …)", url=…)
    sdk("answer = kept['box'].execute_command('id -u').stdout")

To import the SDK takes seconds, so one interpreter serves all tests; `kept` is what they leave for each
other.
"""

from __future__ import annotations

import json
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import agent_layer, images
from runner.agent_layer import AgentLayer
from tests.live.parts_roots import NATIVE

PATIENCE = 240.0
DRIVER = """
import json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # the SDK logs to stdout
from openhands.workspace import APIRemoteWorkspace
kept = {}
answers.write(json.dumps({"answer": None}) + "\\n")
for line in sys.stdin:
    code, given = json.loads(line)
    names = {"APIRemoteWorkspace": APIRemoteWorkspace, "kept": kept, "answer": None, **given}
    try:
        exec(code, names)
        told = {"answer": names["answer"]}
    except BaseException as failure:
        traceback.print_exc()
        told = {"error": f"{type(failure).__name__}: {failure}"}
    answers.write(json.dumps(told) + "\\n")
"""


class SdkError(Exception):
    """What the SDK raised, by its class and message."""


class Sdk:
    """Runs lines of Python beside `APIRemoteWorkspace`."""

    def __init__(self, layer: Path, log: Path) -> None:
        self.log = log
        python = layer / "python/bin" / f"python{agent_layer.spec().python}"
        (loader,) = (layer / "lib").glob("ld-linux-*")
        # -B: the layer is everybody's, and a package in it (beartype) writes byte code of its own.
        argv = [str(loader), "--library-path", str(layer / "lib"), str(python), "-I", "-B", "-c", DRIVER]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(log.parent), "LANG": "C.UTF-8",
               "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENHANDS_SUPPRESS_BANNER": "1"}  # fmt: skip
        with log.open("w") as file:
            self._child = subprocess.Popen(
                argv, env=env, cwd=log.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
                text=True, start_new_session=True,
            )  # fmt: skip
        self._begun = False

    def __call__(self, code: str, **given: Any) -> Any:
        """Runs `code` with the names of `given`; returns what it leaves in `answer`. SdkError: what it
        raises."""
        assert self._child.stdin
        if not self._begun:  # meanwhile tests have begun what they need of others
            self._told("import of openhands.workspace")
            self._begun = True
        self._child.stdin.write(json.dumps([textwrap.dedent(code), given]) + "\n")
        self._child.stdin.flush()
        told = self._told(code)
        if "error" in told:
            raise SdkError(told["error"])
        return told["answer"]

    def _told(self, what: str) -> dict[str, Any]:
        assert self._child.stdout
        late = threading.Timer(PATIENCE, self._child.kill)
        late.start()
        line = self._child.stdout.readline()
        late.cancel()
        assert line, f"the SDK ended, or took {PATIENCE:g} s:\n{what}\n{self.log.read_text()[-3000:]}"
        told: dict[str, Any] = json.loads(line)
        return told

    def end(self) -> None:
        self._child.kill()
        self._child.communicate()


@pytest.fixture(scope="session")
def sdk(agent: AgentLayer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    """The client of the version that the layer's lock names."""
    started = Sdk(agent_layer.unpacked(NATIVE, images.store()), tmp_path_factory.mktemp("sdk") / "log")
    try:
        yield started
    finally:
        started.end()
