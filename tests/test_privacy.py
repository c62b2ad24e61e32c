"""Non-interference: what one seat alone knows changes no byte of what another agent gets.

Two tasks that differ in one seat's goal, secret and private facts are played with the same actions;
every other agent's observations and infos must be the same, its own reward and scores excepted.
"""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sotopia_env
from sotopia_env import Action, ScriptedJudge, load_tasks, make_agent
from sotopia_env.conversation import TURN_ORDERS, Conversation
from sotopia_env.packs.outcome import FAMILIES
from sotopia_env.tasks import SPLITS, Task
from sotopia_env.testing import with_other_secrets
from sotopia_env.testing.moves import TEXTS, command

EVERYDAY = [*load_tasks("everyday"), *load_tasks("everyday", seats=3)]
STRATEGIES = ("fair", "tough", "deceptive", "accept_anything", "extreme")

outcome_tasks = st.builds(
    lambda family, split, seed: load_tasks(f"outcome/{family}", split=split, n=1, seed=seed)[0],
    st.sampled_from(FAMILIES),
    st.sampled_from(SPLITS),
    st.integers(0, 200),
)
tasks = outcome_tasks | st.sampled_from(EVERYDAY)
orders = st.sampled_from(TURN_ORDERS)
seeds = st.integers(0, 2**32 - 1)


def everything_but(agent: str, env, actions: list[dict]) -> list:
    """All that every other agent gets in a whole episode, as text; own final reward and scores left out."""
    observations, infos = env.reset(seed=1)
    got = [kept(agent, observations, infos)]
    for turn in actions:
        if not env.agents:
            break
        observations, _, terminations, truncations, infos = env.step(turn)
        flags = [terminations[a] for a in terminations if a != agent] + [
            truncations[a] for a in truncations if a != agent
        ]
        got += [kept(agent, observations, infos), repr(flags), list(env.agents)]
    return got


def kept(agent: str, observations: dict, infos: dict) -> list[str]:
    others = [other for other in observations if other != agent]
    trimmed = [{key: value for key, value in infos[other].items() if key != "scores"} for other in others]
    return [repr(observations[other]) for other in others] + [repr(info) for info in trimmed]


def awkward_actions(task: Task, order: str, seed: int) -> list[dict[str, Action]]:
    """Binding commands, awkward texts, silence and departures, drawn without a look at private facts."""
    conversation = Conversation(task, seed=0, turn_order=order)
    draw = random.Random(seed)
    actions = []
    for _ in range(25):
        view = conversation.view(conversation.agents[0])
        turn = {}
        for agent in task.agents:
            kind = draw.choices(("action", "speak", "none", "leave"), (10, 6, 2, 0.3))[0]
            text = command(view, draw) if kind == "action" else draw.choice(TEXTS) if kind == "speak" else ""
            turn[agent] = Action(kind, text)
        actions.append(turn)
    return actions


def scripted_actions(task: Task, order: str, seed: int) -> list[dict[str, Action]]:
    """What scripted agents do in a whole episode of the unchanged task: real offers, reactions and deals."""
    draw = random.Random(seed)
    agents = {agent: make_agent(f"scripted/{draw.choice(STRATEGIES)}") for agent in task.agents}
    env = sotopia_env.parallel_env(task, judge=None, turn_order=order)
    observations, _ = env.reset(seed=1)
    actions = []
    while env.agents:
        actions.append({agent: agents[agent].act(observations[agent]) for agent in env.agents})
        observations, *_ = env.step(actions[-1])
    return actions


def environment(task: Task, order: str):
    return sotopia_env.parallel_env(task, judge="outcome" if "rules" in task.terms else None, turn_order=order)


def assert_no_interference(task: Task, order: str, actions: list[dict[str, Action]], seed: int) -> None:
    for agent in task.agents:
        other = with_other_secrets(task, agent, seed=seed)
        one = everything_but(agent, environment(task, order), actions)
        two = everything_but(agent, environment(other, order), actions)
        assert one == two


@given(tasks, orders, seeds)
@settings(max_examples=120)
def test_private_facts_change_nothing_for_others_whatever_is_done(task, order, seed):
    assert_no_interference(task, order, awkward_actions(task, order, seed), seed)


@given(tasks, orders, seeds)
@settings(max_examples=80)
def test_private_facts_change_nothing_for_others_in_whole_played_episodes(task, order, seed):
    assert_no_interference(task, order, scripted_actions(task, order, seed), seed)


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_private_facts_in_every_turn_order(family, order):
    for seed, split in enumerate(SPLITS):
        task = load_tasks(f"outcome/{family}", split=split, n=1, seed=seed)[0]
        for actions in (awkward_actions(task, order, seed), scripted_actions(task, order, seed)):
            assert_no_interference(task, order, actions, seed)


