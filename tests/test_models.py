"""The model client against a real HTTP server that fails in every way an endpoint does; and its scripted twin."""

from __future__ import annotations

import asyncio
import copy
import pickle
import socket
import subprocess
import sys
import time
import traceback

import pytest

from sotopia_env import ConfigurationError, ModelError, aio
from sotopia_env.loopback import FAULTS, LoopbackServer
from sotopia_env.models import OpenAIModel, Reply, ScriptedModel, openai_model, record_usage, usage_scope

HELLO = [{"role": "user", "content": "Good morning."}]
KEY = "sk-very-secret-1234567890"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hasty(monkeypatch):
    """The openai client backs off from half a second; here from ten milliseconds."""
    import openai._base_client

    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)


def ask(model, messages=HELLO, **options):
    return aio.run(model.complete(messages, **options))


async def ask_often(model, times):
    return await asyncio.gather(*(model.complete(HELLO) for _ in range(times)), return_exceptions=True)


# --- what is sent and what comes back -------------------------------------------------------------


def test_the_text_and_the_token_counts_of_the_endpoint_come_back():
    with LoopbackServer("Good morning to you.") as server:
        reply = ask(OpenAIModel("m", base_url=server.base_url))
    assert reply == Reply(
        "Good morning to you.", {"calls": 1, "prompt_tokens": 2, "completion_tokens": 4, "retries": 0}
    )


def test_the_request_carries_messages_options_and_response_format():
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    with LoopbackServer() as server:
        model = OpenAIModel(
            "m", base_url=server.base_url, temperature=0.5, max_tokens=7, extra={"top_k": 3}, api_key="k"
        )
        ask(model, response_format=form)
        ask(OpenAIModel("bare", base_url=server.base_url))
    sent, bare = server.bodies
    assert sent == {
        "model": "m", "messages": HELLO, "temperature": 0.5, "max_tokens": 7, "top_k": 3, "response_format": form
    }  # fmt: skip
    assert bare == {"model": "bare", "messages": HELLO}


def test_any_text_arrives_as_it_was_written():
    text = 'naïve \u2028 \x00\x1b[31m 日本語 😀 \\ " </s>'
    with LoopbackServer(lambda request: request["messages"][0]["content"]) as server:
        assert ask(OpenAIModel("m", base_url=server.base_url), [{"role": "user", "content": text}]).text == text


def test_a_lone_surrogate_in_a_reply_becomes_a_replacement_character():
    with LoopbackServer("a\ud83db \ud83d\ude00") as server:
        assert ask(OpenAIModel("m", base_url=server.base_url)).text == "a\ufffdb 😀"


def test_a_refusal_is_an_answer_and_a_message_without_text_is_none(hasty):
    with LoopbackServer(lambda _: {"role": "assistant", "content": None, "refusal": "I cannot."}) as server:
        assert ask(OpenAIModel("m", base_url=server.base_url)).text == "I cannot."
    with (
        LoopbackServer(lambda _: {"role": "assistant", "content": None}) as server,
        pytest.raises(ModelError, match="the answer's message has no text"),
    ):
        ask(OpenAIModel("m", base_url=server.base_url))


def test_importing_the_client_loads_no_openai():
    code = "import sys, sotopia_env.models, sotopia_env.judges.llm; print('openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_of_fault_is_repeated_and_counted(kind, hasty):
    with LoopbackServer("fine", faults=[kind, kind], retry_after=0.01, slow_seconds=5) as server:
        model = OpenAIModel("m", base_url=server.base_url, timeout=0.4)
        with usage_scope() as usage:
            assert ask(model).text == "fine"
    assert server.requests == 3
    assert usage == {"calls": 1, "prompt_tokens": 2, "completion_tokens": 1, "retries": 2}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_that_stays_is_a_model_error_after_max_retries(kind, hasty):
    with LoopbackServer("fine", faults={kind: 1.0}, retry_after=0.01, slow_seconds=5) as server:
        model = OpenAIModel("m", base_url=server.base_url, timeout=0.2, max_retries=2)
        with usage_scope() as usage, pytest.raises(ModelError) as caught:
            ask(model)
    assert server.requests == 3
    assert usage == {"calls": 1, "prompt_tokens": 0, "completion_tokens": 0, "retries": 2}
    assert f"Model 'm' at {server.base_url} failed after 3 attempts: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "reply"), [("not_json", "<h1>Bad gateway</h1>"), ("no_choices", "upstream"), ("cut_json", "loopback-1")]
)
def test_the_error_carries_what_the_endpoint_sent(kind, reply):
    with LoopbackServer(faults=[kind]) as server, pytest.raises(ModelError) as caught:
        ask(OpenAIModel("m", base_url=server.base_url, max_retries=0))
    assert reply in caught.value.reply


