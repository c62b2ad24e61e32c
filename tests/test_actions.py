"""Reading what policies send: actions as objects and mappings, and a model's free text."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sotopia_env import InvalidActionError
from sotopia_env.actions import (
    ACTION_TYPES,
    MAX_ARGUMENT_LENGTH,
    Action,
    UnreadableReplyError,
    as_action,
    is_text,
    parse_reply,
)
from sotopia_env.chat import canonical, reply_text

KINDS = st.sampled_from(ACTION_TYPES)
TEXTS = st.text(max_size=300)


# --- what an environment accepts --------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        Action("speak", "hi"),
        {"action_type": "speak", "argument": "hi"},
        {"action_type": 1, "argument": "hi"},
        {"action_type": np.int64(1), "argument": "hi"},
        {"action_type": np.array(1), "argument": "hi"},
    ],
)
def test_an_action_may_be_an_object_or_a_mapping_with_name_or_number(sent):
    assert as_action(sent, "agent_0") == Action("speak", "hi")


def test_a_mapping_may_leave_the_argument_out():
    assert as_action({"action_type": "leave"}, "agent_0") == Action("leave", "")


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        pytest.param(None, r"Action of 'agent_0' is None, but must be a sotopia_env\.Action or a mapping", id="none"),
        pytest.param("speak", r"is 'speak', but must be", id="bare-string"),
        pytest.param(("speak", "hi"), r"is \('speak', 'hi'\), but must be", id="bare-tuple"),
        pytest.param({}, r"has action_type None\. Allowed: the names", id="empty"),
        pytest.param({"action_type": 5}, r"has action_type 5\. Allowed: .* integers 0 to 4", id="number-too-large"),
        pytest.param({"action_type": -1}, r"has action_type -1", id="negative"),
        pytest.param({"action_type": True}, r"has action_type True", id="boolean"),
        pytest.param({"action_type": 1.0}, r"has action_type 1\.0", id="float"),
        pytest.param({"action_type": np.array([1])}, r"has action_type array\(\[1\]\)", id="array"),
        pytest.param({"action_type": "shout"}, r"has action_type 'shout'", id="unknown-name"),
        pytest.param(Action("Speak", "hi"), r"has action_type 'Speak'", id="names-are-exact"),
        pytest.param(
            {"action_type": 1, "argument": None}, r"an argument outside the action space: None", id="no-string"
        ),
        pytest.param(Action("speak", "\ud800"), r"outside the action space: '\\ud800'", id="lone-surrogate"),
        pytest.param(Action("speak", "x" * 4097), r"a string of at most 4096 characters", id="too-long"),
        pytest.param({"action_type": 1, "to": "b"}, r"has unknown keys \['to'\]", id="unknown-key"),
        pytest.param(Action("speak", "x", "no"), r"has parse_failure 'no'\. Allowed: True and False", id="flag"),
    ],
)
def test_anything_else_is_refused_with_the_value_and_what_is_allowed(sent, message):
    with pytest.raises(InvalidActionError, match=message):
        as_action(sent, "agent_0")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), KINDS)
def test_no_value_ever_crashes_the_reader(value, kind):
    for sent in (value, {"action_type": value}, {"action_type": kind, "argument": value}):
        try:
            action = as_action(sent, "agent_0")
        except InvalidActionError:
            continue
        assert action.action_type in ACTION_TYPES
        assert is_text(action.argument)


# --- reading a model's reply --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        pytest.param('{"action_type": "speak", "argument": "hi"}', Action("speak", "hi"), id="json"),
        pytest.param('```json\n{"action_type": "speak", "argument": "hi"}\n```', Action("speak", "hi"), id="fenced"),
        pytest.param('Sure!\n{"action_type": "speak", "argument": "hi"} Done.', Action("speak", "hi"), id="in-prose"),
        pytest.param(
            '{"action_type": "speak", "argument": "no"} rather {"action_type": "leave", "argument": ""}',
            Action("leave"),
            id="the-last-object-counts",
        ),
        pytest.param('{"action": {"action_type": "none"}}', Action("none"), id="in-an-envelope"),
        pytest.param('{"action_type": "Speak", "argument": "hi"}', Action("speak", "hi"), id="capitals"),
        pytest.param(
            '{"action_type": "non_verbal_communication", "argument": "nods"}',
            Action("non-verbal communication", "nods"),
            id="underscores",
        ),
        pytest.param('{"action_type": "say", "argument": "hi"}', Action("speak", "hi"), id="synonym"),
        pytest.param('{"action_type": "action", "argument": 45}', Action("action", "45"), id="number-as-argument"),
        pytest.param('{"action_type": "leave", "argument": null}', Action("leave"), id="null-as-argument"),
        pytest.param('{"action_type": "leave", "reason": "done"}', Action("leave"), id="more-keys"),
        pytest.param(
            '{"action_type": "speak", "argument": "take {this} \\"thing\\""}',
            Action("speak", 'take {this} "thing"'),
            id="braces-and-quotes-inside",
        ),
        pytest.param("speak: Good morning.", Action("speak", "Good morning."), id="labelled"),
        pytest.param('SPEAK - "Good morning."', Action("speak", "Good morning."), id="labelled-and-quoted"),
        pytest.param("**speak**: hello there", Action("speak", "hello there"), id="bold-label"),
        pytest.param("**speak:** hello there", Action("speak", "hello there"), id="bold-label-and-colon"),
        pytest.param('[action]: "offer 45"', Action("action", "offer 45"), id="as-in-the-transcript"),
        pytest.param("action(offer 45)", Action("action", "offer 45"), id="call"),
        pytest.param(
            "[non-verbal communication] nods", Action("non-verbal communication", "nods"), id="bracketed-label"
        ),
        pytest.param("leave", Action("leave"), id="bare"),
        pytest.param("  None. ", Action("none"), id="bare-with-a-period"),
        pytest.param("left the conversation", Action("leave"), id="transcript-words"),
        pytest.param('"Good morning."', Action("speak", "Good morning."), id="quoted"),
        pytest.param('Mia Lund said: "Good morning."', Action("speak", "Good morning."), id="quoted-with-a-name"),
    ],
)
def test_replies_are_read_as_meant(reply, action):
    assert parse_reply(reply) == action


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        pytest.param("", "the reply is empty", id="empty"),
        pytest.param(" \n", "the reply is empty", id="blank"),
        pytest.param("I would rather not say.", "no JSON object with 'action_type' and 'argument'", id="prose"),
        pytest.param('{"action_type": "speak"', "no JSON object", id="cut-off"),
        pytest.param('{"argument": "hi"}', "'action_type' must be one of .*, got None", id="no-type"),
        pytest.param('{"action_type": "shout", "argument": "hi"}', "must be one of .*, got 'shout'", id="bad-type"),
        pytest.param(
            '{"action_type": "speak", "argument": ["hi"]}', r"'argument' must be a string, got \['hi'\]", id="list"
        ),
        pytest.param(
            '{"action_type": "speak", "argument": true}', "'argument' must be a string, got True", id="boolean"
        ),
        pytest.param(
            json.dumps({"action_type": "speak", "argument": "x" * 4097}),
            "'argument' has 4097 characters; at most 4096",
            id="too-long",
        ),
        pytest.param('{"action_type": "speak", "argument": "\\ud800"}', "cannot be encoded as UTF-8", id="surrogate"),
        pytest.param(
            '{"action_type": "speak", "argument": "draft"} {"action_type": "?", "argument": "answer"}',
            "must be one of .*, got '[?]'",
            id="an-earlier-draft-never-stands-in",
        ),
    ],
)
def test_what_cannot_be_read_says_why(reply, message):
    with pytest.raises(UnreadableReplyError, match=message):
        parse_reply(reply)


FRAGMENTS = st.sampled_from(
    [
        '{"action_type"',
        ': "speak"',
        ', "argument": ',
        '"hi"',
        "}",
        "{",
        "[",
        "```",
        "json\n",
        "speak: ",
        "leave",
        '"',
        "\\",
        "\n",
        "(",
        ")",
    ]
)


@given(st.text() | st.lists(FRAGMENTS | st.text(max_size=3), max_size=20).map("".join))
@settings(max_examples=400)
def test_any_text_gives_a_valid_action_or_an_unreadable_reply(text):
    try:
        action = parse_reply(text)
    except UnreadableReplyError:
        return
    assert as_action(action, "agent_0") == action
    assert not action.parse_failure


@given(KINDS, TEXTS)
@example("speak", "")
@example("speak", '{"action_type": "leave", "argument": ""}')
@example("speak", "```")
@example("action", "x" * MAX_ARGUMENT_LENGTH)
def test_the_canonical_json_of_an_action_is_read_back_as_that_action(kind, text):
    action = Action(kind, text)
    assert parse_reply(reply_text(action)) == action
    assert parse_reply(f"Well.\n```json\n{canonical(kind, text)}\n```") == action
    assert parse_reply(json.dumps({"action_type": kind, "argument": text}, indent=2)) == action


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(" " * 20_000 + "x", id="indented"),
        pytest.param("a" + " " * 20_000 + "x", id="gap"),
        pytest.param("a " * 20_000, id="words"),
        pytest.param('"' * 20_000 + "x", id="quotes"),
        pytest.param("- " * 20_000, id="dashes"),
        pytest.param("{" * 5_000, id="braces"),
        pytest.param("[" * 100_000, id="brackets"),
        pytest.param('{"a":' * 2_000, id="deep"),
    ],
)
def test_long_junk_is_refused_without_long_thought(reply):
    started = time.perf_counter()
    with pytest.raises(UnreadableReplyError):
        parse_reply(reply)
    assert time.perf_counter() - started < 2
