"""Readers of commands, public terms and private facts; every complaint names the field."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sotopia_env.actions import MAX_ARGUMENT_LENGTH

if TYPE_CHECKING:
    from sotopia_env.tasks import Task


def did_not_count(keyword: str, rest: str, remedy: str) -> str:
    """Word the note on a command that does not parse."""
    quoted = json.dumps(f"{keyword} {rest}".strip()[:120], ensure_ascii=False)
    return f"{quoted} did not count: {remedy}."[:MAX_ARGUMENT_LENGTH]


def whole_number(text: str, low: int, high: int) -> int | None:
    """Read a whole number in [low, high], with a currency sign or thousands comma forgiven."""
    match = re.fullmatch(r"\s*[$€£]?\s*(\d{1,3}(?:,\d{3})+|\d{1,9})\s*", text, re.ASCII)
    if match is None:
        return None
    number = int(match[1].replace(",", ""))
    return number if low <= number <= high else None


def listed(text: str, options: Sequence[str]) -> str | None:
    """The option that `text` names, caseless and with white space folded, or None."""
    wanted = plain_name(text)
    return next((option for option in options if plain_name(option) == wanted), None)


def plain_name(text: str) -> str:
    """Fold case and white space, so that names compare as people would."""
    return " ".join(text.split()).casefold()


def clip(value: float, low: float, high: float) -> float:
    """Bound a number."""
    return float(min(max(value, low), high))


def private_number(task: Task, seat: int, key: str) -> float:
    """A number among a seat's private facts.

    Raises:
        ValueError: If it is missing or of another form; names the field.
    """
    value = task.seats[seat].private.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"seats.{seat}.private.{key} must be a number, got {value!r}")
    return float(value)


def private_entry(task: Task, seat: int, key: str, name: str) -> float:
    """A number in a table among a seat's private facts.

    Raises:
        ValueError: If it is missing or of another form; names the field.
    """
    table = task.seats[seat].private.get(key)
    value = table.get(name) if isinstance(table, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"seats.{seat}.private.{key}.{name} must be a number, got {value!r}")
    return float(value)


def public_names(task: Task, key: str) -> list[str]:
    """A list of distinct names among the public terms.

    Raises:
        ValueError: If it is missing or of another form; names the field.
    """
    value = task.terms.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise ValueError(f"terms.{key} must be a list of names, got {value!r:.80}")
    if len({plain_name(v) for v in value}) != len(value):  # type: ignore[arg-type]
        raise ValueError(f"terms.{key} names something twice: {value!r:.120}")
    return value  # type: ignore[return-value]


def check_public_range(task: Task, low: str, high: str) -> None:
    """Check that two public terms are whole numbers in order.

    Raises:
        ValueError: If it is missing or of another form; names the field.
    """
    first, last = task.terms.get(low), task.terms.get(high)
    fine = isinstance(first, int) and isinstance(last, int) and 0 <= first < last <= 100_000
    if not fine:
        raise ValueError(
            f"terms.{low} and terms.{high} must be whole numbers in order, got {first!r:.80} and {last!r:.80}; allowed "
            "are 0 to 100000"
        )


def item_counts(task: Task) -> dict[str, int]:
    """The items to divide, with how many there are of each.

    Raises:
        ValueError: If it is missing or of another form; names the field.
    """
    pool = task.terms.get("items")
    if not isinstance(pool, dict) or not pool:
        raise ValueError(f"terms.items must map items to counts, got {pool!r:.80}")
    for item, count in pool.items():
        if item != item.casefold() or len(item.split()) != 1 or "=" in item or not isinstance(count, int) or count < 1:
            raise ValueError(f"terms.items.{item} must be one lower-case word with a count of 1 or more, got {count!r}")
    return pool  # type: ignore[return-value]


def friend_list(task: Task, seat: int) -> dict[str, str]:
    """A seat's friends, with a trait of each.

    Raises:
        ValueError: If it is missing or of another form; names the field.
    """
    friends = task.seats[seat].private.get("friends")
    if not isinstance(friends, dict) or len(friends) < 1:
        raise ValueError(f"seats.{seat}.private.friends must map names to a trait each, got {friends!r:.80}")
    return friends  # type: ignore[return-value]


def fact_values(task: Task) -> dict[str, list[str]]:
    """The public values of every fact.

    Raises:
        ValueError: If it is missing or of another form; names the field.
    """
    facts = task.terms.get("facts")
    if not isinstance(facts, dict) or not all(isinstance(v, list) and len(v) >= 2 for v in facts.values()):
        raise ValueError(f"terms.facts must map facts to lists of values, got {facts!r:.80}")
    return facts  # type: ignore[return-value]


def show_limit(task: Task) -> int:
    """How many appeals count.

    Raises:
        ValueError: If it is missing or of another form; names the field.
    """
    value: Any = task.terms.get("shows", 3)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"terms.shows must be a whole number of 0 or more, got {value!r}")
    return value
