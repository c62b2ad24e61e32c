"""What a scripted agent makes of its observation: all state re-derived from transcript and facts.

`read` is the one entry. It replays the transcript on a table of the task's own rules, so that what
stands on the table here is what stands there in the environment. The rest of the module reads free
text: which names, slots, items or numbers the others mentioned, and whether well or ill.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, cast

from sotopia_env.actions import ACTION_TYPES
from sotopia_env.episodes import ENVIRONMENT, Event
from sotopia_env.rules import RULES, Result, Table
from sotopia_env.tasks import Task

LAST_TURN = 19
"""Number of the last turn under the usual limit of 20; the real limit is not part of an observation."""

_TIME = {"round-robin": 18, "simultaneous": 17, "random": 15}
"""Turn by which a strategy comes to its last ask: with time left for an accept that must be repeated because
both accepted at once, and for the turns that chance may give to the other."""


class Move(NamedTuple):
    """One event of the transcript, with the fields that the rules read."""

    turn: int
    speaker: str
    action_type: str
    argument: str


class Facts(NamedTuple):
    """The `facts` of one agent in one episode, parsed. Shared between calls: never changed."""

    names: dict[str, str]
    terms: dict[str, Any]
    private: dict[str, Any]
    seed: int
    rules: str
    """Name of the rule set, or "" if nothing binds."""
    task: Task
    """What the rules read of a task while it is played: public terms and the number of seats."""


@dataclass(frozen=True, slots=True)
class _PublicTask:
    """Stands for the task, whose private facts an agent does not know: rules play on public terms alone."""

    terms: dict[str, Any]
    agents: tuple[str, ...]
    seats: tuple[None, ...]


@lru_cache(maxsize=512)
def parse_facts(text: str) -> Facts:
    """Parse an observation's `facts`, once per agent and episode."""
    facts = json.loads(text)
    terms = facts["terms"]
    rules = terms.get("rules", "")
    names = facts["names"]
    task = cast("Task", _PublicTask(terms, tuple(names), (None,) * len(names)))
    return Facts(names, terms, facts["private"], facts["seed"], rules if rules in RULES else "", task)


@dataclass(slots=True)
class Reading:
    """One agent's view of a conversation.

    Attributes:
        me, seat: Own agent id and its number.
        facts: Parsed facts.
        turn: The turn to come.
        moves: All moves of agents so far.
        mine, theirs: Own moves, and those of all others.
        table: What binds so far, or `None` where nothing does.
        offers: By agent id, the valid offers made, oldest first.
        order: "round-robin", "simultaneous" or "random", as far as the transcript shows.
    """

    me: str
    seat: int
    facts: Facts
    turn: int
    moves: list[Move]
    mine: list[Move]
    theirs: list[Move]
    table: Table | None
    offers: dict[str, list[Result]]
    order: str

    @property
    def other(self) -> str:
        """The agent across the table, where there are two seats."""
        return f"agent_{1 - self.seat}"

    @property
    def role(self) -> str:
        """Own public role, or "" where all seats are alike."""
        roles: Sequence[str] = self.facts.terms.get("roles") or RULES[self.facts.rules].roles
        return roles[self.seat] if self.seat < len(roles) else ""

    @property
    def seed(self) -> int:
        """A number of this agent and episode, the only source of randomness."""
        return self.facts.seed

    @property
    def progress(self) -> float:
        """How much of the time to deal is gone, from 0 to 1."""
        return min(1.0, self.turn / _TIME[self.order])

    @property
    def present(self) -> int:
        """How many agents have not left."""
        return len(self.facts.names) - sum(move.action_type == "leave" for move in self.moves)

    @property
    def is_last_chance(self) -> bool:
        """Whether this is the last move to count on before the usual limit."""
        if self.order == "round-robin":
            return self.turn + self.present > LAST_TURN
        return self.turn >= _TIME[self.order]

    @property
    def standing(self) -> Result | None:
        """The other's standing offer."""
        return self.table.offers.get(self.other) if self.table else None

    @property
    def my_standing(self) -> Result | None:
        """The own standing offer."""
        return self.table.offers.get(self.me) if self.table else None

    @property
    def heard(self) -> list[str]:
        """What the others said, oldest first."""
        return [move.argument for move in self.theirs if move.action_type == "speak"]

    @property
    def said(self) -> list[str]:
        """What this agent said, oldest first."""
        return [move.argument for move in self.mine if move.action_type == "speak"]


