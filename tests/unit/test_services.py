"""Programs beside the command, on real nodes without Ray."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from kit.errors import LaunchError
from runner import readiness, services
from runner.launch import Service
from runner.meeting import Meeting
from runner.runs import RunFolder
from tests.unit.parts_node import alone, ended, job, seen, start, text

pytestmark = pytest.mark.timeout(120)
SERVER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Answer.asked += 1
        self.send_response(200 if Answer.asked > 2 else 503)
        self.end_headers()
        print("asked", Answer.asked, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    return number


def service(**more: object) -> Service:
    return Service(**{"name": "it", "run": "sleep 1000", "ready_within": 20.0, **more})  # type: ignore[arg-type]


def log_of(folder: RunFolder, rank: int = 0) -> str:
    return text(folder.attempt(1).service_log("it", rank))


def test_the_command_starts_when_a_page_answers_well(folder: RunFolder, port: int) -> None:
    """503, twice, is no good answer."""
    words = (sys.executable, "-uc", SERVER, str(port))
    ready = f"http://127.0.0.1:{port}/health"
    show = f"grep -c asked '{folder.attempt(1).service_log('it', 0).name}'"
    job(folder, "sh", "-c", show, workdir=str(folder.attempt(1).folder),
        services=(service(run=words, ready=ready, nodes="head"),))  # fmt: skip
    code, log = alone(folder)
    assert code == 0 and "\n3\n" in log


def test_a_port_that_listens_is_ready(folder: RunFolder, port: int) -> None:
    words = (sys.executable, "-m", "http.server", "-b", "127.0.0.1", str(port))
    connect = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    job(folder, sys.executable, "-c", connect, services=(service(run=words, ready=f"port:{port}"),))
    assert alone(folder)[0] == 0


def test_a_file_and_a_variable_of_its_own(folder: RunFolder) -> None:
    mark = folder.root / "mark"
    one = service(run='sleep 0.5; touch "$MARK"; sleep 1000', ready=f"file:{mark}", env={"MARK": str(mark)})
    job(
        folder,
        "sh",
        "-c",
        f'test -e "{mark.name}" && test -z "$MARK"',
        workdir=str(folder.root),
        services=(one,),
    )
    assert alone(folder)[0] == 0


def test_one_that_is_never_ready_is_named(folder: RunFolder) -> None:
    job(
        folder,
        "true",
        services=(service(run="echo its word; sleep 1000", ready="file:/no/such", ready_within=1.0),),
    )
    code, log = alone(folder)
    assert code == LaunchError.code and "running the command" not in log
    assert "the service it on node 0 was not ready within 1 s (file:/no/such)" in log and "  its word" in log


@pytest.mark.parametrize(("run", "ready"), [("exit 3", None), ("exit 0", "file:/no/such")])
def test_one_that_ends_early_ends_the_job(folder: RunFolder, run: str, ready: str | None) -> None:
    job(folder, "sleep", "1000", services=(service(run=f"echo its word; {run}", ready=ready),))
    code, log = alone(folder)
    assert code == LaunchError.code and "  its word" in log
    assert f"the service it on node 0 ended with exit code {run[-1]} before the command did" in log
    assert not folder.finished.exists(), "the command has not failed"


def test_one_that_prepares_may_end_well(folder: RunFolder) -> None:
    job(folder, "sh", "-c", "sleep 1; exit 4", services=(service(run="exit 0"),))
    assert alone(folder)[0] == 4


def test_one_that_dies_later_ends_the_job(folder: RunFolder) -> None:
    mark = folder.root / "go"
    run = f'until test -e "{mark.name}"; do sleep 0.1; done; exit 7'
    job(folder, "sleep", "1000", workdir=str(folder.root), services=(service(run=run),))
    node = start(folder)
    seen(lambda: "running the command" in text(folder.attempt(1).log(0)))
    mark.touch()
    codes, logs = ended(folder, node)
    assert codes == [LaunchError.code] and "the service it on node 0 ended with exit code 7" in logs[0]


def test_its_end_is_the_nodes(folder: RunFolder) -> None:
    """It gets TERM; what ignores that is killed: `nothing_survives` sees to it."""
    mark = folder.root / "asked"
    polite = service(run=f"trap 'touch \"{mark.name}\"; exit 0' TERM; while :; do sleep 0.1; done")
    rude = Service(name="rude", run="trap '' TERM; while :; do sleep 0.1; done")
    job(folder, "sleep", "1", workdir=str(folder.root), services=(polite, rude))
    assert alone(folder)[0] == 0 and mark.exists()


def test_the_head_waits_for_all_nodes(folder: RunFolder) -> None:
    script = "test -e r1 || exit 9"
    probe = service(run='sleep "$SLIPWORKS_RANK"; touch r1; exec sleep 1000', ready=f"file:{folder.root}/r1")
    job(folder, "sh", "-c", script, nodes=2, interface="lo", everywhere=True, workdir=str(folder.root),
        services=(probe,))  # fmt: skip
    codes, _ = ended(folder, start(folder, 0), start(folder, 1))
    assert codes == [0, 0]
    assert Meeting(folder.attempt(1).meeting).ready(1)


def test_a_workers_service_is_named_by_the_head(folder: RunFolder) -> None:
    one = service(
        run='test "$SLIPWORKS_RANK" = 0 || { echo its word; exit 3; }; sleep 1000', ready_within=9.0
    )
    job(folder, "sleep", "1000", nodes=2, interface="lo", everywhere=True, services=(one,))
    codes, logs = ended(folder, start(folder, 0), start(folder, 1))
    assert codes[0] == LaunchError.code and "node 1 failed: the service it on node 1 ended" in logs[0]
    assert "its word" in logs[0] and "its word" in log_of(folder, 1)


def test_one_of_the_head_runs_nowhere_else(folder: RunFolder) -> None:
    job(folder, "true", nodes=2, interface="lo", everywhere=True, services=(service(nodes="head"),))
    assert ended(folder, start(folder, 0), start(folder, 1))[0] == [0, 0]
    assert folder.attempt(1).service_log("it", 0).exists()
    assert not folder.attempt(1).service_log("it", 1).exists()


@pytest.mark.parametrize("ready", ["port:", "port:99999999", "ftp://x", "file:relative", "8000", ""])
def test_a_form_that_there_is_not(ready: str) -> None:
    with pytest.raises(LaunchError, match="expected port:NUMBER"):
        services.check_form(service(ready=ready))


@pytest.mark.parametrize("form", ["port:{}", "http://127.0.0.1:{}/health", "http://localhost:{}"])
@pytest.mark.parametrize("optional", [False, True])
def test_what_listens_already_is_no_service(form: str, optional: bool, folder: RunFolder) -> None:
    """Another job's on the same node: the command would speak with that one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        one = service(run="touch started; sleep 1000", ready=form.format(port), optional=optional)
        job(folder, "touch", "began", workdir=str(folder.root), services=(one,))
        code, log = alone(folder)
    assert f"cannot listen on port {port}, where another program does already" in log
    assert not (folder.root / "started").exists()
    assert (code == 0, (folder.root / "began").exists()) == (optional, optional)
    assert optional or (code == LaunchError.code and not folder.finished.exists())


