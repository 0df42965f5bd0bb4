"""What of a user's environment reaches Slurm's programs, and with sbatch the job."""

from __future__ import annotations

from slurm.ways import HOST_PATH, Own, Remote, as_host

TOLD = {"SLURM_JOB_ID": "1", "SBATCH_ACCOUNT": "a", "SRUN_X": "1", "PMI_RANK": "0", "PMIX_ID": "0",
        "SLURM_JWT": "token", "SQUEUE_FORMAT": "x"}  # fmt: skip


def test_what_a_job_was_told_is_left_behind() -> None:
    own = {"SLURM_CONF": "/c", "PATH": "/image/bin", "HOME": "/home/me"}
    further = {"LD_PRELOAD": "x", "SECRET": "s", "SLURMISH": "kept"}
    given = TOLD | own | further
    assert Remote("login").environment(given) == own | further
    assert Own().environment(given) == own
    assert as_host(given) == {"HOME": "/home/me", "SLURM_CONF": "/c", "PATH": HOST_PATH}


def test_a_users_own_token_gets_to_slurms_programs_but_not_that_of_a_job() -> None:
    """auth/jwt: whoever has no munge is known by it."""
    given = {"SLURM_JWT": "t", "SBATCH_ACCOUNT": "a"}
    assert Own().environment(given) == {"SLURM_JWT": "t"}
    assert as_host(given) == {"SLURM_JWT": "t", "PATH": HOST_PATH}
    assert Remote("login").environment(given) == {}
    assert Own().environment({**given, "SLURM_JOB_ID": "1"}) == {}


def test_nothing_private_goes_along() -> None:
    """The controller writes a job's environment to its disk, and every node gets it."""
    needed = {
        "MODULEPATH": "/m", "LMOD_CMD": "/l", "BASH_FUNC_module%%": "() { eval x@y; }", "LC_TIME": "C",
        "APPTAINER_CACHEDIR": "/a", "CONTAINERS_CONF": "/c", "https_proxy": "http://proxy:3128",
        "no_proxy": ".local", "SCRATCH": "/scratch/me", "DOCKER_HOST": "unix:///run/d",
    }  # fmt: skip
    private = {
        "MY_API_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "k", "WANDB_API_KEY": "k", "DOCKER_AUTH_CONFIG": "{}",
        "APPTAINER_DOCKER_PASSWORD": "p", "APPTAINER_ENCRYPTION_PEM_DATA": "p", "APPTAINERENV_KEY": "k",
        "SINGULARITY_DOCKER_PASSWORD": "p", "http_proxy": "http://a:b@proxy", "HTTPS_PROXY": "me:pw@proxy:1",
        "BASH_FUNC_login%%": "() { echo s3cret; }",
    }  # fmt: skip
    elsewhere = {"XDG_RUNTIME_DIR": "/run/user/1", "TMPDIR": "/t", "CUDA_VISIBLE_DEVICES": "3"}
    assert Own().environment(needed | private | elsewhere) == needed
