"""The one chat client: OpenAI protocol, usage, retries, a connection limit; and its scripted twin.

Retries are the OpenAI client's own, with its back-off and `Retry-After`. Two failures that it does not
see are brought to it at the transport, as the errors it retries: a body that is no chat completion
(truncated, not JSON, without choices) and an attempt that takes longer than `timeout` in all, however
steadily its bytes trickle. So there is one allowance, `max_retries`, for everything that can go wrong. Every
attempt is set aside in the budgets around it before it is sent (`sotopia_env.budgets`).

The `openai` package is loaded by the first call, not by importing this module.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import importlib
import inspect
import json
import math
import os
import re
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from sotopia_env import aio, budgets
from sotopia_env.errors import BudgetError, ConfigurationError, ModelError, unknown

if TYPE_CHECKING:
    import openai

Messages = Sequence[Mapping[str, str]]

USAGE_KEYS = ("calls", "prompt_tokens", "completion_tokens", "retries")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered.

    Attributes:
        text: The reply's text; always encodes as UTF-8.
        usage: Counts by `USAGE_KEYS`, of this call.
        served_by: What the endpoint calls the model that answered, such as "gpt-4o-2024-08-06", with its
            fingerprint if it sends one; of the path of a file only its name. "" if it does not say.
    """

    text: str
    usage: dict[str, int] = field(default_factory=dict)
    served_by: str = field(default="", compare=False)


class ChatModel(Protocol):
    """What agents and judges talk to. `name` identifies the behaviour, options included."""

    name: str

    async def complete(self, messages: Messages, *, response_format: dict[str, Any] | None = None) -> Reply:
        """Answer a conversation.

        Args:
            messages: With "role" and "content".
            response_format: As in the OpenAI API, such as `{"type": "json_schema", ...}`.

        Raises:
            ModelError: If the call failed for good.
        """
        ...


# --- counting -------------------------------------------------------------------------------------

_scopes: ContextVar[tuple[dict[str, int], ...]] = ContextVar("sotopia_env_usage", default=())
_servings: ContextVar[tuple[dict[str, set[str]], ...]] = ContextVar("sotopia_env_served", default=())
_counting = threading.Lock()
_attempts: ContextVar[list[int] | None] = ContextVar("sotopia_env_attempts", default=None)
_keyless: ContextVar[bool] = ContextVar("sotopia_env_keyless", default=False)


@contextmanager
def keyless() -> Iterator[None]:
    """Make models inside without a key: for their names and prompts only, since a call outside still needs one."""
    token = _keyless.set(True)
    try:
        yield
    finally:
        _keyless.reset(token)


@contextmanager
def usage_scope() -> Iterator[dict[str, int]]:
    """Collect the usage of every model call made inside, in tasks and threads started inside too.

    Scopes nest: a call counts in every scope around it.
    """
    used = dict.fromkeys(USAGE_KEYS, 0)
    token = _scopes.set((*_scopes.get(), used))
    try:
        yield used
    finally:
        _scopes.reset(token)


def record_usage(usage: Mapping[str, int]) -> None:
    """Count a call in every scope around it; for chat models of your own."""
    with _counting:
        for scope in _scopes.get():
            for key, value in usage.items():
                scope[key] = scope.get(key, 0) + value


@contextmanager
def served_scope() -> Iterator[dict[str, set[str]]]:
    """Collect, by the name of a model client, what endpoints called the models that answered calls made inside."""
    served: dict[str, set[str]] = {}
    token = _servings.set((*_servings.get(), served))
    try:
        yield served
    finally:
        _servings.reset(token)


def _record_served(name: str, served_by: str) -> None:
    with _counting:
        for scope in _servings.get():
            scope.setdefault(name, set()).add(served_by)


# --- the client -----------------------------------------------------------------------------------


