"""Building images, each beside a baseline of the same run. Prints; asserts nothing.

    .venv/bin/python -m tests.bench.images [kit] [cold] [foreign] [--line cu13] [--arch h100]

kit      a full stack built again after a change of the kit alone, beside the same build with nothing changed
cold     a build with nothing in the store, beside `uv pip install --compile-bytecode` of the same lock;
         wheels are in uv's cache for both, distribution packages are downloaded
foreign  the cpu line for arm64 and for amd64, both cold, by turns; seconds of processors are told too, which
         other work changes less (tests/bench/emulated.py has the emulated baseline)

Each uses a store of its own, which is removed: 15 GB of room for a full stack. The wheels should be in uv's
cache already: run it twice and read the second.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from definitions import bases, lines
from kit import say, settings
from kit.nouns import Platform

ROOT = Path(__file__).parents[2]
TURNS = 3
CHECKOUT = ("containers", "definitions", "image_cache", "kit", "runner", "slurm")


def timed(argv: Sequence[str | Path], **environment: str) -> tuple[float, str]:
    """Seconds, and what was told on stderr. A failure ends the benchmark: its time would mean nothing."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SLIPWORKS_", "MAKE"))}
    began = time.perf_counter()
    done = subprocess.run(
        argv, env={**env, **environment}, capture_output=True, text=True, check=False, cwd=ROOT
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{argv} ended with {done.returncode}:\n{done.stderr}")
    return took, done.stderr


def build(store: Path, *words: str, checkout: Path = ROOT) -> tuple[float, str]:
    """`runner image build` of some checkout into some store, given to no engine."""
    start = "import sys; from runner.cli import main; sys.exit(main())"
    argv = [sys.executable, "-c", start, "image", "build", *words, "--base=bootstrap", "--engine=none"]
    code = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(checkout), *argv]
    return timed(code, SLIPWORKS_CACHE=str(store), PYTHONPATH=str(checkout))


def processors() -> float:
    """Seconds, of users and system, of all programs that were waited for until now."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def busy(used: float) -> str:
    """What other work changes less than the clock, and how much of it there was."""
    return f"{used:.1f} s of processors, load {os.getloadavg()[0]:.1f}"


def parts(told: str) -> str:
    """The steps that took a second or more, as the build itself tells them."""
    found = re.findall(r"(?m)^(.+): ([0-9.]+) s$", told)
    return "; ".join(f"{what} {float(took):.1f}" for what, took in found if float(took) >= 1)


def row(what: str, seconds: float, ratio: float | None = None, more: str = "") -> None:
    beside = "" if ratio is None else f"{ratio:6.2f}x"
    say.answer(f"{what:<58} {seconds:8.1f} s {beside:>8}  {more}")


def installed(line: str, arch_python: str, python: str, into: Path) -> float:
    """The baseline: uv alone, into an environment on the same disk, byte-compiled."""
    found = lines.load(line)
    lock = found.lock(Platform.host(), arch_python)
    uv = Path(sys.executable).with_name("uv")
    timed([uv, "venv", "--quiet", "--no-project", "--python", python, into])
    sources = [word for name in found.source for word in ("--no-binary", name)]
    argv = [
        uv, "pip", "install", "--quiet", "--no-config", "--no-deps", "--require-hashes", "--python",
        into / "bin/python", "--python-version", arch_python, "--only-binary", ":all:", *sources,
        "--python-platform", found.wheel_platform(Platform.host()), "--index-strategy", "unsafe-best-match",
        "--compile-bytecode", "-r", lock,
    ]  # fmt: skip
    return timed(list(map(str, argv)))[0]


def cold(work: Path, arch: str, line: str, python: str) -> None:
    before = processors()
    uv = installed(line, bases.load("bootstrap").python, python, work / "venv")
    shutil.rmtree(work / "venv")
    between = processors()
    row(f"uv pip install --compile-bytecode, {line}", uv, 1.0, busy(between - before))
    took, told = build(work / "cache", arch, f"--line={line}")
    more = f"{busy(processors() - between)}; {parts(told)}"
    row(f"cold build, {arch} {line}, proof included", took, took / uv, more)


def kit(work: Path, arch: str, line: str) -> None:
    if not (work / "cache").exists():
        build(work / "cache", arch, f"--line={line}")
    same, _ = build(work / "cache", arch, f"--line={line}")
    row("the same again, nothing changed", same, 1.0)
    changed = work / "checkout"
    for name in CHECKOUT:
        shutil.copytree(ROOT / name, changed / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (changed / "runner/say_hello.py").open("w") as file:
        file.write(f'"""A change of the kit, at {time.time()}."""\n')
    took, told = build(work / "cache", arch, f"--line={line}", checkout=changed)
    row("built again after a change of the kit", took, took / same, parts(told))


def foreign(work: Path) -> None:
    host = Platform.host()
    other = next(each for each in map(Platform, ("amd64", "arm64")) if each != host)
    wall, work_done = ({host: 0.0, other: 0.0} for _ in range(2))
    for turn in range(TURNS):
        for platform in (host, other):
            before = processors()
            took, told = build(work / f"{platform.arch}-{turn}", "cpu", f"--platform={platform}")
            used = processors() - before
            shutil.rmtree(work / f"{platform.arch}-{turn}")
            wall[platform] += took
            work_done[platform] += used
            row(f"cpu for {platform}, cold", took, more=f"{busy(used)}; {parts(told)}")
    for what, sums in (("wall clock", wall), ("processors", work_done)):
        row(f"all turns, {what}: {other} beside {host}", sums[other], sums[other] / sums[host])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=("kit", "cold", "foreign", []), default=[])
    parser.add_argument("--line", default="cu13")
    parser.add_argument("--arch", default="h100")
    parser.add_argument(
        "--python", default=sys.executable, help="what the baseline compiles with: of the image's version"
    )
    args = parser.parse_args()
    wanted = args.what or ("foreign", "cold", "kit")
    above = settings.load().settings.cache_folder
    above.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=above) as name:
        work = Path(name)
        if "foreign" in wanted:
            foreign(work)
        if "cold" in wanted:
            cold(work, args.arch, args.line, args.python)
        if "kit" in wanted:
            kit(work, args.arch, args.line)


if __name__ == "__main__":
    main()
