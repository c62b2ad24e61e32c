"""The checkers themselves: each lets sound code pass and names what is wrong with code broken on purpose."""

from __future__ import annotations

import random
import re
import warnings

import gymnasium
import numpy as np
import pettingzoo
import pytest

import sotopia_env
from sotopia_env import load_tasks
from sotopia_env.aec import SocialAECEnv
from sotopia_env.parallel import SocialParallelEnv
from sotopia_env.single import SocialEnv
from sotopia_env.testing import (
    ContractError,
    check_env,
    environments,
    with_other_secrets,
)

TASKS = load_tasks("outcome/bargain", n=3)
FIRST = TASKS[0].id


def breaks(message: str):
    """A `ContractError` whose whole message is this; `...` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in message.split("..."))
    return pytest.raises(ContractError, match=f"^{pattern}$")


def test_a_breach_is_both_an_assertion_error_and_one_of_this_packages():
    assert issubclass(ContractError, AssertionError)
    assert issubclass(ContractError, sotopia_env.SotopiaEnvError)


# --- environments -----------------------------------------------------------------------------------------


class Parallel(SocialParallelEnv):
    """A sound environment whose results a function may spoil: spoil(env, "reset" | "step", result)."""

    def __init__(self, spoil=lambda env, call, result: None, **options):
        super().__init__(**{"tasks": TASKS, "max_turns": 6, **options})
        self.spoil = spoil

    def reset(self, seed=None, options=None):
        result = list(super().reset(seed, options))
        self.spoil(self, "reset", result)
        return tuple(result)

    def step(self, actions):
        result = list(super().step(actions))
        self.spoil(self, "step", result)
        return tuple(result)


def check_spoiled(spoil, **options):
    check_env(lambda: Parallel(spoil, **options))


def on_step(change):
    """Spoil what `step` returns: change(observations, rewards, terminations, truncations, infos)."""
    return lambda env, call, result: change(*result) if call == "step" else None


def observed(change):
    """Spoil every observation: change(agent, observation)."""

    def spoil(env, call, result):
        for agent, observation in result[0].items():
            change(agent, observation)

    return spoil


def test_a_sound_environment_passes():
    check_env(Parallel)
    check_env(lambda: SocialAECEnv(TASKS, max_turns=6))
    check_env(lambda: SocialEnv("random", tasks=TASKS, max_turns=6))


def test_what_is_no_environment_is_named():
    with breaks(
        "make_env() returned str, but must return a pettingzoo.ParallelEnv, a pettingzoo.AECEnv or a gymnasium.Env. "
        "Derive from one of them."
    ):
        check_env(lambda: "outcome")


def test_an_environment_in_place_of_a_function_that_makes_one_is_told():
    with pytest.raises(ContractError, match="make_env is a SocialParallelEnv, but must be a function"):
        check_env(sotopia_env.parallel_env())


def test_observations_outside_their_space_are_named_by_their_key():
    with breaks(
        "At step 1 the observation of 'agent_0' lies outside its space: 'turn' is 99, not in Discrete(7). Make the "
        "observation fit the space, or widen the space."
    ):
        check_spoiled(on_step(lambda observations, *_: observations["agent_0"].update(turn=99)))
    with breaks("At reset() the observation of 'agent_1' lies outside its space: its keys are ['agent', ...'why']..."):
        check_spoiled(observed(lambda agent, observation: agent == "agent_1" and observation.update(why=1)))


@pytest.mark.parametrize(
    ("index", "name"), list(enumerate(["observations", "rewards", "terminations", "truncations", "infos"]))
)
def test_a_missing_agent_is_named(index, name):
    def spoil(env, call, result):
        if call == "step":
            del result[index]["agent_1"]

    with breaks(
        f"At step 1 the {name} are for ['agent_0'], but must be a dict for exactly ['agent_0', 'agent_1']. Return the "
        "same keys in all dictionaries."
    ):
        check_spoiled(spoil)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda o, rewards, *_: rewards.update(agent_0=0),
            "At step 1 the reward of 'agent_0' is 0 of type int, but must be a Python float. Convert it with float().",
        ),
        (
            lambda o, rewards, *_: rewards.update(agent_1=np.float64(0)),
            "At step 1 the reward of 'agent_1' is np.float64(0.0) of type float64, but must be a Python float. "
            "Convert it with float().",
        ),
        (
            lambda o, r, terminations, *_: terminations.update(agent_0=np.False_),
            "At step 1 the termination of 'agent_0' is np.False_ of type bool, but must be a Python bool. "
            "Convert it with bool().",
        ),
        (
            lambda o, r, te, truncations, _: truncations.update(agent_0=0),
            "At step 1 the truncation of 'agent_0' is 0 of type int, but must be a Python bool. Convert it with "
            "bool().",
        ),
        (
            lambda o, r, te, tr, infos: infos.update(agent_0=None),
            "At step 1 the info of 'agent_0' is None, but must be a dict. Return {} for none.",
        ),
    ],
)
def test_values_of_other_types_are_named(change, message):
    with breaks(message):
        check_spoiled(on_step(change))


def test_agents_that_stay_after_their_end_are_named():
    def spoil(env, call, result):
        env.agents = env.possible_agents[:]

    with breaks(
        "After step 6 env.agents is ['agent_0', 'agent_1'], but must hold exactly the agents that have not ended: []. "
        "Update `agents` in step()."
    ):
        check_spoiled(spoil)


def test_an_episode_without_an_end_is_named(monkeypatch):
    monkeypatch.setattr(environments, "LONGEST_EPISODE", 8)
    for make in (lambda: Parallel(max_turns=500), lambda: sotopia_env.env(TASKS, max_turns=500)):
        with breaks("An episode has not ended after 8 steps. Every episode must end: set a turn limit that truncates."):
            check_env(make)


REMEDY = "Draw all randomness from a generator that reset(seed=...) seeds, and keep no state across episodes."


def test_randomness_without_the_seed_is_named_with_the_place():
    draw = random.Random()

    def spoil(agent, observation):
        observation["background"] += str(draw.random())

    with breaks(
        "Two environments reset with seed=0, given the same actions, differ at step 0 in "
        f"observations['agent_0']['background']: ... {REMEDY}"
    ):
        check_spoiled(observed(spoil))


def test_state_kept_across_episodes_is_named():
    def spoil(env, call, result):
        env.resets = getattr(env, "resets", 0) + (call == "reset")
        if env.resets > 4:
            result[0]["agent_0"]["background"] += " again"

    with breaks(
        "An environment reset with seed=0 twice, given the same actions, differ at step 0 in observations['agent_0']..."
    ):
        check_spoiled(spoil)


def test_episodes_of_different_length_are_named():
    class Shrinking(Parallel):
        limits = iter((6, 5))

        def __init__(self):
            super().__init__(max_turns=next(self.limits))

    with breaks(
        "Two environments reset with seed=0, given the same actions, took 7 and 6 steps. Draw all randomness..."
    ):
        check_env(Shrinking)


@pytest.mark.parametrize(("draw", "name"), [(random.random, "random"), (np.random.random, "numpy.random")])
def test_a_touch_of_global_random_state_is_named(draw, name):
    with breaks(
        f"The global state of {name} was changed by the environment. Use a generator of its own: "
        "random.Random(seed) or "
        "numpy.random.default_rng(seed)."
    ):
        check_spoiled(lambda env, call, result: draw() and None)


def altered(change):
    def spoil(agent, observation):
        observation["transcript"] = tuple(
            event if event.speaker == agent else event._replace(argument=change(event.argument))
            for event in observation["transcript"]
        )

    return observed(spoil)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: re.sub("<[^>]*>", "", text), id="markup-removed"),
        pytest.param(str.strip, id="stripped"),
        pytest.param(lambda text: text.replace("\x00", ""), id="nul-removed"),
        pytest.param(lambda text: text[:1000], id="cut"),
        pytest.param(lambda text: text.encode("ascii", "replace").decode(), id="ascii"),
    ],
)
def test_speech_that_arrives_altered_is_named(change):
    with breaks("In turn ... made the move ... with ..., but 'agent_...' observed .... Pass on what is said ..."):
        check_spoiled(altered(change), max_turns=20)


def test_speech_that_does_not_arrive_is_named():
    def deaf(agent, observation):
        observation["transcript"] = tuple(e for e in observation["transcript"] if e.speaker == agent)

    with breaks(
        "In turn ... 'agent_...' made the move ... with ..., but 'agent_...' observed None. Pass on what is "
        "said character for "
        "character to all who are present."
    ):
        check_spoiled(observed(deaf))


def leak(where):
    def spoil(env, call, result):
        for agent in result[0]:
            other = 1 - int(agent[6:])
            where(env, result, agent, env.episode().task.seats[other])

    return spoil


@pytest.mark.parametrize(
    ("where", "place"),
    [
        pytest.param(
            lambda env, result, agent, seat: result[0][agent].update(
                background=result[0][agent]["background"] + seat.goal
            ),
            "observations['agent_1']['background']",
            id="goal",
        ),
        pytest.param(
            lambda env, result, agent, seat: result[-1][agent].update(note=seat.character.secret),
            "infos['agent_1']['note']",
            id="secret",
        ),
        pytest.param(
            lambda env, result, agent, seat: result[-1][agent].update(note=seat.private["value"]),
            "infos['agent_1']['note']",
            id="private-fact",
        ),
        pytest.param(
            lambda env, result, agent, seat: env.agents or result[-1][agent].update(note=seat.private["value"]),
            "infos['agent_1']['note']",
            id="only-on-the-last-step",
        ),
    ],
)
def test_a_leak_of_what_another_seat_alone_knows_is_named_with_the_place(where, place):
    with breaks(
        f"Task '{FIRST}': what 'agent_0' alone knows shows in another agent's results. Two plays, given the "
        "same actions, "
        f"differ at step ... in {place}: ... Build each observation and info from that seat's own facts."
    ):
        check_spoiled(leak(where))


def test_facts_that_are_no_json_are_named():
    with breaks(
        "The facts of 'agent_...' are 'nothing', but must be a JSON object with 'terms'. Fill them with json.dumps()."
    ):
        check_spoiled(observed(lambda agent, observation: observation.update(facts="nothing")))


def test_an_agent_that_is_not_told_its_own_goal_is_named():
    with breaks(
        f"Task '{FIRST}': another goal, secret and private facts of 'agent_0' changed nothing in its own observations. "
        "Tell every agent its own goal, and let `tasks` be the list that reset() draws from."
    ):
        check_spoiled(observed(lambda agent, observation: observation.update(background="", facts='{"terms": {}}')))


def test_pettingzoos_complaints_come_with_the_name_of_its_test():
    class Anew(Parallel):
        def observation_space(self, agent):
            return sotopia_env.spaces.observation_space(6)

    with breaks(
        "PettingZoo's parallel_api_test failed: AssertionError: observation_space should return the exact same..."
    ):
        check_env(Anew)


def test_errors_of_the_environment_itself_come_through():
    def spoil(env, call, result):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        check_spoiled(spoil)


# --- environments that are not of this package ----------------------------------------------------------------


class Coins(pettingzoo.AECEnv):
    """Two agents call coins in turn, three times each; nothing social about it."""

    metadata = {"name": "coins_v0", "render_modes": []}
    names = ("player_0", "player_1")

    def __init__(self):
        self.possible_agents = list(self.names)
        self.agents = []
        self.render_mode = None
        self.spaces = {agent: gymnasium.spaces.Discrete(2) for agent in self.names}
        self.seen = {agent: gymnasium.spaces.Discrete(9) for agent in self.names}

    def observation_space(self, agent):
        return self.seen[agent]

    def action_space(self, agent):
        return self.spaces[agent]

    def reset(self, seed=None, options=None):
        self.draw = np.random.default_rng(seed)
        self.agents = self.possible_agents[:]
        self.agent_selection = self.agents[0]
        self.calls = 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}

    def observe(self, agent):
        return np.int64(self.calls)

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self.calls += 1
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self.rewards[agent] = float(action == self.draw.integers(2))
        self.agent_selection = self.agents[(self.agents.index(agent) + 1) % 2]
        if self.calls == 6:
            self.terminations = dict.fromkeys(self.agents, True)
        self._accumulate_rewards()

    def render(self):
        return None

    def close(self):
        pass


def test_a_sound_environment_of_another_kind_passes():
    check_env(Coins)


def test_pettingzoos_warnings_are_errors_except_for_three_by_exact_text():
    class Misnamed(Coins):
        names = ("bob", "eve")

    with breaks(
        "PettingZoo's api_test failed: UserWarning: We recommend agents to be named in the format "
        '<descriptor>_<number>, like "player_0" (warnings count as errors).'
    ):
        check_env(Misnamed)
    assert len(environments.DICT_SPACE_WARNINGS) == 3
    for message in environments.DICT_SPACE_WARNINGS:
        environments._suite("x", lambda message=message: warnings.warn(message, stacklevel=1), [message])
        with breaks(f"x failed: UserWarning: {message}! (warnings count as errors)."):
            environments._suite("x", lambda message=message: warnings.warn(f"{message}!", stacklevel=1), [message])


def test_a_seed_that_does_not_seed_is_named_in_the_aec_form():
    class Unseeded(Coins):
        def reset(self, seed=None, options=None):
            super().reset()

    with breaks(
        "Two environments reset with seed=0, given the same actions, differ at step ... in rewards['player_...']..."
    ):
        check_env(Unseeded)


def test_dictionaries_of_other_agents_are_named_in_the_aec_form():
    class Short(Coins):
        def reset(self, seed=None, options=None):
            super().reset(seed, options)
            del self.infos["player_1"]

    with breaks(
        "At last() of 'player_0' at call 0 env.infos has keys ['player_0'], but must have those of env.agents: "
        "['player_0', 'player_1']. Fill every dictionary for exactly the agents that are left."
    ):
        check_env(Short)


def test_a_leak_in_the_aec_form_is_named():
    class Leaky(SocialAECEnv):
        def observe(self, agent):
            observation = super().observe(agent)
            goals = "".join(seat.goal for seat in self.episode().task.seats)
            return {**observation, "background": observation["background"] + goals}

    with breaks(f"Task '{FIRST}': what 'agent_0' alone knows shows in another agent's results..."):
        check_env(lambda: Leaky(TASKS, max_turns=6))


class Single(SocialEnv):
    def __init__(self, **changes):
        super().__init__("random", tasks=TASKS, max_turns=6)
        self.changes = changes

    def step(self, action):
        names = ("observation", "reward", "terminated", "truncated", "info")
        result = dict(zip(names, super().step(action), strict=True))
        return tuple(self.changes[name](result[name]) if name in self.changes else result[name] for name in names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reward": np.float32},
            "At step 1 the reward of 'agent_0' is np.float32(0.0) of type float32, but must be...",
        ),
        ({"terminated": int}, "At step 1 the termination of 'agent_0' is 0 of type int, but must be a Python bool..."),
        (
            {"observation": lambda o: {**o, "turn": -1}},
            "At step 1 the observation of 'agent_0' lies outside its space: 'turn' is -1...",
        ),
        (
            {"info": lambda info: None},
            "At step 1 the info of 'agent_0' is None, but must be a dict. Return {} for none.",
        ),
    ],
)
def test_a_broken_single_agent_environment_is_named(changes, message):
    with breaks(message):
        check_env(lambda: Single(**changes))


def test_gymnasiums_complaints_come_with_the_name_of_its_check():
    class Fixed(Single):
        def reset(self, *, seed=7, options=None):
            return super().reset(seed=seed, options=options)

    with breaks(
        "Gymnasium's check_env failed: UserWarning: WARN: The default seed argument in reset should be `None`..."
    ):
        check_env(Fixed)


# --- tasks with other secrets ---------------------------------------------------------------------------------


def test_other_secrets_are_other_by_seed_and_the_same_by_the_same_seed():
    one, same, other = (with_other_secrets(TASKS[0], "agent_0", seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_task_that_allows_no_other_private_facts_says_so():
    task = load_tasks("outcome/secret", n=1)[0].model_dump()
    task["terms"]["facts"] = {name: [value, value] for name, value in task["seats"][0]["private"]["facts"].items()}
    with pytest.raises(
        ValueError, match=r"No other valid private facts of 'agent_0' in task .* were found in 1,000 draws"
    ):
        with_other_secrets(sotopia_env.Task.model_validate(task), "agent_0")
