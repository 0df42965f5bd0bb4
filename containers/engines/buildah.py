"""buildah, by its command line: builds, and runs nothing."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from containers import complaints, host
from containers.engine import Build, ContainerRun, Export, Update, bases, refuse_newlines
from containers.workplace import config_digest, layout, workplace
from kit import files, process, say
from kit.errors import HostError, MissingToolError, SlipworksError, UnsupportedError
from kit.nouns import Format, Image, Platform


class Buildah:
    """Also what podman builds with: the two share one image storage and, for building, one code."""

    name = "buildah"
    formats: tuple[Format, ...] = ("oci",)
    runs = False
    oldest = (1, 24)

    def __init__(self, export: Export | None = None, on: host.Host | None = None) -> None:
        self.on = on or host.facts()

    def command(self) -> list[str]:
        """The program, with the flags that this host asks for."""
        if self.on.runtime_dir == "stale":  # a job often inherits the name of a folder that logind removed
            return ["env", "-u", "XDG_RUNTIME_DIR", self.name]
        return [self.name]

    def check(self) -> str:
        process.find(self.name, host.install_hint(self.name))
        version = _version(self._ask("--version"))
        if version < self.oldest:
            raise MissingToolError(
                f"{self.name} {_dotted(version)} found, {_dotted(self.oldest)} or newer needed",
                host.install_hint(self.name),
            )
        self._check_rootless()
        # Opens the storage and, without root, a namespace; `info` takes more than twice as long.
        self._ask("images", "--quiet", "--filter=reference=none")
        return _dotted(version)

    def build(self, build: Build, update: Update) -> None:
        recipe = build.recipe
        self._note_slow_storage()
        for reference, image in bases(build).items():
            self.load(image, reference)
        with (
            workplace(recipe.context, recipe.containerfile, build.secrets) as place,
            files.beside(build.out) as made,
        ):
            made.mkdir()
            # buildah keeps the list of a build's secrets with each of its working containers: one that no
            # step asks for tells them from other builds' ones. It is no part of image or layer cache.
            mark = place.folder.name
            (place.folder / mark).touch()
            flags = [f"--secret=id={secret},src={secret}" for secret in (*place.secrets, mark)]
            flags += [f"--label={name}={value}" for name, value in recipe.labels.items()]
            argv = [
                *self.command(),
                *self.BUILD,
                "--isolation=chroot",  # no runtime, no cgroup; the steps see the host's network
                "--layers=true",
                "--force-rm",  # working containers go also when a step fails
                "--format=oci",
                *host.ulimit_flags(self.on),
                f"--platform={recipe.platform}",
                # buildah 1.28 takes the target for it when the two differ
                f"--build-arg=BUILDPLATFORM={Platform.host()}",
                f"--iidfile={place.folder / 'id'}",
                f"--file={place.text}",
                *flags,
                place.context,
            ]
            try:
                what, base = f"build {recipe.name}", recipe.base.reference
                self._told(argv, what, base, place.folder, update, recipe.context)
            except BaseException:
                self._remove_working(mark)
                raise
            identity = (place.folder / "id").read_text().strip()
            argv = [*self.command(), "push", identity, f"oci-archive:archive:{recipe.name}"]
            self._told(argv, f"write {recipe.name}", recipe.base.reference, made, update)
            files.settle(made / "archive", build.out)

    BUILD: Sequence[str] = ("bud",)
    DRIVER = "--format={{.store.GraphDriverName}}"
    ROOT = "--format={{.store.GraphRoot}}"
    ID: Sequence[str] = ("inspect", "--type=image", "--format={{.FromImageID}}")
    REMOVE: Sequence[str] = ("rm",)

    def load(self, image: Image, reference: str) -> None:
        if self.has(reference) == config_digest(image):
            return
        with layout(image) as (folder, source):
            done = process.run(
                [*self.command(), "pull", "--quiet", source],
                what=f"load {image.name} into {self.name}", cwd=folder, check=False,
            )  # fmt: skip
        if done.code:
            raise complaints.explain(f"load {image.name} into {self.name}", done.out + done.err, reference)
        identity = done.out.split()[-1]
        self._ask("tag", identity, reference)
        # The name that pull gave it; podman 5 gives none, so it may not be there.
        spare = f"localhost/{source.removeprefix('oci:')}:latest"
        process.run([*self.command(), "rmi", spare], what=f"ask {self.name}", check=False)

    def has(self, reference: str) -> str | None:
        done = process.run([*self.command(), *self.ID, reference], what=f"ask {self.name}", check=False)
        identity = done.out.strip()
        return f"sha256:{identity.removeprefix('sha256:')}" if done.code == 0 and identity else None

    def env_text(self, values: Mapping[str, str]) -> str:
        """`NAME=value` lines, taken literally to the end of the line."""
        refuse_newlines(values)
        return "".join(f"{name}={value}\n" for name, value in values.items())

    def run_argv(self, run: ContainerRun) -> list[str]:
        raise UnsupportedError("buildah builds images and does not run them", "ENGINE=podman")

    def remove_argv(self, names: Sequence[str]) -> list[str]:
        return []

    def _ask(self, *words: str) -> str:
        done = process.run([*self.command(), *words], what=f"ask {self.name}", check=False)
        if done.code:
            raise complaints.explain(f"use {self.name}", done.out + done.err, None, error=HostError)
        return done.out

    def _told(
        self,
        argv: list[str],
        what: str,
        base: str,
        cwd: Path,
        update: Update,
        context: Mapping[str, str] = {},
    ) -> None:
        complaints.stream(argv, what=what, base=base, cwd=cwd, update=update, context=context)

    def _remove_working(self, mark: str) -> None:
        """Removes the working containers of the build of that mark: a signal leaves them, gigabytes each.

        Neither podman nor buildah can list them by build, so their state is read where both keep it.
        """
        with contextlib.suppress(SlipworksError, OSError):
            root = Path(self._ask("info", self.ROOT).strip())
            for state in root.glob("*-containers/*/userdata/buildah.json"):
                if mark in state.read_text(errors="replace"):
                    process.finish([*self.command(), *self.REMOVE, state.parents[1].name], what="clean up")

    def _note_slow_storage(self) -> None:
        if self._ask("info", self.DRIVER).strip() == "vfs":
            say.once(
                f"note: {self.name} stores images with vfs here, a full copy of each layer: "
                'driver = "overlay" in ~/.config/containers/storage.conf is faster and smaller'
            )

    def _check_rootless(self, find: Callable[[str, str], Path] = process.find) -> None:
        if self.on.root:
            return
        find("newuidmap", host.install_hint("uidmap"))
        if not self.on.user_namespaces:
            raise HostError(
                f"{self.name} without root needs user namespaces, and this kernel refuses them",
                "sudo sysctl -w user.max_user_namespaces=28000",
            )
        if self.on.subids < host.ENOUGH_IDS:
            raise HostError(
                f"{self.name} without root needs {host.ENOUGH_IDS} subordinate ids in /etc/subuid and "
                f"/etc/subgid: found {self.on.subids} for {self.on.user}",
                host.subids_hint(self.on.user),
            )


def _version(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups(default="0")) if found else (0,)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


ENGINE = Buildah
