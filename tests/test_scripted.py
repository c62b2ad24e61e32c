"""Scripted strategies: pure functions of what they see, sensible everywhere, and an expert that is one."""

from __future__ import annotations

import copy
import pickle
import random
import statistics
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_env import Action, ConfigurationError, load_tasks
from sotopia_env.actions import ACTION_TYPES
from sotopia_env.agents.random_agent import RandomAgent
from sotopia_env.agents.reading import mentions, numbers, parse_facts, read
from sotopia_env.agents.scripted import STRATEGIES, ScriptedAgent, make
from sotopia_env.agents.voting import closes
from sotopia_env.conversation import TURN_ORDERS, Conversation
from sotopia_env.packs.outcome import FAMILIES
from sotopia_env.rules import Outcome, outcomes, plain_name, rules_of
from sotopia_env.spaces import action_space
from sotopia_env.specs import Agent, make_agent
from sotopia_env.tasks import Task

PARTNERS = ("fair", "tough", "soft", "stubborn", "deceptive")
TRIVIAL = ("leave", "accept_anything", "accept_acceptable", "extreme")
TWO_SEATS = tuple(family for family in FAMILIES if family != "committee")


def play(task: Task, agents: Sequence[Any], seed: int = 0, order: Any = "round-robin") -> Conversation:
    conversation = Conversation(task, seed=seed, turn_order=order)
    while not conversation.is_over:
        moves = {a: agents[int(a[6:])].act(conversation.view(a)) for a in conversation.movers}
        conversation.apply(moves)
    return conversation


def outcome(conversation: Conversation) -> Outcome:
    rules = rules_of(conversation.task)
    assert rules is not None
    return rules.score(conversation.task, conversation.events)


def family_tasks(family: str, n: int, seed: int = 0, split: str = "validation") -> list[Task]:
    return load_tasks(f"outcome/{family}", split=split, n=n, seed=seed)


def has_zone(task: Task) -> bool:
    return task.family == "secret" or outcomes(task).zone


def said(conversation: Conversation, agent: str) -> list[str]:
    return [e.argument for e in conversation.events if e.speaker == agent and e.action_type == "speak"]


# --- what an agent is -------------------------------------------------------------------------------


def test_the_strategies_are_the_documented_eleven() -> None:
    assert set(STRATEGIES) == {*PARTNERS, "expert", "novice", *TRIVIAL}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_an_inline_agent_named_by_its_spec(name: str) -> None:
    agent = make(name)
    assert isinstance(agent, Agent)
    assert agent.inline
    assert agent.name == STRATEGIES[name]().name == make_agent(f"scripted/{name}").name == f"scripted/{name}"


def test_an_unknown_strategy_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match=r"Unknown strategy 'fare'.*Did you mean 'fair'\?"):
        make("fare")


@pytest.mark.parametrize("agent", [*map(ScriptedAgent, STRATEGIES), RandomAgent()], ids=lambda agent: agent.name)
def test_an_agent_without_the_turn_does_nothing(agent: Any) -> None:
    for family in FAMILIES:
        conversation = Conversation(family_tasks(family, 1)[0], seed=1)
        assert agent.act(conversation.view("agent_1")) == Action("none")


@pytest.mark.parametrize("agent", [*map(ScriptedAgent, STRATEGIES), RandomAgent()], ids=lambda agent: agent.name)
def test_an_action_is_a_pure_function_of_the_observation(agent: Any) -> None:
    """A copy that has seen nothing answers as one that has played all along, and the observation stays as it was."""
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    for family in FAMILIES:
        task = family_tasks(family, 1, seed=3)[0]
        conversation = Conversation(task, seed=5)
        others = [make("fair")] * len(task.seats)
        while not conversation.is_over:
            moves = {}
            for mover in conversation.movers:
                view = conversation.view(mover)
                kept = copy.deepcopy(view)
                moves[mover] = agent.act(view) if mover == "agent_0" else others[int(mover[6:])].act(view)
                if mover == "agent_0":
                    parse_facts.cache_clear()
                    fresh: Any = pickle.loads(pickle.dumps(agent))
                    assert fresh.act(copy.deepcopy(kept)) == moves[mover]
                assert repr(view) == repr(kept)
            conversation.apply(moves)
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]


