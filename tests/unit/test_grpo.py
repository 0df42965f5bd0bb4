"""The example learns, by the rewards and by nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/hello-grpo"
sys.path.insert(0, str(EXAMPLE))
import grpo  # noqa: E402
import policy  # noqa: E402

sys.path.remove(str(EXAMPLE))

PROMPTS = (EXAMPLE / "prompts.txt").read_text().split()
GROUP = 8


def trained(steps: int, shuffle: bool) -> list[float]:
    """Mean reward of each step; as train.py does it, without Ray."""
    random = numpy.random.default_rng(7)
    weights = policy.initial(7)
    optimiser = grpo.Adam(weights, 0.01)
    means = []
    for _ in range(steps):
        chosen = numpy.repeat(random.choice(PROMPTS, 48, replace=False), GROUP).tolist()
        samples = policy.generate(weights, chosen, random)
        means.append(float(samples.rewards.mean()))
        scored = random.permutation(samples.rewards) if shuffle else samples.rewards
        advantage = grpo.advantages(scored, GROUP)
        for _ in range(4):
            weights = optimiser.step(weights, grpo.gradient(weights, samples, advantage))
    return means


def test_the_reward_rises() -> None:
    means = trained(20, shuffle=False)
    assert means[0] < 0.2 and min(means[-3:]) > 0.5


def test_shuffled_rewards_teach_nothing() -> None:
    means = trained(20, shuffle=True)
    assert max(means) < 0.2


def test_advantages_are_relative_to_the_group() -> None:
    found = grpo.advantages(numpy.array([1.0, 0.0, 5.0, 5.0, 10.0, 30.0]), 2)
    assert found == pytest.approx([1, -1, 0, 0, -1, 1])


def test_the_gradient_is_the_objectives() -> None:
    """Against finite differences, on the policy that wrote the answers (where the ratio is 1)."""
    random = numpy.random.default_rng(1)
    weights = policy.initial(1, hidden=5)
    samples = policy.generate(weights, PROMPTS[:6], random)
    advantage = random.normal(size=6)

    def objective() -> float:
        total, last = 0.0, numpy.full(6, -1)
        for place in range(policy.LONGEST):
            token = samples.tokens[:, place]
            chances, _ = policy.forward(weights, policy.features(samples.prompts, place, last))
            ratio = numpy.exp(chances[numpy.arange(6), token.clip(min=0)] - samples.logprobs[:, place])
            total += float((ratio * advantage)[token >= 0].sum())
            last = token
        return total / samples.lengths.sum()

    upward = grpo.gradient(weights, samples, advantage)
    for name in ("w1", "b1", "w2", "b2"):
        place = numpy.unravel_index(numpy.abs(upward[name]).argmax(), upward[name].shape)
        keep = weights[name][place]
        weights[name][place] = keep + 1e-5
        above = objective()
        weights[name][place] = keep - 1e-5
        below = objective()
        weights[name][place] = keep
        assert upward[name][place] == pytest.approx((above - below) / 2e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("7+5=", "12.", 1.0),
        ("7+5=", "13.", 2 / 3),
        ("1+1=", "2.", 1.0),
        ("1+1=", "22.", 1 / 3),
        ("1+1=", "", 0.0),
    ],
)
def test_rewards(prompt: str, answer: str, expected: float) -> None:
    tokens = numpy.array([policy.VOCABULARY.index(letter) for letter in answer] + [-1] * (3 - len(answer)))
    assert policy.reward(prompt, tokens) == pytest.approx(expected)


def test_nothing_is_written_after_the_end() -> None:
    samples = policy.generate(policy.initial(3), PROMPTS, numpy.random.default_rng(3))
    for row in samples.tokens.tolist():
        written = [token for token in row if token >= 0]
        assert row == written + [-1] * (policy.LONGEST - len(written))
        assert policy.END not in written[:-1]
