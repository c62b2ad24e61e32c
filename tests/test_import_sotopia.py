"""SOTOPIA's data comes along whole, in every spelling, and nothing hostile does."""

from __future__ import annotations

import csv
import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import sotopia_env
from sotopia_env import chat
from sotopia_env.cli import app
from sotopia_env.conversation import Conversation, backgrounds
from sotopia_env.dimensions import DIMENSION_NAMES, overall
from sotopia_env.episodes import write_episodes
from sotopia_env.errors import ConfigurationError, TaskFormatError, TaskNotFoundError
from sotopia_env.interop import hints, iterate, read, spelling, streams
from sotopia_env.interop.logs import messages_of
from sotopia_env.interop.records import UnusableRecordError
from sotopia_env.interop.values import unfolded
from sotopia_env.store import EpisodeStore
from sotopia_env.tasks import CharacterProfile, Seat, Task, load_tasks, read_tasks, write_tasks
from sotopia_env.trainers.datasets import conversation_of

SAMPLE = Path(__file__).parent.parent.parent / "shared" / "data" / "sotopia"
needs_sample = pytest.mark.skipif(
    not SAMPLE.is_dir(), reason="the sample of SOTOPIA's data is not beside the repository"
)


# --- a small world of our own, in the flat spelling --------------------------------------------------

PEOPLE = [
    {
        "agent_id": "01AAA",
        "first_name": "Ines",
        "last_name": "O'Dell",
        "age": 34,
        "occupation": "Ferry Pilot",
        "gender": "Woman",
        "gender_pronoun": "She/her",
        "public_info": "Ines O'Dell keeps bees. ",
        "big_five": "Openness to Experience - High; Neuroticism - Low",
        "moral_values": ["Care", " Fairness"],
        "schwartz_personal_values": ["Security", " Tradition"],
        "personality_and_values": "Ines O'Dell is calm and stubborn.",
        "decision_making_style": "Analytical",
        "secret": "Cannot swim",
        "mbti": "ISTJ",
    },
    {
        "agent_id": "01BBB",
        "first_name": "Tomas",
        "last_name": "Vale",
        "age": 51,
        "occupation": "Baker",
        "gender": "Man",
        "gender_pronoun": "He/him",
        "public_info": "Tomas Vale runs the quay bakery.",
        "big_five": "Openness to Experience - Low; Neuroticism - High",
        "moral_values": ["Loyalty"],
        "schwartz_personal_values": ["Achievement", " Security"],
        "personality_and_values": "Tomas Vale is warm, and quick to take offence.",
        "decision_making_style": "Intuitive",
        "secret": "He owes the harbour office money",
        "mbti": "ESFP",
    },
]
SCENES = [
    {
        "env_id": "01ENV1",
        "codename": "last_ferry",
        "source": "hand-craft",
        "scenario": 'Two friends wait for the last ferry. <p viewer="environment">It will not come.</p>',
        "agent_goals": [
            "Borrow 20 euros (<extra_info>You left your purse "
            "<strategy_hint>Hint: be frank</strategy_hint></extra_info>)",
            "Keep your savings",
        ],
        "relationship": "3",
        "age_constraint": "[(18, 70), (18, 70)]",
        "occupation_constraint": "nan",
        "agent_constraint": "none",
    },
    {
        "env_id": "01ENV2",
        "codename": "bees",
        "source": "normbank",
        "scenario": "Two strangers meet at Smith & Sons.",
        "agent_goals": ["Sell honey\n<extra_info> You have: \n  3 jars  \n</extra_info>", "Learn a price"],
        "relationship": "0",
        "age_constraint": "[(30, 40), (18, 70)]",
        "occupation_constraint": "[['ferry pilot'], ['baker']]",
        "agent_constraint": "none",
    },
]
RELATIONS = [
    {
        "relationship_id": "01REL",
        "agent1_id": "01AAA",
        "agent2_id": "01BBB",
        "relationship": "3",
        "background_story": "Ines and Tomas met on the quay.",
    }
]
CASTS = [
    {"combo_id": "01CMB1", "env_id": "01ENV1", "agent_ids": ["01AAA", "01BBB"]},
    {"combo_id": "01CMB2", "env_id": "01ENV2", "agent_ids": ["01AAA", "01BBB"]},
]
INES, TOMAS = "Ines O'Dell", "Tomas Vale"
KNOWN = {
    INES: "Ines O'Dell is a 34-year-old female ferry pilot. She/her pronouns. Ines O'Dell keeps bees.  "
    "Personality and values description: Ines O'Dell is calm and stubborn. ",
    TOMAS: "Tomas Vale is a 51-year-old male baker. He/him pronouns. Tomas Vale runs the quay bakery. "
    "Personality and values description: Tomas Vale is warm, and quick to take offence. ",
}
BIOGRAPHIES = {
    INES: f"{KNOWN[INES]}Ines's secrets: Cannot swim",
    TOMAS: f"{KNOWN[TOMAS]}Tomas's secrets: He owes the harbour office money",
}
HEAD = (
    "\nHere is the context of this interaction:\nScenario: Two friends wait for the last ferry. \n"
    "Participants: Ines O'Dell and Tomas Vale\n"
)
CONTEXTS = [
    f"{HEAD}Ines O'Dell's background: {BIOGRAPHIES[INES]}\nTomas Vale's background: {KNOWN[TOMAS]}\n"
    "Ines O'Dell's goal: Borrow 20 euros (You left your purse Hint: be frank)\nTomas Vale's goal: Unknown\n"
    "Conversation Starts:\n",
    f"{HEAD}Ines O'Dell's background: {KNOWN[INES]}\nTomas Vale's background: {BIOGRAPHIES[TOMAS]}\n"
    "Ines O'Dell's goal: Unknown\nTomas Vale's goal: Keep your savings\nConversation Starts:\n",
]
MOVES = [
    (INES, 'said: "Tomas, I left my purse.\n\nCould you lend me "20" <3 euros?"'),
    (TOMAS, "[non-verbal communication] turns his pockets out"),
    (INES, "did nothing"),
    (TOMAS, "[action] walks to the rail & waits"),
    (INES, "left the conversation"),
]


def messages() -> list[list[list[str]]]:
    turns = []
    for number in range(len(MOVES) + 1):
        if number == 0:
            told = CONTEXTS
        else:
            name, line = MOVES[number - 1]
            told = [f"Turn #{number - 1}: " + ("" if line == "did nothing" else f"{name} {line}") + "\n"] * 2
        turn = [["Environment", name, text] for name, text in zip(BIOGRAPHIES, told, strict=True)]
        if number < len(MOVES):
            turn += [
                [n, "Environment", MOVES[number][1] if n == MOVES[number][0] else "did nothing"] for n in BIOGRAPHIES
            ]
        turns.append(turn)
    return turns


SCORES = [
    {"believability": 9.0, "relationship": 1.0, "knowledge": 2.0, "secret": 0.0, "social_rules": 0.0}
    | {"financial_and_material_benefits": -1.0, "goal": 3.0},
    {"believability": 8.0, "relationship": -1.0, "knowledge": 0.0, "secret": 0.0, "social_rules": -1.0}
    | {"financial_and_material_benefits": 0.0, "goal": 10.0},
]
REASONING = "Environment comments: terminated: Agent 1 is leaving; \n" + "".join(
    f"Agent {number} comments:\n" + "".join(f"{name}: {name} of {number}.\n" for name in DIMENSION_NAMES)
    for number in (1, 2)
)


