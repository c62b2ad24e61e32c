"""The turn engine: a plain state machine that every adapter and the rollout engine share.

No RL imports, no clock, no models. `apply` takes the moves of those who have the turn, `view` gives
one agent all it may see. Its randomness is a pure function of the seed and the turn, so a
conversation is rebuilt exactly from its task, its seed and its events.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from sotopia_env.actions import ACTION_INDEX, Action, as_action
from sotopia_env.context import sotopia_context
from sotopia_env.episodes import ENVIRONMENT, EndedBy, Episode, Event, TurnOrder
from sotopia_env.errors import ConfigurationError, InvalidActionError, ResetNeededError, unknown
from sotopia_env.rules import Table, brief, table_for
from sotopia_env.tasks import Task, name_known_to, profile_known_to

TURN_ORDERS: tuple[TurnOrder, ...] = ("round-robin", "simultaneous", "random")

Observation = dict[str, Any]
"""What `view` returns; docs/environment.md lists its keys."""

# Fresh copies of these go into every observation and info: one that has the turn can do anything,
# one without it only nothing.
_ANYTHING = np.ones(len(ACTION_INDEX), dtype=np.int8)
_ONLY_NOTHING = np.array([1, 0, 0, 0, 0], dtype=np.int8)


class ObservedEvent(NamedTuple):
    """An event as it stands in an observation's transcript: a point of the observation space."""

    turn: int
    speaker: str
    action_type: int
    argument: str


