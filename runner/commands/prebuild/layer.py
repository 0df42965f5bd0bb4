"""Make the agent-server's layer, or find the one that was made. It runs on any base: glibc, musl, or none.

The answer has a line for each of its forms: digest, bytes, file. --squashfs (for apptainer) and --folder (for
podman) add what is mounted at run time, where nothing is baked, and tell the words that do it.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kit.nouns import Platform

HELP = "make the agent-server's layer, or find the one that was made"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--platform", help="linux/amd64 or linux/arm64 (default: this machine's)")
    parser.add_argument("--squashfs", action="store_true", help="also as a squashfs, which apptainer mounts")
    parser.add_argument("--folder", action="store_true", help="also unpacked, for podman and docker to mount")
    parser.add_argument("--dry-run", action="store_true", help="tell what is there, and make nothing")
    parser.add_argument("--json", action="store_true", help="as JSON, with whole digests and argv lists")


def run(args: argparse.Namespace) -> int:
    from msgspec import json

    from kit import say
    from kit.nouns import Platform
    from kit.shell import line

    platform = Platform.parse(args.platform) if args.platform else Platform.host()
    found = _told(platform, args)
    if args.json:
        say.answer(json.format(json.encode(found, enc_hook=str)).decode())
        return 0
    for name, form in found["forms"].items():
        told = (
            f"{form['digest'] or '-':<71}  {form['size'] or '-':>11}  {form['path']}"
            if form
            else "not made yet"
        )
        say.answer(f"{name:<8}  {told}")
    for engine, words in found["mount"].items():
        say.say(f"mount it: {engine} … {line(words)} …")
    return 0


def _told(platform: Platform, args: argparse.Namespace) -> dict[str, Any]:
    from msgspec import structs

    from containers import layer
    from kit import settings
    from runner import agent_layer, images, layer_mounts

    store, spec = images.store(), agent_layer.spec()
    if not args.dry_run:
        settings.writable("cache")
        agent_layer.made(platform, store)
    found = structs.asdict(agent_layer.forms(platform, store))
    forms: dict[str, Any] = {name: each and structs.asdict(each) for name, each in found.items()}
    mount: dict[str, list[str]] = {}
    for name, engine in (("squashfs", "apptainer"), ("folder", "podman")):
        if not getattr(args, name):
            continue
        squashed = name == "squashfs"
        path = layer_mounts.path_of(store, spec, platform, squashed=squashed)
        if not args.dry_run:
            layer_mounts.made(store, spec, platform, squashed=squashed)
        size = path.stat().st_size if squashed and path.exists() else None
        forms[name] = {"digest": None, "size": size, "path": path} if path.exists() else None
        mount[engine] = agent_layer.mount_argv(engine, path)
    key = layer.key(spec, platform)
    return {"platform": str(platform), "key": key, "folder": spec.folder, "forms": forms, "mount": mount}
