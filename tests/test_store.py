"""What goes into a store comes out equal, once, and in one order; what cannot be opened says why."""

from __future__ import annotations

import itertools
import sqlite3
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotopia_env import ConfigurationError, Episode, EpisodeStore, Event, Score, StoreError, Verdict, load_tasks
from sotopia_env.actions import ACTION_TYPES
from sotopia_env.store import SCHEMA_VERSION, StoredEpisodes, shown
from sotopia_env.tasks import CharacterProfile, Seat, Task

TASKS = load_tasks("outcome", n=6)
NASTY = [
    "\x00",
    "a\x00b",
    "😀\U0001f9d1\u200d\U0001f680",
    "'",
    '"',
    "'; DROP TABLE episodes; --",
    "\\",
    "\u2028",
    "%_",
    " ",
]


def episode(number: int = 0, **fields: object) -> Episode:
    """An episode that differs from another of another number, by its key too."""
    made = {
        "task": TASKS[number % len(TASKS)],
        "agents": {"agent_0": "first", "agent_1": "second"},
        "seed": number,
        "events": (Event(turn=0, speaker="agent_0", action_type="speak", argument=f"number {number}"),),
        "ended_by": "departure",
    }
    return Episode.model_validate({**made, **fields})


def verdict(judge: str = "j", goal: float = 5.0) -> Verdict:
    return Verdict(judge=judge, scores={f"agent_{i}": {"goal": Score(value=goal, reason="so")} for i in (0, 1)})


@pytest.fixture
def store():
    with EpisodeStore(":memory:") as made:
        yield made


# --- round trips ----------------------------------------------------------------------------------

texts = st.text() | st.sampled_from(NASTY)
names = texts.filter(bool)
numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
characters = st.builds(CharacterProfile, id=names, name=names, age=st.none() | st.integers(0, 130), secret=texts)
casts = st.lists(characters, min_size=2, max_size=3, unique_by=lambda character: character.id)
free_terms = st.dictionaries(texts.filter(lambda key: key != "rules"), json_values, max_size=3)


@st.composite
def free_tasks(draw):
    seats = tuple(Seat(character=who, goal=draw(texts), private=draw(free_terms)) for who in draw(casts))
    return Task(id=draw(names), family=draw(texts), scenario=draw(names), terms=draw(free_terms), seats=seats)


@st.composite
def episodes(draw):
    task = draw(free_tasks() | st.sampled_from(TASKS))
    speakers = st.sampled_from([*task.agents, "environment"])
    event = st.builds(
        Event,
        turn=st.integers(0, 19),
        speaker=speakers,
        action_type=st.sampled_from(ACTION_TYPES),
        argument=texts,
        to=st.none() | st.tuples(speakers),
        parse_failure=st.booleans(),
    )
    scores = st.fixed_dictionaries(
        {
            agent: st.dictionaries(texts, st.builds(Score, value=numbers, reason=texts), max_size=2)
            for agent in task.agents
        }
    )
    verdicts = st.builds(
        Verdict,
        judge=names,
        scores=scores,
        measures=st.dictionaries(texts, numbers, max_size=2),
        details=st.dictionaries(texts, json_values, max_size=2),
    )
    return Episode(
        task=task,
        agents={agent: draw(names) for agent in task.agents},
        turn_order=draw(st.sampled_from(["round-robin", "simultaneous", "random"])),
        max_turns=draw(st.integers(1, 50)),
        seed=draw(st.integers(0, 2**48 - 1)),
        repeat=draw(st.integers(0, 9)),
        events=tuple(draw(st.lists(event, max_size=4))),
        ended_by=draw(st.sampled_from([None, "deal", "departure", "silence", "turn_limit"])),
        verdicts={given.judge: given for given in draw(st.lists(verdicts, max_size=2))},
        rewards=draw(st.just({}) | st.fixed_dictionaries(dict.fromkeys(task.agents, numbers))),
        status=draw(st.sampled_from(["complete", "failed", "judge_failed"])),
        error=draw(st.none() | texts),
        usage={agent: {"calls": draw(st.integers(0, 99))} for agent in task.agents},
        started_at=draw(st.none() | texts),
        seconds=draw(st.none() | numbers),
    )


