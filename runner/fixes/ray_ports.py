"""Two Ray clusters on one machine take each other's ports.

Symptom: "address already in use", or a node that joins somebody else's cluster.
Cause: Ray's ports are fixed (6379, 52365 …) or drawn from the ephemeral range, where connections race.
Remove when: Ray binds its ports itself and publishes them.
"""

from msgspec.structs import replace

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, RayPlan
from runner.rays import PORTS


def _ports(facts: Facts, ray: RayPlan) -> dict[str, int]:
    assert facts.port_base is not None
    block = {name: facts.port_base + 1 + place for place, name in enumerate(PORTS)}
    if not facts.ray_client:  # without grpcio, to name its port is an error
        del block["ray-client-server-port"]
    return {name: port for name, port in block.items() if name not in ray.ports}


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.ray is None or facts.port_base is None or not _ports(facts, launch.ray):
        return None
    return f"Ray's ports come from the block that begins at {facts.port_base}, held for this node"


def apply(facts: Facts, launch: Launch) -> Launch:
    if launch.ray is None:
        return launch
    ports = {**_ports(facts, launch.ray), **launch.ray.ports}
    return replace(launch, ray=replace(launch.ray, ports=ports))


EXAMPLE = Example(
    facts_like(port_base=20000),
    launch_like(ray=RayPlan(ports={"port": 6400})),
    launch_like(
        ray=RayPlan(
            ports={
                "port": 6400,
                "node-manager-port": 20002,
                "object-manager-port": 20003,
                "dashboard-port": 20004,
                "dashboard-agent-listen-port": 20005,
                "dashboard-agent-grpc-port": 20006,
                "runtime-env-agent-port": 20007,
                "metrics-export-port": 20008,
            }
        )
    ),
)