def test_facts_shared_between_calls_are_never_changed() -> None:
    for family in FAMILIES:
        task = family_tasks(family, 1)[0]
        conversation = play(task, [make("expert")] + [make("deceptive")] * (len(task.seats) - 1))
        for agent in task.agents:
            facts = conversation.view(agent)["facts"]
            assert parse_facts(facts) == parse_facts.__wrapped__(facts)


# --- sensible everywhere ------------------------------------------------------------------------------


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_command_of_a_strategy_counts(family: str, order: str) -> None:
    """No strategy ever sends a command that the environment has to note as not counting."""
    for task in family_tasks(family, 3, seed=8):
        for first in STRATEGIES:
            for second in ("expert", "deceptive", "accept_anything"):
                conversation = play(task, [make(first)] + [make(second)] * (len(task.seats) - 1), 4, order)
                notes = [e.argument for e in conversation.events if e.speaker == "environment"]
                assert not notes, (task.id, first, second, notes)


@pytest.mark.parametrize("seats", [5, 9])
def test_larger_committees_come_to_a_decision(seats: int) -> None:
    tasks = load_tasks("outcome/committee", split="validation", n=12, seats=seats)
    decided = [outcome(play(task, [make("expert")] * seats)).measures["deal"] for task in tasks]
    assert statistics.mean(decided) >= 0.8


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("order", TURN_ORDERS)
def test_everyday_scenes_get_small_talk_and_an_end(strategy: str, order: str) -> None:
    tasks = load_tasks("everyday")
    scenes = [*tasks[:3], *[task for task in tasks if len(task.seats) > 2][:2]]
    for task in scenes:
        conversation = play(task, [make(strategy), *[make("fair")] * (len(task.seats) - 1)], 2, order)
        own = [e for e in conversation.events if e.speaker == "agent_0"]
        assert len(own) <= 9
        if strategy == "leave":
            assert [e.action_type for e in own] == ["leave"]
        elif order != "random":  # where chance may give it few turns
            assert len({e.argument for e in own if e.action_type == "speak"}) >= 3
            assert conversation.ended_by == "departure" or conversation.turn == 20


