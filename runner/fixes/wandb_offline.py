"""Weights & Biases on a node without internet hangs at its start, or loses what it logs.

Symptom: `wandb.init` waits and fails ("Run initialization has timed out"), or the offline runs that a job
made lie in a container's folder that is gone with it.
Cause: W&B talks to its server from the node, by a Go program into which no proxychains reaches; and where it
is told to be offline it writes below the working directory. The run folder keeps what it writes, and
`runner sync` brings that to the server from the login node.
Remove when: never for nodes without internet; an HTTPS proxy that the job has needs no fix.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, said, with_env
from runner.runs import INSIDE

PROXIES = ("HTTPS_PROXY", "https_proxy")
SETTINGS = {"WANDB_MODE": "offline", "WANDB_DIR": INSIDE}


def _said_mode(facts: Facts, launch: Launch) -> str | None:
    return launch.env.get("WANDB_MODE", facts.env.get("WANDB_MODE"))


def applies(facts: Facts, launch: Launch) -> str | None:
    mode = _said_mode(facts, launch)
    cut_off = launch.internet is False and not any(said(name, facts, launch) for name in PROXIES)
    if mode not in (None, "offline") or not (mode or cut_off):
        return None
    missing = [name for name in SETTINGS if not said(name, facts, launch)]
    why = "nodes here have no internet" if cut_off else "W&B is to be offline"
    return f"{why}: {', '.join(missing)}; then `runner sync`" if missing else None


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_env(facts, launch, SETTINGS)


EXAMPLE = Example(
    facts_like(),
    launch_like(internet=False),
    launch_like(internet=False, env=SETTINGS),
)
