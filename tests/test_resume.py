"""Stopping and going on: what is stored is not played again, whatever killed the run before."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from sotopia_env import Action, EpisodeStore, JudgeError, ScriptedJudge, load_tasks, rollout
from sotopia_env.store import StoredEpisodes

TASKS = load_tasks("outcome", n=6)
SEVEN_AND_THREE = {"agent_0": {"goal": 7}, "agent_1": {"goal": 3}}


class Talker:
    """Speaks four times and leaves; counts its turns, and raises while it is told to."""

    inline = True

    def __init__(self, name: str = "talker") -> None:
        self.name = name
        self.turns = 0
        self.breaks_on: set[str] = set()

    def act(self, observation):
        self.turns += 1
        if any(text in observation["background"] for text in self.breaks_on):
            raise ConnectionError("no route")
        return Action("leave") if observation["turn"] >= 4 else Action("speak", "hm")


class Judge(ScriptedJudge):
    """Gives 7 and 3, or raises for the tasks it is told to; keeps what it was shown."""

    def __init__(self, name: str = "judge", scores=SEVEN_AND_THREE) -> None:
        super().__init__(scores, name=name)
        self.down_on: set[str] = set()
        self.shown = []

    def score(self, episode):
        self.shown.append(episode)
        if episode.task.id in self.down_on:
            raise JudgeError("down")
        return super().score(episode)


def essence(episode):
    return episode.model_dump(exclude={"started_at", "seconds", "usage", "code_version"})


def test_complete_episodes_are_neither_played_nor_judged_again(tmp_path):
    agent, judge = Talker(), Judge()
    first = list(rollout(TASKS, [agent, agent], judge=judge, store=tmp_path / "runs.db"))
    turns = agent.turns
    again = rollout(TASKS, [agent, agent], judge=judge, store=tmp_path / "runs.db")
    assert isinstance(again, StoredEpisodes)
    assert agent.turns == turns
    assert len(judge.shown) == len(TASKS)
    assert list(again) == first


def test_the_order_is_the_one_asked_for_whether_stored_or_fresh(tmp_path):
    agent = Talker()
    rollout(TASKS[3:], [agent, agent], store=tmp_path / "runs.db")
    made = rollout(TASKS[::-1], [agent, agent], repeats=2, store=tmp_path / "runs.db")
    assert [(e.task.id, e.repeat) for e in made] == [(task.id, r) for task in TASKS[::-1] for r in (0, 1)]
    assert len(EpisodeStore(tmp_path / "runs.db")) == 12


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"max_turns": 19}, {"turn_order": "random"}, {"agents": [Talker("other"), Talker()]}],
    ids=lambda change: next(iter(change)),
)
def test_whatever_determines_an_episode_makes_it_another(tmp_path, change):
    arguments = {"agents": [Talker(), Talker()], "store": tmp_path / "runs.db"}
    first = {e.key for e in rollout(TASKS, **arguments)}
    other = {e.key for e in rollout(TASKS, **{**arguments, **change})}
    assert not first & other
    assert len(EpisodeStore(tmp_path / "runs.db")) == 12


def test_failed_episodes_are_played_again_and_only_they(tmp_path):
    agent = Talker()
    agent.breaks_on = {TASKS[1].scenario, TASKS[4].scenario}
    first = list(rollout(TASKS, [agent, agent], store=tmp_path / "runs.db"))
    assert [e.status for e in first].count("failed") == 2
    agent.breaks_on, agent.turns = {TASKS[4].scenario}, 0
    second = list(rollout(TASKS, [agent, agent], store=tmp_path / "runs.db"))
    assert [e.task.id for e in second if e.status == "failed"] == [TASKS[4].id]
    assert agent.turns == 5 + 1
    agent.breaks_on = set()
    third = list(rollout(TASKS, [agent, agent], store=tmp_path / "runs.db"))
    undisturbed = rollout(TASKS, [agent, agent])
    assert [essence(e) for e in third] == [essence(e) for e in undisturbed]
    assert [e for e in third if e.task not in (TASKS[1], TASKS[4])] == [e for e in first if e.status == "complete"]
    assert len(EpisodeStore(tmp_path / "runs.db")) == 6


def test_unjudged_episodes_are_judged_again_without_being_played(tmp_path):
    agent, judge = Talker(), Judge()
    judge.down_on = {TASKS[0].id, TASKS[2].id}
    first = list(rollout(TASKS, [agent, agent], judge=judge, store=tmp_path / "runs.db"))
    assert [e.status for e in first].count("judge_failed") == 2
    turns, judge.down_on, seen = agent.turns, {TASKS[2].id}, list(judge.shown)
    second = list(rollout(TASKS, [agent, agent], judge=judge, store=tmp_path / "runs.db"))
    assert [e.task.id for e in second if e.status == "judge_failed"] == [TASKS[2].id]
    assert len(judge.shown) == len(TASKS) + 2
    assert {e.key: e for e in judge.shown[6:]}.items() <= {e.key: e for e in seen}.items()
    judge.down_on = set()
    third = list(rollout(TASKS, [agent, agent], judge=judge, store=tmp_path / "runs.db"))
    assert agent.turns == turns
    assert [essence(e) for e in third] == [essence(e) for e in rollout(TASKS, [Talker(), Talker()], judge=Judge())]
    assert [e.started_at for e in third] == [e.started_at for e in first]


def test_an_unjudged_episode_stays_as_it_is_if_no_verdict_is_asked_for(tmp_path):
    judge = Judge()
    judge.down_on = {task.id for task in TASKS}
    first = list(rollout(TASKS, [Talker(), Talker()], judge=judge, store=tmp_path / "runs.db"))
    assert list(rollout(TASKS, [Talker(), Talker()], judge=None, store=tmp_path / "runs.db")) == first


def test_another_judge_adds_its_verdict_and_the_rewards_stay_the_first_ones(tmp_path):
    agent = Talker()
    rollout(TASKS, [agent, agent], judge=Judge("first"), store=tmp_path / "runs.db")
    turns = agent.turns
    second = Judge("second", {"agent_0": {"goal": 1}, "agent_1": {"goal": 2}})
    for episode in rollout(TASKS, [agent, agent], judge=second, store=tmp_path / "runs.db"):
        assert episode.status == "complete"
        assert {name: v.values("agent_0")["goal"] for name, v in episode.verdicts.items()} == {"first": 7, "second": 1}
        assert episode.rewards == {"agent_0": 7.0, "agent_1": 3.0}
    assert agent.turns == turns
    assert all(episode.verdicts == {} and episode.rewards == {} for episode in second.shown)
    rollout(TASKS, [agent, agent], judge=second, store=tmp_path / "runs.db")
    assert len(second.shown) == len(TASKS)


def test_episodes_played_without_a_judge_get_verdict_and_rewards_from_the_first_one(tmp_path):
    rollout(TASKS, [Talker(), Talker()], judge=None, store=tmp_path / "runs.db")
    judged = list(rollout(TASKS, [Talker(), Talker()], judge=Judge(), store=tmp_path / "runs.db"))
    assert [essence(e) for e in judged] == [essence(e) for e in rollout(TASKS, [Talker(), Talker()], judge=Judge())]


def test_a_verdict_that_the_reward_cannot_use_is_not_added(tmp_path):
    rollout(TASKS, [Talker(), Talker()], judge=Judge("first"), store=tmp_path / "runs.db")
    lacking = Judge("second", {"agent_0": {"goal": 1}, "agent_1": {"secret": 0}})
    for episode in rollout(TASKS, [Talker(), Talker()], judge=lacking, store=tmp_path / "runs.db"):
        assert list(episode.verdicts) == ["first"]
        assert episode.status == "complete"


# --- killed from outside ----------------------------------------------------------------------------

RUN = """
import asyncio, sys
from sotopia_env import load_tasks, make_agent, rollout
from sotopia_env.judges import OutcomeJudge

