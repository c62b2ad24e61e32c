"""Many episodes at once: any kind of agent, failures that stay where they happen, nothing invented."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import os
import random
import subprocess
import sys
import threading
import time

import gymnasium
import numpy as np
import pytest

import sotopia_env
from sotopia_env import (
    Action,
    ConfigurationError,
    EpisodeStore,
    JudgeError,
    OutcomeJudge,
    ScriptedJudge,
    StoreError,
    aio,
    load_tasks,
    rollout,
)
from sotopia_env.agents import LLMAgent
from sotopia_env.conversation import Conversation
from sotopia_env.loopback import LoopbackServer
from sotopia_env.models import OpenAIModel, ScriptedModel
from sotopia_env.rollouts import arollout, episode_seed

TASKS = load_tasks("outcome", n=6)
SCORES = {"agent_0": {"goal": 7}, "agent_1": {"goal": 3}}


class Inline:
    """Says its turn and, in its last one, leaves."""

    inline = True

    def __init__(self, name: str = "inline", turns: int = 6) -> None:
        self.name = name
        self.turns = turns
        self.threads: set[str] = set()

    def act(self, observation):
        self.threads.add(threading.current_thread().name)
        return Action("leave") if observation["turn"] >= self.turns else Action("speak", f"turn {observation['turn']}")


class Sync(Inline):
    """As `Inline`, on a worker thread."""

    inline = False


class Async(Inline):
    """As `Inline`, waiting a little each time."""

    async def act(self, observation):
        await asyncio.sleep(0.001)
        return super().act(observation)


class Raising(Inline):
    """Raises in its second turn in tasks of the given ids, or in all."""

    def __init__(self, error, tasks=None, inline=True):
        super().__init__("raising")
        self.error = error
        self.scenarios = None if tasks is None else {task.scenario for task in tasks}
        self.inline = inline

    def act(self, observation):
        scenario = observation["background"].split("\n\nYou are ")[0]
        if observation["turn"] >= 2 and (self.scenarios is None or scenario in self.scenarios):
            raise self.error
        return super().act(observation)


def essence(episode):
    """All that a seed and the agents determine."""
    return episode.model_dump(exclude={"started_at", "seconds", "usage", "code_version"})


# --- what comes back --------------------------------------------------------------------------------


def test_the_readme_form_returns_judged_episodes_in_order_of_task_and_repeat():
    episodes = rollout(TASKS, agents=["scripted/fair", "scripted/tough"], repeats=2, seed=3)
    assert isinstance(episodes, list)
    assert [(e.task.id, e.repeat) for e in episodes] == [(t.id, r) for t in TASKS for r in (0, 1)]
    for episode in episodes:
        assert episode.status == "complete"
        assert episode.error is None
        assert episode.agents == {"agent_0": "scripted/fair", "agent_1": "scripted/tough"}
        assert episode.seed == episode_seed(3, episode.task.id, episode.repeat)
        assert episode.rewards == {a: episode.verdicts["outcome"].values(a)["goal"] for a in episode.task.agents}
        assert episode.ended_by is not None
        assert episode.code_version == sotopia_env.__version__
        assert episode.started_at.endswith("+00:00")
        assert episode.seconds > 0
        assert episode.id == episode.key
    assert len({e.key for e in episodes}) == 12


def test_an_episode_is_what_the_conversation_makes_of_the_same_moves():
    (episode,) = rollout(TASKS[0], [Inline("a"), Inline("b")], max_turns=9, turn_order="random", judge=None)
    conversation = Conversation(TASKS[0], seed=episode.seed, max_turns=9, turn_order="random")
    while not conversation.is_over:
        mover = conversation.movers[0]
        conversation.apply({mover: Inline().act(conversation.view(mover))})
    assert episode.events == tuple(conversation.events)
    assert episode.ended_by == conversation.ended_by


def test_a_judges_seven_and_three_are_the_rewards_in_memory_and_in_the_store(tmp_path):
    plain = rollout(TASKS, [Inline(), Inline()], judge=ScriptedJudge(SCORES))
    stored = rollout(TASKS, [Inline(), Inline()], judge=ScriptedJudge(SCORES), store=tmp_path / "runs.db")
    weighted = rollout(TASKS, [Inline(), Inline()], judge=ScriptedJudge(SCORES), reward={"goal": -0.5})
    for one, two, three in zip(plain, stored, weighted, strict=True):
        assert one.rewards == two.rewards == {"agent_0": 7.0, "agent_1": 3.0}
        assert essence(one) == essence(two)
        assert three.rewards == {"agent_0": -3.5, "agent_1": -1.5}


def test_without_a_judge_there_are_neither_verdicts_nor_rewards():
    for episode in rollout(TASKS, [Inline(), Inline()], judge=None):
        assert (episode.status, episode.verdicts, episode.rewards) == ("complete", {}, {})


def test_three_seats_take_three_agents():
    tasks = load_tasks("outcome/committee", n=2)
    for episode in rollout(tasks, ["scripted/fair", "scripted/soft", "scripted/tough"]):
        assert episode.status == "complete"
        assert len(episode.rewards) == 3


@pytest.mark.parametrize("turn_order", ["round-robin", "simultaneous", "random"])
def test_sync_async_and_inline_agents_play_the_same_episodes(turn_order):
    kinds = (Inline, Sync, Async)
    made = [
        [essence(e) for e in rollout(TASKS, [one("a"), two("b")], turn_order=turn_order, repeats=3, concurrency=5)]
        for one in kinds
        for two in kinds
    ]
    assert all(other == made[0] for other in made)


def test_concurrency_changes_nothing_but_the_time():
    one, many = ([essence(e) for e in rollout(TASKS, [Async("a"), Sync("b")], concurrency=c)] for c in (1, 64))
    assert one == many


def test_inline_agents_run_in_place_and_sync_ones_on_threads_of_their_own():
    inline, sync = Inline("a"), Sync("b")
    rollout(TASKS, [inline, sync], concurrency=3)
    assert inline.threads == {"sotopia-env-loop"}
    assert sync.threads
    assert all(name.startswith("sotopia-env-agent") for name in sync.threads)
    assert len(sync.threads) <= 3


def test_a_sync_method_that_returns_an_awaitable_is_awaited():
    class Wrapped(Sync):
        def act(self, observation):
            return Async().act(observation)

    episodes = rollout(TASKS, [Wrapped("a"), Inline("b")])
    assert {e.status for e in episodes} == {"complete"}


def test_repeats_get_seeds_of_their_own_that_no_process_changes():
    assert episode_seed(0, "task", 0) == 31718572641034
    seeds = {episode_seed(s, t, r) for s in range(5) for t in ("a", "b") for r in range(5)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**48 for seed in seeds)


def test_a_class_in_place_of_an_agent_is_refused_before_anything_is_played():
    with pytest.raises(ConfigurationError, match=r"Inline is a class, but an instance is needed. Pass Inline\(\)"):
        rollout(TASKS, [Inline, "scripted/fair"])
    with pytest.raises(ConfigurationError, match="is a class"):
        gymnasium.make("sotopia_env/Social-v0", partner=Inline)


def test_the_same_spec_in_two_seats_is_one_agent():
    made = rollout(TASKS, ["scripted/fair", "scripted/fair"])
    assert {tuple(e.agents.values()) for e in made} == {("scripted/fair", "scripted/fair")}


def test_global_random_state_is_untouched():
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    rollout(TASKS, ["scripted/fair", "random"], turn_order="random")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


SEEDED = """
import json, sys
from sotopia_env import rollout
agents = ["scripted/deceptive", "random"]
episodes = rollout("outcome", agents, seed=11, turn_order="random", concurrency=int(sys.argv[1]))
hidden = {"started_at", "seconds", "usage"}
print(json.dumps([e.model_dump(mode="json", exclude=hidden) for e in episodes]))
"""


def test_the_same_seed_gives_the_same_episodes_in_another_process():
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SEEDED, concurrency],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed, concurrency in (("1", "64"), ("2", "7"))
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 10_000


# --- concurrency ------------------------------------------------------------------------------------


class Counting(Async):
    """Notes how many of its calls are open at once."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.open = self.most = 0

    async def act(self, observation):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            return await super().act(observation)
        finally:
            self.open -= 1


