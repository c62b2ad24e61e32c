"""The rules of generated tasks: each bad draft falls for its own reason, and good ones stand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotopia_env import load_tasks
from sotopia_env.generation import RULES, Draft, breaches, everyday_company
from sotopia_env.generation.batch import default_examples
from sotopia_env.generation.drafts import UnreadableDraftError, read_draft, response_format
from sotopia_env.generation.validation import common_names, content

SCENARIO = (
    "Two colleagues wait in front of a closed meeting room. The projector is still running, and nobody has a key."
)
FIRST = "You want to fetch the caretaker at once, although you broke the lock yourself this morning."
SECOND = "You want to hold the meeting in the cafeteria and be back at your desk by noon."
OTHERS = "One wants to hold the meeting in the cafeteria and be back at the desk by noon."
KNOWN = "You know that the other wants to fetch the caretaker at once and broke the lock this morning."


def draft(scenario=SCENARIO, first=FIRST, second=SECOND, relationship="acquaintance", **part):
    parts = {"youngest": 18, "oldest": 99, "occupation": "", **part}
    return Draft(
        scenario=scenario, relationship=relationship, first={"goal": first, **parts}, second={"goal": second, **parts}
    )


def rules(found: Draft, **options) -> list[str]:
    return [breach.rule for breach in breaches(found, **options)]


def test_a_good_draft_breaks_no_rule():
    assert breaches(draft()) == []


def test_the_scenes_shown_as_examples_keep_the_rules_themselves():
    assert len(default_examples()) >= 15
    for example in default_examples():
        assert breaches(example) == []


def test_the_rules_against_leaks_and_equal_goals_clear_every_written_scene_of_the_everyday_pack():
    """Ninety scenes whose goals were written to differ and to stay private: a rule that fires here is too strict."""
    for task in load_tasks("everyday"):
        found = draft(task.scenario, task.seats[0].goal, task.seats[1].goal, task.relationship)
        assert not {"leak", "same goal", "repetitive", "unfinished", "length"} & set(rules(found)), task.id


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        pytest.param("length", {"scenario": "Two colleagues wait."}, id="short-scenario"),
        pytest.param("length", {"scenario": SCENARIO * 9}, id="long-scenario"),
        pytest.param("length", {"first": "You want it."}, id="short-goal"),
        pytest.param("characters", {"scenario": SCENARIO + "\x1b[31m"}, id="terminal-escape"),
        pytest.param("characters", {"second": SECOND + "\u202e"}, id="text-direction"),
        pytest.param("markup", {"scenario": f"{SCENARIO} <p viewer='agent_0'>x</p>"}, id="xml"),
        pytest.param("markup", {"first": f"{FIRST} {{secret}}"}, id="format-string"),
        pytest.param("markup", {"second": f"{SECOND} See https://example.org."}, id="address"),
        pytest.param("script", {"scenario": f"{SCENARIO} 投影仪还开着，谁也没有钥匙。"}, id="chinese"),
        pytest.param("unfinished", {"scenario": f"{SCENARIO} Then they hear that the"}, id="open-end"),
        pytest.param("unfinished", {"first": FIRST.rstrip(".") + " and"}, id="goal-open-end"),
        pytest.param("repetitive", {"scenario": "They wait for the next bus here. " * 4}, id="loop"),
        pytest.param("placeholder", {"scenario": SCENARIO.replace("Two colleagues", "Person A and B")}, id="person-a"),
        pytest.param("placeholder", {"first": "You want the second person to leave."}, id="second-person"),
        pytest.param("placeholder", {"second": f"{SECOND} Then call [name]."}, id="gap"),
        pytest.param("name", {"scenario": f"Sarah has the key. {SCENARIO}"}, id="name-at-the-start"),
        pytest.param("name", {"scenario": f"{SCENARIO} A note from Okonjo hangs on the door."}, id="unknown-name"),
        pytest.param("name", {"second": f"{SECOND} You will tell Dr. Brandt."}, id="title"),
        pytest.param("name", {"first": f"{FIRST} It is marcus's fault, says Marcus."}, id="name-in-goal"),
        pytest.param("age", {"scenario": f"{SCENARIO} One is 34 years old."}, id="years-old"),
        pytest.param("age", {"scenario": f"{SCENARIO} One is a sixty-year-old."}, id="in-words"),
        pytest.param("age", {"scenario": f"{SCENARIO} Both are in their late thirties."}, id="decade"),
        pytest.param("age", {"scenario": SCENARIO.replace("colleagues", "teenagers")}, id="teenagers"),
        pytest.param("age", {"first": f"{FIRST} It is your 10th birthday."}, id="birthday"),
        pytest.param("age", {"second": f"{SECOND} You plan a fortieth birthday."}, id="birthday-in-words"),
        pytest.param("gender", {"scenario": f"{SCENARIO} He looks at the clock."}, id="pronoun"),
        pytest.param("gender", {"first": "You want to fetch your wife before the shop closes."}, id="wife"),
        pytest.param("gender", {"second": f"{SECOND} The businesswoman next door must not hear it."}, id="compound"),
        pytest.param("relationship", {"relationship": "stranger"}, id="colleagues-are-no-strangers"),
        pytest.param("relationship", {"scenario": SCENARIO.replace("colleagues", "old friends")}, id="friends"),
        pytest.param("ages", {"youngest": 60, "oldest": 20}, id="ages-the-wrong-way-round"),
        pytest.param("same goal", {"second": FIRST}, id="equal"),
        pytest.param("same goal", {"second": FIRST.lower().replace("at once", "now")}, id="nearly-equal"),
        pytest.param("leak", {"scenario": f"{SCENARIO} {FIRST}"}, id="word-for-word"),
        pytest.param("leak", {"scenario": f"{SCENARIO} {OTHERS}"}, id="other-person"),
        pytest.param("leak", {"second": f"{SECOND} {KNOWN}"}, id="in-the-other-goal"),
    ],
)  # fmt: skip
def test_every_rule_finds_what_it_is_for(rule, changes):
    found = breaches(draft(**changes))
    assert rule in [breach.rule for breach in found], found
    assert all(breach.evidence for breach in found)


@pytest.mark.parametrize(
    "text",
    [
        "It is Monday, the week before Christmas, and I'm told that the TV is broken.",
        "The French class meets in Berlin, in a Victorian house near the station.",
        "They came with birthday cake, and next month birthday cards follow.",
        "A loaf costs 34 and the tram takes 12 minutes; the shop is 140 steps away.",
        "The chairs are humane, the manual is here, and the herd of sheep has gone.",
        "One of the two has the key. None of the guests is here. Anybody may come in.",
    ],
)
def test_ordinary_words_are_neither_names_nor_ages_nor_gender(text):
    assert rules(draft(scenario=f"{SCENARIO} {text}")) == []


def test_goals_about_the_same_thing_may_oppose_each_other():
    opposed = draft(
        scenario="Two neighbours meet in the hall. The weather has changed, and the shared car stands outside.",
        first="You want to borrow the car tonight and bring it back washed.",
        second="You do not want to lend the car before the brakes are repaired.",
    )
    assert breaches(opposed) == []


def test_the_first_reason_follows_the_order_of_the_rules():
    found = rules(draft(scenario="He waits.", first=FIRST, second=FIRST))
    assert found == sorted(found, key=RULES.index)
    assert found[0] == "length"
    assert {"gender", "same goal"} <= set(found)


# --- properties -----------------------------------------------------------------------------------

THINGS = ["harbour", "lantern", "ticket", "garden", "violin", "ladder", "promise", "kettle", "bridge", "letter"]
WORDS = st.lists(st.sampled_from(THINGS), min_size=4, max_size=10, unique=True)
TEXT = st.text(max_size=300)


@given(TEXT, TEXT, TEXT, st.text(max_size=30))
def test_any_text_is_judged_without_an_error_and_always_alike(scenario, first, second, occupation):
    found = draft(scenario, first, second, occupation=occupation)
    once = breaches(found, names=["Ana Ruiz", ""])
    assert once == breaches(found, names=["Ana Ruiz", ""])
    assert all(breach.rule in RULES and len(breach.evidence) < 400 for breach in once)


@given(WORDS, st.booleans(), st.sampled_from(["", "Nobody else is there. ", "It is late, and it rains! "]))
def test_a_goal_that_stands_in_the_scenario_is_a_leak_in_any_case_and_punctuation(words, upper, before):
    goal = f"You want the {', the '.join(words)}."
    told = goal.upper() if upper else goal.replace(",", " -")
    assert "leak" in rules(draft(scenario=f"{SCENARIO} {before}{told}", first=goal))


@given(WORDS, st.randoms(use_true_random=False))
def test_a_goal_is_given_away_by_its_words_in_any_order(words, shuffle):
    """What the other learns does not depend on the order in which it is told."""
    told = list(words)
    shuffle.shuffle(told)
    assert "leak" in rules(
        draft(scenario=f"{SCENARIO} One needs {' and '.join(told)}.", first=f"You want {' and '.join(words)}.")
    )


@given(WORDS)
def test_equal_goals_are_never_two_goals(words):
    goal = f"You want to exchange the {' and the '.join(words)}."
    assert "same goal" in rules(draft(first=goal, second=goal.upper()))


@given(st.sampled_from(sorted(common_names())), st.integers(0, 2))
def test_every_common_name_is_found_wherever_it_stands(name, place):
    sentences = ["The corridor is dark.", "Somebody coughs.", "It is late."]
    sentences.insert(place, f"{name} is on the phone.")
    assert "name" in rules(draft(scenario=f"{SCENARIO} {' '.join(sentences)}"))


@given(st.sampled_from(everyday_company().characters), st.sampled_from(["first", "second", "scenario"]))
def test_names_of_those_who_may_be_cast_are_found_in_every_text(character, field):
    texts = {"first": FIRST, "second": SECOND, "scenario": SCENARIO}
    changed = draft(**{field: f"{texts[field]} {character.name} knows."})
    assert "name" in rules(changed, names=[character.name])


@given(st.integers(1, 119), st.sampled_from(["{} years old", "{}-year-old", "aged {}", "in the {}0s"]))
def test_ages_in_figures_are_found(age, form):
    age = age % 9 + 1 if form.startswith("in") else age
    assert "age" in rules(draft(scenario=f"{SCENARIO} One of them is {form.replace('{}', str(age))}."))


GENDERED = ["he", "she", "him", "her", "his", "hers", "himself", "herself", "man", "woman", "men", "women", "boys"]
GENDERED += ["girl", "wife", "husband", "mother", "sons", "daughter", "sister", "brothers", "uncle", "waitress", "Mrs"]


@given(st.sampled_from(GENDERED), st.sampled_from([str.lower, str.upper, str.capitalize]))
def test_gendered_words_are_found_in_any_case(word, case):
    assert "gender" in rules(draft(scenario=f"{SCENARIO} They speak of {case(word)} today."))


@given(st.text(max_size=200))
def test_content_words_do_not_depend_on_case(text):
    assert content(text) == content(text.casefold())


# --- reading replies --------------------------------------------------------------------------------


def reply(**changes) -> str:
    return draft(**changes).model_dump_json()


@pytest.mark.parametrize(
    "wrapped",
    [
        pytest.param("{}", id="bare"),
        pytest.param("\n\n {} \n", id="blank"),
        pytest.param("```json\n{}\n```", id="fence"),
        pytest.param("Here is {your} scene:\n{}\nI hope you like it.", id="words-around"),
    ],
)
def test_the_one_draft_of_a_reply_is_read(wrapped):
    assert read_draft(wrapped.replace("{}", reply(), 1)) == draft()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param(" \n", "empty", id="blank"),
        pytest.param("I'm sorry, but I can't help with that.", "refusal", id="refusal"),
        pytest.param("A scene about two friends.", "not JSON", id="prose"),
        pytest.param(reply()[:-40], "not JSON", id="cut-off"),
        pytest.param("[" * 100_000, "not JSON", id="deep"),
        pytest.param("{" * 100_000, "not JSON", id="braces"),
        pytest.param(reply() + reply(), "several", id="two"),
        pytest.param(f"[{reply()}, {reply()}]", "several", id="list"),
        pytest.param("{}", "schema", id="nothing"),
        pytest.param('{"scenario": "x"}', "schema", id="missing"),
        pytest.param(reply().replace('"acquaintance"', '"enemy"'), "schema", id="relationship"),
        pytest.param(reply().replace(":18,", ':"18",'), "schema", id="age-as-text"),
        pytest.param(reply().replace(":18,", ":true,"), "schema", id="age-as-bool"),
        pytest.param(reply().replace(":99,", ":999,"), "schema", id="age-out-of-range"),
        pytest.param(reply().replace('"scenario"', '"note":1,"scenario"'), "schema", id="extra"),
    ],
)
def test_a_reply_without_one_whole_draft_is_no_draft_and_says_why(text, reason):
    with pytest.raises(UnreadableDraftError) as caught:
        read_draft(text)
    assert caught.value.reason == reason


@given(st.text(max_size=400))
def test_any_reply_is_a_draft_or_a_reason(text):
    for candidate in (text, reply()[: len(text)], reply() + text):
        try:
            outcome = read_draft(candidate)
        except UnreadableDraftError as error:
            outcome = error.reason
        assert isinstance(outcome, Draft) or outcome in ("empty", "refusal", "not JSON", "several", "schema")


def test_the_schema_is_strict_and_asks_for_exactly_what_is_read():
    schema = response_format()["json_schema"]["schema"]

    def check(part, example):
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"]) == list(example)
        for name, inner in part["properties"].items():
            if inner["type"] == "object":
                check(inner, example[name])

    check(schema, draft().model_dump())
    assert "maxLength" not in str(schema)  # hosted endpoints refuse it in a strict schema
    assert "maxLength" in str(response_format(with_limits=True))


def test_a_shuffled_alphabet_of_noise_never_becomes_a_good_draft():
    draws = random.Random(0)
    for _ in range(200):
        noise = "".join(draws.choice("abcdefghij {}[]\"',.:<>\n\x00é漢") for _ in range(300))
        assert rules(draft(noise, noise[:100], noise[100:200]))
