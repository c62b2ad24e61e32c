"""Recognising what files hold, by what is in them, and bringing it all together.

Two passes: the first reads the profiles, casts and lists, which are few, and passes over episodes; the second
reads episodes and tasks one at a time against the profiles. So the order of files does not matter, and memory holds
the profiles and one episode.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from sotopia_env.context import sotopia_biography
from sotopia_env.episodes import EPISODE_VERSION, Episode
from sotopia_env.errors import SotopiaEnvError, TaskFormatError, TaskNotFoundError, one_line
from sotopia_env.interop import hints, values
from sotopia_env.interop.logs import read_episode
from sotopia_env.interop.profiles import (
    EXTRAS,
    Cast,
    Note,
    Scenario,
    explain,
    make_task,
    read_cast,
    read_character,
    read_relation,
    read_scenario,
)
from sotopia_env.interop.records import Imported, OnProblem, Problem, ProblemKind, UnusableRecordError
from sotopia_env.interop.spelling import CLASS_NAMES, is_id, plain
from sotopia_env.interop.streams import Located, Trouble, records
from sotopia_env.tasks import CharacterProfile, Split, Task

Kind = Literal[
    "environment",
    "agent",
    "relationship",
    "combo",
    "list",
    "lists",
    "extras",
    "rendering",
    "rating",
    "annotation",
    "character",
    "task",
    "episode",
    "own episode",
    "foreign",
    "unknown",
]

MOST_FILES = 1_000_000
"""Files of one import."""

_BESIDE_ARROW = {"dataset_dict.json", "dataset_info.json", "state.json"}
"""What the library `datasets` keeps beside its data: no records."""

_BULK = re.compile(
    rb'"(?:rewards|raw_rewards|rewards_prompt|messages|raw_messages|social_interactions|seats|events|believability_1'
    rb'|prolific_id)\\*"\s*:'
)
_PROFILE = (b'"agent_goals', b'"first_name', b'"env_id', b'"agent_1_id', b'"agent1_id')
"""Keys of profiles, whose texts and game metadata may have any word in them."""


_BULK_KINDS = ("episode", "own episode", "task", "rating", "annotation")

_LIST_EXTRAS = ("environments", "agent_index")
"""Fields of an EnvironmentList: its scenarios with their repeats, and whose turn it is to be evaluated in each."""

_MOST_LISTED = 100_000
"""Ids in a list that is nothing but ids."""

_MOST_UNKNOWN = 1000
"""Places of unknown records that are kept of one file."""

_CLASS = re.compile(r":?(?:[\w]+\.)*(\w+):([^:]*)")


def _is_bulk(line: bytes) -> bool:
    """Whether a line holds an episode, a task or a rating, which only the second pass reads."""
    return _BULK.search(line) is not None and not any(key in line for key in _PROFILE)


def kind_of(record: dict[str, Any]) -> Kind:
    """What a record is, by its fields."""
    has = record.keys()
    if {"seats", "scenario", "id"} <= has:
        return "task"
    if {"task", "agents", "events", "seed"} <= has:
        return "own episode"
    if {"prolific_id", "data"} <= has or {"believability_1", "believability_2"} <= has or "Input.episode_id" in has:
        return "rating"
    if {"annotator_id", "episode"} <= has and "rewards" in has:
        return "annotation"
    if {"messages", "environment"} <= has or {"raw_messages", "environment_id"} <= has or "social_interactions" in has:
        return "episode"
    if {"rewards_prompt", "environment"} <= has:
        return "episode"
    if {"scenario_environment", "goal_environment"} <= has:
        return "rendering"
    if {"scenario", "agent_goals"} <= has:
        return "environment"
    if {"first_name", "last_name"} <= has:
        return "agent"
    if {"agent_1_id", "agent_2_id"} <= has or {"agent1_id", "agent2_id"} <= has:
        return "relationship"
    if {"env_id", "agent_ids"} <= has:
        return "combo"
    if {"name", "environments"} <= has:
        return "list"
    if {"id", "name"} <= has and has <= set(CharacterProfile.model_fields):
        return "character"
    if record and all(_is_ids(value) for value in record.values()):
        return "lists"
    if record and all(
        isinstance(value, dict) and value and value.keys() <= {*EXTRAS, *_LIST_EXTRAS} for value in record.values()
    ):
        return "extras"
    return "unknown"


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and is_id(each) for each in value)


@dataclass(frozen=True)
class _Place:
    """Where a record stands."""

    file: str
    place: str

    def named(self, record: Any) -> str:
        """The place with the record's id."""
        if not isinstance(record, dict):
            return self.place
        for name in ("pk", "id", "env_id", "agent_id", "combo_id", "relationship_id", "episode_id"):
            value = record.get(name)
            if isinstance(value, str) and value:
                return f"{self.place} ({plain(value)[1:-1]})" if self.place else plain(value)[1:-1]
        return self.place


