"""Rules that bind: which actions make a deal, and what every result is worth to every seat.

A task whose `terms["rules"]` names one of `RULES` has computed outcomes. Agents talk freely; what
binds is an `action` whose whole argument is in a small grammar, keyword caseless. Validity never
depends on private facts, so a note about a malformed command tells nothing about another seat.

Values. u_i is a seat's own value of the result, d_i that of no deal, b_i the largest u_i over the
results that every other seat values at least d_j (committee: that more than half of all seats do).
There is a zone of agreement if some such result gives every seat (committee: more than half) at
least d and one seat more. x_i = (u_i - d_i) / (b_i - d_i).

    goal_i  = clip(1 + 9 x_i, 0, 10); without a zone 10 if u_i >= d_i, else 0
    welfare = sum x / max sum x;      without a zone 1 without a deal, else 0
    pareto  = 1 if no result, no deal included, is at least as good for all and better for one

The secret family scores by what was told and answered instead; see `SecretRules`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar

from sotopia_env.rules.readers import clip, did_not_count

if TYPE_CHECKING:
    from sotopia_env.episodes import Event
    from sotopia_env.tasks import Task

Result = Hashable
"""What a deal fixes, in one canonical form per rule set; equal when the deals are equal."""

Note = tuple[str, str]
"""(agent id, text): a note of the environment that its author alone sees."""


@dataclass(frozen=True)
class Outcomes:
    """All a task can end in, and what it is worth.

    Attributes:
        values: Value to every seat, by result, no deal excluded.
        no_deal: d, by seat.
        best: b, by seat (d where there is no zone).
        zone: Whether there is a zone of agreement.
        top: The largest sum of x over all results; 0 where there is no zone.
    """

    values: dict[Result, tuple[float, ...]]
    no_deal: tuple[float, ...]
    best: tuple[float, ...]
    zone: bool
    top: float
    _pareto: dict[tuple[float, ...], bool] = field(default_factory=dict, compare=False, repr=False)

    def gains(self, values: Sequence[float]) -> list[float]:
        """X of every seat, for the seats' values of one result. Only where there is a zone."""
        return [(u - d) / (b - d) for u, d, b in zip(values, self.no_deal, self.best, strict=True)]

    def is_pareto(self, values: tuple[float, ...]) -> bool:
        """Whether no result, no deal included, is as good for all and better for one."""
        known = self._pareto.get(values)
        if known is None:
            others = (self.no_deal, *self.values.values())
            known = self._pareto[values] = not any(_dominates(other, values) for other in others)
        return known


def _dominates(other: Sequence[float], values: Sequence[float]) -> bool:
    pairs = list(zip(other, values, strict=True))
    return all(o >= u for o, u in pairs) and any(o > u for o, u in pairs)


@dataclass(frozen=True)
class Outcome:
    """How one conversation came out under its task's rules, by seat.

    Attributes:
        goal: 0 to 10.
        financial: -5 to 5, or `None` where the rule set or the missing zone leaves it undefined.
        secret: -10 or 0 for a seat with a secret under the rules, else `None`.
        measures: welfare, pareto, deal and zone of the whole.
        reasons: How each goal came about, in words.
    """

    goal: tuple[float, ...]
    financial: tuple[float, ...] | None
    secret: tuple[float | None, ...]
    measures: dict[str, float]
    reasons: tuple[str, ...]


@dataclass
class Table:
    """What lies on the table: the mutable state of a task's rules during one conversation."""

    task: Task
    rules: Rules
    result: Result | None = None
    offers: dict[str, Result] = field(default_factory=dict)
    votes: dict[str, str] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)
    answer: str | None = None

    def play(self, events: Sequence[Event]) -> list[Note]:
        """Take one turn's events; close the deal if they do; return notes on what did not count."""
        notes: list[Note] = []
        commands: list[tuple[str, str, str]] = []
        for event in events:
            command = self.rules.command(self.task, event)
            if command is not None:
                commands.append((event.speaker, *command))
        if commands:
            self.rules.play(self, commands, notes)
        return notes


