"""Putting an extension into the wheelhouse: compiled in the image that it is for, or taken as published.

It is compiled natively, once, for one arch's compute capabilities, by the compiler and torch of the image.
Either way it is checked before it is put: name, version, tags, and machine code for the arch's GPUs.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from containers import elf, fatbin, native_build, secrets
from containers.engine import Bind, ContainerRun, Engine
from containers.stack import STACK
from definitions import extensions, locking
from definitions.extensions import Extension
from image_cache import downloads, wheel_file
from image_cache.wheelhouse import Kept
from kit import process, say, share
from kit.errors import (
    BuildError,
    HashMismatchError,
    HostError,
    InvalidFileError,
    SlipworksError,
    UnsupportedError,
    VerifyError,
)
from kit.nouns import Platform, digest_file
from kit.shell import line as line_of
from runner import images, scratch, wheels
from runner.wheels import Order, lock_of

COMPILERS = 13  # the first CUDA whose compiler comes as wheels: those of CUDA 12 have no nvcc
PLACE, GIVEN = "/slipworks-build", "/slipworks-given"
RESERVE = 2 * 2**30  # bytes for everything that is no compile job


# -- published ----------------------------------------------------------------------------------------------


def take(order: Order, source: str, sha256: str) -> Kept:
    """Takes a published wheel, from a URL or a file, after all that can be checked of it was.

    HashMismatchError for other bytes; InvalidFileError for another package or version; UnsupportedError for
    another Python or platform; VerifyError where it has no code for the arch's GPUs.
    """
    told = shown(source, sha256)
    shelf = wheels.house()
    with shelf.writable(), scratch.folder(images.store(), "taken-") as folder:
        remote = "://" in source
        name = told.rpartition("/")[2].replace("%2B", "+").replace("%2b", "+")
        path = folder / name
        if remote:
            with say.step(f"downloading {told}") as update:
                downloads.fetch(source, path, sha256=sha256, authorities=_authorities(), update=update)
        else:
            _copied(Path(source), path, sha256)
        return _put(order, path, told, None)


def shown(source: str, sha256: str) -> str:
    """Where the wheel is taken from, without what may not be told. Downloads and reads nothing.

    InvalidFileError for what is no hash or no file; UnsupportedError for what is no URL.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidFileError(f"--sha256 is 64 hex digits, found {sha256!r}", "sha256sum FILE")
    if "://" in source:
        return downloads.shown(source)
    if not Path(source).is_file():
        raise InvalidFileError(f"there is no file {source}", line_of(["ls", "-l", str(Path(source).parent)]))
    return source


def _copied(source: Path, path: Path, sha256: str) -> None:
    try:
        shutil.copyfile(source, path)
    except OSError as bad:
        raise InvalidFileError(
            f"cannot read {source}: {bad.strerror}", line_of(["ls", "-l", str(source)])
        ) from bad
    if (got := digest_file(path).removeprefix("sha256:")) != sha256:
        raise HashMismatchError(f"{source} has sha256 {got}: expected {sha256}")


def _authorities() -> str:
    return secrets.certificates(os.environ)


def _put(order: Order, path: Path, origin: str, seconds: float | None) -> Kept:
    """Checks the wheel and puts it into the wheelhouse."""
    version = wheel_file.check(path, order.extension.name, order.extension.version, order.target)
    codes, glibc = inspected(path, order.platform, order.arch.compute_capabilities)
    return wheels.house().put(
        path, name=order.extension.name, version=version, purpose=order.purpose, origin=origin, codes=codes,
        glibc=glibc, seconds=seconds,
    )  # fmt: skip


def inspected(
    path: Path, platform: Platform, capabilities: tuple[str, ...]
) -> tuple[tuple[str, ...], str | None]:
    """The GPU code of a wheel's libraries, as sm_90, and the newest glibc that they ask for.

    VerifyError where a library is for another machine, or none has machine code for a capability.
    """
    codes: set[fatbin.Code] = set()
    glibc: tuple[int, ...] = ()
    for name, raw in wheel_file.libraries(path):
        stream, where = io.BytesIO(raw), f"{path.name}: {name}"
        claims, section = elf.read_section(stream, fatbin.SECTION, where)
        if claims.machine != platform.machine:
            raise VerifyError(f"{where} is for {claims.machine}: expected {platform.machine}")
        glibc = max(glibc, claims.glibc)
        if section:
            codes |= {code for fat in fatbin.read(stream, *section, where) for code in fat.codes}
    names = tuple(dict.fromkeys(map(str, sorted(codes))))  # packed and plain code has one name
    for capability in capabilities:
        if not any(code.kind == "sass" and code.runs_on(capability) for code in codes):
            have = ", ".join(names) or "none at all"
            raise VerifyError(
                f"{path.name} has no machine code for compute capability {capability}: it has {have}"
            )
    return names, ".".join(map(str, glibc)) or None


# -- compiled -----------------------------------------------------------------------------------------------


def refuse(order: Order) -> None:
    """UnsupportedError, with the way out, for what cannot be compiled on this machine."""
    name, cuda = order.extension.name, order.line.cuda or "0"
    if order.platform != Platform.host():
        raise UnsupportedError(
            f"{name} for {order.platform} cannot be compiled on {Platform.host()}: its setup runs programs of"
            " the target, and nothing is emulated",
            f"on a node that is {order.platform}: {line_of(order.words)}  or here: {order.published()}",
        )
    if int(cuda.partition(".")[0]) < COMPILERS:
        raise UnsupportedError(
            f"{name} cannot be compiled for line {order.line.name}: the package index has no nvcc for CUDA"
            f" {cuda}, so its images hold no compiler",
            order.published(),
        )
    lock = lock_of(order.line, order.platform, order.base.python)
    if lacking := order.extension.missing(lock):
        raise UnsupportedError(
            f"{name} cannot be compiled in line {order.line.name}: its lock lacks {', '.join(lacking)}",
            f"add them to {order.line.folder / 'requirements.in'}, then make lock LINE={order.line.name}",
        )


