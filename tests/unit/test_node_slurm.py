"""What a batch script and Slurm ask of nodes: the command on each, warnings, ends, what is kept."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kit import files, process
from kit.errors import LaunchError
from runner import meeting as meeting_
from runner import peers
from runner.ends import HeadLost, Lost
from runner.launch import Service
from runner.meeting import Ended, Meeting
from runner.runs import RunFolder
from tests.unit.parts_node import alone, ended, events, job, seen, start, text

pytestmark = pytest.mark.timeout(120)
SHOW = 'echo "$SLIPWORKS_RANK of $SLIPWORKS_NODES at $MASTER_ADDR:$MASTER_PORT"'
CATCH = """
import signal, sys, time
def caught(*_):
    print("caught", flush=True)
    sys.exit(5)
signal.signal(signal.SIGUSR2, caught)
print("up", flush=True)
time.sleep(1000)
"""


def everywhere(folder: RunFolder, script: str, nodes: int = 2, **more: object) -> list[str]:
    job(folder, "sh", "-euc", script, nodes=nodes, interface="lo", everywhere=True, **more)
    codes, logs = ended(folder, *(start(folder, rank) for rank in range(nodes)))
    return [f"{code} {log}" for code, log in zip(codes, logs, strict=True)]


def test_the_command_runs_on_every_node_and_knows_the_first(folder: RunFolder) -> None:
    stories = everywhere(folder, SHOW, nodes=3)
    told = [line for story in stories for line in story.splitlines() if " of 3 at " in line]
    assert [line.split()[0] for line in told] == ["0", "1", "2"]
    (where,) = {line.split()[-1] for line in told}
    host, _, port = where.partition(":")
    assert host == "127.0.0.2" and 10000 < int(port) < 65536
    assert all(story.startswith("0 ") for story in stories)


def test_the_first_nodes_code_is_the_jobs(folder: RunFolder) -> None:
    stories = everywhere(folder, 'test "$SLIPWORKS_RANK" != 0 || exit 7; sleep 1000')
    assert stories[0].startswith("7 ") and stories[1].startswith("0 ")


def test_another_nodes_bad_end_ends_the_job_by_name(folder: RunFolder) -> None:
    script = 'if [ "$SLIPWORKS_RANK" = 1 ]; then echo "my last word"; exit 3; fi; sleep 1000'
    stories = everywhere(folder, script)
    assert stories[0].startswith(f"{LaunchError.code} ")
    assert "node 1 failed: the command ended there with exit code 3" in stories[0]
    assert "my last word" in stories[0]
    assert folder.finished.read_text() == "no step was made\n", "it was the command that failed"


def test_a_node_whose_command_ends_well_waits_for_the_first(folder: RunFolder) -> None:
    mark = folder.root / "second has ended"
    script = f"""
        if [ "$SLIPWORKS_RANK" = 1 ]; then exit 0; fi
        until grep -q '"command ended"' "{folder.attempt(1).events("1")}"; do sleep 0.1; done
        touch "{mark}"; sleep 0.5; exit 4"""
    stories = everywhere(folder, script.replace('a run\'s "folder"', 'a run\'s \\"folder\\"'))
    assert stories[0].startswith("4 ") and stories[1].startswith("0 ") and mark.exists()


def test_a_node_that_never_comes_is_named(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner import ends, peers

    launch = job(folder, "true", nodes=2, everywhere=True)
    monkeypatch.setattr(peers, "COMES_WITHIN", -1.0)
    watched = peers.Peers(folder.attempt(1), Meeting(folder.attempt(1).meeting), 0, launch)
    with pytest.raises(ends.Died, match="node 1 failed: it did not start within"):
        watched.check()


def test_a_silent_node_is_named(folder: RunFolder) -> None:
    """It was there, and gives no sign of life: its machine is gone."""
    job(folder, "sleep", "1000", nodes=2, interface="lo", everywhere=True, silence=2.0)
    files.write(folder.attempt(1).meeting / "alive-1", "1")
    files.write(folder.attempt(1).log(1), "its last words\n")
    code, log = alone(folder)
    assert code == LaunchError.code and "node 1 failed: no sign of life for 2 s" in log
    assert "its last words" in log and not folder.finished.exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_warning_reaches_the_program_that_handles_it(folder: RunFolder, wrapped: bool) -> None:
    """A shell around it, which does not know USR2 and would be ended by it, gets none."""
    if wrapped:
        files.write(folder.root / "it.py", CATCH)
        job(folder, "sh", "-euc", f'"{sys.executable}" it.py; exit 6', workdir=str(folder.root))
    else:
        job(folder, sys.executable, "-c", CATCH)
    node = start(folder)
    seen(lambda: "up\n" in text(folder.attempt(1).log(0)))
    (folder.attempt(1).meeting / "warning").touch()
    codes, logs = ended(folder, node)
    assert codes == [5] and "caught" in logs[0]
    assert events(folder, 0).count("warning passed on") == 1


def test_a_command_that_does_not_handle_the_warning_goes_on(folder: RunFolder) -> None:
    (folder.attempt(1).meeting / "warning").touch()
    job(folder, "sh", "-c", "sleep 0.5; exit 4")
    assert alone(folder)[0] == 4


@pytest.mark.parametrize("sign", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_to_the_node_itself_does_no_harm(folder: RunFolder, sign: signal.Signals) -> None:
    """`--signal=USR2@60` sends it to every process of the step; and a shell can still trap it."""
    script = f"trap 'echo trapped; exit 6' {sign.name[3:]}; echo up; while :; do sleep 0.1; done"
    job(folder, "sh", "-c", script)
    node = start(folder)
    seen(lambda: "up\n" in text(folder.attempt(1).log(0)))
    node.send_signal(sign)
    (command,) = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    os.kill(int(command), sign)
    codes, logs = ended(folder, node)
    assert codes == [6] and "trapped" in logs[0]


def test_slurms_term_to_everything_is_a_stop(folder: RunFolder) -> None:
    """scancel and the time limit send TERM to every process of the step, in any order."""
    job(folder, "sleep", "1000")
    (folder.attempt(1).meeting / "warning").touch()
    node = start(folder)
    seen(lambda: "running the command" in text(folder.attempt(1).log(0)))
    (command,) = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    os.kill(int(command), signal.SIGTERM)
    seen(lambda: not Path(f"/proc/{command}").exists() or "Z" in stat(command))
    node.terminate()
    codes, _ = ended(folder, node)
    assert codes == [143] and not folder.finished.exists()
    told = Meeting(folder.attempt(1).meeting).ended(0)
    assert told == Ended(143, "SIGTERM came, after the warning of the time limit")


def both_run(folder: RunFolder) -> list[process.Child[bytes]]:
    nodes = [start(folder, rank) for rank in (0, 1)]
    logs = [folder.attempt(1).log(rank) for rank in (0, 1)]
    seen(lambda: all("running the command" in text(log) for log in logs))
    return nodes


def test_another_node_may_hear_of_a_stop_first(folder: RunFolder) -> None:
    """TERM comes to the nodes of a step one after another: that is no node's failure."""
    job(folder, "sleep", "1000", nodes=2, interface="lo", everywhere=True)
    nodes = both_run(folder)
    nodes[1].terminate()
    seen(lambda: Meeting(folder.attempt(1).meeting).ended(1))
    nodes[0].terminate()
    codes, _ = ended(folder, *nodes)
    assert codes == [143, 143] and not folder.finished.exists()


