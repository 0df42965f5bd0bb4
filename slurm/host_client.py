"""The host's own Slurm client, from within a container whose libraries are others.

A program of the host does not start in an image with an older C library, nor would its plugins load. So it is
started by the host's own loader with the host's own libraries, which a container has below one folder
(client.HOST); what Slurm looks for by absolute paths is bound at those. The image is not touched.

`facts` looks, on the host (root /) and again inside (root HOST); `needed` is what has to be bound; `loaded`
is the way to the programs, or the one error that names what is missing.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct

from kit.errors import MissingToolError
from slurm import config
from slurm.rooted import below, real
from slurm.ways import as_host

PROGRAMS = "/slurm-bin"
"""The folder of the host's client, below HOST: sites keep it anywhere."""
FILES = ("/etc/passwd", "/etc/nsswitch.conf", "/etc/hosts")
_LOADER_FILES = ("/etc/ld.so.conf", "/etc/ld.so.conf.d")
_NAMES = ("/var/lib/sss/pipes",)  # where names of users come from sssd
_STANDARD = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
_TRUNKS = ("/usr", "/lib", "/lib64")
_SACK = "/run/slurm/sack.socket"
_MUNGE = "/run/munge/munge.socket.2"
_TOO_HIGH = ("/", "/run", "/var/run", "/tmp", "/var/tmp", "/etc", "/usr", "/var")


class HostFacts(Struct, frozen=True, kw_only=True):
    """A host's Slurm client. All paths as the host has them.

    programs   the folder of sbatch, without links.
    interpreter  the loader that the programs ask for; loader: the same without links.
    libraries  folders for the loader; trunks: those above most of them, and of the links between them.
    plugins    folders that have to be seen at these very paths: Slurm's own plugins, and demanded SPANK ones.
    conf       slurm.conf; None: not found.  sockets: of munge, or of SACK where the site has no munge.
    others     files and folders that exist there and should be seen inside: names of users and hosts.
    """

    programs: str
    interpreter: str
    loader: str
    libraries: tuple[str, ...]
    trunks: tuple[str, ...]
    plugins: tuple[str, ...]
    conf: str | None
    sockets: tuple[str, ...]
    others: tuple[str, ...] = ()


def facts(
    programs: str,
    environment: Mapping[str, str],
    root: Path = Path("/"),
    settings: Path = Path("/"),
) -> HostFacts:
    """Of the client in the folder `programs` below `root`; its settings are read below `settings`.

    MissingToolError where sbatch is not there, or is a script: then somebody else's idea of sbatch is here.
    """
    place = real(root, programs)
    sbatch = below(root, f"{place}/sbatch")
    if not sbatch.is_file():
        raise MissingToolError(f"there is no sbatch in {root / place.lstrip('/')}")
    elf = _elf(sbatch)
    if elf is None or not elf.interpreter:
        raise MissingToolError(f"{sbatch} is no program that a loader starts (a script around sbatch?)")
    loader = real(root, elf.interpreter)
    libraries = tuple(_libraries(root, place, loader, elf.runpath))
    conf = config.find(environment, settings)
    values = config.values(conf, settings) if conf else {}
    plugins = dict.fromkeys(_plugins(root, libraries, elf.runpath, values))
    if conf:
        plugins |= dict.fromkeys(
            str(PurePosixPath(file).parent) for file in config.spank(conf, values, settings)
        )
    others = tuple(each for each in (*FILES, *_NAMES) if below(settings, each).exists())
    return HostFacts(
        programs=place, interpreter=elf.interpreter, loader=loader, libraries=libraries, conf=conf,
        trunks=tuple(each for each in _TRUNKS if below(root, each).is_dir()), plugins=tuple(plugins),
        sockets=_sockets(root, libraries, values), others=others,
    )  # fmt: skip


def needed(facts: HostFacts, host: str) -> tuple[tuple[str, str], ...]:
    """What a container must have bound, as (path of the host, path inside); read-only will do. Pure.

    Programs and libraries below `host`, where they are in nobody's way; all else at its own path. Of munge
    the folder and not the socket, which a restart replaces.
    """
    folders = [_folder(facts.interpreter), _folder(facts.loader), *facts.libraries]
    apart = [each for each in folders if not any(_within(each, trunk) for trunk in facts.trunks)]
    pairs = {f"{host}{each}": each for each in (*facts.trunks, *apart, *_LOADER_FILES)}
    pairs[f"{host}{PROGRAMS}"] = facts.programs
    own = [*facts.plugins, *(_folder(each) for each in facts.sockets), *facts.others]
    if facts.conf:
        own.append(_folder(facts.conf))
    pairs |= {each: each for each in own}
    outer = [
        target for target in pairs if not any(_within(target, other) and target != other for other in own)
    ]
    return tuple((pairs[target], target) for target in sorted(outer))


def variables(facts: HostFacts) -> dict[str, str]:
    """What the environment inside has to say."""
    return {"SLURM_CONF": facts.conf} if facts.conf else {}


class Loaded(Struct, frozen=True, kw_only=True):
    """The host's programs, started by its loader."""

    root: Path
    facts: HostFacts
    name: str = "the host's own client"
    shared: bool = True

    def argv(self, program: str, words: Sequence[str]) -> list[str]:
        at = [str(below(self.root, each)) for each in self.facts.libraries]
        loader = str(below(self.root, self.facts.loader))
        file = str(below(self.root, f"{self.facts.programs}/{program}"))
        # --inhibit-cache: the cache that lies at the usual place is the image's.
        return [loader, "--inhibit-cache", "--library-path", ":".join(at), file, *words]

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        return as_host(given)


