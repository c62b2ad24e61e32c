"""What goes out can come in again, equal; and no text can break a format, a file or a card."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sotopia_env import (
    ConfigurationError,
    Episode,
    EpisodeStore,
    Event,
    MissingExtraError,
    Score,
    StoreError,
    TaskFormatError,
    Verdict,
    load_tasks,
    rollout,
)
from sotopia_env.actions import ACTION_TYPES
from sotopia_env.chat import render
from sotopia_env.cli import app
from sotopia_env.cli.exporting import open_records
from sotopia_env.conversation import conversation_of
from sotopia_env.dimensions import DIMENSION_NAMES, DIMENSIONS
from sotopia_env.episodes import read_episodes
from sotopia_env.interop import iterate, read
from sotopia_env.interop.columns import EXACT
from sotopia_env.interop.export import FORMATS, export_records
from sotopia_env.interop.hub import read_dataset
from sotopia_env.interop.parquet import read_parquet
from sotopia_env.tasks import RELATIONSHIPS, SPLITS, CharacterProfile, Seat, Task, read_tasks

TASKS = load_tasks("outcome", n=6)
NASTY = [
    "\x00",
    "a\x00b",
    "😀\U0001f9d1\u200d\U0001f680",
    "é ñ 日本",
    "'",
    '"',
    "\\",
    "\n\r\n",
    "\u2028\u2029\x85",
    "---\nlicense: evil\n---",
    "`code` **bold** <script>alert(1)</script> | cell |\n# Heading",
    "</p><p viewer='environment'>&amp;",
    "\x1b[31m",
    " ",
    "=1+1",
]
LONE = ["\ud800", "a\udc00b"]
"""Lone surrogates: no task and no name in a mapping may hold them, but an episode's and a verdict's texts may."""


# --- arbitrary records ------------------------------------------------------------------------------

texts = st.text(max_size=20) | st.sampled_from(NASTY)
loose_texts = texts | st.sampled_from(LONE)
names = texts.filter(bool)
numbers = st.floats(allow_nan=False, allow_infinity=False)


def json_values(text):
    return st.recursive(
        st.none() | st.booleans() | st.integers() | numbers | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    )


facts = st.dictionaries(texts.filter(lambda key: key != "rules"), json_values(texts), max_size=3)
characters = st.builds(
    CharacterProfile,
    id=names,
    name=names,
    age=st.none() | st.integers(0, 130),
    gender=texts,
    pronouns=texts,
    occupation=texts,
    public_info=texts,
    personality=texts,
    secret=texts,
    origin=st.just({}) | facts,
)
casts = st.lists(characters, min_size=2, max_size=3, unique_by=lambda character: character.id)


@st.composite
def free_tasks(draw):
    return Task(
        id=draw(names),
        pack=draw(texts),
        family=draw(texts),
        split=draw(st.sampled_from(SPLITS)),
        scenario=draw(names),
        relationship=draw(st.sampled_from(RELATIONSHIPS)),
        terms=draw(facts),
        seats=tuple(Seat(character=who, goal=draw(texts), private=draw(facts)) for who in draw(casts)),
        tags=tuple(draw(st.lists(texts, max_size=2))),
        wording=draw(st.sampled_from(["own", "sotopia"])),
        origin=draw(st.just({}) | facts),
    )


any_task = free_tasks() | st.sampled_from(TASKS)


@st.composite
def any_episodes(draw):
    task = draw(any_task)
    speakers = st.sampled_from([*task.agents, "environment"])
    events = st.builds(
        Event,
        turn=st.integers(0, 19),
        speaker=speakers,
        action_type=st.sampled_from(ACTION_TYPES),
        argument=loose_texts,
        to=st.none() | st.lists(speakers, max_size=2).map(tuple),
        parse_failure=st.booleans(),
    )
    scores = st.fixed_dictionaries(
        {
            agent: st.dictionaries(texts, st.builds(Score, value=numbers, reason=loose_texts), max_size=2)
            for agent in task.agents
        }
    )
    verdicts = st.builds(
        Verdict,
        judge=loose_texts,
        scores=st.just({}) | scores,
        measures=st.dictionaries(texts, numbers, max_size=2),
        details=st.dictionaries(texts, json_values(loose_texts), max_size=2),
    )
    return Episode(
        id=draw(st.just("") | loose_texts),
        task=task,
        agents={agent: draw(loose_texts) for agent in task.agents},
        turn_order=draw(st.sampled_from(["round-robin", "simultaneous", "random"])),
        max_turns=draw(st.integers(1, 50)),
        seed=draw(st.integers()),  # of any size: some take 128 bits from the system
        repeat=draw(st.integers(0, 9)),
        events=tuple(draw(st.lists(events, max_size=4))),
        ended_by=draw(st.sampled_from([None, "deal", "departure", "silence", "turn_limit"])),
        verdicts=draw(st.dictionaries(texts, verdicts, max_size=2)),
        rewards=draw(st.just({}) | st.fixed_dictionaries(dict.fromkeys(task.agents, numbers))),
        status=draw(st.sampled_from(["complete", "failed", "judge_failed"])),
        error=draw(st.none() | loose_texts),
        usage=draw(st.dictionaries(texts, st.dictionaries(texts, st.integers(), max_size=2), max_size=2)),
        started_at=draw(st.none() | loose_texts),
        seconds=draw(st.none() | numbers),
        code_version=draw(loose_texts),
    )


def played(n=6, **options):
    return list(rollout(load_tasks("outcome", n=n), ["scripted/fair", "scripted/tough"], judge="outcome", **options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples of a property: files are replaced."""
    return tmp_path_factory.mktemp("exported")


