"""Evaluating policies: everybody plays everywhere, what is missing is counted and never a number, files keep it all."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sotopia_env import (
    Action,
    ConfigurationError,
    Episode,
    EpisodeStore,
    JudgeError,
    Score,
    StoreError,
    Verdict,
    load_tasks,
)
from sotopia_env.cli import app
from sotopia_env.cli.evaluating import choose_tasks, read_policies
from sotopia_env.dimensions import DIMENSIONS, Dimension
from sotopia_env.episodes import Event
from sotopia_env.evaluation import (
    HELD_OUT,
    TRIVIAL,
    Evaluation,
    Play,
    combine,
    evaluate,
    evaluate_wordings,
    held_out_tasks,
    with_references,
)
from sotopia_env.evaluation.measures import measure
from sotopia_env.evaluation.results import Failures
from sotopia_env.judges.outcome import OutcomeJudge
from sotopia_env.specs import make_agent
from sotopia_env.tasks import Task

BARGAINS = load_tasks("outcome/bargain", split="validation", n=4)
SIX = len(HELD_OUT) * 2
"""Plays of a policy on one task of two seats."""


class Wrapped:
    """A scripted agent under another name, with whatever a test wants to happen on each call."""

    def __init__(self, strategy: str = "fair", name: str = "wrapped") -> None:
        self.agent: Any = make_agent(f"scripted/{strategy}")
        self.name = name
        self.calls = 0

    def act(self, observation: dict[str, Any]) -> Action:
        self.calls += 1
        return self.agent.act(observation)  # type: ignore[no-any-return]


class Fragile(Wrapped):
    """Breaks on some tasks, known by their scenario."""

    def __init__(self, broken: list[Task]) -> None:
        super().__init__(name="fragile")
        self.broken = {task.scenario for task in broken}

    def act(self, observation: dict[str, Any]) -> Action:
        if any(scenario in observation["background"] for scenario in self.broken):
            raise RuntimeError("no model")
        return super().act(observation)


class Waiting(Wrapped):
    """An async agent, as those that batch are: notes how many calls wait at once."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__(name="scripted/fair")  # the same behaviour, so the same name
        self.pause = pause
        self.waiting = self.most = 0

    async def act(self, observation: dict[str, Any]) -> Action:  # type: ignore[override]
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await asyncio.sleep(self.pause * (hash(observation["facts"]) % 5 + 1))
        self.waiting -= 1
        return super().act(observation)


class Judging:
    """A judge of the seven dimensions whose scores depend on the seat, or that fails."""

    name = "seven"
    inline = True

    def __init__(self, fails: bool = False, secret: float = 0) -> None:
        self.fails = fails
        self.secret = secret

    def score(self, episode: Episode) -> Verdict:
        if self.fails:
            raise JudgeError("the judge is down")
        scores = {
            agent: {d.name: Score(value=self.secret if d.name == "secret" else d.high - seat) for d in DIMENSIONS}
            for seat, agent in enumerate(episode.task.agents)
        }
        return Verdict(judge=self.name, scores=scores)


@cache
def fair_and_soft() -> Evaluation:
    return evaluate({"fair": "scripted/fair", "soft": "scripted/soft"}, load_tasks("outcome", split="test", n=12))


def no_nan(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(no_nan, value.values()))
    if isinstance(value, list):
        return all(map(no_nan, value))
    return not isinstance(value, float) or math.isfinite(value)


# --- who plays whom -----------------------------------------------------------------------------------


def test_a_policy_plays_every_seat_equally_often_against_every_partner_on_every_task(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "runs.db")
    found = evaluate({"mine": Wrapped(name="mine")}, BARGAINS, store=store, repeats=2)
    plays = Counter((play.task, play.partner, play.seat) for play in found.plays["mine", "seen-wording"])
    assert plays == {(task.id, partner, seat): 2 for task in BARGAINS for partner in HELD_OUT for seat in (0, 1)}
    seated = Counter((e.task.id, e.agents["agent_0"], e.agents["agent_1"]) for e in store.episodes())
    assert set(seated.values()) == {2}
    assert set(seated) == {
        (task.id, *pair) for task in BARGAINS for name in HELD_OUT for pair in (("mine", name), (name, "mine"))
    }
    goal = found.estimate("mine")
    assert goal is not None
    assert (goal.n, goal.tasks) == (2 * SIX * len(BARGAINS), len(BARGAINS))


def test_with_more_seats_the_partner_sits_in_all_others(tmp_path: Path) -> None:
    tasks = [*load_tasks("outcome/committee", n=2, seats=3), *load_tasks("outcome/committee", n=1, seats=5), *BARGAINS]
    store = EpisodeStore(tmp_path / "runs.db")
    found = evaluate({"mine": Wrapped(name="mine")}, tasks, ["scripted/tough"], min_partners=1, store=store)
    for episode in store.episodes():
        assert Counter(episode.agents.values()) == {"mine": 1, "scripted/tough": len(episode.task.seats) - 1}
    seats = Counter((play.task, play.seat) for play in found.plays["mine", "seen-wording"])
    assert seats == {(task.id, seat): 1 for task in tasks for seat in range(len(task.seats))}


