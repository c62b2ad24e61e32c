"""The four families of standing offers (bargain, divide, schedule, donate) in one form.

A `Board` lists every possible result with its value to the agent itself; `likings` estimates from
talk and offers how well the other likes each. Strategies differ only in how they use the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from operator import mul
from typing import Any, NamedTuple, cast

from sotopia_env.agents.phrases import PHRASES
from sotopia_env.agents.reading import Facts, Reading, mentions, numbers
from sotopia_env.rules import Result

_SURPLUS = 0.25
"""What there usually is to gain in a bargain, as a share of the public price range."""

_GIFT = 0.5
"""The largest gift to hope for, as a share of the donor's public budget."""


class Board(NamedTuple):
    """All results and what they are worth to one seat.

    Attributes:
        own: Own value by result.
        none: Own value of no deal.
        reach: The best own value to hope for before the other has shown anything.
    """

    own: dict[Result, float]
    none: float
    reach: float

    def share(self, value: float) -> float:
        """A value on the scale from no deal (0) to `reach` (1)."""
        return (value - self.none) / (self.reach - self.none)


def board_of(reading: Reading) -> Board:
    """The board as it is now: in donate the donor's values depend on the appeals shown."""
    shown = tuple(reading.table.shown) if reading.table else ()
    board = _board(reading.facts, reading.seat, reading.role, shown)
    if reading.facts.rules != "schedule":
        return board
    slots = other_slots(reading)
    possible = [own for slot, own in board.own.items() if slots[str(slot)] > 0]
    return board._replace(reach=max([1.0, *possible]))


def _board(facts: Facts, seat: int, role: str, shown: tuple[str, ...]) -> Board:
    terms, private = facts.terms, facts.private
    if facts.rules == "bargain":
        return _bargain(int(terms["lowest"]), int(terms["highest"]), float(private["value"]), seat)
    if facts.rules == "divide":
        return _divide(tuple(terms["items"].items()), tuple(private["values"].items()), float(private["outside"]), seat)
    if facts.rules == "schedule":
        weights: dict[Result, float] = {slot: float(private["weights"][slot]) for slot in terms["slots"]}
        return Board(weights, 0.0, max(1.0, max(weights.values())))
    budget = int(terms["budget"])
    if role == "persuader":
        return _gifts(budget, 0.0, max(2.0, _GIFT * budget), 1.0)
    w = min(float(budget), private["base"] + sum(private["weights"][appeal] for appeal in shown))
    return _gifts(budget, w, max(1.0, w - 1), -1.0)


@lru_cache(maxsize=512)
def _bargain(lowest: int, highest: int, value: float, seat: int) -> Board:
    sign = 1 if seat == 0 else -1
    own: dict[Result, float] = {price: sign * (price - value) for price in range(lowest, highest + 1)}
    return Board(own, 0.0, max(1.0, min(_SURPLUS * (highest - lowest), max(own.values()))))


@lru_cache(maxsize=512)
def _divide(
    pool: tuple[tuple[str, int], ...], values: tuple[tuple[str, float], ...], outside: float, seat: int
) -> Board:
    worth = dict(values)
    own: dict[Result, float] = {}
    for kept in product(*(range(count + 1) for _, count in pool)):
        mine = kept if seat == 0 else tuple(count - k for (_, count), k in zip(pool, kept, strict=True))
        own[kept] = sum(worth[item] * k for (item, _), k in zip(pool, mine, strict=True))
    return Board(own, outside, max(own.values()))


@lru_cache(maxsize=512)
def _gifts(budget: int, offset: float, reach: float, sign: float) -> Board:
    return Board({amount: offset + sign * amount for amount in range(1, budget + 1)}, 0.0, reach)


def terms_text(reading: Reading, result: Result) -> str:
    """A result as this seat writes it in an offer."""
    if reading.facts.rules != "divide":
        return str(result)
    return " ".join(f"{item}={count}" for item, count in kept_by(reading, result, reading.seat).items())


def kept_by(reading: Reading, result: Any, seat: int) -> dict[str, int]:
    """What one seat keeps of the pool under a result of divide."""
    pool: dict[str, int] = reading.facts.terms["items"]
    return {item: kept if seat == 0 else pool[item] - kept for item, kept in zip(pool, result, strict=True)}


def points_told(values: Mapping[str, float], items: Iterable[str]) -> str:
    """What each item is worth in divide, as agents tell it: "mug 0, shirt 10"."""
    return ", ".join(f"{item} {values[item]:g}" for item in items)


def useful(values: Mapping[str, float], pool: Mapping[str, int]) -> str:
    """All of the pool that is worth anything to one, as a naive agent says it: "What I can use is mug=0 shirt=2."."""
    kept = " ".join(f"{item}={number if values[item] else 0}" for item, number in pool.items())
    return PHRASES["useful"][0].format(kept=kept)


