"""The way out of one job, as data: what is started for it, and what programs are told. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from msgspec import DecodeError, Struct, json
from msgspec.structs import replace

from kit.errors import LaunchError

if TYPE_CHECKING:
    from runner.launch import Launch, Service

FOLDER = "/slipworks-egress"
"""The folder inside with the key and the known gateways."""
KEY = f"{FOLDER}/key"
KNOWN = f"{FOLDER}/known_hosts"
OF_SITE = f"{FOLDER}/known_hosts_of_site"
DIRECT = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "::1/128", "fe80::/10",
    "fc00::/7",
)  # fmt: skip
CONF = "PROXYCHAINS_CONF_FILE"
WORKERS = "RAY_JOB_CONFIG_JSON_ENV_VAR"
PRELOADED = 'LD_PRELOAD="$0${LD_PRELOAD:+:$LD_PRELOAD}"; export LD_PRELOAD; exec "$@"'
"""For sh. proxychains4 itself cuts LD_PRELOAD off at 256 bytes (seen in 4.16), and an NCCL in it is lost."""


class EgressPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a job's programs get out.

    kind, host, port, user, direct, names, probe   as of slurm.egress.WayOut.
    key, known   files of the submitting machine that ssh needs; they are mounted where KEY and KNOWN say.
    command, workers, docker, within   as of runner.egress.asked.Egress.
    library      proxychains' library, inside; found by the node.
    """

    kind: Literal["ssh", "socks5", "http"]
    host: str
    port: int
    user: str = ""
    direct: tuple[str, ...] = ()
    names: Literal["node", "gateway"] = "node"
    probe: str = ""
    key: str | None = None
    known: tuple[str, ...] = ()
    command: bool = False
    workers: bool = False
    docker: str | None = None
    within: float = 60.0
    library: str | None = None

    @property
    def target(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def told(self) -> str:
        """In words."""
        return f"{'the gateway' if self.kind == 'ssh' else f'the {self.kind} proxy'} {self.target}"


def prefix(words: Sequence[str], launch: Launch) -> tuple[str, ...]:
    """The command that gets out: `words` with what makes their connections go through the way out.

    Just the words where the job has no way out, as on nodes with internet. Only on a node, whose launch knows
    where proxychains' library is, and with the node's environment, which names its configuration.
    """
    out = launch.egress
    return ("/bin/sh", "-c", PRELOADED, out.library, *words) if out and out.library else tuple(words)


def of_command(launch: Launch) -> tuple[str, ...]:
    """The job's command, with the way out where it asks for it."""
    return prefix(launch.command, launch) if launch.egress and launch.egress.command else launch.command


def is_needed(launch: Launch, rank: int, services: Sequence[bool] = ()) -> bool:
    """Whether node `rank` opens the way out. services: of each that runs there, whether it asks for it."""
    out = launch.egress
    if out is None:
        return False
    has_command = rank == 0 or launch.everywhere
    return out.workers or any(services) or (has_command and (out.command or out.docker is not None))


def asks_alone(service: Service) -> bool:
    """Whether a service asks for the way out."""
    return service.egress


def preloads(launch: Launch, services: Sequence[bool] = ()) -> bool:
    """Whether anything is to run with proxychains' library, for which an image must have it."""
    out = launch.egress
    return out is not None and (out.command or out.workers or any(services))


def equipped(launch: Launch, library: str | None) -> Launch:
    """The launch that knows the library, which Ray's workers then have, too, where they ask for it.

    Workers are told by the job's runtime environment, beside the NCCL that a fix may have put there.
    """
    out = launch.egress
    if out is None or library is None:
        return launch
    launch = replace(launch, egress=replace(out, library=library))
    if not out.workers or launch.ray is None:
        return launch
    said = launch.command_env.get(WORKERS) or launch.env.get(WORKERS) or "{}"
    try:
        config = json.decode(said, type=dict[str, Any])
    except DecodeError as bad:  # the user's own
        raise LaunchError(f"{WORKERS} holds no JSON object: {bad}") from bad
    runtime = config.setdefault("runtime_env", {})
    variables = runtime.setdefault("env_vars", {})
    before = variables.get("LD_PRELOAD")
    variables["LD_PRELOAD"] = f"{before}:{library}" if before else library
    mine = {WORKERS: json.encode(config).decode(), "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
    return replace(launch, command_env={**launch.command_env, **mine})


def argv(
    plan: EgressPlan, socks: int, docker: str | None, key: str = KEY, known: Sequence[str] = (KNOWN,)
) -> list[str]:
    """ssh with a SOCKS forward on the local port `socks`, and one to the Docker host from the socket
    `docker`: a port would be open to all users of the node, and who speaks to Docker is root on its host."""
    options = [
        "BatchMode=yes",  # nobody can be asked
        "ExitOnForwardFailure=yes",  # a taken port is seen at once
        "ServerAliveInterval=15",  # a gateway that is silent for 45 s has gone
        "ServerAliveCountMax=3",
        "ConnectTimeout=15",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=" + " ".join(f'"{_path(each)}"' for each in known),
        "UpdateHostKeys=no",
        "StreamLocalBindUnlink=yes",  # the socket of one that dropped is in the way of the next
        "ControlPath=none",  # a connection of its own, which ends with it
        "LogLevel=ERROR",
    ]
    words = ["ssh", "-F", "/dev/null", "-N", "-T", "-i", _path(key), "-p", str(plan.port), "-l", plan.user]
    for each in options:
        words += ["-o", each]
    words += ["-D", f"127.0.0.1:{socks}"]
    if plan.docker and docker:
        words += ["-L", f"{docker}:{plan.docker}"]
    return [*words, "--", plan.host]


def conf(plan: EgressPlan, proxy: tuple[str, int], own: Sequence[str]) -> str:
    """proxychains' configuration. proxy: numeric address and port; own: the node's networks.

    No proxy_dns unless the site asks for it: it breaks names of the cluster, which only its hosts know.
    """
    kind = "http" if plan.kind == "http" else "socks5"
    direct = dict.fromkeys((*DIRECT, *own, *plan.direct))
    return "\n".join([
        "strict_chain", "quiet_mode", *(("proxy_dns",) if plan.names == "gateway" else ()),
        "tcp_read_time_out 60000", "tcp_connect_time_out 30000",
        *(f"localnet {_network(each)}" for each in direct), "[ProxyList]",
        f"{kind} {proxy[0]} {proxy[1]}", "",
    ])  # fmt: skip


def _path(text: str) -> str:
    """As ssh reads it, which has words of its own that begin with a percent sign."""
    return text.replace("%", "%%")


def _network(text: str) -> str:
    """As proxychains reads it: IPv4 with a mask in dots, IPv6 with a length."""
    network = ipaddress.ip_network(text, strict=False)
    return network.with_netmask if network.version == 4 else network.with_prefixlen