def flat_episode() -> dict:
    by_name = [{**scores, "overall_score": overall(scores)} for scores in SCORES]
    return {
        "episode_id": "01EPI",
        "environment_id": "01ENV1",
        "agent_ids": ["01AAA", "01BBB"],
        "experiment_tag": "gpt-4_org/model_v0.0.1_clean",
        "experiment_model_name_pairs": ["gpt-4", "gpt-4", "org/model"],
        "raw_messages": messages(),
        "raw_rewards": [[scores["overall_score"], scores] for scores in by_name],
        "raw_rewards_prompt": "Prompt after formatting:\nscore this",
        "scenario": SCENES[0]["scenario"],
        "codename": "last_ferry",
        "agents_background": BIOGRAPHIES,
        "social_goals": dict(zip(BIOGRAPHIES, SCENES[0]["agent_goals"], strict=True)),
        "social_interactions": f"{INES} {MOVES[0][1]}\n\n{TOMAS}: {MOVES[1][1]}\n\n\n\n{TOMAS}: {MOVES[3][1]}\n\n"
        f"{INES}: {MOVES[4][1]}",
        "reasoning": REASONING,
        "rewards": by_name,
    }


WORLD = {"environment": SCENES, "agent": PEOPLE, "relationship": RELATIONS, "combo": CASTS, "episode": [flat_episode()]}
LISTS = {"sotopia_env": ["01ENV1", "01ENV2"], "sotopia_hard_env": ["01ENV2"]}


def native(kind: str, record: dict) -> dict:
    """The native spelling of a flat record."""
    record = dict(record)
    if kind == "episode":
        made = {spelling.FLAT_EPISODE_NAMES.get(key, key): value for key, value in record.items() if key != "rewards"}
        return {name: made[name] for name in spelling.NATIVE["episode"]}
    record = {{"agent1_id": "agent_1_id", "agent2_id": "agent_2_id"}.get(key, key): v for key, v in record.items()}
    identifier = spelling.FLAT[kind][0]
    made = {"pk": record.pop(identifier), **record}
    if "relationship" in made:
        made["relationship"] = int(made["relationship"])
    if kind == "environment":
        made |= {"agent_constraint": None, "tag": "", "game_metadata": None}
    return made


def write_lines(path: Path, records: list) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_flat(folder: Path, world: dict) -> None:
    for kind, records in world.items():
        write_lines(folder / f"{kind}.jsonl", records)


def write_native_lines(folder: Path, world: dict) -> None:
    for kind, records in world.items():
        write_lines(folder / f"{kind}.jsonl", [native(kind, record) for record in records])


def write_native_arrays(folder: Path, world: dict) -> None:
    for kind, records in world.items():
        text = json.dumps([native(kind, record) for record in records], indent=4)
        (folder / f"{kind}.json").write_text(text, encoding="utf-8")


def write_one_file_each(folder: Path, world: dict) -> None:
    for kind, records in world.items():
        (folder / kind).mkdir()
        for record in records:
            made = native(kind, record)
            (folder / kind / f"{made['pk']}.json").write_text(json.dumps(made, indent=2), encoding="utf-8")


def write_redis(folder: Path, world: dict, *, inner=lambda record: record) -> None:
    dump = {":__main__.Person:1": {"name": "nobody"}}
    for kind, records in world.items():
        for record in records:
            made = native(kind, record)
            dump[spelling.redis_key(kind, made["pk"])] = inner(made)
    (folder / "dump.json").write_text(json.dumps(dump), encoding="utf-8")


def write_redis_of_strings(folder: Path, world: dict) -> None:
    write_redis(folder, world, inner=json.dumps)


def write_strings(folder: Path, world: dict) -> None:
    write_lines(folder / "all.jsonl", [json.dumps(record) for records in world.values() for record in records])


def write_stringified(folder: Path, world: dict) -> None:
    """Lists and mappings as the texts of Python's."""
    for kind, records in world.items():
        made = [{key: str(v) if isinstance(v, (list, dict)) else v for key, v in record.items()} for record in records]
        write_lines(folder / f"{kind}.jsonl", made)


