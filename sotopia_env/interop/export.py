"""Tasks and episodes to the files of other tools, one record at a time.

    records = EpisodeStore("runs.db").episodes()
    export_records(records, "episodes.parquet", "parquet")

Whatever the format, memory holds a few records at once, and the output appears whole or not at all: it is
written beside its place under another name and moved there in the end. docs/import-export.md says what is
in each format; what a format cannot hold is counted in the returned `Exported`, never dropped in silence.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from sotopia_env.episodes import Episode, dump_json
from sotopia_env.errors import ConfigurationError, StoreError, one_line, unknown
from sotopia_env.tasks import Record, Task

DEFAULT_FORMAT = "jsonl"


@dataclass(frozen=True)
class Options:
    """What some formats let one choose.

    Attributes:
        judge: Whose verdict becomes SOTOPIA's rewards, where episodes have several.
        facts_in_goals: Whether SOTOPIA's goals get the binding rules and private facts, for which its forms
            have no field, as `<extra_info>`.
    """

    judge: str | None = None
    facts_in_goals: bool = False


@dataclass
class Job:
    """One export that is under way.

    Attributes:
        place: The file, or the empty folder, to write to.
        kind: `Task` or `Episode`.
        options: What was chosen.
        files: Closes what is entered here, whatever happens.
        written: Numbers by kind of what is in the output.
        left_out: Numbers by what is not in it, and why.
        changed: Numbers by what is in it, but not as it was.
    """

    place: Path
    kind: type[Record]
    options: Options
    files: ExitStack
    written: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        format: A name out of `FORMATS`.
        out: The file or folder.
        written: Numbers by kind of what is in it.
        left_out: Numbers by what is not, and why.
        changed: Numbers by what is in it, but not as it was.
    """

    format: str
    out: str
    written: dict[str, int]
    left_out: dict[str, int]
    changed: dict[str, int]


class Sink(Protocol):
    """Takes records and writes them in one format."""

    def add(self, record: Task | Episode) -> None:
        """Write one record."""
        ...

    def close(self) -> None:
        """Write whatever waits; the output is whole then."""
        ...


class Format(NamedTuple):
    """A format: whether it is a folder, what it takes, and what writes it."""

    folder: bool
    takes: tuple[type[Record], ...]
    open: Callable[[Job], Sink]
    about: str


def export_records(
    records: Iterable[Task | Episode],
    out: str | Path,
    format: str = DEFAULT_FORMAT,
    *,
    judge: str | None = None,
    facts_in_goals: bool = False,
) -> Exported:
    """Write tasks, or episodes, in a format.

    Args:
        records: Tasks or episodes, not both; read one at a time.
        out: The file or folder. A file is replaced; a folder must be new or empty.
        format: A name out of `FORMATS`.
        judge: For SOTOPIA's forms: whose verdict becomes the rewards. Default: the only one there is.
        facts_in_goals: For SOTOPIA's forms: also write the binding rules and private facts, for which they
            have no field, into the goals, in `<extra_info>`. Such goals are longer than the tasks' own.

    Raises:
        ConfigurationError: If the format is unknown, takes no such records, or can hold none of them, or if
            there are none; or if `out` cannot be made.
        MissingExtraError: If it needs a library that is not installed.
        StoreError: If a record cannot be written. `out` is then as it was before.
    """
    if format not in FORMATS:
        raise ConfigurationError(unknown("format", format, FORMATS))
    chosen = FORMATS[format]
    with whole(Path(out), folder=chosen.folder) as place, ExitStack() as files:
        first, waiting = _first(records)
        kind: type[Record] = type(first)
        if kind not in chosen.takes:
            raise ConfigurationError(
                f"Format {format!r} takes episodes only, for tasks hold no conversation. Play them first, with "
                "`sotopia-env rollout`."
            )
        job = Job(place, kind, Options(judge, facts_in_goals), files)
        sink = chosen.open(job)
        for record in waiting:
            if type(record) is not kind:
                raise ConfigurationError(
                    f"The records are {kind.__name__}s and {type(record).__name__}s. Export each kind by itself."
                )
            sink.add(record)
        sink.close()
        files.close()
        if not job.written:
            raise ConfigurationError(f"Nothing of the source can be written as {format!r}: {_why(job.left_out)}.")
    return Exported(format, str(out), dict(job.written), dict(job.left_out), dict(job.changed))