class _Bulk(NamedTuple):
    """A file with records for the second pass.

    Attributes:
        path: The file.
        again: Whether some of them stand where the first pass did not expect any.
    """

    path: Path
    again: bool = False


class Importer:
    """Reads files of SOTOPIA's and of our own formats.

    Args:
        paths: Files, and folders, which are searched for files.
        on_problem: Told of everything that is skipped, lost, repaired, or kept though odd, as it is met.
        strict: Refuse at the first record that would be skipped or lose a part.

    Attributes:
        characters, splits, ratings, relationships, extras: As of `Imported`; complete once the importer is made,
            `ratings` once the episodes were read.

    Raises:
        TaskNotFoundError: If a path does not exist.
        TaskFormatError: If `strict`, for the first record that cannot be understood; names file and record.
    """

    def __init__(
        self, paths: Iterable[str | Path] | str | Path, *, on_problem: OnProblem | None = None, strict: bool = False
    ) -> None:
        self._on_problem = on_problem
        self._strict = strict
        self._reported: set[tuple[str, str]] = set()
        self.characters: dict[str, CharacterProfile] = {}
        self.splits: dict[str, list[str]] = {}
        self.ratings: list[dict[str, Any]] = []
        self.relationships: list[dict[str, Any]] = []
        self.extras: dict[str, dict[str, Any]] = {}
        self._scenarios: dict[str, tuple[Scenario, _Place]] = {}
        self._casts: dict[str, tuple[Cast, _Place]] = {}
        self._by_cast: dict[tuple[str, tuple[str, ...]], str] = {}
        self._renderings: list[tuple[dict[str, Any], _Place]] = []
        self._bulk: list[_Bulk] = []
        self._seen_relations: dict[str, dict[str, Any]] = {}
        self._made: dict[str, Task] = {}
        self._own_tasks: dict[str, str] = {}
        self._task = lru_cache(maxsize=4096)(self._task_of)
        for path, searched in found_files([paths] if isinstance(paths, (str, Path)) else paths):
            self._first_pass(path, searched)
        self._check_renderings()

    # --- reports --------------------------------------------------------------------------------

    def report(self, problem: Problem) -> None:
        """Tell of a problem; a strict importer refuses a serious one.

        Raises:
            TaskFormatError: If it does.
        """
        if self._strict and problem.serious:
            where = ", ".join(part for part in (problem.file, problem.record) if part)
            raise TaskFormatError(f"{where}: {problem.reason}. A strict import refuses it.")
        if self._on_problem is not None:
            self._on_problem(problem)

    def _note(self, at: _Place, record: Any) -> Note:
        """Tells of a record at hand; the same about the same record once."""
        name = at.named(record)

        def note(reason: str, kind: ProblemKind) -> None:
            key = (f"{at.file}\0{at.place}", reason)
            if key not in self._reported:
                if len(self._reported) < 100_000:
                    self._reported.add(key)
                self.report(Problem(at.file, name, reason, kind))

        return note

    # --- first pass -----------------------------------------------------------------------------

    def _first_pass(self, path: Path, searched: bool) -> None:
        bulk = again = False

        def skip(line: bytes) -> bool:
            nonlocal bulk
            found = _is_bulk(line)
            bulk = bulk or found
            return found

        if _is_columns(path):
            self._bulk.append(_Bulk(path))
            return
        unknown: list[_Place] = []
        known = 0
        listed: list[Any] = []
        for found in records(path, skip=skip):
            at = _Place(str(path), found.place)
            if isinstance(found, Trouble):
                ignored = searched and found.no_data
                self.report(Problem(at.file, at.place, found.reason, "ignored" if ignored else "skipped"))
                known += 1
                continue
            for where, value, kind in _unpacked(found):
                here = _Place(at.file, where)
                if kind in _BULK_KINDS:
                    bulk = again = True
                elif kind == "unknown" and isinstance(value, (str, int)):
                    if len(listed) <= _MOST_LISTED:
                        listed.append(value)
                    continue
                elif kind == "unknown":
                    unknown = [*unknown, here] if len(unknown) < _MOST_UNKNOWN else unknown
                    continue
                else:
                    self._guarded(self._profile, kind, value, here)
                known += 1
        if listed:
            self._plain_list(path, listed)
            known += 1
        self._unknown(path, unknown, known + bulk)
        if bulk:
            self._bulk.append(_Bulk(path, again))

    def _unknown(self, path: Path, places: list[_Place], known: int) -> None:
        if places and not known:
            self.report(Problem(str(path), "", f"none of its {len(places)} records is of a kind that is known"))
            return
        for at in places:
            self.report(Problem(at.file, at.place, "a record of no kind that is known"))

    def _plain_list(self, path: Path, listed: list[Any]) -> None:
        if len(listed) <= _MOST_LISTED and all(isinstance(each, str) and is_id(each) for each in listed):
            self.splits.setdefault(path.stem, list(listed))
        else:
            self.report(
                Problem(
                    str(path),
                    "",
                    f"a list of bare values such as {plain(listed[0])}; indices into another file are "
                    "not followed, for it does not say which",
                )
            )

    def _guarded(self, read: Callable[[Kind, Any, _Place], None], kind: Kind, value: Any, at: _Place) -> None:
        try:
            read(kind, value, at)
        except UnusableRecordError as error:
            self.report(Problem(at.file, at.named(value), str(error)))
        except RecursionError:
            self.report(Problem(at.file, at.named(value), "nested too deeply"))

    def _profile(self, kind: Kind, record: dict[str, Any], at: _Place) -> None:
        match kind:
            case "agent":
                character, extras = read_character(record)
                self._keep(self.characters, character.id, character, "character")
                if extras:
                    self.extras.setdefault(character.id, {}).update(extras)
            case "character":
                try:
                    own = CharacterProfile.model_validate(record)
                except ValidationError as error:
                    raise UnusableRecordError(explain(error)) from error
                self._keep(self.characters, own.id, own, "character")
            case "environment":
                scenario = read_scenario(record, self._note(at, record))
                before = self._scenarios.setdefault(scenario.id, (scenario, at))
                if before[0] != scenario:
                    raise UnusableRecordError(
                        f"scenario {scenario.id!r} stands twice with different content; the first is kept"
                    )
            case "combo":
                cast = read_cast(record)
                earlier = self._casts.setdefault(cast.id, (cast, at))
                if earlier[0] != cast:
                    raise UnusableRecordError(
                        f"cast {cast.id!r} stands twice with different content; the first is kept"
                    )
                self._by_cast.setdefault((cast.scenario, cast.agents), cast.id)
            case "relationship":
                relation = read_relation(record)
                self._keep(self._seen_relations, relation["id"], relation, "relationship")
                if self._seen_relations[relation["id"]] is relation:
                    self.relationships.append(relation)
            case "list":
                name = values.text(record, "name")
                self._list(name, values.texts(record, "environments"))
                if not values.is_missing(record.get("agent_index")):
                    self.extras[name] = {key: values.texts(record, key) for key in _LIST_EXTRAS}
            case "lists":
                for name, ids in record.items():
                    self._list(name, ids)
            case "extras":
                for agent, fields in record.items():
                    self.extras.setdefault(agent, {}).update(fields)
            case "rendering":
                self._renderings.append((record, at))
            case _:
                self._note(at, record)(f"{record.get('__class__', kind)!r} has no counterpart here", "ignored")

    def _keep(self, store: dict[str, Any], key: str, value: Any, noun: str) -> None:
        if store.setdefault(key, value) != value:
            raise UnusableRecordError(f"{noun} {key!r} stands twice with different content; the first is kept")

    def _list(self, name: str, ids: Sequence[str]) -> None:
        if not name.strip():
            raise UnusableRecordError("a list without a name")
        found = list(dict.fromkeys(values.check_id(each, name) for each in ids))
        self._keep(self.splits, name, found, "list")

    def _check_renderings(self) -> None:
        """Compare texts that SOTOPIA's own renderer made with ours."""
        for record, at in self._renderings:
            known = self._scenarios.get(str(record.get("pk")))
            if known is None:
                continue
            wrong = [name for name, mine in _rendered(known[0]) if record.get(name, mine) != mine]
            if wrong:
                self._note(at, record)(f"{wrong[0]} is rendered otherwise here", "lost")

    # --- what is known --------------------------------------------------------------------------

    def character(self, agent: str) -> CharacterProfile | None:
        """The character of an id, or `None`."""
        return self.characters.get(agent)

    def task(self, scenario: str, agents: Sequence[str], note: Note) -> Task | None:
        """The task of a scenario with a cast, or `None` if a profile is missing."""
        return self._task(scenario, tuple(agents))

    def _task_of(self, scenario_id: str, agents: tuple[str, ...]) -> Task | None:
        if scenario_id not in self._scenarios or any(agent not in self.characters for agent in agents):
            return None
        scenario, at = self._scenarios[scenario_id]
        task_id = self._by_cast.get((scenario_id, agents)) or ":".join((scenario_id, *agents))
        cast = [self.characters[agent] for agent in agents]
        note = self._note(at, {"pk": scenario_id})
        return make_task(
            scenario, cast, task_id, note, split=self._split_of(scenario_id), hard=self._is_hard(scenario_id)
        )

    def task_by_text(self, scenario: str, goals: Mapping[str, str], people: Mapping[str, str]) -> Task | None:
        """The only task with these texts and these biographies, or `None`."""
        scenes, people_by_text = self._by_text
        found = scenes.get((scenario, tuple(goals.get(name, "") for name in people)))
        cast = [people_by_text.get(biography) for biography in people.values()]
        if found is None or None in cast:
            return None
        return self._task(found, tuple(str(agent) for agent in cast))

    @cached_property
    def _by_text(self) -> tuple[dict[tuple[str, tuple[str, ...]], str | None], dict[str, str | None]]:
        """Scenarios by their texts, and characters by their biographies; `None` where several are alike."""
        scenes: dict[tuple[str, tuple[str, ...]], str | None] = {}
        for scene, _ in self._scenarios.values():
            key = (scene.scenario, scene.goals)
            scenes[key] = None if key in scenes else scene.id
        people: dict[str, str | None] = {}
        for agent, character in self.characters.items():
            text = sotopia_biography(character)
            people[text] = None if text in people else agent
        return scenes, people

    def _is_hard(self, scenario: str) -> bool:
        return any("hard" in name.lower() and scenario in ids for name, ids in self.splits.items())

    def _split_of(self, scenario: str) -> Split:
        """The split by the lists that name the scenario: SOTOPIA's own is for testing."""
        names = [name.lower() for name, ids in self.splits.items() if scenario in ids]
        if any("sotopia" in name or "hard" in name for name in names):
            return "test"
        if any("dev" in name for name in names):
            return "validation"
        return "train" if any("sft" in name or "selftrain" in name for name in names) else "test"

    # --- second pass ----------------------------------------------------------------------------

    def tasks(self) -> Iterator[Task]:
        """Every task that a cast makes, in file order. Those of our own files come with the episodes."""
        for cast, at in self._casts.values():
            try:
                task = self._cast_task(cast)
            except UnusableRecordError as error:
                self.report(Problem(at.file, at.named({"combo_id": cast.id}), str(error)))
                continue
            yield task if task.id == cast.id else Task(**{**dict(task), "id": cast.id})
        cast_scenarios = {cast.scenario for cast, _ in self._casts.values()}
        for scenario, at in self._scenarios.values():
            if self._casts and scenario.id not in cast_scenarios:
                self._note(at, {"pk": scenario.id})("no cast plays this scenario, so it makes no task", "kept")
        if self._scenarios and not self._casts:
            _, at = next(iter(self._scenarios.values()))
            reason = (
                f"{len(self._scenarios)} scenarios without a cast make no tasks; give SOTOPIA's "
                "env_agent_combo_storages too"
            )
            self.report(Problem(at.file, "", reason, "kept"))

    def _cast_task(self, cast: Cast) -> Task:
        task = self._task(cast.scenario, cast.agents)
        if task is not None:
            return task
        if cast.scenario not in self._scenarios:
            raise UnusableRecordError(f"its scenario {cast.scenario!r} is not among the files")
        missing = next(agent for agent in cast.agents if agent not in self.characters)
        raise UnusableRecordError(f"its character {missing!r} is not among the files")

    def stream(self) -> Iterator[Task | Episode]:
        """Every task, then every episode and every task of our own files, one at a time.

        Ratings are collected on the way.
        """
        yield from self.tasks()
        for bulk in self._bulk:
            yield from self._second_pass(bulk)

    def _second_pass(self, bulk: _Bulk) -> Iterator[Task | Episode]:
        path = bulk.path
        if _is_columns(path):
            yield from self._columns(path)
            return
        new = False  # whether the first pass did not parse what is at hand, and so reported nothing of it

        def skip(line: bytes) -> bool:
            nonlocal new
            new = _is_bulk(line)
            return not new and not bulk.again

        for found in records(path, skip=skip):
            report, new = new, False
            if isinstance(found, Trouble):
                if report:
                    self.report(Problem(str(path), found.place, found.reason))
                continue
            for where, value, kind in _unpacked(found):
                at = _Place(str(path), where)
                if kind not in _BULK_KINDS:
                    if report:
                        self.report(Problem(at.file, at.named(value), "a record of no kind that is known"))
                    continue
                try:
                    made = self._bulk_record(kind, value, at)
                except UnusableRecordError as error:
                    self.report(Problem(at.file, at.named(value), str(error)))
                except RecursionError:
                    self.report(Problem(at.file, at.named(value), "nested too deeply"))
                else:
                    if made is not None:
                        yield made

    def _bulk_record(self, kind: Kind, value: dict[str, Any], at: _Place) -> Task | Episode | None:
        match kind:
            case "episode":
                return read_episode(value, self, self._note(at, value))
            case "own episode":
                return _own_episode(value)
            case "task":
                return self._own_task(value, at)
            case "rating" | "annotation":
                self.ratings.append({"file": at.file, "record": at.place, "kind": kind, **value})
        return None

    def _own_task(self, record: dict[str, Any], at: _Place) -> Task:
        try:
            return Task.model_validate(self._with_cast(record))
        except ValidationError as error:
            raise UnusableRecordError(explain(error)) from error

    def _with_cast(self, record: dict[str, Any]) -> dict[str, Any]:
        seats = record["seats"]
        if not isinstance(seats, list):
            return record
        filled = []
        for seat in seats:
            if isinstance(seat, dict) and isinstance(seat.get("character"), str):
                character = self.characters.get(seat["character"])
                if character is None:
                    raise UnusableRecordError(f"its character {plain(seat['character'])} is not among the files")
                seat = {**seat, "character": character}
            filled.append(seat)
        return {**record, "seats": filled}

    def _columns(self, path: Path) -> Iterator[Task | Episode]:
        try:
            yield from _own_columns(path)
        except SotopiaEnvError as error:
            if self._strict:
                raise
            self.report(Problem(str(path), "", one_line(error)))