@given(record=episodes())
def test_every_episode_comes_back_equal_in_every_way_of_reading(record):
    with EpisodeStore(":memory:") as store:
        assert store.add(record)
        assert store.get(record.key) == record
        assert list(store.episodes()) == [record]
        assert list(store.episodes(status=record.status, task=record.task.id)) == [record]
        for name in record.agents.values():
            assert list(store.episodes(agent_name=name)) == [record]
        for judge in record.verdicts:
            assert list(store.episodes(judge=judge)) == [record]
            assert store.judged([record.key], judge) == {record.key}
        assert list(StoredEpisodes(store, [record.key])) == [record]


@pytest.mark.parametrize("text", NASTY)
def test_a_file_holds_any_text_as_ascii_and_gives_it_back_after_reopening(tmp_path, text):
    record = episode(agents={"agent_0": text, "agent_1": "x"}, verdicts={text: verdict(text)}, error=text)
    with EpisodeStore(tmp_path / "runs.db") as store:
        store.add(record)
    with EpisodeStore(tmp_path / "runs.db") as store:
        assert store.get(record.key) == record
    connection = sqlite3.connect(tmp_path / "runs.db")
    stored = connection.execute("SELECT record FROM episodes UNION ALL SELECT record FROM verdicts").fetchall()
    connection.close()
    assert len(stored) == 2
    for (value,) in stored:
        assert value.isascii()
        assert "\x00" not in value


# --- adding ---------------------------------------------------------------------------------------


def test_a_complete_episode_is_written_once_and_never_changed(store):
    first, second = episode(error="first"), episode(error="second", verdicts={"late": verdict("late")})
    assert store.add(first) is True
    assert store.add(second) is False
    assert len(store) == 1
    assert store.get(first.key) == first


@pytest.mark.parametrize("status", ["failed", "judge_failed"])
def test_a_failed_or_unjudged_episode_is_replaced_with_its_verdicts(store, status):
    store.add(episode(status=status, error="ValueError: no", verdicts={"old": verdict("old")}))
    replacement = episode(verdicts={"new": verdict("new")}, rewards={"agent_0": 5.0, "agent_1": 5.0})
    assert store.add(replacement) is True
    assert list(store.episodes()) == [replacement]
    assert store.judged([replacement.key], "old") == set()


def test_many_are_added_at_once_and_those_known_are_passed_over(store):
    store.add(episode(3))
    assert store.add_all(episode(number) for number in range(1200)) == 1199
    assert len(store) == 1200
    assert store.add_all([]) == 0


def test_a_later_verdict_stands_beside_the_first_and_leaves_the_rewards(store):
    record = episode(verdicts={"a": verdict("a", 7)}, rewards={"agent_0": 7.0, "agent_1": 7.0})
    store.add(record)
    store.add_verdict(record.key, verdict("b", 3), usage={"calls": 2}, rewards={"agent_0": 3.0, "agent_1": 3.0})
    stored = store.get(record.key)
    assert stored.verdicts == {"a": verdict("a", 7), "b": verdict("b", 3)}
    assert stored.rewards == record.rewards
    assert stored.usage == {"b": {"calls": 2}}
    store.add_verdict(record.key, verdict("b", 4))
    assert store.get(record.key).verdicts["b"] == verdict("b", 4)


def test_rewards_come_with_a_later_verdict_only_where_there_were_none(store):
    store.add(episode())
    store.add_verdict(episode().key, verdict("a", 7), rewards={"agent_0": 7.0, "agent_1": 7.0})
    assert store.get(episode().key).rewards == {"agent_0": 7.0, "agent_1": 7.0}


def test_a_verdict_on_an_episode_that_is_not_there_is_refused(store):
    with pytest.raises(StoreError, match="holds no episode of key 'nowhere'; add the episode first"):
        store.add_verdict("nowhere", verdict())
    assert store.judged(["nowhere"], "j") == set()


