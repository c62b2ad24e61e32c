"""Tasks: a scenario, its cast, and each seat's private goal and facts; and how to load them.

A task file is JSON Lines, one `Task` an object. In a folder, `characters.jsonl` holds one
`CharacterProfile` a line and every other `*.jsonl` holds tasks, whose seats may name a character by
its id. docs/tasks.md describes every field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from sotopia_env.errors import ConfigurationError, TaskFormatError, TaskNotFoundError, unknown

Relationship = Literal["stranger", "known_by_name", "acquaintance", "friend", "partner", "family"]
RELATIONSHIPS: tuple[str, ...] = get_args(Relationship)
"""How well the cast know each other, from nothing to everything but the secret."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

Wording = Literal["own", "sotopia"]
"""In whose words a task's background is told; see `sotopia_env.context` for SOTOPIA's."""


class Record(BaseModel):
    """Base of all records: immutable, strict about unknown fields, equal when equal."""

    model_config = ConfigDict(frozen=True, extra="forbid")


RecordType = TypeVar("RecordType", bound=Record)


class CharacterProfile(Record):
    """A fixed person.

    Attributes:
        id: Stable identifier, unique in its pack.
        name: Full name; the first word is the first name.
        age: Years.
        gender, pronouns, occupation, public_info: The public part, which acquaintances know.
        personality: What friends and family know as well.
        secret: What nobody else knows; written to the character ("You ..."). "" for none.
        origin: What the format it was imported from says beyond these fields; never shown to any agent.
    """

    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    age: int | None = Field(default=None, ge=0, le=130)
    gender: str = ""
    pronouns: str = ""
    occupation: str = ""
    public_info: str = ""
    personality: str = ""
    secret: str = ""
    origin: dict[str, JsonValue] = {}

    @model_serializer(mode="wrap")
    def _without_empty_origin(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(handler(self), {"origin": {}})


class Seat(Record):
    """One place in a task; seat i is played by `agent_i`.

    Attributes:
        character: Who sits here.
        goal: What this seat wants, in words; no other seat ever sees it.
        private: Facts only this seat knows, by name; JSON values.
    """

    character: CharacterProfile
    goal: str
    private: dict[str, JsonValue] = {}


class Task(Record):
    """A scenario, its cast, and each one's private goal and facts.

    Attributes:
        id: Unique among the tasks of one environment; carries no private fact.
        pack: Where the task comes from, such as "outcome" or "everyday".
        family: Kind of situation within the pack.
        split: "train", "validation" or "test".
        scenario: The situation as everybody knows it.
        relationship: How well the cast know each other; decides what each may know of the others.
        terms: Public facts for programs; `terms["rules"]` names the rules that bind, if any do.
        seats: Two or more.
        tags: Free labels, such as "hard".
        wording: "own", or "sotopia" for SOTOPIA's background text, in which names are always shown.
        origin: What the format it was imported from says beyond these fields; never shown to any agent.
    """

    id: str = Field(min_length=1)
    pack: str = "custom"
    family: str = ""
    split: Split = "test"
    scenario: str = Field(min_length=1)
    relationship: Relationship = "stranger"
    terms: dict[str, JsonValue] = {}
    seats: tuple[Seat, ...] = Field(min_length=2)
    tags: tuple[str, ...] = ()
    wording: Wording = "own"
    origin: dict[str, JsonValue] = {}

    @model_serializer(mode="wrap")
    def _without_import_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(handler(self), {"wording": "own", "origin": {}})

    def model_post_init(self, context: object, /) -> None:
        """Check that the cast fits; once, when the task is made."""
        _check_text(self)
        ids = [seat.character.id for seat in self.seats]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"character {twice[0]!r} sits in two seats; every seat needs a person of its own")
        if "rules" in self.terms:
            from sotopia_env.rules import check_task

            check_task(self)

    @cached_property
    def agents(self) -> tuple[str, ...]:
        """The agent ids of the seats: ("agent_0", "agent_1", ...)."""
        return tuple(f"agent_{i}" for i in range(len(self.seats)))

    @cached_property
    def digest(self) -> str:
        """A hash of the whole content, part of every episode's key."""
        return digest(self.model_dump(mode="json"))

    def __hash__(self) -> int:
        return hash(self.digest)


def without_defaults(record: dict[str, Any], defaults: dict[str, object]) -> dict[str, Any]:
    """Take fields with their default out of a record.

    Those are fields that only imported records have: the digests and files of all others stay what they were.
    """
    for name, default in defaults.items():
        if name in record and record[name] == default:
            del record[name]
    return record


