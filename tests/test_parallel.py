"""The PettingZoo parallel form, on every family, sampled everyday scenes and all turn orders."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pettingzoo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo.test import parallel_api_test, parallel_seed_test

import sotopia_env
from sotopia_env import (
    Action,
    ConfigurationError,
    EpisodeStore,
    InvalidActionError,
    JudgeError,
    OutcomeJudge,
    ResetNeededError,
    ScriptedJudge,
    TaskNotFoundError,
    load_tasks,
)
from sotopia_env.conversation import TURN_ORDERS
from sotopia_env.packs.outcome import FAMILIES
from sotopia_env.testing import check_env

# The everyday scenes are sampled over the whole pack.
BARGAINS = load_tasks("outcome/bargain", n=5)
SCENES = [*load_tasks("everyday")[::12], *load_tasks("everyday", seats=3)[::3]]


def say(text: str) -> Action:
    return Action("speak", text)


# --- conformance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_follows_the_contract_in_every_turn_order(family, order):
    tasks = load_tasks(f"outcome/{family}", n=5)
    check_env(lambda: sotopia_env.parallel_env(tasks, turn_order=order))


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("seats", [2, 3])
def test_everyday_scenes_follow_the_contract_in_every_turn_order(seats, order):
    scenes = [scene for scene in SCENES if len(scene.seats) == seats]
    check_env(lambda: sotopia_env.parallel_env(scenes, judge=None, turn_order=order))


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("tasks", [*FAMILIES, *SCENES], ids=lambda task: getattr(task, "id", task))
def test_pettingzoos_own_suite_passes_with_warnings_as_errors(tasks, order, capsys):
    judge = "outcome" if isinstance(tasks, str) else None
    found = load_tasks(f"outcome/{tasks}", n=5) if isinstance(tasks, str) else tasks

    def make():
        return sotopia_env.parallel_env(found, judge=judge, turn_order=order)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(make(), num_cycles=100)
        parallel_seed_test(make, num_cycles=100)


@pytest.mark.parametrize("options", [{"max_turns": 1}, {"max_turns": 200}, {"on_judge_error": "mask"}, {"reward": len}])
def test_other_options_follow_the_contract_too(options):
    check_env(lambda: sotopia_env.parallel_env(BARGAINS, **options))


def test_it_is_in_pettingzoos_registry():
    env = pettingzoo.make("parallel", "sotopia_env/Social-v0", tasks="outcome/divide")
    assert isinstance(env.unwrapped, sotopia_env.parallel.SocialParallelEnv)
    assert env.metadata["name"] == "sotopia_env/Social-v0"


# --- tasks ------------------------------------------------------------------------------------------------


def test_reset_draws_every_task_and_names_none_in_the_observation():
    env = sotopia_env.parallel_env(load_tasks("outcome", n=6))
    env.reset(seed=0)
    drawn = set()
    for _ in range(60):
        observations, _ = env.reset()
        drawn.add(env.episode().task.id)
        assert env.episode().task.id not in repr(observations)
    assert drawn == {task.id for task in env.tasks}


def test_a_task_may_be_named_and_naming_it_does_not_shift_what_follows():
    tasks = load_tasks("outcome", n=6)

    def after(options):
        env = sotopia_env.parallel_env(tasks)
        env.reset(seed=4)
        env.reset(options=options)
        first = env.episode().task.id
        env.reset()
        return first, env.episode().task.id, env.episode().seed

    named = after({"task": tasks[3].id, "something else": 1})
    assert named[0] == tasks[3].id
    assert named[1:] == after(None)[1:]


@pytest.mark.parametrize("wanted", ["outcome/bargain/train/0/00", 7, ["a"]])
def test_an_unknown_task_id_is_an_error_that_names_it(wanted):
    env = sotopia_env.parallel_env(load_tasks("outcome", n=3))
    with pytest.raises(TaskNotFoundError, match=r"Unknown task id .*Known: 'outcome/bargain/train/0/0', "):
        env.reset(options={"task": wanted})


def test_a_task_in_place_of_its_id_is_refused_without_its_private_facts():
    env = sotopia_env.parallel_env(load_tasks("outcome", n=3))
    with pytest.raises(TaskNotFoundError, match="Unknown task id Task") as caught:
        env.reset(options={"task": env.tasks[0]})
    assert str(env.tasks[0].seats[0].private) not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("actions", [None, "speak", ["agent_0"], 3])
def test_actions_that_are_no_mapping_are_refused_and_change_nothing(actions):
    env = sotopia_env.parallel_env()
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="must be a mapping from agent to action"):
        env.step(actions)
    assert env.episode().events == ()


def test_an_episode_that_is_not_over_is_no_complete_one_and_gives_way_in_a_store():
    env = sotopia_env.parallel_env()
    env.reset(seed=0)
    env.step({"agent_0": say("hello")})
    with EpisodeStore(":memory:") as store:
        begun = env.episode()
        assert (begun.status, begun.ended_by) == ("failed", None)
        assert "not played to its end" in begun.error
        store.add(begun)
        env.step({"agent_1": Action("leave")})
        assert store.add(env.episode())
        (kept,) = store.episodes()
    assert kept == env.episode()
    assert (kept.status, kept.error, len(kept.events)) == ("complete", None, 2)


def test_agents_are_fixed_at_construction_and_by_the_number_of_seats():
    assert sotopia_env.parallel_env().possible_agents == ["agent_0", "agent_1"]
    committee = sotopia_env.parallel_env(load_tasks("outcome/committee", n=2, seats=5))
    assert committee.possible_agents == [f"agent_{i}" for i in range(5)]
    assert committee.agents == []
    with pytest.raises(ConfigurationError, match=r"The tasks have \[2, 3\] seats, but one environment has one number"):
        sotopia_env.parallel_env([*load_tasks("outcome", n=1), *load_tasks("outcome/committee", n=1)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "outcom"}, "Unknown task pack or path 'outcom'.*Did you mean 'outcome'"),
        ({"tasks": []}, "tasks is empty. Pass a pack name"),
        ({"tasks": [1]}, "tasks holds 1, but must be a pack name, a path, or Task objects"),
        ({"reward": "gaol"}, "Unknown reward dimension 'gaol'.*Did you mean 'goal'"),
        ({"reward": "believability"}, r"Judge 'outcome' cannot fill \['believability'\]"),
        ({"reward": 3}, "reward is 3, but must be a dimension"),
        ({"judge": "outcme"}, "Unknown judge 'outcme'.*Did you mean 'outcome'"),
        ({"judge": OutcomeJudge}, r"OutcomeJudge is a class, but an instance is needed. Pass OutcomeJudge\(\)"),
        ({"judge": 3}, "3 is no judge: it needs a string `name` and a method"),
        ({"tasks": "everyday"}, "has no rules that bind, so the outcome judge cannot score it"),
        ({"max_turns": 0}, "max_turns is 0, but must be a whole number of 1 or more"),
        ({"max_turns": True}, "max_turns is True"),
        ({"turn_order": "robin"}, "Unknown turn order 'robin'.*Did you mean 'round-robin'"),
        ({"on_judge_error": "zero"}, "Unknown on_judge_error 'zero'. Known: 'mask', 'raise'"),
        ({"render_mode": "rgb_array"}, "Unknown render mode 'rgb_array'. Known: 'ansi', 'human'. Or None"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_line_with_the_remedy(options, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        sotopia_env.parallel_env(**options)
    assert "\n" not in str(caught.value)


# --- acting -----------------------------------------------------------------------------------------------


def test_an_agent_without_the_turn_may_be_left_out_and_what_it_sends_is_ignored_and_told():
    env = sotopia_env.parallel_env()
    env.reset(seed=0)
    *_, infos = env.step({"agent_0": say("a")})
    assert (infos["agent_0"]["ignored"], infos["agent_1"]["ignored"]) == (False, False)
    *_, infos = env.step({"agent_0": say("out of turn"), "agent_1": say("b")})
    assert (infos["agent_0"]["ignored"], infos["agent_1"]["ignored"]) == (True, False)
    *_, infos = env.step({"agent_0": say("c"), "agent_1": {"nonsense": 1}})
    assert infos["agent_1"]["ignored"]
    *_, infos = env.step({"agent_0": {"action_type": np.int64(0), "argument": "zz"}, "agent_1": say("d")})
    assert not infos["agent_0"]["ignored"]
    assert [event.argument for event in env.episode().events] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("actions", [{}, {"agent_0": None}, {"agent_1": say("hi")}, {"agent_0": say("x" * 4097)}])
def test_a_missing_or_malformed_action_raises_and_changes_nothing(actions):
    env = sotopia_env.parallel_env()
    env.reset(seed=0)
    before = json.dumps(env.snapshot())
    with pytest.raises(InvalidActionError, match="agent_0"):
        env.step(actions)
    assert json.dumps(env.snapshot()) == before
    assert env.agents == ["agent_0", "agent_1"]


def test_masks_allow_exactly_what_counts():
    env = sotopia_env.parallel_env()
    _, infos = env.reset(seed=0)
    on_turn = {env.action_space("agent_0").sample(infos["agent_0"]["action_mask"])["action_type"] for _ in range(200)}
    off_turn = {env.action_space("agent_1").sample(infos["agent_1"]["action_mask"])["action_type"] for _ in range(50)}
    assert on_turn == {0, 1, 2, 3, 4}
    assert off_turn == {0}


# --- the end ----------------------------------------------------------------------------------------------


def test_the_turn_limit_truncates_and_only_truncates():
    env = sotopia_env.parallel_env(BARGAINS, max_turns=2)
    env.reset(seed=0)
    _, rewards, terminations, truncations, _ = env.step({"agent_0": say("a")})
    assert not any(terminations.values()) | any(truncations.values())
    _, rewards, terminations, truncations, infos = env.step({"agent_1": say("b")})
    assert (set(terminations.values()), set(truncations.values())) == ({False}, {True})
    assert {info["ended_by"] for info in infos.values()} == {"turn_limit"}
    assert all(type(reward) is float for reward in rewards.values())
    assert env.agents == []


def test_a_deal_on_the_last_turn_terminates():
    env = sotopia_env.parallel_env(BARGAINS, max_turns=2)
    env.reset(seed=0)
    env.step({"agent_0": Action("action", "offer 40")})
    _, _, terminations, truncations, infos = env.step({"agent_1": Action("action", "accept")})
    assert (set(terminations.values()), set(truncations.values())) == ({True}, {False})
    assert infos["agent_0"]["ended_by"] == "deal"


def test_one_who_leaves_stays_an_agent_until_the_end_and_receives_its_reward_then():
    env = sotopia_env.parallel_env("outcome/committee")
    env.reset(seed=0)
    _, rewards, *_ = env.step({"agent_0": Action("leave")})
    assert env.agents == ["agent_0", "agent_1", "agent_2"]
    assert rewards == dict.fromkeys(env.agents, 0.0)
    observations, rewards, terminations, _, infos = env.step({"agent_1": Action("leave"), "agent_0": say("wait")})
    assert terminations == dict.fromkeys(["agent_0", "agent_1", "agent_2"], True)
    assert infos["agent_0"]["ignored"]
    assert "goal" in infos["agent_0"]["scores"]
    assert len(observations["agent_0"]["transcript"]) == 1


def test_a_failing_judge_ends_the_episode_and_loses_nothing():
    env = sotopia_env.parallel_env(judge=ScriptedJudge({"agent_0": {"goal": 11}, "agent_1": {"goal": 3}}))
    env.reset(seed=0)
    env.step({"agent_0": say("hello")})
    with pytest.raises(JudgeError, match=r"'goal' must be in \[0, 10\], got 11") as caught:
        env.step({"agent_1": Action("leave")})
    assert env.agents == []
    assert caught.value.episode == env.episode()
    assert env.episode().status == "judge_failed"
    assert env.episode().rewards == {}
    assert [event.argument for event in env.episode().events] == ["hello", ""]
    with pytest.raises(ResetNeededError):
        env.step({})
    env.reset()
    assert env.agents


@pytest.mark.parametrize("call", ["state", "snapshot", "episode"])
def test_before_reset_there_is_nothing_to_see(call):
    with pytest.raises(ResetNeededError, match=r"has not been reset\. Call reset\(\) first"):
        getattr(sotopia_env.parallel_env(), call)()


# --- fresh results, copies, snapshots -----------------------------------------------------------------------


def test_results_are_fresh_so_that_changing_them_changes_nothing_else():
    env = sotopia_env.parallel_env()
    observations, infos = env.reset(seed=0)
    observations["agent_0"]["available_actions"][:] = 0
    infos["agent_0"]["action_mask"]["action_type"][:] = 0
    infos["agent_0"].clear()
    observations["agent_0"].clear()
    env.agents.clear()
    assert env.possible_agents == ["agent_0", "agent_1"]
    assert env.state()["agent_0"]["available_actions"].tolist() == [1, 1, 1, 1, 1]
    env.reset(seed=0)
    _, rewards, *_, infos = env.step({"agent_0": Action("leave")})
    rewards["agent_0"] = 99.0
    infos["agent_0"]["scores"]["goal"] = 99.0
    assert 99.0 not in env.episode().rewards.values()


@given(
    st.lists(st.sampled_from([say("a"), Action("action", "offer 40"), Action("none")]), max_size=12), st.integers(0, 9)
)
@settings(max_examples=40)
def test_a_snapshot_is_plain_json_and_branches_the_conversation_and_later_resets(moves, cut):
    env = sotopia_env.parallel_env(BARGAINS)
    env.reset(seed=2)

    def go(env, moves):
        for move in moves:
            if env.agents:
                env.step(dict.fromkeys(env.agents, move))
        env_state = repr(env.state()), env.agents, env.episode()
        env.reset()
        return env_state, env.episode()

    for move in moves[:cut]:
        if env.agents:
            env.step(dict.fromkeys(env.agents, move))
    snapshot = json.loads(json.dumps(env.snapshot()))
    copied = copy.deepcopy(env)
    branch = sotopia_env.parallel_env(BARGAINS)
    branch.restore(snapshot)
    expected = go(env, moves[cut:])
    assert go(branch, moves[cut:]) == expected
    assert go(copied, moves[cut:]) == expected


def test_a_finished_episode_is_restored_with_its_verdict_and_its_infos():
    for judge in ("outcome", None):
        env = sotopia_env.parallel_env(BARGAINS, judge=judge)
        env.reset(seed=0)
        env.step({"agent_0": Action("leave")})
        other = sotopia_env.parallel_env(BARGAINS, judge=judge)
        other.restore(json.loads(json.dumps(env.snapshot())))
        assert other.agents == []
        assert other.episode() == env.episode()
        assert other.snapshot() == env.snapshot()


def test_a_snapshot_that_does_not_fit_is_refused():
    env = sotopia_env.parallel_env(BARGAINS)
    env.reset(seed=0)
    snapshot = env.snapshot()
    with pytest.raises(
        ConfigurationError, match=r"of a 'round-robin' conversation of 2 agents and 20 turns; this .* 5"
    ):
        sotopia_env.parallel_env(BARGAINS, max_turns=5).restore(snapshot)
    with pytest.raises(ConfigurationError, match="Snapshot has version 9; this package reads 1"):
        env.restore({**snapshot, "version": 9})


def test_the_state_is_every_agents_observation():
    env = sotopia_env.parallel_env()
    observations, _ = env.reset(seed=0)
    assert repr(env.state()) == repr(observations)


# --- rendering ----------------------------------------------------------------------------------------------


def test_ansi_rendering_shows_public_events_and_makes_control_characters_visible():
    env = sotopia_env.parallel_env(BARGAINS, render_mode="ansi")
    env.reset(seed=0)
    env.step({"agent_0": say("\x1b[31mred\x1b[0m")})
    env.step({"agent_1": Action("action", "offer nonsense")})
    text = env.render()
    assert "\x1b" not in text
    assert r"\x1b[31mred" in text
    assert "did not count" not in text


def test_human_rendering_prints_everything_once_as_it_happens(capsys):
    env = sotopia_env.parallel_env(BARGAINS, render_mode="human")
    env.reset(seed=0)
    heading = capsys.readouterr().out
    assert env.episode().task.scenario in heading
    for text, agent in (("one", "agent_0"), ("two", "agent_1"), ("three", "agent_0")):
        env.step({agent: say(text)})
        printed = capsys.readouterr().out
        assert printed.count("\n") == 1
        assert printed.endswith(f": {text}\n")
        assert env.render() is None
        assert capsys.readouterr().out == ""
    env.step({"agent_1": Action("leave")})
    assert capsys.readouterr().out.endswith("-- ended by departure --\n")
    env.reset()
    assert env.episode().task.scenario in capsys.readouterr().out


def test_human_and_ansi_rendering_agree(capsys):
    printed = []
    for mode in ("human", "ansi"):
        env = sotopia_env.parallel_env(BARGAINS, render_mode=mode)
        env.reset(seed=0)
        for text in ("a", "b", "c"):
            env.step(dict.fromkeys(env.agents, say(text)))
        env.step(dict.fromkeys(env.agents, Action("leave")))
        printed.append(env.render() or capsys.readouterr().out)
    assert printed[0].split() == printed[1].split()


def test_rendering_without_a_mode_says_how_to_get_one():
    env = sotopia_env.parallel_env()
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="Make the environment with render_mode='ansi' or 'human'"):
        env.render()


def test_closing_twice_is_fine():
    env = sotopia_env.parallel_env()
    env.close()
    env.close()
