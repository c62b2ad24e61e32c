"""The XML in SOTOPIA's goals and scenarios: who may see what.

A text may hold `<extra_info>`, `<clarification_hint>`, `<strategy_hint>` and `<p viewer="...">`. An agent sees the
elements without a viewer and its own; "environment" sees all text; an element of any other name is shown to nobody.
Nothing is ever expanded: a document type or an entity of its own is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.parsers import expat

from sotopia_env.interop.records import UnusableRecordError

HINTS = ("extra_info", "clarification_hint", "strategy_hint")
ENVIRONMENT_VIEWER = "environment"

MOST_CHARACTERS = 200_000
"""Length of a goal or scenario that is still read; SOTOPIA's longest are a few thousand."""

_MOST_DEPTH = 50
_SHOWN = ("root", "p", *HINTS)
_PLAIN_TAG = re.compile(rf"</?(?:{'|'.join(_SHOWN)})\s*/?>")
_VIEWER = re.compile(r"<[^<>]{0,200}\bviewer\s*=[^<>]{0,60}>?", re.IGNORECASE)
_LEFT_OVER = re.compile(r"</?[A-Za-z][\w.-]*(?:\s[^<>]*)?/?>")


@dataclass(frozen=True)
class Shown:
    """A text as one viewer sees it.

    Attributes:
        text: What is seen.
        repair: What had to be done to read it, or "" if it was well-formed.
    """

    text: str
    repair: str = ""


def shown_to(text: str, viewer: str) -> Shown:
    """Render a goal or scenario for a viewer.

    Args:
        text: The text with its tags.
        viewer: "agent_0", "agent_1", ..., or "environment", which sees everything.

    Raises:
        UnusableRecordError: If it declares a document type, is too long or too deep, or if tags are broken so that
            one cannot tell who may see what.
    """
    if len(text) > MOST_CHARACTERS:
        raise UnusableRecordError(f"a text of {len(text)} characters; at most {MOST_CHARACTERS} are read")
    if "<" not in text and "&" not in text:
        return Shown(text)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UnusableRecordError("its XML declares a document type or an entity; neither is ever read")
    found = _parsed(text, viewer)
    if found is not None:
        return found
    if "&" in text:
        found = _parsed(text.replace("&", "&amp;"), viewer)
        if found is not None:
            return Shown(found.text, "; ".join(filter(None, ("a bare & is taken as it stands", found.repair))))
    return _mended(text)


def shown_to_all(text: str, viewers: list[str]) -> tuple[list[str], str]:
    """Render a text for every viewer: the texts, and what had to be repaired."""
    found = [shown_to(text, viewer) for viewer in viewers]
    return [each.text for each in found], found[0].repair


def escape(text: str) -> str:
    """Write a text so that every viewer sees exactly this text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _parsed(text: str, viewer: str) -> Shown | None:
    """What the viewer sees of well-formed XML, or `None` if it is not well-formed."""
    if "\r" in text:  # a parser would read line ends of Windows as those of Unix
        text = text.replace("\r", "&#13;")
    pieces: list[str] = []
    hidden: list[bool] = []
    unknown: list[str] = []
    everything = viewer == ENVIRONMENT_VIEWER

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(hidden) > _MOST_DEPTH:
            raise UnusableRecordError(f"its XML is more than {_MOST_DEPTH} elements deep")
        mine = attributes.get("viewer", viewer) == viewer and name in _SHOWN
        if name not in _SHOWN:
            unknown.append(name)
        hidden.append(not everything and (not mine or (bool(hidden) and hidden[-1])))

    def characters(data: str) -> None:
        if not hidden[-1]:
            pieces.append(data)

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda name: hidden.pop()
    parser.CharacterDataHandler = characters
    try:
        parser.Parse(f"<root>{text}</root>", True)
    except (expat.ExpatError, UnicodeEncodeError):
        return None
    repair = f"<{unknown[0][:40]}> is no hint: what stands in it is shown to no agent" if unknown else ""
    return Shown("".join(pieces), repair)


def _mended(text: str) -> Shown:
    """The text of broken XML: hint tags are taken out, everything else stands as it is.

    That is what SOTOPIA's recovering parser makes of its own data, where hints were never closed.
    """
    if broken := _VIEWER.search(text):
        raise UnusableRecordError(f"its tags are broken at {broken[0][:60]!r}, so one cannot tell who may see what")
    plain = _PLAIN_TAG.sub("", text)
    left = _LEFT_OVER.search(plain)
    if left is None:
        reason = "hint tags that are not closed are taken out" if plain != text else "a bare < is taken as it stands"
        return Shown(plain, reason)
    return Shown(plain, f"its tags are broken; {left[0][:60]!r} is no hint and stands as it is")
