"""The self-contained layer on bases that share nothing with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from containers import apt, elf, layer
from kit import process
from kit.errors import HashMismatchError, UnpinnedError
from kit.nouns import LayerBuild, LayerSpec, Platform, digest_file
from tests.live.needs import need
from tests.live.parts_roots import need_apt, quiet

pytestmark = pytest.mark.live
PYTHON = "/slipworks/python/bin/python3.13"
ROOT, USER = "0:0", "12345:12345"
Rooted = Callable[[str], Path]


def inside(root: Path, *argv: str, user: str = ROOT, **env: str) -> process.Result:
    """Runs a command of a root file system in it, with exactly this environment."""
    chroot = process.find("chroot", "apt-get install coreutils")  # by path: PATH is the base's from here on
    return process.run(
        [chroot, f"--userspec={user}", root, *argv],
        what=f"run {argv[0]}", env={"PATH": "/usr/bin:/bin", **env}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["bullseye", "trixie", "busybox"])
def bases(
    request: pytest.FixtureRequest,
    rooted: Rooted,
    slipworks: LayerBuild,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, Path]]:
    """(the bare root, a copy of it with the layer unpacked and mounted read-only)."""
    bare = rooted(request.param)
    full = tmp_path_factory.mktemp(f"{request.param}-full") / 'a root\'s "name"'
    process.run(["cp", "-a", bare, full], what="copy a root")
    process.run(["tar", "-C", full, "-xzf", slipworks.path], what="unpack the layer")
    top = full / "slipworks"
    process.run(["mount", "--bind", top, top], what="mount the layer")
    process.run(["mount", "-o", "remount,bind,ro", top, top], what="make the layer read-only")
    yield bare, full
    process.run(["umount", top], what="unmount the layer")


@pytest.mark.parametrize("user", [ROOT, USER])
def test_starts_on_any_base(bases: tuple[Path, Path], user: str) -> None:
    told = inside(bases[1], "/slipworks/bin/runner", "--help", user=user)
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("usage: runner")


HOSTILE = {
    "LD_LIBRARY_PATH": "/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:/lib/aarch64-linux-gnu",
    "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/tmp",
    "PYTHONSTARTUP": "/tmp/runner.py",
}


def test_what_the_base_or_user_has_does_not_shadow_it(bases: tuple[Path, Path]) -> None:
    for name in ("runner.py", "json.py", "argparse.py", "sitecustomize.py", "kit.py"):
        (bases[1] / "tmp" / name).write_text("raise SystemExit('shadowed')\n")
    process.run(["chmod", "-R", "a+rX", bases[1] / "tmp"], what="open tmp")
    script = (
        'cd /tmp && /slipworks/bin/runner --version && exec /slipworks/python/bin/python3.13 -c "$SCRIPT"'
    )
    told = inside(
        bases[1], "/bin/sh", "-c", script, user=USER, SCRIPT="import sys; print(sys.path)", **HOSTILE
    )
    assert told.code == 0, told.err
    version, path = told.out.splitlines()
    assert version.startswith("runner ")
    assert all(folder.startswith("/slipworks/") for folder in json.loads(path.replace("'", '"')))


def test_every_library_it_loads_is_its_own(bases: tuple[Path, Path]) -> None:
    """Read from the process itself, with every extension module loaded that may bring a library."""
    root = bases[1]
    script = (
        "import ssl, ctypes, hashlib, lzma, bz2, uuid, zlib, asyncio, multiprocessing, decimal, threading\n"
        "import httpx, rich.console, yaml, zstandard, msgspec, jinja2, elftools\n"
        "t = threading.Thread(target=print); t.start(); t.join()\n"
        "maps = [line.split(None, 5)[5].strip() for line in open('/proc/self/maps') if '/' in line]\n"
        "print(*sorted(set(maps)), sep='\\n')"
    )
    process.run(["mount", "-t", "proc", "proc", root / "proc"], what="mount proc")
    try:
        told = inside(root, PYTHON, "-c", script, **HOSTILE)
    finally:
        process.run(["umount", root / "proc"], what="unmount proc")
    assert told.code == 0, told.err
    loaded = told.out.split()
    assert "/slipworks/lib/libcrypto.so.3" in loaded
    assert [name for name in loaded if ".so" in name and not name.startswith("/slipworks/")] == []


@pytest.mark.parametrize("given", [{}, {"LANG": "C.UTF-8", "X": "1"}, {"LC_CTYPE": "C", "LC_ALL": ""}])
def test_children_get_exactly_the_environment_given(bases: tuple[Path, Path], given: dict[str, str]) -> None:
    """The entry is started as it is; its module is replaced by one that starts the base's own `env`."""
    root = bases[1]
    entry = (root / "slipworks/bin/runner").read_text()
    probe = entry.replace("from runner.cli import main", "def main(): os.execvp('env', ['env'])")
    assert probe != entry
    (root / "tmp/probe").write_text(probe)
    (root / "tmp/probe").chmod(0o755)
    process.run(["mount", "-t", "proc", "proc", root / "proc"], what="mount proc")
    try:
        told = inside(root, "/tmp/probe", **given)
    finally:
        process.run(["umount", root / "proc"], what="unmount proc")
    assert told.code == 0, told.err
    assert dict(line.split("=", 1) for line in told.out.splitlines()) == {"PATH": "/usr/bin:/bin", **given}


