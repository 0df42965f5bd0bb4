"""`runner submit` on a real Slurm, as an ordinary user, with the real cpu image as a SIF."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from msgspec import json

from containers.engines.apptainer import Apptainer
from runner import images, submitted
from runner.images import Made
from runner.runs import RunFolder
from tests.live.needs import need
from tests.live.parts_bases import busybox_tar
from tests.live.parts_cpu import plan_of
from tests.live.parts_engines import User
from tests.live.parts_faulty import Damaging
from tests.live.parts_jobs import Login, logs
from tests.live.parts_served import Bottom, put, served
from tests.live.parts_slurm import Slurm, Starter
from tests.live.parts_slurm_conf import Shape
from tests.live.parts_slurm_daemons import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]
SECRET = "s3cret-$(touch x)'\"\n\N{SNOWMAN}"


@pytest.fixture(scope="module")
def cluster(slurm_like: Starter) -> Slurm:
    """Two nodes with addresses of their own."""
    return slurm_like(Shape(count=2), addresses=True)


@pytest.fixture(scope="module")
def login(cluster: Slurm, cached_sif: Path, ordinary_user: User) -> Login:
    return Login(cluster, ordinary_user, cached_sif)


def test_an_unbuilt_image_is_refused_and_named_by_a_dry_run(
    login: Login, tmp_path_factory: pytest.TempPathFactory
) -> None:
    login.runs.mkdir(exist_ok=True)
    shutil.chown(login.runs, login.name)
    job = login.slurm.shared / "unbuilt.yaml"
    job.write_text("name: j\narch: h100\nrun: 'true'\n")
    told = login.type("submit", str(job), "--dry-run")
    assert told.code == 0 and "h100-cu13-amd64-" in told.out, told.err
    assert not list(login.runs.iterdir()), "a dry run writes nothing"
    told = login.type("submit", str(job))
    assert told.code == 32 and "is not built as sif" in told.err, told.err
    assert "hint: make image ARCH=h100 FORMAT=sif" in told.err
    assert not list(login.runs.iterdir())


def test_one_node_without_ray(login: Login) -> None:
    told = login.submit(
        "name: one\narch: cpu\nray: false\nsecrets: [A_KEY]\ncheckpoints: true\n"
        'env: {ODD: "a\'b\\"$(x)"}\n'
        "run: |\n  printf '%s' \"$ODD\" > /slipworks-run/odd; printf '%s' \"$A_KEY\" | sha256sum\n"
        "  touch $SLIPWORKS_CHECKPOINTS/kept; id -un; exit 7\n",
        A_KEY=SECRET,
    )
    assert login.ended(told) == "FAILED"
    folder, said = told.folder, logs(told.folder)
    assert login.slurm.show(told.jobs[0])["ExitCode"] == "7:0", said
    assert (folder.root / "odd").read_text() == "a'b\"$(x)", said
    import hashlib

    assert hashlib.sha256(SECRET.encode()).hexdigest() in said, said
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    assert not folder.secrets.exists(), "no attempt follows"
    held = [each.read_bytes() for each in folder.root.rglob("*") if each.is_file()]
    assert not any(b"s3cret" in each for each in held)
    record = submitted.read(folder)
    assert record and record.state == "submitted" and record.ids == (str(told.jobs[0]),)
    assert record.user == login.name and record.cluster == "generic"
    chosen = json.decode(folder.image.read_bytes())
    assert chosen["digest"].startswith("sha256:") and chosen["reference"].endswith(".sif")
    kept = login.runs.parent / "checkpoints" / folder.root.name / "kept"
    assert kept.exists() and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    login.slurm.quiet()


FORK = """
name: fork
arch: cpu
nodes: 2
code: [fork]
run: |
  python - <<'END'
  import ray
  from platformdirs import macos, unix
  assert macos.FORKED and "/opt/stack/" in unix.__file__, (macos.__file__, unix.__file__)
  ray.init(log_to_driver=False)

  @ray.remote(num_cpus=0.5, scheduling_strategy="SPREAD")
  def seen():
      import time
      from platformdirs import macos
      time.sleep(1)
      return macos.FORKED, ray.get_runtime_context().get_node_id()

  found = ray.get([seen.remote() for _ in range(8)])
  assert {word for word, _ in found} == {"the fork's"}, found
  print("nodes of workers:", len({node for _, node in found}), "of", len(ray.nodes()))
  END
