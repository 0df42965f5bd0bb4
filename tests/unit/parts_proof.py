"""A small image of real files for tests of proofs: this machine's C library and what its gcc compiles.

GPU code is of `fatbinary`'s making (recorded/gpu). The whole passes every check; each test changes one thing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import certifi
from msgspec import structs

from containers import inventory, ld_cache, verify
from containers.findings import Expected, Finding, Report
from definitions import exceptions
from kit.nouns import Platform, digest

GPU = Path(__file__).with_name("recorded") / "gpu"
HOST = Platform.host()
LIB = f"usr/lib/{HOST.machine}-linux-gnu"
SITE = "opt/stack/lib/python3.13/site-packages"
TORCH, VLLM, NCCL = f"{SITE}/torch", f"{SITE}/vllm", f"{SITE}/nvidia/nccl/lib/libnccl.so.2"
LOCK = "opt/stack/stack.lock"
VERSIONS = {"torch": "2.13.0", "vllm": "0.30.0", "nvidia-nccl-cu13": "2.29.7"}
SOURCE = "int answer(void) { return 42; }"

UVS_SCRIPT = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"
' '''
"""

BYTE_CODE = b"\xf3\r\r\n\x03\0\0\0" + 8 * b"h" + b"compiled here"  # checked by its source's hash

Files = dict[str, bytes]
"""Path in the image, without a leading slash -> content; b"-> target" stands for a link."""


def compiled(folder: Path, source: str = SOURCE, *flags: str | Path) -> bytes:
    """A library that gcc makes of a C text."""
    (folder / "source.c").write_text(source)
    return made(folder, "gcc", "-shared", "-fPIC", "-o", folder / "made", folder / "source.c", *flags)


def made(folder: Path, *argv: str | Path) -> bytes:
    subprocess.run(argv, check=True, capture_output=True)
    return (folder / "made").read_bytes()


def gpu_library(folder: Path, *names: str, source: str = SOURCE) -> bytes:
    """A library with fat binaries, as nvcc's linking leaves it."""
    parts = "".join(f'\\n.incbin \\"{GPU / name}.fatbin\\"\\n.balign 8' for name in names)
    return compiled(folder, f'__asm__(".section .nv_fatbin,\\"a\\"{parts}\\n.text");\n{source}')


def program(folder: Path) -> bytes:
    (folder / "source.c").write_text("int main(void) { return 0; }")
    return made(folder, "gcc", "-o", folder / "made", folder / "source.c")


def base(folder: Path) -> Files:
    """What the stack stands on: glibc, a shell, Python, a compiler, certificates, accounts."""
    names = ("libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6")
    host = Path("/") / LIB
    found = {f"{LIB}/{name}": (host / name).read_bytes() for name in names}
    loader = next(host.glob("ld-linux*.so.*"))
    tool = program(folder)
    cached = [ld_cache.Entry(name, f"/lib/{HOST.machine}-linux-gnu/{name}") for name in names]
    found |= {
        f"{LIB}/{loader.name}": loader.read_bytes(), "lib": b"-> usr/lib", "bin": b"-> usr/bin",
        "usr/bin/sh": tool, "usr/bin/python3.13": tool, "usr/bin/gcc-14": tool, "usr/bin/env": tool,
        "usr/bin/cc": b"-> /etc/alternatives/cc", "etc/alternatives/cc": b"-> /usr/bin/gcc-14",
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "etc/ssl/certs/ca-certificates.crt": Path(certifi.where()).read_bytes(),
        "etc/ld.so.cache": ld_cache.encode(cached, HOST),
    }  # fmt: skip
    return found


