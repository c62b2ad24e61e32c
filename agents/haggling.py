"""How fair, tough, soft, stubborn and deceptive deal where offers stand: bargain, divide, schedule, donate.

They ask for a share of what they hope for, which falls with time, and accept what is at least as good as
their own next ask. Their talk (what matters to them, when they are free, what moves them) is in words
that others can read, true or not as their temper has it.
"""

from __future__ import annotations

from sotopia_env.actions import Action
from sotopia_env.agents.boards import Board, best_of, board_of, likings, other_slots, ranked_items, terms_text
from sotopia_env.agents.phrases import listing, phrase
from sotopia_env.agents.reading import LAST_TURN, Reading, mentions
from sotopia_env.agents.tempers import Temper
from sotopia_env.rules import Result


def haggle(reading: Reading, temper: Temper) -> Action:
    """Choose a move in a family of standing offers."""
    if yields_to_twin(reading):
        return Action("speak", phrase(reading, "patient"))
    board = board_of(reading)
    ask = board.none + _ask(reading, board, temper) * (board.reach - board.none)
    standing = reading.standing
    if standing is not None and _good_enough(reading, board, temper, standing, ask):
        return Action("action", "accept")
    if max(board.own.values()) < board.none:
        return _hopeless(reading, temper)
    if reading.role == "persuader" and (move := persuade(reading, temper)):
        return move
    if not reading.mine:
        return Action("speak", opening(reading, temper))
    if reading.turn >= LAST_TURN:  # nothing that is still to come could be answered
        return Action("leave", phrase(reading, "bye", temper.name))
    if temper.talk and len(reading.mine) % temper.talk == 0 and not reading.is_last_chance:
        return hold(reading, temper)
    result = _offer(reading, board, temper, ask)
    if result is None or result == reading.my_standing:
        return hold(reading, temper)
    return Action("action", f"offer {terms_text(reading, result)}")


def _ask(reading: Reading, board: Board, temper: Temper) -> float:
    """The share asked now; one that matches does not give in much further than the other has."""
    share = temper.ask(reading.progress)
    if not temper.matches:
        return share
    offers = [board.share(board.own[offer]) for offer in reading.offers.get(reading.other, [])]
    moved = max(offers) - offers[0] if offers else 0.0
    return max(share, temper.opening - 0.3 - moved)


def _good_enough(reading: Reading, board: Board, temper: Temper, standing: Result, ask: float) -> bool:
    value = board.own[standing]
    if value >= ask and value >= board.none:
        return True
    return reading.is_last_chance and value > board.none and board.share(value) >= temper.floor


def _offer(reading: Reading, board: Board, temper: Temper, ask: float) -> Result | None:
    """The next offer: at least the ask for oneself; the listener's is the one the other likes best."""
    wanted = min(ask, max(board.own.values()))
    candidates = [result for result, value in board.own.items() if value >= wanted and value >= board.none]
    if reading.facts.rules == "schedule":
        known = other_slots(reading)
        candidates = [slot for slot in candidates if temper.name == "stubborn" or known[str(slot)] > 0] or candidates
    if not candidates:
        return None
    if temper.listens:
        return best_of(candidates, likings(reading, board), board.own)
    fresh = [result for result in candidates if result not in reading.offers[reading.me]]
    if reading.facts.rules == "schedule" and fresh and temper.name != "stubborn":
        return max(fresh, key=lambda result: board.own[result])
    return min(candidates, key=lambda result: board.own[result])


def yields_to_twin(reading: Reading) -> bool:
    """Whether both accepted each other's different offers in the same turn, so that neither counted."""
    if reading.seat == 0 or not reading.mine or not reading.theirs:
        return False
    mine, theirs = reading.mine[-1], reading.theirs[-1]
    both = mine.turn == theirs.turn and mine.argument == theirs.argument == "accept"
    return both and reading.my_standing is not None


def _hopeless(reading: Reading, temper: Temper) -> Action:
    """No result is worth anything: a donor whom nothing has moved, or a calendar without a free hour."""
    if reading.role == "donor":
        return donor_waits(reading, temper)
    return Action("leave", phrase(reading, "bye", temper.name))


# --- talk -----------------------------------------------------------------------------------------


def hold(reading: Reading, temper: Temper) -> Action:
    """Something said, or now and then a gesture, while the offer stays as it is."""
    turn = (reading.seed + len(reading.mine)) % 5
    if turn == 0:
        return Action("non-verbal communication", phrase(reading, "gesture", temper.name))
    if temper.candour == "false" and reading.facts.rules == "bargain" and turn in (1, 3):
        return Action("speak", bluff(reading, board_of(reading)))
    if turn in (1, 4):
        return Action("speak", phrase(reading, f"hold/{temper.name}"))
    fill = {"cause": reading.facts.terms.get("cause", "it")}
    return Action("speak", phrase(reading, f"push {reading.role or reading.facts.rules}", **fill))