def test_small_talk_differs_by_strategy_and_pursues_nothing() -> None:
    task = load_tasks("everyday")[0]
    lines = {s: said(play(task, [make(s), make("fair")]), "agent_0") for s in (*PARTNERS, "expert")}
    assert all(not set(lines[a]) & set(lines[b]) for a in lines for b in lines if a != b)
    private = " ".join(str(v) for seat in task.seats for v in seat.private.values())
    assert not any(line in private for texts in lines.values() for line in texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_wording_varies_with_the_seed(family: str) -> None:
    task = next(task for task in family_tasks(family, 8, seed=2) if has_zone(task))
    seats = len(task.seats)
    talks = {tuple(said(play(task, [make("fair")] * seats, seed), "agent_0")) for seed in range(12)}
    assert len(talks) >= 3


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
keywords = st.sampled_from(("offer ", "accept", "reject", "vote ", "tell ", "answer ", "show ", "OFFER 5", "offer a=1"))
arguments = words | st.builds(str.__add__, keywords, words)


@settings(max_examples=60)
@given(
    family=st.sampled_from(FAMILIES),
    strategy=st.sampled_from([*STRATEGIES]),
    moves=st.lists(st.tuples(st.sampled_from(ACTION_TYPES[:4]), arguments), max_size=12),
)
def test_no_text_of_a_partner_breaks_a_strategy(family: str, strategy: str, moves: list[tuple[str, str]]) -> None:
    task = family_tasks(family, 2, seed=6)[1]
    conversation = Conversation(task, seed=1, turn_order="simultaneous")
    space = action_space()
    for kind, text in moves:
        if conversation.is_over:
            break
        action = make(strategy).act(conversation.view("agent_0")) if "agent_0" in conversation.movers else None
        turn: dict[str, Any] = dict.fromkeys(conversation.movers, Action(kind, text))
        if action is not None:
            assert {"action_type": ACTION_TYPES.index(action.action_type), "argument": action.argument} in space
            turn["agent_0"] = action
        conversation.apply(turn)


# --- what others can read in their talk ---------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["fair", "soft", "expert"])
def test_open_strategies_tell_their_calendar_truly_and_readably(strategy: str) -> None:
    for task in family_tasks("schedule", 20):
        texts = said(play(task, [make(strategy), make("leave")]), "agent_0")
        heard = mentions(texts[0], tuple(task.terms["slots"]))  # type: ignore[arg-type]
        weights: Any = task.seats[0].private["weights"]
        assert heard
        assert all((weights[slot] > 0) == well for slot, well in heard)


def test_the_deceptive_one_misstates_what_matters_to_it() -> None:
    lies = 0
    for task in family_tasks("divide", 20):
        texts = said(play(task, [make("deceptive"), make("leave")]), "agent_0")
        values: Any = task.seats[0].private["values"]
        order = [item for item, _ in mentions(texts[0], tuple(values))]
        lies += values[order[0]] < values[order[-1]]
    assert lies >= 16


def test_only_the_deceptive_one_names_friends_it_does_not_have() -> None:
    for strategy in (*PARTNERS, "expert"):
        invented = 0
        for task in family_tasks("mutual_friend", 8):
            texts = " ".join(said(play(task, [make(strategy), make("accept_anything")]), "agent_0"))
            own: Any = task.seats[0].private["friends"]
            named = {f"{a} {b}" for a, b in zip(texts.split(), texts.split()[1:], strict=False)}
            names = {n.strip(".,?:") for n in named if n[0].isupper() and n.split()[1][0].isupper()}
            others = {n for n in names if not any(known in n or n in known for known in own)}
            firsts = {name.split()[0] for name in own}
            invented += any(n.split()[0] in firsts for n in others)
        assert (invented > 0) == (strategy == "deceptive")


def test_nobody_offers_a_friend_it_does_not_have() -> None:
    for strategy in (*PARTNERS, "expert"):
        for task in family_tasks("mutual_friend", 12, seed=1):
            conversation = play(task, [make(strategy), make("deceptive")])
            own = {plain_name(name) for name in task.seats[0].private["friends"]}  # type: ignore[union-attr]
            moves = [e.argument for e in conversation.events if e.speaker == "agent_0" and e.action_type == "action"]
            assert {plain_name(move[6:]) for move in moves if move.startswith("offer ")} <= own


def test_a_fair_keeper_tells_all_other_facts_truly_and_a_deceptive_one_does_not() -> None:
    for strategy, told in (("fair", 10.0), ("expert", 10.0), ("deceptive", 5.0)):
        goals = [outcome(play(task, [make(strategy), make("soft")])).goal[0] for task in family_tasks("secret", 20)]
        assert max(goals) == told


def test_only_the_soft_keeper_ever_says_its_secret() -> None:
    for strategy in (*PARTNERS, "expert"):
        slips = [
            outcome(play(task, [make(strategy), make("expert")], seed)).secret[0]
            for seed, task in enumerate(family_tasks("secret", 15))
        ]
        assert (min(s for s in slips if s is not None) < 0) == (strategy == "soft")


@pytest.mark.parametrize("word", ["myself", "open", "one", "about", "you", "record"])
def test_a_keeper_falls_silent_rather_than_say_a_secret_that_is_an_everyday_word(word: str) -> None:
    model = family_tasks("secret", 1)[0]
    facts = {"nickname": [word, "zzz"], "pet": ["gecko", "goat"]}
    task = Task(
        id="everyday-word",
        scenario="A game.",
        terms={"rules": "secret", "facts": facts, "secret": "nickname"},  # type: ignore[dict-item]
        seats=(
            model.seats[0].model_copy(update={"private": {"facts": {"nickname": word, "pet": "goat"}}}),
            model.seats[1],
        ),
    )
    for strategy in ("fair", "tough", "stubborn", "deceptive", "expert"):
        for seed in range(6):
            assert outcome(play(task, [make(strategy), make("tough")], seed)).secret[0] == 0


@pytest.mark.parametrize(("seats", "decides"), [(3, True), (4, False), (5, False)])
def test_a_vote_closes_if_it_makes_more_than_half_of_all_seats(seats: int, decides: bool) -> None:
    task = load_tasks("outcome/committee", split="validation", n=1, seats=seats)[0]
    option: Any = task.terms["options"][0]  # type: ignore[index,call-overload]
    conversation = Conversation(task, seed=0)
    conversation.apply({"agent_0": Action("action", f"vote {option}")})
    assert closes(read(conversation.view("agent_1")), option) is decides


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        pytest.param("Tue 14:00 suits me, then Mon 09:00.", {"Tue 14:00": True, "Mon 09:00": True}, id="good"),
        pytest.param("I can't do mon 09:00. Tue 14:00 is fine!", {"Mon 09:00": False, "Tue 14:00": True}, id="both"),
        pytest.param("Neither Mon 09:00 nor Tue 14:00.", {"Mon 09:00": False, "Tue 14:00": False}, id="neither"),
        pytest.param("Mon 09:001 or xTue 14:00", {}, id="inside-words"),
        pytest.param("", {}, id="silence"),
    ],
)
def test_talk_is_read_sentence_by_sentence(text: str, heard: dict[str, bool]) -> None:
    assert dict(mentions(text, ("Mon 09:00", "Tue 14:00"))) == heard