# --- out and in again -------------------------------------------------------------------------------


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(records=st.lists(any_episodes(), min_size=1, max_size=3))
def test_any_episode_comes_back_equal_from_jsonl_and_from_parquet(folder, records):
    export_records(records, folder / "e.jsonl", "jsonl")
    assert list(read_episodes(folder / "e.jsonl")) == records
    export_records(records, folder / "e.parquet", "parquet")
    assert list(read_parquet(folder / "e.parquet")) == records
    assert list(open_records(str(folder / "e.parquet"))) == list(open_records(str(folder / "e.jsonl"))) == records
    assert list(iterate(folder / "e.parquet")) == list(iterate(folder / "e.jsonl")) == records


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(records=st.lists(any_task, min_size=1, max_size=3, unique_by=lambda task: task.id))
def test_any_task_comes_back_equal_from_jsonl_and_from_parquet(folder, records):
    export_records(records, folder / "t.jsonl", "jsonl")
    assert read_tasks(folder / "t.jsonl") == records
    export_records(records, folder / "t.parquet", "parquet")
    assert list(read_parquet(folder / "t.parquet")) == records
    assert list(open_records(str(folder / "t.parquet"))) == list(open_records(str(folder / "t.jsonl"))) == records
    assert list(iterate(folder / "t.parquet")) == list(iterate(folder / "t.jsonl")) == records


def test_only_what_does_not_fit_its_columns_is_kept_as_json(tmp_path):
    import pyarrow.parquet

    usual = played(1)[0]
    huge = usual.model_copy(update={"seed": 2**90})
    export_records([usual, huge], tmp_path / "e.parquet", "parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "e.parquet").to_pylist()
    assert rows[0][EXACT] is None
    assert rows[1][EXACT] is not None
    assert rows[1]["seed"] is None
    assert rows[0]["events"][0]["argument"] == usual.events[0].argument
    assert rows[0]["rewards"] == [{"name": agent, "value": value} for agent, value in usual.rewards.items()]


def test_columns_of_any_number_of_row_groups_come_back_in_order(tmp_path, monkeypatch):
    import pyarrow.parquet

    monkeypatch.setattr("sotopia_env.interop.columns.BATCH_CHARACTERS", 20_000)
    records = played(40)
    export_records(records, tmp_path / "e.parquet", "parquet")
    assert pyarrow.parquet.ParquetFile(tmp_path / "e.parquet").metadata.num_row_groups > 3
    assert list(read_parquet(tmp_path / "e.parquet")) == records


# --- Hugging Face datasets --------------------------------------------------------------------------


def test_a_dataset_folder_opens_with_load_from_disk_and_load_dataset_and_comes_back_equal(tmp_path):
    import datasets

    records = [
        each.model_copy(update={"task": each.task.model_copy(update={"split": split})})
        for each, split in zip(played(6), ["train", "test", "train", "validation", "test", "train"], strict=True)
    ]
    done = export_records(records, tmp_path / "set", "datasets")
    assert done.written == {"episodes": 6}
    data = datasets.load_from_disk(tmp_path / "set")
    assert {split: len(rows) for split, rows in data.items()} == {"train": 3, "validation": 1, "test": 2}
    assert data["train"][1]["events"][0]["argument"] == records[2].events[0].argument
    datasets.disable_progress_bars()
    again = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.to_list() for split, rows in again.items()} == {
        split: rows.to_list() for split, rows in data.items()
    }
    assert sorted(read_dataset(tmp_path / "set"), key=lambda e: e.id) == sorted(records, key=lambda e: e.id)
    imported = read(tmp_path / "set")
    assert sorted(imported.episodes, key=lambda e: e.id) == sorted(records, key=lambda e: e.id)
    assert imported.splits == {}
    assert [problem for problem in imported.problems if problem.kind != "ignored"] == []
    assert sorted(open_records(str(tmp_path / "set")), key=lambda e: e.id) == sorted(records, key=lambda e: e.id)


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(records=st.lists(any_episodes(), min_size=1, max_size=2))
def test_any_episode_goes_through_a_dataset_folder(tmp_path_factory, records):
    out = tmp_path_factory.mktemp("set") / "set"
    export_records(records, out, "datasets")
    assert sorted(read_dataset(out), key=repr) == sorted(records, key=repr)