def _check_text(task: Task) -> None:
    """Refuse lone surrogates, nan and infinity: no observation, file or database could carry them."""
    record = task.model_dump()
    seats = {f"seats.{index}": seat for index, seat in enumerate(record.pop("seats"))}
    for field, value in {**record, **seats}.items():
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:
            raise ValueError(f"{field} cannot be written as JSON in UTF-8 ({error}); use numbers and text") from error


def digest(value: object) -> str:
    """Hash a JSON value by its canonical form; 40 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


# --- who knows what -----------------------------------------------------------------------------


def name_known_to(task: Task, viewer: int, other: int) -> str:
    """The name by which the character in seat `viewer` knows the one in seat `other`."""
    if viewer == other or task.relationship != "stranger" or task.wording == "sotopia":
        return task.seats[other].character.name
    return "the other person" if len(task.seats) == 2 else f"person {other + 1}"


def profile_known_to(task: Task, viewer: int, other: int) -> str:
    """What the character in seat `viewer` knows of the one in seat `other`, as text.

    stranger: nothing; known by name: the name; acquaintance: the public part as well; friend,
    partner and family: all but the secret. A character knows all of itself.
    """
    who = task.seats[other].character
    own = viewer == other
    if not own and task.relationship == "stranger":
        return ""
    if not own and task.relationship == "known_by_name":
        return who.name
    parts = [who.name]
    if who.age is not None:
        parts.append(f"{who.age} years old")
    parts += [part for part in (who.gender, who.pronouns and f"pronouns {who.pronouns}", who.occupation) if part]
    text = ", ".join(parts) + "."
    if who.public_info:
        text += f" {who.public_info}"
    if (own or task.relationship in ("friend", "partner", "family")) and who.personality:
        text += f" {who.personality}"
    if own and who.secret:
        text += f" Your secret, which nobody else knows: {who.secret}"
    return text


# --- loading ------------------------------------------------------------------------------------

PACKS = ("everyday", "everyday-hard", "outcome", "safety")
SOTOPIA = ("sotopia", "sotopia-hard")
"""SOTOPIA's own tasks, which are read from its data; `sotopia-hard` is their split "hard"."""


def load_tasks(
    pack: str | Path,
    *,
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    seats: int | None = None,
    path: str | Path | None = None,
) -> list[Task]:
    """Load a built-in pack, one family of it, SOTOPIA's tasks, or your own from a JSONL file or folder.

    Args:
        pack: "outcome" (the two-seat families), "everyday", "everyday-hard" (their two-seat scenes),
            "safety" (one is tempted to harm, the other to prevent it), "sotopia", "sotopia-hard",
            "<pack>/<family>", or a path to a `.jsonl` file or a folder of them.
        split: "train", "validation" or "test", and of "sotopia" also "hard". `None`: every split of a written
            pack, of SOTOPIA or of your own files; "train" for the generated pack "outcome".
        n: How many. A generated pack makes that many (default 120), family after family in turn; of
            written tasks the first n are taken, in file order.
        seed: Which tasks a generated pack makes; without effect on written tasks.
        seats: Number of seats. Generated "outcome/committee" tasks have 3 or more (default 3); of the
            written packs it selects the scenes of that size (default 2; 3 gives those for three). Your
            own files are taken whole unless it is given.
        path: Of "sotopia" only: the file or folder with SOTOPIA's data, in any of its spellings. Default: the
            path in the environment variable SOTOPIA_DATA, else the Hugging Face hub.

    Raises:
        TaskNotFoundError: For an unknown pack, family or split, or a path that does not exist.
        ConfigurationError: If the hub is needed and cannot be reached.
        TaskFormatError: For a record that cannot be used; names file, line and field.
    """
    name, _, family = str(pack).partition("/")
    from_sotopia = isinstance(pack, str) and name in SOTOPIA
    if split is not None and split not in SPLITS and not from_sotopia:
        raise TaskNotFoundError(unknown("split", split, SPLITS))
    if n is not None and n < 0:
        raise ConfigurationError(f"n is {n!r}, but must be 0 or more, or None for all.")
    if path is not None and not from_sotopia:
        raise ConfigurationError(f"path is {str(path)!r}, but only 'sotopia' takes one. Pass it in place of {pack!r}.")
    if name == "outcome" and isinstance(pack, str):
        from sotopia_env.packs import outcome

        return outcome.generate(
            family or None, split=split or "train", n=120 if n is None else n, seed=seed, seats=seats
        )
    if name in PACKS and isinstance(pack, str):
        tasks = _written(name)
        seats = 2 if seats is None else seats
        families = sorted({task.family for task in tasks})
        if family and family not in families:
            raise TaskNotFoundError(unknown(f"family of {name!r}", family, families))
        tasks = [task for task in tasks if not family or task.family == family]
    elif from_sotopia:
        from sotopia_env.interop.sotopia import load_sotopia

        wanted = "hard" if name == "sotopia-hard" and split in (None, "test") else split
        tasks, split = load_sotopia(path, family=family, split=wanted), None
    else:
        tasks = read_tasks(pack)
    tasks = [task for task in tasks if split is None or task.split == split]
    tasks = [task for task in tasks if seats is None or len(task.seats) == seats]
    return tasks if n is None else tasks[:n]