def test_a_body_that_trickles_is_cut_off_when_the_whole_attempt_is_too_long():
    with LoopbackServer(faults={"slow": 1.0}, slow_seconds=20) as server:
        model = OpenAIModel("m", base_url=server.base_url, timeout=0.3, max_retries=0)
        start = time.monotonic()
        with pytest.raises(ModelError, match=r"failed after 1 attempt: no complete answer within 0\.3 s\. "):
            ask(model)
    assert time.monotonic() - start < 3


def test_retry_after_is_waited_for(hasty):
    with LoopbackServer(faults=["429"], retry_after=0.5) as server:
        start = time.monotonic()
        ask(OpenAIModel("m", base_url=server.base_url))
    assert time.monotonic() - start >= 0.5


@pytest.mark.parametrize("status", ["400", "401", "403", "404", "422"])
def test_a_refused_request_is_not_repeated(status):
    with LoopbackServer(faults=[status]) as server, pytest.raises(ModelError, match=f"Error code: {status}"):
        ask(OpenAIModel("m", base_url=server.base_url))
    assert server.requests == 1


def test_with_three_faults_in_ten_calls_and_six_retries_everything_gets_through(hasty):
    with LoopbackServer("fine", faults=0.3, retry_after=0.01, slow_seconds=5, seed=3) as server:
        model = OpenAIModel("m", base_url=server.base_url, timeout=0.5, max_retries=6)
        with usage_scope() as usage:
            replies = aio.run(ask_often(model, 200))
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == ["fine"] * 200
    assert server.faulted.keys() == set(FAULTS)
    assert usage["calls"] == 200
    # Hardly ever an idle connection is found closed and tried again before the server counts it.
    assert usage["retries"] >= sum(server.faulted.values()) == server.requests - 200


def test_an_endpoint_that_is_not_there_is_a_model_error(hasty):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"  # bound, but nobody listens
        with pytest.raises(ModelError, match=rf"^Model 'm' at {url} failed after 3 attempts: .*Check the endpoint"):
            ask(OpenAIModel("m", base_url=url))


# --- keys -----------------------------------------------------------------------------------------


def test_a_missing_key_is_told_when_the_model_is_made_and_says_what_to_set(monkeypatch):
    told = r"No API key for model 'gpt-4o' at https://api\.openai\.com/v1\. Set OPENAI_API_KEY"
    with pytest.raises(ConfigurationError, match=told):
        OpenAIModel("gpt-4o")
    monkeypatch.setenv("OPENAI_API_KEY", " \n")
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        OpenAIModel("gpt-4o", base_url="https://models.example.org/v1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.8.8.8"])
def test_an_address_on_this_machine_needs_no_key(host):
    OpenAIModel("m", base_url=f"http://{host}:8000/v1")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1.example.org/v1", "http://localhost.example.org/v1", "http://10.0.0.1/v1"]
)
def test_an_address_that_only_looks_like_this_machine_needs_one(url):
    with pytest.raises(ConfigurationError, match="No API key"):
        OpenAIModel("m", base_url=url)


def test_key_and_address_come_from_the_environment(monkeypatch):
    with LoopbackServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")  # as a key read from a file ends
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        ask(OpenAIModel("m"))
    assert server.headers["authorization"] == f"Bearer {KEY}"


def test_a_key_that_fits_no_header_is_refused_without_being_shown():
    with pytest.raises(ConfigurationError) as caught:
        OpenAIModel("m", api_key=f"{KEY}\nX-Other: 1")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("fault", ["401", "429", "500", "not_json", "drop"])
