"""The network of a private Slurm's hosts, after tests that were killed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.live.needs import need
from tests.live.parts_slurm_daemons import BLOCK, LOWEST, ports, until
from tests.live.parts_slurm_net import Net

pytestmark = pytest.mark.live


def test_what_killed_tests_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """A process that lives on in a host's namespace keeps the links there."""
    need(os.geteuid() == 0 and shutil.which("ip"), "hosts with addresses need root and iproute2")
    base, lock = ports()
    number = (base - LOWEST) // BLOCK
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with lock:
        left = Net(tmp_path / "first", number, ["n1", "n2"])
        living = subprocess.Popen(["nsenter", f"--net=/run/netns/{left.space('n1')}", "sleep", "1000"])
        try:
            here = Path("/proc/self/ns/net").readlink()
            until(lambda: Path(f"/proc/{living.pid}/ns/net").readlink() != here, "it to be there", 10)
            net = Net(tmp_path / "second", number, ["n1", "n2"])
            assert sorted(net.links()) == [net.mark, f"{net.mark}v0", f"{net.mark}v1"]
            assert living.poll() is None
            net.remove()
            assert not net.links() and not list(Path("/run/netns").glob(f"{net.mark}-*"))
        finally:
            left.remove()
            living.kill()
            living.wait()
