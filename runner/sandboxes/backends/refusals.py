"""What podman and docker say when they refuse. Pure."""

from __future__ import annotations

import re

from containers import complaints
from kit.errors import HostError, NotFoundError, SlipworksError, VerifyError
from runner.sandboxes.nouns import Start

NO_NETWORK = re.compile(
    r"netavark:|slirp4netns failed|pasta failed|network bridge not found|iptables failed|setting up network"
    r"|could not find network|/dev/net/tun|rootlessport|failed to create endpoint",
    re.IGNORECASE,
)
NO_GROUPS = re.compile(r"cgroup", re.IGNORECASE)
NO_FOLDER = re.compile(r"workdir .* does not exist", re.IGNORECASE)
NO_IMAGE = re.compile(r"image not known|no such image|unable to find image", re.IGNORECASE)
GONE = re.compile(r"no such container|no container with name", re.IGNORECASE)
TAKEN = re.compile(r"address already in use|port is already allocated", re.IGNORECASE)


def line(told: str) -> str:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    found = next((line for line in lines if NO_NETWORK.search(line) or NO_GROUPS.search(line)), "")
    return (found or (lines[-1] if lines else "no word"))[:300]


def failure(start: Start, told: str, log: str, code: int) -> SlipworksError:
    what = f"start {start.image.reference}"
    if NO_IMAGE.search(told):
        return NotFoundError(f"could not {what}: the engine has no such image: {line(told)}")
    if TAKEN.search(told):
        return HostError(f"could not {what}: port {start.port} was taken just now", "ss -ltnp")
    return complaints.explain(what, f"{log}\n{told}".strip(), start.image.reference, error=VerifyError,
                              code=code)  # fmt: skip
