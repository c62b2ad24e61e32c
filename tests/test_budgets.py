"""Budgets are never exceeded, what is paid for is kept, and nothing is paid twice; against real HTTP servers."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import sotopia_env
from sotopia_env import Budget, BudgetError, ConfigurationError, EpisodeStore, aio, budgets, load_tasks, rollout
from sotopia_env.agents import LLMAgent
from sotopia_env.budgets import Price, Spending, read_price
from sotopia_env.cli import app
from sotopia_env.cli.spending import read_prices
from sotopia_env.conversation import Conversation
from sotopia_env.evaluation import evaluate
from sotopia_env.judges.cache import verdict_cache
from sotopia_env.judges.llm import LLMJudge
from sotopia_env.loopback import LoopbackServer
from sotopia_env.models import OpenAIModel, ScriptedModel, served_scope

TASKS = load_tasks("outcome", n=24)
HELLO = [{"role": "user", "content": "Hello there."}]
SPEAK = json.dumps({"action_type": "speak", "argument": "I would rather not say yet, what about you?"})


class Metered(LoopbackServer):
    """Counts the tokens that it serves: the truth that a budget must keep to."""

    def __init__(self, reply=SPEAK, **options):
        super().__init__(self._counted, **options)
        self._reply = reply
        self._counting = threading.Lock()
        self.tokens = 0
        self.prompts = []

    def _counted(self, request):
        text = self._reply(request) if callable(self._reply) else self._reply
        with self._counting:
            self.tokens += sum(len(message["content"].split()) for message in request["messages"]) + len(text.split())
            self.prompts.append(request["messages"])
        return text


def verdict_of(request):
    """A judge's complete reply."""
    score = {name: {"reason": "Turn 1.", "score": d.high} for name, d in ((d.name, d) for d in sotopia_env.DIMENSIONS)}
    return json.dumps(score)


def model(server, name="m", **options):
    return OpenAIModel(name, base_url=server.base_url, **{"max_tokens": 60, **options})


def ask(client):
    return aio.run(client.complete(HELLO))


# --- one call ---------------------------------------------------------------------------------------


def test_a_call_that_fits_is_counted_with_what_the_endpoint_says_it_took():
    with Metered("one two three") as server, Budget(tokens=1000) as budget:
        ask(model(server))
    assert budget.spent == Spending(calls=1, tokens=5)
    assert not budget.reached


def test_a_call_whose_worst_case_does_not_fit_is_not_made():
    with Metered() as server, Budget(tokens=100) as budget:
        with pytest.raises(BudgetError, match=r"^The budget of 100 tokens has too little left after 0 calls, 0 tokens"):
            ask(model(server))
        assert server.requests == 0
    assert budget.reached
    assert budget.spent == Spending()


def test_money_is_counted_by_the_price_of_prompt_and_completion():
    prices = {"openai/m": {"prompt": 1000, "completion": 3000}}
    with Metered("one two three") as server, Budget(dollars=5, prices=prices) as budget:
        ask(model(server, temperature=0.5))
    assert budget.spent.dollars == pytest.approx((2 * 1000 + 3 * 3000) / 1e6)


def test_outside_its_block_a_budget_counts_nothing():
    budget = Budget(tokens=1000)
    with Metered() as server:
        with budget:
            ask(model(server))
        spent = budget.spent
        ask(model(server))
    assert budget.spent == spent


def test_a_call_must_fit_into_every_budget_around_it():
    with Metered("one") as server, Budget(tokens=100_000) as outer, Budget(tokens=50) as inner:
        with pytest.raises(BudgetError, match="50 tokens"):
            ask(model(server))
        assert (outer.spent, inner.spent) == (Spending(), Spending())
        assert server.requests == 0


def test_what_no_budget_can_bound_or_price_is_refused_before_any_call():
    with Metered() as server:
        with Budget(tokens=1000), pytest.raises(ConfigurationError, match=r"openai/m\?max_tokens=500"):
            ask(OpenAIModel("m", base_url=server.base_url))
        with Budget(dollars=1), pytest.raises(ConfigurationError, match=r"--price openai/m=2\.5,10"):
            ask(model(server))
        agent = LLMAgent(OpenAIModel("m", base_url=server.base_url))
        with Budget(tokens=10**6), pytest.raises(ConfigurationError, match="max_tokens"):
            rollout(TASKS[:1], [agent, agent])
        judge = sotopia_env.PanelJudge([LLMJudge(model(server, "a")), LLMJudge(model(server, "b"))])
        with Budget(dollars=1, prices={"openai/a": (1, 1)}), pytest.raises(ConfigurationError, match="openai/b"):
            rollout(TASKS[:1], ["scripted/fair"] * 2, judge=judge)
        assert server.requests == 0


