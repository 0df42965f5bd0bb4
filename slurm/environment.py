"""What of a user's environment Slurm's programs get, as data.

sbatch hands all that it has to the controller, which writes it to disk, and the batch script gets it on every
node. So nothing goes along but what a part of a job is known to need: a token that is exported in some shell
stays there. What a command needs is said in its job: `env`, `secrets`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

JOB, TOKEN = "SLURM_JOB_ID", "SLURM_JWT"
# What a job is told of itself, and what sets options of Slurm's programs.
_TOLD = re.compile(r"(SLURM|SBATCH|SALLOC|SRUN|SQUEUE|SACCT|SCANCEL|SINFO|SLURMD|PMI|PMIX|OMPI)_")
_KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTERS"})

NAMES = _KEPT | {
    # The programs are found, and speak as the user does. Some sites' Slurm, and engines, need the libraries
    # of the module that they came with.
    "PATH", "LD_LIBRARY_PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "TZ",
    # `module`, which the script loads the site's modules by: its settings, what is loaded, and the functions,
    # by the names under which bash exports them. BASH_ENV brings them into scripts.
    "MODULEPATH", "MODULESHOME", "MODULERCFILE", "MODULE_VERSION", "LOADEDMODULES", "_LMFILES_", "BASH_ENV",
    "BASH_FUNC_module%%", "BASH_FUNC_ml%%", "BASH_FUNC__module_raw%%",
    # Engines: where their settings, their storage and their daemon are.
    "XDG_CONFIG_HOME", "XDG_DATA_HOME", "REGISTRY_AUTH_FILE", "CONTAINER_HOST", "DOCKER_HOST",
    "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY",
    # Engines hand these on to what they start, which on some sites has no other way to the internet.
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    # Folders by which sites' module files and engines' settings name others.
    "SCRATCH", "WORK", "PROJECT", "STOCKYARD",
    # The file with a ticket, not the ticket: sites with AFS renew it for jobs.
    "KRB5CCNAME",
}  # fmt: skip
"""Not among them: XDG_RUNTIME_DIR and DBUS_*, which are of a session on this machine; TMPDIR, for a node's
temporary files belong on its own disk; CUDA_VISIBLE_DEVICES, which on a node is Slurm's to say."""

BEGINNINGS = ("LC_", "LMOD_", "__LMOD", "_ModuleTable", "MODULES_", "__MODULES", "APPTAINER_", "SINGULARITY_",
              "CONTAINERS_")  # fmt: skip
"""Not APPTAINERENV_: it would set variables inside."""

_PRIVATE = re.compile(r"PASS|TOKEN|SECRET|KEY|CREDENTIAL|_PEM", re.IGNORECASE)  # APPTAINER_DOCKER_PASSWORD


def passed(environment: Mapping[str, str]) -> dict[str, str]:
    """What goes along. Nothing in it is a password, as far as names and addresses tell."""
    return token(environment) | {
        name: value
        for name, value in environment.items()
        if (name in NAMES or (name.startswith(BEGINNINGS) and not _PRIVATE.search(name)))
        and not (name.lower().endswith("_proxy") and "@" in value)  # http://me:password@proxy:3128
    }


def token(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's own token, where a site's programs ask for one (auth/jwt). A job's ends with the job; and
    in the job that is submitted the script forgets this one."""
    return {name: environment[name] for name in (TOKEN,) if name in environment and JOB not in environment}


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what belongs to a job that this may run in: sbatch would take it for options."""
    return {name: value for name, value in environment.items() if name in _KEPT or not _TOLD.match(name)}
