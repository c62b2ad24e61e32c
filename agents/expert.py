"""The expert: tells what helps both, reads the other, holds first, then concedes in equal steps, and closes in time.

Where offers stand, it asks for the best that it can hope for, holds that for a while, and
then gives way by the same amount with every move, each time with the result that the other seems to
like best among those good enough for itself. It takes an offer that is as good as its own ask, and at
its last chance any that is better than none. Where no agreement is possible it leaves without one.

In bargain and divide it thinks aloud: it says whether it would gain or lose by what was offered when that is new,
and accepts right after it said that it would gain (where turns are not taken one by one, at its last chance without
a word). One who learns from it has what it needs for a move close by.
"""

from __future__ import annotations

import re

from sotopia_env.actions import Action
from sotopia_env.agents.boards import Board, best_of, board_of, count, kept_by, likings, points_told, terms_text
from sotopia_env.agents.haggling import donor_waits, hold, most_shown, opening, persuade, yields_to_twin
from sotopia_env.agents.phrases import listing, phrase
from sotopia_env.agents.reading import LAST_TURN, Reading, mentions
from sotopia_env.agents.sharing import find_friend, keep
from sotopia_env.agents.tempers import Temper
from sotopia_env.agents.voting import NO_DECISION, closes, my_vote, other_values, own_values, standpoint, support
from sotopia_env.rules import Result

TEMPER = Temper("expert", 1.0, 0.1, 1.0, 0.0, True, False, "open", 0, 4, 3)
"""What it shares with the other strategies: its tone, and that it is open and listens."""

_OPENING = {"bargain": 1.2, "donate": 1.2, "divide": 1.0, "schedule": 1.0}
"""First ask, as a share of what it hopes for; where only one number counts, the hope is a guess to be tested."""

_CLOSING = 0.15
"""Last ask, as a share of what it hopes for, unless the other offers more."""

_HOLDS = 0.25
"""Share of the time for which it holds its first ask."""

_MIDDLE = 0.8
"""When it has come to its middle ask, as a share of the time."""

_ALOUD = ("bargain", "divide")
"""Where it thinks aloud."""

_EARLY = 1.18
"""How much sooner it comes to its last ask there, as it says what it thinks of an offer before it accepts."""

_VERDICTS = ("I would gain.", "I would lose.")
"""How it ends what it says of an offer."""

_OUTSIDE = 3.0
"""What no deal is taken to be worth to the other in divide, out of 10, unless it says so."""


def expert(reading: Reading) -> Action:
    """Choose a move in any family."""
    rules = reading.facts.rules
    if rules == "committee":
        return decide(reading)
    if rules == "mutual_friend":
        return find_friend(reading, TEMPER)
    if rules == "secret":
        return keep(reading, TEMPER) if reading.role == "keeper" else investigate(reading)
    return deal(reading)


# --- bargain, divide, schedule, donate ----------------------------------------------------------------


def deal(reading: Reading) -> Action:
    """Choose a move where offers stand."""
    if yields_to_twin(reading):
        return Action("speak", phrase(reading, "patient"))
    board = board_of(reading)
    liking = likings(reading, board)
    ask = asked(reading, board, liking)
    standing = reading.standing
    value = board.own[standing] if standing is not None else board.none - 1
    least = board.none if _at_the_end(reading) else board.none + 1e-9
    last_but_one = not reading.is_last_chance and reading.turn + 2 * reading.present > LAST_TURN
    gains = value >= board.none
    verdict = "" if standing is None else verdict_on_standing(reading, gains)
    if value >= ask or (reading.is_last_chance and value >= least):
        no_time = reading.is_last_chance and reading.order != "round-robin"  # the other may have moved meanwhile
        if not verdict or no_time or said_to_gain(reading):
            return Action("action", "accept")
        if not reading.is_last_chance:
            return Action("speak", verdict)
    if reading.role == "donor" and not _all_shown(reading) and not reading.is_last_chance:
        return donor_waits(reading, TEMPER)
    if reading.role == "persuader" and (move := persuade(reading, TEMPER)):
        return move
    if not reading.mine:
        return Action("speak", first_words(reading))
    just_offered = verdict != "" and is_new(reading)
    if just_offered and last_verdict(reading) != gains and not reading.is_last_chance:
        return Action("speak", verdict)
    candidates = [result for result, own in board.own.items() if own >= ask]
    if not candidates or _at_the_end(reading):
        return Action("leave", phrase(reading, "bye"))
    if reading.facts.rules == "schedule" and reading.progress > 0.6 and max(liking[slot] for slot in candidates) < 0:
        return Action("leave", phrase(reading, "no slot"))
    offer = best_of(candidates, liking, board.own)
    if verdict and (last_but_one or (just_offered and offer == reading.my_standing)):
        return Action("speak", verdict)
    if offer == reading.my_standing:
        return hold(reading, TEMPER)
    return Action("action", f"offer {terms_text(reading, offer)}")


