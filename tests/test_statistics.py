"""Intervals: by hand, against scipy, and by what they promise: how often they hold the truth."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from sotopia_env import ConfigurationError, MissingExtraError
from sotopia_env.evaluation import Estimate, clustered, paired, statistics

Numbers = np.ndarray[Any, np.dtype[np.float64]]

EXPERIMENTS = 2000
PLAYS = 6

# --- by hand ------------------------------------------------------------------------------------------


def test_a_mean_is_over_tasks_and_its_interval_is_students_over_task_means() -> None:
    # Task means 2 and 4: mean 3, standard deviation 1.41, standard error 1, and t(0.975, 1) is 12.706.
    found = clustered({"a": [1.0, 3.0], "b": [4.0, 4.0, 4.0, 4.0]})
    assert found is not None
    assert found.mean == 3
    assert found.low == pytest.approx(3 - 12.7062, abs=1e-4)
    assert found.high == pytest.approx(3 + 12.7062, abs=1e-4)
    assert (found.n, found.tasks) == (6, 2)


def test_one_task_gives_a_mean_and_no_interval() -> None:
    assert clustered({"a": [1.0, 3.0]}) == Estimate(2.0, None, None, 2, 1)
    assert paired({"a": [1.0], "b": [7.0]}, {"a": [3.0]}) == Estimate(-2.0, None, None, 1, 1)


def test_no_value_gives_no_estimate_and_a_task_without_values_does_not_count() -> None:
    assert clustered({}) is None
    assert clustered({"a": []}) is None
    assert paired({"a": [1.0]}, {"b": [1.0]}) is None
    assert clustered({"a": [1.0], "b": [], "c": [3.0]}) == clustered({"a": [1.0], "c": [3.0]})


def test_a_paired_difference_is_per_task_on_the_tasks_both_have() -> None:
    first = {"a": [5.0, 7.0], "b": [1.0], "only-first": [99.0]}
    second = {"b": [0.0, 1.0], "only-second": [-99.0], "a": [3.0]}
    found = paired(first, second)  # differences 3 and 0.5
    assert found is not None
    assert found.mean == 1.75
    assert found.high == pytest.approx(1.75 + 12.7062 * 1.25, abs=1e-3)
    assert (found.n, found.tasks) == (2, 2)


def test_what_makes_tasks_hard_for_both_drops_out_of_a_paired_difference() -> None:
    draw = np.random.default_rng(0)
    hard = draw.normal(5, 3, 40)
    first, second = ({str(i): [h + shift + draw.normal(0, 0.2)] for i, h in enumerate(hard)} for shift in (1, 0))
    difference, one = paired(first, second), clustered(first)
    assert difference is not None
    assert one is not None
    assert width(difference) < width(one) / 5
    assert abs(difference.mean - 1) < 0.2


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("tasks", [2, 3, 20, 300])
def test_the_quantile_is_that_of_scipys_t(tasks: int, confidence: float) -> None:
    values = {str(i): [float(i % 7)] for i in range(tasks)}
    means = [v[0] for v in values.values()]
    low, high = scipy.stats.t.interval(confidence, tasks - 1, np.mean(means), scipy.stats.sem(means))
    found = clustered(values, confidence=confidence)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_numbers_are_shown_with_their_interval_and_recorded_without_inventing_one() -> None:
    assert Estimate(4.207, 3.9, 4.5, 60, 10).text() == "4.21 [3.90, 4.50]"
    assert Estimate(4.207, 3.9, 4.5, 60, 10).text("+.1f") == "+4.2 [+3.9, +4.5]"
    assert Estimate(4.207, None, None, 6, 1).text() == "4.21"
    assert Estimate(4.0, None, None, 6, 1).record() == {"mean": 4.0, "low": None, "high": None, "n": 6, "tasks": 1}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused_and_its_task_named(wrong: float) -> None:
    with pytest.raises(ConfigurationError, match=r"task 'b'.*finite"):
        clustered({"a": [1.0], "b": [1.0, wrong]})


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95])
def test_a_confidence_outside_its_range_is_refused(confidence: float) -> None:
    with pytest.raises(ConfigurationError, match=f"confidence is {confidence}"):
        clustered({"a": [1.0], "b": [2.0]}, confidence=confidence)


values_by_task = st.dictionaries(
    st.text(max_size=3), st.lists(st.floats(-10, 10), min_size=1, max_size=5), min_size=1, max_size=12
)


@given(values_by_task, st.randoms())
def test_the_order_of_tasks_and_values_changes_nothing(values: dict[str, list[float]], draw: Any) -> None:
    tasks = list(values)
    draw.shuffle(tasks)
    shuffled = {task: draw.sample(values[task], len(values[task])) for task in tasks}
    found = clustered(values)
    assert found == clustered(shuffled)
    assert found is not None
    assert -10 <= found.mean <= 10
    if found.low is not None and found.high is not None:
        assert found.low <= found.mean <= found.high
    zero = paired(values, shuffled)
    assert zero is not None
    assert zero.mean == pytest.approx(0, abs=1e-12)


def test_without_scipy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics._quantile.cache_clear()
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(MissingExtraError, match=r"sotopia-env\[eval\]"):
        clustered({"a": [1.0], "b": [2.0]})
    assert clustered({"a": [1.0]}) == Estimate(1.0, None, None, 1, 1)  # a mean needs no scipy


def test_importing_the_evaluation_loads_neither_scipy_nor_plots_nor_models() -> None:
    code = (
        "import sys, sotopia_env.evaluation as e\n[getattr(e, name) for name in e.__all__]\n"
        "print([m for m in ('scipy', 'matplotlib', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- how often an interval holds the truth ------------------------------------------------------------


class Experiments(NamedTuple):
    """Many repetitions of one evaluation with a known truth; values are experiments x tasks x plays."""

    values: Numbers
    truth: float


def even(draw: np.random.Generator, tasks: int) -> Numbers:
    """Tasks differ more than the plays of one task do."""
    return draw.normal(0, 2, (EXPERIMENTS, tasks, 1)) + draw.normal(0, 1, (EXPERIMENTS, tasks, PLAYS))


def like_goals(draw: np.random.Generator, tasks: int) -> Numbers:
    """As goals are: in an eighth of the tasks 10 whatever one does, else 1 without a deal, else a share."""
    easy = draw.random((EXPERIMENTS, tasks, 1)) < 0.125
    chance = draw.beta(2, 1, (EXPERIMENTS, tasks, 1))
    deal = draw.random((EXPERIMENTS, tasks, PLAYS)) < chance
    gain = np.clip(draw.normal(0.55, 0.15, (EXPERIMENTS, tasks, 1)) + draw.normal(0, 0.1, deal.shape), 0, 1)
    return np.where(easy, 10.0, np.where(deal, 1 + 9 * gain, 1.0))


@cache
def experiments(shape: Callable[[np.random.Generator, int], Numbers], tasks: int) -> Experiments:
    truth = 0.0 if shape is even else float(np.mean(shape(np.random.default_rng(1), 400)))
    return Experiments(shape(np.random.default_rng(tasks), tasks), truth)


def share_held(found: Experiments, low: Numbers, high: Numbers) -> float:
    return float(np.mean((low <= found.truth) & (found.truth <= high)))


def coverage(found: Experiments, names: list[str]) -> float:
    """Of the intervals of this package."""
    estimates = [clustered(dict(zip(names, one.tolist(), strict=True))) for one in found.values]
    bounds = np.array([(e.low, e.high) for e in estimates if e is not None], dtype=float)
    assert len(bounds) == len(found.values)
    return share_held(found, bounds[:, 0], bounds[:, 1])


@pytest.mark.parametrize("tasks", [20, 50, 300])
@pytest.mark.parametrize("shape", [even, like_goals])
def test_an_interval_holds_the_truth_as_often_as_it_says(
    shape: Callable[[np.random.Generator, int], Numbers], tasks: int
) -> None:
    found = experiments(shape, tasks)
    share = coverage(found, [str(i) for i in range(tasks)])
    assert 0.93 <= share <= 0.97, share


@pytest.mark.parametrize("tasks", [20, 50, 300])
@pytest.mark.parametrize("shape", [even, like_goals])
def test_an_interval_over_episodes_as_if_they_were_independent_would_be_far_too_narrow(
    shape: Callable[[np.random.Generator, int], Numbers], tasks: int
) -> None:
    """Why intervals are clustered: the same data, the usual formula over all episodes."""
    found = experiments(shape, tasks)
    flat = found.values.reshape(EXPERIMENTS, -1)
    half = 1.96 * flat.std(axis=1, ddof=1) / np.sqrt(flat.shape[1])
    assert share_held(found, flat.mean(axis=1) - half, flat.mean(axis=1) + half) < 0.8


def test_a_percentile_bootstrap_over_20_tasks_would_be_too_narrow() -> None:
    """Why intervals are Student's t: resampling whole tasks gives no room for the spread being unknown."""
    found = experiments(even, 20)
    means = found.values.mean(axis=2)
    draws = np.random.default_rng(3).integers(20, size=(400, 20))
    low, high = np.percentile(means[:, draws].mean(axis=2), [2.5, 97.5], axis=1)
    assert share_held(found, low, high) < coverage(found, [str(i) for i in range(20)]) - 0.01
    assert share_held(found, low, high) < 0.94  # 0.929 on average