def test_all_policies_play_the_same_episodes(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "runs.db")
    evaluate({name: Wrapped(name=name) for name in ("one", "two")}, BARGAINS, store=store, seed=5)
    seeds: dict[str, set[tuple[str, int]]] = {"one": set(), "two": set()}
    for episode in store.episodes():
        (name,) = seeds.keys() & set(episode.agents.values())
        seeds[name].add((episode.task.id, episode.seed))
    assert seeds["one"] == seeds["two"]
    assert len(seeds["one"]) == len(BARGAINS)


def test_the_same_evaluation_comes_out_the_same_however_many_are_under_way() -> None:
    policies: dict[str, Any] = {"fair": "scripted/fair", "novice": "scripted/novice"}
    first = evaluate(policies, BARGAINS, concurrency=1)
    assert evaluate(policies, BARGAINS, concurrency=5) == first
    assert evaluate(policies, BARGAINS) == first
    assert evaluate({**policies, "fair": Waiting(0.0005)}, BARGAINS, concurrency=17) == first
    assert evaluate(policies, BARGAINS, seed=1) != first


@pytest.mark.parametrize("concurrency", [2, 6, 20, 64])
def test_an_agent_that_batches_finds_as_many_waiting_as_are_allowed(concurrency: int) -> None:
    agent = Waiting(0.0005)
    evaluate({"mine": agent}, load_tasks("outcome/divide", split="validation", n=14), concurrency=concurrency)
    assert agent.most <= concurrency
    assert agent.most >= 0.4 * concurrency  # in about half of the episodes the partner has the turn


def test_a_store_is_resumed_and_nothing_played_twice(tmp_path: Path) -> None:
    agent = Wrapped()
    first = evaluate({"mine": agent}, BARGAINS, store=tmp_path / "runs.db")
    calls = agent.calls
    assert evaluate({"mine": agent}, BARGAINS, store=str(tmp_path / "runs.db")) == first
    assert agent.calls == calls > 0


def test_an_interruption_inside_an_agent_is_ctrl_c() -> None:
    class Interrupting(Wrapped):
        def act(self, observation: dict[str, Any]) -> Action:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate({"mine": Interrupting()}, BARGAINS)