def test_the_key_is_in_no_error_reply_traceback_or_repr(fault, hasty):
    with LoopbackServer(faults={fault: 1.0}, retry_after=0.01) as server:
        model = OpenAIModel("m", base_url=server.base_url, api_key=KEY)
        with pytest.raises(ModelError) as caught:
            ask(model)
    assert server.headers["authorization"].endswith(KEY)  # a real endpoint repeats it, and so does this one
    shown = [str(caught.value), repr(caught.value), str(caught.value.reply), repr(model)]
    shown += traceback.format_exception(caught.value)
    assert not [text for text in shown if KEY in text]
    assert fault != "401" or "***" in caught.value.reply


def test_a_password_in_the_address_is_not_shown():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        model = OpenAIModel("m", base_url=f"http://user:{KEY}@127.0.0.1:{listener.getsockname()[1]}/v1", max_retries=0)
        with pytest.raises(ModelError) as caught:
            ask(model)
    assert KEY not in str(caught.value) + repr(model)


def test_a_key_from_the_environment_is_not_pickled(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert KEY.encode() not in pickle.dumps(OpenAIModel("m"))


# --- connections, copies, loops -------------------------------------------------------------------


def test_no_more_calls_are_under_way_than_the_limit_allows():
    with LoopbackServer(delay=0.05) as server:
        replies = aio.run(ask_often(OpenAIModel("m", base_url=server.base_url, max_connections=3), 15))
        assert len([reply for reply in replies if isinstance(reply, Reply)]) == 15
        assert server.most_in_flight == 3


def test_waiting_for_a_place_does_not_count_towards_the_time_limit():
    with LoopbackServer(delay=0.25) as server:
        model = OpenAIModel("m", base_url=server.base_url, max_connections=1, timeout=0.6, max_retries=0)
        assert [type(reply) for reply in aio.run(ask_often(model, 5))] == [Reply] * 5


def test_a_cancelled_call_gives_its_place_back():
    async def cancelled_then_another(model):
        call = asyncio.ensure_future(model.complete(HELLO))
        await asyncio.sleep(0.2)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        server.delay = 0.0
        return await asyncio.wait_for(model.complete(HELLO), 5)

    with LoopbackServer("fine", delay=30) as server:
        model = OpenAIModel("m", base_url=server.base_url, max_connections=1)
        assert aio.run(cancelled_then_another(model)).text == "fine"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_in_use_can_be_copied_and_the_copy_works(duplicate):
    with LoopbackServer("fine") as server:
        model = OpenAIModel("m", base_url=server.base_url, temperature=0.5)
        ask(model)
        twin = duplicate(model)
        assert (twin.name, ask(twin).text, ask(model).text) == (model.name, "fine", "fine")


def test_one_client_serves_callers_on_any_loop():
    with LoopbackServer("fine") as server:
        model = OpenAIModel("m", base_url=server.base_url)
        client = None
        for _ in range(2):
            with usage_scope() as usage:
                assert asyncio.run(model.complete(HELLO)).text == "fine"
            assert usage["calls"] == 1
            client = client or model._client
            assert model._client is client
        assert ask(model).text == "fine"
        assert model._client is client


def test_a_local_endpoint_is_reached_without_the_proxy_of_the_environment(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with LoopbackServer("fine") as server:
        assert ask(OpenAIModel("m", base_url=server.base_url, max_retries=0)).text == "fine"


# --- names and options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("gpt-4o?temperature=0.70&max_tokens=200", "openai/gpt-4o?max_tokens=200&temperature=0.7"),
        ("gpt-4o?temperature=1.0", "openai/gpt-4o?temperature=1"),
        ("gpt-4o?timeout=5&max_retries=9&max_connections=2", "openai/gpt-4o"),
        ("org/model:tag?seed=3", "openai/org/model:tag?seed=3"),
    ],
)
def test_a_name_holds_in_one_form_what_changes_behaviour_and_nothing_else(spec, name):
    model = openai_model(spec, api_key="k")
    assert model.name == name
    assert openai_model(name.removeprefix("openai/"), api_key="k").name == name


