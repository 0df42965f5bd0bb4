"""The way out on one node: what it needs is looked for, it is opened, awaited, kept open and closed."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import shutil
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kit import files
from kit.errors import LaunchError
from runner.egress import plan as plans
from runner.egress import probe
from runner.egress.plan import CONF, EgressPlan
from runner.egress.probe import Proxy
from runner.egress.tunnel import Tunnel
from runner.facts import Facts
from runner.launch import Launch, Service
from runner.meeting import Late, wait
from runner.private import Private
from runner.runs import Attempt

SOCKS = 11  # its place in the node's block of ports; see runner/ports.py
LIBRARIES = ("lib*/libproxychains*.so*", "lib*/*/libproxychains*.so*")
OUR_IMAGES = "apt-get install openssh-client proxychains4 in the image; ours for GPUs have both"


class Outlet:
    """Nothing but `__init__` is done on a node that needs no way out."""

    def __init__(self, attempt: Attempt, rank: int, tell: Callable[[str], None]) -> None:
        self.rank, self.tell = rank, tell
        self.conf = attempt.folder / f"egress-{rank}.conf"
        self.log = attempt.folder / f"egress-{rank}.log"
        self.tunnel: Tunnel | None = None
        self._plan: EgressPlan | None = None
        self._proxy: Proxy | None = None
        self._why = ""

    def open(
        self, launch: Launch, env: dict[str, str], facts: Facts, private: Private, here: Sequence[Service]
    ) -> Launch:
        """Begins to open it, where the node needs it; returns the launch that knows what was found.
        private: where a Docker host's socket is made; here: the services that this node runs.

        Puts into `env`, of all that runs here, what leads to the configuration and to a Docker host.
        LaunchError for what the image or the run folder lacks.
        """
        asking = [plans.asks_alone(each) for each in here]
        plan = launch.egress
        if plan is None or not plans.is_needed(launch, self.rank, asking):
            return launch
        if plans.preloads(launch, asking):
            launch = plans.equipped(launch, library(env))
        if plan.kind == "ssh":
            port = (facts.port_base or 0) + SOCKS
            docker = str(private.folder(facts) / "docker.sock") if plan.docker else None
            self.tunnel = self._tunnel(plan, env, port, docker)
            self.tunnel.start()
            self._proxy = Proxy("socks5", "127.0.0.1", port)
            if docker:
                env.setdefault("DOCKER_HOST", f"unix://{docker}")
        else:
            self._proxy = Proxy(plan.kind, _resolved(plan.host), plan.port)
        files.write(self.conf, plans.conf(plan, (self._proxy.host, self._proxy.port), networks()), mode=0o600)
        env[CONF] = str(self.conf)
        self._plan = plan
        return launch

    def wait_open(self, check: Callable[[], None]) -> None:
        """Until a connection through it works; LaunchError if that takes longer than the job says."""
        plan = self._plan
        if plan is None:
            return
        try:
            wait(self._leads_out, awaited="the way out", seconds=plan.within, check=check)
        except Late as late:
            raise Late(self._shut(plan, f"within {plan.within:g} s"), self._hint(plan)) from late
        self.tell(f"the way out by {plan.told} is open")

    def check(self) -> None:
        """Opens again what has dropped. To be called often; never waits, and never fails once it was open."""
        if self.tunnel:
            self.tunnel.keep()

    def close(self) -> None:
        if self.tunnel:
            self.tunnel.close()

    def _tunnel(self, plan: EgressPlan, env: Mapping[str, str], port: int, docker: str | None) -> Tunnel:
        path = env.get("PATH", os.defpath)
        if (ssh := shutil.which("ssh", path=path)) is None:
            raise LaunchError("the image has no `ssh`, by which the job's egress leaves the node", OUR_IMAGES)
        if not Path(plans.KEY).is_file():
            raise LaunchError(f"the key for the gateway, {plan.key}, is not on this node")
        known = [each for each in (plans.KNOWN, plans.OF_SITE) if Path(each).exists()]
        words = plans.argv(plan, port, docker, known=known)
        # Of the environment nothing more: secrets are none of ssh's business.
        own = {"PATH": path, "HOME": env.get("HOME", "/")}
        return Tunnel([ssh, *words[1:]], port, self.log, own, self.tell)

    def _leads_out(self) -> bool | None:
        plan, proxy = self._plan, self._proxy
        assert plan and proxy
        if self.tunnel:
            self.tunnel.keep()
            if _refuses(self.tunnel):
                raise LaunchError(self._shut(plan, "at all"), self._hint(plan))
            if not self.tunnel.is_open:
                return None
        self._why = probe.failure(proxy, plan.probe, plan.names == "gateway") or ""
        return True if not self._why else None

    def _shut(self, plan: EgressPlan, how: str) -> str:
        said = f"; ssh's last lines:\n{self.tunnel.said()}" if self.tunnel else ""
        why = f": {self._why}" if self._why else ""
        return f"node {self.rank} did not reach {plan.probe} by {plan.told} {how}{why}{said}"

    def _hint(self, plan: EgressPlan) -> str:
        return "runner doctor --egress" if plan.kind == "ssh" else "runner doctor --egress, on a node"


def library(env: Mapping[str, str]) -> str:
    """proxychains' library, of the installation that comes first on PATH; LaunchError where there is none."""
    for folder in env.get("PATH", os.defpath).split(":"):
        for pattern in LIBRARIES:
            found = sorted(str(each) for each in Path(folder or ".").resolve().parent.glob(pattern))
            if found:
                return found[-1]
    raise LaunchError(
        "the image has no `proxychains4`, by which the job's egress leaves the node", OUR_IMAGES
    )


def networks() -> tuple[str, ...]:
    """Those that this node's interfaces are in."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                address = fcntl.ioctl(asked.fileno(), 0x8915, request)[20:24]  # SIOCGIFADDR
                mask = fcntl.ioctl(asked.fileno(), 0x891B, request)[20:24]  # SIOCGIFNETMASK
            except OSError:  # it has no IPv4 address
                continue
            both = f"{socket.inet_ntoa(address)}/{socket.inet_ntoa(mask)}"
            found.append(str(ipaddress.ip_network(both, strict=False)))
    return tuple(dict.fromkeys(found))


def _refuses(tunnel: Tunnel) -> bool:
    """Whether another try would end as the last did."""
    said = tunnel.said()
    return tunnel.failures > 0 and ("Permission denied (" in said or "Host key verification failed" in said)


def _resolved(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as unknown:
        raise LaunchError(f"this node does not know the proxy {host}: {unknown}") from unknown