def _own_columns(path: Path) -> Iterator[Task | Episode]:
    if _head(path).startswith(_SQLITE):
        from sotopia_env.store import EpisodeStore

        with EpisodeStore(path, create=False) as store:
            yield from store.episodes()
        return
    from sotopia_env.interop.parquet import is_parquet, read_arrow, read_parquet

    yield from read_parquet(path) if is_parquet(path) else read_arrow(path)


def _own_episode(record: dict[str, Any]) -> Episode:
    version = record.get("version")
    if isinstance(version, int) and version > EPISODE_VERSION:
        raise UnusableRecordError(f"it has record version {version}; this package reads up to {EPISODE_VERSION}")
    try:
        return Episode.model_validate(record)
    except ValidationError as error:
        raise UnusableRecordError(explain(error)) from error


def _rendered(scenario: Scenario) -> Iterator[tuple[str, Any]]:
    """What every viewer sees of a scenario, under the names of SOTOPIA's rendered files."""
    viewers = [f"agent_{index}" for index in range(len(scenario.goals))]
    for viewer in ("environment", *viewers):
        yield f"scenario_{viewer}", hints.shown_to(scenario.scenario, viewer).text
    for viewer, goal in zip(viewers, scenario.goals, strict=True):
        yield f"goal_{viewer}", hints.shown_to(goal, viewer).text
    yield "goal_environment", [hints.shown_to(goal, "environment").text for goal in scenario.goals]


