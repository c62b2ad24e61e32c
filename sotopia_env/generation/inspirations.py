"""Inspirations: the keywords and sentences that a generated task starts from.

Our own list has 225. As in SOTOPIA-pi (arXiv 2403.08715, appendix B.1) they may also come from Social
Chemistry 101 (`situation`), Social IQa (`context`) and NormBank (`behavior`), recognised by their
column names, in about equal shares, and none is ever used twice. What stands in a file is data: it is
cleaned, cut to no form, and never an instruction.
"""

from __future__ import annotations

import csv
import json
import random
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, TextIO

from sotopia_env.errors import ConfigurationError, unknown
from sotopia_env.models import encodable

OWN = "built-in"
"""Source of our own list."""

LONGEST = 400
"""Characters; longer texts are no keywords and are left out."""

_LONGEST_LINE = 1_000_000
_DELIMITERS = ("\t", "|", ",", ";")
_KNOWN = {
    "situation": ("social_chem", {"rot", "rot-categorization", "situation-short-id"}),
    "context": ("social_iqa", {"question", "answera"}),
    "behavior": ("normbank", {"setting", "constraints", "norm"}),
}
"""Column, its source, and other columns of which one must be there."""

_PLAIN = ("inspiration", "prompt", "keyword", "keywords", "sentence", "text")
"""Columns of lists that are nobody's in particular."""


class Inspiration(NamedTuple):
    """A text that a task starts from, and the list that it comes from."""

    text: str
    source: str


def own_inspirations() -> list[Inspiration]:
    """The built-in list: nine kinds of situation, 25 of each."""
    with Path(__file__).with_name("inspirations.csv").open(encoding="utf-8", newline="") as file:
        return [Inspiration(row["text"], OWN) for row in csv.DictReader(file)]


def read_inspirations(path: str | Path, *, column: str | None = None) -> list[Inspiration]:
    """Read a list of inspirations: distinct, in file order, blank and overlong ones left out.

    Args:
        path: UTF-8. A table (comma, tab, semicolon or bar) with the columns of Social Chemistry, Social IQa or
            NormBank, or one named text, prompt, keyword, sentence or inspiration; Social IQa's JSON Lines; or plain
            text with one inspiration a line.
        column: The column to take, if it has another name.

    Raises:
        ConfigurationError: If the file cannot be read, has no such column, or holds no inspiration.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = list(_distinct(_texts(file, path, column)))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"Inspirations cannot be read from {str(path)!r}: {reason}.") from error
    except csv.Error as error:
        raise ConfigurationError(
            f"{str(path)!r} is no table that can be read ({error}). Give a CSV or TSV file, or one text a line."
        ) from error
    if not found:
        raise ConfigurationError(f"{str(path)!r} holds no inspiration of 1 to {LONGEST} characters.")
    return found


def draw(sources: Sequence[Sequence[Inspiration]], n: int, *, seed: int) -> list[Inspiration]:
    """Draw `n` inspirations without replacement, in equal shares as far as every source lasts.

    The first ones of a longer draw are those of a shorter one.

    Raises:
        ConfigurationError: If there are fewer than `n`: one inspiration gives at most one task.
    """
    shuffled = []
    for place, source in enumerate(sources):
        texts = list(source)
        random.Random(f"inspirations/{seed}/{place}").shuffle(texts)
        shuffled.append(texts)
    mixed = [found for row in zip_longest(*shuffled) for found in row if found is not None]
    chosen = list({_key(found.text): found for found in reversed(mixed)}.values())[::-1]
    if len(chosen) < n:
        raise ConfigurationError(
            f"n is {n}, but there are {len(chosen)} inspirations, and one gives at most one task. "
            "Give more of them or a smaller n."
        )
    return chosen[:n]


def without(found: Iterable[Inspiration], excluded: Iterable[Inspiration]) -> list[Inspiration]:
    """Those of `found` whose text is not in `excluded`; case and punctuation make no difference."""
    keys = {_key(one.text) for one in excluded}
    return [one for one in found if _key(one.text) not in keys]


# --- reading --------------------------------------------------------------------------------------


def _texts(file: TextIO, path: Path, column: str | None) -> Iterator[Inspiration]:
    lines = _lines(file, path)
    first = next(lines, "")
    if first.lstrip().startswith("{"):
        yield from _from_json(_chain(first, lines), path, column)
        return
    delimiter = max(_DELIMITERS, key=first.count)
    header = [name.strip().strip('"') for name in next(csv.reader([first], delimiter=delimiter), [])]
    chosen = _column(header, column, path)
    if chosen is None:
        _refuse_table(header, first, path)
        yield from (Inspiration(_unquoted(line), "list") for line in _chain(first, lines))
        return
    place, source = chosen
    for row in csv.reader(lines, delimiter=delimiter):
        if len(row) > place:
            yield Inspiration(row[place], source)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file, none of which may be so long that it fills the memory."""
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ConfigurationError(
                f"{str(path)!r} has a line of {_LONGEST_LINE:,} characters or more, which is no list of inspirations."
            )
        yield line


def _column(header: Sequence[str], wanted: str | None, path: Path) -> tuple[int, str] | None:
    """Place and source of the column to take, or None for a list without a header."""
    lowered = [name.casefold() for name in header]
    if wanted is not None:
        if wanted.casefold() not in lowered:
            raise ConfigurationError(unknown(f"column of {str(path)!r}", wanted, header))
        return lowered.index(wanted.casefold()), "list"
    for name, (source, others) in _KNOWN.items():
        if name in lowered and others & set(lowered):
            return lowered.index(name), source
    for name in _PLAIN:
        if name in lowered:
            return lowered.index(name), "list"
    return None


def _refuse_table(header: Sequence[str], first: str, path: Path) -> None:
    """Refuse what looks like a header that is not known: its names would become inspirations."""
    words = all(name and len(name.split()) == 1 for name in header)
    if len(header) > 1 and words and first.strip()[-1:] not in ".!?":
        raise ConfigurationError(
            f"{str(path)!r} has the columns {list(header)[:8]}, and none that is known: {[*_KNOWN, *_PLAIN]}. "
            "Name the one to take as `column`."
        )


def _from_json(lines: Iterator[str], path: Path, column: str | None) -> Iterator[Inspiration]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{str(path)!r}, line {number}: not valid JSON.") from error
        chosen = _column(list(value), column, path) if isinstance(value, dict) else None
        if chosen is None:
            raise ConfigurationError(
                f"{str(path)!r}, line {number}: none of the fields {[*_KNOWN, *_PLAIN]}. Name the one to take as "
                "`column`."
            )
        text = list(value.values())[chosen[0]]
        if isinstance(text, str):
            yield Inspiration(encodable(text), chosen[1])


def _unquoted(line: str) -> str:
    text = line.strip()
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text


def _distinct(found: Iterable[Inspiration]) -> Iterator[Inspiration]:
    seen: set[str] = set()
    for one in found:
        text = clean(one.text)
        key = _key(text)
        if key and len(text) <= LONGEST and key not in seen:
            seen.add(key)
            yield Inspiration(text, one.source)


def clean(text: str) -> str:
    """Text in one line without control and other unprintable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _key(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())
