"""Filters keep what their rule says, on examples worked by hand, and account for everything else."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotopia_env.dimensions import DIMENSION_NAMES
from sotopia_env.episodes import Episode, Event, Score, Verdict
from sotopia_env.errors import ConfigurationError
from sotopia_env.tasks import CharacterProfile, Seat, Task
from sotopia_env.trainers import filters
from sotopia_env.trainers.filters import (
    FILTERS,
    REASONS,
    Filtered,
    make_filter,
    paper_bc,
    paper_sr,
    released,
    require,
    threshold,
)


def task(name: str = "A", *, seats: int = 2, family: str = "") -> Task:
    cast = [CharacterProfile(id=f"c{seat}", name=f"Person {seat}") for seat in range(seats)]
    return Task(
        id=name, family=family, scenario="Two people meet.", seats=tuple(Seat(character=c, goal="Win.") for c in cast)
    )


TASKS = {name: task(name, family="easy" if name < "C" else "hard") for name in "ABCDEH"}


def episode(
    name: str,
    repeat: int,
    *goals: float | dict[str, float],
    judge: str = "judge",
    agents: tuple[str, ...] = ("learner", "learner"),
    **fields: object,
) -> Episode:
    """One episode; a seat's goal, or all its scores. Without goals it has no verdict."""
    of = TASKS[name]
    scores = [own if isinstance(own, dict) else {"goal": own} for own in goals]
    verdict = Verdict(
        judge=judge,
        scores={
            agent: {dimension: Score(value=value) for dimension, value in own.items()}
            for agent, own in zip(of.agents, scores, strict=bool(goals))
        },
    )
    return Episode(
        task=of,
        agents=dict(zip(of.agents, agents, strict=True)),
        seed=fields.pop("seed", 100 + repeat),
        repeat=repeat,
        verdicts={judge: verdict} if goals else {},
        **fields,
    )


def episodes(name: str, *seats: list[float], **fields: object) -> list[Episode]:
    """Repeats 0, 1, ... with the goals of each seat in turn."""
    return [episode(name, repeat, *goals, **fields) for repeat, goals in enumerate(zip(*seats, strict=True))]


def kept(filtered: Filtered, name: str = "A", agent: str = "agent_0") -> list[int]:
    """The repeats that were kept of one seat in one task."""
    return [t.episode.repeat for t in filtered.kept if t.episode.task.id == name and t.agent == agent]


def reasons(filtered: Filtered, name: str = "A", agent: str = "agent_0") -> dict[int, str]:
    return {
        one.trajectory.episode.repeat: one.reason
        for one in filtered.dropped
        if one.trajectory.episode.task.id == name and one.trajectory.agent == agent
    }


def seven(goal: float, believability: float = 0.0) -> dict[str, float]:
    return {**dict.fromkeys(DIMENSION_NAMES, 0.0), "goal": goal, "believability": believability}


# --- the paper's rule for behavior cloning ----------------------------------------------------------


