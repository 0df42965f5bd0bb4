"""How a job's nodes find the server of its sandboxes. Of nodes: it knows nothing of clusters and scripts.

The batch script makes the key when an attempt begins, and starts a server on each of the nodes for sandboxes.
It leaves in the attempt's folder `sandboxes`, which its owner alone can enter:
    key     of all servers of the attempt; gone when it has ended
    url-N   of the server on node N; url: by which all of them are asked, once they answer
    end     they are to end
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from runner.launch import Launch
    from runner.runs import Attempt

FOLDER = "sandboxes"
OWN = ("SLIPWORKS_SANDBOX_URL", "SLIPWORKS_SANDBOX_KEY")
PAIRS = (
    OWN,
    ("SANDBOX_REMOTE_RUNTIME_API_URL", "ALLHANDS_API_KEY"),
    ("RUNTIME_API_URL", "RUNTIME_API_KEY"),
)
"""Variables of address and key: ours; OpenHands' older client's; those of the examples of its SDK."""
NO_PROXY = ("no_proxy", "NO_PROXY")
ADDRESS = re.compile(r"url(-\d+)?")
"""Files in the attempt's folder; what is half-written has another name."""


def variables(
    attempt: Attempt, launch: Launch, env: Mapping[str, str], check: Callable[[], None]
) -> dict[str, str]:
    """Waits until the server of the job's sandboxes answers this node; what tells programs where it is.

    Nothing of a pair of which the job says one itself: our key is for no other server. Late where it does not
    answer in time; `check` raises what must end the node meanwhile.
    """
    if launch.sandboxes is None:
        return {}
    from runner.meeting import Limit, wait
    from runner.readiness import answers

    folder, limit = attempt.folder / FOLDER, Limit(launch.sandboxes)
    where = "the server of sandboxes on the job's other nodes"
    url, key = wait(partial(_told, folder), awaited=where, seconds=limit, check=check)
    answered = f"an answer of {url}, {where}"
    wait(lambda: answers(f"{url}/health") or None, awaited=answered, seconds=limit, check=check)
    said = {*launch.env, *launch.env_files, *launch.secrets}
    pairs = [each for each in PAIRS if not said & set(each)]
    found = {name: value for each in pairs for name, value in zip(each, (url, key), strict=True)}
    return {**found, **_no_proxy(folder, env)}


def _told(folder: Path) -> tuple[str, str] | None:
    """Address and key. The folder is listed first, which makes NFS look anew."""
    try:
        if "url" not in os.listdir(folder):  # noqa: PTH208
            return None
        found = (folder / "url").read_text().strip(), (folder / "key").read_text().strip()
    except OSError:
        return None
    return found if all(found) else None


def _no_proxy(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Servers and sandboxes are near: no proxy is asked for them."""
    more = sorted({*filter(None, map(_host, folder.iterdir()))})
    return {name: ",".join([*filter(None, [env.get(name)]), *more]) for name in NO_PROXY}


def _host(file: Path) -> str | None:
    """Of a server's address. A name that NFS remembers may be of no file any more."""
    if not ADDRESS.fullmatch(file.name):
        return None
    with contextlib.suppress(OSError, ValueError):
        return urlsplit(file.read_text().strip()).hostname
    return None
