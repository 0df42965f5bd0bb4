"""Recipes: everything that makes one image, decided without an engine and without network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import structs

from definitions import archs, bases, groups, lines, render, system
from definitions.archs import Arch
from definitions.lines import Line
from kit.errors import UnpinnedError, UnsupportedError
from kit.nouns import Base, Group, Platform, Recipe, StackLayer, Wheel, digest, key_of
from kit.shell import line as line_of

_NOTHING: Mapping[str, str] = {}


def recipe(
    arch: str | Arch,
    *,
    layer_key: str,
    stack_key: Callable[[StackLayer], str],
    line: str | None = None,
    base: str | Base | None = None,
    platform: Platform | None = None,
    distribution: str | None = None,
    base_digest: str | None = None,
    system_digest: str | None = None,
    compiler: str | None = None,
    wheels: tuple[Wheel, ...] = (),
    host: Platform | None = None,
    torch_index_set: bool = False,
    defined: bool = False,
    made_by: Mapping[str, str] = _NOTHING,
) -> Recipe:
    """The recipe of one image. Pure, apart from the host's platform where `host` is not given.

    line, base, platform  None: the arch's own; as platform the host's where the arch has it, else its first
    layer_key          of the runner's layer, which every image carries
    stack_key          tells the key of one layer of the stack: how layers are made counts, too
    distribution       which system a bootstrapped base is made of: debian (the default) or ubuntu
    base_digest        of a bootstrapped base, once it is made (None: not yet; the key is then not an image's)
    system_digest      of the layer of distribution packages, once it is made (likewise)
    compiler           names the Python that byte-compiles the stack; None: the base's own
    wheels             of the line's extensions: those that the wheelhouse has
    torch_index_set    whether settings.torch_index is set
    made_by            name -> version of what shapes an image beside all that: its packing, its tools
    defined            a SIF built by apptainer from the rendered definition: other bytes, so another key

    UnknownNameError with a did-you-mean; UnsupportedError for what does not go together, with what would;
    UnpinnedError for a base or a lock that is not recorded yet.
    """
    found = archs.load(arch) if isinstance(arch, str) else arch
    stack = lines.load(line or found.line)
    target = _platform(found, platform, host or Platform.host())
    render.check(found, stack)
    base = base or found.base
    ground = bases.load(base, distribution or "debian") if isinstance(base, str) else base
    lock = _lock(found, stack, ground, target)
    _refuse_without_index(stack, target, torch_index_set)
    if ground.kind == "registry" and not (ground.digest or base_digest):
        raise UnpinnedError(
            f"base {ground.name} is not pinned: no digest is recorded for {ground.reference}",
            "make pins, where the registry can be reached; or BASE=bootstrap, which needs none",
        )
    on = bases.at(ground, target, base_digest)
    system_packages = system.packages(stack, ground)
    groups = _stack(stack, on, target, lock[1], wheels, compiler or on.digest or "")
    inputs = {
        "arch": found.name,
        "line": stack.name,
        "platform": str(target),
        "base": on.digest or f"{on.distribution} {on.suite}, not made yet: {' '.join(on.packages)}",
        "python": f"{on.python} at {on.interpreter}",
        "layer": layer_key,
    }
    inputs |= made_by
    if system_packages:
        inputs["system"] = system_digest or f"not made yet: {' '.join(system_packages)}"
    inputs |= {f"stack {each.group.name}": stack_key(each) for each in groups}
    return _made((found, stack), (ground, on), target, lock, inputs, groups, defined)


def _stack(
    line: Line, base: Base, target: Platform, lock: str, wheels: tuple[Wheel, ...], compiler: str
) -> tuple[StackLayer, ...]:
    tools, cuda_home = ((render.DEFINITIONS / name).read_text() for name in (render.TOOLS, render.CUDA_HOME))

    def layer(group: Group) -> StackLayer:
        """Told only what its own packages need: a change of the rest is none of this layer."""
        source = tuple(name for name in line.source if f"\n{name}==" in f"\n{group.lock}")
        compiles = line.cuda is not None and "\nnvidia-cuda-nvcc==" in f"\n{group.lock}"
        return StackLayer(
            group=group, platform=target, python=base.python, interpreter=base.interpreter,
            glibc=line.glibc, source=source, tools=tools if source else "",
            compiler=compiler if group.whole is None else "", cuda_home=cuda_home if compiles else "",
        )  # fmt: skip

    return tuple(layer(group) for group in groups.split(lock, f"the lock of {line.name}", wheels))


def _made(
    of: tuple[Arch, Line], on: tuple[Base, Base], target: Platform, lock: tuple[str, str],
    inputs: dict[str, str], stack: tuple[StackLayer, ...], defined: bool,
) -> Recipe:  # fmt: skip
    (arch, line), (ground, base) = of, on
    names = (render.SCRIPT, render.TOOLS, render.CUDA_HOME)
    context = {name: (render.DEFINITIONS / name).read_text() for name in names}
    context[lock[0]] = lock[1]
    there = {wheel.name for layer in stack for wheel in layer.group.wheels}
    missing = tuple(name for name in line.extensions if defined or name not in there)

    # The key is made of what goes in, not of names on this machine: local bases.
    labels = render.labels_of(arch, line, base) | {"slipworks.lock": digest(lock[1].encode())}
    labels = {name: value for name, value in labels.items() if name != render.LEFT_OUT}
    labels |= {render.LEFT_OUT: " ".join(missing)} if missing else {}
    plain = render.Model(arch=arch, line=line, base=ground, platforms=(target,), labels={})
    if defined:
        inputs |= {"by": "apptainer's definition"}
        inputs |= {
            f"text {name}": digest(_without_comments(text)) for name, text in render.texts(plain).items()
        }
        inputs |= {f"file {name}": digest(text.encode()) for name, text in context.items()}
    inputs |= {f"variable {name}": value for name, value in plain.environment.items()}
    inputs |= {f"label {name}": value for name, value in labels.items() if not name.endswith("base.name")}
    labels["slipworks.key"] = key_of(inputs)
    final = render.texts(structs.replace(plain, base=base, labels=labels))
    return Recipe(
        arch=arch.name, line=line.name, platform=target, python=base.python, base=base,
        system=system.packages(line, ground), stack=stack, environment=plain.environment,
        containerfile=final["Containerfile"], apptainer_def=final["apptainer.def"],
        context=context, inputs=inputs, labels=labels, extensions=missing,
        compute_capabilities=arch.compute_capabilities if line.cuda else (),
        driver_floor=render.driver_floor(arch, line),
    )  # fmt: skip


def _without_comments(text: str) -> bytes:
    """What an engine acts on: a reworded comment makes no new image."""
    return "".join(line for line in text.splitlines(True) if not line.startswith("#")).encode()


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
