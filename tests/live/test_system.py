"""The layer of distribution packages, on real bases: entered where this machine can, looked at where not."""

from __future__ import annotations

import http.server
import os
import shutil
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from containers import apt, bootstrap, dpkg, elf, ld_cache, system
from kit import process
from kit.errors import HostError, NotFoundError, UnsupportedError
from kit.nouns import digest_file
from tests.live.needs import need
from tests.live.parts_roots import CERTIFIED, FOREIGN, NATIVE, base, enter, need_apt, quiet, reaching, unpack

pytestmark = pytest.mark.live
BUNDLE = "etc/ssl/certs/ca-certificates.crt"

COMPILE = """\
cd /tmp
printf '#include <stdio.h>\\nint main(void) { puts("C"); }\\n' > c.c
printf '#include <iostream>\\nint main() { std::cout << "C++" << std::endl; }\\n' > cc.cc
cat > own.c <<'END'
#include <Python.h>
static struct PyModuleDef own = {PyModuleDef_HEAD_INIT, "own", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_own(void) { return PyModule_Create(&own); }
END
cc c.c -o c && ./c
c99 c.c -o c99 && ./c99
g++ cc.cc -o cc && ./cc
headers=$(python3.13 -c 'import sysconfig; print(sysconfig.get_path("include"))')
gcc -shared -fPIC -I"$headers" own.c -o own.so
python3.13 -c 'import own; print(own.__name__)'
rm c.c cc.cc own.c c c99 cc own.so
"""


def test_compilers(furnished: Path) -> None:
    """As Triton and the JIT kernels call them, Python's headers included."""
    assert enter(furnished, COMPILE).split() == ["C", "C", "C++", "own"]


def test_programs(furnished: Path) -> None:
    told = enter(furnished, "git --version; tini --version; ssh -V 2>&1; cd /tmp && git init -q x && rm -r x")
    assert told.startswith("git version ") and "\ntini version " in told and "\nOpenSSH_" in told


def test_the_loaders_cache(furnished: Path) -> None:
    """It is what the root's own ldconfig makes, links and all."""
    script = "ldconfig -p | grep '=>'"
    ours = enter(furnished, script)
    assert "libibverbs.so.1 " in ours and "libpython3.13.so.1.0 " in ours
    assert (
        enter(furnished, f"ldconfig -C /tmp/theirs; ldconfig -C /tmp/theirs -p | grep '=>'; {script}")
        == ours * 2
    )
    (furnished / "tmp/theirs").unlink()
    find = "from ctypes.util import find_library as f; print(f('ibverbs'))"
    assert enter(furnished, f'PATH=/usr/sbin:/usr/bin python3.13 -c "{find}"') == "libibverbs.so.1\n"


def test_the_database(furnished: Path) -> None:
    assert "broken" not in enter(furnished, "apt-get check; dpkg --verify --verify-format=rpm libc6-dev gcc")
    packages = enter(furnished, "dpkg-query -W -f '${Package} ${db:Status-Status}\\n'").splitlines()
    assert len(packages) == len(set(packages)) and {"gcc unpacked", "libc6 unpacked"} <= set(packages)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A TLS server on loopback, and the certificate of whoever signed for it."""
    need(shutil.which("openssl"), "openssl is not installed (apt-get install openssl)")
    key, signed = tmp_path / "key", tmp_path / "signed"
    making = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=loopback",
    ]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", signed]
    subprocess.run([*making, *names], check=True, capture_output=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"over TLS")

        def log_message(self, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.socket = context.wrap_socket(served.socket, server_side=True)
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served.server_address[1], signed.read_text()
        served.shutdown()


ASK = """\
import ssl, sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1]).read().decode())
except urllib.error.URLError as refused:
    print(refused.reason.verify_message)
