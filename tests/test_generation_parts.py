"""Inspirations, near-duplicates and casting, each on its own."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotopia_env import ConfigurationError, TaskFormatError, load_tasks
from sotopia_env.generation import (
    Draft,
    Inspiration,
    Scene,
    company_of,
    evaluation_scenes,
    everyday_company,
    own_inspirations,
    read_company,
    read_inspirations,
    read_scenes,
)
from sotopia_env.generation.casting import CLOSE, Company
from sotopia_env.generation.duplicates import NEAR, Collection, pieces, scene_of
from sotopia_env.generation.inspirations import LONGEST, clean, draw, without
from sotopia_env.tasks import RELATIONSHIPS, CharacterProfile

# --- inspirations -----------------------------------------------------------------------------------


def texts(path, **options):
    return [one.text for one in read_inspirations(path, **options)]


def test_our_own_list_has_at_least_200_different_inspirations():
    own = own_inspirations()
    assert len({one.text for one in own}) == len(own) >= 200
    assert all(10 <= len(one.text) <= 80 and clean(one.text) == one.text for one in own)


@pytest.mark.parametrize(
    ("content", "expected", "source"),
    [
        pytest.param("being late\na lost key\n", ["being late", "a lost key"], "list", id="plain"),
        pytest.param("Being late, again.\nA key, lost\n", ["Being late, again.", "A key, lost"], "list", id="commas"),
        pytest.param('"a ""quoted"" one, too"\nb c\n', ['a "quoted" one, too', "b c"], "list", id="quoted"),
        pytest.param("text\nbeing late\n", ["being late"], "list", id="one-column"),
        pytest.param("prompt,source\n\"late, again\",x\nb,y\n", ["late, again", "b"], "list", id="prompt-column"),
        pytest.param("model|source|pk|prompt\nm|s|1|being late\n", ["being late"], "list", id="bars"),
        pytest.param(
            "area\tsplit\trot\tsituation\nconfessions\ttrain\tIt is bad.\tnot calling back\n",
            ["not calling back"], "social_chem", id="social-chemistry",
        ),
        pytest.param(
            "context,question,answerA,answerB,answerC,correct\n\"Robin left, early.\",Why?,a,b,c,A\n",
            ["Robin left, early."], "social_iqa", id="social-iqa",
        ),
        pytest.param(
            '{"context": "Robin left.", "question": "Why?", "answerA": "x"}\n', ["Robin left."], "social_iqa",
            id="social-iqa-json",
        ),
        pytest.param(
            "setting,behavior,constraints,label\npark,sleep on a bench,,0\npark,sing,,1\n",
            ["sleep on a bench", "sing"], "normbank", id="normbank",
        ),
        pytest.param("\ufefftext\r\nbeing late\r\n", ["being late"], "list", id="windows"),
    ],
)  # fmt: skip
def test_every_form_of_list_is_recognised_by_its_content(content, expected, source, tmp_path):
    path = tmp_path / "anything.xyz"
    path.write_bytes(content.encode())
    assert read_inspirations(path) == [Inspiration(text, source) for text in expected]


def test_a_column_of_another_name_is_taken_if_named(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id,idea\n1,being late\n")
    with pytest.raises(ConfigurationError, match="columns"):
        read_inspirations(path)
    assert texts(path, column="idea") == ["being late"]
    with pytest.raises(ConfigurationError, match="Did you mean 'idea'"):
        read_inspirations(path, column="ideas")


def test_blank_repeated_and_overlong_texts_are_left_out_and_control_characters_cleaned(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(f"a key\n\nA key!\n{'x' * (LONGEST + 1)}\nred\x1b[31m ink\n  b  c \n...\n")
    assert texts(path) == ["a key", "red [31m ink", "b c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"\xff\xfe\x00x", "not UTF-8", id="encoding"),
        pytest.param(b"", "holds no inspiration", id="empty"),
        pytest.param(b"text\n" + b"x" * 2_000_000, "has a line of", id="long-line"),
        pytest.param(b"x" * 2_000_000, "has a line of", id="long-first-line"),
        pytest.param(b'text,a\n"' + b"y\n" * 200_000, "no table that can be read", id="open-quote"),
        pytest.param(b'{"context": "a", "question": "b"}\n{"context"', "not valid JSON", id="json"),
        pytest.param(b'{"other": 1}', "none of the fields", id="json-fields"),
    ],
)
def test_files_that_are_no_list_end_in_one_clear_line(content, message, tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_inspirations(path)
    assert "\n" not in str(caught.value)


LISTS = st.lists(
    st.lists(st.integers(0, 60), max_size=20, unique=True).map(
        lambda numbers: [Inspiration(f"text {number}", "list") for number in numbers]
    ),
    min_size=1,
    max_size=4,
)


@given(LISTS, st.integers(0, 3), st.integers(0, 80))
def test_a_draw_never_repeats_a_text_and_a_longer_one_begins_with_a_shorter_one(sources, seed, n):
    there = {one.text for source in sources for one in source}
    if n > len(there):
        with pytest.raises(ConfigurationError, match=f"there are {len(there)} inspirations"):
            draw(sources, n, seed=seed)
        return
    drawn = draw(sources, n, seed=seed)
    assert len({one.text for one in drawn}) == n
    assert draw(sources, len(there), seed=seed)[:n] == drawn


def test_three_lists_have_equal_shares():
    sources = [[Inspiration(f"{name} {number}", name) for number in range(200)] for name in ("a", "b", "c")]
    drawn = draw(sources, 99, seed=1)
    assert [sum(one.source == name for one in drawn) for name in ("a", "b", "c")] == [33, 33, 33]
    assert drawn != draw(sources, 99, seed=2)


def test_excluded_inspirations_are_left_out_whatever_their_case():
    found = [Inspiration("Being late.", "list"), Inspiration("a key", "list")]
    assert without(found, [Inspiration("being LATE", "list")]) == found[1:]


# --- near-duplicates --------------------------------------------------------------------------------


def holding(*scenes: Scene, **options) -> Collection:
    collection = Collection(**options)
    for scene in scenes:
        collection.add(scene)
    return collection


EVALUATION = evaluation_scenes()
KNOWN = holding(*EVALUATION, by_sentence=True)


@pytest.mark.parametrize("place", range(0, len(EVALUATION), 9))
def test_a_copy_of_an_evaluation_task_is_found_changed_or_wrapped(place):
    scene = EVALUATION[place]
    shouted = Scene("", scene.scenario.upper().replace(",", " -"), ("You want a loaf.", "You want a cake."))
    wrapped = Scene(
        "",
        "The lamp over the door flickers, and a tram passes far too fast. " + scene.scenario + " A clock strikes.",
        ("You want a loaf.", "You want a cake."),
    )
    for copy in (scene, shouted, wrapped):
        match = KNOWN.nearest(copy)
        assert match is not None
        assert match.overlap >= NEAR


def test_evaluation_tasks_hold_both_written_packs_and_all_test_wordings():
    ids = {scene.id for scene in EVALUATION}
    assert {task.id for task in load_tasks("everyday")} <= ids
    assert {task.id for task in load_tasks("everyday-hard")} <= ids
    for family in ("bargain", "divide", "schedule", "mutual_friend", "secret", "donate", "committee"):
        assert any(name.startswith(f"outcome/{family}/test") for name in ids)
    for task in load_tasks("outcome", split="test", n=24, seed=3):
        assert KNOWN.nearest(scene_of(task)) is not None, task.scenario


def test_different_scenes_are_no_duplicates_of_each_other():
    tasks = load_tasks("everyday")
    collection = Collection()
    for task in tasks:
        assert collection.nearest(scene_of(task)) is None, task.id
        collection.add(scene_of(task))


WORD = st.text(alphabet="abcdefghijklmnop", min_size=3, max_size=8)


@given(st.lists(WORD, min_size=20, max_size=40, unique=True), st.data())
def test_a_text_with_one_word_changed_is_a_duplicate_and_of_two_the_nearer_is_told(words, data):
    text = " ".join(words)
    changed = list(words)
    changed[data.draw(st.integers(0, len(words) - 1))] = "zzzz"
    other = Scene("other", " ".join(["quiet", "yxw", *words[: len(words) // 2]]), ())
    match = holding(other, Scene("known", text, ())).nearest(Scene("", " ".join(changed), ()))
    assert match is not None
    assert match.id == "known"
    assert match.overlap <= 1


@given(st.text(max_size=80))
def test_any_text_can_be_compared_and_equals_itself(text):
    match = holding(Scene("same", text, ())).nearest(Scene("", text, ()))
    assert (match is not None) == bool(pieces(text))
    if match is not None:
        assert match.overlap == 1


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_changed_numbers_change_nothing(one, other):
    assert pieces(f"It costs {one} today") == pieces(f"it costs {other}, today!")


def test_scenes_are_read_from_packs_tasks_and_sotopias_profiles(tmp_path):
    assert read_scenes("everyday-hard") == [scene_of(task) for task in load_tasks("everyday-hard")]
    goals = ["Sell it (<extra_info>It is old</extra_info>)", "Buy it"]
    flat = {"env_id": "01A", "scenario": "Two people at a fair", "agent_goals": goals}
    path = tmp_path / "profiles.jsonl"
    path.write_text(json.dumps(flat) + "\n")
    (tmp_path / "native.json").write_text(json.dumps([{**flat, "pk": "01B"}]))
    for found in (read_scenes(path), read_scenes(tmp_path / "native.json")):
        assert [scene.scenario for scene in found] == ["Two people at a fair"]
        assert "extra_info" not in found[0].goals[0]
    path.write_text('{"a": 1}\n')
    with pytest.raises(ConfigurationError, match="neither tasks nor"):
        read_scenes(path)


# --- casting ----------------------------------------------------------------------------------------


def person(name: str, **fields) -> CharacterProfile:
    return CharacterProfile(id=name.casefold(), name=name, **fields)


def draft(relationship="stranger", first=(18, 99, ""), second=(18, 99, "")) -> Draft:
    parts = [
        {"goal": f"You want {n}.", "youngest": low, "oldest": high, "occupation": job}
        for n, (low, high, job) in enumerate((first, second))
    ]
    return Draft(scenario="Rain.", relationship=relationship, first=parts[0], second=parts[1])


AGES = st.tuples(st.integers(0, 80), st.integers(0, 80)).map(lambda pair: (min(pair), max(pair), ""))


@given(st.sampled_from(RELATIONSHIPS), AGES, AGES, st.integers(0, 3))
def test_whoever_is_cast_fits_in_age_and_relationship_and_is_the_same_for_the_same_seed(relationship, a, b, seed):
    company = everyday_company()
    wanted = draft(relationship, a, b)
    cast = company.cast(wanted, seed=str(seed))
    assert cast == company.cast(wanted, seed=str(seed))
    if cast is None:
        return
    first, second = cast
    assert first.id != second.id
    assert a[0] <= first.age <= a[1]
    assert b[0] <= second.age <= b[1]
    bond = company.bonds.get(frozenset((first.id, second.id)), frozenset())
    assert relationship in bond or (not bond and relationship not in CLOSE)


@pytest.mark.parametrize("relationship", RELATIONSHIPS)
def test_every_relationship_can_be_cast_from_the_everyday_pack(relationship):
    assert everyday_company().cast(draft(relationship), seed="0") is not None


def test_occupations_are_found_by_their_words():
    company = Company([person("Ana", occupation="retired pastry chef"), person("Ben", occupation="bus driver")])
    cast = company.cast(draft(first=(18, 99, "Chefs"), second=(18, 99, "driver")), seed="0")
    assert [one.name for one in cast] == ["Ana", "Ben"]
    assert company.cast(draft(first=(18, 99, "pilot")), seed="0") is None


def test_both_seats_are_drawn_from_everybody():
    company = Company([person(name) for name in ("Ana", "Ben", "Caro")])
    pairs = {tuple(one.name for one in company.cast(draft(), seed=str(seed))) for seed in range(60)}
    assert len(pairs) == 6


def test_characters_and_bonds_are_read_from_files(tmp_path):
    people = [person("Ana", age=30), person("Ben", age=40)]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(one.model_dump_json() + "\n" for one in people))
    company = read_company(path)
    assert list(company.characters) == people
    assert company.cast(draft("family"), seed="0") is not None  # nothing is known, so anything may be
    tasks = load_tasks("everyday/care")
    assert read_company("everyday/care").bonds == company_of(tasks).bonds
    path.write_text('{"id": "x"}\n')
    with pytest.raises(TaskFormatError, match="line 1, field 'name'"):
        read_company(path)
    path.write_text(people[0].model_dump_json())
    with pytest.raises(ConfigurationError, match="too few"):
        read_company(path)


def test_global_random_state_is_not_touched():
    random.seed(1)
    before = random.getstate()
    draw([own_inspirations()], 10, seed=5)
    everyday_company().cast(draft(), seed="5")
    assert random.getstate() == before
