"""`runner doctor --cluster`: what a profile and its image need, on machines that lack it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import json

from runner import doctor_cluster as checks
from runner import site
from runner.doctor import Finding
from slurm import clusters
from tests.unit.test_doctor import doctor

SINFO = """#!/bin/sh
[ "$1" = --version ] && { echo "slurm 24.11.5"; exit; }
printf 'gh|2-00:00:00|552\\ngh-dev*|2:00:00|8\\n'
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder of programs in the place of Slurm's clients; sinfo answers in Slurm's words."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel", "sinfo"):
        (folder / name).write_text(SINFO)
        (folder / name).chmod(0o755)
    return folder


def found(tmp_path: Path, *words: str, **more: str) -> dict[str, Finding]:
    told = doctor(tmp_path, "--json", *words, **more)
    return {each.name: each for each in json.decode(told.stdout, type=list[Finding])}


def test_a_machine_that_has_nothing_of_it(tmp_path: Path) -> None:
    told = doctor(tmp_path, "--json", "--cluster", "vista")
    assert told.returncode == 20
    assert told.stderr.startswith(
        "error: no job can be submitted to vista from here; lacking: Slurm's clients"
    )
    assert "\nhint: ssh vista.tacc.utexas.edu\n" in told.stderr
    findings = {each.name: each for each in json.decode(told.stdout, type=list[Finding])}
    assert findings["cluster"].found == "vista: said by --cluster"
    assert not findings["account"].ok and findings["account"].needed
    assert "[clusters.vista] of " in str(findings["account"].hint)
    assert "module load tacc-apptainer" in str(findings["an engine of the cluster's"].hint)
    for name in ("scratch", "cache"):
        assert "$SCRATCH is not set here" in findings[f"shared {name}"].found
    assert findings["image"].hint == "make sif ARCH=gh200"
    assert findings["driver"].ok and "seen 2026-08-14" in findings["driver"].found
    doubts = {name.removeprefix("unverified: ") for name in findings if name.startswith("unverified: ")}
    assert doubts == set(clusters.load("vista").unverified)
    assert all(each.hint for each in findings.values() if not each.ok)


def test_a_login_node(tmp_path: Path, slurm: Path) -> None:
    (tmp_path / "shared").mkdir()
    config = tmp_path / ".config/slipworks/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[clusters.vista]\naccount = "ABC"\nfabric = {kind = "infiniband"}\n')
    told = found(tmp_path, "--cluster", "vista", PATH=str(slurm), SCRATCH=f"{tmp_path}/shared")
    assert told["Slurm's clients"].found == "slurm 24.11.5, 2 partitions"
    assert told["account"].ok and "ABC" in told["account"].found
    assert told["partition"].found == "gh: 552 nodes, at most 2-00:00:00"
    assert "unverified: fabric" not in told
    assert not [each for each in told.values() if each.needed and not each.ok]
    assert list((tmp_path / "shared").iterdir()) == [], "it only looks"


def test_a_partition_that_is_not_there(tmp_path: Path, slurm: Path) -> None:
    (slurm / "sinfo").write_text("#!/bin/sh\necho 'other|1:00|2'\n")
    told = found(tmp_path, "--cluster", "vista", PATH=str(slurm))["partition"]
    assert not told.ok and told.needed and told.found == "gh is not there: Slurm has other"
    told = found(tmp_path, "--cluster", "generic", PATH=str(slurm))["partition"]
    assert not told.ok and told.found == "none is the default: Slurm has other"


def test_the_default_partition_is_found(tmp_path: Path, slurm: Path) -> None:
    told = found(tmp_path, "--cluster", "generic", PATH=str(slurm))
    assert told["partition"].found == "gh-dev: Slurm's default, 8 nodes, at most 2:00:00"
    assert told["account"].ok, "only where a site demands one"


def test_a_controller_that_does_not_answer(tmp_path: Path, slurm: Path) -> None:
    (slurm / "sinfo").write_text("#!/bin/sh\necho 'slurm_load_partitions: Unable to contact' >&2; exit 1\n")
    told = found(tmp_path, "--cluster", "generic", PATH=str(slurm))
    assert not told["Slurm's clients"].ok and "Unable to contact" in told["Slurm's clients"].found


def test_an_old_driver_names_the_line_that_it_runs(tmp_path: Path) -> None:
    told = found(tmp_path, "--cluster", "isambard")
    assert told["driver"].ok and told["driver"].found.endswith("; line cu12 needs 535 or newer")
    assert "cu12 on linux/arm64 has no hash" in told["image"].found, "of cu12 there is none for arm64 yet"
    own = tmp_path / ".config/slipworks/config.toml"
    own.parent.mkdir(parents=True)
    own.write_text('[clusters.isambard]\nline = "cu13"\n')
    driver = found(tmp_path, "--cluster", "isambard")["driver"]
    assert not driver.ok
    assert driver.found == "565.57.01 (seen 2026-11) is older than 580, which line cu13 needs"
    assert driver.hint == "make image ARCH=gh200 LINE=cu12"


def test_the_local_doctor_says_where_it_is(tmp_path: Path) -> None:
    findings = found(tmp_path)
    assert not [name for name in findings if name.startswith(("unverified", "shared", "account"))]
    assert findings["an engine that runs jobs"].needed
    assert findings["cluster"].ok == findings["cluster"].found.startswith("local: ")
    assert found(tmp_path, "--cluster", "local")["an engine that runs jobs"].needed


def test_file_systems_of_one_machine_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWORKS_RUNS", f"{tmp_path}/runs")
    here = site.chosen({"cluster": "generic"})
    for kind, ok in (("tmpfs", False), ("lustre", True), ("nfs4", True)):
        monkeypatch.setattr(checks, "_kind", lambda folder, kind=kind: kind)
        told = next(each for each in checks._folders(here) if each.name == "shared runs")
        assert told.ok is ok and kind in told.found


def test_the_kind_of_a_file_system() -> None:
    assert checks._kind(Path("/proc/self")) == "proc"
