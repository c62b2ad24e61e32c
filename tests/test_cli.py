"""The command line: what it prints is computed, machine-readable on request, and harmless; what fails says so."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import sotopia_env
from sotopia_env import EpisodeStore, load_tasks
from sotopia_env.cli import app
from sotopia_env.cli.common import without_password
from sotopia_env.cli.summary import Values
from sotopia_env.dimensions import DIMENSIONS
from sotopia_env.episodes import read_episodes
from sotopia_env.loopback import LoopbackServer
from sotopia_env.rules import outcomes
from sotopia_env.tasks import write_tasks

COMMANDS = ["tasks list", "tasks show", "play", "rollout", "judge", "show", "demo"]
PAIR = ["--agent", "scripted/fair", "--agent", "scripted/tough"]
SMALL = ["rollout", "--tasks", "outcome", "--split", "test", "--limit", "6", *PAIR, "--seed", "1", "-q"]
SPEAK = json.dumps({"action_type": "speak", "argument": "Hello."})
VERDICT = json.dumps({d.name: {"reason": "because", "score": d.high} for d in DIMENSIONS})


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*arguments, code=0, **options):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def write_module(tmp_path):
    """Write a module of the user's own, under a name that no other test imports."""
    count = iter(range(100))

    def write(source):
        name = f"mine_{tmp_path.name.replace('-', '_')}_{next(count)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


def console_script(*arguments, cwd, **options):
    """The real console script in a process of its own."""
    script = Path(sys.executable).with_name("sotopia-env")
    return subprocess.Popen(
        [script, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


# --- help and usage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_json(run, command):
    text = run(*command.split(), "--help").stdout
    assert f"Examples:\n    sotopia-env {command}" in text
    assert "--json" in text
    assert "--seed" in text or command == "show"  # showing what is stored draws nothing


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom sotopia_env.cli import app\n"
        "assert CliRunner().invoke(app, ['rollout', '--help']).exit_code == 0\n"
        "print([m for m in ('openai', 'sqlalchemy', 'torch', 'xllamacpp', 'sotopia_env.tasks') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["rolout"], "Did you mean 'rollout'?", id="command"),
        pytest.param(["rollout", "--agnet", "random"], "--agnet", id="option"),
        pytest.param(["rollout", *PAIR, "--limit", "many"], "--limit", id="number"),
        pytest.param(["rollout", *PAIR, "--repeats", "0"], "--repeats", id="range"),
        pytest.param(["rollout"], "--agent", id="missing option"),
        pytest.param(["show"], "SOURCE", id="missing argument"),
    ],
)
def test_a_command_that_is_not_understood_exits_with_2(run, arguments, message):
    result = run(*arguments, code=2)
    assert message in result.stderr
    assert result.stdout == ""


def test_the_version_is_printed(run):
    assert run("--version").stdout.strip() == sotopia_env.__version__


# --- bad input ----------------------------------------------------------------------------------------


