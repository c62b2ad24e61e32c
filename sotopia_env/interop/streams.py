"""Files as streams of JSON values, in bounded memory, whatever is in them.

    records(path)    JSON Lines, one JSON value, a JSON array, a Redis dump as one JSON object, or CSV

The form is recognised by the first bytes. A record may have `RECORD_LIMIT` characters; a file may have any size:
of a JSON array or a Redis dump one element is in memory at a time. What cannot be read is reported and the rest goes
on where one can tell where the next record begins: after a line, but not inside an array.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

RECORD_LIMIT = 8 << 20
"""Characters of the longest record that is read; genuine episodes have 32,000, the longest some hundred thousand."""

_CHUNK = 1 << 20
_SNIFF = 1 << 16
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_REDIS_START = re.compile(r'\{\s*"(?::[\w.]|[\w.]+\.[A-Za-z]\w*:)')
_REDIS_KEY = re.compile(r'(?<!\\)":?sotopia\.database\.[\w.]+:[^"\\]*"\s*:')
_SCALARS = re.compile(r"[-\w.+]")

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip-compressed; unpack it first"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"BZh", "bzip2-compressed; unpack it first"),
    (b"\xfd7zXZ", "xz-compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first"),
    (b"REDIS", "a Redis database file; load it into Redis and export the records as JSON"),
    (b"\xff\xfe", "UTF-16, not UTF-8; convert it first, as by `iconv -f UTF-16 -t UTF-8`"),
    (b"\xfe\xff", "UTF-16, not UTF-8; convert it first, as by `iconv -f UTF-16 -t UTF-8`"),
    (b"\x80\x04\x95", "a Python pickle, which is never read"),
)


class Located(NamedTuple):
    """A value and its place in the file, such as "line 3"."""

    place: str
    value: Any
    key: str = ""
    """The key of a Redis dump under which it stood."""


class Trouble(NamedTuple):
    """A place that could not be read, and why. An empty place means the whole file.

    `no_data` says that the file does not even look like data.
    """

    place: str
    reason: str
    no_data: bool = False


Skip = Callable[[bytes], bool]


def records(path: Path, *, skip: Skip | None = None) -> Iterator[Located | Trouble]:
    """Iterate over the records of a file, and over what could not be read of it.

    Args:
        path: A regular file.
        skip: Of JSON Lines only: lines for which this is true are passed over without being parsed.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            yield Trouble("", "not a regular file; only files and folders are read")
            return
        with path.open("rb", buffering=_CHUNK) as file:
            yield from _any(file, skip)
    except OSError as error:
        yield Trouble("", f"cannot be read: {error.strerror or error}")


def _any(file: BinaryIO, skip: Skip | None) -> Iterator[Located | Trouble]:
    head = file.read(_SNIFF)
    file.seek(0)
    trouble = next((reason for magic, reason in _MAGIC if head.startswith(magic)), None)
    if trouble is None and b"\0" in head:
        trouble = "holds NUL bytes, so it is no text in UTF-8"
    if trouble is not None:
        yield Trouble("", trouble)
        return
    start = codecs.decode(head.removeprefix(codecs.BOM_UTF8), "utf-8", "replace").lstrip()
    if not start:
        yield Trouble("", "empty", no_data=True)
    elif start[0] == "[":
        yield from _Elements(file).array()
    elif _REDIS_START.match(start) or (start[0] == "{" and _REDIS_KEY.search(start)):
        yield from _Elements(file).members()
    elif start[0] in '{"' and (start[0] == "{" or not _is_csv(start)):
        yield from _lines(file, skip) if _is_lines(start) else _Elements(file).whole()
    elif _is_csv(start):
        yield from _csv(file, start)
    else:
        yield Trouble("", "neither JSON nor CSV with a known header", no_data=True)


def _is_lines(start: str) -> bool:
    """Whether this is the beginning of JSON Lines, and not of one JSON value over many lines."""
    first, newline, rest = start.partition("\n")
    if not newline or rest.lstrip("\r\n")[:1] in ("{", "["):
        return True  # a single line, one that does not end soon, or another record below a broken one
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


# --- JSON Lines -----------------------------------------------------------------------------------


def _lines(file: BinaryIO, skip: Skip | None) -> Iterator[Located | Trouble]:
    for number, line in _limited(file):
        place = f"line {number}"
        if line is None:
            yield Trouble(place, f"longer than the {RECORD_LIMIT} bytes that a record may have")
            continue
        if not line.strip() or (skip is not None and skip(line)):
            continue
        yield _loaded(place, line)