def test_only_this_machines_ports_are_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert readiness.taken(f"port:{port}") == readiness.taken(f"http://localhost:{port}/x") == port
        assert readiness.taken(f"http://192.0.2.1:{port}") is None
    for ready in (
        f"port:{port}",
        "http://127.0.0.1:99999/",
        "file:/tmp",
        "run:true",
        "http://127.0.0.1/",
        None,
    ):
        assert readiness.taken(ready) is None


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch, port: int, tmp_path: Path) -> None:
    from kit import process

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = process.start(
        (sys.executable, "-m", "http.server", "-b", "127.0.0.1", str(port)), what="serve",
        log=tmp_path / "log", cwd=tmp_path,
    )  # fmt: skip
    try:
        seen(lambda: readiness.answers(f"http://127.0.0.1:{port}/"))
        assert not readiness.answers(f"http://127.0.0.1:{port}/none")
    finally:
        process.end_group(server)


def test_a_command_says_that_it_is_ready(folder: RunFolder) -> None:
    """It fails at first, and one that hangs is not waited for."""
    asked = 'echo x >>asked; test "$(wc -l <asked)" -gt 2 && test "$OWN" = 1'
    job(folder, "sh", "-c", "wc -l <asked", workdir=str(folder.root),
        services=(service(ready=f"run:{asked}", env={"OWN": "1"}),))  # fmt: skip
    code, log = alone(folder)
    assert code == 0 and "\n3\n" in log


