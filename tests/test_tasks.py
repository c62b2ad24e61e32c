"""Loading tasks: the generated pack, the written packs, and files of one's own with all their mistakes."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sotopia_env
from sotopia_env import ConfigurationError, TaskFormatError, TaskNotFoundError, load_tasks
from sotopia_env.packs.outcome import FAMILIES, TWO_SEAT_FAMILIES, make_task
from sotopia_env.packs.wordings import WORDINGS
from sotopia_env.rules import outcomes
from sotopia_env.tasks import SPLITS, Task, read_tasks, resolve_tasks, write_tasks

FILE_EXAMPLE = {
    "id": "mine/one",
    "scenario": "A kitchen at noon.",
    "seats": [
        {"character": {"id": "ada", "name": "Ada Lund"}, "goal": "Tea."},
        {"character": {"id": "ben", "name": "Ben Lund"}, "goal": "Coffee."},
    ],
}


def record(**changes) -> dict:
    return {**json.loads(json.dumps(FILE_EXAMPLE)), **changes}


def seats(**changes) -> dict:
    """The example with changes to its first seat."""
    made = record()
    made["seats"][0].update(changes)
    return made


# --- the generated pack -----------------------------------------------------------------------------------


@given(
    st.sampled_from([None, *FAMILIES]),
    st.sampled_from(SPLITS),
    st.integers(0, 999),
    st.integers(0, 12),
    st.integers(0, 12),
)
@settings(max_examples=40)
def test_a_longer_list_begins_with_the_shorter_one(family, split, seed, n, more):
    pack = f"outcome/{family}" if family else "outcome"
    longer = load_tasks(pack, split=split, n=n + more, seed=seed)
    assert len(longer) == n + more
    assert longer[:n] == load_tasks(pack, split=split, n=n, seed=seed)
    assert len({task.id for task in longer}) == n + more


@given(st.sampled_from(FAMILIES), st.sampled_from(SPLITS), st.integers(0, 10**6))
@settings(max_examples=60)
def test_every_generated_task_is_valid_and_says_where_it_comes_from(family, split, seed):
    for task in load_tasks(f"outcome/{family}", split=split, n=2, seed=seed):
        assert Task.model_validate(json.loads(json.dumps(task.model_dump(mode="json")))) == task
        assert (task.pack, task.family, task.split) == ("outcome", family, split)
        assert task.terms["rules"] == family
        assert 2 <= len(task.seats) <= 3
        assert all(21 <= seat.character.age <= 70 for seat in task.seats)
        assert "{" not in task.scenario + "".join(seat.goal for seat in task.seats)
        if family != "secret":
            found = outcomes(task)
            assert not found.zone or all(b > d for b, d in zip(found.best, found.no_deal, strict=True))
            assert not found.zone or found.top > 0


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "secret"])
def test_ten_to_fifteen_percent_of_four_families_and_none_of_the_others_have_no_zone(family):
    tasks = load_tasks(f"outcome/{family}", n=400, seed=3)
    share = sum(not outcomes(task).zone for task in tasks) / len(tasks)
    expected = (0.09, 0.17) if family in ("bargain", "schedule", "mutual_friend", "donate") else (0, 0)
    assert expected[0] <= share <= expected[1]


def test_bare_outcome_takes_the_two_seat_families_in_turn_and_defaults_to_train():
    tasks = load_tasks("outcome")
    assert Counter(task.family for task in tasks) == dict.fromkeys(TWO_SEAT_FAMILIES, 20)
    assert {task.split for task in tasks} == {"train"}
    assert {len(task.seats) for task in tasks} == {2}


def test_splits_seeds_and_indices_make_different_tasks():
    made = [task for split in SPLITS for seed in (0, 1) for task in load_tasks("outcome", split=split, n=12, seed=seed)]
    assert len({task.id for task in made}) == len(made)
    assert len({json.dumps([task.terms, [seat.private for seat in task.seats]]) for task in made}) == len(made)


def test_wordings_of_the_test_split_never_occur_in_training_and_validation_has_trains():
    for family, by_split in WORDINGS.items():
        assert len(by_split["train"]) + len(by_split["test"]) >= 6, family
        texts = {
            split: {w.scenario for w in made} | {goal for w in made for goal in w.goals}
            for split, made in by_split.items()
        }
        assert by_split.keys() == {"train", "test"}
        assert texts["train"].isdisjoint(texts["test"])


@pytest.mark.parametrize("family", FAMILIES)
def test_goals_people_and_scenarios_of_the_splits_do_not_overlap(family):
    by_split = {split: load_tasks(f"outcome/{family}", split=split, n=150, seed=2) for split in SPLITS}
    goals = {split: {seat.goal for task in tasks for seat in task.seats} for split, tasks in by_split.items()}
    assert goals["test"].isdisjoint(goals["train"] | goals["validation"])
    assert goals["validation"] <= goals["train"]
    people = {
        split: {seat.character.name for task in tasks for seat in task.seats} for split, tasks in by_split.items()
    }
    assert people["train"].isdisjoint(people["validation"])
    assert people["test"].isdisjoint(people["train"] | people["validation"])
    scenarios = {split: {task.scenario for task in tasks} for split, tasks in by_split.items()}
    if family != "divide":  # whose scenario lists the items drawn
        assert scenarios["test"].isdisjoint(scenarios["train"])
    assert len(scenarios["train"]) >= 4


def test_a_committee_that_could_only_lose_together_is_refused_and_drawn_anew():
    made = load_tasks("outcome/committee", n=1)[0].model_dump(mode="json")
    made["terms"]["options"] = ["park", "mall"]
    for loss, sound in ((3, True), (-20, False)):
        for seat, (park, mall) in zip(made["seats"], [(loss, 6), (5, 5), (5, loss)], strict=True):
            seat["private"] = {"values": {"park": park, "mall": mall}, "threshold": 4}
        if sound:
            assert outcomes(Task.model_validate(made)).top > 0
        else:
            with pytest.raises(
                ValueError, match="no result in which the seats gain together, so welfare would be undefined"
            ):
                Task.model_validate(made)
    for index in (1177, 937):
        for split in SPLITS:
            task = make_task("committee", split=split, seed=0, index=index)
            found = outcomes(task)
            assert not found.zone or found.top > 0


def test_committees_have_three_seats_or_as_many_as_asked_for():
    assert {len(task.seats) for task in load_tasks("outcome/committee", n=4)} == {3}
    for count in (3, 4, 7, 9):
        tasks = load_tasks("outcome/committee", n=3, seats=count)
        assert {len(task.seats) for task in tasks} == {count}
        assert len({task.id for task in [*tasks, *load_tasks("outcome/committee", n=3, seats=5)]}) == 6 - 3 * (
            count == 5
        )


def test_ids_of_generated_tasks_carry_nothing_but_where_they_come_from():
    for task in load_tasks("outcome", split="test", n=24, seed=7):
        assert task.id == f"outcome/{task.family}/test/7/{task.id.split('/')[-1]}"


# --- names that do not exist --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("outcom",),
            TaskNotFoundError,
            r"Unknown task pack or path 'outcom'\. Known: .*Did you mean 'outcome'\? A path must",
        ),
        (("everyday_hard",), TaskNotFoundError, "Did you mean 'everyday-hard'"),
        (("outcome/bargian",), TaskNotFoundError, r"Unknown family of 'outcome' 'bargian'.*Did you mean 'bargain'\?"),
        (("everyday/carre",), TaskNotFoundError, r"Unknown family of 'everyday' 'carre'.*Did you mean 'care'\?"),
        (("no/such/file.jsonl",), TaskNotFoundError, "Unknown task pack or path 'no/such/file.jsonl'"),
    ],
)
def test_an_unknown_pack_family_or_path_says_what_there_is(arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        load_tasks(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tset"}, r"Unknown split 'tset'\. Known: 'test', 'train', 'validation'\. Did you mean 'test'\?"),
        ({"n": -1}, "n is -1, but must be 0 or more, or None for all"),
        ({"seats": 3}, r"seats=3 does not fit 'outcome', which has 2 seats.*use 'outcome/committee'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        load_tasks("outcome", **options)


def test_too_many_or_too_few_committee_seats_are_refused():
    for count in (2, 10):
        with pytest.raises(
            ConfigurationError, match=f"seats={count} does not fit 'outcome/committee', which has 3 to 9"
        ):
            load_tasks("outcome/committee", seats=count)


# --- written packs --------------------------------------------------------------------------------------------


def test_written_packs_are_cut_by_family_split_size_and_number():
    everything = load_tasks("everyday")
    assert load_tasks("everyday", n=5) == everything[:5]
    assert load_tasks("everyday", n=0) == []
    assert load_tasks("everyday", seed=9) == everything
    assert {task.family for task in load_tasks("everyday/care")} == {"care"}
    splits = [load_tasks("everyday", split=split) for split in SPLITS]
    assert sum(map(len, splits)) == len(everything)
    assert {len(task.seats) for task in load_tasks("everyday", seats=3)} == {3}
    hard = load_tasks("everyday-hard")
    assert hard == [task for task in everything if "hard" in task.tags]


# --- files of one's own -----------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_equal(tmp_path):
    tasks = [*load_tasks("outcome", n=6), *load_tasks("everyday", n=3), Task.model_validate(FILE_EXAMPLE)]
    write_tasks(tmp_path / "mine.jsonl", tasks)
    assert read_tasks(tmp_path / "mine.jsonl") == tasks
    assert load_tasks(tmp_path / "mine.jsonl") == tasks
    assert load_tasks(str(tmp_path / "mine.jsonl"), split="train") == [t for t in tasks if t.split == "train"]
    assert read_tasks(tmp_path) == tasks


def test_a_folder_may_keep_its_characters_in_a_file_of_their_own(tmp_path):
    people = [{"id": "ada", "name": "Ada Lund", "secret": "You snore."}, {"id": "ben", "name": "Ben Lund"}]
    (tmp_path / "characters.jsonl").write_text("\n".join(map(json.dumps, people)), encoding="utf-8")
    scene = record(seats=[{"character": "ada", "goal": "Tea."}, {"character": "ben", "goal": "Coffee."}])
    (tmp_path / "a.jsonl").write_text("\ufeff" + json.dumps(scene) + "\n\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps({**scene, "id": "mine/two"}), encoding="utf-8")
    tasks = load_tasks(tmp_path)
    assert [task.id for task in tasks] == ["mine/one", "mine/two"]
    assert tasks[0].seats[0].character.secret == "You snore."
    env = sotopia_env.parallel_env(tmp_path, judge=None)
    env.reset(seed=0)
    assert env.possible_agents == ["agent_0", "agent_1"]


def test_a_task_without_any_option_gets_documented_defaults():
    task = Task.model_validate(FILE_EXAMPLE)
    assert (task.pack, task.family, task.split, task.relationship) == ("custom", "", "test", "stranger")
    assert (task.terms, task.tags, task.seats[0].private) == ({}, (), {})


BARGAIN = {"rules": "bargain", "lowest": 1, "highest": 10}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param(
            [record(), "{nope"], r"tasks\.jsonl, line 2: not valid JSON \(Expecting property name", id="no-json"
        ),
        pytest.param(["", "[1]"], r"tasks\.jsonl, line 2: expected a JSON object, got \[1\]", id="no-object"),
        pytest.param(["[" * 9999], r"line 1: not valid JSON \(.*recursion", id="nested-too-deep"),
        pytest.param(
            [""], r"tasks\.jsonl holds no tasks\. Expected one JSON object a line; see docs/tasks\.md", id="empty"
        ),
        pytest.param([record(), record()], r"line 2, field 'id': 'mine/one' stands twice", id="same-id"),
        pytest.param([{"id": "x"}], r"line 1, field 'scenario': Field required", id="missing-field"),
        pytest.param(
            [record(scenari="x")], r"line 1, field 'scenari': Extra inputs are not permitted; got 'x'", id="extra"
        ),
        pytest.param([record(id="")], r"line 1, field 'id': .*at least 1 character", id="empty-id"),
        pytest.param([record(split="tset")], r"field 'split': Input should be 'train', .*; got 'tset'", id="split"),
        pytest.param([record(relationship="foe")], r"field 'relationship': .* got 'foe'", id="relationship"),
        pytest.param([record(seats=[])], r"field 'seats': .*at least 2 items", id="no-seats"),
        pytest.param([seats(goal=None)], r"field 'seats\.0\.goal': .*valid string; got None", id="no-goal"),
        pytest.param(
            [seats(character={"id": "a", "name": "A", "age": "old"})],
            r"field 'seats\.0\.character\.age': .*integer.*; got 'old'",
            id="age",
        ),
        pytest.param(
            [seats(character="zoe")],
            r"field 'seats\.0\.character': Unknown character 'zoe'\. Known: none\. Put it in characters\.jsonl",
            id="unknown-character",
        ),
        pytest.param(
            [seats(character={"id": "ben", "name": "Ben"})],
            r"character 'ben' sits in two seats; every seat needs a person of its own",
            id="one-person-twice",
        ),
        pytest.param(
            [record(terms={"rules": "committee", "options": ["a", "b"]})],
            r"seats: 'committee' needs 3 to 9 seats, got 2",
            id="cast-that-does-not-fit",
        ),
        pytest.param(
            [record(terms={"rules": "bargian"})],
            r"terms\.rules: Unknown rule set 'bargian'.*mean 'bargain'",
            id="rules",
        ),
        pytest.param(
            [record(terms=BARGAIN)], r"seats\.0\.private\.value must be a number, got None", id="missing-private-fact"
        ),
        pytest.param(
            [record(terms={**BARGAIN, "highest": 1})],
            r"terms\.lowest and terms\.highest must be whole numbers in order, got 1 and 1",
            id="terms-out-of-order",
        ),
        pytest.param(
            [seats(private={"a": float("nan")})],
            r"seats\.0 cannot be written as JSON in UTF-8 \(Out of range",
            id="nan",
        ),
        pytest.param(
            [seats(goal="\ud800")],
            r"seats\.0 cannot be written as JSON in UTF-8 \(.*surrogates not allowed",
            id="surrogate",
        ),
    ],
)
def test_a_line_that_cannot_be_used_names_file_line_and_field(tmp_path, lines, message):
    file = tmp_path / "tasks.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TaskFormatError, match=message) as caught:
        load_tasks(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_utf8_and_characters_that_stand_twice_are_refused(tmp_path):
    (tmp_path / "tasks.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(TaskFormatError, match=r"tasks\.jsonl cannot be read: .*Expected UTF-8 JSON Lines"):
        load_tasks(tmp_path)
    (tmp_path / "characters.jsonl").write_text('{"id": "a", "name": "A"}\n{"id": "a", "name": "B"}', encoding="utf-8")
    with pytest.raises(TaskFormatError, match=r"characters\.jsonl, line 2, field 'id': 'a' stands twice"):
        load_tasks(tmp_path)


def test_an_unknown_character_gets_the_nearest_of_the_file(tmp_path):
    (tmp_path / "characters.jsonl").write_text('{"id": "ada-lund", "name": "Ada"}', encoding="utf-8")
    (tmp_path / "tasks.jsonl").write_text(json.dumps(seats(character="ada-lnud")), encoding="utf-8")
    with pytest.raises(
        TaskFormatError, match=r"Unknown character 'ada-lnud'\. Known: 'ada-lund'\. Did you mean 'ada-lund'"
    ):
        load_tasks(tmp_path)


# --- tasks as objects -------------------------------------------------------------------------------------------


def test_tasks_are_immutable_equal_when_equal_and_hash_by_content():
    one, two = Task.model_validate(record()), Task.model_validate(record())
    assert one == two
    assert hash(one) == hash(two)
    assert one.digest == two.digest
    assert Task.model_validate(record(scenario="Another kitchen.")).digest != one.digest
    with pytest.raises(ValueError, match="frozen"):
        one.scenario = "changed"


def test_environments_take_one_task_several_or_a_name():
    task = Task.model_validate(record())
    assert resolve_tasks(task) == resolve_tasks([task]) == [task]
    assert resolve_tasks("outcome/bargain") == load_tasks("outcome/bargain")
    with pytest.raises(ConfigurationError, match="Two tasks share the id 'mine/one'"):
        resolve_tasks([task, task])


def test_a_long_list_of_options_still_gives_a_note_that_lies_in_the_observation_space():
    slots = [f"slot number {number:04}" for number in range(600)]
    weights = {"weights": dict.fromkeys(slots, 1)}
    made = record(terms={"rules": "schedule", "slots": slots})
    for seat in made["seats"]:
        seat["private"] = weights
    env = sotopia_env.parallel_env(Task.model_validate(made))
    env.reset(seed=0)
    observations, *_ = env.step({"agent_0": sotopia_env.Action("action", "offer nonsense")})
    assert env.observation_space("agent_0").contains(observations["agent_0"])
    assert len(observations["agent_0"]["transcript"]) == 2
