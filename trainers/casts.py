"""Who plays with whom: the one who learns, or is measured, sits in every seat equally often with every partner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Player = TypeVar("Player")
"""An agent, or its spec."""

Cast = TypeVar("Cast")
Item = TypeVar("Item")


def casts(player: Player, partners: Sequence[Player], seats: int) -> list[list[Player]]:
    """Seat a player with each partner in each seat.

    Args:
        player: Who sits in every seat once with every partner.
        partners: Who sits in the other seats; the player itself stands for the player in all seats, once. None at all
            means the same.
        seats: Number of seats.

    Returns:
        Players by seat.
    """
    found: list[list[Player]] = []
    for partner in partners or [player]:
        if partner == player:
            found.append([player] * seats)
            continue
        found += [[player if place == seat else partner for place in range(seats)] for seat in range(seats)]
    return found


def dealt(
    tasks: Sequence[Item], seated: Sequence[Cast], *, every: bool = False
) -> Iterator[tuple[Cast, Sequence[Item]]]:
    """Deal tasks out to casts, as evenly as can be, or all of them to each; casts without tasks are left out."""
    for number, cast in enumerate(seated):
        if part := tasks if every else tasks[number :: len(seated)]:
            yield cast, part


__all__ = ["casts", "dealt"]