# --- reading --------------------------------------------------------------------------------------


def test_the_filters_select_and_combine(store):
    one = episode(0, verdicts={"j": verdict("j")})
    two = episode(1, status="failed")
    three = episode(2, agents={"agent_0": "second", "agent_1": "First"}, verdicts={"k": verdict("k")})
    four = episode(0, agents={"agent_0": "100%", "agent_1": 'say "first", please'}, status="judge_failed")
    store.add_all([one, two, three, four])

    def keys(**filters: str) -> set[str]:
        return {found.key for found in store.episodes(**filters)}

    assert keys() == {one.key, two.key, three.key, four.key}
    assert keys(status="failed") == {two.key}
    assert keys(task=TASKS[0].id) == {one.key, four.key}
    assert keys(agent_name="first") == {one.key, two.key}
    assert keys(agent_name="First") == {three.key}
    assert keys(agent_name="100%") == {four.key}
    assert keys(agent_name='say "first", please') == {four.key}
    assert keys(agent_name="%") == keys(agent_name="f_rst") == keys(agent_name=", ") == set()
    assert keys(judge="k") == {three.key}
    assert keys(judge="k", status="failed") == set()
    assert keys(task=TASKS[0].id, status="complete", agent_name="second", judge="j") == {one.key}


def test_the_order_is_by_task_then_key_whatever_the_order_of_adding(store, tmp_path):
    records = [episode(number) for number in range(250)]
    store.add_all(records)
    with EpisodeStore(tmp_path / "backwards.db") as backwards:
        backwards.add_all(reversed(records))
        expected = sorted((record.task.id, record.key) for record in records)
        assert [(e.task.id, e.key) for e in store.episodes()] == expected
        assert [(e.task.id, e.key) for e in backwards.episodes()] == expected
        assert store.keys() == [key for _, key in expected]


def test_reading_is_lazy_and_holds_no_writer_up(tmp_path):
    path = tmp_path / "runs.db"
    with EpisodeStore(path) as store:
        store.add_all(episode(number) for number in range(250))
        last = store.keys()[-1]
        connection = sqlite3.connect(path)
        connection.execute("UPDATE episodes SET record = 'no json' WHERE key = ?", (last,))
        connection.commit()
        connection.close()
        reader = store.episodes()
        assert len(list(itertools.islice(reader, 240))) == 240
        assert EpisodeStore(path).add(episode(1000))
        with pytest.raises(StoreError, match=f"Episode '{last}' in store .* is not valid JSON"):
            list(reader)


def test_keys_statuses_and_membership(store):
    store.add_all([episode(0), episode(1, status="failed"), episode(2, status="judge_failed")])
    assert store.keys(status="failed") == [episode(1).key]
    assert store.statuses([episode(0).key, episode(2).key, "other"]) == {
        episode(0).key: "complete",
        episode(2).key: "judge_failed",
    }
    assert episode(1).key in store
    assert "other" not in store
    assert store.get("other") is None
    assert len(store) == 3


def test_an_unknown_status_is_named_with_the_nearest_known(store):
    with pytest.raises(ConfigurationError, match=r"Unknown status 'complet'.*Did you mean 'complete'"):
        store.keys(status="complet")
    with pytest.raises(ConfigurationError, match="Unknown status 'done'"):
        list(store.episodes(status="done"))


def test_an_empty_store_is_still_a_store(store):
    assert store
    assert len(store) == 0
    assert list(store.episodes()) == []


def test_a_stored_sequence_reads_like_a_list(store):
    records = [episode(number) for number in range(230)]
    store.add_all(records)
    sequence = StoredEpisodes(store, [record.key for record in records])
    assert len(sequence) == 230
    assert list(sequence) == records
    assert sequence[7] == records[7]
    assert sequence[-1] == records[-1]
    assert list(sequence[10:5:-1]) == records[10:5:-1]
    assert records[3] in sequence
    with pytest.raises(IndexError):
        sequence[230]
    missing = StoredEpisodes(store, ["gone"])
    with pytest.raises(StoreError, match="Episode 'gone' is no longer in store"):
        missing[0]


