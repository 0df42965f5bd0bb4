"""NCCL on Slingshot falls back to TCP, or hangs under load.

Symptom: 5.4 GB/s instead of 122.6 in an all-reduce; "Cannot allocate memory" and full queues from the cxi
provider; hangs with NCCL 2.27 and newer.
Cause: libfabric's defaults are made for MPI, and NCCL takes TCP without a word where its plugin does not
answer. NCCL_NET names the plugin, so that a missing one is an error.
Remove when: the plugin sets these itself. They were measured on GH200 with libfabric 1.15 and later.
"""

from runner.fabric import PLUGIN
from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, said, with_env
from slurm.fabric import Fabric

SETTINGS = {
    "FI_PROVIDER": "cxi",
    "FI_CXI_DEFAULT_CQ_SIZE": "131072",
    "FI_CXI_DEFAULT_TX_SIZE": "1024",
    "FI_CXI_RDZV_PROTO": "alt_read",
    "FI_CXI_DISABLE_HOST_REGISTER": "1",
    "FI_MR_CACHE_MONITOR": "userfaultfd",
    "NCCL_NET_GDR_LEVEL": "PHB",
    "NCCL_CROSS_NIC": "1",
    "NCCL_CUMEM_ENABLE": "0",
}
SINCE_227 = {"NCCL_PROTO": "^LL128"}
WITH_PLUGIN = {"NCCL_NET": "AWS Libfabric"}


def _settings(facts: Facts, launch: Launch) -> dict[str, str]:
    version = facts.nccl.version if facts.nccl else None
    newer = version is not None and tuple(int(part) for part in version.split(".")[:2]) >= (2, 27)
    found = {**SETTINGS, **(SINCE_227 if newer else {})}
    if any(PLUGIN.match(name) for name in facts.fabric):
        found |= WITH_PLUGIN
    cluster = launch.fabric.environment if launch.fabric else {}  # whose word comes first: see host_fabric
    return {name: value for name, value in found.items() if name not in cluster}


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.fabric is None or launch.fabric.kind != "slingshot":
        return None
    missing = [name for name in _settings(facts, launch) if not said(name, facts, launch)]
    return f"the network is Slingshot: {', '.join(missing)}" if missing else None


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_env(facts, launch, _settings(facts, launch))


_FABRIC = Fabric(kind="slingshot", environment={"NCCL_CROSS_NIC": "2"})
EXAMPLE = Example(
    facts_like(fabric=("libfabric.so.1", "libnccl-net.so")),
    launch_like(fabric=_FABRIC, env={"NCCL_CUMEM_ENABLE": "1"}),
    launch_like(
        fabric=_FABRIC,
        env={
            "NCCL_CUMEM_ENABLE": "1",
            "FI_PROVIDER": "cxi",
            "FI_CXI_DEFAULT_CQ_SIZE": "131072",
            "FI_CXI_DEFAULT_TX_SIZE": "1024",
            "FI_CXI_RDZV_PROTO": "alt_read",
            "FI_CXI_DISABLE_HOST_REGISTER": "1",
            "FI_MR_CACHE_MONITOR": "userfaultfd",
            "NCCL_NET_GDR_LEVEL": "PHB",
            "NCCL_NET": "AWS Libfabric",
        },
    ),
)