def write_csv(folder: Path, world: dict) -> None:
    for kind, records in world.items():
        with (folder / f"{kind}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(records[0]))
            writer.writeheader()
            writer.writerows(records)


def write_first_dump(folder: Path, world: dict) -> None:
    """As the dumps of 2023: no mbti, model_id "nan", pieces of stringified lists."""
    people = []
    for person in world["agent"]:
        made = {key: value for key, value in native("agent", person).items() if key != "mbti"}
        for key in ("moral_values", "schwartz_personal_values"):
            made[key] = str([value.strip() for value in made[key]]).replace(", '", ", ' ").split(",")
        people.append({**made, "model_id": "nan"})
    assert people[0]["moral_values"] == ["['Care'", " ' Fairness']"]
    write_native_lines(folder, {**world, "agent": []})
    write_lines(folder / "agent.jsonl", people)


def write_all_in_one_backwards(folder: Path, world: dict) -> None:
    write_lines(folder / "all.jsonl", [record for records in reversed(world.values()) for record in records])


SPELLINGS = [
    write_native_lines,
    write_native_arrays,
    write_one_file_each,
    write_redis,
    write_redis_of_strings,
    write_strings,
    write_stringified,
    write_csv,
    write_first_dump,
    write_all_in_one_backwards,
]


@pytest.fixture
def world(tmp_path):
    folder = tmp_path / "world"
    folder.mkdir()
    write_flat(folder, WORLD)
    (folder / "lists.json").write_text(json.dumps(LISTS, indent=4), encoding="utf-8")
    return folder


def reasons(data) -> list[str]:
    return [f"{problem.kind}: {problem.reason}" for problem in data.problems]


# --- profiles become tasks ------------------------------------------------------------------------


def test_profiles_casts_and_lists_become_tasks(world):
    data = read(world)
    ferry, bees = data.tasks
    assert (ferry.id, ferry.pack, ferry.family, ferry.relationship) == ("01CMB1", "sotopia", "hand-craft", "friend")
    assert (ferry.tags, bees.tags, bees.relationship) == ((), ("hard",), "stranger")
    assert ferry.scenario == "Two friends wait for the last ferry. "
    assert [seat.goal for seat in ferry.seats] == [
        "Borrow 20 euros (You left your purse Hint: be frank)",
        "Keep your savings",
    ]
    assert [seat.character.name for seat in ferry.seats] == [INES, TOMAS]
    assert ferry.origin["goals"] == SCENES[0]["agent_goals"]
    assert ferry.origin["scenario"] == SCENES[0]["scenario"]
    assert bees.origin["age_constraint"] == [[30, 40], [18, 70]]
    assert bees.origin["occupation_constraint"] == [["ferry pilot"], ["baker"]]
    assert data.relationships[0]["story"] == "Ines and Tomas met on the quay."
    assert data.extras == {"01AAA": {"mbti": "ISTJ"}, "01BBB": {"mbti": "ESFP"}}
    assert data.splits == LISTS
    assert reasons(data) == ["repaired: scenario: a bare & is taken as it stands"]


def test_a_task_is_told_in_sotopias_words_and_with_names_whatever_the_relationship(world):
    ferry, bees = read(world).tasks
    for seat, context in enumerate(CONTEXTS):
        assert f"\n{backgrounds(ferry)[seat]}\nConversation Starts:\n" == context
    told = backgrounds(bees)[0].split("\n")
    assert told[1:3] == ["Scenario: Two strangers meet at Smith & Sons.", "Participants: Ines O'Dell and Tomas Vale"]
    assert "Tomas Vale's background: " in told
    goal = ["Ines O'Dell's goal: Sell honey", "You have: ", "3 jars  ", ""]
    assert told[-5:] == [*goal, "Tomas Vale's goal: Unknown"]
    names = json.loads(Conversation(bees, seed=0).view("agent_0")["facts"])["names"]
    assert names == {"agent_0": INES, "agent_1": TOMAS}


@pytest.mark.parametrize(
    ("relationship", "shown"),
    [
        ("0", ""),
        ("1", "Tomas Vale "),
        ("2", "Tomas Vale is a 51-year-old male baker. He/him pronouns. Tomas Vale runs the quay bakery. "),
        ("4", KNOWN[TOMAS]),
    ],
)
def test_the_relationship_decides_how_much_of_the_other_is_shown(tmp_path, relationship, shown):
    write_flat(tmp_path, {**WORLD, "environment": [{**SCENES[0], "relationship": relationship}], "episode": []})
    background = backgrounds(read(tmp_path).tasks[0])[0]
    assert f"\nTomas Vale's background: {shown}\n" in background
    assert f"\nInes O'Dell's background: {BIOGRAPHIES[INES]}\n" in background


def test_what_only_one_agent_may_see_of_a_scenario_stays_with_its_seat(tmp_path):
    scene = {**SCENES[0], "scenario": "A quay.<p viewer='agent_1'> You see smoke.</p>"}
    write_flat(tmp_path, {**WORLD, "environment": [scene], "combo": CASTS[:1], "episode": []})
    (task,) = read(tmp_path).tasks
    assert task.scenario == "A quay."
    assert "smoke" not in backgrounds(task)[0]
    assert "\nScenario: A quay. You see smoke.\n" in backgrounds(task)[1]
    assert "smoke" not in Conversation(task, seed=0).view("agent_0")["facts"]


def test_no_origin_reaches_an_observation(world):
    for task in read(world).tasks:
        for agent in task.agents:
            view = Conversation(task, seed=0).view(agent)
            text = view["background"] + view["facts"]
            assert "It will not come" not in text
            assert "ISTJ" not in text
            assert "01ENV" not in text


def test_tasks_of_our_own_packs_are_written_as_before():
    task = load_tasks("everyday", n=1)[0]
    assert "origin" not in task.model_dump()
    assert "wording" not in task.model_dump(mode="json")
    assert Task.model_validate(task.model_dump()) == task


# --- spellings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", SPELLINGS, ids=lambda write: write.__name__)
def test_every_spelling_of_the_same_data_gives_equal_objects(world, tmp_path, write):
    expected = read(world)
    other = tmp_path / "other"
    other.mkdir()
    write(other, WORLD)
    (other / "lists.json").write_text(json.dumps(LISTS), encoding="utf-8")
    found = read(other)
    assert [problem for problem in found.problems if problem.serious] == []
    by_id = {task.id: task for task in found.tasks}
    assert by_id == {task.id: task for task in expected.tasks}
    assert found.characters == expected.characters
    assert found.episodes == expected.episodes
    assert found.relationships == expected.relationships


def test_both_spellings_at_once_are_taken_once(world, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_first_dump(other, WORLD)
    both = read([world, other])
    assert len(both.tasks) == 2
    assert len(both.episodes) == 1
    assert [problem for problem in both.problems if problem.serious] == []


def everything(world: dict) -> list[tuple[str, dict]]:
    return [(kind, record) for kind, records in world.items() for record in records]


def redis(world: dict) -> dict:
    made = {}
    for kind, record in everything(world):
        made[spelling.redis_key(kind, native(kind, record)["pk"])] = native(kind, record)
    return made


@pytest.mark.parametrize(
    "text",
    [
        lambda: json.dumps({"visits": 3, "greeting": "hello", "idx:by.name:1": [1], **redis(WORLD)}),
        lambda: "\n".join(json.dumps({key: record}) for key, record in redis(WORLD).items()),
        lambda: json.dumps({key[1:]: [record] for key, record in redis(WORLD).items()}),
        lambda: "\n".join(json.dumps([record]) for _, record in everything(WORLD)),
        lambda: "".join(json.dumps(records) for records in WORLD.values()),
        lambda: json.dumps(json.dumps([record for _, record in everything(WORLD)])),
        lambda: "\n".join(json.dumps(repr(record)) for _, record in everything(WORLD)),
    ],
    ids=["foreign keys first", "a key per line", "JSON.GET", "an array per line", "arrays", "one string", "reprs"],
)
def test_every_arrangement_of_the_same_records_gives_equal_objects(world, tmp_path, text):
    expected = read(world)
    (tmp_path / "all.json").write_text(text(), encoding="utf-8")
    data = read([tmp_path / "all.json", world / "lists.json"])
    assert (data.tasks, data.episodes, data.characters) == (expected.tasks, expected.episodes, expected.characters)
    assert [problem for problem in data.problems if problem.serious] == []


def test_arrays_by_the_thousand_one_after_another_are_read(tmp_path):
    lines = [json.dumps([{**PEOPLE[0], "agent_id": f"A{number}"}]) for number in range(3000)]
    (tmp_path / "all.json").write_text("\n".join(lines), encoding="utf-8")
    assert len(read(tmp_path).characters) == 3000


@pytest.mark.parametrize("word", ["messages", "rewards", "events", "seats"])
def test_profiles_may_quote_any_word_and_hold_any_metadata(world, word):
    scenes = [{**SCENES[0], "scenario": f'They read of "{word}": nothing.', "game_metadata": {word: [1]}}, SCENES[1]]
    write_lines(world / "environment.jsonl", scenes)
    write_lines(world / "agent.jsonl", [{**PEOPLE[0], "secret": f'Hides her "{word}"'}, PEOPLE[1]])
    data = read(world)
    assert (len(data.tasks), len(data.characters)) == (2, 2)
    assert not any("no kind that is known" in reason for reason in reasons(data))


def test_reading_csv_leaves_the_processes_limit_of_a_field_as_it_was(world, tmp_path):
    before = csv.field_size_limit()
    write_csv(tmp_path, WORLD)
    assert read(tmp_path).tasks == read(world).tasks
    assert csv.field_size_limit() == before


def test_native_records_as_csv_with_an_index_give_equal_objects(world, tmp_path):
    expected = read(world)
    other = tmp_path / "other"
    other.mkdir()
    for kind, records in WORLD.items():
        with (other / f"{kind}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = [{"": number, **native(kind, record)} for number, record in enumerate(records)]
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    (other / "lists.json").write_text(json.dumps(LISTS), encoding="utf-8")
    data = read(other)
    assert (data.tasks, data.episodes) == (expected.tasks, expected.episodes)


@pytest.mark.parametrize("spelled", ["{number}.0", " {number} ", "RelationshipType.{name}", "{name}"])
def test_a_relationship_has_many_spellings(world, spelled):
    expected = read(world).tasks
    names = list(spelling.RELATIONSHIP_NAMES)
    scenes = [
        {**scene, "relationship": spelled.format(number=scene["relationship"], name=names[int(scene["relationship"])])}
        for scene in SCENES
    ]
    write_lines(world / "environment.jsonl", scenes)
    assert read(world).tasks == expected


def test_what_cannot_be_read_is_reported_once(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "RECORD_LIMIT", 20_000)
    lines = [json.dumps(flat_episode()), json.dumps({"x": "y" * 30_000}), '{"messages": [', '{"rewards": 1}', "{}"]
    (tmp_path / "all.jsonl").write_text("\n".join(lines), encoding="utf-8")
    places = [problem.record for problem in read(tmp_path).problems if problem.kind == "skipped"]
    assert sorted(places) == ["line 2", "line 3", "line 4", "line 5"]


@pytest.mark.parametrize(
    "value",
    ["nan", "[[], []]", "[[],[]]", "[['nan'], ['nan']]", "[['any'], ['any']]", None, "", "any", "[[None], [None]]"],
)
def test_no_occupation_constraint_has_many_spellings(tmp_path, value):
    write_flat(tmp_path, {**WORLD, "environment": [{**SCENES[0], "occupation_constraint": value}], "episode": []})
    data = read(tmp_path)
    assert "occupation_constraint" not in data.tasks[0].origin


@pytest.mark.parametrize("value", ["[actor, actor]", "[['student', 'student']]"])
def test_an_occupation_constraint_that_does_not_name_each_seats_is_kept_and_reported(tmp_path, value):
    write_flat(
        tmp_path,
        {**WORLD, "environment": [{**SCENES[0], "occupation_constraint": value}], "combo": CASTS[:1], "episode": []},
    )
    data = read(tmp_path)
    assert data.tasks[0].origin["occupation_constraint"]
    assert any("occupation constraint" in reason for reason in reasons(data))


# --- episodes -------------------------------------------------------------------------------------


def test_an_episode_has_its_task_events_and_verdict(world):
    (episode,) = read(world).episodes
    assert episode.id == "01EPI"
    assert episode.task == read(world).tasks[0]
    assert episode.agents == {"agent_0": "gpt-4", "agent_1": "org/model"}
    assert (episode.ended_by, episode.turn_order, episode.status) == ("departure", "round-robin", "complete")
    assert [(event.turn, event.speaker, event.action_type, event.argument) for event in episode.events] == [
        (0, "agent_0", "speak", 'Tomas, I left my purse.\n\nCould you lend me "20" <3 euros?'),
        (1, "agent_1", "non-verbal communication", "turns his pockets out"),
        (2, "agent_0", "none", ""),
        (3, "agent_1", "action", "walks to the rail & waits"),
        (4, "agent_0", "leave", ""),
    ]
    verdict = episode.verdicts["sotopia/gpt-4"]
    assert [verdict.values(agent) for agent in episode.task.agents] == SCORES
    assert verdict.scores["agent_1"]["goal"].reason == "goal of 2."
    assert episode.rewards == {f"agent_{seat}": overall(scores) for seat, scores in enumerate(SCORES)}
    assert episode.origin == {"tag": "gpt-4_org/model_v0.0.1_clean"}
    assert verdict.details["prompt"] == "Prompt after formatting:\nscore this"


def test_an_episode_gives_back_its_messages(world):
    (episode,) = read(world).episodes
    assert messages_of(episode) == messages()


def variant(**changes) -> dict:
    return {**native("episode", flat_episode()), **changes}


PAIRS = flat_episode()["raw_rewards"]
SAME_EPISODE = {
    "pairs as tuples in text": variant(rewards=[str(tuple(pair)) for pair in PAIRS]),
    "mappings": variant(rewards=[pair[1] for pair in PAIRS]),
    "mappings without overall": variant(rewards=SCORES),
    "whole numbers": variant(
        rewards=[[pair[0], {k: int(v) for k, v in s.items()}] for pair, s in zip(PAIRS, SCORES, strict=True)]
    ),
    "a blank before actions": variant(
        messages=[[[a, b, c if a == "Environment" else f" {c}"] for a, b, c in turn] for turn in messages()]
    ),
    "only what the environment tells": variant(messages=[turn[:2] for turn in messages()]),
    "without the last turn": variant(messages=messages()[:-1]),
    "messages as JSON texts": variant(messages=[json.dumps(turn) for turn in messages()]),
    "messages as Python's texts": variant(messages=[str(turn) for turn in messages()]),
    "messages as one text": variant(messages=json.dumps(messages())),
    "agent_classes": variant(agent_classes=[]),
    "the hub's 14 features": {
        **{k: v for k, v in flat_episode().items() if k != "raw_rewards"},
        "agents_background": str(BIOGRAPHIES),
        "social_goals": str(flat_episode()["social_goals"]),
        "raw_messages": [str(turn) for turn in messages()],
        "experiment_model_name_pairs": str(["gpt-4", "gpt-4", "org/model"]),
    },
}


@pytest.mark.parametrize("record", SAME_EPISODE.values(), ids=SAME_EPISODE)
def test_every_shape_of_an_episode_is_the_same_episode(world, tmp_path, record):
    expected = read(world).episodes
    (world / "episode.jsonl").unlink()
    write_lines(tmp_path / "one.jsonl", [record])
    data = read([world, tmp_path / "one.jsonl"])
    assert [problem for problem in data.problems if problem.serious] == []
    assert data.episodes == expected


@pytest.mark.parametrize("rewards", [[0.0, 0.0], [0, 0], None, [], [None, None]], ids=str)
def test_an_unscored_episode_has_no_verdict_and_no_reward(world, rewards):
    write_lines(world / "episode.jsonl", [variant(rewards=rewards, rewards_prompt="", reasoning="")])
    (episode,) = read(world).episodes
    assert (episode.verdicts, episode.rewards) == ({}, {})
    assert episode.ended_by == "departure"
    assert episode.origin["evaluator"] == "gpt-4"


def test_scores_written_as_text_are_the_same_scores(world):
    expected = read(world).episodes
    words = [[str(pair[0]), {name: str(value) for name, value in pair[1].items()}] for pair in PAIRS]
    write_lines(world / "episode.jsonl", [variant(rewards=words)])
    data = read(world)
    assert data.episodes == expected
    assert [problem for problem in data.problems if problem.serious] == []


def test_reasons_with_line_ends_of_windows_are_the_same_reasons(world):
    expected = read(world).episodes
    write_lines(world / "episode.jsonl", [variant(reasoning=REASONING.replace("\n", "\r\n"))])
    assert read(world).episodes == expected


@pytest.mark.parametrize(
    ("reasoning", "kept"),
    [
        (
            "Environment comments: the ferry came; \nBoth were kind.",
            "Environment comments: the ferry came; \nBoth were kind.",
        ),
        ("Environment comments: terminated: Agent 1 is leaving; \nBoth were kind.", "Both were kind."),
        ("Both were kind.", "Both were kind."),
    ],
)
def test_reasoning_that_is_no_agents_is_kept_in_the_details_or_said_to_be_lost(world, reasoning, kept):
    write_lines(world / "episode.jsonl", [variant(reasoning=reasoning)])
    (episode,) = read(world).episodes
    assert episode.verdicts["sotopia/gpt-4"].details["reasoning"] == kept
    write_lines(world / "episode.jsonl", [variant(reasoning=reasoning, rewards=[0, 0], rewards_prompt="")])
    data = read(world)
    assert data.episodes[0].verdicts == {}
    assert "lost: it was not scored, so the reasons are not taken over" in reasons(data)


def test_a_bare_overall_score_is_kept_as_a_measure_and_is_no_reward(world):
    write_lines(world / "episode.jsonl", [variant(rewards=[2.0, 3.5])])
    (episode,) = read(world).episodes
    assert episode.rewards == {}
    assert episode.verdicts["sotopia/gpt-4"].measures == {"overall/agent_0": 2.0, "overall/agent_1": 3.5}


def test_a_score_out_of_range_is_absent_and_reported_never_clipped(world):
    scores = {**SCORES[0], "goal": 11.0}
    write_lines(world / "episode.jsonl", [variant(rewards=[scores, SCORES[1]])])
    data = read(world)
    (episode,) = data.episodes
    assert "goal" not in episode.verdicts["sotopia/gpt-4"].scores["agent_0"]
    assert episode.rewards == {}
    assert any("lost: the score 11.0" in reason for reason in reasons(data))
    with pytest.raises(TaskFormatError, match=r"the score 11\.0"):
        read(world, strict=True)


def test_an_overall_score_that_is_not_the_mean_is_reported(world):
    write_lines(world / "episode.jsonl", [variant(rewards=[[9.0, SCORES[0]], [PAIRS[1][0], SCORES[1]]])])
    data = read(world)
    assert data.episodes[0].rewards["agent_0"] == overall(SCORES[0])
    assert any("the overall score 9.0 is not" in reason for reason in reasons(data))


def old_episode() -> dict:
    keys = ("episode_id", "scenario", "codename", "agents_background", "social_goals", "social_interactions")
    return {key: flat_episode()[key] for key in (*keys, "reasoning", "rewards")}


def test_the_older_export_of_eight_keys_finds_its_task_and_turns_by_their_texts(world):
    expected = read(world).episodes[0]
    write_lines(world / "episode.jsonl", [old_episode()])
    (episode,) = read(world).episodes
    assert episode.task == expected.task
    assert episode.events == expected.events
    assert episode.rewards == expected.rewards
    assert episode.agents == {"agent_0": "unknown", "agent_1": "unknown"}


@pytest.mark.parametrize(
    ("record", "kind"), [(variant(), "repaired"), (old_episode(), "lost")], ids=["native", "eight keys"]
)
def test_without_profiles_the_task_is_read_from_the_episodes_own_texts_and_that_is_said(tmp_path, record, kind):
    write_lines(tmp_path / "one.jsonl", [record])
    data = read(tmp_path)
    (episode,) = data.episodes
    character = episode.task.seats[1].character
    assert (character.name, character.age, character.gender, character.occupation) == (TOMAS, 51, "Man", "baker")
    assert character.secret == "He owes the harbour office money"
    assert episode.task.seats[0].goal == "Borrow 20 euros (You left your purse Hint: be frank)"
    assert any(reason.startswith(f"{kind}: its profiles are not there") for reason in reasons(data))
    if "messages" in record:
        assert episode.task.relationship == "friend"
        assert messages_of(episode) == messages()


def test_both_acting_in_a_turn_is_the_simultaneous_order(world):
    turns = messages()
    turns[1][2][2] = 'said: "Wait."'
    write_lines(world / "episode.jsonl", [variant(messages=turns)])
    (episode,) = read(world).episodes
    assert episode.turn_order == "simultaneous"
    assert [(e.speaker, e.action_type) for e in episode.events if e.turn == 1] == [
        ("agent_0", "speak"),
        ("agent_1", "non-verbal communication"),
    ]


def test_a_whisper_is_seen_only_by_those_it_is_for(world):
    turns = messages()
    turns[0][2][2] = " [private to ['Tomas Vale']] said: \"Psst.\""
    write_lines(world / "episode.jsonl", [variant(messages=turns)])
    (episode,) = read(world).episodes
    assert (episode.events[0].argument, episode.events[0].to) == ("Psst.", ("agent_1",))


def test_an_imported_episode_and_task_play_and_render_like_any_other(world):
    (episode,) = read(world).episodes
    rendered = chat.render(conversation_of(episode).view("agent_0"))
    assert [message["role"] for message in rendered] == ["system", "user", "assistant"] + ["user", "assistant"] * 2
    assert rendered[0]["content"].startswith(backgrounds(episode.task)[0])
    played = sotopia_env.rollout(read(world).tasks, agents=["random", "random"], judge=None, seed=1)
    assert [each.status for each in played] == ["complete", "complete"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads the old name
def test_an_imported_episode_is_filtered_and_trained_on_like_any_other(world, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("trl")
    from sotopia_env.trainers.behavior_cloning import TrainSettings, train
    from sotopia_env.trainers.filters import paper_sr

    kept = paper_sr(read(world).episodes, share=1.0).kept
    assert [each.agent for each in kept] == ["agent_0", "agent_1"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: i for i, letter in enumerate([*alphabet, "<|end|>"])}, [])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|end|>",
        pad_token="<|end|>",
        chat_template="{% for m in messages %}{{ m.role + m.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}",
    )
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=16_384, **size)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = TrainSettings(method="full", learning_rate=1e-2, max_steps=4, max_length=16_384, logging_steps=1)
    result = train(tmp_path / "base", kept, tmp_path / "policy", settings)
    assert (result.steps, result.data["trajectories"]) == (4, 2)
    assert result.losses[-1]["loss"] < result.losses[0]["loss"] - 0.1


# --- what cannot be understood --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"relationship": "close"}, "'relationship' must be 0 to 5"),
        ({"relationship": None}, "'relationship' must be 0 to 5"),
        ({"agent_goals": ["a", " b", " c (<extra_info>", " d"]}, "it has 4 goals for 2 seats"),
        ({"agent_goals": "Borrow"}, "must be a list of texts"),
        ({"env_id": "../../etc/passwd"}, "an id has 1 to 200"),
        ({"env_id": None}, "it has no 'env_id'"),
        ({"scenario": "<!DOCTYPE x [<!ENTITY a 'aa'>]><p>&a;</p>"}, "document type"),
        ({"scenario": "A quay <p viewer='agent_0'>with smoke"}, "cannot tell who may see what"),
        ({"scenario": "\ud800"}, "surrogate"),
    ],
)
def test_a_scenario_that_cannot_be_used_is_named_and_the_rest_imported(tmp_path, change, reason):
    write_flat(tmp_path, {**WORLD, "environment": [{**SCENES[0], **change}, SCENES[1]], "episode": []})
    data = read(tmp_path)
    assert [task.id for task in data.tasks] == ["01CMB2"]
    assert any(reason in problem.reason and problem.file for problem in data.problems if problem.serious)
    with pytest.raises(TaskFormatError):
        read(tmp_path, strict=True)


