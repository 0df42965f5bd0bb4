"""apt, the machine's own or a base's: where it takes packages from, and a private state to take others with.

Mirror, keyring, proxy, certificates and credentials are the machine's; nothing of them is written down here.
The host's own package lists and database are neither used nor changed, so no root is needed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from containers import apt_lists, complaints
from containers.apt_home import Home
from kit import process
from kit.errors import HostError, MissingToolError, NetworkError, NotFoundError, SlipworksError
from kit.nouns import Platform

Update = Callable[[str], None]
DISTRIBUTIONS = ("debian", "ubuntu")
_OTHER_HOST = "use a Debian or Ubuntu machine, or a base that is pulled from a registry"
_FIELDS = ("REPO_URI", "RELEASE", "COMPONENT", "ARCHITECTURE", "ORIGIN", "SOURCESENTRY")
_POCKETS = ("", "-updates", "-security")


class Entry(Struct, frozen=True):
    """One place that this machine's apt reads packages from."""

    uri: str
    release: str
    component: str
    arch: str
    origin: str
    file: str


class Sources(Struct, frozen=True, kw_only=True):
    """What apt must be told to take packages of one suite for one platform from this machine's mirrors."""

    distribution: str
    suite: str
    platform: Platform
    lines: tuple[str, ...]
    home: Home = Home()

    @property
    def text(self) -> str:
        """The lines as a sources.list."""
        return "".join(f"{line}\n" for line in self.lines)


def host_distribution() -> str | None:
    """debian or ubuntu where this machine is one, or made from one, and has apt; None elsewhere."""
    return _distribution(Path("/etc/os-release")) if shutil.which("apt-get") else None


def _distribution(release: Path) -> str | None:
    text = release.read_text() if release.exists() else ""
    words = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    for field in ("ID", "ID_LIKE"):
        for word in words.get(field, "").strip("\"'").split():
            if word in DISTRIBUTIONS:
                return word
    return None


def sources(distribution: str, suite: str, platform: Platform, native: Path | None = None) -> Sources:
    """The machine's own mirrors, asked for another suite and platform. HostError where it has none.

    `native`: an unpacked root of the distribution for this machine, whose apt and mirrors are used where this
    machine has none for it (`apt_home` says what becomes of it).
    """
    here, home = host_distribution(), Home()
    if here != distribution and native is not None:
        here, home = _distribution(native / "usr/lib/os-release"), Home(native)
        home.check()
    if here is None:
        raise MissingToolError("this machine has no apt, whose packages this is made of", _OTHER_HOST)
    if here != distribution:
        raise HostError(
            f"cannot take packages of {distribution}: this machine's are {here or 'another distribution'}'s",
            _OTHER_HOST,
        )
    own = _own(distribution, _entries(home))
    if distribution == "ubuntu" and platform != Platform.host():
        # Ubuntu keeps other architectures on another mirror, which only the machine's owner can name.
        own = [each for each in own if each.arch == platform.arch]
    if not own:
        raise HostError(
            f"this machine's apt sources name no {distribution} mirror with packages for {platform}",
            "apt-get indextargets 'Created-By: Packages' lists what they name",
        )
    return Sources(
        distribution=distribution,
        suite=suite,
        platform=platform,
        lines=tuple(_lines(own, distribution, suite, home)),
        home=home,
    )


def _entries(home: Home) -> list[Entry]:
    form = "\t".join(f"$({name})" for name in _FIELDS)
    told = process.run(
        home.argv("apt-get", "indextargets", "Created-By: Packages", "--format", form),
        what="read this machine's apt sources", error=HostError,
    )  # fmt: skip
    return [
        Entry(*line.split("\t")) for line in told.out.splitlines() if line.count("\t") == len(_FIELDS) - 1
    ]


def _own(distribution: str, entries: Iterable[Entry]) -> list[Entry]:
    """The entries that are the distribution's own: by the origin its Release file gives, or by their form."""
    named = {"debian": "Debian", "ubuntu": "Ubuntu"}[distribution]
    path = re.compile(rf"/{distribution}(-[a-z]+)?/?$")
    return [
        each for each in entries
        if each.component == "main" and (each.origin == named or path.search(each.uri.rstrip("/") + "/"))
    ]  # fmt: skip


def _lines(own: list[Entry], distribution: str, suite: str, home: Home) -> Iterator[str]:
    """One line for each of the suite, its updates and its security updates that the host has for its own."""
    trusted = _keyrings(own, distribution, home)
    option = f"[signed-by={','.join(trusted)}] " if trusted else ""
    rolling = suite in {"sid", "unstable"}
    for pocket in _POCKETS[:1] if rolling else _POCKETS:
        found = [each for each in own if _pocket(each.release) == pocket]
        if found:
            yield f"deb {option}{found[0].uri} {suite}{pocket} {_components(distribution)}"


def _pocket(release: str) -> str:
    """The end of a release's name that tells what it is for: `-security` of bookworm-security."""
    known = re.search(r"-(updates|security|backports|proposed|proposed-updates|lts)$", release)
    return known[0] if known else ""


def _components(distribution: str) -> str:
    return "main universe" if distribution == "ubuntu" else "main"


def _keyrings(own: list[Entry], distribution: str, home: Home) -> list[str]:
    """The distribution's keyring, and those that the sources' own files name; apt's default where none is."""
    named = {f"/usr/share/keyrings/{distribution}-archive-keyring.gpg"}
    for each in own:
        with contextlib.suppress(OSError):
            text = home.here(each.file.rpartition(":")[0]).read_text()
            named |= set(re.findall(r"(?i)signed-by[:=]\s*(/[^\s\],]+)", text))
    return sorted(path for path in named if home.here(path).is_file())


