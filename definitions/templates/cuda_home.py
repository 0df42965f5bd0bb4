"""Makes of CUDA's wheels a folder that compilers and build scripts take for an installed CUDA (a CUDA_HOME).

    python cuda_home.py SITE MACHINE

SITE     the site-packages folder; SITE/nvidia/cu<major> is laid out where it holds nvcc, or nothing is done
MACHINE  x86_64 or aarch64, of the libraries there; nothing of them is run

Wheels bring libraries under their sonames alone, in `lib`; linkers look for `lib*.so` in `lib64`. They bring
no libcuda either: it belongs to the driver, which need not be there when something is linked. So
`lib64/stubs` gets one without code, as an installed CUDA has it. Imports nothing of ours: it also runs in a
build of the Containerfile.
"""

import re
import struct
import sys
from pathlib import Path

MACHINES = {"x86_64": 62, "aarch64": 183}  # ELF's numbers
PAGE = 0x10000  # the largest of both


def lay_out(home: Path, machine: int) -> None:
    """Adds links and the stub to one folder; what is there already stays."""
    link(home / "lib64", "lib")
    for path in sorted((home / "lib").glob("lib*.so.*")):
        link(path.with_name(path.name.partition(".so.")[0] + ".so"), path.name)
    stub = home / "lib/stubs/libcuda.so"
    header = home / "include/cuda.h"
    if header.exists() and not stub.exists():
        stub.parent.mkdir(exist_ok=True)
        stub.write_bytes(shared_object(machine, "libcuda.so.1", functions(header.read_text())))


def link(path: Path, target: str) -> None:
    """A symbolic link, unless something has that path already."""
    if not path.exists() and not path.is_symlink():
        path.symlink_to(target)


def functions(header: str) -> list[str]:
    """The names that programs compiled with cuda.h may look for in libcuda: macros choose among versions."""
    found = set(re.findall(r"\bCUDAAPI\s+(cu[A-Z]\w+)\s*\(", header))
    for macro, name in re.findall(r"#\s*define\s+cu[A-Z]\w+\s+(?:__CUDA_API_(\w+)\()?(cu[A-Z]\w+)", header):
        found |= {name, f"{name}_{macro.lower()}"} if macro else {name}
    return sorted(found)


def shared_object(machine: int, soname: str, names: list[str]) -> bytes:
    """A shared library that linkers accept and that holds no code: names alone, of functions."""
    strings = "".join(f"{name}\0" for name in ["", soname, *names]).encode()
    symbols = bytes(24)
    at = 2 + len(soname)
    for name in names:
        symbols += struct.pack("<IBBHQQ", at, 0x12, 0, 4, 0, 0)  # global, a function, in section 4
        at += len(name) + 1
    named = b"\0.dynsym\0.dynstr\0.dynamic\0.text\0.shstrtab\0"
    # Each part begins at a multiple of 8; the file is mapped at address 0, so places are addresses.
    starts, end = [], 64 + 3 * 56
    for part in (symbols, strings, bytes(6 * 16), bytes(16), named):
        starts.append(end)
        end += len(part) + -len(part) % 8
    tags = [(14, 1), (5, starts[1]), (10, len(strings)), (6, starts[0]), (11, 24), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    parts = (symbols, strings, dynamic, bytes(16), named)
    body = b"".join(part + bytes(-len(part) % 8) for part in parts)

    def segment(kind: int, flags: int, start: int, size: int, align: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, flags, start, start, start, size, size, align)

    def section(n: int, kind: int, flags: int, link: int, info: int, entry: int) -> bytes:
        name = [each.start() + 1 for each in re.finditer(rb"\0\.", named)][n]
        address = starts[n] if flags else 0
        return struct.pack(
            "<IIQQQQIIQQ", name, kind, flags, address, starts[n], len(parts[n]), link, info, 8, entry
        )

    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, machine, 1, 0, 64, end, 0, 64, 56, 3, 64, 6, 5
    )
    head += (
        segment(1, 5, 0, end, PAGE)
        + segment(2, 4, starts[2], len(dynamic), 8)
        + segment(0x6474E551, 6, 0, 0, 16)
    )
    sections = bytes(64) + section(0, 11, 2, 2, 1, 24) + section(1, 3, 2, 0, 0, 0)
    sections += section(2, 6, 3, 2, 0, 16) + section(3, 1, 6, 0, 0, 0) + section(4, 3, 0, 0, 0, 0)
    return head + body + sections


if __name__ == "__main__":
    for nvcc in sorted(Path(sys.argv[1]).glob("nvidia/cu[0-9]*/bin/nvcc")):
        lay_out(nvcc.parents[1], MACHINES[sys.argv[2]])