def test_stray_quotes_are_kept_and_reported(tmp_path):
    scene = {**SCENES[0], "agent_goals": ["'Borrow 20 euros", "Keep your savings"]}
    write_flat(tmp_path, {**WORLD, "environment": [scene], "combo": CASTS[:1], "episode": []})
    data = read(tmp_path)
    assert data.tasks[0].seats[0].goal == "'Borrow 20 euros"
    assert any("goal 0 begins or ends with a quotation mark" in reason for reason in reasons(data))


def test_what_an_element_of_an_unknown_name_hides_is_reported(tmp_path):
    scene = {**SCENES[0], "scenario": "A quay. <EXTRA_INFO>It rains.</EXTRA_INFO> Boats lie there."}
    write_flat(tmp_path, {**WORLD, "environment": [scene, SCENES[1]], "episode": []})
    data = read(tmp_path)
    assert any("<EXTRA_INFO> is no hint" in reason for reason in reasons(data))
    assert not any("It rains" in text for task in data.tasks for text in backgrounds(task))


def test_hints_that_were_never_closed_are_taken_out_and_reported(tmp_path):
    scene = {**SCENES[0], "agent_goals": ["Borrow (<extra_info>You left your purse)", "Keep your savings"]}
    write_flat(tmp_path, {**WORLD, "environment": [scene], "combo": CASTS[:1], "episode": []})
    data = read(tmp_path)
    assert data.tasks[0].seats[0].goal == "Borrow (You left your purse)"
    assert any(reason.startswith("repaired: goal 0: hint tags") for reason in reasons(data))