@pytest.mark.parametrize("concurrency", [1, 4])
def test_concurrency_is_how_many_episodes_are_under_way(concurrency):
    agent = Counting("counting")
    rollout(TASKS, [agent, agent], repeats=3, concurrency=concurrency)
    assert agent.most == concurrency


def test_all_movers_of_a_turn_act_at_the_same_time():
    met = threading.Barrier(2, timeout=20)

    class Meeting(Sync):
        def act(self, observation):
            met.wait()  # would break if one waited for the other to be done
            return super().act(observation)

    (episode,) = rollout(TASKS[0], [Meeting("a"), Meeting("b")], turn_order="simultaneous")
    assert episode.error is None

    agent = Counting("counting")
    rollout(TASKS[0], [agent, agent], turn_order="simultaneous", concurrency=1)
    assert agent.most == 2


def test_waiting_agents_wait_together():
    class Slow(Inline):
        async def act(self, observation):
            await asyncio.sleep(0.05)
            return super().act(observation)

    start = time.perf_counter()
    episodes = rollout(TASKS, [Slow("a", turns=4), Slow("b", turns=4)], repeats=10)
    assert len(episodes) == 60
    assert time.perf_counter() - start < 60 * 5 * 0.05 / 4


def test_episodes_played_in_place_let_other_work_on_the_loop_go_on():
    acts: list[int] = []
    acts_at_tick: list[int] = []

    class Noting(Inline):
        def act(self, observation):
            acts.append(observation["turn"])
            return super().act(observation)

    async def tick():
        while True:
            acts_at_tick.append(len(acts))
            await asyncio.sleep(0)

    async def both():
        clock = asyncio.create_task(tick())
        await arollout(TASKS, [Noting("a", 20), Noting("b", 20)], repeats=20, judge=None, concurrency=10)
        clock.cancel()

    aio.run(both())
    assert len(acts) == 6 * 20 * 20
    # Each of the ten episodes under way plays a few of its twenty turns at most before the clock's next tick.
    assert max(later - earlier for earlier, later in itertools.pairwise(acts_at_tick)) <= 10 * 4


