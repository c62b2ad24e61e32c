"""How SOTOPIA spells its records: numbers, field names and message lines, each in one place for import and export.

Every record has two spellings. The native one is what SOTOPIA keeps in Redis or under `~/.sotopia/data`; the flat one
is what its published JSONL and CSV files hold. `NATIVE` and `FLAT` name the fields of both, in the originals' order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sotopia_env.dimensions import DIMENSION_NAMES
from sotopia_env.tasks import RELATIONSHIPS, Relationship

PACK = "sotopia"
"""`Task.pack` of what is imported from SOTOPIA."""

WORDING: Literal["sotopia"] = "sotopia"
"""`Task.wording` of what is imported from SOTOPIA: its background text, names always shown."""

RELATIONSHIP_BY_NUMBER: dict[int, Relationship] = dict(enumerate(RELATIONSHIPS))  # type: ignore[arg-type]
"""0 stranger .. 5 family, as SOTOPIA numbers them."""

NUMBER_BY_RELATIONSHIP: dict[str, int] = {name: number for number, name in RELATIONSHIP_BY_NUMBER.items()}

RELATIONSHIP_NAMES: dict[str, int] = {
    "stranger": 0,
    "know_by_name": 1,
    "acquaintance": 2,
    "friend": 3,
    "romantic_relationship": 4,
    "family_member": 5,
}
"""The names of SOTOPIA's enumeration, which it exports as numbers."""

NATIVE: dict[str, tuple[str, ...]] = {
    "environment": (
        "pk",
        "codename",
        "source",
        "scenario",
        "agent_goals",
        "relationship",
        "age_constraint",
        "occupation_constraint",
        "agent_constraint",
    ),
    "agent": (
        "pk",
        "first_name",
        "last_name",
        "age",
        "occupation",
        "gender",
        "gender_pronoun",
        "public_info",
        "big_five",
        "moral_values",
        "schwartz_personal_values",
        "personality_and_values",
        "decision_making_style",
        "secret",
        "model_id",
        "mbti",
    ),
    "relationship": ("pk", "agent_1_id", "agent_2_id", "relationship", "background_story"),
    "combo": ("pk", "env_id", "agent_ids"),
    "episode": ("pk", "environment", "agents", "tag", "models", "messages", "reasoning", "rewards", "rewards_prompt"),
}
FLAT: dict[str, tuple[str, ...]] = {
    "environment": ("env_id", *NATIVE["environment"][1:]),
    "agent": ("agent_id", *[name for name in NATIVE["agent"][1:] if name != "model_id"]),
    "relationship": ("relationship_id", "agent1_id", "agent2_id", "relationship", "background_story"),
    "combo": ("combo_id", "env_id", "agent_ids"),
    "episode": (
        "episode_id",
        "environment_id",
        "agent_ids",
        "experiment_tag",
        "experiment_model_name_pairs",
        "raw_messages",
        "raw_rewards",
        "raw_rewards_prompt",
        "scenario",
        "codename",
        "agents_background",
        "social_goals",
        "social_interactions",
        "reasoning",
        "rewards",
    ),
}
FLAT_EPISODE_NAMES: dict[str, str] = {
    "episode_id": "pk",
    "epsiode_id": "pk",  # as one of the published files spells it
    "environment_id": "environment",
    "agent_ids": "agents",
    "experiment_tag": "tag",
    "experiment_model_name_pairs": "models",
    "raw_messages": "messages",
    "raw_rewards": "rewards",
    "raw_rewards_prompt": "rewards_prompt",
}
"""Flat field names of an episode and the native name of the same field."""

CLASS_NAMES: dict[str, str] = {
    "EnvironmentProfile": "environment",
    "AgentProfile": "agent",
    "RelationshipProfile": "relationship",
    "EnvAgentComboStorage": "combo",
    "EpisodeLog": "episode",
    "EnvironmentList": "list",
    "AnnotationForEpisode": "annotation",
}
"""SOTOPIA's classes that are understood, and the kind of record each is."""

CLASS_MODULES: dict[str, str] = {
    "environment": "sotopia.database.persistent_profile.EnvironmentProfile",
    "agent": "sotopia.database.persistent_profile.AgentProfile",
    "relationship": "sotopia.database.persistent_profile.RelationshipProfile",
    "combo": "sotopia.database.env_agent_combo_storage.EnvAgentComboStorage",
    "episode": "sotopia.database.logs.EpisodeLog",
}
"""Where SOTOPIA defines its classes: the Redis key of a record is ":<this>:<pk>"."""

NO_GOAL = "Unknown"
"""How another's goal stands in a context text."""

CONTEXT = "Here is the context of this interaction:"
STARTS = "Conversation Starts:"
ENVIRONMENT_NAME = "Environment"
"""Sender and receiver of what is no agent's."""

OVERALL_SCORE = "overall_score"
JUDGE_PREFIX = "sotopia/"
"""In front of the evaluator model's name as the judge of imported scores; alone, without the slash, if unknown."""

UNKNOWN_AGENT = "unknown"
"""Name of a policy that the record does not name."""

GENDERS: dict[str, str] = {"Man": "male", "Woman": "female", "Nonbinary": "nonbinary"}

_ID = re.compile(r"\w[\w.:@+/ -]{0,199}")