class OpenAIModel:
    """A model behind any OpenAI-compatible endpoint.

    The client is made by the first call, on the package's event loop, and left out of copies and pickles,
    so agents that hold a model can be deep-copied. `complete` may be awaited on any loop.

    Args:
        model: The model's name at the endpoint.
        base_url: The endpoint, "/v1" included; default `OPENAI_BASE_URL`, else OpenAI's own.
        api_key: Default `OPENAI_API_KEY`. Servers on this machine (loopback) need none.
        temperature: Sampling temperature, 0 or more; `None` leaves it to the endpoint.
        max_tokens: Longest reply, in tokens; `None` leaves it to the endpoint.
        timeout: Seconds that one attempt may take in all, body included.
        max_retries: How many times a failed attempt is repeated.
        max_connections: How many attempts may be under way at once; one that waits to be repeated is not.
        requests_per_minute: How many attempts may be begun in a minute, spread evenly; `None` for no limit.
        extra: Further fields of the request, such as `{"top_p": 0.9}`.
        name: Recorded in episodes; default `openai/<model>` with the options that shape replies.

    Raises:
        ConfigurationError: For an argument out of range, or if no key is set and the endpoint is not on this
            machine.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        timeout: float = 60.0,
        max_retries: int = 2,
        max_connections: int = 16,
        requests_per_minute: float | None = None,
        extra: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        shaping = {"temperature": temperature, "max_tokens": max_tokens}
        self.options = {**(extra or {}), **{key: value for key, value in shaping.items() if value is not None}}
        _check("temperature", self.options.get("temperature"), 0.0)
        _check("max_tokens", self.options.get("max_tokens"), 1)
        _check("timeout", timeout, 0.001)
        _check("max_retries", max_retries, 0)
        _check("max_connections", max_connections, 1)
        _check("requests_per_minute", requests_per_minute, 0.001)
        self.model = model
        self.timeout = timeout
        self.max_retries = max_retries
        self.max_connections = max_connections
        self.requests_per_minute = requests_per_minute
        self.billed_as = f"openai/{model}"
        self.name = name or f"openai/{model}{canonical_options(self.options)}"
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).strip()
        _check_url(self.base_url)
        self._api_key = api_key
        self._key()  # a missing key is told now, not in the middle of a rollout
        self._client: openai.AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, base_url={_shown(self.base_url)!r})"

    def __getstate__(self) -> dict[str, Any]:
        # A client belongs to its event loop, and copies make their own.
        return {**self.__dict__, "_client": None, "_loop": None}

    @property
    def longest_reply(self) -> int | None:
        """Tokens that a reply may have, or `None` if the request sets no limit."""
        given = [self.options[name] for name in ("max_tokens", "max_completion_tokens") if name in self.options]
        limits = [limit for limit in given if isinstance(limit, int)]
        if not limits or len(limits) < len(given):
            return None
        replies = self.options.get("n", 1)
        return max(limits) * (replies if isinstance(replies, int) else 1)

    async def complete(self, messages: Messages, *, response_format: dict[str, Any] | None = None) -> Reply:
        """Answer a conversation; see `ChatModel.complete`.

        Raises:
            ModelError: If the call failed for good, after `max_retries` repetitions.
            BudgetError: If it, or its repetition, does not fit into a budget around; it was not made.
            ConfigurationError: If a budget around can neither bound nor price it.
        """
        call = self._complete(messages, response_format)
        if asyncio.get_running_loop() is aio.loop():
            return await call
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, aio.loop()))

    async def _complete(self, messages: Messages, response_format: dict[str, Any] | None) -> Reply:
        client = await self._ready()
        from openai import OpenAIError

        arguments: dict[str, Any] = {"model": self.model, "messages": list(messages), "extra_body": self.options}
        if response_format is not None:
            arguments["response_format"] = response_format
        attempts = [0]
        token = _attempts.set(attempts)
        usage = {"calls": 1}
        try:
            # Raw, because the checking client has already read the body.
            raw = await client.chat.completions.with_raw_response.create(**arguments)
            text, tokens, served_by = raw.http_response.extensions[_READ]
            usage |= tokens
            if served_by:
                _record_served(self.name, served_by)
            return Reply(text, usage, served_by)
        except _RefusedError as refused:
            usage["calls"] = int(attempts[0] > 0)
            raise refused.error from None
        except (OpenAIError, UnicodeEncodeError) as error:
            raise self._failure(error, attempts[0], client.api_key) from None
        finally:
            _attempts.reset(token)
            usage["retries"] = max(0, attempts[0] - 1)
            record_usage(usage)

    async def _ready(self) -> openai.AsyncOpenAI:
        """The client, made by the first call on this loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            await asyncio.to_thread(importlib.import_module, "openai")  # takes a second; others go on meanwhile
            await self._open()
        if self._client is None or self._loop is not loop:
            self._client, self._loop = self._make_client(), loop
            _open_clients[self._client] = loop
            weakref.finalize(self, _close, self._client, loop).atexit = False
        return self._client

    async def _open(self) -> None:
        """Get the endpoint ready before the client is made; nothing to do for one that runs elsewhere."""

    def _make_client(self) -> openai.AsyncOpenAI:
        import openai

        http = _checking_client()(
            seconds=self.timeout,
            connections=self.max_connections,
            pause=60 / self.requests_per_minute if self.requests_per_minute else 0.0,
            bill=partial(budgets.billed, self.billed_as, longest_reply=self.longest_reply),
            trust_env=not _is_loopback(self.base_url),  # no proxy stands between this machine and itself
        )
        # Without a timeout of its own: the checking client limits whole attempts.
        return openai.AsyncOpenAI(
            api_key=self._key(), base_url=self.base_url, timeout=None, max_retries=self.max_retries, http_client=http
        )

    def check_key(self) -> None:
        """Refuse a missing or unusable API key now, and not with the first call.

        Raises:
            ConfigurationError: If the endpoint needs a key and there is none, or none that can be sent.
        """
        self._key()

    def _key(self) -> str:
        key = (self._api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        if not key and not _is_loopback(self.base_url) and not _keyless.get():
            raise ConfigurationError(
                f"No API key for model {self.model!r} at {_shown(self.base_url)}. Set OPENAI_API_KEY (any text if the "
                "server needs none), pass api_key=..., or use local/smollm2, which needs no key."
            )
        if not key.isascii() or not key.isprintable():
            raise ConfigurationError("The API key holds characters that no HTTP header can carry. Copy it again.")
        return key or _NO_KEY

    def _failure(self, error: Exception, attempts: int, key: str) -> ModelError:
        """Word a final failure in one line, without the key, which some endpoints echo."""
        cause = error.__cause__ if type(error).__name__ in ("APIConnectionError", "APITimeoutError") else None
        text = (str(cause) or type(cause).__name__) if cause is not None else str(error)
        body = getattr(cause, "body", None) or getattr(getattr(error, "response", None), "text", None)
        message = (
            f"Model {self.model!r} at {_shown(self.base_url)} failed after {max(attempts, 1)} "
            f"attempt{'s' if attempts > 1 else ''}: {' '.join(text.split())[:300].rstrip('.')}. "
            "Check the endpoint, the model's name and the key, or raise max_retries or timeout."
        )
        hide = [key] if len(key) >= 4 and key != _NO_KEY else []  # "x" is no secret, and hiding it would hide all
        for secret in hide:
            message, body = message.replace(secret, "***"), body and body.replace(secret, "***")
        return ModelError(message, reply=body[:_KEPT] if isinstance(body, str) else None)


_OPENAI = "https://api.openai.com/v1"
_NO_KEY = "none-needed"
_NAME = 200  # characters of what an endpoint calls its model
_KEPT = 10_000  # characters of an unusable body that an error carries
_READ = "sotopia_env.completion"  # where a checked response keeps what was read out of it


class _RefusedError(BaseException):
    """Carries the refusal of a budget past the openai client, which would repeat any exception."""

    def __init__(self, error: BudgetError | ConfigurationError) -> None:
        super().__init__(str(error))
        self.error = error


@lru_cache(maxsize=1)
def _checking_client() -> Any:
    """The HTTP client class; made on first use, because it derives from openai's."""
    import openai

    # openai 3 builds on httpx2, earlier versions on httpx; either way its own client's module is the right one.
    base: Any = openai.DefaultAsyncHttpxClient
    http: Any = importlib.import_module(base.__mro__[1].__module__.partition(".")[0])

    class UnusableBodyError(http.RemoteProtocolError):  # type: ignore[misc]
        def __init__(self, problem: str, response: Any) -> None:
            super().__init__(problem, request=response.request)
            self.body = response.text

    class CheckingClient(base):  # type: ignore[misc]
        """Sends an attempt within its time limit and takes only chat completions for an answer."""

        def __init__(self, *, seconds: float, connections: int, pause: float, bill: Any, trust_env: bool) -> None:
            limits = http.Limits(max_connections=connections, max_keepalive_connections=connections)
            super().__init__(timeout=None, limits=limits, trust_env=trust_env)
            self.seconds = seconds
            self.slots = asyncio.Semaphore(connections)
            self.pause = pause
            self.next_start = 0.0
            self.bill = bill

        async def send(self, request: Any, **options: Any) -> Any:
            async with self.slots:
                await self._pace()
                try:
                    async with self.bill(request_bytes=len(request.content)) as bill:
                        return await self._attempt(request, bill, options)
                except (BudgetError, ConfigurationError) as error:
                    raise _RefusedError(error) from None

        async def _pace(self) -> None:
            now = asyncio.get_running_loop().time()
            wait = self.next_start - now
            self.next_start = max(now, self.next_start) + self.pause
            if wait > 0:
                await asyncio.sleep(wait)

        async def _attempt(self, request: Any, bill: budgets.Bill, options: dict[str, Any]) -> Any:
            attempts = _attempts.get()
            if attempts is not None:
                attempts[0] += 1
            try:
                async with asyncio.timeout(self.seconds):
                    response = await super().send(request, **options)
                    await response.aread()
            except TimeoutError:
                raise http.ReadTimeout(f"no complete answer within {self.seconds:g} s", request=request) from None
            except (http.ConnectError, http.ConnectTimeout):
                bill.free()  # it never reached the endpoint
                raise
            if not response.is_success:
                bill.free()
                return response
            try:
                text, tokens, served_by = _read_completion(response.content)
            except ValueError as error:
                raise UnusableBodyError(str(error), response) from None
            bill.paid(tokens)
            response.extensions[_READ] = text, tokens, served_by
            return response

    return CheckingClient


def _read_completion(body: bytes) -> tuple[str, dict[str, int], str]:
    """The text and the token counts of a chat completion, and what the endpoint calls the model.

    Raises:
        ValueError: If it is none; says why.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError(f"the answer is not JSON: {body[:60]!r}") from None
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError(f"the answer has no choices: {body[:60]!r}")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise ValueError("the answer's first choice has no message")
    text = message.get("content")
    if text is None:
        # A refusal is an answer, and so is nothing at all from one that spent its limit on thinking.
        text = message.get("refusal") or ("" if choices[0].get("finish_reason") == "length" else None)
    if not isinstance(text, str):
        raise ValueError("the answer's message has no text")
    counts = value.get("usage")
    counts = counts if isinstance(counts, dict) else {}
    told = {key: counts.get(key) for key in ("prompt_tokens", "completion_tokens")}
    tokens = {key: count for key, count in told.items() if type(count) is int and count >= 0}
    parts = [value.get("model"), value.get("system_fingerprint")]
    served_by = " ".join(_named(encodable(part)) for part in parts if isinstance(part, str) and part)
    return encodable(text), tokens, served_by


def _named(text: str) -> str:
    """What an endpoint calls its model; of the path of a file on its machine the name is enough."""
    is_path = text.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", text)
    return (re.split(r"[\\/]", text.rstrip("\\/"))[-1] if is_path else text)[:_NAME]


def encodable(text: str) -> str:
    """Put U+FFFD for lone surrogates, which no file, database or request can carry."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_open_clients: weakref.WeakKeyDictionary[openai.AsyncOpenAI, asyncio.AbstractEventLoop] = weakref.WeakKeyDictionary()


def _close(client: openai.AsyncOpenAI, loop: asyncio.AbstractEventLoop) -> concurrent.futures.Future[None] | None:
    """Close the client of a model that is gone, on the loop it lives on."""
    return asyncio.run_coroutine_threadsafe(client.close(), loop) if loop.is_running() else None


@atexit.register
def _close_all() -> None:
    """Close the connections that are still open when the program ends, so that nothing warns of them."""
    closing = [_close(client, loop) for client, loop in _open_clients.items()]
    concurrent.futures.wait([future for future in closing if future is not None], timeout=1)


def _check(name: str, value: float | None, low: float) -> None:
    """Check a number; a whole `low` asks for a whole number."""
    if value is None:
        return
    whole = isinstance(low, int)
    fits = isinstance(value, int) or (not whole and isinstance(value, float))
    if not fits or isinstance(value, bool) or not low <= value < math.inf:
        kind = "whole" if whole else "finite"
        raise ConfigurationError(f"{name} is {value!r}, but must be a {kind} number of at least {low:g}.")


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"base_url is {url!r}, but must be an address such as 'http://localhost:8000/v1'.")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _shown(url: str) -> str:
    """A URL without user name, password and query, which may hold keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


# --- specs ----------------------------------------------------------------------------------------

_SHAPING: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "max_tokens": int,
    "max_completion_tokens": int,
    "top_p": float,
    "seed": int,
    "frequency_penalty": float,
    "presence_penalty": float,
    "reasoning_effort": str,
}
_TRANSPORT: dict[str, Callable[[str], Any]] = {
    "timeout": float,
    "max_retries": int,
    "max_connections": int,
    "requests_per_minute": float,
}


def read_options(spec: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Split "model?option=value&..." into the model, options that shape replies, and options of transport.

    Raises:
        ConfigurationError: For an unknown option or a value of the wrong form.
    """
    model, _, query = spec.partition("?")
    shaping: dict[str, Any] = {}
    transport: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        known = {**_SHAPING, **_TRANSPORT}
        if key not in known:
            raise ConfigurationError(unknown(f"option of {spec!r}", key, known))
        try:
            (shaping if key in _SHAPING else transport)[key] = known[key](text)
        except ValueError:
            raise ConfigurationError(
                f"Option {key}={text!r} of {spec!r} must be {'a number' if known[key] is float else 'a whole number'}."
            ) from None
    if not model:
        raise ConfigurationError(f"{spec!r} names no model. Write it as openai/<model>, such as openai/gpt-4o-mini.")
    return model, shaping, transport