# --- files ----------------------------------------------------------------------------------------


def found_files(paths: Iterable[str | Path]) -> Iterator[tuple[Path, bool]]:
    """Every file, and whether it was found in a folder; in alphabetical order, links to folders not followed."""
    count = 0
    for path in map(Path, paths):
        if not path.exists():
            raise TaskNotFoundError(f"There is nothing at {str(path)!r}. Give a file, or a folder of files.")
        if not path.is_dir():
            yield path, False
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            saved = "dataset_dict.json" in names or any(name.endswith(".arrow") for name in names)
            for name in sorted(set(names) - (_BESIDE_ARROW if saved else set())):
                count += 1
                if count > MOST_FILES:
                    raise TaskNotFoundError(f"{str(path)!r} holds more than {MOST_FILES} files. Give a smaller folder.")
                if not name.startswith("."):
                    yield Path(folder, name), True


_SQLITE = b"SQLite format 3"


def _head(path: Path) -> bytes:
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""


def _is_columns(path: Path) -> bool:
    """Whether a file is an episode store, Parquet, or Arrow as a saved dataset holds it."""
    head = _head(path)
    return head.startswith((b"PAR1", _SQLITE)) or (path.suffix == ".arrow" and head.startswith(b"\xff\xff\xff\xff"))


def _unpacked(found: Located) -> Iterator[tuple[str, Any, Kind]]:
    """The records in a value: one, or those of a Redis dump; JSON in a string is read as what it holds."""
    value = values.unfolded(found.value) if isinstance(found.value, str) else found.value
    if found.key:
        yield _member(found.place, found.key, value)
    elif isinstance(value, dict):
        if _is_dump(value):
            for key, inner in value.items():
                yield _member(found.place, key, values.unfolded(inner))
        else:
            yield found.place, value, kind_of(value)
    elif isinstance(value, list) and value and isinstance(found.value, str):
        for index, inner in enumerate(value):
            place = f"{found.place}, element {index + 1}"
            yield place, inner, kind_of(inner) if isinstance(inner, dict) else "unknown"
    else:
        yield found.place, value, "unknown"


