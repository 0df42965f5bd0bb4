"""Where the fixtures of real parts come from, who notes which tests ran, and which run beside each other."""

pytest_plugins = [
    "tests.cited",
    "tests.families",
    "tests.live.parts_cpu",
    "tests.live.parts_users",
    "tests.live.parts_engines",
    "tests.live.parts_registry",
    "tests.live.parts_roots",
    "tests.live.parts_agent",
    "tests.live.parts_bases",
    "tests.live.parts_sandboxes",
    "tests.live.parts_sandbox_standin",
    "tests.live.parts_sdk",
    "tests.live.parts_slurm",
    "tests.live.parts_jobs",
]
