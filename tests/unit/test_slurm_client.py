"""Slurm's client without Slurm: trees of hosts built here, answers as Slurm writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.errors import HostError, MissingToolError
from slurm import answers, client, config, host_client
from slurm.rooted import below, real
from slurm.ways import Own, Remote
from tests.unit.parts_slurm_hosts import tree

HOST = client.HOST


def test_a_debian_host(debian: Path) -> None:
    facts = host_client.facts("/usr/bin", {}, debian, debian)
    assert facts.loader == "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    assert facts.libraries[0] == "/usr/lib/x86_64-linux-gnu/slurm-wlm"
    assert facts.plugins == ("/usr/lib/x86_64-linux-gnu/slurm-wlm",)
    assert facts.conf == "/etc/slurm/slurm.conf"
    assert facts.sockets == ("/run/munge/munge.socket.2",)
    assert dict((b, a) for a, b in host_client.needed(facts, HOST)) == {
        f"{HOST}/usr": "/usr", f"{HOST}/lib": "/lib", f"{HOST}/lib64": "/lib64",
        f"{HOST}/etc/ld.so.conf": "/etc/ld.so.conf", f"{HOST}/etc/ld.so.conf.d": "/etc/ld.so.conf.d",
        f"{HOST}/slurm-bin": "/usr/bin",
        "/usr/lib/x86_64-linux-gnu/slurm-wlm": "/usr/lib/x86_64-linux-gnu/slurm-wlm",
        "/etc/slurm": "/etc/slurm", "/run/munge": "/run/munge",
        "/etc/passwd": "/etc/passwd", "/etc/hosts": "/etc/hosts", "/etc/nsswitch.conf": "/etc/nsswitch.conf",
    }  # fmt: skip


def test_a_redhat_host(redhat: Path) -> None:
    facts = host_client.facts("/opt/slurm/bin", {}, redhat, redhat)
    assert (facts.programs, facts.loader) == ("/cm/slurm-24/bin", "/usr/lib64/ld-2.28.so")
    assert facts.plugins == ("/opt/slurm/lib64/slurm", "/opt/site/plugins", "/opt/spank")
    assert facts.sockets == ("/var/run/munge/munge.socket.2",)
    pairs = host_client.needed(facts, HOST)
    assert ("/opt/slurm/lib64/slurm", f"{HOST}/opt/slurm/lib64/slurm") in pairs
    assert ("/cm/slurm-24/bin", f"{HOST}/slurm-bin") in pairs
    assert ("/var/run/munge", "/var/run/munge") in pairs
    assert not any("never" in source or source == "/opt/other" for source, _ in pairs)


@pytest.mark.parametrize("kind", ["debian", "redhat"])
def test_inside_the_same_is_found_in_what_was_bound(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A container's view, made of links to what `needed` names: the command is complete, and stays below."""
    host: Path = request.getfixturevalue(kind)
    place = {"debian": "/usr/bin", "redhat": "/opt/slurm/bin"}[kind]
    outside = host_client.facts(place, {}, host, host)
    root = tmp_path / "inside"
    for source, target in host_client.needed(outside, ""):
        if below(host, source).exists() and target.startswith(
            ("/usr", "/lib", "/opt", "/etc/ld", "/slurm-bin")
        ):
            bound(below(host, source), root / target.lstrip("/"))
    inside = host_client.facts(host_client.PROGRAMS, {}, root, host)
    argv = host_client.Loaded(root=root, facts=inside).argv("sbatch", ["--version"])
    assert argv[0].startswith(str(root)) and not Path(argv[0]).is_symlink()
    assert Path(argv[0]).read_text() == "loader"
    assert argv[1:3] == ["--inhibit-cache", "--library-path"]
    folders = argv[3].split(":")
    assert all(Path(each).is_dir() and each.startswith(str(root)) for each in folders)
    assert any((Path(each) / "libslurmfull.so").exists() for each in folders)
    assert argv[4:] == [f"{root}/slurm-bin/sbatch", "--version"]


