"""A base without an agent-server, baked when it is first asked for into a registry that the server was told.

What a bake makes depends on the base and the layer alone, and its tag says which: so what any server, or a
prebuild, baked before is found and not made again.
"""

from __future__ import annotations

from image_cache import bake, oci
from image_cache.bake import Added
from image_cache.places import Origin, Remembered, finding
from image_cache.places.turns import Turns
from image_cache.registry import Registry
from image_cache.store import Store
from kit import say
from kit.errors import UsageError
from kit.nouns import Platform, digest
from runner import agent_layer, bake_targets, prebuilding_sifs
from runner.sandboxes import commands
from runner.sif_sources import Sources


class Baker:
    """Threads may share it. Which manifest a name stands for is noted on disk, and asked for once."""

    def __init__(self, to: str, platform: Platform, store: Store, *, added: Added | None = None) -> None:
        if bake_targets.is_local(to):
            raise UsageError(f"sandboxes are baked into a registry: found {to!r}", "REGISTRY/NAMESPACE")
        self.to = bake_targets.target(to)
        self.platform, self.store = platform, store
        self._added = added
        self._known = Remembered()
        self._turns = Turns()
        self._target = finding.target(self.to, Registry)
        self._notes = prebuilding_sifs.folder(platform) / "images"
        self._sources = Sources(self._notes, platform)
        self._done: dict[str, str] = {}

    def baked(self, base: Origin, *, again: bool = False) -> str | None:
        """The reference of what the base becomes; None: it has an agent-server already. again: its name may
        stand for another image now."""
        with self._turns(str(base)):
            if not again and (found := self._done.get(str(base))):
                return found
            sources = Sources(self._notes, self.platform, refresh=True) if again else self._sources
            source = sources.of(str(base))
            client = sources.client(base.place)
            config = client.small_blob(base.repository, source.opened.config)
            inner = oci.config(config, str(base)).get("config") or {}
            if commands.kind(commands.said(inner)) != "bare":
                return None
            found = self._made(base, source.manifest, config)
            self._done[str(base)] = found
            return found

    def _made(self, base: Origin, manifest: bytes, config: bytes) -> str:
        plan = bake.planned(manifest, config, str(base), digest(manifest), self._what())
        repository = bake_targets.repository(self.to, base)
        at = base.at(digest(manifest))
        done = bake.do(plan, finding.source(at, Registry), at, self._target, repository, self._known)
        say.say(f"{base}: {'is baked in' if done.there else 'was baked into'} {self.to}")
        return f"{self._target.name}/{repository}:{plan.tag}"

    def _what(self) -> Added:
        if self._added is None:
            self._added = agent_layer.added(agent_layer.made(self.platform, self.store))
        return self._added
