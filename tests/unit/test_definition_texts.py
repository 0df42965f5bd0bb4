"""What is rendered for people without the kit, and the script that both texts run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec import structs

from definitions import archs, bases, lines, render, system
from kit.errors import InvalidFileError
from tests.unit.parts_definitions import AMD, ARM, ONE, recipe


def last_stages(name: str | archs.Arch) -> tuple[str, str]:
    texts = render.render(name)
    assert "\nFROM --platform=$BUILDPLATFORM " in texts["Containerfile"]
    first, second = (texts[text].rpartition(begin)[2] for text, begin in
                     (("Containerfile", "\nFROM "), ("apptainer.def", "\nBootstrap: ")))  # fmt: skip
    return first, second


@pytest.mark.parametrize("name", archs.names())
def test_the_last_stage_installs_packages_at_most(name: str) -> None:
    """On a foreign platform that is emulated; and what is not copied cannot leak from the first stage."""
    arch = archs.load(name)
    packages = system.packages(lines.load(arch.line), bases.load(arch.base))
    container, apptainer = last_stages(name)
    words = [line.split()[0] for line in container.splitlines()[1:] if re.match(r"[A-Z]+\b", line)]
    assert words == [*(["RUN"] if packages else []), "COPY", "ENV", "LABEL", "CMD"]
    sections = re.findall(r"^%(\w+)", apptainer, re.MULTILINE)
    assert sections == ["files", *(["post"] if packages else []), "environment", "labels", "runscript"]
    for stage in (container, apptainer) if packages else ():
        assert f" {' '.join(packages)}" in stage
        assert "needs an emulator" in render.render(name)["Containerfile"]


def test_a_bootstrapped_base_is_made_with_all_packages() -> None:
    """Its packages are named where people make it, and nothing is installed afterwards."""
    arch = structs.replace(archs.load("h100"), base="bootstrap")
    base = bases.load("bootstrap")
    wanted = system.packages(lines.load("cu13"), base)
    assert {"gcc", "tini", *base.headers} <= set(wanted)
    for text in render.render(arch).values():
        (included,) = re.findall(r"--include=(\S+)", text)
        assert included.split(",") == [*base.packages, *wanted]
        assert "apt-get" not in text


def test_compilers_find_cuda_where_its_wheels_bring_one() -> None:
    base = bases.load("python312")
    home = "/opt/stack/lib/python3.12/site-packages/nvidia/cu13"
    found = render.environment(lines.load("cu13"), base)
    assert found["CUDA_HOME"] == home
    path = found["PATH"].split(":")
    assert path[:2] == ["/opt/stack/bin", f"{home}/bin"] and path[-1] == "/slipworks/bin"
    assert found["NVIDIA_VISIBLE_DEVICES"] == "all"
    for line in ("cpu", "cu12"):
        other = render.environment(lines.load(line), base)
        assert "CUDA_HOME" not in other and "nvidia" not in other["PATH"]
    assert "NVIDIA_VISIBLE_DEVICES" in other
    texts = render.render("h100")
    assert f"    CUDA_HOME={home} \\\n" in texts["Containerfile"]
    assert f"    export CUDA_HOME={home}\n" in texts["apptainer.def"]


@pytest.mark.parametrize("name", archs.names())
def test_no_index_and_no_certificate_is_written_down(name: str) -> None:
    text = render.render(name)["Containerfile"]
    code = [line for line in text.splitlines() if not line.startswith("#")]
    assert not re.search(
        r"(?i)index|cert|http", " ".join(code).replace("id=index,target=/run/secrets/index", "")
    )
    assert not re.search(r"^(# *syntax|ARG (?!TARGETARCH$))", text, re.MULTILINE)


def test_committed_texts_are_what_would_be_rendered() -> None:
    assert render.drift() == []


def test_drift_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "rendered"
    assert f"{Path('cpu/Containerfile')} is missing" in render.drift(folder)
    assert len(render.write(folder)) == 2 * len(archs.names())
    assert render.write(folder) == render.drift(folder) == []
    text = (folder / "cpu/Containerfile").read_text()
    (folder / "cpu/Containerfile").write_text(text.replace("/opt/stack", "/opt/stuck"))
    (folder / "h100/apptainer.def").write_text((folder / "h100/apptainer.def").read_text() + "\nmore\n")
    (folder / "gone").mkdir()
    (folder / "gone/Containerfile").write_text("")
    told = render.drift(folder)
    assert [line.split()[0] for line in told] == [
        "cpu/Containerfile",
        "h100/apptainer.def",
        "gone/Containerfile",
    ]
    assert "found 'COPY --from=stack /opt/stuck" in told[0]
    render.write(folder)
    assert render.drift(folder) == []


def test_values_reach_the_image_as_they_are() -> None:
    summary = """it's "$HOME" `id` \\ é"""
    made = recipe(structs.replace(archs.load("cpu"), summary=summary), base_digest=ONE)
    block = made.containerfile.partition("LABEL ")[2].partition("\n#")[0]
    labels = dict(word.split("=", 1) for word in shlex.split(block.replace("\\\n", " ")))
    assert labels == made.labels
    assert labels["org.opencontainers.image.description"].startswith(summary)
    with pytest.raises(InvalidFileError, match="line break"):
        recipe(structs.replace(archs.load("cpu"), summary="two\nlines"), base_digest=ONE)


# --- the script


SCRIPT = render.DEFINITIONS / render.SCRIPT


def test_the_script_refuses_an_unknown_architecture() -> None:
    done = subprocess.run(
        ["sh", SCRIPT, "python3", "cp313", "riscv64", "2.35"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no such architecture: riscv64, expected amd64 or arm64\n"


def test_the_script_is_clean() -> None:
    checker = shutil.which("shellcheck")
    if not checker:
        pytest.skip("shellcheck is not installed (apt-get install shellcheck)")
    done = subprocess.run([checker, "--shell=sh", "--exclude=SC1091", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_script_names_platforms_as_lines_do() -> None:
    text = SCRIPT.read_text()
    for platform in (AMD, ARM):
        assert (
            f"{platform.arch} | {platform.machine}) arch={platform.arch} machine={platform.machine} ;;"
            in text
        )
        assert lines.load("cpu").wheel_platform(platform) == f"{platform.machine}-manylinux_2_35"


def test_the_build_lock_serves_both_platforms_and_holds_hashes_only() -> None:
    text = (render.DEFINITIONS / render.TOOLS).read_text()
    assert "http" not in text
    assert re.findall(r"^([\w-]+)==", text, re.MULTILINE) == ["setuptools", "uv"]
    assert text.count("--hash=sha256:") > 10
