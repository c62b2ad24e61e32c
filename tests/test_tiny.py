"""The tiny base: its exercises say what is true, and its tokenizer loses nothing and keeps digits apart."""

from __future__ import annotations

import dataclasses
import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sotopia_env
from sotopia_env import ConfigurationError
from sotopia_env.rules import RULES
from sotopia_env.trainers import tiny
from sotopia_env.trainers.behavior_cloning import TrainSettings, finished
from sotopia_env.trainers.settings import load_preset
from sotopia_env.trainers.tiny import (
    SHIPPED,
    TinySettings,
    build,
    common_wordings,
    exercise,
    exercise_rows,
    is_shipped,
    learn_tokenizer,
)

pytest.importorskip("tokenizers")
TASKS = {name: sotopia_env.load_tasks(f"outcome/{name}", split="train", n=20, seed=3) for name in ("bargain", "divide")}


def exercises(family):
    draw = random.Random(0)
    return [(task, seat, exercise(task, seat, draw)) for task in TASKS[family] for seat in (0, 1)]


@pytest.fixture(scope="module")
def tokenizer():
    texts = [[m["content"] for m in messages] for family in TASKS for _, _, messages in exercises(family)]
    return learn_tokenizer(texts, 600)


def test_in_an_exercise_on_bargains_every_gain_and_loss_is_a_true_one():
    found = 0
    for task, seat, messages in exercises("bargain"):
        value = task.seats[seat].private["value"]
        for message in messages:
            if message["role"] != "assistant":
                continue
            told = re.search(r"At (\d+) I would (gain|lose)", message["content"])
            if told is None:
                if not re.search(r"As I said|offer \d", message["content"]):
                    assert f" {value:g}" in message["content"]
                continue
            found += 1
            gain = (int(told[1]) - value) * (1 if seat == 0 else -1)
            assert told[2] == ("gain" if gain >= 0 else "lose")
    assert found > 20


def test_in_an_exercise_on_divisions_the_points_are_those_of_the_offer_it_answers():
    found = 0
    for task, seat, messages in exercises("divide"):
        values, none = RULES["divide"].values(task)
        for asked, said in zip(messages[1::2], messages[2::2], strict=True):
            offer = re.search(r'"offer ([^"]+)"', asked["content"])
            points = re.search(
                r"With (.+) I get ([\d+]+)=(\d+), against (\d+) without a deal. I would (gain|lose)", said["content"]
            )
            assert (offer is None) == (points is None)
            if offer is None or points is None:
                continue
            found += 1
            result = RULES["divide"].parse(task, 1 - seat, offer[1])
            assert RULES["divide"].parse(task, seat, points[1]) == result
            assert sum(map(int, points[2].split("+"))) == int(points[3]) == values[result][seat]
            assert int(points[4]) == none[seat]
            assert points[5] == ("gain" if int(points[3]) >= none[seat] else "lose")
    assert found > 20


@pytest.mark.parametrize("family", TASKS)
def test_in_an_exercise_the_verdict_that_is_said_again_is_the_last_one(family):
    again = set()
    for _, _, messages in exercises(family):
        last = None
        for message in messages:
            said = re.search(r"(As I said, )?I would (gain|lose)\.", message["content"])
            if message["role"] != "assistant" or said is None:
                continue
            if said[1]:
                assert said[2] == last
                again.add(last)
            last = said[2]
    assert again == {"gain", "lose"}


def test_in_an_exercise_on_bargains_many_prices_are_close_to_the_own_value():
    away = [
        abs(int(price) - task.seats[seat].private["value"])
        for task, seat, messages in exercises("bargain")
        for message in messages
        for price in re.findall(r"At (\d+) I would", message["content"])
    ]
    assert 0.4 < sum(distance <= 10 for distance in away) / len(away) < 0.8


def test_in_an_exercise_on_divisions_what_is_told_of_the_own_points_is_true():
    found = 0
    for task, seat, messages in exercises("divide"):
        values = task.seats[seat].private["values"]
        for message in messages[2::2]:
            if useful := re.search(r"What I can use is ([^.]+)\.", message["content"]):
                found += 1
                kept = {item: number if values[item] else 0 for item, number in task.terms["items"].items()}
                assert useful[1] == " ".join(f"{item}={number}" for item, number in kept.items())
            elif not re.search(r"With |As I said|offer ", message["content"]):
                assert all(f"{item} {values[item]:g}" in message["content"] for item in task.terms["items"])
    assert found > 10


