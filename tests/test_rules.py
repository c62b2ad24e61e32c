"""Every family's rule against cases worked out by hand, and against brute force."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_env import Action, ConfigurationError, OutcomeJudge
from sotopia_env.conversation import Conversation
from sotopia_env.episodes import Event
from sotopia_env.rules import Outcome, outcomes, rules_of, whole_number
from sotopia_env.tasks import CharacterProfile, Seat, Task, load_tasks


def make(rules: str, terms: dict, *private: dict) -> Task:
    people = [CharacterProfile(id=f"p{i}", name=f"Person {i}") for i in range(len(private))]
    return Task(
        id=f"test/{rules}",
        scenario="A test.",
        terms={"rules": rules, **terms},
        seats=tuple(Seat(character=p, goal="g", private=facts) for p, facts in zip(people, private, strict=True)),
    )


def play(task: Task, *turns: str | dict[int, str], order: str = "round-robin") -> Conversation:
    """Play one argument per turn as an action; a dict gives several seats' arguments (simultaneous)."""
    conversation = Conversation(task, seed=0, turn_order=order)
    for turn in turns:
        moves = turn if isinstance(turn, dict) else {int(conversation.movers[0][6:]): turn}
        conversation.apply(
            {f"agent_{seat}": Action("action", text) if text else Action("none") for seat, text in moves.items()}
        )
    return conversation


def score(task: Task, conversation: Conversation) -> Outcome:
    rules = rules_of(task)
    assert rules is not None
    return rules.score(task, conversation.events)


BARGAIN = make("bargain", {"lowest": 1, "highest": 100}, {"value": 30}, {"value": 50})
NO_ZONE = make("bargain", {"lowest": 1, "highest": 100}, {"value": 50}, {"value": 30})


@pytest.mark.parametrize(
    ("price", "goals", "financial"),
    [
        pytest.param(40, (5.5, 5.5), (2.5, 2.5), id="middle"),
        pytest.param(50, (10.0, 1.0), (5.0, 0.0), id="all-to-the-seller"),
        pytest.param(45, (7.75, 3.25), (3.75, 1.25), id="three-quarters"),
        pytest.param(51, (10.0, 0.55), (5.0, -0.25), id="a-losing-deal-is-below-no-deal"),
        pytest.param(100, (10.0, 0.0), (5.0, -5.0), id="clipped"),
    ],
)
def test_bargain_scores_as_worked_by_hand(price, goals, financial):
    conversation = play(BARGAIN, f"offer {price}", "accept")
    assert conversation.ended_by == "deal"
    outcome = score(BARGAIN, conversation)
    assert outcome.goal == pytest.approx(goals)
    assert outcome.financial == pytest.approx(financial)
    assert outcome.measures["welfare"] == pytest.approx(1.0)
    assert outcome.measures["deal"] == 1.0


def test_no_deal_in_a_zone_scores_one_each_and_no_welfare():
    outcome = score(BARGAIN, play(BARGAIN, "offer 99", "offer 2"))
    assert outcome.goal == (1.0, 1.0)
    assert outcome.financial == (0.0, 0.0)
    assert outcome.measures == {"welfare": 0.0, "pareto": 0.0, "deal": 0.0, "zone": 1.0}


def test_without_a_zone_walking_away_is_perfect_and_a_losing_deal_is_zero():
    away = score(NO_ZONE, play(NO_ZONE, "offer 60"))
    assert away.goal == (10.0, 10.0)
    assert away.financial is None
    assert away.measures == {"welfare": 1.0, "pareto": 1.0, "deal": 0.0, "zone": 0.0}
    loss = score(NO_ZONE, play(NO_ZONE, "offer 60", "accept"))
    assert loss.goal == (10.0, 0.0)
    assert loss.measures["welfare"] == 0.0


def test_equal_values_leave_no_zone():
    task = make("bargain", {"lowest": 1, "highest": 100}, {"value": 40}, {"value": 40})
    assert not outcomes(task).zone


@pytest.mark.parametrize("keyword", ["accept", "ACCEPT", "  Accept "])
def test_keywords_are_caseless(keyword):
    assert play(BARGAIN, "OFFER 40", keyword).ended_by == "deal"


