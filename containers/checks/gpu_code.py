"""torch, vLLM and NCCL hold code for the GPU: SASS that it runs, or PTX that its driver can compile for it.

By the entries of their fat binaries, never by what text they contain. Not every fat binary of a library
needs it (kernels for other GPUs have files of their own), so it is told in how many it is.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from containers.checks import distributions
from containers.fatbin import Code, Fat
from containers.findings import Check, Expected, Finding, some
from containers.image_tree import ImageTree
from kit.exemptions import CodeRule

NAME = "gpu-code"
LABEL = "label slipworks.compute-capabilities"


def check(tree: ImageTree, expected: Expected) -> list[Finding]:
    result = Check(NAME, expected)
    if result.cuda("GPU code"):
        _asked(expected, result)
        there = {one.name for one in distributions.installed(tree, expected)}
        for rule in expected.code:
            if rule.package not in there:
                result.skipped(rule.package, "is not installed")
                continue
            for capability in expected.capabilities:
                _rule(tree, expected, rule, capability, result)
    return result.findings


def _asked(expected: Expected, result: Check) -> None:
    """What the image is for is what the definitions say, or nothing here would be asked for it."""
    says, wanted = " ".join(expected.label_capabilities), " ".join(expected.capabilities)
    if not wanted:
        result.wrong("GPUs", f"its arch, for {says or 'none'}, is not known", "an arch with GPUs", LABEL)
    elif says != wanted:
        result.wrong("GPUs", f"for {says or 'none'}", f"{wanted}, by the definitions", LABEL)


def _rule(tree: ImageTree, expected: Expected, rule: CodeRule, capability: str, result: Check) -> None:
    site = distributions.site(expected)
    wanted = f"SASS for {capability}, or PTX that can become it"
    for pattern in rule.every:
        paths = _libraries(tree, site, (pattern,))
        if not paths:
            result.wrong(rule.package, f"no library {pattern} with GPU code", wanted, f"{site}/{pattern}")
        for path in paths:
            _library(tree, path, rule.package, capability, wanted, result)
    if rule.any:
        paths = _libraries(tree, site, rule.any)
        able = [path for path in paths if usable(tree.fact(path).fats, capability)]
        for path in able:
            _library(tree, path, rule.package, capability, wanted, result)
        if not able:
            found = f"none of {some(path.removeprefix(f'{site}/') for path in paths) or 'no library'} has it"
            result.wrong(rule.package, found, wanted, f"{site}/{rule.any[0]}")


def _libraries(tree: ImageTree, site: str, patterns: tuple[str, ...]) -> list[str]:
    """Libraries by pattern. `*` stays in its folder here: vllm/_C*.so is not vllm/third_party/_C.so."""
    return [
        path
        for path, facts in sorted(tree.facts.items())
        if facts.elf and any(_matches(path.removeprefix(f"{site}/"), pattern) for pattern in patterns)
    ]


def _matches(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)


def _library(tree: ImageTree, path: str, package: str, capability: str, wanted: str, result: Check) -> None:
    fats = tree.fact(path).fats
    of = sum(fat.count for fat in fats)
    name = f"{package} {path.rpartition('/')[2]} for {capability}"
    codes = usable(fats, capability)
    if not codes:
        has = some({f"{code.kind} {code}" for fat in fats for code in fat.codes}, 12)
        result.wrong(name, f"has {has}" if fats else "has no GPU code at all", wanted, path)
        return
    count = sum(fat.count for fat in fats if any(code.runs_on(capability) for code in fat.codes))
    said = "; ".join(
        f"{'SASS' if code.kind == 'sass' else 'PTX (compiled on the node)'} {code} in {number}"
        for code, number in codes.items()
    )
    result.ok(name, f"{said}: {count} of {of} fat binaries", path)


def usable(fats: tuple[Fat, ...], capability: str) -> dict[Code, int]:
    """What a GPU can use of a library, best first -> in how many fat binaries it is the best."""
    found: dict[Code, int] = {}
    for fat in fats:
        if able := [code for code in fat.codes if code.runs_on(capability)]:
            best = max(able, key=_rank)
            best = Code(best.kind, best.arch, best.suffix)
            found[best] = found.get(best, 0) + fat.count
    return dict(sorted(found.items(), key=lambda each: _rank(each[0]), reverse=True))


def _rank(code: Code) -> tuple[bool, int, bool]:
    return code.kind == "sass", code.arch, bool(code.suffix)
