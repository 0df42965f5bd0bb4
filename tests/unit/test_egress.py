"""The way out of nodes without internet: what is said, and what is planned."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kit.errors import InvalidFileError, LaunchError, SlipworksError, UnsupportedError
from runner import egress, job
from runner.egress import outlet, plan, submitting
from runner.egress.plan import EgressPlan
from runner.fixing import launch_like
from runner.launch import RayPlan
from slurm import clusters

PLAN = EgressPlan(kind="ssh", host="gw", port=22, user="me", probe="https://x.test", command=True)


def loaded(folder: Path, text: str) -> job.Job:
    file = folder / "job.yaml"
    file.write_text(f"name: j\nrun: [echo, 'a b']\n{text}")
    return job.load(file)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("egress: {docker: nothing}", "host:port or the path of a socket"),
        ("egress: {docker: '-oProxyCommand=x:1'}", "host:port or the path of a socket"),
        ("egress: {docker: '/a:b'}", "host:port or the path of a socket"),
        ("egress: {probe: example.org}", "https://host"),
        ("egress: {within: 0}", "more than 0"),
        ("egress: {comand: true}", "did you mean 'command'"),
    ],
)
def test_what_a_job_may_not_say(tmp_path: Path, said: str, wrong: str) -> None:
    with pytest.raises(SlipworksError) as found:
        loaded(tmp_path, said)
    assert "job.yaml:3" in str(found.value.message), found.value.message
    assert wrong in f"{found.value.message} {found.value.hint}"


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"kind": "http", "host": "p"}, "no port"),
        ({"host": "-oProxyCommand=x"}, "expected one word"),
        ({"user": "a b"}, "expected one word"),
        ({"direct": ["10.0.0.1/8"]}, "expected a network"),
        ({"probe": "ftp://x"}, "expected https"),
        ({"port": 0}, "port is 0"),
    ],
)
def test_what_a_profile_may_not_say(said: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InvalidFileError, match=wrong):
        clusters.load("vista", {"vista": {"egress": said}})


def test_the_users_key_joins_the_sites_gateway() -> None:
    way = clusters.load("juwels", {"juwels": {"egress": {"key": "~/.ssh/jsc"}}})
    assert way.egress and (way.egress.host, way.egress.key) == ("jwlogin22i", "~/.ssh/jsc")
    assert "egress" not in way.unverified
    for name in ("jureca", "jupiter"):
        each = clusters.load(name)
        assert each.egress and each.egress.kind == "ssh" and each.egress.host is None
        assert "egress" in each.unverified


def key_in(folder: Path, mode: int = 0o600) -> Path:
    (folder / "key").write_text("k")
    (folder / "key").chmod(mode)
    (folder / "known").write_text("gw k")
    return folder / "key"


def way(folder: Path, **more: Any) -> clusters.Cluster:
    said = {"key": str(folder / "key"), "known_hosts": str(folder / "known"), **more}
    return clusters.load("juwels", {"juwels": {"egress": said}})


def test_a_job_and_a_cluster_make_a_plan(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    asked = loaded(tmp_path, "egress: {workers: true, docker: 127.0.0.1:7001}")
    made = submitting.planned(asked, way(tmp_path, user="someone"))
    assert made and (made.host, made.port, made.user, made.key) == ("jwlogin22i", 22, "someone", str(key))
    assert made.command and made.workers and made.docker == "127.0.0.1:7001"
    submitting.demand(asked, way(tmp_path), "juwels", made)
    targets = {each.target: (each.source, each.read_only) for each in submitting.binds(made)}
    assert targets[plan.KEY] == (key, True) and targets[plan.KNOWN][1]
    assert submitting.planned(loaded(tmp_path, ""), way(tmp_path)) is None
    assert [each.target for each in submitting.present(made)] == ["/etc/hosts"]
    assert len(submitting.present(made, submitting.present(made))) == 1 and not submitting.present(None)


def test_names_of_a_key_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_KEY", str(tmp_path / "my key"))
    made = submitting.planned(loaded(tmp_path, "egress: true"), way(tmp_path, key="$SSH_KEY"))
    assert made and made.key == str(tmp_path / "my key")


@pytest.mark.parametrize(
    ("mode", "more", "wrong"),
    [
        (0o644, {}, "others can read"),
        (0o600, {"key": "/none/key"}, "is not there: /none/key"),
        (0o600, {"known_hosts": "/none/known"}, "cannot be known"),
    ],
)
def test_what_ssh_would_not_take_is_refused_at_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, more: dict[str, Any], wrong: str
) -> None:
    monkeypatch.setattr(submitting, "SITE_HOSTS", tmp_path / "none")
    key_in(tmp_path, mode)
    asked, cluster = loaded(tmp_path, "egress: true"), way(tmp_path, **more)
    with pytest.raises(InvalidFileError, match=wrong):
        submitting.demand(asked, cluster, "juwels", submitting.planned(asked, cluster))


def test_a_cluster_without_a_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = loaded(tmp_path, "egress: true")
    for name in ("generic", "jureca"):
        cluster = clusters.load(name)
        assert submitting.planned(asked, cluster) is None
        with pytest.raises(UnsupportedError, match=name):
            submitting.demand(asked, cluster, name, None)
    submitting.demand(asked, clusters.load("vista"), "vista", None)
    assert "nodes of vista have internet" in capsys.readouterr().err
    proxy = clusters.load("vista", {"vista": {"egress": {"kind": "http", "host": "p", "port": 1}}})
    docker = loaded(tmp_path, "egress: {docker: /run/docker.sock}")
    with pytest.raises(UnsupportedError, match="forwarded by ssh"):
        submitting.demand(docker, proxy, "vista", submitting.planned(docker, proxy))


def test_ssh_asks_nobody_and_trusts_only_whom_it_knows() -> None:
    words = plan.argv(replace(PLAN, docker="127.0.0.1:7001", port=2222), 1081, "/tmp/own/docker.sock")
    assert words[-2:] == ["--", "gw"] and words[0] == "ssh"
    pairs = list(itertools.pairwise(words))
    for option in ("BatchMode=yes", "ExitOnForwardFailure=yes", "StrictHostKeyChecking=yes",
                   f'UserKnownHostsFile="{plan.KNOWN}"'):  # fmt: skip
        assert ("-o", option) in pairs
    assert ("-i", plan.KEY) in pairs and ("-p", "2222") in pairs and ("-l", "me") in pairs
    assert ("-D", "127.0.0.1:1081") in pairs
    assert ("-L", "/tmp/own/docker.sock:127.0.0.1:7001") in pairs, (
        "a port would be open to others on the node"
    )
    assert ("-o", "StreamLocalBindUnlink=yes") in pairs
    assert "-L" not in plan.argv(PLAN, 1, None)


def test_the_configuration_leaves_the_cluster_direct() -> None:
    text = plan.conf(replace(PLAN, direct=("134.94.0.0/16",)), ("127.0.0.1", 1081), ("149.1.2.0/24",))
    lines = text.splitlines()
    for network in ("127.0.0.0/255.0.0.0", "10.0.0.0/255.0.0.0", "172.16.0.0/255.240.0.0",
                    "192.168.0.0/255.255.0.0", "169.254.0.0/255.255.0.0", "149.1.2.0/255.255.255.0",
                    "134.94.0.0/255.255.0.0", "::1/128"):  # fmt: skip
        assert f"localnet {network}" in lines
    assert lines[0] == "strict_chain" and "proxy_dns" not in text
    assert lines[-2:] == ["[ProxyList]", "socks5 127.0.0.1 1081"]
    assert "proxy_dns" in plan.conf(replace(PLAN, names="gateway"), ("127.0.0.1", 1), ()).splitlines()
    http = plan.conf(replace(PLAN, kind="http"), ("10.0.0.9", 3128), ())
    assert http.splitlines()[-1] == "http 10.0.0.9 3128"


def test_the_library_comes_before_what_is_preloaded_and_words_stay(tmp_path: Path) -> None:
    """However long LD_PRELOAD is: proxychains4 itself cuts it off at 256 bytes."""
    odd = "a b'c\"d$(touch x)`e`\n#é"
    show = "import os, sys; print([os.environ['LD_PRELOAD'], sys.argv[1], os.getpid()])"
    launch = launch_like(command=(sys.executable, "-c", show, odd), egress=replace(PLAN, library="/p.so"))
    words = plan.of_command(launch)
    assert words == egress.prefix(launch.command, launch)
    for before, after in ((None, "/p.so"), ("/n" * 200, "/p.so:" + "/n" * 200)):
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        child = subprocess.Popen(words, env={**env, **({"LD_PRELOAD": before} if before else {})},
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        assert child.communicate()[0].strip() == str([after, odd, child.pid]), "the process is the same"


def test_who_asks_for_nothing_gets_nothing() -> None:
    plain = launch_like(command=("x",))
    assert egress.prefix(("x",), plain) == plan.of_command(plain) == ("x",)
    asks_not = launch_like(command=("x",), egress=replace(PLAN, command=False, library="/p.so"))
    assert plan.of_command(asks_not) == ("x",) and not plan.is_needed(asks_not, 0)
    assert plan.is_needed(asks_not, 1, [False, True]) and not plan.is_needed(plain, 0, [True])
    asks = launch_like(egress=PLAN)
    assert plan.is_needed(asks, 0) and not plan.is_needed(asks, 1)
    assert plan.is_needed(replace(asks, everywhere=True), 1)
    assert plan.is_needed(launch_like(egress=replace(PLAN, workers=True)), 1)
    assert plan.is_needed(launch_like(egress=replace(PLAN, command=False, docker="h:1")), 0)


def test_rays_workers_get_it_beside_their_nccl() -> None:
    theirs = {"runtime_env": {"env_vars": {"LD_PRELOAD": "/nccl.so", "A": "1"}, "pip": []}}
    launch = launch_like(
        ray=RayPlan(), egress=replace(PLAN, workers=True), command_env={plan.WORKERS: json.dumps(theirs)}
    )
    made = plan.equipped(launch, "/p.so")
    found = json.loads(made.command_env[plan.WORKERS])["runtime_env"]
    assert found == {"env_vars": {"LD_PRELOAD": "/nccl.so:/p.so", "A": "1"}, "pip": []}
    alone = plan.equipped(launch_like(ray=RayPlan(), egress=replace(PLAN, workers=True)), "/p.so")
    assert json.loads(alone.command_env[plan.WORKERS])["runtime_env"]["env_vars"] == {"LD_PRELOAD": "/p.so"}
    assert plan.WORKERS not in plan.equipped(launch_like(ray=RayPlan(), egress=PLAN), "/p.so").command_env


def test_an_image_that_lacks_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    with pytest.raises(LaunchError, match="no `proxychains4`") as lacking:
        outlet.library({"PATH": str(tmp_path / "bin")})
    assert "apt-get install" in str(lacking.value.hint)
    for name in ("lib/x86_64-linux-gnu/libproxychains.so.4", "lib/libproxychains4.so"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        assert outlet.library({"PATH": f"/none/bin:{tmp_path}/bin"}) == str(tmp_path / name)


def test_this_machines_networks() -> None:
    assert "127.0.0.0/8" in outlet.networks()


@pytest.mark.parametrize(
    ("profile", "said", "warned"),
    [
        ({}, "", True), ({"exclusive": True}, "", False), ({"gpu_directive": "none"}, "", False),
        ({}, "sbatch: {exclusive: true}", False), ({}, "sbatch: {exclusive: user}", False),
        ({"exclusive": True}, "sbatch: {exclusive: false}", True),
        ({"sbatch": {"exclusive": True}}, "", False),
        ({"partition": "p", "partitions": {"p": {"exclusive": True}}}, "", False),
    ],
)  # fmt: skip
def test_a_way_that_others_on_the_node_can_take_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], profile: dict[str, Any], said: str, warned: bool
) -> None:
    key_in(tmp_path)
    gateway = {"host": "gw", "key": str(tmp_path / "key"), "known_hosts": str(tmp_path / "known")}
    cluster = clusters.load("own", {"own": {"egress": gateway, **profile}})
    asked = loaded(tmp_path, f"egress: true\n{said}")
    submitting.demand(asked, cluster, "own", submitting.planned(asked, cluster))
    assert ("warning: whoever else is on a node" in capsys.readouterr().err) == warned
