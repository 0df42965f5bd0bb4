"""Libraries choose interfaces of their own, each another one.

Symptom: hangs at the first collective; "connect() failed" to an address of the management network; vLLM that
waits for its engines.
Cause: NCCL, GLOO and vLLM each guess which interface leads to the other nodes, and so does Ray.
VLLM_HOST_IP is a node's own, so no program may hand it on: it is set on every node.
Remove when: never; a node has to be told which of its interfaces is meant.
"""

from runner.facts import Facts, Interface
from runner.fixing import Example, facts_like, launch_like
from runner.interfaces import chosen, word
from runner.launch import Launch, said, with_env


def _settings(facts: Facts, launch: Launch) -> dict[str, str]:
    """NCCL takes the beginning of names, for several rails; GLOO takes one name."""
    nccl, gloo, ray = (chosen(facts, launch, purpose) for purpose in ("nccl", "gloo", "ray"))
    fabric = launch.fabric.environment if launch.fabric else {}  # whose word comes first: see host_fabric
    found = {
        "NCCL_SOCKET_IFNAME": (word(launch, "nccl") or nccl.name) if nccl else None,
        "GLOO_SOCKET_IFNAME": gloo.name if gloo else None,
        "VLLM_HOST_IP": _address(launch, ray),
    }
    return {name: value for name, value in found.items() if value and name not in fabric}


def _address(launch: Launch, interface: Interface | None) -> str | None:
    if launch.ray and launch.ray.node_ip and interface and launch.ray.node_ip != interface.address:
        return launch.ray.node_ip  # the user's
    return interface.address if interface else None


def applies(facts: Facts, launch: Launch) -> str | None:
    missing = {
        name: value for name, value in _settings(facts, launch).items() if not said(name, facts, launch)
    }
    if not missing:
        return None
    return ", ".join(f"{name} is {value}" for name, value in missing.items())


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_env(facts, launch, _settings(facts, launch))


EXAMPLE = Example(
    facts_like(
        rank=1,
        interfaces=(
            Interface("lo", "127.0.0.1"),
            Interface("bond0", "10.0.0.5"),
            Interface("hsn0", "10.253.0.5"),
            Interface("hsn1", "10.253.0.6"),
        ),
    ),
    launch_like(nodes=2, interface="hsn", env={"GLOO_SOCKET_IFNAME": "bond0"}),
    launch_like(
        nodes=2,
        interface="hsn",
        env={"GLOO_SOCKET_IFNAME": "bond0", "NCCL_SOCKET_IFNAME": "hsn", "VLLM_HOST_IP": "10.253.0.5"},
    ),
)