def test_numbers_are_read_with_the_word_before_them() -> None:
    text = "Each hat is worth 3 to me, balls 0; the book: 10. The lamp? 7"
    assert dict(numbers(text, ("hat", "ball", "book", "lamp", "pen"))) == {"hat": 3, "ball": 0, "book": 10}


def test_the_table_is_read_as_the_environment_keeps_it() -> None:
    for family in TWO_SEATS:
        task = next(task for task in family_tasks(family, 6, seed=4) if has_zone(task))
        conversation = Conversation(task, seed=1)
        while not conversation.is_over:
            view = conversation.view(conversation.movers[0])
            seen, real = read(view).table, conversation.table
            assert seen is not None
            assert real is not None
            assert (seen.offers, seen.shown, seen.told) == (real.offers, real.shown, real.told)
            conversation.apply({conversation.movers[0]: make("fair").act(view)})


# --- how good they are ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", TURN_ORDERS)
def test_the_expert_in_self_play_closes_nearly_every_deal_and_wastes_little(order: str) -> None:
    tasks = load_tasks("outcome", split="validation", n=120, seed=21)
    tasks += load_tasks("outcome/committee", split="validation", n=20, seed=21)
    agent = make("expert")
    found = [outcome(play(t, [agent] * len(t.seats), i, order)) for i, t in enumerate(tasks) if has_zone(t)]
    assert len(found) >= 120
    assert statistics.mean(o.measures["deal"] for o in found) >= 0.97
    assert statistics.mean(o.measures["welfare"] for o in found) >= 0.93


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_in_self_play_is_near_the_best_in_every_family(family: str) -> None:
    tasks = [task for task in family_tasks(family, 60, seed=22) if has_zone(task)]
    found = [outcome(play(task, [make("expert")] * len(task.seats), i)) for i, task in enumerate(tasks)]
    assert statistics.mean(o.measures["deal"] for o in found) >= 0.95
    assert statistics.mean(o.measures["welfare"] for o in found) >= 0.85


def test_the_expert_never_loses_where_no_agreement_is_possible() -> None:
    tasks = [t for t in load_tasks("outcome", split="validation", n=240, seed=23) if not has_zone(t)]
    assert len(tasks) >= 10
    for i, task in enumerate(tasks):
        for partner in (*PARTNERS, "accept_anything", "extreme"):
            for seat in (0, 1):
                agents = [make("expert"), make(partner)]
                assert outcome(play(task, agents if seat == 0 else agents[::-1], i)).goal[seat] == 10


@cache
def mean_goal(strategy: str, split: str = "validation", order: str = "round-robin") -> float:
    """Mean goal over two-seat tasks, all partners, and both seats."""
    goals = []
    for i, task in enumerate(load_tasks("outcome", split=split, n=24, seed=24)):
        for partner in PARTNERS:
            for seat in (0, 1):
                agents = [make(strategy), make(partner)]
                conversation = play(task, agents if seat == 0 else agents[::-1], 2 * i + seat, order)
                goals.append(outcome(conversation).goal[seat])
    return statistics.mean(goals)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_expert_beats_every_trivial_policy_clearly_against_the_same_partners(split: str) -> None:
    best = max(mean_goal(strategy, split) for strategy in TRIVIAL)
    assert mean_goal("expert", split) >= best + 2.0