def _is_dump(value: dict[Any, Any]) -> bool:
    """Whether an object is a Redis dump, which may hold the keys of other programs too."""
    keys = [key for key in value if isinstance(key, str)]
    return bool(keys) and (all(map(_is_redis, keys)) or any(_is_redis(key) and "sotopia" in key for key in keys))


def _is_redis(key: str) -> bool:
    match = _CLASS.fullmatch(key)
    return match is not None and "." in key


def _member(place: str, key: str, value: Any) -> tuple[str, Any, Kind]:
    """A record of a Redis dump: its key names the class and the id."""
    where = f"{place} ({plain(key)[1:-1]})" if place else plain(key)[1:-1]
    match = _CLASS.fullmatch(key)
    value = values.unfolded(value)
    if isinstance(value, list) and len(value) == 1:
        value = values.unfolded(value[0])  # as JSON.GET gives what is at "$"
    name = match[1] if match else ""
    if not isinstance(value, dict):
        value = {}
        if name in CLASS_NAMES and "sotopia" in key:
            return where, value, "unknown"
    if match and values.is_missing(value.get("pk")) and name in CLASS_NAMES:
        value = {**value, "pk": match[2]}
    if name in CLASS_NAMES and "sotopia" in key:
        return where, value, CLASS_NAMES[name]  # type: ignore[return-value]
    return where, {**value, "__class__": name or key}, "foreign"


