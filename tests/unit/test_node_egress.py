"""A node with a way out, as a real process; the proxy and proxychains' library are stand-ins."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.egress.plan import EgressPlan
from runner.launch import Launch, Service
from runner.runs import RunFolder
from tests.unit.parts_listening import listening
from tests.unit.parts_node import alone, ended, job, start, text

pytestmark = pytest.mark.timeout(90)
SEES = 'echo "SEES <${LD_PRELOAD-}> $PROXYCHAINS_CONF_FILE"; cat "$PROXYCHAINS_CONF_FILE"'


@pytest.fixture
def proxy() -> Iterator[int]:
    """The port of an HTTP proxy behind which everything answers."""

    def each(line: socket.socket) -> None:
        for said in (b"HTTP/1.1 200 OK\r\n\r\n", b"x"):
            line.recv(1000)
            line.sendall(said)

    with listening(each) as port:
        yield port


def with_egress(folder: RunFolder, port: int, *command: str, **more: object) -> Launch:
    plan = EgressPlan(
        kind="http", host="localhost", port=port, probe="http://localhost:9", command=True, within=1.0
    )
    return job(folder, *command, egress=plan, **more)


def equipped(folder: Path) -> str:
    """A folder for PATH beside which the library lies."""
    (folder / "bin").mkdir()
    (folder / "lib").mkdir()
    (folder / "lib/libproxychains.so.4").touch()
    return str(folder / "bin")


def test_the_command_and_the_services_that_ask_have_it(folder: RunFolder, proxy: int, tmp_path: Path) -> None:
    services = (Service(name="asks", run=SEES, egress=True), Service(name="asks-not", run=SEES))
    with_egress(folder, proxy, "sh", "-c", SEES, services=services)
    path = equipped(tmp_path)
    codes, (log,) = ended(folder, start(folder, path=path))
    attempt = folder.attempt(1)
    wanted = f"SEES <{tmp_path}/lib/libproxychains.so.4> {attempt.folder}/egress-0.conf"
    assert codes == [0] and wanted in log, log
    assert f"http 127.0.0.1 {proxy}" in log and "the way out by the http proxy localhost" in log
    assert wanted in text(attempt.service_log("asks", 0))
    assert "SEES <> " in text(attempt.service_log("asks-not", 0))


def test_a_way_that_leads_nowhere_ends_the_node_before_the_command(folder: RunFolder, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with_egress(folder, port, "echo", "STARTED")
    (code,), (log,) = ended(folder, start(folder, path=equipped(tmp_path)))
    assert code == 50 and "STARTED" not in log
    assert "node 0 did not reach http://localhost:9 by the http proxy localhost" in log, log
    assert "refused" in log
    assert not folder.finished.exists(), "another attempt may find it open"


def test_an_image_without_proxychains_is_told_before_anything_starts(
    folder: RunFolder, proxy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/none/bin")
    with_egress(folder, proxy, "/bin/echo", "STARTED")
    code, log = alone(folder)
    assert code == 50 and "STARTED" not in log
    assert "the image has no `proxychains4`" in log and "hint: apt-get install" in log, log
    assert "could not begin" in folder.finished.read_text(), "nor would another attempt"
