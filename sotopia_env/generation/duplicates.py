"""Near-duplicates, found by MinHash and locality-sensitive hashing (datasketch; extra `sotopia-env[data]`).

Two texts are near-duplicates if the sets of their five-letter pieces overlap by at least `NEAR` (Jaccard index).
Case, punctuation and numbers make no difference, so a price changed is a duplicate still. The hashing only
finds candidates; the overlap itself is then counted. What was paraphrased word by word is not found this way.
"""

from __future__ import annotations

import importlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sotopia_env.errors import ConfigurationError, MissingExtraError, TaskFormatError
from sotopia_env.tasks import Task, load_tasks

NEAR = 0.5
"""Overlap from which two texts are near-duplicates."""

_PIECE = 5
_HASHES = 126
_BANDS = (42, 3)
"""Bands and rows: an overlap of 0.5 is found with probability 1 - (1 - 0.5^3)^42 = 0.996, 0.6 with 0.99996. Of the
candidates that are found with less overlap, the counting takes care."""

_SENTENCE = 45  # characters; shorter sentences ("Two friends meet in a cafe.") are common property


class Scene(NamedTuple):
    """What of a task is compared."""

    id: str
    scenario: str
    goals: tuple[str, ...]


class Match(NamedTuple):
    """What a scene resembles, and how much of the text is common: `NEAR` to 1."""

    id: str
    overlap: float


class Collection:
    """Scenes that a new one is compared with.

    Args:
        by_sentence: Compare every longer sentence too, so that a scene which holds a known one among
            other text is found.

    Raises:
        MissingExtraError: If datasketch is not installed.
    """

    def __init__(self, *, by_sentence: bool = False) -> None:
        try:
            datasketch: Any = importlib.import_module("datasketch")
        except ImportError as error:
            raise MissingExtraError(
                "Finding near-duplicates needs datasketch, which is not installed. "
                "Install it: pip install 'sotopia-env[data]'."
            ) from error
        self._by_sentence = by_sentence
        self._blank: Any = datasketch.MinHash(num_perm=_HASHES)  # copied, for its permutations take a while to draw
        self._index: Any = datasketch.MinHashLSH(num_perm=_HASHES, params=_BANDS)
        self._known: list[tuple[str, frozenset[str]]] = []

    def add(self, scene: Scene) -> None:
        """Take a scene in."""
        for pieces in self._views(scene):
            self._index.insert(len(self._known), self._signature(pieces))
            self._known.append((scene.id, pieces))

    def nearest(self, scene: Scene) -> Match | None:
        """The known scene that `scene` resembles most, or None if it resembles none."""
        best: Match | None = None
        for pieces in self._views(scene):
            for place in sorted(self._index.query(self._signature(pieces))):
                known, others = self._known[place]
                overlap = len(pieces & others) / len(pieces | others)
                if overlap >= NEAR and (best is None or overlap > best.overlap):
                    best = Match(known, overlap)
        return best

    def _views(self, scene: Scene) -> Iterator[frozenset[str]]:
        texts = [scene.scenario, " ".join((scene.scenario, *scene.goals))]
        if self._by_sentence:
            texts += [part for text in (scene.scenario, *scene.goals) for part in _sentences(text)]
        seen = {pieces(text) for text in texts}
        yield from (found for found in sorted(seen, key=sorted) if found)

    def _signature(self, found: frozenset[str]) -> Any:
        signature = self._blank.copy()
        signature.update_batch([piece.encode() for piece in sorted(found)])
        return signature


def pieces(text: str) -> frozenset[str]:
    """The five-letter pieces of a text: lower case, without accents and punctuation, every number alike."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    plain = re.sub(r"\d+", "0", "".join(char for char in folded if not unicodedata.combining(char)))
    joined = " ".join(re.findall(r"[^\W_]+", plain))
    return frozenset(joined[i : i + _PIECE] for i in range(max(1, len(joined) - _PIECE + 1))) - {""}


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text) if len(part) >= _SENTENCE]


# --- what training must not contain ------------------------------------------------------------------


def scene_of(task: Task) -> Scene:
    """What of a task is compared with others."""
    return Scene(task.id, task.scenario, tuple(seat.goal for seat in task.seats))


def evaluation_scenes() -> list[Scene]:
    """The built-in tasks that policies are evaluated on: both written packs, and the test wordings of "outcome"."""
    from sotopia_env.packs.wordings import WORDINGS

    written = [task for seats in (2, 3) for task in load_tasks("everyday", seats=seats)]
    scenes = [scene_of(task) for task in written]  # everyday-hard is part of them
    for family, wordings in WORDINGS.items():
        for place, wording in enumerate(wordings["test"]):
            for thing in wording.things:
                text = wording.scenario.replace("{thing}", thing)
                scenes.append(Scene(f"outcome/{family}/test, wording {place}", text, tuple(wording.goals)))
    return scenes


def read_scenes(where: str | Path) -> list[Scene]:
    """The scenes of a pack or of a file: our own tasks, or SOTOPIA's environment profiles as JSON or JSON Lines.

    Raises:
        ConfigurationError: If there is no such pack or path, or the file holds neither.
    """
    try:
        return [scene_of(task) for task in load_tasks(where)]
    except TaskFormatError as error:
        profiles = _profiles(Path(where))
        if not profiles:
            raise ConfigurationError(
                f"{str(where)!r} holds neither tasks nor SOTOPIA's environment profiles: {error}"
            ) from error
        return profiles


_HINT = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")


def _profiles(path: Path) -> list[Scene]:
    """The scenarios and goals of SOTOPIA's profiles; of a folder, of every JSON file in it."""
    files = sorted(path.rglob("*.json*")) if path.is_dir() else [path]
    scenes: list[Scene] = []
    for file in files:
        for record in _records(file):
            scenario, goals = record.get("scenario"), record.get("agent_goals")
            if isinstance(scenario, str) and isinstance(goals, list) and scenario.strip():
                name = str(record.get("env_id") or record.get("pk") or f"{file.name} {len(scenes) + 1}")
                scenes.append(Scene(name, _HINT.sub(" ", scenario), tuple(_HINT.sub(" ", str(goal)) for goal in goals)))
    return scenes


def _records(file: Path) -> Iterable[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return []
    whole = _json(text)
    values: Sequence[Any] = [_json(line) for line in text.split("\n") if line.strip()] if whole is None else [whole]
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    return [value for value in values if isinstance(value, dict)]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
