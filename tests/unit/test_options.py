"""What sbatch is asked for on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import InvalidFileError, UnsupportedError
from slurm.clusters import Cluster, Excluded, Partition
from slurm.options import Asked, options
from slurm.script import Options
from slurm.times import seconds

SITE: dict[str, Any] = {
    "summary": "a site", "scheduler": "slurm", "partition": "main", "gpus_per_node": 4, "gpu_type": "a100",
    "cpus_per_node": 48, "memory_per_node": "480G", "time_limit": "01:00:00", "account": "lab", "qos": "high",
    "partitions": {
        "main": Partition(nodes=16, time_limit="1-00:00:00"),
        "whole": Partition(exclusive=True),
        "cpu": Partition(gpus_per_node=0, cpus_per_node=64, memory_per_node="1T"),
        "slices": Partition(gpus_per_node=7, gpu_type="a100_3g.20gb", time_limit="30"),
    },
}  # fmt: skip


def site(**changes: Any) -> Cluster:
    return Cluster(**{**SITE, **changes})


def ask(cluster: Cluster | None = None, **changes: Any) -> Asked:
    job: dict[str, Any] = {"name": "grpo", "run": Path("/runs/grpo"), "nodes": 2, "gpus": 4}
    return options(cluster or site(), **{**job, **changes})


def asked(cluster: Cluster | None = None, **changes: Any) -> Options:
    return ask(cluster, **changes).options


def test_a_job_as_a_whole() -> None:
    excluded = (
        Excluded(nodes=("n7", "n9"), reason="ECC", since="2026-11"),
        Excluded(nodes=("n[20-22]",), reason="slow", since="2026-11"),
    )
    found = asked(site(exclude=excluded), time="02:00:00", warn=300, comment="slipworks:0badcafe:1")
    assert list(found.items()) == [
        ("job-name", "grpo"), ("comment", "slipworks:0badcafe:1"), ("partition", "main"), ("account", "lab"),
        ("qos", "high"), ("nodes", 2), ("ntasks-per-node", 1), ("gpus-per-node", "a100:4"),
        ("cpus-per-task", 48), ("mem", "480G"), ("time", "02:00:00"), ("signal", "B:USR2@300"),
        ("exclude", "n7,n9,n[20-22]"), ("requeue", True), ("open-mode", "append"),
        ("output", "/runs/grpo/slurm-%j.out"),
    ]  # fmt: skip


def test_a_cluster_of_which_nothing_is_known() -> None:
    found = asked(Cluster(summary="x", scheduler="slurm"), gpus=1)
    assert found == {
        "job-name": "grpo", "nodes": 2, "ntasks-per-node": 1, "gpus-per-node": "1", "requeue": True,
        "open-mode": "append", "output": "/runs/grpo/slurm-%j.out",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("directive", "kind", "gpus", "expected"),
    [
        ("gres", "a100", 2, {"gres": "gpu:a100:2"}),
        ("gres", None, 2, {"gres": "gpu:2"}),
        ("gpus-per-node", "a100", 2, {"gpus-per-node": "a100:2"}),
        ("gpus-per-node", None, 2, {"gpus-per-node": "2"}),
        ("none", "a100", 2, {}),
        ("gres", "a100", 0, {}),
        ("gpus-per-node", "a100", 0, {}),
    ],
)
def test_forms_of_the_gpu_directive(directive: Any, kind: str | None, gpus: int, expected: Options) -> None:
    found = asked(site(gpu_directive=directive, gpu_type=kind), gpus=gpus)
    assert {key: value for key, value in found.items() if "gpu" in str(value) or "gpu" in key} == expected


@pytest.mark.parametrize(
    ("changes", "gpus", "expected"),
    [
        ({}, 4, (48, "480G")),
        ({}, 1, (12, "122880M")),
        ({}, 3, (36, "368640M")),
        ({}, 0, (None, None)),  # nobody knows how many CPUs such a job needs
        ({"exclusive": True}, 1, (48, "480G")),
        ({"exclusive": True}, 0, (48, "480G")),
        ({"gpu_directive": "none"}, 1, (48, "480G")),
        ({"gpus_per_node": None}, 1, (None, None)),
        ({"gpus_per_node": None}, 0, (48, "480G")),
        ({"partition": "cpu"}, 0, (64, "1T")),
        ({"partition": "whole"}, 2, (48, "480G")),
        ({"partition": "slices"}, 1, (6, "70217M")),
        ({"cpus_per_node": None, "memory_per_node": "1000"}, 1, (None, "250M")),
        ({"cpus_per_node": 2}, 1, (1, "122880M")),
    ],
)
def test_a_share_of_the_node(changes: dict[str, Any], gpus: int, expected: tuple[object, object]) -> None:
    found = asked(site(**changes), gpus=gpus)
    assert (found.get("cpus-per-task"), found.get("mem")) == expected


def test_memory_that_is_no_number() -> None:
    with pytest.raises(InvalidFileError, match="memory_per_node is 'much'"):
        asked(site(memory_per_node="much"), gpus=1)


class TestPartitions:
    def test_ones_own_values(self) -> None:
        found = asked(site(partition="slices", gpu_directive="gres"), gpus=2, time="20")
        assert (found["partition"], found["gres"]) == ("slices", "gpu:a100_3g.20gb:2")
        assert asked(site(partition="whole"))["exclusive"] is True

    def test_the_users_choice_decides_what_is_checked(self) -> None:
        found = asked(gpus=2, time="20", sbatch={"partition": "slices"})
        assert (found["partition"], found["gpus-per-node"]) == ("slices", "a100_3g.20gb:2")
        with pytest.raises(UnsupportedError, match="a node of the partition cpu has 0 GPU"):
            asked(gpus=1, sbatch={"partition": "cpu"})

    def test_too_many_nodes(self) -> None:
        assert asked(nodes=16)["nodes"] == 16
        with pytest.raises(UnsupportedError, match=r"partition main gives a job at most 16 node\(s\), .* 17"):
            asked(nodes=17)

    def test_too_many_gpus(self) -> None:
        with pytest.raises(UnsupportedError, match=r"has 4 GPU\(s\), the job asks for 5"):
            asked(gpus=5)

    @pytest.mark.parametrize("time", ["24:00:01", "1-00:01", "2-0", "1441", "unlimited"])
    def test_too_long(self, time: str) -> None:
        assert asked(time="1-00:00:00")["time"] == "1-00:00:00"
        with pytest.raises(UnsupportedError, match=f"at most 1-00:00:00, the job asks for {time}"):
            asked(time=time)
        with pytest.raises(UnsupportedError, match="at most 1-00:00:00"):
            asked(sbatch={"time": time})

    def test_an_unknown_name_is_only_doubted(self) -> None:
        found = ask(sbatch={"partition": "slice"})
        assert found.options["partition"] == "slice"
        assert found.notes == (
            "note: the cluster's profile does not know the partition slice: did you mean slices?",
        )
        (note,) = ask(sbatch={"partition": "q"}).notes
        assert note.endswith("known are cpu, main, slices, whole")
        assert not ask(site(partitions={}), sbatch={"partition": "q"}).notes
        assert not ask().notes

    def test_a_job_without_gpus_among_gpus_is_told_about_cpus(self) -> None:
        (note,) = ask(gpus=0).notes
        assert "sbatch.cpus-per-task=48" in note
        assert not ask(gpus=0, sbatch={"cpus-per-task": "8"}).notes
        assert not ask(gpus=0, sbatch={"partition": "cpu"}).notes


class TestWarning:
    @pytest.mark.parametrize(
        ("time", "warn", "expected"),
        [
            ("02:00:00", 300, "B:USR2@300"),
            ("4", 300, "B:USR2@120"),
            ("1", 300, "B:USR2@30"),
            ("unlimited", 300, "B:USR2@300"),
            ("10-00:00:00", 500_000, "B:USR2@65535"),
        ],
    )
    def test_is_cut_for_short_jobs(self, time: str, warn: int, expected: str) -> None:
        assert asked(site(partitions={}), time=time, warn=warn)["signal"] == expected

    def test_by_the_clusters_time(self) -> None:
        assert asked(warn=10_000)["signal"] == "B:USR2@1800"
        assert asked(warn=10_000, sbatch={"time": "10"})["signal"] == "B:USR2@300"
        assert asked(site(time_limit=None), warn=10_000)["signal"] == "B:USR2@10000"

    def test_none(self) -> None:
        assert "signal" not in asked()


class TestOwnOptions:
    def test_come_last_and_win(self) -> None:
        cluster = site(sbatch={"constraint": "gpu", "mail-type": "NONE"})
        found = ask(cluster, sbatch={"mail-type": "ALL", "time": "5", "hold": True, "x-y": 3})
        assert list(found.options)[-5:] == ["constraint", "mail-type", "time", "hold", "x-y"]
        assert found.options["mail-type"] == "ALL"
        assert found.replaced == (
            "your option mail-type=ALL takes the place of mail-type=NONE",
            "your option time=5 takes the place of time=01:00:00",
        )

    @pytest.mark.parametrize(
        ("own", "gone"),
        [
            ({"gres": "gpu:h100:1"}, "gpus-per-node"),
            ({"gpus": "8"}, "gpus-per-node"),
            ({"mem-per-gpu": "10G"}, "mem"),
            ({"cpus-per-gpu": "3"}, "cpus-per-task"),
            ({"no-requeue": True}, "requeue"),
            ({"qos": False}, "qos"),
            ({"requeue": False}, "requeue"),
        ],
    )
    def test_that_say_the_same_in_other_words(self, own: dict[str, Any], gone: str) -> None:
        assert gone in asked()
        found = ask(sbatch=own)
        assert gone not in found.options
        assert len(found.replaced) == 1
        kept = {key: value for key, value in own.items() if value is not False}
        assert kept.items() <= found.options.items()

    def test_that_change_nothing_are_not_told(self) -> None:
        assert not ask(sbatch={"partition": "main", "qos": "high"}).replaced

    @pytest.mark.parametrize("key", ["array", "wrap", "wait", "test-only", "help", "usage", "version"])
    def test_that_are_no_jobs(self, key: str) -> None:
        with pytest.raises(UnsupportedError, match=f"sbatch.{key} cannot be used"):
            asked(sbatch={key: True})

    @pytest.mark.parametrize(
        ("key", "value"),
        [("array", "1-9"), ("ntasks", 4), ("ntasks-per-node", "4"), ("nodes", 2), ("export", "ALL"),
         ("comment", "x"), ("time", "5"), ("wrap", "true"), ("clusters", "all")],
    )  # fmt: skip
    def test_a_clusters_profile_may_say_no_more_than_a_job(self, key: str, value: str | int) -> None:
        with pytest.raises(UnsupportedError, match=f"profile has sbatch.{key}, which cannot be used"):
            asked(site(sbatch={key: value}))
        assert key not in asked(site(sbatch={key: False})) or key in asked()

    def test_a_clusters_profile_may_say_what_holds_anyway(self) -> None:
        assert asked(site(sbatch={"ntasks-per-node": 1}))["ntasks-per-node"] == 1

    def test_excluded_nodes_stay_so(self) -> None:
        bad = site(exclude=(Excluded(nodes=("n7", "n[20-22]"), reason="ECC", since="2026-11"),))
        assert asked(bad, sbatch={"exclude": "n1,n2"})["exclude"] == "n7,n[20-22],n1,n2"
        assert asked(site(exclude=bad.exclude, sbatch={"exclude": "n3"}), sbatch={"exclude": "n1"})[
            "exclude"
        ] == "n7,n[20-22],n3,n1"  # fmt: skip
        assert asked(bad, sbatch={"exclude": "/lists/bad"})["exclude"] == "/lists/bad"
        assert "exclude" not in asked(bad, sbatch={"exclude": False})

    @pytest.mark.parametrize(
        ("said", "meant"),
        [("aray", "array"), ("reservtion", "reservation"), ("mem-per-cp", "mem-per-cpu")],
    )
    def test_a_slip_of_the_pen_is_noted(self, said: str, meant: str) -> None:
        notes = ask(Cluster(summary="x", scheduler="slurm"), sbatch={said: "4"}).notes
        assert notes == (f"note: no option {said} of sbatch is known here: did you mean {meant}?",)

    @pytest.mark.parametrize("said", ["segment", "power", "x-of-a-plugin"])
    def test_an_option_of_some_release_or_of_a_plugin_is_not(self, said: str) -> None:
        assert not ask(Cluster(summary="x", scheduler="slurm"), sbatch={said: "4"}).notes

    def test_the_number_of_nodes_is_said_once(self) -> None:
        assert asked(sbatch={"nodes": "2"})["nodes"] == "2"
        with pytest.raises(UnsupportedError, match=r"nodes: 2, and sbatch\.nodes: 3"):
            asked(sbatch={"nodes": "3"})


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("30", 1800), ("30:10", 1810), ("12:00:01", 43201), ("1-12", 129600), ("1-12:30", 131400),
            ("2-00:00:01", 172801), ("100:00:00", 360000), ("0:30", 30), ("UNLIMITED", float("inf")),
        ],
    )  # fmt: skip
    def test_as_slurm_writes_them(self, text: str, expected: float) -> None:
        assert seconds(text) == expected

    @pytest.mark.parametrize(
        "text", ["", "0", "00:00:00", "1h", "-1", "1-", "1:2:3:4", " 5", "5\n", "1.5", "٣"]
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(InvalidFileError, match=r'job.yaml:3: found .* expected "30"'):
            seconds(text, "job.yaml:3")

    @given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
    def test_days_and_hours_agree(self, days: int, hours: int, minutes: int, over: int) -> None:
        long = seconds(f"{days}-{hours:02}:{minutes:02}:{over:02}")
        assert long == seconds(f"{days * 24 + hours}:{minutes:02}:{over:02}")
        assert long - over == (days * 1440 + hours * 60 + minutes) * 60


def test_the_limit_of_a_partition_may_depend_on_the_number_of_nodes() -> None:
    """As some sites have it: the more nodes, the shorter. What a job asks for is held against its own."""
    main = Partition(time_limit="1-00:00:00", time_limits={"4": "06:00:00", "16": "00:30:00"})
    cluster = site(partitions={"main": main})
    assert [main.longest(nodes) for nodes in (1, 3, 4, 15, 16, 99)] == [
        "1-00:00:00", "1-00:00:00", "06:00:00", "06:00:00", "00:30:00", "00:30:00",
    ]  # fmt: skip
    assert asked(cluster, nodes=3, time="20:00:00")["time"] == "20:00:00"
    with pytest.raises(UnsupportedError, match="gives a job at most 06:00:00, the job asks for 20:00:00"):
        ask(cluster, nodes=4, time="20:00:00")
    assert asked(cluster, nodes=16)["time"] == "00:30:00", "the cluster's usual hour is more than it gets"
