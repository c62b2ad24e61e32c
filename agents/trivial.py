"""The four trivial policies. A strategy worth the name beats the best of them clearly."""

from __future__ import annotations

from sotopia_env.actions import LEAVE, Action
from sotopia_env.agents.boards import board_of, terms_text
from sotopia_env.agents.phrases import phrase
from sotopia_env.agents.reading import Reading
from sotopia_env.agents.voting import closes, my_vote, own_values, support
from sotopia_env.rules import plain_name


def leave(reading: Reading) -> Action:
    """Leave at once."""
    return LEAVE


def accept_anything(reading: Reading) -> Action:
    """Take any standing offer and join any vote; otherwise say something harmless."""
    if reading.facts.rules == "committee":
        options = list(reading.facts.terms["options"])
        popular = max(options, key=lambda option: support(reading, option))
        if support(reading, popular) and my_vote(reading) != popular:
            return Action("action", f"vote {popular}")
    elif reading.standing is not None:
        return Action("action", "accept")
    return _wait(reading)


def accept_acceptable(reading: Reading) -> Action:
    """Take the first offer that is at least as good as no deal; leave if none has come in time."""
    if reading.facts.rules == "committee":
        own, threshold = own_values(reading), reading.facts.private["threshold"]
        fine = [option for option in own if own[option] >= threshold and support(reading, option)]
        joined = max(fine, key=lambda option: (closes(reading, option), support(reading, option)), default=None)
        if joined is not None and my_vote(reading) != joined:
            return Action("action", f"vote {joined}")
    elif reading.standing is not None and _acceptable(reading):
        return Action("action", "accept")
    if reading.progress >= 0.9:
        return Action("leave", phrase(reading, "bye"))
    return _wait(reading)


def _acceptable(reading: Reading) -> bool:
    if reading.facts.rules == "mutual_friend":
        return reading.standing in {plain_name(name) for name in reading.facts.private["friends"]}
    board = board_of(reading)
    return board.own[reading.standing] >= board.none


def extreme(reading: Reading) -> Action:
    """Ask for the best there is for oneself and never move."""
    rules, private, terms = reading.facts.rules, reading.facts.private, reading.facts.terms
    if rules == "committee":
        own = own_values(reading)
        favourite = max(own, key=lambda option: own[option])
        return _once(reading, f"vote {favourite}", my_vote(reading) == favourite)
    if rules == "secret":
        if reading.role == "keeper":
            return Action("speak", phrase(reading, "hold/stubborn"))
        values = terms["facts"][terms["secret"]]
        return Action("action", f"answer {values[reading.seed % len(values)]}")
    if rules == "mutual_friend":
        friends = list(private["friends"])
        return _once(reading, f"offer {friends[reading.seed % len(friends)]}", reading.my_standing is not None)
    board = board_of(reading)
    best = max(board.own, key=lambda result: board.own[result])
    return _once(reading, f"offer {terms_text(reading, best)}", reading.my_standing == best)


def _once(reading: Reading, command: str, done: bool) -> Action:
    return Action("speak", phrase(reading, "hold/stubborn")) if done else Action("action", command)


def _wait(reading: Reading) -> Action:
    return Action("speak", phrase(reading, "patient"))
