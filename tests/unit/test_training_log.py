"""Steps out of logs as they really are, and as they should not be."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import training_log
from runner.training_log import Step
from tests.unit.parts_training_log import RESUMES, SCRATCH, STARTS, by_ray, cut, step, without


def read(*logs: str) -> list[Step]:
    return training_log.of_run([log.splitlines() for log in logs])


def numbered(*logs: str) -> list[tuple[int, int, bool]]:
    """Number, attempt and whether it counts."""
    return [(each.number, each.attempt, each.lacks is None) for each in read(*logs)]


@pytest.mark.parametrize(
    "form",
    [
        str, by_ray,
        lambda text: text.replace("'step'", "'\x1b[33mstep\x1b[39m'"),  # within the marker itself
        lambda text: text.replace("\n", "\x1b[0K\n"),
        lambda text: re.sub("^", "\x1b]0;a title\x07", text, flags=re.MULTILINE),
        lambda text: re.sub("^", "\x1b(B", text, flags=re.MULTILINE),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: re.sub("^", "Training Batches Processed:  10%|█ | 1/10\r", text, flags=re.MULTILINE),
        lambda text: text.replace("\n", " (worker pid=7) "),  # one line
        lambda text: re.sub("$", " [repeated 4x across cluster]", text, flags=re.MULTILINE),
        lambda text: re.sub("^", "(main pid=12) ", text, flags=re.MULTILINE),
    ],
)  # fmt: skip
def test_forms_of_a_line(form) -> None:  # type: ignore[no-untyped-def]
    (only,) = read(form(step()))
    assert (only.seconds, only.reward, only.length, only.whole) == (78.47, 0.13, 273.68, True)


@pytest.mark.parametrize("reward", ["nan", "NaN", "inf", "-inf", "None", "tensor(0.5)", "", "-0.5", "1e-05"])
def test_no_reward_loses_a_step(reward: str) -> None:
    (only,) = read(step(reward=reward))
    assert only.lacks is None and only.rate(396) == pytest.approx(396 * 273.68 / 78.47)
    assert only.reward is not None and (math.isnan(only.reward) or only.reward == float(reward))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (cut(step()), "cut off"),
        (without(step(), "generate"), "no generate timer"),
        (without(step(), "avg_final"), "no avg_response_length"),
        (step(length="nan"), "no number comes of nan tokens in 78.47 s"),
        (step(length="inf"), "no number comes of inf tokens"),
        (step(seconds="0.00"), "no number comes of 273.68 tokens in 0 s"),
        (step(seconds="nan"), "in nan s"),
        (step(seconds="-1"), "in -1 s"),
        (step(seconds="1e-300", length="1e300"), "no number comes of"),
    ],
)
def test_what_a_step_lacks(text: str, why: str) -> None:
    before, last = read(step() + text)
    assert before.lacks is None and last.lacks is not None and why in last.lacks
    assert last.rate(396) is None or not last.whole


def test_an_asynchronous_trainers_log() -> None:
    """It has wait_for_generation_buffer in place of generate."""
    text = step().replace("'generate'", "'wait_for_generation_buffer'")
    assert [each.lacks for each in read(text * 3)] == ["no generate timer, as of asynchronous trainers"] * 3


def test_evaluation_between_steps_is_nobodys() -> None:
    between = "Started: 'eval'\nFinished: 'generate', time cost: 500.00s\n"
    between += "avg_final_rewards: 9, avg_response_length: 9.0\n"
    first, second = read(between + step() + between + step())
    assert first.seconds == second.seconds == 78.47 and first.length == 273.68


def test_a_resumed_run_says_from_where() -> None:
    """Attempt 1 was cut off in step 6; attempt 2 goes on from the checkpoint of step 4."""
    one = STARTS + SCRATCH + step() * 5 + cut(step())
    two = STARTS + RESUMES.format(4) + step() * 3
    assert numbered(one, two) == [
        *((number, 1, True) for number in range(1, 6)), (6, 1, False),
        (5, 2, True), (6, 2, True), (7, 2, True),
    ]  # fmt: skip
    assert [each.number for each in read(one + two)] == [1, 2, 3, 4, 5, 6, 5, 6, 7], "in one log, too"


def test_a_resumed_asynchronous_run() -> None:
    """It loads the checkpoint first, and says so twice."""
    begin = "Started: 'load_checkpoints'\n{}Resumed training from global_step {}\n"
    behind = "Started: 'init_weight_sync_state'\n"
    one = begin.format(SCRATCH, 0) + behind + step() * 2
    two = begin.format(RESUMES.format(2), 2) + behind + step()
    assert [each.number for each in read(one, two)] == [1, 2, 3]


def test_a_run_that_counts_from_1_again() -> None:
    """Without a checkpoint it begins anew: its steps are the first ones once more."""
    assert [each.number for each in read(STARTS + step() * 2 + STARTS + step() * 2)] == [1, 2, 1, 2]
    assert [each.number for each in read(STARTS + step() * 2, STARTS + SCRATCH + step())] == [1, 2, 1]


def test_a_second_log_that_says_nothing_goes_on() -> None:
    words = "step 1/2\n"  # what such a trainer counts itself is not believed
    assert [each.number for each in read(words + step(), words + step())] == [1, 2]


def test_a_resumed_log_alone() -> None:
    """The log of the old scripts' second job: its first step is the run's eleventh."""
    assert [each.number for each in read(STARTS + RESUMES.format(10) + step() * 2)] == [11, 12]


def test_a_step_that_samples_again_is_one_step() -> None:
    more = (
        "Started: 'step'\nStarted: 'generate'\nFinished: 'generate', time cost: 20.00s\n"
        "============= Dynamic sampling filter =============\nDynamic sampling: 12 < 99 prompts\n"
        "Finished: 'step', time cost: 20.01s\n"
    )
    first, second = read(more + more + step() + step())
    assert (first.number, first.seconds, second.number) == (1, pytest.approx(118.47), 2)
    assert [each.lacks for each in read(step() + more)][1] is not None
    assert [each.number for each in read(more, step())] == [1, 2], "what was cut off there ends with its log"


LOGS = st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e5)), min_size=1, max_size=6)


def written(steps: list[tuple[float, float]]) -> str:
    return "".join(step(seconds=f"{seconds:.2f}", length=repr(length)) for seconds, length in steps)


def rates(text: str) -> list[float]:
    return [rate for each in read(text) if each.lacks is None and (rate := each.rate(396)) is not None]


@given(LOGS, st.data())
def test_cut_anywhere_the_steps_before_stay(made: list[tuple[float, float]], data: st.DataObject) -> None:
    text = by_ray(written(made))
    end = data.draw(st.integers(0, len(text)))
    whole = rates(text)
    kept = rates(text[:end])
    assert kept == whole[: len(kept)]
    assert len(kept) >= text[:end].count("Finished: 'step'")
    assert sum(not each.whole for each in read(text[:end])) <= 1


NOISE = st.text(
    st.characters(exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x1b"), max_size=60
).filter(
    lambda text: (
        not any(word in text for word in ("tarted", "inished", "avg_", "Dynamic", "Resum", "scratch"))
    )
)
COLOUR = st.sampled_from(
    ["\x1b[m", "\x1b[K", "\x1b[0m", "\x1b[1;31m", "\x1b[38;5;12m", "\x1b[?25h", "\x1b(B"]
)


@given(LOGS, st.data())
def test_colours_and_other_words_change_nothing(made: list[tuple[float, float]], data: st.DataObject) -> None:
    lines = []
    for line in written(made).splitlines():
        at = data.draw(st.integers(0, len(line)))
        lines += data.draw(st.lists(NOISE, max_size=2))
        lines.append(line[:at] + data.draw(COLOUR) + line[at:])
    assert rates("\n".join(lines)) == rates(written(made))


@given(LOGS, st.data())
def test_a_lost_or_doubled_line_harms_one_step_at_most(
    made: list[tuple[float, float]], data: st.DataObject
) -> None:
    lines = written(made).splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    whole = {each.number: each.rate(396) for each in read("\n".join(lines))}
    lost = read("\n".join(lines[:at] + lines[at + 1 :]))
    if "Started: 'step'" not in lines[at]:  # then the steps after it are counted one lower
        same = [each for each in lost if each.lacks is None and each.rate(396) == whole[each.number]]
        assert len(lost) == len(made) and len(same) >= len(made) - 1
    doubled = read("\n".join(lines[: at + 1] + lines[at:]))
    assert sum(each.lacks is None for each in doubled) >= len(made) - 1


@given(
    st.lists(
        st.one_of(st.text(max_size=80), st.sampled_from(written([(1.0, 2.0)]).splitlines())), max_size=40
    )
)
def test_nothing_breaks_it(lines: list[str]) -> None:
    for each in training_log.steps(lines):
        assert each.number >= 1
        assert (each.lacks is None) == (each.whole and each.rate(396) is not None)
        assert each.rate(396) is None or math.isfinite(each.rate(396) or 0)
