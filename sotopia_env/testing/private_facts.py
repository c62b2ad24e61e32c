"""Tasks that differ in what one seat alone knows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from sotopia_env.tasks import Task


def with_other_secrets(task: Task, agent: str, *, seed: int = 0) -> Task:
    """Make the same task with another goal, secret and private facts of one seat, and nothing else changed.

    Args:
        task: Any task; its rules, if it has any, hold in the result as well.
        agent: Whose seat changes.
        seed: Which other facts are drawn.

    Raises:
        ValueError: If no valid other facts were found in 1,000 draws.
    """
    index = task.agents.index(agent)
    draw = random.Random(f"{task.id}/{agent}/{seed}")
    record = task.model_dump(mode="json")
    seat = record["seats"][index]
    for attempt in range(1000):
        mark = f"{draw.getrandbits(32):08x}"
        # Names in private tables are free in some rule sets and fixed by the terms in others.
        private = _redrawn(seat["private"], draw, task.terms, rename=attempt % 2 == 0)
        character = {**seat["character"], "secret": f"You keep {mark} to yourself."}
        changed = {**seat, "character": character, "goal": f"You want {mark}.", "private": private}
        if private == seat["private"] and private:
            continue
        try:
            return Task.model_validate(
                {**record, "seats": [*record["seats"][:index], changed, *record["seats"][index + 1 :]]}
            )
        except ValidationError:
            continue
    raise ValueError(f"No other valid private facts of {agent!r} in task {task.id!r} were found in 1,000 draws.")


def _redrawn(value: Any, draw: random.Random, terms: Any, rename: bool) -> Any:
    """JSON of the same form with other content."""
    if isinstance(value, dict):
        return {
            (f"{key} {draw.randint(10, 99)}" if rename and draw.random() < 0.5 else key): _redrawn(
                inner, draw, terms, rename
            )
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_redrawn(inner, draw, terms, rename) for inner in value]
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return draw.randint(-5, 10) if abs(value) <= 10 else draw.randint(1, 2 * int(abs(value)))
    siblings = next((lst for lst in _lists(terms) if value in lst), None)
    return draw.choice(siblings) if siblings else f"{value} ({draw.randint(0, 99)})"


def _lists(value: Any) -> Iterator[list[Any]]:
    """Every list within public terms: the values that a private fact may take."""
    if isinstance(value, list):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _lists(inner)