def loaded(root: Path, environment: Mapping[str, str], settings: Path = Path("/")) -> Loaded:
    """The host's client below `root`; MissingToolError that names all that it lacks, asking no server."""
    found = facts(PROGRAMS, environment, root, settings)
    lacks = tuple(missing(found, environment, root, settings))
    if lacks:
        raise MissingToolError(f"the host's client lacks: {', '.join(lacks)}")
    return Loaded(root=root, facts=found)


def missing(
    facts: HostFacts, environment: Mapping[str, str], root: Path, settings: Path = Path("/")
) -> Iterator[str]:
    """What is not there, in words. Quick: looks at files and knocks at sockets."""
    if not below(root, facts.loader).is_file():
        yield f"its loader {facts.loader} below {root}"
    if not facts.plugins:
        yield f"Slurm's libraries and plugins below {root}"
    for folder in facts.plugins:
        if not below(settings, folder).is_dir():
            yield f"the plugin folder {folder}"
    if facts.conf is None:
        yield config.lack(environment).removeprefix("there is no ")
    else:
        yield from _unknown_user(facts.conf, settings)
    for path in facts.sockets:
        if not _answers(below(settings, path)):
            yield f"the socket {path} of {'munge' if 'munge' in path else 'Slurm'}"


def _unknown_user(conf: str, settings: Path) -> Iterator[str]:
    user = config.values(conf, settings).get("slurmuser", "root")
    try:
        known = below(settings, "/etc/passwd").read_text(errors="replace")
    except OSError:
        known = ""
    # Clients stop where they cannot tell who SlurmUser is. Other sources of names cannot be asked from here.
    if not user.isdecimal() and f"\n{user}:" not in f"\n{known}" and not below(settings, _NAMES[0]).exists():
        yield f"the user {user} (SlurmUser) in /etc/passwd"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True


class _Elf(Struct, frozen=True):
    interpreter: str
    runpath: tuple[str, ...]


def _elf(path: Path) -> _Elf | None:
    """The loader and the library folders that a program names; None for what is no ELF file."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    runpath: list[str] = []
    interpreter = ""
    try:
        with path.open("rb") as file:
            for segment in ELFFile(file).iter_segments():
                if segment.header.p_type == "PT_INTERP":
                    interpreter = segment.get_interp_name()  # type: ignore[attr-defined]
                elif segment.header.p_type == "PT_DYNAMIC":
                    for tag in segment.iter_tags():  # type: ignore[attr-defined]
                        runpath += getattr(tag, "runpath", getattr(tag, "rpath", "")).split(":")
    except (ELFError, OSError):
        return None
    return _Elf(interpreter, tuple(each for each in runpath if each))


def _libraries(root: Path, programs: str, loader: str, runpath: Sequence[str]) -> Iterator[str]:
    """Folders in which that host's loader would look, those that exist, each once."""
    seen = set[str]()
    named = [each.replace("${ORIGIN}", programs).replace("$ORIGIN", programs) for each in runpath]
    for path in (*named, str(PurePosixPath(loader).parent), *_configured(root), *_STANDARD):
        if below(root, path).is_dir() and real(root, path) not in seen:
            seen.add(real(root, path))
            yield path


def _configured(root: Path, path: str = "/etc/ld.so.conf") -> Iterator[str]:
    try:
        lines = below(root, path).read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in (line.partition("#")[0].strip() for line in lines):
        if line.startswith("include"):
            pattern = PurePosixPath("/etc") / line.removeprefix("include").strip()
            for file in sorted(below(root, str(pattern.parent)).glob(pattern.name)):
                yield from _configured(root, f"{pattern.parent}/{file.name}")
        elif line.startswith("/"):
            yield line


def _plugins(
    root: Path, libraries: Sequence[str], runpath: Sequence[str], values: Mapping[str, str]
) -> Iterator[str]:
    """Where slurm.conf says, else where Slurm's own library lies: its plugins are beside it."""
    if said := values.get("plugindir"):
        yield from (each for each in said.split(":") if each)
    for folder in (
        *runpath,
        *(f"{each}/{name}" for each in libraries for name in ("slurm", "slurm-wlm")),
        *libraries,
    ):
        if any(below(root, folder).glob("auth_*.so")):
            yield folder
            return


def _sockets(root: Path, libraries: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    if values.get("authtype", "auth/munge") == "auth/slurm":
        return (_SACK,)
    if said := re.search(r"(?:^|,)\s*socket=([^,\s]+)", values.get("authinfo", "")):
        return (said[1],)
    for folder in libraries:
        library = below(root, f"{folder}/libmunge.so.2")
        if library.is_file() and (found := re.search(rb"/[\w./-]+/munge\.socket\.2", library.read_bytes())):
            return (found[0].decode(),)
    return (_MUNGE,)


def _folder(path: str) -> str:
    """Of a file, unless that would be a folder of everybody's."""
    parent = str(PurePosixPath(path).parent)
    return path if parent in _TOO_HIGH else parent


def _within(path: str, other: str) -> bool:
    return PurePosixPath(path).is_relative_to(other)
