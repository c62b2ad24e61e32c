"""Tasks and episodes as Arrow columns, exactly: what Parquet files and Hugging Face datasets hold.

The columns follow from the records' own fields, so that a field added to a record is a column here:

    text, numbers, flags        columns of their own
    a record                    a struct
    a tuple                     a list
    a mapping by name           a list of {"name", "value"}
    free JSON (`terms`, `private`, `details`)   JSON text

Nothing stands twice. One column more, `exact`, is null except where a record does not fit its
columns (a whole number beyond 64 bits, a lone surrogate in a text): there it holds the whole record as
ASCII-escaped JSON, and the column that could not hold a value has null or "\ufffd" in its place.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, ValidationError

from sotopia_env.episodes import Episode, dump_json, load_episode
from sotopia_env.errors import MissingExtraError, SotopiaEnvError, StoreError, TaskFormatError, one_line
from sotopia_env.tasks import Record, Task

if TYPE_CHECKING:
    import pyarrow

EXACT = "exact"
"""The column that holds a whole record as JSON where the others cannot."""

SURROGATE = re.compile("[\ud800-\udfff]")

BATCH_CHARACTERS = 4 << 20
"""Text of the records that are turned into one batch of columns; what bounds a writer's memory."""

BATCH_ROWS = 10_000

_INT64 = range(-(2**63), 2**63)


