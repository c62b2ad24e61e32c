"""The audit of judges: what it says of judges whose bias is known, and what it refuses to say."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from sotopia_env import (
    ConfigurationError,
    Episode,
    EpisodeStore,
    MissingExtraError,
    Score,
    Verdict,
    load_tasks,
    rollout,
)
from sotopia_env.cli import app
from sotopia_env.dimensions import DIMENSIONS, get_dimensions
from sotopia_env.episodes import write_episodes
from sotopia_env.evaluation.audit import ALL_TRAINED, Audit, Comparison, Row, audit
from sotopia_env.evaluation.ratings import Rating
from sotopia_env.evaluation.statistics import Estimate, clustered, difference
from sotopia_env.loopback import LoopbackServer

BASE, TRAINED, PARTNER = "scripted/tough", "scripted/accept_acceptable", "scripted/fair"

Scorer = Callable[[float, Episode, str], float]
"""From the computed goal, the episode and the agent to a judge's goal."""


@cache
def played(n: int = 60) -> tuple[Episode, ...]:
    """Both policies in both seats against the same partner on the same tasks; two episodes of each and task."""
    tasks = [task for family in ("bargain", "divide") for task in load_tasks(f"outcome/{family}", n=n // 2, seed=5)]
    return tuple(
        episode
        for policy in (BASE, TRAINED)
        for cast in ([policy, PARTNER], [PARTNER, policy])
        for episode in rollout(tasks, cast, seed=1)
    )


def agreeable(episode: Episode) -> bool:
    """Somebody gives in and accepts."""
    return any(event.action_type == "action" and event.argument == "accept" for event in episode.events)


def clip(value: float) -> float:
    return max(0.0, min(10.0, value))


def flattering(goal: float, episode: Episode, agent: str) -> float:
    return clip(goal + 2 * agreeable(episode))


def judged(episodes: Iterable[Episode], scorer: Scorer, name: str = "mine", keep: bool = True) -> list[Episode]:
    """The episodes with verdicts of a judge on the goal; without `keep`, none of the outcome judge."""
    found = []
    for episode in episodes:
        goals = {agent: own["goal"].value for agent, own in episode.verdicts["outcome"].scores.items()}
        scores = {agent: {"goal": Score(value=scorer(goal, episode, agent))} for agent, goal in goals.items()}
        verdicts = {**(episode.verdicts if keep else {}), name: Verdict(judge=name, scores=scores)}
        found.append(episode.model_copy(update={"verdicts": verdicts}))
    return found


def row_of(found: Audit, policy: str = BASE, **where: str) -> Row:
    wanted = {"reference": "outcome", "scores": "judge", "dimension": "goal", **where, "policy": policy}
    (row,) = (row for row in found.rows if all(getattr(row, name) == value for name, value in wanted.items()))
    return row


def comparison_of(found: Audit, **where: str) -> Comparison:
    wanted = {"reference": "outcome", "scores": "judge", "dimension": "goal", "policy": TRAINED, **where}
    (one,) = (one for one in found.comparisons if all(getattr(one, name) == value for name, value in wanted.items()))
    return one


def goals_of(episodes: Iterable[Episode], policy: str, judge: str) -> dict[str, list[float]]:
    """Goals of a policy by task."""
    found: dict[str, list[float]] = {}
    for episode in episodes:
        for agent, name in episode.agents.items():
            if name == policy:
                found.setdefault(episode.task.id, []).append(episode.verdicts[judge].values(agent)["goal"])
    return found


# --- figures against scipy, krippendorff and by hand --------------------------------------------------


def test_the_figures_of_a_row_are_those_of_scipy_krippendorff_and_plain_means() -> None:
    draw = random.Random(0)
    episodes = judged(played(), lambda goal, *_: clip(round(0.6 * goal + 2 + draw.gauss(0, 1.5))))
    row = row_of(audit(episodes, "mine", base=BASE, trained=[TRAINED]))
    mine, outcome = (goals_of(episodes, BASE, judge) for judge in ("mine", "outcome"))
    x, y = (np.array([one for task in mine for one in of[task]]) for of in (mine, outcome))
    assert (row.judged.n, row.judged.tasks) == (120, 60)
    assert row.figures["bias"] == clustered(
        {task: [a - b for a, b in zip(mine[task], outcome[task], strict=True)] for task in sorted(mine)}
    )
    assert value(row, "mae") == pytest.approx(np.abs(x - y).mean())
    assert value(row, "within_one") == pytest.approx(np.mean(np.abs(x - y) <= 1))
    assert value(row, "pearson") == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
    assert value(row, "spearman") == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert value(row, "slope") == pytest.approx(scipy.stats.linregress(y, x).slope)
    whole = np.floor(np.stack([x, y]) + 0.5)
    assert value(row, "alpha") == pytest.approx(krippendorff.alpha(whole, level_of_measurement="interval"))
    assert value(row, "kappa") == pytest.approx((np.mean(whole[0] == whole[1]) - 1 / 11) / (1 - 1 / 11))
    for name, estimate in row.figures.items():
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.mean <= estimate.high, name


def value(row: Row, figure: str) -> float:
    found = row.figures[figure]
    assert found is not None
    return found.mean


def test_a_judge_that_is_right_has_no_bias_and_one_that_is_constant_no_correlation() -> None:
    found = audit(judged(played(), lambda goal, *_: goal), "mine")
    row = row_of(found)
    assert [
        value(row, name) for name in ("bias", "mae", "within_one", "slope", "alpha", "kappa", "pearson")
    ] == pytest.approx([0, 0, 1, 1, 1, 1, 1])
    constant = row_of(found, scores="constant")
    assert constant.judged.mean == 7
    assert [constant.figures[name] for name in ("pearson", "spearman")] == [None, None]
    slope = constant.figures["slope"]
    assert slope is not None
    assert slope.text() == "0.00 [0.00, 0.00]"
    assert value(constant, "bias") == pytest.approx(7 - row.referred.mean)


def test_the_constant_judge_stands_at_the_same_place_of_every_scale() -> None:
    episodes = []
    for episode in judged(played(), lambda goal, *_: goal):
        scores = {
            agent: {**own, "financial_and_material_benefits": Score(value=1)}
            for agent, own in episode.verdicts["mine"].scores.items()
        }
        episodes.append(
            episode.model_copy(update={"verdicts": {**episode.verdicts, "mine": Verdict(judge="mine", scores=scores)}})
        )
    found = audit(episodes, "mine")
    assert row_of(found, scores="constant", dimension="financial_and_material_benefits").judged.mean == 2
    assert [row.dimension for row in found.rows][:1] == ["goal"]


def test_the_shuffled_judge_deals_out_the_same_scores_at_random_by_its_seed() -> None:
    episodes = judged(played(), lambda goal, *_: round(goal))
    first, again, other = (audit(episodes, "mine", seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.record() == again.record()
    assert row_of(first, scores="shuffled") != row_of(other, scores="shuffled")
    assert row_of(first) == row_of(other)
    counts = {name: row_of(first, name).judged.n for name in (BASE, TRAINED, PARTNER)}
    means = [[row_of(first, name, scores=kind).judged.mean for name in counts] for kind in ("judge", "shuffled")]
    weights = list(counts.values())
    assert np.average(means[0], weights=weights) == pytest.approx(np.average(means[1], weights=weights))
    assert abs(value(row_of(first, scores="shuffled"), "pearson")) < 0.3 < value(row_of(first), "pearson")


# --- the question -------------------------------------------------------------------------------------


def test_a_judge_that_flatters_whoever_was_trained_is_found_out() -> None:
    def partial(goal: float, episode: Episode, agent: str) -> float:
        return clip(goal + (1.5 if episode.agents[agent] == TRAINED else 0.5))

    found = audit(judged(played(), partial), "mine", base=BASE, trained=[TRAINED])
    one = comparison_of(found)
    mine, outcome = (
        [goals_of(judged(played(), partial), policy, judge) for policy in (TRAINED, BASE)]
        for judge in ("mine", "outcome")
    )
    assert one.judged == difference(*mine)
    assert one.referred == difference(*outcome)
    assert one.bias.estimate.mean == pytest.approx(one.judged.estimate.mean - one.referred.estimate.mean)
    assert one.answer == "larger"
    assert one.bias.paired
    assert one.bias.estimate.tasks == 60
    assert one.matched is not None
    assert one.matched.low is not None
    assert one.matched.low > 0


def test_a_judge_that_knows_nothing_seems_to_underrate_the_better_policy_but_not_at_equal_outcome() -> None:
    worse, better = sorted(
        (BASE, TRAINED), key=lambda name: row_of(audit(judged(played(), flattering), "mine"), name).referred.mean
    )
    found = audit(judged(played(), lambda goal, *_: goal), "mine", base=worse, trained=[better])
    constant, shuffled = (comparison_of(found, policy=better, scores=kind) for kind in ("constant", "shuffled"))
    assert constant.bias.estimate.mean == pytest.approx(-constant.referred.estimate.mean)
    assert constant.answer == "smaller"
    assert constant.matched == Estimate(0.0, 0.0, 0.0, 240, 60)
    assert shuffled.matched is not None
    assert shuffled.matched.low is not None
    assert shuffled.matched.high is not None
    assert shuffled.matched.low < 0 < shuffled.matched.high
    right = comparison_of(found, policy=better)
    assert right.bias.estimate.mean == pytest.approx(0)
    assert right.answer == "not shown"


def test_the_difference_at_equal_outcome_is_a_weighted_mean_over_whole_points() -> None:
    """By hand: at 1 the trained one is 2 above (1 and 2 scores), at 5 it is 1 above (1 and 1); 9 is not shared."""
    scores = [(TRAINED, 1, 5.0), (BASE, 1, 3.0), (BASE, 1.4, 3.0), (TRAINED, 5, 6.0), (BASE, 4.6, 5.0), (BASE, 9, 9.0)]
    episodes = []
    for place, (policy, goal, given) in enumerate(scores):
        episode = played()[place]
        agents = dict(zip(episode.task.agents, (policy, PARTNER), strict=True))
        verdicts = {
            name: Verdict(judge=name, scores={"agent_0": {"goal": Score(value=of)}, "agent_1": {}})
            for name, of in (("outcome", goal), ("mine", given))
        }
        episodes.append(episode.model_copy(update={"agents": agents, "verdicts": verdicts}))
    one = comparison_of(audit(episodes, "mine", base=BASE, trained=[TRAINED], controls=False))
    weights = (1 * 2 / 3, 1 * 1 / 2)
    assert one.matched is not None
    assert one.matched.mean == pytest.approx((weights[0] * 2 + weights[1] * 1) / sum(weights))


def test_trained_policies_are_compared_each_and_together() -> None:
    found = audit(judged(played(), flattering), "mine", base=BASE, trained=[TRAINED, PARTNER], controls=False)
    assert [one.policy for one in found.comparisons] == [TRAINED, PARTNER, ALL_TRAINED]
    assert comparison_of(found, policy=ALL_TRAINED).bias.estimate.n == 60
    assert {row.policy for row in found.rows} == {BASE, TRAINED, PARTNER}


def test_policies_that_share_no_task_are_compared_as_independent_samples() -> None:
    episodes = [
        episode
        for episode in judged(played(), flattering)
        if (episode.task.family == "bargain") == (BASE in episode.agents.values())
    ]
    one = comparison_of(audit(episodes, "mine", base=BASE, trained=[TRAINED]))
    assert not one.bias.paired
    assert one.bias.estimate.tasks == 60


# --- how often it is right: 200 data sets, each of 30 tasks drawn from those that were played ----------

DATA_SETS = 200
TASKS = 30


def data_set(seed: int, scorer: Scorer) -> list[Episode]:
    """All episodes of tasks drawn with replacement, each draw as a task of its own, so that all that was played is
    the population and its means are the truth."""
    by_task: dict[str, list[Episode]] = {}
    for episode in played():
        by_task.setdefault(episode.task.id, []).append(episode)
    drawn = random.Random(seed).choices(sorted(by_task), k=TASKS)
    return [
        episode.model_copy(update={"id": f"{place}/{episode.id}", "task": task})
        for place, name in enumerate(drawn)
        for task in [by_task[name][0].task.model_copy(update={"id": f"{place}/{name}"})]
        for episode in judged(by_task[name], scorer)
    ]


def true_bias(scorer: Scorer, policy: str) -> float:
    episodes = judged(played(), scorer)
    mine, outcome = (goals_of(episodes, policy, judge) for judge in ("mine", "outcome"))
    return float(np.mean([np.mean(mine[task]) - np.mean(outcome[task]) for task in mine]))


@cache
def audits(scorer: Callable[[int], Scorer]) -> tuple[Audit, ...]:
    return tuple(
        audit(data_set(seed, scorer(seed)), "mine", base=BASE, trained=[TRAINED], controls=False)
        for seed in range(DATA_SETS)
    )


def share_held(estimates: Iterable[Estimate | None], truth: float) -> float:
    held = [
        one is not None and one.low is not None and one.high is not None and one.low <= truth <= one.high
        for one in estimates
    ]
    assert len(held) == DATA_SETS
    return float(np.mean(held))


def two_points(seed: int) -> Scorer:
    return flattering


def unbiased_noise(seed: int) -> Scorer:
    """As much too high as too low, and never out of range."""
    draw = random.Random(seed)

    def score(goal: float, episode: Episode, agent: str) -> float:
        room = min(2.5, goal, 10 - goal)
        return goal + draw.uniform(-room, room)

    return score


@pytest.mark.parametrize("policy", [BASE, TRAINED])
def test_the_interval_holds_the_realised_bias_of_a_judge_that_adds_2_to_every_agreeable_transcript(policy: str) -> None:
    truth = true_bias(flattering, policy)
    assert 0.2 < truth < 1.9  # less than 2: not every transcript is agreeable, and there is nothing above 10
    assert 0.91 <= share_held((row_of(one, policy).figures["bias"] for one in audits(two_points)), truth) <= 0.99


@pytest.mark.parametrize("policy", [BASE, TRAINED])
def test_the_interval_holds_0_for_a_noisy_judge_without_bias(policy: str) -> None:
    assert 0.91 <= share_held((row_of(one, policy).figures["bias"] for one in audits(unbiased_noise)), 0) <= 0.99


def test_the_interval_of_the_difference_in_differences_holds_it_too() -> None:
    truth = true_bias(flattering, TRAINED) - true_bias(flattering, BASE)
    assert abs(truth) > 0.1
    held = share_held((comparison_of(one).bias.estimate for one in audits(two_points)), truth)
    assert 0.91 <= held <= 0.99
    none = share_held((comparison_of(one).bias.estimate for one in audits(unbiased_noise)), 0)
    assert 0.91 <= none <= 0.99
    answers = [comparison_of(one).answer for one in audits(unbiased_noise)]
    assert answers.count("not shown") / DATA_SETS == pytest.approx(none)


# --- human ratings ------------------------------------------------------------------------------------


def rated(episodes: Iterable[Episode], shifts: dict[str, float], dimension: str = "goal") -> list[Rating]:
    """Every rater gives the policies the rounded outcome and a shift of its own."""
    return [
        Rating(episode.id, agent, rater, {dimension: clip(round(scores["goal"].value) + shift)})
        for episode in episodes
        for agent, scores in episode.verdicts["outcome"].scores.items()
        for rater, shift in shifts.items()
        if episode.agents[agent] != PARTNER
    ]


def test_human_ratings_are_a_reference_of_their_own_beside_the_outcome() -> None:
    episodes = judged(played(), lambda goal, *_: goal)
    found = audit(episodes, "mine", base=BASE, trained=[TRAINED], ratings=rated(episodes, {"anna": 1, "bert": 3}))
    bias = value(row_of(found, reference="human"), "bias")
    assert -2.2 < bias < -1.2  # two points above the outcome on average, as far as there is room
    assert value(row_of(found), "bias") == 0
    assert comparison_of(found, reference="human").bias.estimate.tasks == 60
    humans, with_judge = found.raters
    assert (humans.dimension, humans.judge, humans.raters) == ("goal", False, 2)
    assert (with_judge.judge, with_judge.raters) == (True, 3)
    assert humans.alpha is not None
    assert with_judge.alpha is not None
    assert with_judge.alpha.mean < humans.alpha.mean < 1


def test_the_agreement_of_raters_is_krippendorffs_and_randolphs_with_scores_missing() -> None:
    """By hand: three raters, of whom one left out an agent. Pairs that are equal: 3 of 3, 1 of 3, 0 of 1."""
    episodes = judged(played()[:3], lambda goal, *_: goal)
    given = [[7, 7, 7], [2, 2, 4], [9, 6, None]]
    ratings = [
        Rating(episode.id, "agent_0", f"rater-{place}", {"goal": float(score)})
        for episode, scores in zip(episodes, given, strict=True)
        for place, score in enumerate(scores)
        if score is not None
    ]
    (humans, _) = audit(episodes, "mine", ratings=ratings, controls=False).raters
    same = np.mean([3 / 3, 1 / 3, 0 / 1])
    assert humans.kappa.mean == pytest.approx((same - 1 / 11) / (1 - 1 / 11))
    assert humans.within_one.mean == pytest.approx(np.mean([1, 1 / 3, 0]))
    table = np.array(given, dtype=float).T
    assert humans.alpha is not None
    assert humans.alpha.mean == pytest.approx(krippendorff.alpha(table, level_of_measurement="interval"))


def test_tasks_without_computed_outcomes_are_audited_by_ratings_alone() -> None:
    tasks = load_tasks("everyday")[:6]
    episodes = rollout(tasks, ["scripted/fair", "scripted/tough"], judge=None, seed=1)
    scored = [
        episode.model_copy(
            update={
                "verdicts": {
                    "mine": Verdict(judge="mine", scores={a: {"believability": Score(value=8)} for a in episode.agents})
                }
            }
        )
        for episode in episodes
    ]
    ratings = [Rating(episode.id, "agent_0", "anna", {"believability": 4.0}) for episode in scored]
    found = audit(scored, "mine", ratings=ratings, controls=False)
    (row,) = found.rows
    assert (row.reference, row.policy, row.dimension, value(row, "bias")) == (
        "human",
        "scripted/fair",
        "believability",
        4,
    )
    assert found.raters[0].judge  # with one human the judge is the only other rater
    assert len(found.raters) == 1


# --- what there is to audit ---------------------------------------------------------------------------


def test_outcomes_that_are_not_stored_are_computed() -> None:
    kept, computed = (audit(judged(played(), flattering, keep=keep), "mine") for keep in (True, False))
    assert kept == computed


def test_what_gives_no_figure_is_counted_and_never_a_score() -> None:
    episodes = judged(played(), flattering)
    broken = episodes[0].model_copy(update={"id": "broken", "ended_by": None, "status": "failed", "error": "x"})
    silent = episodes[1].model_copy(update={"id": "silent", "verdicts": {}})
    found = audit([*episodes, broken, silent], "mine")
    assert found.counts == (len(episodes), 1, 1, 0)
    assert found.rows == audit(episodes, "mine").rows


def test_the_order_of_episodes_changes_nothing() -> None:
    episodes = judged(played(), flattering)
    shuffled = random.Random(3).sample(episodes, len(episodes))
    assert audit(episodes, "mine", base=BASE, trained=[TRAINED]) == audit(
        shuffled, "mine", base=BASE, trained=[TRAINED]
    )


def test_a_record_is_json_without_anything_that_is_no_number() -> None:
    episodes = judged(played(), flattering)
    record = audit(episodes, "mine", base=BASE, trained=[TRAINED], ratings=rated(episodes, {"anna": 1})).record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert {row["scores"] for row in record["rows"]} == {"judge", "constant", "shuffled"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"judge": "other"}, "None of 240 episodes has a verdict of judge 'other'", id="judge"),
        pytest.param({"episodes": []}, "There are no episodes to audit", id="no episodes"),
        pytest.param({"base": "scripted/touhg", "trained": [TRAINED]}, "Did you mean 'scripted/tough'", id="policy"),
        pytest.param({"base": BASE}, "no trained one", id="no trained"),
        pytest.param({"trained": [TRAINED]}, "no base one", id="no base"),
        pytest.param({"base": BASE, "trained": [BASE]}, "its own base", id="own base"),
        pytest.param({"base": BASE, "trained": TRAINED}, "must be a sequence", id="text"),
        pytest.param({"judge": "outcome"}, "is the reference itself", id="outcome"),
        pytest.param({"dimensions": get_dimensions(["secret"])}, r"scores nothing, but .* has nothing", id="dimension"),
        pytest.param(
            {"ratings": [Rating("gone", "agent_0", "anna", {"goal": 1.0})]}, "'gone' is not among", id="rating"
        ),
    ],
)
def test_an_audit_of_what_is_not_there_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    given = {"episodes": judged(played(), flattering), "judge": "mine", **arguments}
    with pytest.raises(ConfigurationError, match=message) as error:
        audit(given.pop("episodes"), given.pop("judge"), **given)
    assert "\n" not in str(error.value)


def test_without_its_libraries_an_audit_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    with pytest.raises(MissingExtraError, match=r"krippendorff.*sotopia-env\[eval\]"):
        audit(judged(played(), flattering), "mine")


# --- the command --------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>\x1b[31m"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["audit", *map(str, arguments), "-q"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "runs.db"
    with EpisodeStore(path) as opened:
        opened.add_all(judged(played(), flattering))
    return path


@pytest.fixture
def store(tmp_path: Path, filled: Path) -> Path:
    """Played episodes with verdicts of "mine" and of the outcome judge."""
    return Path(shutil.copy(filled, tmp_path))


def verdicts_in(path: Path, judge: str) -> int:
    with EpisodeStore(path) as opened:
        return sum(judge in episode.verdicts for episode in opened.episodes())


def test_the_command_audits_stored_verdicts_and_writes_its_files(
    run: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    options = ["--base", BASE, "--trained", TRAINED]
    text = run(store, *options, "--out", "audit.json", "--page", "audit.html").stdout
    assert "Is the judge's bias larger for trained policies than for the base? (outcome)" in text
    assert "constant" in text
    assert "shuffled" in text
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record == json.loads(run(store, *options, "--judge", "mine", "--json").stdout)
    known = audit(judged(played(), flattering), "mine", base=BASE, trained=[TRAINED])
    assert record == {**json.loads(json.dumps(known.record())), "labels": {}}
    page = (tmp_path / "audit.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in page
    assert f"{row_of(known).judged.mean:.2f}" in page


def test_the_command_has_the_judge_judge_only_what_it_has_not_judged(run: Callable[..., Any], store: Path) -> None:
    replies = json.dumps({d.name: {"reason": "because", "score": d.high} for d in DIMENSIONS})
    with LoopbackServer(replies) as server:
        options = [
            "--judge",
            "openai/some",
            "--base-url",
            server.base_url,
            "--base",
            BASE,
            "--trained",
            TRAINED,
            "--json",
        ]
        few = json.loads(run(store, *options, "--n", 5, "--plays", 1).stdout)
        asked = server.requests
        assert asked == 2 * few["counts"]["episodes"] == 2 * 5 * 2  # two seats; one play of each policy on each task
        again = json.loads(run(store, *options, "--n", 5, "--plays", 1).stdout)
        assert server.requests == asked
        assert again == few
        more = json.loads(run(store, *options, "--n", 5).stdout)
        assert more["counts"]["episodes"] == 5 * 4
        assert server.requests == 2 * 5 * 4
        stored = json.loads(run(store, *options, "--no-ask").stdout)
        assert stored["counts"]["episodes"] == 5 * 4
        assert stored["counts"]["unjudged"] == len(played()) - 5 * 4
        assert server.requests == 2 * 5 * 4
    assert {
        row["judged"]["mean"] for row in few["rows"] if row["dimension"] == "goal" and row["scores"] == "judge"
    } == {10}


def test_a_judge_that_never_answers_is_one_line_and_leaves_nothing(
    run: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    with LoopbackServer("I would rather not say.") as server:
        options = ["--judge", "openai/some", "--base-url", server.base_url, "--n", 3]
        result = run(store, *options, "--out", "audit.json", "--page", "audit.html", code=1)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "error: Judge 'openai/some' gave no verdict on any of 12 episodes; the first time: JudgeError"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs.db"]
    assert verdicts_in(store, "openai/some") == 0


def test_a_judge_that_answers_sometimes_is_audited_by_what_it_said_and_the_exit_code_says_so(
    run: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    (tmp_path / "moody_judge.py").write_text(
        "from sotopia_env import JudgeError, Score, Verdict\n"
        "class Moody:\n"
        "    name = 'moody'\n"
        "    def score(self, episode):\n"
        "        if int(episode.id[:2], 16) % 2:\n"
        "            raise JudgeError('not today')\n"
        "        return Verdict(judge='moody', scores={a: {'goal': Score(value=5)} for a in episode.agents})\n"
    )
    result = run(store, "--judge", "moody_judge:Moody", "--json", code=1)
    counts = json.loads(result.stdout)["counts"]
    assert counts["unjudged"] > 0
    assert counts["episodes"] + counts["unjudged"] == len(played())
    assert f"gave no verdict on {counts['unjudged']} of 240 episodes" in result.stderr
    assert verdicts_in(store, "moody") == counts["episodes"]


def test_a_file_of_episodes_can_be_audited_too(run: Callable[..., Any], tmp_path: Path) -> None:
    write_episodes(tmp_path / "episodes.jsonl", judged(played(), flattering))
    record = json.loads(run("episodes.jsonl", "--json").stdout)
    assert record["counts"]["episodes"] == len(played())
    few = json.loads(run("episodes.jsonl", "--n", 4, "--json").stdout)
    assert few["counts"]["episodes"] == 16


@pytest.mark.parametrize("labels", ["labels", "names"])
def test_the_folder_of_a_run_is_audited_in_one_command(
    run: Callable[..., Any], store: Path, tmp_path: Path, labels: str
) -> None:
    folder = tmp_path / "run"
    for name in ("episodes", "policies/base", "policies/bc"):
        (folder / name).mkdir(parents=True)
    store.rename(folder / "episodes" / "evaluation.db")
    policies = {"base": BASE, "bc": TRAINED, "expert": PARTNER, "sr": BASE}  # the filter kept nothing for SR
    (folder / "evaluation.json").write_text(json.dumps({"settings": {"policies": policies}}))
    chosen = [] if labels == "labels" else ["--base", BASE, "--trained", "scripted/accept_acc", "--policy", "expert"]
    record = json.loads(run(folder, *chosen, "--json").stdout)
    assert (record["base"], record["trained"]) == (BASE, [TRAINED])
    assert record["labels"] == {BASE: "base", TRAINED: "bc", PARTNER: "expert"}
    assert {row["policy"] for row in record["rows"]} == {BASE, TRAINED, PARTNER}
    text = run(folder, *chosen).stdout
    assert "Each policy minus base" in text
    assert "scripted/" not in text


def test_ratings_go_in_as_a_file_with_the_ids_that_are_shown(
    run: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    ratings = rated(judged(played(), flattering), {"anna": 1, "bert": 2})
    lines = [
        "episode,agent,rater,goal",
        *(f"{one.episode[:12]},{one.agent},{one.rater},{one.scores['goal']}" for one in ratings),
    ]
    (tmp_path / "ratings.csv").write_text("\n".join(lines) + "\n")
    record = json.loads(run(store, "--ratings", "ratings.csv", "--json").stdout)
    known = audit(judged(played(), flattering), "mine", ratings=ratings)
    assert record["raters"] == json.loads(json.dumps([one.record() for one in known.raters]))
    assert "Agreement of raters" in run(store, "--ratings", "ratings.csv", "--n", 10).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["none.db"], "There is no episode store 'none.db'", id="no store"),
        pytest.param(["empty.db"], "holds no episode that came to an end", id="empty store"),
        pytest.param(["folder"], "has no evaluation.json", id="no run"),
        pytest.param(["odd-run"], "is no evaluation of a run", id="odd run"),
        pytest.param(["runs.db", "--judge", "mnie"], "Verdicts are there of ['mine', 'outcome']", id="judge"),
        pytest.param(["runs.db", "--judge", "mnie", "--no-ask"], "Did you mean 'mine'", id="judge not asked"),
        pytest.param(["runs.db", "--judge", "none"], "gives no verdicts", id="none"),
        pytest.param(["runs.db", "--judge", "outcome"], "is the reference itself", id="outcome"),
        pytest.param(
            ["runs.db", "--base", "scripted/nobody", "--trained", TRAINED],
            "Unknown policy 'scripted/nobody'",
            id="base",
        ),
        pytest.param(["runs.db", "--base", BASE], "no trained one", id="no trained"),
        pytest.param(
            ["runs.db", "--ratings", "high.csv"], "high.csv, line 2: 'goal' must be in [0, 10], got 11.0", id="range"
        ),
        pytest.param(
            ["runs.db", "--ratings", "unknown.csv"], "unknown.csv, line 2: episode 'zzz' is not among", id="rating"
        ),
        pytest.param(["runs.db", "--ratings", "gone.csv"], "'gone.csv': No such file", id="no ratings"),
        pytest.param(["runs.db", "--out", "nowhere/audit.json"], "its folder must exist", id="output"),
        pytest.param(["runs.db", "--out", "runs.db"], "is a file of the source itself", id="output is source"),
    ],
)
def test_what_cannot_be_audited_is_one_line_on_stderr_and_no_file(
    run: Callable[..., Any], store: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    EpisodeStore(tmp_path / "empty.db").close()
    (tmp_path / "folder").mkdir()
    (tmp_path / "odd-run").mkdir()
    (tmp_path / "odd-run" / "evaluation.json").write_text('{"settings": []}')
    (tmp_path / "high.csv").write_text("episode,agent,rater,goal\nabc,agent_0,anna,11\n")
    (tmp_path / "unknown.csv").write_text("episode,agent,rater,goal\nzzz,agent_0,anna,7\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    more = [] if "--out" in arguments else ["--out", "audit.json", "--page", "audit.html"]
    result = run(*arguments, *more, code=1)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_which_judge_has_to_be_said_where_several_gave_verdicts(run: Callable[..., Any], store: Path) -> None:
    with EpisodeStore(store) as opened:
        opened.add_verdict(played()[0].key, judged(played()[:1], flattering, "second")[0].verdicts["second"])
    assert "Which judge?" in run(store, code=1).stderr


def test_tasks_without_outcomes_and_ratings_are_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    rollout(load_tasks("everyday")[:2], ["scripted/fair", "scripted/tough"], judge=None, store=tmp_path / "runs.db")
    assert "has a computed outcome, and no rating is of one" in run("runs.db", "--judge", "mine", code=1).stderr


def test_hostile_names_reach_neither_the_terminal_nor_the_page(run: Callable[..., Any], tmp_path: Path) -> None:
    episodes = [
        episode.model_copy(
            update={"id": "", "agents": {a: HOSTILE if name == TRAINED else name for a, name in episode.agents.items()}}
        )
        for episode in judged(played(), flattering, HOSTILE)
    ]
    write_episodes(tmp_path / "episodes.jsonl", [Episode.model_validate(one.model_dump()) for one in episodes])
    text = run("episodes.jsonl", "--base", BASE, "--trained", HOSTILE, "--page", "audit.html").stdout
    page = (tmp_path / "audit.html").read_text()
    assert "\x1b" not in text + page
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_who_has_no_verdict_or_reference_is_left_out_unless_named(run: Callable[..., Any], tmp_path: Path) -> None:
    episodes = [
        episode
        for name in ("scripted/soft", "scripted/tough")
        for episode in rollout(load_tasks("everyday")[:3], [name, "scripted/fair"], judge=None)
    ]
    verdict = Verdict(judge="mine", scores={agent: {"goal": Score(value=5)} for agent in ("agent_0", "agent_1")})
    given = [
        one.model_copy(update={"verdicts": {"mine": verdict} if one.agents["agent_0"] == "scripted/soft" else {}})
        for one in episodes
    ]
    write_episodes(tmp_path / "episodes.jsonl", given)
    rows = [f"{one.id},agent_0,anna,{4 + place % 3}" for place, one in enumerate(episodes)]  # of one seat only
    (tmp_path / "ratings.csv").write_text("\n".join(["episode,agent,rater,goal", *rows]) + "\n")
    command = ["episodes.jsonl", "--judge", "mine", "--no-ask", "--ratings", "ratings.csv"]
    record = json.loads(run(*command, "--json").stdout)
    assert record["counts"] == {"episodes": 3, "broken_off": 0, "unjudged": 3, "unreferred": 0}
    assert {row["policy"] for row in record["rows"]} == {"scripted/soft"}
    for name in ("scripted/fair", "scripted/tough"):
        (line,) = run(*command, "--policy", "scripted/soft", "--policy", name, code=1).stderr.splitlines()
        assert f"Policy {name!r} played, but no play of it has both a verdict of judge 'mine' and a reference" in line


def test_a_policy_of_a_run_without_a_verdict_is_left_out(run: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name in ("episodes", "policies/base", "policies/bc", "policies/sr"):
        (folder / name).mkdir(parents=True)
    other = "scripted/soft"
    unjudged = rollout(load_tasks("outcome/bargain", n=3), [other, PARTNER], judge="outcome")
    with EpisodeStore(folder / "episodes" / "evaluation.db") as opened:
        opened.add_all([*judged(played(), flattering), *unjudged])
    policies = {"base": BASE, "bc": TRAINED, "sr": other}
    (folder / "evaluation.json").write_text(json.dumps({"settings": {"policies": policies}}))
    record = json.loads(run(folder, "--no-ask", "--json").stdout)
    assert (record["base"], record["trained"]) == (BASE, [TRAINED])
    assert {row["policy"] for row in record["rows"]} == {BASE, TRAINED}
    named = run(folder, "--no-ask", "--base", "base", "--trained", "sr", code=1)
    assert f"Policy {other!r} played, but no play of it" in named.stderr


def test_episodes_that_stand_twice_count_once() -> None:
    episodes = judged(played(), flattering)
    assert audit([*episodes, *episodes], "mine").record() == audit(episodes, "mine").record()


def test_an_audit_needs_no_reward(run: Callable[..., Any], store: Path) -> None:
    name = "financial_and_material_benefits"
    with LoopbackServer(json.dumps({name: {"reason": "because", "score": 0}})) as server:
        asked = [store, "--judge", "openai/some", "--base-url", server.base_url, "--dimension", name, "--n", 3]
        assert "Unknown reward dimension 'goal'" in run(*asked, "--reward", "goal", code=1).stderr
        record = json.loads(run(*asked, "--json").stdout)
    assert {row["dimension"] for row in record["rows"]} == {name}


def test_numbers_are_finite_or_absent_in_the_smallest_audit() -> None:
    found = audit(judged(played()[:1], flattering), "mine")
    for row in found.rows:
        for estimate in (row.judged, row.referred, *row.figures.values()):
            assert estimate is None or math.isfinite(estimate.mean)
            assert estimate is None or estimate.low is None
