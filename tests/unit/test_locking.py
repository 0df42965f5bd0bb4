"""Writing locks: what uv is asked, what follows from its answer, and the real uv against a small index."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec import structs

from definitions import lines, lockfile, locking
from definitions.lines import Line
from definitions.lockfile import Lock, Locked
from kit.errors import BuildError, InvalidFileError, NetworkError, UnpinnedError, UnsupportedError
from kit.nouns import Platform

AMD64, ARM64 = Platform(arch="amd64"), Platform(arch="arm64")


def test_what_uv_is_asked() -> None:
    plan = locking.plan(lines.load("cu12"), AMD64, "3.12")
    assert plan.arguments == (
        "pip", "compile", "requirements.in", "--constraints", "constraints.txt",
        "--overrides", "overrides.txt", "--excludes", "excludes.txt",
        "--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_35",
        "--format", "pylock.toml", "--output-file", "pylock.toml", "--no-header", "--quiet", "--no-config",
        "--only-binary", ":all:", "--no-binary", "antlr4-python3-runtime", "--no-binary", "func-timeout",
        "--exclude-newer", "2026-01-06", "--exclude-newer-package", "skyrl-gym=2026-03-20",
    )  # fmt: skip
    assert plan.files["overrides.txt"] == "nvidia-nccl-cu12==2.27.5\n"
    assert plan.files["excludes.txt"].split() == ["flashinfer-jit-cache", "flash-attn"]
    assert "pylock.toml" not in plan.files


def test_what_one_platform_has_beside_the_rest() -> None:
    line = lines.load("cu12")
    for platform, there in ((AMD64, False), (ARM64, True)):
        asked = locking.plan(line, platform, "3.12").files["requirements.in"].splitlines()
        assert ("nvidia-cudnn-cu12==9.10.2.21" in asked) is there
        assert "torch==2.8.0" in asked


def test_old_versions_are_preferred_and_never_demanded() -> None:
    old = Lock("sha256:" + "0" * 64, (Locked("torch", "2.8.0+cu129", ("0" * 64,)),))
    plan = locking.plan(lines.load("cu12"), ARM64, "3.12", old)
    assert 'name = "torch"\nversion = "2.8.0"\n' in plan.files["pylock.toml"]
    assert plan.arguments == locking.plan(lines.load("cu12"), ARM64, "3.12").arguments


def answer(name: str, version: str, **files: list[str] | str) -> str:
    """uv's answer with one package: wheels by their hashes, and perhaps a source archive."""
    wheels = ", ".join(
        f'{{ url = "x", hashes = {{ sha256 = "{each}" }} }}' for each in files.get("wheels", [])
    )
    sdist = (
        f'sdist = {{ url = "x", hashes = {{ sha256 = "{files["sdist"]}" }} }}\n' if "sdist" in files else ""
    )
    return f'[[packages]]\nname = "{name}"\nversion = "{version}"\n{sdist}wheels = [{wheels}]\n'


def pinned_line() -> Line:
    """cu12 as it will be when triton has its hash."""
    line = lines.load("cu12")
    pins = tuple(structs.replace(pin, sha256=pin.sha256 or "7" * 64) for pin in line.difference(ARM64).pins)
    return structs.replace(line, platforms={"arm64": structs.replace(line.difference(ARM64), pins=pins)})


def test_the_cpu_torch_of_the_index_never_enters_the_cuda_lock() -> None:
    """The trap: on aarch64 the index has torch 2.8.0 too, it satisfies every pin, and it is a CPU build."""
    cpu_build = "e2fab4153768d433f8ed9279c8133a114a034a61e77a3a104dcdf54388838705"
    lock = locking.locked(pinned_line(), ARM64, "3.12", answer("torch", "2.8.0", wheels=[cpu_build]))
    assert lock.version("torch") == "2.8.0+cu129" and lock.version("triton") == "3.4.0"
    assert cpu_build not in {each for package in lock.packages for each in package.sha256}


