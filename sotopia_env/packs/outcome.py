"""The generated pack: seven families whose outcomes are computed (rules and formulas: `sotopia_env.rules`).

A task is a pure function of (family, split, seed, index, seats): the same call gives the same tasks
in any process, and the first tasks of a longer list are those of a shorter one. The split's name
enters the seed. `train` and `validation` share wordings; names of people differ between all splits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from sotopia_env.errors import ConfigurationError, TaskNotFoundError, unknown
from sotopia_env.packs.wordings import (
    APPEALS,
    FACT_VALUES,
    FIRST_NAMES,
    LAST_NAMES,
    OCCUPATIONS,
    TRAITS,
    WORDINGS,
    Wording,
)
from sotopia_env.rules import RULES, outcomes
from sotopia_env.tasks import SPLITS, CharacterProfile, Seat, Task

FAMILIES: tuple[str, ...] = tuple(WORDINGS)
TWO_SEAT_FAMILIES: tuple[str, ...] = tuple(name for name in FAMILIES if RULES[name].seats == (2, 2))

NO_ZONE_SHARE = 0.125
"""Share of tasks without any possible agreement, in the families that have such tasks."""

Facts = tuple[dict[str, Any], list[dict[str, Any]]]
"""Public terms, and private facts by seat."""


def generate(family: str | None, *, split: str, n: int, seed: int, seats: int | None = None) -> list[Task]:
    """Make `n` tasks of one family, or of the two-seat families in turn.

    Raises:
        TaskNotFoundError: For an unknown family.
        ConfigurationError: If `seats` is given for a family whose number of seats is fixed.
    """
    if family is not None and family not in FAMILIES:
        raise TaskNotFoundError(unknown("family of 'outcome'", family, FAMILIES))
    families = [family] if family else list(TWO_SEAT_FAMILIES)
    if seats is not None:
        low, high = RULES[families[0]].seats
        if family is None or not low <= seats <= high:
            raise ConfigurationError(
                f"seats={seats!r} does not fit {('outcome/' + family) if family else 'outcome'!r}, which has "
                f"{low if low == high else f'{low} to {high}'} seats. Leave it out or use 'outcome/committee'."
            )
    return [
        make_task(families[i % len(families)], split=split, seed=seed, index=i // len(families), seats=seats)
        for i in range(n)
    ]


def make_task(family: str, *, split: str, seed: int, index: int, seats: int | None = None) -> Task:
    """Make one task; redraws its numbers until every seat can gain something or nobody can."""
    count = seats or RULES[family].seats[0]
    draw = random.Random(f"outcome/{family}/{split}/{seed}/{index}/{count}")
    wording = draw.choice(WORDINGS[family]["test" if split == "test" else "train"])
    thing = draw.choice(wording.things)
    relationship = draw.choice(wording.relationships)
    people = _people(draw, split, count)
    suffix = f"-{count}" if count != RULES[family].seats[0] else ""
    no_zone = family in _HAS_NO_ZONE and draw.random() < NO_ZONE_SHARE
    for _ in range(1000):
        terms, private = _MAKERS[family](draw, thing, people, no_zone)
        try:
            task = Task(
                id=f"outcome/{family}{suffix}/{split}/{seed}/{index}",
                pack="outcome",
                family=family,
                split=split,  # type: ignore[arg-type]
                scenario=wording.scenario.replace("{thing}", _public(family, thing, terms)),
                relationship=relationship,  # type: ignore[arg-type]
                terms={"rules": family, **terms},
                seats=tuple(
                    Seat(character=person, goal=_goal(wording, i), private=private[i])
                    for i, person in enumerate(people)
                ),
            )
        except ValidationError:
            continue  # a zone in which some seat has nothing to gain: draw other numbers
        if family == "secret" or outcomes(task).zone is not no_zone:
            return task
    raise AssertionError(f"no valid task in 1000 draws for {family!r}, seed {seed}, index {index}")


def _goal(wording: Wording, seat: int) -> str:
    return wording.goals[min(seat, len(wording.goals) - 1)]


def _public(family: str, thing: str, terms: dict[str, Any]) -> str:
    if family == "divide":
        items = [
            f"{count} {item}{'s' if count > 1 and not item.endswith('s') else ''}"
            for item, count in terms["items"].items()
        ]
        return ", ".join(items[:-1]) + " and " + items[-1]
    return thing


def _people(draw: random.Random, split: str, count: int) -> list[CharacterProfile]:
    names = _names(draw, split, count)
    return [
        CharacterProfile(
            id=name.casefold().replace(" ", "-"),
            name=name,
            age=draw.randint(21, 70),
            occupation=draw.choice(OCCUPATIONS),
        )
        for name in names
    ]


def _names(draw: random.Random, split: str, count: int) -> list[str]:
    first = draw.sample(FIRST_NAMES[SPLITS.index(split) :: len(SPLITS)], count)
    last = draw.sample(LAST_NAMES, count)
    return [f"{a} {b}" for a, b in zip(first, last, strict=True)]


# --- one maker per family: numbers only, validity is checked above ---------------------------------


def _bargain(draw: random.Random, thing: str, people: Sequence[CharacterProfile], no_zone: bool) -> Facts:
    low = draw.randint(10, 60)
    gap = draw.randint(8, 30)
    seller, buyer = (low + gap, low) if no_zone else (low, low + gap)
    terms = {"item": thing, "currency": "dollars", "roles": ["seller", "buyer"], "lowest": 1, "highest": 120}
    return terms, [{"value": seller}, {"value": buyer}]


def _divide(draw: random.Random, thing: str, people: Sequence[CharacterProfile], no_zone: bool) -> Facts:
    items = thing.split()
    counts = {item: draw.randint(1, 3) for item in items}
    while not 5 <= sum(counts.values()) <= 7:
        counts = {item: draw.randint(1, 3) for item in items}
    private = [{"values": _points(draw, counts), "outside": draw.randint(2, 4)} for _ in people]
    return {"items": counts}, private


def _points(draw: random.Random, counts: dict[str, int]) -> dict[str, int]:
    """Whole points per item whose total over all items is 10, as in Deal-or-No-Deal."""
    items = list(counts)
    while True:
        worth = {item: draw.randint(0, 10 // counts[item]) for item in items}
        if sum(worth[item] * counts[item] for item in items) == 10:
            return worth


def _schedule(draw: random.Random, thing: str, people: Sequence[CharacterProfile], no_zone: bool) -> Facts:
    days = sorted(draw.sample(range(5), 4))
    hours = sorted(draw.sample((9, 11, 14, 16, 18), 2))
    slots = [f"{('Mon', 'Tue', 'Wed', 'Thu', 'Fri')[day]} {hour:02d}:00" for day in days for hour in hours]
    free = [{slot for slot in slots if draw.random() < 0.55} for _ in people]
    if no_zone:
        free[1] -= free[0]
    private = [{"weights": {slot: draw.randint(1, 10) if slot in own else -5 for slot in slots}} for own in free]
    return {"slots": slots}, private


def _mutual_friend(draw: random.Random, thing: str, people: Sequence[CharacterProfile], no_zone: bool) -> Facts:
    size = draw.randint(10, 12)
    taken = {person.name for person in people}
    pool: list[str] = []
    while len(pool) < 2 * size - 1:
        name = f"{draw.choice(FIRST_NAMES)} {draw.choice(LAST_NAMES)}"
        if name not in taken:
            taken.add(name)
            pool.append(name)
    traits = {name: draw.choice(TRAITS) for name in pool}
    shared = [] if no_zone else [pool.pop()]
    lists = [pool[: size - len(shared)] + shared, pool[size - len(shared) : 2 * (size - len(shared))] + shared]
    for names in lists:
        draw.shuffle(names)
    return {}, [{"friends": {name: traits[name] for name in names}} for names in lists]


def _secret(draw: random.Random, thing: str, people: Sequence[CharacterProfile], no_zone: bool) -> Facts:
    names = draw.sample(sorted(FACT_VALUES), 4)
    values = {name: draw.sample(FACT_VALUES[name], 10) for name in names}
    facts = {name: draw.choice(values[name]) for name in names}
    terms = {"roles": ["keeper", "seeker"], "facts": values, "secret": draw.choice(names)}
    return terms, [{"facts": facts}, {}]


def _donate(draw: random.Random, thing: str, people: Sequence[CharacterProfile], no_zone: bool) -> Facts:
    appeals = draw.sample(APPEALS, 6)
    budget = draw.choice((30, 40, 50, 60))
    base = draw.randint(-45, -30) if no_zone else draw.randint(0, 10)
    weights = {appeal: draw.choice((-4, 0, 0, 2, 4, 6, 8, 10)) for appeal in appeals}
    terms = {
        "cause": thing,
        "currency": "dollars",
        "roles": ["persuader", "donor"],
        "appeals": appeals,
        "shows": 3,
        "budget": budget,
    }
    return terms, [{}, {"base": base, "weights": weights}]


def _committee(draw: random.Random, thing: str, people: Sequence[CharacterProfile], no_zone: bool) -> Facts:
    options = thing.split()
    private = [
        {"values": {option: draw.randint(0, 10) for option in options}, "threshold": draw.randint(2, 4)} for _ in people
    ]
    return {"options": options}, private


_MAKERS: dict[str, Callable[[random.Random, str, Sequence[CharacterProfile], bool], Facts]] = {
    "bargain": _bargain,
    "divide": _divide,
    "schedule": _schedule,
    "mutual_friend": _mutual_friend,
    "secret": _secret,
    "donate": _donate,
    "committee": _committee,
}
_HAS_NO_ZONE = ("bargain", "schedule", "mutual_friend", "donate")
