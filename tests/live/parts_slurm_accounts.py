"""Accounting for a private Slurm: a database and a slurmdbd of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from tests.live.parts_slurm_net import APART

if TYPE_CHECKING:
    from pathlib import Path

    from tests.live.parts_slurm_daemons import Daemons

DATABASE = (
    "--no-defaults",
    "--skip-networking",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=4M",
)


def start(daemons: Daemons, cluster: str) -> list[str]:
    """Starts both; gives the lines of slurm.conf. The cluster's name is registered by slurmctld itself."""
    folder = _start_database(daemons)
    port = _start_accounting(daemons, folder)
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={port}",
        f"AccountingStoragePass={daemons.folder / 'munge/socket'}",
        "JobAcctGatherType=jobacct_gather/none",
    ]


def _start_database(daemons: Daemons) -> Path:
    """Its folder, with the socket."""
    from tests.live.parts_slurm_daemons import until

    folder = daemons.folder / "database"
    folder.mkdir(mode=0o700)
    where = [*DATABASE, f"--datadir={folder}/data", "--user=root"]
    made = subprocess.run(
        ["mariadb-install-db", *where, "--auth-root-authentication-method=normal", "--skip-test-db"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    files = [f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
    daemons.spawn("mariadbd", [*APART, "mariadbd", *where, *files])
    until((folder / "socket").exists, "the database's socket", 60, daemons.logs)
    return folder


def _start_accounting(daemons: Daemons, folder: Path) -> int:
    """slurmdbd on that database; its port."""
    from tests.live.parts_slurm_daemons import until

    host, port = socket.gethostname(), daemons.base + 1
    config = daemons.folder / "slurmdbd.conf"
    given = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={daemons.folder / 'munge/socket'}",
        "DbdHost": host,
        "DbdAddr": "127.0.0.1",
        "DbdPort": port,
        "SlurmUser": "root",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageUser": "root",
        "StorageLoc": "accounts",
        "PidFile": daemons.folder / "slurmdbd.pid",
    }
    config.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    config.chmod(0o600)
    env = {"SLURM_CONF": str(config), "MYSQL_UNIX_PORT": f"{folder}/socket"}
    names = [f"{name}={value}" for name, value in env.items()]
    daemons.spawn("slurmdbd", [*APART, "env", *names, "slurmdbd", "-D"])
    until(lambda: _answers(port), "slurmdbd's port", 60, daemons.logs)
    return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def there() -> bool:
    return all(shutil.which(program) for program in ("slurmdbd", "mariadbd", "mariadb-install-db"))
