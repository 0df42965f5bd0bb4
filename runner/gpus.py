"""Which GPUs, or slices of GPUs, a node's processes get: what was said against what is visible. Pure.

Slurm that asks NVML names slices by UUID; other Slurm counts them, and CUDA does not count as it does: it
sees one slice a process. nvidia-smi lists what this step's control group lets it see.
"""

from __future__ import annotations

import re

from msgspec import Struct

from runner.facts import Facts
from runner.launch import Launch

VISIBLE = "CUDA_VISIBLE_DEVICES"
ON_NODE = "SLURM_STEP_GPUS"
"""What Slurm gave to a step by the node's own numbers, whatever control groups hide."""
_GPU = re.compile(r"GPU \d+: .*\(UUID: (GPU-[^)\s]+)\)")
_SLICE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)\s]+)\)")
_OLD_NAME = re.compile(r"MIG-(GPU-[0-9a-fA-F-]+)/\d+/\d+")


class Device(Struct, frozen=True):
    """A GPU, or a slice of one: then with a profile such as "3g.20gb"."""

    uuid: str
    gpu: str
    profile: str | None = None


class Chosen(Struct, frozen=True, kw_only=True):
    """What the processes get. `devices` are those of `names` that are known by more than their number.

    names    for CUDA_VISIBLE_DEVICES; None: nothing was said and nothing needs to be.
    count    GPUs or slices; None: nobody knows.
    problem  why what was given cannot be used; then the rest means nothing.
    """

    names: tuple[str, ...] | None = None
    count: int | None = None
    devices: tuple[Device, ...] = ()
    problem: str | None = None

    @property
    def slices(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.profile)


def listed(lines: tuple[str, ...]) -> tuple[Device, ...]:
    """The devices of `nvidia-smi -L`, in its order: a GPU's slices stand for it where it has any."""
    found: list[Device] = []
    for line in lines:
        if whole := _GPU.match(line):
            found.append(Device(whole[1], whole[1]))
        elif (part := _SLICE.match(line)) and found:
            gpu = found[-1].gpu
            if not found[-1].profile:
                found.pop()
            found.append(Device(part[2], gpu, part[1]))
    return tuple(found)


def given(facts: Facts, launch: Launch) -> str | None:
    """What somebody has said that processes may use: the job, the scheduler, then the container."""
    for source in (launch.env, facts.step, facts.env):
        if VISIBLE in source:
            return source[VISIBLE]
    return None


def chosen(facts: Facts, launch: Launch) -> Chosen:
    """What this node's processes get. Says the same of a launch to which its answer was applied."""
    there = listed(facts.gpus)
    said = given(facts, launch)
    if said is None:
        if not there:
            return Chosen()
        names = tuple(device.uuid for device in there) if any(device.profile for device in there) else None
        return Chosen(names=names, count=len(there), devices=there)
    names = renumbered(facts, launch) or _split(said)
    if not names or names[0] in ("-1", "NoDevFiles"):
        return Chosen(names=names, count=0)
    return _matched(names, there)


def renumbered(facts: Facts, launch: Launch) -> tuple[str, ...] | None:
    """The node's own numbers of whole GPUs, where the scheduler's count what its control group shows, but all
    of the node's are visible here. None where its numbers mean what they say, or the job says other ones."""
    if VISIBLE in launch.env or VISIBLE not in facts.step or ON_NODE not in facts.step:
        return None
    counted, own, there = _split(facts.step[VISIBLE]), _split(facts.step[ON_NODE]), listed(facts.gpus)
    if len(counted) != len(own) or len(there) <= len(counted) or any(device.profile for device in there):
        return None
    known = all(name.isdecimal() and int(name) < len(there) for name in (*counted, *own))
    return own if known and own != counted else None


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _matched(names: tuple[str, ...], there: tuple[Device, ...]) -> Chosen:
    """The devices that were named, by whole names; a problem where they are not those that are there."""
    sliced = any(device.profile for device in there) or any(name.startswith("MIG-") for name in names)
    if not sliced or not there:
        return Chosen(names=names, count=len(names), devices=_known(names, there))
    if all(name.isdecimal() for name in names):
        return _counted(names, there)
    if any(name.isdecimal() for name in names):
        return Chosen(problem=f"{VISIBLE} mixes numbers and UUIDs: {','.join(names)}")
    found = [_named(name, there) for name in names]
    lost = [name for name, device in zip(names, found, strict=True) if device is None]
    if lost and (by_gpu := _by_gpu(names, there)):
        found, lost = list(by_gpu), []
    if lost:
        return Chosen(problem=f"{lost[0]} is not among the {len(there)} that nvidia-smi lists here")
    devices = tuple(device for device in found if device)
    if len(set(devices)) < len(devices):
        return Chosen(problem=f"{VISIBLE} names a device twice: {','.join(names)}")
    return Chosen(names=tuple(each.uuid for each in devices), count=len(devices), devices=devices)


def _counted(names: tuple[str, ...], there: tuple[Device, ...]) -> Chosen:
    """Numbers count what the step may see: the k-th number is the k-th that is listed."""
    if len(names) != len(there):
        return Chosen(
            problem=f"{VISIBLE} counts {len(names)} ({','.join(names)}), nvidia-smi lists {len(there)}:"
            " which are meant cannot be told"
        )
    return Chosen(names=tuple(each.uuid for each in there), count=len(there), devices=there)


def _named(name: str, there: tuple[Device, ...]) -> Device | None:
    """By its UUID, or by as much of the beginning as no other device shares, which CUDA takes as well."""
    found = [device for device in there if device.uuid == name]
    found = found or [device for device in there if device.uuid.startswith(name)]
    return found[0] if len(found) == 1 else None


def _by_gpu(names: tuple[str, ...], there: tuple[Device, ...]) -> tuple[Device, ...] | None:
    """Slices by the old names, MIG-GPU-<gpu>/<gi>/<ci>, where nvidia-smi lists new ones.

    It does not list gi and ci, so only all of a GPU's visible slices can be meant; else None.
    """
    parents = [old[1] if (old := _OLD_NAME.fullmatch(name)) else None for name in names]
    if None in parents:
        return None
    devices = tuple(device for device in there if device.profile and device.gpu in parents)
    meant = sorted(str(parent) for parent in parents)
    return devices if meant == sorted(device.gpu for device in devices) else None


def _known(names: tuple[str, ...], there: tuple[Device, ...]) -> tuple[Device, ...]:
    """Whole GPUs: by number or by UUID."""
    found: list[Device] = []
    for name in names:
        if name.isdecimal() and int(name) < len(there):
            found.append(there[int(name)])
        elif not name.isdecimal() and (device := _named(name, there)):
            found.append(device)
    return tuple(found)
