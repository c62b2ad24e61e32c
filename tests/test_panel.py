"""The panel: several judges as one, the spread kept, and no verdict unless every member gives one."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sotopia_env
from sotopia_env import (
    Action,
    ConfigurationError,
    Dimension,
    Episode,
    Event,
    JudgeError,
    LLMJudge,
    PanelJudge,
    ScriptedJudge,
    aio,
    load_tasks,
)
from sotopia_env.models import ScriptedModel

TASK = load_tasks("outcome/bargain", n=1)[0]
EPISODE = Episode(
    task=TASK,
    agents={"agent_0": "a", "agent_1": "b"},
    events=(Event(turn=0, speaker="agent_0", action_type="leave"),),
    ended_by="departure",
    seed=0,
)


def member(name, goal_0, goal_1=0.0, **more):
    return ScriptedJudge({"agent_0": {"goal": goal_0, **more}, "agent_1": {"goal": goal_1, **more}}, name=name)


def down(_):
    raise JudgeError("the line is dead", reply="half a verd")


@pytest.mark.parametrize(("average", "value"), [("mean", 5.0), ("median", 4.0)])
def test_scores_are_averaged_and_the_spread_is_kept_by_score_and_overall(average, value):
    panel = PanelJudge([member("a", 2, 1), member("b", 4, 1), member("c", 9, 3)], average=average)
    verdict = aio.run(panel.score(EPISODE))
    assert verdict.values("agent_0") == {"goal": value}
    assert verdict.details["spread"] == {"agent_0": {"goal": 7.0}, "agent_1": {"goal": 2.0}}
    assert verdict.measures == {"spread": 4.5, "spread_max": 7.0}
    assert verdict.details["members"]["b"]["scores"]["agent_0"]["goal"]["value"] == 4.0
    assert verdict.scores["agent_0"]["goal"].reason == "a: 2, scripted\nb: 4, scripted\nc: 9, scripted"
    assert verdict.judge == panel.name == f"panel/{average}(a, b, c)"


@given(st.lists(st.floats(0, 10), min_size=2, max_size=6), st.sampled_from(["mean", "median"]))
def test_the_average_lies_among_the_scores_and_the_spread_is_their_range(goals, average):
    panel = PanelJudge([member(str(i), goal) for i, goal in enumerate(goals)], average=average)
    verdict = aio.run(panel.score(EPISODE))
    value = verdict.values("agent_0")["goal"]
    assert min(goals) - 1e-9 <= value <= max(goals) + 1e-9
    assert 0 <= value <= 10
    assert verdict.details["spread"]["agent_0"]["goal"] == max(goals) - min(goals)


def test_the_average_of_a_panel_is_the_reward():
    reply = '{"goal": {"reason": "x", "score": 5}}'
    llm = LLMJudge(ScriptedModel(lambda _: reply), dimensions=["goal"])
    env = sotopia_env.parallel_env([TASK], judge=PanelJudge([member("plain", 1, 2), llm], name="panel"), reward="goal")
    env.reset(seed=0)
    _, rewards, *_ = env.step({"agent_0": Action("leave")})
    assert rewards == {"agent_0": 3.0, "agent_1": 3.5}
    assert env.episode().verdicts["panel"].measures["spread"] == 3.5


def test_a_panel_whose_members_fill_different_dimensions_is_refused_before_anything_is_played():
    llm = LLMJudge(ScriptedModel([]), name="llm")
    with pytest.raises(ConfigurationError, match=r"fill different dimensions in task .*'outcome' fills .*'llm' fills"):
        sotopia_env.parallel_env([TASK], judge=PanelJudge(["outcome", llm]))


def test_one_failing_member_fails_the_panel_and_its_reply_is_kept():
    panel = PanelJudge([member("a", 2), ScriptedJudge(down, name="b"), member("c", 9)], name="panel")
    with pytest.raises(
        JudgeError, match="'panel' has no verdict, because one of its judges has none: the line is dead"
    ) as caught:
        aio.run(panel.score(EPISODE))
    assert caught.value.reply == "half a verd"
    assert caught.value.episode is EPISODE


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        pytest.param(member("odd", 11), r"'goal' must be in \[0, 10\], got 11", id="out-of-range"),
        pytest.param(ScriptedJudge({"agent_0": {"goal": 1}}, name="odd"), "scored", id="missing-agent"),
        pytest.param(member("odd", 1, secret=-1), "gave different scores", id="more-dimensions"),
        pytest.param(ScriptedJudge({"agent_0": {}, "agent_1": {"goal": 1}}, name="odd"), "gave different", id="fewer"),
    ],
)
def test_an_incomplete_or_impossible_member_verdict_fails_the_panel(odd, message):
    with pytest.raises(JudgeError, match=message):
        aio.run(PanelJudge([member("a", 2), odd]).score(EPISODE))


def test_members_are_asked_at_the_same_time():
    barrier = threading.Barrier(2, timeout=10)

    def wait(_):
        barrier.wait()
        return {"agent_0": {"goal": 1}, "agent_1": {"goal": 1}}

    verdict = aio.run(PanelJudge([ScriptedJudge(wait, name="a"), ScriptedJudge(wait, name="b")]).score(EPISODE))
    assert verdict.measures["spread"] == 0.0


@pytest.mark.parametrize(
    ("judges", "message"),
    [
        ([], "needs two or more judges"),
        ([member("a", 1)], "needs two or more judges"),
        ([member("a", 1), None], "needs two or more judges"),
        ([member("a", 1), member("a", 2)], "needs a name of its own"),
        (["outcome", "outcom"], "Unknown judge 'outcom'"),
        (
            [member("a", 1), ScriptedJudge({}, dimensions=[Dimension("goal", 1, 5, "?")], name="b")],
            r"'goal' on 0\.\.10 and on 1\.\.5",
        ),
    ],
)
def test_an_impossible_panel_is_refused(judges, message):
    with pytest.raises(ConfigurationError, match=message):
        PanelJudge(judges)
    with pytest.raises(ConfigurationError, match="Did you mean 'median'"):
        PanelJudge([member("a", 1), member("b", 1)], average="medain")