def test_a_command_that_never_says_so_is_ended(folder: RunFolder) -> None:
    job(folder, "true", services=(service(ready="run:exec sleep 1000", ready_within=1.0),))
    code, log = alone(folder)
    assert code == LaunchError.code and "was not ready within 1 s (run:exec sleep 1000)" in log


def test_one_that_fails_is_started_again(folder: RunFolder) -> None:
    """After a pause, and only so often; each start is in its log."""
    run = 'echo x >>starts; test "$(wc -l <starts)" -gt 2 || exit 3; touch ready; exec sleep 1000'
    job(folder, "sh", "-c", "wc -l <starts", workdir=str(folder.root),
        services=(service(run=run, ready=f"file:{folder.root}/ready", restart=2),))  # fmt: skip
    code, log = alone(folder)
    assert code == 0 and "\n3\n" in log
    assert "the service it: ended with exit code 3; starting it again in 1 s (1 of 2)" in log
    assert "starting it again in 2 s (2 of 2)" in log
    assert log_of(folder).count("--- ended with exit code 3") == 2


def test_its_starts_are_counted(folder: RunFolder) -> None:
    job(folder, "sleep", "1000", workdir=str(folder.root),
        services=(service(run="echo x >>starts; exit 3", restart=1),))  # fmt: skip
    code, log = alone(folder)
    assert code == LaunchError.code and (folder.root / "starts").read_text() == "x\nx\n"
    assert "ended with exit code 3 before the command did" in log


def test_what_it_left_is_ended_before_it_is_started_again(folder: RunFolder) -> None:
    """A child of it that lives on would hold its port."""
    alive = "grep -qs '^State:.[^Z]' /proc/$(cat pid)/status"
    run = f"test ! -e pid || {{ {alive} && exit 5; exit 0; }}; sleep 1000 & echo $! >pid; exit 3"
    job(folder, "sleep", "2.5", workdir=str(folder.root), services=(service(run=run, restart=1),))
    assert alone(folder)[0] == 0, log_of(folder)


@pytest.mark.parametrize(
    ("run", "ready", "how"),
    [
        ("echo its word; exit 3", None, "ended with exit code 3"),
        ("echo its word; exec sleep 1000", "file:/no/such", "was not ready within 1 s"),
        (("no-such-program",), None, "could not be started"),
    ],
)
def test_the_job_goes_on_without_an_optional_one(
    folder: RunFolder, run: str, ready: str | None, how: str
) -> None:
    one = service(run=run, ready=ready, ready_within=1.0, optional=True)
    job(folder, "sh", "-c", "sleep 1; exit 4", services=(one,))
    code, log = alone(folder)
    assert code == 4 and log.count("warning: the job goes on without it") == 1
    assert how in log and ("  its word" in log or "no-such-program" in log)


def test_one_that_runs_alone_is_found_by_all(folder: RunFolder) -> None:
    """On the last node; the others are told where, each by the name of its variable."""
    one = Service(name="the-judge", run="exec sleep 1000", nodes="one")
    script = 'echo "judge at $SLIPWORKS_SERVICE_THE_JUDGE, it at $SLIPWORKS_SERVICE_IT"'
    job(folder, "sh", "-c", script, nodes=2, interface="lo", everywhere=True, services=(one, service()))
    codes, logs = ended(folder, start(folder, 0), start(folder, 1))
    assert codes == [0, 0] and "judge at 127.0.0.3, it at 127.0.0.1" in logs[0], logs
    logs_of = [folder.attempt(1).service_log("the-judge", rank).exists() for rank in (0, 1)]
    assert logs_of == [False, True]


def test_one_that_gets_out_is_started_so(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.egress import plan

    seen_words: list[object] = []

    def prefix(words: tuple[str, ...], launch: object) -> tuple[str, ...]:
        seen_words.append(words)
        return ("/bin/true", *words)

    monkeypatch.setattr(plan, "prefix", prefix)
    folder.attempt(1).folder.mkdir(exist_ok=True)
    made = job(folder, "true")
    for asked in (True, False):
        here = services.Services((service(run=("sleep", "0"), egress=asked),), folder.attempt(1), 0, 1)
        here.start({"PATH": "/usr/bin:/bin"}, made)
        seen(lambda: here._running[0]._program.code() == 0)  # type: ignore[union-attr]  # noqa: B023
    assert seen_words == [("sleep", "0")]
