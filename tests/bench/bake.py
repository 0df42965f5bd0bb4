"""Baking images, beside a COPY build by buildah and a push of the same layer, in the same run. Prints only.

    .venv/bin/python -m tests.bench.bake [speed] [bytes] [far] [--images 1000] [--jobs 8] [--builds 3]

speed  images a second on loopback, manifest and config of the base fetched and its tag asked for each time,
       of two kinds: `r2e` (repositories of hundreds of images, of six layers three are shared), `swe` (each
       image in a repository of its own, six layers), into repositories of their own; and r2e's once more
       beside their bases, as after `--mirror`: the same repository has the layers, so none is mounted.
       Beside it, what one such image costs buildah.
bytes  what goes over the wire for an image after the first, all headers counted
far    the same with a round trip of 50 ms (tests/bench/relay.py); --images 4578 for R2E-Gym's subset

Each but `bytes` once more as `runner prebuild plan` and `run` do it (bake_run.py), with the journal and all;
`far` also from a registry that wants tokens, whose service is as far away.

The agent's layer is the real one where this machine has it (`runner prebuild layer`), else noise of its size.
Bases are written straight into the storage of a real registry, for the time that takes. Both processors are
shared with the registry, whose seconds are told too: what is left to gain here is what is ours.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from image_cache import bake, oci
from image_cache.bake import Added
from image_cache.places import Origin, Remembered
from image_cache.places.registry import RegistrySource, RegistryTarget
from image_cache.registry import Registry
from kit import say
from kit.nouns import Platform, digest
from runner import agent_layer, images
from tests.bench import bake_run
from tests.bench.bake_run import wire
from tests.live import parts_registry
from tests.live.parts_bake import artifact, tar_of

ROUND_TRIP = 0.05
NOISE = 128_000_000  # bytes
KINDS = {"r2e": (460, 3, 3), "swe": (1, 1, 5)}  # images in a repository; layers that are shared, and own


class Storage:
    """The folder of a registry, as Docker's registry 2.8 keeps it."""

    def __init__(self, folder: Path, host: str) -> None:
        self.root, self.host = folder / "data/docker/registry/v2", host

    def base(self, kind: str, number: int) -> Origin:
        """One base, there at once."""
        many, shared, own = KINDS[kind]
        repository, tag = f"{kind}/project-{number // many}", f"commit-{number}"
        names = [
            *(f"{kind} {each}" for each in range(shared)),
            *(f"{kind} {number} {each}" for each in range(own)),
        ]
        plain = [tar_of(name, 600) for name in names]
        layers = tuple(self._blob(repository, gzip.compress(one, 1, mtime=0), oci.GZIP) for one in plain)
        config = {
            "os": "linux", "architecture": "amd64",
            "config": {"Env": ["PATH=/usr/bin"], "WorkingDir": "/testbed"},
            "rootfs": {"type": "layers", "diff_ids": [digest(one) for one in plain]},
            "history": [{"created_by": f"RUN {name} " + "x" * 300} for name in names],
        }  # fmt: skip
        described = self._blob(repository, oci.encode(config), oci.CONFIG)
        raw = oci.encode(oci.Manifest(described, layers))
        held = self._blob(repository, raw, oci.MANIFEST, layer=False).digest
        at = self.root / "repositories" / repository / "_manifests"
        hexed = held.removeprefix("sha256:")
        for link in (f"revisions/sha256/{hexed}", f"tags/{tag}/current", f"tags/{tag}/index/sha256/{hexed}"):
            _write(at / link / "link", held.encode())
        return Origin("registry", self.host, repository, tag)

    def _blob(self, repository: str, raw: bytes, kind: str, *, layer: bool = True) -> oci.Descriptor:
        made = oci.Descriptor(kind, digest(raw), len(raw))
        hexed = made.digest.removeprefix("sha256:")
        data = self.root / "blobs/sha256" / hexed[:2] / hexed / "data"
        if not data.exists():
            _write(data, raw)
        if layer:
            _write(
                self.root / "repositories" / repository / f"_layers/sha256/{hexed}/link", made.digest.encode()
            )
        return made