def test_a_character_outside_its_age_constraint_is_reported(tmp_path):
    scene = {**SCENES[0], "age_constraint": "[(18, 30), (18, 70)]"}
    write_flat(tmp_path, {**WORLD, "environment": [scene], "combo": CASTS[:1], "episode": []})
    assert any("Ines O'Dell, 34, is not of the 18 to 30 years" in reason for reason in reasons(read(tmp_path)))


def test_broken_lines_are_named_and_the_rest_imported(world):
    path = world / "agent.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b'{"agent_id": "01X", \n' + lines[0] + b'{"first_name": "\xff"}\n[' + b"\n" + lines[1])
    data = read(world)
    assert len(data.tasks) == 2
    assert [problem.record for problem in data.problems if problem.serious] == ["line 1", "line 3", "line 4"]


def test_the_same_id_with_other_content_keeps_the_first_and_says_so(world):
    write_lines(world / "later.jsonl", [{**PEOPLE[0], "secret": "Can swim"}])
    data = read(world)
    assert data.characters["01AAA"].secret == "Cannot swim"
    assert any("stands twice with different content" in reason for reason in reasons(data))


def test_a_list_of_scenarios_with_repeats_keeps_whose_turn_it_is(world):
    record = {"pk": "01LST", "name": "hard_env_set", "environments": ["01ENV1", "01ENV1"], "agent_index": ["0", "1"]}
    (world / "list.json").write_text(json.dumps(record), encoding="utf-8")
    data = read(world)
    assert data.splits["hard_env_set"] == ["01ENV1"]
    assert data.extras["hard_env_set"] == {"environments": ["01ENV1", "01ENV1"], "agent_index": ["0", "1"]}
    assert all("hard" in task.tags for task in data.tasks)