def test_spoken_offers_and_accepts_do_not_bind():
    conversation = Conversation(BARGAIN, seed=0)
    conversation.apply({"agent_0": Action("speak", "offer 40")})
    conversation.apply({"agent_1": Action("speak", "accept")})
    assert conversation.ended_by is None
    assert [e.speaker for e in conversation.events] == ["agent_0", "agent_1"]


@pytest.mark.parametrize(
    "text", ["offer forty", "offer", "offer 0", "offer 101", "offer my hand", "accept the deal", "accept"]
)
def test_a_command_that_does_not_count_gives_its_author_alone_a_note(text):
    conversation = play(BARGAIN, text)
    assert conversation.ended_by is None
    note = conversation.events[-1]
    assert (note.speaker, note.to) == ("environment", ("agent_0",))
    assert "did not count" in note.argument
    assert [e.speaker for e in conversation.view("agent_0")["transcript"]] == ["agent_0", "environment"]
    assert [e.speaker for e in conversation.view("agent_1")["transcript"]] == ["agent_0"]


def test_anything_else_is_a_gesture_without_a_note():
    assert len(play(BARGAIN, "turns the lamp around").events) == 1


def test_an_offer_replaces_the_earlier_one_and_reject_removes_it():
    replaced = play(BARGAIN, "offer 40", "waits", "offer 45", "accept")
    assert score(BARGAIN, replaced).goal == pytest.approx((7.75, 3.25))
    rejected = play(BARGAIN, "offer 40", "reject", "waits", "accept")
    assert rejected.ended_by is None


def test_an_accept_takes_the_offer_as_it_stood_when_the_turn_began():
    both = play(BARGAIN, {0: "offer 40", 1: ""}, {0: "offer 49", 1: "accept"}, order="simultaneous")
    assert both.ended_by == "deal"
    assert score(BARGAIN, both).goal == pytest.approx((5.5, 5.5))
    early = play(BARGAIN, {0: "offer 40", 1: "accept"}, order="simultaneous")
    assert early.ended_by is None


def test_two_accepts_of_different_terms_in_one_turn_do_not_count():
    crossed = play(BARGAIN, {0: "offer 45", 1: "offer 35"}, {0: "accept", 1: "accept"}, order="simultaneous")
    assert crossed.ended_by is None
    same = play(BARGAIN, {0: "offer 40", 1: "offer 40"}, {0: "accept", 1: "accept"}, order="simultaneous")
    assert same.ended_by == "deal"


DIVIDE = make(
    "divide",
    {"items": {"book": 2, "hat": 1, "ball": 3}},
    {"values": {"book": 1, "hat": 5, "ball": 1}, "outside": 2},
    {"values": {"book": 2, "hat": 0, "ball": 2}, "outside": 4},
)


def test_divide_scores_as_worked_by_hand():
    # Seat 0 keeps the hat and one ball: 6 points; seat 1 has two books and two balls: 8 points.
    # b_0: seat 1 needs 4, so two of its 2-point items; seat 0 keeps the hat and three 1-point items: 8.
    # b_1: seat 0 needs 2, so two items besides the hat, or the hat: giving it the hat alone leaves 10.
    conversation = play(DIVIDE, "offer hat=1 ball=1", "accept")
    outcome = score(DIVIDE, conversation)
    assert outcomes(DIVIDE).best == (8, 10)
    assert outcome.goal == pytest.approx((1 + 9 * (6 - 2) / (8 - 2), 1 + 9 * (8 - 4) / (10 - 4)))
    assert outcome.financial == pytest.approx((5 * 4 / 6, 5 * 4 / 6))
    # Every division of the five common items between them is worth 1 each to seat 0 and 2 to seat 1.
    totals = [(5 + k - 2) / 6 + (2 * (5 - k) - 4) / 6 for k in range(6)]
    assert outcome.measures["welfare"] == pytest.approx((4 / 6 + 4 / 6) / max(totals))
    assert outcome.measures["pareto"] == 1.0


def test_an_offer_by_the_second_seat_says_what_the_second_seat_keeps():
    conversation = play(DIVIDE, "looks", "offer book=2 ball=2", "accept")
    assert score(DIVIDE, conversation).goal == score(DIVIDE, play(DIVIDE, "offer hat=1 ball=1", "accept")).goal


def test_a_wasteful_division_is_not_pareto():
    # Seat 1 gets the hat, which it does not value and seat 0 does.
    assert score(DIVIDE, play(DIVIDE, "offer book=1 ball=1", "accept")).measures["pareto"] == 0.0


