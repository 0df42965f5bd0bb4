"""A node's own folder: for what no other node may share, and no other user see."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from runner.code_server import keys
from runner.code_server.wanted import VARIABLE
from runner.facts import Facts
from runner.launch import Launch


class Private:
    """In the node's temporary folder, 0700; `remove` leaves nothing of it. On Slurm the batch script removes
    that folder, even where the node was killed; with the other engines it is the container's."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def folder(self, facts: Facts) -> Path:
        """Made when it is first asked for."""
        if self._folder is None:
            # Its path is a socket's, which has at most 107 bytes: TMPDIR may be long.
            places = sorted(facts.temporary, key=lambda each: (not each.local, each.path != "/tmp"))
            self._folder = Path(tempfile.mkdtemp(prefix="sw-own-", dir=places[0].path if places else None))
        return self._folder

    def netrc(self, facts: Facts, launch: Launch, env: Mapping[str, str]) -> dict[str, str]:
        """The variable that leads to a netrc with the code server's key, which is made here; or nothing."""
        key = env.get(VARIABLE)
        if launch.netrc is None or not key:
            return {}
        path = self.folder(facts) / "netrc"
        own = Path(env["HOME"]) if env.get("HOME") else Path("~").expanduser()
        keys.write_netrc(path, launch.netrc, key, own / ".netrc")
        return {"NETRC": str(path)}

    def remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