# --- failures ---------------------------------------------------------------------------------------


class Exit(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("bad\nthing"), "ValueError: bad thing"),
        (StopIteration("over"), None),
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError("own"), "CancelledError: own"),
        (Exit(), "Exit"),
        (JudgeError("not mine to raise"), "JudgeError: not mine to raise"),
    ],
)
def test_whatever_an_agent_raises_fails_its_own_episodes_and_no_others(tmp_path, error, line, inline):
    bad = TASKS[:2]
    store = tmp_path / "runs.db"
    made = rollout(TASKS, [Inline("a"), Raising(error, bad, inline)], turn_order="simultaneous", store=store)
    for episode in made:
        if episode.task.scenario in {task.scenario for task in bad}:
            assert episode.status == "failed"
            assert episode.error == line or (line is None and "StopIteration" in episode.error)
            assert [event.turn for event in episode.events] == [0, 0, 1, 1]
            assert episode.ended_by is None
            assert episode.verdicts == {}
            assert episode.rewards == {}
        else:
            assert episode.status == "complete"
            assert episode.rewards
    assert sum(e.status == "failed" for e in made) == 2
    assert [e.key for e in EpisodeStore(store).episodes(status="failed")] == sorted(
        (e.key for e in made if e.status == "failed"), key=lambda key: (EpisodeStore(store).get(key).task.id, key)
    )


@pytest.mark.parametrize("move", [None, "speak", Action("shout"), {"action_type": 9}, Action("speak", "x" * 5000)])
def test_an_unusable_action_fails_the_episode_and_says_whose_it_was(move):
    class Odd(Inline):
        def act(self, observation):
            return move

    (episode,) = rollout(TASKS[0], [Inline("a"), Odd("b")])
    assert episode.status == "failed"
    assert episode.error.startswith("InvalidActionError: Action of 'agent_1'")
    assert "\n" not in episode.error
    assert len(episode.events) == 1
    assert episode.rewards == {}