@pytest.mark.parametrize("text", [*NASTY, *LONE, "x" * 5000])
def test_no_name_can_break_the_dataset_card(tmp_path, text):
    import yaml
    from huggingface_hub import DatasetCard

    plain = played(1)[0]
    task = plain.task.model_copy(update={"pack": text if text not in LONE else "p", "scenario": text})
    hostile = plain.model_copy(
        update={
            "task": task,
            "agents": {"agent_0": text, "agent_1": "fine"},
            "verdicts": {text: plain.verdicts["outcome"]},
        }
    )
    cards = []
    for number, record in enumerate((plain, hostile)):
        export_records([record], tmp_path / str(number), "datasets")
        cards.append((tmp_path / str(number) / "README.md").read_text(encoding="utf-8"))
        loaded = DatasetCard.load(tmp_path / str(number) / "README.md")
        assert loaded.data.configs[0]["data_files"] == [{"split": "train", "path": "train/*.arrow"}]
        assert loaded.data.license is None
    metadata, _, body = cards[1].removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(metadata) == yaml.safe_load(cards[0].removeprefix("---\n").partition("\n---\n")[0])
    listed = [line for line in body.splitlines() if line.startswith("- ")]
    assert len(listed) == 5  # pack, status, two agents, judge: a line each, whatever they are called
    for line in listed:
        assert line.count("`") == 2
        assert line.isprintable()
        assert len(line) < 100
    heads = [line for line in body.splitlines() if line.startswith("#")]
    assert heads == [line for line in cards[0].splitlines() if line.startswith("#")]


# --- TRL --------------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_a_row_per_agent_and_episode_shows_what_the_agent_saw_and_did(tmp_path):
    records = played(6)
    done = export_records(records, tmp_path / "rows.jsonl", "trl")
    rows = rows_of(tmp_path / "rows.jsonl")
    assert done.written == {"episodes": 6, "rows": 12}
    assert [(row["episode"], row["agent"]) for row in rows] == [
        (record.id, agent) for record in records for agent in ("agent_0", "agent_1")
    ]
    by_id = {record.id: record for record in records}
    for row in rows:
        record = by_id[row["episode"]]
        assert row["messages"] == render(conversation_of(record).view(row["agent"]))
        assert row["reward"] == record.rewards[row["agent"]]
        own = [event.argument for event in record.events if event.speaker == row["agent"]]
        replies = [json.loads(m["content"])["argument"] for m in row["messages"] if m["role"] == "assistant"]
        assert replies == own


def test_a_row_per_turn_has_everything_before_it_as_its_prompt(tmp_path):
    records = played(4)
    export_records(records, tmp_path / "all.jsonl", "trl")
    export_records(records, tmp_path / "turns.jsonl", "trl-turns")
    whole = {(row["episode"], row["agent"]): row["messages"] for row in rows_of(tmp_path / "all.jsonl")}
    found = rows_of(tmp_path / "turns.jsonl")
    assert len(found) == sum(m["role"] == "assistant" for messages in whole.values() for m in messages)
    for row in found:
        messages = whole[row["episode"], row["agent"]]
        place = 2 * row["move"] + 2
        assert row["prompt"] == messages[:place]
        assert row["completion"] == [messages[place]]
        assert row["completion"][0]["role"] == "assistant"


def test_rows_hold_nothing_that_only_another_seat_knows(tmp_path):
    seats = tuple(
        Seat(
            character=CharacterProfile(id=f"c{i}", name=f"N{i}", secret=f"SECRET-{i}", public_info=f"PUBLIC-{i}"),
            goal=f"GOAL-{i}",
            private={"fact": f"FACT-{i}"},
        )
        for i in (0, 1)
    )
    task = Task(id="t", scenario="A bench in a park.", seats=seats)
    events = (
        Event(turn=0, speaker="agent_0", action_type="speak", argument="hello"),
        Event(turn=1, speaker="agent_1", action_type="speak", argument="WHISPERED", to=()),
        Event(turn=2, speaker="agent_1", action_type="speak", argument="hi"),
    )
    record = Episode(task=task, agents={"agent_0": "a", "agent_1": "b"}, seed=0, events=events)
    export_records([record], tmp_path / "rows.jsonl", "trl")
    first, second = (json.dumps(row["messages"]) for row in rows_of(tmp_path / "rows.jsonl"))
    for word in ("SECRET-1", "PUBLIC-1", "GOAL-1", "FACT-1", "WHISPERED"):
        assert word not in first
    for word in ("SECRET-0", "PUBLIC-0", "GOAL-0", "FACT-0"):
        assert word not in second
    assert "GOAL-0" in first
    assert "WHISPERED" in second


def test_failed_episodes_and_unreadable_replies_are_no_training_rows_and_are_counted(tmp_path):
    good = played(1)[0]
    failed = good.model_copy(update={"status": "failed", "error": "OSError: no", "rewards": {}})
    unjudged = good.model_copy(update={"status": "judge_failed", "rewards": {}, "verdicts": {}})
    first, *rest = good.events
    garbled = good.model_copy(
        update={"events": (Event(turn=0, speaker=first.speaker, action_type="none", parse_failure=True), *rest)}
    )
    silent = good.model_copy(update={"events": ()})
    done = export_records([good, failed, unjudged, garbled, silent], tmp_path / "rows.jsonl", "trl-turns")
    own = sum(event.speaker != "environment" for event in good.events)
    assert done.written == {"episodes": 3, "rows": 3 * own - 1}
    assert done.left_out == {
        "episodes that failed": 1,
        "replies that could not be read": 1,
        "agents that never moved": 2,
    }
    assert {row["reward"] for row in rows_of(tmp_path / "rows.jsonl")[own : 2 * own]} == {None}


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(records=st.lists(any_episodes(), min_size=1, max_size=2))
def test_any_episode_gives_rows_that_are_lines_of_json_in_utf8(folder, records):
    for form in ("trl", "trl-turns"):
        try:
            done = export_records(records, folder / "rows.jsonl", form)
        except ConfigurationError:
            continue  # nobody moved
        rows = rows_of(folder / "rows.jsonl")
        assert len(rows) == done.written.get("rows", 0)
        for row in rows:
            json.dumps(row["messages"] if form == "trl" else row["prompt"], ensure_ascii=False).encode("utf-8")


