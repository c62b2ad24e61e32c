"""The hand-written pack: how much there is, who plays in it, and what each may know of the other."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest

import sotopia_env
from sotopia_env import load_tasks
from sotopia_env.conversation import Conversation, backgrounds
from sotopia_env.tasks import RELATIONSHIPS, CharacterProfile, Task

TWO = load_tasks("everyday")
THREE = load_tasks("everyday", seats=3)
SCENES = [*TWO, *THREE]
CAST = {seat.character.id: seat.character for scene in SCENES for seat in scene.seats}
FAMILIES = {
    "cooperation",
    "competition",
    "negotiation",
    "persuasion",
    "exchange",
    "care",
    "conflict",
    "manners",
    "secrets",
}


def first_name(character: CharacterProfile) -> str:
    return character.name.split()[0]


def names(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def of(relationship: str) -> list[Task]:
    return [scene for scene in SCENES if scene.relationship == relationship]


def test_there_are_at_least_90_scenes_for_two_17_hard_ones_and_44_people():
    assert len(TWO) >= 90
    assert len(load_tasks("everyday-hard")) >= 17
    assert len(CAST) >= 44
    assert len(THREE) >= 8
    assert all("hard" in scene.tags and scene.split == "test" for scene in load_tasks("everyday-hard"))


def test_all_that_was_written_can_be_played():
    assert {len(scene.seats) for scene in SCENES} == {2, 3}
    written = Path(sotopia_env.__file__).with_name("packs") / "everyday"
    assert len(SCENES) == len((written / "tasks.jsonl").read_text(encoding="utf-8").splitlines())
    assert len(CAST) == len((written / "characters.jsonl").read_text(encoding="utf-8").splitlines())


def test_families_relationships_and_splits_are_all_there():
    assert {scene.family for scene in TWO} == FAMILIES
    assert {scene.relationship for scene in TWO} == set(RELATIONSHIPS)
    assert min(Counter(scene.family for scene in TWO).values()) >= 5
    assert min(Counter(scene.relationship for scene in TWO).values()) >= 8
    splits = Counter(scene.split for scene in TWO)
    assert splits.keys() == {"train", "validation", "test"}
    assert splits["train"] > splits["test"] > splits["validation"] >= 5


def test_people_are_between_21_and_70_and_of_all_ages():
    ages = [character.age for character in CAST.values()]
    assert (min(ages), max(ages)) == (21, 70)
    assert sum(age < 25 for age in ages) >= 4
    assert sum(age > 60 for age in ages) >= 4


def test_every_person_is_complete_and_alike_in_every_scene():
    for character in CAST.values():
        assert all([character.gender, character.pronouns, character.occupation, character.public_info])
        assert len(character.personality) > 40
        assert re.search(r"\b[Yy]ou", character.secret)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", character.id)
    for scene in SCENES:
        for seat in scene.seats:
            assert seat.character == CAST[seat.character.id]
    assert len({character.name for character in CAST.values()}) == len(CAST)


def test_every_person_plays_in_two_scenes_or_more():
    plays = Counter(seat.character.id for scene in SCENES for seat in scene.seats)
    assert min(plays.values()) >= 2


def test_a_pair_is_always_in_the_same_close_relationship_and_never_strangers_elsewhere():
    bonds: dict[frozenset[str], set[str]] = {}
    for scene in SCENES:
        for pair in itertools.combinations((seat.character.id for seat in scene.seats), 2):
            bonds.setdefault(frozenset(pair), set()).add(scene.relationship)
    mixed = {tuple(sorted(pair)): sorted(found) for pair, found in bonds.items() if len(found) > 1}
    assert not {pair: found for pair, found in mixed.items() if {"family", "partner", "stranger"} & set(found)}


def test_goals_are_written_to_their_seat_and_differ():
    for scene in SCENES:
        goals = [seat.goal for seat in scene.seats]
        assert len(set(goals)) == len(goals)
        assert all(re.search(r"\b[Yy]ou\b", goal) for goal in goals)
        assert all(len(goal) > 40 for goal in goals)


def test_ids_are_slugs_of_public_words_and_carry_no_secret_or_private_fact():
    assert len({scene.id for scene in SCENES}) == len(SCENES)
    for scene in SCENES:
        assert re.fullmatch(r"everyday/[a-z0-9]+(-[a-z0-9]+)*", scene.id)
        said = {word for word in scene.id.removeprefix("everyday/").split("-") if len(word) > 3}
        public = words(scene.scenario)
        for seat in scene.seats:
            hidden = words(" ".join([seat.character.secret, *map(str, seat.private.values())])) - public
            assert len(said & hidden) <= len(said) / 2, (scene.id, said & hidden)


def test_no_scenario_of_strangers_names_anyone_of_its_cast():
    assert of("stranger")
    for scene in of("stranger"):
        for seat in scene.seats:
            for part in seat.character.name.split():
                assert not names(scene.scenario, part), (scene.id, part)


def test_no_scenario_gives_away_a_goal_a_secret_or_a_private_fact():
    for scene in SCENES:
        for seat in scene.seats:
            for hidden in (seat.goal, seat.character.secret, *map(str, seat.private.values())):
                assert hidden not in scene.scenario


def test_no_seat_is_told_anothers_goal_secret_or_private_facts():
    for scene in SCENES:
        told = backgrounds(scene)
        for index, seat in enumerate(scene.seats):
            for other, text in enumerate(told):
                hidden = [seat.goal, seat.character.secret, *map(str, seat.private.values())]
                assert all((part in text) is (other == index) for part in hidden), (scene.id, index, other)


@pytest.mark.parametrize("relationship", RELATIONSHIPS)
def test_what_is_known_of_the_other_follows_from_the_relationship(relationship):
    close = relationship in ("friend", "partner", "family")
    known = close or relationship == "acquaintance"
    assert of(relationship)
    for scene in of(relationship):
        for viewer, text in enumerate(backgrounds(scene)):
            for index, seat in enumerate(scene.seats):
                person = seat.character
                if index == viewer:
                    assert person.secret in text
                    assert person.personality in text
                    continue
                assert (person.name in text) is (relationship != "stranger")
                assert (person.public_info in text) is known
                assert (f"{person.age} years old" in text.split("You are", 1)[1].split("\n", 1)[1]) is known or any(
                    other.character.age == person.age for other in scene.seats if other is not seat
                )
                assert (person.personality in text) is close
                assert person.secret not in text


def test_strangers_are_spoken_of_without_a_name_also_in_facts():
    scene = next(scene for scene in of("stranger") if len(scene.seats) == 2)
    view = Conversation(scene, seed=0).view("agent_0")
    assert '"agent_1": "the other person"' in view["facts"]
    assert first_name(scene.seats[1].character) not in view["facts"]