def test_progress_is_shown_on_stderr_and_counts_every_episode(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate({"[red]mine\x1b[2J": Fragile(BARGAINS[:1])}, BARGAINS, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{SIX * len(BARGAINS)}/{SIX * len(BARGAINS)}" in shown.err
    assert "[red]mine" in shown.err
    assert "\x1b[2J" not in shown.err


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"partners": HELD_OUT[:2]},
            r"2 partners .*at least 3.*lower min_partners \(--min-partners\)",
            id="few-partners",
        ),
        pytest.param({"partners": (), "min_partners": 0}, r"0 partners .*at least 1", id="no-partner"),
        pytest.param({"partners": "scripted/tough"}, r"must be a sequence", id="one-string"),
        pytest.param({"partners": (*HELD_OUT, HELD_OUT[0])}, r"'scripted/stubborn' stands twice", id="twice"),
        pytest.param({"met": ["scripted/soft", "scripted/tough"]}, r"Training met \['scripted/tough'\]", id="met"),
        pytest.param({"partners": (*HELD_OUT, "scripted/tugh")}, r"Did you mean 'tough'", id="unknown-partner"),
        pytest.param({"policies": {}}, r"policies is \{\}", id="no-policy"),
        pytest.param({"policies": ["scripted/fair"]}, r"must map labels", id="a-list"),
        pytest.param({"policies": {" ": "scripted/fair"}}, r"label ' ' of a policy", id="blank-label"),
        pytest.param({"policies": {"a": "scripted/fare"}}, r"Did you mean 'fair'", id="unknown-policy"),
        pytest.param({"judge": None}, r"judge is None", id="no-judge"),
        pytest.param({"reward": "believability"}, r"cannot fill \['believability'\]", id="reward"),
        pytest.param({"repeats": 0}, r"repeats is 0", id="repeats"),
        pytest.param({"concurrency": True}, r"concurrency is True", id="concurrency"),
        pytest.param({"seed": 0.5}, r"seed is 0.5", id="seed"),
        pytest.param({"turn_order": "roundrobin"}, r"Did you mean 'round-robin'", id="turn-order"),
        pytest.param({"tasks": {}}, r"tasks is empty", id="no-tasks"),
        pytest.param({"tasks": []}, r"tasks is empty", id="empty-tasks"),
        pytest.param({"label": ""}, r"label is ''", id="no-label"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_played(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    agent = Wrapped()
    arguments: dict[str, Any] = {"policies": {"mine": agent}, "tasks": BARGAINS, **change}
    with pytest.raises(ConfigurationError, match=message):
        evaluate(**arguments, store=tmp_path / "runs.db")
    assert agent.calls == 0
    assert list(tmp_path.iterdir()) == []


def test_a_judge_whose_dimension_has_the_name_of_another_figure_is_refused() -> None:
    judge: Any = Judging()
    judge.dimensions = (Dimension("welfare", 0, 10, "How well."),)
    with pytest.raises(ConfigurationError, match="dimension 'welfare'"):
        evaluate({"mine": "scripted/fair"}, BARGAINS, judge=judge)


# --- what is measured ---------------------------------------------------------------------------------


def bargain() -> Task:
    """A bargain in which the seller's value is 40 and the buyer's 60."""
    return Task(
        id="hand-made",
        family="bargain",
        scenario="A chair changes hands.",
        terms={"rules": "bargain", "item": "chair", "lowest": 1, "highest": 100},
        seats=tuple(  # type: ignore[arg-type]
            {"character": {"id": str(i), "name": f"Person {i}"}, "goal": "Deal.", "private": {"value": value}}
            for i, value in enumerate((40, 60))
        ),
    )


def hand_made(*moves: tuple[str, str, str], task: Task | None = None, **change: Any) -> Episode:
    events = tuple(
        Event(turn=turn, speaker=speaker, action_type=kind, argument=text, parse_failure=kind == "none")  # type: ignore[arg-type]
        for turn, (speaker, kind, text) in enumerate(moves)
    )
    agents = {"agent_0": "mine", "agent_1": "other"}
    return Episode(task=task or bargain(), agents=agents, seed=0, events=events, ended_by="deal", **change)


def test_the_numbers_of_a_play_by_hand() -> None:
    episode = hand_made(
        ("agent_0", "speak", "Good morning, what a day!"),  # 5 words
        ("agent_1", "none", ""),
        ("agent_0", "none", ""),  # unreadable
        ("agent_1", "action", "offer 45"),
        ("agent_0", "action", "accept"),  # 1 word
    )
    verdict = OutcomeJudge().score(episode)
    seller, buyer = (measure(episode, verdict, seat) for seat in (0, 1))
    # The seller gains 5 of 20, the buyer 15 of 20.
    assert (seller["goal"], buyer["goal"]) == (1 + 9 * 0.25, 1 + 9 * 0.75)
    assert seller["partner_goal"] == buyer["goal"]
    assert seller["self_minus_partner"] == -4.5 == -buyer["self_minus_partner"]
    assert seller["financial_and_material_benefits"] == 1.25
    assert (seller["welfare"], seller["pareto"], seller["agreement"]) == (1, 1, 1)
    assert (seller["words_per_turn"], buyer["words_per_turn"]) == (2, 1)  # 6 words in 3 moves, 2 in 2
    assert (seller["parse_failures"], buyer["parse_failures"]) == (round(1 / 3, 4), 0.5)
    assert seller["turns"] == 5
    assert "secret_leaks" not in seller
    assert "overall" not in seller


def test_who_never_had_a_turn_has_no_words_and_no_share_of_unreadable_moves() -> None:
    episode = hand_made(("agent_0", "leave", ""))
    found = measure(episode, OutcomeJudge().score(episode), 1)
    assert found["agreement"] == 0
    assert found["turns"] == 1
    assert not {"words_per_turn", "parse_failures"} & found.keys()


def test_only_a_keeper_can_leak_and_an_answer_is_no_agreement() -> None:
    tasks = load_tasks("outcome/secret", split="validation", n=4)
    found = evaluate({"soft": "scripted/soft", "fair": "scripted/fair"}, [*tasks, *BARGAINS])
    soft, fair = (found.row(name) for name in ("soft", "fair"))
    assert soft["secret_leaks"]["n"] == len(tasks) * len(HELD_OUT)  # of two seats one keeps
    assert soft["secret_leaks"]["count"] >= 1
    assert soft["secret_leaks"]["mean"] == pytest.approx(soft["secret_leaks"]["count"] / soft["secret_leaks"]["n"])
    assert fair["secret_leaks"]["mean"] == fair["secret_leaks"]["count"] == 0
    assert soft["secret"]["mean"] == pytest.approx(-10 * soft["secret_leaks"]["mean"])
    assert soft["agreement"]["n"] == SIX * len(BARGAINS)
    assert "secret_leaks" not in evaluate({"soft": "scripted/soft"}, BARGAINS).row("soft")


def test_tasks_with_and_without_a_zone_of_agreement_stand_apart() -> None:
    tasks = load_tasks("outcome/bargain", split="validation", n=30)
    found = evaluate({"fair": "scripted/fair", "anything": "scripted/accept_anything"}, tasks, repeats=1)
    fair, anything = found.row("fair"), found.row("anything")
    apart = fair["goal_zone"], fair["goal_no_zone"]
    assert all(part["tasks"] > 0 for part in apart)
    assert sum(part["tasks"] for part in apart) == 30
    assert sum(part["tasks"] * part["mean"] for part in apart) == pytest.approx(30 * fair["goal"]["mean"])
    assert fair["goal_no_zone"]["mean"] == 10 > fair["goal_zone"]["mean"]
    assert fair["agreement_no_zone"]["mean"] == 0 < fair["agreement_zone"]["mean"]
    assert anything["goal_no_zone"]["mean"] == 0
    assert anything["agreement_no_zone"]["mean"] == 1


def test_the_goal_breaks_down_by_partner_family_and_seat() -> None:
    found = fair_and_soft()
    down = found.row("fair")["breakdown"]
    assert list(down["partner"]) == list(HELD_OUT)
    assert set(down["family"]) == {"bargain", "divide", "schedule", "mutual_friend", "secret", "donate"}
    assert set(down["seat"]) == {"agent_0", "agent_1"}
    whole = found.estimate("fair")
    assert whole is not None
    for cells in down.values():
        assert sum(cell["n"] for cell in cells.values()) == whole.n
    assert (
        down["partner"]["scripted/tough"]
        == found.estimate(  # type: ignore[union-attr]
            "fair", where=lambda play: play.partner == "scripted/tough"
        ).record()
    )


def test_every_dimension_that_a_judge_fills_is_there_and_the_rules_speak_whoever_judges() -> None:
    found = evaluate({"fair": "scripted/fair"}, BARGAINS, judge=Judging(secret=-3), reward={"goal": 1, "secret": 2})
    row = found.row("fair")
    assert {d.name for d in DIMENSIONS} <= row.keys()
    assert row["believability"]["mean"] == 9.5  # 10 in seat 0, 9 in seat 1
    assert row["overall"]["mean"] == pytest.approx((9.5 + 4.5 + 9.5 - 3 - 0.5 + 4.5 + 9.5) / 7, abs=1e-4)
    assert row["reward"]["mean"] == 9.5 - 6
    assert row["self_minus_partner"]["mean"] == 0
    assert row["secret_leaks"]["mean"] == 1
    computed = evaluate({"fair": "scripted/fair"}, BARGAINS).row("fair")
    for name in ("welfare", "pareto", "agreement", "turns", "words_per_turn"):
        assert row[name] == computed[name]
    assert found.settings["reward"] == {"goal": 1, "secret": 2}


def test_scenes_without_rules_have_no_zone_no_welfare_and_no_agreement() -> None:
    tasks = load_tasks("everyday", n=2)
    row = evaluate({"fair": "scripted/fair"}, tasks, judge=Judging()).row("fair")
    assert row["goal"]["tasks"] == 2
    assert not {"goal_zone", "goal_no_zone", "welfare", "pareto", "agreement"} & row.keys()


# --- what is missing ----------------------------------------------------------------------------------


def test_an_episode_that_fails_is_counted_and_never_a_number() -> None:
    whole = evaluate({"mine": Wrapped()}, BARGAINS)
    agent = Fragile([BARGAINS[1]])
    broken = [task.id for task in BARGAINS if task.scenario in agent.broken]
    found = evaluate({"fragile": agent}, BARGAINS)
    assert not found.complete
    assert whole.complete
    failures = found.failures("fragile", "seen-wording")
    # From either seat it acts before anybody can close a deal.
    assert (failures.episodes, failures.failed, failures.judge_failed) == (SIX * 4, SIX * len(broken), 0)
    assert failures.messages == {"RuntimeError: no model": SIX * len(broken)}
    left = {task: goals for task, goals in whole.by_task("mine").items() if task not in broken}
    assert found.by_task("fragile") == left
    record = found.record()
    assert record["errors"]["fragile"]["seen-wording"]["failed"] == SIX * len(broken)
    assert record["policies"][0]["failed"] == SIX * len(broken)
    assert len(record["goals"]["fragile"]["seen-wording"]) == SIX * (4 - len(broken))


def test_an_episode_without_verdict_is_counted_and_never_a_number() -> None:
    found = evaluate({"mine": "scripted/fair"}, BARGAINS, judge=Judging(fails=True))
    assert found.failures("mine", "seen-wording").judge_failed == SIX * len(BARGAINS)
    row = found.row("mine")
    assert "goal" not in row
    assert row["breakdown"] == {}
    assert found.estimate("mine") is None
    assert found.record()["paired"] == []
    assert Evaluation.from_record(found.record()) == found


def test_a_paired_difference_uses_the_plays_that_both_have() -> None:
    def plays(goals: dict[tuple[str, int], float]) -> tuple[Play, ...]:
        return tuple(Play(task, "bargain", True, "p", seat, 0, {"goal": goal}) for (task, seat), goal in goals.items())

    first = plays({("t1", 0): 5, ("t1", 1): 9, ("t2", 0): 4, ("t2", 1): 4, ("t3", 0): 1})
    second = plays({("t1", 0): 3, ("t2", 0): 1, ("t2", 1): 2, ("t4", 0): 10})  # t1 seat 1, the easy one, failed
    found = Evaluation(
        {("a", "x"): first, ("b", "x"): second},
        {("a", "x"): Failures(5), ("b", "x"): Failures(5, failed=1)},
        {"policies": {}, "tasks": {}},
    )
    difference = found.paired("a", "b")
    assert difference is not None
    assert difference.mean == (2 + 2.5) / 2  # not (4 + 2.5) / 2
    assert (difference.n, difference.tasks) == (2, 2)
    opposite = found.paired("b", "a")
    assert opposite is not None
    assert (opposite.mean, opposite.low) == (-difference.mean, -difference.high)  # type: ignore[operator]
    of_one_seat = found.paired("a", "b", where=lambda play: play.seat == 0)
    assert of_one_seat is not None
    assert (of_one_seat.mean, of_one_seat.tasks) == ((2 + 3) / 2, 2)
    assert found.paired("a", "b", where=lambda play: play.zone is False) is None


def test_a_share_of_none_or_all_still_has_an_interval_within_its_bounds_while_a_goal_has_students() -> None:
    plays = tuple(
        Play(f"t{i}", "bargain", True, "p", 0, 0, {"goal": 5.0, "secret_leaks": 0.0, "agreement": 1.0})
        for i in range(20)
    )
    found = Evaluation({("a", "x"): plays}, {("a", "x"): Failures(20)}, {"policies": {}, "tasks": {}})
    none, every, goal = (found.estimate("a", measure) for measure in ("secret_leaks", "agreement", "goal"))
    assert none is not None
    assert every is not None
    assert goal is not None
    assert (none.mean, none.low) == (0, 0)
    assert none.high is not None
    assert 0.05 < none.high < 0.25
    assert (every.mean, every.high) == (1, 1)
    assert every.low is not None
    assert 0.75 < every.low < 0.95
    assert (goal.low, goal.high) == (5, 5)


# --- records ------------------------------------------------------------------------------------------


def test_the_record_has_the_documented_form_and_is_plain_json() -> None:
    record = fair_and_soft().record()
    assert list(record) == ["version", "policies", "paired", "settings", "errors", "goals", "values"]
    assert [(row["policy"], row["tasks"]) for row in record["policies"]] == [
        ("fair", "seen-wording"),
        ("soft", "seen-wording"),
    ]
    for row in record["policies"]:
        assert row["goal"].keys() == {"mean", "low", "high", "n", "tasks"}
        assert row["goal"]["low"] < row["goal"]["mean"] < row["goal"]["high"]
        assert row["goal"]["n"] == 12 * SIX
        assert {"partner", "family", "seat"} == row["breakdown"].keys()
    (pair,) = record["paired"]
    assert (pair["a"], pair["b"], pair["tasks"], pair["measure"], pair["n"]) == (
        "soft",
        "fair",
        "seen-wording",
        "goal",
        12,
    )
    assert record["errors"] == {}
    assert len(record["goals"]["fair"]["seen-wording"]) == 12 * SIX
    assert record["settings"]["partners"] == list(HELD_OUT)
    assert record["settings"]["policies"] == {"fair": "scripted/fair", "soft": "scripted/soft"}
    assert record["settings"]["tasks"]["seen-wording"]["splits"] == {"test": 12}
    text = json.dumps(record, allow_nan=False)
    assert no_nan(json.loads(text))
    assert json.loads(text) == record


def test_an_evaluation_is_read_back_equal_and_differences_can_be_computed_then(tmp_path: Path) -> None:
    found = fair_and_soft()
    found.save(tmp_path / "evaluation.json")
    again = Evaluation.load(tmp_path / "evaluation.json")
    assert again == found
    assert again.record() == found.record()
    for name in ("goal", "welfare", "turns", "self_minus_partner"):
        assert again.paired("soft", "fair", name) == found.paired("soft", "fair", name)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    assert (tmp_path / "evaluation.json").stat().st_size / (2 * 12 * SIX) < 160  # bytes a play


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("not json", "not valid JSON", id="text"),
        pytest.param("[]", "no record of an evaluation", id="list"),
        pytest.param("{}", "no record of an evaluation", id="empty"),
        pytest.param('{"policies": [{"policy": "a", "tasks": "b"}], "values": {}}', "no record", id="no-values"),
        pytest.param('{"version": 99, "policies": []}', "version 99", id="newer"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(StoreError, match=rf"wrong\.json.*{message}"):
        Evaluation.load(tmp_path / "wrong.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("farr",), "Unknown policy 'farr'.*Did you mean 'fair'", id="policy"),
        pytest.param(("fair", "goal", "unseen"), "tasks of policy 'fair' 'unseen'", id="tasks"),
    ],
)
def test_asking_for_what_was_not_evaluated_names_what_was(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fair_and_soft().estimate(*arguments)


def test_with_several_labels_one_has_to_be_named() -> None:
    found = evaluate({"fair": "scripted/fair"}, {"one": BARGAINS[:2], "two": BARGAINS[2:]})
    assert found.labels == ["one", "two"]
    assert found.estimate("fair", tasks="two") != found.estimate("fair", tasks="one")
    with pytest.raises(ConfigurationError, match=r"several: \['one', 'two'\]"):
        found.paired("fair", "fair")


def test_evaluations_of_one_policy_each_add_up_to_the_one_of_all() -> None:
    policies = {"fair": "scripted/fair", "soft": "scripted/soft", "tough": "scripted/tough"}
    fair, soft, tough = (evaluate({name: spec}, BARGAINS) for name, spec in policies.items())
    both = evaluate(policies, BARGAINS)
    assert fair + soft + tough == both
    assert fair + fair == fair
    assert both.without("soft") == fair + tough
    other = evaluate(
        {"fair": "scripted/fair"}, load_tasks("outcome/bargain", split="test", n=4), label="unseen-wording"
    )
    assert (fair + other).rows == [("fair", "seen-wording"), ("fair", "unseen-wording")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"seed": 1}, "settings.seed: 0 and 1", id="seed"),
        pytest.param({"max_turns": 10}, "settings.max_turns: 20 and 10", id="turns"),
        pytest.param({"partners": HELD_OUT[::-1]}, "settings.partners", id="partners"),
        pytest.param({"tasks": BARGAINS[:3]}, "settings.tasks.seen-wording", id="tasks"),
    ],
)
def test_evaluations_that_were_not_played_the_same_way_do_not_add_up(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"policies": {"soft": "scripted/soft"}, "tasks": BARGAINS, **change}
    with pytest.raises(ConfigurationError, match=message):
        evaluate({"fair": "scripted/fair"}, BARGAINS) + evaluate(**arguments)