def test_threads_take_turns_with_a_store_in_memory(store):
    def fill(first: int) -> None:
        for number in range(first, first + 20):
            store.add(episode(number))
            assert sum(1 for _ in store.episodes()) > 0

    threads = [threading.Thread(target=fill, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 80


# --- the database -----------------------------------------------------------------------------------


def test_sqlite_runs_in_wal_mode_with_synchronous_normal(tmp_path):
    with EpisodeStore(tmp_path / "runs.db") as store, store._transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


def test_closing_folds_the_log_into_the_file(tmp_path):
    with EpisodeStore(tmp_path / "runs.db") as store:
        store.add(episode())
    assert [file.name for file in tmp_path.iterdir()] == ["runs.db"]


def test_a_path_and_its_url_are_one_store(tmp_path):
    with EpisodeStore(str(tmp_path / "runs.db")) as by_path:
        by_path.add(episode())
    with EpisodeStore(f"sqlite:///{tmp_path / 'runs.db'}") as by_url:
        assert by_url.get(episode().key) == episode()


WRITER = """
import sys
from sotopia_env import Episode, EpisodeStore, load_tasks
task = load_tasks("outcome", n=1)[0]
print("ready", flush=True)
sys.stdin.readline()
store = EpisodeStore(sys.argv[1])
for number in range(60):
    store.add(Episode(task=task, agents={"agent_0": "a", "agent_1": "b"}, seed=number, error=sys.argv[2]))
"""


def test_processes_that_write_to_one_new_file_wait_for_each_other(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "runs.db"), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    with EpisodeStore(tmp_path / "runs.db") as store:
        assert len(store) == 60
        assert sorted(e.seed for e in store.episodes()) == list(range(60))


# --- errors -----------------------------------------------------------------------------------------


def one_line(caught: pytest.ExceptionInfo[StoreError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_store_of_a_newer_version_is_refused_with_the_remedy(tmp_path):
    EpisodeStore(tmp_path / "runs.db").close()
    connection = sqlite3.connect(tmp_path / "runs.db")
    connection.execute("UPDATE meta SET value = ?", (str(SCHEMA_VERSION + 1),))
    connection.commit()
    connection.close()
    with pytest.raises(StoreError) as caught:
        EpisodeStore(tmp_path / "runs.db")
    assert f"schema version {SCHEMA_VERSION + 1}" in one_line(caught)
    assert "Upgrade sotopia-env" in one_line(caught)


def test_a_record_of_a_newer_version_is_refused_with_the_remedy(store):
    record = episode()
    store.add(record.model_copy(update={"version": 99}))
    with pytest.raises(StoreError, match=r"record version 99.*Upgrade sotopia-env"):
        store.get(record.key)


@pytest.mark.parametrize("junk", [b"this is no database, but it is long enough to be looked at" * 40, b"short"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path, junk):
    path = tmp_path / "notes.txt"
    path.write_bytes(junk)
    with pytest.raises(StoreError) as caught:
        EpisodeStore(path)
    assert "not a database" in one_line(caught)
    assert str(path) in one_line(caught)
    assert "new file" in one_line(caught)
    assert path.read_bytes() == junk


def test_a_damaged_file_is_a_store_error_and_no_crash(tmp_path):
    path = tmp_path / "runs.db"
    with EpisodeStore(path) as store:
        store.add_all(episode(number) for number in range(100))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        list(EpisodeStore(path).episodes())
    assert "malformed" in one_line(caught)
    assert "damaged" in one_line(caught)


def test_a_verdict_that_cannot_be_read_is_a_store_error(tmp_path):
    path = tmp_path / "runs.db"
    with EpisodeStore(path) as store:
        store.add(episode(verdicts={"j": verdict("j")}))
        connection = sqlite3.connect(path)
        connection.execute("UPDATE verdicts SET record = '{}'")
        connection.commit()
        connection.close()
        with pytest.raises(StoreError, match="has a verdict that cannot be read"):
            store.get(episode().key)


def test_another_programs_database_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE episodes (title TEXT)")
    connection.close()
    with pytest.raises(StoreError, match="a table 'episodes' of its own, not an episode store"):
        EpisodeStore(tmp_path / "other.db")


def test_places_where_no_store_can_be_are_named(tmp_path):
    with pytest.raises(StoreError, match=r"is a folder. Pass the path of a file in it"):
        EpisodeStore(tmp_path)
    with pytest.raises(StoreError, match=r"there is no folder '.*missing'. Make it first"):
        EpisodeStore(tmp_path / "missing" / "runs.db")
    with pytest.raises(StoreError, match=r"unable to open database file.*writable"):
        EpisodeStore("/proc/runs.db")


def test_a_reader_makes_no_store(tmp_path):
    with pytest.raises(StoreError, match="There is no episode store"):
        EpisodeStore(tmp_path / "runs.db", create=False)
    assert list(tmp_path.iterdir()) == []
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="holds no episode store"):
        EpisodeStore(tmp_path / "empty.db", create=False)


def test_a_store_that_may_only_be_read_can_be_read_and_says_so_on_writing(tmp_path):
    path = tmp_path / "runs.db"
    with EpisodeStore(path) as writer:
        writer.add(episode(0))
        with EpisodeStore(f"sqlite:///file:{path}?mode=ro&uri=true") as store:
            assert store.get(episode(0).key) == episode(0)
            with pytest.raises(StoreError) as caught:
                store.add(episode(1))
    assert "readonly" in one_line(caught)
    assert "writable" in one_line(caught)


def test_an_error_shows_neither_the_records_nor_the_password(tmp_path):
    path = tmp_path / "runs.db"
    with EpisodeStore(path) as store:
        connection = sqlite3.connect(path)
        connection.execute("DROP TABLE episodes")
        connection.close()
        with pytest.raises(StoreError) as caught:
            store.add(episode(error="private words"))
        assert "private words" not in one_line(caught)
    for url in ("postgresql+nodriver://me:hunter2@host/db", "mssql://me:hunter2@host/db", "what://me:hunter2@host/db"):
        with pytest.raises(StoreError) as caught:
            EpisodeStore(url)
        assert "hunter2" not in one_line(caught)
        assert "driver" in one_line(caught)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12), st.sampled_from(["", "?x=y"]))
def test_no_password_is_shown_whatever_is_in_it(letters, query):
    secret = f"s3c{letters}r3t"
    for url in (f"postgresql://me:{secret}@host:1/db{query}", f"postgresql://host/db?user=me&password={secret}"):
        told = shown(url)
        assert told.startswith("postgresql://")
        assert "s3c" not in told
        assert "r3t" not in told
        with pytest.raises(StoreError) as caught:
            EpisodeStore(url.replace("postgresql", "postgresql+nodriver"))
        assert "s3c" not in one_line(caught)
        assert "r3t" not in one_line(caught)


def test_a_location_without_a_password_is_shown_as_it_is():
    for location in ("runs.db", ":memory:", "sqlite:///runs.db", "postgresql+psycopg://me@host:5432/db"):
        assert shown(location) == location
    assert shown("postgresql://me:hunter2@host/db?sslmode=x") == "postgresql://me:***@host/db?sslmode=***"


def test_a_url_that_is_none_is_named():
    with pytest.raises(StoreError, match="Expected a file path or an SQLAlchemy URL"):
        EpisodeStore("://nothing")


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["complete", "failed", "judge_failed"])), max_size=12),
    st.booleans(),
)
def test_whatever_is_added_a_store_keeps_the_first_complete_one_or_else_the_last(history, at_once):
    records = [episode(number, status=status, error=str(step)) for step, (number, status) in enumerate(history)]
    expected: dict[str, Episode] = {}
    for record in records:
        if record.key not in expected or expected[record.key].status != "complete":
            expected[record.key] = record
    with EpisodeStore(":memory:") as store:
        if at_once:
            store.add_all(records)
        else:
            for record in records:
                store.add(record)
        assert {e.key: e for e in store.episodes()} == expected
        assert len(store) == len(expected)