def plain(text: str) -> str:
    """Without the addresses that differ at every start."""
    return re.sub(r"\(0x[0-9a-f]+\)", "", text)


def listing(root: Path) -> dict[str, tuple[int, int, int, str]]:
    """path -> mode, owner, size, link: all that the base holds, the layer's folder and ours apart."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if name.parts[0] not in ("slipworks", "tmp", "proc"):
            stat = path.lstat()
            link = str(path.readlink()) if path.is_symlink() else ""
            found[str(name)] = (stat.st_mode, stat.st_uid, 0 if path.is_dir() else stat.st_size, link)
    return found


@pytest.mark.parametrize("bases", ["bullseye", "trixie"], indirect=True)
def test_the_base_sees_nothing_of_it(bases: tuple[Path, Path]) -> None:
    bare, full = bases
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    for argv in (
        ["ldd", "/bin/ls"],
        ["ldconfig", "-p"],
        ["python3", "-c", "import sys, os; print(sys.path, sys.prefix, sys.executable, dict(os.environ))"],
        ["sh", "-c", "command -v python3 python3.13 pip ld.so httpx; ls /usr /bin/ /lib/ /etc"],
    ):
        before = inside(bare, *argv, PATH=path)
        after = inside(full, *argv, PATH=path)
        seen = inside(full, *argv, PATH=f"{path}:/slipworks/bin")
        assert before.code == after.code == seen.code
        assert plain(before.out)
        assert plain(before.out) == plain(after.out) == plain(seen.out).replace(":/slipworks/bin", "")
    inside(full, "/slipworks/bin/runner", "--help")
    assert listing(full) == listing(bare)
    assert digest_file(full / "etc/ld.so.cache") == digest_file(bare / "etc/ld.so.cache")


def test_path_offers_the_runner_alone(slipworks: LayerBuild) -> None:
    told = process.run(["tar", "-tvzf", slipworks.path, "--numeric-owner"], what="list the layer")
    lines = [line.split(None, 5) for line in told.out.splitlines()]
    names = [line[5] for line in lines]
    own = names.index("slipworks/python/site/containers/")  # the first of what follows the body
    for part in (names[:own], names[own:]):
        assert part == sorted(part, key=lambda name: name.rstrip("/").split("/"))
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith("slipworks/bin/")] == [
        "slipworks/bin/",
        "slipworks/bin/runner",
    ]
    assert {name.split("/")[0] for name in names} == {"slipworks"}
    assert {line[1] for line in lines} == {"0/0"}
    assert not [name for name in names if name.endswith((".pyc",)) and "__pycache__" not in name]
    sources = [name for name in names if name.endswith(".py")]
    compiled = [name for name in names if name.endswith(".pyc")]
    assert len(sources) == len(compiled)


def test_equal_inputs_equal_bytes(slipworks: LayerBuild, spec: LayerSpec, tmp_path: Path) -> None:
    """Whether the body is made for it, made to be kept, or was kept."""
    bodies: dict[str, LayerBuild] = {}

    def keep(key: str, make: Callable[[Path], LayerBuild]) -> tuple[Path, dict[str, str]]:
        kept = bodies[key] = bodies[key] if key in bodies else make(tmp_path / "body")
        return kept.path, kept.packages

    out = tmp_path / "another 'folder'" / "l.tar.gz"
    for _ in ("made", "kept"):
        again = layer.build(spec, Platform.host(), out, quiet, None, keep)
        same = (slipworks.digest, slipworks.diff_id, slipworks.size, slipworks.key, slipworks.packages)
        assert (again.digest, again.diff_id, again.size, again.key, again.packages) == same
        assert again.digest == digest_file(again.path)
        assert [each.name for each in again.path.parent.iterdir()] == ["l.tar.gz"]
    assert len(bodies) == 1


def test_foreign_layer_without_emulation(spec: LayerSpec, tmp_path: Path) -> None:
    need_apt()
    host = Platform.host()
    foreign = Platform("amd64" if host.arch == "arm64" else "arm64")
    handler = Path(f"/proc/sys/fs/binfmt_misc/qemu-{foreign.machine}")
    need(not handler.exists(), f"an emulator of {foreign} is registered, so that a build could use it")
    built = layer.build(spec, foreign, tmp_path / "foreign.tar.gz", quiet)
    process.run(["tar", "-C", tmp_path, "-xzf", built.path], what="unpack the layer")
    tree = elf.Tree(tmp_path)
    files = list(tree.files("/slipworks"))
    assert len(files) > 30
    assert {tree.read(path).machine for path in files} == {foreign.machine}
    program = tree.read(tree.inside(PYTHON))
    loader = (
        "/slipworks/lib/"
        + {"aarch64": "ld-linux-aarch64.so.1", "x86_64": "ld-linux-x86-64.so.2"}[foreign.machine]
    )
    assert (program.interpreter, program.rpath, program.runpath) == (loader, ("/slipworks/lib",), ())
    assert tree.inside(loader).is_file()
    assert tree.missing("/slipworks", ["/slipworks/lib"]) == {}
    assert list((tmp_path / "slipworks/python/site/runner/__pycache__").glob("cli.*.pyc"))


def with_pin(spec: LayerSpec, name: str, version: str, sha256: str) -> LayerSpec:
    lines = [line for line in spec.pins[Platform.host().arch].splitlines() if line.split()[0] != name]
    pins = {Platform.host().arch: "\n".join([*lines, f"{name} {version} {sha256}"])}
    return msgspec.structs.replace(spec, pins=pins)


def test_wrong_hash_of_a_package(spec: LayerSpec, slipworks: LayerBuild, tmp_path: Path) -> None:
    version = slipworks.packages["zlib1g"].split()[0]
    with pytest.raises(HashMismatchError, match=r"zlib1g .*pinned is 0000"):
        layer.build(with_pin(spec, "zlib1g", version, "0" * 64), Platform.host(), tmp_path / "l", quiet)
    assert list(tmp_path.iterdir()) == []


def test_wrong_hash_of_a_wheel(spec: LayerSpec, tmp_path: Path) -> None:
    need_apt()
    arch = Platform.host().arch
    head, pin, tail = spec.locks[arch].partition("certifi==")
    name, *_hashes, rest = tail.partition("\n")[0], *tail.split("\n", 1)
    following = rest[rest.index("\nh11==") :]
    lock = f"{head}{pin}{name}\n    --hash=sha256:{'0' * 64}{following}"
    with pytest.raises(HashMismatchError, match="certifi"):
        layer.build(msgspec.structs.replace(spec, locks={arch: lock}), Platform.host(), tmp_path / "l", quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_pin_that_the_archive_dropped(
    spec: LayerSpec, slipworks: LayerBuild, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A point release must not break a clone: told in one line, the signed newer package is taken."""
    old = with_pin(spec, "zlib1g", "1:1.0-1", "0" * 64)
    taken = layer.fetched(old, Platform.host(), tmp_path / "root", quiet)
    assert {deb.name: f"{deb.version} sha256:{deb.sha256}" for deb in taken} == slipworks.packages
    said = [line for line in capsys.readouterr().err.splitlines() if "zlib1g" in line]
    assert len(said) == 1
    assert "for 1:1.0-1" in said[0]


def test_no_lock_for_a_platform(spec: LayerSpec, tmp_path: Path) -> None:
    with pytest.raises(UnpinnedError, match="has no lock for linux/arm64"):
        layer.build(msgspec.structs.replace(spec, locks={}), Platform("arm64"), tmp_path / "l", quiet)


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    need_apt()
    given = apt.sources("debian", "no-such-suite", Platform.host())
    with pytest.raises(apt.NotFoundError, match="no-such-suite"), apt.opened(given, quiet):
        pass
