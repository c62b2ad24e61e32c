"""SOTOPIA's profiles: records to characters, scenarios, relationships and tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue, ValidationError

from sotopia_env.interop import hints, values
from sotopia_env.interop.records import ProblemKind, UnusableRecordError
from sotopia_env.interop.spelling import PACK, RELATIONSHIP_BY_NUMBER, RELATIONSHIP_NAMES, WORDING, plain, split_name
from sotopia_env.tasks import CharacterProfile, Relationship, Seat, Split, Task

Note = Callable[[str, ProblemKind], None]
"""Tells of something odd in the record at hand."""

_CHARACTER_WORDS = ("moral_values", "schwartz_personal_values")
_CHARACTER_TEXTS = ("big_five", "decision_making_style")
_CHARACTER_LABELS = ("model_id", "tag")
EXTRAS = ("mbti",)
"""Fields of a character that only some copies of the same people have: no part of the object."""


@dataclass(frozen=True)
class Scenario:
    """SOTOPIA's EnvironmentProfile: a scenario with a goal for every seat, but no cast yet.

    Attributes:
        id: Its id.
        scenario: Its text, tags included.
        goals: One goal by seat, tags included.
        relationship: How the cast know each other.
        ages: Lowest and highest age by seat, where that is given and can be read.
        origin: Everything else, for `Task.origin`.
    """

    id: str
    scenario: str
    goals: tuple[str, ...]
    relationship: Relationship
    codename: str = ""
    source: str = ""
    ages: tuple[tuple[int, int], ...] = ()
    origin: dict[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Cast:
    """SOTOPIA's EnvAgentComboStorage: who plays a scenario."""

    id: str
    scenario: str
    agents: tuple[str, ...]


# --- characters -----------------------------------------------------------------------------------


def read_character(record: dict[str, Any]) -> tuple[CharacterProfile, dict[str, Any]]:
    """Read an AgentProfile: the character, and fields that only some copies of the data have.

    Raises:
        UnusableRecordError: If it cannot be one.
    """
    first, last = values.text(record, "first_name").strip(), values.text(record, "last_name").strip()
    name = f"{first} {last}".strip()
    if not first:
        raise UnusableRecordError("it has no 'first_name'")
    origin: dict[str, JsonValue] = {}
    if split_name(name) != (first, last):
        origin["first_name"] = first
    for key in _CHARACTER_TEXTS:
        if found := values.text(record, key):
            origin[key] = found
    for key in _CHARACTER_LABELS:
        if not values.is_missing(record.get(key)):
            origin[key] = values.text(record, key)
    for key in _CHARACTER_WORDS:
        if listed := values.words(record, key):
            origin[key] = list(listed)
    age = record.get("age")
    whole = None if values.is_missing(age) else values.integer(age, "age")
    try:
        character = CharacterProfile(
            id=values.identifier(record, "agent_id", "pk"),
            name=name,
            age=whole or None,  # 0 is SOTOPIA's default for none
            gender=values.text(record, "gender"),
            pronouns=values.text(record, "gender_pronoun"),
            occupation=values.text(record, "occupation"),
            public_info=values.text(record, "public_info"),
            personality=values.text(record, "personality_and_values"),
            secret=values.text(record, "secret"),
            origin=origin,
        )
    except ValidationError as error:
        raise UnusableRecordError(explain(error)) from error
    extras = {key: values.text(record, key) for key in EXTRAS if not values.is_missing(record.get(key))}
    return character, extras


