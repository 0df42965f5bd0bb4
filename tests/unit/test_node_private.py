"""What a node keeps for itself, as a real process: it is in no folder that another node or user sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import json

from kit import files
from runner.code_server.wanted import VARIABLE
from runner.facts import Folder
from runner.fixing import facts_like
from runner.private import Private
from runner.runs import RunFolder
from tests.unit.parts_node import alone, ended, job, seen, start, text

pytestmark = pytest.mark.timeout(90)
LOOK = 'echo "AT $NETRC $(stat -c %a "$NETRC" "$(dirname "$NETRC")" | tr "\\n" " ")"; cat "$NETRC"; '


def given(folder: RunFolder, end: str) -> None:
    """A run whose server has a key, of a user with a netrc."""
    (folder.root / ".netrc").write_text("machine api.example.org login u password p\n")
    files.write(folder.secrets, json.encode({VARIABLE: "the-key"}), mode=0o600)
    job(folder, "sh", "-c", LOOK + end, netrc="127.0.0.1", secrets=(VARIABLE,))


def place(log: str) -> Path:
    (line,) = [each for each in log.splitlines() if each.startswith("AT ")]
    _, at, *modes = line.split()
    assert modes == ["600", "700"], log
    return Path(at)


def test_the_netrc_is_the_nodes_own_and_goes_with_it(folder: RunFolder) -> None:
    given(folder, "exit 3")
    code, log = alone(folder)
    netrc = place(log)
    assert code == 3
    assert "machine localhost login slipworks password the-key" in log and "machine api.example.org" in log
    assert not netrc.is_relative_to(folder.root) and not netrc.parent.exists()
    held = [
        each.name for each in folder.root.rglob("*") if each.is_file() and b"the-key" in each.read_bytes()
    ]
    assert set(held) <= {"secrets.json", "node-0.log"}


def test_a_node_that_is_asked_to_end_leaves_none(folder: RunFolder) -> None:
    given(folder, "echo READY; exec sleep 60")
    node = start(folder)
    log = folder.attempt(1).log(0)
    seen(lambda: "READY" in text(log))
    netrc = place(text(log))
    assert netrc.exists()
    node.terminate()
    codes, _ = ended(folder, node)
    assert codes[0] and not netrc.parent.exists()


def test_its_folder_is_where_a_sockets_path_is_short(tmp_path: Path) -> None:
    places = (Folder(str(tmp_path), True, 1), Folder("/tmp", True, 1))
    private = Private()
    made = private.folder(facts_like(temporary=places))
    try:
        assert made.parent == Path("/tmp") and made == private.folder(facts_like())
        assert made.stat().st_mode & 0o777 == 0o700
    finally:
        private.remove()
    assert not made.exists()
