"""What the batch script does on nodes for sandboxes, run by bash with stand-ins."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest
from msgspec import structs

from slurm import script
from slurm.script import Servers
from tests.unit import parts_script
from tests.unit.parts_script import Cluster, send, until

LOADER = """#!/bin/bash
# Stands for the layer's loader: what it would start is a server that says its address and ends at TERM.
printf '%s\\0' "$@" >>"$RECORD/server"
printf '%s\\n' "$SLIPWORKS_CACHE" >>"$RECORD/cache"
printf '%s\\n' "$(printenv TMPDIR)" >"$RECORD/temporary"
case $* in *" sandbox stop "*) exit 0 ;; esac
while [ $# -gt 0 ]; do
    [ "$1" != --state ] || state=$2
    shift
done
stat -c '%a' "$state" "$state/key" >"$RECORD/modes"
printf '%s' "$state" >"$RECORD/state"
if [ -e "$RECORD/deaf" ]; then trap : TERM; else trap 'echo ended >>"$RECORD/server-ended"; exit 0' TERM; fi
[ ! -e "$RECORD/no-server" ] || exit 3
echo "http://$SLURMD_NODENAME:1234"
exec {nothing}<> <(:)
until [ -e "$RECORD/server-dies" ]; do read -r -t 0.02 -u "$nothing"; done
exit 9
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path, tmp_path / "a run, it's")
    layer = tmp_path / "a layer"
    for path, text in (
        ("lib/ld-linux-x.so.2", LOADER),
        ("python/bin/python3.13", ""),
        ("python/bin/python3.13._pth", ""),
        ("bin/runner", ""),
    ):
        (layer / path).parent.mkdir(parents=True, exist_ok=True)
        (layer / path).write_text(text)
    (layer / "lib/ld-linux-x.so.2").chmod(0o755)
    made.program("apptainer", "#!/bin/sh\nexit 1\n")
    return made


def parted(cluster: Cluster, **more: object) -> script.Batch:
    layer = cluster.run.parent / "a layer"
    part = Servers(
        options={"partition": "cpu"}, nodes=1, cpus=4, engine="apptainer", layer=str(layer),
        words=("sandbox", "serve", "--set", "{}"), cache="/a cache", patience=60.0,
    )  # fmt: skip
    return cluster.batch(sandboxes=part, **more)


FOUND = "attempt_folder=$RUN/attempt-$attempt\nawait ../sandboxes/url\n"
"""Of a container that waits for the server."""


def test_a_server_for_the_job_and_nothing_of_it_afterwards(cluster: Cluster) -> None:
    cluster.container(FOUND + 'cp "$attempt_folder/sandboxes/key" "$RECORD/seen"\nended 7\n')
    code, said = cluster.finish(parted(cluster))
    assert code == 7, said
    layer = str(cluster.run.parent / "a layer")
    words = cluster.words("server")
    assert words[:8] == [
        "--library-path", f"{layer}/lib", f"{layer}/python/bin/python3.13", "-I", "-B",
        f"{layer}/bin/runner",
        "sandbox", "serve",
    ]  # fmt: skip
    folder = cluster.attempt("sandboxes")
    assert (folder / "url").read_text() == "http://n1:1234"
    key = (cluster.record / "seen").read_text()
    assert len(key) == 64 and int(key, 16) and key not in said and key not in " ".join(words)
    assert stat.S_IMODE((cluster.record / "seen").stat().st_mode) == 0o600
    assert (cluster.record / "modes").read_text().split() == ["700", "600"]
    assert (cluster.record / "cache").read_text() == "/a cache\n"
    assert (cluster.record / "server-ended").read_text() == "ended\n", "by a TERM"
    assert not Path((cluster.record / "state").read_text()).exists() and not (folder / "key").exists()
    srun = cluster.words("srun")
    assert {"--het-group=0", "--het-group=1", "--cpus-per-task=4"} <= set(srun)


def test_a_server_that_dies_ends_the_job_and_one_that_does_not_begin_too(cluster: Cluster) -> None:
    cluster.container(FOUND + 'touch "$RECORD/server-dies"\nawait stop\nended 143\n')
    code, said = cluster.finish(parted(cluster))
    why = cluster.attempt("meeting/stop").read_text()
    assert code == 143 and "has lost a sandbox server, which ended with exit code 9" in why, said
    assert not cluster.attempt("sandboxes/key").exists()
    (cluster.record / "server-dies").unlink()
    (cluster.record / "no-server").touch()
    cluster.container("await stop\nended 143\n")
    code, said = cluster.finish(parted(cluster))
    assert code == 143, said
    assert "ended with exit code 3: see" in cluster.attempt("meeting/stop", 2).read_text()