def _write(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def layer(work: Path) -> tuple[Added, str]:
    """What is put on every base, and where it is from."""
    platform = Platform.host()
    if found := agent_layer.find(platform, images.store()):
        more = Added(
            platform=Platform("amd64"),
            gzip=found.gzip,
            tiny=found.tiny,
            entrypoint=found.entrypoint,
            version="bench",
        )
        return more, "the agent's"
    noise = artifact(work, "slipworks-agent/noise", NOISE)
    return Added(
        platform=Platform("amd64"), gzip=noise, tiny=artifact(work, "usr/local/bin/tiny", 10)
    ), "noise"


class Oven:
    """Bakes bases of one registry within it, through another name of it where there is a wire between."""

    def __init__(self, host: str, more: Added, jobs: int, namespace: str = "baked") -> None:
        client = Registry(host)
        self.host, self.more, self.jobs, self.namespace = host, more, jobs, namespace
        self.source, self.target, self.known = RegistrySource(client), RegistryTarget(client), Remembered()

    def bake(self, base: Origin) -> None:
        base = Origin(base.kind, self.host, base.repository, base.tag)
        got = self.source.image(base, self.more.platform)
        wanted = bake.planned(got.manifest, got.config, f"{base}", got.digest, self.more)
        at = f"{self.namespace}/{base.repository}".lstrip("/")
        moved = bake.do(wanted, self.source, base, self.target, at, self.known)
        assert moved.digest == wanted.digest and not moved.there

    def all(self, bases: list[Origin]) -> float:
        """Seconds."""
        began = time.perf_counter()
        with ThreadPoolExecutor(self.jobs) as pool:
            for _ in pool.map(self.bake, bases):
                pass
        return time.perf_counter() - began

    @property
    def requests(self) -> int:
        return sum(self.target.registry.counts.values())


def row(what: str, value: str, more: str = "") -> None:
    say.answer(f"{what:<52} {value:>20}  {more}")


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def processor(pid: int) -> float:
    """Seconds of a process, so far."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def serving(folder: Path) -> int:
    """The process of the registry whose folder that is."""
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder / "config.yml").encode() in each.read_bytes():
                return int(each.parent.name)
    raise SystemExit("the registry is gone")


def speed(storage: Storage, pid: int, more: Added, args: argparse.Namespace, work: Path) -> None:
    cost = built(storage, more, work, args.builds) if args.builds else None
    for first, (kind, namespace) in enumerate([*((kind, "baked") for kind in KINDS), ("r2e", "")]):
        start = first * 10_000_000
        bases = [storage.base(kind, start + number) for number in range(args.images + 1)]
        where = f"{kind}, {'into a namespace' if namespace else 'beside their bases'}"
        oven = Oven(storage.host, more, args.jobs, namespace)
        oven.bake(bases[0])  # which brings the layer
        asked, ours, theirs = oven.requests, time.process_time(), processor(pid)
        took = oven.all(bases[1:])
        ours, theirs = time.process_time() - ours, processor(pid) - theirs
        each = 1000 / args.images
        told = (
            f"{(oven.requests - asked) / args.images:.1f} requests; processors: {ours * each:.1f} ms ours, "
            f"{theirs * each:.1f} ms the registry's; {load()}"
        )
        row(
            f"baked, {where}, {args.images} images",
            f"{args.images / took:.1f} a second",
            told,
        )
        to = f"{storage.host}/prebuilt" if namespace else storage.host
        fresh = [storage.base(kind, start + 1_000_000 + number) for number in range(args.images + 1)]
        went = bake_run.ran(work / f"near {where}", to, fresh, more, args.jobs)
        row(f"by plan and run, {where}", f"{went.images / went.took:.1f} a second", f"{went.told}; {load()}")
        if cost:
            row("", f"{cost * args.images / took:.0f} x", "as fast as COPY and push by buildah")


def built(storage: Storage, more: Added, work: Path, builds: int) -> float:
    """Seconds for one image by buildah: COPY of the layer's files, and a push; its base is there already."""
    context = work / "context"
    (context / "files").mkdir(parents=True)
    subprocess.run(["tar", "-xzf", more.gzip.path, "-C", context / "files"], check=True)
    buildah = ["buildah", "--root", work / "storage", "--runroot", work / "run"]
    times = []
    for number in range(builds):
        base = storage.base("r2e", 10_000_000 + number)
        (context / "Containerfile").write_text(f"FROM {base.reference}\nCOPY files/ /\n")
        target = f"{storage.host}/built/{number}:v1"
        run = [*buildah, "--storage-driver", "overlay"]
        subprocess.run(
            [*run, "pull", "--tls-verify=false", f"{base.reference}"], check=True, capture_output=True
        )
        began = time.perf_counter()
        subprocess.run(
            [*run, "build", "--isolation=chroot", "--tls-verify=false", "-t", target, context],
            check=True, capture_output=True,
        )  # fmt: skip
        pushed = time.perf_counter()
        subprocess.run([*run, "push", "--tls-verify=false", target], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
        row("COPY by buildah, and push", f"{times[-1]:.1f} s", f"build {pushed - began:.1f}; {load()}")
    shutil.rmtree(context)
    return sorted(times)[len(times) // 2]


def bytes_(storage: Storage, more: Added) -> None:
    for kind in KINDS:
        bases = [storage.base(kind, 2_000_000 + number) for number in range(101)]
        passed = []
        for first, last in ((0, 1), (0, 101)):
            with wire(storage.host, 0) as (host, count):
                oven = Oven(host, more, 1)
                at = f"{kind} {first} {last}"
                for base in bases[first:last]:
                    got = oven.source.image(Origin(base.kind, host, base.repository, base.tag), more.platform)
                    wanted = bake.planned(got.manifest, got.config, f"{base}", got.digest, more)
                    where = f"again-{last}/{base.repository}"
                    assert bake.do(wanted, oven.source, base, oven.target, where, oven.known), at
            passed.append(count)
        sent, got_ = ((passed[1][way] - passed[0][way]) / 100 for way in (0, 1))
        row(f"on the wire for an image after the first, {kind}", f"{(sent + got_) / 1000:.1f} kB",
            f"{sent / 1000:.1f} sent, {got_ / 1000:.1f} received")  # fmt: skip


def far(storage: Storage, more: Added, args: argparse.Namespace, work: Path) -> None:
    for kind in KINDS:
        bases = [storage.base(kind, 3_000_000 + number) for number in range(args.images + 1)]
        jobs = args.far_jobs
        with wire(storage.host, ROUND_TRIP / 2) as (host, _):
            oven = Oven(host, more, jobs)
            oven.bake(bases[0])
            far_row(kind, "parts", args.images, oven.all(bases[1:]), jobs)
            went = bake_run.ran(work / f"journal {kind}", f"{host}/prebuilt", bases, more, jobs)
            far_row(kind, "run", args.images, went.took, jobs, went.told)
        with bake_run.with_tokens(work / f"tokens {kind}", ROUND_TRIP / 2) as (host, tokens):
            locked = Storage(work / f"tokens {kind}/registry", host)
            bases = [locked.base(kind, 3_000_000 + number) for number in range(args.images + 1)]
            with wire(host, ROUND_TRIP / 2) as (host_, _), bake_run.logged_in(work, host_):
                went = bake_run.ran(work / f"journal tokens {kind}", f"{host_}/prebuilt", bases, more, jobs)
            told = f"{went.told}; {len(tokens.granted) / args.images:.2f} tokens for each, plan and run"
            far_row(kind, "run, tokens", args.images, went.took, jobs, told)


def far_row(kind: str, how: str, images: int, took: float, jobs: int, told: str = "") -> None:
    rate = images / took
    row(f"50 ms away, {kind}, {how}, {images} images, {jobs} jobs", f"{took:.0f} s",
        f"{rate:.1f} a second, so 4578 images in {4578 / rate / 60:.1f} min; {told}; {load()}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=("speed", "bytes", "far", []), default=[])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--builds", type=int, default=3, help="by buildah; 0: none, and no ratio")
    parser.add_argument("--far-jobs", type=int, default=32)
    args = parser.parse_args()
    wanted = args.what or ("speed", "bytes", "far")
    with tempfile.TemporaryDirectory(prefix="bench bake ") as name:
        work = Path(name)
        more, of = layer(work)
        say.answer(f"layer: {of}, {more.gzip.size / 1e6:.0f} MB packed")
        quiet = "log: {level: error, accesslog: {disabled: true}}\n"
        with parts_registry.registry(work / "registry", quiet) as host:
            storage = Storage(work / "registry", host)
            if "speed" in wanted:
                speed(storage, serving(work / "registry"), more, args, work)
            if "bytes" in wanted:
                bytes_(storage, more)
            if "far" in wanted:
                far(storage, more, args, work)


if __name__ == "__main__":
    main()
