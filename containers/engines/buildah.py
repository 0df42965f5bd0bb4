"""buildah, by its command line: keeps images, for podman or for a push, and runs nothing."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from containers import complaints, host
from containers.engine import ContainerRun, Export, refuse_newlines
from containers.workplace import config_digest, layout
from kit import process, say
from kit.errors import HostError, MissingToolError, UnsupportedError
from kit.nouns import Format, Image, Platform

LOCAL = ("oci:", "oci-archive:", "docker-archive:")
"""What an image that lies in no registry is called by."""


class Buildah:
    """Also podman's half that keeps images: the two share one storage and one code for it."""

    name = "buildah"
    formats: tuple[Format, ...] = ("oci",)
    runs = False
    oldest = (1, 24)

    def __init__(self, export: Export | None = None, on: host.Host | None = None) -> None:
        self._on = on

    @functools.cached_property
    def on(self) -> host.Host:
        """Looked at when it first counts: for nodes elsewhere it never does, and a directory may be slow."""
        return self._on or host.facts()

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

    DRIVER = "--format={{.store.GraphDriverName}}"
    ID: Sequence[str] = ("inspect", "--type=image", "--format={{.FromImageID}}")

    def load(self, image: Image, reference: str) -> None:
        if self.has(reference) == config_digest(image):
            return
        self._note_slow_storage()
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
        raise UnsupportedError("buildah keeps images and does not run them", "ENGINE=podman")

    def port_argv(self, name: str, port: int) -> list[str]:
        raise UnsupportedError(f"{self.name} runs no containers that listen")

    def pull_argv(self, reference: str, platform: Platform, *, insecure: bool = False) -> list[str]:
        words = ["pull", "--quiet", f"--platform={platform}", *(["--tls-verify=false"] if insecure else [])]
        return [
            *self.command(),
            *words,
            reference if reference.startswith(LOCAL) else f"docker://{reference}",
        ]

    def inspect_argv(self, reference: str) -> list[str]:
        return [*self.command(), "inspect", "--type=image", "--format={{json .OCIv1.Config}}", reference]

    def remove_image_argv(self, reference: str) -> list[str]:
        return [*self.command(), "rmi", reference]

    def remove_argv(self, names: Sequence[str], *, elsewhere: bool = False) -> list[str]:
        return []

    def _ask(self, *words: str) -> str:
        done = process.run([*self.command(), *words], what=f"ask {self.name}", check=False)
        if done.code:
            raise complaints.explain(f"use {self.name}", done.out + done.err, None, error=HostError)
        return done.out

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