def count(kept: Mapping[str, int], values: Mapping[str, float], none: float) -> str:
    """A share of the pool in divide, reckoned aloud and compared with what there is without a deal.

    As in "With mug=1 shirt=2 I get 0+4=4, against 3 without a deal. I would gain.".
    """
    parts = [number * values[item] for item, number in kept.items()]
    return PHRASES["count points"][0].format(
        kept=" ".join(f"{item}={number}" for item, number in kept.items()),
        sum="+".join(f"{part:g}" for part in parts),
        n=f"{sum(parts):g}",
        none=f"{none:g}",
        verdict="lose" if sum(parts) < none else "gain",
    )


# --- how well the other likes each result -----------------------------------------------------------


def likings(reading: Reading, board: Board) -> dict[Result, float]:
    """The other's estimated value of every result, from what it said and offered; in bargains only the order counts."""
    if reading.facts.rules == "divide":
        weights = other_weights(reading)
        pool: dict[str, int] = reading.facts.terms["items"]
        signed = [weights[item] if reading.seat == 1 else -weights[item] for item in pool]
        # A result says what seat 0 keeps.
        base = 0.0 if reading.seat == 1 else sum(weights[item] * count for item, count in pool.items())
        kept = cast("dict[tuple[int, ...], float]", board.own)
        return {result: base + sum(map(mul, signed, result)) for result in kept}
    if reading.facts.rules == "schedule":
        return {slot: weight for slot, weight in other_slots(reading).items()}  # noqa: C416  (widens the key's type)
    return {result: -value for result, value in board.own.items()}  # one number, opposed interests


def other_weights(reading: Reading) -> dict[str, float]:
    """The other's value of one of each item, scaled so that the whole pool is worth 10 to it."""
    pool: dict[str, int] = reading.facts.terms["items"]
    words = tuple(pool)
    stated: dict[str, float] = {}
    ranks: dict[str, float] = dict.fromkeys(pool, 1.0)
    for text in reading.heard:
        points = numbers(text, words)
        if len(points) >= min(2, len(pool)):
            stated.update(points)
            continue
        for place, (item, well) in enumerate(mentions(text, words)):
            ranks[item] = (1.8, 1.0, 0.5)[min(place, 2)] if well else 0.3
    kept = _average_kept(reading, pool)
    if stated and _believable(stated, kept):
        guess = {item: stated.get(item, 0.0) for item in pool}
    else:
        if not _believable(ranks, kept):
            ranks = dict.fromkeys(pool, 1.0)
        guess = {item: (0.15 + kept[item]) * ranks[item] for item in pool} if kept else ranks
    total = sum(guess[item] * count for item, count in pool.items())
    return {item: 10 * guess[item] / total if total else 10 / sum(pool.values()) for item in pool}


def _average_kept(reading: Reading, pool: dict[str, int]) -> dict[str, float]:
    offers = reading.offers.get(reading.other, [])
    if not offers:
        return {}
    shares = dict.fromkeys(pool, 0.0)
    for offer in offers:
        for item, count in kept_by(reading, offer, 1 - reading.seat).items():
            shares[item] += count / pool[item] / len(offers)
    return shares


def _believable(stated: dict[str, float], kept: dict[str, float]) -> bool:
    """Whether stated points fit the offers: what is said to matter is not given away first."""
    if not kept:
        return True
    ranked = sorted(stated, key=lambda item: stated[item])
    low, high = ranked[0], ranked[-1]
    return stated[low] == stated[high] or kept[high] >= kept[low]


def other_slots(reading: Reading) -> dict[str, float]:
    """The other's estimated weight of every slot, from -5 (busy) to 10."""
    slots: list[str] = reading.facts.terms["slots"]
    guess = dict.fromkeys(slots, 1.0)
    for text in reading.heard:
        points = dict(numbers(text, tuple(slots)))
        for place, (slot, well) in enumerate(mentions(text, tuple(slots))):
            guess[slot] = float(points.get(slot, max(4, 9 - place))) if well else -5.0
    for index, offer in enumerate(reading.offers.get(reading.other, [])):
        guess[str(offer)] = max(guess[str(offer)], 9.0 - 0.5 * index)
    return guess


def ranked_items(values: dict[str, Any]) -> list[str]:
    """Names by falling value."""
    return sorted(values, key=lambda name: -values[name])


def best_of(candidates: Sequence[Result], liking: dict[Result, float], own: dict[Result, float]) -> Result:
    """What the other likes best among results; the own value decides between equals."""
    return max(candidates, key=lambda result: (round(liking[result], 6), own[result]))