def test_trl_takes_the_rows_for_conversations(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    records = played(3)
    for form in ("trl", "trl-turns"):
        export_records(records, tmp_path / f"{form}.jsonl", form)
        path, cache = str(tmp_path / f"{form}.jsonl"), str(tmp_path / "cache")
        loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=cache)
        assert len(loaded) == len(rows_of(tmp_path / f"{form}.jsonl"))
        row = loaded[0]
        # What trl.data_utils.is_conversational asks of a row.
        for key in ("messages",) if form == "trl" else ("prompt", "completion"):
            assert [set(message) for message in row[key]] == [{"role", "content"}] * len(row[key])


@pytest.mark.slow
def test_trl_itself_says_that_the_rows_are_conversational(tmp_path):
    pytest.importorskip("trl")
    from trl.data_utils import is_conversational

    for form in ("trl", "trl-turns"):
        export_records(played(1), tmp_path / f"{form}.jsonl", form)
        assert is_conversational(rows_of(tmp_path / f"{form}.jsonl")[0])


# --- SOTOPIA's forms --------------------------------------------------------------------------------

SOTOPIA_FORMS = ("sotopia-flat", "sotopia-native")
DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "sotopia"


def home_and_back(records, form, **options):
    """What an export came to, and what the importer reads of it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = export_records(records, Path(folder) / "out", form, **options)
        except ConfigurationError as error:
            if "Nothing of the source can be written" not in str(error):
                raise
            assert list(Path(folder).iterdir()) == []
            return None, None
        return done, read(Path(folder) / "out")


def told(task: Task) -> dict:
    """The fields of a task that SOTOPIA's forms have."""
    return {
        "scenario": task.scenario,
        "relationship": task.relationship,
        "family": task.family,
        "split": task.split,
        "hard": "hard" in task.tags,
        "goals": [seat.goal for seat in task.seats],
        "characters": [seat.character.model_dump(exclude={"id", "origin"}) for seat in task.seats],
    }


def moves(episode: Episode) -> list[tuple]:
    """What was done. SOTOPIA's forms have no word with leaving, and no note of the environment."""
    return [
        (event.turn, event.speaker, event.action_type, "" if event.action_type == "leave" else event.argument, event.to)
        for event in episode.events
        if event.speaker != "environment"
    ]


@pytest.mark.parametrize("form", SOTOPIA_FORMS)
@pytest.mark.parametrize("pack", ["outcome", "everyday", "outcome/committee"])
def test_every_built_in_task_comes_back_from_sotopias_forms_equal_in_the_fields_they_have(form, pack):
    tasks = load_tasks(pack, **({"n": 30} if pack.startswith("outcome") else {}))
    done, data = home_and_back(tasks, form)
    assert [problem for problem in data.problems if problem.serious] == []
    assert done.written["tasks"] == len(tasks) == len(data.tasks)
    found = {task.id: task for task in data.tasks}
    for task in tasks:
        assert told(found[task.id]) == told(task)
        assert found[task.id].wording == "sotopia"
    assert [key for key in done.left_out if "private facts" not in key] == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(task=free_tasks(), form=st.sampled_from(SOTOPIA_FORMS))
@example(task=TASKS[0], form="sotopia-flat")
def test_any_task_comes_back_equal_in_the_fields_they_have_or_is_counted(task, form):
    done, data = home_and_back([task], form)
    if done is None:
        return
    assert [problem for problem in data.problems if problem.serious] == []
    assert len(data.tasks) == done.written["tasks"] == 1
    mine, found = told(task), told(data.tasks[0])
    changed = [key for key in done.changed if key.startswith("tasks whose")]
    assert (mine != found) == bool(changed)


plain_names = st.text("abcdefghijkl", min_size=1, max_size=6).map(str.capitalize)
plain_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30).map(str.strip)


