"""Language models and people as agents."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sotopia_env
from sotopia_env import Action, ConfigurationError, ModelError, aio, load_tasks
from sotopia_env.agents import HumanAgent, LLMAgent
from sotopia_env.chat import render
from sotopia_env.conversation import Conversation
from sotopia_env.loopback import LoopbackServer
from sotopia_env.models import OpenAIModel, ScriptedModel

TASK = load_tasks("outcome/bargain", n=1)[0]
STRANGERS = load_tasks("everyday", n=1)[0].model_copy(update={"relationship": "stranger"})


def view(*moves, agent="agent_0", task=TASK, turn_order="round-robin"):
    conversation = Conversation(task, seed=0, turn_order=turn_order)
    for move in moves:
        conversation.apply(dict.fromkeys(conversation.movers, move))
    return conversation.view(agent)


def act(agent, observation):
    return aio.run(agent.act(observation))


# --- language models ------------------------------------------------------------------------------


def test_it_is_asked_with_the_rendered_observation_and_its_reply_is_the_move():
    model = ScriptedModel(['{"action_type": "speak", "argument": "Good day, \\"friend\\"."}'])
    observation = view(Action("speak", "Hello?"), agent="agent_1")
    assert act(LLMAgent(model), observation) == Action("speak", 'Good day, "friend".')
    assert model.calls == [render(observation)]


def test_off_turn_it_does_nothing_without_a_call():
    model = ScriptedModel([])
    assert act(LLMAgent(model), view(agent="agent_1")) == Action("none")
    assert model.calls == []


def test_with_json_forced_every_call_carries_the_schema_of_an_action_and_the_name_says_so():
    model = ScriptedModel(["no JSON", '{"action_type": "leave", "argument": ""}'])
    agent = LLMAgent(model, force_json=True)
    assert act(agent, view()) == Action("leave", "")
    assert [sent["json_schema"]["schema"]["required"] for sent in model.formats] == [["action_type", "argument"]] * 2
    assert agent.name == f"{model.name}?json=1"
    assert act(LLMAgent(ScriptedModel(['{"action_type": "none", "argument": ""}'])), view()) == Action("none")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("openai/some-model?json=1", "openai/some-model?json=1"),
        ("openai/some-model?temperature=0.5&json=1", "openai/some-model?temperature=0.5&json=1"),
        ("openai/some-model?json=1&temperature=0.5", "openai/some-model?temperature=0.5&json=1"),
    ],
)
def test_a_spec_with_json_makes_an_agent_that_forces_it(spec, name):
    agent = sotopia_env.make_agent(spec, base_url="http://127.0.0.1:1/v1")
    assert isinstance(agent, LLMAgent)
    assert (agent.force_json, agent.name) == (True, name)


@pytest.mark.parametrize("value", ["json=true", "json", "json=0"])
def test_json_takes_no_other_value_than_1(value):
    with pytest.raises(ConfigurationError, match=rf"'{value}' is no option of an agent. Write json=1"):
        sotopia_env.make_agent(f"openai/some-model?{value}", base_url="http://127.0.0.1:1/v1")


def test_an_unreadable_reply_is_asked_for_once_more_with_what_was_wrong():
    model = ScriptedModel(['{"action_type": "dance", "argument": ""}', '{"action_type": "leave", "argument": ""}'])
    observation = view()
    assert act(LLMAgent(model), observation) == Action("leave")
    first, again = model.calls
    assert again[: len(first)] == first == render(observation)
    assert again[-2] == {"role": "assistant", "content": '{"action_type": "dance", "argument": ""}'}
    assert again[-1]["role"] == "user"
    assert "got 'dance'" in again[-1]["content"]


@pytest.mark.parametrize("reply", ["", "Hmm {", '{"action_type": "speak", "argument": 5'])
def test_two_unreadable_replies_are_a_none_marked_as_a_parse_failure(reply):
    model = ScriptedModel([reply, reply])
    assert act(LLMAgent(model), view()) == Action("none", "", parse_failure=True)
    assert all(message["content"] for message in model.calls[1])  # endpoints refuse empty messages


def test_a_parse_failure_stands_in_the_episode():
    env = sotopia_env.parallel_env([TASK], max_turns=1)
    observations, _ = env.reset(seed=0)
    env.step({"agent_0": act(LLMAgent(ScriptedModel(["?", "?"])), observations["agent_0"])})
    assert [(event.action_type, event.parse_failure) for event in env.episode().events] == [("none", True)]


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_replies_become_an_action_of_the_space(first, second):
    move = act(LLMAgent(ScriptedModel([first, second])), view())
    conversation = Conversation(TASK, seed=0)
    conversation.apply({"agent_0": move})
    assert conversation.turn == 1


def test_a_model_that_is_down_is_an_error_and_no_move():
    with pytest.raises(ModelError, match=r"^down$"):
        act(LLMAgent(ScriptedModel([ModelError("down")])), view())


def test_without_a_system_role_its_text_stands_before_the_first_user_message():
    model = ScriptedModel(['{"action_type": "none", "argument": ""}'])
    act(LLMAgent(model, system_role=False), view())
    assert [message["role"] for message in model.calls[0]] == ["user"]


def test_it_is_named_after_its_model_unless_told_otherwise(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert sotopia_env.make_agent("openai/gpt-4o?temperature=0.70").name == "openai/gpt-4o?temperature=0.7"
    assert LLMAgent(ScriptedModel([]), name="mine").name == "mine"


def test_two_agents_play_over_http_to_a_deal_and_a_used_agent_can_be_copied():
    def reply(request):
        offered = "offer" in request["messages"][-1]["content"]
        return f'{{"action_type": "action", "argument": "{"accept" if offered else "offer 50"}"}}'

    with LoopbackServer(reply) as server:
        agent = LLMAgent(OpenAIModel("m", base_url=server.base_url))
        env = sotopia_env.parallel_env([TASK])
        observations, _ = env.reset(seed=0)
        while env.agents:
            observations, *_ = env.step({who: act(agent, observations[who]) for who in env.agents})
            agent = copy.deepcopy(agent)
        assert env.episode().ended_by == "deal"
        assert server.requests == 2


# --- people ---------------------------------------------------------------------------------------


class Terminal:
    """Types the given lines, keeps what is shown, and closes when there is nothing left to type."""

    def __init__(self, *typed):
        self.typed = list(typed)
        self.shown = []
        self.asked = []

    def ask(self, question):
        self.asked.append(question)
        if not self.typed:
            raise EOFError
        return self.typed.pop(0)

    def agent(self):
        return HumanAgent(ask=self.ask, show=self.shown.append)


@pytest.mark.parametrize(
    ("typed", "move"),
    [
        (["", "Hello."], Action("speak", "Hello.")),
        (["speak", " Hello. "], Action("speak", " Hello. ")),
        (["1", "[bold]\\n"], Action("speak", "[bold]\\n")),
        (["S", "x"], Action("speak", "x")),
        (["non", "non-", "smiles"], Action("non-verbal communication", "smiles")),
        (["3", "offer 5"], Action("action", "offer 5")),
        (["none"], Action("none")),
        (["0"], Action("none")),
        (["leave", ""], Action("leave")),
        (["l", "Goodbye."], Action("leave", "Goodbye.")),
        (["fly", "9", "²", "no", "act", "waits"], Action("action", "waits")),
        (["", "x" * 5000, "\udcff", "short"], Action("speak", "short")),
        ([], Action("leave")),
        (["speak"], Action("leave")),
    ],
)
def test_what_is_typed_becomes_the_move_and_what_cannot_be_used_is_asked_for_again(typed, move):
    terminal = Terminal(*typed)
    assert terminal.agent().act(view()) == move
    assert terminal.typed == []


def test_a_person_is_told_which_types_there_are():
    terminal = Terminal("fly")
    terminal.agent().act(view())
    assert "0 none, 1 speak, 2 non-verbal communication, 3 action, 4 leave" in terminal.asked[0]
    assert terminal.shown[-1] == "'fly' is not one of none, speak, non-verbal communication, action, leave."


def test_a_person_sees_the_background_once_and_then_only_what_is_new():
    first, later = Terminal("0"), Terminal("0")
    first.agent().act(view())
    assert TASK.seats[0].goal in "\n".join(first.shown)
    moves = (
        Action("speak", "One."),
        Action("speak", "Two."),
        Action("speak", "Three."),
        Action("action", "offer nothing"),
    )
    later.agent().act(view(*moves))
    other = TASK.seats[1].character.name
    assert later.shown == [f"  3  {other} [action] offer nothing", "Turn 4:"]


def test_in_simultaneous_order_a_person_sees_the_move_made_at_the_same_time():
    terminal = Terminal("0")
    terminal.agent().act(view(Action("speak", "Both."), turn_order="simultaneous"))
    assert terminal.shown == [f"  0  {TASK.seats[1].character.name}: Both.", "Turn 1:"]


def test_a_note_of_the_environment_is_shown_to_its_author():
    terminal = Terminal("0")
    terminal.agent().act(view(Action("action", "accept"), Action("none")))
    assert terminal.shown[0].startswith("  0  (Your 'accept' did not count")


def test_strangers_have_no_name():
    terminal = Terminal("0")
    terminal.agent().act(view(Action("speak", "a"), task=STRANGERS, agent="agent_1"))
    assert "  0  the other person: a" in terminal.shown


@given(st.text(max_size=60))
def test_no_text_steers_the_terminal_or_forges_a_line(text):
    terminal = Terminal("0")
    terminal.agent().act(view(Action("speak", text), agent="agent_1"))
    assert all(line.isprintable() for line in terminal.shown)
    plain = Terminal("0")
    plain.agent().act(view(Action("speak", "x"), agent="agent_1"))
    assert len(terminal.shown) == len(plain.shown)


def test_markup_is_shown_as_it_was_written(capsys):
    HumanAgent(ask=lambda _: "0").act(view(Action("speak", "[bold red]Hi[/] :smile:\x1b[2J"), agent="agent_1"))
    assert "[bold red]Hi[/] :smile:\\x1b[2J" in capsys.readouterr().out


def test_off_turn_a_person_is_not_disturbed():
    terminal = Terminal()
    assert terminal.agent().act(view(agent="agent_1")) == Action("none")
    assert terminal.shown == terminal.asked == []
    assert np.array_equal(view(agent="agent_1")["available_actions"], [1, 0, 0, 0, 0])