print(ssl.create_default_context().cert_store_stats()["x509_ca"])
"""


def test_python_trusts_the_bundle_and_nothing_else(furnished: Path, server: tuple[int, str]) -> None:
    """With no setting at all: who is not in the bundle is refused, and trusted once written into it."""
    port, certificate = server
    bundle = furnished / BUNDLE
    before = bundle.read_text()
    asked = f"python3.13 - https://127.0.0.1:{port} <<'END'\n{ASK}\nEND"
    number = sum(1 for _ in (furnished / "usr/share/ca-certificates").rglob("*.crt"))
    assert number > 100
    assert enter(furnished, asked) == f"self-signed certificate\n{number}\n"
    try:
        bundle.write_text(before + certificate)
        assert enter(furnished, asked) == f"over TLS\n{number + 1}\n"
    finally:
        bundle.write_text(before)


def entries(tar: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(tar) as opened:
        return {info.name: info for info in opened}


def test_foreign(foreign: Path, tmp_path: Path) -> None:
    """The same files for the other machine: compiler, its general name, InfiniBand, cache, database."""
    root = unpack(foreign, tmp_path / "root")
    folders = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir() or path.is_symlink()}
    ground = base("trixie", CERTIFIED)
    packages = ("gcc", "ibverbs-providers", "tini")
    system.build(root, ground, packages, FOREIGN, tmp_path / "system.tar", quiet)
    found = entries(tmp_path / "system.tar")
    assert not folders & set(found), "no folder and no link of the base comes again"
    assert not [name for name in found if name.split("/")[0] in ("bin", "sbin", "lib", "lib64")]
    assert f"usr/lib/{FOREIGN.machine}-linux-gnu/libc.so.6" not in found, "the base has it"
    unpack(tmp_path / "system.tar", root)
    tree = elf.Tree(root)
    compiler = tree.real("/usr/bin/cc")
    assert compiler and tree.read(compiler).machine == FOREIGN.machine
    files = [root / name for name, info in found.items() if info.isreg()]
    machines = {tree.read(path).machine for path in files if elf.is_elf(path)}
    assert machines == {FOREIGN.machine}
    listed = {each.name: each.path for each in ld_cache.decode((root / "etc/ld.so.cache").read_bytes())}
    assert {"libibverbs.so.1", "libc.so.6"} <= set(listed)
    assert all(tree.real(path) for path in listed.values())
    known = [dpkg.field(each, "Package") for each in dpkg.stanzas((root / dpkg.STATUS).read_text())]
    assert {"gcc", "libc6", "python3.13"} <= set(known) and len(known) == len(set(known))


def test_on_a_base_that_was_pulled(tmp_path: Path) -> None:
    """An older suite, whose packages name /lib, with its packages configured and a Python of its own."""
    need_apt()
    ground = base("bookworm", ("ca-certificates",))
    bootstrap.root(ground, NATIVE, tmp_path / "base.tar", quiet)
    root = unpack(tmp_path / "base.tar", tmp_path / "root")
    status = root / dpkg.STATUS
    status.write_text(status.read_text().replace("install ok unpacked", "install ok installed"))
    own = root / f"usr/lib/{NATIVE.machine}-linux-gnu"
    library = next(own.glob("libz.so.1.*"))
    shutil.copyfile(library, root / "usr/local/lib/libz.so.1")
    out = tmp_path / "system.tar"
    system.build(root, ground, ("ibverbs-providers", "tini"), NATIVE, out, quiet)
    found = entries(out)
    assert not [name for name in found if (root / name).is_dir() or (root / name).is_symlink()]
    assert {info.uname for info in found.values()} == {""} and {info.uid for info in found.values()} == {0}
    unpack(out, root)
    assert (root / "lib").is_symlink()
    listed = [each.path for each in ld_cache.decode((root / "etc/ld.so.cache").read_bytes())]
    assert listed.index("/usr/local/lib/libz.so.1") < listed.index(
        f"/lib/{NATIVE.machine}-linux-gnu/libz.so.1"
    )
    assert status.read_text().count("\nStatus: install ok unpacked\n") == sum(
        name.startswith(f"{dpkg.INFO}/") and name.endswith(".list") for name in found
    )
    if os.geteuid() == 0:
        told = enter(root, "tini --version; ldconfig -p | grep -c libibverbs; apt-get check -q")
        assert told.startswith("tini version ")


def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    need_apt()
    root = tmp_path / "root"
    (root / dpkg.STATUS).parent.mkdir(parents=True)
    (root / dpkg.STATUS).touch()
    with pytest.raises(NotFoundError, match="there is no slipworks-no-such-package"):
        system.build(root, base("trixie"), ("slipworks-no-such-package",), NATIVE, tmp_path / "x", quiet)
    assert list(tmp_path.iterdir()) == [root]


def test_on_a_machine_without_apt(
    rooted: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base's own apt and dpkg-deb do it, from the base's own sources, and give what this machine's do."""
    root = tmp_path / "root"
    process.run(["cp", "-a", rooted("trixie"), root], what="copy a root")
    ground, packages, out = base("trixie"), ("libnuma1",), tmp_path / "system.tar"
    system.build(root, ground, packages, NATIVE, out, quiet)
    ours = digest_file(out)
    reaching(root)
    enter(root, "apt-get -q update")  # whose mirror it is, a site's mirror tells in its lists only
    few = tmp_path / "few programs"
    few.mkdir()
    for name in ("unshare", "mount", "chroot", "sh", "env"):
        (few / name).symlink_to(process.find(name, "util-linux"))
    monkeypatch.setenv("PATH", str(few))
    system.build(root, ground, packages, NATIVE, out, quiet, native=root)
    assert digest_file(out) == ours
    empty = tmp_path / "a base of the other platform that has nothing"
    (empty / dpkg.STATUS).parent.mkdir(parents=True)
    (empty / dpkg.STATUS).touch()
    system.build(empty, ground, packages, FOREIGN, out, quiet, native=root)
    assert f"usr/lib/{FOREIGN.machine}-linux-gnu/libnuma.so.1" in entries(out)
    assert list((root / "tmp").iterdir()) == []


def test_a_root_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one that this machine's kernel does not let anyone enter: one line, and what to do."""
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("ID=debian\n")
    monkeypatch.setattr(apt, "host_distribution", lambda: None)
    with pytest.raises(HostError, match="no apt, and that of the base cannot be run: ") as told:
        apt.sources("debian", "trixie", NATIVE, tmp_path)
    assert "\n" not in str(told.value) and told.value.hint


def test_a_base_without_dpkg(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedError, match="cannot add packages to base trixie: it has no /var/lib/dpkg/status"
    ):
        system.build(tmp_path, base("trixie"), ("tini",), NATIVE, tmp_path / "x", quiet)
