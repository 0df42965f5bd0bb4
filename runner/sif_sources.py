"""What is known of images that become SIFs: which manifest a reference stands for, asked for once.

A registry counts every manifest that it sends (Docker Hub 100 in six hours), so each is kept in a small file
of its own: <cache>/prebuilds/sifs-<arch>/images/<hash of the reference>.json. Whatever is killed, no manifest
is asked for again, and what has its SIF is known without asking anybody. Hosts may share the folder.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from image_cache import oci, transfer
from image_cache.references import Reference
from image_cache.registry import Registry
from kit import files
from kit.nouns import Platform


class Source(Struct, frozen=True, kw_only=True):
    """An image that becomes a SIF. manifest: of the platform, as the registry sent it; key: in the store."""

    reference: str
    key: str
    manifest: bytes

    @property
    def wanted(self) -> Reference:
        return Reference.parse(self.reference)

    @property
    def opened(self) -> oci.Manifest:
        return oci.manifest(self.manifest, self.reference)

    @property
    def packed(self) -> int:
        """Bytes of its layers, as they come."""
        return sum(each.size for each in self.opened.layers)


class Sources:
    """The sources of one platform. Threads may share it. refresh: what was noted before does not count."""

    def __init__(
        self, folder: Path, platform: Platform, *, refresh: bool = False,
        registry: Callable[[str], Registry] = Registry,
    ) -> None:  # fmt: skip
        self.folder, self.platform, self.refresh = folder, platform, refresh
        self._registry = registry
        self._clients: dict[str, Registry] = {}
        self._mine: dict[str, Source] = {}
        self._lock = threading.Lock()

    def client(self, host: str) -> Registry:
        """One a host: its tokens and its quota are shared."""
        with self._lock:
            if host not in self._clients:
                self._clients[host] = self._registry(host)
            return self._clients[host]

    def known(self, reference: str) -> Source | None:
        """What was noted of it; asks nobody. A note that cannot be read counts as none."""
        if self.refresh:
            return self._mine.get(reference)
        try:
            found = msgspec.json.decode(self._path(reference).read_bytes(), type=Source)
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.reference == reference else None

    def of(self, reference: str) -> Source:
        """The source, asked for if it was not noted. Raises what the registry's answer means."""
        return self.known(reference) or self._ask(reference)

    def _ask(self, reference: str) -> Source:
        wanted = Reference.parse(reference)
        raw, _ = self.client(wanted.host).image(wanted, self.platform)
        made = Source(reference=reference, key=transfer.key_of_pulled(raw), manifest=raw)
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write(self._path(reference), msgspec.json.encode(made))
        self._mine[reference] = made
        return made

    def _path(self, reference: str) -> Path:
        return self.folder / f"{hashlib.sha256(reference.encode()).hexdigest()[:40]}.json"
