"""Comparisons: paired by task, corrected by Holm, refused across protocols."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_env import ConfigurationError
from sotopia_env.evaluation.benchmark import Results, make_protocol, run_benchmark
from sotopia_env.evaluation.comparison import ALPHA, compare, holm
from sotopia_env.evaluation.results import Evaluation, Failures, Play


@pytest.fixture(scope="module")
def template():
    return run_benchmark({"x": "scripted/leave"}, make_protocol(["outcome"], tasks_per_section=1))


def made(template: Results, goals: dict[str, dict[str, list[float]]]) -> Results:
    """Results with these goals by policy and task."""
    plays, failed = {}, {}
    for policy, by_task in goals.items():
        plays[policy, "outcome"] = tuple(
            Play(task, "bargain", True, "p", 0, repeat, {"goal": value})
            for task, values in by_task.items()
            for repeat, value in enumerate(values)
        )
        failed[policy, "outcome"] = Failures(len(plays[policy, "outcome"]))
    settings = {**template.evaluations["outcome"].settings, "policies": dict.fromkeys(goals, "agent")}
    return replace(
        template,
        policies={policy: {"agent": "agent", "spec": "spec"} for policy in goals},
        evaluations={"outcome": Evaluation(plays, failed, settings)},
    )


def drawn(rng, tasks, shift=0.0):
    hardness = rng.normal(size=tasks)
    return {f"t{i}": list(5 + shift + hardness[i] + rng.normal(size=2)) for i in range(tasks)}


# --- Holm ---------------------------------------------------------------------------------------------


def test_holm_gives_the_textbook_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_never_lowers_a_p_value_keeps_their_order_and_lies_between_none_and_bonferroni(p_values):
    corrected = holm(p_values)
    for p, value in zip(p_values, corrected, strict=True):
        assert p <= value <= min(1.0, len(p_values) * p) + 1e-12
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p_values = rng.uniform(size=8) ** 3
        rejected = set()
        for rank, place in enumerate(np.argsort(p_values)):  # word for word as in the paper
            if p_values[place] > ALPHA / (8 - rank):
                break
            rejected.add(int(place))
        assert {i for i, p in enumerate(holm(list(p_values))) if p <= ALPHA} == rejected


def test_false_alarms_stay_below_5_percent_over_all_comparisons_of_an_experiment(template):
    rng = np.random.default_rng(1)
    alarms = uncorrected = 0
    times = 400
    for _ in range(times):
        hardness = rng.normal(size=20)
        goals = {f"p{i}": {f"t{t}": list(hardness[t] + rng.normal(size=2)) for t in range(20)} for i in range(6)}
        found = compare([made(template, goals)])
        alarms += any(one.differs for one in found)
        uncorrected += any(one.found.p < ALPHA for one in found)
    assert alarms / times < 0.08  # 5% and three standard errors
    assert uncorrected / times > 0.11  # which is why it is corrected


# --- what is compared -----------------------------------------------------------------------------------


def test_the_difference_is_of_task_means_on_the_plays_that_both_have(template):
    base = {"t1": [1.0, 3.0], "t2": [5.0], "t3": [2.0], "t4": [9.0]}
    other = {"t1": [4.0], "t2": [7.0], "t3": [3.5]}
    (one,) = compare([made(template, {"base": base}), made(template, {"other": other})])
    # Of t1 only the first repeat is in both; t4 is in one file only.
    assert one.found.estimate.mean == pytest.approx((3.0 + 2.0 + 1.5) / 3)
    assert one.found.estimate.tasks == 3
    assert one.found.paired
    assert (one.policy, one.baseline) == ("other", "base")


def test_pairing_finds_what_hard_and_easy_tasks_would_hide(template):
    rng = np.random.default_rng(2)
    hardness = rng.normal(0, 5, size=30)
    base = {f"t{i}": [float(hardness[i])] for i in range(30)}
    better = {f"t{i}": [float(hardness[i] + 0.5 + rng.normal(0, 0.2))] for i in range(30)}
    (one,) = compare([made(template, {"a": base, "b": better})])
    assert one.differs
    assert 0.4 < one.found.estimate.mean < 0.6


def test_equal_labels_are_told_apart_by_their_files(template):
    rng = np.random.default_rng(3)
    files = [made(template, {"mine": drawn(rng, 5)}), made(template, {"mine": drawn(rng, 5)})]
    (one,) = compare(files, names=["runs/a.json", "b.json"])
    assert (one.policy, one.baseline) == ("mine (b.json)", "mine (a.json)")


@given(
    st.lists(st.tuples(st.sampled_from(["a/", "b/", "", "/c/a/"]), st.sampled_from(["r.json", "s.json"])), min_size=2),
    st.data(),
)
@settings(max_examples=50)
def test_every_policy_is_one_row_whatever_the_files_are_called(template, names, data):
    names = list(dict.fromkeys(map("".join, names)))
    labels = [data.draw(st.lists(st.sampled_from("pqr"), min_size=1, max_size=3, unique=True)) for _ in names]
    goals = {"t1": [1.0], "t2": [3.0]}  # the same ones everywhere
    files = [made(template, dict.fromkeys(each, goals)) for each in labels]
    total = sum(map(len, labels))
    if total < 2:
        return
    found = compare(files, names=names)
    assert len(found) == total - 1
    assert len({one.policy for one in found} | {found[0].baseline}) == total


def test_files_of_one_name_in_two_folders_are_told_apart_by_their_paths(template):
    rng = np.random.default_rng(6)
    files = [made(template, {"fair": drawn(rng, 5), name: drawn(rng, 5)}) for name in "xy"]
    found = compare(files, names=["one/r.json", "two/r.json"])
    assert [one.policy for one in found] == ["x", "fair (two/r.json)", "y"]
    assert found[0].baseline == "fair (one/r.json)"
    with pytest.raises(ConfigurationError, match=r"called 'fair \(r\.json\)'\. Give every results file once"):
        compare([files[0], files[0]], names=["r.json", "r.json"])


def test_a_measure_that_is_named_twice_counts_once(template):
    rng = np.random.default_rng(7)
    files = [made(template, {name: drawn(rng, 6) for name in "abc"})]
    assert compare(files, measures=["goal", "goal"]) == compare(files)


def test_a_baseline_can_be_named_and_measures_count_as_comparisons(template):
    rng = np.random.default_rng(4)
    three = made(template, {name: drawn(rng, 6) for name in "abc"})
    found = compare([three], baseline="b")
    assert [(one.policy, one.baseline) for one in found] == [("a", "b"), ("c", "b")]
    with pytest.raises(ConfigurationError, match="Unknown baseline 'd'"):
        compare([three], baseline="d")
    with pytest.raises(ConfigurationError, match="Unknown measure 'goals'"):
        compare([three], measures=["goals"])


def test_policies_without_a_play_in_common_are_shown_and_not_tested(template):
    (one,) = compare([made(template, {"a": {"t1": [1.0]}, "b": {"t2": [2.0]}})])
    assert one.p_holm is None
    assert not one.differs


def test_one_task_gives_a_difference_and_no_test(template):
    (one,) = compare([made(template, {"a": {"t1": [1.0]}, "b": {"t1": [2.0]}})])
    assert one.found.estimate.mean == 1.0
    assert one.found.p is None
    assert one.p_holm is None


# --- what is refused --------------------------------------------------------------------------------------


def test_results_of_different_protocols_are_refused_with_what_differs(template):
    other = run_benchmark({"y": "scripted/leave"}, make_protocol(["outcome"], tasks_per_section=1, seed=3))
    with pytest.raises(ConfigurationError, match="are of different protocols") as caught:
        compare([template, other], names=["a.json", "b.json"])
    message = str(caught.value)
    assert "\n" not in message
    assert "'a.json' and 'b.json'" in message
    assert "(seed: 0 and 3)" in message


def test_judges_or_partners_served_by_other_models_are_refused(template):
    section = {**template.protocol["sections"]["outcome"], "judge": "openai/j"}
    protocol = {**template.protocol, "sections": {"outcome": section}}
    rng = np.random.default_rng(5)
    first = replace(made(template, {"a": drawn(rng, 4)}), protocol=protocol, served={"openai/j": ["j-may"]})
    second = replace(made(template, {"b": drawn(rng, 4)}), protocol=protocol, served={"openai/j": ["j-june"]})
    with pytest.raises(ConfigurationError, match=r"'openai/j', a judge or partner, was served as \['j-may'\]"):
        compare([first, second])
    # A policy may of course be another model.
    same = {"openai/j": ["j-may"]}
    compare([replace(first, served={**same, "openai/p": ["1"]}), replace(second, served={**same, "openai/p": ["2"]})])


def test_nothing_to_compare_is_refused(template):
    with pytest.raises(ConfigurationError, match="no results"):
        compare([])
    with pytest.raises(ConfigurationError, match="only one policy"):
        compare([template])
    with pytest.raises(ConfigurationError, match="measures is empty"):
        compare([template, template], measures=[])
