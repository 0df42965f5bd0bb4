"""Trees of files like those of hosts with Slurm."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from slurm.rooted import below


def program(interpreter: str, runpath: str) -> bytes:
    """The smallest ELF file that names a loader and a folder of libraries."""
    names = b"\0" + runpath.encode() + b"\0"
    interp = interpreter.encode() + b"\0"
    at = 64 + 3 * 56  # header, three program headers
    strings, loader = at, at + len(names)
    dynamic = loader + len(interp)
    tags = struct.pack("<8Q", 5, strings, 10, len(names), 29, 1, 0, 0)  # STRTAB, STRSZ, RUNPATH, NULL
    size = dynamic + len(tags)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0
    )
    segments = b"".join(
        struct.pack("<IIQQQQQQ", kind, 4, offset, offset, offset, length, length, 8)
        for kind, offset, length in ((1, 0, size), (3, loader, len(interp)), (2, dynamic, len(tags)))
    )
    return header + segments + names + interp + tags


def tree(root: Path, files: dict[str, bytes | str], links: dict[str, str]) -> Path:
    for path, target in links.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    for path, content in files.items():
        place = below(root, f"/{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """Absolute links to the loader, a multiarch folder, munge in /run."""
    lib = "usr/lib/x86_64-linux-gnu"
    (tmp_path / "host/usr/lib64").mkdir(parents=True)
    return tree(
        tmp_path / "host",
        {
            "usr/bin/sbatch": program("/lib64/ld-linux-x86-64.so.2", "/usr/lib/x86_64-linux-gnu/slurm-wlm"),
            f"{lib}/ld-linux-x86-64.so.2": "loader",
            f"{lib}/libmunge.so.2": b"\0/run/munge/munge.socket.2\0",
            f"{lib}/slurm-wlm/auth_munge.so": "plugin",
            f"{lib}/slurm-wlm/libslurmfull.so": "library",
            "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
            "etc/ld.so.conf.d/x86_64.conf": "# Multiarch\n/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n",
            "etc/slurm/slurm.conf": "ClusterName=deb\nSlurmUser=slurm # whom clients look up\n",
            "etc/passwd": "root:x:0:0::/root:/bin/sh\nslurm:x:64030:64030::/:/bin/false\n",
            "etc/hosts": "", "etc/nsswitch.conf": "",
        },
        {"lib": "usr/lib", "lib64": "usr/lib64",
         "usr/lib64/ld-linux-x86-64.so.2": "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"},
    )  # fmt: skip


@pytest.fixture
def redhat(tmp_path: Path) -> Path:
    """Everything in lib64, Slurm apart in /opt behind a link, munge in /var/run, SPANK demanded."""
    return tree(
        tmp_path / "host",
        {
            "cm/slurm-24/bin/sbatch": program("/lib64/ld-linux-x86-64.so.2", "/opt/slurm/lib64/slurm"),
            "cm/slurm-24/lib64/slurm/auth_munge.so": "plugin",
            "cm/slurm-24/lib64/slurm/libslurmfull.so": "library",
            "usr/lib64/ld-2.28.so": "loader",
            "usr/lib64/libmunge.so.2": b"\0/var/run/munge/munge.socket.2\0",
            "etc/slurm/slurm.conf": "Include site.conf\nPlugStackConfig=/etc/slurm/stack.conf\n",
            "etc/slurm/site.conf": "ClusterName = red\nPluginDir=/opt/slurm/lib64/slurm:/opt/site/plugins\n",
            "etc/slurm/stack.conf": "include stack.d/*\noptional /opt/other/never.so\n",
            "etc/slurm/stack.d/a": "required /opt/spank/must.so argument\n",
            "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
        },
        {"lib64": "usr/lib64", "opt/slurm": "/cm/slurm-24", "usr/lib64/ld-linux-x86-64.so.2": "ld-2.28.so"},
    )