def test_paper_bc_on_twenty_episodes_worked_by_hand():
    # Means:       A, agent_0: 54 / 10 = 5.4      A, agent_1: 55 / 10 = 5.5
    #              B, agent_0: 30 / 10 = 3.0      B, agent_1: 50 / 10 = 5.0
    # Global:         agent_0: 84 / 20 = 4.2         agent_1: 105 / 20 = 5.25
    # Bars:        A: 4.2 and 5.25                B: 3.0 and 5.0
    played = [
        *episodes("A", [9, 8, 7, 7, 6, 5, 5, 4, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        *episodes("B", [3] * 10, [10] * 5 + [0] * 5),
    ]
    result = paper_bc(played)
    # A by rank: 9/10 and 8/9 are the top two; 7/8, 7/7 and 6/6 exceed both bars; 5/5 fails on 5.25.
    assert kept(result, "A", "agent_0") == [0, 1, 2, 3, 4]
    assert kept(result, "A", "agent_1") == [5, 6, 7, 8, 9]
    assert reasons(result, "A", "agent_0") == {
        5: "other seat below mean",
        6: "other seat below mean",
        7: "below mean",
        8: "below mean",
        9: "below mean",
    }
    assert set(reasons(result, "A", "agent_1").values()) == {"below mean"}
    # B: 3 does not exceed 3, so the other seat's 10 of the same rank stays out with it.
    assert kept(result, "B", "agent_0") == [0, 1]
    assert kept(result, "B", "agent_1") == [0, 1]
    assert reasons(result, "B", "agent_0") == dict.fromkeys(range(2, 10), "below mean")
    assert reasons(result, "B", "agent_1") == {
        **dict.fromkeys((2, 3, 4), "other seat below mean"),
        **dict.fromkeys(range(5, 10), "below mean"),
    }
    assert result.rule == "paper-bc(keep=2, reward=goal)"
    assert not result.drop_none
    assert result.statistics["dropped"] == {"below mean": 21, "other seat below mean": 5}
    assert result.statistics["goal"]["before"] == 189 / 40
    # (9+8+7+7+6) + (6+7+8+9+10) + (3+3) + (10+10) over 14
    assert result.statistics["goal"]["after"] == 103 / 14


def test_paper_bc_takes_the_lower_of_local_and_global_mean():
    # H: local 12 / 4 = 3, E: local 10; global for either seat (12 + 40) / 8 = 6.5.
    hard, easy = [4, 4, 4, 0], [10, 10, 10, 10]
    result = paper_bc([*episodes("H", hard, hard), *episodes("E", easy, easy)])
    assert kept(result, "H") == [0, 1, 2]  # the third 4 exceeds 3; under the global mean it would be lost
    assert kept(result, "E") == [0, 1, 2, 3]  # 10 exceeds 6.5; it would not exceed its own mean


def test_paper_bc_keeps_a_group_of_two_or_fewer_whole_whatever_its_goals():
    result = paper_bc([*episodes("A", [0, 0], [0, 0]), *episodes("B", [0], [10])])
    assert len(result.kept) == 6
    assert result.dropped == ()


def test_paper_bc_with_keep_zero_keeps_only_what_exceeds_in_both_seats():
    result = paper_bc(episodes("A", [8, 2], [6, 4]), keep=0)
    assert kept(result, agent="agent_0") == [0]  # 8 > 5 and 6 > 5
    assert kept(result, agent="agent_1") == [0]


def test_paper_bc_ranks_each_seat_by_itself_so_a_pair_of_one_rank_may_come_from_two_episodes():
    result = paper_bc(episodes("A", [9, 5, 1], [1, 5, 9]), keep=1)
    assert kept(result, agent="agent_0") == [0]
    assert kept(result, agent="agent_1") == [2]


def test_paper_bc_never_keeps_a_rank_that_another_candidate_seat_does_not_have():
    played = episodes("A", [9, 9, 9, 0], [9, 9, 9, 0])
    swapped = [one.model_copy(update={"agents": {"agent_0": "learner", "agent_1": "weak"}}) for one in played[2:]]
    # agent_0: 9, 9, 9, 0 with mean 6.75; agent_1 has only its first two left.
    result = paper_bc([*played[:2], *swapped], learner="learner")
    assert kept(result, agent="agent_0") == [0, 1]
    assert reasons(result, agent="agent_0") == {2: "other seat below mean", 3: "below mean"}
    assert kept(result, agent="agent_1") == [0, 1]


def test_paper_bc_asks_no_seat_in_which_the_learner_never_sat():
    played = episodes("A", [9, 9, 9, 0], [0, 0, 0, 0], agents=("expert", "weak"))
    result = paper_bc(played, learner="expert")
    assert kept(result, agent="agent_0") == [0, 1, 2]
    assert reasons(result, agent="agent_1") == dict.fromkeys(range(4), "another agent")


def test_values_that_are_all_the_same_never_exceed_their_mean():
    # 0.1 + 0.1 + 0.1 is 0.30000000000000004 in floating point: a mean by summing would be off.
    for value in (0.1, 0.7, 1.1, 9.3):
        assert kept(paper_bc(episodes("A", [value] * 7, [value] * 7))) == [0, 1]


# --- the paper's rule for self-reinforcement ---------------------------------------------------------


def test_paper_sr_keeps_two_of_ten_in_every_seat():
    result = paper_sr(episodes("A", [5, 9, 1, 2, 8, 3, 4, 0, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert kept(result, agent="agent_0") == [1, 4]
    assert kept(result, agent="agent_1") == [8, 9]
    assert set(reasons(result).values()) == {"rank"}
    assert result.statistics["goal"] == {"before": 4.5, "after": 8.5}
    assert result.statistics["goal_histogram"]["before"] == [2] * 10
    assert result.statistics["goal_histogram"]["after"] == [0] * 8 + [2, 2]


def test_paper_sr_has_no_bar_so_that_hard_tasks_stay_in():
    result = paper_sr([*episodes("H", [1, 0], [0, 1]), *episodes("E", [10, 10], [10, 10])])
    assert kept(result, "H", "agent_0") == [0]
    assert kept(result, "H", "agent_1") == [1]


@pytest.mark.parametrize(
    ("n", "share", "count"),
    [
        (1, 0.2, 1),
        (4, 0.2, 1),
        (5, 0.2, 1),
        (6, 0.2, 2),
        (10, 0.2, 2),
        (11, 0.2, 3),
        (15, 0.2, 3),
        (100, 0.07, 7),
        (3, 1.0, 3),
        (7, 0.01, 1),
    ],
)
def test_paper_sr_rounds_the_share_up_and_keeps_at_least_one(n, share, count):
    goals = [value % 11 for value in range(n)]
    assert len(kept(paper_sr(episodes("A", goals, goals), share=share))) == count


def test_ties_go_by_overall_then_repeat_then_seed():
    by_overall = [
        episode("A", 0, seven(8, 1), seven(0)),
        episode("A", 1, seven(8, 9), seven(0)),
        episode("A", 2, seven(7, 10), seven(0)),
    ]
    assert kept(paper_sr(by_overall)) == [1]
    assert kept(released(by_overall)) == [1]
    by_repeat = episodes("A", [8, 8, 8], [0, 0, 0])
    assert kept(paper_sr(list(reversed(by_repeat)))) == [0]
    by_seed = [episode("A", 0, 8, 8, seed=seed) for seed in (7, 5, 6)]
    assert [one.episode.seed for one in paper_sr(by_seed).kept] == [5, 5]


def test_among_ties_a_trajectory_without_overall_comes_last():
    played = [episode("A", 0, 8, 8), episode("A", 1, seven(8), seven(8))]
    assert kept(paper_sr(played)) == [1]


def test_the_share_is_of_everything_scored_and_options_only_take_away():
    goals = [9, 8, 7, 6, 5, 0, 0, 0, 0, 0]
    result = paper_sr(episodes("A", goals, goals), share=0.4, drop_zero=True)
    assert kept(result) == [0, 1, 2, 3]  # 40% of the ten played, not of the five above zero
    assert result.statistics["dropped"] == {"zero goal": 10, "rank": 2}


# --- the released code's rule ----------------------------------------------------------------------


def test_released_keeps_the_single_best_of_each_seat_and_asks_to_drop_turns_of_none():
    result = released([*episodes("A", [3, 9, 9], [10, 2, 2]), *episodes("B", [0], [0])])
    assert kept(result, "A", "agent_0") == [1]
    assert kept(result, "A", "agent_1") == [0]
    assert kept(result, "B", "agent_0") == [0]
    assert result.drop_none
    assert result.record()["drop_none"] is True


# --- thresholds and what is ranked -----------------------------------------------------------------


def test_threshold_keeps_what_reaches_it():
    result = threshold(episodes("A", [6.9, 7, 7.1], [0, 7, 10]), at_least=7)
    assert kept(result, agent="agent_0") == [1, 2]
    assert kept(result, agent="agent_1") == [1, 2]
    assert result.statistics["dropped"] == {"below threshold": 2}


def test_any_dimension_weights_overall_or_a_function_can_be_ranked_by():
    low = {**seven(9), "secret": -8.0}
    high = {**seven(5), "secret": 0.0, "relationship": 5.0}
    played = [episode("A", 0, low, low), episode("A", 1, high, high)]
    assert kept(paper_sr(played)) == [0]
    assert kept(paper_sr(played, reward="secret")) == [1]
    assert kept(paper_sr(played, reward="overall")) == [1]  # (9 - 8) / 7 against (5 + 5) / 7
    assert kept(paper_sr(played, reward={"goal": 1.0, "secret": 0.25})) == [0]  # 9 - 2 against 5
    assert kept(paper_sr(played, reward={"goal": 1.0, "secret": 0.75})) == [1]  # 9 - 6 against 5
    by_function = paper_sr(played, reward=lambda scores: -scores["goal"])
    assert kept(by_function) == [1]
    assert by_function.statistics["reward"] == {
        "of": "test_any_dimension_weights_overall_or_a_function_can_be_ranked_by.<locals>.<lambda>",
        "before": -7.0,
        "after": -5.0,
    }
    assert by_function.statistics["goal"] == {"before": 7.0, "after": 5.0}
    assert paper_sr(played, reward={"goal": 1.0, "secret": 0.75}).rule.startswith(
        "paper-sr(share=0.2, reward=1 goal + 0.75 secret"
    )


def test_a_dimension_of_the_judges_own_can_be_ranked_by():
    assert kept(paper_sr([episode("A", r, {"charm": r}, {"charm": r}) for r in range(3)], reward="charm")) == [2]


def test_a_verdict_without_the_needed_dimension_is_no_score_and_no_zero():
    played = [episode("A", 0, {"goal": 5, "secret": -2}, {"goal": 5, "secret": -4}), *episodes("A", [1], [1], seed=9)]
    result = threshold(played, at_least=-10, reward="secret")
    assert [one.reason for one in result.dropped] == ["no score"] * 2
    assert result.statistics["reward"] == {"of": "secret", "before": -3.0, "after": -3.0}
    assert "left ['secret'] absent" in result.statistics["no_score"]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("gaol", "Unknown reward dimension 'gaol'.*Did you mean 'goal'"),
        ({}, "at least one"),
        ({"goal": math.nan}, "finite numbers"),
        ({"goal": "1"}, "finite numbers"),
        (3, "must be a dimension"),
    ],
)
def test_a_reward_that_cannot_be_used_is_refused(reward, message):
    with pytest.raises(ConfigurationError, match=message):
        paper_sr(episodes("A", [1], [1]), reward=reward)


# --- episodes without a score ------------------------------------------------------------------------


def test_failed_and_unjudged_episodes_enter_no_average_and_are_counted():
    good = episodes("A", [8, 6, 4, 2], [8, 6, 4, 2])
    bad = [
        episode("A", 4, status="failed", error="ModelError: down"),
        episode("A", 5, status="judge_failed", error="JudgeError: down", ended_by="silence"),
        episode("A", 6, ended_by="silence"),
        episode("A", 7, 10, 10, status="failed", error="ModelError: after the verdict"),
    ]
    result = paper_bc([*good, *bad])
    # The mean is 20 / 4 = 5. With zeros for the others it would be 20 / 7, and rank 3 would be kept.
    assert kept(result) == [0, 1]
    assert reasons(result) == {
        2: "below mean",
        3: "below mean",
        4: "failed",
        5: "judge failed",
        6: "unjudged",
        7: "failed",
    }
    assert result.statistics["scored"] == 8
    assert result.statistics["goal"]["before"] == 5
    assert result.kept == paper_bc(good).kept


def test_several_judges_without_a_choice_are_refused_and_a_choice_decides():
    first, second = episodes("A", [9, 1], [9, 1], judge="one"), episodes("A", [1, 9], [1, 9], judge="two")
    both = [a.model_copy(update={"verdicts": {**a.verdicts, **b.verdicts}}) for a, b in zip(first, second, strict=True)]
    with pytest.raises(ConfigurationError, match=r"2 judges: 'one', 'two'\. Choose one with judge="):
        paper_sr(both)
    assert kept(paper_sr(both, judge="one")) == [0]
    assert kept(paper_sr(both, judge="two")) == [1]
    with pytest.raises(ConfigurationError, match="Unknown judge in these episodes 'thre'"):
        paper_sr(both, judge="thre")
    mixed = [first[0], second[1]]
    assert reasons(paper_sr(mixed, judge="one")) == {1: "unjudged"}


def test_a_verdict_that_left_out_a_seat_is_no_score():
    whole = episode("A", 0, 5, 5)
    verdict = Verdict(judge="judge", scores={"agent_0": {"goal": Score(value=5)}})
    partial = episode("A", 1).model_copy(update={"verdicts": {"judge": verdict}})
    assert reasons(paper_sr([whole, partial])) == {1: "no score"}


def test_tasks_of_one_id_and_other_content_are_groups_of_their_own():
    other = Task.model_validate({**TASKS["A"].model_dump(), "scenario": "Two people part."})
    played = [episode("A", 0, 9, 9), Episode.model_validate({**episode("A", 1, 2, 2).model_dump(), "task": other})]
    assert kept(released(played)) == [0, 1]


# --- options ----------------------------------------------------------------------------------------


def test_drop_zero_leaves_out_zero_goals_and_the_averages_keep_them():
    result = paper_bc(episodes("A", [6, 0, 0], [6, 3, 0]), drop_zero=True)
    assert kept(result, agent="agent_0") == [0]
    assert kept(result, agent="agent_1") == [0, 1]
    assert result.statistics["dropped"] == {"zero goal": 3}
    assert result.statistics["goal"]["before"] == 2.5


def test_drop_zero_is_about_the_goal_whatever_is_ranked():
    keeper = {"goal": 4, "secret": 0.0}
    result = threshold([episode("A", 0, keeper, {"secret": 0.0})], at_least=0, reward="secret", drop_zero=True)
    assert len(result.kept) == 2


def test_drop_parse_failures_looks_at_the_agents_own_replies_and_the_next_moves_up():
    unread = (Event(turn=0, speaker="agent_0", action_type="none", parse_failure=True),)
    best = episode("A", 0, 9, 9, events=unread)
    played = [best, *episodes("A", [1, 2, 3, 4], [1, 2, 3, 4])[1:]]
    assert kept(paper_sr(played)) == [0]
    result = paper_sr(played, drop_parse_failures=True)
    assert kept(result, agent="agent_0") == [3]
    assert kept(result, agent="agent_1") == [0]
    assert reasons(result)[0] == "parse failure"


def test_drop_no_spread_leaves_out_groups_of_equals_and_of_one():
    played = [*episodes("A", [5, 5, 5], [1, 2, 3]), *episodes("B", [7], [7])]
    result = released(played, drop_no_spread=True)
    assert kept(result, "A", "agent_0") == []
    assert kept(result, "A", "agent_1") == [2]
    assert kept(result, "B") == []
    assert result.statistics["dropped"] == {"no spread": 5, "rank": 2}
    assert result.statistics["groups"] == {"count": 4, "without_spread": 3, "empty": 3}


def test_only_the_learners_seats_are_candidates_and_only_they_enter_averages():
    played = [
        episode("A", 0, 4, 10, agents=("policy", "partner/a")),
        episode("A", 1, 10, 5, agents=("partner/b", "policy")),
        episode("A", 2, 6, 6, agents=("policy", "policy")),
    ]
    result = paper_sr(played, share=1.0, learner="policy")
    assert kept(result, agent="agent_0") == [0, 2]
    assert kept(result, agent="agent_1") == [1, 2]
    assert result.statistics["dropped"] == {"another agent": 2}
    assert result.statistics["goal"]["before"] == 21 / 4
    both = paper_sr(played, share=1.0, learner={"partner/a", "partner/b"})
    assert kept(both, agent="agent_0") == [1]
    assert kept(both, agent="agent_1") == [0]
    assert "learner=partner/a or partner/b" in both.rule


def test_statistics_stand_by_family_and_by_agent():
    result = paper_sr([*episodes("A", [1, 3], [5, 7]), *episodes("C", [2], [4])])
    assert result.statistics["by_family"] == {
        "easy": {"scored": 4, "kept": 2, "goal": {"before": 4, "after": 5}},
        "hard": {"scored": 2, "kept": 2, "goal": {"before": 3, "after": 3}},
    }
    assert result.statistics["by_agent"]["agent_1"] == {
        "scored": 3,
        "kept": 2,
        "goal": {"before": 16 / 3, "after": 5.5},
    }


def test_more_than_two_seats_all_have_to_exceed():
    three = task("three", seats=3)
    goals = {"agent_0": [9, 8, 7, 0], "agent_1": [9, 8, 7, 0], "agent_2": [9, 8, 1, 6]}
    played = [
        Episode(
            task=three,
            agents=dict.fromkeys(three.agents, "learner"),
            seed=repeat,
            repeat=repeat,
            verdicts={
                "judge": Verdict(
                    judge="judge", scores={a: {"goal": Score(value=own[repeat])} for a, own in goals.items()}
                )
            },
        )
        for repeat in range(4)
    ]
    # Means are 6 for all; the third rank is 7, 7 and 6, which does not exceed 6.
    result = paper_bc(played)
    assert [kept(result, "three", agent) for agent in three.agents] == [[0, 1]] * 3


# --- arguments, names and empty results ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paper_bc([], keep=-1), "keep is -1, but must be a whole number of 0 or more"),
        (lambda: paper_bc([], keep=True), "keep is True"),
        (lambda: paper_sr([], share=0), "share is 0, but must be a finite number above 0 and at most 1"),
        (lambda: paper_sr([], share=1.01), "share is 1.01"),
        (lambda: paper_sr([], share="all"), "share is 'all'"),
        (lambda: threshold([], at_least=math.nan), "at_least is nan, but must be a finite number"),
        (lambda: released([], drop_zero="yes"), "drop_zero is 'yes', but must be true or false"),
        (lambda: released([], drop_zeros=True), "Unknown option of a filter 'drop_zeros'.*Did you mean 'drop_zero'"),
        (lambda: released([], learner=[]), r"learner is \[\], but must be an agent's name"),
        (lambda: released([], learner=7), "learner is 7"),
        (lambda: released([], judge=7), "judge is 7"),
        (lambda: released(["episode"]), "reads sotopia_env.Episode records; got 'episode'"),
        (lambda: released([episode("A", 0, 1, 1)] * 2), "is there 2 times"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_in_one_line(call, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_every_rule_can_be_made_by_name_and_takes_every_option(name):
    own = {"at_least": 5} if name == "threshold" else {}
    options = {"drop_zero": True, "drop_parse_failures": True, "drop_no_spread": True, "learner": "learner"}
    played = episodes("A", [6, 2, 0, 9], [6, 2, 0, 9])
    made = make_filter({"rule": name, "reward": {"goal": 1}, "judge": "judge", **own, **options})
    assert made(played) == FILTERS[name](played, reward={"goal": 1}, judge="judge", **own, **options)
    assert kept(made(played)) == [3] if name not in ("paper-bc", "threshold") else [0, 3]


def test_a_filter_is_written_as_a_name_or_with_a_query_or_as_a_mapping():
    played = episodes("A", [9, 8, 1, 0], [9, 8, 1, 0])
    assert make_filter("paper-sr")(played) == paper_sr(played)
    assert make_filter("paper-sr?share=0.5&drop_zero=true")(played) == paper_sr(played, share=0.5, drop_zero=True)
    assert make_filter("threshold?at_least=8&reward=goal")(played) == threshold(played, at_least=8)
    assert make_filter({"rule": "paper-bc", "keep": 1})(played) == paper_bc(played, keep=1)


def test_options_of_the_call_go_before_those_the_filter_was_made_with():
    played = episodes("A", [9, 0], [0, 9], agents=("policy", "partner"))
    assert kept(make_filter("released?learner=somebody")(played, learner="policy")) == [0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("papersr", "Unknown filter 'papersr'.*Did you mean 'paper-sr'"),
        ("paper-sr?shar=1", "Unknown option of filter 'paper-sr' 'shar'.*Did you mean 'share'"),
        ("released?keep=2", "Unknown option of filter 'released' 'keep'"),
        ("paper-sr?share=2", "share is 2, but must be"),
        ("threshold", "Filter 'threshold' needs 'at_least'"),
        ({"share": 0.2}, "names no rule"),
        ({"rule": 3}, "names no rule"),
        (3, "must be a name"),
    ],
)
def test_a_spec_that_cannot_be_used_is_refused_when_the_filter_is_made(spec, message):
    with pytest.raises(ConfigurationError, match=message):
        make_filter(spec)


def test_nothing_in_is_no_error_here_and_require_names_it():
    result = paper_sr([])
    assert result.kept == ()
    assert result.statistics["goal"] == {"before": None, "after": None}
    with pytest.raises(ConfigurationError, match="was given no episodes"):
        require(result)


def test_require_says_in_one_line_why_everything_was_dropped():
    played = [episode("A", 0, status="failed"), episode("A", 1), episode("A", 2), *episodes("B", [3], [3])]
    with pytest.raises(ConfigurationError) as caught:
        require(threshold(played, at_least=7))
    assert str(caught.value) == (
        "Filter threshold(at_least=7, reward=goal) kept none of 8 trajectories: "
        "4 unjudged (there is no verdict of the judge that counts), "
        "2 below threshold (its value is below the threshold), "
        "2 failed (an agent or the engine failed, and the episode broke off). "
        "Judge them first (`sotopia-env judge`)."
    )
    result = paper_sr(played)
    assert require(result) is result


def test_the_remedy_is_for_what_the_learner_lost_by_not_for_the_parts_of_others():
    played = episodes("A", [3, 3], [3, 3], agents=("learner", "other"))
    with pytest.raises(ConfigurationError, match=r"2 another agent .*, 2 below threshold .*Lower the threshold\.$"):
        require(threshold(played, at_least=7, learner="learner"))
    with pytest.raises(ConfigurationError, match=r"4 another agent .*Name a learner that played in these episodes\.$"):
        require(threshold(played, at_least=7, learner="nobody"))


def test_require_shows_the_first_error_behind_a_missing_score():
    with pytest.raises(
        ConfigurationError, match=r"left \['secret'\] absent.*needs\. Choose a reward that this judge scores"
    ):
        require(released(episodes("A", [1], [1]), reward={"secret": 1}))


# --- properties ----------------------------------------------------------------------------------------

OUTCOMES = st.one_of(
    st.tuples(st.integers(0, 10), st.sampled_from([0, 2.5, 7, 7.0, 10])),
    st.sampled_from(["failed", "judge_failed", "unjudged"]),
)


@st.composite
def plays(draw):
    """Episodes of up to three tasks, with ties, failures, parse failures and partners."""
    found = []
    for name in draw(st.sets(st.sampled_from("ABC"), min_size=1)):
        for repeat, outcome in enumerate(draw(st.lists(OUTCOMES, max_size=8))):
            agents = draw(st.sampled_from([("learner", "learner"), ("learner", "other"), ("other", "learner")]))
            unread = draw(st.sampled_from([(), (), ("agent_0",), ("agent_1",)]))
            events = tuple(Event(turn=0, speaker=a, action_type="none", parse_failure=True) for a in unread)
            goals = outcome if isinstance(outcome, tuple) else ()
            status = outcome if outcome in ("failed", "judge_failed") else "complete"
            found.append(episode(name, repeat, *goals, agents=agents, events=events, status=status))
    return found


RULES = st.builds(
    lambda rule, options: make_filter({**rule, **options}),
    st.sampled_from(
        [
            {"rule": "paper-bc"},
            {"rule": "paper-bc", "keep": 0},
            {"rule": "paper-sr"},
            {"rule": "paper-sr", "share": 0.5},
            {"rule": "released"},
            {"rule": "threshold", "at_least": 5},
        ]
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "drop_zero": st.booleans(),
            "drop_parse_failures": st.booleans(),
            "drop_no_spread": st.booleans(),
            "learner": st.sampled_from(["learner", "nobody"]),
        },
    ),
)


def keys(trajectories):
    return [(one.episode.id, one.agent) for one in trajectories]


@given(plays(), RULES)
def test_kept_and_dropped_together_are_everything_once_and_every_count_agrees(played, rule):
    result = rule(played)
    everything = Counter((one.id, agent) for one in played for agent in one.task.agents)
    assert Counter(keys(result.kept) + keys(one.trajectory for one in result.dropped)) == everything
    statistics = result.statistics
    assert statistics["trajectories"] == len(everything)
    assert statistics["dropped"] == Counter(one.reason for one in result.dropped)
    assert statistics["dropped"].keys() <= REASONS.keys()
    assert statistics["kept"] == len(result.kept) == sum(part["kept"] for part in statistics["by_family"].values())
    assert statistics["scored"] == sum(statistics["goal_histogram"]["before"])
    assert statistics["kept"] == sum(statistics["goal_histogram"]["after"])
    assert json.loads(json.dumps(result.record(), allow_nan=False)) == result.record()


@given(plays(), RULES, st.randoms())
def test_the_order_of_episodes_changes_nothing(played, rule, random):
    shuffled = random.sample(played, len(played))
    assert rule(shuffled) == rule(played)
    assert rule(iter(shuffled)) == rule(played)


@given(plays(), RULES)
def test_episodes_without_a_score_change_neither_what_is_kept_nor_an_average(played, rule):
    scored = [one for one in played if one.status == "complete" and one.verdicts]
    with_all, without = rule(played), rule(scored)
    assert with_all.kept == without.kept
    for name in ("reward", "goal", "goal_histogram", "groups", "by_family", "by_agent", "scored"):
        assert with_all.statistics[name] == without.statistics[name]


@given(plays(), RULES)
def test_nothing_kept_ranks_below_something_that_was_dropped_for_its_rank_in_the_same_group(played, rule):
    def goal(trajectory):
        return trajectory.episode.verdicts["judge"].values(trajectory.agent)["goal"]

    result = rule(played)
    by_value = {"rank", "below mean", "other seat below mean", "below threshold"}
    for one in result.dropped:
        if one.reason in by_value:
            group = (one.trajectory.episode.task.id, one.trajectory.agent)
            rivals = [t for t in result.kept if (t.episode.task.id, t.agent) == group]
            assert all(goal(rival) >= goal(one.trajectory) for rival in rivals)


def test_every_public_name_is_there():
    assert all(hasattr(filters, name) for name in filters.__all__)