def test_refreshers_are_exercises_of_their_own_and_of_every_family(tokenizer):
    made = TinySettings(exercises=8, refreshers=4, tasks=4)
    practice = exercise_rows(made, tokenizer, seed=1)
    texts = [tokenizer.decode(row.input_ids) for row in practice]
    assert len(texts) == len(set(texts)) == 12
    assert sum("divide" in text for text in texts) == 6
    assert [row.input_ids for row in practice] == [row.input_ids for row in exercise_rows(made, tokenizer, seed=1)]


@settings(max_examples=50)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60))
def test_the_tokenizer_gives_back_every_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("number", ["7", "42", "120"])
def test_every_digit_is_a_token_of_its_own(tokenizer, number):
    pieces = [tokenizer.decode([i]) for i in tokenizer(f"offer {number}", add_special_tokens=False)["input_ids"]]
    assert [piece.strip() for piece in pieces if any(c.isdigit() for c in piece)] == list(number)


def test_a_wording_that_most_conversations_have_is_common_and_one_with_a_digit_never_is():
    conversations = [["How are you today?", f"I have {n} of them."] for n in range(40)]
    found = common_wordings(conversations)
    assert "How are you today?" in found
    assert not [text for text in found if any(c.isdigit() for c in text)]


@pytest.mark.parametrize(
    "change",
    [{"families": ("secret",)}, {"width": 10, "heads": 3}, {"training": TrainSettings(method="lora")}],
    ids=["family without exercises", "width", "adapter on random weights"],
)
def test_a_base_that_cannot_be_built_is_refused(change):
    with pytest.raises(ConfigurationError):
        TinySettings(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 0}, "heads is 0, but must be a whole number of 1 or more"),
        ({"width": "abc"}, "width is 'abc'"),
        ({"width": 12}, "width is 12, but must be a multiple of 8"),  # odd heads cannot be rotated
        ({"tasks": -1}, "tasks is -1"),
        ({"exercises": -1}, "exercises is -1, but must be a whole number of 0 or more"),
        ({"vocabulary": 0}, "vocabulary is 0, but must be a whole number of 261 or more"),
        ({"partners": "scripted/novice"}, "partners is 'scripted/novice', but must be a list"),
        ({"speakers": ()}, "speakers is"),
        ({"unskilled": ""}, "unskilled is ''"),
        ({"training": None}, "trained with None"),
    ],
)
def test_a_setting_of_another_kind_or_range_is_named_with_what_is_allowed(change, message):
    with pytest.raises(ConfigurationError, match=message):
        TinySettings(**change)


def test_the_smallest_vocabulary_is_that_of_the_bytes():
    assert len(learn_tokenizer([["a"]], 0).backend_tokenizer.get_vocab(with_added_tokens=False)) == tiny._BYTES


# --- the base that comes with the package -----------------------------------------------------------


QUICK = load_preset("quick").base.tiny


def test_the_shipped_base_is_that_of_the_quick_preset_and_of_no_other_settings_or_seed():
    assert is_shipped(QUICK, 0)
    assert not is_shipped(QUICK, 1)
    assert not is_shipped(dataclasses.replace(QUICK, exercises=QUICK.exercises + 1), 0)


def test_the_shipped_base_speaks_of_what_agents_say_today():
    """If this fails, what agents say has changed: make it anew with `python -m sotopia_env.trainers.tiny`."""
    unskilled = list(tiny.unskilled_play(QUICK, seed=0))
    made = tiny._tokenizer(unskilled, QUICK, seed=0)
    assert json.loads(made.backend_tokenizer.to_str()) == json.loads((SHIPPED / "tokenizer.json").read_text())


def test_the_shipped_base_is_copied_and_plays(tmp_path):
    pytest.importorskip("torch")
    result = build(tmp_path / "base", QUICK, seed=0)
    assert result == dataclasses.replace(finished(tmp_path / "base"), is_new=True)
    assert result.steps > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
    assert not list((tmp_path / "base").glob("__*"))
    task = sotopia_env.load_tasks("outcome/divide", n=1)[0]
    (episode,) = sotopia_env.rollout([task], [f"hf/{tmp_path / 'base'}", "scripted/fair"], judge="outcome", seed=1)
    assert episode.status == "complete"
    own = [event for event in episode.events if event.speaker == "agent_0"]
    assert own
    assert not any(event.parse_failure for event in own)


@pytest.mark.slow
def test_the_shipped_base_can_be_made_again(tmp_path):
    assert tiny.main([str(tmp_path / "base")]) == 0
    made, shipped = finished(tmp_path / "base"), finished(SHIPPED)
    assert (made.steps, made.tokens) == (shipped.steps, shipped.tokens)
    assert made.losses[-1]["loss"] == pytest.approx(shipped.losses[-1]["loss"], rel=0.05)
    names = {path.name for path in SHIPPED.iterdir() if not path.name.startswith("__")}
    assert {path.name for path in (tmp_path / "base").iterdir()} == names
