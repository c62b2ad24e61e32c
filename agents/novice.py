"""The novice: speaks the grammar of every family and knows nothing of what it is for.

All it does is drawn from its observation's seed and turn: lines on the subject with whatever names or
numbers are public filled in, valid offers over the whole public range, whatever they are worth to itself,
and now and then an answer to an offer. In bargains and divisions it is naive enough to tell anybody what things
are worth to it, and it can count what an offer would bring it, but neither has any bearing on what it does.
What a model learns from it is to speak, to read and to count, not to act well.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from sotopia_env.actions import Action
from sotopia_env.agents.boards import count, kept_by, points_told, useful
from sotopia_env.agents.phrases import PHRASES, listing
from sotopia_env.agents.reading import Reading

_LEAVES = 0.02
"""Share of its moves in which it leaves, after its first turns."""

_FIRST_TURNS = 4
"""Last turn in which it never leaves."""

_GESTURES = 0.04
"""Share of its moves that are gestures."""

_ACCEPTS = 0.15
"""Share of its moves in which it accepts, where an offer stands."""

_REJECTS = 0.04
"""Share of its moves in which it rejects, where an offer stands."""

_SPEAKS_FIRST = 0.7
"""Share of first moves in which it speaks."""

_SPEAKS = 0.5
"""Share of later moves in which it speaks, of those that are left."""

_TELLS = 0.6
"""Share of its lines in bargains and divisions in which it tells or counts what something is worth to it."""

_LATE = 0.5
"""Share of the time before which a seeker never answers."""

_ANSWERS = 0.5
"""Share of its moves in which a seeker then answers, of those in which it does not speak."""


def novice(reading: Reading) -> Action:
    """Choose a move in any family."""
    draw = random.Random(f"novice/{reading.seed}/{reading.turn}")
    chance = draw.random()
    if chance < _LEAVES:
        if reading.turn > _FIRST_TURNS:
            return Action("leave", _line(draw, "bye"))
    elif chance < _LEAVES + _GESTURES:
        return Action("non-verbal communication", _line(draw, "gesture"))
    if reading.standing is not None:
        chance = draw.random()
        if chance < _ACCEPTS:
            return Action("action", "accept")
        if chance < _ACCEPTS + _REJECTS:
            return Action("action", "reject")
    if draw.random() < (_SPEAKS if reading.mine else _SPEAKS_FIRST):
        return Action("speak", _talk(reading, draw))
    command = _command(reading, draw)
    return Action("action", command) if command else Action("speak", _talk(reading, draw))


# --- what binds -------------------------------------------------------------------------------------


def _command(reading: Reading, draw: random.Random) -> str:
    """A valid command, drawn from all that the rules allow, friends and facts from its own; "" for none."""
    terms = reading.facts.terms
    match reading.facts.rules:
        case "bargain":
            return f"offer {draw.randint(terms['lowest'], terms['highest'])}"
        case "divide":
            return "offer " + " ".join(f"{item}={draw.randint(0, count)}" for item, count in terms["items"].items())
        case "schedule":
            return f"offer {draw.choice(terms['slots'])}"
        case "mutual_friend":
            return f"offer {draw.choice(list(reading.facts.private['friends']))}"
        case "donate":
            return _gift(reading, draw)
        case "committee":
            return f"vote {draw.choice(terms['options'])}"
        case "secret" if reading.role == "keeper":
            fact = draw.choice(list(terms["facts"]))
            return f"tell {fact}={_told(reading, draw, fact)}"
        case "secret" if reading.progress >= _LATE and draw.random() < _ANSWERS:
            return f"answer {draw.choice(terms['facts'][terms['secret']])}"
        case _:
            return ""


def _gift(reading: Reading, draw: random.Random) -> str:
    terms = reading.facts.terms
    shown = reading.table.shown if reading.table else []
    left = [appeal for appeal in terms["appeals"] if appeal not in shown]
    if reading.role == "persuader" and left and len(shown) < int(terms.get("shows", 3)) and draw.random() < 0.6:
        return f"show {draw.choice(left)}"
    return f"offer {draw.randint(1, terms['budget'])}"


def _told(reading: Reading, draw: random.Random, fact: str) -> str:
    """The true value of one of its facts, or any."""
    if draw.random() < 0.5:
        return str(reading.facts.private["facts"][fact])
    return str(draw.choice(reading.facts.terms["facts"][fact]))


# --- what does not ----------------------------------------------------------------------------------


def _line(draw: random.Random, intent: str, **fill: object) -> str:
    text = draw.choice(PHRASES[intent])
    return text.format(**fill) if fill else text


def _talk(reading: Reading, draw: random.Random) -> str:
    """A line on the subject, with names, slots, prices or points that were drawn."""
    if draw.random() < 0.15:
        return _line(draw, draw.choice(("patient", "hold/fair", "hold/tough", "hold/expert")))
    subject = reading.role or reading.facts.rules
    return _TALKS[subject](reading, draw) if subject in _TALKS else _line(draw, "patient")


def _some(draw: random.Random, names: Any, most: int, last: str = "and") -> str:
    pool = list(names)
    return listing(draw.sample(pool, draw.randint(1, min(most, len(pool)))), last)


def _haggles(reading: Reading, draw: random.Random) -> str:
    terms = reading.facts.terms
    if draw.random() < _TELLS:
        value = reading.facts.private["value"]
        if reading.standing is None:
            return _line(draw, "naive worth", n=f"{value:g}")
        price = float(str(reading.standing))
        gain = price - value if reading.role == "seller" else value - price
        return _line(draw, "gaining price" if gain >= 0 else "losing price", n=f"{price:g}")
    intent = "open" if not reading.mine else draw.choice(("open", "push", "push", "bluff"))
    return _line(draw, f"{intent} {reading.role}", n=draw.randint(terms["lowest"], terms["highest"]))


def _shares(reading: Reading, draw: random.Random) -> str:
    if reading.standing is not None and draw.random() < _TELLS:
        kept = kept_by(reading, reading.standing, reading.seat)
        return count(kept, reading.facts.private["values"], reading.facts.private["outside"])
    if reading.mine and draw.random() < 0.3:
        return _line(draw, "push divide")
    private = reading.facts.private
    if reading.mine and draw.random() < 0.5:
        return useful(private["values"], reading.facts.terms["items"])
    points = points_told(private["values"], reading.facts.terms["items"])
    said = _line(draw, "points", points=points, none=f"{private['outside']:g}")
    return _line(draw, "open divide", ranking=said) if draw.random() < 0.5 or not reading.mine else said


def _appoints(reading: Reading, draw: random.Random) -> str:
    if reading.mine and draw.random() < 0.5:
        return _line(draw, "push schedule")
    slots = list(reading.facts.terms["slots"])
    draw.shuffle(slots)
    cut = draw.randint(1, max(1, min(4, len(slots) - 1)))
    good = _line(draw, "good slots", slots=listing(slots[:cut]))
    bad = _line(draw, "bad slots", slots=_some(draw, slots[cut:], 3)) if slots[cut:] else ""
    return _line(draw, "open schedule", good=good, bad=bad).strip()


def _names_friends(reading: Reading, draw: random.Random) -> str:
    friends = list(reading.facts.private["friends"])
    match draw.randrange(5):
        case 0:
            return _line(draw, "ask friends")
        case 1:
            return _line(draw, "sure friend", friend=draw.choice(friends))
        case 2:
            return _line(draw, "name a friend", friends=draw.choice(friends))
        case _:
            return _line(draw, "name friends", friends=_some(draw, friends, 4))


def _keeps(reading: Reading, draw: random.Random) -> str:
    terms = reading.facts.terms
    secret = terms["secret"]
    intent = draw.choice(("open keeper", "coy keeper", "chat keeper", "deflect", "deny", "false claim"))
    values = terms["facts"][secret]
    value = _told(reading, draw, secret)
    return _line(draw, intent, secret=secret, value=value, values=_some(draw, values, 2, "or"))


def _seeks(reading: Reading, draw: random.Random) -> str:
    terms = reading.facts.terms
    secret = terms["secret"]
    intent = draw.choice(("ask fact", "ask fact", "ask secret", "ask values", "claim knowledge", "wait seeker"))
    fact = draw.choice([name for name in terms["facts"] if name != secret])
    return _line(draw, intent, secret=secret, fact=fact, values=_some(draw, terms["facts"][secret], 2, "or"))


def _persuades(reading: Reading, draw: random.Random) -> str:
    terms = reading.facts.terms
    intent = "push persuader" if reading.mine and draw.random() < 0.7 else "open persuader"
    return _line(draw, intent, cause=terms["cause"], appeals=listing(list(terms["appeals"]), "or"))


def _considers(reading: Reading, draw: random.Random) -> str:
    terms = reading.facts.terms
    intent = draw.choice(("moves me", "leaves me cold", "coy donor", "wait donor", "push donor", "nothing moves me"))
    return _line(draw, intent, cause=terms["cause"], appeals=_some(draw, terms["appeals"], 3))


def _debates(reading: Reading, draw: random.Random) -> str:
    options = list(reading.facts.terms["options"])
    draw.shuffle(options)
    match draw.randrange(3):
        case 0:
            scores = ", ".join(f"{option} {draw.randint(0, 10)}" for option in options)
            told = _line(draw, "scores", scores=scores, none=draw.randint(0, 10))
            return _line(draw, "open committee", scores=told)
        case 1:
            return _line(draw, "favourite", best=options[0])
        case _:
            return _line(draw, "push committee", option=options[0])


_TALKS: dict[str, Callable[[Reading, random.Random], str]] = {
    "seller": _haggles,
    "buyer": _haggles,
    "divide": _shares,
    "schedule": _appoints,
    "mutual_friend": _names_friends,
    "keeper": _keeps,
    "seeker": _seeks,
    "persuader": _persuades,
    "donor": _considers,
    "committee": _debates,
}
"""By public role, or by rules where all seats are alike."""
