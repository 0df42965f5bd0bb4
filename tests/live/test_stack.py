"""Layers of a stack from wheels made here: real uv, a real index on loopback, a real Python in a root."""

from __future__ import annotations

import base64
import csv
import hashlib
import http.server
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from msgspec import structs

from containers import stack
from containers.interpreter import Interpreter
from definitions import render
from kit import process
from kit.errors import HashMismatchError, UnsupportedError
from kit.nouns import Group, Platform, StackLayer, Wheel
from tests.live.needs import need
from tests.live.parts_roots import quiet

pytestmark = pytest.mark.live
SITE = "opt/stack/lib/python3.13/site-packages"
TAG = "cp313-cp313-manylinux_2_28_{}"
HELLO = (
    "import alpha, sys\ndef main():\n    print(alpha.VALUE, alpha.__cached__, *sys.argv[1:])\n    return 3\n"
)
TOOLS = "# nothing is needed to build what is here\n"


def wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str], tag: str = "py3-none-any"
) -> Wheel:
    """Writes a whole wheel; the keys of `files` that begin with "+" are executable."""
    info = f"{name}-{version}.dist-info"
    told = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    told |= {each.replace("DATA", f"{name}-{version}.data").replace("INFO", info): text
             for each, text in files.items()}  # fmt: skip
    rows = [
        f"{each.lstrip('+')},{hashed(text.encode())},{len(text.encode())}\n" for each, text in told.items()
    ]
    path = folder / f"{name}-{version}-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as made:
        for each, text in {**told, f"{info}/RECORD": "".join(rows) + f"{info}/RECORD,,\n"}.items():
            entry = zipfile.ZipInfo(each.lstrip("+"), (2020, 1, 1, 0, 0, 0))
            entry.external_attr = (0o100755 if each.startswith("+") else 0o100644) << 16
            made.writestr(entry, text)
    return Wheel(name.replace("_", "-"), version, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def hashed(raw: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()


ALPHA = {
    "alpha.py": "VALUE = 'of alpha'\n",
    "hello.py": HELLO,
    "broken.py": "print 'of another time'\n",
    "+alpha_tool/run.sh": "#!/bin/sh\n",
    "shared.py": "WHOSE = 'alpha'\n",
    f"data/{'long/' * 30}größe.txt": "x\n",
    "DATA/data/share/alpha/data.txt": "data\n",
    "DATA/headers/alpha.h": "#define ALPHA 1\n",
    "DATA/scripts/plain": "#!python\nimport alpha\nprint(alpha.VALUE)\n",
    "INFO/entry_points.txt": "[console_scripts]\nhello = hello:main\n",
}
BACKEND = """\
import time, zipfile
def build_wheel(to, settings=None, metadata=None):
    name = "source-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{to}/{name}", "w") as made:
        made.writestr("source.py", f"BUILT = {time.time_ns()}\\n")
        made.writestr("source-1.0.dist-info/METADATA",
                      "Metadata-Version: 2.1\\nName: source\\nVersion: 1.0\\n")
        made.writestr("source-1.0.dist-info/WHEEL",
                      "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        made.writestr("source-1.0.dist-info/RECORD", "")
    return name
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, list[Wheel]]]]:
    """(the index's address, its packages): a folder a package is all that the simple protocol asks for."""
    top = tmp_path_factory.mktemp("index")
    found = {
        "alpha": [wheel(top / "simple/alpha", "alpha", "1.0", ALPHA)],
        "beta": [wheel(top / "simple/beta", "beta", "1.0", {"shared.py": "WHOSE = 'beta'\n", "beta.py": ""})],
        "gamma": [
            wheel(
                top / "simple/gamma",
                "gamma",
                "1.0",
                {"gamma.py": f"FOR = '{machine}'\n"},
                TAG.format(machine),
            )
            for machine in ("x86_64", "aarch64")
        ],
    }
    found["source"] = [sdist(top / "simple/source")]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(top)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/simple/", found
    server.shutdown()
    server.server_close()


def sdist(folder: Path) -> Wheel:
    folder.mkdir(parents=True)
    texts = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
                          '[project]\nname = "source"\nversion = "1.0"\n',
        "backend.py": BACKEND,
        "PKG-INFO": "Metadata-Version: 2.2\nName: source\nVersion: 1.0\n",
    }  # fmt: skip
    path = folder / "source-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as made:
        for name, text in texts.items():
            info = tarfile.TarInfo(f"source-1.0/{name}")
            info.size = len(text)
            made.addfile(info, io.BytesIO(text.encode()))
    return Wheel("source", "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def lock(packages: Mapping[str, list[Wheel]], *names: str) -> str:
    lines = [f"{name}==1.0" + "".join(f" \\\n    --hash=sha256:{each.sha256}" for each in packages[name])
             for name in names]  # fmt: skip
    return "\n".join(lines) + "\n"


@pytest.fixture
def index(
    served: tuple[str, dict[str, list[Wheel]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, list[Wheel]]:
    """The index is the only one, uv's cache is empty, and what else a user may have set would spoil it."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    settings = {
        "UV_DEFAULT_INDEX": served[0], "UV_CACHE_DIR": str(tmp_path / "cache of 'uv'"),
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "PIP_CONFIG_FILE": os.devnull,
        "UV_LINK_MODE": "symlink", "UV_COMPILE_BYTECODE": "1", "UV_PRERELEASE": "nonsense",
        "UV_NO_BINARY": "1", "PYTHONPATH": "/nowhere",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return served[1]


def spec(text: str, arch: str = "amd64", **changes: object) -> StackLayer:
    made = StackLayer(
        group=Group(name="rest", lock=text), platform=Platform(arch),
        python="3.13", interpreter="/usr/bin/python3.13", glibc="2.35", tools=TOOLS,
    )  # fmt: skip
    return structs.replace(made, **changes)


@pytest.fixture(scope="module")
def python(rooted: Callable[[str], Path]) -> Interpreter:
    return Interpreter(root=rooted("trixie"), program="/usr/bin/python3.13")


def build(given: StackLayer, python: Interpreter, work: Path, **options: Path) -> bytes:
    work.mkdir(parents=True)
    return b"".join(stack.tar(given, lambda: python, work, quiet, **options))


def environment(text: str, work: Path) -> bytes:
    """The layer that makes an environment of others; no Python is needed for it."""
    given = spec("", group=Group(name="environment", lock="", whole=text))
    work.mkdir()
    return b"".join(stack.tar(given, lambda: pytest.fail("it has nothing to compile"), work, quiet))


def files(raw: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return {each.name: (tar.extractfile(each) or io.BytesIO()).read() for each in tar if each.isreg()}


@pytest.mark.parametrize(("arch", "machine"), [("amd64", "x86_64"), ("arm64", "aarch64")])
def test_a_group_becomes_a_layer(
    arch: str, machine: str, index: dict[str, list[Wheel]], python: Interpreter, tmp_path: Path
) -> None:
    """Of any platform, with nothing of it run: every file where it belongs, every record true."""
    raw = build(spec(lock(index, "alpha", "beta", "gamma"), arch), python, tmp_path / "work")
    found = files(raw)
    assert found[f"{SITE}/gamma.py"] == f"FOR = '{machine}'\n".encode()
    assert found[f"{SITE}/shared.py"] == b"WHOSE = 'beta'\n"
    assert found["opt/stack/share/alpha/data.txt"] == b"data\n"
    assert found["opt/stack/include/site/python3.13/alpha/alpha.h"].startswith(b"#define")
    assert f"{SITE}/__pycache__/broken.cpython-313.pyc" not in found
    compiled = found[f"{SITE}/__pycache__/alpha.cpython-313.pyc"]
    assert f"/{SITE}/alpha.py".encode() in compiled
    assert compiled[4] == 0b11  # by its source's hash, which is checked
    assert not [name for name, raw in found.items() if str(tmp_path).encode() in raw]
    for name in [name for name in found if name.endswith("/RECORD")]:
        for path, promised, size in csv.reader(io.StringIO(found[name].decode())):
            at = os.path.normpath(f"{SITE}/{path}")
            if promised and not (name.startswith(f"{SITE}/alpha") and path == "shared.py"):
                assert (hashed(found[at]), str(len(found[at]))) == (promised, size), path
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        modes = {each.name: each.mode for each in tar}
    assert modes[f"{SITE}/alpha_tool/run.sh"] == modes["opt/stack/bin/hello"] == 0o755
    assert modes[f"{SITE}/alpha.py"] == 0o644


def cached(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that a cache's packages are: contents, times, modes."""
    paths = [path for path in sorted(folder.glob("archive-v0/**/*")) if path.is_file()]
    return {str(path): (path.read_bytes(), (stat := path.stat()).st_mtime_ns, stat.st_mode) for path in paths}


def test_equal_specs_equal_bytes(
    index: dict[str, list[Wheel]], python: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any number of processors, any folder, a cache that was filled or not; which stays as it is."""
    given = spec(lock(index, "alpha", "beta", "gamma"))
    first = build(given, python, tmp_path / "work")
    cache = Path(os.environ["UV_CACHE_DIR"])
    before = cached(cache)
    assert before
    mask = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mask)})
        assert build(given, python, tmp_path / "another 'folder'") == first
    finally:
        os.sched_setaffinity(0, mask)
    assert cached(cache) == before
    site = tmp_path / "work/stage/lib/python3.13/site-packages"
    assert (site / "alpha.py").stat().st_nlink == 3  # the cache's and both stages': nothing was copied
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "fresh"))
    old = os.umask(0o077)
    try:
        assert build(given, python, tmp_path / "third") == first
    finally:
        os.umask(old)


def test_what_was_built_with_other_tools_is_built_again(
    index: dict[str, list[Wheel]], python: Interpreter, tmp_path: Path
) -> None:
    """uv's cache would offer it. With the same tools it may."""

    def built(tools: str, work: str) -> bytes:
        given = spec(lock(index, "source"), source=("source",), tools=tools)
        return files(build(given, python, tmp_path / work))[f"{SITE}/source.py"]

    first = built(TOOLS, "first")
    assert first.startswith(b"BUILT = ")
    assert built(TOOLS + "#\n", "other") != first
    assert built(TOOLS, "again") == first


def test_a_wrong_hash_is_told_with_the_files_name(
    index: dict[str, list[Wheel]], python: Interpreter, tmp_path: Path
) -> None:
    wrong = lock(index, "alpha").replace(index["alpha"][0].sha256, "0" * 64)
    with pytest.raises(HashMismatchError) as told:
        build(spec(lock(index, "beta") + wrong), python, tmp_path / "work")
    assert "install the group rest of the stack for linux/amd64" in told.value.message
    assert "alpha==1.0 (alpha-1.0-py3-none-any.whl) has another hash than its lock" in told.value.message
    assert index["alpha"][0].sha256 in told.value.message


def test_extensions_come_from_the_wheelhouse_alone(
    index: dict[str, list[Wheel]], python: Interpreter, tmp_path: Path
) -> None:
    """The very file that is named, of two with one name; where it lay is in no file of the layer."""
    wheels = []
    for gpu in ("sm90", "sm80"):
        made = wheel(tmp_path / gpu, "flash_tiny", "1.0+cu130", {"flash_tiny.py": f"GPU = '{gpu}'\n"})
        (tmp_path / "house" / made.sha256).mkdir(parents=True)
        (tmp_path / gpu / made.file).rename(tmp_path / "house" / made.sha256 / made.file)
        wheels.append(made)
    layers = []
    for number, made in enumerate(wheels):
        given = spec("", group=Group(name="extensions", lock="", wheels=(made,)))
        layers.append(build(given, python, tmp_path / f"work{number}", wheelhouse=tmp_path / "house"))
        os.utime(tmp_path / "house" / made.sha256 / made.file)
        again = build(given, python, tmp_path / f"again{number}", wheelhouse=tmp_path / "house")
        assert again == layers[-1]
    assert [files(raw)[f"{SITE}/flash_tiny.py"] for raw in layers] == [b"GPU = 'sm90'\n", b"GPU = 'sm80'\n"]
    assert not [name for name, raw in files(layers[0]).items() if str(tmp_path).encode() in raw]
    assert not [name for name in files(layers[0]) if not name.startswith(SITE) or "uv_cache" in name]
    with pytest.raises(UnsupportedError, match="no wheelhouse"):
        build(given, python, tmp_path / "none")


def test_it_runs_where_it_belongs(index: dict[str, list[Wheel]], python: Interpreter, tmp_path: Path) -> None:
    """In a root: scripts find their interpreter, it takes the byte code, edited sources are compiled anew."""
    root = tmp_path / "root"
    process.run(["cp", "-a", python.root, root], what="copy a root")
    packages = build(spec(lock(index, "alpha", "gamma"), Platform.host().arch), python, tmp_path / "work")
    for raw in (packages, environment("the lock", tmp_path / "last")):
        process.run(["tar", "-C", root, "-xf", "-"], what="unpack a layer", stdin=raw)
    assert (root / "opt/stack/stack.lock").read_text() == "the lock"

    def inside(*argv: str) -> process.Result:
        env = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
        chroot = process.find("chroot", "apt-get install coreutils")
        return process.run([chroot, root, *argv], what=f"run {argv[0]}", env=env, check=False)

    told = inside("/opt/stack/bin/hello", "a b")
    expected = f"of alpha /{SITE}/__pycache__/alpha.cpython-313.pyc a b\n"
    assert (told.code, told.out, told.err) == (3, expected, "")
    assert inside("/opt/stack/bin/plain").out == "of alpha\n"
    told = inside(
        "/opt/stack/bin/python", "-v", "-c", "import alpha, sys; print(sys.prefix, sys.base_prefix)"
    )
    assert told.out == "/opt/stack /usr\n"
    assert f"/{SITE}/__pycache__/alpha.cpython-313.pyc matches /{SITE}/alpha.py" in told.err
    (root / SITE / "alpha.py").write_text("VALUE = 'edited'\n")
    assert inside("/opt/stack/bin/plain").out == "edited\n"


PROGRAM = "int cuInit(unsigned); int main(void) { return cuInit(0); }\n"
HEADER = "CUresult CUDAAPI cuInit(unsigned int Flags);\n"


def test_programs_link_with_the_driver_where_none_is(
    index: dict[str, list[Wheel]], served: tuple[str, object], python: Interpreter, tmp_path: Path
) -> None:
    """A group with a compiler becomes a CUDA_HOME, in which gcc finds a libcuda of this machine's kind."""
    need(process.run(["sh", "-c", "command -v cc"], what="look", check=False).code == 0, "there is no cc")
    content = {
        "+nvidia/cu13/bin/nvcc": "",
        "nvidia/cu13/include/cuda.h": HEADER,
        "nvidia/cu13/lib/libx.so.1": "",
    }
    made = wheel(tmp_path / "made", "nvidia_tiny", "13.0", content)
    (tmp_path / "house").mkdir()
    (tmp_path / "made").rename(tmp_path / "house" / made.sha256)
    given = spec(
        "", Platform.host().arch, group=Group(name="cuda", lock="", wheels=(made,)),
        cuda_home=(render.DEFINITIONS / render.CUDA_HOME).read_text(),
    )  # fmt: skip
    raw = build(given, python, tmp_path / "work", wheelhouse=tmp_path / "house")
    process.run(["tar", "-C", tmp_path, "-xf", "-"], what="unpack the layer", stdin=raw)
    home = tmp_path / SITE / "nvidia/cu13"
    assert (home / "lib64/libx.so").resolve() == home / "lib/libx.so.1"
    (tmp_path / "main.c").write_text(PROGRAM)
    argv = [
        "cc",
        "-Wl,--as-needed",
        tmp_path / "main.c",
        f"-L{home}/lib64/stubs",
        "-lcuda",
        "-o",
        tmp_path / "main",
    ]
    process.run(argv, what="link", env=dict(os.environ))
    told = process.run(["readelf", "-d", tmp_path / "main"], what="read the program")
    assert "[libcuda.so.1]" in told.out
