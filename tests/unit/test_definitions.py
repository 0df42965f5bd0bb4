"""Archs, bases and recipes: all of it without an engine and without network."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from msgspec import structs

from definitions import archs, bases, lines, render
from kit.errors import InvalidFileError, SlipworksError, UnknownNameError, UnpinnedError, UnsupportedError
from kit.nouns import Recipe, digest
from tests.unit.parts_definitions import AMD, ARM, ONE, TWO, recipe

NEW_ARCH = """
summary = "A GPU that there is not yet"
platforms = ["linux/arm64", "linux/amd64"]
compute_capabilities = ["12.0"]
driver_floor = "590"
line = "cu13"
base = "python312"
"""


def bootstrapped(**more: object) -> Recipe:
    return recipe("cpu", **{"base_digest": ONE, **more})


# --- archs


def test_archs_are_those_of_the_mission() -> None:
    facts = {name: archs.load(name) for name in archs.names()}
    assert {name: arch.compute_capabilities for name, arch in facts.items()} == {
        "a100": ("8.0",), "b200": ("10.0",), "cpu": (), "gh200": ("9.0",), "h100": ("9.0",), "h200": ("9.0",),
        "mig": ("8.0", "9.0"),
    }  # fmt: skip
    assert {name for name, arch in facts.items() if ARM in arch.all_platforms()} == {"gh200", "cpu"}
    assert {name for name, arch in facts.items() if AMD not in arch.all_platforms()} == {"gh200"}
    assert facts["gh200"].line == "cu13"
    assert facts["cpu"].base == "bootstrap"


@pytest.mark.parametrize("name", archs.names())
def test_defaults_of_an_arch_go_together(name: str) -> None:
    arch = archs.load(name)
    for platform in arch.all_platforms():
        made = recipe(arch, platform=platform, base_digest=ONE)
        assert (made.line, made.base.name, made.platform) == (arch.line, arch.base, platform)


def test_an_arch_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "gx1.toml").write_text(NEW_ARCH)
    arch = archs.load("gx1", tmp_path)
    made = recipe(arch, base_digest=ONE)
    assert made.platform == AMD
    assert made.driver_floor == "590"
    assert made.labels["slipworks.compute-capabilities"] == "12.0"
    assert recipe(arch, base_digest=ONE, platform=ARM).key != made.key
    texts = render.render(arch)
    assert "rendered/gx1/Containerfile" in texts["Containerfile"]
    assert "A GPU that there is not yet" in texts["apptainer.def"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("summary", "sumary", "unknown key 'sumary'"),
        ('"12.0"', '"12"', "written like '9.0', found '12'"),
        ('driver_floor = "590"', "", "compute_capabilities and driver_floor go together"),
        ('"590"', '"r590"', "found 'r590'"),
        ('"linux/arm64"', '"linux/arm"', "unknown platform 'linux/arm'"),
        ('["linux/arm64", "linux/amd64"]', "[]", "platforms is empty"),
        ("there is not yet", "there\\nis not yet", "line break"),
    ],
)
def test_a_wrong_arch_file_is_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    (tmp_path / "gx1.toml").write_text(NEW_ARCH.replace(old, new))
    with pytest.raises((InvalidFileError, UnknownNameError), match=re.escape(said)):
        archs.load("gx1", tmp_path)


# --- bases


def test_bases(tmp_path: Path) -> None:
    assert bases.names() == ("bootstrap", "python312")
    debian, ubuntu = bases.load("bootstrap"), bases.load("bootstrap", "ubuntu")
    assert (debian.python, ubuntu.python) == ("3.13", "3.12")
    assert debian.digest is None
    assert debian.reference.startswith("localhost/")


def test_a_bootstrapped_base_has_a_name_of_its_own_per_platform_and_content() -> None:
    ground = bases.load("bootstrap")
    names = {bases.at(ground, platform, digest).reference for platform in (AMD, ARM) for digest in (ONE, TWO)}
    assert len(names) == 4
    with pytest.raises(InvalidFileError, match="not a digest in base bootstrap"):
        bases.at(ground, AMD, "latest")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "registry"', 'kind = "registri"', "registri"),
        (r'digest = "[^"]*"', 'digest = "sha256:12"', "not a digest"),
        (r"sources = \[[^]]*\]", "sources = []", "needs its sources"),
        ("interpreter", "interpeter", "interpreter"),
    ],
)
def test_a_wrong_base_file_is_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = re.sub(r'digest = "[^"]*"', f'digest = "{ONE}"', bases.FILE.read_text(), count=1)
    text = re.sub(r"sources = \[[^]]*\]", 'sources = ["here", "there"]', text, count=1)
    text = re.sub(r'date = "[^"]*"', 'date = "2026-11-20"', text, count=1)
    file = tmp_path / "bases.toml"
    file.write_text(text)
    assert bases.load("python312", file=file).digest == ONE
    file.write_text(re.sub(old, new, text, count=1))
    with pytest.raises((InvalidFileError, UnknownNameError)) as told:
        bases.load("python312", file=file)
    assert said in f"{told.value.message} {told.value.hint}"


def test_an_unpinned_base_is_rendered_by_its_tag_with_a_warning() -> None:
    found = archs.load("h100")
    base = structs.replace(bases.load("python312"), digest=None)
    model = render.Model(arch=found, line=lines.load("cu13"), base=base, platforms=(AMD,), labels={})
    for text in render.texts(model).values():
        assert "WARNING: the base is not pinned" in text
        assert re.search(rf"(?i)^from:? .*{re.escape(base.reference)}", text, re.MULTILINE)
    pinned = structs.replace(base, digest=ONE)
    for text in render.texts(structs.replace(model, base=pinned)).values():
        assert "WARNING" not in text
        assert f"docker.io/library/python@{ONE}" in text


def test_building_on_an_unpinned_base_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    unpinned = structs.replace(bases.load("python312"), digest=None)
    monkeypatch.setattr(bases, "load", lambda name, distribution="debian": unpinned)
    with pytest.raises(UnpinnedError) as told:
        recipe("h100")
    assert told.value.hint and "make pins" in told.value.hint
    assert recipe("h100", base_digest=ONE).base.digest == ONE


# --- recipes


@pytest.mark.parametrize(
    ("more", "kind", "said", "hint"),
    [
        ({"arch": "gh20"}, UnknownNameError, "unknown arch 'gh20'", "did you mean 'gh200'?"),
        ({"arch": "h100", "line": "cu31"}, UnknownNameError, "unknown line 'cu31'", "'cu13'?"),
        ({"arch": "h100", "base": "pyton312"}, UnknownNameError, "unknown base", "python312"),
        ({"arch": "h100", "platform": ARM}, UnsupportedError, "not made for linux/arm64", "linux/amd64"),
        ({"arch": "cpu", "line": "cu13"}, UnsupportedError, "cpu has none", "LINE=cpu"),
        ({"arch": "h100", "line": "cu12", "base": "bootstrap"}, UnsupportedError, "Python 3.13",
         "make image ARCH=h100 LINE=cu12 BASE=python312"),
        ({"arch": "cpu", "distribution": "fedora"}, UnknownNameError, "unknown distribution 'fedora'", None),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    more: dict[str, object], kind: type[SlipworksError], said: str, hint: str | None
) -> None:
    with pytest.raises(kind) as told:
        recipe(**more)  # type: ignore[arg-type]
    assert said in told.value.message
    assert hint is None or hint in (told.value.hint or "")
    assert "\n" not in told.value.message


def test_cu12_on_arm64_needs_the_setting_or_the_hashes() -> None:
    with pytest.raises((UnsupportedError, UnpinnedError)) as told:
        recipe("gh200", line="cu12")
    assert "torch" in told.value.message or "hash" in told.value.message


def test_the_additional_index_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines.Line, "needs_torch_index", lambda self, platform: True)
    with pytest.raises(UnsupportedError) as told:
        bootstrapped()
    assert "torch_index is not set" in told.value.message
    assert "SLIPWORKS_TORCH_INDEX" in (told.value.hint or "")
    assert bootstrapped(torch_index_set=True).line == "cpu"


def test_platform_is_the_hosts_where_the_arch_has_it() -> None:
    assert bootstrapped(host=ARM).platform == ARM
    assert bootstrapped(host=AMD).platform == AMD
    assert recipe("gh200", host=AMD).platform == ARM
    assert recipe("h100", host=ARM).platform == AMD


def test_the_key_is_made_of_all_that_goes_in() -> None:
    plain = bootstrapped()
    assert bootstrapped().key == plain.key
    others = [
        bootstrapped(base_digest=TWO),
        bootstrapped(layer_key="another"),
        bootstrapped(platform=ARM),
        bootstrapped(distribution="ubuntu"),
        bootstrapped(base="python312"),
        bootstrapped(defined=True),
        bootstrapped(stack_key=lambda layer: "another"),
        bootstrapped(made_by={"packing": "another"}),
        recipe("h100", line="cpu", base="bootstrap", base_digest=ONE),
    ]
    assert len({plain.key, *(other.key for other in others)}) == 1 + len(others)
    names = {"arch", "line", "platform", "base", "python", "layer", "stack rest", "variable PATH"}
    assert names <= set(plain.inputs)
    texts = {
        *("by", "text apptainer.def", "file templates/install.sh", "file tools/build.lock"),
        *("file templates/cuda_home.py", "file stacks/cpu/cp313-amd64.lock"),
    }
    assert texts <= set(bootstrapped(defined=True).inputs)
    assert not texts & set(plain.inputs), "an assembled image does not depend on what people build by"
    assert not any("\n" in value for value in plain.inputs.values())


def test_layers_of_the_stack_know_whose_python_compiles() -> None:
    def compilers(made: Recipe) -> set[str]:
        assert made.stack[-1].compiler == "", "the environment has nothing to compile"
        return {layer.compiler for layer in made.stack[:-1]}

    assert compilers(bootstrapped()) == {ONE}
    assert compilers(bootstrapped(base_digest=None)) == {""}
    pulled = recipe("cpu", base="python312")
    assert compilers(pulled) == {pulled.base.digest} and pulled.base.digest


def test_a_newer_base_leaves_what_another_python_compiled() -> None:
    one, other = (bootstrapped(base_digest=each, compiler="python3.13 3.13.5-2") for each in (ONE, TWO))
    assert one.stack == other.stack and one.key != other.key
    assert {layer.compiler for layer in one.stack} == {"python3.13 3.13.5-2", ""}


def test_the_key_does_not_know_the_builder() -> None:
    native = bootstrapped(platform=ARM, host=ARM)
    foreign = bootstrapped(platform=ARM, host=AMD)
    assert native.key == foreign.key
    first, last = re.findall(r"^FROM (.*)$", foreign.containerfile, re.MULTILINE)
    assert first == f"--platform=$BUILDPLATFORM {foreign.base.reference} AS stack"
    assert last == f"--platform=linux/arm64 {foreign.base.reference}"


def test_a_reworded_comment_is_no_new_image(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = archs.load("cpu")
    noted = structs.replace(arch, quirks=("Something to know.",))
    assert "# Note: Something to know." in recipe(noted, base_digest=ONE).containerfile
    assert recipe(noted, base_digest=ONE).key == recipe(arch, base_digest=ONE).key


def test_labels_tell_what_is_in_it_and_what_is_not() -> None:
    made = recipe("gh200")
    assert made.labels["slipworks.left-out-extensions"].split() == list(lines.load("cu13").extensions)
    assert made.labels["slipworks.driver-floor"] == made.driver_floor == "580"
    assert made.labels["slipworks.key"] == made.key
    assert made.labels["slipworks.lock"] == digest(made.context["stacks/cu13/cp312-arm64.lock"].encode())
    assert made.labels["org.opencontainers.image.base.digest"] == made.base.digest
    assert recipe("b200", line="cu12").driver_floor == "570"  # the GPU asks for more than the line
    assert "slipworks.driver-floor" not in bootstrapped().labels
    for name, value in made.labels.items():
        assert f"{name}={shlex.quote(value)}" in made.containerfile
        assert f"    {name} {value}\n" in made.apptainer_def


def test_the_context_holds_all_that_is_copied() -> None:
    made = bootstrapped()
    copied = re.search(r"^COPY (.*) /build/$", made.containerfile, re.MULTILINE)
    assert copied and set(copied[1].split()) == set(made.context)
    files = re.search(r"%files\n(.*?)\n\n", made.apptainer_def, re.DOTALL)
    assert files and {line.split()[0] for line in files[1].splitlines()} == set(made.context)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ('platforms = ["linux/amd63"]', "linux/amd64"),
        ('line = "cu31"', "cu13"),
        ('base = "bootstrp"', "bootstrap"),
    ],
)
def test_a_wrong_name_in_an_arch_names_its_file(tmp_path: Path, wrong: str, meant: str) -> None:
    right = ['platforms = ["linux/amd64"]', 'line = "cpu"', 'base = "bootstrap"']
    kept = [each for each in right if each.split()[0] != wrong.split()[0]]
    (tmp_path / "gx1.toml").write_text("\n".join(['summary = "x"', wrong, *kept]))
    with pytest.raises(UnknownNameError) as caught:
        archs.load("gx1", tmp_path)
    assert f"{tmp_path}/gx1.toml" in caught.value.message and caught.value.hint == f"did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[a]\nkind = "registr"\n',
            "unknown kind 'registr' in {}, table [a]: expected one of bootstrap, registry",
        ),
        ('[a]\nkind = "registry"\nreferenc = "x"\n', "unknown key 'referenc' in {}, table [a]: "),
        (
            '[a]\nkind = "registry"\nreference = 1\n',
            "{}, table [a]: found a whole number for reference, expected text",
        ),
        ('[a]\nkind = "bootstrap"\n[a.debian]\nsuit = "x"\n', "unknown key 'suit' in {}, table [a.debian]: "),
    ],
)
def test_a_complaint_of_the_bases_names_the_table(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bases.toml"
    file.write_text(text)
    with pytest.raises(SlipworksError) as caught:
        bases.names(file)
    assert caught.value.message.startswith(said.format(file))
