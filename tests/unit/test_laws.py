"""The law of the house, as data: which part may import which."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from kit import process

ROOT = Path(__file__).parents[2]
PARTS = ("kit", "definitions", "containers", "image_cache", "slurm", "runner")
ALLOWED = {
    "kit": set(),
    "definitions": {"kit"},
    "containers": {"kit"},
    "image_cache": {"kit"},
    "slurm": {"kit"},
    "runner": {"kit", "definitions", "containers", "image_cache", "slurm"},
}
# Named doors: the modules that only one place may use.
DOORS = {
    "subprocess": {"kit/process.py"},
    # Registries, files by address; the agent-server in a sandbox and the server of sandboxes, whose clients
    # are no part of image_cache.
    "httpx": {
        "image_cache/asking.py",
        "image_cache/wire.py",
        "image_cache/downloads.py",
        "runner/agent_client.py",
        "runner/sandboxes/client.py",
    },
    # The hub: what is staged comes by one; the other is started inside a job, by the image's own Python.
    "huggingface_hub": {"runner/staging/hub.py", "runner/after/hub_upload.py"},
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "manager", "misc", "common"}


def sources(part: str) -> list[Path]:
    """All of a part, but for what is put into layers: it runs there, and no part of the kit is near."""
    riding = ROOT / "definitions/layers"
    return sorted(path for path in (ROOT / part).rglob("*.py") if not path.is_relative_to(riding))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("part", PARTS)
def test_arrows(part: str) -> None:
    files = sources(part)
    assert files, f"no sources in {part}"
    for path in files:
        crossing = (imports(path) & set(PARTS)) - {part} - ALLOWED[part]
        assert not crossing, (
            f"{path.relative_to(ROOT)} imports {sorted(crossing)}, which {part} must not know"
        )


@pytest.mark.parametrize("door", DOORS)
def test_doors(door: str) -> None:
    users = {str(path.relative_to(ROOT)) for part in PARTS for path in sources(part) if door in imports(path)}
    assert users == DOORS[door]


def test_no_vague_names() -> None:
    vague = [path for part in PARTS for path in sources(part) if path.stem in FORBIDDEN_NAMES]
    assert not vague


def test_rooms_stay_small() -> None:
    """About 300 lines a file; 330 leaves room for a docstring, not for a second subject."""
    grown = {str(p.relative_to(ROOT)): n for part in PARTS for p in sources(part)
             if (n := len(p.read_text().splitlines())) > 330}  # fmt: skip
    assert not grown


def test_a_node_knows_nothing_of_clusters_and_scripts() -> None:
    """All nodes of a job begin by this import, from an image that may lie on a network."""
    asked = (
        "import sys, runner.node; print(*sorted(each for each in sys.modules if each.startswith('slurm.')))"
    )
    done = process.run([sys.executable, "-c", asked], what="import a node's part", cwd=ROOT)
    assert done.out.split() == ["slurm.fabric"]
