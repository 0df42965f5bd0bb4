"""What the runner adds to Slurm, each beside a baseline of the same run. Prints; asserts nothing.

    .venv/bin/python -m tests.bench.slurm [submit] [overhead] [ray]

submit    `runner submit --dry-run` beside `python -S -c pass`; `runner submit` beside sbatch of its script
overhead  a job without Ray whose command is `true`, beside one srun of `apptainer exec IMAGE true`, on 1, 4
          and 16 nodes: from the batch script's first line to its last
ray       from a step's start until a driver has connected to Ray, beside `ray symmetric-run`, on 1 and 2

As root: Slurm is started for it (see tests/live/parts_slurm.py), with 16 nodes that share this machine, and
so its processors. Seconds by the clock tell what a job waits here; seconds of processors what it costs
anywhere.
"""

from __future__ import annotations

import compileall
import json
import sys
from pathlib import Path

from kit import say, shell
from runner.runs import RunFolder
from slurm import script, template
from tests.bench.slurm_site import Cost, Counted, Site, load, middle, site

ROOT = Path(__file__).parents[2]
ROUNDS = 10
BARE = "python -S -c pass"
HELD = "ray: false\nrun: 'true'\nsbatch: {hold: true}\n"


def main() -> None:
    wanted = sys.argv[1:] or ["submit", "overhead", "ray"]
    parts = {"submit": submit, "overhead": overhead, "ray": ray}
    if unknown := set(wanted) - set(parts):
        sys.exit(f"found {', '.join(unknown)}, expected some of {', '.join(parts)}")
    for package in ("containers", "definitions", "image_cache", "kit", "runner", "slurm"):
        compileall.compile_dir(ROOT / package, quiet=1)  # the user may not write it beside the code
    sys.dont_write_bytecode = False
    template.load(script.TEMPLATE)  # nor that
    with site() as here:
        for name in wanted:
            say.answer(f"\n{name}: {load()}")
            parts[name](here)
            say.answer(load())


def submit(here: Site) -> None:
    """Held jobs: what they would cost if they ran is not what is measured."""
    job = str(here.job(HELD))
    subjects: dict[str, list[Cost]] = {}

    def measure(name: str, *argv: str) -> str:
        cost = here.spent(argv)
        subjects.setdefault(name, []).append(cost)
        return cost.out

    for _ in range(ROUNDS + 1):
        measure(BARE, *here.python, "-c", "pass")
        measure("runner submit --dry-run", *here.runner("submit", job, "--dry-run"))
        said = json.loads(measure("runner submit", *here.runner("submit", job, "--json")))
        written = RunFolder(Path(said["run"])).script
        bare = measure("sbatch", "sbatch", "--parsable", "--comment=bench", str(written), "1")
        here.slurm.run("scancel", *said["jobs"], bare.strip())
    # The first round finds nothing in any cache.
    medians = {name: middle([each.wall for each in costs[1:]]) for name, costs in subjects.items()}
    say.answer(f"{'':24} {'first':>8} {'median':>8} {'lowest':>8} {'CPU':>8}   of the first")
    for name, (first, *costs) in subjects.items():
        low, cpu = min(each.wall for each in costs), middle([each.cpu for each in costs])
        say.answer(
            f"{name:24} {1000 * first.wall:6.0f}ms {1000 * medians[name]:6.0f}ms {1000 * low:6.0f}ms "
            f"{1000 * cpu:6.0f}ms   {medians[name] / medians[BARE]:6.1f}x"
        )
    above = medians["runner submit"] - medians["sbatch"]
    say.answer(f"runner submit above sbatch: {1000 * above:.0f} ms")


def overhead(here: Site) -> None:
    say.answer("nodes   bare: wall CPU/node   job: wall CPU/node   more: wall  CPU/node   allowed   sruns")
    for nodes in (1, 4, 16):
        turns = [(_bare(here, nodes), _job(here, nodes)) for _ in range(4)][1:]
        bare, bare_cpu = (middle([each[0][k] for each in turns]) for k in (0, 1))
        own, own_cpu = (middle([each[1][k] for each in turns]) for k in (0, 1))
        sruns = {each[1][2] for each in turns}
        say.answer(
            f"{nodes:5}   {bare:8.2f} s {bare_cpu:7.2f} s {own:9.2f} s {own_cpu:6.2f} s {own - bare:10.2f} s "
            f"{own_cpu - bare_cpu:7.2f} s {1 + nodes / 100:7.2f} s   {sorted(sruns)}"
        )


Took = tuple[float, float, int]  # seconds, seconds of processors a node, sruns


