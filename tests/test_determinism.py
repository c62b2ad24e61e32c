"""The same seed and actions give the same episode: in all three forms, again, and in another process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sotopia_env
from sotopia_env import Action, load_tasks, make_agent
from sotopia_env.conversation import TURN_ORDERS
from sotopia_env.packs.outcome import FAMILIES
from sotopia_env.testing.contract import untouched_global_random
from sotopia_env.testing.moves import awkward

TASKS = {
    2: [*load_tasks("outcome", n=6), *load_tasks("outcome", n=6, split="test")],
    3: load_tasks("outcome/committee", n=3),
}


class Recorded:
    """Does in each turn what a table says; as learner, partner and agent alike."""

    name = "recorded"
    inline = True

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def act(self, observation):
        if not observation["available_actions"][1:].any():
            return Action("none")
        draw = random.Random(f"{self.seed}/{observation['agent']}/{observation['turn']}")
        return Action("leave") if draw.random() < 0.02 else awkward(observation, draw)


def parallel_events(tasks, order, seed, policy):
    env = sotopia_env.parallel_env(tasks, turn_order=order)
    observations, _ = env.reset(seed=seed)
    while env.agents:
        observations, rewards, *_ = env.step({agent: policy.act(observations[agent]) for agent in env.agents})
    assert rewards == env.episode().rewards
    return env.episode()


def aec_events(tasks, order, seed, policy):
    env = sotopia_env.env(tasks, turn_order=order)
    env.reset(seed=seed)
    for _ in env.agent_iter():
        observation, _, termination, truncation, _ = env.last()
        env.step(None if termination or truncation else policy.act(observation))
    return env.episode()


def single_events(tasks, order, seed, policy, seat):
    env = gymnasium.make("sotopia_env/Social-v0", tasks=tasks, partner=policy, seat=seat, turn_order=order).unwrapped
    observation, _ = env.reset(seed=seed)
    ended = False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(policy.act(observation))
        ended = terminated or truncated
    return env.episode()


@given(st.sampled_from([2, 3]), st.sampled_from(TURN_ORDERS), st.integers(0, 2**31), st.integers(0, 10**6))
@settings(max_examples=60)
def test_the_same_seed_and_actions_give_the_same_episode_in_all_three_forms(seats, order, seed, moves):
    policy = Recorded(moves)
    expected = parallel_events(TASKS[seats], order, seed, policy)
    assert aec_events(TASKS[seats], order, seed, policy) == expected
    for seat in range(seats):
        assert single_events(TASKS[seats], order, seed, policy, seat) == expected


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_scripted_episodes_are_the_same_in_all_three_forms(family, order):
    tasks = load_tasks(f"outcome/{family}", n=3)
    fair = make_agent("scripted/fair")
    expected = parallel_events(tasks, order, 5, fair)
    assert aec_events(tasks, order, 5, fair) == expected
    assert single_events(tasks, order, 5, fair, seat=1) == expected


def test_seeds_differ_in_the_episodes_they_give():
    episodes = [parallel_events(TASKS[2], "random", seed, Recorded(0)) for seed in range(8)]
    assert len({episode.task.id for episode in episodes}) > 1
    assert len({episode.seed for episode in episodes}) == 8
    assert len({tuple(event.speaker for event in episode.events) for episode in episodes}) > 1


def test_without_a_seed_resets_go_on_with_the_generator():
    def three(env):
        env.reset(seed=9)
        seeds = []
        for _ in range(3):
            env.reset()
            seeds.append(env.episode().seed)
        return seeds

    assert three(sotopia_env.parallel_env(TASKS[2])) == three(sotopia_env.parallel_env(TASKS[2]))
    assert len(set(three(sotopia_env.parallel_env(TASKS[2])))) == 3
    fresh = [sotopia_env.parallel_env(TASKS[2]) for _ in range(2)]
    for env in fresh:
        env.reset()
    assert fresh[0].episode().seed != fresh[1].episode().seed


def test_what_agents_do_never_changes_who_has_the_turn_or_what_the_next_reset_draws():
    def after(seed: int):
        env = sotopia_env.parallel_env(TASKS[2], turn_order="random")
        observations, _ = env.reset(seed=1)
        policy = Recorded(seed)
        while env.agents:
            observations, *_ = env.step({agent: policy.act(observations[agent]) for agent in env.agents})
        env.reset()
        return env.episode().task.id, env.episode().seed

    assert after(0) == after(1) == after(2)


PLAY = """
import json, random, sys
import numpy as np
random.seed(int(sys.argv[1])); np.random.seed(int(sys.argv[1]))
import sotopia_env
from sotopia_env import load_tasks, make_agent
out = []
for family in ("bargain", "mutual_friend", "secret", "committee"):
    for order in ("round-robin", "simultaneous", "random"):
        for name in ("scripted/fair", "scripted/deceptive", "random"):
            agent = make_agent(name)
            env = sotopia_env.parallel_env(load_tasks(f"outcome/{family}", n=3, seed=4), turn_order=order)
            observations, _ = env.reset(seed=6)
            while env.agents:
                observations, *_ = env.step({a: agent.act(observations[a]) for a in env.agents})
            out.append(env.episode().model_dump(mode="json"))
scene = sotopia_env.parallel_env("everyday", judge=None)
scene.reset(seed=3)
print(json.dumps([out, scene.snapshot(), {a: [o["background"], o["facts"]] for a, o in scene.state().items()}]))
"""


def in_another_process(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", PLAY, hash_seed], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_seed_gives_the_same_episodes_in_another_process_with_another_hash_seed():
    one = in_another_process("1")
    assert one == in_another_process("4242")
    episodes, snapshot, _ = json.loads(one)
    assert len(episodes) == 36
    assert any(episode["ended_by"] == "deal" for episode in episodes)
    env = sotopia_env.parallel_env("everyday", judge=None)
    env.reset(seed=3)
    assert json.loads(json.dumps(env.snapshot())) == snapshot


def test_global_random_states_are_neither_changed_nor_read():
    def everything() -> str:
        with untouched_global_random("playing"):
            tasks = [load_tasks("outcome", n=12, seed=2), load_tasks("outcome/committee", n=2), load_tasks("everyday")]
            played = [
                parallel_events(tasks[0], order, 3, policy)
                for order in TURN_ORDERS
                for policy in (Recorded(1), make_agent("scripted/tough"), make_agent("random"))
            ]
            played += [
                aec_events(tasks[1], "random", 3, Recorded(1)),
                single_events(tasks[0], "random", 3, Recorded(1), 1),
            ]
            env = sotopia_env.parallel_env(tasks[2], judge=None)
            env.reset(seed=0)
            env.action_space("agent_0").seed(0)
            samples = [env.action_space("agent_0").sample() for _ in range(5)]
        return repr((tasks, played, samples, env.state()))

    random.seed(1)
    np.random.seed(1)
    one = everything()
    random.seed(2)
    np.random.seed(2)
    assert everything() == one


@pytest.mark.parametrize(("draw", "name"), [(random.random, "random"), (np.random.random, r"numpy\.random")])
def test_the_watch_on_global_random_states_does_notice(draw, name):
    message = rf"The global state of {name} was changed by me\. Use a generator of its own"
    with pytest.raises(AssertionError, match=message), untouched_global_random("me"):
        draw()
