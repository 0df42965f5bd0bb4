"""A cluster's way out, tried from this machine: for `runner doctor --egress`, best on a node."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kit import settings
from kit.errors import InvalidFileError, MissingToolError, NetworkError
from runner.doctor import Finding, asked
from runner.egress import plan as plans
from runner.egress import probe, submitting
from runner.egress.asked import Egress
from runner.egress.plan import EgressPlan
from runner.egress.probe import Proxy
from runner.egress.tunnel import Tunnel
from runner.meeting import Late, wait
from runner.site import Site

PATIENCE = 30.0  # seconds
NAME = "egress"


def examine(site: Site) -> Iterator[Finding]:
    """Whether the profile says a way out, and whether it leads anywhere from here. Ends what it starts."""
    table = f"egress below [clusters.{site.name}] of {settings.user_file()}"
    way = site.cluster.egress
    if way is None or way.host is None:
        lacks = "host" if way else "egress"
        hint = f'egress = {{host = "…", key = "~/.ssh/…"}}, {table}'
        yield Finding(NAME, False, f"the profile of {site.name} has no {lacks} for it", hint=hint)
        return
    plan = submitting.of(way, way.host, Egress())
    yield Finding(NAME, True, f"by {plan.told}")
    yield asked(f"{NAME}: through it", lambda: _through(plan, table), hint="srun runner doctor --egress")


def verdict(findings: Sequence[Finding]) -> None:
    """NetworkError if nothing gets through."""
    for each in findings:
        if not each.ok:
            raise NetworkError(f"there is no way out from {platform.node()}: {each.found}", each.hint)


def _through(plan: EgressPlan, table: str) -> str:
    began = time.monotonic()
    if plan.kind == "ssh":
        submitting.check_key(plan, table)
        _by_ssh(plan)
    elif why := _failure(plan, Proxy(plan.kind, plan.host, plan.port)):
        raise NetworkError(f"nothing comes back from {plan.probe}: {why}")
    return f"{plan.probe} gets through to {platform.node()}, {time.monotonic() - began:.1f} s after the start"


def _by_ssh(plan: EgressPlan) -> None:
    if (ssh := shutil.which("ssh")) is None:
        raise MissingToolError("ssh is not installed (not on PATH)", "apt-get install openssh-client")
    if plan.key is None:
        raise InvalidFileError("no key is said")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    words = plans.argv(plan, port, None, plan.key, [each for each in plan.known if Path(each).is_file()])
    with tempfile.TemporaryDirectory(prefix="slipworks-egress-") as folder:
        tunnel = Tunnel([ssh, *words[1:]], port, Path(folder) / "log", os.environ, lambda told: None)
        try:
            tunnel.start()
            _await(tunnel, plan)
        finally:
            tunnel.close()


def _await(tunnel: Tunnel, plan: EgressPlan) -> None:
    why = ""

    def leads_out() -> bool | None:
        nonlocal why
        tunnel.keep()
        if tunnel.failures:
            raise NetworkError(f"ssh did not get into {plan.target}:\n{tunnel.said()}", _by_hand(plan))
        if tunnel.is_open:
            why = _failure(plan, Proxy("socks5", "127.0.0.1", tunnel.port)) or ""
            return True if not why else None
        return None

    try:
        wait(leads_out, awaited="a connection", seconds=PATIENCE, check=lambda: None)
    except Late as late:
        told = f"nothing comes back from {plan.probe} within {PATIENCE:g} s" + (f": {why}" if why else "")
        raise NetworkError(told, _by_hand(plan)) from late


def _failure(plan: EgressPlan, proxy: Proxy) -> str | None:
    return probe.failure(proxy, plan.probe, plan.names == "gateway")


def _by_hand(plan: EgressPlan) -> str:
    from kit import shell

    return shell.line(["ssh", "-i", plan.key or "", "-p", str(plan.port), "-l", plan.user, plan.host, "true"])
