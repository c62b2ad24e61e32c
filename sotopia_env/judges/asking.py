"""Asking a judge about many episodes: what it cannot say is told, and one that answers nobody is soon left alone."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sotopia_env.episodes import Episode, Verdict
from sotopia_env.errors import BudgetError, ModelError, one_line
from sotopia_env.judges.base import Judge, check_verdict
from sotopia_env.judges.llm import together

K = TypeVar("K")

PATIENCE = 20
"""How many times in a row a judge may stay silent before nobody asks it any more."""


class Patience:
    """Counts how often in a row a judge said nothing at all: no connection, a refused key, an error of its own code.

    A reply that is no verdict is a reply: a weak model is asked to the end, and its failures are counted.

    Attributes:
        over: Why nobody should ask any more; `None` while somebody should.
    """

    def __init__(self, judge: str, limit: int = PATIENCE) -> None:
        self.judge = judge
        self.limit = limit
        self.over: str | None = None
        self._silent = 0

    def note(self, error: Exception | None) -> None:
        """Hear how one question ended: with a verdict (`None`) or an error."""
        if isinstance(error, BudgetError):
            return  # the judge was not asked
        self._silent = 0 if error is None or _has_replied(error) else self._silent + 1
        if error is not None and self._silent == self.limit:
            self.over = (
                f"not asked: {self.judge} had failed {self.limit} times in a row without a reply ({one_line(error)})"
            )


def _has_replied(error: BaseException) -> bool:
    """Whether a model's reply, and no failed call, is behind an error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModelError):
            return False  # what it may hold is the endpoint's complaint
        cause = cause.__cause__
    return getattr(error, "reply", None) is not None


async def ask(judge: Judge, episode: Episode) -> Verdict:
    """A judge's complete verdict; a sync judge computes on a thread of its own, unless it says that it is `inline`.

    Raises:
        JudgeError: If there is none, or it is incomplete.
        BudgetError: If a budget around has too little left.
        Exception: Whatever a judge of the user's raises.
    """
    if inspect.iscoroutinefunction(judge.score) or getattr(judge, "inline", False):
        given: Any = judge.score(episode)
    else:
        given = await asyncio.to_thread(judge.score, episode)
    return check_verdict(await given if inspect.isawaitable(given) else given, episode, judge)


async def ask_all(
    judge: Judge,
    episodes: Mapping[K, Episode],
    *,
    concurrency: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[K, Verdict | str]:
    """A verdict on every episode, or in one line why there is none: never a score in its place.

    A judge that does not answer at all, `PATIENCE` times in a row, is not asked about the rest.

    Args:
        judge: Who is asked.
        episodes: By any key.
        concurrency: How many are with the judge at once.
        progress: Called with how many are done and how many there are.

    Raises:
        BudgetError: If a budget around has too little left. Calls under way are finished first.
    """
    slots = asyncio.Semaphore(concurrency)
    patience = Patience(judge.name)
    found: dict[K, Verdict | str] = {}

    async def one(key: K, episode: Episode) -> None:
        async with slots:
            if patience.over is not None:
                found[key] = patience.over
            else:
                found[key] = await verdict_or_reason(episode)
            if progress is not None:
                progress(len(found), len(episodes))

    async def verdict_or_reason(episode: Episode) -> Verdict | str:
        try:
            verdict = await ask(judge, episode)
        except BudgetError:
            raise
        except Exception as error:  # a user's judge may raise anything; it is that judge's failure
            patience.note(error)
            return one_line(error)
        patience.note(None)
        return verdict

    await together([one(key, episode) for key, episode in episodes.items()])
    return found