@pytest.mark.parametrize("order", ["simultaneous", "random"])
def test_the_expert_beats_every_trivial_policy_in_the_other_turn_orders(order: str) -> None:
    best = max(mean_goal(strategy, order=order) for strategy in TRIVIAL)
    assert mean_goal("expert", order=order) >= best + 1.5


def test_the_expert_is_the_strongest_strategy() -> None:
    assert mean_goal("expert") >= max(mean_goal(partner) for partner in PARTNERS) + 0.2


@pytest.mark.parametrize("family", ["bargain", "divide"])
def test_the_expert_accepts_only_right_after_it_said_that_it_would_gain(family: str) -> None:
    accepted = 0
    for task in family_tasks(family, 12):
        for partner in PARTNERS:
            conversation = play(task, [make("expert"), make(partner)])
            mine = [e for e in conversation.events if e.speaker == "agent_0"]
            for before, move in pairwise(mine):
                if move.argument == "accept":
                    accepted += 1
                    assert before.argument.endswith("I would gain.")
            assert not mine or mine[0].argument != "accept"
    assert accepted > 10


@pytest.mark.parametrize("family", ["bargain", "divide"])
def test_what_the_expert_says_of_an_offer_is_true(family: str) -> None:
    verdicts = set()
    for task in family_tasks(family, 12):
        rules = rules_of(task)
        assert rules is not None
        values, none = rules.values(task)
        for partner in PARTNERS:
            standing: Any = None
            for event in play(task, [make("expert"), make(partner)]).events:
                if event.speaker == "agent_1" and event.argument.startswith("offer "):
                    standing = rules.parse(task, 1, event.argument.removeprefix("offer "))
                elif event.speaker == "agent_0" and event.argument.endswith(("I would gain.", "I would lose.")):
                    gains = values[standing][0] >= none[0]
                    assert event.argument.endswith("gain." if gains else "lose.")
                    verdicts.add((gains, event.argument.startswith("As I said")))
    assert verdicts == {(gains, again) for gains in (True, False) for again in (True, False)}


def test_soft_gives_more_than_fair_and_fair_more_than_tough() -> None:
    """The tempers are what their names say: how much of the price an expert gets out of them."""
    gains: dict[str, list[float]] = {name: [] for name in ("soft", "fair", "tough")}
    for i, task in enumerate(task for task in family_tasks("bargain", 30) if has_zone(task)):
        for name, goals in gains.items():
            goals.append(outcome(play(task, [make("expert"), make(name)], i)).goal[0])
    means = {name: statistics.mean(goals) for name, goals in gains.items()}
    assert means["soft"] > means["fair"] + 1 > means["tough"] + 2


# --- the trivial policies ---------------------------------------------------------------------------------


def bargain_turn(strategy: str, seat: int, command: str) -> Action:
    """What a strategy answers to the very first command of the other in a bargain between 43 and 72."""
    task = next(t for t in family_tasks("bargain", 20) if has_zone(t))
    conversation = Conversation(task, seed=0, turn_order="simultaneous")
    other = f"agent_{1 - seat}"
    conversation.apply({f"agent_{seat}": Action("speak", "Hello."), other: Action("action", command)})
    return make(strategy).act(conversation.view(f"agent_{seat}"))


def test_leave_leaves_at_once() -> None:
    for family in FAMILIES:
        conversation = play(family_tasks(family, 1)[0], [make("leave")] * 3)
        assert conversation.events[0].action_type == "leave"


def test_accept_anything_accepts_a_loss_and_accept_acceptable_does_not() -> None:
    assert bargain_turn("accept_anything", 1, "offer 120") == Action("action", "accept")
    assert bargain_turn("accept_acceptable", 1, "offer 120").action_type == "speak"
    assert bargain_turn("accept_acceptable", 1, "offer 1") == Action("action", "accept")


def test_extreme_names_its_best_and_never_accepts() -> None:
    assert bargain_turn("extreme", 0, "offer 120") == Action("action", "offer 120")
    for task in family_tasks("divide", 5):
        conversation = play(task, [make("extreme"), make("soft")])
        own = [e.argument for e in conversation.events if e.speaker == "agent_0" and e.action_type == "action"]
        everything = " ".join(f"{item}={count}" for item, count in task.terms["items"].items())  # type: ignore[union-attr]
        assert len(own) == 1
        pool: Any = task.seats[0].private["values"]
        kept = dict(part.split("=") for part in own[0][6:].split())
        full = dict(part.split("=") for part in everything.split())
        assert all(kept[item] == full[item] for item in full if pool[item] > 0)