def test_a_pin_for_another_version_than_was_resolved_is_refused() -> None:
    with pytest.raises(UnpinnedError, match=r"resolves to torch 2\.8\.1, but the pin is for 2\.8\.0\+cu129"):
        locking.locked(pinned_line(), ARM64, "3.12", answer("torch", "2.8.1", wheels=["1" * 64]))


def test_an_unpinned_platform_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "_resolve", lambda *_: pytest.fail("asked"))
    with pytest.raises(UnpinnedError, match="CPU build"):
        locking.lock(lines.load("cu12"), [AMD64, ARM64], ["3.12"], {})
    with pytest.raises(UnsupportedError, match=r"cannot be had for Python 3\.13"):
        locking.lock(lines.load("cu12"), [AMD64], ["3.12", "3.13"], {})


def test_only_what_the_line_takes_from_source_may_lack_wheels() -> None:
    line = lines.load("cu13")
    lock = locking.locked(line, AMD64, "3.12", answer("func-timeout", "4.3.5", sdist="a" * 64))
    assert lock.packages == (Locked("func-timeout", "4.3.5", ("a" * 64,)),)
    with pytest.raises(UnsupportedError, match=r"flash-attn 2\.8\.3 has no wheel") as told:
        locking.locked(line, AMD64, "3.12", answer("flash-attn", "2.8.3", sdist="a" * 64))
    assert "extensions" in (told.value.hint or "")


def test_only_the_main_index_is_asked() -> None:
    outside = {"PATH": "/bin", "UV_INDEX": "a", "UV_EXCLUDE_NEWER": "b", "UV_CACHE_DIR": "c",
               "PIP_INDEX_URL": "d", "VIRTUAL_ENV": "e"}  # fmt: skip
    index = {"UV_DEFAULT_INDEX": "f", "UV_INDEX": "g", "UV_INDEX_STRATEGY": "unsafe-best-match",
             "PIP_INDEX_URL": "h", "HTTPS_PROXY": "i"}  # fmt: skip
    assert locking.environment(outside, index) == {
        "PATH": "/bin", "UV_CACHE_DIR": "c", "UV_DEFAULT_INDEX": "f", "HTTPS_PROXY": "i"
    }  # fmt: skip


# The real uv, against an index on loopback that holds wheels of a few bytes.