def verdict_on_standing(reading: Reading, gains: bool) -> str:
    """What it has to say to the other's standing offer: that it would gain or lose by it; "" in other families.

    It names the price, or reckons aloud in divide, where its points are known; but if it has judged the offer before,
    it only says its verdict again.
    """
    if reading.facts.rules not in _ALOUD:
        return ""
    if not is_new(reading) and last_verdict(reading) == gains:
        return phrase(reading, "verdict", verdict="gain" if gains else "lose")
    if reading.facts.rules == "bargain":
        return phrase(reading, "gaining price" if gains else "losing price", n=reading.standing)
    private = reading.facts.private
    return count(kept_by(reading, reading.standing, reading.seat), private["values"], private["outside"])


def is_new(reading: Reading) -> bool:
    """Whether the other's last move was an offer."""
    last = reading.theirs[-1] if reading.theirs else None
    return last is not None and last.action_type == "action" and last.argument[:5].casefold() == "offer"


def last_verdict(reading: Reading) -> bool | None:
    """Whether it said last that it would gain; None if it has not said yet."""
    return next((text.endswith("gain.") for text in reversed(reading.said) if text.endswith(_VERDICTS)), None)


def said_to_gain(reading: Reading) -> bool:
    """Whether its last words, right before, were that it would gain."""
    return bool(reading.mine) and reading.mine[-1].argument.endswith(_VERDICTS[0])


def asked(reading: Reading, board: Board, liking: dict[Result, float]) -> float:
    """The own value asked now: held, then lowered in equal steps to the middle ask, and from there to the last."""
    first = board.none + _OPENING[reading.facts.rules] * (board.reach - board.none)
    middle = middle_ask(reading, board, liking)
    last = board.none + _CLOSING * (board.reach - board.none)
    if reading.standing is not None:  # what can be had anyway need not be given away
        middle = max(middle, board.own[reading.standing])
        last = max(last, board.own[reading.standing])
    time = min(1.0, reading.progress * (_EARLY if reading.facts.rules in _ALOUD else 1.0))
    if time <= _HOLDS:
        ask = first
    elif time <= _MIDDLE:
        ask = first - (first - middle) * (time - _HOLDS) / (_MIDDLE - _HOLDS)
    else:
        ask = middle - (middle - last) * (time - _MIDDLE) / (1 - _MIDDLE)
    return max(board.none, min(ask, max(board.own.values())))


def middle_ask(reading: Reading, board: Board, liking: dict[Result, float]) -> float:
    """Most of what it hopes for where one number is shared; else the own value of what is best for both together."""
    if reading.facts.rules in ("bargain", "donate"):
        return board.none + 0.8 * (board.reach - board.none)
    none = outside_of_other(reading) if reading.facts.rules == "divide" else 0.0
    both = max(board.own, key=lambda result: max(0.0, board.own[result] - board.none) * max(0.0, liking[result] - none))
    return max(board.own[both], board.none)


def outside_of_other(reading: Reading) -> float:
    """What no deal is worth to the other in divide, as far as one can tell."""
    said = [match for text in reading.heard for match in re.findall(r"without a deal[^\d.]{0,30}(\d{1,2})", text, re.I)]
    return float(said[-1]) if said else _OUTSIDE


def first_words(reading: Reading) -> str:
    """Opens with what the other can use: exact points in divide, times in schedule, what moves it in donate."""
    if reading.facts.rules != "divide":
        return opening(reading, TEMPER)
    values: dict[str, float] = reading.facts.private["values"]
    points = points_told(values, reading.facts.terms["items"])
    none = f"{reading.facts.private['outside']:g}"
    return phrase(reading, "open divide", ranking=phrase(reading, "points", points=points, none=none))


def _at_the_end(reading: Reading) -> bool:
    """Whether nobody could answer any more."""
    return reading.turn >= LAST_TURN