"""


def test_a_fork_overrides_a_module_of_an_installed_package_on_two_nodes(login: Login) -> None:
    """In the driver and in Ray's workers; the package's other modules are those of the image."""
    fork = login.slurm.shared / "job's place/fork/platformdirs"
    fork.mkdir(parents=True)
    (fork / "__init__.py").write_text("import pkgutil\n__path__ = pkgutil.extend_path(__path__, __name__)\n")
    (fork / "macos.py").write_text('FORKED = "the fork\'s"\n')
    (fork.parent / ".gitignore").write_text("*.bin\n")
    (fork.parent / "weights.bin").write_text("x")
    for path in (fork.parents[1], *fork.parents[1].rglob("*")):
        shutil.chown(path, login.name)
    told = login.submit(FORK)
    # What is changed after the submission is not what runs.
    (fork / "macos.py").write_text("raise RuntimeError\n")
    state = login.ended(told)
    said = logs(told.folder)
    assert state == "COMPLETED", said
    assert "of 2" in said, said
    assert not (told.folder.code / "0/weights.bin").exists()
    assert json.decode((told.folder.code / "0.json").read_bytes())["files"] == 3
    assert told.folder.finished.read_text() == "succeeded\n"
    assert not told.folder.token.exists()
    login.slurm.quiet()


def test_an_image_without_the_layer_has_it_mounted(login: Login, cpu: Made, tmp_path: Path) -> None:
    """The base alone: no Python but the layer's own, no record."""
    base = plan_of(cpu, images.store()).base
    assert base
    sif_file = login.slurm.shared / "job's place/plain base.sif"
    sif_file.parent.mkdir(exist_ok=True)
    Apptainer().convert(base, sif_file, lambda line: None)
    sif_file.chmod(0o644)
    told = login.submit(
        "name: plain\nimage: ./plain base.sif\nray: false\nrun: |\n"
        "  ls /opt/stack 2>&1 || true; touch /slipworks/x || exit 9\n"
    )
    assert told.err.count("warning:") == 1 and "has no record" in told.err
    assert login.ended(told) == "FAILED"
    said = logs(told.folder)
    assert login.slurm.show(told.jobs[0])["ExitCode"] == "9:0", said
    assert "cannot access '/opt/stack'" in said and "Read-only file system" in said, said
    (layer,) = (login.cache / "layers").glob("slipworks-*.sqfs")
    assert layer.suffix == ".sqfs"


SANDBOX = """
name: pod
arch: cpu
ray: false
podman: {prepull: [IMAGE]}
run: |
  echo rank $SLIPWORKS_RANK of $SLIPWORKS_NODES
  python - <<'END'
  import http.client, json, os, socket

  class Api(http.client.HTTPConnection):
      def connect(self):
          self.sock = socket.socket(socket.AF_UNIX)
          self.sock.connect(os.environ["DOCKER_HOST"].removeprefix("unix://"))

  def ask(method, path, body=None):
      api = Api("podman")
      api.request(method, f"/v1.40{path}", json.dumps(body), {"Content-Type": "application/json"})
      answer = api.getresponse()
      text = answer.read()
      assert answer.status < 300, (path, answer.status, text)
      return text

  print("images", [each["RepoTags"] for each in json.loads(ask("GET", "/images/json"))])
  command = ["sh", "-c", "echo a sandbox of $(id -u)"]
  made = json.loads(ask("POST", "/containers/create", {
      "Image": "IMAGE", "Cmd": command, "HostConfig": {"NetworkMode": "none"}}))["Id"]
  ask("POST", f"/containers/{made}/start")
  assert json.loads(ask("POST", f"/containers/{made}/wait"))["StatusCode"] == 0
  print("it said", ask("GET", f"/containers/{made}/logs?stdout=true")[8:].decode())
  END
"""


