"""Clusters: the files that there are, the user's values over them, and where each value came from."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from containers import engine
from definitions import archs
from kit import files, settings
from kit.errors import InvalidFileError, SlipworksError, UnknownNameError, UsageError
from runner import cli, site
from slurm import clusters, detect
from slurm.detect import Seen
from tests.pages import PAGES, separate


@pytest.mark.parametrize("name", clusters.names())
def test_files_name_what_there_is(name: str) -> None:
    cluster = clusters.load(name)
    there = (cluster.arch, *(each.arch for each in cluster.partitions.values()))
    assert {arch for arch in there if arch} <= set(archs.names())
    assert set(cluster.engines) <= {each for each in engine.names() if engine.get(each).runs}
    assert not cluster.partitions or cluster.partition in cluster.partitions
    assert all(why and "\n" not in why for why in cluster.unverified.values())
    assert cluster.scheduler == "none" or cluster.unverified, "what is not known is named"


def test_what_the_facts_say() -> None:
    known = {name: clusters.load(name) for name in clusters.names()}
    assert set(known) == {
        "fasrc", "generic", "isambard", "jupiter", "jureca", "juwels", "local", "lonestar", "vista",
    }  # fmt: skip
    bad = [node for each in known["isambard"].exclude for node in each.nodes]
    assert bad == ["nid010798", "nid010869", "nid010867", "nid010874"]
    fabric = known["isambard"].fabric
    assert fabric and fabric.kind == "slingshot" and fabric.environment["NCCL_NET"] == "AWS Libfabric"
    assert known["isambard"].ray_cpus == 32 and known["isambard"].exclusive
    for name in ("jureca", "jupiter", "juwels"):
        each = known[name]
        assert (each.interface, each.node_suffix, each.internet) == ("ib0", "i", False)
        assert each.engines == ("apptainer",)
    assert "exclude" in known["juwels"].unverified and not known["juwels"].exclude
    assert known["fasrc"].partitions["gpu_test"].arch == "mig" and known["fasrc"].engines == ("podman",)


def test_the_users_values_go_over_the_files() -> None:
    own = {
        "vista": {
            "account": "ABC",
            "environment": {"A": "1"},
            "gpu_directive": "gres",
            "partitions": {"x": {}},
        }
    }
    found = clusters.profile("vista", own, "u.toml")
    assert (found.cluster.account, found.cluster.partition) == ("ABC", "gh")
    assert set(found.cluster.partitions) == {"gh", "gh-dev", "x"}
    assert "gpu_directive" not in found.cluster.unverified and "fabric" in found.cluster.unverified
    sources = found.sources
    assert set(sources) == set(clusters.FIELDS)
    assert (sources["account"], sources["environment"]) == ("u.toml", "u.toml")
    assert sources["partitions"] == "u.toml over slurm/clusters/vista.toml"
    assert (sources["partition"], sources["qos"]) == ("slurm/clusters/vista.toml", "default")
    assert clusters.load("vista").account is None


def test_a_cluster_of_ones_own_stands_on_generic() -> None:
    own = {"cosmos": {"hosts": ["*.cosmos.example"], "cluster_names": ["cosmos"], "arch": "h100"}}
    assert "cosmos" in clusters.names(own)
    found = clusters.profile("cosmos", own, "u.toml")
    assert (found.cluster.scheduler, found.sources["scheduler"]) == ("slurm", "slurm/clusters/generic.toml")
    assert found.cluster.summary == "your own, in u.toml"
    profiles = {name: clusters.load(name, own) for name in clusters.names(own)}
    assert detect.detect(Seen(host="a.cosmos.example"), profiles).name == "cosmos"
    assert detect.detect(Seen(host="a", cluster_name="cosmos", slurm=True), profiles).name == "cosmos"


@pytest.mark.parametrize(
    ("table", "kind", "told"),
    [
        ({"acount": "x"}, UnknownNameError, "u.toml, [clusters.vista]"),
        ({"gpu_directive": "gress"}, UnknownNameError, "u.toml, [clusters.vista]"),
        ({"gpus_per_node": "4"}, InvalidFileError, "u.toml, [clusters.vista]"),
        ({"time_limit": "2 hours"}, InvalidFileError, "2 hours"),
        ({"partitions": {"gh": {"time_limit": "x"}}}, InvalidFileError, "partitions.gh"),
        ({"partitions": {"gh": {"time_limits": {"4": "x"}}}}, InvalidFileError, "partitions.gh"),
        ({"partitions": {"gh": {"time_limits": {"few": "30"}}}}, InvalidFileError, "'few'"),
        ({"cpus_per_node": 0}, InvalidFileError, "cpus_per_node is 0"),
        ({"driver": {"version": "new", "seen": "2026-01"}}, InvalidFileError, "'new'"),
        ({"driver": {"version": "580", "seen": "lately"}}, InvalidFileError, "'lately'"),
        ({"exclude": [{"nodes": ["a"], "reason": "b"}]}, InvalidFileError, "since"),
        ({"unverified": {"acount": "x"}}, InvalidFileError, "'acount'"),
        ({"engines": []}, InvalidFileError, "engines"),
        ({"partitions": {"gh": {"archs": "x"}}}, UnknownNameError, "'archs'"),
    ],
)
def test_wrong_values_are_errors_that_name_the_file(
    table: dict[str, Any], kind: type[SlipworksError], told: str
) -> None:
    with pytest.raises(kind) as caught:
        clusters.load("vista", {"vista": table}, "u.toml")
    assert type(caught.value) is kind
    assert told in caught.value.message and "u.toml" in caught.value.message
    if table == {"acount": "x"}:
        assert caught.value.hint == "did you mean 'account'?"


def test_folders_are_expanded_and_an_unset_variable_is_told() -> None:
    profile = clusters.profile("vista", {"vista": {"runs": "${A}/$B/x$$"}}, "u.toml")
    assert clusters.folder(profile, "scratch", {"SCRATCH": "/s"}) == "/s"
    assert clusters.folder(profile, "runs", {"A": "/a b", "B": "$A"}) == "/a b/$A/x$$"
    for environment in ({"A": "/a"}, {"A": "/a", "B": ""}):
        with pytest.raises(InvalidFileError, match=r"runs of the cluster vista \(u.toml\) .*\$B is not set"):
            clusters.folder(profile, "runs", environment)
    with pytest.raises(InvalidFileError, match="expected an absolute path"):
        clusters.folder(profile, "scratch", {"SCRATCH": "s"})
    assert clusters.folder(clusters.profile("generic"), "scratch", {}) is None


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's file, on a machine that is a node of a cluster called cosmos."""
    for name in (*(f"SLIPWORKS_{each.upper()}" for each in settings.NAMES), "SLURM_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "cosmos")
    monkeypatch.setenv("COSMOS", f"{tmp_path}/shared")
    file = settings.user_file()
    files.write(file, '[clusters.cosmos]\ncluster_names = ["cosmos"]\ncache = "$COSMOS/c"\naccount = "me"\n')
    yield file
    settings.follow(None)


def test_the_clusters_folders_are_settings(
    user: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = site.chosen()
    assert (here.name, here.how) == ("cosmos", "ClusterName cosmos (SLURM_CLUSTER_NAME)")
    assert here.settings.cache == f"{tmp_path}/shared/c" and here.sourced.sources["cache"] == str(user)
    assert settings.load().settings.cache == f"{tmp_path}/shared/c", "every part of the process sees it"
    monkeypatch.setenv("SLIPWORKS_CACHE", "/mine")
    assert settings.load().settings.cache == "/mine"
    monkeypatch.delenv("SLIPWORKS_CACHE")
    assert site.chosen({"cluster": "local"}).settings.cache != f"{tmp_path}/shared/c"
    assert site.chosen({"cluster": "local"}).how == "said by --cluster"
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "other")
    with pytest.raises(UsageError, match="which cluster"):
        site.chosen()


def test_every_command_has_the_settings_of_its_cluster(
    user: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["image", "list"]) == 0
    monkeypatch.delenv("COSMOS")
    capsys.readouterr()
    assert cli.main(["image", "list"]) == 11
    assert "$COSMOS is not set here" in capsys.readouterr().err


def test_config_shows_each_field_with_its_source(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {*settings.NAMES, *(f"clusters.cosmos.{field}" for field in clusters.FIELDS)} == set(table)
    assert table["cache"]["source"] == str(user)
    assert table["clusters.cosmos.account"] == {"value": "me", "source": str(user)}
    assert table["clusters.cosmos.scheduler"]["source"] == "slurm/clusters/generic.toml"
    assert table["clusters.cosmos.qos"] == {"value": None, "source": "default"}
    assert cli.main(["config", "--cluster", "isambard"]) == 0
    told = capsys.readouterr()
    assert "(slurm/clusters/isambard.toml)\n" in told.out and "clusters.isambard.ray_cpus" in told.out
    assert "cluster: isambard: said by --cluster\n" in told.err


def test_config_where_nothing_is_known_and_where_a_variable_is_missing(
    user: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COSMOS")
    assert cli.main(["config"]) == 0
    told = capsys.readouterr()
    assert "note: cache of the cluster cosmos" in told.err and "$COSMOS/c" in told.out
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "other")
    assert cli.main(["config"]) == 0
    told = capsys.readouterr()
    assert "clusters." not in told.out and "cluster: not known: " in told.err


def test_config_refuses_what_does_not_exist(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--cluster", "vsta"]) == 10
    assert "did you mean 'vista'?" in capsys.readouterr().err
    files.write(user, "[clusters.vista]\nacount = 'x'\n")
    assert cli.main(["config", "--cluster", "vista"]) == 10
    told = capsys.readouterr().err
    assert f"{user}, [clusters.vista]" in told and "did you mean 'account'?" in told


def test_no_variable_holds_the_clusters(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWORKS_CLUSTERS", "x")
    with pytest.raises(UnknownNameError, match="SLIPWORKS_CLUSTERS"):
        settings.load()


def test_the_list(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["clusters", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert [name for name, each in listed.items() if each["here"]] == ["cosmos"]
    assert listed["vista"]["unverified"] == len(clusters.load("vista").unverified)
    assert listed["juwels"]["internet"] is False and listed["generic"]["internet"] is None
    assert cli.main(["clusters"]) == 0
    told = capsys.readouterr()
    assert next(line for line in told.out.splitlines() if line.startswith("*")).split()[1] == "cosmos"
    assert told.err == "here: cosmos: ClusterName cosmos (SLURM_CLUSTER_NAME)\n"


def test_the_how_to_says_what_is_true() -> None:
    """Its tables are the user's file as it stands there."""
    page = (Path(clusters.__file__).parents[1] / "docs/how-to/add-a-cluster.md").read_text()
    own = tomllib.loads("\n".join(separate(page, "toml")))["clusters"]
    assert set(own) == {"vista", "cosmos"}
    cosmos = clusters.load("cosmos", own)
    assert clusters.load("vista", own).account and cosmos.modules
    assert cosmos.egress and cosmos.egress.host


def test_the_settings_that_pages_show_are_taken() -> None:
    """As they stand there: what a page leaves out of a table is the cluster's own."""
    seen = 0
    for page in PAGES:
        text = "\n".join(part for part in separate(page.read_text(), "toml") if "[clusters." in part)
        for name, said in (own := tomllib.loads(text).get("clusters", {})).items():
            assert clusters.load(name, own), (page, said)
            seen += 1
    assert seen >= 5


def test_of_the_fabric_the_users_keys_join_the_clusters() -> None:
    said = {"libraries": ["/opt/x/libfabric.so*"], "environment": {"FI_PROVIDER": "mine"}}
    found = clusters.load("isambard", {"isambard": {"fabric": said}}).fabric
    ours = clusters.load("isambard").fabric
    assert found and ours and found.kind == "slingshot" and found.devices == ours.devices
    assert found.libraries == ("/opt/x/libfabric.so*",)
    assert found.environment == {**ours.environment, "FI_PROVIDER": "mine"}
    with pytest.raises(InvalidFileError, match="fabric"):
        clusters.load("isambard", {"isambard": {"fabric": 7}})