@pytest.mark.parametrize(
    ("fault", "counts"),
    [("500", False), ("429", False), ("drop", True), ("cut_json", True), ("truncated", True), ("slow", True)],
)
def test_an_attempt_without_a_whole_answer_counts_with_its_worst_case_unless_it_was_refused(fault, counts):
    options = {"max_retries": 0, "timeout": 0.5}
    with (
        Metered("one two", faults=[fault], slow_seconds=30) as server,
        Budget(tokens=10_000) as budget,
        pytest.raises(sotopia_env.ModelError),
    ):
        ask(model(server, **options))
    assert (budget.spent.unsure > 0) is counts
    assert budget.spent.tokens == budget.spent.unsure
    assert budget.spent.tokens >= server.tokens or not counts


def test_an_endpoint_that_is_not_there_costs_nothing():
    with Budget(tokens=10_000) as budget, pytest.raises(sotopia_env.ModelError):
        aio.run(OpenAIModel("m", base_url="http://127.0.0.1:9/v1", max_tokens=5, max_retries=0).complete(HELLO))
    assert budget.spent == Spending()


def test_a_repetition_that_does_not_fit_is_not_made_either():
    with Metered("one", faults=["cut_json"] * 9) as server, Budget(tokens=700) as budget:
        with pytest.raises(BudgetError):
            ask(model(server, max_retries=8))
        assert server.requests * 150 < 700
    assert budget.spent.tokens <= 700


# --- many calls at once -------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [400, 1000, 2500, 10_000])
def test_at_concurrency_64_a_budget_is_never_exceeded_and_used_as_far_as_the_worst_case_allows(limit):
    with Metered("one two three four", delay=0.005) as server, Budget(tokens=limit) as budget:
        client = model(server, max_connections=64)

        async def often():
            return await asyncio.gather(*(client.complete(HELLO) for _ in range(64 * 4)), return_exceptions=True)

        answers = aio.run(often())
    served = server.tokens
    assert served <= limit
    assert budget.spent == Spending(calls=server.requests, tokens=served)
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert all(isinstance(error, BudgetError) for error in refused)
    assert len(refused) == 64 * 4 - server.requests
    if refused:  # nothing was refused while it could have fitted
        worst = len(json.dumps({"model": "m", "messages": HELLO, "max_tokens": 60})) + 64 + 60
        assert served > limit - worst - 10


def test_calls_that_may_fit_later_wait_for_those_under_way():
    with Metered("one", delay=0.1) as server, Budget(tokens=420) as budget:
        client = model(server, max_connections=64)

        async def three():
            return await asyncio.gather(*(client.complete(HELLO) for _ in range(3)))

        assert len(aio.run(three())) == 3
        assert server.most_in_flight < 3
    assert budget.spent.calls == 3


@settings(max_examples=40)
@given(
    limit=st.integers(1, 3000),
    calls=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.floats(0, 1)), max_size=60),
)
def test_whatever_calls_take_spent_and_set_aside_never_exceed_the_limit(limit, calls):
    budget = Budget(tokens=limit)
    most = 0

    async def one(prompt, reply, share):
        nonlocal most
        worst = Spending(1, prompt + reply)
        try:
            await budget.set_aside(worst, "m")
        except BudgetError:
            return 0
        most = max(most, budget.spent.tokens + budget._set_aside.tokens)
        await asyncio.sleep(0)
        really = Spending(1, prompt + int(share * reply))
        budget.settle(worst, really)
        return really.tokens

    async def everything():
        return await asyncio.gather(*(one(*call) for call in calls))

    taken = sum(asyncio.run(everything()))
    assert most <= limit
    assert budget.spent.tokens == taken
    assert budget._set_aside.tokens == 0


# --- rollouts -----------------------------------------------------------------------------------------


def essence(episode):
    """All that a seed and the agents determine."""
    return episode.model_dump(exclude={"started_at", "seconds", "usage", "code_version", "verdicts"})


def steady(request):
    """A reply that depends on the conversation alone, as that of a model at temperature 0."""
    return json.dumps({"action_type": "speak", "argument": f"So {len(request['messages'])} it is."})


def run_until_done(tasks, agents, store, first, server, judge="outcome"):
    """Roll out with a budget, and with a fresh one as long as it runs out; the budgets' spending."""
    spent = []
    for _ in range(200):
        before = server.tokens
        with Budget(tokens=first) as budget:
            try:
                made = rollout(tasks, agents, judge=judge, store=store, concurrency=64)
            except BudgetError:
                pass
            else:
                return made, [*spent, budget.spent.tokens]
            finally:
                assert server.tokens - before <= first
                assert budget.spent.tokens == server.tokens - before
        assert budget.reached
        assert budget.spent.tokens > 0, "no progress"
        spent.append(budget.spent.tokens)
    raise AssertionError("it never finished")