def read(observation: dict[str, Any]) -> Reading:
    """Re-derive everything from an observation."""
    facts = parse_facts(observation["facts"])
    me: str = observation["agent"]
    moves = [
        Move(turn, speaker, ACTION_TYPES[kind], argument)
        for turn, speaker, kind, argument in observation["transcript"]
        if speaker != ENVIRONMENT
    ]
    table, offers = _replay(facts, moves)
    return Reading(
        me=me,
        seat=int(me[6:]),
        facts=facts,
        turn=int(observation["turn"]),
        moves=moves,
        mine=[move for move in moves if move.speaker == me],
        theirs=[move for move in moves if move.speaker != me],
        table=table,
        offers=offers,
        order=_order(moves, len(facts.names)),
    )


def _replay(facts: Facts, moves: list[Move]) -> tuple[Table | None, dict[str, list[Result]]]:
    if not facts.rules:
        return None, {}
    table = Table(facts.task, RULES[facts.rules])
    offers: dict[str, list[Result]] = {agent: [] for agent in facts.names}
    for turn in _by_turn(move for move in moves if move.action_type == "action"):
        table.play(cast("list[Event]", turn))
        for move in turn:
            if move.argument[:5].casefold() == "offer" and move.speaker in table.offers:
                offers[move.speaker].append(table.offers[move.speaker])
    return table, offers


def _by_turn(moves: Iterable[Move]) -> Iterable[list[Move]]:
    turn: list[Move] = []
    for move in moves:
        if turn and move.turn != turn[0].turn:
            yield turn
            turn = []
        turn.append(move)
    if turn:
        yield turn


def _order(moves: list[Move], seats: int) -> str:
    everybody = not any(move.action_type == "leave" for move in moves)
    for earlier, later in pairwise(moves):
        if earlier.turn == later.turn:
            return "simultaneous"
        in_turn = int(later.speaker[6:]) == (int(earlier.speaker[6:]) + 1) % seats
        if earlier.speaker == later.speaker or (everybody and not in_turn):
            return "random"
    return "round-robin"


# --- free text ------------------------------------------------------------------------------------

_SENTENCES = re.compile(r"(?<=[.!?;\n])\s+")
_ILL = re.compile(
    r"\b(?:not|no|never|none|nothing|neither|nor|cannot|can't|don't|doesn't|won't|isn't|busy|taken|booked|impossible|hardly|"
    r"little|least|unable|spare|without|rather not|leave me cold|out of the question)\b|n't\b",
    re.IGNORECASE,
)


@lru_cache(maxsize=2048)
def mentions(text: str, words: tuple[str, ...]) -> tuple[tuple[str, bool], ...]:
    """Which of `words` a text mentions, in order, each with whether its sentence speaks well of it."""
    found: list[tuple[str, bool]] = []
    for sentence in _SENTENCES.split(text):
        folded = sentence.casefold()
        places = sorted((place, word) for word in words if (place := _find(folded, word.casefold())) >= 0)
        if places:
            well = _ILL.search(sentence) is None
            found += [(word, well) for _, word in places]
    return tuple(found)


def _find(text: str, word: str) -> int:
    """Where `word` stands in `text` as a word, a plural "s" forgiven; -1 if nowhere."""
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        before = text[start - 1 : start]
        after = text[end : end + 1]
        if after == "s":
            after = text[end + 1 : end + 2]
        if not before.isalnum() and not after.isalnum():
            return start
        start = text.find(word, start + 1)
    return -1


@lru_cache(maxsize=2048)
def numbers(text: str, words: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """The whole number that follows each of `words` in a text, as in "hat 2" or "every hat is worth 2 to me"."""
    found = []
    folded = text.casefold()
    for word in words:
        match = re.search(
            rf"(?<!\w){re.escape(word.casefold())}s?(?!\w)[^\d.;!?,=]{{0,24}}?(\d{{1,3}})(?!\d|:)", folded
        )
        if match:
            found.append((word, int(match[1])))
    return tuple(found)