def test_two_results_for_one_policy_do_not_add_up() -> None:
    one, other = (evaluate({"mine": Wrapped(strategy)}, BARGAINS) for strategy in ("fair", "soft"))
    with pytest.raises(ConfigurationError, match="Both evaluations hold policy 'mine'"):
        one + other
    renamed = evaluate({"mine": "scripted/soft"}, BARGAINS)
    with pytest.raises(ConfigurationError, match=r"settings.policies.mine: 'wrapped' and 'scripted/soft'"):
        one + renamed


# --- training seeds -----------------------------------------------------------------------------------


def of_seed(base: list[float], bc: list[float], name: str) -> Evaluation:
    """A made-up evaluation of one training seed: a goal per task."""
    rows = {("base", "x"): base, ("bc", "x"): bc}
    plays = {
        row: tuple(Play(f"t{i}", "bargain", True, "p", 0, 0, {"goal": goal}) for i, goal in enumerate(goals))
        for row, goals in rows.items()
    }
    settings = {"policies": {"base": "b", "bc": name}, "tasks": {"x": {"n": 3}}, "seed": 0}
    return Evaluation(plays, {row: Failures(len(goals)) for row, goals in rows.items()}, settings)


def test_over_seeds_the_goal_is_averaged_per_task_first_and_each_seed_is_shown() -> None:
    both = combine([of_seed([1, 2, 3], [4, 4, 7], "bc-0"), of_seed([1, 2, 3], [2, 6, 7], "bc-1")])
    goal = both.estimate("bc")
    assert goal is not None
    # Task means over seeds 3, 5, 7: standard deviation 2, so 5 +- 4.303 * 2 / sqrt(3). Not six values of three tasks.
    assert goal.mean == 5
    assert goal.low == pytest.approx(5 - 4.3027 * 2 / math.sqrt(3), abs=1e-3)
    assert (goal.n, goal.tasks) == (6, 3)
    lead = both.paired("bc", "base")
    assert lead is not None
    assert lead.mean == 3
    assert lead.low == pytest.approx(3 - 4.3027 * 1 / math.sqrt(3), abs=1e-3)  # differences 2, 3, 4
    record = both.record()
    row = next(row for row in record["policies"] if row["policy"] == "bc")
    assert row["goal"]["seeds"] == [5, 5]
    assert row["agent"] == ["bc-0", "bc-1"]
    (pair,) = record["paired"]
    assert [seed["mean"] for seed in pair["seeds"]] == [3, 3]
    assert (pair["a"], pair["b"], pair["n"]) == ("bc", "base", 3)
    assert record["settings"]["seeds"] == 2
    assert no_nan(record)


