"""Means with intervals that hold when several values come from one task.

Episodes of one task are no independent samples: its numbers make it easy or hard for all of them. So the
sample is the task. A mean is the mean over tasks of each task's own mean, and its interval is Student's t
on those task means, with one degree of freedom less than there are tasks. A t interval covers as often as
it says also at 20 tasks; a percentile bootstrap over tasks is too narrow below about 100, and an interval
over episodes is too narrow always (`tests/test_statistics.py` measures all three).

    clustered({"task-1": [7.0, 5.5], "task-2": [1.0]})       # a mean over tasks
    paired(values_of_a, values_of_b)                         # the mean of a minus b on the tasks both have
    difference(values_of_a, values_of_b)                     # the same with a p-value; unpaired where tasks differ
    rate({"task-1": [1.0, 1.0], "task-2": [0.0]})            # a share, also one near 0 or 1
    bounded(goals, 0, 10)                                    # a mean of values that pile up at a bound
    jackknife(rows_by_task, statistic)                       # anything else: a correlation, a slope

Every one of these intervals was chosen by measuring how often it holds the truth at 14, 20, 40 and 90 tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from sotopia_env.errors import ConfigurationError, MissingExtraError

CONFIDENCE = 0.95
"""How often an interval covers, over many repetitions of the whole experiment."""

Values = Mapping[str, Sequence[float]]
"""Values by task; a task without any is left out."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]

MOST_GROUPS = 100
"""With more tasks the jackknife leaves out groups of them, so that its work grows no further."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: Mean over tasks of each task's mean, in the unit of the values.
        low, high: Student t interval over tasks; `None` with fewer than two tasks, which say nothing of others.
        n: How many values there were; of a paired difference the number of tasks.
        tasks: How many tasks they came from.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    tasks: int

    def record(self) -> dict[str, Any]:
        """As JSON values; an interval that does not exist is null."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n, "tasks": self.tasks}

    def text(self, form: str = ".2f") -> str:
        """The mean, and the interval if there is one, in a number format: 4.21 [3.90, 4.52]."""
        if self.low is None or self.high is None:
            return f"{self.mean:{form}}"
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


def clustered(values: Values, *, confidence: float = CONFIDENCE) -> Estimate | None:
    """The mean over tasks with its interval, or `None` if there is no value.

    Args:
        values: Finite values by task; tasks may have different numbers of them and count the same.
        confidence: Between 0 and 1.

    Raises:
        ConfigurationError: For a confidence outside that range, or a value that is not finite.
        MissingExtraError: If scipy is not installed.
    """
    means = task_means(values)
    return _estimate(list(means.values()), sum(len(values[task]) for task in means), confidence)