def test_every_everyday_scene_keeps_private_facts():
    for task, order in zip(EVERYDAY, itertools.cycle(TURN_ORDERS), strict=False):
        assert_no_interference(task, order, awkward_actions(task, order, 5), 5)


@given(tasks, seeds)
@settings(max_examples=60)
def test_the_changed_seat_itself_is_told_something_else_so_the_property_can_fail(task, seed):
    for agent in task.agents:
        other = with_other_secrets(task, agent, seed=seed)
        views = [Conversation(t, seed=0).view(agent) for t in (task, other)]
        assert views[0]["background"] != views[1]["background"]
        index = task.agents.index(agent)
        assert other.seats[index].goal != task.seats[index].goal
        assert other.seats[index].character.secret != task.seats[index].character.secret
        if task.seats[index].private:
            assert other.seats[index].private != task.seats[index].private
            assert views[0]["facts"] != views[1]["facts"]
        unchanged = {**other.model_dump(), "seats": None} == {**task.model_dump(), "seats": None}
        assert unchanged
        assert [s for i, s in enumerate(other.seats) if i != index] == [
            s for i, s in enumerate(task.seats) if i != index
        ]


@given(tasks, orders, seeds)
@settings(max_examples=60)
def test_no_other_agents_goal_secret_or_private_text_stands_in_an_observation(task, order, seed):
    env = environment(task, order)
    observations, infos = env.reset(seed=0)
    for turn in [None, *awkward_actions(task, order, seed)]:
        if turn is not None and env.agents:
            observations, _, _, _, infos = env.step(turn)
        for index, seat in enumerate(task.seats):
            hidden = [seat.goal, seat.character.secret]
            hidden += [value for value in seat.private.values() if isinstance(value, str)]
            for agent in task.agents:
                if agent != task.agents[index]:
                    own = task.seats[task.agents.index(agent)]
                    shown = repr(observations[agent]["background"]) + observations[agent]["facts"] + repr(infos[agent])
                    assert not any(text and text in shown for text in hidden if text not in own.goal)


@pytest.mark.parametrize("order", TURN_ORDERS)
def test_the_aec_form_keeps_private_facts_too(order):
    for family in FAMILIES:
        task = load_tasks(f"outcome/{family}", n=1)[0]
        actions = awkward_actions(task, order, 3)
        for agent in task.agents:
            seen = []
            for variant in (task, with_other_secrets(task, agent, seed=3)):
                env = sotopia_env.env(variant, turn_order=order)
                env.reset(seed=1)
                got = []
                for mover in env.agent_iter():
                    observation, _, termination, truncation, info = env.last()
                    if mover != agent:
                        got.append(
                            repr(
                                (observation, termination, truncation, {k: v for k, v in info.items() if k != "scores"})
                            )
                        )
                    env.step(None if termination or truncation else actions[int(observation["turn"])][mover])
                seen.append(got)
            assert seen[0] == seen[1]
            assert seen[0]


def test_own_scores_and_rewards_are_ones_own_and_no_judges_words_reach_an_agent():
    def scores(episode):
        return {"agent_0": {"goal": 7}, "agent_1": {"goal": 3}}

    env = sotopia_env.parallel_env(judge=ScriptedJudge(scores))
    env.reset(seed=0)
    *_, infos = env.step({"agent_0": Action("leave")})
    assert infos["agent_0"]["scores"] == {"goal": 7.0}
    assert infos["agent_1"]["scores"] == {"goal": 3.0}
    assert "scripted" not in repr(infos)


@pytest.mark.parametrize("task", [*load_tasks("outcome", n=12), *EVERYDAY[:10]], ids=lambda task: task.id)
def test_rendering_and_task_ids_show_public_facts_only(task):
    for agent in task.agents:
        other = with_other_secrets(task, agent)
        texts = []
        for variant in (task, other):
            env = sotopia_env.parallel_env(variant, judge=None, render_mode="ansi")
            env.reset(seed=0)
            env.step({"agent_0": Action("action", "offer nonsense")})
            texts.append(env.render())
        assert texts[0] == texts[1]
        assert "did not count" not in texts[0]


def test_the_operators_view_does_hold_every_seats_facts():
    task = load_tasks("outcome/bargain", n=1)[0]
    env = sotopia_env.parallel_env(task)
    env.reset(seed=0)
    snapshot = json.dumps(env.snapshot())
    for seat in task.seats:
        assert json.dumps(seat.private) in snapshot