def test_a_rollout_that_is_stopped_and_goes_on_ends_with_the_episodes_of_an_undisturbed_one(tmp_path):
    with Metered(steady) as server:
        agent = LLMAgent(model(server, max_connections=64))
        pair = [agent, "scripted/tough"]
        whole = rollout(TASKS, pair, store=tmp_path / "whole.db")
        undisturbed = server.tokens
        prompts = sorted(map(json.dumps, server.prompts))
        server.prompts.clear()
        before = server.tokens
        made, spent = run_until_done(TASKS, pair, tmp_path / "runs.db", undisturbed // 4, server)
        assert len(spent) > 3
        # Nothing is lost: not a single move was paid for twice.
        assert server.tokens - before == undisturbed
        assert sorted(map(json.dumps, server.prompts)) == prompts
    assert [essence(one) for one in made] == [essence(one) for one in whole]
    assert [one.usage for one in made] == [one.usage for one in whole]
    assert {one.status for one in made} == {"complete"}


def test_what_a_budget_broke_off_is_kept_with_its_events_and_no_reward(tmp_path):
    with Metered(steady) as server:
        agent = LLMAgent(model(server))
        with Budget(tokens=4000), pytest.raises(BudgetError, match="Run again with a bigger budget"):
            rollout(TASKS[:4], [agent, agent], store=tmp_path / "runs.db", concurrency=4)
    with EpisodeStore(tmp_path / "runs.db") as store:
        kept = list(store.episodes())
    broken_off = [episode for episode in kept if episode.status == "failed"]
    assert broken_off
    for episode in broken_off:
        assert episode.error.startswith("BudgetError: ")
        assert episode.events
        assert episode.rewards == {}
        assert Conversation.replay(episode.task, episode.events, seed=episode.seed).events == list(episode.events)


def test_without_a_store_the_error_carries_what_was_played():
    with Metered(steady) as server, Budget(tokens=30_000):
        agent = LLMAgent(model(server))
        with pytest.raises(BudgetError) as caught:
            rollout(TASKS, [agent, "scripted/fair"], concurrency=2)
    assert any(episode.status == "complete" for episode in caught.value.episodes)


def test_no_new_episode_is_begun_when_what_is_left_is_needed_by_those_under_way(tmp_path):
    with Metered(steady) as server:
        agent = LLMAgent(model(server, max_connections=64))
        with Budget(tokens=10**9) as budget:
            rollout(TASKS, [agent, agent], concurrency=1)
        dear = budget._dearest.tokens
        limit = 6 * dear
        with Budget(tokens=limit) as budget, pytest.raises(BudgetError):
            rollout(TASKS * 1, [agent, agent], concurrency=2, store=tmp_path / "runs.db")
    with EpisodeStore(tmp_path / "runs.db") as store:
        statuses = [episode.status for episode in store.episodes()]
    # With two under way at most the last can be broken off, and most of the budget went into whole episodes.
    assert statuses.count("complete") >= 4
    assert statuses.count("failed") <= 1


def test_scripted_agents_play_on_any_budget():
    with Budget(tokens=1) as budget:
        assert {e.status for e in rollout(TASKS[:3], ["scripted/fair"] * 2)} == {"complete"}
    assert budget.spent == Spending()


def test_an_evaluation_is_stopped_and_goes_on_without_paying_twice(tmp_path):
    with Metered(steady) as server:
        agent = LLMAgent(model(server, max_connections=64))
        options = {"min_partners": 1, "store": tmp_path / "runs.db"}
        tasks, partners = TASKS[:4], ["scripted/stubborn", "scripted/tough"]
        whole = evaluate({"m": agent}, tasks, partners, min_partners=1)
        undisturbed, before = server.tokens, server.tokens
        for _ in range(50):
            start = server.tokens
            try:
                with Budget(tokens=undisturbed // 3):
                    found = evaluate({"m": agent}, tasks, partners, **options)
                break
            except BudgetError:
                assert server.tokens - start <= undisturbed // 3
        assert server.tokens - before == undisturbed
    assert found.plays == whole.plays
    assert found.complete


# --- verdicts -----------------------------------------------------------------------------------------


def test_verdicts_that_a_budget_refused_are_given_later_without_playing_or_asking_again(tmp_path):
    with Metered(verdict_of) as server:
        judge = LLMJudge(model(server, max_tokens=300, max_connections=64))
        run_until_done(TASKS[:12], ["scripted/fair", "scripted/tough"], tmp_path / "runs.db", 40_000, server, judge)
        assert server.requests == 24
        assert len({json.dumps(prompt) for prompt in server.prompts}) == 24
    with EpisodeStore(tmp_path / "runs.db") as store:
        assert [e.status for e in store.episodes()] == ["complete"] * 12


def test_the_same_transcript_is_judged_once_whoever_played_it_and_however_many_ask_at_once(tmp_path):
    class Same:
        inline = True

        def __init__(self, name):
            self.name = name

        def act(self, observation):
            return sotopia_env.Action("leave" if observation["turn"] > 2 else "speak", "Good evening.")

    with Metered(verdict_of, delay=0.02) as server:
        judge = LLMJudge(model(server, max_connections=64))
        store = EpisodeStore(tmp_path / "runs.db")
        made = rollout(TASKS[:3], [Same("a"), Same("b")], repeats=5, judge=judge, store=store)
        assert len(made) == 15
        first = server.requests
        assert first <= 6
        rollout(TASKS[:3], [Same("c"), Same("d")], judge=judge, store=store)
        assert server.requests == first
        # Another judge, another prompt or another transcript is another question.
        rollout(TASKS[:1], [Same("a"), Same("b")], judge=LLMJudge(model(server), name="other"), store=store)
        assert server.requests == first + 2
        fewer = LLMJudge(ScriptedModel(lambda messages: '{"goal": {"reason": "x", "score": 3}}'), dimensions=["goal"])
        assert fewer.prompt_hash != judge.prompt_hash


def test_a_kept_answer_gives_the_same_verdict_as_the_first(tmp_path):
    episode = rollout(TASKS[:1], ["scripted/fair"] * 2)[0]
    replies = []

    def reply(messages):
        replies.append(messages)
        return verdict_of(None)

    judge = LLMJudge(ScriptedModel(reply))
    with EpisodeStore(tmp_path / "runs.db") as store:
        with verdict_cache(store):
            first, second = (aio.run(judge.score(episode)) for _ in range(2))
        assert first == second
        assert len(replies) == 2
        with verdict_cache(store, refresh=True):
            aio.run(judge.score(episode))
        assert len(replies) == 4
    aio.run(judge.score(episode))
    assert len(replies) == 6


def test_a_reply_that_cannot_be_used_is_not_kept(tmp_path):
    episode = rollout(TASKS[:1], ["scripted/fair"] * 2)[0]
    judge = LLMJudge(ScriptedModel(lambda messages: "no idea"), name="j")
    with EpisodeStore(tmp_path / "runs.db") as store, verdict_cache(store):
        with pytest.raises(sotopia_env.JudgeError):
            aio.run(judge.score(episode))
        better = LLMJudge(ScriptedModel(lambda messages: verdict_of(None)), name="j")
        assert aio.run(better.score(episode)).values("agent_0")["goal"] == 10


def test_a_store_of_an_earlier_version_keeps_answers_too(tmp_path):
    import sqlite3

    path = tmp_path / "runs.db"
    EpisodeStore(path).close()
    with sqlite3.connect(path) as connection:
        assert "judge_replies" not in {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    with EpisodeStore(path) as store:
        assert store.judge_reply("k") is None
        store.add_judge_reply("k", "{}")
        store.add_judge_reply("k", '{"a": 1}')
        assert store.judge_reply("k") == '{"a": 1}'
    with EpisodeStore(path) as store:
        assert store.judge_reply("k") == '{"a": 1}'


def test_notes_are_kept_and_the_stores_own_is_refused(tmp_path):
    with EpisodeStore(tmp_path / "runs.db") as store:
        assert store.note("served") is None
        store.add_note("served", "a")
        store.add_note("served", "b")
        assert store.note("served") == "b"
        with pytest.raises(ConfigurationError, match="schema_version"):
            store.add_note("schema_version", "9")


# --- rates and identities -------------------------------------------------------------------------------


def test_requests_per_minute_spreads_the_calls():
    with Metered("one") as server:
        client = model(server, requests_per_minute=1200, max_connections=64)

        async def eleven():
            await client.complete(HELLO)
            start = time.perf_counter()
            await asyncio.gather(*(client.complete(HELLO) for _ in range(10)))
            return time.perf_counter() - start

        assert aio.run(eleven()) > 9 * 60 / 1200
        assert sotopia_env.models.openai_model("m?requests_per_minute=30", base_url=server.base_url).name == "openai/m"
        with pytest.raises(ConfigurationError, match="requests_per_minute"):
            model(server, requests_per_minute=0)


def test_what_the_endpoint_calls_its_model_is_collected_by_client():
    with Metered("one") as server, served_scope() as served:
        reply = ask(model(server, "gpt"))
        assert reply.served_by == "gpt"
    assert served == {"openai/gpt?max_tokens=60": {"gpt"}}


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
        ("meta-llama/Llama-3", "meta-llama/Llama-3"),
        ("/home/ann/models/m.gguf", "m.gguf"),
        ("/models/m/", "m"),
        ("C:\\models\\m.gguf", "m.gguf"),
        ("\\\\host\\m", "m"),
    ],
)
def test_of_a_model_that_is_a_file_only_its_name_is_kept(told, kept):
    with Metered("one") as server:
        assert ask(model(server, told)).served_by == kept


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a limit"),
        ({"tokens": 0}, "tokens is 0"),
        ({"tokens": 1.5}, "tokens is 1.5"),
        ({"tokens": True}, "tokens is True"),
        ({"dollars": 0}, "dollars is 0"),
        ({"dollars": float("nan")}, "dollars is nan"),
        ({"dollars": 1, "prices": {"m": (1,)}}, "price of 'm'"),
        ({"dollars": 1, "prices": {"m": (-1, 2)}}, "price of 'm'"),
        ({"dollars": 1, "prices": {"m": {"prompt": 1}}}, "price of 'm'"),
        ({"dollars": 1, "prices": {"m": {"prompt": 1, "reply": 2}}}, "'reply'"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Budget(**arguments)


def test_prices_are_read_from_the_command_line():
    assert read_price("openai/gpt-4o=2.5,10") == ("openai/gpt-4o", Price(2.5, 10))
    assert read_prices(["openai/a?temperature=0.5=1,2"]) == {"openai/a": Price(1, 2)}
    for wrong in (
        "openai/a",
        "openai/a=1",
        "=1,2",
        "openai/a=1,x",
        "openai/a=-1,2",
        "openai/a=nan,2",
        "openai/a=1,inf",
    ):
        with pytest.raises(ConfigurationError, match="MODEL=PROMPT,COMPLETION"):
            read_price(wrong)
    with pytest.raises(ConfigurationError, match="twice"):
        read_prices(["a=1,2", "a=3,4"])


def test_models_in_this_process_cost_no_money():
    budget = Budget(dollars=1)
    assert budget.price("local/smollm2") == Price(0, 0)
    with pytest.raises(ConfigurationError):
        budget.price("openai/gpt-4o")


def test_an_episode_that_raises_teaches_the_budget_nothing():
    with Budget(tokens=10) as budget:
        with pytest.raises(ValueError, match="no"), budgets.episode():
            raise ValueError("no")
        assert budget._under_way == 0
        assert budget.has_room()


# --- the command line -------------------------------------------------------------------------------------


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_the_rollout_command_stops_with_one_line_and_goes_on(tmp_path):
    with Metered(steady) as server:
        store = str(tmp_path / "runs.db")
        command = ["rollout", "--agent", "openai/m?max_tokens=60", "--agent", "scripted/fair", "--limit", "8", "-q"]
        command += ["--base-url", server.base_url, "--store", store]
        stopped = invoke(*command, "--max-tokens-total", "9000")
        assert stopped.exit_code == 1
        assert server.tokens <= 9000
        lines = stopped.stderr.strip().splitlines()
        assert len(lines) == 3
        assert lines[0] == f"What was paid for is in {store}."
        assert lines[1].startswith("spent: ")
        assert lines[2].startswith("error: The budget of 9,000 tokens has too little left")
        done = invoke(*command, "--max-cost", "1", "--price", "openai/m=1,2")
        assert done.exit_code == 0, done.output
        assert "spent: " in done.stderr
        assert "$0." in done.stderr


def test_the_dry_run_of_a_rollout_asks_nobody(tmp_path):
    with Metered(steady) as server:
        command = ["rollout", "--agent", "openai/m", "--agent", "scripted/fair", "--limit", "4", "--repeats", "2"]
        command += ["--base-url", server.base_url, "--store", str(tmp_path / "runs.db"), "--dry-run"]
        planned = invoke(*command, "--json", "--price", "openai/m=1,2")
        assert planned.exit_code == 0, planned.output
        shown = invoke(*command)
        assert "No price is known of openai/m" in shown.stdout
        assert server.requests == 0
    record = json.loads(planned.stdout)
    assert record["episodes"] == 8
    assert [(use["role"], use["calls"]) for use in record["uses"]] == [("agent_0", 80)]
    assert record["dollars"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_models_inside_agents_and_judges_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "paid_players.py").write_text(
        "from sotopia_env import LLMJudge, PanelJudge\n"
        "from sotopia_env.agents import LLMAgent\n"
        "from sotopia_env.models import OpenAIModel\n"
        "agent = LLMAgent(OpenAIModel('a', max_tokens=9))\n"
        "judge = LLMJudge(OpenAIModel('j', max_tokens=9), name='mine')\n"
        "panel = PanelJudge(['openai/p?max_tokens=9', judge])\n"
    )
    prices = ["--price", "openai/a=1,2", "--price", "openai/j=1,2", "--price", "openai/p=1,2"]
    pair = ["--agent", "paid_players:agent", "--agent", "scripted/fair", "--limit", "4"]
    benchmark = ["--policy", "m=paid_players:agent", "--section", "outcome", "--tasks", "2"]
    evaluation = ["--policy", "m=paid_players:agent", "--n", "4"]
    for command, calls in (
        (["rollout", *pair, "--judge", "paid_players:panel"], {"openai/a": 40, "openai/p": 8, "openai/j": 8}),
        (["rollout", *pair, "--judge", "paid_players:judge"], {"openai/a": 40, "openai/j": 8}),
        (["benchmark", *benchmark], {"openai/a": 2 * 2 * 3 * 10}),
        (["evaluate", *evaluation], {"openai/a": 4 * 2 * 3 * 10}),
    ):
        planned = invoke(*command, "--dry-run", "--json", *prices)
        assert planned.exit_code == 0, planned.output
        record = json.loads(planned.stdout)
        assert {use["model"]: use["calls"] for use in record["uses"]} == calls
        assert all(use["prompt_tokens"] > 0 for use in record["uses"])
        assert record["dollars"] > 0


def test_a_judge_on_scales_of_its_own_is_priced_by_its_model():
    command = ["safety", "--agent", "scripted/fair", "--n", "2", "--judge", "openai/j?max_tokens=9", "--dry-run"]
    planned = invoke(*command, "--price", "openai/j=1,2", "--json")
    assert planned.exit_code == 0, planned.output
    record = json.loads(planned.stdout)
    assert {use["model"] for use in record["uses"]} == {"openai/j"}
    assert record["dollars"] > 0


def test_a_budget_without_a_place_to_keep_what_is_paid_for_is_refused():
    refused = invoke("rollout", "--agent", "random", "--agent", "random", "--limit", "1", "--max-tokens-total", "5")
    assert refused.exit_code == 1
    assert "Give --store runs.db" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_judge_command_keeps_to_a_budget_and_pays_no_verdict_twice(tmp_path):
    store = str(tmp_path / "runs.db")
    rollout(TASKS[:10], ["scripted/fair", "scripted/tough"], store=store)
    with Metered(verdict_of) as server:
        command = ["judge", store, "--judge", "openai/j?max_tokens=300", "--base-url", server.base_url, "-q"]
        stopped = invoke(*command, "--max-tokens-total", "25000")
        assert stopped.exit_code == 1
        assert 0 < server.tokens <= 25000
        assert "gave no verdict on" in stopped.stderr
        done = invoke(*command)
        assert done.exit_code == 0, done.output
        assert server.requests == 20
        again = invoke(*command, "--again")
        assert again.exit_code == 0
        assert server.requests == 40


ONE_KIND = ["--attack", "role", "--place", "utterance"]
NOWHERE = ["--base-url", "http://127.0.0.1:9/v1"]


def judging_commands(store, folder):
    """Every command that asks a judge about episodes, small."""
    kept = ["--store", str(folder / "kept.db")]
    return {
        "judge": ["judge", store],
        "audit": ["audit", store, "--base", "scripted/tough", "--trained", "scripted/fair"],
        "robustness": ["robustness", "--tasks", "outcome/bargain", "--n", "2", *ONE_KIND, *kept],
        "safety": ["safety", store, "--no-labels", *kept],
    }


@pytest.fixture
def played(tmp_path):
    store = str(tmp_path / "runs.db")
    rollout(TASKS[:10], ["scripted/fair", "scripted/tough"], store=store)
    return store


def numbers_of(request):
    """A complete reply on whatever scales the judge was asked for."""
    scales = request["response_format"]["json_schema"]["schema"]["properties"]
    return json.dumps(
        {
            name: {"reason": "So it is.", "score": scale["properties"]["score"]["enum"][-1]}
            for name, scale in scales.items()
        }
    )


@pytest.mark.parametrize("name", ["judge", "audit", "robustness", "safety"])
def test_commands_that_ask_a_judge_keep_to_a_budget_and_go_on_where_they_stopped(name, played, tmp_path):
    with Metered(numbers_of) as server:
        command = [*judging_commands(played, tmp_path)[name], "--judge", "openai/j?max_tokens=300", "-q"]
        command += ["--base-url", server.base_url]
        stopped = invoke(*command, "--max-tokens-total", "12000")
        assert stopped.exit_code == 1
        assert 0 < server.tokens <= 12000
        assert "spent: " in stopped.stderr
        before = server.requests
        done = invoke(*command, "--max-cost", "5", "--price", "openai/j=1,2")
        assert done.exit_code == 0, done.output
        assert server.requests > before
        assert len({json.dumps(prompt) for prompt in server.prompts}) == server.requests, "no question was paid twice"


@pytest.mark.parametrize("name", ["judge", "audit", "robustness", "safety"])
def test_the_dry_run_of_commands_that_ask_a_judge_counts_their_calls_and_asks_nobody(name, played, tmp_path):
    with Metered(numbers_of) as server:
        command = [*judging_commands(played, tmp_path)[name], "--judge", "openai/j?max_tokens=300", "-q"]
        command += ["--base-url", server.base_url]
        planned = invoke(*command, "--dry-run", "--json", "--price", "openai/j=1,2")
        assert planned.exit_code == 0, planned.output
        assert "openai/j" in invoke(*command, "--dry-run").stdout
        assert server.requests == 0
        assert not (tmp_path / "kept.db").exists()
        done = invoke(*command)
        assert done.exit_code == 0, done.output
    (use,) = json.loads(planned.stdout)["uses"]
    # Equal transcripts are asked about once, which a plan does not know.
    assert server.requests <= use["calls"] <= 1.5 * server.requests
    read = sum(len(message["content"]) for prompt in server.prompts for message in prompt) / server.requests
    assert use["prompt_tokens"] / use["calls"] == pytest.approx(read / 4, rel=0.2)
    assert use["dollars"] == pytest.approx((use["prompt_tokens"] * 1 + use["completion_tokens"] * 2) / 1e6)


def test_the_dry_run_of_safety_counts_play_and_verdicts_with_exchanged_seats(tmp_path):
    command = ["safety", "--agent", "openai/m", "--n", "3", "--no-labels", "--judge", "openai/j?max_tokens=300"]
    planned = invoke(*command, "--base-url", "http://127.0.0.1:9/v1", "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    calls = {}
    for use in json.loads(planned.stdout)["uses"]:
        calls[use["role"]] = calls.get(use["role"], 0) + use["calls"]
    assert calls == {"agent_0": 30, "agent_1": 30, "judge": 12}


def test_the_dry_run_of_an_evaluation_counts_every_seat_against_every_partner_and_asks_nobody(tmp_path):
    with Metered(steady) as server:
        command = ["evaluate", "--policy", "mine=openai/m", "--policy", "scripted/fair", "--n", "6"]
        command += ["--base-url", server.base_url, "--dry-run"]
        planned = invoke(*command, "--json", "--price", "openai/m=1,2")
        assert planned.exit_code == 0, planned.output
        assert "72 episodes" in invoke(*command).stdout
        assert server.requests == 0
    record = json.loads(planned.stdout)
    assert record["episodes"] == 2 * 6 * 2 * 3  # policies, tasks, seats, partners
    assert [(use["role"], use["calls"]) for use in record["uses"]] == [("policy mine", 6 * 2 * 3 * 10)]
    assert record["dollars"] > 0


def test_an_audit_whose_verdicts_are_all_there_costs_nothing(played):
    planned = invoke("audit", played, "--judge", "outcome", "--policy", "scripted/fair", "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout) == {"episodes": 0, "uses": [], "tokens": 0, "dollars": 0}


@pytest.mark.parametrize("name", ["audit", "robustness", "safety"])
def test_a_budget_of_a_judging_command_needs_a_place_for_what_is_paid(name, played, tmp_path):
    lines = tmp_path / "episodes.jsonl"
    assert invoke("export", played, "--format", "jsonl", "--out", str(lines)).exit_code == 0
    command = judging_commands(str(lines), tmp_path)[name]
    command = command[: command.index("--store")] if "--store" in command else command
    refused = invoke(
        *command, "--judge", "openai/j?max_tokens=9", "--base-url", "http://127.0.0.1:9/v1", "--max-cost", "1"
    )
    assert refused.exit_code == 1
    assert "A budget may stop the command half-way. Give" in refused.stderr


@pytest.mark.parametrize(
    "name", ["rollout", "evaluate", "benchmark", "generate", "judge", "audit", "robustness", "safety"]
)
def test_a_dry_run_needs_no_key(name, played, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    playing = {
        "rollout": ["rollout", "--agent", "openai/m", "--agent", "scripted/fair", "--limit", "2"],
        "evaluate": ["evaluate", "--policy", "openai/m", "--n", "2"],
        "benchmark": ["benchmark", "--policy", "openai/m", "--partner", "openai/m", "--section", "everyday"],
        "generate": ["generate", "--model", "openai/j", "--n", "2", "--output", str(tmp_path / "tasks.jsonl")],
    }
    command = {**playing, **judging_commands(played, tmp_path)}[name]
    if name != "generate":
        command = [*command, "--judge", "openai/j?max_tokens=9"]
    result = invoke(*command, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert "openai/j" in result.stdout
    refused = invoke(*command)
    assert refused.exit_code == 1
    assert "No API key" in refused.stderr


# --- a judge that is dead ---------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    store = str(tmp_path / "many.db")
    rollout(TASKS, ["scripted/fair", "scripted/tough"], repeats=3, store=store)
    return store


# At worst one of the first four answers after 19 others were refused, and three are under way when it is left alone.
@pytest.mark.parametrize(("concurrency", "most"), [(1, 20), (4, 19 + 20 + 3)])
def test_a_judge_that_refuses_everybody_is_soon_left_alone_and_what_it_said_before_is_kept(many, concurrency, most):
    with LoopbackServer(numbers_of, faults=[None] * 8 + ["401"] * 1000) as server:
        command = [
            "judge",
            many,
            "--judge",
            "openai/j?max_tokens=300",
            "--base-url",
            server.base_url,
            "--concurrency",
            str(concurrency),
        ]
        result = invoke(*command, "-q", "--json")
        assert result.exit_code == 1
        assert server.requests <= 2 * (4 + most)
    record = json.loads(result.stdout)
    errors = [episode["error"] for episode in record["episodes"]]
    assert errors.count(None) == 4
    why = "not asked: openai/j?max_tokens=300 had failed 20 times in a row without a reply"
    left = [error for error in errors if error and error.startswith(why)]
    assert len(errors) - 4 - most <= len(left) <= len(errors) - 4 - 20
    with EpisodeStore(many) as store:
        judges = [judge for episode in store.episodes() for judge in episode.verdicts]
    assert sum(judge.startswith("openai/j") for judge in judges) == 4


def test_a_judge_that_answers_but_never_with_a_verdict_is_asked_to_the_end(many):
    with Metered("I would rather not say.") as server:
        result = invoke(
            "judge", many, "--judge", "openai/j?max_tokens=9", "--base-url", server.base_url, "-q", "--json"
        )
        assert result.exit_code == 1
    errors = [episode["error"] for episode in json.loads(result.stdout)["episodes"]]
    assert len(errors) == 72
    assert all("gave no complete verdict" in error for error in errors)


def test_a_probe_of_a_dead_judge_ends_soon_and_says_why():
    with LoopbackServer(faults=["401"] * 10_000) as server:
        command = [
            "robustness",
            "--tasks",
            "everyday",
            "--judge",
            "openai/j?max_tokens=9",
            "--base-url",
            server.base_url,
        ]
        result = invoke(*command, "-q")
        assert result.exit_code == 1
        assert server.requests <= 2 * (20 + 16)
    assert "gave no verdict in any of" in result.stderr


# --- one scale ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["judge", "audit"])
def test_a_judge_that_is_asked_for_one_scale_has_a_name_of_its_own_and_no_other_scale(name, played, tmp_path):
    with Metered(numbers_of) as server:
        command = [*judging_commands(played, tmp_path)[name], "--judge", "openai/j?max_tokens=300"]
        command += ["--dimension", "goal", "--base-url", server.base_url, "-q"]
        if name == "audit":
            refused = invoke(*command, "--no-ask")
            assert refused.exit_code == 1
            assert "Unknown judge 'openai/j?max_tokens=300 on goal'" in refused.stderr
        assert invoke(*command).exit_code == 0
        asked = server.requests
        assert asked == 20
        assert list(server.bodies[0]["response_format"]["json_schema"]["schema"]["properties"]) == ["goal"]
        assert invoke(*command).exit_code == 0
        if name == "audit":
            assert invoke(*command, "--no-ask").exit_code == 0
        assert server.requests == asked
    with EpisodeStore(played) as store:
        verdicts = [episode.verdicts["openai/j?max_tokens=300 on goal"] for episode in store.episodes()]
    assert len(verdicts) == 10
    assert all(list(verdict.values("agent_0")) == ["goal"] for verdict in verdicts)
