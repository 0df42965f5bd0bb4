"""One layer of a stack: a group of locked packages below /opt/stack, as a plain tar.

uv installs them for the target platform, by hard links from its cache, into an environment that says nothing
of this machine; a native Python of the image's version byte-compiles them. Nothing of the target platform is
run, and equal specs give equal bytes. A file that was installed is never written to: it is uv's as well.

The spec names its compiler: a package and its version, or the digest of the image's base. Where a base's own
Python compiles for a foreign platform, it is that of this machine's base, of the same suite: if the two were
bootstrapped on different days, their Pythons may differ in the patch release, which the key does not tell.
Byte code of one minor version has one format.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from msgspec import json

from containers import complaints, secrets, stack_site, stack_tar
from containers.interpreter import ENVIRONMENT, Interpreter
from containers.layer import own_tool
from containers.root_tar import MTIME
from kit import process, share
from kit.errors import HashMismatchError, UnsupportedError
from kit.nouns import StackLayer, digest, key_of

Update = Callable[[str], None]

STACK = "/opt/stack"
_RECIPE = ("compile_tree.py", "interpreter.py", "stack.py", "stack_site.py", "stack_tar.py")
# Of uv's own variables those that say how to reach an index; none that decides what is installed, or how.
_KEPT = (
    "UV_CACHE_DIR", "UV_CONCURRENT_DOWNLOADS", "UV_CONCURRENT_INSTALLS", "UV_HTTP_RETRIES", "UV_HTTP_TIMEOUT",
    "UV_INSECURE_HOST", "UV_KEYRING_PROVIDER", "UV_NATIVE_TLS", "UV_OFFLINE", "UV_SYSTEM_CERTS",
)  # fmt: skip


def key(spec: StackLayer) -> str:
    """64 hex digits over all that goes in. Runs and downloads nothing; milliseconds."""
    here = Path(__file__).parent
    return key_of(
        {
            "spec": json.encode(spec, order="deterministic").decode(),
            "recipe": digest(b"".join((here / name).read_bytes() for name in _RECIPE)),
            "time": str(MTIME),
            "uv": metadata.version("uv"),
        }
    )


def tar(
    spec: StackLayer,
    python: Callable[[], Interpreter],
    work: Path,
    update: Update,
    *,
    wheelhouse: Path | None = None,
    torch_index: str | None = None,
) -> Iterator[bytes]:
    """The layer, in pieces of about 1 MiB; the work begins with the first.

    python       gives a native Python of the spec's version, where packages are to be compiled
    work         an empty folder; on the file system of uv's cache nothing is copied. The caller removes it.
    wheelhouse   holds each of `spec.group.wheels` in a folder named by its sha256
    torch_index  one more package index

    HashMismatchError names the package and the file; NetworkError, NoSpaceError and BuildError as they come.
    """
    stage = work / "stage"
    if spec.group.whole is not None:
        stack_site.environment(stage, spec)
    else:
        _Install(spec, stage, work, update, torch_index).all(wheelhouse)
        _finish(spec, python(), stage, work, update)
    update("tar")
    yield from stack_tar.pieces(stage, STACK.lstrip("/"))


def _finish(spec: StackLayer, interpreter: Interpreter, stage: Path, work: Path, update: Update) -> None:
    """Makes of what uv installed what the image has: its Python's folders, CUDA's folder, byte code."""
    stack_site.settle(stage, spec)
    site = stack_site.site(stage, spec.python)
    if spec.cuda_home:
        script = work / "cuda_home.py"
        script.write_text(spec.cuda_home)
        argv = interpreter.argv(script, site, spec.platform.machine)
        process.run(argv, what="lay out CUDA's folder", env=ENVIRONMENT)
    update("byte code")
    compiling = interpreter.compiling(stage, [str(site.relative_to(stage))], Path(STACK), jobs=share.cpus())
    # By `stream`: a group takes a minute, and is built beside others, which may fail meanwhile.
    what = f"byte-compile the group {spec.group.name}"
    process.stream(compiling, what=what, on_line=update, env=ENVIRONMENT)


class _Install:
    """uv, told what to do for one layer. Its Python is our own: it only gives the environment its shape."""

    def __init__(
        self, spec: StackLayer, stage: Path, work: Path, update: Update, torch_index: str | None
    ) -> None:
        self.spec, self.stage, self.work, self.update = spec, stage, work, update
        self.what = f"install the group {spec.group.name} of the stack for {spec.platform}"
        self.uv = str(own_tool("uv"))
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PYTHON"))}
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        found = secrets.index_values(os.environ, torch_index=torch_index)
        self.env = {**ours, **kept, **found, "UV_PYTHON_DOWNLOADS": "never"}

    def all(self, wheelhouse: Path | None) -> None:
        """The group's packages, from its lock and from the wheelhouse."""
        self.environment()
        if self.spec.group.lock:
            self.locked()
        if self.spec.group.wheels:
            self.extensions(wheelhouse)

    def environment(self) -> None:
        """An empty environment: scripts put into it look for their interpreter beside themselves."""
        argv = [self.uv, "venv", "--no-config", "--quiet", "--relocatable", "--no-project",
                "--python", sys.executable, str(self.stage)]  # fmt: skip
        process.run(argv, what=self.what, env=self.env)
        stack_site.bare(self.stage)

    def locked(self) -> None:
        """Exactly what the group's lock names."""
        lock, tools = self.work / "lock", self.work / "build.lock"
        lock.write_text(self.spec.group.lock)
        # Every file is checked by its hash, so it does not matter which index offers it.
        options = ["--index-strategy", "unsafe-best-match"]
        if self.spec.source:
            tools.write_text(self.spec.tools)
            options += ["--build-constraints", str(tools)]
        for name in self.spec.source:
            # uv's cache offers what it once built, whatever it was built with, unless settings differ: so
            # there is one, that no build looks at.
            setting = f"{name}:build-lock={digest(self.spec.tools.encode())[7:23]}"
            options += ["--no-binary", name, "--config-settings-package", setting]
        self._pip(lock, options)

    def extensions(self, wheelhouse: Path | None) -> None:
        """The wheels of the wheelhouse, and nothing from an index."""
        if wheelhouse is None:
            raise UnsupportedError(f"could not {self.what}: no wheelhouse was given")
        wanted, wheels = self.work / "wheels", self.spec.group.wheels
        wanted.write_text("".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in wheels))
        # Each lies in a folder named by its hash: two GPUs have wheels of one name. (Named by its place
        # instead of found by a name, a wheel would leave that place in its record.)
        folders = [word for w in wheels for word in ("--find-links", str(wheelhouse / w.sha256))]
        self._pip(wanted, ["--no-index", *folders])

    def _pip(self, requirements: Path, options: Sequence[str]) -> None:
        glibc, python = self.spec.glibc.replace(".", "_"), str(self.stage / "bin/python")
        argv = [
            self.uv, "pip", "install", "--no-config", "--no-progress", "--python", python,
            "--python-platform", f"{self.spec.platform.machine}-manylinux_{glibc}",
            "--python-version", self.spec.python, "--no-deps", "--require-hashes", "--only-binary", ":all:",
            *options, "--link-mode", "hardlink", "--requirements", str(requirements),
        ]  # fmt: skip
        self._run(argv)
        # uv installs all packages at once: which of two files with one name stays is chance.
        for package in stack_site.contested(self.stage):
            if not stack_site.as_recorded(self.stage, package):
                # Not --reinstall-package, which downloads once more.
                removing = [self.uv, "pip", "uninstall", "--no-config", "--quiet", "--python", python]
                process.run([*removing, package.name], what=self.what, env=self.env)
                self._run(argv)

    def _run(self, argv: list[str]) -> None:
        said: list[str] = []

        def heard(line: str) -> None:
            said.append(line)
            self.update(line)

        with secrets.gathered() as found:
            env = {**self.env, "SSL_CERT_FILE": str(found.ca)} if found.ca else self.env
            try:
                complaints.stream(argv, what=self.what, base=None, update=heard, env=env)
            except HashMismatchError:
                # Which file it was uv tells only when it is verbose: once more, for that line alone.
                told = process.run([*argv, "--verbose"], what=self.what, env=env, check=False)
                files = [line for line in (told.out + told.err).splitlines() if "Selecting: " in line]
                raise complaints.explain(self.what, "\n".join(said + files), None) from None
