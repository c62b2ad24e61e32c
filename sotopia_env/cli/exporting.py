"""`sotopia-env export`: tasks and episodes to the files of other tools."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.cli import common
from sotopia_env.cli.sources import open_source
from sotopia_env.errors import ConfigurationError, StoreError, TaskFormatError, unknown

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode
    from sotopia_env.tasks import Task

LONGEST_LINE = 256 << 20
"""Bytes of the longest line that is read from a JSONL file."""


def run(
    *,
    source: str,
    format: str,
    out: str,
    split: str | None,
    status: str | None,
    limit: int | None,
    judge: str | None,
    facts_in_goals: bool,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the export, and say what is in it and what is not."""
    from sotopia_env.interop.export import FORMATS, export_records

    if format not in FORMATS:
        raise ConfigurationError(unknown("format", format, FORMATS))
    _check_choices(split, status)
    if common.overwrites(Path(out), source):
        raise ConfigurationError(f"{out!r} is the source itself. Pass another path to write to.")
    records = _chosen(open_records(source, seed=seed, limit=limit), split, status)
    done = export_records(
        _shown(itertools.islice(records, limit), quiet),
        out,
        format,
        judge=judge,
        facts_in_goals=facts_in_goals,
    )
    if as_json:
        common.print_json(dataclasses.asdict(done))
        return
    written = ", ".join(_counted(count, kind) for kind, count in done.written.items()) or "nothing"
    common.say(f"{done.out}: {written}")
    for what, count in done.left_out.items():
        common.log(f"Not in it: {_counted(count, what)}.")
    for what, count in done.changed.items():
        common.log(f"Changed in it: {_counted(count, what)}.")


def _check_choices(split: str | None, status: str | None) -> None:
    from sotopia_env.store import STATUSES
    from sotopia_env.tasks import SPLITS

    if split is not None and split not in SPLITS:
        raise ConfigurationError(unknown("split", split, SPLITS))
    if status is not None and status not in STATUSES:
        raise ConfigurationError(unknown("status", status, STATUSES))


def _chosen(records: Iterator[Any], split: str | None, status: str | None) -> Iterator[Any]:
    from sotopia_env.episodes import Episode

    for record in records:
        task = record.task if isinstance(record, Episode) else record
        if split is not None and task.split != split:
            continue
        if status is None or (isinstance(record, Episode) and record.status == status):
            yield record


def _shown(records: Iterator[Any], quiet: bool) -> Iterator[Any]:
    """The records, counted on stderr as they pass."""
    if quiet:
        yield from records
        return
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("exported"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=common.console(stderr=True), transient=True) as progress:
        yield from progress.track(records, total=None)


def _counted(count: int, things: str) -> str:
    """A count with a plural noun, which one of it makes singular."""
    first, space, rest = things.partition(" ")
    return f"{count} {first.removesuffix('s') if count == 1 else first}{space}{rest}"


# --- where records come from ------------------------------------------------------------------------


def open_records(source: str, *, seed: int = 0, limit: int | None = None) -> Iterator[Task | Episode]:
    """Tasks or episodes of a pack, a store, a JSONL or Parquet file, or a folder, told apart by content.

    Args:
        source: A pack, pack/family, path, or SQLAlchemy URL.
        seed: Which tasks a generated pack makes.
        limit: How many tasks a generated pack makes.

    Raises:
        StoreError, TaskFormatError, ConfigurationError: If it is none of these, or a record cannot be used.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _file(path)
    if "://" in source:
        return open_source(source).episodes()
    from sotopia_env.tasks import load_tasks

    return iter(load_tasks(source, n=limit, seed=seed))


def _folder(path: Path) -> Iterator[Any]:
    from sotopia_env.interop.hub import is_dataset, read_dataset
    from sotopia_env.tasks import read_tasks

    if is_dataset(path):
        return read_dataset(path)
    return iter(read_tasks(path))


def _file(path: Path) -> Iterator[Any]:
    from sotopia_env.interop.parquet import is_parquet, read_parquet

    if is_parquet(path):
        return read_parquet(path)
    with path.open("rb") as file:
        if file.read(15) == b"SQLite format 3":
            return open_source(str(path)).episodes()
    return _lines(path)


def _lines(path: Path) -> Iterator[Any]:
    """The records of a JSONL file; the first line says which kind they are."""
    from sotopia_env.episodes import load_episode

    read: Any = None
    for number, line in _numbered(path):
        where = f"{path}, line {number}"
        if read is None:
            read = load_episode if _is_episode(line, where) else _task
        yield read(line, where)


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(LONGEST_LINE + 1)
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise StoreError(f"{path}, line {number} is longer than {LONGEST_LINE} bytes. No record is.")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise StoreError(f"{path}, line {number} is not valid JSON in UTF-8 ({error.reason}).") from error
            if text.strip():
                yield number, text


def _is_episode(line: str, where: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"{where} is not valid JSON ({error}). Pass an episode store, a Parquet file, or JSON Lines of episodes or "
            "tasks."
        ) from error
    if isinstance(value, dict) and "task" in value and "agents" in value:
        return True
    if isinstance(value, dict) and "seats" in value:
        return False
    raise StoreError(
        f"{where} is neither an episode nor a task of this package. Bring other tools' files in first, with "
        "`sotopia-env import`."
    )


def _task(line: str, where: str) -> Task:
    from pydantic import ValidationError

    from sotopia_env.tasks import Task

    try:
        return Task.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the record"
        message = first["msg"].removeprefix("Value error, ")
        raise TaskFormatError(f"{where}, field {field!r}: {message}.") from error
    except (ValueError, RecursionError) as error:
        raise TaskFormatError(f"{where}: not valid JSON ({error}).") from error