def jobs(order: Order, asked: int | None) -> int:
    """How many compile jobs run: what was asked for, else what CPUs and memory of this process allow."""
    if asked is not None:
        return asked
    memory = share.memory()
    fitting = extensions.jobs(order.extension, share.cpus(), memory - RESERVE)
    if fitting < 1:
        raise HostError(
            f"{order.extension.name} needs {order.extension.memory} GB for one compile job, and"
            f" {RESERVE >> 30} GB beside: this process may use {memory / 2**30:.1f} GB",
            line_of([*order.words, "--jobs", "1"]) + "  (may be ended for lack of memory)",
        )
    return fitting


def container(order: Order, image: str, place: Path, given: Path, source: str, jobs: int) -> ContainerRun:
    """The process that compiles: in `place` of this machine, from `given`, which it cannot change. Pure."""
    program = Path(native_build.__file__).name
    capabilities = order.arch.compute_capabilities
    return ContainerRun(
        image=image,
        argv=(f"{STACK}/bin/python", "-I", f"{GIVEN}/{program}", f"{GIVEN}/{source}", PLACE,
              ",".join(capabilities)),
        env=order.extension.variables(capabilities, jobs),
        binds=(Bind(place, PLACE), Bind(given, GIVEN, read_only=True)),
        workdir=PLACE,
        name=f"slipworks-wheel-{order.key[:12]}-{os.getpid()}",
    )  # fmt: skip


def compile(order: Order, engine: Engine, image: Callable[[], str], count: int) -> Kept:
    """The wheel, compiled now where the wheelhouse has none. `image`: makes the image and names it."""
    return wheels.house().ensure(order.key, lambda: _compiled(order, engine, image(), count))


def _compiled(order: Order, engine: Engine, image: str, count: int) -> Kept:
    name, version = order.extension.name, order.extension.version
    source = sources(order.extension)
    log = wheels.house().root / "logs" / f"{name}-{order.key[:12]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with scratch.folder(images.store(), "wheel-") as folder:
        place, given = folder / "place", folder / "given"
        for each in (place, given):
            each.mkdir()
        for each in (source, Path(native_build.__file__)):
            shutil.copyfile(each, given / each.name)
        run = container(order, image, place, given, source.name, count)
        began = time.monotonic()
        with say.step(f"compiling {name} {version} for {order.arch.name} with {count} jobs") as update:
            _run(run, engine, log, name, update)
        made = sorted((place / "wheels").glob("*.whl"))
        if len(made) != 1:
            raise BuildError(f"compiling {name} ended well, and left {len(made)} wheels", f"less {log}")
        return _put(order, made[0], "compiled", round(time.monotonic() - began, 1))


def _run(run: ContainerRun, engine: Engine, log: Path, name: str, update: Callable[[str], None]) -> None:
    with log.open("w") as file:

        def heard(line: str) -> None:
            file.write(f"{line}\n")
            update(line)

        try:
            code = process.stream(engine.run_argv(run), what=f"compile {name}", on_line=heard, check=False)
        except BaseException:
            if remove := engine.remove_argv([run.name or ""]):
                process.finish(remove, what="remove the container")
            raise
    if code:
        raise failure(name, code, log)


# The line that says why stands far above the end, where setup's own traceback is.
_REASON = re.compile(r"\berror\b[: ]|\bKilled\b|Error: |No space left|Signals\.SIGKILL", re.IGNORECASE)


def failure(name: str, code: int, log: Path) -> SlipworksError:
    lines = log.read_text(errors="replace").splitlines()
    reasons = [each.strip()[:200] for each in lines if _REASON.search(each) and "ptxas info" not in each]
    told = "\n".join(f"  {each}" for each in (reasons[:3] or lines[-process.TAIL :]))
    if any("Killed" in each or "SIGKILL" in each for each in reasons):
        return HostError(
            f"could not compile {name}: a compile job was ended, likely for lack of memory:\n{told}",
            "the same with --jobs 1",
        )
    return BuildError(f"could not compile {name}: exit code {code}:\n{told}", f"less {log}")


def sources(extension: Extension) -> Path:
    """The source archive, checked by its hash; downloaded once, from the machine's package index."""
    kept = wheels.house().root / "sources" / extension.sha256
    for path in kept.glob("[!.]*"):
        if digest_file(path) == f"sha256:{extension.sha256}":
            return path
    values = secrets.index_values(os.environ)
    with say.step(f"downloading the sources of {extension.name} {extension.version}") as update:
        url = extensions.locate(extension, locking.environment(os.environ, values))
        path = kept / url.rpartition("/")[2].partition("#")[0]
        with wheels.house().writable():
            downloads.fetch(
                _with_key(url, values),
                path,
                sha256=extension.sha256,
                authorities=_authorities(),
                update=update,
            )
    return path


def _with_key(url: str, values: dict[str, str]) -> str:
    """uv tells addresses without credentials; those of the index are good for files of the same host."""
    key = re.match(r"(?:[\w.-]+=)?(https?://)([^/@]+@)([^/]+)", values.get("UV_DEFAULT_INDEX", ""))
    if key and url.startswith(f"{key[1]}{key[3]}/"):
        return url.replace(key[1], key[1] + key[2], 1)
    return url