def bound(source: Path, target: Path) -> None:
    """What a bind mount shows: the files of a folder, with the links in it as they are."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for each in source.iterdir():
            if each.is_symlink():
                (target / each.name).unlink(missing_ok=True)
                (target / each.name).symlink_to(each.readlink())
            else:
                bound(each, target / each.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())


def test_what_lacks_is_named(debian: Path) -> None:
    (debian / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    facts = host_client.facts("/usr/bin", {}, debian, debian)
    said = " | ".join(host_client.missing(facts, {}, debian, debian))
    assert "the user slurm (SlurmUser)" in said
    assert "the socket /run/munge/munge.socket.2 of munge" in said
    assert "plugin folder" not in said


def test_no_client_and_a_script_for_one(tmp_path: Path, debian: Path) -> None:
    with pytest.raises(MissingToolError, match="there is no sbatch in"):
        host_client.facts("/nowhere", {}, debian, debian)
    (debian / "usr/bin/sbatch").write_text("#!/bin/sh\nexec real-sbatch\n")
    with pytest.raises(MissingToolError, match="a script around sbatch"):
        host_client.facts("/usr/bin", {}, debian, debian)


def test_sites_without_munge_and_with_sockets_of_their_own(debian: Path) -> None:
    conf = debian / "etc/slurm/slurm.conf"
    conf.write_text("AuthType=auth/slurm\n")
    assert host_client.facts("/usr/bin", {}, debian, debian).sockets == ("/run/slurm/sack.socket",)
    conf.write_text("AuthInfo=ttl=60,socket=/tmp/m.socket\n")
    facts = host_client.facts("/usr/bin", {}, debian, debian)
    assert ("/tmp/m.socket", "/tmp/m.socket") in host_client.needed(facts, HOST), "never all of /tmp"


def test_links_stay_in_their_root(tmp_path: Path) -> None:
    tree(tmp_path, {"real/file": "x"}, {"a": "/b", "b": "real", "up": "../../real", "round": "/round"})
    assert real(tmp_path, "/a/file") == "/real/file"
    assert below(tmp_path, "/up/file").read_text() == "x"
    assert real(tmp_path, "/none/such") == "/none/such"
    with pytest.raises(HostError, match="in circles"):
        real(tmp_path, "/round/x")


# --- slurm.conf


def test_slurm_conf_is_found(tmp_path: Path) -> None:
    assert config.find({}, tmp_path) is None
    tree(tmp_path, {"run/slurm/conf/slurm.conf": 'ClusterName="c" # its name\n', "x.conf": ""}, {})
    assert config.find({}, tmp_path) == "/run/slurm/conf/slurm.conf"
    assert config.find({"SLURM_CONF": "/x.conf"}, tmp_path) == "/x.conf"
    assert config.find({"SLURM_CONF": "/y.conf"}, tmp_path) is None
    assert config.values("/run/slurm/conf/slurm.conf", tmp_path) == {"clustername": "c"}


# --- by ssh


def test_words_for_ssh_are_quoted() -> None:
    argv = Remote("login").argv("sbatch", ["--job-name=it's $(x)", "/run/job.sbatch"])
    assert argv[:5] == ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=4"]
    assert argv[5:7] == ["--", "login"]
    assert argv[7] == "sbatch '--job-name=it'\"'\"'s $(x)' /run/job.sbatch"
    assert Own().argv("squeue", ["-x"]) == ["squeue", "-x"]


@pytest.mark.parametrize(
    ("marks", "logins", "hint"),
    [
        ((), (), "--cluster local"),
        ((), ("login.example",), "ssh -o BatchMode=yes login.example"),
        ((".dockerenv",), (), "on the login node: make shell"),
        (("run/.containerenv",), (), "on the login node: make shell"),
        ((".singularity.d/labels.json",), (), "on the login node: make shell"),
        (("bin/sbatch",), (), "export SLURM_CONF="),
        (("host/usr", ".dockerenv", "bin/sbatch"), (), "leave this shell"),
    ],
)
def test_the_way_out_is_of_where_one_is(
    tmp_path: Path, marks: tuple[str, ...], logins: tuple[str, ...], hint: str
) -> None:
    for mark in marks:
        (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / mark).touch(mode=0o755)
    found = client._way_out(logins, {"PATH": str(tmp_path / "bin")}, tmp_path / "host", tmp_path)
    assert hint in found and ("make shell" in hint) == ("make shell" in found)


def test_what_ssh_lacks_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\necho 'ssh: no such host' >&2; exit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    with pytest.raises(MissingToolError) as caught:
        client.find(("a.invalid", "b.invalid"), {"PATH": str(tmp_path)}, tmp_path / "none")
    said = caught.value.message
    assert said.index("ssh a.invalid") < said.index("ssh b.invalid") < said.index("sbatch is not on PATH")


# --- answers


@pytest.mark.parametrize(
    ("said", "id"),
    [
        ("12\n", "12"),
        ("12;cluster\n", "12"),
        ("Welcome to 5 nodes\n--> ok\n77;x\n", "77"),
        ("42\nNotice 2026 quota\n", "42"),
        ("quota of 2026: 3\n 42;x \r\n12 jobs left\n", "42"),
        ("Submitted batch job 42\n", ""),
        ("no\n", ""),
        ("", ""),
    ],
)
def test_job_ids(said: str, id: str) -> None:
    assert answers.job_id(said) == id


def test_queue_with_awkward_names() -> None:
    fields = ["7", "a|b,\nc", "me", "PENDING", "None", "slipworks:1:0", "main", "(null)", "", "2",
              "1795244580", "N/A", "N/A", "10:00", "afternotok:6", "/s.sh"]  # fmt: skip
    text = answers.UNIT.join(fields) + answers.RECORD + "\n"
    (job,) = answers.queued(text)
    assert (job.name, job.account, job.reason, job.submitted, job.started) == (
        "a|b,\nc",
        "",
        "",
        1795244580,
        None,
    )
    torn = text.replace("a|b", f"a{answers.UNIT}b")
    assert answers.queued(text + torn + text) == (job, job), "a record with a field too many is passed over"
    assert answers.queued("") == ()


def test_history_with_line_breaks() -> None:
    fields = ["7", "me", "CANCELLED by 1000", "0:15", "main", "", "n1", "1", "Unknown", "3", "c", "a\nb"]
    text = answers.UNIT.join(fields) + "\n"
    first, second = answers.past(text * 2)
    assert first == second
    assert (first.name, first.state, first.started, first.ended) == ("a\nb", "CANCELLED by 1000", None, 3)


def test_questions() -> None:
    assert answers.queue_words(user="5")[-1] == "--user=5"
    assert answers.queue_words()[-1] == "--me"
    assert answers.queue_words(ids=("1", "2"), user="5")[-1] == "--jobs=1,2"
    words = answers.history_words(seconds=60, states=("FAILED", "TIMEOUT"), user="5")
    assert words[-2:] == ["--user=5", "--state=FAILED,TIMEOUT"]
    assert "--starttime=now-60seconds" in words
