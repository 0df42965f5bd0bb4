"""The image does not know the host's network.

Symptom: NCCL falls back to TCP; "NET/Plugin: Failed to find ncclNetPlugin symbol", "no cxi provider".
Cause: plugin, libfabric or UCX and their devices belong to the host, and must be made known inside; they may
need libraries, or a glibc, that the image has not. Then the job ends before it starts, and the missing piece
is named, if NCCL was told which network to take (NCCL_NET): else NCCL would quietly take TCP.
Remove when: never; a network's user-space driver belongs to its kernel driver.
"""

from fnmatch import fnmatchcase

from msgspec.structs import replace

from kit.errors import LaunchError
from runner.fabric import PLUGIN
from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, said, with_env
from slurm.fabric import FOLDER, Fabric

BUILT_IN = ("", "Socket", "IB")  # values of NCCL_NET that need no plugin


def _environment(facts: Facts, launch: Launch) -> dict[str, str]:
    named = launch.fabric.environment if launch.fabric else {}
    return {name: value for name, value in named.items() if not said(name, facts, launch)}


def _paths(facts: Facts, launch: Launch) -> tuple[str, ...]:
    return (FOLDER,) if facts.fabric and FOLDER not in launch.library_path else ()


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.fabric is None:
        return None
    words = []
    if _paths(facts, launch):
        words.append(f"the host's {', '.join(facts.fabric)} can be found in {FOLDER}")
    if missing := _environment(facts, launch):
        words.append(f"the cluster's {', '.join(missing)}")
    return "; ".join(words) or None


def apply(facts: Facts, launch: Launch) -> Launch:
    launch = replace(launch, library_path=(*launch.library_path, *_paths(facts, launch)))
    return with_env(facts, launch, _environment(facts, launch))


def _wrong(facts: Facts, launch: Launch) -> str | None:
    """What keeps this node off its network; None where nothing is known to, or no GPU is to use it."""
    if launch.fabric is None or launch.fabric.kind == "ethernet" or not facts.gpus:
        return None
    if facts.fabric_wrong:
        return "; ".join(facts.fabric_wrong)
    for pattern in launch.fabric.devices:
        if not any(fnmatchcase(path, pattern) or path.startswith(f"{pattern}/") for path in facts.devices):
            return f"there is no {pattern}"
    plugin = _asked(facts, launch) not in BUILT_IN
    if plugin and launch.fabric.libraries and not any(PLUGIN.match(name) for name in facts.fabric):
        return f"this host has no libnccl-net*.so among {', '.join(launch.fabric.libraries)}"
    return None


def _asked(facts: Facts, launch: Launch) -> str:
    return launch.env.get("NCCL_NET", facts.env.get("NCCL_NET", ""))


def refuses(facts: Facts, launch: Launch) -> LaunchError | None:
    asked, wrong = _asked(facts, launch), _wrong(facts, launch)
    if wrong is None or asked in ("", "Socket"):
        return None
    return LaunchError(
        f"node {facts.rank} ({facts.hostname}) cannot use its network by NCCL_NET={asked!r}: {wrong}",
        "runner doctor; or NCCL_NET: Socket in the job's env, which is slow",
    )


def warns(facts: Facts, launch: Launch) -> str | None:
    if _asked(facts, launch) or launch.nodes == 1:
        return None
    wrong = _wrong(facts, launch)
    return f"NCCL may fall back to TCP: {wrong}" if wrong else None


_FABRIC = Fabric(kind="slingshot", environment={"NCCL_CROSS_NIC": "1", "FI_PROVIDER": "cxi"})
EXAMPLE = Example(
    facts_like(fabric=("libfabric.so.1", "libnccl-net.so")),
    launch_like(fabric=_FABRIC, env={"FI_PROVIDER": "tcp"}),
    launch_like(
        fabric=_FABRIC,
        env={"FI_PROVIDER": "tcp", "NCCL_CROSS_NIC": "1"},
        library_path=("/slipworks-fabric",),
    ),
)