def test_a_plain_array_of_ids_is_a_list_and_one_of_indices_is_not_followed(tmp_path):
    (tmp_path / "mine.json").write_text('["01ENV1", "01ENV2"]', encoding="utf-8")
    (tmp_path / "sotopia_hard.json").write_text("[0, 17, 4]", encoding="utf-8")
    data = read(tmp_path)
    assert data.splits == {"mine": ["01ENV1", "01ENV2"]}
    assert len(data.problems) == 1
    assert "indices into another file are not followed" in data.problems[0].reason


@pytest.mark.parametrize("name", ["Nan", "None"])
def test_words_that_look_like_nothing_are_names_all_the_same(world, name):
    write_lines(world / "more.jsonl", [{**PEOPLE[0], "agent_id": "01CCC", "first_name": name}])
    assert read(world).characters["01CCC"].name == f"{name} O'Dell"


@pytest.mark.parametrize(
    "text", ["[" + "1+" * 100_000 + "1]", "'" + "\\'" * 120_000, "[" * 250_000, "(" * 90 + ")" * 90, "{'a':" * 50_000]
)
def test_a_text_that_pretends_to_be_a_list_costs_little(text):
    before = time.process_time()
    unfolded(text)
    assert time.process_time() - before < 2


def test_an_episode_store_is_read_too(world, tmp_path):
    data = read(world)
    with EpisodeStore(tmp_path / "runs.db") as store:
        store.add_all(data.episodes)
    assert read(tmp_path / "runs.db").episodes == data.episodes


def test_human_ratings_are_kept_as_plain_records(tmp_path):
    header = ",model,pk,data,prolific_id," + ",".join(
        f"{name}_{i},{name}_reasoning_{i}" for i in (1, 2) for name in DIMENSION_NAMES
    )
    row = '0,mistral,01EPI,"{""scenario"": ""a, b""}",p1,' + ",".join("3,ok" for _ in range(14))
    (tmp_path / "ratings.csv").write_bytes(f"{header}\r\n{row}\r\n".encode())
    (rating,) = read(tmp_path).ratings
    assert (rating["pk"], rating["goal_2"], rating["data"], rating["kind"]) == (
        "01EPI",
        "3",
        '{"scenario": "a, b"}',
        "rating",
    )


# --- hostile files --------------------------------------------------------------------------------

HOSTILE = {
    "deep": b"[" * 100_000,
    "deep line": b'{"env_id": ' + b"[" * 100_000 + b"\n",
    "utf-16": '{"env_id": "x"}'.encode("utf-16"),
    "latin-1": '{"env_id": "caf\xe9"}\n'.encode("latin-1"),
    "truncated": b'[{"env_id": "x", "scenario": "y", "agent_go',
    "nul": b"\0" * 100,
    "gzip": b"\x1f\x8b\x08\x00",
    "pickle": b"\x80\x04\x95\x00",
    "open quote": b'episode_id,x\n"' + b"a\n" * 10,
    "huge number": b'[{"env_id": ' + b"9" * 5000 + b"}]",
    "empty": b"",
    "text": b"hello",
    "database": b"SQLite format 3\0" + b"\0" * 100,
    "parquet": b"PAR1garbagePAR1",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_end_in_one_line_and_nothing_is_written(tmp_path, monkeypatch, content):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "file.json").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["import", "input/file.json", "--out", "out", "--store", "runs.db", "-q"])
    assert result.exit_code == 1, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert "file.json" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input"]
    assert list((tmp_path / "input").iterdir()) == [tmp_path / "input" / "file.json"]


