"""apptainer: makes and runs SIFs, as an ordinary user first of all.

What a SIF says of itself is read through spython. Its build and execute are not used: they drop one of the
two output streams (and can fill its pipe and stand still), print to stdout, and leave the builder running
when they are interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from containers import complaints, host, sif
from containers.engine import ContainerRun, Export, Update, home
from containers.mounts import mount_option
from containers.secrets import NONE, BuildSecrets
from containers.workplace import created, layout, packed_size, workplace
from kit import process, say, shell
from kit.errors import HostError, MissingToolError, UnsupportedError
from kit.nouns import Format, Image, Platform, Recipe, digest_file

OLDEST = (1, 3)
NEWER = "https://apptainer.org/docs/admin/main/installation.html"


class Apptainer:
    name = "apptainer"
    formats: tuple[Format, ...] = ("sif",)
    runs = True

    def __init__(self, export: Export | None = None, on: host.Host | None = None) -> None:
        self._on = on

    @functools.cached_property
    def on(self) -> host.Host:
        """Looked at when it first counts: for nodes elsewhere it never does, and a directory may be slow."""
        return self._on or host.facts()

    def check(self) -> str:
        version = self.able()
        process.find("mksquashfs", host.install_hint("squashfs-tools"))
        return version

    def able(self) -> str:
        """Its version, if it can run images here, whether or not it can make any."""
        process.find("apptainer", f"module load apptainer, or install it: {NEWER}")
        said = process.run(["apptainer", "--version"], what="ask apptainer", error=HostError).out
        found = re.search(r"(\d+)\.(\d+)[\w.+-]*", said)
        if not found or (int(found[1]), int(found[2])) < OLDEST:
            version = found[0] if found else said.strip()
            raise MissingToolError(
                f"apptainer {version} found, 1.3 or newer needed", f"module load apptainer, or: {NEWER}"
            )
        if not self.on.root and not self.on.user_namespaces:
            raise HostError(
                "apptainer needs user namespaces, and this kernel refuses them",
                "sudo sysctl -w user.max_user_namespaces=28000",
            )
        if self.on.fuse != "open" and not self.on.root:
            raise HostError(f"apptainer needs /dev/fuse: it is {self.on.fuse}", "sudo chmod 666 /dev/fuse")
        return found[0]

    def convert(self, image: Image, out: Path, update: Update, *, at_once: int = 1) -> None:
        """A SIF of an OCI image of the store, of any platform: nothing of the image is run.

        at_once  how many are converted at the same time here: each gets its part of the machine.
        Its variables, labels, entrypoint and command become the SIF's. Equal images give equal bytes, as far
        as containers/sif.py says.
        """
        with layout(image, _same_name(image)) as (folder, source):
            bootstrap, _, name = source.partition(":")
            text = f"Bootstrap: {bootstrap}\nFrom: {name}\n\n%labels\n    {sif.LABEL}\n"
            (folder / "definition").write_text(text)
            making = sif.Making(
                what=f"convert {image.name} to a SIF",
                source="definition",
                cwd=folder,
                epoch=created(image),
                # The cache would keep a second copy of every layer, as a rule in the home folder.
                flags=(f"--arch={image.platform.arch}", "--disable-cache"),
                packed=packed_size(image),
                at_once=at_once,
            )
            sif.make(making, out, update)

    def define(
        self,
        recipe: Recipe,
        out: Path,
        update: Update,
        *,
        secrets: BuildSecrets = NONE,
        base: Image | None = None,
        layer: Path | None = None,
    ) -> None:
        """A SIF by the recipe's definition, whose commands are run: for this machine's own platform alone.

        base   of the store, for a definition that begins from a local one; it must hold the distribution
               packages that the line needs. None: the definition pulls its base.
        layer  a self-contained layer's packed tar with one top-level folder, which is unpacked in the image.
        """
        self._check_define(recipe.platform)
        with workplace(recipe.context, out.parent) as place, _bound(secrets) as run:
            if layer:
                (place / "layer").symlink_to(layer.absolute())
            text = f"{recipe.apptainer_def.rstrip()}\n{_additions(recipe, layer)}"
            (place / "definition").write_text(text)
            for name in _local_bases(text):
                self._unpack_base(base, place / "context" / name, update)
            making = sif.Making(
                what=f"build {recipe.name}",
                source="../definition",
                cwd=place / "context",
                epoch=created(base) if base else 0,
                flags=(f"--bind={run}:/run",),
                base=recipe.base.reference,
                context=recipe.context,
            )
            sif.make(making, out, update)

    def _check_define(self, platform: Platform) -> None:
        if platform != Platform.host():
            raise UnsupportedError(
                f"apptainer cannot run the steps of {platform} here without emulation",
                "make image FORMAT=sif, which assembles the image and converts it",
            )
        if self.on.root and not self.on.every_capability:
            raise HostError(
                "apptainer cannot run build steps as a root that lacks capabilities",
                "build as an ordinary user; or make image FORMAT=sif, which runs none",
            )

    def _unpack_base(self, base: Image | None, folder: Path, update: Update) -> None:
        if base is None:
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with layout(base, _same_name(base)) as (here, source):
            argv = ["apptainer", "build", "--disable-cache", "--sandbox", str(folder), source]
            complaints.stream(argv, what=f"unpack {base.name}", base=base.name, update=update, cwd=here)

    def load(self, image: Image, reference: str) -> None:
        """Nothing to do: a SIF is run from where it lies."""

    def has(self, reference: str) -> str | None:
        path = Path(reference)
        return digest_file(path) if path.is_file() else None

    def labels(self, path: Path) -> dict[str, str]:
        """The labels of a SIF."""
        from spython.main import get_client

        client = get_client(quiet=True)
        client._init_command = lambda action, options=None: ["apptainer", *(options or []), action]
        found = client.inspect(str(path))
        return dict(found["attributes"]["labels"])

    def env_text(self, values: Mapping[str, str]) -> str:
        """Assignments in sh's own quoting, which apptainer evaluates; line breaks may be inside."""
        return "".join(f"{name}={shell.quote(value)}\n" for name, value in values.items())

    def run_argv(self, run: ContainerRun) -> list[str]:
        if run.plain:
            raise UnsupportedError(
                "apptainer runs no image as docker would: its user and network are the host's"
            )
        env = home(run.env)
        argv = [
            "apptainer",
            "--quiet",
            "exec",
            "--cleanenv",
            "--no-eval",  # a value is a value, also with a $ in it
            "--pid",  # what is left of a job's processes ends with it
            "--no-mount=home,tmp,cwd,bind-paths,hostfs",
            f"--home={env.pop('HOME')}",
            f"--pwd={run.workdir or '/'}",
        ]
        # Elsewhere the node decides, and says so by APPTAINER_USERNS.
        if not run.elsewhere and self.on.root and not self.on.every_capability:
            say.once("note: root lacks capabilities here: apptainer runs in a user namespace")
            argv.append("--userns")
        if not run.temporary and not any(bind.target == "/tmp" for bind in run.binds):
            argv.append("--scratch=/tmp")
        argv += [f"--env={name}={value}" for name, value in env.items()]
        if run.env_file:
            argv.append(f"--env-file={run.env_file}")
        argv += [f"--mount={mount_option(bind, 'ro')}" for bind in run.binds]
        if run.gpus:  # the driver's libraries; its devices are there, for the host's /dev is
            argv.append("--nv")
        return [*argv, run.image, *run.argv]

    def port_argv(self, name: str, port: int) -> list[str]:
        raise UnsupportedError("apptainer's containers have the host's network")

    def pull_argv(self, reference: str, platform: Platform, *, insecure: bool = False) -> list[str]:
        raise UnsupportedError("apptainer keeps no images: runner image pull, and make a SIF of it")

    def inspect_argv(self, reference: str) -> list[str]:
        return ["apptainer", "inspect", "--json", reference]

    def remove_image_argv(self, reference: str) -> list[str]:
        return []

    def remove_argv(self, names: Sequence[str], *, elsewhere: bool = False) -> list[str]:
        return []