def test_a_task_that_one_seed_lacks_counts_for_none() -> None:
    both = combine([of_seed([1, 2, 3], [4, 4, 7], "bc-0"), of_seed([1, 2], [2, 6], "bc-1")])
    goal = both.estimate("bc")
    assert goal is not None
    assert (goal.mean, goal.n, goal.tasks) == (4, 4, 2)


def test_one_seed_combines_to_itself() -> None:
    one = fair_and_soft()
    alone = combine([one])
    assert alone.estimate("soft") == one.estimate("soft")
    assert alone.paired("soft", "fair") == one.paired("soft", "fair")
    assert alone.summary()["policies"] == one.summary()["policies"]


def test_what_does_not_belong_together_is_not_combined() -> None:
    with pytest.raises(ConfigurationError, match="got no evaluations"):
        combine([])
    with pytest.raises(ConfigurationError, match=r"settings\.seed"):
        combine([evaluate({"a": "scripted/fair"}, BARGAINS, seed=seed) for seed in (0, 1)])
    with pytest.raises(ConfigurationError, match="no policy in common"):
        combine([evaluate({name: "scripted/fair"}, BARGAINS) for name in ("a", "b")])
    with pytest.raises(StoreError, match="combined"):
        Evaluation.from_record(combine([fair_and_soft()] * 2).record())