class Conversation:
    """One conversation over a task.

    Args:
        task: What is played.
        seed: Decides the random turn order and the seed in every agent's facts.
        max_turns: The conversation is cut off after this many turns.
        turn_order: "round-robin" (seat after seat), "simultaneous" (all at once) or "random" (one at a time).

    Attributes:
        turn: Number of finished turns, and so the number of the turn to come.
        movers: Agent ids that have the turn, in seat order; empty when it is over.
        present: Agent ids that have not left, in seat order.
        events: Every event so far, environment notes included.
        ended_by: Why it is over, or `None`.
        table: What binds so far under the task's rules, or `None` if the task has none.
    """

    def __init__(self, task: Task, *, seed: int, max_turns: int = 20, turn_order: TurnOrder = "round-robin") -> None:
        if turn_order not in TURN_ORDERS:
            raise ConfigurationError(unknown("turn order", turn_order, TURN_ORDERS))
        if not isinstance(max_turns, int) or max_turns < 1:
            raise ConfigurationError(f"max_turns is {max_turns!r}, but must be a whole number of 1 or more.")
        self.task = task
        self.seed = seed
        self.max_turns = max_turns
        self.turn_order = turn_order
        self.turn = 0
        self.agents = task.agents
        self.present = list(task.agents)
        self.events: list[Event] = []
        self.ended_by: EndedBy | None = None
        self.table: Table | None = table_for(task)
        self._silent_turns = 0
        self._last_seat = -1
        draws = random.Random(seed)
        self._backgrounds = backgrounds(task)
        self._facts = tuple(f'{head}, "seed": {draws.getrandbits(32)}}}' for head in fact_heads(task))
        # One uniform number per turn, drawn up front: the order never depends on what is said.
        self._order = [draws.random() for _ in range(max_turns)] if turn_order == "random" else []
        self._seen: dict[str, tuple[ObservedEvent, ...]] = dict.fromkeys(task.agents, ())
        self._gone: set[str] = set()
        self.movers: tuple[str, ...] = ()
        self._next_movers()

    @property
    def is_over(self) -> bool:
        """Whether the conversation has ended."""
        return self.ended_by is not None

    # --- acting ---------------------------------------------------------------------------------

    def check(self, actions: Mapping[str, object]) -> dict[str, Action]:
        """Read the actions of those who have the turn, without changing anything.

        Raises:
            InvalidActionError: If one of them is missing or outside the space, or an agent is unknown.
        """
        if self.ended_by is not None:
            raise ResetNeededError("The conversation is over. Call reset() to begin another.")
        if not isinstance(actions, dict) and not isinstance(actions, Mapping):  # the first is the quick one
            raise InvalidActionError(f"Actions are {actions!r:.200}, but must be a mapping from agent to action.")
        for agent in actions:
            if agent not in self._seen:
                raise InvalidActionError(f"Action for unknown agent {agent!r}. Agents: {list(self.agents)}.")
        moves = {}
        for agent in self.movers:
            if agent not in actions:
                raise InvalidActionError(
                    f"{agent!r} has the turn but sent no action. Send Action('none') to do nothing."
                )
            moves[agent] = as_action(actions[agent], agent)
        return moves

    def apply(self, actions: Mapping[str, object]) -> None:
        """Play one turn. Whatever agents without the turn send is ignored.

        Args:
            actions: By agent id; every agent in `movers` must be there.

        Raises:
            InvalidActionError: As `check`; nothing has changed then.
        """
        self.apply_checked(self.check(actions))

    def apply_checked(self, moves: Mapping[str, Action]) -> None:
        """Play one turn with what `check` returned, or an equal mapping over exactly the movers."""
        turn = self.turn
        silent = True
        made: list[Event] = []
        leaving = acting = False
        for agent, (kind, argument, failure) in moves.items():
            event = Event(turn=turn, speaker=agent, action_type=kind, argument=argument, parse_failure=failure)  # type: ignore[arg-type]
            made.append(event)
            self._record(event)
            leaving = leaving or kind == "leave"
            acting = acting or kind == "action"
            silent = silent and kind != "leave" and (kind == "none" or not argument.strip())
        if acting and self.table is not None:
            for author, note in self.table.play(made):
                self._record(Event(turn=turn, speaker=ENVIRONMENT, action_type="speak", argument=note, to=(author,)))
        if leaving:
            gone = [event.speaker for event in made if event.action_type == "leave"]
            self.present = [agent for agent in self.present if agent not in gone]
            self._gone.update(gone)
        self.turn = turn + 1
        self._silent_turns = self._silent_turns + 1 if silent else 0
        self._last_seat = int(made[-1].speaker[6:])
        self.ended_by = self._end()
        self._next_movers()

    def _end(self) -> EndedBy | None:
        if self.table is not None and self.table.result is not None:
            return "deal"
        if len(self.present) < 2:
            return "departure"
        if self._silent_turns >= max(3, len(self.present)):
            return "silence"
        return "turn_limit" if self.turn >= self.max_turns else None

    def _next_movers(self) -> None:
        if self.ended_by is not None:
            self.movers = ()
        elif self.turn_order == "simultaneous":
            self.movers = tuple(self.present)
        elif self.turn_order == "random":
            self.movers = (self.present[int(self._order[self.turn] * len(self.present))],)
        else:
            seat = (self._last_seat + 1) % len(self.agents)
            while self.agents[seat] in self._gone:
                seat = (seat + 1) % len(self.agents)
            self.movers = (self.agents[seat],)

    def _record(self, event: Event) -> None:
        self.events.append(event)
        observed = (ObservedEvent(event.turn, event.speaker, ACTION_INDEX[event.action_type], event.argument),)
        seen, to = self._seen, event.to
        for agent in self.present:
            if to is None or agent in to or agent == event.speaker:
                seen[agent] += observed

    # --- seeing ---------------------------------------------------------------------------------

    def view(self, agent: str) -> Observation:
        """All that `agent` may know now; a point of `spaces.observation_space(max_turns)`."""
        index = self.agents.index(agent)
        return {
            "agent": agent,
            "background": self._backgrounds[index],
            "facts": self._facts[index],
            "transcript": self._seen[agent],
            "turn": self.turn,
            "available_actions": self.available_actions(agent),
        }

    def available_actions(self, agent: str) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
        """A fresh 0/1 array over `ACTION_TYPES`: everything with the turn, only `none` without it."""
        return (_ANYTHING if agent in self.movers else _ONLY_NOTHING).copy()

    # --- saving and rebuilding ------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Plain JSON from which `restore` rebuilds this conversation; holds every seat's facts."""
        return {
            "task": self.task.model_dump(mode="json"),
            "seed": self.seed,
            "max_turns": self.max_turns,
            "turn_order": self.turn_order,
            "events": [event.model_dump(mode="json") for event in self.events],
        }

    @classmethod
    def restore(cls, snapshot: Mapping[str, Any], task: Task | None = None) -> Conversation:
        """Rebuild a conversation from `snapshot()`; pass `task` to share an equal task object."""
        if task is None:
            task = Task.model_validate(snapshot["task"])
        return cls.replay(
            task,
            (Event.model_validate(event) for event in snapshot["events"]),
            seed=snapshot["seed"],
            max_turns=snapshot["max_turns"],
            turn_order=snapshot["turn_order"],
        )

    @classmethod
    def replay(
        cls,
        task: Task,
        events: Iterable[Event],
        *,
        seed: int,
        max_turns: int = 20,
        turn_order: TurnOrder = "round-robin",
    ) -> Conversation:
        """Play recorded events again, turn by turn; environment notes are made anew.

        Raises:
            ConfigurationError: If the events are not those of such a conversation.
        """
        conversation = cls(task, seed=seed, max_turns=max_turns, turn_order=turn_order)
        turns: dict[int, dict[str, Action]] = {}
        for event in events:
            if event.speaker != ENVIRONMENT:
                moves = turns.setdefault(event.turn, {})
                moves[event.speaker] = Action(event.action_type, event.argument, event.parse_failure)
        for number, moves in turns.items():
            if number != conversation.turn or moves.keys() != set(conversation.movers):
                raise ConfigurationError(
                    f"Recorded turn {number} has moves of {sorted(moves)}, but turn {conversation.turn} "
                    f"belongs to {list(conversation.movers)}. These events are not of this conversation."
                )
            conversation.apply_checked({agent: moves[agent] for agent in conversation.movers})
        return conversation

    @classmethod
    def from_events(cls, task: Task, events: Iterable[Event], *, seed: int = 0) -> Conversation:
        """Hold events that were made elsewhere, whispers included, as they are, for `view` to show.

        Turn rules and binding rules are not applied: imported conversations follow their own.
        """
        made = list(events)
        last = max((event.turn for event in made), default=0)
        conversation = cls(task, seed=seed, max_turns=last + 1)
        for event in sorted(made, key=lambda event: event.turn):
            conversation._record(event)
            if event.action_type == "leave" and event.speaker in conversation.present:
                conversation.present.remove(event.speaker)
                conversation._gone.add(event.speaker)
        conversation.turn = last + 1 if made else 0
        conversation.ended_by = "departure" if len(conversation.present) < 2 else "turn_limit"
        conversation.movers = ()
        return conversation


