"""Rules that bind, and what results are worth: `base` has the formulas, `families` the seven rule sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sotopia_env.errors import unknown
from sotopia_env.rules.base import (
    RULES,
    Outcome,
    Outcomes,
    Result,
    Rules,
    Table,
    outcomes,
    replay_table,
    rules_of,
    table_for,
)
from sotopia_env.rules.families import FAMILIES
from sotopia_env.rules.readers import listed, plain_name, whole_number

if TYPE_CHECKING:
    from sotopia_env.tasks import Task

__all__ = [
    "Outcome",
    "Outcomes",
    "RULES",
    "Result",
    "Rules",
    "Table",
    "brief",
    "check_task",
    "listed",
    "outcomes",
    "plain_name",
    "replay_table",
    "rules_of",
    "table_for",
    "whole_number",
]


RULES.update({rules.name: rules for rules in FAMILIES})


def check_task(task: Task) -> None:
    """Raise ValueError, naming the field, if a task cannot be played under the rules it names."""
    name = task.terms["rules"]
    rules = rules_of(task)
    if rules is None:
        raise ValueError("terms.rules: " + unknown("rule set", name, RULES))
    low, high = rules.seats
    if not low <= len(task.seats) <= high:
        need = f"{low}" if low == high else f"{low} to {high}"
        raise ValueError(f"seats: {name!r} needs {need} seats, got {len(task.seats)}")
    rules.check(task)
    if name != "secret":
        found = outcomes(task)
        stuck = [i for i, (b, d) in enumerate(zip(found.best, found.no_deal, strict=True)) if b <= d]
        if found.zone and stuck:
            raise ValueError(
                f"seats.{stuck[0]}: there is a zone of agreement but nothing for this seat to gain, so its goal "
                "would be undefined; change its private values"
            )
        if found.zone and found.top <= 0:
            raise ValueError(
                "seats: there is a zone of agreement but no result in which the seats gain together, so welfare "
                "would be undefined; change the private values"
            )


def brief(task: Task, seat: int) -> list[str]:
    """What a seat is told about the rules: what binds, its private facts, and what results are worth."""
    rules = rules_of(task)
    assert rules is not None, "only called for tasks with rules"
    return [
        *rules.worth(task, seat),
        "",
        'Talk freely, but only an action of type "action" whose whole argument is one of these binds:',
        *rules.how(task, seat),
    ]
