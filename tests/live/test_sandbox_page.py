"""The page on sandboxes is followed as it is typed, but for the name of the image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit import shell
from runner.agent_layer import AgentLayer
from tests import pages
from tests.live.parts_bases import Zoo, put
from tests.live.parts_jobs import MAIN
from tests.live.parts_sandbox_server import containers, serving
from tests.live.parts_sdk import Sdk

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
PAGE = pages.ROOT / "docs/how-to/sandboxes.md"
IMAGE = "docker.io/library/debian:13"
ASKED = "cat /etc/os-release"


@pytest.fixture
def image(private_storage: Path, agent: AgentLayer, zoo: Zoo, registry_host: str) -> str:
    """A base that nothing was baked on."""
    assert private_storage.is_dir() and agent.gzip.path.is_file()
    return put(zoo("busybox"), registry_host, "zoo/busybox")


def test_one_by_hand(image: str, tmp_path: Path) -> None:
    (lines,) = [each for each in pages.separate(PAGE.read_text()) if "read -r URL" in each]
    own = shell.line([sys.executable, "-c", MAIN])
    script = "\n".join(["set -e", f'runner() {{ {own} "$@"; }}', lines.replace(IMAGE, image)])
    (tmp_path / "patch.diff").write_text("-old\n+new\n")
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "-old\n+new\n" in done.stdout and f"mine  ready  {image}  podman  hand" in done.stdout
    assert done.stdout.endswith("\nmine\n") and containers() == []


def test_the_first_command(sdk: Sdk, image: str, tmp_path: Path) -> None:
    (code,) = pages.separate(PAGE.read_text(), "python")
    assert IMAGE in code and ASKED in code
    code = code.replace(IMAGE, image).replace(ASKED, "echo $FROM_BASE")
    with serving(tmp_path / "state", engine="podman", slots=1, cpus=1, memory=1024) as server:
        given = {"RUNTIME_API_URL": server.url, "RUNTIME_API_KEY": server.key}
        before = "import os\nos.environ.update(given)\nsaid = []\nprint = said.append\n"
        assert sdk(f"{before}{code}\nanswer = said", given=given) == ["it's here\n"]