def test_podman_gets_the_image_on_the_node_and_starts_sandboxes(login: Login, registry_host: str) -> None:
    """On one: a rootless podman's own process is known by a file in /tmp, which these nodes share.

    The sandbox's layer comes damaged the first time.
    """
    need(shutil.which("podman"), "podman is not installed")
    image = served(busybox_tar())
    put(Bottom(name="sandbox", image=image), registry_host, "sandbox", "1")
    net = login.slurm.daemons.net
    assert net
    proxy = Damaging(registry_host, {"sandbox": 1}, {list(image.blobs)[-1]}, address=net.gateway)
    insecure = login.slurm.shared / "registries.conf"
    insecure.write_text(f'[[registry]]\nlocation = "{proxy.host}"\ninsecure = true\n')
    try:
        told = login.submit(
            SANDBOX.replace("IMAGE", f"{proxy.host}/sandbox:1"), "--engine", "podman",
            CONTAINERS_REGISTRIES_CONF=str(insecure),
        )  # fmt: skip
        state = login.ended(told, 400)
    finally:
        proxy.close()
    said = logs(told.folder)
    assert state == "COMPLETED", said
    assert f"note: {proxy.host}/sandbox:1 is pulled once more" in said, said
    assert "it said a sandbox of 0" in said and f"['{proxy.host}/sandbox:1']" in said, said
    assert "rank 0 of 1" in said and "getting the image" in said, said
    login.slurm.quiet()  # the process, too, that holds the namespace of a rootless podman


def test_a_chain_ends_with_its_success(login: Login) -> None:
    told = login.submit("name: chain\narch: cpu\nray: false\nrestarts: 2\nrun: 'true'\n")
    assert len(told.jobs) == 3
    assert login.ended(told) == "COMPLETED", logs(told.folder)
    for job in told.jobs[1:]:
        assert login.slurm.wait_for(job) == "CANCELLED"
    assert len(told.folder.attempts()) == 1


def test_what_sbatch_refuses_is_one_line_and_leaves_no_secret(login: Login) -> None:
    place = login.slurm.shared / "refused.yaml"
    place.write_text("name: j\narch: cpu\nsecrets: [A_KEY]\nrun: 'true'\nsbatch: {partition: nowhere}\n")
    told = login.type("submit", str(place), A_KEY=SECRET)
    assert told.code == 50 and "invalid partition" in told.err.lower(), told.err
    (folder,) = [RunFolder(each) for each in login.runs.iterdir() if each.name.startswith("j-")]
    record = submitted.read(folder)
    assert record and record.state == "failed"
    assert not folder.secrets.exists() and not folder.token.exists()


def test_a_shell_in_a_running_container_from_the_login_node(login: Login) -> None:
    """A step beside the job's own: the nodes' machines are not this one."""
    told = login.submit(
        "name: held\narch: cpu\nnodes: 2\nray: false\nenv: {A_VALUE: it's here}\n"
        "run: 'echo running; trap \"exit 3\" TERM; sleep 1000 & wait'\n"
    )
    until(lambda: "running" in logs(told.folder), "the command", 120, lambda: logs(told.folder))
    said = login.type("attach", "held", "--node", "1", "--", "sh", "-c",
                      'echo "$A_VALUE on $SLIPWORKS_RANK, $(id -un)"; cat; exit 9')  # fmt: skip
    assert (said.code, said.out) == (9, f"it's here on 1, {login.name}\n"), (said, logs(told.folder))
    said = login.type("attach", "held", "--", "sh", "-c", "tty; echo $SLIPWORKS_RANK; exit 5", terminal=True)
    assert said.code == 5 and "/dev/pts/" in said.out and "\n0\n" in said.out, said
    assert "running\n" in login.type("logs", "held", "--node", "1").out
    assert login.type("cancel", "held").code == 0
    assert login.ended(told) == "CANCELLED"
    assert "is cancelled" in login.type("attach", "held").err
    login.slurm.quiet()