def _same_name(image: Image) -> str:
    """Of its layout, which a SIF remembers: one that says nothing of this build."""
    return f"image-{image.digest[7:19]}"


@contextlib.contextmanager
def _bound(secrets: BuildSecrets) -> Iterator[Path]:
    """A folder that is bound over /run while the build lasts, so that no mount point of it stays behind.

    Not beside the image, whose folder's name may hold what apptainer reads as punctuation.
    """
    with tempfile.TemporaryDirectory(prefix="slipworks-run-") as name:
        folder = Path(name, "secrets")
        folder.mkdir()
        for secret, path in {"index": secrets.index, "ca": secrets.ca}.items():
            if path is not None:
                shutil.copyfile(path, folder / secret)
                (folder / secret).chmod(0o600)
        yield Path(name)


def _additions(recipe: Recipe, layer: Path | None) -> str:
    """Sections after the definition's own: the layer, unpacked by the host's tar, and the labels.

    %setup and not %files, which would follow the layer's links.
    """
    setup = ['mkdir -p "$APPTAINER_ROOTFS/run"']
    if layer:
        setup.append('tar -xf ../layer -C "$APPTAINER_ROOTFS"')
    labels = [*(f"{name} {value}" for name, value in recipe.labels.items()), sif.LABEL]
    return "".join(
        f"\n%{name}\n" + "".join(f"    {line}\n" for line in lines)
        for name, lines in {"setup": setup, "labels": labels}.items()
    )


def _local_bases(definition: str) -> set[str]:
    """The folders, relative to the context, in which a definition expects its bases unpacked."""
    return set(re.findall(r"^Bootstrap: localimage\nFrom: (.+)$", definition, re.MULTILINE))


ENGINE = Apptainer
