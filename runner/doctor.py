"""What this machine has and lacks, found by asking the parts themselves.

Asks and reads only; nothing is changed, and nothing goes over the network unless `network` is given.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct, structs

from containers import apt, engine, host, secrets
from definitions import bases
from kit import process, settings
from kit.errors import MissingToolError, NetworkError, SlipworksError, UnpinnedError

ROOM = 4 << 30  # bytes: a small image, its base, its layer, and the same again while they are being built
PATIENCE = 30.0  # seconds for a program that may hang, such as nvidia-smi on a machine with a sick GPU


class Finding(Struct, frozen=True):
    """One line of the answer.

    needed  the local job (`make demo`) cannot do without it
    hint    what helps where it is lacking
    """

    name: str
    ok: bool
    found: str
    needed: bool = False
    hint: str | None = None


def examine(*, network: bool = False) -> tuple[Finding, ...]:
    """All findings, in a fixed order: programs, engines, host, room, GPUs, and the network where asked."""
    return (
        *_programs(),
        *_engines(),
        *(Finding(point.name, point.ok, point.found, hint=point.hint) for point in host.facts().points()),
        *_room(),
        _gpus(),
        *((_index(), _registry()) if network else ()),
    )


def verdict(findings: tuple[Finding, ...], cluster: str | None = None) -> None:
    """Raises MissingToolError, with the first hint, if the local job cannot run here.

    With a `cluster`: if no job can be submitted there.
    """
    lacking = [each for each in findings if each.needed and not each.ok]
    if lacking:
        cannot = (
            f"no job can be submitted to {cluster} from here" if cluster else "the local job cannot run here"
        )
        raise MissingToolError(
            f"{cannot}; lacking: {', '.join(each.name for each in lacking)}",
            next((each.hint for each in lacking if each.hint), None),
        )


def _programs() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= (3, 11), f"{version} at {sys.executable}", True,
                  "./setup.sh kit")  # fmt: skip
    yield asked("uv", _uv, needed=True, hint="./setup.sh kit")
    where = apt.host_distribution()
    yield Finding("apt", where is not None, where or "not a Debian or Ubuntu host",
                  hint="a base from a registry needs no apt: make image BASE=python312")  # fmt: skip
    yield _base(made_here=where is not None)


def _base(*, made_here: bool) -> Finding:
    """What the local job's image stands on: made here where there is apt, else pulled (see `make demo`)."""
    pulled = bases.load("python312")

    def ask() -> str:
        if made_here:
            return "bootstrap, made on this machine"
        if not pulled.digest:
            raise UnpinnedError(f"{pulled.name}, which is pulled without apt, is not pinned", "make pins")
        return (
            f"{pulled.name}, pulled from {pulled.reference}: that registry must be reached (--network asks)"
        )

    return asked("a base", ask, needed=True)


def _registry() -> Finding:
    """Asks the registry of the base that is pulled; the local job needs it only where there is no apt."""
    pulled = bases.load("python312")

    def ask() -> str:
        from image_cache import registry

        registry.resolve(pulled.reference)
        return f"has {pulled.reference}"

    return asked("the base's registry", ask, needed=apt.host_distribution() is None,
                  hint="a Debian or Ubuntu machine, which needs no registry")  # fmt: skip


def _engines() -> Iterator[Finding]:
    runs = []
    for name in engine.names():
        each = engine.get(name)
        finding = asked(name, each.check, hint=host.install_hint(name))
        if finding.ok and each.runs:
            runs.append(name)
        yield finding
    yield Finding("an engine that runs jobs", bool(runs), ", ".join(runs) or "none of them works here",
                  True, "./setup.sh demo")  # fmt: skip


def _room() -> Iterator[Finding]:
    loaded = settings.load().settings
    for name, value, wanted in (("cache", loaded.cache, ROOM), ("runs", loaded.runs, 0)):

        def ask(name: str = name) -> str:
            return str(settings.writable(name))

        answer = asked(f"room for {name}", ask, needed=True)
        hint = f"SLIPWORKS_{name.upper()}=/another/folder runner doctor"
        if answer.ok:
            folder = Path(value).expanduser().absolute()
            free = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free
            told = f"{free / 2**30:.1f} GiB free in {folder}"
            answer = structs.replace(answer, ok=free >= wanted, found=told)
        yield structs.replace(answer, hint=hint)


def _gpus() -> Finding:
    def ask() -> str:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        listed = process.run(query, what="list the GPUs", timeout=PATIENCE, error=MissingToolError).out
        names = [" ".join(line.split()) for line in listed.splitlines() if line.strip()]
        return "; ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "none"

    if not shutil.which("nvidia-smi"):
        return Finding("GPUs", False, "no nvidia-smi", hint="not needed for ARCH=cpu")
    return asked("GPUs", ask, hint="nvidia-smi")


def _uv() -> str:
    from uv import find_uv_bin

    return process.run(
        [find_uv_bin(), "--version"], what="ask uv for its version", timeout=PATIENCE
    ).out.strip()


def _index() -> Finding:
    """Asks the package index that this machine's settings name for one small package, past every cache."""
    from uv import find_uv_bin

    def ask() -> str:
        argv = [find_uv_bin(), "pip", "compile", "--no-cache", "--no-deps", "--quiet", "-"]
        environment = {**os.environ, **secrets.index_values(os.environ)}
        process.run(argv, what="ask the package index", env=environment, stdin=b"iniconfig\n",
                    timeout=PATIENCE, error=NetworkError)  # fmt: skip
        return "answers"

    return asked(
        "package index", ask, hint="set UV_DEFAULT_INDEX or a proxy, or build where there is internet"
    )


def asked(name: str, ask: Callable[[], str], *, needed: bool = False, hint: str | None = None) -> Finding:
    """What `ask` answers; or, as lacking, in one line why it failed, with the failure's own hint."""
    try:
        return Finding(name, True, ask(), needed)
    except SlipworksError as reason:
        return Finding(name, False, _one_line(reason.message), needed, reason.hint or hint)


def _one_line(message: str) -> str:
    """The message; of the output that it quotes the last line, which mostly is the cause."""
    first, *quoted = [line.strip() for line in message.splitlines() if line.strip()]
    return f"{first.removesuffix('its last lines:').rstrip(' ,;:')}: {quoted[-1]}" if quoted else first
