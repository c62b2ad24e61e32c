"""The numbers that make one strategy differ from another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Temper:
    """How a strategy deals.

    Attributes:
        name: The strategy.
        opening, closing: Share of what it hopes for that it asks at first and in the last turns.
        curve: Exponent of time between the two: above 1 it gives in late, below 1 early.
        floor: Smallest share it accepts at its last chance.
        listens: Whether it shapes offers by what the other seems to like.
        matches: Whether it gives in only about as far as the other does.
        candour: "open" (says truly what matters to it), "coy" (says little) or "false".
        talk: Every how many own moves it speaks instead of making a new offer; 0 for never.
        batch: How many friends it names at a time.
        tells: How many of the other facts it puts on record as a keeper of a secret.
    """

    name: str
    opening: float
    closing: float
    curve: float
    floor: float
    listens: bool
    matches: bool
    candour: str
    talk: int
    batch: int
    tells: int

    def ask(self, progress: float) -> float:
        """Share of what it hopes for that it asks at a time from 0 to 1."""
        gone: float = progress**self.curve
        return self.opening - (self.opening - self.closing) * gone


FAIR = Temper("fair", 0.8, 0.25, 1.0, 0.15, True, True, "open", 3, 2, 3)
TOUGH = Temper("tough", 0.95, 0.45, 2.5, 0.25, False, False, "coy", 4, 1, 2)
SOFT = Temper("soft", 0.6, 0.08, 0.6, 0.03, True, False, "open", 3, 3, 3)
STUBBORN = Temper("stubborn", 0.5, 0.5, 1.0, 0.35, False, False, "coy", 2, 2, 1)
DECEPTIVE = Temper("deceptive", 0.9, 0.3, 1.5, 0.15, False, False, "false", 3, 2, 2)

TEMPERS = {temper.name: temper for temper in (FAIR, TOUGH, SOFT, STUBBORN, DECEPTIVE)}
