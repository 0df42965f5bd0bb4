"""Containerfile and Apptainer definition, rendered from one model. Pure: reads our own data files only."""

from __future__ import annotations

import functools
from importlib.resources import files
from pathlib import Path

import jinja2
from msgspec import Struct

from definitions import archs, bases, lines, system
from definitions.archs import Arch
from definitions.lines import Line
from kit.errors import InvalidFileError, UnsupportedError
from kit.nouns import Base, Platform
from kit.shell import line as line_of
from kit.shell import quote

DEFINITIONS = Path(str(files("definitions")))
RENDERED = DEFINITIONS / "rendered"
TEXTS = ("Containerfile", "apptainer.def")
SCRIPT, TOOLS, CUDA_HOME = "templates/install.sh", "tools/build.lock", "templates/cuda_home.py"
LEFT_OUT = "slipworks.left-out-extensions"
STACK = "/opt/stack"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Model(Struct, frozen=True, kw_only=True):
    """All that the two templates may use.

    base        the image stands on it, and the first stage runs on it: there on the builder's platform
    platforms   those that the texts can be built for; with several, the build chooses by its target
    labels      of the image
    """

    arch: Arch
    line: Line
    base: Base
    platforms: tuple[Platform, ...]
    labels: dict[str, str]

    @property
    def lock_tag(self) -> str:
        return "cp" + self.base.python.replace(".", "")

    @property
    def locks(self) -> tuple[str, ...]:
        """The locks in the build context, one a platform."""
        return tuple(f"stacks/{self.line.name}/{self.lock_tag}-{each.arch}.lock" for each in self.platforms)

    @property
    def environment(self) -> dict[str, str]:
        """Of every process in the image."""
        return environment(self.line, self.base)

    @property
    def system(self) -> tuple[str, ...]:
        """Distribution packages that the image has beside its base's."""
        return system.packages(self.line, self.base)


