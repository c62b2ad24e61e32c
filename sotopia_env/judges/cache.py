"""Asking no judge twice about the same thing: what was answered is kept in the episode store.

The key is a hash of all that decides an answer: the judge's name, its model, a hash of its prompt, and the text that
the judge sees of the episode for one agent. So two episodes with the same transcript, goals and people are asked
about once, a changed prompt or another model is asked anew, and a verdict of which a budget paid only one half is
completed later. Rollouts with a store and `sotopia-env judge` on a store use it; `LLMJudge` does the asking.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from sotopia_env.tasks import digest

if TYPE_CHECKING:
    from sotopia_env.store import EpisodeStore


class _Cache(NamedTuple):
    store: EpisodeStore
    refresh: bool


class _Turns:
    """Who asks the same question at the same time, one after the other."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.askers = 0


_cache: ContextVar[_Cache | None] = ContextVar("sotopia_env_verdict_cache", default=None)
_asking: weakref.WeakKeyDictionary[EpisodeStore, dict[str, _Turns]] = weakref.WeakKeyDictionary()


@contextmanager
def verdict_cache(store: EpisodeStore | None, *, refresh: bool = False) -> Iterator[None]:
    """Keep and reuse what judge models answer inside, in tasks and threads started inside too.

    Args:
        store: Where; `None` for nowhere.
        refresh: Ask anew, and keep the new answers in place of the old.
    """
    token = _cache.set(None if store is None else _Cache(store, refresh))
    try:
        yield
    finally:
        _cache.reset(token)


async def answered_once(asked: list[str], ask: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """The answer kept for what is asked; if there is none it is asked for, and kept.

    Args:
        asked: All that decides the answer.
        ask: Asks; its answer must be JSON values. Whatever it raises is not kept.
    """
    cache = _cache.get()
    if cache is None:
        return await ask()
    key = digest(asked)
    # Two that ask the same at the same time: the second waits for the first one's answer.
    waiting = _asking.setdefault(cache.store, {})
    turns = waiting.setdefault(key, _Turns())
    turns.askers += 1
    try:
        async with turns.lock:
            known = None if cache.refresh else await asyncio.to_thread(cache.store.judge_reply, key)
            if known is not None:
                found: dict[str, Any] = json.loads(known)
                return found
            answer = await ask()
            await asyncio.to_thread(cache.store.add_judge_reply, key, json.dumps(answer))
            return answer
    finally:
        turns.askers -= 1
        if not turns.askers:
            del waiting[key]
