"""`check_judge` lets sound judges pass and names what is wrong with judges broken on purpose."""

from __future__ import annotations

import re

import pytest

from sotopia_env import ConfigurationError, JudgeError, LLMJudge, PanelJudge, Score, ScriptedJudge, Verdict, load_tasks
from sotopia_env.models import ScriptedModel
from sotopia_env.testing import ContractError, check_judge

TASKS = load_tasks("outcome/bargain", n=3)


def breaks(message: str):
    """A `ContractError` whose whole message is this; `...` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in message.split("..."))
    return pytest.raises(ContractError, match=f"^{pattern}$")


class Judge:
    """Sound: gives everybody the same goal; a broken one changes what is passed in."""

    name = "mine"

    def __init__(self, score=None, **attributes):
        self.give = score
        vars(self).update(attributes)

    def score(self, episode):
        return self.give(episode) if self.give is not None else verdict(episode)


class AsyncJudge(Judge):
    async def score(self, episode):
        return super().score(episode)


def verdict(episode, judge: str = "mine", **scores: float) -> Verdict:
    own = {name: Score(value=value) for name, value in (scores or {"goal": 5.0}).items()}
    return Verdict(judge=judge, scores=dict.fromkeys(episode.task.agents, own))


def down(episode):
    raise JudgeError("The judge is down.")


@pytest.mark.parametrize(
    "judge",
    [
        pytest.param(Judge(), id="sync"),
        pytest.param(AsyncJudge(), id="async"),
        pytest.param(Judge(down), id="down"),
        pytest.param(Judge(covers=lambda task: ["goal"]), id="covers"),
        pytest.param(ScriptedJudge(lambda episode: {agent: {"goal": 3} for agent in episode.agents}), id="scripted"),
        pytest.param(LLMJudge(ScriptedModel(lambda messages: "no verdict")), id="llm-that-cannot-be-read"),
        pytest.param(
            PanelJudge([Judge(covers=lambda task: ["goal"]), Judge(covers=lambda task: ["goal"], name="b")]), id="panel"
        ),
        pytest.param("outcome", id="spec"),
    ],
)
def test_a_sound_judge_passes(judge):
    check_judge(judge)


@pytest.mark.parametrize("name", [None, "", 7])
def test_a_judge_without_a_name_is_told_to_have_one(name):
    with breaks(f"The judge's name is {name!r}, but must be a string that is not empty. Set `name`."):
        check_judge(Judge(name=name))


def partial(episode):
    return Verdict(judge="mine", scores={"agent_0": {"goal": Score(value=5)}})


def uneven(episode):
    whole = verdict(episode)
    return Verdict(judge="mine", scores={**whole.scores, "agent_1": {"secret": Score(value=0)}})


def crashing(episode):
    raise ValueError("no JSON")


TASK = "on task 'outcome/bargain/validation/0/0'"


@pytest.mark.parametrize(
    ("give", "message"),
    [
        pytest.param(
            lambda episode: {"agent_0": 5},
            "Judge 'mine' returned {'agent_0': 5} instead of a sotopia_env.Verdict. Give a complete verdict in range "
            f"{TASK}, or raise JudgeError.",
            id="no-verdict",
        ),
        pytest.param(
            partial,
            "Judge 'mine' scored ['agent_0'], but the episode has ['agent_0', 'agent_1']. Give a complete "
            "verdict in range "
            f"{TASK}, or raise JudgeError.",
            id="partial",
        ),
        pytest.param(
            lambda episode: verdict(episode, goal=11),
            "Judge 'mine' on 'agent_0': 'goal' must be in [0, 10], got 11.0. Give a complete verdict in range "
            f"{TASK}...",
            id="out-of-range",
        ),
        pytest.param(
            lambda episode: verdict(episode, gaol=5),
            "Judge 'mine' gave 'agent_0' a score on Unknown dimension 'gaol'...Did you mean 'goal'?...",
            id="unknown-dimension",
        ),
        pytest.param(
            uneven,
            "Judge 'mine' scored {'agent_0': ['goal'], 'agent_1': ['secret']} "
            f"{TASK}, but every agent must be scored on the same dimensions. Raise JudgeError where a score is "
            "missing, or say "
            "what you fill in covers(task).",
            id="uneven",
        ),
        pytest.param(
            lambda episode: Verdict(judge="mine", scores={agent: {} for agent in episode.task.agents}),
            "Judge 'mine' scored {'agent_0': [], 'agent_1': []} ...",
            id="empty",
        ),
        pytest.param(
            lambda episode: verdict(episode, judge="other"),
            f"Judge 'mine' signed its verdict {TASK} as 'other'. Both must be equal: verdicts are kept by that name.",
            id="another-name",
        ),
        pytest.param(
            crashing,
            f"Judge 'mine' raised ValueError: no JSON {TASK}, but may raise JudgeError only. Raise JudgeError "
            "from it, so that "
            "callers know no verdict was given.",
            id="another-error",
        ),
    ],
)
def test_a_verdict_that_is_incomplete_or_out_of_range_is_named(give, message):
    for kind in (Judge, AsyncJudge):
        with breaks(message):
            check_judge(kind(give))


def test_a_judge_that_changes_the_episode_is_named():
    def score(episode):
        episode.rewards["agent_0"] = 1.0
        return verdict(episode)

    with breaks(f"Judge 'mine' changed the episode {TASK}. Copy what you want to change."):
        check_judge(Judge(score))


@pytest.mark.parametrize("promised", [["goal", "secret"], ["secret"], []])
def test_a_judge_that_fills_something_else_than_it_promises_is_named(promised):
    with breaks(
        f"Judge 'mine' filled ['goal'] for every seat {TASK}, but its covers(task) says {promised}. Make them "
        "agree, and "
        "raise JudgeError where a score is missing."
    ):
        check_judge(Judge(covers=lambda task: promised))


def test_a_judge_that_scores_a_task_it_refuses_is_named():
    def covers(task):
        raise ConfigurationError("not this one")

    with breaks(f"Judge 'mine' filled ['goal'] for every seat {TASK}, but its covers(task) says []..."):
        check_judge(Judge(covers=covers))


def test_a_judge_that_fails_on_some_tasks_only_is_found_out():
    def score(episode):
        return partial(episode) if len(episode.task.seats) == 3 else verdict(episode)

    with breaks(
        "Judge 'mine' scored ['agent_0'], but the episode has ['agent_0', 'agent_1', 'agent_2']...committee..."
    ):
        check_judge(Judge(score))
    check_judge(Judge(score), tasks=TASKS)
