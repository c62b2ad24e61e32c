"""Several judges as one: the mean or median of their scores, with how far they lie apart."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from statistics import fmean, median

from sotopia_env.dimensions import Dimension
from sotopia_env.episodes import Episode, Score, Verdict
from sotopia_env.errors import ConfigurationError, JudgeError, unknown
from sotopia_env.judges.base import Judge, check_verdict, scales_of
from sotopia_env.judges.llm import together
from sotopia_env.tasks import Task

_AVERAGES: dict[str, Callable[[list[float]], float]] = {"mean": fmean, "median": median}


class PanelJudge:
    """Asks all its members at the same time and averages them, score by score.

    There is a verdict only if every member gives one: a member that fails is not left out, for the rest
    would be another judge. The spread (largest less smallest score) of every score stands in the verdict's
    `details["spread"]`, the members' whole verdicts in `details["members"]`; `measures` has the mean and the
    largest spread as "spread" and "spread_max".

    Args:
        judges: Two or more judges or specs, with names of their own and equal scales.
        average: "mean" (default) or "median".
        name: Default "panel/<average>(<name>, <name>, ...)".

    Raises:
        ConfigurationError: For fewer than two judges, two of one name, or one dimension with two ranges.
    """

    def __init__(self, judges: Sequence[Judge | str], *, average: str = "mean", name: str | None = None) -> None:
        from sotopia_env.specs import make_judge

        if average not in _AVERAGES:
            raise ConfigurationError(unknown("average", average, _AVERAGES))
        members = [make_judge(judge) for judge in judges]
        self.judges = tuple(judge for judge in members if judge is not None)
        if len(self.judges) < 2 or len(self.judges) < len(members):
            raise ConfigurationError(f"judges is {judges!r:.200}, but a panel needs two or more judges.")
        names = [judge.name for judge in self.judges]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"The judges of a panel are named {names!r}, but each needs a name of its own.")
        self.average = average
        self.name = name or f"panel/{average}({', '.join(names)})"
        self.dimensions = _common_scales(self.judges)

    def covers(self, task: Task) -> tuple[str, ...]:
        """The dimensions that the members fill for every seat; all of them, if none says which.

        Raises:
            ConfigurationError: If members say different ones, so that no verdict could be averaged.
        """
        filled = {judge.name: set(judge.covers(task)) for judge in self.judges if hasattr(judge, "covers")}
        first = next(iter(filled.values()), {dimension.name for dimension in self.dimensions})
        if any(names != first for names in filled.values()):
            told = "; ".join(f"{name!r} fills {sorted(names)}" for name, names in filled.items())
            raise ConfigurationError(
                f"The judges of {self.name!r} fill different dimensions in task {task.id!r}: {told}. Give them the "
                "same, such as LLMJudge(model, dimensions=['goal'])."
            )
        return tuple(sorted(first))

    async def score(self, episode: Episode) -> Verdict:
        """Score a finished episode.

        Raises:
            JudgeError: If any member fails, or the members' verdicts do not hold the same scores.
        """
        try:
            verdicts = await together([_ask(judge, episode) for judge in self.judges])
        except JudgeError as error:
            raise JudgeError(
                f"Panel {self.name!r} has no verdict, because one of its judges has none: {error}",
                reply=error.reply,
                episode=episode,
            ) from error
        for verdict in verdicts[1:]:
            if _shape(verdict) != _shape(verdicts[0]):
                raise JudgeError(
                    f"The judges of {self.name!r} gave different scores: {verdicts[0].judge!r} {_shape(verdicts[0])}, "
                    f"{verdict.judge!r} {_shape(verdict)}.",
                    episode=episode,
                )
        return self._averaged(verdicts)

    def _averaged(self, verdicts: list[Verdict]) -> Verdict:
        average = _AVERAGES[self.average]
        scores: dict[str, dict[str, Score]] = {}
        spread: dict[str, dict[str, float]] = {}
        for agent, own in verdicts[0].scores.items():
            scores[agent], spread[agent] = {}, {}
            for dimension in own:
                given = [verdict.scores[agent][dimension] for verdict in verdicts]
                values = [score.value for score in given]
                reasons = [f"{v.judge}: {s.value:g}, {s.reason}" for v, s in zip(verdicts, given, strict=True)]
                scores[agent][dimension] = Score(value=average(values), reason="\n".join(reasons))
                spread[agent][dimension] = max(values) - min(values)
        all_spreads = [value for own_spread in spread.values() for value in own_spread.values()]
        return Verdict(
            judge=self.name,
            scores=scores,
            measures={"spread": fmean(all_spreads), "spread_max": max(all_spreads)} if all_spreads else {},
            details={
                "average": self.average,
                "spread": spread,
                "members": {verdict.judge: verdict.model_dump(mode="json") for verdict in verdicts},
            },
        )

    def __repr__(self) -> str:
        return f"PanelJudge({self.name!r})"


async def _ask(judge: Judge, episode: Episode) -> Verdict:
    if inspect.iscoroutinefunction(judge.score):
        verdict = await judge.score(episode)
    else:
        # A sync judge may wait for something; the other members go on meanwhile.
        verdict = await asyncio.to_thread(judge.score, episode)
        if inspect.isawaitable(verdict):
            verdict = await verdict
    return check_verdict(verdict, episode, judge).model_copy(update={"judge": judge.name})


def _shape(verdict: Verdict) -> dict[str, list[str]]:
    return {agent: sorted(own) for agent, own in sorted(verdict.scores.items())}


def _common_scales(judges: Sequence[Judge]) -> tuple[Dimension, ...]:
    scales: dict[str, Dimension] = {}
    for judge in judges:
        for name, dimension in scales_of(judge).items():
            known = scales.setdefault(name, dimension)
            if (known.low, known.high) != (dimension.low, dimension.high):
                raise ConfigurationError(
                    f"The judges of a panel score {name!r} on {known.low}..{known.high} and on "
                    f"{dimension.low}..{dimension.high}. Give them the same scale."
                )
    return tuple(scales.values())
