"""apptainer: builds and runs SIFs, as an ordinary user first of all.

What a SIF says of itself is read through spython. Its build and execute are not used: they drop one of the
two output streams (and can fill its pipe and stand still), print to stdout, and leave the builder running
when they are interrupted.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from containers import complaints, host
from containers.engine import Build, ContainerRun, Export, Update, home
from containers.mounts import mount_option
from containers.secrets import BuildSecrets
from containers.workplace import layout, workplace
from kit import files, process, say, shell
from kit.errors import HostError, MissingToolError, UnsupportedError
from kit.nouns import Format, Image, Platform, digest_file

OLDEST = (1, 3)
NEWER = "https://apptainer.org/docs/admin/main/installation.html"


class Apptainer:
    name = "apptainer"
    formats: tuple[Format, ...] = ("sif",)
    runs = True

    def __init__(self, export: Export | None = None, on: host.Host | None = None) -> None:
        self.on = on or host.facts()

    def check(self) -> str:
        process.find("apptainer", f"module load apptainer, or install it: {NEWER}")
        said = process.run(["apptainer", "--version"], what="ask apptainer", error=HostError).out
        found = re.search(r"(\d+)\.(\d+)[\w.+-]*", said)
        if not found or (int(found[1]), int(found[2])) < OLDEST:
            version = found[0] if found else said.strip()
            raise MissingToolError(
                f"apptainer {version} found, 1.3 or newer needed", f"module load apptainer, or: {NEWER}"
            )
        process.find("mksquashfs", host.install_hint("squashfs-tools"))
        if not self.on.root and not self.on.user_namespaces:
            raise HostError(
                "apptainer needs user namespaces, and this kernel refuses them",
                "sudo sysctl -w user.max_user_namespaces=28000",
            )
        if self.on.fuse != "open" and not self.on.root:
            raise HostError(f"apptainer needs /dev/fuse: it is {self.on.fuse}", "sudo chmod 666 /dev/fuse")
        return found[0]

    def build(self, build: Build, update: Update) -> None:
        recipe = build.recipe
        if recipe.platform != Platform.host():
            raise UnsupportedError(
                f"apptainer cannot run the steps of {recipe.platform} here without emulation",
                "build FORMAT=oci with podman, docker or buildah, then convert it",
            )
        if self.on.root and not self.on.every_capability:
            raise HostError(
                "apptainer cannot run build steps as a root that lacks capabilities",
                "build as an ordinary user, or with ENGINE=podman",
            )
        with workplace(recipe.context, "", build.secrets) as place:
            run_folder = place.folder / "run"
            _copy_secrets(build.secrets, run_folder / "secrets")
            text = f"{recipe.apptainer_def.rstrip()}\n{_additions(build)}"
            (place.folder / "definition").write_text(text)
            context = place.folder / place.context
            for name in _local_bases(text):
                self._unpack_base(build.base, context / name, update)
            flags = [f"--bind={run_folder}:/run"]
            base, texts = recipe.base.reference, recipe.context
            self._make(flags, "../definition", build.out, recipe.name, base, context, update, texts)

    def convert(self, image: Image, out: Path, update: Update) -> None:
        """A SIF of an OCI image of the store, of any platform: nothing of the image is run."""
        with layout(image) as (folder, source):
            flags = [f"--arch={image.platform.arch}"]
            self._make(flags, source, out, image.name, None, folder, update)

    def _unpack_base(self, base: Image | None, folder: Path, update: Update) -> None:
        if base is None:
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with layout(base) as (here, source):
            argv = ["apptainer", "build", "--sandbox", str(folder), source]
            complaints.stream(argv, what=f"unpack {base.name}", base=base.name, update=update, cwd=here)

    def _make(
        self,
        flags: list[str],
        source: str,
        out: Path,
        name: str,
        base: str | None,
        cwd: Path,
        update: Update,
        texts: Mapping[str, str] = {},
    ) -> None:
        with files.beside(out) as made:
            argv = [
                "apptainer",
                "build",
                *flags,
                f"--mksquashfs-args={_squash()}",
                str(made),
                source,
            ]
            complaints.stream(argv, what=f"build {name}", base=base, update=update, cwd=cwd, context=texts)
            files.settle(made, out)

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
        if self.on.root and not self.on.every_capability:
            say.once("note: root lacks capabilities here: apptainer runs in a user namespace")
            argv.append("--userns")
        if not any(bind.target == "/tmp" for bind in run.binds):
            argv.append("--scratch=/tmp")
        argv += [f"--env={name}={value}" for name, value in env.items()]
        if run.env_file:
            argv.append(f"--env-file={run.env_file}")
        argv += [f"--mount={mount_option(bind, 'ro')}" for bind in run.binds]
        if run.gpus:
            argv.append("--nv")
        return [*argv, run.image, *run.argv]

    def remove_argv(self, names: Sequence[str]) -> list[str]:
        return []


def _squash() -> str:
    """This process's share of the processors, not the whole node's; and zstd, packed faster than gzip."""
    processors = f"-processors {len(os.sched_getaffinity(0))}"
    able = process.run(["mksquashfs", "-help"], what="ask mksquashfs", check=False)
    return processors + (" -comp zstd -Xcompression-level 8" if "zstd" in able.out + able.err else "")


def _copy_secrets(secrets: BuildSecrets, folder: Path) -> None:
    """A folder that is bound over /run while the build lasts, so that no mount point of it stays behind."""
    folder.mkdir(parents=True)
    for name, path in {"index": secrets.index, "ca": secrets.ca}.items():
        if path is not None:
            shutil.copyfile(path, folder / name)
            (folder / name).chmod(0o600)


def _additions(build: Build) -> str:
    """Sections after the definition's own: the layer, unpacked by the host's tar, and the labels.

    %setup and not %files, which would follow the layer's links.
    """
    setup = ['mkdir -p "$APPTAINER_ROOTFS/run"']
    if build.layer:
        setup.append(f'tar -xzf {shell.quote(str(build.layer.absolute()))} -C "$APPTAINER_ROOTFS"')
    labels = [f"{name} {value}" for name, value in build.recipe.labels.items()]
    sections = {"setup": setup, "labels": labels}
    return "".join(
        f"\n%{name}\n" + "".join(f"    {line}\n" for line in lines)
        for name, lines in sections.items()
        if lines
    )


def _local_bases(definition: str) -> set[str]:
    """The folders, relative to the context, in which a definition expects its bases unpacked."""
    return set(re.findall(r"^Bootstrap: localimage\nFrom: (.+)$", definition, re.MULTILINE))


ENGINE = Apptainer
