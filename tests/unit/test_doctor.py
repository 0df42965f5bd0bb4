"""`runner doctor` on a machine where nothing is to be found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from msgspec import json

RUNNER = Path(sys.executable).with_name("runner")


def doctor(tmp_path: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Nothing on PATH, and no Docker daemon behind the usual socket."""
    env = {"PATH": str(tmp_path / "none"), "HOME": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/none"}
    return subprocess.run(
        [RUNNER, "doctor", *words], env=env | more, capture_output=True, text=True, check=False
    )


def test_a_bare_machine(tmp_path: Path) -> None:
    """Every lack has a hint, and the exit code says that the local job cannot run."""
    told = doctor(tmp_path, "--json")
    assert told.returncode == 20
    assert told.stderr.startswith("error: the local job cannot run here; lacking: ")
    assert "\nhint: " in told.stderr
    findings = {each["name"]: each for each in json.decode(told.stdout)}
    assert {"python", "uv", "podman", "docker", "apptainer", "buildah", "cgroups", "GPUs"} <= set(findings)
    assert findings["python"]["ok"] and findings["uv"]["ok"]
    assert not findings["podman"]["ok"] and not findings["mmdebstrap"]["ok"]
    assert all(each["hint"] for each in findings.values() if not each["ok"])
    assert not findings["an engine that runs jobs"]["ok"]
    assert "package index" not in findings


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = doctor(tmp_path, SLIPWORKS_CACHE=f"{tmp_path}/file/cache")
    line = next(line for line in told.stdout.splitlines() if " room for cache " in line)
    assert line.startswith("LACKING") and f"{tmp_path}/file is a file" in line
    assert told.returncode == 20


def test_it_changes_nothing(tmp_path: Path) -> None:
    doctor(tmp_path)
    assert [Path(there) for _, folders, files in os.walk(tmp_path) for there in (*folders, *files)] == []
