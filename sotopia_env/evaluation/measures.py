"""The numbers of one episode from one seat; docs/evaluation.md says what each is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress

from sotopia_env.dimensions import DIMENSION_NAMES, OVERALL, overall
from sotopia_env.episodes import Episode, Verdict
from sotopia_env.errors import JudgeError
from sotopia_env.judges.base import Reward, rewards_from
from sotopia_env.rules import rules_of

_DIGITS = 4
"""Decimals kept of a play's numbers, so that a saved evaluation is equal to what was saved."""


def measure(episode: Episode, verdict: Verdict, seat: int, reward: Reward = "goal") -> dict[str, float]:
    """Every number of a complete episode from one seat; what does not exist is absent, never 0.

    Args:
        episode: The episode.
        verdict: Whose scores count.
        seat: From whose seat.
        reward: Stands under "reward" if it is not "goal".
    """
    me = episode.task.agents[seat]
    scores = verdict.values(me)
    found = dict(scores)
    if all(name in scores for name in DIMENSION_NAMES):
        found[OVERALL] = overall(scores)
    if reward != "goal":
        with suppress(JudgeError):  # a verdict from the store may have been given for another reward
            found["reward"] = rewards_from(verdict, reward, episode)[me]
    others = [verdict.values(agent) for agent in episode.task.agents if agent != me]
    if "goal" in scores and all("goal" in other for other in others):
        found["partner_goal"] = math.fsum(other["goal"] for other in others) / len(others)
        found["self_minus_partner"] = scores["goal"] - found["partner_goal"]
    if "secret" in scores:
        found["secret_leaks"] = float(scores["secret"] < 0)
    return {
        name: round(value, _DIGITS)
        for name, value in {**found, **_joint(episode, verdict), **_talk(episode, me)}.items()
    }


def _joint(episode: Episode, verdict: Verdict) -> dict[str, float]:
    """What rules say of the whole, whoever judges; a seeker's answer is no agreement."""
    rules = rules_of(episode.task)
    if rules is None:
        return {}
    computed = _computed(episode, verdict)
    found = {name: computed[name] for name in ("welfare", "pareto")}
    return found if rules.name == "secret" else {**found, "agreement": computed["deal"]}


def _computed(episode: Episode, verdict: Verdict) -> Mapping[str, float]:
    """The measures of the rules: those of the outcome judge, or computed if another one judged."""
    if {"welfare", "pareto", "deal", "zone"} <= verdict.measures.keys():
        return verdict.measures
    rules = rules_of(episode.task)
    assert rules is not None, "only called for tasks with rules"
    return rules.score(episode.task, episode.events).measures


def has_zone(episode: Episode, verdict: Verdict) -> bool | None:
    """Whether some agreement would have been good for all; `None` where nothing is computed."""
    return None if rules_of(episode.task) is None else _computed(episode, verdict)["zone"] == 1


def _talk(episode: Episode, me: str) -> dict[str, float]:
    mine = [event for event in episode.events if event.speaker == me]
    found = {"turns": float(max((event.turn + 1 for event in episode.events), default=0))}
    if mine:  # none, if the other left before the first own turn
        found["words_per_turn"] = sum(len(event.argument.split()) for event in mine) / len(mine)
        found["parse_failures"] = sum(event.parse_failure for event in mine) / len(mine)
    return found
