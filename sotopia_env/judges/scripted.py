"""A judge that gives what it is told to: for tests of environments, filters and trainers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sotopia_env.dimensions import Dimension, get_dimensions
from sotopia_env.episodes import Episode, Score, Verdict


class ScriptedJudge:
    """Returns the same scores for every episode, or what a function makes of it.

    Args:
        scores: By agent id, then by dimension; or a function of the episode that returns that. A
            function may raise `JudgeError` to play a judge that is down.
        dimensions: Scales other than the seven, if any.
        name: The judge's name.

    Example:
        >>> judge = ScriptedJudge({"agent_0": {"goal": 7}, "agent_1": {"goal": 3}})
    """

    def __init__(
        self,
        scores: Mapping[str, Mapping[str, float]] | Callable[[Episode], Mapping[str, Mapping[str, float]]],
        *,
        dimensions: Sequence[str | Dimension] | None = None,
        name: str = "scripted",
    ) -> None:
        self.scores = scores
        self.dimensions = get_dimensions(dimensions)
        self.name = name

    def score(self, episode: Episode) -> Verdict:
        """Give the scripted scores."""
        scores = self.scores(episode) if callable(self.scores) else self.scores
        return Verdict(
            judge=self.name,
            scores={
                agent: {name: Score(value=value, reason="scripted") for name, value in own.items()}
                for agent, own in scores.items()
            },
        )