def _all_shown(reading: Reading) -> bool:
    shown = reading.table.shown if reading.table else []
    return len(shown) >= most_shown(reading) or reading.progress > 0.5


# --- committee -----------------------------------------------------------------------------------------


def decide(reading: Reading) -> Action:
    """Put the favourite to the vote, say where one stands, then vote for what the others can best join."""
    own = own_values(reading)
    threshold = float(reading.facts.private["threshold"])
    best = max(own, key=lambda option: own[option])
    if own[best] < threshold:
        return Action("leave", phrase(reading, "bye"))
    ask = threshold + committee_share(reading) * (own[best] - threshold)
    fine = [option for option in own if own[option] >= ask] or [best]
    closing = [option for option in fine if closes(reading, option)]
    if closing:
        return Action("action", f"vote {max(closing, key=lambda option: own[option])}")
    if len(reading.mine) == 1 and not reading.is_last_chance:
        return Action("speak", standpoint(reading, TEMPER))
    others = other_values(reading)
    choice = max(fine, key=lambda option: (joined(others, option), support(reading, option), own[option]))
    if not reading.mine:
        choice = best
    if my_vote(reading) == choice:
        return Action("speak", phrase(reading, "push committee", option=choice))
    return Action("action", f"vote {choice}")


def committee_share(reading: Reading) -> float:
    """The share of what it hopes for that it asks now; little at its last chance."""
    if reading.is_last_chance:
        return 0.0
    return 1.0 - 0.8 * max(0.0, reading.progress - 0.5) / 0.5


def joined(others: dict[str, dict[str, float]], option: str) -> float:
    """How gladly the others would join in an option: the sum of their estimated gains, losses counted in full."""
    return sum(max(-3.0, values[option] - values[NO_DECISION]) for values in others.values())


# --- secret --------------------------------------------------------------------------------------------


def investigate(reading: Reading) -> Action:
    """The seeker: ask, press, put values to the keeper, and answer what its reactions point to."""
    terms = reading.facts.terms
    secret: str = terms["secret"]
    told = reading.table.told if reading.table else {}
    left = [name for name in terms["facts"] if name != secret and name not in told]
    hope = suspicions(reading)
    best = max(hope, key=lambda value: hope[value])
    if reading.is_last_chance:
        return Action("action", f"answer {best}")
    count = len(reading.mine)
    if count == 0 and left:
        return Action("speak", phrase(reading, "ask fact", fact=left[0]))
    if count < 4:
        return Action("speak", phrase(reading, "ask secret", secret=secret))
    asked_for = put_to(reading)
    suspects = [value for value in hope if hope[value] == hope[best]]
    fresh = [value for value in suspects if value not in asked_for]
    silent = len(asked_for) >= 6 and len(suspects) == len(hope)  # reacts to nothing
    if (len(suspects) == 1 or silent) and (not left or reading.progress > 0.8):
        return Action("action", f"answer {best}")
    if (len(suspects) == 1 or silent) and left:  # the record is worth as much as the answer
        return Action("speak", phrase(reading, "ask fact", fact=left[count % len(left)]))
    if not fresh and len(suspects) > 3:
        return Action("speak", phrase(reading, "ask secret", secret=secret))
    guess = fresh[:2] if len(suspects) > 2 and fresh else suspects[:1]
    return Action("speak", phrase(reading, "ask values", secret=secret, values=listing(guess, "or")))


def put_to(reading: Reading) -> list[str]:
    """The values that were put to the keeper so far."""
    terms = reading.facts.terms
    values = tuple(terms["facts"][terms["secret"]])
    return [value for text in reading.said for value, _ in mentions(text, values)]


def suspicions(reading: Reading) -> dict[str, float]:
    """How likely each value is: 0 if denied, 99 if let slip, more than 1 if one who denies others does not deny it."""
    terms = reading.facts.terms
    values = tuple(terms["facts"][terms["secret"]])
    start = reading.seed % len(values)
    hope = dict.fromkeys(values[start:] + values[:start], 1.0)
    heard = [mention for text in reading.heard for mention in mentions(text, values)]
    denied = {value for value, well in heard if not well}
    claimed = {value for value, well in heard if well}
    if denied:
        for value in put_to(reading):
            hope[value] += 1
    # One who names several values is lying about them.
    hope.update(dict.fromkeys(claimed, 99.0 if len(claimed) == 1 else 0.0))
    hope.update(dict.fromkeys(denied, 0.0))
    return hope