def is_id(value: object) -> bool:
    """Whether a value can be an id here: 1 to 200 plain characters, and nothing that could lead a path elsewhere."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        return False
    return not any(part in ("", ".", "..") for part in value.split("/"))


def redis_key(kind: str, pk: str) -> str:
    """The Redis key under which SOTOPIA keeps a record."""
    return f":{CLASS_MODULES[kind]}:{pk}"


def split_name(name: str) -> tuple[str, str]:
    """First and last name of a full name: the first word, and the rest."""
    first, _, last = name.partition(" ")
    return first, last


def judge_name(model: str) -> str:
    """The judge's name for scores that SOTOPIA's evaluator gave with a model."""
    return f"{JUDGE_PREFIX}{model}" if model else JUDGE_PREFIX[:-1]


def judge_model(judge: str) -> str:
    """The evaluator model of a judge's name; any other judge's name as it is."""
    return "" if judge == JUDGE_PREFIX[:-1] else judge.removeprefix(JUDGE_PREFIX)


# --- constraints ----------------------------------------------------------------------------------


def age_text(value: object) -> str | None:
    """An age constraint as SOTOPIA writes it: the text of a list of tuples; texts and `None` as they are."""
    return repr([tuple(pair) for pair in value]) if isinstance(value, list) else _text_or_none(value)


def occupation_text(value: object) -> str:
    """An occupation constraint as SOTOPIA writes it: the text of a list of lists, "nan" for none."""
    return repr(value) if isinstance(value, list) else _text_or_none(value) or "nan"


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


# --- message lines --------------------------------------------------------------------------------

NOTHING = "did nothing"
LEFT = "left the conversation"
_SAID = 'said: "'
_BRACKETS = {
    "[non-verbal communication]": "non-verbal communication",
    "[action]": "action",
}
_PRIVATE = re.compile(r"\[private to \[([^\[\]]*)\]\] ?")


def action_line(action_type: str, argument: str, to: Iterable[str] | None = None) -> str:
    """What an agent did, as SOTOPIA words it. The argument of `none` and `leave` has no place in it.

    Args:
        action_type: A name out of `ACTION_TYPES`.
        argument: What was said or done, character for character.
        to: Names of those who alone may see it.
    """
    prefix = "" if to is None else f"[private to {list(to)!r}] "
    match action_type:
        case "none":
            return prefix + NOTHING
        case "speak":
            return f'{prefix}{_SAID}{argument}"'
        case "leave":
            return prefix + LEFT
        case _:
            return f"{prefix}[{action_type}] {argument}"


def read_action(line: str) -> tuple[str, str, tuple[str, ...] | None] | None:
    """Read an action line: (action type, argument, names it is private to), or `None` if it is none.

    The line may have one leading blank, as later versions of SOTOPIA write it.
    """
    text = line.removeprefix(" ")
    to: tuple[str, ...] | None = None
    if private := _PRIVATE.match(text):
        to = tuple(name.strip().strip("'\"") for name in private[1].split(",") if name.strip())
        text = text[private.end() :]
    if text.strip() == NOTHING:
        return "none", "", to
    if text.rstrip() in (LEFT, LEFT + ","):
        return "leave", "", to
    if text.startswith(_SAID) and len(text) > len(_SAID) and text.endswith('"'):
        return "speak", text[len(_SAID) : -1], to
    for bracket, kind in _BRACKETS.items():
        if text.startswith(bracket):
            return kind, text[len(bracket) :].removeprefix(" "), to
    return None


def turn_line(turn: int, actions: Sequence[tuple[str, str]]) -> str:
    """What the environment tells of a turn: the names and action lines of those who did something."""
    shown = [f"{name} {line}" for name, line in actions if line != NOTHING]
    return f"Turn #{turn}: " + "\n".join(shown) + "\n"


# --- scores and comments --------------------------------------------------------------------------

ENDINGS: dict[str, str] = {
    "is leaving": "departure",
    "stales for too long": "silence",
    "is too long": "turn_limit",
}
"""Words of SOTOPIA's reason for the end, and what they are here."""

ENDING_WORDS: dict[str, str] = {
    "silence": "The conversation stales for too long",
    "turn_limit": "The conversation is too long",
}
"""SOTOPIA's reason for an end; of a departure it names the agent: "Agent 1 is leaving"."""


def reasoning_text(ending: str, comments: Sequence[Mapping[str, str]]) -> str:
    """SOTOPIA's `reasoning`: why it ended, then every agent's reason by dimension."""
    text = f"Environment comments: terminated: {ending}; \n" if ending else ""
    for number, reasons in enumerate(comments, start=1):
        text += f"Agent {number} comments:\n"
        text += "".join(f"{name}: {reason}\n" for name, reason in reasons.items())
    return text


def reward_pair(values: Mapping[str, float], overall: float) -> list[Any]:
    """One agent's scores as SOTOPIA keeps them: [overall, {dimension: value, "overall_score": overall}]."""
    known = {name: values[name] for name in DIMENSION_NAMES if name in values}
    others = {name: value for name, value in values.items() if name not in known}
    return [overall, {**known, **others, OVERALL_SCORE: overall}]


def plain(value: object) -> str:
    """A value for a message, short and on one line."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
