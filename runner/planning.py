"""What an image will be made of, before anything is made: from data, settings and the store's records."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from containers import bootstrap, layer
from definitions import archs, bases, layers, recipes
from image_cache.store import Store
from kit import settings
from kit.nouns import Base, Image, LayerSpec, Platform, Recipe, key_of


class Wanted(Struct, frozen=True, kw_only=True):
    """What a user asks for; None: the arch's own default."""

    arch: str
    line: str | None = None
    base: str | None = None
    platform: str | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """How what is wanted will be made here.

    ground  the base, of no platform yet
    made    the bootstrapped bases that the store has: of the target, and of the machine that builds
    """

    wanted: Wanted
    ground: Base
    target: Platform
    made: dict[Platform, Image]

    @property
    def missing(self) -> tuple[Platform, ...]:
        """Platforms for which the base must be bootstrapped first.

        A foreign image needs the host's own twin too: the stage that installs runs on it.
        """
        if self.ground.kind != "bootstrap":
            return ()
        return tuple(sorted({self.target, Platform.host()} - set(self.made)))

    @property
    def layer(self) -> LayerSpec:
        """The runner's layer: of this host's distribution; without apt, of the files of a pulled base."""
        return layers.load("slipworks", bootstrap.host_distribution())

    def recipe(self) -> Recipe:
        """The image's recipe."""
        return self._recipe(layer.key(self.layer, self.target))

    def plain(self) -> Recipe:
        """The same without the runner's layer: what an engine builds; a change of the kit leaves it alone."""
        return self._recipe("none")

    def _recipe(self, layer_key: str) -> Recipe:
        digests = {platform: image.digest for platform, image in self.made.items()}
        return recipes.recipe(
            self.wanted.arch,
            line=self.wanted.line,
            base=self.wanted.base,
            platform=self.target,
            distribution=distribution(),
            base_digest=digests.get(self.target),
            build_base_digest=digests.get(Platform.host()),
            layer_key=layer_key,
            torch_index_set=settings.load().settings.torch_index is not None,
        )

    def local_bases(self) -> dict[str, Image]:
        """Reference -> image of the bases that an engine must be given."""
        return {bases.at(self.ground, at, image.digest).reference: image for at, image in self.made.items()}

    def with_base(self, platform: Platform, image: Image) -> Plan:
        return replace(self, made={**self.made, platform: image})


def plan(wanted: Wanted, store: Store) -> Plan:
    """The plan for this machine. UnknownNameError for an arch, base or platform that there is not."""
    arch = archs.load(wanted.arch)
    ground = bases.load(wanted.base or arch.base, distribution())
    there = arch.all_platforms()
    host = Platform.host()
    target = host if host in there else there[0]
    if wanted.platform:
        target = Platform.parse(wanted.platform)
    made: dict[Platform, Image] = {}
    if ground.kind == "bootstrap":
        found = {at: store.find(base_key(ground, at), "oci") for at in (target, host)}
        made = {at: image for at, image in found.items() if image}
    return Plan(wanted=wanted, ground=ground, target=target, made=made)


def distribution() -> str:
    """Whose packages bootstrapped bases are made of: this host's, where it has apt."""
    return bootstrap.host_distribution() or "debian"


def base_key(base: Base, platform: Platform) -> str:
    """The key of a bootstrapped base: what is asked of mmdebstrap. What came out is its digest."""
    asked = (base.name, base.distribution, base.suite, *base.packages)
    return key_of({"base": " ".join(asked), "platform": str(platform)})
