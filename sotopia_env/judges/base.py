"""What a judge is, when its verdict is complete, and how a verdict becomes rewards."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

from sotopia_env.dimensions import DIMENSION_NAMES, DIMENSIONS, OVERALL, Dimension, out_of_range, overall
from sotopia_env.episodes import Episode, Verdict
from sotopia_env.errors import ConfigurationError, JudgeError, one_line, unknown
from sotopia_env.tasks import Task

Reward = str | Mapping[str, float] | Callable[[dict[str, float]], float]
"""A dimension, "overall", weights by dimension, or a function of one agent's scores."""


@runtime_checkable
class Judge(Protocol):
    """Scores finished episodes. `score` may be `def` or `async def`.

    A judge may also have

    - `covers(task) -> Iterable[str]`: the dimensions it fills for every seat of that task, so that a
      reward it cannot fill is refused when an environment is made;
    - `dimensions: tuple[Dimension, ...]`: its scales, if they are not the seven of SOTOPIA-Eval.
    """

    name: str

    def score(self, episode: Episode) -> Verdict | Awaitable[Verdict]:
        """Score a finished episode.

        Raises:
            JudgeError: If no complete verdict can be given. Never put 0 in its place.
        """
        ...


def scales_of(judge: Judge) -> dict[str, Dimension]:
    """The dimensions on which a judge's scores are checked, by name."""
    return {d.name: d for d in getattr(judge, "dimensions", DIMENSIONS)}


def needed_dimensions(reward: Reward) -> tuple[str, ...]:
    """The dimensions a reward reads; () for a callable, which says so only by failing."""
    if callable(reward):
        return ()
    if isinstance(reward, Mapping):
        return tuple(reward)
    return DIMENSION_NAMES if reward == OVERALL else (reward,)


def check_reward(judge: Judge | None, reward: Reward, tasks: Iterable[Task]) -> None:
    """Refuse a reward that the judge cannot fill, before anything is played.

    Raises:
        ConfigurationError: For a reward of the wrong form, an unknown dimension, or one the judge
            leaves absent in some task.
    """
    if not callable(reward) and not isinstance(reward, (str, Mapping)):
        raise ConfigurationError(
            f"reward is {reward!r}, but must be a dimension, {OVERALL!r}, a mapping of weights, or a callable."
        )
    if isinstance(reward, Mapping):
        bad = {
            k: w
            for k, w in reward.items()
            if isinstance(w, bool) or not isinstance(w, (int, float)) or not math.isfinite(w)
        }
        if bad or not reward:
            raise ConfigurationError(
                f"reward weights must be finite numbers by dimension, at least one; got {reward!r}."
            )
    known = DIMENSION_NAMES if judge is None else tuple(scales_of(judge))
    needed = needed_dimensions(reward)
    for name in needed:
        if name not in known and reward == OVERALL:
            raise ConfigurationError(
                f"reward {OVERALL!r} is the mean of the seven dimensions, but judge {judge.name!r} scores "  # type: ignore[union-attr]
                f"{sorted(known)}. Name one of these, or give weights by dimension."
            )
        if name not in known:
            raise ConfigurationError(unknown("reward dimension", name, [*known, OVERALL]))
    covers = getattr(judge, "covers", None)
    if covers is None:
        return
    for task in tasks:
        filled = set(covers(task))
        missing = [name for name in needed if name not in filled]
        if missing:
            raise ConfigurationError(
                f"Judge {judge.name!r} cannot fill {missing} of reward {reward!r} for every seat of task "  # type: ignore[union-attr]
                f"{task.id!r}; it fills {sorted(filled) or 'nothing'}. Choose another reward, judge or task pack."
            )


def check_verdict(verdict: object, episode: Episode, judge: Judge) -> Verdict:
    """Check that what a judge returned is a verdict over exactly this episode's agents, all in range.

    Raises:
        JudgeError: If it is not.
    """
    if not isinstance(verdict, Verdict):
        raise JudgeError(
            f"Judge {judge.name!r} returned {verdict!r:.200} instead of a sotopia_env.Verdict.", episode=episode
        )
    agents = set(episode.task.agents)
    if verdict.scores.keys() != agents:
        raise JudgeError(
            f"Judge {judge.name!r} scored {sorted(verdict.scores)}, but the episode has {sorted(agents)}.",
            episode=episode,
        )
    scales = scales_of(judge)
    for agent, scores in verdict.scores.items():
        for name, score in scores.items():
            if name not in scales:
                raise JudgeError(
                    f"Judge {judge.name!r} gave {agent!r} a score on " + unknown("dimension", name, scales),
                    episode=episode,
                )
            problem = out_of_range(scales[name], score.value)
            if problem:
                raise JudgeError(f"Judge {judge.name!r} on {agent!r}: {problem}.", episode=episode)
    return verdict


def rewards_from(verdict: Verdict, reward: Reward, episode: Episode) -> dict[str, float]:
    """Every agent's reward: the dimension's score as it is, the plain mean, the weighted sum, or the callable's value.

    Raises:
        JudgeError: If a needed dimension is absent, or the callable fails or gives no finite number.
    """
    rewards = {}
    for agent in episode.task.agents:
        scores = verdict.values(agent)
        missing = [name for name in needed_dimensions(reward) if name not in scores]
        if missing:
            raise JudgeError(
                f"Judge {verdict.judge!r} left {missing} absent for {agent!r}, which reward {reward!r} needs.",
                episode=episode,
            )
        if callable(reward):
            try:
                value = float(reward(dict(scores)))
            except (LookupError, TypeError, ValueError, ArithmeticError) as error:
                raise JudgeError(
                    f"The reward function failed on the scores of {agent!r}: {one_line(error)}.", episode=episode
                ) from error
        elif isinstance(reward, Mapping):
            value = float(sum(weight * scores[name] for name, weight in reward.items()))
        else:
            value = float(overall(scores) if reward == OVERALL else scores[reward])
        if not math.isfinite(value):
            raise JudgeError(f"The reward of {agent!r} is {value!r}, which is not a finite number.", episode=episode)
        rewards[agent] = value
    return rewards
