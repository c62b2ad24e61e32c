"""The Gymnasium form: one learner, partners in the other seats."""

from __future__ import annotations

import json
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

import sotopia_env
from sotopia_env import (
    Action,
    ConfigurationError,
    InvalidActionError,
    ModelError,
    ResetNeededError,
    ScriptedJudge,
    load_tasks,
)
from sotopia_env.conversation import TURN_ORDERS
from sotopia_env.packs.outcome import FAMILIES
from sotopia_env.testing import check_env

SCENES = [*load_tasks("everyday")[::12], *load_tasks("everyday", seats=3)[::3]]


def make(**options):
    return gymnasium.make("sotopia_env/Social-v0", **options)


class Partner:
    """Says its name, or does what it is told by turn; remembers what it was asked."""

    def __init__(self, name: str = "partner", **moves: Action) -> None:
        self.name = name
        self.moves = moves
        self.asked: list[dict] = []

    def act(self, observation):
        self.asked.append(observation)
        return self.moves.get(f"turn_{observation['turn']}", Action("speak", self.name))


class AsyncPartner(Partner):
    async def act(self, observation):
        return Action("speak", "awaited")


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_follows_the_contract_in_every_turn_order(family, order):
    tasks = load_tasks(f"outcome/{family}", n=5)
    seat = (FAMILIES.index(family) + TURN_ORDERS.index(order)) % len(tasks[0].seats)
    check_env(lambda: make(tasks=tasks, partner="scripted/fair", seat=seat, turn_order=order, disable_env_checker=True))


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("seats", [2, 3])
def test_everyday_scenes_follow_the_contract_in_every_turn_order(seats, order):
    scenes = [scene for scene in SCENES if len(scene.seats) == seats]
    check_env(lambda: make(tasks=scenes, judge=None, partner="random", seat=1, turn_order=order))


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("tasks", [*FAMILIES, *SCENES], ids=lambda task: getattr(task, "id", task))
def test_gymnasiums_own_check_passes_with_warnings_as_errors(tasks, order, capsys):
    judge = "outcome" if isinstance(tasks, str) else None
    found = load_tasks(f"outcome/{tasks}", n=5) if isinstance(tasks, str) else tasks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check_env(make(tasks=found, judge=judge, partner="scripted/fair", turn_order=order).unwrapped)


@pytest.mark.parametrize("order", TURN_ORDERS)
def test_the_learner_is_asked_only_when_it_has_the_turn(order):
    env = make(tasks="outcome/committee", partner=Partner(), seat=1, turn_order=order)
    observation, info = env.reset(seed=0)
    ended = False
    while not ended:
        assert observation["available_actions"].all()
        assert info["action_mask"]["action_type"].all()
        observation, _, terminated, truncated, info = env.step(Action("speak", "learner"))
        ended = terminated or truncated
    assert truncated
    assert info["ended_by"] == "turn_limit"
    said = {event.speaker: event.argument for event in env.unwrapped.episode().events}
    assert said == {"agent_0": "partner", "agent_1": "learner", "agent_2": "partner"}


def test_partners_see_only_their_own_seat_and_may_be_async():
    partner, other = Partner("first"), AsyncPartner("second")
    env = make(tasks="outcome/committee", partner=[partner, other], seat=1)
    env.reset(seed=0)
    env.step(Action("speak", "learner"))
    assert {observation["agent"] for observation in partner.asked} == {"agent_0"}
    said = [(event.speaker, event.argument) for event in env.unwrapped.episode().events]
    assert said == [("agent_0", "first"), ("agent_1", "learner"), ("agent_2", "awaited"), ("agent_0", "first")]


def test_in_simultaneous_order_partners_do_not_see_the_learners_move_first():
    partner = Partner()
    env = make(partner=partner, turn_order="simultaneous")
    env.reset(seed=0)
    assert partner.asked == []
    env.step(Action("speak", "rock"))
    assert partner.asked[0]["transcript"] == ()


def test_a_partner_that_ends_it_before_the_learners_first_turn_leaves_one_step_to_take():
    judge = ScriptedJudge({"agent_0": {"goal": 7}, "agent_1": {"goal": 3}})
    env = make(partner=Partner(turn_0=Action("leave")), seat=1, judge=judge)
    observation, info = env.reset(seed=0)
    assert info["ended_by"] == "departure"
    assert not observation["available_actions"][1:].any()
    observation, reward, terminated, truncated, info = env.step(Action("speak", "too late"))
    assert (reward, type(reward), terminated, truncated) == (3.0, float, True, False)
    assert info["ignored"]
    assert len(observation["transcript"]) == 1
    with pytest.raises(ResetNeededError, match=r"Call reset\(\) to begin another"):
        env.step(Action("none"))


