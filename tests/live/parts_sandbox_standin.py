"""An image that looks baked and holds a stand-in for the agent-server: busybox, which answers /alive, /health
and /server_info within milliseconds. For what the real server proves nothing of: many at once, hostile ones.

Of its environment: BEGIN  lines of sh that run beside the server; what they say is read at URL/told
                   AFTER  seconds before it listens
"""

from __future__ import annotations

import pytest

from image_cache.bake import KEY
from runner import agent_layer
from tests.live.parts_bases import busybox
from tests.live.parts_served import Bottom, Entry, put, served, tar

APPLETS = ("busybox", "httpd", "kill", "dd", "find", "tr", "seq", "mv", "ln", "rm", "wget", "xargs", "ulimit")
FOLDER = agent_layer.spec().folder
START = """#!/bin/sh
port=8000
while [ $# -gt 0 ]; do
    case $1 in
        --port) port=$2; shift;;
        --port=*) port=${1#*=};;
    esac
    shift
done
www=/tmp/www
mkdir -p $www
for each in alive health; do echo '{"status":"ok"}' >$www/$each; done
echo '{"uptime":1.0,"idle_time":0.0}' >$www/server_info
[ -z "$OH_SESSION_API_KEYS_0" ] || echo yes >$www/has_key
[ -z "$BEGIN" ] || { sh -c "$BEGIN" >$www/telling 2>&1; mv $www/telling $www/told; } &
trap 'kill $server; exit 0' TERM INT
sleep "${AFTER:-0}" &
server=$!
wait $server
/bin/busybox httpd -f -p "$port" -h $www &
server=$!
wait $server
"""


def bottom() -> Bottom:
    own = [
        Entry(FOLDER[1:]), Entry(f"{FOLDER[1:]}/bin"),
        Entry(f"{FOLDER[1:]}/bin/tini", b'#!/bin/sh\nshift\nexec "$@"\n'),
        Entry(f"{FOLDER[1:]}/bin/start", START.encode()),
        *(Entry(f"bin/{each}", link="busybox") for each in APPLETS if each != "busybox"),
    ]  # fmt: skip
    labels = {KEY: "0" * 64, agent_layer.CLIENT_LABEL: agent_layer.CLIENT}
    config = {
        "Entrypoint": [f"{FOLDER}/bin/tini", "--", f"{FOLDER}/bin/start"],
        "Cmd": None,
        "Labels": labels,
    }
    return Bottom(name="standin", image=served(tar(busybox()), own, config=config))


@pytest.fixture(scope="session")
def standin(registry_host: str) -> str:
    """Its reference in a registry."""
    return put(bottom(), registry_host, "standin/agent")