# --- the doors ------------------------------------------------------------------------------------


def iterate(
    paths: Iterable[str | Path] | str | Path, *, on_problem: OnProblem | None = None, strict: bool = False
) -> Iterator[Task | Episode]:
    """Read files of SOTOPIA's formats or of our own, a task or an episode at a time.

    Memory holds the profiles and one record, whatever the size of the files.

    Args:
        paths: Files, and folders, which are searched for files.
        on_problem: Told of everything that is skipped, lost, repaired, or kept though odd.
        strict: Refuse at the first record that would be skipped or lose a part.

    Raises:
        TaskNotFoundError: If a path does not exist.
        TaskFormatError: If `strict`, for the first record that cannot be understood; names file and record.
    """
    yield from Importer(paths, on_problem=on_problem, strict=strict).stream()


def read(paths: Iterable[str | Path] | str | Path, *, strict: bool = False) -> Imported:
    """Read files of SOTOPIA's formats or of our own into memory.

    Args:
        paths: Files, and folders, which are searched for files.
        strict: Refuse at the first record that would be skipped or lose a part.

    Returns:
        Everything that was understood, and `problems`: what was not. The same record twice is taken once.

    Raises:
        TaskNotFoundError: If a path does not exist.
        TaskFormatError: If `strict`, for the first record that cannot be understood; names file and record.
    """
    data = Imported()
    importer = Importer(paths, on_problem=data.problems.append, strict=strict)
    tasks: dict[str, Task] = {}
    episodes: dict[str, Episode] = {}
    for made in importer.stream():
        store: dict[str, Any] = tasks if isinstance(made, Task) else episodes
        if store.setdefault(made.id, made) != made:
            noun = "task" if isinstance(made, Task) else "episode"
            problem = Problem("", made.id, f"{noun} {made.id!r} stands twice with different content; the first is kept")
            importer.report(problem)
    return replace(
        data,
        tasks=list(tasks.values()),
        episodes=list(episodes.values()),
        characters=importer.characters,
        splits=importer.splits,
        ratings=importer.ratings,
        relationships=importer.relationships,
        extras=importer.extras,
    )