def flaky(episode):
    """Scores that a judge gives to all but the first two tasks."""
    if episode.task.id in {task.id for task in TASKS[:2]}:
        raise JudgeError("the judge is\ndown", reply="secret reply")
    return SCORES


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        pytest.param(flaky, "JudgeError: the judge is down", id="down"),
        pytest.param(lambda e: 1 / 0, "ZeroDivisionError: division by zero", id="raises"),
        pytest.param(
            lambda e: {"agent_0": {"goal": 7}}, "JudgeError: Judge 'scripted' scored ['agent_0']", id="partial"
        ),
        pytest.param(
            lambda e: {**SCORES, "agent_1": {"goal": 11}}, "JudgeError: Judge 'scripted' on 'agent_1'", id="range"
        ),
        pytest.param(
            lambda e: {**SCORES, "agent_1": {"secret": 0}}, "JudgeError: Judge 'scripted' left ['goal']", id="absent"
        ),
    ],
)
def test_a_judge_that_fails_leaves_the_episode_unjudged_with_its_events_and_no_reward(scores, line):
    made = rollout(TASKS, [Inline("a"), Inline("b")], judge=ScriptedJudge(scores))
    unjudged = [e for e in made if e.status == "judge_failed"]
    assert len(unjudged) == (2 if scores is flaky else len(TASKS))
    for episode in unjudged:
        assert episode.error.startswith(line)
        assert "secret reply" not in episode.error
        assert episode.ended_by == "departure"
        assert len(episode.events) == 7
        assert episode.verdicts == {}
        assert episode.rewards == {}
    assert all(e.rewards == {"agent_0": 7.0, "agent_1": 3.0} for e in made if e.status == "complete")


def test_a_judge_may_be_async_or_in_place_or_on_a_thread():
    class Judge(ScriptedJudge):
        def score(self, episode):
            self.thread = threading.current_thread().name
            return super().score(episode)

    class Inlined(Judge):
        inline = True

    class Awaited(ScriptedJudge):
        async def score(self, episode):
            await asyncio.sleep(0)
            return super().score(episode)

    for judge in (Judge(SCORES), Inlined(SCORES), Awaited(SCORES)):
        made = rollout(TASKS, [Inline("a"), Inline("b")], judge=judge)
        assert {tuple(e.rewards.values()) for e in made} == {(7.0, 3.0)}
    threaded, inlined = Judge(SCORES), Inlined(SCORES)
    for judge in (threaded, inlined):
        rollout(TASKS, [Inline("a"), Inline("b")], judge=judge)
    assert threaded.thread.startswith("sotopia-env-agent")
    assert inlined.thread == "sotopia-env-loop"


def test_a_verdict_stands_under_the_name_by_which_the_judge_was_asked():
    class Renaming(ScriptedJudge):
        def score(self, episode):
            return super().score(episode).model_copy(update={"judge": "somebody else"})

    (episode,) = rollout(TASKS[0], [Inline("a"), Inline("b")], judge=Renaming(SCORES, name="asked"))
    assert list(episode.verdicts) == ["asked"]
    assert episode.verdicts["asked"].judge == "asked"


def test_on_error_raise_stops_at_the_first_failure_and_keeps_it_on_record(tmp_path):
    agents = [Inline("a"), Raising(ValueError("first"), TASKS[2:3])]
    with pytest.raises(ValueError, match="first") as caught:
        rollout(TASKS, agents, store=tmp_path / "runs.db", on_error="raise", concurrency=1)
    assert TASKS[2].id in caught.value.__notes__[0]
    with EpisodeStore(tmp_path / "runs.db") as store:
        assert [e.task.id for e in store.episodes(status="failed")] == [TASKS[2].id]
        assert {e.task.id for e in store.episodes(status="complete")} == {task.id for task in TASKS[:2]}
    with pytest.raises(JudgeError, match="down"):
        rollout(TASKS, [Inline("a"), Inline("b")], judge=ScriptedJudge(flaky), on_error="raise")
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        rollout(TASKS, [Inline("a"), Raising(SystemExit(3))], on_error="raise")


@pytest.mark.parametrize("kind", [Inline, Sync, Async])
def test_an_interruption_stops_everything_and_what_had_finished_is_in_the_store(tmp_path, kind):
    class Interrupting(kind):
        count = 0

        def act(self, observation):
            type(self).count += 1
            if type(self).count == 30:
                raise KeyboardInterrupt
            return super().act(observation)

    with pytest.raises(KeyboardInterrupt):
        rollout(
            TASKS,
            [Interrupting("a"), Inline("b")],
            repeats=10,
            store=tmp_path / "runs.db",
            concurrency=2,
            turn_order="random",
        )
    with EpisodeStore(tmp_path / "runs.db") as store:
        found = list(store.episodes())
    assert 0 < len(found) < 60
    assert all(e.status == "complete" and e.ended_by == "departure" and e.rewards for e in found)
    # The loop has survived it.
    assert len(rollout(TASKS, [Inline("a"), Inline("b")])) == 6