@pytest.mark.parametrize(
    "size", [pytest.param(64 << 20, id="64 MiB"), pytest.param(2 << 30, id="2 GiB", marks=pytest.mark.slow)]
)
def test_a_line_that_is_far_too_long_is_passed_over_in_little_memory(world, size):
    path = world / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"env_id": "' + b"a" * 100_000)
        file.truncate(size)  # a hole in the file: it takes no disk
        file.seek(0, 2)
        file.write(b'"}\n' + json.dumps({**CASTS[0], "combo_id": "01CMB3"}).encode() + b"\n")
    tracemalloc.start()
    data = read(world)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [str(problem) for problem in data.problems if problem.serious] == [
        f"{path}, line 1: longer than the {streams.RECORD_LIMIT} bytes that a record may have (skipped)"
    ]
    assert [task.id for task in data.tasks] == ["01CMB1", "01CMB2", "01CMB3"]
    assert peak < 4 * streams.RECORD_LIMIT


def test_a_fifo_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    data = read([tmp_path / "pipe"])
    assert reasons(data) == ["skipped: not a regular file; only files and folders are read"]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_file_gives_objects_or_problems_and_never_another_error(tmp_path_factory, data):
    text = json.dumps(flat_episode()).encode() if data.draw(st.booleans()) else json.dumps(SCENES).encode()
    where = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 40))
    damaged = text[:where] + data.draw(st.binary(max_size=8)) + text[where + length :]
    path = tmp_path_factory.mktemp("damage") / "file.json"
    path.write_bytes(damaged)
    found = read(path)
    assert found.episodes or found.problems


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(sorted(WORLD)), value=JSON, spelled=st.booleans(), data=st.data())
def test_any_value_in_any_field_is_understood_or_reported(tmp_path_factory, kind, value, spelled, data):
    record = WORLD[kind][0] if spelled else native(kind, WORLD[kind][0])
    field = data.draw(st.sampled_from(sorted(record)))
    folder = tmp_path_factory.mktemp("fields")
    write_flat(folder, {**WORLD, kind: []})
    write_lines(folder / "changed.jsonl", [{**record, field: value}])
    found = read(folder)
    for task in found.tasks:
        assert Task.model_validate_json(task.model_dump_json()) == task


# --- hints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "viewer", "seen"),
    [
        ("a <extra_info>b</extra_info> c", "agent_0", "a b c"),
        ("a <p viewer='agent_1'>b</p> c", "agent_0", "a  c"),
        ("a <p viewer='agent_1'>b <p>c</p></p>", "agent_1", "a b c"),
        ("a <p viewer='agent_1'>b</p> c", "environment", "a b c"),
        ("a <b>c</b>", "agent_0", "a "),
        ("salt & pepper", "agent_0", "salt & pepper"),
        ("salt & <extra_info>pepper</extra_info>", "agent_0", "salt & pepper"),
        ("1 &lt; 2", "agent_0", "1 < 2"),
        ("I <3 you", "agent_0", "I <3 you"),
        ("line\r\nend &amp; more", "agent_0", "line\r\nend & more"),
    ],
)
def test_hints_show_each_viewer_its_own(text, viewer, seen):
    assert hints.shown_to(text, viewer).text == seen


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_an_escaped_text_is_seen_as_it_is_or_refused_by_no_one(text):
    assert hints.shown_to(hints.escape(text), "agent_0").text == text or not text.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        '<p viewer="agent_1"S</p> rest <extra_info>',
        '< p viewer="agent_1">S</p> rest',
        '<p viewer="agent_1" S</p',
        "<p class='x' VIEWER=agent_1>S</p> rest & <extra_info>",
        '<p viewer="environment">S & rest',
    ],
)
def test_a_broken_tag_with_a_viewer_is_refused_for_one_cannot_tell_whom_it_hides_from(text):
    with pytest.raises(UnusableRecordError, match="who may see what"):
        hints.shown_to(text, "agent_0")


def test_an_entity_bomb_is_refused():
    bomb = '<!DOCTYPE a [<!ENTITY x "xxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]><p>&y;</p>'
    with pytest.raises(UnusableRecordError, match="neither is ever read"):
        hints.shown_to(bomb, "agent_0")