def paired(first: Values, second: Values, *, confidence: float = CONFIDENCE) -> Estimate | None:
    """The mean over tasks of `first` minus `second`, on the tasks both have; `None` if there is none.

    What makes a task hard for both drops out, so the interval is narrower than those of the two means.
    `n` is the number of tasks.

    Raises:
        ConfigurationError: As in `clustered`.
        MissingExtraError: If scipy is not installed.
    """
    a, b = task_means(first), task_means(second)
    differences = [a[task] - b[task] for task in a if task in b]
    return _estimate(differences, len(differences), confidence)


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between two means, and the test of whether there is any.

    Attributes:
        estimate: The first mean minus the second, with its interval.
        p: How often a difference at least so large comes up where there is none; `None` where there is no
            interval either, as with one task, or a few that all differ by the same. The interval leaves out 0
            exactly if `p` is below 1 - confidence.
        paired: Whether it is a mean over shared tasks; otherwise the two sets of tasks count as independent.
    """

    estimate: Estimate
    p: float | None
    paired: bool

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.estimate.record(), "p": self.p, "paired": self.paired}


def difference(first: Values, second: Values, *, confidence: float = CONFIDENCE) -> Difference | None:
    """The mean of `first` minus that of `second`, with its test; `None` if either has no value.

    It is paired by task if at least half the tasks of the side that has fewer are shared, and then it is
    over the shared tasks. Otherwise it is Welch's: over all tasks of either side, with Satterthwaite's
    degrees of freedom. Tasks that happen to be shared then make it too wide rather than too narrow.

    Where few tasks differ by exactly the same, which scores in whole points often do, their spread of 0 says
    nothing of other tasks: there is then no interval and no test. Few is as many as exchanging the two sides at
    random would make look like this in 5% of cases or more (1 - confidence): fewer than six pairs.

    Raises:
        ConfigurationError: As in `clustered`.
        MissingExtraError: If scipy is not installed.
    """
    a, b = task_means(first), task_means(second)
    if not a or not b:
        return None
    if 2 * len(a.keys() & b.keys()) >= min(len(a), len(b)):
        found = paired(first, second, confidence=confidence)
        assert found is not None, "half of at least one task is at least one task"
        if found.high is not None and _alike(found.high - found.mean, found.mean, 2**found.tasks, confidence):
            found = replace(found, low=None, high=None)
        return Difference(found, _p_value(found, confidence, found.tasks - 1), True)
    _check_confidence(confidence)
    mean = _mean(a.values()) - _mean(b.values())
    each = [_spread(list(side.values())) / len(side) if len(side) > 1 else math.nan for side in (a, b)]
    error = math.fsum(each)
    ways = math.comb(len(a) + len(b), len(a))
    if len(a) < 2 or len(b) < 2 or _alike(math.sqrt(error), mean, ways, confidence):
        return Difference(Estimate(mean, None, None, len(a) + len(b), len(a) + len(b)), None, False)
    parts = math.fsum(part**2 / (len(side) - 1) for part, side in zip(each, (a, b), strict=True))
    freedom = error**2 / parts if parts else float(len(a) + len(b) - 2)
    half = _quantile(freedom, confidence) * math.sqrt(error)
    estimate = Estimate(mean, mean - half, mean + half, len(a) + len(b), len(a) + len(b))
    return Difference(estimate, _p_value(estimate, confidence, freedom), False)


def _alike(spread: float, mean: float, ways: int, confidence: float) -> bool:
    """Whether values of this mean are all the same but for rounding, and could be so by chance.

    Args:
        spread: How far the interval reaches, or the standard error.
        mean: What they come to.
        ways: In how many ways the two sides can be exchanged; all the same are two of them, or one and its reverse.
        confidence: Of the interval.
    """
    return spread < 1e-9 * abs(mean) and 2 / ways >= 1 - confidence


def rate(values: Values, *, confidence: float = CONFIDENCE) -> Estimate | None:
    """A share with an interval that holds near 0 and 1 too: `bounded` between 0 and 1.

    Args:
        values: By task, numbers from 0 to 1: usually 0 for no and 1 for yes.
        confidence: Between 0 and 1.

    Raises:
        ConfigurationError, MissingExtraError: As `bounded`.
    """
    return bounded(values, 0, 1, confidence=confidence)


def bounded(values: Values, low: float, high: float, *, confidence: float = CONFIDENCE) -> Estimate | None:
    """The mean over tasks of values with bounds, and an interval that holds near a bound; `None` without values.

    Student's t is too short on the side where there is room when most values lie at a bound, as the goals of
    policies without skill do. This is Wilson's score interval with an effective number of episodes in place of
    their number (as in Dean and Pagano, Survey Methodology 41, 2015) and Student's quantile in place of the
    normal one. The effective number follows from how much the tasks' means differ. While few tasks are
    exceptions from a bound, that is hardly known, and it is drawn towards the number of tasks, as if the
    episodes of one task were always alike: fully if no task is an exception, by 1 / (1 + k^2) if k are.

    Where tasks have different numbers of values, their harmonic mean counts, and the mean is never taken to be
    surer than it would be if the values of a task had nothing in common: by chance none of the tasks with few
    values may be an exception, and then the tasks' means differ too little.

    Args:
        values: By task, numbers from `low` to `high`.
        low: The smallest value there can be.
        high: The largest.
        confidence: Between 0 and 1.

    Raises:
        ConfigurationError: As in `clustered`, or for a value outside the bounds.
        MissingExtraError: If scipy is not installed.
    """
    wrong = next(((task, one) for task, found in values.items() for one in found if one < low or one > high), None)
    if wrong is not None:
        raise ConfigurationError(f"A value of task {wrong[0]!r} is {wrong[1]!r}, but must lie in [{low:g}, {high:g}].")
    found = clustered(values, confidence=confidence)
    if found is None or found.low is None:
        return found
    means = (np.array([list(task_means(values).values())]) - low) / (high - low)
    counts = [len(one) for one in values.values() if len(one)]
    even = len(set(counts)) == 1
    plays = counts[0] if even else len(counts) / math.fsum(1 / count for count in counts)
    least = 0.0 if even else _independent(values, found.mean) / (high - low) ** 2 / (plays * len(counts))
    bounds = _wilson(means, plays, confidence, least)
    first, last = (low + (high - low) * float(side[0]) for side in bounds)
    return Estimate(found.mean, first, last, found.n, found.tasks)


def _independent(values: Values, mean: float) -> float:
    """The variance of single values around the mean, tasks counting the same."""
    each = (math.fsum((value - mean) ** 2 for value in found) / len(found) for found in values.values() if len(found))
    return _mean(list(each))


def _wilson(means: Numbers, plays: float, confidence: float, least: float = 0.0) -> tuple[Numbers, Numbers]:
    """Bounds of the mean of (experiments x tasks) means between 0 and 1 of `plays` episodes each.

    The variance of that mean is taken to be `least` or more.
    """
    tasks = means.shape[1]
    share = means.mean(axis=1)
    yes_no = share * (1 - share)
    error = np.maximum(means.var(axis=1, ddof=1) / tasks, least)
    # How alike the episodes of a task are: 1 if they are all the same, 0 if the task makes no difference.
    with np.errstate(divide="ignore", invalid="ignore"):
        design = np.where(error > 0, plays * tasks * error / yes_no, plays)
    alike = (design - 1) / (plays - 1) if plays > 1 else np.zeros_like(share)
    exceptions = np.minimum((means > 0).sum(axis=1), (means < 1).sum(axis=1))
    alike = np.minimum(alike + (1 - alike) / (1 + exceptions**2), 1)
    n = plays * tasks / (1 + (plays - 1) * alike)
    q = _quantile(tasks - 1, confidence)
    center = (share + q**2 / (2 * n)) / (1 + q**2 / n)
    half = q * np.sqrt(yes_no / n + q**2 / (4 * n**2)) / (1 + q**2 / n)
    return np.maximum(center - half, 0), np.minimum(center + half, 1)


def above_zero(estimate: Estimate | None) -> Estimate | None:
    """The same, with an interval of what cannot be negative."""
    if estimate is None or estimate.low is None:
        return estimate
    return replace(estimate, low=max(0.0, estimate.low))


def jackknife(
    rows: Mapping[str, Numbers],
    statistic: Callable[[Numbers], float],
    *,
    scale: Literal["plain", "correlation"] = "plain",
    confidence: float = CONFIDENCE,
) -> Estimate | None:
    """Any figure over all rows with an interval clustered by task; `None` if the figure does not exist.

    The figure is computed again without each task in turn (Tukey's jackknife), and how much it moves gives the
    standard error of Student's t. With more than `MOST_GROUPS` tasks so many groups of tasks are left out.

    Args:
        rows: By task, an array with one row per episode.
        statistic: From rows on top of each other to a number; nan where it does not exist.
        scale: "correlation" for figures between -1 and 1: the interval is made on Fisher's z and stays inside.
        confidence: Between 0 and 1.

    Returns:
        An `Estimate` whose `mean` is the figure. There is no interval if the figure does not exist without
        some task, or if there is one task only.

    Raises:
        ConfigurationError: For a confidence outside its range.
        MissingExtraError: If scipy is not installed.
    """
    _check_confidence(confidence)
    parts = [found for found in rows.values() if len(found)]
    if not parts:
        return None
    value = float(statistic(np.concatenate(parts)))
    if not math.isfinite(value):
        return None
    n, tasks = sum(map(len, parts)), len(parts)
    groups = [np.concatenate(parts[start::MOST_GROUPS]) for start in range(min(MOST_GROUPS, tasks))]
    without = [
        float(statistic(np.concatenate(groups[:place] + groups[place + 1 :]))) if len(groups) > 1 else math.nan
        for place in range(len(groups))
    ]
    if not all(map(math.isfinite, without)):
        return Estimate(value, None, None, n, tasks)
    there, back = (_fisher, math.tanh) if scale == "correlation" else (float, float)
    moved = [there(one) for one in without]
    error = math.sqrt(_spread(moved) * (len(moved) - 1) ** 2 / len(moved))
    half = _quantile(len(moved) - 1, confidence) * error
    center = there(value)
    if not half:
        return Estimate(value, value, value, n, tasks)
    return Estimate(value, back(center - half), back(center + half), n, tasks)


def _fisher(correlation: float) -> float:
    """Fisher's z, for a correlation of 1 too."""
    return math.atanh(max(-1 + 1e-12, min(1 - 1e-12, correlation)))


def task_means(values: Values) -> dict[str, float]:
    """The mean of each task that has values.

    Raises:
        ConfigurationError: For a value that is not finite.
    """
    means = {task: math.fsum(found) / len(found) for task, found in values.items() if len(found)}
    wrong = next((task for task, mean in means.items() if not math.isfinite(mean)), None)
    if wrong is not None:
        raise ConfigurationError(
            f"The values of task {wrong!r} are {list(values[wrong])!r:.120}, but must be finite numbers. "
            "Leave out what does not exist."
        )
    return means


def _estimate(means: Sequence[float], n: int, confidence: float) -> Estimate | None:
    _check_confidence(confidence)
    tasks = len(means)
    if not tasks:
        return None
    mean = _mean(means)
    if tasks == 1:
        return Estimate(mean, None, None, n, tasks)
    half = _quantile(tasks - 1, confidence) * math.sqrt(_spread(means) / tasks)
    return Estimate(mean, mean - half, mean + half, n, tasks)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence is {confidence!r}, but must lie between 0 and 1.")


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)


def _spread(values: Sequence[float]) -> float:
    """The variance of a sample."""
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _p_value(estimate: Estimate, confidence: float, freedom: float) -> float | None:
    """The two-sided p-value of "the mean is 0" that belongs to a Student t interval."""
    if estimate.low is None or estimate.high is None:
        return None
    error = (estimate.high - estimate.low) / 2 / _quantile(freedom, confidence)
    if not error:
        return 1.0 if estimate.mean == 0 else 0.0
    from scipy.special import stdtr  # type: ignore[import-untyped, unused-ignore]

    return float(2 * stdtr(freedom, -abs(estimate.mean) / error))


@lru_cache(maxsize=1024)
def _quantile(freedom: float, confidence: float) -> float:
    """How many standard errors an interval reaches to either side."""
    try:
        # The quantile of scipy.stats.t, at half the time to import.
        from scipy.special import stdtrit  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingExtraError(
            "Intervals need scipy, which is not installed. Install it with: pip install 'sotopia-env[eval]'"
        ) from error
    return float(stdtrit(freedom, 0.5 + confidence / 2))
