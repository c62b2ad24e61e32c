"""What the other's values may be in divide, weighed by what it said, offered and let pass.

Every way to spread the same total over the pool is a hypothesis. Talk raises those it fits; an offer
raises those under which its author keeps much; and an offer of one's own that the other let pass,
though it would be worth more to it than what it asks for itself, counts against a hypothesis.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from sotopia_env.agents.boards import kept_by
from sotopia_env.agents.reading import Reading, mentions, numbers

W=[1.,6.,2.,.5]
_MOST = 3000
"""More combinations than this are not enumerated."""

_Matrix = np.ndarray[Any, np.dtype[np.float64]]


@lru_cache(maxsize=256)
def spreads(counts: tuple[int, ...], total: int) -> _Matrix:
    """All whole values per item whose sum over the pool is `total`, one row each; empty if too many."""
    ranges = [range(total // count + 1) for count in counts]
    size = 1
    for values in ranges:
        size *= len(values)
    if size > _MOST * 10:
        return np.empty((0, len(counts)))
    rows = [row for row in product(*ranges) if sum(v * c for v, c in zip(row, counts, strict=True)) == total]
    return np.array(rows[:_MOST], dtype=float).reshape(-1, len(counts))


def believed_weights(reading: Reading) -> dict[str, float] | None:
    """The expected value to the other of one of each item; None if there are too many hypotheses."""
    pool: dict[str, int] = reading.facts.terms["items"]
    items, counts = tuple(pool), tuple(pool.values())
    own: dict[str, float] = reading.facts.private["values"]
    total = round(sum(own[item] * count for item, count in pool.items()))
    rows = spreads(counts, total)
    if not len(rows):
        return None
    logs = _from_talk(reading, rows, items) + _from_offers(reading, rows, total)
    weights = np.exp(logs - logs.max())
    mean = weights @ rows / weights.sum()
    return dict(zip(items, mean.tolist(), strict=True))


def _from_talk(reading: Reading, rows: _Matrix, items: tuple[str, ...]) -> _Matrix:
    logs = np.zeros(len(rows))
    for text in reading.heard:
        points = numbers(text, items)
        if len(points) >= min(2, len(items)):
            for item, value in points:
                logs -= W[0] * np.abs(rows[:, items.index(item)] - value)
            continue
        found = mentions(text, items)
        well = [items.index(item) for item, good in found if good]
        ill = [items.index(item) for item, good in found if not good]
        for better, worse in [*zip(well, well[1:], strict=False), *product(well, ill)]:
            logs += W[3] * np.sign(rows[:, better] - rows[:, worse])
    return logs


def _from_offers(reading: Reading, rows: _Matrix, total: int) -> _Matrix:
    seat = 1 - reading.seat
    theirs = _bundles(reading, reading.offers[reading.other], seat)
    passed = _bundles(reading, reading.offers[reading.me], seat)
    logs = np.zeros(len(rows))
    if not len(theirs):
        return logs
    asked = rows @ theirs.T / total  # (hypotheses, offers)
    logs += W[1] * asked.mean(axis=1)
    if len(passed):
        gained = rows @ passed.T / total
        logs -= W[2] * (gained >= asked[:, -1:] - 1e-9).sum(axis=1)
    return logs


def _bundles(reading: Reading, offers: list[Any], seat: int) -> _Matrix:
    distinct = list(dict.fromkeys(offers))
    rows = [list(kept_by(reading, offer, seat).values()) for offer in distinct]
    return np.array(rows, dtype=float).reshape(len(rows), len(reading.facts.terms["items"]))