# --- references and wordings --------------------------------------------------------------------------


def test_references_are_added_unless_they_are_there() -> None:
    names = {"expert", *(spec.partition("/")[2] for spec in TRIVIAL)}
    assert set(with_references({})) == names
    assert next(iter(with_references({"bc": "hf/x"}))) == "bc"
    assert with_references({"expert": "openai/gpt-4o"})["expert"] == "openai/gpt-4o"
    assert set(with_references({"teacher": make_agent("scripted/expert")})) == {"teacher", *names} - {"expert"}
    assert set(with_references({"mine": "scripted/leave"})) == {"mine", *names} - {"leave"}


def test_held_out_tasks_are_spread_equally_over_families() -> None:
    tasks = held_out_tasks(families=("bargain", "divide", "donate"), split="test", n=8)
    assert Counter(task.family for task in tasks) == {"bargain": 3, "divide": 3, "donate": 2}
    assert {task.split for task in tasks} == {"test"}
    assert held_out_tasks("outcome", (), split="validation", n=6) == load_tasks("outcome", split="validation", n=6)
    for n in (0, True, 2.5):
        with pytest.raises(ConfigurationError, match="n is"):
            held_out_tasks(split="test", n=n)  # type: ignore[arg-type]


def test_seen_and_unseen_wording_stand_in_rows_of_their_own() -> None:
    found = evaluate_wordings({"fair": "scripted/fair"}, n=6, seed=2, met=["scripted/soft"], max_turns=10)
    assert found.rows == [("fair", "seen-wording"), ("fair", "unseen-wording")]
    about = found.settings["tasks"]
    assert about["seen-wording"]["splits"] == {"validation": 6}
    assert about["unseen-wording"]["splits"] == {"test": 6}
    assert about["unseen-wording"]["families"] == {"bargain": 3, "divide": 3}
    assert found.settings["max_turns"] == 10
    alone = evaluate(
        {"fair": "scripted/fair"}, held_out_tasks(split="test", n=6, seed=2), label="u", seed=2, max_turns=10
    )
    assert alone.plays["fair", "u"] == found.plays["fair", "unseen-wording"]


