"""Where a job's secret is while the job runs: in the environment of its processes, and nowhere else."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
import stat
import threading
from pathlib import Path

import pytest

from tests.live.parts_jobs import Login, logs
from tests.live.parts_left import processes
from tests.live.parts_slurm_daemons import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

JOB = """
name: quiet
arch: cpu
secrets: [A_KEY, B_KEY]
run: |
  python - <<'END'
  import hashlib, os, pathlib, ray, sys, time

  def told():
      return hashlib.sha256((os.environ["A_KEY"] + os.environ["B_KEY"]).encode()).hexdigest()

  ray.init(log_to_driver=False)
  print("DRIVER", told(), "WORKER", ray.get(ray.remote(told).remote()), flush=True)
  pathlib.Path("/slipworks-run/ready").touch()
  deadline = time.monotonic() + 120
  while not pathlib.Path("/slipworks-run/go").exists() and time.monotonic() < deadline:
      time.sleep(0.05)
  sys.exit(3)  # Ray's own logs of a job that failed are kept
  END
"""


class Watch:
    """Reads the command lines of all processes of this machine, again and again."""

    def __init__(self, needle: bytes) -> None:
        self.needle, self.rounds, self.seen = needle, 0, set[bytes]()
        self._end = threading.Event()

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.02):
            self.seen |= {raw for raw in processes("cmdline") if self.needle in raw}
            self.rounds += 1


def holders(folder: Path, needle: bytes) -> list[Path]:
    """The files below a folder that hold it, by their names or content."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # what others remove meanwhile holds nothing
            if needle in bytes(path) or (path.is_file() and needle in path.read_bytes()):
                found.append(path)
    return found


def stored(user: Login, name: str, value: str) -> Path:
    """Puts a value into the user's file of secrets, as users do; the file."""
    assert user.user
    source = user.user.folder / "a token"
    source.write_text(f"{value}\n")
    shutil.chown(source, user.name)
    told = user.type("secrets", "set", name, "--file", str(source))
    assert told.code == 0 and value not in told.out + told.err, told
    source.unlink()
    return user.user.folder / ".config/slipworks/secrets.json"


def test_a_secret_is_in_the_environment_and_nowhere_else(user: Login) -> None:
    """One of the environment, one of the user's file."""
    value = f"s3cret-{secrets.token_hex(12)}"
    both = {"A_KEY": f"{value}-a", "B_KEY": f"{value}-b"}
    needle, proof = value.encode(), hashlib.sha256("".join(both.values()).encode()).hexdigest()
    slurm = user.slurm
    images = {path: path.stat().st_mtime_ns for path in user.cache.rglob("*.sif")}
    assert images
    with Watch(needle) as watch:
        file = stored(user, "B_KEY", both["B_KEY"])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.owner() == user.name
        assert holders(file.parent, needle) == [file]
        told = user.submit(JOB, A_KEY=both["A_KEY"])
        folder, job = told.folder, str(told.jobs[0])
        until((folder.root / "ready").exists, "the job's command", 240, lambda: logs(folder))
        assert f"DRIVER {proof} WORKER {proof}" in logs(folder)
        holding = [raw for raw in processes("environ") if needle in raw]
        assert len(holding) > 3, "Ray and the command have it"
        assert any(bytes(folder.root) in raw for raw in processes("cmdline")), "what is on the node is seen"
        said = [
            slurm.run("scontrol", "-dd", "show", "job", job).stdout,
            slurm.run("scontrol", "write", "batch_script", job, "-").stdout,
            slurm.run("squeue", "--all", "--format=%all").stdout,
            slurm.run("squeue", "--all", "--Format=Command,Comment,Name,tres-alloc,StdOut,WorkDir").stdout,
        ]
        assert all(said) and not any(value in each for each in said)
        assert holders(folder.root, needle) == [folder.secrets]
        assert stat.S_IMODE(folder.secrets.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
        # Slurm's own files of the job, and the node's temporary folder with all that Ray writes.
        places = [slurm.folder / "state", slurm.folder / "spool", slurm.folder / "log"]
        temporary = list(Path("/tmp").glob(f"slipworks-{job}-0.*"))
        assert temporary, "Ray's files lie there"
        assert not [each for place in (*places, *temporary) for each in holders(place, needle)]
        # The image, which is not touched, and all that lies beside it.
        assert {path: path.stat().st_mtime_ns for path in user.cache.rglob("*.sif")} == images
        assert not holders(user.cache, needle)
        (folder.root / "go").touch()
        user.ended(told)
        assert user.code(told) == "3:0", logs(folder)
        slurm.quiet()
    assert watch.rounds > 10
    assert not watch.seen
    assert not folder.secrets.exists()
    assert list(folder.root.glob("attempt-1/ray-0/*")), "the logs of Ray's daemons"
    assert not holders(folder.root, needle)
    assert value not in told.out + told.err
    assert value not in json.dumps(user.type("status", "--json", folder.root.name).out)
    for words in (("list",), ("check",), ("check", str(slurm.shared / "job's place/job.yaml"), "--json")):
        said_of = user.type("secrets", *words, A_KEY=both["A_KEY"])
        assert said_of.code == 0 and "B_KEY" in said_of.out and value not in said_of.out + said_of.err
    file.chmod(0o640)
    refused = user.type("submit", str(slurm.shared / "job's place/job.yaml"), A_KEY=both["A_KEY"])
    assert refused.code == 21 and "expected 0600" in refused.err and value not in refused.err
    file.unlink()
