"""What the scheduler, the site and the engine have put into the environment reaches Ray.

Symptom: workers that hang at their start; "Argument list too long"; a program that takes itself for one of
srun's tasks; a job submitted from inside that inherits another's SLURM_ variables.
Cause: Ray hands its environment to every worker, and no variable may hold more than 128 KiB. So of all that
the image did not set itself, only what is known to be meant goes on; the job's `keep_env` names what is, too.
Remove when: never; an environment is an interface without a contract.
"""

from fnmatch import fnmatchcase

from msgspec.structs import replace

from kit.errors import LaunchError
from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, said

NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "HOSTNAME", "TERM", "LANG", "LANGUAGE", "TZ", "TMPDIR",
    "TMP", "TEMP", "CC", "CXX", "CPATH", "LIBRARY_PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME",
    "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDAHOSTCXX", "http_proxy", "https_proxy",
    "no_proxy", "all_proxy", "ftp_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "FTP_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SLURM_JOB_ID", "SLURM_CONF",
})  # fmt: skip
BEGINNINGS = (
    "NCCL_", "TORCH", "PYTORCH_", "VLLM_", "FI_", "UCX_", "RAY_", "HF_", "TRANSFORMERS_", "TOKENIZERS_",
    "PYTHON", "WANDB_", "NVIDIA_", "NVTE_", "GLOO_", "TRITON_", "FLASHINFER_", "OMP_", "MKL_", "LC_", "XDG_",
    "UV_", "SLIPWORKS_", "SKYRL_", "HYDRA_", "HUGGING_FACE_", "HUGGINGFACE_", "DATASETS_",
)  # fmt: skip
LONGEST = 128 << 10  # bytes of NAME=value and its NUL: the kernel's MAX_ARG_STRLEN
MUCH = 256 << 10  # bytes in all, of which every worker gets a copy


def _kept(name: str, launch: Launch) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in launch.keep)


def _dropped(facts: Facts, launch: Launch) -> tuple[str, ...]:
    return tuple(
        name
        for name in facts.foreign
        if name in facts.env
        and name not in NAMES
        and not name.startswith(BEGINNINGS)
        and not _kept(name, launch)
    )


def _brought(facts: Facts, launch: Launch) -> dict[str, str]:
    """Of what the scheduler said, what the job asked to keep."""
    return {
        name: value
        for name, value in facts.step.items()
        if _kept(name, launch) and not said(name, facts, launch)
    }


def applies(facts: Facts, launch: Launch) -> str | None:
    words = []
    if more := [name for name in _dropped(facts, launch) if name not in launch.drop]:
        words.append(f"{len(more)} that no image and no job set are left out: {', '.join(more)}")
    if brought := _brought(facts, launch):
        words.append(f"kept of the scheduler's: {', '.join(brought)}")
    return "; ".join(words) or None


def apply(facts: Facts, launch: Launch) -> Launch:
    drop = tuple(sorted({*launch.drop, *_dropped(facts, launch)}))
    return replace(launch, drop=drop, env={**launch.env, **_brought(facts, launch)})


def _sizes(facts: Facts, launch: Launch) -> dict[str, int]:
    """Bytes of each variable of the command."""
    container = {name: value for name, value in facts.env.items() if name not in launch.drop}
    made = {**container, **launch.env, **launch.command_env}
    return {name: len(f"{name}={value}".encode(errors="surrogateescape")) + 1 for name, value in made.items()}


def refuses(facts: Facts, launch: Launch) -> LaunchError | None:
    for name, size in _sizes(facts, launch).items():
        if size > LONGEST:
            return LaunchError(
                f"the variable {name} holds {size >> 10} KiB, and no program can be started with more than"
                f" {LONGEST >> 10} KiB in one",
                "put the value into a file, and the file's name into the variable",
            )
    return None


def warns(facts: Facts, launch: Launch) -> str | None:
    sizes = _sizes(facts, launch)
    if (total := sum(sizes.values())) < MUCH:
        return None
    largest = max(sizes, key=lambda name: sizes[name])
    return f"{total >> 10} KiB in all, which Ray copies to every worker; most of it is {largest}"


EXAMPLE = Example(
    facts_like(
        env={
            "PATH": "/bin",
            "OF_THE_IMAGE": "1",
            "NCCL_DEBUG": "INFO",
            "SLURM_NTASKS": "8",
            "MODULEPATH": "/m",
        },
        foreign=("MODULEPATH", "NCCL_DEBUG", "PATH", "SLURM_NTASKS"),
        step={"SLURM_ARRAY_TASK_ID": "7", "SLURM_NODEID": "0"},
    ),
    launch_like(keep=("SLURM_ARRAY_*",)),
    launch_like(
        keep=("SLURM_ARRAY_*",),
        env={"SLURM_ARRAY_TASK_ID": "7"},
        drop=("MODULEPATH", "SLURM_NTASKS"),
    ),
)
