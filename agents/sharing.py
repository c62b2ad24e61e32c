"""How scripted strategies play where knowledge is shared: mutual friend and secret."""

from __future__ import annotations

import re

from sotopia_env.actions import NOTHING, Action
from sotopia_env.agents.phrases import listing, phrase
from sotopia_env.agents.reading import Reading, mentions
from sotopia_env.agents.tempers import Temper
from sotopia_env.rules import plain_name

# --- mutual friend ----------------------------------------------------------------------------------


def find_friend(reading: Reading, temper: Temper) -> Action:
    """Name own friends in turn, listen for a name of one's own, offer it; never offer a guess."""
    friends = {plain_name(name): name for name in reading.facts.private["friends"]}
    if reading.standing is not None and reading.standing in friends:
        return Action("action", "accept")
    common = [name for name in heard_names(reading, tuple(friends.values())) if plain_name(name) != reading.my_standing]
    if common and common[-1] not in _offered(reading, friends):
        return Action("action", f"offer {common[-1]}")
    if reading.my_standing in friends and len(reading.mine) % 2:
        return Action("speak", phrase(reading, "sure friend", friend=friends[str(reading.my_standing)]))
    if temper.candour == "coy" and not reading.mine:
        return Action("speak", phrase(reading, "coy friends"))
    left = names_left(reading, temper, list(friends.values()))
    if left:
        intent = "name friends" if len(left) > 1 else "name a friend"
        return Action("speak", phrase(reading, intent, friends=listing(left)))
    if reading.is_last_chance or (reading.progress > 0.6 and _gave_up(reading)):
        return Action("leave", phrase(reading, "no friend"))
    return Action("speak", phrase(reading, "ask friends"))


def heard_names(reading: Reading, names: tuple[str, ...]) -> list[str]:
    """Which of `names` the other spoke well of, oldest first."""
    return [name for text in reading.heard for name, well in mentions(text, names) if well]


def _offered(reading: Reading, friends: dict[str, str]) -> list[str]:
    return [friends.get(str(offer), "") for offer in reading.offers[reading.me]]


def names_left(reading: Reading, temper: Temper, friends: list[str]) -> list[str]:
    """The next names to say; every agent has an order of its own."""
    start = reading.seed % len(friends)
    order = friends[start:] + friends[:start]
    said = " ".join(reading.said)
    if temper.name == "stubborn":  # the same few over and over
        few = order[:4]
        return few[: temper.batch] if len(reading.mine) % 2 else few[temper.batch :]
    left = [name for name in order if name not in said]
    if temper.candour != "false" or not left:
        return left[: temper.batch]
    return [left[0], _invented(left[0], order[(len(reading.mine) + 3) % len(order)])]


def _invented(first: str, second: str) -> str:
    """A person who does not exist, made of two who do."""
    return f"{first.split()[0]} {second.split()[-1]}"


def _gave_up(reading: Reading) -> bool:
    return bool(reading.heard) and "common" in reading.heard[-1]


# --- secret -----------------------------------------------------------------------------------------


def keep(reading: Reading, temper: Temper) -> Action:
    """The keeper: puts other facts on record, and meets questions about the secret as its temper has it."""
    move = _keep(reading, temper)
    if temper.name == "soft" or move.action_type == "action":
        return move
    secret = reading.facts.private["facts"][reading.facts.terms["secret"]]
    # A wording may by chance hold the very word that must not be said.
    leaks = re.search(rf"(?<!\w){re.escape(secret.casefold())}(?!\w)", move.argument.casefold())
    return NOTHING if leaks else move


def _keep(reading: Reading, temper: Temper) -> Action:
    terms, facts = reading.facts.terms, reading.facts.private["facts"]
    secret: str = terms["secret"]
    told = reading.table.told if reading.table else {}
    left = [name for name in facts if name != secret and name not in told]
    question = last_heard(reading)
    asked = [value for value, _ in mentions(question, tuple(terms["facts"][secret]))]
    pressed = sum(secret in text for text in reading.heard)
    if temper.candour == "coy" and len(reading.mine) % 2 == 0:
        left = []
    if not reading.mine and temper.name != "expert":  # which loses no time: the seeker may answer early
        return Action("speak", phrase(reading, "coy keeper" if temper.candour == "coy" else "open keeper"))
    if len(told) < temper.tells and left:
        return Action("action", f"tell {left[0]}={_told_value(reading, temper, left[0])}")
    if temper.name == "soft" and pressed >= 2:
        return Action("speak", phrase(reading, "slip", value=facts[secret]))
    if temper.candour == "false" and (pressed or asked):
        lie = _false_value(reading, secret, sum(secret in text or "?" in text for text in reading.heard))
        return Action("speak", phrase(reading, "false claim", secret=secret, value=lie))
    if asked and temper.name in ("fair", "soft") and facts[secret] not in asked:
        return Action("speak", phrase(reading, "deny", values=listing(asked, "or")))
    if asked or secret in question:
        return Action("speak", phrase(reading, "deflect", secret=secret))
    return Action("speak", phrase(reading, "coy keeper" if temper.candour == "coy" else "chat keeper"))


def last_heard(reading: Reading) -> str:
    """What the others said since the own last move."""
    since = reading.mine[-1].turn if reading.mine else -1
    return " ".join(m.argument for m in reading.theirs if m.turn >= since and m.action_type == "speak")


def _told_value(reading: Reading, temper: Temper, fact: str) -> str:
    return _false_value(reading, fact) if temper.candour == "false" else str(reading.facts.private["facts"][fact])


def _false_value(reading: Reading, fact: str, shift: int = 0) -> str:
    values: list[str] = reading.facts.terms["facts"][fact]
    wrong = [value for value in values if value != reading.facts.private["facts"][fact]]
    return wrong[(reading.seed + shift) % len(wrong)]


def seek(reading: Reading, temper: Temper) -> Action:
    """The seeker: asks for the record, then about the secret, and answers in the end."""
    terms = reading.facts.terms
    secret: str = terms["secret"]
    told = reading.table.told if reading.table else {}
    left = [name for name in terms["facts"] if name != secret and name not in told]
    done = not left and reading.progress > 0.4
    tired = {"stubborn": 0.4, "deceptive": 0.55, "tough": 0.85}.get(temper.name, 0.7)
    if done or reading.progress >= tired or reading.is_last_chance:
        return Action("action", f"answer {best_answer(reading)}")
    if temper.name == "stubborn" or (not left and temper.candour != "false"):
        return Action("speak", phrase(reading, "ask secret", secret=secret))
    if temper.candour == "false" and len(reading.mine) % 2:
        guess = best_answer(reading)
        return Action("speak", phrase(reading, "claim knowledge", values=guess))
    if left:
        fact = left[(reading.seed + len(reading.mine)) % len(left)]
        return Action("speak", phrase(reading, "ask fact", fact=fact))
    return Action("speak", phrase(reading, "wait seeker"))


def best_answer(reading: Reading) -> str:
    """What the keeper let slip, else a guess among what it has not denied."""
    terms = reading.facts.terms
    values: tuple[str, ...] = tuple(terms["facts"][terms["secret"]])
    heard = [mention for text in reading.heard for mention in mentions(text, values)]
    claimed = [value for value, well in heard if well]
    if claimed:
        return claimed[-1]
    denied = {value for value, _ in heard}
    open_values = [value for value in values if value not in denied] or list(values)
    return open_values[reading.seed % len(open_values)]