def test_options_of_a_spec_reach_the_client():
    model = openai_model("m?timeout=5&max_retries=9&max_connections=2&temperature=0", api_key="k")
    assert (model.timeout, model.max_retries, model.max_connections, model.options) == (5.0, 9, 2, {"temperature": 0.0})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("m?temprature=1", "'temprature'.*Did you mean 'temperature'?"),
        ("m?max_tokens=many", "max_tokens='many'.*must be a whole number"),
        ("m?temperature=warm", "temperature='warm'.*must be a number"),
        ("?temperature=1", "names no model"),
        ("m?temperature=-1", "temperature is -1.0, but must be a finite number of at least 0"),
        ("m?temperature=nan", "temperature is nan"),
        ("m?max_tokens=0", "max_tokens is 0, but must be a whole number of at least 1"),
        ("m?timeout=0", "timeout is 0.0"),
        ("m?max_retries=-1", "max_retries is -1"),
        ("m?max_connections=0", "max_connections is 0"),
    ],
)
def test_an_unusable_option_is_named_with_what_is_allowed(spec, message):
    with pytest.raises(ConfigurationError, match=message):
        openai_model(spec, api_key="k")


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match="base_url is 'localhost:8000'"):
        OpenAIModel("m", base_url="localhost:8000")


# --- accounting and the scripted twin ---------------------------------------------------------------


def test_a_scope_counts_calls_in_tasks_and_threads_started_inside_and_no_others():
    model = ScriptedModel(lambda _: Reply("x", {"prompt_tokens": 5, "completion_tokens": 2}))

    async def play():
        await model.complete(HELLO)
        with usage_scope() as outer:
            await asyncio.gather(model.complete(HELLO), asyncio.create_task(model.complete(HELLO)))
            with usage_scope() as inner:
                await asyncio.to_thread(lambda: asyncio.run(model.complete(HELLO)))
        await model.complete(HELLO)
        return outer, inner

    outer, inner = aio.run(play())
    assert inner == {"calls": 1, "prompt_tokens": 5, "completion_tokens": 2, "retries": 0}
    assert outer == {"calls": 3, "prompt_tokens": 15, "completion_tokens": 6, "retries": 0}


def test_a_model_of_ones_own_can_be_counted():
    with usage_scope() as usage:
        record_usage({"calls": 1, "prompt_tokens": 9})
    assert usage == {"calls": 1, "prompt_tokens": 9, "completion_tokens": 0, "retries": 0}


def test_a_scripted_model_answers_in_turn_keeps_what_it_was_asked_and_says_when_it_runs_out():
    model = ScriptedModel(["one", ModelError("down"), "three"])
    assert ask(model, response_format={"type": "json_object"}).text == "one"
    with pytest.raises(ModelError, match=r"^down$"):
        ask(model)
    assert ask(model).text == "three"
    with pytest.raises(ModelError, match="no reply left after 3"):
        ask(model)
    assert model.calls == [HELLO] * 4
    assert model.formats[:2] == [{"type": "json_object"}, None]


def test_a_scripted_model_may_be_a_function_sync_or_async():
    async def later(messages):
        return messages[0]["content"].upper()

    assert ask(ScriptedModel(later)).text == "GOOD MORNING."
    assert ask(ScriptedModel(lambda messages: messages[0]["content"])).text == "Good morning."
    with pytest.raises(ConfigurationError, match="must be a list of texts"):
        ScriptedModel("one")


# --- the loopback server ----------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_faults():
    def faulted(seed):
        with LoopbackServer(faults={"400": 0.5}, seed=seed) as server:
            model = OpenAIModel("m", base_url=server.base_url, max_connections=1)
            return [isinstance(reply, Reply) for reply in aio.run(ask_often(model, 20))]

    assert faulted(1) == faulted(1) != faulted(2)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"dorp": 0.1}, "Did you mean 'drop'?"),
        (1.5, "sum to at most 1"),
        ({"500": 0.6, "drop": 0.6}, "at most 1"),
        (["501x"], "501x"),
    ],
)
def test_the_loopback_server_refuses_faults_it_does_not_know(faults, message):
    with pytest.raises(ConfigurationError, match=message):
        LoopbackServer(faults=faults)


def test_a_reply_function_that_raises_is_a_server_error():
    with LoopbackServer(lambda _: 1 / 0) as server, pytest.raises(ModelError, match="ZeroDivisionError"):
        ask(OpenAIModel("m", base_url=server.base_url, max_retries=0))