def test_a_node_that_is_ended_alone_fails_the_job(folder: RunFolder) -> None:
    job(folder, "sleep", "1000", nodes=2, interface="lo", everywhere=True)
    nodes = both_run(folder)
    nodes[1].terminate()
    codes, logs = ended(folder, *nodes)
    assert codes == [LaunchError.code, 143] and "node 1 failed: SIGTERM came" in logs[0]


def stat(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return "Z"


@pytest.mark.parametrize(
    ("script", "finished"),
    [
        ("exit 0", "succeeded\n"),
        ("exit 3", "no step was made\n"),
        ("kill -9 $$", None),
        ("printf '\\033[36m(main pid=7) Started:\\033[0m '\"'step'\"'\\n'; exit 3", None),
        ("touch kept/new; exit 3", None),
        ("mkdir kept/empty; exit 3", "no step was made\n"),
        ("echo more >>kept/old; exit 3", None),
    ],
)
def test_whether_another_attempt_may_run(folder: RunFolder, script: str, finished: str | None) -> None:
    kept = folder.root / "kept"
    files.write(kept / "old", "x")
    job(folder, "sh", "-c", script, workdir=str(folder.root), checkpoints=str(kept))
    alone(folder)
    assert (folder.finished.read_text() if folder.finished.exists() else None) == finished


def test_a_word_that_was_said_first_stays(folder: RunFolder) -> None:
    files.write(folder.finished, "cancelled\n")
    job(folder, "true")
    assert alone(folder)[0] == 0 and folder.finished.read_text() == "cancelled\n"


def given_up(folder: RunFolder) -> str | None:
    return folder.finished.read_text() if folder.finished.exists() else None


@pytest.mark.parametrize(
    ("command", "more", "why"),
    [
        ("no-such-program", {}, "the image has no `no-such-program` on its PATH"),
        ("true", {"preload": ("/no/lib.so",)}, "LD_PRELOAD names /no/lib.so, which is not in the image"),
        ("true", {"services": (Service(name="it", run="sleep 99", ready="file:/none", ready_within=0.3),)},
         None),
        ("true", {"services": (Service(name="it", run="exit 3", ready="file:/none"),)}, None),
        ("true", {"nodes": 2, "ray": None, "services": (Service(name="it", run="sleep 99"),),
                  "silence": 1.0}, None),
    ],
)  # fmt: skip
def test_what_could_not_begin_is_not_tried_again(
    folder: RunFolder, command: str, more: dict[str, Any], why: str | None
) -> None:
    """But for what died, was silent or came too late, which another attempt may not meet."""
    if more.get("nodes"):
        files.write(folder.attempt(1).meeting / "alive-1", "1")
    job(folder, command, interface="lo", **more)
    code, log = alone(folder)
    assert code
    told = given_up(folder)
    assert (told is None) == (why is None), log
    assert why is None or (told or "").startswith(f"it could not begin: {why}")
    ended = Meeting(folder.attempt(1).meeting).ended(0)
    assert ended and ended.hopeless is (why is not None)


def test_another_node_that_could_not_begin_ends_the_chain_too(folder: RunFolder) -> None:
    job(folder, "sleep", "1000", nodes=2, interface="lo", everywhere=True)
    files.write(folder.attempt(1).step(1), b"SLURMD_NODENAME=c002\0")
    meeting = folder.attempt(1).meeting
    services = (Service(name="it", run="sleep 99"),)
    job(folder, "true", nodes=2, interface="lo", services=services)
    files.write(meeting / "ended-1", '{"code":20,"why":"no podman there","hopeless":true}')
    code, log = alone(folder)
    assert code == LaunchError.code and "node 1 (c002) failed: no podman there" in log
    assert given_up(folder) == "it could not begin: node 1 (c002) failed: no podman there\n"


def test_a_node_is_named_with_its_machine_before_it_has_come(folder: RunFolder) -> None:
    from runner import peers

    launch = job(folder, "true", nodes=3, everywhere=True)
    files.write(folder.attempt(1).slurm, "job_id=7\nnodes=3\nhosts=c001 c002 c003\n")
    watched = peers.Peers(folder.attempt(1), Meeting(folder.attempt(1).meeting), 0, launch)
    assert watched.failed(2, "gone").startswith("node 2 (c003) failed: gone\n")


def test_a_node_that_gets_its_image_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now, fetching = [0.0], [False]
    monkeypatch.setattr("runner.meeting.time.monotonic", lambda: now[0])
    limit = meeting_.Limit(10.0, lambda: fetching[0])

    def over_after(seconds: float) -> bool:
        now[0] += seconds
        return limit.over()

    assert not over_after(6)
    fetching[0] = True
    assert not over_after(1) and not over_after(1000)
    fetching[0] = False
    assert not over_after(4), "the time in which it got the image does not count"
    assert over_after(1)


def test_the_head_waits_while_a_nodes_image_is_fetched(folder: RunFolder) -> None:
    from runner import node as nodes

    launch = job(folder, "true", nodes=3)
    node = nodes.Node(folder, folder.attempt(1), 0, launch)
    files.write(folder.attempt(1).meeting / "fetching-2", "")
    limit = node.peers.limit(0.0)
    time.sleep(0.01)
    assert not limit.over()
    (folder.attempt(1).meeting / "fetching-2").unlink()
    seen(limit.over)


def test_a_lost_nodes_peers_end_fast(folder: RunFolder) -> None:
    """What waits for a dead node cannot end its work in order."""
    deaf = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    job(folder, "sh", "-c", deaf, nodes=2, interface="lo", everywhere=True, silence=1.0, grace=60.0)
    files.write(folder.attempt(1).meeting / "alive-1", "1")
    began = time.monotonic()
    code, log = alone(folder)
    assert code == LaunchError.code and "ending the command, which has 5 s" in log
    assert time.monotonic() - began < 30
    told = Meeting(folder.attempt(1).meeting).ended(0)
    assert told and not told.headless, "it is the script's own node"


def test_who_loses_node_0_says_so(folder: RunFolder) -> None:
    """The batch script went with it: see report_loss there."""
    job(folder, "true", nodes=2, interface="lo", silence=1.0)
    files.write(folder.attempt(1).meeting / "alive-0", "1")
    node = start(folder, rank=1)
    assert node.wait(60) == LaunchError.code
    told = Meeting(folder.attempt(1).meeting).ended(1)
    assert told and told.headless and "no sign of life" in told.why


def test_a_node_0_that_never_came_is_not_lost(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script may be well, and tells itself how the job ends."""
    monkeypatch.setattr(peers, "COMES_WITHIN", -1.0)
    launch = job(folder, "true", nodes=2)
    attempt = folder.attempt(1)
    with pytest.raises(Lost, match="did not start") as late:
        peers.Peers(attempt, Meeting(attempt.meeting), 1, launch).check()
    assert not isinstance(late.value, HeadLost)
