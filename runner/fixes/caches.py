"""Caches fill the home folder, or vanish with the container.

Symptom: "Disk quota exceeded" in ~/.cache; models downloaded and kernels compiled again by every job; "cannot
cache function …: no locator available" when vLLM is imported from a read-only image without a home.
Cause: libraries put caches under $HOME, which is small on clusters and part of the container elsewhere.
Remove when: never; only a site knows its scratch.
"""

from runner.facts import Facts
from runner.fixing import Example, facts_like, launch_like
from runner.launch import Launch, said, with_env

PLACES = {
    "XDG_CACHE_HOME": "xdg",
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "VLLM_CACHE_ROOT": "vllm",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "NUMBA_CACHE_DIR": "numba",  # else beside the package or in the home: imports fail where neither can be
}


def applies(facts: Facts, launch: Launch) -> str | None:
    if launch.scratch is None or all(said(name, facts, launch) for name in PLACES):
        return None
    return f"caches lie in {launch.scratch}"


def apply(facts: Facts, launch: Launch) -> Launch:
    return with_env(facts, launch, {name: f"{launch.scratch}/{folder}" for name, folder in PLACES.items()})


EXAMPLE = Example(
    facts_like(),
    launch_like(scratch="/scratch", env={"HF_HOME": "/mine"}),
    launch_like(
        scratch="/scratch",
        env={
            "HF_HOME": "/mine",
            "XDG_CACHE_HOME": "/scratch/xdg",
            "TORCH_HOME": "/scratch/torch",
            "TORCHINDUCTOR_CACHE_DIR": "/scratch/inductor",
            "TRITON_CACHE_DIR": "/scratch/triton",
            "VLLM_CACHE_ROOT": "/scratch/vllm",
            "FLASHINFER_WORKSPACE_BASE": "/scratch/flashinfer",
            "NUMBA_CACHE_DIR": "/scratch/numba",
        },
    ),
)
