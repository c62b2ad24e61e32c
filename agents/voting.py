"""How scripted strategies play in a committee."""

from __future__ import annotations

from sotopia_env.actions import Action
from sotopia_env.agents.phrases import listing, phrase
from sotopia_env.agents.reading import Reading, mentions, numbers
from sotopia_env.agents.tempers import Temper

NO_DECISION = "no decision"
"""How the value of choosing nothing is named in talk."""


def vote(reading: Reading, temper: Temper) -> Action:
    """Say where one stands, then vote; join a majority that is good enough."""
    own = own_values(reading)
    threshold = float(reading.facts.private["threshold"])
    best = max(own, key=lambda option: own[option])
    if own[best] < threshold:
        return Action("leave", phrase(reading, "bye", temper.name))
    ask = threshold + temper.ask(reading.progress) * (own[best] - threshold)
    if reading.is_last_chance:
        ask = min(ask, threshold + temper.floor * (own[best] - threshold))
    closing = [option for option in own if own[option] >= max(ask, threshold) and closes(reading, option)]
    if closing:
        return Action("action", f"vote {max(closing, key=lambda option: own[option])}")
    if not reading.mine:
        return Action("speak", standpoint(reading, temper))
    choice = _choice(reading, temper, own, threshold, best)
    if my_vote(reading) == choice:
        return Action("speak", phrase(reading, "push committee", option=choice))
    return Action("action", f"vote {choice}")


def own_values(reading: Reading) -> dict[str, float]:
    """The own value of every option."""
    values = reading.facts.private["values"]
    return {option: float(values[option]) for option in reading.facts.terms["options"]}


def my_vote(reading: Reading) -> str | None:
    """The own latest vote."""
    return reading.table.votes.get(reading.me) if reading.table else None


def support(reading: Reading, option: str) -> int:
    """How many others vote for an option at the moment."""
    votes = reading.table.votes if reading.table else {}
    return sum(vote == option for agent, vote in votes.items() if agent != reading.me)


def closes(reading: Reading, option: str) -> bool:
    """Whether the own vote for an option would decide."""
    return 2 * (support(reading, option) + 1) > len(reading.facts.names)


def _choice(reading: Reading, temper: Temper, own: dict[str, float], threshold: float, best: str) -> str:
    if temper.name == "stubborn":
        return best
    fine = [option for option in own if own[option] >= threshold] or [best]
    if temper.listens:
        others = other_values(reading)
        weight = 1.0 if temper.name == "fair" else 0.3
        return max(fine, key=lambda o: (weight * own[o] + sum(v[o] for v in others.values()), own[o]))
    if reading.progress < (0.5 if temper.candour == "false" else 0.7):
        return best
    return max(fine, key=lambda option: (support(reading, option), own[option]))


def standpoint(reading: Reading, temper: Temper) -> str:
    """The first thing said: all scores, or the favourite, or false scores."""
    own = own_values(reading)
    ranked = sorted(own, key=lambda option: -own[option])
    if temper.candour == "coy":
        return phrase(reading, "favourite", best=ranked[0])
    scores = {option: f"{own[option]:g}" for option in ranked}
    if temper.candour == "false":
        scores = {option: "10" if option == ranked[0] else "0" for option in ranked}
    told = listing([f"{option} {score}" for option, score in scores.items()], ",").replace(" , ", ", ")
    none = f"{reading.facts.private['threshold']:g}"
    return phrase(reading, "open committee", scores=phrase(reading, "scores", scores=told, none=none))


def other_values(reading: Reading) -> dict[str, dict[str, float]]:
    """Estimated values of every other agent: as told, else from what it speaks well of and votes for."""
    options = tuple(reading.facts.terms["options"])
    votes = reading.table.votes if reading.table else {}
    found: dict[str, dict[str, float]] = {}
    for agent in reading.facts.names:
        if agent == reading.me:
            continue
        guess = dict.fromkeys(options, 4.0)
        guess[NO_DECISION] = 3.0
        for move in reading.theirs:
            if move.speaker == agent and move.action_type == "speak":
                _hear(guess, move.argument, options)
        if agent in votes:
            guess[votes[agent]] = max(guess[votes[agent]], 7.0)
        found[agent] = guess
    return found


def _hear(guess: dict[str, float], text: str, options: tuple[str, ...]) -> None:
    points = numbers(text, (*options, NO_DECISION))
    if len(points) >= 2:
        guess.update(points)
    elif text and not text.endswith("?"):
        for option, well in mentions(text, options):
            guess[option] = max(guess[option], 8.0) if well else 1.0