def error_line(result):
    """The one line on stderr of a command that failed."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert result.stdout == ""
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        pytest.param(["--tasks", "outcme", *PAIR], ["'outcme'", "Did you mean 'outcome'?"], id="pack"),
        pytest.param(
            ["--tasks", "outcome/bargian", *PAIR], ["'bargian'", "Did you mean 'bargain'?"], id="generated family"
        ),
        pytest.param(
            ["--tasks", "everyday/conflct", *PAIR], ["'conflct'", "Did you mean 'conflict'?"], id="written family"
        ),
        pytest.param(["--split", "tset", *PAIR], ["'tset'", "Did you mean 'test'?"], id="split"),
        pytest.param(
            ["--agent", "scripted/fiar", "--agent", "random"], ["'fiar'", "Did you mean 'fair'?"], id="strategy"
        ),
        pytest.param(["--agent", "fair", "--agent", "random"], ["'fair'", "'scripted/fair'"], id="agent"),
        pytest.param(["--reward", "gaol", *PAIR], ["'gaol'", "Did you mean 'goal'?"], id="dimension"),
        pytest.param(["--reward", "goal=much", *PAIR], ["'much'", "goal=1"], id="weight"),
        pytest.param(["--reward", "overall", *PAIR], ["'outcome'", "'overall'", "believability"], id="unfilled reward"),
        pytest.param(["--judge", "outcom", *PAIR], ["'outcom'", "Did you mean 'outcome'?"], id="judge"),
        pytest.param(["--turn-order", "robin", *PAIR], ["'robin'", "round-robin"], id="turn order"),
        pytest.param(["--agent", "random"], ["has 2 seats", "given once", "one --agent per seat"], id="too few agents"),
        pytest.param([*PAIR, "--agent", "random"], ["has 2 seats", "given 3 times"], id="too many agents"),
        pytest.param(["--tasks", "outcome/committee", *PAIR], ["3 to 9 seats", "2 times"], id="committee of two"),
        pytest.param(["--tasks", "everyday", *PAIR], ["no rules that bind", "openai/<model>"], id="nothing to compute"),
        pytest.param(["--agent", "human", "--agent", "random"], ["'human'", "sotopia-env play"], id="human"),
        pytest.param(["--agent", "no_such_module:X", "--agent", "random"], ["'no_such_module'"], id="module"),
        pytest.param(["--agent", "json:loads_", "--agent", "random"], ["'loads_'", "'loads'"], id="attribute"),
        pytest.param(["--agent", "json:decoder", "--agent", "random"], ["no agent", "act(observation)"], id="no agent"),
        pytest.param(
            ["--agent", "openai/gpt-4o", "--agent", "random"], ["'gpt-4o'", "OPENAI_API_KEY"], id="missing key"
        ),
        pytest.param(
            ["--agent", "openai/gpt-4o?temprature=1", "--agent", "random"],
            ["'temprature'", "Did you mean 'temperature'?"],
            id="model option",
        ),
        pytest.param(["--agent", "local/smolm2", "--agent", "random"], ["'smolm2'", "'smollm2'"], id="local model"),
        pytest.param(["--store", "no/folder/runs.db", *PAIR], ["'no/folder'", "Make it first"], id="store folder"),
        pytest.param(["--store", ".", *PAIR], ["is a folder", "runs.db"], id="store is a folder"),
        pytest.param(["--output", "no/folder/e.jsonl", "--limit", "1", *PAIR], ["no/folder/e.jsonl"], id="output"),
    ],
)
def test_bad_input_is_one_line_that_names_the_value_and_the_remedy(run, arguments, parts):
    line = error_line(run("rollout", "-q", *arguments, code=1))
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param('{"id": "a"\n', ["line 1", "not valid JSON"], id="no JSON"),
        pytest.param('\n{"id": "a", "scenario": "Rain."}\n', ["line 2", "'seats'"], id="missing field"),
        pytest.param(
            '{"id": "a", "scenario": "Rain.", "seats": [{"character": "ada", "goal": ""}]}',
            ["line 1", "'seats.0.character'", "'ada'"],
            id="unknown character",
        ),
    ],
)
def test_malformed_tasks_say_file_line_and_field(run, tmp_path, text, parts):
    (tmp_path / "my.jsonl").write_text(text)
    line = error_line(run("rollout", "--tasks", "my.jsonl", *PAIR, code=1))
    assert all(part in line for part in ["my.jsonl", *parts]), line


def test_a_cast_that_does_not_fit_the_rules_is_refused_by_field(run, tmp_path):
    record = load_tasks("outcome/bargain", n=1)[0].model_dump(mode="json")
    record["terms"]["rules"] = "committee"
    (tmp_path / "my.jsonl").write_text(json.dumps(record))
    line = error_line(run("tasks", "list", "my.jsonl", code=1))
    assert "line 1" in line
    assert "3 to 9 seats, got 2" in line


def test_a_missing_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    line = error_line(run("rollout", "--agent", "local/smollm2", "--agent", "random", code=1))
    assert "pip install 'sotopia-env[local]'" in line


def test_a_missing_key_is_refused_for_a_judge_too_before_anything_is_played(run, tmp_path):
    line = error_line(run(*SMALL, "--judge", "openai/gpt-4o", "--store", "runs.db", code=1))
    assert "OPENAI_API_KEY" in line
    assert not (tmp_path / "runs.db").exists()


def test_an_unreachable_endpoint_fails_its_episodes_and_says_how_to_go_on(run):
    agents = ["--agent", "openai/some-model?max_retries=0", "--agent", "random"]
    address = "http://127.0.0.1:9/v1"
    result = run("rollout", "--limit", 3, *agents, "--base-url", address, "--store", "runs.db", "-q", code=1)
    assert "3 episodes: 0 complete, 3 failed, 0 judge_failed" in result.stdout
    lines = result.stderr.splitlines()
    assert lines[0].startswith("3 x ModelError")
    assert address in lines[0]
    assert lines[1] == (
        "error: of 3 episodes 3 failed and 0 could not be judged. "
        "Run the same command again: runs.db keeps what is complete, and only the rest is done."
    )


def test_an_unreachable_endpoint_ends_a_conversation_with_one_line(run):
    result = run(
        "play", "--agent", "openai/m?max_retries=0", "--base-url", "http://127.0.0.1:9/v1", "--seat", 1, code=1
    )
    assert result.stderr.splitlines()[-1].startswith("error: Model 'm' at http://127.0.0.1:9/v1 failed")


@pytest.mark.parametrize("command", [["show"], ["judge", "--judge", "outcome"]])
def test_a_store_of_a_newer_version_is_refused(run, command):
    run(*SMALL, "--store", "runs.db")
    with sqlite3.connect("runs.db") as database:
        database.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    database.close()
    line = error_line(run(*command, "runs.db", code=1))
    assert "'runs.db' has schema version 99" in line
    assert "Upgrade sotopia-env" in line


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        pytest.param(None, ["'there.db'", "no episode store"], id="absent"),
        pytest.param(b"\xff\xfe\x00garbage", ["'there.db'", "neither an episode store nor JSON Lines"], id="binary"),
        pytest.param(b'{"id": 1', ["there.db, line 1", "not valid JSON"], id="no JSON"),
        pytest.param(b'{"seed": 1}', ["there.db, line 1", "'task'"], id="no episode"),
        pytest.param(b'{"version": 99}', ["there.db, line 1", "version 99", "Upgrade"], id="newer record"),
        pytest.param(b"", ["'there.db'", "no episodes yet"], id="empty"),
    ],
)
def test_what_is_no_collection_of_episodes_is_refused(run, tmp_path, content, parts):
    if content is not None:
        (tmp_path / "there.db").write_bytes(content)
    line = error_line(run("show", "there.db", code=1))
    assert all(part in line for part in parts), line


def test_an_action_outside_its_space_fails_its_episode_by_name(run, write_module):
    module = write_module(
        "from sotopia_env import Action\n"
        "class Dancer:\n    name = 'dancer'\n    def act(self, observation):\n        return Action('dance')\n"
    )
    result = run("rollout", "--limit", 2, "--agent", f"{module}:Dancer", "--agent", "random", "-q", code=1)
    assert "InvalidActionError" in result.stderr
    assert "'dance'" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: of 2 episodes 2 failed")


# --- tasks --------------------------------------------------------------------------------------------


def test_tasks_are_listed_and_shown_as_the_python_api_gives_them(run):
    listed = json.loads(run("tasks", "list", "outcome", "--split", "test", "--limit", 7, "--seed", 3, "--json").stdout)
    tasks = load_tasks("outcome", split="test", n=7, seed=3)
    assert [row["id"] for row in listed] == [task.id for task in tasks]
    for task in tasks:
        assert json.loads(run("tasks", "show", task.id, "--json").stdout) == task.model_dump(mode="json")
    first = json.loads(run("tasks", "show", "outcome/divide", "--seed", 3, "--split", "test", "--json").stdout)
    assert first == load_tasks("outcome/divide", split="test", n=1, seed=3)[0].model_dump(mode="json")


def test_the_packs_are_listed_with_their_families(run):
    rows = json.loads(run("tasks", "list", "--json").stdout)
    assert {"outcome/bargain", "outcome/committee", "everyday/conflict", "everyday-hard/conflict"} <= {
        row["tasks"] for row in rows
    }
    written = sum(row["count"] for row in rows if row["tasks"].startswith("everyday/") and row["seats"] == "2")
    assert written == len(load_tasks("everyday"))
    assert "everyday/conflict" in run("tasks", "list").stdout


@pytest.mark.parametrize("pack", ["outcome/committee", "everyday"])
def test_tasks_of_three_seats_are_found_by_list_show_and_rollout(run, pack):
    rows = json.loads(run("tasks", "list", pack, "--seats", 3, "--limit", 2, "--json").stdout)
    assert [row["seats"] for row in rows] == [3, 3]
    assert json.loads(run("tasks", "show", rows[1]["id"], "--json").stdout)["id"] == rows[1]["id"]
    agents = ["--agent", "random"] * 3
    done = run("rollout", "--tasks", pack, "--limit", 2, *agents, "--judge", "none", "--json", "-q")
    assert json.loads(done.stdout)["status"]["complete"] == 2


def test_own_tasks_are_listed_shown_and_played_from_a_file(run):
    tasks = load_tasks("outcome", n=3, seed=9)
    write_tasks("my.jsonl", tasks)
    assert [row["id"] for row in json.loads(run("tasks", "list", "my.jsonl", "--json").stdout)] == [t.id for t in tasks]
    shown = run("tasks", "show", tasks[1].id, "--tasks", "my.jsonl").stdout
    assert tasks[1].scenario in shown
    done = run("rollout", "--tasks", "my.jsonl", *PAIR, "--output", "played.jsonl", "-q")
    assert "3 episodes: 3 complete" in done.stdout
    assert [episode.task for episode in read_episodes("played.jsonl")] == tasks


@pytest.mark.parametrize(
    ("name", "part"),
    [("everyday/engine-room-telegrap", "'everyday/engine-room-telegraph'"), ("outcome/bargan", "'bargain'")],
)
def test_an_unknown_task_names_the_nearest(run, name, part):
    assert f"Did you mean {part}?" in error_line(run("tasks", "show", name, code=1))


# --- rollout ------------------------------------------------------------------------------------------


def test_the_documented_form_of_rollout_prints_what_the_python_api_computes(run):
    form = (
        "rollout --tasks outcome --split test --limit 50 --agent scripted/fair --agent scripted/tough "
        "--judge outcome --store runs.db --seed 1"
    )
    result = run(*form.split(), "--json")
    record = json.loads(result.stdout)
    tasks = load_tasks("outcome", split="test", n=50, seed=1)
    episodes = sotopia_env.rollout(tasks, ["scripted/fair", "scripted/tough"], seed=1)
    assert record["status"] == {"complete": 50, "failed": 0, "judge_failed": 0}
    for agent, seat in record["seats"].items():
        rewards = [episode.rewards[agent] for episode in episodes]
        assert seat["agent"] == episodes[0].agents[agent]
        assert seat["scores"]["goal"]["mean"] == pytest.approx(sum(rewards) / 50)
        assert seat["reward"] == seat["scores"]["goal"]
        assert seat["scores"]["goal"]["low"] < sum(rewards) / 50 < seat["scores"]["goal"]["high"]
        assert seat["moves"] == sum(event.speaker == agent for episode in episodes for event in episode.events)
        zone = [e.rewards[agent] for e in episodes if e.verdicts["outcome"].measures["zone"]]
        assert seat["goal_by_zone"]["zone"]["mean"] == pytest.approx(sum(zone) / len(zone))
        assert seat["goal_by_zone"]["zone"]["count"] + seat["goal_by_zone"]["no_zone"]["count"] == 50
    deals = [e.ended_by == "deal" for e in episodes if e.verdicts["outcome"].measures["zone"]]
    assert record["tasks"]["zone"]["deals"]["mean"] == pytest.approx(sum(deals) / len(deals))
    with EpisodeStore("runs.db") as store:
        assert [e.events for e in episodes] == [store.get(e.key).events for e in episodes]


def test_the_table_shows_the_numbers_of_the_json(run):
    record = json.loads(run(*SMALL, "--json").stdout)
    table = run(*SMALL).stdout
    for agent, seat in record["seats"].items():
        row = next(line for line in table.splitlines() if line.startswith(agent))
        goal = seat["scores"]["goal"]
        assert seat["agent"] in row
        assert f"{goal['mean']:.2f} [{goal['low']:.2f}, {goal['high']:.2f}]" in row
    assert f"{record['tasks']['zone']['deals']['mean']:.0%}" in table


def test_a_second_run_plays_nothing_again_and_prints_the_same(run, write_module):
    module = write_module(
        "from sotopia_env import Action\n"
        "class Once:\n    name = 'once'\n    inline = True\n    calls = 0\n"
        "    def act(self, observation):\n"
        "        Once.calls += 1\n        return Action('leave')\n"
    )
    command = ["rollout", "--limit", 4, "--agent", f"{module}:Once", "--agent", "random", "--store", "runs.db", "-q"]
    first = run(*command).stdout
    played = sys.modules[module].Once.calls
    assert played == 4
    assert run(*command).stdout == first
    assert sys.modules[module].Once.calls == played


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(run):
    assert run(*SMALL, "--json").stdout == run(*SMALL, "--json").stdout
    other = [*SMALL[: SMALL.index("--seed")], "--seed", "2", "-q"]
    assert run(*SMALL, "--json").stdout != run(*other, "--json").stdout


def test_repeats_turns_and_order_reach_the_episodes(run):
    options = ["--repeats", 3, "--max-turns", 4, "--turn-order", "simultaneous", "--reward", "goal=0.5"]
    run("rollout", "--tasks", "outcome/divide", "--limit", 2, *PAIR, *options, "--output", "e.jsonl", "-q")
    episodes = list(read_episodes("e.jsonl"))
    assert [episode.repeat for episode in episodes] == [0, 1, 2, 0, 1, 2]
    assert {(episode.max_turns, episode.turn_order) for episode in episodes} == {(4, "simultaneous")}
    for episode in episodes:
        for agent, reward in episode.rewards.items():
            assert reward == episode.verdicts["outcome"].scores[agent]["goal"].value / 2


def test_what_failed_is_played_by_the_same_command_later(run):
    agents = ["--agent", "openai/m?max_retries=0", "--agent", "scripted/fair"]
    with LoopbackServer(SPEAK, faults=["500"] * 4) as server:
        options = ["--base-url", server.base_url, "--store", "runs.db", "-q", "--json"]
        command = ["rollout", "--limit", 4, *agents, *options]
        failed = json.loads(run(*command, code=1).stdout)
        done = json.loads(run(*command).stdout)
    assert failed["status"] == {"complete": 0, "failed": 4, "judge_failed": 0}
    assert failed["seats"]["agent_0"]["reward"] is None
    assert done["status"] == {"complete": 4, "failed": 0, "judge_failed": 0}
    assert done["seats"]["agent_0"]["usage"]["calls"] == done["seats"]["agent_0"]["moves"] > 0
    assert done["seats"]["agent_0"]["usage"]["completion_tokens"] > 0


def test_unreadable_replies_and_tokens_stand_in_the_table(run):
    with LoopbackServer("No idea what to do; I would rather not.") as server:
        agents = ["--agent", "openai/m", "--agent", "scripted/leave"]
        result = run("rollout", "--limit", 2, *agents, "--base-url", server.base_url, "-q")
    row = next(line for line in result.stdout.splitlines() if line.startswith("agent_0")).split()
    assert row[:4] == ["agent_0", "openai/m", "2", "2"]
    assert row[-1] == "36"  # four replies of nine words, after "<prompt tokens> +"


def test_the_judge_has_an_endpoint_of_its_own(run):
    with LoopbackServer(SPEAK) as players, LoopbackServer(VERDICT) as judges:
        agents = ["--agent", "openai/m", "--agent", "scripted/leave"]
        urls = ["--base-url", players.base_url, "--judge-base-url", judges.base_url]
        options = ["--tasks", "everyday", "--limit", 2, "--judge", "openai/j", "--reward", "overall"]
        record = json.loads(run("rollout", *agents, *urls, *options, "-q", "--json").stdout)
        assert players.requests == 2
        assert judges.requests == 4
    assert record["seats"]["agent_0"]["reward"]["mean"] == pytest.approx(sum(d.high for d in DIMENSIONS) / 7)
    assert record["judge_usage"]["calls"] == 4


def test_a_password_in_a_stores_url_is_never_printed(run):
    assert without_password("postgresql+psycopg://me:s3:cr/et@host/db") == "postgresql+psycopg://me:***@host/db"
    assert without_password("runs.db") == "runs.db"
    result = run(*SMALL, "--store", "sqlite://me:s3cret@host/runs.db", code=1)
    assert "s3cret" not in result.stdout + result.stderr


# --- outputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["judge", "e.jsonl", "--judge", "outcome", "--output", "./e.jsonl"], id="judge, file"),
        pytest.param(["judge", "runs.db", "--judge", "outcome", "--output", "runs.db"], id="judge, store"),
        pytest.param(["judge", "sqlite:///runs.db", "--judge", "outcome", "--output", "runs.db"], id="judge, url"),
        pytest.param(["judge", "e.jsonl", "--judge", "outcome", "--output", "link"], id="judge, symbolic link"),
        pytest.param(["judge", "e.jsonl", "--judge", "outcome", "--output", "hard"], id="judge, hard link"),
        pytest.param(["safety", "runs.db", "e.jsonl", "--output", "e.jsonl"], id="safety, file"),
        pytest.param(["safety", "runs.db", "--output", "runs.db"], id="safety, store"),
        pytest.param(["safety", "--agent", "random", "--words", "words", "--output", "words"], id="safety, words"),
        pytest.param(
            ["safety", "--agent", "random", "--store", "new.db", "--output", "new.db"], id="safety, new store"
        ),
        pytest.param(["audit", "e.jsonl", "--judge", "x", "--ratings", "words", "--output", "words"], id="audit"),
        pytest.param(["audit", "e.jsonl", "--judge", "x", "--output", "o", "--page", "o"], id="audit, both"),
        pytest.param(["robustness", "--store", "runs.db", "--output", "runs.db"], id="robustness"),
        pytest.param(["qa", "--policy", "hf/x", "--store", "a", "--output", "a"], id="qa, store"),
        pytest.param(["qa", "--policy", "hf/x", "--data", "words", "--output", "words"], id="qa, data"),
        pytest.param([*SMALL, "--store", "runs.db", "--output", "runs.db"], id="rollout, store"),
        pytest.param(["rollout", "--tasks", "t.jsonl", *PAIR, "--output", "t.jsonl"], id="rollout, tasks"),
        pytest.param(["play", "--tasks", "t.jsonl", "--output", "t.jsonl"], id="play"),
        pytest.param(["export", "sqlite:///runs.db", "--format", "jsonl", "--out", "runs.db"], id="export"),
        pytest.param(["import", "e.jsonl", "--problems", "e.jsonl"], id="import"),
        pytest.param(["import", "e.jsonl", "--store", "runs.db", "--problems", "runs.db"], id="import, store"),
        pytest.param(
            ["generate", "--model", "openai/m", "--n", "1", "--avoid", "t.jsonl", "--output", "t.jsonl"], id="generate"
        ),
        pytest.param(["leaderboard", "x.md", "--output", "x.html"], id="leaderboard"),
        pytest.param(
            ["benchmark", "--policy", "random", "--store", "b.json", "--output", "b.json"], id="benchmark, store"
        ),
        pytest.param(
            ["benchmark", "--policy", "random", "--section", "outcome", "--output", "b.json"], id="benchmark, timings"
        ),
        pytest.param(["report", "run", "--output", "run/samples/bc.html"], id="report"),
        pytest.param(["evaluate", "--policy", "random", "--tasks", "t.jsonl", "--output", "t.jsonl"], id="evaluate"),
        pytest.param(["evaluate", "--policy", "random", "--store", "e.db", "--output", "e.db"], id="evaluate, store"),
    ],
)
def test_no_output_replaces_what_is_read_or_kept_or_another_output(run, tmp_path, arguments):
    run(*SMALL, "--limit", 2, "--store", "runs.db", "--output", "e.jsonl")
    write_tasks("t.jsonl", load_tasks("everyday")[:2])
    for name in ("words", "x.md"):
        Path(name).write_text("mine")
    Path("link").symlink_to("e.jsonl")
    Path("hard").hardlink_to("e.jsonl")
    Path("b.timings.json").mkdir()
    Path("run/samples").mkdir(parents=True)
    Path("run/samples/bc.json").write_text("{}")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    line = error_line(run(*arguments, code=1))
    assert any(word in line for word in ("itself", "are one file", "it be no folder"))
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


@pytest.mark.parametrize("command", [[*SMALL], ["judge", "e.jsonl", "--judge", "outcome"], ["play"]])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_done(run, command):
    run(*SMALL, "--output", "e.jsonl")
    assert "its folder must exist" in error_line(run(*command, "--output", "no/x.jsonl", code=1))
    assert "cannot be written (OSError" in error_line(run(*command, "--output", "x" * 256, code=1))


# --- judge --------------------------------------------------------------------------------------------


def test_a_file_in_which_episodes_stand_twice_is_judged_once_and_says_so(run):
    run(*SMALL, "--output", "e.jsonl")
    Path("twice.jsonl").write_text(Path("e.jsonl").read_text() * 2)
    result = run("judge", "twice.jsonl", "--judge", "outcome", "--output", "judged.jsonl", "-q")
    assert "6 episodes" in result.stdout
    assert "twice.jsonl: passed over 6 lines with an episode that stood there before." in result.stderr
    assert len(list(read_episodes("judged.jsonl"))) == 6


def test_nothing_to_judge_is_said(run):
    Path("empty.jsonl").write_text("")
    assert "holds no episode that came to an end" in error_line(
        run("judge", "empty.jsonl", "--judge", "outcome", code=1)
    )


def test_a_seat_without_an_agent_is_named(run):
    run(*SMALL, "--output", "e.jsonl")
    record = json.loads(Path("e.jsonl").read_text().splitlines()[0])
    del record["agents"]["agent_1"]
    Path("odd.jsonl").write_text(json.dumps(record))
    line = error_line(run("judge", "odd.jsonl", "--judge", "outcome", code=1))
    assert "odd.jsonl, line 1 is not an episode: field 'agents': must name a policy for each of" in line


@pytest.mark.parametrize("name", ["knowledge", "financial_and_material_benefits"])
def test_the_one_scale_that_is_asked_for_is_the_reward(run, name):
    run(*SMALL[:-1], "--judge", "none", "--limit", 1, "--store", "runs.db", "-q")
    with LoopbackServer(json.dumps({name: {"reason": "because", "score": 5}})) as server:
        run("judge", "runs.db", "--judge", "openai/j", "--dimension", name, "--base-url", server.base_url, "-q")
    with EpisodeStore("runs.db") as store:
        assert [episode.rewards for episode in store.episodes()] == [{"agent_0": 5.0, "agent_1": 5.0}]


@pytest.mark.parametrize("status", ["complete", "judge_failed"])
def test_a_verdict_that_lacks_the_goal_is_kept_and_gives_no_reward_unless_that_was_asked_for(run, write_module, status):
    module = write_module(
        "from sotopia_env import ScriptedJudge\n"
        "def secret(): return ScriptedJudge({a: {'secret': -1} for a in ('agent_0', 'agent_1')}, name='s')\n"
    )
    run(*SMALL, "--limit", 1, "--judge", "none", "--output", "e.jsonl")
    played = [episode.model_copy(update={"status": status}) for episode in read_episodes("e.jsonl")]
    with EpisodeStore("runs.db") as store:
        store.add_all(played)
    asked = ["judge", "runs.db", "--judge", f"{module}:secret", "-q"]
    assert "absent" in run(*asked, "--reward", "goal", code=1).stderr
    run(*asked)
    with EpisodeStore("runs.db") as store:
        (episode,) = store.episodes()
    assert episode.verdicts["s"].values("agent_0") == {"secret": -1}
    assert (episode.rewards, episode.status) == ({}, status)
    run(*asked, "--again", "--reward", "secret")
    with EpisodeStore("runs.db") as store:
        (episode,) = store.episodes()
    assert (episode.rewards, episode.status) == ({"agent_0": -1.0, "agent_1": -1.0}, "complete")


def test_another_judges_verdicts_are_kept_and_shown_side_by_side(run):
    run(*SMALL, "--store", "runs.db")
    with LoopbackServer(VERDICT) as server:
        command = ["judge", "runs.db", "--judge", "openai/j", "--base-url", server.base_url, "-q"]
        record = json.loads(run(*command, "--json").stdout)
        assert server.requests == 12
        text = run(*command).stdout
        assert server.requests == 12  # nothing is asked twice
        run(*command, "--again", "--limit", 1)
        assert server.requests == 14
    assert record["judges"] == ["outcome", "openai/j"]
    means = record["means"]["goal"]
    assert means["openai/j"]["mean"] == 10
    assert means["openai/j minus outcome"]["mean"] == pytest.approx(10 - means["outcome"]["mean"])
    assert "openai/j minus outcome" in text
    assert "6 had a verdict of openai/j" in text
    with EpisodeStore("runs.db") as store:
        for episode in store.episodes():
            assert set(episode.verdicts) == {"outcome", "openai/j"}
            assert episode.rewards["agent_0"] == episode.verdicts["outcome"].scores["agent_0"]["goal"].value
            assert episode.usage["openai/j"]["calls"] == 2


def test_episodes_that_could_not_be_judged_get_their_first_verdict(run, write_module):
    module = write_module(
        "from sotopia_env import ScriptedJudge\n"
        "def broken(): return ScriptedJudge({'agent_0': {'goal': 11}, 'agent_1': {'goal': 3}}, name='broken')\n"
    )
    result = run(*SMALL, "--judge", f"{module}:broken", "--store", "runs.db", code=1)
    assert "6 judge_failed" in result.stdout
    assert "got 11" in result.stderr
    run("judge", "runs.db", "--judge", "outcome", "-q")
    with EpisodeStore("runs.db") as store:
        assert {episode.status for episode in store.episodes()} == {"complete"}
        assert all(
            e.rewards["agent_1"] == e.verdicts["outcome"].scores["agent_1"]["goal"].value for e in store.episodes()
        )


def test_a_judge_that_fails_leaves_no_score_and_exit_code_1(run):
    run(*SMALL, "--store", "runs.db")
    with LoopbackServer("I would say a solid seven.") as server:
        result = run("judge", "runs.db", "--judge", "openai/j", "--base-url", server.base_url, "-q", code=1)
    assert result.stderr.splitlines()[-1].startswith("error: openai/j gave no verdict on 6 of 6 episodes.")
    with EpisodeStore("runs.db") as store:
        assert all(set(episode.verdicts) == {"outcome"} for episode in store.episodes())


def test_a_file_of_episodes_is_judged_into_another_file(run, write_module):
    module = write_module(
        "from sotopia_env import ScriptedJudge\n"
        "def seven(): return ScriptedJudge({'agent_0': {'goal': 7}, 'agent_1': {'goal': 3}}, name='seven')\n"
    )
    run(*SMALL, "--output", "e.jsonl")
    before = Path("e.jsonl").read_bytes()
    run("judge", "e.jsonl", "--judge", f"{module}:seven", "--output", "judged.jsonl", "-q")
    assert Path("e.jsonl").read_bytes() == before
    for episode in read_episodes("judged.jsonl"):
        assert episode.verdicts["seven"].values("agent_0") == {"goal": 7}
        assert set(episode.verdicts) == {"outcome", "seven"}
        assert episode.rewards["agent_0"] == episode.verdicts["outcome"].scores["agent_0"]["goal"].value


# --- show ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["runs.db", "e.jsonl"])
def test_an_episode_is_shown_by_the_beginning_of_its_id(run, source):
    run(*SMALL, "--store", "runs.db", "--output", "e.jsonl")
    for episode in read_episodes("e.jsonl"):
        assert json.loads(run("show", source, episode.id[:10], "--json").stdout) == episode.model_dump(mode="json")
        text = run("show", source, episode.id[:10]).stdout
        assert episode.task.scenario in text
        assert all(event.argument in text for event in episode.events)
        assert all(f"goal {v['goal'].value:.2f}" in text for v in episode.verdicts["outcome"].scores.values())


def test_without_an_id_the_latest_episode_is_shown(run):
    run(*SMALL, "--store", "runs.db")
    time.sleep(0.01)
    run("rollout", "--tasks", "outcome/divide", "--limit", 1, *PAIR, "--store", "runs.db", "--seed", 77, "-q")
    assert json.loads(run("show", "runs.db", "--json").stdout)["task"]["id"] == "outcome/divide/train/77/0"


def test_unknown_and_ambiguous_ids_are_refused(run):
    run(*SMALL, "--store", "runs.db")
    assert "'zz'" in error_line(run("show", "runs.db", "zz", code=1))
    assert "6 ids" in error_line(run("show", "runs.db", "", code=1))


def test_the_list_has_a_row_per_episode_and_can_be_narrowed(run):
    run(*SMALL, "--store", "runs.db")
    with EpisodeStore("runs.db") as store:
        episodes = list(store.episodes())
    rows = json.loads(run("show", "runs.db", "--list", "--json").stdout)
    assert [row["id"] for row in rows] == [episode.id for episode in episodes]
    text = run("show", "runs.db", "--list", "--task", episodes[2].task.id).stdout
    assert episodes[2].id[:12] in text
    assert episodes[0].id[:12] not in text
    assert json.loads(run("show", "runs.db", "--list", "--status", "failed", "--json").stdout) == []


def test_private_facts_are_shown_on_request_only(run):
    run("rollout", "--tasks", "everyday", "--limit", 1, *PAIR, "--judge", "none", "--output", "e.jsonl", "-q")
    (episode,) = read_episodes("e.jsonl")
    facts = [str(fact) for seat in episode.task.seats for fact in seat.private.values()]
    facts += [seat.character.secret for seat in episode.task.seats]
    assert len(facts) >= 4
    public, private = run("show", "e.jsonl").stdout, run("show", "e.jsonl", "--private").stdout
    assert not [fact for fact in facts if fact in public]
    assert not [fact for fact in facts if fact not in private]


def test_what_agents_say_and_are_called_cannot_steer_the_terminal(run, write_module):
    evil = "[red]hi[/red] [/] :smile: \x1b]0;owned\x07\x1b[2J\r\nagent_9: forged \u202e \u2028 x"
    module = write_module(
        "from sotopia_env import Action, ScriptedJudge\n"
        f"EVIL = {evil!r}\n"
        "class Evil:\n    name = 'evil ' + EVIL\n    calls = 0\n"
        "    def act(self, observation):\n"
        "        return Action('speak' if observation['turn'] < 2 else 'leave', EVIL)\n"
        "def judge(): return ScriptedJudge({'agent_0': {'goal': 1}, 'agent_1': {'goal': 2}}, name='judge ' + EVIL)\n"
        "class Broken:\n    name = 'broken'\n    def act(self, observation): raise RuntimeError(EVIL)\n"
    )
    agents = ["--agent", f"{module}:Evil", "--agent", f"{module}:Evil"]
    results = [
        run("rollout", "--limit", 2, *agents, "--judge", f"{module}:judge", "--store", "runs.db", "-q"),
        run("rollout", "--limit", 2, "--agent", f"{module}:Broken", "--agent", "random", "-q", code=1),
        run("show", "runs.db"),
        run("show", "runs.db", "--list"),
        run("judge", "runs.db", "--judge", "outcome", "-q"),
        run("show", "runs.db", evil, code=1),
        run("rollout", "--tasks", evil, *agents, code=1),
        run("play", "--tasks", "outcome", "--agent", f"{module}:Evil", "--seed", 1, "--seat", 1, input="4\n\n"),
    ]
    for result in results:
        text = result.stdout + result.stderr
        assert "[red]hi[/red]" in text or "[red]hi[/red]" in text.replace("\n", "")
        assert not [c for c in text if not c.isprintable() and c != "\n"]
        assert not [line for line in text.splitlines() if line.lstrip().startswith("agent_9")]


# --- play ---------------------------------------------------------------------------------------------


def test_a_person_plays_through_stdin_and_is_scored(run):
    moves = "speak\nGood day [b]to you[/b].\naction\noffer 120\nleave\nBye.\n"
    task = next(t for t in load_tasks("outcome/bargain", seed=4) if outcomes(t).zone)
    options = ["--task", task.id, "--agent", "scripted/fair", "--seed", 4, "--output", "e.jsonl"]
    result = run("play", *options, input=moves)
    (episode,) = read_episodes("e.jsonl")
    mine = [(e.action_type, e.argument) for e in episode.events if e.speaker == "agent_0"]
    assert mine == [("speak", "Good day [b]to you[/b]."), ("action", "offer 120"), ("leave", "Bye.")]
    assert episode.agents == {"agent_0": "human", "agent_1": "scripted/fair"}
    assert episode.rewards == {"agent_0": 1.0, "agent_1": 1.0}
    assert "Your private goal" in result.stdout
    assert "ended by departure" in result.stdout
    assert "goal 1.00" in result.stdout


def test_the_end_of_the_input_leaves_the_conversation(run):
    assert "ended by departure" in run("play", "--seed", 1, input="").stdout


def test_with_json_the_record_alone_stands_on_stdout(run):
    task = load_tasks("everyday")[3]
    options = ["--tasks", "everyday", "--task", task.id, "--agent", "scripted/soft", "--seat", 1, "--seed", 5]
    result = run("play", *options, "--json", input="1\nHello.\n4\n\n")
    record = json.loads(result.stdout)
    assert record["task"]["id"] == task.id
    assert record["agents"] == {"agent_0": "scripted/soft", "agent_1": "human"}
    assert record["verdicts"] == {}
    assert "Your move" in result.stderr


def test_the_same_seed_draws_the_same_task_and_partners_moves(run):
    first, again, other = (
        json.loads(run("play", "--tasks", "everyday", "--seed", seed, "--seat", 1, "--json", input="4\n\n").stdout)
        for seed in (5, 5, 6)
    )
    assert (first["task"], first["events"]) == (again["task"], again["events"])
    assert first["task"] != other["task"]


def test_one_partner_fills_every_other_seat_or_each_is_named(run):
    record = json.loads(run("play", "--tasks", "outcome/committee", "--seed", 1, "--json", input="").stdout)
    assert set(record["agents"].values()) == {"human", "scripted/fair"}
    two = ["--agent", "random", "--agent", "scripted/soft", "--seat", 1]
    record = json.loads(run("play", "--tasks", "outcome/committee", "--seed", 1, *two, "--json", input="").stdout)
    assert list(record["agents"].values()) == ["random", "human", "scripted/soft"]
    line = error_line(run("play", "--tasks", "outcome", "--seat", 2, "--seed", 1, code=1))
    assert "--seat is 2" in line


def test_a_conversation_whose_judge_fails_is_kept_and_exits_with_1(run):
    with LoopbackServer("no verdict") as server:
        options = ["--judge", "openai/j", "--base-url", server.base_url, "--output", "e.jsonl", "--seed", 1]
        result = run("play", *options, input="4\n\n", code=1)
    assert "error: JudgeError" in result.stderr
    (episode,) = read_episodes("e.jsonl")
    assert episode.status == "judge_failed"
    assert episode.rewards == {}


# --- demo ---------------------------------------------------------------------------------------------


def test_the_demo_shows_a_scored_conversation_and_a_table_of_computed_means(run):
    text = run("demo", "--seed", 3, "-q").stdout
    record = json.loads(run("demo", "--seed", 3, "-q", "--json").stdout)
    assert record["episode"]["verdicts"]["outcome"]["scores"]["agent_0"]["goal"]["value"] >= 0
    assert all(event["argument"] in text for event in record["episode"]["events"])
    tasks = load_tasks("outcome", split="test", n=50, seed=3)
    episodes = sotopia_env.rollout(tasks, ["scripted/expert", "scripted/tough"], seed=3)
    zone = [e for e in episodes if e.verdicts["outcome"].measures["zone"]]
    row = next(line for line in text.splitlines() if line.startswith("expert / tough"))
    for agent in ("agent_0", "agent_1"):
        assert f"{sum(e.rewards[agent] for e in zone) / len(zone):.1f} [" in row
    assert f"{sum(e.ended_by == 'deal' for e in zone) / len(zone):.0%}" in row
    assert f"{sum(e.verdicts['outcome'].measures['welfare'] for e in zone) / len(zone):.2f} [" in row


# --- intervals ----------------------------------------------------------------------------------------

NUMBERS = st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(-10, 10)), min_size=1, max_size=30)


def estimate(pairs, seed=0):
    values = Values()
    for task, value in pairs:
        values.add(task, value)
    return values.estimate(seed)


@given(NUMBERS, st.randoms())
def test_an_interval_lies_within_the_task_means_and_ignores_the_order_of_tasks(pairs, draw):
    found = estimate(pairs)
    by_task = {}
    for task, value in pairs:
        by_task.setdefault(task, []).append(value)
    means = [sum(values) / len(values) for values in by_task.values()]
    assert found.count == len(pairs)
    assert found.mean == pytest.approx(sum(means) / len(means), abs=1e-9)
    if len(means) == 1:
        assert found.low is found.high is None
    else:
        assert min(means) - 1e-9 <= found.low <= found.high <= max(means) + 1e-9
    tasks = list(by_task)
    draw.shuffle(tasks)
    assert estimate([(task, value) for task in tasks for value in by_task[task]]) == found


def test_repeating_tasks_does_not_narrow_the_interval():
    pairs = [("a", 1.0), ("b", 4.0), ("c", 9.0)]
    once, often = estimate(pairs), estimate(pairs * 20)
    assert (once.low, once.high) == (often.low, often.high)
    assert once.low < once.high


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    import numpy as np

    draw = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        found = estimate([(str(i), float(v)) for i, v in enumerate(draw.normal(3, 2, size=40))], seed=trial)
        hits += found.low <= 3 <= found.high
    assert 0.90 <= hits / 200 <= 0.98


# --- real processes -----------------------------------------------------------------------------------


def test_the_console_script_keeps_stdout_for_the_result(tmp_path):
    process = console_script(*SMALL[:-1], "--json", cwd=tmp_path)  # with its progress bar
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["episodes"] == 6
    assert "episodes" in err


def test_the_console_script_finds_agents_in_the_current_folder(tmp_path):
    (tmp_path / "my_agents.py").write_text(
        "from sotopia_env import Action\nclass Leaver:\n    name = 'leaver'\n"
        "    def act(self, observation):\n        return Action('leave')\n"
    )
    agents = ["--agent", "my_agents:Leaver", "--agent", "scripted/fair"]
    process = console_script("rollout", "--limit", "2", *agents, "--json", "-q", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["ended_by"] == {"departure": 2}


def test_an_error_of_the_console_script_is_one_line_without_traceback(tmp_path):
    process = console_script("show", "nothing.db", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")


def test_a_person_plays_the_console_script_through_a_pipe(tmp_path):
    process = console_script("play", "--seed", "1", "--json", cwd=tmp_path, stdin=subprocess.PIPE)
    out, err = process.communicate("1\nGrüß Gott \x1b[31m\n4\n\n", timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["events"][0]["argument"] == "Grüß Gott \x1b[31m"


def test_a_closed_pipe_is_no_traceback(tmp_path):
    process = console_script("tasks", "list", "outcome", "--limit", "1000", "--json", cwd=tmp_path)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) != 0
    assert "Traceback" not in err


def test_ctrl_c_exits_with_130_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\nfrom sotopia_env import Action\nclass Slow:\n    name = 'slow'\n"
        "    def act(self, observation):\n        time.sleep(0.02)\n        return Action('speak', 'wait')\n"
    )
    agents = ["--agent", "slow:Slow", "--agent", "slow:Slow"]
    command = ["rollout", "--limit", "12", *agents, "--store", "runs.db", "--concurrency", "2", "--json", "-q"]
    process = console_script(*command, cwd=tmp_path)
    while not _complete(tmp_path / "runs.db"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines() == [
        "Finished episodes are in runs.db; the same command goes on from there.",
        "error: interrupted",
    ]
    done = _complete(tmp_path / "runs.db")
    assert 0 < done < 12
    again = console_script(*command, cwd=tmp_path)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert json.loads(out)["status"]["complete"] == 12


def _complete(path):
    if not path.exists():
        return 0
    try:
        with EpisodeStore(path, create=False) as store:
            return len(store.keys(status="complete"))
    except sotopia_env.StoreError:  # its tables are just being made
        return 0