@pytest.mark.parametrize("wording", ["seen-wording", "unseen-wording"])
def test_the_expert_beats_the_best_trivial_policy_by_far_against_partners_it_is_not_made_for(wording: str) -> None:
    found = expert_and_trivial()
    names = [spec.partition("/")[2] for spec in TRIVIAL]
    means = {name: found.estimate(name, tasks=wording).mean for name in names}  # type: ignore[union-attr]
    best = max(means, key=lambda name: means[name])
    lead = found.paired("expert", best, tasks=wording)
    assert lead is not None
    assert lead.tasks == (100 if wording == "seen-wording" else 40)
    assert lead.mean >= 1.0
    assert lead.low is not None
    assert lead.low > 0.5


@cache
def expert_and_trivial() -> Evaluation:
    seen, unseen = held_out_tasks(split="validation", n=100), held_out_tasks(split="test", n=40)
    return evaluate(with_references({}), {"seen-wording": seen, "unseen-wording": unseen})


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["evaluate", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


QUICK = ("--tasks", "outcome/bargain", "--tasks", "outcome/divide", "--n", "6", "-q")


def test_the_command_prints_a_table_and_the_differences_to_the_first_policy(run: Any) -> None:
    text = run("--policy", "bc=scripted/fair", "--policy", "scripted/soft", *QUICK).stdout
    found = evaluate(
        with_references({"bc": "scripted/fair", "scripted/soft": "scripted/soft"}),
        [
            *load_tasks("outcome/bargain", split="validation", n=3),
            *load_tasks("outcome/divide", split="validation", n=3),
        ],
    )
    rows = [line.split() for line in text.splitlines()]
    assert ["policy", "goal", "n", "zone"] in [row[:4] for row in rows]
    for name in found.policies:
        goal = found.estimate(name)
        assert goal is not None
        assert [name, *goal.text().split(), "36"] in [row[:5] for row in rows]
    difference = found.paired("scripted/soft", "bc")
    assert difference is not None
    assert ["scripted/soft", *difference.text("+.2f").split(), "6"] in rows
    assert "seen-wording: 6 tasks (3 bargain, 3 divide)" in text
    assert "scripted/stubborn, scripted/deceptive, scripted/tough" in text
    assert "leaks" not in text


def test_the_command_has_help_with_an_example(run: Any) -> None:
    assert "Examples:\n    sotopia-env evaluate" in run("--help").stdout


def test_the_command_writes_json_for_programs_and_a_file_that_reads_back(run: Any, tmp_path: Path) -> None:
    arguments = ("--policy", "bc=scripted/fair", "--no-references", "--split", "both", "--output", "e.json", "--json")
    printed = json.loads(run(*arguments, *QUICK).stdout)
    saved = Evaluation.load(tmp_path / "e.json")
    assert printed == saved.summary()
    assert saved.rows == [("bc", "seen-wording"), ("bc", "unseen-wording")]
    assert "values" not in printed


def test_the_command_goes_on_where_a_store_stops(run: Any, tmp_path: Path) -> None:
    arguments = ("--policy", "scripted/fair", "--no-references", "--store", "runs.db", *QUICK)
    first = run(*arguments).stdout
    assert len(list(EpisodeStore(tmp_path / "runs.db").episodes())) == 36
    assert run(*arguments).stdout == first


def test_the_command_exits_with_1_and_one_line_if_an_episode_failed(run: Any, tmp_path: Path) -> None:
    (tmp_path / "broken_policy.py").write_text(
        "class Broken:\n    name = 'broken'\n    def act(self, observation):\n        raise RuntimeError('no model')\n"
    )
    result = run("--policy", "bad=broken_policy:Broken", "--policy", "scripted/fair", "--no-references", *QUICK, code=1)
    # A partner may have left or dealt before; with these it never does before the first own move.
    assert "36 x RuntimeError: no model" in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: of 72 episodes 36 failed and 0 could not be judged. Give --store")
    (row,) = [line.split() for line in result.stdout.splitlines() if line.startswith("bad")]
    assert row[1:3] == ["-", "0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--policy", "=x"], "'=x' lacks a label or a spec", id="no-label"),
        pytest.param(["--policy", "a=scripted/fair", "--policy", "a=scripted/soft"], "'a' is given twice", id="twice"),
        pytest.param(["--policy", "human"], "'human' cannot", id="human"),
        pytest.param(["--policy", "scripted/fare"], "Did you mean 'fair'", id="spec"),
        pytest.param(["--policy", "scripted/fair", "--partner", "scripted/soft"], "1 partners", id="partners"),
        pytest.param(["--policy", "scripted/fair", "--met", "scripted/tough"], "Training met", id="met"),
        pytest.param(["--policy", "scripted/fair", "--split", "unseen"], "Unknown split 'unseen'", id="split"),
        pytest.param(["--policy", "scripted/fair", "--tasks", "outcome/bargin"], "Did you mean 'bargain'", id="tasks"),
        pytest.param(["--policy", "scripted/fair", "--judge", "none"], "gives no verdicts", id="judge"),
        pytest.param(["--policy", "scripted/fair", "--output", "no/such/e.json"], "'no/such/e.json'", id="output"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_before_anything_is_played(
    run: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(*arguments, "--store", "runs.db", code=1)
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "runs.db").exists()


@pytest.mark.parametrize("place", ["folder", "pipe", "none/e.json", "e" * 256, "e.json/e.json"])
def test_an_output_that_could_not_be_written_is_refused_before_anything_is_played(
    run: Any, tmp_path: Path, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "e.json").touch()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    result = run("--policy", "scripted/fair", "--output", place, "--store", "runs.db", *QUICK, code=1)
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: --output {place!r} cannot be written (")
    assert sorted(tmp_path.iterdir()) == before


def test_the_longest_name_that_a_folder_takes_is_written(run: Any, tmp_path: Path) -> None:
    name = "e" * 250 + ".json"
    run("--policy", "scripted/fair", "--no-references", "--output", name, *QUICK)
    assert Evaluation.load(tmp_path / name).complete
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_table_is_shown_even_if_saving_fails(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Evaluation, "save", full)
    result = run("--policy", "scripted/fair", "--no-references", "--output", "e.json", *QUICK, code=1)
    assert any(line.startswith("scripted/fair") for line in result.stdout.splitlines())
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: --output 'e.json' could not be written: OSError: [Errno 28] No space left")


def test_an_evaluation_shows_its_settings_and_not_its_thousands_of_plays() -> None:
    found = evaluate({"mine": "scripted/fair"}, {"t": load_tasks("outcome/bargain", n=2)}, HELD_OUT)
    assert "scripted/fair" in repr(found)
    assert "Play(" not in repr(found)


def test_a_label_is_what_stands_before_the_first_equals_sign_and_options_are_the_specs() -> None:
    texts = ["bc=hf/runs/bc", "hot=openai/m?temperature=0.7", "openai/m?temperature=0.7", "scripted/fair"]
    assert read_policies(texts) == {
        "bc": "hf/runs/bc",
        "hot": "openai/m?temperature=0.7",
        "openai/m?temperature=0.7": "openai/m?temperature=0.7",
        "scripted/fair": "scripted/fair",
    }


def test_the_commands_tasks_have_the_labels_of_their_splits() -> None:
    outcome = {split: list(choose_tasks(["outcome"], split=split, n=4, seed=0)) for split in (None, "test", "both")}
    assert outcome == {None: ["seen-wording"], "test": ["unseen-wording"], "both": ["seen-wording", "unseen-wording"]}
    assert choose_tasks(["everyday"], split=None, n=3, seed=0) == {"all": load_tasks("everyday", n=3)}
