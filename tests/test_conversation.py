"""The turn engine: who has the turn, who hears what, how it ends, and how it is rebuilt."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sotopia_env
from sotopia_env import Action, ConfigurationError, InvalidActionError, ResetNeededError, load_tasks
from sotopia_env.actions import ACTION_TYPES
from sotopia_env.conversation import TURN_ORDERS, Conversation
from sotopia_env.episodes import Event
from sotopia_env.spaces import observation_space
from sotopia_env.tasks import CharacterProfile, Seat, Task

NAMES = ("Ada", "Ben", "Cem", "Dua", "Eli")


def scene(seats: int = 2, relationship: str = "friend") -> Task:
    """A task without rules."""
    people = [CharacterProfile(id=name.lower(), name=f"{name} Lund") for name in NAMES[:seats]]
    return Task(
        id="scene",
        scenario="A kitchen at noon.",
        relationship=relationship,
        seats=tuple(Seat(character=person, goal=f"{person.name} wants tea.") for person in people),
    )


def bargain() -> Task:
    people = [CharacterProfile(id=name.lower(), name=f"{name} Lund") for name in NAMES[:2]]
    return Task(
        id="bargain",
        scenario="A stall.",
        terms={"rules": "bargain", "lowest": 1, "highest": 100},
        seats=tuple(Seat(character=p, goal="g", private={"value": v}) for p, v in zip(people, (30, 50), strict=True)),
    )


def say(conversation: Conversation, *texts: str) -> None:
    """One spoken text a turn."""
    for text in texts:
        conversation.apply({conversation.movers[0]: Action("speak", text)})


def speakers(conversation: Conversation, agent: str) -> list[str]:
    return [event.speaker for event in conversation.view(agent)["transcript"]]


# --- who has the turn ---------------------------------------------------------------------------------


def test_round_robin_asks_seat_after_seat():
    conversation = Conversation(scene(3), seed=0)
    say(conversation, *"abcdefg")
    assert [int(event.speaker[6:]) for event in conversation.events] == [0, 1, 2, 0, 1, 2, 0]
    assert [event.turn for event in conversation.events] == list(range(7))


def test_round_robin_passes_over_those_who_left():
    conversation = Conversation(scene(4), seed=0)
    say(conversation, "a", "b")
    conversation.apply({"agent_2": Action("leave")})
    say(conversation, *"defghi")
    assert [int(event.speaker[6:]) for event in conversation.events] == [0, 1, 2, 3, 0, 1, 3, 0, 1]


def test_simultaneous_order_asks_all_who_are_present():
    conversation = Conversation(scene(3), seed=0, turn_order="simultaneous")
    assert conversation.movers == ("agent_0", "agent_1", "agent_2")
    conversation.apply({"agent_0": Action("speak", "a"), "agent_1": Action("leave"), "agent_2": Action("speak", "c")})
    assert conversation.movers == ("agent_0", "agent_2")
    assert [(event.turn, event.speaker) for event in conversation.events] == [
        (0, "agent_0"),
        (0, "agent_1"),
        (0, "agent_2"),
    ]


def test_random_order_asks_one_at_a_time_and_everybody_in_the_long_run():
    conversation = Conversation(scene(3), seed=0, max_turns=300, turn_order="random")
    say(conversation, *("x" for _ in range(300)))
    counts = Counter(event.speaker for event in conversation.events)
    assert set(counts) == {"agent_0", "agent_1", "agent_2"}
    assert min(counts.values()) > 60


def test_random_order_follows_the_seed_and_not_what_is_said_or_noted():
    def order(seed: int, move: Action) -> list[str]:
        conversation = Conversation(bargain(), seed=seed, turn_order="random")
        for _ in range(20):
            conversation.apply({conversation.movers[0]: move})
        return [event.speaker for event in conversation.events if event.speaker != "environment"]

    assert order(7, Action("speak", "a")) == order(7, Action("action", "offer nonsense"))
    assert len({tuple(order(seed, Action("speak", "a"))) for seed in range(5)}) == 5


@pytest.mark.parametrize("order", TURN_ORDERS)
def test_available_actions_say_who_has_the_turn(order):
    conversation = Conversation(scene(3), seed=1, turn_order=order)
    for agent in conversation.agents:
        mask = conversation.view(agent)["available_actions"]
        assert mask.dtype == np.int8
        assert mask.tolist() == ([1, 1, 1, 1, 1] if agent in conversation.movers else [1, 0, 0, 0, 0])


# --- acting ---------------------------------------------------------------------------------------------


def test_one_with_the_turn_that_does_nothing_leaves_an_event_and_one_without_it_none():
    conversation = Conversation(scene(), seed=0)
    conversation.apply({"agent_0": Action("none"), "agent_1": Action("speak", "out of turn")})
    assert conversation.events == [Event(turn=0, speaker="agent_0", action_type="none")]


def test_a_parse_failure_stays_on_its_event_and_is_seen_by_nobody():
    conversation = Conversation(scene(), seed=0)
    conversation.apply({"agent_0": Action("none", parse_failure=True)})
    assert conversation.events[0].parse_failure
    assert tuple(conversation.view("agent_1")["transcript"][0]) == (0, "agent_0", 0, "")


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        pytest.param(
            {}, r"'agent_0' has the turn but sent no action\. Send Action\('none'\) to do nothing", id="missing"
        ),
        pytest.param({"agent_1": Action("speak", "hi")}, "'agent_0' has the turn", id="only-the-other"),
        pytest.param({"agent_0": None}, "Action of 'agent_0' is None", id="none"),
        pytest.param({"agent_0": Action("none"), "bob": Action("none")}, "unknown agent 'bob'", id="unknown-agent"),
    ],
)
def test_a_bad_action_changes_nothing(actions, message):
    conversation = Conversation(scene(), seed=0)
    say(conversation, "a", "b")
    before = json.dumps(conversation.snapshot())
    with pytest.raises(InvalidActionError, match=message):
        conversation.apply(actions)
    assert json.dumps(conversation.snapshot()) == before
    assert (conversation.turn, conversation.movers) == (2, ("agent_0",))


def test_one_bad_move_of_a_simultaneous_turn_spoils_none_of_the_others():
    conversation = Conversation(scene(), seed=0, turn_order="simultaneous")
    with pytest.raises(InvalidActionError, match="Action of 'agent_1'"):
        conversation.apply({"agent_0": Action("speak", "a"), "agent_1": {"action_type": 9}})
    assert conversation.events == []
    assert conversation.turn == 0


def test_nothing_can_be_done_after_the_end():
    conversation = Conversation(scene(), seed=0)
    conversation.apply({"agent_0": Action("leave")})
    with pytest.raises(ResetNeededError, match=r"The conversation is over\. Call reset\(\) to begin another"):
        conversation.apply({"agent_1": Action("none")})


@pytest.mark.parametrize("max_turns", [0, -1, 2.5, "20"])
def test_a_turn_limit_must_be_a_whole_number_of_one_or_more(max_turns):
    with pytest.raises(
        ConfigurationError, match=f"max_turns is {max_turns!r}, but must be a whole number of 1 or more"
    ):
        Conversation(scene(), seed=0, max_turns=max_turns)


def test_an_unknown_turn_order_is_refused_with_the_nearest():
    with pytest.raises(ConfigurationError, match=r"Unknown turn order 'simultanous'.*Did you mean 'simultaneous'"):
        Conversation(scene(), seed=0, turn_order="simultanous")


# --- leaving --------------------------------------------------------------------------------------------


def test_one_who_left_can_only_do_nothing_and_sees_nothing_later():
    conversation = Conversation(scene(3), seed=0)
    conversation.apply({"agent_0": Action("leave", "I have a train.")})
    say(conversation, "Gone at last.", "Shh.")
    assert speakers(conversation, "agent_0") == ["agent_0"]
    assert conversation.view("agent_0")["available_actions"].tolist() == [1, 0, 0, 0, 0]
    assert conversation.view("agent_0")["turn"] == 3
    assert speakers(conversation, "agent_1") == ["agent_0", "agent_1", "agent_2"]
    assert conversation.present == ["agent_1", "agent_2"]


def test_departure_of_all_but_one_ends_it():
    conversation = Conversation(scene(3), seed=0)
    conversation.apply({"agent_0": Action("leave")})
    assert conversation.ended_by is None
    conversation.apply({"agent_1": Action("leave")})
    assert (conversation.ended_by, conversation.movers, conversation.present) == ("departure", (), ["agent_2"])


def test_all_may_leave_at_once_and_each_hears_the_others_farewell():
    conversation = Conversation(scene(), seed=0, turn_order="simultaneous")
    conversation.apply({"agent_0": Action("leave", "bye"), "agent_1": Action("leave", "so long")})
    assert conversation.ended_by == "departure"
    assert [event.argument for event in conversation.view("agent_0")["transcript"]] == ["bye", "so long"]


# --- silence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seats", "turns"), [(2, 3), (3, 3), (4, 4), (5, 5)])
@pytest.mark.parametrize("order", TURN_ORDERS)
def test_silence_ends_it_after_three_turns_or_as_many_as_are_present(order, seats, turns):
    conversation = Conversation(scene(seats), seed=0, turn_order=order)
    for _ in range(turns - 1):
        conversation.apply(dict.fromkeys(conversation.movers, Action("none")))
        assert conversation.ended_by is None
    conversation.apply(dict.fromkeys(conversation.movers, Action("none")))
    assert conversation.ended_by == "silence"


def test_those_who_left_no_longer_count_for_the_length_of_a_silence():
    conversation = Conversation(scene(5), seed=0)
    conversation.apply({"agent_0": Action("leave")})
    for number in range(1, 5):
        assert conversation.ended_by is None
        conversation.apply({f"agent_{number}": Action("none")})
    assert conversation.ended_by == "silence"


@pytest.mark.parametrize(
    "move", [Action("speak", ""), Action("speak", " \n\u2003"), Action("action", "\t"), Action("none", "hm")]
)
def test_blank_words_and_gestures_are_silence(move):
    conversation = Conversation(scene(), seed=0)
    for _ in range(3):
        conversation.apply({conversation.movers[0]: move})
    assert conversation.ended_by == "silence"


@pytest.mark.parametrize("move", [Action("speak", "."), Action("non-verbal communication", "nods"), Action("leave")])
def test_a_word_a_gesture_or_a_departure_breaks_the_silence(move):
    conversation = Conversation(scene(3), seed=0)
    for kind in (Action("none"), Action("none"), move, Action("none"), Action("none")):
        conversation.apply({conversation.movers[0]: kind})
    assert conversation.ended_by is None
    conversation.apply({conversation.movers[0]: Action("none")})
    assert conversation.ended_by == "silence"


def test_one_voice_in_a_simultaneous_turn_is_no_silence():
    conversation = Conversation(scene(), seed=0, turn_order="simultaneous")
    for _ in range(5):
        conversation.apply({"agent_0": Action("none"), "agent_1": Action("speak", "hello?")})
    assert conversation.ended_by is None


# --- the turn limit and deals ---------------------------------------------------------------------------


def test_the_turn_limit_ends_it_after_that_many_turns():
    conversation = Conversation(scene(), seed=0, max_turns=4)
    say(conversation, *"abc")
    assert conversation.ended_by is None
    say(conversation, "d")
    assert (conversation.ended_by, conversation.turn) == ("turn_limit", 4)
    assert observation_space(4).contains(conversation.view("agent_0"))


@pytest.mark.parametrize(
    ("last", "ended_by"),
    [(Action("action", "accept"), "deal"), (Action("leave"), "departure"), (Action("speak", "no"), "turn_limit")],
)
def test_a_deal_or_departure_on_the_last_turn_comes_before_the_limit(last, ended_by):
    conversation = Conversation(bargain(), seed=0, max_turns=2)
    conversation.apply({"agent_0": Action("action", "offer 40")})
    conversation.apply({"agent_1": last})
    assert conversation.ended_by == ended_by


def test_silence_on_the_last_turn_comes_before_the_limit():
    conversation = Conversation(scene(), seed=0, max_turns=3)
    for _ in range(3):
        conversation.apply({conversation.movers[0]: Action("none")})
    assert conversation.ended_by == "silence"


def test_a_deal_closed_by_one_who_leaves_in_the_same_turn_is_still_a_deal():
    conversation = Conversation(bargain(), seed=0, turn_order="simultaneous")
    conversation.apply({"agent_0": Action("action", "offer 40"), "agent_1": Action("none")})
    conversation.apply({"agent_0": Action("leave"), "agent_1": Action("action", "accept")})
    assert conversation.ended_by == "deal"


# --- who hears what -------------------------------------------------------------------------------------


@given(st.sampled_from(ACTION_TYPES), st.text(max_size=200), st.sampled_from(TURN_ORDERS), st.integers(2, 5))
@settings(max_examples=150)
def test_what_is_said_is_heard_character_for_character(kind, text, order, seats):
    conversation = Conversation(scene(seats), seed=3, turn_order=order)
    mover = conversation.movers[0]
    conversation.apply({**dict.fromkeys(conversation.movers, Action("none")), mover: Action(kind, text)})
    for agent in conversation.agents:
        heard = [event for event in conversation.view(agent)["transcript"] if event.speaker == mover]
        assert heard == [(0, mover, ACTION_TYPES.index(kind), text)]


def test_nobody_sees_anothers_move_of_a_simultaneous_turn_before_making_its_own():
    conversation = Conversation(scene(), seed=0, turn_order="simultaneous")
    before = {agent: conversation.view(agent) for agent in conversation.agents}
    moves = conversation.check({"agent_0": Action("speak", "rock"), "agent_1": Action("speak", "paper")})
    for agent in conversation.agents:
        assert conversation.view(agent)["transcript"] == before[agent]["transcript"] == ()
    conversation.apply_checked(moves)
    assert [event.argument for event in conversation.view("agent_1")["transcript"]] == ["rock", "paper"]


def test_what_is_mutable_is_fresh_in_every_view_and_what_is_shared_is_immutable():
    conversation = Conversation(scene(), seed=0)
    say(conversation, "a")
    one, two = conversation.view("agent_0"), conversation.view("agent_0")
    assert one is not two
    one["available_actions"][:] = 9
    one["transcript"] = None
    assert two["available_actions"].max() <= 1
    assert conversation.view("agent_0")["transcript"] == two["transcript"]
    assert isinstance(two["transcript"], tuple)
    with pytest.raises(AttributeError):
        two["transcript"][0].argument = "changed"


@pytest.mark.parametrize(
    ("relationship", "known"),
    [("stranger", "the other person"), ("known_by_name", "Ben Lund"), ("friend", "Ben Lund"), ("family", "Ben Lund")],
)
def test_facts_hold_names_terms_private_facts_and_a_seed(relationship, known):
    conversation = Conversation(scene(relationship=relationship), seed=0)
    facts = [json.loads(conversation.view(agent)["facts"]) for agent in conversation.agents]
    assert facts[0].keys() == {"names", "terms", "private", "seed"}
    assert facts[0]["names"] == {"agent_0": "Ada Lund", "agent_1": known}
    assert facts[0]["seed"] != facts[1]["seed"]


def test_whispers_of_imported_conversations_reach_only_their_hearers_and_their_speaker():
    events = [
        Event(turn=0, speaker="agent_0", action_type="speak", argument="to all"),
        Event(turn=1, speaker="agent_1", action_type="speak", argument="psst", to=("agent_2",)),
        Event(turn=2, speaker="environment", action_type="speak", argument="a note", to=("agent_0",)),
        Event(turn=3, speaker="agent_2", action_type="speak", argument="to nobody", to=()),
        Event(turn=4, speaker="agent_0", action_type="leave"),
        Event(turn=5, speaker="agent_1", action_type="speak", argument="we are alone"),
    ]
    conversation = Conversation.from_events(scene(3), events)
    heard = {agent: [e.argument for e in conversation.view(agent)["transcript"]] for agent in conversation.agents}
    assert heard == {
        "agent_0": ["to all", "a note", ""],
        "agent_1": ["to all", "psst", "", "we are alone"],
        "agent_2": ["to all", "psst", "to nobody", "", "we are alone"],
    }
    assert conversation.is_over
    assert conversation.events == events
    space = observation_space(conversation.max_turns)
    assert all(space.contains(conversation.view(agent)) for agent in conversation.agents)


# --- saving and rebuilding ------------------------------------------------------------------------------

MOVES = st.sampled_from(
    [
        Action("speak", "hello"),
        Action("speak", "\u2028 \x00 😀"),
        Action("none"),
        Action("none", parse_failure=True),
        Action("leave"),
        Action("action", "offer 40"),
        Action("action", "offer nonsense"),
        Action("action", "accept"),
        Action("action", "vote nobody"),
        Action("non-verbal communication", "nods"),
    ]
)
TASKS = (bargain(), scene(3), scene(5), *load_tasks("outcome/committee", n=1))


def played(task: Task, seed: int, order: str, moves: list[Action]) -> Conversation:
    """A conversation as far as the moves reach."""
    conversation = Conversation(task, seed=seed, turn_order=order)
    left = iter(moves)
    while not conversation.is_over:
        turn = list(itertools.islice(left, len(conversation.movers)))
        if len(turn) < len(conversation.movers):
            break
        conversation.apply(dict(zip(conversation.movers, turn, strict=True)))
    return conversation


def state(conversation: Conversation) -> tuple:
    views = [conversation.view(agent) for agent in conversation.agents]
    return (
        conversation.snapshot(),
        conversation.turn,
        conversation.movers,
        conversation.present,
        conversation.ended_by,
        [{**view, "available_actions": view["available_actions"].tolist()} for view in views],
        conversation.table and (conversation.table.result, conversation.table.offers, conversation.table.votes),
    )


@given(st.sampled_from(TASKS), st.integers(0, 99), st.sampled_from(TURN_ORDERS), st.lists(MOVES, max_size=30))
@settings(max_examples=150)
def test_a_conversation_is_rebuilt_equal_from_its_snapshot_and_from_its_events(task, seed, order, moves):
    conversation = played(task, seed, order, moves)
    snapshot = json.loads(json.dumps(conversation.snapshot()))
    assert state(Conversation.restore(snapshot)) == state(conversation)
    replayed = Conversation.replay(task, conversation.events, seed=seed, turn_order=order)
    assert state(replayed) == state(conversation)


@given(st.sampled_from(TASKS), st.integers(0, 99), st.sampled_from(TURN_ORDERS), st.lists(MOVES, max_size=30))
@settings(max_examples=100)
def test_a_branch_goes_on_as_the_original_would(task, seed, order, moves):
    half = len(moves) // 2
    branch = Conversation.restore(played(task, seed, order, moves[:half]).snapshot())
    made = sum(event.speaker != "environment" for event in branch.events)
    rest = iter(moves[made:])
    while not branch.is_over:
        turn = list(itertools.islice(rest, len(branch.movers)))
        if len(turn) < len(branch.movers):
            break
        branch.apply(dict(zip(branch.movers, turn, strict=True)))
    assert state(branch) == state(played(task, seed, order, moves))


def test_events_of_another_conversation_are_refused():
    conversation = Conversation(scene(3), seed=0)
    say(conversation, "a", "b", "c")
    with pytest.raises(ConfigurationError, match=r"Recorded turn 2 has moves of \['agent_2'\], but turn 2 belongs to"):
        Conversation.replay(scene(2), conversation.events, seed=0)
    with pytest.raises(ConfigurationError, match=r"Recorded turn 1 has moves .* but turn 0 belongs to"):
        Conversation.replay(scene(3), conversation.events[1:], seed=0)


@given(st.sampled_from(TASKS), st.integers(0, 99), st.sampled_from(TURN_ORDERS), st.lists(MOVES, max_size=30))
@settings(max_examples=100)
def test_every_view_lies_in_the_observation_space(task, seed, order, moves):
    conversation = played(task, seed, order, moves)
    space = observation_space(conversation.max_turns)
    assert all(space.contains(conversation.view(agent)) for agent in conversation.agents)


@pytest.mark.parametrize("missing", ["conversation", "generator"])
def test_a_damaged_snapshot_is_refused_and_changes_nothing(missing):
    env = sotopia_env.parallel_env()
    env.reset(seed=0)
    before = env.snapshot()
    damaged = {key: value for key, value in before.items() if key != missing}
    with pytest.raises(ConfigurationError, match="snapshot is damaged"):
        env.restore(damaged)
    assert env.snapshot() == before


@pytest.mark.parametrize(
    ("part", "value"), [("generator", {}), ("generator", None), ("verdict", {"judge": 3}), ("verdict", "none")]
)
def test_a_snapshot_with_a_part_of_another_form_is_refused_and_changes_nothing(part, value):
    env = sotopia_env.parallel_env()
    env.reset(seed=0)
    env.step({"agent_0": Action("speak", "hello")})
    before = env.snapshot()
    env.step({"agent_1": Action("leave")})
    after = env.snapshot()
    with pytest.raises(ConfigurationError, match="snapshot is damaged"):
        env.restore({**before, part: value})
    assert env.snapshot() == after