def test_a_store_that_cannot_be_written_stops_the_rollout_with_a_store_error(tmp_path):
    EpisodeStore(tmp_path / "runs.db").close()
    agent = Counting("counting")
    with EpisodeStore(tmp_path / "runs.db"):  # keeps the log file, without which nobody can read
        read_only = EpisodeStore(f"sqlite:///file:{tmp_path / 'runs.db'}?mode=ro&uri=true")
        with pytest.raises(StoreError, match="readonly"):
            rollout(TASKS, [agent, Inline("b")], repeats=500, store=read_only)
        read_only.close()
    assert agent.open == 0


# --- arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"agents": ["scripted/fair"]}, r"Task '.*' has 2 seats, but 1 agents were given. Pass one agent per seat"),
        ({"agents": ["random"] * 3}, r"has 2 seats, but 3 agents"),
        (
            {"agents": "scripted/fair"},
            r"agents is 'scripted/fair', but must be a sequence with one spec or Agent per seat",
        ),
        ({"agents": ["scripted/fare", "random"]}, r"Unknown strategy 'fare'.*Did you mean 'fair'"),
        ({"agents": [Inline(), object()]}, r"is no agent"),
        ({"tasks": "outcom"}, r"Unknown task pack or path 'outcom'.*Did you mean 'outcome'"),
        ({"tasks": []}, r"tasks is empty"),
        ({"judge": "outcom"}, r"Unknown judge 'outcom'.*Did you mean 'outcome'"),
        ({"reward": "gaol"}, r"Unknown reward dimension 'gaol'.*Did you mean 'goal'"),
        ({"reward": "believability"}, r"cannot fill \['believability'\]"),
        ({"repeats": 0}, r"repeats is 0, but must be a whole number of 1 or more"),
        ({"concurrency": 0}, r"concurrency is 0"),
        ({"concurrency": 2.5}, r"concurrency is 2.5"),
        ({"max_turns": True}, r"max_turns is True"),
        ({"seed": "1"}, r"seed is '1', but must be a whole number"),
        ({"turn_order": "round robin"}, r"Unknown turn order 'round robin'.*Did you mean 'round-robin'"),
        ({"on_error": "ignore"}, r"Unknown on_error 'ignore'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_played_or_made(tmp_path, arguments, message):
    agent = Inline()
    with pytest.raises(ConfigurationError, match=message) as caught:
        rollout(**{"tasks": TASKS, "agents": [agent, agent], "store": tmp_path / "runs.db", **arguments})
    assert "\n" not in str(caught.value)
    assert agent.threads == set()
    assert list(tmp_path.iterdir()) == []


# --- async, progress, usage -------------------------------------------------------------------------


def test_arollout_makes_the_same_episodes_and_leaves_the_callers_loop_free(tmp_path):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        clock = asyncio.create_task(tick())
        made = await arollout(TASKS, [Async("a"), Sync("b")], store=tmp_path / "runs.db")
        clock.cancel()
        return made, ticks

    made, ticks = asyncio.run(main())
    assert [essence(e) for e in made] == [essence(e) for e in rollout(TASKS, [Inline("a"), Inline("b")])]
    assert ticks > 3


def test_cancelling_arollout_keeps_what_had_finished_and_nothing_else(tmp_path):
    class Slow(Async):
        cleaned = 0

        async def act(self, observation):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                type(self).cleaned += 1
                raise
            return Inline.act(self, observation)

    async def main():
        work = arollout(TASKS, [Slow("a"), Slow("b")], repeats=50, store=tmp_path / "runs.db", concurrency=8)
        running = asyncio.create_task(work)
        await asyncio.sleep(0.4)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert Slow.cleaned > 0  # the end was waited for

    asyncio.run(main())
    with EpisodeStore(tmp_path / "runs.db") as store:
        found = list(store.episodes())
    assert 0 < len(found) < 300
    assert {e.status for e in found} == {"complete"}


def test_the_progress_bar_shows_count_failures_and_rate_on_stderr(capfd):
    rollout(TASKS, [Inline("a"), Raising(ValueError("no"), TASKS[:1])], progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "6/6" in err
    assert "1 failed" in err


def test_without_progress_nothing_is_printed(capfd):
    rollout(TASKS, [Inline("a"), Raising(ValueError("no"))])
    assert capfd.readouterr() == ("", "")


SPEAK = '{"action_type": "speak", "argument": "hello there"}'


def test_usage_is_counted_by_agent_and_by_judge_from_tasks_and_threads_alike():
    class Judge(ScriptedJudge):
        model = ScriptedModel(lambda messages: "fine")

        async def score(self, episode):
            await self.model.complete([])
            return super().score(episode)

    class Threaded(Sync):
        def act(self, observation):
            asyncio.run(ScriptedModel(lambda messages: "x").complete([]))
            return super().act(observation)

    tasks = TASKS[:3]
    made = rollout(tasks, [LLMAgent(ScriptedModel(lambda m: SPEAK)), Threaded("b", 5)], judge=Judge(SCORES, name="j"))
    for episode in made:
        assert {name: used["calls"] for name, used in episode.usage.items()} == {"agent_0": 3, "agent_1": 3, "j": 1}
    quiet = rollout(tasks, [Inline("a"), Inline("b")])
    assert [e.usage for e in quiet] == [{}] * 3


def test_a_failed_episode_keeps_the_usage_it_cost():
    agent = LLMAgent(ScriptedModel([SPEAK, SPEAK]))
    (episode,) = rollout(TASKS[0], [agent, agent])
    assert episode.error == "ModelError: Scripted model 'scripted-model' has no reply left after 2."
    assert len(episode.events) == 2
    assert {name: used["calls"] for name, used in episode.usage.items()} == {"agent_0": 2, "agent_1": 1}


def test_agents_see_the_context_variables_of_nobody_else():
    mine: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="")

    class Marking(Sync):
        def act(self, observation):
            assert mine.get() in ("", self.name)
            mine.set(self.name)
            return super().act(observation)

    made = rollout(TASKS, [Marking("a"), Marking("b")], repeats=3)
    assert {e.error for e in made} == {None}


# --- against an endpoint that fails -----------------------------------------------------------------


def test_against_an_endpoint_that_fails_in_30_percent_of_calls_nearly_all_complete_and_nothing_is_invented(tmp_path):
    tasks = load_tasks("outcome", n=200)
    with LoopbackServer(SPEAK, faults=0.3, retry_after=0.01, slow_seconds=6.0, seed=1) as server:
        model = OpenAIModel("loopback", base_url=server.base_url, max_retries=6, timeout=2.5, max_connections=64)
        agent = LLMAgent(model)
        made = rollout(tasks, [agent, agent], concurrency=64, store=tmp_path / "runs.db")
        statuses = [e.status for e in made]
        assert statuses.count("complete") >= 194
        assert sum(server.faulted.values()) > 0.25 * server.requests
        for episode in made:
            if episode.status == "complete":
                assert len(episode.events) == 20
                assert not any(event.parse_failure for event in episode.events)
                verdict = OutcomeJudge().score(episode)
                assert episode.rewards == {agent: verdict.values(agent)["goal"] for agent in episode.task.agents}
                assert sum(used["calls"] for used in episode.usage.values()) == 20
            else:
                assert episode.status == "failed"
                assert episode.error.startswith("ModelError: Model 'loopback' at http://127.0.0.1")
                assert episode.rewards == {}
                assert episode.verdicts == {}
        assert sum(u["retries"] for e in made for u in e.usage.values()) > 1000


def test_when_every_call_fails_every_episode_fails_with_the_error_and_no_reward():
    with LoopbackServer(SPEAK, faults={"500": 1.0}) as server:
        agent = LLMAgent(OpenAIModel("loopback", base_url=server.base_url, max_retries=0))
        made = rollout(TASKS, [Inline("a"), agent])
    for episode in made:
        assert episode.status == "failed"
        assert "500" in episode.error
        assert len(episode.events) == 1
        assert episode.rewards == {}
        assert episode.usage["agent_1"]["calls"] == 1


def test_a_second_judge_that_fails_on_a_judged_episode_is_logged_and_takes_nothing_away(tmp_path, caplog):
    store = tmp_path / "runs.db"
    rollout(TASKS, [Inline("a"), Inline("b")], store=store)
    with caplog.at_level(logging.WARNING):
        made = rollout(TASKS, [Inline("a"), Inline("b")], store=store, judge=ScriptedJudge(flaky))
    assert len(caplog.records) == 2
    assert "the judge is down" in caplog.text
    for episode in made:
        assert episode.status == "complete"
        assert episode.rewards == {a: episode.verdicts["outcome"].values(a)["goal"] for a in episode.task.agents}
    assert sum("scripted" in e.verdicts for e in made) == 4
