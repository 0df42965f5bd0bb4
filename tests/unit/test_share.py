"""How much of the machine this process may use, read from trees that a test made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kit import share

MASK = len(os.sched_getaffinity(0))
TOTAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
GROUPS_2 = "0::/slurm/job_1/step_0\n"
GROUPS_1 = "4:memory:/slurm/job_1\n3:cpuset:/\n2:cpu,cpuacct:/slurm/job_1\n1:name=systemd:/x\n0::/\n"


def tree(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("texts", "memory"),
    [
        ({}, TOTAL),
        ({"proc/self/cgroup": GROUPS_2, "sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20),
        (
            {
                "proc/self/cgroup": GROUPS_2,
                "sys/fs/cgroup/slurm/memory.max": "max\n",
                "sys/fs/cgroup/slurm/job_1/memory.max": "2097152\n",
                "sys/fs/cgroup/slurm/job_1/step_0/memory.max": "max\n",
            },
            2 << 20,
        ),
        (
            {
                "proc/self/cgroup": GROUPS_1,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/slurm/job_1/memory.limit_in_bytes": "3145728\n",
            },
            3 << 20,
        ),
        ({"proc/self/cgroup": GROUPS_1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "4194304\n"}, 4 << 20),
        ({"proc/self/cgroup": "nonsense", "sys/fs/cgroup/memory.max": "5242880\n"}, 5 << 20),
    ],
)
def test_the_smallest_limit_of_memory_counts(tmp_path: Path, texts: dict[str, str], memory: int) -> None:
    assert share.memory(tree(tmp_path, texts)) == memory


@pytest.mark.parametrize(
    ("texts", "cpus"),
    [
        ({}, MASK),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, MASK),
        ({"proc/self/cgroup": GROUPS_2, "sys/fs/cgroup/slurm/job_1/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": GROUPS_2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": GROUPS_1,
                "sys/fs/cgroup/cpu/slurm/job_1/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/slurm/job_1/cpu.cfs_period_us": "100000\n",
            },
            MASK,
        ),
        (
            {
                "proc/self/cgroup": GROUPS_1,
                "sys/fs/cgroup/cpu/slurm/job_1/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/slurm/job_1/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
    ],
)
def test_the_smallest_quota_of_processors_counts(tmp_path: Path, texts: dict[str, str], cpus: int) -> None:
    assert share.cpus(tree(tmp_path, texts)) == cpus
