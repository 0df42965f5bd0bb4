"""`runner doctor` on a machine where nothing is to be found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import json

from runner import doctor as checks

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
    assert not findings["podman"]["ok"]
    assert all(each["hint"] for each in findings.values() if not each["ok"])
    assert not findings["an engine that runs jobs"]["ok"]
    assert "package index" not in findings


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = doctor(tmp_path, SLIPWORKS_CACHE=f"{tmp_path}/file/cache")
    line = next(line for line in told.stdout.splitlines() if " room for cache " in line)
    assert line.startswith("LACKING") and f"{tmp_path}/file is a file" in line
    assert told.returncode == 20


def test_the_last_line_of_a_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    found = checks._index()
    assert not found.ok and "last lines" not in found.found and "\n" not in found.found
    assert len(found.found.partition("exit code ")[2]) > 20


def test_without_apt_the_base_is_one_that_is_pulled(tmp_path: Path) -> None:
    """`make demo` takes base=python312 there."""
    findings = {each["name"]: each for each in json.decode(doctor(tmp_path, "--json").stdout)}
    assert findings["a base"]["ok"] and "python312, pulled from " in findings["a base"]["found"]


def test_it_changes_nothing(tmp_path: Path) -> None:
    doctor(tmp_path)
    assert [Path(there) for _, folders, files in os.walk(tmp_path) for there in (*folders, *files)] == []
