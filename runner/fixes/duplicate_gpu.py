"""Two GPUs look like one to NCCL.

Symptom: "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device …", or "Multiple Ranks are using the
same GPU/Partition".
Cause: slices of one GPU have its bus id, and some GH200 nodes gave all four GPUs the same one, until they
were maintained. NCCL 2.30 can be told to go on, without NVLS; older NCCL cannot: then one rank of a group a
node.
Remove when: NCCL tells slices and such GPUs apart by itself.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.gpus import chosen
from runner.launch import Launch, said, with_env
from runner.python_packages import Nccl

SINCE = (2, 30)
SETTINGS = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_NVLS_ENABLE": "0"}


def _alike(facts: Facts, launch: Launch) -> str | None:
    """Why two devices of this job look like one; None where none do."""
    devices = chosen(facts, launch).devices
    for gpu in {device.gpu for device in devices}:
        if (count := sum(device.gpu == gpu for device in devices)) > 1:
            return f"{count} slices of one GPU"
    same = next((each for each in facts.bus_ids if facts.bus_ids.count(each) > 1), None)
    return f"{facts.bus_ids.count(same)} GPUs with the bus id {same}" if same else None


def _able(facts: Facts) -> bool:
    version = facts.nccl.version if facts.nccl else None
    return version is not None and tuple(int(part) for part in version.split(".")[:2]) >= SINCE


def applies(facts: Facts, launch: Launch) -> str | None:
    alike = _alike(facts, launch)
    if not alike or not _able(facts) or all(said(name, facts, launch) for name in SETTINGS):
        return None
    return f"NCCL may have two ranks on one GPU: {alike}"


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_env(facts, launch, SETTINGS)


def warns(facts: Facts, launch: Launch) -> str | None:
    alike = _alike(facts, launch)
    if not alike or _able(facts):
        return None
    found = f"NCCL {facts.nccl.version}" if facts.nccl and facts.nccl.version else "NCCL before 2.30"
    return f"{alike}: {found} refuses two ranks of one group there: one learner a node"


EXAMPLE = Example(
    facts_like(bus_ids=("00000009:01:00.0",) * 4, nccl=Nccl("/stack/nvidia/nccl/lib/libnccl.so.2", "2.30.7")),
    launch_like(env={"NCCL_NVLS_ENABLE": "1"}),
    launch_like(env={"NCCL_NVLS_ENABLE": "1", "NCCL_MULTI_RANK_GPU_ENABLE": "1"}),
)
