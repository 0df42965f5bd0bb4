"""docker: images through its SDK; running by its command line.

A container that the SDK starts is no process whose signals and exit code are the container's.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from containers import complaints, host
from containers.engine import ContainerRun, Export, refuse_newlines
from containers.mounts import docker_words, network
from containers.workplace import config_digest
from kit import files, process
from kit.errors import BuildError, HostError, MissingToolError, UnsupportedError
from kit.nouns import Format, Image, Platform

if TYPE_CHECKING:
    from docker import DockerClient

OLDEST = (20, 10)


class Docker:
    name = "docker"
    formats: tuple[Format, ...] = ("oci",)
    runs = True

    def __init__(self, export: Export | None = None, on: host.Host | None = None) -> None:
        self.export = export
        self._on = on
        self._client: DockerClient | None = None

    @functools.cached_property
    def on(self) -> host.Host:
        """Looked at when it first counts: for nodes elsewhere it never does, and a directory may be slow."""
        return self._on or host.facts()

    def check(self) -> str:
        process.find("docker", host.install_hint("docker.io"))
        version = str(self.client().version()["Version"])
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < OLDEST:
            raise MissingToolError(
                f"docker {version} found, 20.10 or newer needed", host.install_hint("docker.io")
            )
        return version

    def client(self) -> DockerClient:
        """The daemon that the command line would talk to; HostError or MissingToolError if there is none."""
        if self._client is None:
            self._client = _connect()
        return self._client

    def load(self, image: Image, reference: str) -> None:
        """By a `docker save` archive beside the store: the daemon reads no OCI layout before version 25."""
        if self.has(reference) == config_digest(image):
            return
        if self.export is None:
            raise UnsupportedError(
                f"docker cannot read {image.name} from the store's layout without an export"
            )
        from docker.errors import APIError

        with files.beside(image.path / "docker-archive") as archive:
            self.export(image, archive)
            try:
                with archive.open("rb") as file:
                    loaded = self.client().images.load(file)
            except APIError as reason:
                raise complaints.explain(f"load {image.name} into docker", str(reason), reference) from reason
        if not loaded:
            raise BuildError(
                f"could not load {image.name} into docker: it took the archive and named no image"
            )
        repository, _, tag = reference.rpartition(":")
        loaded[0].tag(repository, tag)

    def has(self, reference: str) -> str | None:
        from docker.errors import ImageNotFound

        try:
            found = self.client().images.get(reference)
        except ImageNotFound:
            return None
        return str(found.id)

    def env_text(self, values: Mapping[str, str]) -> str:
        """`NAME=value` lines, taken literally to the end of the line."""
        refuse_newlines(values)
        return "".join(f"{name}={value}\n" for name, value in values.items())

    def run_argv(self, run: ContainerRun) -> list[str]:
        init = "--init"  # a first process without handlers would ignore TERM
        shared = "--ipc=host"  # /dev/shm is 64 MB otherwise
        words = [network(run)] if run.plain else [init, network(run), shared]
        argv = ["docker", "run", "--rm", *words]
        argv.append("--security-opt=label=disable")  # SELinux hosts: binds are not relabelled
        if not run.entrypoint:
            argv.append("--entrypoint=")
        if run.plain:
            return [*argv, *docker_words(run), run.image, *run.argv]
        # Without root, the container's root is the caller already. Clusters' daemons are root's as a rule.
        by_root = run.elsewhere or not self._rootless()
        if by_root:
            argv.append(f"--user={os.geteuid()}:{os.getegid()}")
        argv += docker_words(run)
        if run.gpus:
            argv.append("--gpus=all")
            if by_root:  # networks lock their buffers; else the limit is the daemon's, as a rule 64 KiB
                argv.append("--ulimit=memlock=-1:-1")
        return [*argv, run.image, *run.argv]

    def port_argv(self, name: str, port: int) -> list[str]:
        return ["docker", "port", name, f"{port}/tcp"]

    def pull_argv(self, reference: str, platform: Platform, *, insecure: bool = False) -> list[str]:
        if reference.startswith(("oci:", "oci-archive:", "docker-archive:")):
            raise UnsupportedError(
                f"docker pulls from registries alone: found {reference}", "--engine podman"
            )
        return ["docker", "pull", "--quiet", f"--platform={platform}", reference]

    def inspect_argv(self, reference: str) -> list[str]:
        return ["docker", "image", "inspect", "--format={{json .Config}}", reference]

    def remove_image_argv(self, reference: str) -> list[str]:
        return ["docker", "image", "rm", reference]

    def remove_argv(self, names: Sequence[str], *, elsewhere: bool = False) -> list[str]:
        return ["docker", "rm", "--force", *names]

    def _rootless(self) -> bool:
        return any("rootless" in option for option in self.client().info().get("SecurityOptions") or ())


def _address() -> str:
    """DOCKER_HOST, or what the command line's current context says."""
    from docker.context import ContextAPI

    if named := os.environ.get("DOCKER_HOST"):
        return named
    context = ContextAPI.get_current_context()
    return str(context.Host if context else "unix:///var/run/docker.sock")


def _connect() -> DockerClient:
    from docker import DockerClient
    from docker.errors import DockerException

    address = _address()
    try:
        client = DockerClient(base_url=address, timeout=600)
        client.ping()
    except DockerException as reason:
        text = str(reason)
        if "Permission denied" in text or "PermissionError" in text:
            raise HostError(
                f"docker's daemon at {address} does not let this user in", "sudo usermod -aG docker $USER"
            ) from reason
        if not shutil.which("dockerd"):
            raise MissingToolError(
                f"docker's client is here, but no daemon answers at {address}", host.install_hint("docker.io")
            ) from reason
        start = "sudo systemctl start docker" if host.facts().systemd else "sudo service docker start"
        raise HostError(f"docker's daemon at {address} does not answer", start) from reason
    return client


ENGINE = Docker