def explain(error: ValidationError) -> str:
    """The first complaint of a validation in one clause."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the record"
    return f"field {where!r}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r:.80}"


# --- scenarios ------------------------------------------------------------------------------------


def read_scenario(record: dict[str, Any], note: Note) -> Scenario:
    """Read an EnvironmentProfile.

    Raises:
        UnusableRecordError: If it cannot be one.
    """
    text = values.text(record, "scenario")
    if not text.strip():
        raise UnusableRecordError("it has no 'scenario'")
    goals = values.texts(record, "agent_goals")
    if len(goals) < 2:
        raise UnusableRecordError(f"it has {len(goals)} 'agent_goals', but every seat needs one")
    for index, goal in enumerate(goals):
        if goal[:1] in "'\"" or goal[-1:] in "'\"":
            note(f"goal {index} begins or ends with a quotation mark that may be stray; it is kept", "kept")
    codename, source = values.text(record, "codename"), values.text(record, "source")
    origin: dict[str, JsonValue] = {}
    ages = _ages(record, len(goals), origin, note)
    _occupations(record, len(goals), origin, note)
    agents = record.get("agent_constraint")
    if not values.is_missing(agents) and values.unfolded(agents) not in ([], [[]], [[], []]):
        origin["agent_constraint"] = values.unfolded(agents)
    if tag := values.text(record, "tag"):
        origin["tag"] = tag
    metadata = values.unfolded(record.get("game_metadata"))
    if isinstance(metadata, dict) and metadata:
        origin["game_metadata"] = metadata
    return Scenario(
        id=values.identifier(record, "env_id", "pk"),
        scenario=text,
        goals=tuple(goals),
        relationship=read_relationship(record.get("relationship")),
        codename=codename,
        source=source,
        ages=ages,
        origin=origin,
    )


def read_relationship(value: object) -> Relationship:
    """A relationship as 0 to 5, as text of such a number, or by SOTOPIA's name.

    Raises:
        UnusableRecordError: For anything else. It decides who knows what, so nothing may stand in its place.
    """
    name = value.strip().lower().removeprefix("relationshiptype.") if isinstance(value, str) else ""
    if name in RELATIONSHIP_NAMES:
        return RELATIONSHIP_BY_NUMBER[RELATIONSHIP_NAMES[name]]
    try:
        return RELATIONSHIP_BY_NUMBER[values.integer(value, "relationship")]
    except (KeyError, UnusableRecordError):
        raise UnusableRecordError(f"'relationship' must be 0 to 5, got {plain(value)}") from None


def _ages(record: dict[str, Any], seats: int, origin: dict[str, JsonValue], note: Note) -> tuple[tuple[int, int], ...]:
    value = record.get("age_constraint")
    if values.is_missing(value):
        return ()
    found = values.unfolded(value)
    try:
        pairs = [tuple(values.integer(age, "age_constraint") for age in pair) for pair in found]
        if len(pairs) != seats or any(len(pair) != 2 or pair[0] > pair[1] for pair in pairs):
            raise UnusableRecordError("not one range by seat")
    except (TypeError, UnusableRecordError):
        note(f"its age constraint {plain(value)} cannot be read as one range by seat; it is kept as text", "kept")
        origin["age_constraint"] = value if isinstance(value, str) else repr(value)
        return ()
    origin["age_constraint"] = [list(pair) for pair in pairs]
    return tuple((pair[0], pair[1]) for pair in pairs)


def _names_nobody(value: object) -> bool:
    """Whether an occupation constraint leaves every seat open."""
    if isinstance(value, (list, tuple)):
        return all(map(_names_nobody, value))
    return values.is_missing(value) or (isinstance(value, str) and value.strip().lower() == "any")


def _occupations(record: dict[str, Any], seats: int, origin: dict[str, JsonValue], note: Note) -> None:
    value = record.get("occupation_constraint")
    if values.is_missing(value):
        return
    found = values.unfolded(value)
    if _names_nobody(found):
        return
    lists = isinstance(found, (list, tuple)) and all(isinstance(each, (list, tuple)) for each in found)
    if not lists or not all(isinstance(word, str) for each in found for word in each):
        note(f"its occupation constraint {plain(value)} is no list of lists; it is kept as text", "kept")
        origin["occupation_constraint"] = value if isinstance(value, str) else repr(value)
        return
    named = [[word for word in each if word.strip().lower() not in ("", "nan", "any")] for each in found]
    if not any(named):
        return
    if len(named) != seats:
        note(f"its occupation constraint {plain(value)} has not one list by seat; it is kept as it is", "kept")
    origin["occupation_constraint"] = [list(each) for each in named]


# --- relationships and casts ----------------------------------------------------------------------


def read_relation(record: dict[str, Any]) -> dict[str, Any]:
    """Read a RelationshipProfile as a plain record.

    Raises:
        UnusableRecordError: If it cannot be one.
    """
    agents = [
        values.identifier(record, f"agent_{number}_id", f"agent{number}_id")
        if not values.is_missing(record.get(f"agent_{number}_id"))
        else values.identifier(record, f"agent{number}_id")
        for number in (1, 2)
    ]
    return {
        "id": values.identifier(record, "relationship_id", "pk"),
        "agents": agents,
        "relationship": read_relationship(record.get("relationship")),
        "story": values.text(record, "background_story") or None,
    }


def read_cast(record: dict[str, Any]) -> Cast:
    """Read an EnvAgentComboStorage.

    Raises:
        UnusableRecordError: If it cannot be one.
    """
    agents = tuple(values.check_id(agent, "agent_ids") for agent in values.texts(record, "agent_ids"))
    if len(agents) < 2:
        raise UnusableRecordError(f"it has {len(agents)} 'agent_ids', but a task needs two or more")
    return Cast(
        id=values.identifier(record, "combo_id", "pk"),
        scenario=values.identifier(record, "env_id"),
        agents=agents,
    )


# --- tasks ----------------------------------------------------------------------------------------


def make_task(
    scenario: Scenario,
    cast: Sequence[CharacterProfile],
    task_id: str,
    note: Note,
    *,
    split: Split = "test",
    hard: bool = False,
) -> Task:
    """Put a cast into a scenario.

    Args:
        scenario: What is played.
        cast: One character for every goal.
        task_id: The task's id.
        note: Told of repairs, and of characters that do not meet a constraint.
        split: The task's split.
        hard: Whether it gets the tag "hard".

    Raises:
        UnusableRecordError: If they do not fit together.
    """
    if len(cast) != len(scenario.goals):
        raise UnusableRecordError(
            f"it has {len(scenario.goals)} goals for {len(cast)} seats; perhaps goals were cut into pieces, "
            "and which belong together is not known"
        )
    viewers = [f"agent_{index}" for index in range(len(cast))]
    views, repair = hints.shown_to_all(scenario.scenario, [hints.ENVIRONMENT_VIEWER, *viewers, "nobody"])
    if repair:
        note(f"scenario: {repair}", "repaired")
    common = views[-1]
    if not common.strip():
        raise UnusableRecordError("its scenario has nothing that everybody may see")
    seats = []
    for index, (character, goal) in enumerate(zip(cast, scenario.goals, strict=True)):
        shown = hints.shown_to(goal, viewers[index])
        if shown.repair:
            note(f"goal {index}: {shown.repair}", "repaired")
        private: dict[str, JsonValue] = {} if views[index + 1] == common else {"scenario": views[index + 1]}
        seats.append(Seat(character=character, goal=shown.text, private=private))
        _check_age(scenario, index, character, note)
    origin: dict[str, JsonValue] = {"environment": scenario.id}
    if scenario.codename:
        origin["codename"] = scenario.codename
    if scenario.scenario != common:
        origin["scenario"] = scenario.scenario
    if [seat.goal for seat in seats] != list(scenario.goals):
        origin["goals"] = list(scenario.goals)
    try:
        return Task(
            id=task_id,
            pack=PACK,
            family=scenario.source,
            split=split,
            scenario=common,
            relationship=scenario.relationship,
            seats=tuple(seats),
            tags=("hard",) if hard else (),
            wording=WORDING,
            origin={**origin, **scenario.origin},
        )
    except ValidationError as error:
        raise UnusableRecordError(explain(error)) from error


def _check_age(scenario: Scenario, index: int, character: CharacterProfile, note: Note) -> None:
    if scenario.ages and character.age is not None:
        low, high = scenario.ages[index]
        if not low <= character.age <= high:
            note(
                f"{character.name}, {character.age}, is not of the {low} to {high} years that seat {index} asks for",
                "kept",
            )
