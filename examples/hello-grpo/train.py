"""Teaches a very small model to add, by GRPO, with rollouts on every node of a Ray cluster.

    runner submit examples/hello-grpo/job.yaml --cluster local

Log lines have the form of SkyRL's, so what reads those reads these.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ray
from grpo import Adam, advantages, gradient
from policy import Samples, Weights, generate, initial

HERE = Path(__file__).parent


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
class Rollout:
    """Writes answers on the node where Ray has put it."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def generate(self, weights: Weights, prompts: list[str]) -> Samples:
        return generate(weights, prompts, self.random)


class Journal:
    """An offline W&B run, begun in a thread of its own: training does not wait for it."""

    def __init__(self, folder: Path, config: dict[str, object]) -> None:
        self.rows: list[dict[str, float]] = []
        self._thread = threading.Thread(target=self._begin, args=(folder, config), daemon=True)
        self._thread.start()

    def _begin(self, folder: Path, config: dict[str, object]) -> None:
        import wandb

        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True)
        self.run = wandb.init(
            project="hello-grpo", mode="offline", dir=str(folder), config=config, settings=quiet
        )

    def write(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def close(self) -> None:
        """Hands over all rows and ends the run."""
        self._thread.join()
        for step, row in enumerate(self.rows, 1):
            self.run.log(row, step=step)
        self.run.finish()


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} | {message}", file=sys.stderr, flush=True)  # noqa: T201


@contextlib.contextmanager
def timed(name: str) -> Iterator[None]:
    """SkyRL's two markers around a piece of work."""
    say(f"Started: '{name}'")
    began = time.perf_counter()
    yield
    say(f"Finished: '{name}', time cost: {time.perf_counter() - began:.4f}s")


def collect(actors: list, weights: Weights, prompts: list[str]) -> Samples:
    """One answer to each prompt, written by all actors side by side; in the order of the prompts."""
    shared = ray.put(weights)
    shares = np.array_split(np.array(prompts), len(actors))
    parts = ray.get(
        [actor.generate.remote(shared, share.tolist()) for actor, share in zip(actors, shares, strict=True)]
    )
    columns = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "logprobs", "rewards")
    )
    return Samples(prompts, *columns)


def train(args: argparse.Namespace, actors: list, journal: Journal) -> None:
    prompts = args.prompts.read_text().split()
    weights = initial(args.seed)
    optimiser = Adam(weights, args.rate)
    random = np.random.default_rng(args.seed)
    for step in range(1, args.steps + 1):
        with timed("step"):
            chosen = random.choice(prompts, args.batch, replace=False)
            with timed("generate"):
                samples = collect(actors, weights, np.repeat(chosen, args.group).tolist())
            rewards, length = samples.rewards.mean(), samples.lengths.mean()
            say(f"avg_final_rewards: {rewards:.4f}, avg_response_length: {length:.2f}")
            scored = random.permutation(samples.rewards) if args.shuffle_rewards else samples.rewards
            advantage = advantages(scored, args.group)
            with timed("train"):
                for _ in range(args.epochs):
                    weights = optimiser.step(weights, gradient(weights, samples, advantage))
        journal.write(
            {"reward/mean": rewards, "response/length": length, "reward/exact": (samples.rewards == 1).mean()}
        )
        say(f"step {step}/{args.steps}: reward {rewards:.3f}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts.txt")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=48, help="prompts a step")
    parser.add_argument("--group", type=int, default=8, help="answers to each prompt")
    parser.add_argument("--epochs", type=int, default=4, help="passes over a step's answers")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--shuffle-rewards", action="store_true", help="to show that nothing is learnt then")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    ray.init(log_to_driver=False)
    actors = [Rollout.remote(args.seed + place) for place in range(args.actors)]
    folder = Path(os.environ.get("SLIPWORKS_RUN", "."))
    journal = Journal(folder, {name: str(value) for name, value in vars(args).items()})
    nodes = set(ray.get([actor.node.remote() for actor in actors]))
    alive = sum(node["Alive"] for node in ray.nodes())
    say(f"rollouts: {len(actors)} actors on {len(nodes)} of {alive} Ray nodes")
    if len(nodes) != min(alive, len(actors)):
        say("error: Ray has not spread the actors over its nodes")
        return 1
    train(args, actors, journal)
    journal.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