class Index(BaseHTTPRequestHandler):
    wheels: ClassVar[dict[str, tuple[bytes, str]]] = {}  # file name -> its bytes, the day it was uploaded

    def do_GET(self) -> None:
        part = self.path.strip("/").split("/")
        if part[0] == "files":
            return self.send(metadata(self.wheels[part[1].removesuffix(".metadata")][0]), "text/plain")
        found = [{"filename": name, "url": f"/files/{name}", "core-metadata": True,
                  "upload-time": f"{day}T00:00:00Z", "hashes": {"sha256": hashlib.sha256(data).hexdigest()}}
                 for name, (data, day) in self.wheels.items()
                 if name.split("-")[0] == part[1].replace("-", "_")]  # fmt: skip
        page = {"meta": {"api-version": "1.1"}, "name": part[1], "versions": [], "files": found}
        self.send(json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json", 200 if found else 404)

    def send(self, body: bytes, kind: str, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def metadata(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return next(archive.read(each) for each in archive.namelist() if each.endswith("/METADATA"))


def wheel(name: str, version: str, day: str, *needs: str, tag: str = "py3-none-any") -> str:
    """Puts a wheel into the index; returns its sha256."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        required = "".join(f"Requires-Dist: {each}\n" for each in needs)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}"
        )
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    data = made.getvalue()
    Index.wheels[f"{name.replace('-', '_')}-{version}-{tag}.whl"] = (data, day)
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A served index, a line `demo` whose input asks for `top`, and uv's environment for the two."""
    monkeypatch.setattr(Index, "wheels", {})
    monkeypatch.setattr(lines, "STACKS", tmp_path / "the stacks")
    folder = lines.STACKS / "demo"
    folder.mkdir(parents=True)
    (folder / "requirements.in").write_text("top  # a comment\n")
    (folder / "line.toml").write_text(
        'summary = "s"\npythons = ["3.12"]\nglibc = "2.35"\nexclude_newer = "2026-06-01"\n'
        'extensions = ["heavy"]\n'
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kept = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "cache")}
    yield kept | {
        "UV_DEFAULT_INDEX": f"http://127.0.0.1:{server.server_port}/simple",
        "NO_PROXY": "127.0.0.1",
    }
    server.shutdown()
    server.server_close()


def written(environment: dict[str, str], upgrade: bool = False) -> Lock:
    done = locking.lock(lines.load("demo"), [AMD64], ["3.12"], environment, upgrade=upgrade)
    return lockfile.parse(done[0].path.read_text(), "demo")


def test_a_lock_from_the_index(index: dict[str, str]) -> None:
    top = wheel("top", "1.0", "2026-05-01", "below[fast]>=1", "heavy==9")
    mine = wheel("below", "1.2", "2026-05-01", tag="cp312-cp312-manylinux_2_28_x86_64")
    wheel("below", "1.2", "2026-05-01", tag="cp312-cp312-manylinux_2_28_aarch64")
    wheel("below", "1.2", "2026-05-01", tag="cp313-cp313-manylinux_2_28_x86_64")
    wheel("below", "1.2", "2026-05-01", tag="cp312-cp312-manylinux_2_39_x86_64")
    wheel("below", "2.0", "2026-06-02")  # after the line's date
    lock = written(index)
    assert lock.packages == (Locked("below", "1.2", (mine,)), Locked("top", "1.0", (top,)))
    assert locking.stale(lines.load("demo"), AMD64, "3.12") is None
    assert "127.0.0.1" not in lines.load("demo").lock(AMD64, "3.12").read_text()


def test_versions_stay_where_they_fit_and_move_when_asked(index: dict[str, str]) -> None:
    wheel("top", "1.0", "2026-05-01", "below")
    wheel("below", "1.0", "2026-05-01")
    before = written(index)
    wheel("below", "1.1", "2026-05-02")
    wheel("top", "1.1", "2026-05-02", "below")
    (lines.STACKS / "demo/requirements.in").write_text("top>1.0\n")
    assert "another input" in (locking.stale(lines.load("demo"), AMD64, "3.12") or "")
    index["UV_CACHE_DIR"] += "2"  # uv keeps index pages for ten minutes
    after = written(index)
    assert (before.version("top"), after.version("top")) == ("1.0", "1.1")
    assert after.version("below") == "1.0"
    assert written(index, upgrade=True).version("below") == "1.1"


def test_what_does_not_resolve_leaves_the_lock_alone(index: dict[str, str]) -> None:
    wheel("top", "1.0", "2026-05-01")
    written(index)
    path = lines.load("demo").lock(AMD64, "3.12")
    before = path.read_bytes()
    (lines.STACKS / "demo/requirements.in").write_text("top>=2\n")
    with pytest.raises(InvalidFileError, match="could not lock line demo") as told:
        written(index)
    assert "top" in told.value.message and "exclude_newer" in (told.value.hint or "")
    assert path.read_bytes() == before and not list(path.parent.glob(".*"))


def test_a_line_that_says_nonsense_is_named(index: dict[str, str]) -> None:
    (lines.STACKS / "demo/requirements.in").write_text("top ==== 3\n")
    with pytest.raises(InvalidFileError, match="top ==== 3"):
        written(index)


def test_an_index_that_is_not_there(index: dict[str, str]) -> None:
    index["UV_DEFAULT_INDEX"] = "http://127.0.0.1:9/simple"
    index["UV_HTTP_RETRIES"] = "0"
    with pytest.raises(NetworkError, match="could not lock line demo"):
        written(index)


def test_what_uv_says_of_a_full_disk_or_of_nothing_known() -> None:
    assert (
        type(locking._failure("x", "error: No space left on device (os error 28)")).__name__ == "NoSpaceError"
    )
    assert (
        type(locking._failure("x", "error: HTTP status client error (401 Unauthorized)")).__name__
        == "AuthError"
    )
    assert type(locking._failure("x", "error: something else")) is BuildError
