"""What an agent can do in a turn, and how a model's reply is read into it.

The five action types are those of SOTOPIA (arXiv 2310.11667). `parse_reply` is the one parser
between a language model's text and an `Action`: JSON first, then a forgiving reading.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sotopia_env.errors import InvalidActionError

ACTION_TYPES = ("none", "speak", "non-verbal communication", "action", "leave")
"""Names of the action types, in the order of the action space's integers."""

ACTION_INDEX: dict[str, int] = {name: index for index, name in enumerate(ACTION_TYPES)}

MAX_ARGUMENT_LENGTH = 4096
"""Longest argument of an action, in characters."""


class Action(NamedTuple):
    """One move: a type out of `ACTION_TYPES` and its text.

    Attributes:
        action_type: A name out of `ACTION_TYPES`.
        argument: What is said or done, at most 4096 characters that encode as UTF-8; "" for none.
        parse_failure: True if a model's reply could not be read and this `none` stands for it.
    """

    action_type: str
    argument: str = ""
    parse_failure: bool = False


NOTHING = Action("none")
LEAVE = Action("leave")
_ACTION_KEYS = frozenset(("action_type", "argument"))


def is_text(value: object, max_length: int = MAX_ARGUMENT_LENGTH) -> bool:
    """Say whether `value` is a string of at most `max_length` characters that encodes as UTF-8."""
    if not isinstance(value, str) or len(value) > max_length:
        return False
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: no file, database or HTTP body can carry it
        return False
    return True


def as_action(value: object, agent: str) -> Action:
    """Check what a policy sent and turn it into an `Action`.

    Args:
        value: An `Action`, or a mapping with `action_type` (a name, or its integer in the action
            space) and `argument` (may be left out).
        agent: Who sent it, for the error message.

    Raises:
        InvalidActionError: If it is none of these, or outside the action space.
    """
    kind: Any
    argument: Any
    if isinstance(value, Action):
        kind, argument, failure = value
        if not isinstance(failure, bool):
            raise InvalidActionError(f"Action of {agent!r} has parse_failure {failure!r:.80}. Allowed: True and False.")
        if isinstance(kind, str) and kind in ACTION_INDEX and is_text(argument):
            return value
    elif isinstance(value, dict) or isinstance(value, Mapping):  # noqa: SIM101 - the ABC check is ten times dearer
        if extra := value.keys() - _ACTION_KEYS:
            raise InvalidActionError(
                f"Action of {agent!r} has unknown keys {sorted(map(str, extra))}. "
                "Allowed: 'action_type' and 'argument'."
            )
        kind, argument = value.get("action_type"), value.get("argument", "")
        if not isinstance(kind, str):
            if isinstance(kind, np.ndarray) and kind.shape == ():
                kind = kind.item()
            if isinstance(kind, (int, np.integer)) and not isinstance(kind, bool):
                kind = ACTION_TYPES[kind] if 0 <= kind < len(ACTION_TYPES) else int(kind)
        if isinstance(kind, str) and kind in ACTION_INDEX and is_text(argument):
            return Action(kind, argument)
    else:
        raise InvalidActionError(
            f"Action of {agent!r} is {value!r:.200}, but must be a sotopia_env.Action or a mapping "
            "with 'action_type' and 'argument'."
        )
    if not isinstance(kind, str) or kind not in ACTION_INDEX:
        raise InvalidActionError(
            f"Action of {agent!r} has action_type {kind!r:.200}. Allowed: the names {ACTION_TYPES} or their "
            f"integers 0 to {len(ACTION_TYPES) - 1}."
        )
    raise InvalidActionError(
        f"Action of {agent!r} has an argument outside the action space: {argument!r:.80}. "
        f"Allowed: a string of at most {MAX_ARGUMENT_LENGTH} characters that encodes as UTF-8."
    )


# --- reading a model's reply -------------------------------------------------------------------

_DECODER = json.JSONDecoder()
_SPOKEN_NAMES = {
    "say": "speak",
    "said": "speak",
    "speech": "speak",
    "nonverbal": "non-verbal communication",
    "non-verbal": "non-verbal communication",
    "nonverbal communication": "non-verbal communication",
    "non verbal communication": "non-verbal communication",
    "physical action": "action",
    "act": "action",
    "nothing": "none",
    "do nothing": "none",
    "did nothing": "none",
    "exit": "leave",
    "left the conversation": "leave",
    "leave the conversation": "leave",
}
_LABELLED = re.compile(
    r"^\W*(?P<kind>none|speak|say|said|non[- ]?verbal(?: communication)?|(?:physical )?action|leave)\b"
    r"(?:[\]*_\"'`]*\s*(?:[:\-–—=]+|\()|\])[*_\s]*(?P<rest>.*)$",
    re.IGNORECASE | re.DOTALL,
)


