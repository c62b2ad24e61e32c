"""Scripted strategies: agents that need no model, for partners, baselines, experts and tests.

Every one is a pure function of its observation: all state is re-derived from the transcript, all
randomness comes from the seed in `facts`. They play all outcome families in all turn orders, and
talk small in scenes where nothing binds.

    fair       open about what matters, gives in as the other does
    tough      asks for nearly everything and gives in late
    soft       gives in early, tells all
    stubborn   names one thing and stays with it
    deceptive  misstates what matters, bluffs
    expert     exchanges what helps both, reads the other, concedes in steps, closes in time
    novice     speaks the grammar and draws what it says and offers, with no regard to what it is worth
    leave, accept_anything, accept_acceptable, extreme: the trivial policies that skill must beat
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sotopia_env.actions import NOTHING, Action
from sotopia_env.agents.expert import expert
from sotopia_env.agents.haggling import haggle
from sotopia_env.agents.novice import novice
from sotopia_env.agents.phrases import PHRASES, phrase
from sotopia_env.agents.reading import Reading, read
from sotopia_env.agents.sharing import find_friend, keep, seek
from sotopia_env.agents.tempers import TEMPERS, Temper
from sotopia_env.agents.trivial import accept_acceptable, accept_anything, extreme, leave
from sotopia_env.agents.voting import vote
from sotopia_env.errors import ConfigurationError, unknown

Play = Callable[[Reading], Action]
"""A strategy's choice when it has the turn."""


class ScriptedAgent:
    """Plays one strategy; off turn it does nothing.

    Args:
        strategy: A key of `STRATEGIES`.

    Raises:
        ConfigurationError: For an unknown strategy.
    """

    inline = True

    def __init__(self, strategy: str) -> None:
        if strategy not in _PLAYS:
            raise ConfigurationError(unknown("strategy", strategy, _PLAYS, "Write it as scripted/<strategy>."))
        self.strategy = strategy
        self.name = f"scripted/{strategy}"

    def act(self, observation: dict[str, Any]) -> Action:
        """Choose a move, in well under a millisecond."""
        if not observation["available_actions"][1:].any():
            return NOTHING
        reading = read(observation)
        if not reading.facts.rules:
            return small_talk(reading, self.strategy)
        return _PLAYS[self.strategy](reading)

    def __repr__(self) -> str:
        return f"ScriptedAgent({self.strategy!r})"


def _tempered(temper: Temper) -> Play:
    def play(reading: Reading) -> Action:
        rules = reading.facts.rules
        if rules == "committee":
            return vote(reading, temper)
        if rules == "mutual_friend":
            return find_friend(reading, temper)
        if rules == "secret":
            return keep(reading, temper) if reading.role == "keeper" else seek(reading, temper)
        return haggle(reading, temper)

    return play


_PLAYS: dict[str, Play] = {
    **{name: _tempered(temper) for name, temper in TEMPERS.items()},
    "expert": expert,
    "novice": novice,
    "leave": leave,
    "accept_anything": accept_anything,
    "accept_acceptable": accept_acceptable,
    "extreme": extreme,
}

_TONES = {"novice": "soft", "accept_anything": "soft", "accept_acceptable": "fair", "extreme": "stubborn"}


def small_talk(reading: Reading, strategy: str) -> Action:
    """Where nothing binds: a few lines in the strategy's tone that pursue no goal, then goodbye."""
    lines = 5 + reading.seed % 3
    if strategy == "leave" or len(reading.mine) >= lines:
        return Action("leave", "" if strategy == "leave" else phrase(reading, "bye small"))
    tone = _TONES.get(strategy, strategy)
    if len(reading.mine) == lines - 2:
        return Action("non-verbal communication", phrase(reading, "gesture", tone))
    lines_of_tone = PHRASES[f"talk/{tone}"]
    said = len(reading.mine)
    index = 1 + (reading.seed + said) % (len(lines_of_tone) - 1) if said else 0  # the first line greets
    return Action("speak", lines_of_tone[index])


def make(name: str) -> ScriptedAgent:
    """Make the agent of a strategy.

    Raises:
        ConfigurationError: For an unknown strategy, with the nearest name.
    """
    return ScriptedAgent(name)


def _factory(name: str) -> Callable[[], ScriptedAgent]:
    return lambda: ScriptedAgent(name)


STRATEGIES: dict[str, Callable[[], ScriptedAgent]] = {name: _factory(name) for name in _PLAYS}
"""By name, a factory of the agent that plays it."""