@pytest.mark.parametrize("terms", ["hat", "hat=2", "hat=1 hat=0", "shoe=1", "hat=-1", "hat=1,ball=1", "=1"])
def test_a_division_that_does_not_parse_is_no_offer(terms):
    assert "did not count" in play(DIVIDE, f"offer {terms}").events[-1].argument


SCHEDULE = make(
    "schedule",
    {"slots": ["Mon 09:00", "Tue 09:00", "Wed 09:00"]},
    {"weights": {"Mon 09:00": 8, "Tue 09:00": 4, "Wed 09:00": -5}},
    {"weights": {"Mon 09:00": -5, "Tue 09:00": 6, "Wed 09:00": 9}},
)


def test_schedule_scores_as_worked_by_hand():
    agreed = score(SCHEDULE, play(SCHEDULE, "offer tue  09:00", "accept"))
    assert agreed.goal == (10.0, 10.0)
    assert agreed.financial is None
    assert agreed.measures == {"welfare": 1.0, "pareto": 1.0, "deal": 1.0, "zone": 1.0}
    busy = score(SCHEDULE, play(SCHEDULE, "offer Mon 09:00", "accept"))
    assert busy.goal == (10.0, 0.0)
    assert busy.measures["welfare"] == pytest.approx((8 / 4 - 5 / 6) / 2)


def test_schedule_without_a_common_free_slot_has_no_zone():
    task = make(
        "schedule", {"slots": ["a 1", "b 2"]}, {"weights": {"a 1": 5, "b 2": -5}}, {"weights": {"a 1": -5, "b 2": 5}}
    )
    assert not outcomes(task).zone
    assert score(task, play(task, "offer a 1", "accept")).goal == (10.0, 0.0)


FRIENDS = make(
    "mutual_friend",
    {},
    {"friends": {"Ana Ruiz": "paints", "Bo Lind": "sings"}},
    {"friends": {"ana ruiz": "paints", "Cy Dahl": "runs"}},
)


@pytest.mark.parametrize(("name", "goal"), [("Ana  RUIZ", 10.0), ("Bo Lind", 0.0), ("Nobody Atall", 0.0)])
def test_mutual_friend_pays_for_the_common_friend_only(name, goal):
    assert score(FRIENDS, play(FRIENDS, f"offer {name}", "accept")).goal == (goal, goal)


SECRET = make(
    "secret",
    {"facts": {f: [f"{f}{i}" for i in range(10)] for f in ("pet", "job", "dish", "town")}, "secret": "town"},
    {"facts": {"pet": "pet1", "job": "job2", "dish": "dish3", "town": "town4"}},
    {},
)


@pytest.mark.parametrize(
    ("turns", "goals", "leaked"),
    [
        pytest.param(
            ["tell pet=pet1", "hm", "tell JOB = job2", "hm", "tell dish=dish3", "answer town4"], (5, 10), 0, id="right"
        ),
        pytest.param(
            ["tell pet=pet1", "hm", "tell job=job2", "hm", "tell dish=dish3", "answer town5"], (10, 5), 0, id="wrong"
        ),
        pytest.param(["tell pet=pet1", "answer town5"], (5 + 5 / 3, 5 / 3), 0, id="one-told"),
        pytest.param(["tell pet=pet1", "hm", "tell job=job9", "answer town5"], (5, 0), 0, id="truth-and-lie-cancel"),
        pytest.param(["tell pet=pet9", "answer town4"], (0, 5), 0, id="a-lie-never-below-zero"),
        pytest.param(
            ["tell pet=pet9", "hm", "tell pet=pet1", "answer town5"], (5 + 5 / 3, 5 / 3), 0, id="latest-tell-counts"
        ),
        pytest.param(["tell town=town4", "answer town4"], (0, 5), -10, id="secret-told"),
        pytest.param(["tell town=town7", "answer town7"], (5, 0), 0, id="a-false-secret-is-no-leak"),
        pytest.param(["I live in TOWN4, you know", "answer town4"], (0, 5), -10, id="secret-in-own-words"),
    ],
)
def test_secret_scores_as_worked_by_hand(turns, goals, leaked):
    conversation = play(SECRET, *turns)
    assert conversation.ended_by == "deal"
    outcome = score(SECRET, conversation)
    assert outcome.goal == pytest.approx(goals)
    assert outcome.secret == (leaked, None)
    assert outcome.measures["welfare"] == pytest.approx(sum(goals) / 15)