def stack(folder: Path) -> Files:
    """torch, vLLM and NCCL in small, as their wheels lay them out, without RECORDs."""
    needs_torch = ("-Wl,--no-as-needed", "-L", folder, "-l:libtorch_cuda.so")
    cuda = gpu_library(folder, "sm_80", "sm_90")
    (folder / "libtorch_cuda.so").write_bytes(cuda)
    nccl = 'const char *says = "NCCL version 2.29.7+cuda13.2";'
    files = {
        f"{TORCH}/version.py": b"__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n",
        f"{TORCH}/lib/libtorch_cuda.so": cuda,
        f"{VLLM}/_C.abi3.so": gpu_library(folder, "sm_80", "sm_90a"),
        f"{VLLM}/_moe_C.abi3.so": gpu_library(folder, "plain", "sm_80"),
        f"{VLLM}/loaded_later.so": compiled(folder, SOURCE, *needs_torch),
        f"{VLLM}/vllm_flash_attn/_vllm_fa2_C.abi3.so": gpu_library(folder, "ptx_80"),
        f"{VLLM}/vllm_flash_attn/_vllm_fa3_C.abi3.so": gpu_library(folder, "sm_100f"),
        NCCL: gpu_library(folder, "several", "sm_90", source=nccl),
        "opt/stack/bin/python": b"-> /usr/bin/python3.13",
        "opt/stack/bin/vllm": UVS_SCRIPT,
        "opt/stack/bin/tool": b"#!/usr/bin/env python3.13\n",
        LOCK: "".join(f"{name}=={version} \\\n" for name, version in VERSIONS.items()).encode(),
    }  # fmt: skip
    for name, version in VERSIONS.items():
        head = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n\nName: of something else\n"
        files[f"{info(name)}/METADATA"] = head.encode()
    return files


def info(name: str) -> str:
    return f"{SITE}/{name.replace('-', '_')}-{VERSIONS[name]}.dist-info"


def with_records(files: Files) -> Files:
    """The same with a RECORD for each package, which tells of all files in its folder and its metadata."""
    owned = {"torch": TORCH, "vllm": VLLM, "nvidia-nccl-cu13": f"{SITE}/nvidia"}
    found = dict(files)
    for name, folder in owned.items():
        rows = [
            f"{path.removeprefix(SITE + '/')},sha256={_hash(raw)},{len(raw)}"
            for path, raw in files.items()
            if path.startswith((f"{folder}/", f"{info(name)}/"))
        ]
        record = f"{info(name)}/RECORD"
        rows += [f"{record.removeprefix(SITE + '/')},,", "gone/__pycache__/x.cpython-313.pyc,,"]
        found[record] = ("\n".join(rows) + "\n").encode()
    return found


def _hash(raw: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()


def tar(files: Files) -> bytes:
    """A layer. Folders are left to those who unpack it, as some tools do."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, raw in files.items():
            info = tarfile.TarInfo(path)
            if raw.startswith(b"-> "):
                info.type, info.linkname = tarfile.SYMTYPE, raw[3:].decode()
                archive.addfile(info)
            else:
                info.size, info.mode = len(raw), 0o755
                archive.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def proof(layers: Iterable[Files], **changes: object) -> Report:
    """The report on layers, lowest first, as an image of line cu13 for compute capability 9.0."""
    layers = list(layers)
    for each in layers:
        if LOCK in each:
            changes.setdefault("lock_digest", lock_digest(each))
    return verify.verify([inventory.read([tar(each)]) for each in layers], expected(**changes))


def expected(**changes: object) -> Expected:
    rules = exceptions.load()
    plain = Expected(
        platform=HOST, line="cu13", python="3.13", cuda="13.0", driver_floor="580",
        capabilities=("9.0",), label_capabilities=("9.0",),
        label_floor="580", path=("/opt/stack/bin", "/usr/bin"), driver=rules.driver, code=rules.code,
        exemptions=rules.exemption,
    )  # fmt: skip
    return structs.replace(plain, **changes)


def failed(report: Report, check: str) -> list[Finding]:
    """What failed, all of which must be of one check."""
    assert {each.check for each in report.failed} <= {check}, report.failed
    return list(report.failed)


def lock_digest(files: Files) -> str:
    return digest(files[LOCK])