def _written(name: str) -> list[Task]:
    folder = Path(__file__).with_name("packs") / ("safety" if name == "safety" else "everyday")
    tasks = read_tasks(folder)
    return [task for task in tasks if "hard" in task.tags] if name == "everyday-hard" else tasks


def read_tasks(path: str | Path) -> list[Task]:
    """Read tasks from a JSONL file, or from a folder with `characters.jsonl` and task files.

    Raises:
        TaskNotFoundError: If the path does not exist or is no pack either.
        TaskFormatError: If a line cannot be used, or two tasks share an id.
    """
    path = Path(path)
    if not path.exists():
        from sotopia_env.packs.outcome import FAMILIES

        known = [*PACKS, *SOTOPIA, *(f"outcome/{family}" for family in FAMILIES)]
        raise TaskNotFoundError(
            unknown("task pack or path", str(path), known, "A path must be a .jsonl file or a folder of them.")
        )
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    characters: dict[str, CharacterProfile] = {}
    for file in [f for f in files if f.name == "characters.jsonl"]:
        for line, value in _lines(file):
            profile = _validated(CharacterProfile, value, file, line)
            if profile.id in characters:
                raise TaskFormatError(f"{file}, line {line}, field 'id': {profile.id!r} stands twice.")
            characters[profile.id] = profile
    tasks: dict[str, Task] = {}
    for file in [f for f in files if f.name != "characters.jsonl"]:
        for line, value in _lines(file):
            task = _validated(Task, _with_cast(value, characters, file, line), file, line)
            if task.id in tasks:
                raise TaskFormatError(f"{file}, line {line}, field 'id': {task.id!r} stands twice.")
            tasks[task.id] = task
    if not tasks:
        raise TaskFormatError(f"{path} holds no tasks. Expected one JSON object a line; see docs/tasks.md.")
    return list(tasks.values())


def write_tasks(path: str | Path, tasks: Iterable[Task]) -> None:
    """Write tasks as a JSONL file that `read_tasks` reads back equal."""
    with Path(path).open("w", encoding="utf-8") as file:
        for task in tasks:
            file.write(json.dumps(task.model_dump(mode="json"), ensure_ascii=False) + "\n")


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskFormatError(f"{file} cannot be read: {error}. Expected UTF-8 JSON Lines.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TaskFormatError(f"{file}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(value, dict):
            raise TaskFormatError(f"{file}, line {number}: expected a JSON object, got {value!r:.80}.")
        yield number, value


def _with_cast(value: dict[str, Any], characters: dict[str, CharacterProfile], file: Path, line: int) -> dict[str, Any]:
    seats = value.get("seats")
    if not isinstance(seats, list):
        return value  # validation says what is missing
    filled = []
    for index, seat in enumerate(seats):
        if isinstance(seat, dict) and isinstance(seat.get("character"), str):
            name = seat["character"]
            if name not in characters:
                raise TaskFormatError(
                    f"{file}, line {line}, field 'seats.{index}.character': "
                    + unknown("character", name, characters, "Put it in characters.jsonl beside the tasks.")
                )
            seat = {**seat, "character": characters[name]}
        filled.append(seat)
    return {**value, "seats": filled}


def _validated(kind: type[RecordType], value: dict[str, Any], file: Path, line: int) -> RecordType:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the record"
        message = first["msg"].removeprefix("Value error, ")
        found = f"got {first['input']!r:.80}"
        raise TaskFormatError(f"{file}, line {line}, field {field!r}: {message}; {found}.") from error


def resolve_tasks(tasks: str | Path | Task | Sequence[Task]) -> list[Task]:
    """Turn whatever a user passes as `tasks` into a list of tasks with distinct ids.

    Raises:
        ConfigurationError: If there is no task, or two share an id.
    """
    if isinstance(tasks, Task):
        found = [tasks]
    elif isinstance(tasks, (str, Path)):
        found = load_tasks(tasks)
    else:
        found = list(tasks)
        wrong = [task for task in found if not isinstance(task, Task)]
        if wrong:
            raise ConfigurationError(
                f"tasks holds {wrong[0]!r:.120}, but must be a pack name, a path, or Task objects "
                "(see sotopia_env.load_tasks)."
            )
    if not found:
        raise ConfigurationError("tasks is empty. Pass a pack name such as 'outcome', a path, or Task objects.")
    ids = [task.id for task in found]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ConfigurationError(f"Two tasks share the id {twice!r}. Every task needs an id of its own.")
    return found