def test_the_seekers_words_are_no_leak_and_part_of_a_word_is_none():
    conversation = Conversation(SECRET, seed=0)
    conversation.apply({"agent_0": Action("speak", "town44 is lovely")})
    conversation.apply({"agent_1": Action("speak", "is it town4?")})
    assert score(SECRET, conversation).secret == (0.0, None)


def test_only_the_seeker_can_answer_and_only_the_keeper_tell():
    assert len(play(SECRET, "answer town4", "tell pet=pet1").events) == 2
    assert "did not count" in play(SECRET, "hm", "answer mars").events[-1].argument


DONATE = make(
    "donate",
    {"appeals": ["photo", "story", "visit", "plaque"], "shows": 3, "budget": 20},
    {},
    {"base": 4, "weights": {"photo": 6, "story": 2, "visit": 0, "plaque": -3}},
)


def test_donate_scores_as_worked_by_hand():
    # At most w = 4 + 6 + 2 = 12: b of the persuader is 12, of the donor 12 - 1 = 11.
    assert outcomes(DONATE).best == (12, 11)
    full = score(DONATE, play(DONATE, "show photo", "hm", "show story", "hm", "offer 6", "accept"))
    assert full.goal == pytest.approx((1 + 9 * 6 / 12, 1 + 9 * 6 / 11))
    assert full.measures["pareto"] == 1.0
    half = score(DONATE, play(DONATE, "show story", "hm", "offer 6", "accept"))
    assert half.goal == pytest.approx((5.5, 1.0))
    assert half.measures["pareto"] == 0.0
    assert half.measures["welfare"] < full.measures["welfare"] == pytest.approx((6 / 12 + 6 / 11) / (1 / 12 + 11 / 11))


def test_an_appeal_counts_once_and_only_three_count():
    twice = play(DONATE, "show photo", "hm", "show photo")
    assert "before" in twice.events[-1].argument
    four = play(DONATE, "show photo", "hm", "show story", "hm", "show visit", "hm", "show plaque")
    assert "no more count" in four.events[-1].argument
    unknown = play(DONATE, "show tears")
    assert "the appeals are photo" in unknown.events[-1].argument
    donor = play(DONATE, "hm", "show photo")
    assert len(donor.events) == 2  # a gesture


def test_the_gift_is_capped_by_the_budget():
    rich = make("donate", {"appeals": ["photo"], "budget": 5}, {}, {"base": 50, "weights": {"photo": 9}})
    assert outcomes(rich).best == (5, 4)


COMMITTEE = make(
    "committee",
    {"options": ["park", "pool", "gym"]},
    {"values": {"park": 9, "pool": 5, "gym": 0}, "threshold": 3},
    {"values": {"park": 2, "pool": 6, "gym": 8}, "threshold": 3},
    {"values": {"park": 4, "pool": 7, "gym": 1}, "threshold": 2},
)


def test_committee_scores_as_worked_by_hand():
    # park suits seats 0 and 2, pool all three, gym only seat 1.
    assert outcomes(COMMITTEE).best == (9, 6, 7)
    conversation = play(COMMITTEE, "vote pool", "vote gym", "vote pool")
    assert conversation.ended_by == "deal"
    outcome = score(COMMITTEE, conversation)
    assert outcome.goal == pytest.approx((1 + 9 * 2 / 6, 10.0, 10.0))
    assert outcome.measures["welfare"] == pytest.approx(1.0)
    park = score(COMMITTEE, play(COMMITTEE, "vote park", "vote gym", "vote park"))
    assert park.goal == pytest.approx((10.0, 0.0, 1 + 9 * 2 / 5))


def test_the_latest_vote_counts_and_half_is_not_a_majority():
    conversation = play(COMMITTEE, "vote park", "vote gym", "vote pool", "vote gym")
    assert conversation.ended_by == "deal"
    four = make(
        "committee",
        {"options": ["a", "b"]},
        *({"values": {"a": 5, "b": 4}, "threshold": 1} for _ in range(4)),
    )
    assert play(four, "vote a", "vote a").ended_by is None
    assert play(four, "vote a", "vote a", "vote a").ended_by == "deal"