class Rules(ABC):
    """One rule set; stateless."""

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]] = ()
    """Public role of every seat, or () if all seats are alike."""
    seats: ClassVar[tuple[int, int]] = (2, 2)
    """Smallest and largest number of seats."""
    keywords: ClassVar[tuple[str, ...]] = ("offer", "accept", "reject")
    financial: ClassVar[bool] = False

    # What binds ------------------------------------------------------------------------------

    def keywords_of(self, seat: int) -> tuple[str, ...]:
        """The keywords that bind for a seat; anything else it does is a gesture."""
        return self.keywords

    def command(self, task: Task, event: Event) -> tuple[str, str] | None:
        """(keyword, rest) of an event that is meant to bind, else None."""
        if event.action_type != "action":
            return None
        words = event.argument.split(None, 1)
        if not words:
            return None
        keyword = words[0].casefold()
        if keyword not in self.keywords_of(int(event.speaker[6:])):
            return None
        return keyword, words[1].strip() if len(words) > 1 else ""

    def play(self, table: Table, commands: list[tuple[str, str, str]], notes: list[Note]) -> None:
        """Standing offers of two seats: offer, accept, reject. Accepts see the start of the turn."""
        standing = dict(table.offers)
        accepted: list[Result] = []
        for agent, keyword, rest in commands:
            other = table.task.agents[1 - int(agent[6:])]
            if keyword == "offer":
                result = self.parse(table.task, int(agent[6:]), rest)
                if result is None:
                    notes.append((agent, did_not_count("offer", rest, self.grammar(table.task))))
                else:
                    table.offers[agent] = result
            elif rest:
                notes.append((agent, did_not_count(keyword, rest, f"write {keyword!r} alone")))
            elif other not in standing:
                notes.append((agent, f"Your {keyword!r} did not count: there is no offer of the other's."))
            elif keyword == "accept":
                accepted.append(standing[other])
            elif table.offers.get(other) == standing[other]:
                del table.offers[other]
        if accepted and all(result == accepted[0] for result in accepted):
            table.result = self.close(table, accepted[0])

    def close(self, table: Table, result: Result) -> Result:
        """The result as it is valued, given all that happened before the deal."""
        return result

    @abstractmethod
    def parse(self, task: Task, seat: int, text: str) -> Result | None:
        """Read the terms of an offer by `seat`; None if they are not valid."""

    @abstractmethod
    def grammar(self, task: Task) -> str:
        """What a valid offer looks like, in one clause."""

    # What it is worth ------------------------------------------------------------------------

    @abstractmethod
    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        """Every result's value to every seat, and the values of no deal."""

    def value(self, task: Task, result: Result) -> tuple[float, ...]:
        """One result's value to every seat."""
        return outcomes(task).values[result]

    def enough(self, ok: Sequence[bool], seat: int | None) -> bool:
        """Whether a result is acceptable, given who values it at least d; `seat` None: to all."""
        return all(fine for j, fine in enumerate(ok) if j != seat)

    def score(self, task: Task, events: Sequence[Event]) -> Outcome:
        """Score a finished conversation by the formulas above."""
        table = replay_table(task, events)
        found = outcomes(task)
        closed = table.result is not None
        values = self.value(task, table.result) if closed else found.no_deal
        if found.zone:
            gains = found.gains(values)
            goal = tuple(clip(1 + 9 * x, 0, 10) for x in gains)
            welfare = sum(gains) / found.top
        else:
            gains = None
            goal = tuple(10.0 if u >= d else 0.0 for u, d in zip(values, found.no_deal, strict=True))
            welfare = 0.0 if closed else 1.0
        how = f"deal on {self.show(task, table.result)}" if closed else "no deal"
        zone = "" if found.zone else "; no agreement was possible without a loss"
        reasons = tuple(
            f"{how}, worth {u:g} to this seat (no deal {d:g}, best {b:g}){zone}"
            for u, d, b in zip(values, found.no_deal, found.best, strict=True)
        )
        financial = tuple(5 * clip(x, -1, 1) for x in gains) if self.financial and gains else None
        measures = {
            "welfare": float(welfare),
            "pareto": float(found.is_pareto(values)),
            "deal": float(closed),
            "zone": float(found.zone),
        }
        return Outcome(goal, financial, (None,) * len(goal), measures, reasons)

    def show(self, task: Task, result: Result) -> str:
        """A result in words."""
        return str(result)

    # What a task must hold ---------------------------------------------------------------------

    @abstractmethod
    def check(self, task: Task) -> None:
        """Raise ValueError, naming the field, if terms or private facts do not fit the rules."""

    # What a seat is told -----------------------------------------------------------------------

    @abstractmethod
    def worth(self, task: Task, seat: int) -> list[str]:
        """The seat's private facts and what results are worth to it, in words."""

    def how(self, task: Task, seat: int) -> list[str]:
        """The grammar, in words, one line per command."""
        return [
            f"- offer {self.example(task, seat)}: you propose this; {self.grammar(task)}. It replaces your "
            "earlier offer.",
            "- accept: you take the other's standing offer, and the deal is closed.",
            "- reject: you turn the other's standing offer down.",
        ]

    def example(self, task: Task, seat: int) -> str:
        """The terms of an example offer, made of public facts only."""
        return "..."


RULES: dict[str, Rules] = {}
"""The rule sets by the name that `terms["rules"]` holds; filled by the package from `families`."""


def rules_of(task: Task) -> Rules | None:
    """The rule set of a task, or None if nothing binds in it."""
    name = task.terms.get("rules")
    return RULES.get(name) if isinstance(name, str) else None


def table_for(task: Task) -> Table | None:
    """An empty table for a task with rules, else None."""
    rules = rules_of(task)
    return Table(task, rules) if rules is not None else None


def replay_table(task: Task, events: Sequence[Event]) -> Table:
    """Play recorded events on a fresh table, turn by turn."""
    table = table_for(task)
    assert table is not None, "only called for tasks with rules"
    binding = [event for event in events if event.action_type == "action" and event.speaker != "environment"]
    for _, turn in groupby(binding, key=lambda event: event.turn):
        if table.result is None:
            table.play(list(turn))
    return table


@lru_cache(maxsize=512)
def outcomes(task: Task) -> Outcomes:
    """Everything a task with rules can end in, enumerated once per task."""
    rules = rules_of(task)
    assert rules is not None, "only called for tasks with rules"
    values, no_deal = rules.values(task)
    seats = range(len(task.seats))
    ok = {result: [u >= d for u, d in zip(us, no_deal, strict=True)] for result, us in values.items()}
    zone = any(
        rules.enough(ok[result], None) and any(u > d for u, d in zip(us, no_deal, strict=True))
        for result, us in values.items()
    )
    if not zone:
        return Outcomes(values, no_deal, no_deal, zone=False, top=0.0)
    best = tuple(
        max((us[i] for result, us in values.items() if rules.enough(ok[result], i)), default=no_deal[i]) for i in seats
    )
    if any(b <= d for b, d in zip(best, no_deal, strict=True)):
        return Outcomes(values, no_deal, best, zone=True, top=0.0)
    found = Outcomes(values, no_deal, best, zone=True, top=0.0)
    top = max(sum(found.gains(us)) for us in values.values())
    return Outcomes(values, no_deal, best, zone=True, top=top)
