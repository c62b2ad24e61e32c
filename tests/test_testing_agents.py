"""`check_agent` lets sound agents pass and names what is wrong with agents broken on purpose."""

from __future__ import annotations

import random
import re
import threading

import pytest

from sotopia_env import Action, ConfigurationError, load_tasks
from sotopia_env.agents import LLMAgent
from sotopia_env.chat import canonical
from sotopia_env.models import ScriptedModel
from sotopia_env.testing import ContractError, check_agent, default_tasks

TASKS = load_tasks("outcome/bargain", n=3)


def breaks(message: str):
    """A `ContractError` whose whole message is this; `...` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in message.split("..."))
    return pytest.raises(ContractError, match=f"^{pattern}$")


class Agent:
    """Sound: says hello on its turn; a broken one changes what is passed in."""

    name = "mine"

    def __init__(self, act=None, **attributes):
        self.choose = act
        vars(self).update(attributes)

    def act(self, observation):
        if self.choose is not None:
            return self.choose(observation)
        return Action("speak", "hello") if on_turn(observation) else Action("none")


class AsyncAgent(Agent):
    async def act(self, observation):
        return super().act(observation)


def on_turn(observation) -> bool:
    return bool(observation["available_actions"][1:].any())


def mapping(observation):
    return {"action_type": int(on_turn(observation)), "argument": "hi"}


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(Agent(), id="sync"),
        pytest.param(AsyncAgent(), id="async"),
        pytest.param(Agent(inline=True), id="inline"),
        pytest.param(AsyncAgent(inline=True), id="async-inline"),
        pytest.param(Agent(mapping), id="mapping"),
        pytest.param(
            Agent(lambda o: Action("speak", str(random.Random().random())) if on_turn(o) else Action("none")),
            id="random-but-not-inline",
        ),
        pytest.param(LLMAgent(ScriptedModel(lambda messages: canonical("speak", "hi"))), id="llm"),
        pytest.param(LLMAgent(ScriptedModel(lambda messages: "no action at all")), id="llm-that-cannot-be-read"),
        pytest.param("random", id="spec"),
        *(pytest.param(f"scripted/{name}", id=name) for name in ("fair", "expert", "leave", "extreme")),
    ],
)
def test_a_sound_agent_passes(agent):
    check_agent(agent)


@pytest.mark.parametrize("name", [None, "", 7])
def test_an_agent_without_a_name_is_told_to_have_one(name):
    with breaks(f"The agent's name is {name!r}, but must be a string that is not empty. Set `name`."):
        check_agent(Agent(name=name))


def test_an_unknown_agent_spec_is_refused():
    with pytest.raises(ConfigurationError, match=r"Unknown strategy 'fiar'.*Did you mean 'fair'"):
        check_agent("scripted/fiar")


WHERE = "on task 'outcome/bargain/validation/0/0', turn 0 in round-robin order, as 'agent_0'"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            None,
            f"Agent 'mine' gave no valid action {WHERE}: Action of 'agent_0' is None, but must be a "
            "sotopia_env.Action...",
        ),
        ("hello", f"Agent 'mine' gave no valid action {WHERE}: Action of 'agent_0' is 'hello', but must be..."),
        (Action("shout"), f"Agent 'mine' gave no valid action {WHERE}: Action of 'agent_0' has action_type 'shout'..."),
        (Action("speak", "\ud800"), f"Agent 'mine' gave no valid action {WHERE}: ...outside the action space..."),
    ],
)
def test_an_answer_that_is_no_action_is_named_with_the_place(answer, message):
    for kind in (Agent, AsyncAgent):
        with breaks(message):
            check_agent(kind(lambda observation: answer))


def test_an_error_in_act_is_named_with_the_place_and_kept_as_the_cause():
    def act(observation):
        raise KeyError("price")

    with breaks(f"Agent 'mine' raised KeyError: 'price' {WHERE}. Answer every observation with an Action.") as caught:
        check_agent(Agent(act))
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_agent_that_talks_out_of_turn_is_named():
    with breaks(
        "Agent 'mine' answered ('speak', 'hi') on task 'outcome/bargain/validation/0/0', turn 0 in "
        "round-robin order, as "
        "'agent_1', without the turn, but must answer Action('none'). Look at observation['available_actions'] first."
    ):
        check_agent(Agent(lambda observation: Action("speak", "hi")))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda o: o.pop("facts"), ": ..."),
        (lambda o: o.update(turn=3), "['turn']: 0 and 3"),
        (lambda o: o["available_actions"].fill(0), "['available_actions']: array([1, 1, 1, 1, 1], ..."),
    ],
)
def test_an_agent_that_changes_its_observation_is_named(change, place):
    def act(observation):
        action = Action("speak", "hi") if on_turn(observation) else Action("none")
        change(observation)
        return action

    with breaks(f"Agent 'mine' changed its observation {WHERE}, at {place}. Copy what you want to change."):
        check_agent(Agent(act))


class Counting(Agent):
    """Keeps state between calls."""

    inline = True
    calls = 0

    def act(self, observation):
        self.calls += 1
        return Action("speak", str(self.calls)) if on_turn(observation) else Action("none")


def test_an_inline_agent_that_keeps_state_is_named():
    with breaks(
        "Agent 'mine' answered the same observation with ('speak', '1', False) and then ('speak', '2', "
        f"False) {WHERE}. Keep "
        "no state between calls and seed every draw with facts['seed'] and the turn, or do not set `inline`."
    ):
        check_agent(Counting())
    check_agent(Counting(inline=False))


def test_an_inline_agent_that_touches_global_random_state_is_named():
    def act(observation):
        random.random()
        return Action("none")

    with breaks("The global state of random was changed by agent 'mine'. Use a generator of its own: ..."):
        check_agent(Agent(act, inline=True))


def test_an_agent_that_cannot_be_copied_is_told_what_to_do():
    with breaks(
        "copy.deepcopy of agent 'mine' failed: TypeError: cannot pickle '_thread.lock' object. Make clients "
        "on first use "
        "and leave them out of copies (__deepcopy__ or __getstate__)."
    ):
        check_agent(Agent(lock=threading.Lock()))


def test_an_agent_whose_copy_has_another_name_is_named():
    class Forgetful(Agent):
        def __deepcopy__(self, memo):
            return Agent(name="other")

    with breaks("A deep copy of agent 'mine' has the name 'other', but must have the same."):
        check_agent(Forgetful())


@pytest.mark.parametrize(
    ("fails", "place"),
    [
        (
            lambda o: '"rules": "committee"' in o["facts"],
            "on task 'outcome/committee/validation/0/0', turn 0 in round-robin",
        ),
        (lambda o: '"terms": {}' in o["facts"], "on task 'everyday/"),
        (lambda o: o["agent"] == "agent_2", "as 'agent_2'"),
        (
            lambda o: on_turn(o) and len({e[1] for e in o["transcript"] if e[0] == o["turn"] - 1}) > 1,
            "in simultaneous order",
        ),
    ],
    ids=["family", "everyday", "third-seat", "order"],
)
def test_an_agent_that_fails_somewhere_only_is_found_out(fails, place):
    def act(observation):
        if fails(observation):
            raise ValueError("unexpected")
        return Action("speak", "hi") if on_turn(observation) else Action("none")

    with breaks(f"Agent 'mine' raised ValueError: unexpected ...{place}...") as caught:
        check_agent(Agent(act))
    assert caught.type is ContractError


def test_other_tasks_may_be_given():
    asked = set()

    def act(observation):
        asked.add(observation["background"].split("\n")[0])
        return Action("none")

    check_agent(Agent(act), tasks=TASKS[:1])
    assert asked == {TASKS[0].scenario}


def test_default_tasks_are_one_of_every_family_and_everyday_scenes_for_two_and_three():
    tasks = default_tasks()
    assert len({task.family for task in tasks if task.pack == "outcome"}) == 7
    assert sorted(len(task.seats) for task in tasks if task.pack == "everyday") == [2, 3]