def _bare(here: Site, nodes: int) -> Took:
    words = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--mpi=none"]
    return _took(nodes, *here.batch(nodes, shell.line([*words, *here.container("true")])))


def _job(here: Site, nodes: int) -> Took:
    """The script that `runner submit` wrote, run in a job that keeps the time."""
    job = here.job(f"{HELD}nodes: {nodes}\n")
    said = json.loads(here.spent(here.runner("submit", str(job), "--json")).out)
    here.slurm.run("scancel", *said["jobs"])
    written = RunFolder(Path(said["run"])).script
    return _took(nodes, *here.batch(nodes, f"bash {shell.quote(str(written))} 1"))


def _took(nodes: int, wall: float, counted: Counted) -> Took:
    return wall, counted.cpu / nodes, counted.sruns


DRIVER = """
import ray, sys, time
ray.init(address="auto", log_to_driver=False)
print("CONNECTED", time.time(), len([each for each in ray.nodes() if each["Alive"]]), flush=True)
"""
PHASES = ("node started", "fixes applied", "ray started", "ray ready", "command started")


def ray(here: Site) -> None:
    for nodes in (1, 2):
        turns = [(_symmetric(here, nodes), _ours(here, nodes)) for _ in range(3)]
        theirs, own = middle([each[0] for each in turns]), middle([each[1]["connected"] for each in turns])
        say.answer(
            f"{nodes} node(s), driver connected after: ray symmetric-run {theirs:.1f} s, "
            f"runner {own:.1f} s: {own / theirs:.2f} times"
        )
        each = [f"{one:.1f}/{ours['connected']:.1f}" for one, ours in turns]
        say.answer(f"    each turn: {', '.join(each)}")
        for phase in PHASES:
            say.answer(f"    {phase:16} {middle([each[1][phase] for each in turns]):5.1f} s")


def _symmetric(here: Site, nodes: int) -> float:
    """Each node has a /tmp of its own, as on real ones."""
    driver, start = here.place / "driver.py", here.place / f"began-{nodes}"
    driver.write_text(DRIVER)
    net = here.slurm.daemons.net
    assert net
    address = net.addresses[here.slurm.nodes[0]]
    words = ["ray", "symmetric-run", f"--address={address}:6379", f"--min-nodes={nodes}", "--",
             "python", str(driver)]  # fmt: skip
    run = [
        "apptainer",
        "exec",
        "--cleanenv",
        "--no-home",
        "--bind=@tmp@:/tmp",
        f"--bind={here.place}",
        str(here.sif),
        *words,
    ]
    line = shell.line(run).replace("@tmp@", '"$tmp"')
    step = f"tmp=$(mktemp -d); echo $EPOCHREALTIME >{start}-$SLURM_PROCID; {line}; code=$?; "
    step += 'rm -rf "$tmp"; exit $code'
    srun = ["srun", f"--ntasks={nodes}", "--ntasks-per-node=1", "--mpi=none", "bash", "-c", step]
    out = here.place / f"symmetric-{nodes}"
    here.batch(nodes, f"{shell.line(srun)} >{out} 2>&1 || {{ cat {out}; false; }}")
    began = min(float(each.read_text()) for each in here.place.glob(f"{start.name}-*"))
    return _connected(out.read_text(), nodes) - began


def _ours(here: Site, nodes: int) -> dict[str, float]:
    """Seconds from the first step's start to each phase of node 0, and to the driver's connection."""
    run = json.dumps(["python", "-c", DRIVER])
    job = here.job(
        f"nodes: {nodes}\nrun: {run}\nsbatch: {{nodelist: '{','.join(here.slurm.nodes[:nodes])}'}}\n"
    )
    said = json.loads(here.spent(here.runner("submit", str(job), "--json")).out)
    here.slurm.wait_for(int(said["jobs"][0]), seconds=300)
    attempt = RunFolder(Path(said["run"])).attempt(1)
    text = attempt.log(0).read_text()
    began = min(_events(attempt.events(f"step-{rank}"))["step started"] for rank in range(nodes))
    found = {name: at - began for name, at in _events(attempt.events("0")).items()}
    return found | {"connected": _connected(text, nodes) - began}


def _events(path: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["event"]: float(row["at"]) for row in rows}


def _connected(text: str, nodes: int) -> float:
    for line in text.splitlines():
        if line.startswith("CONNECTED"):
            _, at, seen = line.split()
            if int(seen) == nodes:
                return float(at)
    raise SystemExit(f"no driver connected to {nodes} node(s):\n{text}")


if __name__ == "__main__":
    main()
