"""Training logs as SkyRL writes them (skyrl-train 0.3.1, its Timer and trainer), through loguru and Ray."""

from __future__ import annotations

STARTS = "Started: 'init_weight_sync_state'\nStarted: 'load_checkpoints'\n"
RESUMES = (
    "Resuming from global_step: {0}\nSuccessfully loaded complete checkpoint state from global_step_{0}\n"
)
SCRATCH = "No checkpoint found, starting training from scratch\n"


def step(seconds: float | str = 78.47, length: float | str = 273.68, reward: float | str = 0.13) -> str:
    """One that went to its end."""
    return (
        "Started: 'step'\nStarted: 'generate'\n"
        f"Finished: 'generate', time cost: {seconds}s\n"
        f"avg_final_rewards: {reward}, avg_response_length: {length}\n"
        "Started: 'train_critic_and_policy'\nFinished: 'train_critic_and_policy', time cost: 10.00s\n"
        "Finished: 'step', time cost: 99.00s\n"
    )


def at_rate(tokens_per_second: float, trajectories: int = 396) -> str:
    """A step of 100 s at that rate."""
    return step(seconds="100.00", length=repr(tokens_per_second * 100 / trajectories))


def without(text: str, words: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if words not in line)


def cut(text: str) -> str:
    """As a killed job leaves it: its last line is not there."""
    return "".join(text.splitlines(keepends=True)[:-1])


def by_ray(text: str) -> str:
    """In Ray's and loguru's colours, as they are without a terminal, too."""
    head = "\x1b[36m(skyrl_entrypoint pid=1512, ip=10.0.0.7)\x1b[0m \x1b[32m2026-01-01 10:00:00.123\x1b[0m"
    rest = "\x1b[1mINFO    \x1b[0m | \x1b[36mskyrl_train.utils.utils\x1b[0m - \x1b[1m"
    return "".join(f"{head} | {rest}{line}\x1b[m\x1b[K\n" for line in text.splitlines())