@st.composite
def plain_episodes(draw):
    """Episodes that say nothing SOTOPIA's forms cannot say: they must come back equal in every field it has."""
    who = draw(st.lists(plain_names, min_size=2, max_size=3, unique=True))
    words = plain_texts.filter(lambda text: text.lower() not in ("", "nan", "none", "null"))
    seats = tuple(
        Seat(
            character=CharacterProfile(
                id=f"c{index}",
                name=f"{name} Smith",
                age=draw(st.integers(1, 120)),
                public_info=draw(words),
                secret=draw(words),
            ),
            goal=draw(plain_texts),
        )
        for index, name in enumerate(who)
    )
    task = Task(
        id="plain",
        scenario=draw(words),
        relationship=draw(st.sampled_from(RELATIONSHIPS)),
        split=draw(st.sampled_from(SPLITS)),
        seats=seats,
    )
    count = draw(st.integers(0, 6))
    others = [f"agent_{index}" for index in range(len(who))]
    kinds = st.sampled_from([kind for kind in ACTION_TYPES if kind != "leave"])
    events = []
    for turn in range(count):
        kind = draw(kinds)
        events.append(
            Event(
                turn=turn,
                speaker=f"agent_{turn % len(who)}",
                action_type=kind,
                argument="" if kind == "none" else draw(texts),
                to=None if kind == "none" else draw(st.none() | st.sampled_from(others).map(lambda agent: (agent,))),
            )
        )
    scored = draw(st.sampled_from(["all", "some", "none"]))
    dimensions = {"all": DIMENSION_NAMES, "some": ("goal", "secret"), "none": ()}[scored]
    ranges = {dimension.name: (dimension.low, dimension.high) for dimension in DIMENSIONS}
    scores = {
        agent: {
            name: Score(value=float(draw(st.integers(*ranges[name]))), reason=draw(plain_texts)) for name in dimensions
        }
        for agent in others
    }
    return Episode(
        task=task,
        agents={agent: draw(words) for agent in others},
        seed=draw(st.integers(0, 9)),
        events=tuple(events),
        ended_by=draw(st.sampled_from(["departure", "silence", "turn_limit"])),
        verdicts={"sotopia/gpt": Verdict(judge="sotopia/gpt", scores=scores)} if scored != "none" else {},
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(episode=plain_episodes(), form=st.sampled_from(SOTOPIA_FORMS))
def test_an_episode_comes_back_from_sotopias_forms_with_its_moves_scores_and_reasons(episode, form):
    done, data = home_and_back([episode], form)
    assert done.written["episodes"] == 1
    assert done.changed == {}
    (found,) = data.episodes
    assert told(found.task) == told(episode.task)
    assert moves(found) == moves(episode)
    assert (found.id, found.agents, found.ended_by) == (episode.id, episode.agents, episode.ended_by)
    assert {judge: given.scores for judge, given in found.verdicts.items()} == {
        judge: given.scores for judge, given in episode.verdicts.items()
    }


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(episode=any_episodes(), form=st.sampled_from(SOTOPIA_FORMS))
def test_any_episode_goes_to_sotopias_forms_or_is_counted_and_stays_in_its_folder(episode, form):
    judge = next(iter(episode.verdicts), None)
    done, data = home_and_back([episode], form, judge=judge)
    if done is None:
        return
    assert [problem for problem in data.problems if problem.serious] == []
    assert len(data.episodes) == done.written.get("episodes", 0)
    if not data.episodes:
        assert sum(done.left_out.values()) >= 1
    elif not any("events" in key for key in done.changed):
        said = [move for move in moves(episode) if move[2] != "none"]
        assert sorted(move for move in moves(data.episodes[0]) if move[2] != "none") == sorted(said)


@pytest.mark.parametrize("form", SOTOPIA_FORMS)
def test_a_score_that_nobody_gave_is_never_written_as_one(tmp_path, form):
    partial, unjudged = played(2)
    unjudged = unjudged.model_copy(update={"status": "judge_failed", "verdicts": {}, "rewards": {}})
    export_records([partial, unjudged], tmp_path / "out", form)
    found = {episode.id: episode for episode in read(tmp_path / "out").episodes}
    goals = {agent: {"goal": given["goal"].value} for agent, given in partial.verdicts["outcome"].scores.items()}
    (verdict,) = found[partial.id].verdicts.values()
    assert {agent: {"goal": given["goal"].value} for agent, given in verdict.scores.items()} == goals
    assert found[partial.id].rewards == {}  # no overall score without all seven
    assert found[unjudged.id].verdicts == {}
    rows = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("EpisodeLog/*.json"))]
    if form == "sotopia-flat":
        rows = [json.loads(line) for line in (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()]
    rewards = {row.get("pk", row.get("episode_id")): row.get("raw_rewards", row["rewards"]) for row in rows}
    assert rewards[unjudged.id] == [0.0, 0.0]  # SOTOPIA's word for "not scored"
    assert all(isinstance(entry, dict) and "overall_score" not in entry for entry in rewards[partial.id])


def test_no_reason_can_pass_for_the_reason_of_another_score():
    first = played(1)[0]
    forged = "Fine.\nAgent 2 comments:\ngoal: perfect, 10 out of 10"
    scores = {
        agent: {name: Score(value=0.0, reason=forged if agent == "agent_0" else "") for name in DIMENSION_NAMES}
        for agent in ("agent_0", "agent_1")
    }
    episode = first.model_copy(update={"verdicts": {"j": Verdict(judge="j", scores=scores)}})
    done, data = home_and_back([episode], "sotopia-native")
    (verdict,) = data.episodes[0].verdicts.values()
    assert {score.reason for score in verdict.scores["agent_1"].values()} == {""}
    assert done.changed == {"episodes whose reasons are not exactly the same": 1}


def test_episodes_with_several_verdicts_need_a_judge_to_be_named():
    first = played(1)[0]
    other = Verdict(judge="other", scores={a: {"goal": Score(value=3.0)} for a in first.agents})
    episode = first.model_copy(update={"verdicts": {**first.verdicts, "other": other}})
    with pytest.raises(ConfigurationError, match="Say whose with --judge"):
        home_and_back([episode], "sotopia-flat")
    _, data = home_and_back([episode], "sotopia-flat", judge="other")
    assert data.episodes[0].verdicts["sotopia/other"].scores == other.scores


def test_private_facts_go_into_the_goals_only_if_asked_and_to_their_own_seat():
    tasks = load_tasks("everyday", n=3) + load_tasks("outcome/bargain", n=2)
    done, plain = home_and_back(tasks, "sotopia-flat")
    assert any("--facts-in-goals" in key for key in done.left_out)
    done, full = home_and_back(tasks, "sotopia-flat", facts_in_goals=True)
    assert done.left_out == {}
    found = {task.id: task for task in full.tasks}
    for task in tasks:
        for seat, mine in zip(found[task.id].seats, task.seats, strict=True):
            assert seat.goal.startswith(mine.goal)
            for value in mine.private.values():
                assert str(value) in seat.goal
    assert all("<" not in seat.goal for task in full.tasks for seat in task.seats)
    assert [task.id for task in plain.tasks] == [task.id for task in full.tasks]


def test_two_people_of_one_id_are_not_made_one():
    task, other = TASKS[0], TASKS[1]
    shared = [
        seat.model_copy(update={"character": seat.character.model_copy(update={"id": f"p{i}"})})
        for i, seat in enumerate(other.seats)
    ]
    first = task.model_copy(
        update={
            "seats": tuple(
                seat.model_copy(update={"character": seat.character.model_copy(update={"id": f"p{i}"})})
                for i, seat in enumerate(task.seats)
            )
        }
    )
    second = other.model_copy(update={"seats": tuple(shared)})
    done, data = home_and_back([first, second], "sotopia-native")
    found = {each.id: told(each) for each in data.tasks}
    assert found == {first.id: told(first), second.id: told(second)}
    assert sum(done.changed.values()) == 2


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "a/../b", "con\x00", "x" * 300, "é", " a", "a.json/b"])
@pytest.mark.parametrize("form", SOTOPIA_FORMS)
def test_no_id_leads_out_of_the_folder(tmp_path, form, name):
    seats = tuple(
        seat.model_copy(update={"character": seat.character.model_copy(update={"id": f"{name}{i}"})})
        for i, seat in enumerate(TASKS[0].seats)
    )
    task = TASKS[0].model_copy(update={"id": name, "seats": seats, "origin": {"environment": name}})
    episode = played(1)[0].model_copy(update={"task": task, "id": name})
    (tmp_path / "in").mkdir()
    done = export_records([episode], tmp_path / "in" / "out", form)
    assert done.written["episodes"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["out"]
    data = read(tmp_path / "in" / "out")
    assert len(data.episodes) == len(data.tasks) == 1
    assert told(data.episodes[0].task) == told(task)


@pytest.mark.skipif(not DATA.is_dir(), reason="SOTOPIA's sample data is not at ../shared/data")
@pytest.mark.parametrize("form", SOTOPIA_FORMS)
def test_sotopias_own_tasks_and_episodes_come_back_equal_to_the_last_field(form):
    data = read(DATA)
    done, tasks = home_and_back(data.tasks, form)
    assert (done.left_out, done.changed) == ({}, {})
    # The lists name every environment of a split in SOTOPIA's files; here they keep splits and tags.
    assert {task.id: task for task in tasks.tasks} == {task.id: task for task in data.tasks}
    done, episodes = home_and_back(data.episodes, form)
    assert (done.left_out, done.changed) == ({}, {})
    assert {episode.id: told(episode.task) for episode in episodes.episodes} == {
        episode.id: told(episode.task) for episode in data.episodes
    }
    for field in ("events", "agents", "ended_by", "verdicts", "rewards", "turn_order", "origin"):
        assert {episode.id: getattr(episode, field) for episode in episodes.episodes} == {
            episode.id: getattr(episode, field) for episode in data.episodes
        }


@pytest.mark.skipif(not DATA.is_dir(), reason="SOTOPIA's sample data is not at ../shared/data")
def test_genuine_flat_episodes_are_written_again_field_by_field_and_in_their_order(tmp_path):
    originals = [json.loads(line) for line in (DATA / "episodes_flat_5.jsonl").read_text("utf-8").splitlines()]
    wanted = {row["episode_id"] for row in originals}
    episodes = [episode for episode in read(DATA).episodes if episode.id in wanted]
    export_records(episodes, tmp_path / "out", "sotopia-flat")
    rows = [json.loads(line) for line in (tmp_path / "out" / "episodes.jsonl").read_text("ascii").splitlines()]
    assert [list(row.items()) for row in rows] == [list(row.items()) for row in originals]


# --- whole or not at all ----------------------------------------------------------------------------


def unwritable() -> Episode:
    """An episode whose verdict holds an object that is no JSON."""
    return Episode(
        task=TASKS[0],
        agents={"agent_0": "a", "agent_1": "b"},
        seed=0,
        verdicts={"j": Verdict(judge="j", scores={}, details={"x": object()})},
    )


@pytest.mark.parametrize("form", ["jsonl", "parquet", "datasets"])
def test_a_record_that_cannot_be_written_leaves_what_was_there(tmp_path, form):
    out = tmp_path / "out"
    if not FORMATS[form].folder:
        out.write_text("before")
    with pytest.raises(StoreError, match="cannot be written"):
        export_records([*played(2), unwritable()], out, form)
    assert [path.name for path in tmp_path.iterdir()] == ([] if FORMATS[form].folder else ["out"])
    if out.exists():
        assert out.read_text() == "before"


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_a_source_that_breaks_off_leaves_nothing(tmp_path, form):
    def broken():
        yield from played(2)
        raise StoreError("line 3 is damaged")

    with pytest.raises(StoreError, match="damaged"):
        export_records(broken(), tmp_path / "out", form)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_to_is_named_before_anything_is_read(tmp_path):
    def unread():
        raise AssertionError("read")
        yield

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"Unknown format 'jsnol'.*Did you mean 'jsonl'"):
        export_records(unread(), tmp_path / "x", "jsnol")
    with pytest.raises(ConfigurationError, match="there is no folder"):
        export_records(unread(), tmp_path / "no" / "x", "jsonl")
    with pytest.raises(ConfigurationError, match="is a folder, but this format is one file"):
        export_records(unread(), tmp_path / "full", "parquet")
    with pytest.raises(ConfigurationError, match="exists, and this format is a folder"):
        export_records(unread(), tmp_path / "full", "datasets")
    assert (tmp_path / "full" / "file").read_text() == "mine"


