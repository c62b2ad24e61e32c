"""What a model is asked to write for one inspiration, and how its reply is read: strictly, at most one draft.

A `Draft` is a scene before it has a cast. Reading checks its form; whether it makes a good task is for
`sotopia_env.generation.validation`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from sotopia_env.models import encodable
from sotopia_env.tasks import RELATIONSHIPS, Record, Relationship

YOUNGEST, OLDEST = 0, 120
SHORTEST_SCENARIO, LONGEST_SCENARIO = 40, 700
SHORTEST_GOAL, LONGEST_GOAL = 20, 400
"""Lengths in characters."""

_MOST_OCCUPATIONS = 100
_LOCAL_SCENARIO, _LOCAL_GOAL, _LOCAL_OCCUPATION = 360, 220, 30
"""What grammars of local models are held to: a small one would not come to an end."""


class UnreadableDraftError(ValueError):
    """Raised inside the package when a reply holds no draft.

    Attributes:
        reason: Short stable words: "empty", "refusal", "not JSON", "several" or "schema".
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class Part(Record):
    """One of the two parts of a draft.

    Attributes:
        goal: What this one wants; written to the one who plays it.
        youngest, oldest: Ages in years that fit.
        occupation: One that the scene needs; "" if it needs none.
    """

    model_config = ConfigDict(strict=True)

    goal: str
    youngest: int = Field(ge=YOUNGEST, le=OLDEST)
    oldest: int = Field(ge=YOUNGEST, le=OLDEST)
    occupation: str


class Draft(Record):
    """A scene for two before it has a cast."""

    model_config = ConfigDict(strict=True)

    scenario: str
    relationship: Relationship
    first: Part
    second: Part

    @property
    def parts(self) -> tuple[Part, Part]:
        """Both parts, in seat order."""
        return self.first, self.second

    @property
    def goals(self) -> tuple[str, str]:
        """Both goals, in seat order."""
        return self.first.goal, self.second.goal


def response_format(*, with_limits: bool = False, occupations: Iterable[str] = ()) -> dict[str, Any]:
    """The strict JSON schema of a draft, as the OpenAI API takes it.

    Args:
        with_limits: Limit the texts' lengths and the ages too. Grammars of local models keep to such limits;
            hosted endpoints may refuse them in a strict schema.
        occupations: Those that somebody in the cast has; only they may be asked for. Any, if there are none or
            more than a schema should list.
    """
    known = sorted(set(occupations) - {""})
    occupation = _text(0, _LOCAL_OCCUPATION) if with_limits else _text()
    if 0 < len(known) <= _MOST_OCCUPATIONS:
        occupation = {"type": "string", "enum": ["", *known]}
    age = {"type": "integer", **({"minimum": YOUNGEST, "maximum": OLDEST} if with_limits else {})}
    part = _object(
        goal=_text(SHORTEST_GOAL, _LOCAL_GOAL) if with_limits else _text(),
        youngest=age,
        oldest=age,
        occupation=occupation,
    )
    draft = _object(
        scenario=_text(SHORTEST_SCENARIO, _LOCAL_SCENARIO) if with_limits else _text(),
        relationship={"type": "string", "enum": list(RELATIONSHIPS)},
        first=part,
        second=part,
    )
    return {"type": "json_schema", "json_schema": {"name": "social_task", "strict": True, "schema": draft}}


def _text(*lengths: int) -> dict[str, Any]:
    return {"type": "string", **dict(zip(("minLength", "maxLength"), lengths, strict=False))}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


# --- reading --------------------------------------------------------------------------------------

_REFUSAL = re.compile(
    r"\b(i['’]?m sorry|i am sorry|i (can ?not|can['’]?t|won['’]?t|am unable|must decline)"
    r"|as an ai|unable to (help|assist))\b",
    re.IGNORECASE,
)
_FENCED = re.compile(r"\s*```\w*\n(?P<body>.*?)\n?```\s*", re.DOTALL)
_DECODER = json.JSONDecoder()
_MOST_BRACES = 200  # a draft has three; more is rambling that would take long to search


def read_draft(reply: str) -> Draft:
    """Read the one draft out of a model's reply; a code fence or words around it do no harm.

    Raises:
        UnreadableDraftError: If there is none, or more than one; says why.
    """
    text = encodable(reply)
    if not text.strip():
        raise UnreadableDraftError("empty", "the reply is empty")
    fenced = _FENCED.fullmatch(text)
    text = fenced["body"] if fenced else text
    objects = _objects(text)
    drafts = [value for value in objects if "scenario" in value]
    if len(drafts) > 1:
        raise UnreadableDraftError("several", f"{len(drafts)} drafts, but one prompt gives at most one task")
    if drafts:
        return _validated(drafts[0])
    if objects and text.lstrip().startswith("{") and _ends_whole(text):
        return _validated(objects[0])  # which says what is missing
    refused = _REFUSAL.search(text[:400])
    raise UnreadableDraftError("refusal" if refused else "not JSON", f"no draft in {text.strip()[:60]!r}")


def _objects(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects of a text, in order."""
    found: list[dict[str, Any]] = []
    position = text.find("{")
    for _ in range(_MOST_BRACES):
        if position == -1:
            break
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            found.append(value)
        position = text.find("{", end)
    return found


def _ends_whole(text: str) -> bool:
    """Whether a text is one JSON value, and not one that was cut off."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _validated(value: dict[str, Any]) -> Draft:
    try:
        return Draft.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:60]
        raise UnreadableDraftError("schema", f"{field}: {first['msg']}") from None