class Flaky(Partner):
    """Fails when it is asked for the first time."""

    def act(self, observation):
        move = super().act(observation)
        if len(self.asked) == 1:
            raise ModelError("down for a moment")
        return move


@pytest.mark.parametrize("seat", [0, 1])
def test_what_the_learner_says_while_a_failed_partner_has_the_turn_is_ignored_and_told(seat):
    env = make(partner=Flaky(), seat=seat, judge=None).unwrapped  # Gymnasium's wrapper would ask for another reset
    if seat == 0:
        env.reset(seed=0)
    with pytest.raises(ModelError):
        env.step(Action("speak", "first")) if seat == 0 else env.reset(seed=0)
    observation, *_, info = env.step(Action("speak", "second"))
    said = [event.argument for event in observation["transcript"]]
    assert said == (["first", "partner"] if seat == 0 else ["partner"])
    assert info["ignored"]
    observation, *_, info = env.step(Action("speak", "third"))
    assert "third" in [event.argument for event in observation["transcript"]]
    assert not info["ignored"]


def test_a_bad_action_of_the_learner_costs_and_changes_nothing():
    partner = Partner()
    env = make(partner=partner, turn_order="simultaneous")
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="Action of 'agent_0' has action_type 9"):
        env.step({"action_type": 9, "argument": ""})
    assert partner.asked == []
    assert env.unwrapped.episode().events == ()


def test_a_bad_action_of_a_partner_is_named():
    env = make(partner=Partner(turn_1="hello"))
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="Action of 'agent_1' is 'hello', but must be"):
        env.step(Action("speak", "hi"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seat": 2}, "seat is 2, but must be a whole number from 0 to 1"),
        ({"seat": True}, "seat is True"),
        ({"partner": ["random", "random"]}, "partner names 2 agents, but 1 other seats need one"),
        ({"partner": "scripted/fiar"}, "Unknown strategy 'fiar'.*Did you mean 'fair'"),
        ({"partner": 5}, "5 is no agent: it needs a string `name` and a method"),
        ({"turn_order": "x"}, "Unknown turn order 'x'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        make(**options)


def test_the_same_seed_plays_the_same_episode():
    def play():
        env = make(partner="random", turn_order="random")
        results = [repr(env.reset(seed=11))]
        for number in range(20):
            *result, terminated, truncated, info = env.step(Action("speak", str(number)))
            results.append(repr((result, terminated, truncated, info)))
            if terminated or truncated:
                break
        return results

    assert play() == play()


def test_a_snapshot_branches_the_episode():
    env = make(partner="scripted/fair", tasks="outcome/bargain").unwrapped
    env.reset(seed=0)
    env.step(Action("action", "offer 90"))
    branch = make(partner="scripted/fair", tasks="outcome/bargain").unwrapped
    branch.restore(json.loads(json.dumps(env.snapshot())))
    results = [repr(both.step(Action("action", "offer 80"))) for both in (env, branch)]
    assert results[0] == results[1]
    assert branch.episode() == env.episode()
    assert repr(branch.reset()) == repr(env.reset())


def test_an_episode_that_ended_stays_ended_when_restored():
    env = make(partner="scripted/fair").unwrapped
    env.reset(seed=0)
    env.step(Action("leave"))
    branch = make(partner="scripted/fair").unwrapped
    branch.restore(json.loads(json.dumps(env.snapshot())))
    with pytest.raises(ResetNeededError):
        branch.step(Action("none"))
    assert branch.episode() == env.episode()


def test_the_state_holds_every_seats_observation():
    env = make(partner="random").unwrapped
    observation, _ = env.reset(seed=0)
    assert env.state().keys() == {"agent_0", "agent_1"}
    assert repr(env.state()["agent_0"]) == repr(observation)


def test_rendering_shows_partners_too(capsys):
    env = make(partner=Partner(), render_mode="ansi")
    env.reset(seed=0)
    env.step(Action("speak", "learner"))
    text = env.render()
    assert text.index(": learner") < text.index(": partner")
    human = make(partner=Partner(), render_mode="human")
    human.reset(seed=0)
    human.step(Action("speak", "learner"))
    assert human.render() is None
    printed = capsys.readouterr().out
    assert printed.count(": learner") == printed.count(": partner") == 1


def test_it_is_in_gymnasiums_registry_under_its_own_name():
    assert "sotopia_env/Social-v0" in gymnasium.registry
    assert isinstance(make().unwrapped, sotopia_env.single.SocialEnv)


def test_transformers_agents_are_made_from_specs_and_refused_where_there_is_no_model():
    assert "hf/<hub id or folder>" in sotopia_env.specs.AGENT_FORMS
    with pytest.raises(sotopia_env.ConfigurationError, match=r"There is no folder '\./some-model'|needs torch"):
        sotopia_env.make_agent("hf/./some-model")
