"""docker: images through its SDK; building and running by its command line.

The SDK cannot pass secrets to a build (that is BuildKit, which only the client speaks), and a container
that it starts is no process whose signals and exit code are the container's.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from containers import complaints, host
from containers.engine import Build, ContainerRun, Export, Update, bases, refuse_newlines
from containers.mounts import docker_words
from containers.workplace import config_digest, workplace
from kit import files, process
from kit.errors import BuildError, HostError, MissingToolError, UnsupportedError
from kit.nouns import Format, Image

if TYPE_CHECKING:
    from docker import DockerClient

OLDEST = (20, 10)


class Docker:
    name = "docker"
    formats: tuple[Format, ...] = ("oci",)
    runs = True

    def __init__(self, export: Export | None = None, on: host.Host | None = None) -> None:
        self.export = export
        self.on = on or host.facts()
        self._client: DockerClient | None = None

    def check(self) -> str:
        client_program()
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

    def build(self, build: Build, update: Update) -> None:
        recipe = build.recipe
        program, buildx = client_program()
        for reference, image in bases(build).items():
            self.load(image, reference)
        with (
            workplace(recipe.context, recipe.containerfile, build.secrets) as place,
            files.beside(build.out) as made,
        ):
            flags = [f"--secret=id={secret},src={secret}" for secret in place.secrets]
            flags += [f"--label={name}={value}" for name, value in recipe.labels.items()]
            if buildx:  # 20.10's own BuildKit puts the image into the daemon and attests nothing
                flags += ["--load", "--provenance=false"]
            argv = [
                program,
                "build",
                "--progress=plain",
                "--network=host",
                f"--platform={recipe.platform}",
                f"--iidfile={place.folder / 'id'}",
                f"--file={place.text}",
                *flags,
                place.context,
            ]
            environment = {**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_HOST": _address()}
            complaints.stream(
                argv, what=f"build {recipe.name}", base=recipe.base.reference, update=update,
                cwd=place.folder, env=environment, context=recipe.context,
            )  # fmt: skip
            self._save((place.folder / "id").read_text().strip(), made)
            files.settle(made, build.out)

    def _save(self, identity: str, out: Path) -> None:
        with files.space_named(out), out.open("wb") as file:
            for chunk in self.client().images.get(identity).save(chunk_size=1 << 20):
                file.write(chunk)

    def load(self, image: Image, reference: str) -> None:
        """By a `docker save` archive: the daemon reads no OCI layout before version 25."""
        if self.has(reference) == config_digest(image):
            return
        if self.export is None:
            raise UnsupportedError(
                f"docker cannot read {image.name} from the store's layout without an export"
            )
        from docker.errors import APIError

        with tempfile.TemporaryDirectory(prefix="slipworks-load-") as folder:
            archive = Path(folder) / "archive"
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
        argv = [
            client_program()[0],
            "run",
            "--rm",
            "--init",  # a first process without handlers would ignore TERM
            "--network=host",
            "--ipc=host",  # /dev/shm is 64 MB otherwise
            "--security-opt=label=disable",  # SELinux hosts: binds are not relabelled
            "--entrypoint=",
        ]
        if not self._rootless():  # without root, the container's root is the caller already
            argv.append(f"--user={os.geteuid()}:{os.getegid()}")
        argv += docker_words(run)
        if run.gpus:
            argv.append("--gpus=all")
        return [*argv, run.image, *run.argv]

    def remove_argv(self, names: Sequence[str]) -> list[str]:
        return [client_program()[0], "rm", "--force", *names]

    def _rootless(self) -> bool:
        return any("rootless" in option for option in self.client().info().get("SecurityOptions") or ())


def client_program() -> tuple[str, bool]:
    """A docker client that can build with secrets, and whether it does so by buildx.

    Clients from 23 on need the buildx plug-in; older ones have BuildKit inside. The first on PATH that can is
    taken: a machine may have a new client without the plug-in before an old one.
    """
    found = [
        str(path) for folder in os.get_exec_path() if os.access(path := Path(folder) / "docker", os.X_OK)
    ]
    if not found:
        process.find("docker", host.install_hint("docker.io"))
    for program in dict.fromkeys(found):
        asked = process.run([program, "--version"], what="ask docker", check=False)
        version = re.search(r"version (\d+)\.", asked.out)
        if version and int(version[1]) < 23:
            return program, False
        if process.run([program, "buildx", "version"], what="ask docker", check=False).code == 0:
            return program, True
    raise MissingToolError(
        f"docker's client {found[0]} has no BuildKit: its plug-in buildx is missing",
        host.install_hint("docker-buildx"),
    )


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