def test_tasks_are_no_training_rows_and_nothing_is_no_export_and_kinds_are_not_mixed(tmp_path):
    with pytest.raises(ConfigurationError, match="takes episodes only"):
        export_records(TASKS, tmp_path / "x", "trl")
    with pytest.raises(ConfigurationError, match="nothing to export"):
        export_records([], tmp_path / "x", "jsonl")
    with pytest.raises(ConfigurationError, match="Export each kind by itself"):
        export_records([TASKS[0], *played(1)], tmp_path / "x", "parquet")
    assert list(tmp_path.iterdir()) == []


def test_an_export_of_which_nothing_can_be_written_is_an_error_and_says_why(tmp_path):
    failed = played(1)[0].model_copy(update={"status": "failed", "rewards": {}})
    for form in ("trl", "sotopia-flat", "sotopia-native"):
        with pytest.raises(ConfigurationError, match=f"Nothing of the source.*{form}.*1 episodes that failed"):
            export_records([failed], tmp_path / "out", form)
    blank = TASKS[0].model_copy(update={"scenario": " \n"})
    with pytest.raises(ConfigurationError, match="it has no 'scenario'"):
        export_records([blank], tmp_path / "out", "sotopia-flat")
    assert list(tmp_path.iterdir()) == []


def test_the_same_export_twice_is_the_same_bytes(tmp_path):
    records = played(3)
    for form in ("jsonl", "parquet", "trl", "datasets"):
        for name in ("a", "b"):
            export_records(records, tmp_path / f"{name}-{form}", form)
        if FORMATS[form].folder:
            first, second = (
                {path.relative_to(tmp_path / f"{n}-{form}"): path.read_bytes() for path in files}
                for n in ("a", "b")
                for files in [[p for p in (tmp_path / f"{n}-{form}").rglob("*") if p.is_file()]]
            )
            assert first == second
        else:
            assert (tmp_path / f"a-{form}").read_bytes() == (tmp_path / f"b-{form}").read_bytes()