def environment(line: Line, base: Base) -> dict[str, str]:
    """Of every process in an image, however it is made. The runner's layer, last on PATH, shadows nothing.

    CUDA_HOME is where CUDA's wheels were laid out, for what compiles at run time. CUDA 12 has no compiler
    among its wheels, so there it is not set.
    """
    home = cuda_home(line, base)
    path = [f"{STACK}/bin", *([f"{home}/bin"] if home else []), SYSTEM_PATH, "/slipworks/bin"]
    found = {"PATH": ":".join(path), "LANG": "C.UTF-8"}
    if home:
        found["CUDA_HOME"] = home
        # Where compilers look last: extensions link -lcuda, and where they are built no driver is.
        found["LIBRARY_PATH"] = f"{home}/lib64/stubs"
    if line.cuda:  # what NVIDIA's container runtime goes by
        found |= {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    return found


def cuda_home(line: Line, base: Base) -> str | None:
    """Where cuda_home.py lays CUDA's wheels out; None where a line has no compiler among them."""
    major = (line.cuda or "0").partition(".")[0]
    site = f"{STACK}/lib/python{base.python}/site-packages"
    return f"{site}/nvidia/cu{major}" if int(major) >= 13 else None


def texts(model: Model) -> dict[str, str]:
    """Both texts by name."""
    values = {"model": model, "bootstrap": bootstrap_command(model.base, model.system)}
    return {name: _templates().get_template(f"{name}.j2").render(values) for name in TEXTS}


def bootstrap_command(base: Base, system: tuple[str, ...] = ()) -> str:
    """What makes a bootstrapped base's root file system, for people: without the target, which comes last.

    system  further packages: people's images have them in the base, ours in a layer on it.
    """
    packages = f"--include={','.join([*base.packages, *system])}"
    return line_of(["mmdebstrap", "--variant=minbase", packages, base.suite])


def render(arch: str | Arch) -> dict[str, str]:
    """The texts that are committed for an arch: its default line and base, all of its platforms."""
    found = archs.load(arch) if isinstance(arch, str) else arch
    line, base = lines.load(found.line), bases.load(found.base)
    platforms = found.all_platforms()
    check(found, line)
    for platform in platforms:
        line.lock_path(platform, base.python)
    labels = labels_of(found, line, base)
    return texts(Model(arch=found, line=line, base=base, platforms=platforms, labels=labels))


def check(arch: Arch, line: Line) -> None:
    """UnsupportedError where a line needs a GPU and the arch has none."""
    if line.cuda and not arch.compute_capabilities:
        without = [name for name in lines.names() if not lines.load(name).cuda]
        raise UnsupportedError(
            f"line {line.name} needs a GPU (CUDA {line.cuda}), and arch {arch.name} has none",
            f"choose LINE={without[0]}" if without else None,
        )


def driver_floor(arch: Arch, line: Line) -> str | None:
    """The lowest major version of NVIDIA's driver that serves both; None without a GPU."""
    floors = [floor for floor in (arch.driver_floor, line.driver_floor) if floor]
    return max(floors, key=int) if line.cuda else None


def labels_of(arch: Arch, line: Line, base: Base) -> dict[str, str]:
    """What is known of an image before anything is resolved or built; values that are empty are left out."""
    labels = {
        "org.opencontainers.image.title": f"slipworks {arch.name} {line.name}",
        "org.opencontainers.image.description": f"{arch.summary}. {line.summary}",
        "org.opencontainers.image.base.name": base.reference,
        "org.opencontainers.image.base.digest": base.digest or "",
        "slipworks.arch": arch.name,
        "slipworks.line": line.name,
        "slipworks.python": base.python,
        "slipworks.compute-capabilities": " ".join(arch.compute_capabilities) if line.cuda else "",
        "slipworks.driver-floor": driver_floor(arch, line) or "",
        LEFT_OUT: " ".join(line.extensions),
    }
    return {name: value for name, value in labels.items() if value}


def write(folder: Path = RENDERED) -> list[Path]:
    """Writes the texts of every arch, and removes those of archs that are gone; returns what changed."""
    from kit import files as disk

    changed: list[Path] = []
    for path, text in _expected(folder).items():
        if not path.exists() or path.read_text() != text:
            disk.write(path, text)
            changed.append(path)
    for path in _strays(folder):
        path.unlink()
        changed.append(path)
    return changed


def drift(folder: Path = RENDERED) -> list[str]:
    """How the committed texts differ from what would be rendered now, one line each; empty: not at all."""
    found: list[str] = []
    for path, text in _expected(folder).items():
        name = path.relative_to(folder)
        if not path.exists():
            found.append(f"{name} is missing")
        elif (there := path.read_text()) != text:
            found.append(f"{name} {_first_difference(there, text)}")
    return found + [f"{path.relative_to(folder)} belongs to no arch" for path in _strays(folder)]


def _expected(folder: Path) -> dict[Path, str]:
    return {folder / arch / name: text for arch in archs.names() for name, text in render(arch).items()}


def _strays(folder: Path) -> list[Path]:
    known = _expected(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in known)


def _first_difference(there: str, text: str) -> str:
    pairs = enumerate(zip(there.splitlines(), text.splitlines(), strict=False), start=1)
    for number, (old, new) in pairs:
        if old != new:
            return f"differs in line {number}: found {old!r}, expected {new!r}"
    return f"has {len(there.splitlines())} lines, expected {len(text.splitlines())}"


@functools.cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DEFINITIONS / "templates"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    made.filters |= {"quote": quote, "one_line": _one_line, "pinned": bases.pinned, "local": local_folder}
    return made


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise InvalidFileError(f"a line break cannot stand here: found in {text[:60]!r}")
    return text


def local_folder(base: Base) -> str:
    """Where Apptainer finds a bootstrapped base, from the build's working folder."""
    return "../build/bootstrap-" + base.reference.rpartition(":")[2]