def test_several_nodes_are_asked_through_one_address(cluster: Cluster) -> None:
    cluster.container(FOUND + "ended 0\n")
    batch = parted(cluster)
    assert batch.sandboxes
    code, said = cluster.finish(structs.replace(batch, sandboxes=structs.replace(batch.sandboxes, nodes=2)))
    assert code == 0, said
    words = cluster.words("server")
    assert words.count("serve") == 3
    fronts = [words[place + 1] for place, word in enumerate(words) if word == "--front"]
    assert fronts == ["http://n1:1234", "http://n2:1234"], "of both nodes, once"
    assert (cluster.record / "server-ended").read_text() == "ended\n" * 3
    assert [cluster.attempt(f"sandboxes/url-{rank}").read_text() for rank in (0, 1)] == fronts


def test_deaf_servers_have_one_deadline_that_leaves_time_for_what_they_left(cluster: Cluster) -> None:
    """Slurm kills 30 s after its TERM. Two servers are on the first node: its own, and what stands before."""
    (cluster.record / "deaf").touch()
    cluster.container(FOUND + "ended 0\n")
    batch = parted(cluster)
    assert batch.sandboxes
    asked = structs.replace(batch.sandboxes, nodes=2)
    began = time.monotonic()
    code, said = cluster.finish(structs.replace(batch, sandboxes=asked))
    assert code == 0 and 10 < time.monotonic() - began < 28, said
    words = cluster.words("server")
    ends = [words[place : place + 5] for place, word in enumerate(words) if word == "stop"]
    assert [each[:4] for each in ends] == [["stop", "--all", "--grace", "1"]] * 2, "on each node"
    assert not Path((cluster.record / "state").read_text()).exists()


def test_files_of_the_users_other_ids_do_not_stay(cluster: Cluster) -> None:
    """Of a sandbox by Apptainer, whose namespace died with its server."""
    mine = 'case $* in *slipworks-7-*) [ -n "${INSIDE-}" ] || exit 1 ;; esac'
    cluster.program("rm", f'#!/bin/bash\n{mine}\nexec /bin/rm "$@"\n')
    inside = '#!/bin/bash\nwhile [ "$1" != -- ]; do shift; done\nshift\nINSIDE=yes exec "$@"\n'
    cluster.program("unshare", inside)
    cluster.container(FOUND + "ended 0\n")
    code, said = cluster.finish(parted(cluster))
    assert code == 0 and " is left" not in said, said
    assert not Path((cluster.record / "state").read_text()).exists()


def test_what_programs_keep_for_a_while_is_at_root_too(cluster: Cluster) -> None:
    """Layers that podman pulls, say, are in /var/tmp where nothing else is said."""
    cluster.program("srun", parts_script.SRUN.replace("#!/bin/bash", "#!/bin/bash\nunset TMPDIR", 1))
    cluster.container(FOUND + "ended 0\n")
    (root := cluster.record / "a root").mkdir()
    batch = parted(cluster)
    assert batch.sandboxes
    asked = structs.replace(batch.sandboxes, root=str(root))
    code, said = cluster.finish(structs.replace(batch, sandboxes=asked))
    assert code == 0, said
    assert (cluster.record / "temporary").read_text() == f"{root}\n"
    assert Path((cluster.record / "state").read_text()).parent == root


def test_a_node_without_the_engine_says_so(cluster: Cluster) -> None:
    cluster.container("await stop\nended 143\n")
    batch = parted(cluster)
    assert batch.sandboxes
    lacking = structs.replace(batch, sandboxes=structs.replace(batch.sandboxes, engine="no-engine"))
    code, said = cluster.finish(lacking)
    assert code == 143, said
    assert "has no no-engine on its PATH" in cluster.attempt("meeting/stop").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_told_to_end_ends_its_servers(cluster: Cluster, number: signal.Signals) -> None:
    cluster.container(FOUND + 'touch "$RECORD/runs"\nawait stop\nended 143\n')
    job = cluster.start(parted(cluster))
    until(lambda: (cluster.record / "runs").exists(), "the job to run")
    send(job, number)
    said = os.fsdecode(job.communicate(timeout=60)[0])
    assert job.returncode == 143, said
    assert (cluster.record / "server-ended").read_text() == "ended\n", said
    assert not Path((cluster.record / "state").read_text()).exists()
