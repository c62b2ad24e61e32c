"""The rules that a draft must keep before it becomes a task; each breach is a reason with its evidence.

SOTOPIA-pi asks its generator for scenarios without names, ages or gender, so that any two of the characters
can play them, and does not check the answer. Here everything that it asks for is checked by rule. The rules
are strict on purpose: a good draft lost costs one call, a bad one kept costs every episode played on it. What
rules cannot see (a paraphrased goal, a boring scene) they do not claim to see.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from sotopia_env.generation.drafts import (
    LONGEST_GOAL,
    LONGEST_SCENARIO,
    SHORTEST_GOAL,
    SHORTEST_SCENARIO,
    Draft,
)

SAME_GOAL = 0.7
"""Share of words that two goals have in common (Jaccard index) from which they are the same goal."""

LEAK = 0.75
"""Share of a goal's words in one sentence of what the other sees from which the goal is given away."""

LEAK_RUN = 0.6
"""Share of a goal's words that stand there in one piece from which it is given away."""


class Breach(NamedTuple):
    """A rule that a draft breaks, and what breaks it."""

    rule: str
    evidence: str


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def breaches(draft: Draft, *, names: Collection[str] = ()) -> list[Breach]:
    """Every rule that a draft breaks, in the order of `RULES`; none for a good one.

    Args:
        draft: What a model wrote.
        names: Names of the characters that may be cast, in addition to the common ones that are known here.
    """
    found = [Breach(rule, evidence) for rule, check in _CHECKS.items() for evidence in [check(draft)] if evidence]
    named = _named(draft, frozenset(names))
    if named:
        found.append(Breach("name", named))
    return sorted(found, key=lambda breach: RULES.index(breach.rule))


# --- form -----------------------------------------------------------------------------------------


def _length(draft: Draft) -> str:
    low, high = SHORTEST_SCENARIO, LONGEST_SCENARIO
    if not low <= len(draft.scenario.strip()) <= high:
        return f"scenario of {len(draft.scenario.strip())} characters; {low} to {high} are allowed"
    low, high = SHORTEST_GOAL, LONGEST_GOAL
    wrong = [len(goal.strip()) for goal in draft.goals if not low <= len(goal.strip()) <= high]
    return f"goal of {wrong[0]} characters; {low} to {high} are allowed" if wrong else ""


def _unprintable(draft: Draft) -> str:
    for text in _texts(draft):
        for char in text:
            if not char.isprintable() and char != "\n":
                return f"U+{ord(char):04X}"
    return ""


_MARKUP = re.compile(r"</?[a-z!]|```|\{|\}|https?://|www\.|\[/?inst\]|<\||\*\*|^#|\\[nu]", re.IGNORECASE | re.MULTILINE)


def _markup(draft: Draft) -> str:
    return _first(_MARKUP, _texts(draft))


def _foreign(draft: Draft) -> str:
    """Letters of scripts in which names and gender could not be recognised."""
    for text in draft.scenario, *draft.goals:
        letters = [char for char in text if char.isalpha()]
        latin = [char for char in letters if unicodedata.name(char, "").startswith("LATIN")]
        if len(latin) < len(letters) or not letters:
            return next((char for char in letters if char not in latin), "no letters")
    return ""


_OPEN_END = _set("a an and as at because but by for from if in into is of on or so that the their to when with")


_NO_STOP = 140  # characters; shorter texts are sometimes written without a full stop


def _unfinished(draft: Draft) -> str:
    """A text that was cut off: it ends within a sentence."""
    for text in draft.scenario, *draft.goals:
        stripped = text.rstrip().rstrip("\"'”’)]")
        if stripped.endswith((".", "!", "?")) and not stripped.endswith("..."):
            continue
        words = _words(stripped)
        open_end = stripped.endswith((",", ";", ":", "-", "...", "…")) or (bool(words) and words[-1] in _OPEN_END)
        if open_end or len(stripped) > _NO_STOP:
            return f"ends with {stripped[-30:]!r}"
    return ""


def _repetitive(draft: Draft) -> str:
    """A model that went round in circles."""
    for text in draft.scenario, *draft.goals:
        words = _words(text)
        runs = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
        again = next((run for run in runs if runs.count(run) > 2), None)
        if again:
            return " ".join(again)
        if len(words) >= 20 and len(set(words)) < 0.4 * len(words):
            return f"{len(set(words))} different words of {len(words)}"
    return ""


# --- who is spoken of -----------------------------------------------------------------------------

