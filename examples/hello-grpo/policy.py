"""A language model of the smallest kind: it reads `7+5=` and writes digits until it writes the end.

One hidden layer in numpy. What it reads: the prompt's characters, the position, and the token written last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VOCABULARY = "0123456789."  # the full stop ends an answer
END = VOCABULARY.index(".")
LONGEST = 3  # tokens of an answer, with its end
READABLE = "0123456789+-*= "
PROMPT = 4  # characters that are read

FEATURES = PROMPT * len(READABLE) + LONGEST * (len(VOCABULARY) + 1)
Weights = dict[str, np.ndarray]


def initial(seed: int, hidden: int = 96) -> Weights:
    """Weights of a policy that knows nothing: nearly uniform over the tokens."""
    random = np.random.default_rng(seed)
    return {
        "w1": random.normal(0, 1 / np.sqrt(PROMPT + 1), (FEATURES, hidden)),
        "b1": np.zeros(hidden),
        "w2": random.normal(0, 0.1 / np.sqrt(hidden), (hidden, len(VOCABULARY))),
        "b2": np.zeros(len(VOCABULARY)),
    }


def features(prompts: list[str], position: int, last: np.ndarray) -> np.ndarray:
    """One row a prompt. `last`: the token before, -1 at the beginning."""
    rows = np.zeros((len(prompts), FEATURES))
    for row, prompt in enumerate(prompts):
        for place, character in enumerate(prompt.ljust(PROMPT)[:PROMPT]):
            rows[row, place * len(READABLE) + READABLE.index(character)] = 1
    begin = PROMPT * len(READABLE) + position * (len(VOCABULARY) + 1)
    rows[np.arange(len(prompts)), begin + last + 1] = 1
    return rows


def forward(weights: Weights, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the next token, and the hidden layer for the way back."""
    hidden = np.tanh(rows @ weights["w1"] + weights["b1"])
    logits = hidden @ weights["w2"] + weights["b2"]
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), hidden


@dataclass
class Samples:
    """Answers, one row each. Beyond an answer's end, `tokens` is -1 and `logprobs` is 0."""

    prompts: list[str]
    tokens: np.ndarray
    logprobs: np.ndarray
    rewards: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return (self.tokens >= 0).sum(axis=1)


def generate(weights: Weights, prompts: list[str], random: np.random.Generator) -> Samples:
    """Writes one answer to each prompt, token by token, and rewards it."""
    tokens = np.full((len(prompts), LONGEST), -1)
    logprobs = np.zeros((len(prompts), LONGEST))
    writing = np.ones(len(prompts), bool)
    last = np.full(len(prompts), -1)
    for position in range(LONGEST):
        chances, _ = forward(weights, features(prompts, position, last))
        drawn = (np.exp(chances).cumsum(axis=1) < random.random((len(prompts), 1))).sum(axis=1)
        drawn = drawn.clip(max=END)
        tokens[writing, position] = drawn[writing]
        logprobs[writing, position] = chances[np.arange(len(prompts)), drawn][writing]
        last = drawn
        writing &= drawn != END
    rewards = np.array([reward(prompt, answer) for prompt, answer in zip(prompts, tokens, strict=True)])
    return Samples(prompts, tokens, logprobs, rewards)


def reward(prompt: str, tokens: np.ndarray) -> float:
    """The share of places at which the answer, with its end, is right: 1 for an exact answer."""
    left, sign, right = prompt[0], prompt[1], prompt[2]
    value = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[sign]
    expected = f"{value}."
    written = "".join(VOCABULARY[token] for token in tokens if token >= 0)
    right_places = sum(a == b for a, b in zip(written, expected, strict=False))
    return right_places / max(len(written), len(expected))
