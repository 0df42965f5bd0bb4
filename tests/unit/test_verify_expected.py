"""What an image is held to: by its labels, by the definitions of this kit, and by the named exemptions."""

from __future__ import annotations

import importlib
import pkgutil

from containers import checks
from containers.checks import interpreter
from containers.findings import Finding, Report
from definitions import exceptions
from kit.nouns import Platform
from runner import proof
from runner.commands.image import verify

ARM = Platform("arm64")
LABELS = {
    "slipworks.arch": "gh200", "slipworks.line": "cu13", "slipworks.python": "3.12",
    "slipworks.compute-capabilities": "9.0", "slipworks.driver-floor": "580",
    "slipworks.lock": "sha256:" + 64 * "1",
}  # fmt: skip


def test_by_labels_and_definitions() -> None:
    found = proof.expected(LABELS, ARM, ("/opt/stack/bin", "", "/usr/bin"))
    assert (found.line, found.cuda, found.python, found.capabilities) == ("cu13", "13.0", "3.12", ("9.0",))
    assert (found.label_floor, found.driver_floor) == ("580", "580")
    assert found.lock_digest == LABELS["slipworks.lock"]
    assert found.left_out == ("causal-conv1d", "flash-attn")
    assert found.path == ("/opt/stack/bin", "/usr/bin")


def test_an_arch_that_is_gone_leaves_the_label_alone() -> None:
    found = proof.expected({**LABELS, "slipworks.arch": "gone"}, ARM)
    assert (found.label_floor, found.driver_floor) == ("580", None)
    assert (found.label_capabilities, found.capabilities) == (("9.0",), ())


def test_capabilities_are_the_definitions() -> None:
    found = proof.expected({**LABELS, "slipworks.compute-capabilities": "8.0 90a"}, ARM)
    assert (found.capabilities, found.label_capabilities) == (("9.0",), ("8.0", "90a"))


def test_a_line_that_this_kit_does_not_know() -> None:
    found = proof.expected({**LABELS, "slipworks.line": "cu99"}, ARM)
    assert found.line is None and found.unknown.startswith("unknown line 'cu99'")


def test_somebody_elses_image() -> None:
    found = proof.expected({"org.opencontainers.image.title": "x"}, ARM)
    assert found.line is None and "not one of ours" in found.unknown
    assert "/usr/bin" in found.path


def test_every_exemption_is_of_a_check_that_there_is() -> None:
    modules = (importlib.import_module(f"{checks.__name__}.{each.name}")
               for each in pkgutil.iter_modules(checks.__path__))  # fmt: skip
    names = {module.NAME for module in modules if hasattr(module, "NAME")}
    rules = exceptions.load()
    assert {each.check for each in rules.exemption} <= names and interpreter.NAME in names
    assert all(each.reason and each.paths and "*" not in each.paths for each in rules.exemption)


def test_a_long_list_is_cut_in_the_table_alone() -> None:
    wrong = [Finding(check="libraries", status="failed", subject="library", found=f"needs lib{number}.so",
                     expected="found in the image", where="/x") for number in range(20)]  # fmt: skip
    lines = verify.table(Report(platform="linux/arm64", findings=tuple(wrong)))
    assert len(lines) == verify.MOST + 2
    assert lines[0] == "libraries    failed    library: needs lib0.so, expected found in the image  /x"
    assert lines[-2].endswith("… and 8 more: --json has them all")
    assert lines[-1] == "linux/arm64: 20 failed"


def test_what_one_reason_lets_pass_is_one_line() -> None:
    passed = [Finding(check="libraries", status="excepted", subject="library", found=f"needs lib{number}.so",
                      expected="nobody loads it", where="/x") for number in range(3)]  # fmt: skip
    lines = verify.table(Report(platform="linux/arm64", findings=tuple(passed)))
    assert lines == [
        "libraries    excepted  3 × nobody loads it: library: needs lib0.so  /x …",
        "linux/arm64: 3 excepted",
    ]
