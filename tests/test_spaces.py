"""Spaces that hold real text: what lies in them, what they sample, and that what they sample is accepted."""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sotopia_env
from sotopia_env.actions import ACTION_TYPES, MAX_ARGUMENT_LENGTH, Action, as_action
from sotopia_env.spaces import UnicodeText, action_space, observation_space

SEEDS = st.integers(0, 2**32 - 1)


@given(st.text(max_size=200))
def test_every_text_that_encodes_as_utf8_lies_in_the_space(text):
    assert UnicodeText(200).contains(text)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("\ud800", id="lone-surrogate"),
        pytest.param("fine \udfff fine", id="lone-surrogate-inside"),
        pytest.param("x" * 11, id="too-long"),
        pytest.param("é" * 11, id="too-long-beyond-ascii"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param(None, id="none"),
        pytest.param(7, id="number"),
        pytest.param(["a"], id="list"),
    ],
)
def test_what_is_no_such_text_lies_outside(value):
    assert not UnicodeText(10).contains(value)


def test_the_bounds_belong_to_the_space():
    space = UnicodeText(10)
    assert space.contains("")
    assert space.contains("😀" * 10)


@given(SEEDS)
def test_samples_are_printable_and_at_most_64_characters(seed):
    space = UnicodeText(MAX_ARGUMENT_LENGTH, seed=seed)
    for text in (space.sample(), space.sample(mask=None), space.sample(mask=np.ones(3))):
        assert len(text) <= 64
        assert text.isprintable()
        assert space.contains(text)


def test_samples_vary_in_length_and_script():
    space = UnicodeText(MAX_ARGUMENT_LENGTH, seed=0)
    samples = [space.sample() for _ in range(300)]
    assert {len(text) for text in samples} >= {0, 1, 63, 64}
    assert any(not text.isascii() for text in samples)
    assert all(len(UnicodeText(3, seed=i).sample()) <= 3 for i in range(50))


def test_the_same_seed_samples_the_same():
    assert [UnicodeText(99, seed=5).sample() for _ in range(3)] == [UnicodeText(99, seed=5).sample()] * 3
    one, two = action_space(), action_space()
    one.seed(3)
    two.seed(3)
    assert [one.sample() for _ in range(20)] == [two.sample() for _ in range(20)]


@given(SEEDS)
@settings(max_examples=50)
def test_all_that_the_action_space_samples_is_accepted(seed):
    space = action_space(seed)
    for mask in (None, {"action_type": np.array([1, 0, 0, 0, 0], dtype=np.int8), "argument": None}):
        sample = space.sample(mask=mask) if mask else space.sample()
        action = as_action(sample, "agent_0")
        assert action == Action(ACTION_TYPES[int(sample["action_type"])], sample["argument"])
        assert mask is None or action.action_type == "none"


@given(st.sampled_from(range(5)), st.text(max_size=80))
def test_any_type_with_any_text_is_a_point_of_the_action_space(kind, text):
    assert action_space().contains({"action_type": kind, "argument": text})


def test_spaces_are_equal_when_they_hold_the_same():
    assert UnicodeText(5) == UnicodeText(5)
    assert UnicodeText(5) != UnicodeText(6)
    assert UnicodeText(5) != gymnasium.spaces.Discrete(5)
    assert action_space() == action_space()
    assert observation_space(20) == observation_space(20)
    assert observation_space(20) != observation_space(21)
    assert copy.deepcopy(action_space()) == action_space()
    assert repr(UnicodeText(5)) == "UnicodeText(5)"
    assert not UnicodeText(5).is_np_flattenable


def test_one_observation_space_serves_all_agents_and_every_action_space_is_its_own():
    env = sotopia_env.parallel_env("outcome/committee")
    assert len({id(env.observation_space(agent)) for agent in env.possible_agents}) == 1
    assert len({id(env.action_space(agent)) for agent in env.possible_agents}) == 3
    assert all(env.action_space(agent) is env.action_space(agent) for agent in env.possible_agents)


@pytest.mark.parametrize("max_turns", [1, 20, 500])
def test_the_turn_counters_are_bounded_by_the_turn_limit(max_turns):
    space = observation_space(max_turns)
    assert space["turn"].contains(max_turns)
    assert not space["turn"].contains(max_turns + 1)


def test_sampled_observations_lie_in_the_space():
    space = observation_space(20)
    space.seed(0)
    assert all(space.contains(space.sample()) for _ in range(20))
