"""What an import brings: the objects, what had no place in them, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sotopia_env.episodes import Episode
from sotopia_env.tasks import CharacterProfile, Task

ProblemKind = Literal["skipped", "lost", "repaired", "kept", "ignored"]


@dataclass(frozen=True)
class Problem:
    """Something in a file that was not as it should be.

    Attributes:
        file: The file it stands in.
        record: Which record of the file: its line or place, and its id where it has one. "" for the whole file.
        reason: What is wrong and what became of it.
        kind: "skipped": not imported. "lost": imported without some part. "repaired": imported after a repair
            whose right result is known. "kept": imported as it stands, though it is odd. "ignored": no data for us,
            such as a text file in a folder or a record of a foreign class.
    """

    file: str
    record: str
    reason: str
    kind: ProblemKind = "skipped"

    @property
    def serious(self) -> bool:
        """Whether something of the data did not come along; a strict import refuses then."""
        return self.kind in ("skipped", "lost")

    def __str__(self) -> str:
        where = f"{self.file}, {self.record}" if self.record else self.file
        return f"{where}: {self.reason} ({self.kind})"


OnProblem = Callable[[Problem], None]


@dataclass
class Imported:
    """Everything that was read.

    Attributes:
        tasks: Every task, in file order; those that only an episode plays are not among them.
        episodes: Every episode, in file order.
        characters: By id, also those that no task casts.
        splits: Named lists of scenario ids, such as "sotopia_hard_env".
        ratings: Human ratings, as plain records: {"file", "record", "kind", ...} and the columns as they stand.
        relationships: Who knows whom: {"id", "agents", "relationship", "story"}; SOTOPIA shows the story to nobody.
        extras: By id of a character: fields that only some copies of the data have ("mbti"), so that they are no
            part of the objects. By name of a list: what SOTOPIA's EnvironmentList says beyond its scenarios.
        problems: What was skipped, lost, repaired, or kept though it is odd.
    """

    tasks: list[Task] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    characters: dict[str, CharacterProfile] = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    ratings: list[dict[str, Any]] = field(default_factory=list)
    relationships: list[dict[str, Any]] = field(default_factory=list)
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


class UnusableRecordError(ValueError):
    """Raised inside this package when a record cannot be used; says why."""
