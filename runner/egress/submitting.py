"""From a job and a cluster to the plan of its way out, and what must be there before a submission."""

from __future__ import annotations

import getpass
import os
import stat
from pathlib import Path

from containers.engine import Bind
from kit import say, settings
from kit.errors import InvalidFileError, UnsupportedError
from runner.egress.asked import Egress
from runner.egress.plan import KEY, KNOWN, OF_SITE, EgressPlan, asks_alone
from runner.job import Job
from slurm.clusters import Cluster
from slurm.egress import WayOut
from slurm.script import Present

HOSTS = "/etc/hosts"
SITE_HOSTS = Path("/etc/ssh/ssh_known_hosts")


def asks(job: Job) -> bool:
    """Whether anything of the job is to get out."""
    return bool(job.egress) or any(map(asks_alone, job.services))


def planned(job: Job, cluster: Cluster) -> EgressPlan | None:
    """None where the job asks for nothing, or the cluster has no way out. Looks at no file."""
    way = cluster.egress
    if not asks(job) or way is None or way.host is None:
        return None
    return of(way, way.host, job.egress if isinstance(job.egress, Egress) else Egress(command=job.egress))


def of(way: WayOut, host: str, asked: Egress) -> EgressPlan:
    """The plan of one way out. Looks at no file."""
    by_ssh = way.kind == "ssh"
    known = [_path(way.known_hosts), *([str(SITE_HOSTS)] if SITE_HOSTS.exists() else [])]
    return EgressPlan(
        kind=way.kind, host=host, port=way.port or 22, direct=way.direct, names=way.names,
        probe=asked.probe or way.probe,
        user=(way.user or getpass.getuser()) if by_ssh else "",
        key=_path(way.key) if by_ssh and way.key else None,
        known=tuple(known) if by_ssh else (),
        command=asked.command, workers=asked.workers, docker=asked.docker, within=asked.within,
    )  # fmt: skip


def demand(job: Job, cluster: Cluster, name: str, plan: EgressPlan | None) -> None:
    """UnsupportedError or InvalidFileError for a job that would find no way out on the cluster `name`."""
    if not asks(job):
        return
    table = f"egress below [clusters.{name}] of {settings.user_file()}"
    if plan is None:
        if cluster.internet and cluster.egress is None:
            say.say(f"note: nodes of {name} have internet: the job's egress changes nothing there")
            return
        lacks = "host" if cluster.egress else "egress"
        raise UnsupportedError(
            f"the job asks for egress, and the profile of {name} has no {lacks} for it",
            f'say it: egress = {{host = "…", key = "~/.ssh/…"}}, {table}',
        )
    if plan.kind == "ssh":
        check_key(plan, table)
        if cluster.scheduler == "slurm" and not _alone(job, cluster):
            say.say(
                f"warning: whoever else is on a node of the job's gets out through {plan.host} as you, too: "
                "ssh's SOCKS port asks for no password (sbatch.exclusive=true: nodes of one's own)"
            )
    elif isinstance(job.egress, Egress) and job.egress.docker:
        raise UnsupportedError(f"a Docker host is forwarded by ssh, and {name} gets out by {plan.told}")


def _alone(job: Job, cluster: Cluster) -> bool:
    """Whether profile or job asks for nodes that no other user is on."""
    if cluster.gpu_directive == "none":
        return True
    partition = cluster.partitions.get(str(job.sbatch.get("partition", cluster.partition)))
    own = partition.exclusive if partition else None
    usual = cluster.exclusive if own is None else own
    return job.sbatch.get("exclusive", cluster.sbatch.get("exclusive", usual)) in (True, "", "user")


def check_key(plan: EgressPlan, table: str) -> None:
    """That ssh will take the files."""
    if plan.key is None:
        raise InvalidFileError(
            f"with which key nodes get into {plan.host} is not said", f'say it: key = "~/.ssh/…", in {table}'
        )
    key, known = Path(plan.key), [each for each in plan.known if Path(each).is_file()]
    if not key.is_file():
        raise InvalidFileError(
            f"the key for {plan.host} is not there: {key}", f"say another: key, in {table}"
        )
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        raise InvalidFileError(f"ssh takes no key that others can read: {key}", f"chmod 600 {key}")
    if not known:
        raise InvalidFileError(
            f"whether {plan.host} is itself cannot be known: {plan.known[0]} is not there",
            f"ssh {plan.host}, once, by hand",
        )


def binds(plan: EgressPlan | None) -> tuple[Bind, ...]:
    """What ssh needs inside, read-only, each at its own place; what is not there is left out."""
    if plan is None or plan.key is None:
        return ()
    places = (OF_SITE if each == str(SITE_HOSTS) else KNOWN for each in plan.known)
    wanted = [(plan.key, KEY), *zip(plan.known, places, strict=True)]
    return tuple(Bind(Path(at), target, read_only=True) for at, target in wanted if Path(at).is_file())


def present(plan: EgressPlan | None, others: tuple[Present, ...] = ()) -> tuple[Present, ...]:
    """With what `others` bring, the node's list of hosts: it alone may know the gateway's name."""
    if plan is None or HOSTS in [each.target for each in others]:
        return others
    return (*others, Present(HOSTS, HOSTS))


def _path(written: str) -> str:
    """An absolute path, its $NAMES and ~ replaced; what is not set stays as it is, and is found missing."""
    return str(Path(os.path.expandvars(written)).expanduser().absolute())
