"""Recipes: everything that makes one image, decided without an engine and without network."""

from __future__ import annotations

from msgspec import structs

from definitions import archs, bases, lines, render
from definitions.archs import Arch
from definitions.lines import Line
from kit.errors import UnpinnedError, UnsupportedError
from kit.nouns import Base, Platform, Recipe, digest, key_of
from kit.shell import line as line_of


def recipe(
    arch: str | Arch,
    *,
    layer_key: str,
    line: str | None = None,
    base: str | None = None,
    platform: Platform | None = None,
    distribution: str | None = None,
    base_digest: str | None = None,
    build_base_digest: str | None = None,
    host: Platform | None = None,
    torch_index_set: bool = False,
) -> Recipe:
    """The recipe of one image. Pure, apart from the host's platform where `host` is not given.

    line, base, platform  None: the arch's own; as platform the host's where the arch has it, else its first
    layer_key          of the runner's layer, which every image carries
    distribution       which system a bootstrapped base is made of: debian (the default) or ubuntu
    base_digest        of a bootstrapped base, once it is made (None: not yet; the key is then not an image's)
    build_base_digest  of the host's own twin of a bootstrapped base for a foreign platform: see `build_base`
    torch_index_set    whether settings.torch_index is set

    UnknownNameError with a did-you-mean; UnsupportedError for what does not go together, with what would;
    UnpinnedError for a base or a lock that is not recorded yet.
    """
    found = archs.load(arch) if isinstance(arch, str) else arch
    stack = lines.load(line or found.line)
    host = host or Platform.host()
    target = _platform(found, platform, host)
    render.check(found, stack)
    ground = bases.load(base or found.base, distribution or "debian")
    lock = _lock(found, stack, ground, target)
    _refuse_without_index(stack, target, torch_index_set)
    if ground.kind == "registry" and not (ground.digest or base_digest):
        raise UnpinnedError(
            f"base {ground.name} is not pinned: no digest is recorded for {ground.reference}",
            "make pins, where the registry can be reached; or BASE=bootstrap, which needs none",
        )
    return _made(found, stack, ground, target, lock, layer_key, base_digest, (host, build_base_digest))


def build_base(
    base: str, *, distribution: str | None = None, host: Platform | None = None, digest: str | None = None
) -> Base:
    """What the first stage runs on: the base for the machine that builds, whatever is built for."""
    return bases.at(bases.load(base, distribution or "debian"), host or Platform.host(), digest)


def _made(
    arch: Arch, line: Line, ground: Base, target: Platform, lock: tuple[str, str], layer_key: str,
    base_digest: str | None, build: tuple[Platform, str | None],
) -> Recipe:  # fmt: skip
    base = bases.at(ground, target, base_digest)
    twin = base if build[0] == target else bases.at(ground, *build)
    context = {name: (render.DEFINITIONS / name).read_text() for name in (render.SCRIPT, render.TOOLS)}
    context[lock[0]] = lock[1]

    # The key is made of what goes in, not of names on this machine: local bases, the builder.
    labels = render.labels_of(arch, line, base) | {"slipworks.lock": digest(lock[1].encode())}
    plain = render.Model(arch=arch, line=line, base=ground, build_base=ground, platforms=(target,), labels={})
    inputs = _inputs(arch, line, base, target, layer_key)
    inputs |= {f"text {name}": digest(_without_comments(text)) for name, text in render.texts(plain).items()}
    inputs |= {f"file {name}": digest(text.encode()) for name, text in context.items()}
    inputs |= {f"label {name}": value for name, value in labels.items() if not name.endswith("base.name")}
    labels["slipworks.key"] = key_of(inputs)
    final = render.texts(
        structs.replace(plain, base=base, build_base=twin, build_platform=build[0], labels=labels)
    )
    return Recipe(
        arch=arch.name, line=line.name, platform=target, python=base.python, base=base,
        containerfile=final["Containerfile"], apptainer_def=final["apptainer.def"],
        context=context, inputs=inputs, labels=labels, extensions=line.extensions,
        compute_capabilities=arch.compute_capabilities if line.cuda else (),
        driver_floor=render.driver_floor(arch, line),
    )  # fmt: skip


def _without_comments(text: str) -> bytes:
    """What an engine acts on: a reworded comment makes no new image."""
    return "".join(line for line in text.splitlines(True) if not line.startswith("#")).encode()


def _inputs(arch: Arch, line: Line, base: Base, target: Platform, layer_key: str) -> dict[str, str]:
    made_of = f"{base.distribution} {base.suite}, not made yet: {' '.join(base.packages)}"
    return {
        "arch": arch.name,
        "line": line.name,
        "platform": str(target),
        "base": base.digest or made_of,
        "python": f"{base.python} at {base.interpreter}",
        "layer": layer_key,
    }


def _platform(arch: Arch, asked: Platform | None, host: Platform) -> Platform:
    there = arch.all_platforms()
    if asked is None:
        return host if host in there else there[0]
    if asked not in there:
        raise UnsupportedError(
            f"arch {arch.name} is not made for {asked}: it has {' and '.join(map(str, there))}",
            f"choose PLATFORM={there[0]}",
        )
    return asked


def _lock(arch: Arch, line: Line, base: Base, target: Platform) -> tuple[str, str]:
    """The lock's name in the build context, and its text."""
    if base.python not in line.pythons:
        raise UnsupportedError(
            f"line {line.name} cannot stand on base {base.name} ({base.suite}, Python {base.python}):"
            f" it is made for Python {' and '.join(line.pythons)}",
            _way_out(arch, line, base),
        )
    path = line.lock(target, base.python)
    return f"stacks/{line.name}/{path.name}", path.read_text()


def _way_out(arch: Arch, line: Line, base: Base) -> str | None:
    """A command that would work: the same line on another base, or else another line on this one."""
    for name in bases.names():
        if bases.load(name).python in line.pythons:
            return line_of(["make", "image", f"ARCH={arch.name}", f"LINE={line.name}", f"BASE={name}"])
    for name in lines.names():
        other = lines.load(name)
        if base.python in other.pythons and bool(other.cuda) == bool(line.cuda):
            return line_of(["make", "image", f"ARCH={arch.name}", f"LINE={name}", f"BASE={base.name}"])
    return None


def _refuse_without_index(line: Line, target: Platform, is_set: bool) -> None:
    if line.needs_torch_index(target) and not is_set:
        raise UnsupportedError(
            f"line {line.name} on {target} needs an additional wheel index for its CUDA torch, which the"
            " package index does not have: the setting torch_index is not set",
            "export SLIPWORKS_TORCH_INDEX=…  (PyTorch's own index of CUDA 12 wheels)",
        )
