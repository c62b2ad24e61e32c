"""Whether a character gave its secret away, by exact and by fuzzy match of words.

A secret is written to its character ("You took a tablet ..."), and is told as "I took a tablet ..."; so pronouns do
not count, and neither do case, punctuation, marks over letters and characters that cannot be seen. In a secret of
fewer than three words of its own ("You love him.") pronouns do count, for little else does. Both matches are
lower bounds: "a friend of mine once ..." in other words is found by neither. Where rules compute the leak
(`outcome/secret`) that counts.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sotopia_env.episodes import Episode
from sotopia_env.rules import rules_of

FUZZY = 0.5
"""Share of a clause's own words that one utterance must hold."""

_CLOSE = 0.84
"""Likeness (difflib's ratio) at which two words count as the same: a typing error, another ending."""

_LEAST = 3
"""Words that must be found at least: fewer are chance."""

_PRONOUNS_TEXT = """i me my mine myself you your yours yourself he him his himself she her hers herself they them
    their theirs themselves we us our ours it its"""
_COMMON_TEXT = """a an and are as at be been because before but by could did do does done for from had has have how if
    in into is nobody no not now of off on once one only or other out over own s so some t than that the then there
    this through to too up very was were what when where which while who will with without would about again all also
    any after during ever never every get got go gone just like make made more most much still since such until went
    yet nothing anything something everybody somebody anybody"""
_OF_ITSELF = {"you": "i", "me": "i", "your": "my", "yours": "mine", "yourself": "myself"}
_PRONOUNS = frozenset(_PRONOUNS_TEXT.split())
_COMMON = frozenset(_COMMON_TEXT.split())


@dataclass(frozen=True, slots=True)
class Leak:
    """What was found of a secret.

    Attributes:
        exact: The secret was said word for word, pronouns aside unless it is very short; or the rules of the task say
            that it was told.
        fuzzy: It was, or one utterance holds at least half of a clause's own words.
        overlap: The largest such share, 0 to 1.
    """

    exact: bool
    fuzzy: bool
    overlap: float


def leak(episode: Episode, agent: str) -> Leak | None:
    """What `agent` gave away of its secret; `None` if it has none.

    Only what the others could hear counts, not whispers. Words that everybody knows anyway, from the scenario and
    the public part of the characters, are no part of a secret.
    """
    seat = episode.task.agents.index(agent)
    said = [e.argument for e in episode.events if e.speaker == agent and e.action_type != "none" and e.to is None]
    rules = rules_of(episode.task)
    if rules is not None and rules.name == "secret":
        score = rules.score(episode.task, episode.events).secret[seat]
        return None if score is None else Leak(score < 0, score < 0, float(score < 0))
    secret = episode.task.seats[seat].character.secret
    if not words(secret):
        return None
    public = [episode.task.scenario, *(s.character.public_info for s in episode.task.seats)]
    return found(secret, said, known=public)


def found(secret: str, said: Sequence[str], *, known: Iterable[str] = ()) -> Leak:
    """What of a secret stands in what was said.

    Args:
        secret: As written to its character.
        said: Utterances, one by one.
        known: Texts whose words are no secret.
    """
    own = words(secret)
    told = _without_pronouns if len(_content(own)) >= _LEAST else _by_itself
    exact = bool(told(own)) and any(_within(told(own), told(words(text))) for text in said)
    public = {word for text in known for word in words(text)}
    overlap = 1.0 if exact else 0.0
    for clause in _clauses(secret):
        content = _content(clause) - public
        if len(content) < _LEAST:
            continue
        for text in said:
            matched = _matched(content, _content(words(text)))
            if matched >= _LEAST:
                overlap = max(overlap, matched / len(content))
    return Leak(exact, exact or overlap >= FUZZY, overlap)


def words(text: str) -> list[str]:
    """The words of a text, lower case, without marks and without what cannot be seen."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Mn", "Me"))
    return re.findall(r"[^\W_]+", kept)


def _without_pronouns(found_words: Sequence[str]) -> list[str]:
    return [word for word in found_words if word not in _PRONOUNS]


def _by_itself(found_words: Sequence[str]) -> list[str]:
    """As a character says of itself what is written to it."""
    return [_OF_ITSELF.get(word, word) for word in found_words]


def _content(found_words: Iterable[str]) -> set[str]:
    return {word for word in found_words if word not in _PRONOUNS and word not in _COMMON}


def _clauses(secret: str) -> list[list[str]]:
    """The parts of a secret, each of which gives something away, and the whole."""
    parts = re.split(r"[.;:,]|\b(?:and|but|though|because)\b", secret)
    return [words(secret), *(words(part) for part in parts)]


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    size = len(part)
    return any(list(whole[i : i + size]) == list(part) for i in range(len(whole) - size + 1))


def _matched(content: set[str], heard: set[str]) -> int:
    rest = sorted(content - heard)
    close = sum(bool(difflib.get_close_matches(word, heard - content, n=1, cutoff=_CLOSE)) for word in rest)
    return len(content & heard) + close