class Slow:
    is_going = False
    def __init__(self, strategy):
        self.agent = make_agent(f"scripted/{strategy}")
        self.name = f"slow/{strategy}"
    async def act(self, observation):
        if not Slow.is_going:
            Slow.is_going = True
            print("going", flush=True)
        await asyncio.sleep(0.004)
        return self.agent.act(observation)

class Threaded(Slow):
    def act(self, observation):
        return self.agent.act(observation)

class Counting(OutcomeJudge):
    inline = True
    scored = 0
    def score(self, episode):
        verdict = super().score(episode)
        Counting.scored += 1
        return verdict

try:
    tasks = load_tasks("outcome", n=24, seed=4)
    rollout(tasks, [Slow("fair"), Threaded("tough")], judge=Counting(), repeats=10, concurrency=4, store=sys.argv[1])
except KeyboardInterrupt:
    print("interrupted", Counting.scored, flush=True)
    sys.exit(7)
"""


def start(path, script=RUN):
    """Begin a rollout in another process, and come back when its first agent acts."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "going\n", process.stderr.read()
    return process


def integrity(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "runs.db"
    process = start(path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return {e.key: essence(e) for e in EpisodeStore(path).episodes()}


def test_a_run_killed_ten_times_ends_with_exactly_the_episodes_of_an_undisturbed_one(tmp_path, undisturbed):
    path = tmp_path / "runs.db"
    moments = random.Random()
    stamps: dict[str, str] = {}
    progress = []
    for _ in range(10):
        process = start(path)
        time.sleep(moments.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        with EpisodeStore(path) as store:
            stored = {e.key: e for e in store.episodes()}
        assert {key: essence(e) for key, e in stored.items()}.items() <= undisturbed.items()
        # What an earlier run had committed is still that run's: nothing was played twice.
        assert stamps.items() <= {key: e.started_at for key, e in stored.items()}.items()
        stamps = {key: e.started_at for key, e in stored.items()}
        progress.append(len(stored))
    assert 0 < progress[-1] < len(undisturbed)
    process = start(path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert integrity(path) == "ok"
    with EpisodeStore(path) as store:
        final = list(store.episodes())
    assert len(final) == len(undisturbed) == 240
    assert {e.key: essence(e) for e in final} == undisturbed
    assert stamps.items() <= {e.key: e.started_at for e in final}.items()


def test_ctrl_c_leaves_a_clean_store_with_all_that_had_finished(tmp_path, undisturbed):
    path = tmp_path / "runs.db"
    process = start(path)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 7, errors
    assert errors == ""
    scored = int(output.split("interrupted ")[1])
    assert sorted(os.listdir(tmp_path)) == ["runs.db"]
    assert integrity(path) == "ok"
    with EpisodeStore(path) as store:
        stored = {e.key: essence(e) for e in store.episodes()}
    assert 0 < len(stored) == scored < len(undisturbed)
    assert stored.items() <= undisturbed.items()


def test_two_processes_that_run_the_same_rollout_into_one_store_write_nothing_twice(tmp_path, undisturbed):
    path = tmp_path / "runs.db"
    both = [start(path), start(path)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    with EpisodeStore(path) as store:
        assert {e.key: essence(e) for e in store.episodes()} == undisturbed
        assert len(store) == len(undisturbed)


# --- many -------------------------------------------------------------------------------------------

MANY = """
import resource, sys, time
from sotopia_env import load_tasks, rollout
tasks = load_tasks("outcome", n=100)
start = time.perf_counter()
agents = ["scripted/fair", "scripted/tough"]
episodes = rollout(tasks, agents, repeats=int(sys.argv[2]), store=sys.argv[1])
seconds = time.perf_counter() - start
assert len(episodes) == 100 * int(sys.argv[2])
assert all(episode.status == "complete" for episode in episodes)
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure(path, repeats):
    """Seconds of the rollout, and peak memory of its process in KiB, reading everything back included."""
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(path), str(repeats)], capture_output=True, text=True, check=True, timeout=300
    )
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


def test_three_thousand_scripted_episodes_take_the_memory_of_one_thousand_at_the_required_rate(tmp_path):
    _, small = measure(tmp_path / "small.db", 10)
    seconds, large = measure(tmp_path / "large.db", 30)
    assert seconds < 120 * 3000 / 10_000
    assert large <= 1.2 * small


@pytest.mark.slow
def test_ten_thousand_take_under_two_minutes_and_a_fifth_more_memory_than_a_thousand_at_most(tmp_path):
    _, small = measure(tmp_path / "small.db", 10)
    seconds, large = measure(tmp_path / "large.db", 100)
    assert seconds < 120
    assert large <= 1.2 * small
