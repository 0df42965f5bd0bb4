"""Which cluster a machine belongs to: what decides, what only suggests, and what is never guessed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from kit.errors import UsageError
from slurm import clusters, config, detect
from slurm.clusters import Cluster
from slurm.detect import Seen

OURS = {name: clusters.load(name) for name in clusters.names()}


def like(*hosts: str, names: tuple[str, ...] = ()) -> Cluster:
    return Cluster(summary="", scheduler="slurm", hosts=hosts, cluster_names=names)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("c610-021.vista.tacc.utexas.edu", "vista"),
        ("LOGIN1.Vista.TACC.utexas.edu", "vista"),
        ("login2.ls6.tacc.utexas.edu", "lonestar"),
        ("jrc0123.jureca", "jureca"),
        ("jrlogin05.jureca", "jureca"),
        ("j27.jupiter.internal", "jupiter"),
        ("jwb0100.juwels", "juwels"),
        ("jwlogin21.juwels", "juwels"),
    ],
)
@pytest.mark.parametrize("slurm", [False, True])
def test_full_host_names(host: str, expected: str, slurm: bool) -> None:
    found = detect.detect(Seen(host=host, slurm=slurm), OURS)
    assert found.sure() == expected and host in found.how


@pytest.mark.parametrize(
    "host",
    ["c610-021.vista.tacc.utexas.edu.evil.example", "xjrc1.jureca", "vista.tacc.utexas.edu.local", "c610"],
)
def test_patterns_are_anchored(host: str) -> None:
    assert detect.detect(Seen(host=host), OURS).name == "local"
    assert detect.detect(Seen(host=host, slurm=True), OURS).name is None


def test_the_longest_pattern_wins() -> None:
    """A careless pattern of another cluster swallowed Vista's compute nodes."""
    theirs = {"capella": like("c*"), "tacc": like("*.tacc.utexas.edu"), **OURS}
    assert detect.detect(Seen(host="c610-021.vista.tacc.utexas.edu"), theirs).name == "vista"
    assert detect.detect(Seen(host="c1.frontera.tacc.utexas.edu"), theirs).name == "tacc"
    # Longer, but without a domain.
    theirs["long"] = like("c610-021*vista*tacc*utexas*edu")
    assert detect.detect(Seen(host="c610-021.vista.tacc.utexas.edu"), theirs).name == "vista"


@pytest.mark.parametrize("slurm", [False, True])
@pytest.mark.parametrize(
    ("host", "candidate"), [("nid001234", "isambard"), ("holy8a24101", "fasrc"), ("jpbl-s01-01", "jupiter")]
)
def test_short_names_ask(host: str, candidate: str, slurm: bool) -> None:
    found = detect.detect(Seen(host=host, slurm=slurm), OURS)
    with pytest.raises(UsageError) as asked:
        found.sure()
    assert host in asked.value.message and candidate in asked.value.message
    assert f"--cluster {candidate}" in str(asked.value.hint)


def test_two_that_fit_alike_ask() -> None:
    both = {"one": like("*.site.example"), "two": like("*.SITE.example")}
    found = detect.detect(Seen(host="a.site.example"), both)
    assert found.name is None and found.candidates == ("one", "two")
    with pytest.raises(UsageError, match="it may be one or two"):
        found.sure()


def test_a_name_that_is_said_whole_decides() -> None:
    assert detect.detect(Seen(host="login1", slurm=True), {"mine": like("login1")}).name == "mine"


def test_the_cluster_name_decides_before_the_host() -> None:
    known = {"mine": like(names=("Cosmos",)), **OURS}
    seen = Seen(host="c1.vista.tacc.utexas.edu", cluster_name="cosmos", source="slurm.conf", slurm=True)
    found = detect.detect(seen, known)
    assert (found.name, found.how) == ("mine", "ClusterName cosmos (slurm.conf)")
    twice = {**known, "again": like(names=("cosmos",))}
    assert detect.detect(seen, twice).candidates == ("mine", "again")
    # Of a name that nobody knows the host says more.
    assert detect.detect(Seen(host=seen.host, cluster_name="x", slurm=True), known).name == "vista"


