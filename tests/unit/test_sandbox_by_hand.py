"""Sandboxes by hand: each verb of `runner sandbox` on an engine that is a page on a port."""

from __future__ import annotations

import json
import socket
import stat
import time
from pathlib import Path

import pytest
from msgspec import structs

from kit.errors import NetworkError, NotFoundError, UsageError
from runner import cli
from runner.sandboxes import backend, by_hand, here, places, records
from runner.sandboxes.nouns import KEY, Wish
from runner.sandboxes.settings import Settings
from tests.unit.parts_by_hand import SECRET, Backend, Engine, Type, engine, listed, running, server_of, type_

__all__ = ["engine", "type_"]


def test_run_prints_url_and_key_of_one_that_is_alive(type_: Type, engine: Engine) -> None:
    code, out, err = type_("run", "docker.io/library/debian:13", "--name", "mine")
    url, key = out.splitlines()
    (start,) = engine.starts.values()
    assert (code, url, key) == (0, start.url, start.secret[KEY])
    assert key not in err and "runner sandbox exec|logs|stop mine" in err
    with socket.create_connection(("127.0.0.1", start.port)):
        pass


def test_nothing_secret_is_in_what_an_engine_is_told_openly(type_: Type, engine: Engine) -> None:
    running(type_, "--env", "TOKEN", "--env", "LEVEL=a=b")
    (start,) = engine.starts.values()
    assert start.secret["TOKEN"] == SECRET and start.secret["LEVEL"] == "a=b"
    assert SECRET not in str(structs.asdict(structs.replace(start, secret={})))
    assert stat.S_IMODE(places.by_hand().stat().st_mode) == 0o700
    (record,) = (places.by_hand() / "sessions").glob("*.json")
    assert stat.S_IMODE(record.stat().st_mode) == 0o600


def test_limits_network_and_words_are_handed_on(type_: Type, engine: Engine) -> None:
    told = running(type_, "--memory", "100", "--workdir", "/testbed", "--", "agent-server", "--port", "1")
    start = engine.starts[told["id"]]
    assert start.limits.memory == 100 << 20 and start.limits.cpus == ()
    assert (start.workdir, start.image.command) == ("/testbed", ("agent-server", "--port", "1"))


def test_a_name_is_made_of_the_image() -> None:
    names = {
        "docker.io/namanjain12/sympy_final:abc": "sympy_final-0123",
        "localhost:5000/a/b@sha256:00": "b-0123",
        "/images/a base.sif": "a-base-0123",
        "///": "sandbox-0123",
    }
    assert {image: by_hand.name_for(image, "0123456789abcdef") for image in names} == names


def test_a_name_is_one_sandboxs(type_: Type, engine: Engine) -> None:
    running(type_, "--name", "mine")
    code, _, err = type_("run", "debian:13", "--name", "mine")
    assert code == UsageError.code and "there is a sandbox mine already: it is ready" in err
    assert "hint: runner sandbox stop mine" in err and len(engine.starts) == 1
    assert type_("run", "debian:13", "--name", "../x")[0] == UsageError.code


@pytest.mark.parametrize(
    ("fault", "said"), [("dead", "ended: exit code 3"), ("mute", "does not answer /alive")]
)
def test_one_that_does_not_come_up_leaves_nothing(fault: str, said: str, type_: Type, engine: Engine) -> None:
    setattr(engine, fault, True)
    code, out, err = type_("run", "debian:13", "--deadline", "1.5")
    assert (code, out) == (42, "") and said in err and "its last lines:\n  985\n" in err
    assert engine.states == {} and list(places.by_hand().glob("s*/*")) == []


