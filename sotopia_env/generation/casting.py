"""Casting: two characters for a draft, drawn among all pairs whose ages, occupations and bond fit.

Who knows whom is read from tasks: in the everyday pack a pair is always in the same relationship. Friends,
partners and family are only cast from pairs that are so; strangers and acquaintances also from pairs that
have nothing to do with each other. Without any tasks to read it from, every pair may be anything.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from pathlib import Path

from pydantic import ValidationError

from sotopia_env.errors import ConfigurationError, TaskFormatError
from sotopia_env.generation.drafts import Draft, Part
from sotopia_env.generation.validation import content
from sotopia_env.tasks import CharacterProfile, Relationship, Task, load_tasks

CLOSE: frozenset[str] = frozenset({"friend", "partner", "family"})
"""Relationships in which only pairs are cast that are known to be so."""

Pair = frozenset[str]


class Company:
    """The characters that may be cast, and who knows whom.

    Args:
        characters: Two or more.
        bonds: Relationships in which a pair of character ids is known to be; empty if nothing is known.

    Raises:
        ConfigurationError: If there are fewer than two characters.
    """

    def __init__(
        self, characters: Iterable[CharacterProfile], bonds: dict[Pair, frozenset[Relationship]] | None = None
    ) -> None:
        self.characters = tuple({character.id: character for character in characters}.values())
        self.bonds = bonds or {}
        if len(self.characters) < 2:
            raise ConfigurationError(f"{len(self.characters)} characters are too few; a task needs two.")

    @property
    def names(self) -> list[str]:
        """Everybody's name."""
        return [character.name for character in self.characters]

    def cast(self, draft: Draft, *, seed: str) -> tuple[CharacterProfile, CharacterProfile] | None:
        """Draw two characters that fit, in seat order; None if no pair does."""
        firsts, seconds = ([one for one in self.characters if _suits(one, part)] for part in draft.parts)
        fitting = [
            (one, other)
            for one in firsts
            for other in seconds
            if one.id != other.id and self._may_be(one, other, draft.relationship)
        ]
        return random.Random(seed).choice(fitting) if fitting else None

    def _may_be(self, a: CharacterProfile, b: CharacterProfile, relationship: str) -> bool:
        if not self.bonds:
            return True
        known = self.bonds.get(frozenset((a.id, b.id)), frozenset())
        return relationship in known or (not known and relationship not in CLOSE)


def _suits(person: CharacterProfile, part: Part) -> bool:
    if person.age is not None and not part.youngest <= person.age <= part.oldest:
        return False
    wanted = content(part.occupation)
    return not wanted or wanted <= content(person.occupation)


@lru_cache(maxsize=1)
def everyday_company() -> Company:
    """The characters of the everyday pack, with the relationships of its tasks."""
    return company_of([task for seats in (2, 3) for task in load_tasks("everyday", seats=seats)])


def company_of(tasks: Sequence[Task]) -> Company:
    """The characters of some tasks, with the relationships in which they are there."""
    bonds: dict[Pair, frozenset[Relationship]] = {}
    for task in tasks:
        for one, other in combinations(task.seats, 2):
            pair = frozenset((one.character.id, other.character.id))
            bonds[pair] = bonds.get(pair, frozenset()) | {task.relationship}
    return Company((seat.character for task in tasks for seat in task.seats), bonds)


def read_company(path: str | Path) -> Company:
    """Characters of a JSON Lines file with one a line; or of tasks, with their relationships.

    Raises:
        TaskNotFoundError: If there is no such path.
        TaskFormatError: If the file holds neither characters nor tasks.
    """
    file = Path(path)
    if file.is_dir() or not file.exists():
        return company_of(load_tasks(path))
    try:
        return Company(_characters(file))
    except TaskFormatError as error:
        try:
            return company_of(load_tasks(path))
        except TaskFormatError:
            raise error from None


def _characters(file: Path) -> list[CharacterProfile]:
    found = []
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskFormatError(f"{file} cannot be read: {error}. Expected UTF-8 JSON Lines.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(CharacterProfile.model_validate_json(line))
            except ValidationError as error:
                first = error.errors(include_url=False, include_context=False)[0]
                field = ".".join(str(part) for part in first["loc"]) or "the record"
                raise TaskFormatError(f"{file}, line {number}, field {field!r}: {first['msg']}.") from error
    return found
