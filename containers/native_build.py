"""Builds one wheel from a source archive with the torch and the CUDA compiler that an image holds.

Run as a program by the image's own Python, so it imports nothing of ours. Arguments: the source archive; an
empty folder that becomes the working place (the wheel is put into its `wheels`); the compute capabilities
that code is made for, as 9.0 or 8.0,9.0. The environment says the rest (MAX_JOBS, what the package reads).

What the package's own setup may not do here:
- choose other GPUs than those asked for. Some name theirs in the compiler's arguments and read no variable,
  so torch is given a compiler that puts that right (`compile`);
- connect to anything: some fetch a ready wheel that nobody checked instead of compiling. Connections of this
  process are refused; those of programs that it starts are not seen.
"""

import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import tarfile
import tomllib
import types
from pathlib import Path

EPOCH = "315532800"  # 1980: the earliest time that a wheel, being a zip, can hold
_CODE = re.compile(r"(?:compute|sm|lto)_(\d+)[a-z]?")


def chosen(arguments: list[str], capabilities: list[str]) -> list[str]:
    """nvcc's arguments with code for these capabilities and for no others.

    What names one of them stays as it is (sm_90a is of 9.0); where none does, plain code for each is asked
    for. Arguments that ask for no particular code, as for a version, are left alone. Pure.
    """
    wanted = [each.replace(".", "") for each in capabilities]
    rest: list[str] = []
    codes: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("-gencode", "--generate-code", "-arch", "--gpu-architecture"):
            codes.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    if not codes:
        return arguments
    kept = [code for code in codes if set(_CODE.findall(code)) & set(wanted)]
    plain = [f"arch=compute_{each},code=sm_{each}" for each in wanted]
    return [*rest, *(f"-gencode={code}" if "=" in code else f"-arch={code}" for code in kept or plain)]


def compile(arguments: list[str]) -> None:
    """Becomes nvcc."""
    nvcc = str(Path(os.environ["CUDA_HOME"]) / "bin/nvcc")
    os.execv(nvcc, [nvcc, *chosen(arguments, os.environ["NATIVE_BUILD_FOR"].split(","))])


def cuda_home() -> str | None:
    """Where the compiler lies: said by the environment, else among the installed wheels."""
    inside = Path(sysconfig.get_path("purelib")) / "nvidia"
    found = [os.environ.get("CUDA_HOME", ""), *map(str, sorted(inside.glob("cu[0-9]*")))]
    return next((each for each in found if each and os.access(f"{each}/bin/nvcc", os.X_OK)), None)


def build(source: Path, place: Path, capabilities: str) -> str:
    """The wheel's name, in `place`/wheels."""
    with tarfile.open(source) as archive:
        archive.extractall(place / "source", filter="data")
    (top,) = (place / "source").iterdir()
    out, scratch = place / "wheels", place / "tmp"
    for folder in (out, scratch):
        folder.mkdir()
    os.environ.update(
        NATIVE_BUILD_FOR=capabilities, SOURCE_DATE_EPOCH=EPOCH, HOME=str(place), TMPDIR=str(scratch)
    )
    if capabilities:
        if not (home := cuda_home()):
            sys.exit("no CUDA compiler: there is no nvcc in CUDA_HOME or among the installed wheels")
        os.environ["CUDA_HOME"] = home
        os.environ["PYTORCH_NVCC"] = f"{sys.executable} {Path(__file__).absolute()} nvcc"
    # setup files start ninja and others by name.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    _stay_inside()
    _offer_bdist_wheel()
    os.chdir(top)
    built: str = _backend(top).build_wheel(str(out))
    return built


def _backend(top: Path) -> types.ModuleType:
    """What pyproject.toml names, else what stands for a plain setup.py."""
    try:
        table = tomllib.loads((top / "pyproject.toml").read_text()).get("build-system", {})
    except FileNotFoundError:
        table = {}
    # A plain setup.py may import from its own folder; a backend says where else it lies.
    sys.path[:0] = [str(top / each) for each in table.get("backend-path", [])] or [str(top)]
    name, _, part = table.get("build-backend", "setuptools.build_meta:__legacy__").partition(":")
    found = importlib.import_module(name)
    return getattr(found, part) if part else found


def _stay_inside() -> None:
    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo"):
            raise OSError(f"a build may not connect to anything ({event} {arguments[-1]!r})")

    sys.addaudithook(refuse)


def _offer_bdist_wheel() -> None:
    """setuptools has held this command since 70.1; what still imports it by its old name gets the same."""
    if importlib.util.find_spec("wheel") or not importlib.util.find_spec("setuptools"):
        return
    new = importlib.import_module("setuptools.command.bdist_wheel")
    old = types.ModuleType("wheel")
    old.bdist_wheel = new  # type: ignore[attr-defined]
    sys.modules.update({"wheel": old, "wheel.bdist_wheel": new})


if __name__ == "__main__":
    if sys.argv[1] == "nvcc":
        compile(sys.argv[2:])
    print(build(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))  # noqa: T201
