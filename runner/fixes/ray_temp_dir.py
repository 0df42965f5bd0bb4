"""Ray's session folder lands on a shared file system, or its path is too long for a socket.

Symptom: "AF_UNIX path length cannot exceed 107 bytes", or raylets that hang on NFS or Lustre.
Cause: Ray keeps Unix sockets in its temp dir, under names of up to 64 bytes; TMPDIR on clusters is often long
or not local; two nodes of a job on one machine would share the default /tmp/ray.
Remove when: Ray needs no Unix sockets in its temp dir.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, RayPlan, with_ray

LONGEST = 43  # bytes: 107 less what Ray appends


def _folder(facts: Facts, launch: Launch) -> str | None:
    name = f"sw-{launch.run_id}-{facts.rank}"
    paths = (f"{folder.path.rstrip('/')}/{name}" for folder in facts.temporary if folder.local)
    return next((path for path in paths if len(path.encode()) <= LONGEST), None)


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.ray is None or launch.ray.temp_dir is not None:
        return None
    folder = _folder(facts, launch)
    return f"Ray's temp dir is {folder}: on this node, at most {LONGEST} bytes" if folder else None


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_ray(launch, temp_dir=_folder(facts, launch))


EXAMPLE = Example(
    facts_like(rank=1),
    launch_like(),
    launch_like(ray=RayPlan(temp_dir="/tmp/sw-0badcafe-1")),
)
