"""How a stack is split into layers: what a change of one package moves, and what it leaves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import structs

from containers import stack
from definitions import groups, lockfile
from definitions.lockfile import Locked
from kit.nouns import Group, Platform, StackLayer, Wheel, digest

PACKAGES = {
    "flashinfer-python": "0.6.13", "numpy": "2.3.1", "nvidia-nccl-cu13": "2.28.3", "ray": "2.57.0",
    "torch": "2.13.0", "triton": "3.6.0", "vllm": "0.31.0", "wandb": "0.22.0",
}  # fmt: skip
WHEEL = Wheel("flash-attn", "2.8.3", "flash_attn-2.8.3-cp313-cp313-linux_x86_64.whl", "e" * 64)


def lock(**changed: str) -> str:
    return written(PACKAGES | {name.replace("_", "-"): version for name, version in changed.items()})


def written(versions: dict[str, str]) -> str:
    packages = tuple(
        Locked(name, version, (digest(name.encode())[7:],)) for name, version in versions.items()
    )
    return lockfile.text(lockfile.Lock("sha256:" + "1" * 64, packages), "a stack", "make lock")


def keys(text: str, *wheels: Wheel) -> dict[str, str]:
    """Group -> the key of its layer."""
    found = groups.split(text, "a lock", wheels)
    return {each.name: stack.key(layer(each)) for each in found}


def layer(group: Group) -> StackLayer:
    return StackLayer(group=group, platform=Platform("arm64"), python="3.13",
                      interpreter="/usr/bin/python3.13", glibc="2.35")  # fmt: skip


def test_each_package_is_in_one_group_with_its_hashes() -> None:
    found = {each.name: each for each in groups.split(lock(), "a lock", (WHEEL,))}
    assert list(found) == [
        "cuda", "torch", "engine", "libraries", "rest", "extensions", "environment"
    ]  # fmt: skip
    named = {name: re.findall(r"^([\w-]+)==", each.lock, re.MULTILINE) for name, each in found.items()}
    assert named == {
        "cuda": ["nvidia-nccl-cu13"], "torch": ["torch", "triton"], "engine": ["flashinfer-python", "vllm"],
        "libraries": ["numpy", "ray"], "rest": ["wandb"], "extensions": [], "environment": [],
    }  # fmt: skip
    lines = [line for each in found.values() for line in each.lock.splitlines()]
    assert sorted(lines) == sorted(line for line in lock().splitlines() if not line.startswith("#"))
    assert [each.whole for each in found.values()] == [None] * 6 + [lock()]
    assert found["extensions"].wheels == (WHEEL,)


def test_a_stack_of_few_packages_has_few_layers() -> None:
    found = groups.split(written({"wandb": "0.22.0"}), "a lock")
    assert [each.name for each in found] == ["rest", "environment"]
    assert [each.name for each in groups.split(written({"ray": "2.57.0"}), "a lock")][:-1] == ["libraries"]


@pytest.mark.parametrize(
    ("package", "group"),
    [
        ("nvidia-nccl-cu13", "cuda"),
        ("torch", "torch"),
        ("vllm", "engine"),
        ("ray", "libraries"),
        ("wandb", "rest"),
    ],
)
def test_a_changed_package_moves_its_own_layer(package: str, group: str) -> None:
    """And the few KB in which the lock of the whole stack lies. All else stays, the rest too."""
    before, after = keys(lock(), WHEEL), keys(lock(**{package: "9.9"}), WHEEL)
    assert {name for name in before if before[name] != after[name]} == {group, "environment"}


def test_another_extension_moves_nothing_else() -> None:
    other = structs.replace(WHEEL, sha256="f" * 64)
    before, after = keys(lock(), WHEEL), keys(lock(), other)
    assert {name for name in before if before[name] != after[name]} == {"extensions"}


def test_other_groups_are_only_a_change_of_data(tmp_path: Path) -> None:
    (tmp_path / "groups.toml").write_text('[[group]]\nname = "own"\npackages = ["ray", "numpy"]\n')
    found = groups.split(lock(), "a lock", file=tmp_path / "groups.toml")
    assert [each.name for each in found] == ["own", "rest", "environment"]