def openai_model(spec: str, *, base_url: str | None = None, api_key: str | None = None) -> OpenAIModel:
    """Make the model of an `openai/...` spec, given without its prefix: `gpt-4o?temperature=0.7`."""
    model, shaping, transport = read_options(spec)
    return OpenAIModel(model, base_url=base_url, api_key=api_key, extra=shaping, **transport)


def canonical_options(options: Mapping[str, Any]) -> str:
    """Options in the one form that names use: "?max_tokens=200&temperature=0.7", sorted; "" for none."""
    pairs = [f"{key}={_option_text(options[key])}" for key in sorted(options)]
    return "?" + "&".join(pairs) if pairs else ""


def _option_text(value: object) -> str:
    if isinstance(value, float):
        return f"{int(value)}" if value.is_integer() else repr(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


# --- the scripted twin ------------------------------------------------------------------------------


Scripted = str | Reply | Exception


class ScriptedModel:
    """A model that says what it is told to: for tests of agents, judges and loops.

    Args:
        replies: Texts given in turn, or a function, sync or async, of the messages. A `Reply` brings its own
            token counts; an exception is raised.
        name: The model's name.

    Attributes:
        calls: The messages of every call so far.
        formats: The `response_format` of every call so far.

    Example:
        >>> model = ScriptedModel(['{"action_type": "speak", "argument": "hello"}'])
    """

    def __init__(
        self,
        replies: Sequence[Scripted] | Callable[[list[dict[str, str]]], Scripted | Awaitable[Scripted]],
        *,
        name: str = "scripted-model",
    ) -> None:
        if isinstance(replies, str):
            raise ConfigurationError(f"replies is {replies!r:.80}, but must be a list of texts, or a function.")
        self._replies = replies if callable(replies) else list(replies)
        self.name = name
        self.calls: list[list[dict[str, str]]] = []
        self.formats: list[dict[str, Any] | None] = []

    async def complete(self, messages: Messages, *, response_format: dict[str, Any] | None = None) -> Reply:
        """Give the next scripted reply.

        Raises:
            ModelError: If the replies have run out; or whatever exception the script holds.
        """
        seen = [dict(message) for message in messages]
        self.calls.append(seen)
        self.formats.append(response_format)
        usage = {"calls": 1, "prompt_tokens": 0, "completion_tokens": 0, "retries": 0}
        answer = await self._next(seen)
        if isinstance(answer, Reply):
            usage |= answer.usage
        record_usage(usage)
        if isinstance(answer, Exception):
            raise answer
        return Reply(answer.text if isinstance(answer, Reply) else answer, usage)

    async def _next(self, seen: list[dict[str, str]]) -> Scripted:
        if callable(self._replies):
            answer = self._replies(seen)
            return await answer if inspect.isawaitable(answer) else answer
        if len(self.calls) > len(self._replies):
            return ModelError(f"Scripted model {self.name!r} has no reply left after {len(self._replies)}.")
        return self._replies[len(self.calls) - 1]

    def __repr__(self) -> str:
        return f"ScriptedModel({self.name!r})"