def test_a_plain_machine_is_local_and_an_unknown_cluster_asks() -> None:
    assert detect.detect(Seen(host="laptop"), OURS).name == "local"
    found = detect.detect(Seen(host="laptop", cluster_name="cosmos", slurm=True), OURS)
    with pytest.raises(UsageError, match="has the ClusterName cosmos or the host name laptop") as asked:
        found.sure()
    assert asked.value.message.endswith("generic or local")
    assert "--cluster NAME" in str(asked.value.hint) and "--cluster local" in str(asked.value.hint)
    unnamed = detect.detect(Seen(host="vm", slurm=True), OURS)
    assert "no ClusterName could be read, and no known cluster has the host name vm" in unnamed.how


CONF = "# ClusterName=wrong\nSlurmctldHost=a\n clustername = Cosmos # ours\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's root, without Slurm; its name is short."""
    monkeypatch.setattr(socket, "gethostname", lambda: "n1")
    (tmp_path / "etc/slurm").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    return tmp_path


def look(root: Path, **environment: str) -> Seen:
    return detect.look({"PATH": str(root / "bin"), **environment}, root)


def scontrol(root: Path, script: str) -> None:
    """A program in scontrol's place: its answers are Slurm's own words."""
    (root / "bin/scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (root / "bin/scontrol").chmod(0o755)
    detect._asked.cache_clear()


def test_look_at_a_plain_machine(machine: Path) -> None:
    assert look(machine) == Seen(host="n1")
    (machine / "etc/hosts").write_text(
        "127.0.0.1 localhost.localdomain n1\n10.0.0.1 n1.site.example n1 # x\n"
    )
    assert look(machine).host == "n1.site.example"


def test_files_are_read_before_programs_are_started(machine: Path) -> None:
    scontrol(machine, f"touch {machine}/started; exit 1")
    (machine / "etc/slurm/slurm.conf").write_text(CONF)
    seen = look(machine)
    assert (seen.cluster_name, seen.source, seen.slurm) == ("Cosmos", f"{machine}/etc/slurm/slurm.conf", True)
    (machine / "mine.conf").write_text("ClusterName=other\n")
    assert look(machine, SLURM_CONF="/mine.conf").cluster_name == "other"
    assert look(machine, SLURM_CLUSTER_NAME="job").cluster_name == "job"
    assert not (machine / "started").exists()


@pytest.mark.parametrize("place", config.PLACES)
def test_every_place_of_slurms_configuration_is_known(machine: Path, place: str) -> None:
    (machine / place[1:]).mkdir(parents=True, exist_ok=True)
    (machine / place[1:] / "slurm.conf").write_text(CONF)
    assert look(machine).cluster_name == "Cosmos"


def test_includes_are_followed_and_do_not_go_round(machine: Path) -> None:
    conf = machine / "etc/slurm/slurm.conf"
    conf.write_text("Include names.conf\n")
    (conf.parent / "names.conf").write_text('include slurm.conf\nClusterName="below"\n')
    assert look(machine).cluster_name == "below"
    (conf.parent / "names.conf").write_text("include slurm.conf\n")
    assert look(machine) == Seen(host="n1", slurm=True)


def test_scontrol_is_asked_last(machine: Path) -> None:
    scontrol(machine, "echo 'Configuration data'; echo 'ClusterName             = asked'")
    assert look(machine).cluster_name == "asked"


def test_a_client_that_fails_or_hangs_is_a_cluster_all_the_same(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a job would run on the login node."""
    scontrol(machine, "exit 1")
    assert look(machine) == Seen(host="n1", source="scontrol show config", slurm=True)
    monkeypatch.setattr(detect, "PATIENCE", 0.2)
    scontrol(machine, "exec sleep 60")
    assert look(machine).slurm and look(machine).cluster_name is None


def test_inside_a_job_without_clients(machine: Path) -> None:
    assert look(machine, SLURM_JOB_ID="7").slurm
    assert look(machine, SLURM_CONF="/nowhere/slurm.conf").slurm
