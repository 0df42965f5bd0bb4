"""Which processes of a real job have the NCCL that was chosen. Any library will do: none is called."""

from __future__ import annotations

import json
import platform

import pytest

from tests.live.test_local_run import EXAMPLE, Submit, engine, submit

__all__ = ["engine", "submit"]  # fixtures

pytestmark = pytest.mark.live

LIBRARY = f"/usr/lib/{platform.machine()}-linux-gnu/libBrokenLocale.so.1"  # of the C library; nobody's need
LOOK = """
import os, pathlib, ray
def has(pid): return "libBrokenLocale" in pathlib.Path(f"/proc/{pid}/maps").read_text()
ray.init(log_to_driver=False, runtime_env={"env_vars": {"OWN": "trainers have"}})
@ray.remote
def look():
    assert os.environ["OWN"] == "trainers have"
    return has("self"), has(os.getppid()), pathlib.Path(f"/proc/{os.getppid()}/comm").read_text()
worker, parent, name = ray.get(look.remote())
print(f"SEEN driver {has('self')} worker {worker} {name.strip()} {parent}")
print("VLLM", os.environ["VLLM_NCCL_SO_PATH"])
"""


def test_the_command_and_rays_workers_have_it_and_rays_daemons_have_not(submit: Submit) -> None:
    command = json.dumps(["python", "-c", LOOK])
    ended = submit(EXAMPLE, "nodes=1", f"run={command}", f"env.VLLM_NCCL_SO_PATH={LIBRARY}").ended()
    assert ended.code == 0, ended.story
    assert "SEEN driver True worker True raylet False" in ended.story
    assert f"VLLM {LIBRARY}" in ended.story


def test_a_path_that_is_not_there_ends_the_job_before_it_starts(submit: Submit) -> None:
    ended = submit(EXAMPLE, "nodes=1", "env.VLLM_NCCL_SO_PATH=/none/libnccl.so.2", "run=echo STARTED").ended()
    assert ended.code == 50
    assert "/none/libnccl.so.2, which is not in the image" in ended.story
    assert "STARTED" not in ended.story and "Ray is ready" not in ended.story