def _limited(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; `None` for one that is too long, which is passed over a piece at a time."""
    number = 0
    while line := file.readline(RECORD_LIMIT + 1):
        number += 1
        if len(line) <= RECORD_LIMIT or line.endswith(b"\n"):
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            continue
        yield number, None
        while (piece := file.readline(_CHUNK)) and not piece.endswith(b"\n"):
            pass


def _loaded(place: str, line: bytes) -> Located | Trouble:
    try:
        return Located(place, json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return Trouble(place, f"not UTF-8: byte 0x{line[error.start]:02x} at {error.start}")
    except (ValueError, RecursionError) as error:
        return Trouble(place, f"not valid JSON ({_why(error)})")


def _why(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:160]


# --- one value, an array, a Redis dump ------------------------------------------------------------


def _breaks_off(error: ValueError, text: str) -> bool:
    """Whether it is the end of what was read so far that makes it no JSON."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - 16


class _StopError(Exception):
    """Raised inside when nothing more of a file can be read; says why."""


class _Elements:
    """Reads the elements of a large JSON value one by one, keeping only the one at hand."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False

    def array(self) -> Iterator[Located | Trouble]:
        """The elements of an array; then of whatever values follow it."""
        yield from self._guarded("element", self._values)

    def members(self) -> Iterator[Located | Trouble]:
        """The members of an object, with their keys; then whatever values follow it."""
        yield from self._guarded("member", self._members)

    def whole(self) -> Iterator[Located | Trouble]:
        """JSON values one after another, over any number of lines."""
        yield from self._guarded("value", self._values)

    def _guarded(self, noun: str, read: Callable[[], Iterator[Located]]) -> Iterator[Located | Trouble]:
        number = 0
        try:
            for number, found in enumerate(read(), start=1):
                place = f"{noun} {number}" if noun != "value" or number > 1 else ""
                yield Located(place, found.value, found.key)
        except _StopError as stop:
            rest = "" if number == 0 else "; what follows it is not read"
            yield Trouble(f"{noun} {number + 1}", f"{stop}{rest}")

    def _array(self) -> Iterator[Located]:
        self._expect("[")
        if self._peek() == "]":
            self._at += 1
            return
        more = True
        while more:
            yield Located("", self._value())
            more = self._comma("]")

    def _members(self) -> Iterator[Located]:
        self._expect("{")
        more = self._peek() != "}"
        self._at += not more
        while more:
            key = self._value()
            if not isinstance(key, str):
                raise _StopError("a key that is no string")
            self._expect(":")
            yield Located("", self._value(), key)
            more = self._comma("}")
        yield from self._values()

    def _values(self) -> Iterator[Located]:
        while found := self._peek():
            if found == "[":
                yield from self._array()
            else:
                yield Located("", self._value())

    def _comma(self, close: str) -> bool:
        found = self._peek()
        self._at += 1
        if found == ",":
            return True
        if found == close:
            return False
        raise _StopError(f"expected ',' or {close!r}, got {found!r}" if found else "the file breaks off")

    def _expect(self, wanted: str) -> None:
        found = self._peek()
        if found != wanted:
            raise _StopError(f"expected {wanted!r}, got {found!r}" if found else "the file breaks off")
        self._at += 1

    def _peek(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _value(self) -> Any:
        if not self._peek():
            raise _StopError("the file breaks off")
        if self._at > _CHUNK:
            self._text, self._at = self._text[self._at :], 0
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise _StopError("nested too deeply") from None
            except ValueError as error:
                if _breaks_off(error, self._text) and self._grow():
                    continue
                if len(self._text) - self._at > RECORD_LIMIT:
                    raise _StopError(f"longer than the {RECORD_LIMIT} characters that a record may have") from None
                raise _StopError(f"not valid JSON ({_why(error)})") from None
            # A number at the end of what was read so far may go on.
            if end == len(self._text) and _SCALARS.match(self._text[end - 1]) and self._grow():
                continue
            if end - self._at > RECORD_LIMIT:
                raise _StopError(f"longer than the {RECORD_LIMIT} characters that a record may have")
            self._at = end
            return value

    def _grow(self) -> bool:
        """Read as much again as waits, so that trying once more costs no more than the first time."""
        waiting = len(self._text) - self._at
        if waiting > RECORD_LIMIT:
            return False
        target = len(self._text) + max(waiting, _CHUNK)
        grown = False
        while len(self._text) < target and self._more():
            grown = True
        return grown

    def _more(self) -> bool:
        if self._ended:
            return False
        data = self._file.read(_CHUNK)
        self._ended = not data
        try:
            text = self._decode.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise _StopError(f"not UTF-8: {error.reason}") from None
        self._text += text
        return bool(text) or not self._ended


# --- CSV ------------------------------------------------------------------------------------------

_KNOWN_COLUMNS = re.compile(
    r"(?:^|[,|])\"?(?:pk|env_id|agent_id|combo_id|relationship_id|episode_id|Input\.episode_id|prolific_id"
    r"|believability_1|model\|source\|pk\|prompt)\"?(?=[,|\r\n]|$)"
)


def _is_csv(start: str) -> bool:
    return _KNOWN_COLUMNS.search(start.partition("\n")[0]) is not None


def _csv(file: BinaryIO, start: str) -> Iterator[Located | Trouble]:
    delimiter = "|" if "|" in start.partition("\n")[0] else ","
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, RECORD_LIMIT))  # of the whole process, so it is put back
    try:
        reader = csv.DictReader(_text_lines(file), delimiter=delimiter, strict=True)
        for row in reader:
            extra = row.pop(None, None)
            place = f"line {reader.line_num}"
            if extra is not None or None in row.values():
                yield Trouble(place, "its number of cells is not that of the header")
            else:
                yield Located(place, row)
    except (csv.Error, _StopError) as error:
        yield Trouble("", f"not readable as CSV: {error}")
    finally:
        csv.field_size_limit(before)


def _text_lines(file: BinaryIO) -> Iterator[str]:
    for number, line in _limited(file):
        if line is None:
            raise _StopError(f"line {number} is longer than the {RECORD_LIMIT} bytes that a record may have")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _StopError(f"line {number} is not UTF-8: {error.reason}") from None
