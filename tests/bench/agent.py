"""How soon an agent-server is ready in a baked image, beside the same image without byte code. Prints only.

    .venv/bin/python -m tests.bench.agent [--rounds 5]

Both are a busybox with the agent's layer on it, in a storage of podman that is this run's alone; the second
lacks every __pycache__, as an image does that was built without compiling. Ready is when /alive answers, from
the start of `podman run`. Beside it the processor's seconds that the server took until then, which other work
on the machine changes little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from containers import engine
from image_cache import bake, streams
from image_cache.store import Store
from kit import process, say
from kit.nouns import Image, Platform, key_of
from runner import agent_layer, images, sandbox
from runner.agent_layer import AgentLayer
from runner.sandbox import Start
from tests.live.parts_bases import busybox_tar
from tests.live.parts_engines import private_storage

HERE = Platform.host()
TICK = os.sysconf("SC_CLK_TCK")


def without_byte_code(layer: AgentLayer) -> Iterator[bytes]:
    """The layer's tar without its __pycache__."""
    with layer.gzip.path.open("rb") as file, tempfile.TemporaryFile() as plain:
        for piece in streams.unpacked(file, layer.gzip.media_type, "the layer"):
            plain.write(piece)
        plain.seek(0)
        with tempfile.TemporaryFile() as kept:
            with tarfile.open(fileobj=plain) as tar, tarfile.open(fileobj=kept, mode="w") as out:
                for member in tar:
                    if "__pycache__" not in member.name:
                        out.addfile(member, tar.extractfile(member) if member.isreg() else None)
            kept.seek(0)
            yield from streams.pieces(kept)


def made(folder: Path) -> dict[str, Image]:
    """The two images, in a store of their own."""
    store, layer = Store(folder / "store"), agent_layer.made(HERE, images.store())
    (folder / "base.tar").write_bytes(busybox_tar())
    base = store.put_root(folder / "base.tar", key=key_of({"base": ""}), name="base", platform=HERE)
    layers = {
        "baked": store.put_artifact(key_of({"layer": "whole"}), layer.gzip.path),
        "without byte code": store.put_tar(key_of({"layer": "bare"}), without_byte_code(layer)),
    }
    return {
        name: store.put_on(base, [each], key=key_of({"image": name}), name=name.replace(" ", "-"),
                           entrypoint=layer.entrypoint, labels={bake.KEY: layer.key})
        for name, each in layers.items()
    }  # fmt: skip


def taken(podman: engine.Engine, reference: str, folder: Path) -> tuple[float, float]:
    """Seconds until it is ready, and the processor's."""
    start = Start(engine=podman, image=reference, deadline=600)
    with sandbox.started(start, folder) as running:
        return running.ready, spent(running.child.args)


def spent(argv: object) -> float:
    """Of all processes of the container of that name."""
    assert isinstance(argv, list)
    name = next(word.partition("=")[2] for word in argv if str(word).startswith("--name="))
    told = process.run(["podman", "inspect", "--format={{.State.Pid}}", name], what="ask podman").out
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if path.parent.name == told.strip() or words[1] == told.strip():  # tini, and its child
            total += int(words[11]) + int(words[12])
    return total / TICK


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    storage = private_storage.__wrapped__()  # type: ignore[attr-defined]
    next(storage)
    with tempfile.TemporaryDirectory(prefix="slipworks-bench-") as name:
        podman = engine.get("podman")
        references = {}
        for each, image in made(Path(name)).items():
            references[each] = f"localhost/slipworks/bench-{image.name}:1"
            podman.load(image, references[each])
        say.say(f"load before: {os.getloadavg()[0]:.1f}")
        # Rounds, not blocks: what else the machine does meanwhile meets both alike. The first warms up.
        found = [
            {each: taken(podman, reference, Path(name)) for each, reference in references.items()}
            for _ in range(rounds + 1)
        ][1:]
        show(found)
    next(storage, None)


def show(found: list[dict[str, tuple[float, float]]]) -> None:
    slowest = "without byte code"
    say.answer(f"{'':<20} {'ready':>8} {'lowest':>8} {'highest':>8} {'cpu':>8}   of {slowest}: ready, cpu")
    whole = [statistics.median(each[slowest][which] for each in found) for which in (0, 1)]
    for name in found[0]:
        ready, cpu = ([each[name][which] for each in found] for which in (0, 1))
        middle, work = statistics.median(ready), statistics.median(cpu)
        say.answer(f"{name:<20} {middle:7.2f}s {min(ready):7.2f}s {max(ready):7.2f}s {work:7.2f}s"
                   f"   {middle / whole[0]:.2f}, {work / whole[1]:.2f}")  # fmt: skip
    say.answer(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, {len(found)} rounds")


if __name__ == "__main__":
    main()
