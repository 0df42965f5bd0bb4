"""What jobs do on a real Slurm: `runner submit` by an ordinary user, in the real cpu image with Apptainer."""

from __future__ import annotations

import pytest

from containers import engine as engines
from kit.errors import SlipworksError
from runner import images
from tests.live.needs import need
from tests.live.parts_jobs import Login, logs, said
from tests.live.parts_slurm import Slurm

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]
ENDS = {"exit 0": "0:0", "exit 7": "7:0", "exit 255": "255:0", "kill -SEGV $$": "139:0"}


def test_the_exit_code_is_the_commands(user: Login) -> None:
    """A signal's, as a shell has it. One that failed before its first step is not tried again."""
    told = {run: user.submit(f"name: code\narch: cpu\nray: false\nrestarts: 1\nrun: {run}\n") for run in ENDS}
    for run, each in told.items():
        state = user.ended(each)
        assert (state, user.code(each)) == ("COMPLETED" if run == "exit 0" else "FAILED", ENDS[run]), logs(
            each.folder
        )
        why = "succeeded" if run == "exit 0" else "no step was made"
        assert each.folder.finished.read_text() == f"{why}\n"
        assert user.slurm.wait_for(each.jobs[1]) == "CANCELLED"
        assert len(each.folder.attempts()) == 1


MEET = """
name: many
arch: cpu
nodes: 2
ray: false
run: |
  mkdir /tmp/mine
  touch "$TOGETHER/$JOB.$SLIPWORKS_RANK"
  python - <<'END'
  import os, pathlib, socket, time
  where, rank = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), os.environ["SLIPWORKS_RANK"]
  deadline = time.monotonic() + 240
  # No job ends before all have begun.
  while len(list(pathlib.Path(os.environ["TOGETHER"]).iterdir())) < 20:
      assert time.monotonic() < deadline, "not all jobs run at once"
      time.sleep(0.1)
  if rank == "0":
      with socket.create_server(where) as server:
          server.settimeout(120)
          heard = server.accept()[0].recv(100).decode()
          print("node 0 was told:", heard)
          assert heard == os.environ["JOB"], heard
  else:
      while True:
          try:
              with socket.create_connection(where, 120) as there:
                  there.sendall(os.environ["JOB"].encode())
              break
          except ConnectionRefusedError:
              assert time.monotonic() < deadline
              time.sleep(0.05)
  END
"""


def test_ten_jobs_at_once_on_the_same_nodes(user: Login) -> None:
    """Each has ports and temporary folders of its own on both nodes."""
    together = user.slurm.shared / "together"
    together.mkdir()
    together.chmod(0o777)
    told = [
        user.submit(
            MEET, f"env={{JOB: job-{number}, TOGETHER: /together}}", f"binds=['{together}:/together']"
        )
        for number in range(10)
    ]
    for number, each in enumerate(told):
        assert user.ended(each) == "COMPLETED", logs(each.folder)
        assert f"node 0 was told: job-{number}\n" in logs(each.folder)
    user.slurm.quiet()


RAY = """
name: ray
arch: cpu
nodes: 2
ray: {num_cpus: 1}
run: |
  python - <<'END'
  import os, ray, time
  ray.init(log_to_driver=False)
  there = ray.nodes()
  assert len(there) == 2 and len({each["NodeManagerAddress"] for each in there}) == 2, there
  print("address", os.environ["RAY_ADDRESS"], flush=True)
  deadline = time.monotonic() + 300
  while not os.path.exists("/slipworks-run/go"):
      assert time.monotonic() < deadline
      time.sleep(0.1)

  @ray.remote(num_cpus=0.1)
  def where():
      return ray.get_runtime_context().get_node_id()

  assert ray.get(where.remote())
  assert len(ray.nodes()) == 2
  END
"""


def test_two_jobs_with_ray_on_the_same_nodes(user: Login) -> None:
    first = user.submit(RAY)
    said(first.folder, "address ", 240)
    second = user.submit(RAY)
    said(second.folder, "address ", 240)
    for each in (first, second):
        (each.folder.root / "go").touch()
    for each in (first, second):
        assert user.ended(each) == "COMPLETED", logs(each.folder)
    hosts = [
        (each.folder.attempt(1).folder / "slurm").read_text().split("hosts=")[1] for each in (first, second)
    ]
    assert hosts[0] == hosts[1]
    user.slurm.quiet()


GPU = "GPU-7f57f032-34ab-a064-c37c-7a4f75601cc5"
SLICES = ("MIG-377e0049-554c-540b-93c6-d0976f8426cb", "MIG-f39aa248-6f1b-5769-b119-8d650bb34b27")
LISTING = f"""#!/bin/sh
case $* in
    -L) cat <<'END'
GPU 0: NVIDIA H100 80GB HBM3 (UUID: {GPU})
  MIG 2g.20gb     Device  0: (UUID: {SLICES[0]})
  MIG 1g.10gb     Device  1: (UUID: {SLICES[1]})
END
    ;;
    *driver_version*) echo '580.95.05, 00000000:01:00.0' ;;
    *) exit 2 ;;
esac
"""


SEEN = {
    ",".join(SLICES): ",".join(SLICES),
    SLICES[1]: SLICES[1],
    "0,1": ",".join(SLICES),
    f"MIG-{GPU}/3/0,MIG-{GPU}/5/0": ",".join(SLICES),
    f"{SLICES[0]},MIG-00000000-0000-0000-0000-000000000000": None,
}


def test_slices_that_a_prolog_names(user: Login) -> None:
    """The command sees slices by their whole names; what nvidia-smi does not list ends the job before it."""
    tool = user.slurm.shared / "nvidia-smi"
    tool.write_text(LISTING)
    tool.chmod(0o755)
    for given, seen in SEEN.items():
        (user.slurm.shared / "prolog").write_text(f"export CUDA_VISIBLE_DEVICES={given}\n")
        told = user.submit(
            "name: mig\narch: cpu\nray: false\n"
            f"gpus: {given.count(',') + 1}\nbinds: ['{tool}:/usr/local/bin/nvidia-smi:ro']\n"
            'run: echo "the command sees $CUDA_VISIBLE_DEVICES, $(nvidia-smi -L | grep -c MIG)"\n'
        )
        state, found = user.ended(told), logs(told.folder)
        if seen:
            assert state == "COMPLETED" and f"the command sees {seen}, 2\n" in found, found
        else:
            assert state == "FAILED" and "the command sees" not in found, found
            assert "MIG-00000000-0000-0000-0000-000000000000 is not among the 2" in found
    (user.slurm.shared / "prolog").unlink()


def test_two_nodes_with_ray_in_podman(hosts: Slurm) -> None:
    """As root, whose storage all nodes share here, as these hosts are one machine."""
    try:
        podman = engines.get("podman")
        podman.check()
    except SlipworksError as reason:
        need(False, reason.message)
    images.make("cpu", engine="podman", to_run=True)
    root = Login(hosts, None, None)
    told = root.submit(RAY, "--engine", "podman")
    said(told.folder, "address ", 240)
    (told.folder.root / "go").touch()
    assert root.ended(told) == "COMPLETED", logs(told.folder)
    hosts.quiet()