def conversation_of(episode: Episode) -> Conversation:
    """Rebuild an episode's conversation, for `view`.

    Its moves are played again. Imported episodes, whose turns follow other rules, and those whose
    notes read otherwise today are held as they were recorded.
    """
    try:
        conversation = Conversation.replay(
            episode.task,
            episode.events,
            seed=episode.seed,
            max_turns=episode.max_turns,
            turn_order=episode.turn_order,
        )
    except ConfigurationError:
        return Conversation.from_events(episode.task, episode.events, seed=episode.seed)
    if tuple(conversation.events) != episode.events:
        return Conversation.from_events(episode.task, episode.events, seed=episode.seed)
    return conversation


# --- what each seat is told at the start ----------------------------------------------------------


@lru_cache(maxsize=512)
def backgrounds(task: Task) -> tuple[str, ...]:
    """The background of every seat: all it is told, as text."""
    return tuple(_background(task, seat) for seat in range(len(task.seats)))


def _background(task: Task, seat: int) -> str:
    if task.wording == "sotopia":
        return sotopia_context(task, seat)
    own = task.seats[seat]
    lines = [task.scenario, "", f"You are {profile_known_to(task, seat, seat)}"]
    for other in range(len(task.seats)):
        if other == seat:
            continue
        name = name_known_to(task, seat, other)
        profile = profile_known_to(task, seat, other)
        if task.relationship == "stranger":
            lines.append(f"You do not know {name}.")
        elif task.relationship == "known_by_name":
            lines.append(f"You know {name} only by name.")
        else:
            lines.append(f"{name} is {_BOND[task.relationship]}: {profile}")
    lines += ["", f"Your private goal: {own.goal}"]
    if "rules" in task.terms:
        lines += ["", *brief(task, seat)]
    elif own.private:
        lines += ["Only you know:"]
        lines += [f"- {_words(key)}: {_plain(value)}" for key, value in own.private.items()]
    return "\n".join(lines)


_BOND = {
    "acquaintance": "an acquaintance of yours",
    "friend": "a friend of yours",
    "partner": "your partner",
    "family": "family to you",
}


def _words(key: str) -> str:
    return key.replace("_", " ")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=512)
def fact_heads(task: Task) -> tuple[str, ...]:
    """Every seat's facts as JSON text without the closing seed: names, public terms, own private facts."""
    heads = []
    for seat, own in enumerate(task.seats):
        names = {agent: name_known_to(task, seat, other) for other, agent in enumerate(task.agents)}
        facts = {"names": names, "terms": task.terms, "private": own.private}
        heads.append(json.dumps(facts, ensure_ascii=False)[:-1])
    return tuple(heads)


__all__ = ["TURN_ORDERS", "Conversation", "Observation", "ObservedEvent", "backgrounds", "conversation_of"]
