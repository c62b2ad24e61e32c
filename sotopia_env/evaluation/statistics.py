"""Means with intervals that hold when several values come from one task.

Episodes of one task are no independent samples: its numbers make it easy or hard for all of them. So the
sample is the task. A mean is the mean over tasks of each task's own mean, and its interval is Student's t
on those task means, with one degree of freedom less than there are tasks. A t interval covers as often as
it says also at 20 tasks; a percentile bootstrap over tasks is too narrow below about 100, and an interval
over episodes is too narrow always (`tests/test_statistics.py` measures all three).

    clustered({"task-1": [7.0, 5.5], "task-2": [1.0]})       # a mean over tasks
    paired(values_of_a, values_of_b)                         # the mean of a minus b on the tasks both have
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sotopia_env.errors import ConfigurationError, MissingExtraError

CONFIDENCE = 0.95
"""How often an interval covers, over many repetitions of the whole experiment."""

Values = Mapping[str, Sequence[float]]
"""Values by task; a task without any is left out."""


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
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence is {confidence!r}, but must lie between 0 and 1.")
    tasks = len(means)
    if not tasks:
        return None
    mean = math.fsum(means) / tasks
    if tasks == 1:
        return Estimate(mean, None, None, n, tasks)
    spread = math.fsum((value - mean) ** 2 for value in means) / (tasks - 1)
    half = _quantile(tasks - 1, confidence) * math.sqrt(spread / tasks)
    return Estimate(mean, mean - half, mean + half, n, tasks)


@lru_cache(maxsize=1024)
def _quantile(freedom: int, confidence: float) -> float:
    """How many standard errors an interval reaches to either side."""
    try:
        # The quantile of scipy.stats.t, at half the time to import.
        from scipy.special import stdtrit  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingExtraError(
            "Intervals need scipy, which is not installed. Install it with: pip install 'sotopia-env[eval]'"
        ) from error
    return float(stdtrit(freedom, 0.5 + confidence / 2))