class Apt:
    """apt with a state of its own, below `folder`, for one set of sources. Made by `opened`."""

    def __init__(self, given: Sources, folder: Path, status: bytes = b"") -> None:
        self.sources = given
        self.folder = folder
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").write_bytes(status)
        (folder / "sources.list").write_text(given.text)

    @property
    def options(self) -> list[str]:
        """What makes apt use the private state; proxies, certificates and credentials stay the machine's."""
        arch, folder = self.sources.platform.arch, self.sources.home.known(self.folder)
        values = {
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "APT::Architecture": arch,
            "APT::Architectures": arch,
            "APT::Sandbox::User": "root",  # the private folder is not open to apt's own user
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]

    def _argv(self, program: str, *words: str) -> list[str | Path]:
        return self.sources.home.argv(program, *self.options, *words)

    def refresh(self, update: Update) -> None:
        """Fetches the signed package lists."""
        lines: list[str] = []

        def seen(line: str) -> None:
            lines.append(line)
            update(line)

        argv = self._argv("apt-get", "-o", "APT::Update::Error-Mode=any", "update")
        code = process.stream(argv, what="read the package lists", on_line=seen, check=False)
        if code:
            raise refused(lines, self.sources)

    def offered(self, packages: Iterable[str]) -> dict[str, dict[str, str]]:
        """package -> {version: sha256} of all that the mirror offers, the newest first; absent if none."""
        argv = self._argv("apt-cache", "show", "--all-versions", *packages)
        told = process.run(argv, what="look up packages", check=False)
        found: dict[str, dict[str, str]] = {}
        for stanza in told.out.split("\n\n"):
            fields = dict(re.findall(r"(?m)^(Package|Version|SHA256): (\S+)$", stanza))
            if len(fields) == 3:
                found.setdefault(fields["Package"], {})[fields["Version"]] = fields["SHA256"]
        return found

    def download(self, versions: dict[str, str], into: Path, update: Update) -> list[Path]:
        """Downloads exactly these package versions; apt checks each against the signed lists."""
        into.mkdir(parents=True, exist_ok=True)
        wanted = [f"{name}={version}" for name, version in versions.items()]
        argv = ["apt-get", *self.options, "download", *wanted]
        process.stream(argv, what="download packages", on_line=update, cwd=into, error=NetworkError)
        return sorted(into.glob("*.deb"))

    def download_closure(self, packages: Iterable[str], into: Path, update: Update) -> list[Path]:
        """Downloads packages (names, or apt's patterns) and all that they depend on, less what the status
        has already; checked as above. Below `into`, or where apt can reach them, and then only until the end.
        """
        home = self.sources.home
        into = self.folder / into.name if home.root else into
        (into / "partial").mkdir(parents=True, exist_ok=True)
        argv = self._argv(
            "apt-get", "-o", f"Dir::Cache::archives={home.known(into)}", "-o", "APT::Install-Recommends=0",
            "--yes", "--no-remove", "--download-only", "install", *packages,
        )  # fmt: skip
        lines: list[str] = []

        def seen(line: str) -> None:
            lines.append(line)
            update(line)

        if process.stream(argv, what="download packages", on_line=seen, check=False):
            raise refused(lines, self.sources)
        return sorted(into.glob("*.deb"))

    def deb(self, part: str, deb: Path, out: Path, update: Update) -> None:
        """Writes one part of a package (dpkg-deb's --ctrl-tarfile, --fsys-tarfile) as a tar."""
        home = self.sources.home
        argv = home.argv("dpkg-deb", part, home.known(deb))
        process.stream(argv, what=f"read {deb.name}", on_line=update, stdout=out)


@contextlib.contextmanager
def opened(given: Sources, update: Update, status: bytes = b"") -> Iterator[Apt]:
    """A private apt with fresh lists, or those of `apt_lists.one_state`; its folder is gone at the end.

    `status`: dpkg's, of what is there.
    """
    with given.home.folder() as folder:
        apt = Apt(given, folder, status)
        place = f"{given.platform} {given.text}"
        if given.home.root is not None:
            apt.refresh(update)
        else:
            apt_lists.fetched(place, folder / "lists", lambda: apt.refresh(update))
        yield apt


def refused(lines: list[str], given: Sources) -> SlipworksError:
    """Which of apt's failures this is. Quotes apt's own lines, which leave a mirror's credentials out."""
    text = "\n".join(lines)
    what = f"could not get the packages of {given.distribution} {given.suite} for {given.platform}"
    if "NO_PUBKEY" in text or "is not signed" in text:
        return HostError(
            f"{what}: signed by a key this machine does not know",
            f"apt-get install --only-upgrade {given.distribution}-archive-keyring",
        )
    if found := re.search(
        r"Unable to locate package (\S+)|Package '?(\S+?)'? has no installation candidate", text
    ):
        return NotFoundError(f"{what}: there is no {found[1] or found[2]}")
    if "404 " in text or "does not have a Release file" in text:
        return NotFoundError(f"{what}: this machine's mirror does not have them")
    if re.search(
        r"Could not (connect|resolve)|Connection (failed|refused|timed out)|Temporary failure", text
    ):
        return NetworkError(f"{what}: the mirror cannot be reached", "apt-get update shows what it says")
    return complaints.explain(what.removeprefix("could not "), text, None)
