"""Push an image of the store to a registry. What is there already is not sent.

Credentials are those of podman or docker (`podman login HOST`). The answer is the reference with the digest.
Layers are packed with zstd: Docker pulls them since 23, containerd since 1.5. An image of this kit must have
passed its proof.
"""

from __future__ import annotations

import argparse

HELP = "push an image to a registry"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="its name, key or digest, or the beginning of one")
    parser.add_argument("reference", metavar="REF", help="host/name:tag")


def run(args: argparse.Namespace) -> int:
    from image_cache.references import Reference
    from kit import say
    from kit.errors import VerifyError
    from runner import images

    Reference.parse(args.reference)
    store, image = images.store(), images.named(args.image, "oci")
    if store.find(image.key, "oci") is None:
        raise VerifyError(f"{image.name} is damaged, and is not pushed", f"runner image check {image.name}")
    say.answer(images.pushed(image, args.reference))
    return 0
