"""SOTOPIA's own background text, for tasks whose `wording` is "sotopia".

It is the context with which SOTOPIA's published episodes begin: the scenario, who takes part, what this agent
may know of everybody, its own goal, and "Unknown" for another's (the text of version 1 of the data, which later
versions of its code reword). Names are always shown; of the others the relationship decides how much more.
"""

from __future__ import annotations

import re

from sotopia_env.tasks import CharacterProfile, Task

_ADJECTIVES = {"man": "male", "woman": "female", "nonbinary": "nonbinary"}

_PARTS = {"stranger": 0, "known_by_name": 1, "acquaintance": 3, "friend": 4, "partner": 4, "family": 4}
"""How many parts of another's biography each relationship shows."""


def sotopia_context(task: Task, seat: int) -> str:
    """What the agent in a seat is told at the start, in SOTOPIA's words.

    The private fact "scenario" of a seat, if there is one, stands in place of the scenario everybody knows:
    SOTOPIA can show parts of a scenario to one agent alone.
    """
    own = task.seats[seat]
    names = [other.character.name for other in task.seats]
    lines = [
        "Here is the context of this interaction:",
        f"Scenario: {own.private.get('scenario', task.scenario)}",
        f"Participants: {_listed(names)}",
    ]
    for index, other in enumerate(task.seats):
        shown = None if index == seat else _PARTS[task.relationship]
        lines.append(f"{names[index]}'s background: {sotopia_biography(other.character, shown)}")
    for index, name in enumerate(names):
        lines.append(f"{name}'s goal: {own.goal if index == seat else 'Unknown'}")
    # SOTOPIA strips every line's indent, and so also the blanks before an empty line.
    return re.sub("\n +", "\n", "\n".join(lines)).strip()


def first_name(character: CharacterProfile) -> str:
    """A character's first name: the first word of the name, unless its source says otherwise."""
    return str(character.origin.get("first_name") or character.name.partition(" ")[0])


def sotopia_biography(character: CharacterProfile, parts: int | None = None) -> str:
    """A character in SOTOPIA's words.

    Args:
        character: Who.
        parts: Only the first so many of: the name; age, gender and occupation with the pronouns; public
            information; personality; secret. Where something is left out, the blank before it stays, as in
            SOTOPIA. `None` for all of it.
    """
    described = _described(character)
    pronouns = f"{character.pronouns} pronouns. " if character.pronouns else ""
    whole = [
        f"{character.name} ",
        f"{described}. {pronouns}" if described else pronouns,
        f"{character.public_info} ",
        f"Personality and values description: {character.personality} ",
        f"{first_name(character)}'s secrets: {character.secret}",
    ]
    return "".join(whole[:parts])


def _described(character: CharacterProfile) -> str:
    gender = _ADJECTIVES.get(character.gender.lower(), character.gender.lower())
    age = f"{character.age}-year-old" if character.age is not None else ""
    words = [word for word in (age, gender, character.occupation.lower()) if word]
    return f"is a {' '.join(words)}" if words else ""


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
