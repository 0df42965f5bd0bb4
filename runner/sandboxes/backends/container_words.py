"""The words of `podman run` and `docker run` for a sandbox. Pure.

What a sandbox may do to the node: no new privileges, few capabilities, limits, a network of its own, nothing
of the host but the agent's layer, and nothing of the server's environment.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection

from msgspec import Struct

from kit.errors import UsageError
from runner.sandboxes import reached, wished
from runner.sandboxes.nouns import LABEL, PORT, Start

CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID",
                "SYS_CHROOT")  # fmt: skip
"""What root inside keeps: enough for a package manager and for tests, no device, raw socket or mount."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class Where(Struct, frozen=True, kw_only=True):
    """How far this host goes along. own: a network of its own; groups: limits by control groups; folder: the
    image lacks the folder to start in, which is made as a volume of its own."""

    own: bool = True
    groups: bool = True
    folder: bool = False


def run(start: Start, where: Where, limits: Collection[str]) -> list[str]:
    """Up to the engine's own words. limits: those that the engine's control groups hold here."""
    words = [
        "run", "--detach", "--pull=never", f"--name={start.name}", f"--label={LABEL}={start.state}",
        "--cap-drop=ALL", *(f"--cap-add={each}" for each in CAPABILITIES),
        "--security-opt=no-new-privileges",
        "--no-healthcheck",  # the base's, which knows nothing of what runs here
        "--stop-signal=TERM",
        "--oom-score-adj=500",  # before the server and what else is on the node
        "--ulimit=core=0:0",
        f"--ulimit=fsize={start.limits.disk}:{start.limits.disk}",  # at once, where the watch takes seconds
    ]  # fmt: skip
    if start.image.mount:
        words += ["--security-opt=label=disable", *start.image.mount]  # SELinux: binds are not relabelled
    if where.own:
        words.append(
            f"--publish={reached.bracketed(reached.bindable(start.address))}:{start.port}:{PORT}/tcp"
        )
    else:
        words.append("--network=host")
    if "memory" in limits:  # with as much of swap as none
        words += [f"--memory={start.limits.memory}", f"--memory-swap={start.limits.memory}"]
    if "pids" in limits:
        words.append(f"--pids-limit={start.limits.pids}")
    if "cpus" in limits and start.limits.cpus:
        words.append(f"--cpuset-cpus={','.join(map(str, start.limits.cpus))}")
    if start.image.user:
        words.append(f"--user={start.image.user}")
    if start.workdir:
        folder = wished.folder(start.workdir)
        words.append(f"--workdir={folder}")
        if where.folder:
            words.append(f"--mount={_volume(folder)}")
    if not start.image.entrypoint:
        words.append("--entrypoint=")
    return words


def image(start: Start, where: Where) -> list[str]:
    """The last words: the image and the command, with an address and a port that are ours to say.

    Without `--host` an agent-server may listen on its own loopback, where no published port reaches it.
    """
    host, port = ("0.0.0.0", PORT) if where.own else (reached.bindable(start.address), start.port)
    return [start.image.reference, *start.image.command, "--host", host, "--port", str(port)]


def environment(start: Start, env_text: Callable[[dict[str, str]], str]) -> str:
    """The text of an env file with all variables: none stands in the command line, for clients put keys of
    models into them. UsageError for what such a file cannot carry."""
    if bad := [name for name in start.secret if not NAME.fullmatch(name)]:
        raise UsageError(f"no name of a variable: found {bad[0][:100]!r}")
    if bad := [name for name, value in start.secret.items() if "\n" in value or "\0" in value]:
        raise UsageError(f"the variable {bad[0]} holds a line break or NUL, which an env file cannot carry")
    return env_text(start.secret)


def _volume(folder: str) -> str:
    """One of the container's own at a folder. Never `--volume`, which reads `A:B` as a folder of the host."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["type=volume", f"destination={folder}"])
    return text.getvalue()
