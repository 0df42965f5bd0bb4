"""Writes what pins a self-contained layer: wheels by hash for each platform and Python, and the packages of
this machine's distribution as its archive has them today. The difference is yours to read and commit.
"""

from __future__ import annotations

import argparse

HELP = "write what pins a self-contained layer: its wheels and its distribution packages"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the layer, as slipworks")
    parser.add_argument("--upgrade", action="store_true", help="lock wheels anew, keeping no version")


def run(args: argparse.Namespace) -> int:
    from containers import apt, layer
    from definitions import layers
    from kit import files, say
    from kit.nouns import MACHINES, Platform

    here = apt.host_distribution()
    for distribution in apt.DISTRIBUTIONS:
        spec = layers.load(args.name, distribution)
        at = layers.folder(args.name)
        given = (at / "requirements.in").read_text()
        for platform in map(Platform, MACHINES):
            with say.step(f"pinning {args.name} for {distribution} on {platform}") as update:
                old = "" if args.upgrade else spec.locks.get(platform.arch, "")
                lock = layer.locked(given, spec.python, platform, old, update, spec.source)
                texts = {layers.lock_name(spec.python, platform.arch): lock}
                if distribution == here:
                    texts[layers.pins_name(distribution, platform.arch)] = layer.newest(
                        spec, platform, update
                    )
            for name, text in texts.items():
                files.write(at / name, text)
                say.answer(str(at / name))
    return 0