_PLACEHOLDER = re.compile(
    r"\b(agent|person|participant|character|player|speaker|seat|individual|friend|party) ?[#_]?"
    r"(\d|one\b|two\b|[abxyz]\b)"
    r"|\b(the )?(first|second) (person|participant|character|agent|player|speaker|individual)\b"
    r"|\[[a-z][^\]]*\]|_{2,}|\b(goal|scenario) ?\d|\bscenario\b|\brole-?play|\blanguage model\b|\blorem ipsum\b",
    re.IGNORECASE,
)


def _placeholder(draft: Draft) -> str:
    return _first(_PLACEHOLDER, (draft.scenario, *draft.goals))


_GENDERED = re.compile(
    r"\b(he|she|him|her|his|hers|himself|herself|he['’]s|she['’]s|he['’]ll|she['’]ll|he['’]d|she['’]d"
    r"|(gentle|police|fire|sales|business|chair|crafts|fisher|post|camera|best|congress|noble|handy|door|spokes)?m[ae]n"
    r"|(police|sales|business|chair|spokes|congress)?wom[ae]n|boy(friend)?s?|girl(friend)?s?|lad(y|ies)|gentlem[ae]n"
    r"|males?|females?|guys?|gals?|husbands?|wi(fe|ves)|fianc[eé]e?s?|brides?|grooms?|widow(er)?s?"
    r"|(god|step|grand)?(mother|father|son|daughter)s?(-in-law)?|m[ou]ms?|mummy|mommy|dads?|daddy|grandmas?|grandpas?"
    r"|(step|half-)?(brother|sister)s?(-in-law)?|uncles?|aunts?|aunt(ie|y)s?|nephews?|nieces?"
    r"|waitress(es)?|actress(es)?|hostess(es)?|heiress(es)?|stewardess(es)?|goddess(es)?|kings?|queens?|princes?|princess(es)?"
    r"|sirs?|madam|ma['’]am|mr|mrs|ms|miss|monks?|nuns?|mankind)\b",
    re.IGNORECASE,
)


def _gendered(draft: Draft) -> str:
    return _first(_GENDERED, (draft.scenario, *draft.goals))


_NUMBER = (
    r"(\d{1,3}|(twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)[- ]?"
    r"(one|two|three|four|five|six|seven|eight|nine)?"
    r"|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(thir|four|fif|six|seven|eigh|nine)teen)"
)
_AGED = re.compile(
    rf"\b{_NUMBER}[- ]?(years?|yrs?|y)[- /.]?(olds?|o|of age)\b"
    rf"|\b(aged|age of|age|turns|turning|turned) {_NUMBER}\b"
    r"|\b(\d{1,3}(st|nd|rd|th)|\w+(teenth|tieth)|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
    r"|eleventh|twelfth|hundredth) birthday\b"
    r"|\bin (his|her|their|the|your|my)? ?(early |mid|late |mid-|mid )?-?"
    r"(teens|twenties|thirties|forties|fifties|sixties|seventies|eighties|nineties|\d0['’]?s)\b"
    r"|\b(teen(ager)?s?|teenage|middle-aged|elderly|octogenarians?|toddlers?|\d+ ?-?somethings?)\b"
    rf"|\b(you are|you['’]re|is|are) (only |just |already |now )?{_NUMBER}(?= and\b|[.,;]|$)",
    re.IGNORECASE,
)


def _aged(draft: Draft) -> str:
    return _first(_AGED, (draft.scenario, *draft.goals))


_TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Lady|Lord|Doctor)\b\.? (?=[A-Z])[\w'’-]+")
_CALLED = re.compile(r"\b(?:[Nn]amed|[Cc]alled|[Nn]icknamed) (?=[A-Z])[\w'’-]+")
_CAPITAL = re.compile(r"(?<![\w'’-])[A-Z\u00c0-\u00de][\w'’-]*")
_STARTS = re.compile(r"(^|[.!?:;\n]|[\"“(‘]|—|–|-)\s*[\"“'‘(]*$")
_NO_NAMES = _set(
    """I Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August
    September October November December Christmas Easter Thanksgiving Halloween Diwali Eid Ramadan Hanukkah Passover
    New Year Year's Eve Valentine's Day Labor Independence Mother's Father's
    English French German Italian Spanish Portuguese Dutch Chinese Japanese Korean Russian Arabic Turkish Greek Polish
    Indian Mexican American British Irish Scottish Swedish African Asian European Latin Thai Vietnamese Ethiopian
    Europe Africa Asia America Germany France Italy Spain Japan China India Mexico Canada Australia Brazil London Paris
    Berlin York Rome Tokyo Internet Wi-Fi WiFi TV DJ DIY ID GPS USB PTA HR CEO IT PhD MBA AI UK US USA EU DVD CD PC
    Zoom Google YouTube Instagram Facebook WhatsApp Netflix Airbnb Uber Bluetooth Olympic Olympics Earth"""
)


@lru_cache(maxsize=1)
def common_names() -> frozenset[str]:
    """Common given and family names, none of which is an ordinary English word at the start of a sentence."""
    return frozenset(Path(__file__).with_name("names.txt").read_text(encoding="utf-8").split())


def _named(draft: Draft, names: frozenset[str]) -> str:
    """A person's name; a capitalised word within a sentence counts, unless an article or "in" stands before it."""
    known = common_names() | {part for name in names for part in name.split() if part[:1].isupper()}
    for text in (draft.scenario, *draft.goals):
        titled = _TITLE.search(text) or _CALLED.search(text)
        if titled:
            return titled.group()
        for match in _CAPITAL.finditer(text):
            word = re.sub(r"['’]s?$", "", match.group())
            before = text[: match.start()]
            if word in known and not (word in _NO_NAMES or match.group() in _NO_NAMES):
                return word
            if _STARTS.search(before) or _harmless(match.group(), word, before):
                continue
            return word
    return ""


def _harmless(whole: str, word: str, before: str) -> bool:
    return (
        word in _NO_NAMES
        or whole in _NO_NAMES
        or re.match(r"I['’]", whole) is not None
        or (word.isupper() and 1 < len(word) <= 5)
        or re.search(r"\b(in|a|an|the)\s+$", before, re.IGNORECASE) is not None
    )


# --- what fits together ---------------------------------------------------------------------------

_SAID: dict[str, tuple[re.Pattern[str], frozenset[str]]] = {
    "strangers": (
        re.compile(
            r"\bstrangers\b|\b(complete|total|perfect) stranger\b|\bnever met\b|\bmeet(ing)? for the first time\b", re.I
        ),
        frozenset({"stranger"}),
    ),
    "friends": (
        re.compile(r"\b(two|best|old|close|good|childhood|lifelong|long-?time|pair of|both) (\w+ )?friends\b", re.I),
        frozenset({"friend", "partner"}),
    ),
    "a couple": (
        re.compile(
            r"\b(an?|the|young|old|married|engaged) couple\b(?! of)"
            r"|\btwo (\w+ )?(spouses|lovers|newlyweds)\b|\bspouses\b",
            re.I,
        ),
        frozenset({"partner"}),
    ),
    "family": (
        re.compile(
            r"\b(two|both) (\w+ )?(siblings|cousins|relatives|twins)\b"
            r"|\b(parent|grandparent) and (their )?(\w+ )?(child|grandchild)\b",
            re.I,
        ),
        frozenset({"family"}),
    ),
    "colleagues or neighbours": (
        re.compile(
            r"\btwo (\w+ )?(colleagues|co-?workers|neighbou?rs|classmates|(team|room|flat|house)-?mates)\b",
            re.I,
        ),
        frozenset({"known_by_name", "acquaintance", "friend", "partner", "family"}),
    ),
}
"""What a scenario says of the two, and the relationships that agree with it."""


def _contradicted(draft: Draft) -> str:
    for said, (pattern, allowed) in _SAID.items():
        found = pattern.search(draft.scenario)
        if found and draft.relationship not in allowed:
            return f"{found.group()!r} says {said}, the relationship is {draft.relationship!r}"
    return ""


def _impossible(draft: Draft) -> str:
    """Ages that no two grown people have."""
    for part in draft.parts:
        if part.youngest > part.oldest:
            return f"youngest {part.youngest}, oldest {part.oldest}"
    return ""


def _same_goal(draft: Draft) -> str:
    first, second = (content(goal) for goal in draft.goals)
    if _words(draft.goals[0]) == _words(draft.goals[1]) or not first or not second:
        return "the goals are equal" if first else "a goal says nothing"
    shared = len(first & second) / len(first | second)
    return f"{shared:.0%} of the words are in both goals" if shared >= SAME_GOAL else ""


_WANTS = re.compile(
    r"\b(they|the other\b[\w ]*|your [a-z]+(?: [a-z]+)?|one|someone|somebody|the \w+)(['’](s|re))?\s(\w+ ){0,2}"
    r"(wants?|hopes?|plans?|intends?|needs?|wish(es)?|tr(y|ies|ying)|aims?|would like|going to|goal)\b",
    re.IGNORECASE,
)


def _leaks(draft: Draft) -> str:
    """A goal that stands in the scenario, or in the other's goal as what the other one wants."""
    for own, other in ((0, 1), (1, 0)):
        goal = draft.goals[own]
        given = _given_away(goal, draft.scenario)
        if given:
            return f"goal {own + 1} in the scenario: {given}"
        view = draft.goals[other]
        if _contains(_words(view), _words(goal)) and len(_words(goal)) >= 4:
            return f"goal {own + 1} in goal {other + 1}"
        for sentence in _sentences(view):
            if _WANTS.search(sentence):
                given = _given_away(goal, sentence)
                if given:
                    return f"goal {own + 1} in goal {other + 1}: {given}"
    return ""


def _given_away(goal: str, view: str) -> str:
    words, seen = _words(goal), _words(view)
    if len(words) >= 3 and _contains(seen, words):
        return "word for word"
    run = _longest_run(words, seen)
    if run >= 6 and run >= LEAK_RUN * len(words):
        return f"{run} of its {len(words)} words in one piece"
    meaning = content(goal)
    for sentence in _sentences(view):
        shared = meaning & content(sentence)
        enough = len(shared) >= LEAK * len(meaning) if len(meaning) >= 4 else shared == meaning
        if enough and len(shared) >= 2:
            return f"{len(shared)} of its {len(meaning)} words in one sentence"
    return ""


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    return bool(part) and f" {' '.join(part)} " in f" {' '.join(words)} "


def _longest_run(words: Sequence[str], seen: Sequence[str]) -> int:
    """Length of the longest piece of `words` that stands in `seen`."""
    best, row = 0, [0] * (len(seen) + 1)
    for word in words:
        row = [0, *(row[i] + 1 if word == other else 0 for i, other in enumerate(seen))]
        best = max(best, *row)
    return best


# --- words ----------------------------------------------------------------------------------------

_STOP = _set(
    """a about above after again all also am an and any anybody anyone are as at be because been before being both
    but by can could did do does doing down during each else even ever every for from further get gets getting go
    goes going had has have having here how i if in into is it its itself just like make makes making may me might
    more most much must my of off on once one only or other others our out over own people person please quite
    really same shall should so some somebody someone something such than that the their them themselves then
    there these they this those though through to too try trying two under until up upon us very want wanted wants
    was we were what when where whether which while who whom whose why will with would yet you your yours yourself"""
)
_ENDINGS = ("ingly", "edly", "ing", "ed", "es", "ly", "s")


def content(text: str) -> frozenset[str]:
    """The words of a text that carry its meaning, without endings; "not" and its like count."""
    return frozenset(_stem(word) for word in _words(text) if word not in _STOP)


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    return word.removesuffix("e") if len(word) > 3 else word


def _words(text: str) -> list[str]:
    """Lower-case words and numbers without accents and apostrophes."""
    folded = unicodedata.normalize("NFKD", text.casefold().replace("’", "'").replace("'", ""))
    return re.findall(r"[^\W_]+", "".join(char for char in folded if not unicodedata.combining(char)))


def _sentences(text: str) -> Iterator[str]:
    yield from (part for part in re.split(r"(?<=[.!?;])\s+|\n+", text) if part.strip())


def _texts(draft: Draft) -> tuple[str, ...]:
    return draft.scenario, *draft.goals, *(part.occupation for part in draft.parts)


def _first(pattern: re.Pattern[str], texts: Iterable[str]) -> str:
    found = next((match for text in texts for match in [pattern.search(text)] if match), None)
    return found.group()[:60] if found else ""


_CHECKS: dict[str, Callable[[Draft], str]] = {
    "length": _length,
    "characters": _unprintable,
    "markup": _markup,
    "script": _foreign,
    "unfinished": _unfinished,
    "repetitive": _repetitive,
    "placeholder": _placeholder,
    "age": _aged,
    "gender": _gendered,
    "relationship": _contradicted,
    "ages": _impossible,
    "same goal": _same_goal,
    "leak": _leaks,
}

RULES: tuple[str, ...] = (
    "length",
    "characters",
    "markup",
    "script",
    "unfinished",
    "repetitive",
    "placeholder",
    "name",
    "age",
    "gender",
    "relationship",
    "ages",
    "same goal",
    "leak",
)
"""Every rule, in the order in which breaches are told; the first one is the reason of a rejection."""
