"""The seven rule sets: what binds in each family, what results are worth, and what a seat is told."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING

from sotopia_env.rules.base import Note, Outcome, Result, Rules, Table, replay_table
from sotopia_env.rules.readers import (
    check_public_range,
    clip,
    did_not_count,
    fact_values,
    friend_list,
    item_counts,
    listed,
    plain_name,
    private_entry,
    private_number,
    public_names,
    show_limit,
    whole_number,
)

if TYPE_CHECKING:
    from sotopia_env.episodes import Event
    from sotopia_env.tasks import Task


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
        s, b = (private_number(task, seat, "value") for seat in (0, 1))
        prices = range(int(task.terms["lowest"]), int(task.terms["highest"]) + 1)  # type: ignore[arg-type]
        return {p: (p - s, b - p) for p in prices}, (0.0, 0.0)

    def check(self, task: Task) -> None:
        check_public_range(task, "lowest", "highest")
        for seat in (0, 1):
            private_number(task, seat, "value")

    def worth(self, task: Task, seat: int) -> list[str]:
        v = private_number(task, seat, "value")
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
        pool = item_counts(task)
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
        pool = ", ".join(f"{item} 0 to {count}" for item, count in item_counts(task).items())
        return f"the terms say what you keep ({pool}; what you leave out you keep none of), the other gets the rest"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        pool = item_counts(task)
        worth = [[private_entry(task, seat, "values", item) for item in pool] for seat in (0, 1)]
        totals = list(pool.values())
        found: dict[Result, tuple[float, ...]] = {}
        for kept in product(*(range(total + 1) for total in totals)):
            mine = sum(v * k for v, k in zip(worth[0], kept, strict=True))
            rest = sum(v * (t - k) for v, t, k in zip(worth[1], totals, kept, strict=True))
            found[kept] = (mine, rest)
        return found, tuple(private_number(task, seat, "outside") for seat in (0, 1))

    def check(self, task: Task) -> None:
        pool = item_counts(task)
        for seat in (0, 1):
            private_number(task, seat, "outside")
            for item in pool:
                private_entry(task, seat, "values", item)

    def worth(self, task: Task, seat: int) -> list[str]:
        pool = item_counts(task)
        each = ", ".join(f"each {item} {private_entry(task, seat, 'values', item):g}" for item in pool)
        total = sum(private_entry(task, seat, "values", item) * count for item, count in pool.items())
        return [
            f"To divide: {', '.join(f'{item} x{count}' for item, count in pool.items())}.",
            f"Points for you: {each}; everything together {total:g}. "
            f"Without a deal you get {private_number(task, seat, 'outside'):g} points from elsewhere.",
        ]

    def show(self, task: Task, result: Result) -> str:
        pool = item_counts(task)
        first = " ".join(f"{item}={count}" for item, count in zip(pool, result, strict=True))  # type: ignore[call-overload]
        return f"agent_0 keeping {first}"

    def example(self, task: Task, seat: int) -> str:
        return " ".join(f"{item}={count // 2}" for item, count in item_counts(task).items())


class ScheduleRules(Rules):
    """One slot out of a public list. Weight 1..10 if free, -5 if busy; no deal 0."""

    name = "schedule"

    def parse(self, task: Task, seat: int, text: str) -> Result | None:
        return listed(text, public_names(task, "slots"))

    def grammar(self, task: Task) -> str:
        return f"the slot is one of: {', '.join(public_names(task, 'slots'))}"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        slots = public_names(task, "slots")
        return {slot: tuple(private_entry(task, s, "weights", slot) for s in (0, 1)) for slot in slots}, (0.0, 0.0)

    def check(self, task: Task) -> None:
        for seat in (0, 1):
            for slot in public_names(task, "slots"):
                private_entry(task, seat, "weights", slot)

    def worth(self, task: Task, seat: int) -> list[str]:
        weights = {slot: private_entry(task, seat, "weights", slot) for slot in public_names(task, "slots")}
        ranked = sorted(weights.items(), key=lambda item: -item[1])
        free = ", ".join(f"{slot} ({w:g})" for slot, w in ranked if w >= 0)
        busy = ", ".join(f"{slot} ({w:g})" for slot, w in ranked if w < 0)
        return [
            f"Slots that suit you, with what each is worth to you: {free or 'none'}.",
            f"You are busy at: {busy or 'no slot'}. No appointment is worth 0.",
        ]

    def example(self, task: Task, seat: int) -> str:
        return public_names(task, "slots")[0]


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
        lists = [{plain_name(name) for name in friend_list(task, seat)} for seat in range(2)]
        return lists[0] & lists[1]

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        names = {plain_name(name) for seat in (0, 1) for name in friend_list(task, seat)}
        return {name: self.value(task, name) for name in names}, (0.0, 0.0)

    def value(self, task: Task, result: Result) -> tuple[float, ...]:
        u = 1.0 if result in self._common(task) else -1.0
        return (u, u)

    def check(self, task: Task) -> None:
        for seat in (0, 1):
            friend_list(task, seat)

    def worth(self, task: Task, seat: int) -> list[str]:
        friends = friend_list(task, seat)
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
        appeals = public_names(table.task, "appeals")
        for agent, _, rest in shows:
            appeal = listed(rest, appeals)
            if appeal is None:
                notes.append((agent, did_not_count("show", rest, f"the appeals are {', '.join(appeals)}")))
            elif appeal in table.shown:
                notes.append((agent, f"You have shown {appeal!r} before; it does not count twice."))
            elif len(table.shown) >= show_limit(table.task):
                notes.append((agent, f"You have shown {show_limit(table.task)} appeals already; no more count."))
            elif table.result is None:
                table.shown.append(appeal)

    def close(self, table: Table, result: Result) -> Result:
        return (result, self.willing(table.task, table.shown))

    def willing(self, task: Task, shown: Sequence[str]) -> float:
        """w: what the donor is willing to give at most, after these appeals."""
        gained = sum(private_entry(task, 1, "weights", appeal) for appeal in shown)
        return min(float(task.terms["budget"]), private_number(task, 1, "base") + gained)  # type: ignore[arg-type]

    def parse(self, task: Task, seat: int, text: str) -> Result | None:
        return whole_number(text, 1, int(task.terms["budget"]))  # type: ignore[arg-type]

    def grammar(self, task: Task) -> str:
        return f"the amount is a whole number from 1 to {task.terms['budget']}"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        appeals = public_names(task, "appeals")
        w = max(
            self.willing(task, shown)
            for count in range(min(show_limit(task), len(appeals)) + 1)
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
        show_limit(task)
        private_number(task, 1, "base")
        for appeal in public_names(task, "appeals"):
            private_entry(task, 1, "weights", appeal)

    def how(self, task: Task, seat: int) -> list[str]:
        lines = super().how(task, seat)
        if seat == 0:
            lines.insert(
                0,
                f"- show {public_names(task, 'appeals')[0]}: you make this appeal; at most {show_limit(task)} "
                f"different ones out of: {', '.join(public_names(task, 'appeals'))}.",
            )
        return lines

    def worth(self, task: Task, seat: int) -> list[str]:
        unit = task.terms.get("currency", "dollars")
        if seat == 0:
            return [
                f"You are the persuader. A gift of a {unit} is worth a to you; no gift is worth 0. Appeals that "
                "move the other raise what the other is willing to give."
            ]
        base = private_number(task, 1, "base")
        weights = {appeal: private_entry(task, 1, "weights", appeal) for appeal in public_names(task, "appeals")}
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
        facts = fact_values(table.task)
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
        return listed(text, fact_values(task)[str(task.terms["secret"])])

    def grammar(self, task: Task) -> str:
        secret = str(task.terms["secret"])
        return f"the answer is one of the values of {secret}: {', '.join(fact_values(task)[secret])}"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        """Goals (keeper, seeker) by (T, answered right); there is no separate no-deal value."""
        others = len(fact_values(task)) - 1
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
        others = [name for name in fact_values(task) if name != secret]
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
        facts = fact_values(task)
        if task.terms.get("secret") not in facts or len(facts) < 2:
            raise ValueError(f"terms.secret must name one of two or more facts {sorted(facts)}")
        own = task.seats[0].private.get("facts")
        if not isinstance(own, dict) or own.keys() != facts.keys() or any(own[f] not in facts[f] for f in facts):
            raise ValueError("seats.0.private.facts must give every fact in terms.facts one of its values")

    def how(self, task: Task, seat: int) -> list[str]:
        if seat == 0:
            fact = next(name for name in fact_values(task) if name != task.terms["secret"])
            return [f"- tell {fact}={fact_values(task)[fact][0]}: you state one of your facts for the record."]
        secret = str(task.terms["secret"])
        return [
            f"- answer {fact_values(task)[secret][0]}: you say what the other's {secret} is; you have one answer and "
            "it ends the conversation."
        ]

    def worth(self, task: Task, seat: int) -> list[str]:
        secret = str(task.terms["secret"])
        lines = [f"{name} is one of: {', '.join(values)}." for name, values in fact_values(task).items()]
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
        return listed(text, public_names(task, "options"))

    def grammar(self, task: Task) -> str:
        return f"the option is one of: {', '.join(public_names(task, 'options'))}"

    def values(self, task: Task) -> tuple[dict[Result, tuple[float, ...]], tuple[float, ...]]:
        seats = range(len(task.seats))
        found: dict[Result, tuple[float, ...]] = {
            option: tuple(private_entry(task, s, "values", option) for s in seats)
            for option in public_names(task, "options")
        }
        return found, tuple(private_number(task, s, "threshold") for s in seats)

    def enough(self, ok: Sequence[bool], seat: int | None) -> bool:
        return 2 * sum(ok) > len(ok)

    def check(self, task: Task) -> None:
        for seat in range(len(task.seats)):
            private_number(task, seat, "threshold")
            for option in public_names(task, "options"):
                private_entry(task, seat, "values", option)

    def how(self, task: Task, seat: int) -> list[str]:
        return [
            f"- vote {public_names(task, 'options')[0]}: your vote, until you vote again; {self.grammar(task)}. The "
            f"option that more than half of all {len(task.seats)} vote for at the same time is chosen."
        ]

    def worth(self, task: Task, seat: int) -> list[str]:
        ranked = sorted(
            ((private_entry(task, seat, "values", o), o) for o in public_names(task, "options")),
            key=lambda pair: -pair[0],
        )
        return [
            "What each option is worth to you: " + ", ".join(f"{option} {v:g}" for v, option in ranked) + ".",
            f"If nothing is chosen, that is worth {private_number(task, seat, 'threshold'):g} to you.",
        ]


FAMILIES: tuple[Rules, ...] = (
    BargainRules(),
    DivideRules(),
    ScheduleRules(),
    MutualFriendRules(),
    SecretRules(),
    DonateRules(),
    CommitteeRules(),
)
"""One of every rule set."""
