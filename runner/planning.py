"""What an image will be made of, before anything is made: from data, settings and the store's records."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from containers import bootstrap, layer
from definitions import archs, bases, layers, lines, recipes, system
from image_cache import streams
from image_cache.oci import Artifact
from image_cache.store import Store
from kit import settings
from kit.nouns import Base, Image, LayerSpec, Platform, Recipe, StackLayer, Wheel, digest, key_of
from kit.suggest import unknown
from runner import compiling, wheels


class Wanted(Struct, frozen=True, kw_only=True):
    """What a user asks for; None: the arch's own default.

    defined  a SIF built by apptainer from the rendered definition, not assembled from layers
    """

    arch: str
    line: str | None = None
    base: str | None = None
    platform: str | None = None
    defined: bool = False


class Plan(Struct, frozen=True, kw_only=True):
    """How what is wanted will be made here.

    ground    the base, of no platform yet
    base      the bootstrapped base of the target, where the store has it; None for bases that are pulled
    system    the layer of distribution packages, where the store has it
    wheels    of the line's extensions: those that the wheelhouse has
    """

    wanted: Wanted
    ground: Base
    target: Platform
    base: Image | None = None
    system: Artifact | None = None
    wheels: tuple[Wheel, ...] = ()

    @property
    def layer(self) -> LayerSpec:
        """The runner's layer: of this host's distribution; without apt, of the files of a pulled base."""
        return layers.load("slipworks", bootstrap.host_distribution())

    def recipe(self) -> Recipe:
        """The image's recipe."""
        return recipes.recipe(
            self.wanted.arch,
            line=self.wanted.line,
            base=self.ground,
            platform=self.target,
            distribution=distribution(),
            base_digest=self.base.digest if self.base else None,
            system_digest=self.system.diff_id if self.system else None,
            compiler=compiling.named(self.layer, self.ground, self.target),
            layer_key=layer.key(self.layer, self.target),
            stack_key=stack_key,
            made_by=_shaping(),
            wheels=self.wheels,
            torch_index_set=settings.load().settings.torch_index is not None,
            defined=self.wanted.defined,
        )

    def with_base(self, base: Image | None) -> Plan:
        return replace(self, base=base)

    def with_system(self, made: Artifact) -> Plan:
        return replace(self, system=made)


def plan(wanted: Wanted, store: Store) -> Plan:
    """The plan for this machine. UnknownNameError for an arch, base or platform that there is not."""
    arch = archs.load(wanted.arch)
    ground = base_of(wanted.base or arch.base)
    there = arch.all_platforms()
    host = Platform.host()
    target = host if host in there else there[0]
    if wanted.platform:
        target = Platform.parse(wanted.platform)
    made = Plan(wanted=wanted, ground=ground, target=target)
    if ground.kind == "bootstrap":
        made = made.with_base(store.find(base_key(ground, target), "oci"))
    line = lines.load(wanted.line or arch.line)
    found_wheels, _ = wheels.found(line, arch, target, ground)
    made = replace(made, wheels=found_wheels)
    packages = system.packages(line, ground)
    found = store.artifact(system_key(made, packages)) if packages else None
    return made.with_system(found) if found else made


def base_of(name: str) -> Base:
    """A base by name: of the user's own file (the setting `bases`) where it names it, else one of ours."""
    if name not in (there := base_names()):
        raise unknown("base", name, there)
    own = _own_bases()
    return bases.load(name, distribution(), own if own and name in bases.names(own) else bases.FILE)


def base_names() -> tuple[str, ...]:
    """All bases that there are for this user."""
    own = _own_bases()
    return tuple(sorted({*bases.names(), *(bases.names(own) if own else ())}))


def _own_bases() -> Path | None:
    own = settings.load().settings.bases
    return Path(own).expanduser() if own is not None else None


def distribution() -> str:
    """Whose packages bootstrapped bases are made of: this host's, where it has apt."""
    return bootstrap.host_distribution() or "debian"


def base_key(base: Base, platform: Platform) -> str:
    """The key of a bootstrapped base: what is asked of the archive. What came out is its digest."""
    asked = (base.name, base.distribution, base.suite, base.interpreter, *base.packages)
    return key_of({"base": " ".join(asked), "platform": str(platform), **_how()})


def stack_key(spec: StackLayer) -> str:
    """The key of a layer of the stack in the store: what is in it, and how it is packed."""
    from containers import stack

    return key_of({"layer": stack.key(spec), "packing": streams.packing()})


def system_key(plan: Plan, packages: tuple[str, ...]) -> str:
    """The key of the layer of distribution packages: what is asked of the archive, on which base."""
    on = plan.base.digest if plan.base else f"{plan.ground.reference} {plan.ground.digest}"
    asked = {"packages": " ".join(packages), "base": on, "platform": str(plan.target)}
    return key_of({**asked, **_how()})


def _how() -> dict[str, str]:
    return {"made by": _makers(), "packing": streams.packing()}


def _shaping() -> dict[str, str]:
    """What shapes an image beside its parts: how layers are packed, who writes its bill of materials."""
    from importlib import metadata

    tool = "cyclonedx-python-lib"
    return {"packing": streams.packing(), "bill of materials": f"{tool} {metadata.version(tool)}"}


def _makers() -> str:
    """What makes base and system layer, as a digest: another way of making them gives other bytes."""
    names = (
        "apt.py",
        "bootstrap.py",
        "by_hand.py",
        "compile_tree.py",
        "dpkg.py",
        "elf_format.py",
        "interpreter.py",
        "ld_cache.py",
        "root_tar.py",
        "system.py",
    )
    folder = Path(bootstrap.__file__).parent
    return digest(b"".join((folder / name).read_bytes() for name in names))