def arrow() -> Any:
    """The module `pyarrow`.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(
            "Parquet files and Hugging Face datasets need pyarrow, which is not installed. Install it with: "
            "pip install 'sotopia-env[data]'"
        ) from error
    return pyarrow


class _Packing:
    """What is learned while one record is packed."""

    fits = True
    characters = 0


@dataclass(frozen=True)
class _Column:
    """How values of one kind become Arrow values and come back."""

    arrow: Any
    pack: Callable[[Any, _Packing], Any]
    unpack: Callable[[Any], Any]


def schema(kind: type[Record]) -> pyarrow.Schema:
    """The Arrow schema of tasks or episodes."""
    pa = arrow()
    return pa.schema([*_record(kind).arrow, pa.field(EXACT, pa.string())])


def batches(records: Iterable[Record], kind: type[Record]) -> Iterator[pyarrow.RecordBatch]:
    """Turn records into batches of columns, a few megabytes of text in each."""
    batcher = Batcher(kind)
    for record in records:
        yield from batcher.add(record)
    yield from batcher.rest()


class Batcher:
    """Gathers records and gives them back as batches of columns."""

    def __init__(self, kind: type[Record]) -> None:
        self.schema = schema(kind)
        self._kind = kind
        self._rows: list[dict[str, Any]] = []
        self._characters = 0

    def add(self, record: Record) -> Iterator[pyarrow.RecordBatch]:
        """Take one record; gives a batch if that one is full.

        Raises:
            StoreError: If it holds something that is no JSON, such as nan in a verdict's details.
        """
        packing = _Packing()
        row = _record(self._kind).pack(plain(record), packing)
        if not packing.fits:
            row[EXACT] = dump_json(record)
        self._rows.append(row)
        self._characters += packing.characters
        if self._characters >= BATCH_CHARACTERS or len(self._rows) >= BATCH_ROWS:
            yield from self.rest()

    def rest(self) -> Iterator[pyarrow.RecordBatch]:
        """What has not been given yet, if there is any."""
        if self._rows:
            rows, self._rows, self._characters = self._rows, [], 0
            yield arrow().RecordBatch.from_pylist(rows, schema=self.schema)


def plain(record: Record) -> dict[str, Any]:
    """A record as JSON values.

    Raises:
        StoreError: If it holds something that is no JSON.
    """
    try:
        return record.model_dump(mode="json")
    except ValueError as error:  # pydantic's own error is one
        raise StoreError(f"Record {getattr(record, 'id', '')!r:.80} cannot be written: {one_line(error)}.") from error


def kind_of(names: Iterable[str]) -> type[Record] | None:
    """Whether columns of these names hold tasks, episodes, or neither."""
    found = set(names)
    if {"task", "agents", "seed", "events"} <= found:
        return Episode
    return Task if {"id", "scenario", "seats"} <= found else None


def unpack(kind: type[Record], row: Mapping[str, Any], where: str) -> Record:
    """The record of one row.

    Raises:
        StoreError, TaskFormatError: If the row is none; names `where`.
    """
    exact = row.get(EXACT)
    failure = StoreError if kind is Episode else TaskFormatError
    try:
        if exact is not None and kind is Episode:
            return load_episode(exact, where)
        value = json.loads(exact) if exact is not None else _record(kind).unpack(row)
        if kind is Episode:
            return _episode(value, where)
        return kind.model_validate(value)
    except SotopiaEnvError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise failure(f"{where} cannot be used: field {field!r}: {first['msg']}.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise failure(f"{where} cannot be used: {one_line(error)}.") from error


def _episode(value: dict[str, Any], where: str) -> Episode:
    version = value.get("version")
    if isinstance(version, int) and version > Episode.model_fields["version"].default:
        return load_episode(json.dumps({"version": version}), where)  # which words the refusal
    return Episode.model_validate(value)


# --- one kind of value after another ----------------------------------------------------------------


@cache
def _record(kind: type[BaseModel]) -> _Column:
    pa = arrow()
    annotations: dict[str, Any] = {name: field.annotation for name, field in kind.model_fields.items()}
    columns = {name: _column(annotation) for name, annotation in annotations.items()}

    def pack(value: dict[str, Any], packing: _Packing) -> dict[str, Any]:
        # Records leave some fields out where they have their default: null then.
        return {name: column.pack(value[name], packing) for name, column in columns.items() if name in value}

    def unpack(row: Mapping[str, Any]) -> dict[str, Any]:
        # Null is every field's default, or stands for it; a column that is unknown is refused by the record.
        return {
            name: columns[name].unpack(value) if name in columns else value
            for name, value in row.items()
            if value is not None
        }

    return _Column(pa.struct([pa.field(name, column.arrow) for name, column in columns.items()]), pack, unpack)


@cache
def _column(annotation: Any) -> _Column:
    pa = arrow()
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _column(arguments[0])
    if origin in (Union, types.UnionType):
        (inner,) = [each for each in arguments if each is not type(None)]
        return _optional(_column(inner))
    if annotation is str or origin is Literal:
        return _Column(pa.string(), _pack_text, _same)
    if annotation is bool:
        return _Column(pa.bool_(), _pack_same, _same)
    if annotation is int:
        return _Column(pa.int64(), _pack_integer, _same)
    if annotation is float:
        return _Column(pa.float64(), _pack_same, _same)
    if origin is tuple and arguments[1:] == (...,):
        return _listed(_column(arguments[0]))
    if origin is dict and arguments[1] in (JsonValue, object):
        return _Column(pa.string(), _pack_json, json.loads)
    if origin is dict:
        return _mapping(_column(arguments[1]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _record(annotation)
    raise TypeError(f"No column is known for {annotation!r}.")  # a new kind of field: give it one above


def _same(value: Any) -> Any:
    return value


def _pack_same(value: Any, packing: _Packing) -> Any:
    packing.characters += 8
    return value


def _pack_text(value: str, packing: _Packing) -> str:
    packing.characters += len(value)
    if not value.isascii() and SURROGATE.search(value):
        packing.fits = False
        return SURROGATE.sub("\ufffd", value)
    return value


def _pack_integer(value: int, packing: _Packing) -> int | None:
    packing.characters += 8
    if value in _INT64:
        return value
    packing.fits = False
    return None


def _pack_json(value: Any, packing: _Packing) -> str:
    try:
        text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"A record's facts or details are no JSON: {one_line(error)}.") from error
    packing.characters += len(text)
    return text


def _optional(column: _Column) -> _Column:
    return _Column(
        column.arrow,
        lambda value, packing: None if value is None else column.pack(value, packing),
        lambda value: None if value is None else column.unpack(value),
    )


def _listed(column: _Column) -> _Column:
    return _Column(
        arrow().list_(column.arrow),
        lambda value, packing: [column.pack(each, packing) for each in value],
        lambda value: [column.unpack(each) for each in value],
    )


def _mapping(column: _Column) -> _Column:
    pa = arrow()

    def pack(value: dict[str, Any], packing: _Packing) -> list[dict[str, Any]]:
        return [
            {"name": _pack_text(name, packing), "value": column.pack(each, packing)} for name, each in value.items()
        ]

    def unpack(value: list[dict[str, Any]]) -> dict[str, Any]:
        return {each["name"]: column.unpack(each["value"]) for each in value}

    return _Column(pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", column.arrow)])), pack, unpack)