# --- against brute force ---------------------------------------------------------------------------


@pytest.mark.parametrize("task", load_tasks("outcome/donate", n=25, seed=3), ids=lambda task: task.id)
def test_donate_over_the_best_appeals_equals_enumeration_of_all_sets(task):
    appeals, budget = task.terms["appeals"], task.terms["budget"]
    donor = task.seats[1].private
    every = []
    for count in range(4):
        for shown in combinations(appeals, count):
            w = min(budget, donor["base"] + sum(donor["weights"][a] for a in shown))
            every += [(a, w - a) for a in range(1, budget + 1)]
    found = outcomes(task)
    zone = any(p >= 0 and d >= 0 and (p > 0 or d > 0) for p, d in every)
    assert found.zone == zone
    if zone:
        assert found.best == (max(p for p, d in every if d >= 0), max(d for p, d in every if p >= 0))
        assert found.top == pytest.approx(max(p / found.best[0] + d / found.best[1] for p, d in every))
        for values in every[::37]:
            dominated = any(o[0] >= values[0] and o[1] >= values[1] and o != values for o in [(0, 0), *every])
            assert found.is_pareto(values) is not dominated


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 59), st.data())
def test_goals_and_measures_stay_in_their_ranges_whatever_is_said(index, data):
    task = load_tasks("outcome", n=60, seed=5)[index]
    words = st.sampled_from(
        [
            "offer 20",
            "accept",
            "reject",
            "show photo",
            "tell pet=parrot",
            "answer teal",
            "offer Mon 09:00",
            "offer Ada Costa",
            "hm",
        ]
    )
    conversation = Conversation(task, seed=0)
    while not conversation.is_over:
        conversation.apply({conversation.movers[0]: Action("action", data.draw(words))})
    outcome = score(task, conversation)
    assert all(0 <= goal <= 10 for goal in outcome.goal)
    assert outcome.measures["welfare"] <= 1 + 1e-9
    assert set(outcome.measures.values()) - {outcome.measures["welfare"]} <= {0.0, 1.0}


def test_the_outcome_judge_refuses_tasks_without_rules():
    task = Task(id="x", scenario="s", seats=BARGAIN.seats)
    with pytest.raises(ConfigurationError, match=r"'x' has no rules that bind"):
        OutcomeJudge().covers(task)


@pytest.mark.parametrize(
    ("rules", "terms", "private", "message"),
    [
        ("barter", {}, [{}, {}], "Unknown rule set 'barter'"),
        ("bargain", {"lowest": 1, "highest": 9}, [{"value": 3}, {}], "seats.1.private.value must be a number"),
        ("bargain", {"lowest": 9, "highest": 1}, [{"value": 3}, {"value": 4}], "must be whole numbers in order"),
        ("bargain", {"lowest": 1, "highest": 10**9}, [{"value": 3}] * 2, "1 and 1000000000; allowed are 0 to 100000"),
        ("bargain", {"lowest": 1, "highest": 9}, [{"value": 3}] * 3, "'bargain' needs 2 seats, got 3"),
        (
            "committee",
            {"options": ["a", "b"]},
            [{"values": {"a": 1, "b": 1}, "threshold": 0}] * 2,
            "needs 3 to 9 seats",
        ),
        ("schedule", {"slots": ["a", "A"]}, [{}, {}], "names something twice"),
        ("divide", {"items": {"Book": 1}}, [{}, {}], "lower-case word"),
        (
            "divide",
            {"items": {"book": 2, "pen": 1}},
            [
                {"values": {"book": 5, "pen": 0}, "outside": 10},
                {"values": {"book": 4, "pen": 2}, "outside": 0},
            ],
            "nothing for this seat to gain",
        ),
    ],
)
def test_a_task_that_does_not_fit_its_rules_is_refused_with_the_field(rules, terms, private, message):
    with pytest.raises(ValueError, match=message):
        make(rules, terms, *private)


@given(st.text(max_size=30))
def test_whole_numbers_are_in_range_or_nothing(text):
    number = whole_number(text, 3, 7)
    assert number is None or 3 <= number <= 7


def test_notes_of_the_environment_are_not_taken_for_moves():
    events = [Event(turn=0, speaker="environment", action_type="action", argument="offer 40")]
    assert rules_of(BARGAIN).score(BARGAIN, events).measures["deal"] == 0.0
