"""Where Ray's own hook for runtime environments (RAY_RUNTIME_ENV_HOOK) leads.

Submission copies this file into the run folder, and a fix names it: see fixes/worker_argv.py. It runs on the
image's Python, of whatever version, and needs nothing else.
"""

import os


def without_secrets(runtime_env, **_):  # type: ignore[no-untyped-def]
    """The runtime environment that a program gives ray.init, less the job's secrets that it only passes on.

    Workers have them from Ray's daemons all the same. A name with a value of the program's own stays.
    """
    variables = dict((runtime_env or {}).get("env_vars") or {})
    for name in os.environ.get("SLIPWORKS_SECRETS", "").split():
        if name in variables and variables[name] == os.environ.get(name):
            del variables[name]
    if not runtime_env or not runtime_env.get("env_vars"):
        return runtime_env
    return {**runtime_env, "env_vars": variables}
