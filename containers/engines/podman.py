"""podman: keeps images as buildah does, and runs them.

By its command line. The docker SDK speaks to podman only through a service, which clusters do not run and
which takes longer to start than any question asked here; nor can it read the store's OCI layout, or leave a
process whose signals and exit code are the container's.
"""

from __future__ import annotations

from collections.abc import Sequence

from containers import host
from containers.engine import ContainerRun
from containers.engines.buildah import Buildah
from containers.mounts import docker_words, network
from kit import process
from kit.errors import MissingToolError


class Podman(Buildah):
    name = "podman"
    runs = True
    oldest = (4, 0)
    DRIVER = "--format={{.Store.GraphDriverName}}"
    ID: Sequence[str] = ("image", "inspect", "--format={{.Id}}")

    def command(self, elsewhere: bool = False) -> list[str]:
        if elsewhere:  # a job has no session with systemd
            return ["podman", "--cgroup-manager", "cgroupfs"]
        return [*super().command(), *host.podman_flags(self.on)]

    def check(self) -> str:
        process.find("podman", host.install_hint("podman"))
        if self.on.cgroups == "hybrid" and "runc" not in self.on.runtimes:
            raise MissingToolError(
                "podman cannot run containers here: crun refuses hybrid cgroups, and runc is not installed",
                host.install_hint("runc"),
            )
        return super().check()

    def run_argv(self, run: ContainerRun) -> list[str]:
        argv = [
            *self.command(run.elsewhere),
            "run",
            "--rm",
            "--pull=never",
            network(run),
            "--security-opt=label=disable",  # SELinux hosts: binds are not relabelled
        ]
        if not run.elsewhere:
            argv += host.ulimit_flags(self.on) if run.plain else host.podman_run_flags(self.on)
        if not run.entrypoint:
            argv.append("--entrypoint=")
        # Without root, the container's root is the caller. keep-id would copy a 20 GB image to change owners.
        argv += docker_words(run)
        if run.gpus:
            # By the container device interface, whose file `nvidia-ctk cdi generate` writes. Devices alone
            # would not do: the driver's libraries, which must be of its own version, are in no image.
            argv.append("--device=nvidia.com/gpu=all")
        return [*argv, run.image, *run.argv]

    def port_argv(self, name: str, port: int) -> list[str]:
        return [*self.command(), "port", name, f"{port}/tcp"]

    def inspect_argv(self, reference: str) -> list[str]:
        return [*self.command(), "image", "inspect", "--format={{json .Config}}", reference]

    def remove_argv(self, names: Sequence[str], *, elsewhere: bool = False) -> list[str]:
        return [*self.command(elsewhere), "rm", "--force", "--time=0", "--ignore", *names]


ENGINE = Podman