@given(
    st.sampled_from(["speak", "action", "non-verbal communication", "none", "leave"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
def test_action_lines_are_read_as_they_were_written(kind, argument):
    argument = "" if kind in ("none", "leave") else argument
    assert spelling.read_action(spelling.action_line(kind, argument)) == (kind, argument, None)


# --- the pack -------------------------------------------------------------------------------------


def test_the_pack_is_loaded_from_a_path_with_its_hard_split(world, monkeypatch):
    assert [task.id for task in load_tasks("sotopia", path=world)] == ["01CMB1", "01CMB2"]
    assert [task.id for task in load_tasks("sotopia", path=world, split="hard")] == ["01CMB2"]
    assert [task.id for task in load_tasks("sotopia-hard", path=world)] == ["01CMB2"]
    assert [task.id for task in load_tasks("sotopia/hand-craft", path=world)] == ["01CMB1"]
    monkeypatch.setenv("SOTOPIA_DATA", str(world))
    environment = sotopia_env.parallel_env(tasks="sotopia", judge=None)
    observations, _ = environment.reset(seed=0, options={"task": "01CMB2"})
    assert observations["agent_0"]["background"].startswith("Here is the context of this interaction:")


def test_the_pack_says_what_is_missing(world, tmp_path):
    with pytest.raises(TaskNotFoundError, match="There is no SOTOPIA data"):
        load_tasks("sotopia", path=tmp_path / "nowhere")
    with pytest.raises(TaskNotFoundError, match="Unknown split of 'sotopia' 'harder'"):
        load_tasks("sotopia", path=world, split="harder")
    with pytest.raises(ConfigurationError, match="only 'sotopia' takes one"):
        load_tasks("everyday", path=world)
    (world / "lists.json").unlink()
    with pytest.raises(TaskNotFoundError, match="does not say which scenarios are hard"):
        load_tasks("sotopia", path=world, split="hard")
    (world / "combo.jsonl").unlink()
    with pytest.raises(TaskNotFoundError, match="holds no tasks"):
        load_tasks("sotopia", path=world)


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(monkeypatch):
    import huggingface_hub

    def unreachable(*_args, **_options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.delenv("SOTOPIA_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ConfigurationError, match=r"cannot be loaded from the Hugging Face hub .*no connection.*path="):
        load_tasks("sotopia")


def test_the_hub_gives_the_same_as_files(monkeypatch, world):
    import huggingface_hub

    files = {"environment_profiles": "environment", "agent_profiles": "agent", "relationship_profiles": "relationship"}
    files |= {"env_agent_combo_storages": "combo"}

    def download(repository, name, *, repo_type):
        assert (repository, repo_type) == ("cmu-lti/sotopia", "dataset")
        return str(world / ("lists.json" if name == "splits.json" else f"{files[name.removesuffix('.jsonl')]}.jsonl"))

    monkeypatch.delenv("SOTOPIA_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert load_tasks("sotopia", split="hard") == load_tasks("sotopia", path=world, split="hard")


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_tasks_characters_lists_and_a_store(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["import", str(world), "--out", "out", "--json", "-q"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["tasks"], summary["episodes"], summary["stored"], summary["characters"]) == (2, 1, 1, 2)
    data = read(world)
    assert read_tasks(tmp_path / "out") == data.tasks
    with EpisodeStore(tmp_path / "out" / "episodes.db", create=False) as store:
        assert list(store.episodes()) == data.episodes
    again = read(tmp_path / "out")
    assert (again.tasks, again.episodes, again.characters) == (data.tasks, data.episodes, data.characters)
    assert (again.splits, again.relationships, again.extras) == (data.splits, data.relationships, data.extras)
    assert [problem for problem in again.problems if problem.serious] == []


def test_episodes_are_added_to_a_store_that_exists_once(world, tmp_path):
    location = str(tmp_path / "runs.db")
    for stored in (1, 0):
        result = CliRunner().invoke(app, ["import", str(world), "--store", location, "--json", "-q"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["stored"] == stored
    with EpisodeStore(location, create=False) as store:
        assert len(store) == 1


def test_a_strict_import_writes_nothing_if_anything_is_skipped(world, tmp_path):
    (world / "bad.jsonl").write_text('{"env_id": "01BAD", "scenario": "x", "agent_goals": []}\n', encoding="utf-8")
    result = CliRunner().invoke(app, ["import", str(world), "--out", str(tmp_path / "out"), "--strict", "-q"])
    assert result.exit_code == 1
    assert "bad.jsonl, line 1" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world"]


def test_problems_go_to_a_file_of_their_own(world, tmp_path):
    place = tmp_path / "problems.jsonl"
    result = CliRunner().invoke(app, ["import", str(world), "--problems", str(place), "-q"])
    assert result.exit_code == 0, result.output
    assert "Nothing was written" in result.stdout
    (line,) = place.read_text().splitlines()
    assert json.loads(line)["reason"] == "scenario: a bare & is taken as it stands"


def test_our_own_tasks_and_episodes_are_recognised(tmp_path):
    tasks = load_tasks("everyday", n=3)
    episodes = list(sotopia_env.rollout(tasks, agents=["random", "random"], judge=None, seed=1))
    write_tasks(tmp_path / "a.jsonl", tasks)
    write_episodes(tmp_path / "b.jsonl", episodes)
    data = read(tmp_path)
    assert (data.tasks, data.episodes, data.problems) == (tasks, episodes, [])
    assert list(iterate(tmp_path)) == [*tasks, *episodes]


def test_a_task_may_take_sotopias_wording_itself():
    seats = tuple(Seat(character=CharacterProfile(id=name, name=name), goal=f"{name}'s aim") for name in ("Ada", "Bo"))
    task = Task(id="t", scenario="A room.", seats=seats, wording="sotopia")
    assert backgrounds(task)[1].endswith("\nAda's goal: Unknown\nBo's goal: Bo's aim")


# --- the sample -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample():
    return read(SAMPLE)


@needs_sample
def test_the_sample_imports_whole(sample):
    assert (len(sample.tasks), len(sample.characters), len(sample.relationships), len(sample.splits)) == (
        450,
        40,
        120,
        7,
    )
    assert len(sample.episodes) == 6
    assert sum("hard" in task.tags for task in sample.tasks) == 70
    assert [problem for problem in sample.problems if problem.serious] == []
    assert sum("occupation constraint" in problem.reason for problem in sample.problems) == 1
    assert len({problem.record for problem in sample.problems if "bare &" in problem.reason}) == 7


@needs_sample
def test_every_goal_and_scenario_is_shown_as_sotopias_own_renderer_shows_it(sample):
    scenes = {}
    for line in (SAMPLE / "environment_profiles.jsonl").read_text(encoding="utf-8").splitlines():
        scenes[json.loads(line)["env_id"]] = json.loads(line)
    rendered = [json.loads(line) for line in (SAMPLE / "rendered_20.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rendered) == 20
    for golden in rendered:
        scene = scenes[golden["pk"]]
        tasks = [task for task in sample.tasks if task.origin["environment"] == golden["pk"]]
        assert len(tasks) == 5
        for viewer in ("environment", "agent_0", "agent_1"):
            assert hints.shown_to(scene["scenario"], viewer).text == golden[f"scenario_{viewer}"]
        for task in tasks:
            for seat, viewer in enumerate(task.agents):
                assert task.seats[seat].goal == golden[f"goal_{viewer}"]
                assert task.seats[seat].private.get("scenario", task.scenario) == golden[f"scenario_{viewer}"]
        shown = [hints.shown_to(goal, "environment").text for goal in scene["agent_goals"]]
        assert shown == golden["goal_environment"]


@needs_sample
def test_the_genuine_episodes_observations_are_reproduced_turn_by_turn(sample):
    genuine = {}
    for line in (SAMPLE / "episodes_flat_5.jsonl").read_text(encoding="utf-8").splitlines():
        genuine[json.loads(line)["episode_id"]] = json.loads(line)["raw_messages"]
    log = json.loads((SAMPLE / "episode_log_native.json").read_text(encoding="utf-8"))
    genuine[log["pk"]] = log["messages"]
    assert {episode.id: messages_of(episode) for episode in sample.episodes} == genuine
    tasks = {task.id for task in sample.tasks}
    assert sum(episode.task.id in tasks for episode in sample.episodes) == 5


@needs_sample
def test_overall_is_the_mean_of_the_seven(sample):
    for line in (SAMPLE / "episodes_flat_5.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        (episode,) = (each for each in sample.episodes if each.id == record["episode_id"])
        for seat, scores in enumerate(record["rewards"]):
            assert episode.rewards[f"agent_{seat}"] == pytest.approx(scores["overall_score"], abs=1e-12)
            (verdict,) = episode.verdicts.values()
            assert verdict.values(f"agent_{seat}") == {name: scores[name] for name in DIMENSION_NAMES}
            assert all(score.reason for score in verdict.scores[f"agent_{seat}"].values())


@needs_sample
@pytest.mark.parametrize("write", SPELLINGS, ids=lambda write: write.__name__)
def test_the_sample_in_other_spellings_is_equal(sample, tmp_path, write):
    files = {
        "environment": "environment_profiles",
        "agent": "agent_profiles",
        "relationship": "relationship_profiles",
        "combo": "env_agent_combo_storages",
        "episode": "episodes_flat_5",
    }
    copy = {}
    for kind, name in files.items():
        lines = (SAMPLE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        copy[kind] = [json.loads(line) for line in lines]
    write(tmp_path, copy)
    (tmp_path / "splits.json").write_bytes((SAMPLE / "splits.json").read_bytes())
    data = read(tmp_path)
    assert [problem for problem in data.problems if problem.serious] == []
    assert {task.id: task for task in data.tasks} == {task.id: task for task in sample.tasks}
    assert data.characters == sample.characters
    flat = {episode.id: episode for episode in sample.episodes if not episode.task.id.startswith("text-")}
    assert {episode.id: episode for episode in data.episodes} == flat