@pytest.mark.parametrize(("form", "library"), [("parquet", "pyarrow"), ("datasets", "datasets")])
def test_a_library_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, form, library):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingExtraError, match=r"sotopia-env\[data\]"):
        export_records(played(1), tmp_path / "x", form)
    assert list(tmp_path.iterdir()) == []


# --- reading what is not right ----------------------------------------------------------------------


def test_a_parquet_file_of_something_else_or_cut_off_ends_in_one_line(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2]}), tmp_path / "other.parquet")
    with pytest.raises(StoreError, match="neither those of tasks nor those of episodes"):
        list(read_parquet(tmp_path / "other.parquet"))
    export_records(played(3), tmp_path / "e.parquet", "parquet")
    whole = (tmp_path / "e.parquet").read_bytes()
    for cut in (4, 100, len(whole) - 10):
        (tmp_path / "cut.parquet").write_bytes(whole[:cut])
        with pytest.raises(StoreError, match="cannot be read as Parquet") as caught:
            list(read_parquet(tmp_path / "cut.parquet"))
        assert "\n" not in str(caught.value)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_parquet_file_is_read_or_refused(folder, data):
    path = folder / "damaged.parquet"
    if not (folder / "good.parquet").exists():
        export_records(played(3), folder / "good.parquet", "parquet")
    content = bytearray((folder / "good.parquet").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        for record in read_parquet(path):
            assert isinstance(record, Episode)
    except (StoreError, TaskFormatError):
        pass


def test_rows_with_wrong_values_are_refused_with_file_and_row(tmp_path):
    import pyarrow
    import pyarrow.parquet

    export_records(TASKS, tmp_path / "t.parquet", "parquet")
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    for column, value, message in [
        ("split", "holdout", "field 'split'"),
        ("scenario", "", "field 'scenario'"),
        ("terms", "{", "Expecting property name"),
        ("terms", "[]", "field 'terms'"),
    ]:
        values = table.column(column).to_pylist()
        values[2] = value
        place = table.schema.get_field_index(column)
        wrong = table.set_column(place, table.schema.field(column), pyarrow.array(values, table.schema.types[place]))
        pyarrow.parquet.write_table(wrong, tmp_path / "wrong.parquet")
        with pytest.raises(TaskFormatError, match=f"wrong.parquet, row 3.*{message}"):
            list(read_parquet(tmp_path / "wrong.parquet"))


def test_an_episode_of_a_newer_version_is_refused_from_columns_too(tmp_path):
    newer = played(1)[0].model_copy(update={"version": 99})
    export_records([newer], tmp_path / "e.parquet", "parquet")
    with pytest.raises(StoreError, match="record version 99"):
        list(read_parquet(tmp_path / "e.parquet"))


# --- the command ------------------------------------------------------------------------------------


def run(*words: object):
    return CliRunner().invoke(app, ["export", *map(str, words)])


def test_the_command_takes_a_store_a_file_a_folder_and_a_pack(tmp_path):
    records = played(4)
    with EpisodeStore(tmp_path / "runs.db") as store:
        store.add_all(records)
    result = run(tmp_path / "runs.db", "--out", tmp_path / "e.jsonl", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "format": "jsonl",
        "out": str(tmp_path / "e.jsonl"),
        "written": {"episodes": 4},
        "left_out": {},
        "changed": {},
    }
    by_id = sorted(records, key=lambda record: record.id)
    assert sorted(read_episodes(tmp_path / "e.jsonl"), key=lambda record: record.id) == by_id
    for source, form in [("e.jsonl", "parquet"), ("parquet", "datasets"), ("datasets", "jsonl")]:
        assert run(tmp_path / source, "--format", form, "--out", tmp_path / form, "-q").exit_code == 0
    assert sorted(read_episodes(tmp_path / "jsonl"), key=lambda record: record.id) == by_id
    result = run("outcome/divide", "--limit", 3, "--seed", 5, "--out", tmp_path / "tasks.jsonl")
    assert result.exit_code == 0
    assert "3 tasks" in result.stdout
    assert read_tasks(tmp_path / "tasks.jsonl") == load_tasks("outcome/divide", n=3, seed=5)


def test_the_command_chooses_by_split_status_and_number(tmp_path):
    records = [
        each.model_copy(update={"status": status, "seed": number})
        for number, (each, status) in enumerate(
            zip(played(4), ["complete", "failed", "complete", "complete"], strict=True)
        )
    ]
    export_records(records, tmp_path / "e.jsonl")
    result = run(tmp_path / "e.jsonl", "--status", "complete", "--limit", 2, "--out", tmp_path / "o.jsonl")
    assert "2 episodes" in result.stdout
    assert list(read_episodes(tmp_path / "o.jsonl")) == [records[0], records[2]]
    result = run(tmp_path / "e.jsonl", "--split", "test", "--out", tmp_path / "none.jsonl")
    assert result.exit_code == 1
    assert "nothing to export" in result.stderr
    assert not (tmp_path / "none.jsonl").exists()


def test_the_command_says_what_is_not_in_the_output(tmp_path):
    records = played(2)
    records[1] = records[1].model_copy(update={"status": "failed"})
    export_records(records, tmp_path / "e.jsonl")
    result = run(tmp_path / "e.jsonl", "--format", "trl", "--out", tmp_path / "rows.jsonl")
    assert result.exit_code == 0
    assert "2 rows, 1 episode" in result.stdout
    assert "Not in it: 1 episode that failed." in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "nothing to export", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n\x00\x00", "not valid JSON", id="an-image"),
        pytest.param(b"{", "line 1 is not valid JSON", id="half-an-object"),
        pytest.param(b"[" * 100_000, "not valid JSON", id="deeply-nested"),
        pytest.param(b'{"env_id": "x", "scenario": "y"}', "sotopia-env import", id="sotopias"),
        pytest.param(b'"text"', "neither an episode nor a task", id="no-object"),
        pytest.param("{}".encode("utf-16"), "not valid JSON", id="utf-16"),
        pytest.param(b'{"task": {}, "agents": {}}', "is not an episode: field 'task.id'", id="no-episode"),
        pytest.param(b'{"id": "x", "seats": []}', "field 'scenario'", id="no-task"),
        pytest.param(b"PAR1 and nothing more", "cannot be read as Parquet", id="no-parquet"),
        pytest.param(b"SQLite format 3\x00 and nothing more", "Episode store", id="no-database"),
    ],
)
def test_wrong_input_ends_in_one_line_and_writes_nothing(tmp_path, content, message):
    (tmp_path / "in").write_bytes(content)
    result = run(tmp_path / "in", "--out", tmp_path / "out", "-q")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_the_source_is_never_replaced_by_its_own_export(tmp_path):
    export_records(played(1), tmp_path / "e.jsonl")
    before = (tmp_path / "e.jsonl").read_bytes()
    result = run(tmp_path / "e.jsonl", "--format", "parquet", "--out", tmp_path / "." / "e.jsonl")
    assert result.exit_code == 1
    assert "is the source itself" in result.stderr
    assert (tmp_path / "e.jsonl").read_bytes() == before


def test_a_line_longer_than_any_record_is_refused_before_it_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("sotopia_env.cli.exporting.LONGEST_LINE", 1000)
    (tmp_path / "in").write_bytes(b'{"task": "' + b"x" * 5000)
    result = run(tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "longer than 1000 bytes" in result.stderr
