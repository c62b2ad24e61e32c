"""Fields as other programs write them, read without guessing.

A missing value is `None`, "", "nan" or not there at all, and where no text is expected also "none" and "null"; a list
may stand as JSON or as the text of a Python list, once or twice over; a number may be text. Whatever fits none of these
is refused by name.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from typing import Any

from sotopia_env.interop.records import UnusableRecordError
from sotopia_env.interop.spelling import is_id, plain

LITERAL_LIMIT = 1 << 18
"""Characters of a text that is read as a Python list or mapping; SOTOPIA's have some ten thousand."""

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*(?:'|\\?\Z)|"(?:[^"\\]|\\.)*(?:"|\\?\Z)""", re.DOTALL)
_EXPONENT = re.compile(r"\d[eE][+-]?\d")
_SUM = re.compile(r"[\w)\]}.]\s*[+-]")

_MISSING = frozenset({"", "nan", "none", "null"})


def is_missing(value: object) -> bool:
    """Whether a value stands for nothing."""
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, str) and value.strip().lower() in _MISSING


def text(record: dict[str, Any], name: str, default: str = "") -> str:
    """A text field, character for character; the default if it stands for nothing.

    "nan" is what pandas makes of nothing, but "Nan" and "None" are words.
    """
    value = record.get(name)
    if value == "nan" or (is_missing(value) and not isinstance(value, str)):
        return default
    if not isinstance(value, str):
        raise UnusableRecordError(f"field {name!r} must be text, got {plain(value)}")
    return encodable(value, name)


def encodable(value: str, name: str) -> str:
    """Refuse text that no file could hold in UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnusableRecordError(f"field {name!r} holds half a surrogate pair at character {error.start}") from None
    return value


def identifier(record: dict[str, Any], *names: str) -> str:
    """The id that stands under the first of these names.

    Raises:
        UnusableRecordError: If there is none, or one that is no id, such as a path.
    """
    value = next((record[name] for name in names if not is_missing(record.get(name))), None)
    if value is None:
        raise UnusableRecordError(f"it has no {names[0]!r}")
    return check_id(value, names[0])


def check_id(value: object, name: str) -> str:
    """Refuse what is no id."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not is_id(value):
        raise UnusableRecordError(
            f"{name!r} is {plain(value)}, but an id has 1 to 200 letters, digits and ._:@+/- and is no path elsewhere"
        )
    return str(value)


def integer(value: object, name: str) -> int:
    """A whole number, which may be written as text or with a point."""
    try:
        if isinstance(value, str) and len(value) < 20:
            value = float(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
    except ValueError:
        pass
    if isinstance(value, bool) or not isinstance(value, int):
        raise UnusableRecordError(f"field {name!r} must be a whole number, got {plain(value)}")
    return value


def number(value: object) -> float | None:
    """A finite number, which may be written as text, or `None`."""
    if isinstance(value, str) and len(value) < 40:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def unfolded(value: Any) -> Any:
    """A list or mapping that may stand as text: JSON, or a Python literal. Any other value as it is."""
    for _ in range(3):
        if not isinstance(value, str):
            return value
        stripped = value.strip()
        if stripped[:1] not in ("[", "{", "(", '"', "'"):
            return value
        found = _literal(stripped)
        if found is None or (isinstance(found, str) and found.strip()[:1] not in ("[", "{", "(", '"', "'")):
            return value
        value = found
    return value


def _literal(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    # Sums, which make complex numbers, take a parser long.
    if len(value) > LITERAL_LIMIT or _SUM.search(_EXPONENT.sub("0", _QUOTED.sub("''", value))):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know, in whatever the text is
            return ast.literal_eval(value)  # evaluates nothing but constants
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def texts(record: dict[str, Any], name: str) -> list[str]:
    """A list of texts, which may stand as one text.

    Raises:
        UnusableRecordError: If it is no such list.
    """
    value = record.get(name)
    if is_missing(value):
        return []
    found = unfolded(value)
    if isinstance(found, tuple):
        found = list(found)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise UnusableRecordError(f"field {name!r} must be a list of texts, got {plain(value)}")
    return [encodable(each, name) for each in found]


def words(record: dict[str, Any], name: str) -> list[str]:
    """A list of words: blanks around them do not count, and pieces of a list's text are put together again.

    One generation of the data holds `["['Authority'", " ' Loyalty']"]` for `["Authority", "Loyalty"]`.
    """
    found = texts(record, name)
    if found and found[0].lstrip().startswith("[") and found[-1].rstrip().endswith("]"):
        whole = unfolded(",".join(found))
        if isinstance(whole, list) and all(isinstance(each, str) for each in whole):
            found = whole
    return [each.strip() for each in found if each.strip()]
