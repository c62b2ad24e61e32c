"""Episodes: the self-contained, versioned record of one play, and its JSON Lines form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    FiniteFloat,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from sotopia_env.actions import ACTION_TYPES
from sotopia_env.errors import StoreError
from sotopia_env.tasks import Record, Task, digest, without_defaults

EPISODE_VERSION = 1
"""Version of the record; a reader refuses a newer one instead of guessing."""

ENVIRONMENT = "environment"
"""Speaker of notes that no agent wrote."""

Status = Literal["complete", "failed", "judge_failed"]
EndedBy = Literal["deal", "departure", "silence", "turn_limit"]
TurnOrder = Literal["round-robin", "simultaneous", "random"]
ActionType = Literal["none", "speak", "non-verbal communication", "action", "leave"]
assert ActionType.__args__ == ACTION_TYPES  # type: ignore[attr-defined]


class Event(Record):
    """Something that happened in a conversation.

    Attributes:
        turn: Turn number, from 0.
        speaker: An agent id, or "environment".
        action_type: A name out of `ACTION_TYPES`.
        argument: What was said or done, character for character.
        to: Agent ids that may see it besides the speaker; `None` for everybody present.
        parse_failure: True if a model's reply could not be read and this `none` stands for it.
    """

    turn: int
    speaker: str
    action_type: ActionType
    argument: str = ""
    to: tuple[str, ...] | None = None
    parse_failure: bool = False


class Score(Record):
    """One score in its dimension's own range, and why."""

    value: FiniteFloat
    reason: str = ""


class Verdict(Record):
    """A judge's scores for a whole episode.

    Attributes:
        judge: The judge's name.
        scores: By agent id, then by dimension. A dimension that was not judged is absent, not 0.
        measures: Figures about the episode as a whole, such as "welfare".
        details: What the judge wants kept, such as its prompts and raw replies; JSON values.
    """

    judge: str
    scores: dict[str, dict[str, Score]]
    measures: dict[str, FiniteFloat] = {}
    details: dict[str, object] = {}

    def values(self, agent: str) -> dict[str, float]:
        """One agent's scores as plain numbers by dimension."""
        return {name: score.value for name, score in self.scores[agent].items()}


class Episode(Record):
    """One play of a task from reset to end.

    Attributes:
        version: Version of this record, `EPISODE_VERSION` when written.
        task: The whole task, private facts included: an operator's record, never given to an agent.
        agents: Name of the policy in every seat, by agent id.
        turn_order, max_turns, seed, repeat: With the task and the names, what determines an episode.
        events: Every event, in order.
        ended_by: "deal", "departure", "silence" or "turn_limit"; `None` if it broke off.
        verdicts: By judge name.
        rewards: By agent id; empty without a complete verdict.
        status: "complete", "failed" (an agent or the engine) or "judge_failed".
        error: Class and one line, if the status is not "complete".
        usage: Token and call counts by agent id, and by judge name for judges.
        started_at: ISO 8601 time in UTC.
        seconds: Wall time of the play, without its judge.
        code_version: Version of this package.
        origin: What the format it was imported from says beyond these fields, such as a tag.
    """

    version: int = EPISODE_VERSION
    task: Task
    agents: dict[str, str]
    turn_order: TurnOrder = "round-robin"
    max_turns: int = Field(default=20, ge=1)
    seed: int
    repeat: int = 0
    events: tuple[Event, ...] = ()
    ended_by: EndedBy | None = None
    verdicts: dict[str, Verdict] = {}
    rewards: dict[str, FiniteFloat] = {}
    status: Status = "complete"
    error: str | None = None
    usage: dict[str, dict[str, int]] = {}
    started_at: str | None = None
    seconds: float | None = None
    code_version: str = ""
    origin: dict[str, JsonValue] = {}
    id: str = ""

    @field_validator("agents")
    @classmethod
    def _every_seat_is_taken(cls, agents: dict[str, str], given: ValidationInfo) -> dict[str, str]:
        task = given.data.get("task")
        if task is not None and agents.keys() != set(task.agents):
            raise ValueError(f"must name a policy for each of {list(task.agents)}, got {sorted(agents)}")
        return agents

    @model_serializer(mode="wrap")
    def _without_empty_origin(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(handler(self), {"origin": {}})

    def model_post_init(self, context: object, /) -> None:
        """Fill the id from the key if it was not given."""
        if not self.id:
            object.__setattr__(self, "id", self.key)

    @cached_property
    def key(self) -> str:
        """Hash of what determines the episode; the store holds one episode per key."""
        return episode_key(
            self.task,
            self.agents,
            turn_order=self.turn_order,
            max_turns=self.max_turns,
            seed=self.seed,
            repeat=self.repeat,
        )


def episode_key(
    task: Task,
    agents: Mapping[str, str],
    *,
    turn_order: str,
    max_turns: int,
    seed: int,
    repeat: int,
) -> str:
    """Hash task content, names by seat, turn order, turn limit, seed and repeat."""
    names = [agents[agent] for agent in task.agents]
    return digest([task.digest, names, turn_order, max_turns, seed, repeat])


def dump_json(record: Record) -> str:
    """Write a record as one line of ASCII-escaped JSON (PostgreSQL refuses NUL in text)."""
    return json.dumps(record.model_dump(mode="json"), ensure_ascii=True, allow_nan=False)


def load_episode(text: str | bytes, where: str = "episode") -> Episode:
    """Read one episode from its JSON.

    Raises:
        StoreError: If the text is no episode, or one of a newer version than this package knows.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise StoreError(f"{where} is not valid JSON: {error}.") from error
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > EPISODE_VERSION:
        raise StoreError(
            f"{where} has record version {version}; this package reads up to {EPISODE_VERSION}. "
            "Upgrade sotopia-env to read it."
        )
    try:
        return Episode.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise StoreError(f"{where} is not an episode: field {field!r}: {message}.") from error


def distinct(episodes: Iterable[Episode]) -> Iterator[Episode]:
    """The first of the episodes of each id."""
    seen: set[str] = set()
    for episode in episodes:
        if episode.id not in seen:
            seen.add(episode.id)
            yield episode


def write_episodes(path: str | Path, episodes: Iterable[Episode]) -> int:
    """Write episodes as JSON Lines and return how many."""
    count = 0
    with Path(path).open("w", encoding="ascii") as file:
        for episode in episodes:
            file.write(dump_json(episode) + "\n")
            count += 1
    return count


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """Iterate over the episodes of a JSON Lines file.

    Raises:
        StoreError: For a line that is no episode; names file and line.
    """
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield load_episode(line, f"{path}, line {number}")