def bluff(reading: Reading, board: Board) -> str:
    """A false limit in a bargain: a price that would still leave its author a good share."""
    value, share = float(reading.facts.private["value"]), 0.3 * board.reach
    price = round(value + share if reading.seat == 0 else value - share)
    terms = reading.facts.terms
    return phrase(reading, f"bluff {reading.role}", n=min(max(price, terms["lowest"]), terms["highest"]))


def opening(reading: Reading, temper: Temper) -> str:
    """The first thing said in each family."""
    rules = reading.facts.rules
    if rules == "bargain":
        return phrase(reading, f"open {reading.role}")
    if rules == "divide":
        return phrase(reading, "open divide", temper.name, ranking=ranking(reading, temper))
    if rules == "schedule":
        return calendar(reading, temper, 3)
    return donor_talk(reading, temper)


def ranking(reading: Reading, temper: Temper) -> str:
    """The items by importance; the deceptive one turns the order round."""
    values = reading.facts.private["values"]
    items = ranked_items({item: values[item] for item in reading.facts.terms["items"]})
    if temper.candour == "false":
        items.reverse()
    if len(items) < 3:
        return phrase(reading, "short ranking", best=items[0])
    return phrase(reading, "ranking", best=items[0], middle=listing(items[1:-1]), worst=items[-1])


def calendar(reading: Reading, temper: Temper, count: int) -> str:
    """Good slots, best first, and where one is busy; the deceptive one is busy wherever it is not best."""
    weights = reading.facts.private["weights"]
    ranked = ranked_items({slot: weights[slot] for slot in reading.facts.terms["slots"]})
    good = [slot for slot in ranked if weights[slot] >= 0]
    bad = [slot for slot in ranked if weights[slot] < 0]
    if temper.candour == "false":
        good, bad = good[:1], good[3:] + bad
    elif temper.candour == "coy":
        good, bad = good[:2], []
    if not good:
        return phrase(reading, "bad slots", slots=listing(bad))
    told = phrase(reading, "good slots", slots=listing(good[:count]))
    busy = phrase(reading, "bad slots", slots=listing(bad)) if bad else ""
    return phrase(reading, "open schedule", good=told, bad=busy).strip()


# --- donate ---------------------------------------------------------------------------------------


def persuade(reading: Reading, temper: Temper) -> Action | None:
    """The persuader's part before the haggling: ask, then show appeals; None once that is done."""
    terms = reading.facts.terms
    shown = reading.table.shown if reading.table else []
    if not reading.mine:
        appeals = listing(list(terms["appeals"]), "or")
        return Action("speak", phrase(reading, "open persuader", temper.name, cause=terms["cause"], appeals=appeals))
    limit = 1 if temper.name == "stubborn" else most_shown(reading)
    if len(shown) >= limit or reading.is_last_chance:
        return None
    appeal = next_appeal(reading, listens=temper.name != "stubborn")
    return Action("action", f"show {appeal}")


def most_shown(reading: Reading) -> int:
    """How many appeals can be shown."""
    terms = reading.facts.terms
    return min(int(terms.get("shows", 3)), len(terms["appeals"]))


def next_appeal(reading: Reading, listens: bool) -> str:
    """The most promising appeal not yet shown."""
    appeals: list[str] = reading.facts.terms["appeals"]
    shown = reading.table.shown if reading.table else []
    hope = {appeal: -((index * 7 + reading.seed) % len(appeals)) / 100 for index, appeal in enumerate(appeals)}
    if listens:
        for text in reading.heard:
            for place, (appeal, well) in enumerate(mentions(text, tuple(appeals))):
                hope[appeal] = 5.0 - place / 10 if well else -5.0
    return next(appeal for appeal in ranked_items(hope) if appeal not in shown)


def donor_talk(reading: Reading, temper: Temper) -> str:
    """What the donor says first: what moves it, or something else if its temper is not open."""
    weights: dict[str, float] = reading.facts.private["weights"]
    ranked = ranked_items({appeal: weights[appeal] for appeal in reading.facts.terms["appeals"]})
    if temper.candour == "coy":
        return phrase(reading, "coy donor")
    if temper.candour == "false":
        return phrase(reading, "moves me", appeals=listing(ranked[::-1][:2]))
    if reading.facts.private["base"] + sum(max(0.0, weights[appeal]) for appeal in ranked[:3]) < 1:
        return phrase(reading, "nothing moves me")
    moving = [appeal for appeal in ranked if weights[appeal] > 0][:3]
    cold = [appeal for appeal in ranked if weights[appeal] < 0]
    text = phrase(reading, "moves me", appeals=listing(moving)) if moving else phrase(reading, "coy donor")
    return f"{text} {phrase(reading, 'leaves me cold', appeals=listing(cold))}" if cold else text


def donor_waits(reading: Reading, temper: Temper) -> Action:
    """A donor that would not give anything yet: talks, and leaves when nothing more can come."""
    if not reading.mine:
        return Action("speak", donor_talk(reading, temper))
    shown = reading.table.shown if reading.table else []
    if len(shown) >= most_shown(reading) or reading.progress > 0.7:
        return Action("leave", phrase(reading, "bye", temper.name))
    return Action("speak", phrase(reading, "wait donor", cause=reading.facts.terms["cause"]))
