"""The PettingZoo AEC form: PettingZoo's suites, who is asked, and what stands in its dictionaries."""

from __future__ import annotations

import json
import re
import warnings

import pettingzoo
import pytest
from pettingzoo.test import api_test, render_test, seed_test
from pettingzoo.utils.wrappers import OrderEnforcingWrapper

import sotopia_env
from sotopia_env import Action, InvalidActionError, JudgeError, ResetNeededError, ScriptedJudge, load_tasks
from sotopia_env.conversation import TURN_ORDERS
from sotopia_env.packs.outcome import FAMILIES
from sotopia_env.testing import check_env

BARGAINS = load_tasks("outcome/bargain", n=5)
SCENES = [*load_tasks("everyday")[::12], *load_tasks("everyday", seats=3)[::3]]
# What api_test says of every environment with Dict spaces, by exact text; nothing else is let through.
ALLOWED = (
    "Observation is not a NumPy array",
    "Observation space for each agent probably should be gymnasium.spaces.box or gymnasium.spaces.discrete",
    "Action space for each agent probably should be gymnasium.spaces.box or gymnasium.spaces.discrete",
)


def say(text: str) -> Action:
    return Action("speak", text)


def test_pettingzoos_conversion_to_the_parallel_form_is_refused_in_its_own_words():
    with pytest.raises(AssertionError, match="is_parallelizable"):
        pettingzoo.utils.conversions.aec_to_parallel(sotopia_env.env())


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_follows_the_contract_in_every_turn_order(family, order):
    tasks = load_tasks(f"outcome/{family}", n=5)
    check_env(lambda: sotopia_env.env(tasks, turn_order=order))


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("seats", [2, 3])
def test_everyday_scenes_follow_the_contract_in_every_turn_order(seats, order):
    scenes = [scene for scene in SCENES if len(scene.seats) == seats]
    check_env(lambda: sotopia_env.env(scenes, judge=None, turn_order=order))


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("tasks", [*FAMILIES, *SCENES], ids=lambda task: getattr(task, "id", task))
def test_pettingzoos_own_suites_pass_with_warnings_as_errors(tasks, order, capsys):
    judge = "outcome" if isinstance(tasks, str) else None
    found = load_tasks(f"outcome/{tasks}", n=5) if isinstance(tasks, str) else tasks

    def make(**options):
        return sotopia_env.env(found, judge=judge, turn_order=order, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seed_test(make, num_cycles=100)
        render_test(make)
        for message in ALLOWED:
            warnings.filterwarnings("ignore", message=f"{re.escape(message)}$")
        api_test(make(), num_cycles=100)


def test_it_is_wrapped_and_in_pettingzoos_registry():
    assert isinstance(sotopia_env.env(), OrderEnforcingWrapper)
    env = pettingzoo.make("aec", "sotopia_env/Social-v0", tasks="outcome/divide")
    assert isinstance(env.unwrapped, sotopia_env.aec.SocialAECEnv)
    with pytest.raises(AssertionError, match="reset"):
        sotopia_env.env().step(say("too early"))


def test_only_agents_that_have_the_turn_are_asked():
    env = sotopia_env.env("outcome/committee")
    env.reset(seed=0)
    asked = []
    for agent in env.agent_iter(9):
        asked.append(agent)
        env.step(say("x") if len(asked) != 2 else Action("leave"))
    numbers = [int(agent[6:]) for agent in asked]
    assert numbers == [0, 1, 2, 0, 2, 0, 2, 0, 2]


def test_in_simultaneous_order_moves_are_gathered_and_nobody_sees_anothers_before():
    env = sotopia_env.env(turn_order="simultaneous")
    env.reset(seed=0)
    env.step(say("rock"))
    assert env.agent_selection == "agent_1"
    observation, *_ = env.last()
    assert observation["transcript"] == ()
    assert env.observe("agent_0")["transcript"] == ()
    env.step(say("paper"))
    assert [event.argument for event in env.observe("agent_0")["transcript"]] == ["rock", "paper"]
    assert env.observe("agent_0")["turn"] == 1


def test_a_reset_in_mid_turn_forgets_the_moves_gathered():
    env = sotopia_env.env("outcome/committee", turn_order="simultaneous")
    env.reset(seed=0)
    env.step(say("old"))
    env.step(say("old"))
    env.reset(seed=0)
    for agent, text in zip(env.possible_agents, "abc", strict=True):
        assert env.agent_selection == agent
        env.step(say(text))
    assert [event.argument for event in env.episode().events] == ["a", "b", "c"]


@pytest.mark.parametrize("bad", [None, "speak", {"action_type": 7}, say("\ud800")])
@pytest.mark.parametrize("order", ["round-robin", "simultaneous"])
def test_a_bad_action_raises_and_changes_nothing(bad, order):
    env = sotopia_env.env(turn_order=order)
    env.reset(seed=0)
    before = env.snapshot()
    with pytest.raises(InvalidActionError, match="agent_0"):
        env.step(bad)
    assert env.snapshot() == before
    assert env.agent_selection == "agent_0"
    env.step(say("fine"))
    assert env.agent_selection == "agent_1"


def test_rewards_come_once_at_the_end_as_floats():
    env = sotopia_env.env(judge=ScriptedJudge({"agent_0": {"goal": 7}, "agent_1": {"goal": 3}}))
    env.reset(seed=0)
    env.step(say("hi"))
    assert env.rewards == {"agent_0": 0.0, "agent_1": 0.0}
    env.step(Action("leave"))
    got = {}
    for agent in env.agent_iter():
        _, reward, termination, truncation, info = env.last()
        got[agent] = (reward, type(reward), termination, truncation, info["scores"], info["ended_by"])
        env.step(None)
    assert got == {
        "agent_0": (7.0, float, True, False, {"goal": 7.0}, "departure"),
        "agent_1": (3.0, float, True, False, {"goal": 3.0}, "departure"),
    }
    assert env.agents == []


def test_a_failing_judge_leaves_no_agent_to_be_asked_and_keeps_the_episode():
    env = sotopia_env.env(judge=ScriptedJudge({}))
    env.reset(seed=0)
    with pytest.raises(JudgeError) as caught:
        env.step(Action("leave"))
    assert env.agents == []
    assert list(env.agent_iter()) == []
    assert caught.value.episode == env.episode()
    with pytest.raises(ResetNeededError, match="Call reset"):
        env.unwrapped.step(say("hello?"))


@pytest.mark.parametrize("order", TURN_ORDERS)
def test_a_snapshot_holds_moves_gathered_so_far_and_needs_no_reset_before(order):
    env = sotopia_env.env(BARGAINS, turn_order=order)
    env.reset(seed=0)
    for text in ("a", "b", "c"):
        env.step(say(text))
    branch = sotopia_env.env(BARGAINS, turn_order=order)
    branch.restore(json.loads(json.dumps(env.snapshot())))
    for both in (env, branch):
        for _ in both.agent_iter(5):
            both.step(Action("action", "offer 40"))
    assert branch.episode() == env.episode()
    assert branch.snapshot() == env.snapshot()
    assert branch.agent_selection == env.agent_selection


def test_every_agents_observation_lies_in_its_space_at_every_step():
    env = sotopia_env.env("outcome/committee", turn_order="random")
    env.reset(seed=0)
    for agent in env.agent_iter():
        for other in env.possible_agents:
            assert env.observation_space(other).contains(env.observe(other))
        assert repr(env.state()[agent]) == repr(env.observe(agent))
        _, _, termination, truncation, _ = env.last()
        env.step(None if termination or truncation else say("x"))
