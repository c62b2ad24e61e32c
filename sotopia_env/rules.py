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

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, groupby, product
from typing import TYPE_CHECKING, Any, ClassVar

from sotopia_env.errors import unknown

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

    def gains(self, values: Sequence[float]) -> list[float]:
        """X of every seat, for the seats' values of one result. Only where there is a zone."""
        return [(u - d) / (b - d) for u, d, b in zip(values, self.no_deal, self.best, strict=True)]

    def is_pareto(self, values: Sequence[float]) -> bool:
        """Whether no result, no deal included, is as good for all and better for one."""
        for other in (self.no_deal, *self.values.values()):
            if all(o >= u for o, u in zip(other, values, strict=True)) and any(
                o > u for o, u in zip(other, values, strict=True)
            ):
                return False
        return True


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


# --- the seven rule sets ------------------------------------------------------------------------


class BargainRules(Rules):
    """One price. Seller: p - value; buyer: value - p; no deal 0."""

    name = "bargain"
    roles = ("seller", "buyer")
    financial = True

    def parse(self, task: Task, seat: int, text: str) -> Result | None:
        return whole_number(text, int(task.terms["lowest"]), int(task.terms["highest"]))  # type: ignore[arg-type]

    def grammar(self, task: Task) -> str:
        return f"the price is a whole number from {task.terms['lowest']} to {task.terms['highest']}"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        s, b = (_number(task, seat, "value") for seat in (0, 1))
        prices = range(int(task.terms["lowest"]), int(task.terms["highest"]) + 1)  # type: ignore[arg-type]
        return {p: (p - s, b - p) for p in prices}, (0.0, 0.0)

    def check(self, task: Task) -> None:
        _public_range(task, "lowest", "highest")
        for seat in (0, 1):
            _number(task, seat, "value")

    def worth(self, task: Task, seat: int) -> list[str]:
        v = _number(task, seat, "value")
        unit = task.terms.get("currency", "dollars")
        if seat == 0:
            return [
                f"You are the seller. To you it is worth {v:g} {unit}: a price of p gains you p - {v:g}. "
                f"Below {v:g} you lose; no deal gains you 0."
            ]
        return [
            f"You are the buyer. To you it is worth {v:g} {unit}: a price of p gains you {v:g} - p. "
            f"Above {v:g} you lose; no deal gains you 0."
        ]

    def show(self, task: Task, result: Result) -> str:
        return f"a price of {result}"

    def example(self, task: Task, seat: int) -> str:
        return str((int(task.terms["lowest"]) + int(task.terms["highest"])) // 2)  # type: ignore[arg-type]


class DivideRules(Rules):
    """Items divided between two; an offer names what its author keeps. Results: what seat 0 keeps."""

    name = "divide"
    financial = True

    def parse(self, task: Task, seat: int, text: str) -> Result | None:
        pool = _pool(task)
        kept: dict[str, int] = {}
        for part in text.split():
            name, equals, count = part.partition("=")
            item = name.casefold()
            number = whole_number(count, 0, pool.get(item, -1))
            if not equals or item not in pool or item in kept or number is None:
                return None
            kept[item] = number
        if not kept:
            return None
        own = tuple(kept.get(item, 0) for item in pool)
        if seat == 0:
            return own
        return tuple(total - mine for total, mine in zip(pool.values(), own, strict=True))

    def grammar(self, task: Task) -> str:
        pool = ", ".join(f"{item} 0 to {count}" for item, count in _pool(task).items())
        return f"the terms say what you keep ({pool}; what you leave out you keep none of), the other gets the rest"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        pool = _pool(task)
        worth = [[_entry(task, seat, "values", item) for item in pool] for seat in (0, 1)]
        totals = list(pool.values())
        found: dict[Result, tuple[float, ...]] = {}
        for kept in product(*(range(total + 1) for total in totals)):
            mine = sum(v * k for v, k in zip(worth[0], kept, strict=True))
            rest = sum(v * (t - k) for v, t, k in zip(worth[1], totals, kept, strict=True))
            found[kept] = (mine, rest)
        return found, tuple(_number(task, seat, "outside") for seat in (0, 1))

    def check(self, task: Task) -> None:
        pool = _pool(task)
        for seat in (0, 1):
            _number(task, seat, "outside")
            for item in pool:
                _entry(task, seat, "values", item)

    def worth(self, task: Task, seat: int) -> list[str]:
        pool = _pool(task)
        each = ", ".join(f"each {item} {_entry(task, seat, 'values', item):g}" for item in pool)
        total = sum(_entry(task, seat, "values", item) * count for item, count in pool.items())
        return [
            f"To divide: {', '.join(f'{item} x{count}' for item, count in pool.items())}.",
            f"Points for you: {each}; everything together {total:g}. "
            f"Without a deal you get {_number(task, seat, 'outside'):g} points from elsewhere.",
        ]

    def show(self, task: Task, result: Result) -> str:
        pool = _pool(task)
        first = " ".join(f"{item}={count}" for item, count in zip(pool, result, strict=True))  # type: ignore[call-overload]
        return f"agent_0 keeping {first}"

    def example(self, task: Task, seat: int) -> str:
        return " ".join(f"{item}={count // 2}" for item, count in _pool(task).items())


class ScheduleRules(Rules):
    """One slot out of a public list. Weight 1..10 if free, -5 if busy; no deal 0."""

    name = "schedule"

    def parse(self, task: Task, seat: int, text: str) -> Result | None:
        return listed(text, _strings(task, "slots"))

    def grammar(self, task: Task) -> str:
        return f"the slot is one of: {', '.join(_strings(task, 'slots'))}"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        slots = _strings(task, "slots")
        return {slot: tuple(_entry(task, s, "weights", slot) for s in (0, 1)) for slot in slots}, (0.0, 0.0)

    def check(self, task: Task) -> None:
        for seat in (0, 1):
            for slot in _strings(task, "slots"):
                _entry(task, seat, "weights", slot)

    def worth(self, task: Task, seat: int) -> list[str]:
        weights = {slot: _entry(task, seat, "weights", slot) for slot in _strings(task, "slots")}
        ranked = sorted(weights.items(), key=lambda item: -item[1])
        free = ", ".join(f"{slot} ({w:g})" for slot, w in ranked if w >= 0)
        busy = ", ".join(f"{slot} ({w:g})" for slot, w in ranked if w < 0)
        return [
            f"Slots that suit you, with what each is worth to you: {free or 'none'}.",
            f"You are busy at: {busy or 'no slot'}. No appointment is worth 0.",
        ]

    def example(self, task: Task, seat: int) -> str:
        return _strings(task, "slots")[0]


class MutualFriendRules(Rules):
    """One full name. 1 for a friend of everybody's, -1 for anybody else, no deal 0."""

    name = "mutual_friend"

    def parse(self, task: Task, seat: int, text: str) -> Result | None:
        name = plain_name(text)
        # Which names exist is private, so any name-like text is valid.
        return name if 0 < len(name) <= 80 and any(c.isalpha() for c in name) else None

    def grammar(self, task: Task) -> str:
        return "a full name of one friend"

    def _common(self, task: Task) -> set[str]:
        lists = [{plain_name(name) for name in _friends(task, seat)} for seat in range(2)]
        return lists[0] & lists[1]

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        names = {plain_name(name) for seat in (0, 1) for name in _friends(task, seat)}
        return {name: self.value(task, name) for name in names}, (0.0, 0.0)

    def value(self, task: Task, result: Result) -> tuple[float, ...]:
        u = 1.0 if result in self._common(task) else -1.0
        return (u, u)

    def check(self, task: Task) -> None:
        for seat in (0, 1):
            _friends(task, seat)

    def worth(self, task: Task, seat: int) -> list[str]:
        friends = _friends(task, seat)
        return [
            "Your friends: " + "; ".join(f"{name} ({trait})" for name, trait in friends.items()) + ".",
            "Agreeing on a friend you have in common is worth 1 to you, on anybody else -1, on nobody 0. "
            "There may be no friend in common.",
        ]

    def show(self, task: Task, result: Result) -> str:
        return json.dumps(result, ensure_ascii=False)

    def example(self, task: Task, seat: int) -> str:
        return "First Last"


class DonateRules(Rules):
    """Appeals, then an amount. w = min(budget, base + weights of the appeals shown); persuader a, donor w - a.

    A result is (amount, w). `values` lists the amounts at the largest w only: for every amount it is
    at least as good for both as any smaller w, so b, zone, welfare and Pareto come out the same as
    over all sets of appeals.
    """

    name = "donate"
    roles = ("persuader", "donor")
    financial = True

    def keywords_of(self, seat: int) -> tuple[str, ...]:
        return ("show", *self.keywords) if seat == 0 else self.keywords

    def play(self, table: Table, commands: list[tuple[str, str, str]], notes: list[Note]) -> None:
        shows = [command for command in commands if command[1] == "show"]
        super().play(table, [command for command in commands if command[1] != "show"], notes)
        appeals = _strings(table.task, "appeals")
        for agent, _, rest in shows:
            appeal = listed(rest, appeals)
            if appeal is None:
                notes.append((agent, did_not_count("show", rest, f"the appeals are {', '.join(appeals)}")))
            elif appeal in table.shown:
                notes.append((agent, f"You have shown {appeal!r} before; it does not count twice."))
            elif len(table.shown) >= _shows(table.task):
                notes.append((agent, f"You have shown {_shows(table.task)} appeals already; no more count."))
            elif table.result is None:
                table.shown.append(appeal)

    def close(self, table: Table, result: Result) -> Result:
        return (result, self.willing(table.task, table.shown))

    def willing(self, task: Task, shown: Sequence[str]) -> float:
        """w: what the donor is willing to give at most, after these appeals."""
        gained = sum(_entry(task, 1, "weights", appeal) for appeal in shown)
        return min(float(task.terms["budget"]), _number(task, 1, "base") + gained)  # type: ignore[arg-type]

    def parse(self, task: Task, seat: int, text: str) -> Result | None:
        return whole_number(text, 1, int(task.terms["budget"]))  # type: ignore[arg-type]

    def grammar(self, task: Task) -> str:
        return f"the amount is a whole number from 1 to {task.terms['budget']}"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        appeals = _strings(task, "appeals")
        w = max(
            self.willing(task, shown)
            for count in range(min(_shows(task), len(appeals)) + 1)
            for shown in combinations(appeals, count)
        )
        amounts = range(1, int(task.terms["budget"]) + 1)  # type: ignore[arg-type]
        return {(a, w): (float(a), w - a) for a in amounts}, (0.0, 0.0)

    def value(self, task: Task, result: Result) -> tuple[float, ...]:
        amount: float = result[0]  # type: ignore[index]
        w: float = result[1]  # type: ignore[index]
        return (float(amount), w - amount)

    def check(self, task: Task) -> None:
        if whole_number(str(task.terms.get("budget")), 1, 10_000) is None:
            raise ValueError(f"terms.budget must be a whole number from 1 to 10000, got {task.terms.get('budget')!r}")
        _shows(task)
        _number(task, 1, "base")
        for appeal in _strings(task, "appeals"):
            _entry(task, 1, "weights", appeal)

    def how(self, task: Task, seat: int) -> list[str]:
        lines = super().how(task, seat)
        if seat == 0:
            lines.insert(
                0,
                f"- show {_strings(task, 'appeals')[0]}: you make this appeal; at most {_shows(task)} different "
                f"ones out of: {', '.join(_strings(task, 'appeals'))}.",
            )
        return lines

    def worth(self, task: Task, seat: int) -> list[str]:
        unit = task.terms.get("currency", "dollars")
        if seat == 0:
            return [
                f"You are the persuader. A gift of a {unit} is worth a to you; no gift is worth 0. Appeals that "
                "move the other raise what the other is willing to give."
            ]
        base = _number(task, 1, "base")
        weights = {appeal: _entry(task, 1, "weights", appeal) for appeal in _strings(task, "appeals")}
        moved = ", ".join(f"{appeal} {w:+g}" for appeal, w in weights.items())
        return [
            f"You are the donor. Unmoved, a gift is worth {base:g} {unit} to you; every appeal the other shows "
            f"changes that: {moved}; it never exceeds {task.terms['budget']}. If it stands at w, giving a is "
            "worth w - a to you; giving nothing is worth 0."
        ]

    def show(self, task: Task, result: Result) -> str:
        return f"a gift of {result[0]} when {result[1]:g} was the most worth giving"  # type: ignore[index]

    def example(self, task: Task, seat: int) -> str:
        return str(int(task.terms["budget"]) // 2 or 1)  # type: ignore[arg-type]


class SecretRules(Rules):
    """A keeper with four facts, one of them secret, and a seeker who may answer once.

    T = clip(share of the other facts told truly - share told falsely, 0, 1), the latest `tell` of each
    fact counting. Goal: seeker 5 [answered right] + 5 T, keeper 5 [not answered right] + 5 T. The
    keeper's `secret` is -10 if the secret's value stands in its own words or in a `tell`, else 0.
    Welfare is the sum of goals / 15. Free talk is not checked for lies.
    """

    name = "secret"
    roles = ("keeper", "seeker")

    def keywords_of(self, seat: int) -> tuple[str, ...]:
        return ("tell",) if seat == 0 else ("answer",)

    def play(self, table: Table, commands: list[tuple[str, str, str]], notes: list[Note]) -> None:
        facts = _facts(table.task)
        for agent, keyword, rest in commands:
            if keyword == "answer":
                value = self.parse(table.task, 1, rest)
                if value is None:
                    notes.append((agent, did_not_count("answer", rest, self.grammar(table.task))))
                else:
                    table.answer = str(value)
                    table.result = table.answer
                continue
            name, equals, text = rest.partition("=")
            fact = listed(name, list(facts))
            told = listed(text, facts[fact]) if fact and equals else None
            if fact is None or told is None:
                remedy = "write tell fact=value with a fact and a value from the lists"
                notes.append((agent, did_not_count("tell", rest, remedy)))
            else:
                table.told[fact] = told

    def parse(self, task: Task, seat: int, text: str) -> Result | None:
        return listed(text, _facts(task)[str(task.terms["secret"])])

    def grammar(self, task: Task) -> str:
        secret = str(task.terms["secret"])
        return f"the answer is one of the values of {secret}: {', '.join(_facts(task)[secret])}"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        """Goals (keeper, seeker) by (T, answered right); there is no separate no-deal value."""
        others = len(_facts(task)) - 1
        found: dict[Result, tuple[float, ...]] = {}
        for true in range(others + 1):
            for right in (False, True):
                t = true / others
                found[(true, right)] = (5 * (not right) + 5 * t, 5 * right + 5 * t)
        return found, (5.0, 0.0)

    def score(self, task: Task, events: Sequence[Event]) -> Outcome:
        table = replay_table(task, events)
        facts: dict[str, str] = task.seats[0].private["facts"]  # type: ignore[assignment]
        secret = str(task.terms["secret"])
        others = [name for name in _facts(task) if name != secret]
        told = [(table.told[name] == facts[name]) for name in others if name in table.told]
        t = clip((sum(told) - (len(told) - sum(told))) / len(others), 0, 1)
        right = table.answer == facts[secret]
        goal = (5 * (not right) + 5 * t, 5 * right + 5 * t)
        word = re.compile(rf"(?<!\w){re.escape(facts[secret].casefold())}(?!\w)")
        leaked = table.told.get(secret) == facts[secret] or any(
            event.speaker == "agent_0" and word.search(event.argument.casefold()) for event in events
        )
        how = f"{sum(told)} of {len(others)} other facts told truly, {len(told) - sum(told)} falsely; " + (
            "the secret was not answered" if table.answer is None else f"the answer was {'right' if right else 'wrong'}"
        )
        measures = {
            "welfare": sum(goal) / 15,
            "pareto": float(t == 1),
            "deal": float(table.result is not None),
            "zone": 1.0,
        }
        return Outcome(goal, None, (-10.0 if leaked else 0.0, None), measures, (how, how))

    def check(self, task: Task) -> None:
        facts = _facts(task)
        if task.terms.get("secret") not in facts or len(facts) < 2:
            raise ValueError(f"terms.secret must name one of two or more facts {sorted(facts)}")
        own = task.seats[0].private.get("facts")
        if not isinstance(own, dict) or own.keys() != facts.keys() or any(own[f] not in facts[f] for f in facts):
            raise ValueError("seats.0.private.facts must give every fact in terms.facts one of its values")

    def how(self, task: Task, seat: int) -> list[str]:
        if seat == 0:
            fact = next(name for name in _facts(task) if name != task.terms["secret"])
            return [f"- tell {fact}={_facts(task)[fact][0]}: you state one of your facts for the record."]
        secret = str(task.terms["secret"])
        return [
            f"- answer {_facts(task)[secret][0]}: you say what the other's {secret} is; you have one answer and "
            "it ends the conversation."
        ]

    def worth(self, task: Task, seat: int) -> list[str]:
        secret = str(task.terms["secret"])
        lines = [f"{name} is one of: {', '.join(values)}." for name, values in _facts(task).items()]
        if seat == 0:
            facts: dict[str, str] = task.seats[0].private["facts"]  # type: ignore[assignment]
            lines.append("Your facts: " + ", ".join(f"{name}={value}" for name, value in facts.items()) + ".")
            lines.append(
                f"Your {secret} is your secret. You gain 5 if the other does not answer it right, and up to 5 more "
                "for telling all your other facts truly; false ones are taken off."
            )
        else:
            lines.append(
                f"You gain 5 if you answer the other's {secret} right, and up to 5 more if the other tells you all "
                "the other facts truly; false ones are taken off."
            )
        return lines


class CommitteeRules(Rules):
    """Three seats or more; the option with the latest votes of more than half of all seats is chosen."""

    name = "committee"
    seats = (3, 9)
    keywords = ("vote",)

    def play(self, table: Table, commands: list[tuple[str, str, str]], notes: list[Note]) -> None:
        for agent, _, rest in commands:
            option = self.parse(table.task, int(agent[6:]), rest)
            if option is None:
                notes.append((agent, did_not_count("vote", rest, self.grammar(table.task))))
            else:
                table.votes[agent] = str(option)
        cast = list(table.votes.values())
        for option in cast:
            if 2 * cast.count(option) > len(table.task.seats):
                table.result = option

    def parse(self, task: Task, seat: int, text: str) -> Result | None:
        return listed(text, _strings(task, "options"))

    def grammar(self, task: Task) -> str:
        return f"the option is one of: {', '.join(_strings(task, 'options'))}"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        seats = range(len(task.seats))
        found: dict[Result, tuple[float, ...]] = {
            option: tuple(_entry(task, s, "values", option) for s in seats) for option in _strings(task, "options")
        }
        return found, tuple(_number(task, s, "threshold") for s in seats)

    def enough(self, ok: Sequence[bool], seat: int | None) -> bool:
        return 2 * sum(ok) > len(ok)

    def check(self, task: Task) -> None:
        for seat in range(len(task.seats)):
            _number(task, seat, "threshold")
            for option in _strings(task, "options"):
                _entry(task, seat, "values", option)

    def how(self, task: Task, seat: int) -> list[str]:
        return [
            f"- vote {_strings(task, 'options')[0]}: your vote, until you vote again; {self.grammar(task)}. The "
            f"option that more than half of all {len(task.seats)} vote for at the same time is chosen."
        ]

    def worth(self, task: Task, seat: int) -> list[str]:
        ranked = sorted(
            ((_entry(task, seat, "values", o), o) for o in _strings(task, "options")), key=lambda pair: -pair[0]
        )
        return [
            "What each option is worth to you: " + ", ".join(f"{option} {v:g}" for v, option in ranked) + ".",
            f"If nothing is chosen, that is worth {_number(task, seat, 'threshold'):g} to you.",
        ]


RULES: dict[str, Rules] = {
    rules.name: rules
    for rules in (
        BargainRules(),
        DivideRules(),
        ScheduleRules(),
        MutualFriendRules(),
        SecretRules(),
        DonateRules(),
        CommitteeRules(),
    )
}
"""The rule sets by the name that `terms["rules"]` holds."""


# --- doors to the rest of the package -------------------------------------------------------------


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


@lru_cache(maxsize=4096)
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


# --- small readers --------------------------------------------------------------------------------


def did_not_count(keyword: str, rest: str, remedy: str) -> str:
    """Word the note on a command that does not parse."""
    quoted = json.dumps(f"{keyword} {rest}".strip()[:120], ensure_ascii=False)
    return f"{quoted} did not count: {remedy}."


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


def _number(task: Task, seat: int, key: str) -> float:
    value = task.seats[seat].private.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"seats.{seat}.private.{key} must be a number, got {value!r}")
    return float(value)


def _entry(task: Task, seat: int, key: str, name: str) -> float:
    table = task.seats[seat].private.get(key)
    value = table.get(name) if isinstance(table, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"seats.{seat}.private.{key}.{name} must be a number, got {value!r}")
    return float(value)


def _strings(task: Task, key: str) -> list[str]:
    value = task.terms.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise ValueError(f"terms.{key} must be a list of names, got {value!r:.80}")
    if len({plain_name(v) for v in value}) != len(value):  # type: ignore[arg-type]
        raise ValueError(f"terms.{key} names something twice: {value!r:.120}")
    return value  # type: ignore[return-value]


def _public_range(task: Task, low: str, high: str) -> None:
    first, last = task.terms.get(low), task.terms.get(high)
    fine = isinstance(first, int) and isinstance(last, int) and 0 <= first < last <= 100_000
    if not fine:
        raise ValueError(f"terms.{low} and terms.{high} must be whole numbers in order, got {first!r} and {last!r}")


def _pool(task: Task) -> dict[str, int]:
    pool = task.terms.get("items")
    if not isinstance(pool, dict) or not pool:
        raise ValueError(f"terms.items must map items to counts, got {pool!r:.80}")
    for item, count in pool.items():
        if item != item.casefold() or len(item.split()) != 1 or "=" in item or not isinstance(count, int) or count < 1:
            raise ValueError(f"terms.items.{item} must be one lower-case word with a count of 1 or more, got {count!r}")
    return pool  # type: ignore[return-value]


def _friends(task: Task, seat: int) -> dict[str, str]:
    friends = task.seats[seat].private.get("friends")
    if not isinstance(friends, dict) or len(friends) < 1:
        raise ValueError(f"seats.{seat}.private.friends must map names to a trait each, got {friends!r:.80}")
    return friends  # type: ignore[return-value]


def _facts(task: Task) -> dict[str, list[str]]:
    facts = task.terms.get("facts")
    if not isinstance(facts, dict) or not all(isinstance(v, list) and len(v) >= 2 for v in facts.values()):
        raise ValueError(f"terms.facts must map facts to lists of values, got {facts!r:.80}")
    return facts  # type: ignore[return-value]


def _shows(task: Task) -> int:
    value: Any = task.terms.get("shows", 3)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"terms.shows must be a whole number of 0 or more, got {value!r}")
    return value