def _why(left_out: Counter[str]) -> str:
    return "; ".join(f"{count} {what}" for what, count in left_out.most_common(3)) or "it makes no rows"


def _first(records: Iterable[Task | Episode]) -> tuple[Task | Episode, Iterator[Task | Episode]]:
    waiting = iter(records)
    for record in waiting:
        return record, itertools.chain([record], waiting)
    raise ConfigurationError("There is nothing to export: the source holds no such tasks or episodes.")


@contextmanager
def whole(out: Path, *, folder: bool) -> Iterator[Path]:
    """A place beside `out` to write to, which takes its name in the end; on an error nothing is left.

    Raises:
        ConfigurationError: If `out` cannot be replaced.
        StoreError: If the disk fails.
    """
    _check_out(out, folder)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name[:40]}.", dir=out.absolute().parent) as near:
            place = Path(near) / "whole"
            if folder:
                place.mkdir()
            yield place
            os.replace(place, out)
    except OSError as error:
        mine = error.filename is None or str(out.absolute().parent) in str(error.filename)
        if not mine:
            raise  # of the source
        raise StoreError(f"{str(out)!r} cannot be written: {error.strerror or one_line(error)}.") from error


def _check_out(out: Path, folder: bool) -> None:
    if not out.absolute().parent.is_dir():
        raise ConfigurationError(f"{str(out)!r} cannot be made: there is no folder {str(out.parent)!r}. Make it first.")
    if not folder and out.is_dir():
        raise ConfigurationError(f"{str(out)!r} is a folder, but this format is one file. Pass the path of a file.")
    if folder and (out.exists() or out.is_symlink()) and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigurationError(f"{str(out)!r} exists, and this format is a folder. Pass the path of a new one.")


# --- the formats ------------------------------------------------------------------------------------


def _plural(kind: type[Record]) -> str:
    return f"{kind.__name__.lower()}s"


class _Lines:
    """Our own JSON Lines, a record each, ASCII-escaped."""

    def __init__(self, job: Job) -> None:
        self._file = job.files.enter_context(job.place.open("w", encoding="ascii"))
        self._job = job

    def add(self, record: Task | Episode) -> None:
        try:
            line = dump_json(record)
        except (ValueError, RecursionError) as error:  # nan or another object in a verdict's details
            raise StoreError(f"Record {record.id!r:.80} cannot be written as JSON: {one_line(error)}.") from error
        self._file.write(line + "\n")
        self._job.written[_plural(self._job.kind)] += 1

    def close(self) -> None:
        pass


class _Parquet:
    """A Parquet file."""

    def __init__(self, job: Job) -> None:
        from sotopia_env.interop.parquet import ParquetFile

        self._file = ParquetFile(job.place, job.kind, job.files)
        self._job = job

    def add(self, record: Task | Episode) -> None:
        self._file.add(record)
        self._job.written[_plural(self._job.kind)] += 1

    def close(self) -> None:
        self._file.finish()


def _datasets(job: Job) -> Sink:
    from sotopia_env.interop.hub import DatasetFolder

    return DatasetFolder(job)


def _trl(job: Job) -> Sink:
    from sotopia_env.interop.trl import MessageLines

    return MessageLines(job)


def _trl_turns(job: Job) -> Sink:
    from sotopia_env.interop.trl import TurnLines

    return TurnLines(job)


def _sotopia_flat(job: Job) -> Sink:
    from sotopia_env.interop.homeward import FlatFiles

    return FlatFiles(job)


def _sotopia_native(job: Job) -> Sink:
    from sotopia_env.interop.homeward import NativeFiles

    return NativeFiles(job)


_BOTH = (Task, Episode)
FORMATS: dict[str, Format] = {
    "jsonl": Format(False, _BOTH, _Lines, "our own JSON Lines"),
    "parquet": Format(False, _BOTH, _Parquet, "a Parquet file"),
    "datasets": Format(True, _BOTH, _datasets, "a folder for the library datasets, with a dataset card"),
    "trl": Format(False, (Episode,), _trl, "JSON Lines for TRL: a conversation a line"),
    "trl-turns": Format(False, (Episode,), _trl_turns, "JSON Lines for TRL: a prompt with its completion a line"),
    "sotopia-flat": Format(True, _BOTH, _sotopia_flat, "a folder of JSON Lines as SOTOPIA publishes them"),
    "sotopia-native": Format(True, _BOTH, _sotopia_native, "a folder of records as SOTOPIA keeps them in ~/.sotopia"),
}
"""The formats by name."""