class UnreadableReplyError(ValueError):
    """Raised inside the package when a model's reply cannot be read; its text is shown to the model."""


def parse_reply(reply: str) -> Action:
    """Read one `Action` out of a language model's reply.

    A JSON object with `action_type` and `argument` is looked for first, anywhere in the text (the
    last complete one counts, so that a draft before the answer does not). Failing that, a labelled
    line (`speak: hello`), a bare action type, or a quoted sentence is accepted.

    Args:
        reply: The model's raw text.

    Returns:
        The action. Speech is kept character for character.

    Raises:
        UnreadableReplyError: If no reading is possible; its message says what is missing.
    """
    if not isinstance(reply, str) or not reply.strip():
        raise UnreadableReplyError("the reply is empty")
    problem = "the reply holds no JSON object with 'action_type' and 'argument'"
    for candidate in reversed(_json_objects(reply)):
        try:
            return _from_object(candidate)
        except UnreadableReplyError as error:
            problem = str(error)
            break  # the last object is the answer; an earlier one was a draft
    else:
        text = _without_fence(reply.strip())
        labelled = _LABELLED.match(text)
        if labelled and "{" not in text:
            return _checked(_kind(labelled["kind"]), _unquoted(labelled["rest"]))
        bare = text.strip().strip(".!\"'`*[]()").lower()
        bare = _SPOKEN_NAMES.get(bare, bare)
        if bare in ("none", "leave"):
            return Action(bare)
        quoted = re.fullmatch(r'(?:\w[\w .\'’-]{0,60}?(?:\s+(?:said|says))?\s*:)?\s*"(?P<text>.+)"\s*', text, re.DOTALL)
        if quoted:
            return _checked("speak", quoted["text"])
    raise UnreadableReplyError(problem)


def _json_objects(text: str) -> list[dict[str, Any]]:
    """Find the top-level JSON objects that mention an action, in order of appearance."""
    found: list[dict[str, Any]] = []
    position = text.find("{")
    while position != -1:
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            if isinstance(value, dict) and ("action_type" in value or "argument" in value):
                found.append(value)
            elif isinstance(value, dict):
                end = position + 1  # an envelope such as {"action": {...}}: look inside
        position = text.find("{", end)
    return found


def _from_object(value: dict[str, Any]) -> Action:
    kind, argument = value.get("action_type"), value.get("argument", "")
    if not isinstance(kind, str):
        raise UnreadableReplyError(f"'action_type' must be one of {list(ACTION_TYPES)}, got {kind!r:.80}")
    if argument is None:
        argument = ""
    if isinstance(argument, (int, float)) and not isinstance(argument, bool):
        argument = str(argument)
    if not isinstance(argument, str):
        raise UnreadableReplyError(f"'argument' must be a string, got {argument!r:.80}")
    return _checked(_kind(kind), argument)


def _kind(name: str) -> str:
    lowered = " ".join(name.lower().replace("_", " ").split())
    lowered = _SPOKEN_NAMES.get(lowered, lowered)
    if lowered not in ACTION_INDEX:
        raise UnreadableReplyError(f"'action_type' must be one of {list(ACTION_TYPES)}, got {name!r:.80}")
    return lowered


def _checked(kind: str, argument: str) -> Action:
    if len(argument) > MAX_ARGUMENT_LENGTH:
        raise UnreadableReplyError(
            f"'argument' has {len(argument)} characters; at most {MAX_ARGUMENT_LENGTH} are allowed"
        )
    if not is_text(argument):
        raise UnreadableReplyError("'argument' holds characters that cannot be encoded as UTF-8")
    return Action(kind, argument)


def _without_fence(text: str) -> str:
    fenced = re.fullmatch(r"\s*```\w*\n(?P<body>.*?)\n?```\s*", text, re.DOTALL)
    return fenced["body"] if fenced else text


def _unquoted(text: str) -> str:
    stripped = text.strip().removesuffix(")") if text.count("(") < text.count(")") else text.strip()
    if len(stripped) >= 2 and stripped[0] == stripped[-1] and stripped[0] in "\"'":
        return stripped[1:-1]
    return stripped