# --- the novice -----------------------------------------------------------------------------------------------


@cache
def novice_games(family: str, order: str = "round-robin") -> list[Conversation]:
    """One novice against another who always haggles, in both seats."""
    games = []
    for seed, task in enumerate(family_tasks(family, 60, seed=31)):
        agents = [make("novice")] + [make("tough")] * (len(task.seats) - 1)
        games.append(play(task, agents if seed % 2 else agents[::-1], seed, order))
    return games


def novice_moves(family: str) -> list[Any]:
    games = novice_games(family)
    seats = [0 if seed % 2 else len(game.task.seats) - 1 for seed, game in enumerate(games)]
    return [e for game, seat in zip(games, seats, strict=True) for e in game.events if e.speaker == f"agent_{seat}"]


@pytest.mark.parametrize("order", TURN_ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_novices_among_themselves_only_make_commands_that_count(family: str, order: Any) -> None:
    agent = make("novice")
    for seed, task in enumerate(family_tasks(family, 25, seed=32)):
        game = play(task, [agent] * len(task.seats), seed, order)
        assert [e.argument for e in game.events if e.speaker == "environment"] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_novice_talks_and_acts_in_every_family_and_rarely_gestures_or_leaves(family: str) -> None:
    moves = novice_moves(family)
    share = {kind: sum(e.action_type == kind for e in moves) / len(moves) for kind in ACTION_TYPES}
    assert share["speak"] > 0.25
    assert share["action"] > (0.05 if family == "secret" else 0.3)  # a seeker answers once
    assert 0.01 < share["non-verbal communication"] < 0.08
    assert share["leave"] < 0.04
    assert share["none"] == 0
    assert all(e.turn > 4 for e in moves if e.action_type == "leave")
    assert len({e.argument for e in moves if e.action_type == "speak"}) >= 20


def test_a_novice_answers_a_standing_offer_about_one_move_in_five() -> None:
    moves = [e.argument for e in novice_moves("bargain")]
    accepts, rejects = moves.count("accept") / len(moves), moves.count("reject") / len(moves)
    assert 0.05 < accepts < 0.2
    assert 0.01 < rejects < 0.08


def test_a_novice_offers_over_the_whole_public_range_whatever_its_own_values_are() -> None:
    offers = {}
    for seat in (0, 1):
        prices = []
        for seed in range(400):
            conversation = Conversation(family_tasks("bargain", 1)[0], seed=seed, turn_order="simultaneous")
            conversation.apply(dict.fromkeys(conversation.movers, Action("speak", "Hello.")))
            move = make("novice").act(conversation.view(f"agent_{seat}"))
            prices += [int(move.argument[6:])] if move.argument.startswith("offer") else []
        offers[seat] = prices
        assert min(prices) <= 6
        assert max(prices) >= 115
        assert 50 < statistics.mean(prices) < 71  # the middle of 1 to 120
    assert statistics.mean(offers[0]) == pytest.approx(statistics.mean(offers[1]), abs=10)


def test_a_novice_has_no_skill() -> None:
    """Against haggling partners it does no better than the best policy that does not think."""
    assert mean_goal("novice") < mean_goal("fair") - 1
    assert mean_goal("novice") < max(mean_goal(strategy) for strategy in TRIVIAL) + 0.3


# --- random ---------------------------------------------------------------------------------------------


def test_random_acts_within_the_action_space_and_leaves_rarely() -> None:
    space, agent = action_space(), RandomAgent()
    kinds = []
    for seed in range(60):
        conversation = Conversation(load_tasks("everyday")[0], seed=seed)
        while not conversation.is_over:
            mover = conversation.movers[0]
            action = agent.act(conversation.view(mover))
            assert {"action_type": ACTION_TYPES.index(action.action_type), "argument": action.argument} in space
            kinds.append(action.action_type)
            conversation.apply({mover: action})
    assert set(kinds) == set(ACTION_TYPES)
    assert kinds.count("leave") / len(kinds) < 0.05
