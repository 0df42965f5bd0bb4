"""Group-relative policy optimisation on the policy of policy.py: advantages, clipped loss, Adam; in numpy."""

from __future__ import annotations

import numpy as np
from policy import LONGEST, Samples, Weights, features, forward

CLIP = 0.2


def advantages(rewards: np.ndarray, group: int) -> np.ndarray:
    """Each reward against its own group's: less the mean, by the standard deviation.

    `rewards` holds the groups one after the other. A group of equal rewards teaches nothing: zeros.
    """
    groups = rewards.reshape(-1, group)
    spread = groups.std(axis=1, keepdims=True)
    centred = groups - groups.mean(axis=1, keepdims=True)
    return np.where(spread > 1e-8, centred / (spread + 1e-8), 0.0).reshape(-1)


def gradient(weights: Weights, samples: Samples, advantage: np.ndarray) -> Weights:
    """Of the clipped objective, averaged over tokens; upwards is better."""
    total = {name: np.zeros_like(value) for name, value in weights.items()}
    count = max(1, int(samples.lengths.sum()))
    last = np.full(len(samples.prompts), -1)
    for position in range(LONGEST):
        token = samples.tokens[:, position]
        rows = features(samples.prompts, position, last)
        chances, hidden = forward(weights, rows)
        taken = np.arange(len(token)), token.clip(min=0)
        ratio = np.exp(chances[taken] - samples.logprobs[:, position])
        clipped = np.where(advantage > 0, ratio > 1 + CLIP, ratio < 1 - CLIP)
        scale = np.where((token >= 0) & ~clipped, advantage * ratio, 0.0) / count
        upward = -np.exp(chances) * scale[:, None]  # d log p(token) / d logits = one-hot - p
        upward[taken] += scale
        total["w2"] += hidden.T @ upward
        total["b2"] += upward.sum(axis=0)
        back = (upward @ weights["w2"].T) * (1 - hidden**2)
        total["w1"] += rows.T @ back
        total["b1"] += back.sum(axis=0)
        last = token.clip(min=-1)
    return total


class Adam:
    """The usual optimiser, going uphill."""

    def __init__(self, weights: Weights, rate: float) -> None:
        self.rate = rate
        self.mean = {name: np.zeros_like(value) for name, value in weights.items()}
        self.square = {name: np.zeros_like(value) for name, value in weights.items()}
        self.steps = 0

    def step(self, weights: Weights, upward: Weights) -> Weights:
        self.steps += 1
        moved = {}
        for name, value in weights.items():
            self.mean[name] += 0.1 * (upward[name] - self.mean[name])
            self.square[name] += 0.001 * (upward[name] ** 2 - self.square[name])
            mean = self.mean[name] / (1 - 0.9**self.steps)
            square = self.square[name] / (1 - 0.999**self.steps)
            moved[name] = value + self.rate * mean / (np.sqrt(square) + 1e-8)
        return moved