def test_an_interruption_ends_what_was_begun(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.mute = True

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("runner.sandboxes.by_hand.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        by_hand.started(by_hand.Asked(wish=Wish(session="", image="debian:13")))
    assert engine.starts and engine.states == {} and records.read(places.by_hand()) == []


def test_an_image_that_is_not_there_is_told_and_leaves_nothing(type_: Type, engine: Engine) -> None:
    code, _, err = type_("run", "missing:1")
    assert code == NotFoundError.code and "no image missing:1" in err
    assert engine.starts == {} and records.read(places.by_hand()) == []


def test_an_image_that_may_not_be_pulled_is_told_how_it_could(type_: Type) -> None:
    err = type_("run", "missing:1", "--pull", "never")[2]
    assert "hint: runner sandbox run missing:1 --pull missing\n" in err


def test_what_nobody_limits_is_said(type_: Type, engine: Engine) -> None:
    engine.watched = ("memory", "disk")
    assert "note: nothing limits its memory, disk: " in type_("run", "debian:13")[2]
    engine.watched = ()
    assert "note" not in type_("run", "debian:13")[2]


def test_a_dry_run_starts_nothing_and_shows_no_value(type_: Type, engine: Engine) -> None:
    code, out, _ = type_("run", "debian:13", "--env", "TOKEN", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["env"] == ["TOKEN"] and SECRET not in out
    code, out, _ = type_("run", "debian:13", "--dry-run")
    assert (
        "image: debian:13\n" in out
        and "\ncommand:\n" in out
        and engine.starts == {}
        and not places.by_hand().exists()
    )


def test_list_tells_what_lives_and_no_key(type_: Type, engine: Engine) -> None:
    told = running(type_, "--name", "mine")
    gone = running(type_, "--name", "other")
    engine.states[gone["id"]] = "ended"
    assert listed(type_) == {"mine": "ready", "other": "ended"}
    engine.states[told["id"]] = "paused"
    assert listed(type_) == {"mine": "paused", "other": "ended"}
    engine.states[told["id"]] = "running"
    code, out, _ = type_("list", "--json")
    key = told["session_api_key"]
    assert code == 0 and key not in out
    (record,) = [each["record"] for each in json.loads(out) if each["name"] == "mine"]
    assert json.loads(Path(record).read_text())["key"] == key
    code, out, _ = type_("list")
    assert out.splitlines()[0].split() == ["NAME", "STATE", "IMAGE", "ENGINE", "BY", "AGE", "URL"]
    assert "mine   ready  debian:13  podman  hand" in out and key not in out


def test_an_engine_that_gives_no_answer_kills_nobody(
    type_: Type, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(type_, "--name", "mine")

    def silent(self: Backend, state: str) -> dict[str, backend.State]:
        raise NetworkError("the daemon does not answer")

    monkeypatch.setattr(Backend, "states", silent)
    code, out, err = type_("list", "--json")
    assert code == 0 and json.loads(out)[0]["state"] == "ready"
    assert "podman does not tell what runs: the daemon does not answer" in err


def test_a_servers_are_seen_and_only_its_own_with_state(type_: Type, engine: Engine, tmp_path: Path) -> None:
    running(type_, "--name", "mine")
    server_of(places.served(), engine)
    server_of(tmp_path / "other", engine, id="b" * 16)
    assert listed(type_) == {"mine": "ready", "served": "ready"}
    assert listed(type_, "--state", str(tmp_path / "other")) == {"served": "ready"}
    assert type_("list", "--state", str(tmp_path / "none"))[0] == NotFoundError.code


def test_those_that_failed_are_listed_on_demand_with_their_log(type_: Type, engine: Engine) -> None:
    session = server_of(places.served(), engine, phase="failed", why="exit code 3", ended=time.time())
    records.keep_log(places.served(), session.id, "one\ntwo\nthree\n")
    assert listed(type_) == {} and listed(type_, "--all") == {"served": "failed"}
    code, out, err = type_("logs", "served", "--lines", "2")
    assert (code, out) == (0, "two\nthree\n") and "served is failed: exit code 3" in err
    assert type_("exec", "served", "--", "true")[0] == NotFoundError.code


def test_words_that_mean_one_none_and_several(type_: Type) -> None:
    told = running(type_, "--name", "mine-1")
    running(type_, "--name", "mine-2")
    assert type_("logs", told["id"][:6], "--lines", "1")[:2] == (0, "999\n")
    assert type_("logs", "mine-1", "--lines", "1")[0] == 0
    code, _, err = type_("logs", "mine")
    assert code == UsageError.code and "'mine' means 2 sandboxes: mine-1 (" in err
    code, _, err = type_("logs", "mime-1")
    assert code == 10 and "did you mean 'mine-1'?" in err


def test_logs_as_json(type_: Type) -> None:
    running(type_, "--name", "mine")
    code, out, _ = type_("logs", "mine", "--lines", "3", "--json")
    assert code == 0 and json.loads(out)["log"] == "997\n998\n999\n"


def test_exec_is_the_engines_own_command(type_: Type) -> None:
    id = running(type_, "--name", "mine")["id"]
    assert type_("exec", "mine", "--dry-run", "--", "ls", "-l", "a b")[1] == f"env IN={id} ls -l 'a b'\n"
    code, out, _ = type_("exec", "mine", "--json", "--", "sh", "-c", "echo $IN; echo no >&2; exit 4")
    assert code == 0
    assert json.loads(out) == {"name": "mine", "exit_code": 4, "stdout": f"{id}\n", "stderr": "no\n"}
    assert "exec bash" in type_("exec", "mine", "--dry-run")[1]


def test_stop_leaves_neither_container_nor_record(type_: Type, engine: Engine) -> None:
    for name in ("one", "two", "three"):
        running(type_, "--name", name)
    code, out, _ = type_("stop", "one", "--dry-run")
    assert (code, out) == (0, "one\n") and len(engine.states) == 3
    assert type_("stop", "one", "two", "one")[:2] == (0, "one\ntwo\n")
    assert listed(type_, "--all") == {"three": "ready"}
    code, out, _ = type_("stop", "--all", "--json")
    assert [each["name"] for each in json.loads(out)] == ["three"]
    assert engine.states == {} and list(places.by_hand().glob("s*/*")) == []
    assert type_("stop")[0] == UsageError.code and type_("stop", "one")[0] == 10


def test_all_by_hand_are_no_servers(type_: Type, engine: Engine) -> None:
    running(type_, "--name", "mine")
    session = server_of(places.served(), engine)
    assert type_("stop", "--all")[1] == "mine\n" and session.id in engine.states
    assert type_("stop", "--all", "--state", str(places.served()))[1] == "served\n"
    assert engine.states == {} and records.read(places.served())[0].phase == "stopped"


def test_what_a_killed_server_left_goes_with_all(type_: Type, engine: Engine, tmp_path: Path) -> None:
    """One whose session had ended, and one without a record."""
    server_of(tmp_path, engine, id="a" * 16)
    for id in ("b" * 16, "c" * 16):
        gone = server_of(tmp_path, engine, id=id)
        records.write(tmp_path, structs.replace(gone, phase="stopped"))
    records.drop(tmp_path, "c" * 16)
    given = ("--state", str(tmp_path))
    assert listed(type_, *given) == {"served": "ready"}
    code, out, _ = type_("list", "--all", "--json", *given)
    assert code == 0 and {each["id"][0]: each["state"] for each in json.loads(out)} == {
        "a": "ready", "b": "left", "c": "left"
    }  # fmt: skip
    engine.graces.clear()
    assert type_("stop", "--all", "--grace", "1", *given)[0] == 0
    assert set(engine.graces) == {1.0}, "a job's node has little time at its end"
    assert engine.states == {} and {each.phase for each in records.read(tmp_path)} == {"stopped"}


def test_only_verbs_that_take_words_take_them(type_: Type) -> None:
    assert type_("stop", "--", "x")[0] == 10  # argparse's own --: a name
    assert cli.parsed(["sandbox", "exec", "a", "--", "b", "--c"]).words == ["b", "--c"]


def test_a_sandbox_is_entered_while_it_lives(engine: Engine, tmp_path: Path) -> None:
    session = server_of(tmp_path, engine, phase="paused")
    engine.states[session.id] = "paused"
    (seen,) = here.every([tmp_path])
    with pytest.raises(NotFoundError, match="it is paused"):
        here.entered(seen, ["ls"], terminal=False)
    ready = structs.replace(seen, state="ready")
    assert here.entered(ready, ["ls"], terminal=True) == ["env", f"IN={session.id}", "-", "ls"]


def test_the_settings_of_one_by_hand_are_a_servers() -> None:
    plan = by_hand.plan(by_hand.Asked(wish=Wish(session="", image="x"), settings=Settings(engine="docker")))
    assert plan["engine"] == "docker" and plan["memory_mb"] == 8192
