"""The one chat client: OpenAI protocol, usage, retries, a connection limit; and its scripted twin.

Retries are the OpenAI client's own, with its back-off and `Retry-After`. Two failures that it does not
see are brought to it at the transport, as the errors it retries: a body that is no chat completion
(truncated, not JSON, without choices) and an attempt that takes longer than `timeout` in all, however
steadily its bytes trickle. So there is one budget, `max_retries`, for everything that can go wrong.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from sotopia_env.errors import ConfigurationError, ModelError, unknown

if TYPE_CHECKING:
    import openai

Messages = Sequence[Mapping[str, str]]

USAGE_KEYS = ("calls", "prompt_tokens", "completion_tokens", "retries")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered.

    Attributes:
        text: The reply's text; "" if the model gave none.
        usage: Counts by `USAGE_KEYS`, of this call.
    """

    text: str
    usage: dict[str, int] = field(default_factory=dict)


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
_attempts: ContextVar[list[int] | None] = ContextVar("sotopia_env_attempts", default=None)


@contextmanager
def usage_scope() -> Iterator[dict[str, int]]:
    """Collect the usage of every model call made inside, in tasks and threads started inside too."""
    used = dict.fromkeys(USAGE_KEYS, 0)
    token = _scopes.set((*_scopes.get(), used))
    try:
        yield used
    finally:
        _scopes.reset(token)


def _record(usage: Mapping[str, int]) -> None:
    for scope in _scopes.get():
        for key, value in usage.items():
            scope[key] = scope.get(key, 0) + value


# --- the client -----------------------------------------------------------------------------------


class OpenAIModel:
    """A model behind any OpenAI-compatible endpoint.

    The client is made on first use, on the package's event loop, and left out of copies and pickles, so
    agents that hold a model can be deep-copied.

    Args:
        model: The model's name at the endpoint.
        base_url: The endpoint; default `OPENAI_BASE_URL`, else OpenAI's own.
        api_key: Default `OPENAI_API_KEY`. Servers on this machine (loopback) need none.
        temperature: Sampling temperature; `None` leaves it to the endpoint.
        max_tokens: Longest reply, in tokens; `None` leaves it to the endpoint.
        timeout: Seconds that one attempt may take in all, body included.
        max_retries: How many times a failed attempt is repeated.
        max_connections: How many calls may be under way at once.
        extra: Further arguments of the chat completions call, such as `{"top_p": 0.9}`.
        name: Recorded in episodes; default `openai/<model>` with the options that shape replies.

    Raises:
        ConfigurationError: If no key is set and the endpoint is not on this machine.
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
        extra: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        if timeout <= 0 or max_retries < 0 or max_connections < 1:
            raise ConfigurationError(
                f"timeout={timeout!r}, max_retries={max_retries!r} and max_connections={max_connections!r} must be "
                "above 0, 0 or more, and 1 or more."
            )
        self.model = model
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        key = api_key or os.environ.get("OPENAI_API_KEY")
        if not key and not _is_loopback(self.base_url):
            raise ConfigurationError(
                f"No API key for model {model!r} at {_shown(self.base_url)}. Set OPENAI_API_KEY (any text if the server needs "
                "none), pass api_key=..., or use local/smollm2, which needs no key."
            )
        self._key = key or "none"
        shaping = {"temperature": temperature, "max_tokens": max_tokens, **(extra or {})}
        self.options = {key: value for key, value in sorted(shaping.items()) if value is not None}
        self.timeout = timeout
        self.max_retries = max_retries
        self.max_connections = max_connections
        query = "&".join(f"{key}={value}" for key, value in self.options.items())
        self.name = name or f"openai/{model}" + (f"?{query}" if query else "")
        self._client: openai.AsyncOpenAI | None = None
        self._slots: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, base_url={_shown(self.base_url)!r})"

    def __getstate__(self) -> dict[str, Any]:
        # A client belongs to its event loop, and copies make their own.
        return {**self.__dict__, "_client": None, "_slots": None, "_loop": None}

    async def complete(self, messages: Messages, *, response_format: dict[str, Any] | None = None) -> Reply:
        """Answer a conversation; see `ChatModel.complete`.

        Raises:
            ModelError: If the call failed for good, after `max_retries` repetitions.
        """
        import openai

        client, slots = self._ready()
        arguments: dict[str, Any] = {"model": self.model, "messages": list(messages), **self.options}
        if response_format is not None:
            arguments["response_format"] = response_format
        attempts = [0]
        token = _attempts.set(attempts)
        usage = {"calls": 1}
        try:
            async with slots:
                completion = await client.chat.completions.create(**arguments)
            if completion.usage is not None:
                usage["prompt_tokens"] = completion.usage.prompt_tokens or 0
                usage["completion_tokens"] = completion.usage.completion_tokens or 0
            return Reply(completion.choices[0].message.content or "", usage)
        except (openai.OpenAIError, ValueError) as error:
            raise self._failure(error, attempts[0]) from None
        finally:
            _attempts.reset(token)
            usage["retries"] = max(0, attempts[0] - 1)
            _record(usage)

    def _ready(self) -> tuple[openai.AsyncOpenAI, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if self._client is None or self._slots is None or self._loop is not loop:
            self._client = _make_client(self._key, self.base_url, self.timeout, self.max_retries, self.max_connections)
            self._slots = asyncio.Semaphore(self.max_connections)
            self._loop = loop
        return self._client, self._slots

    def _failure(self, error: Exception, attempts: int) -> ModelError:
        """Word a final failure in one line, without the key, which some endpoints echo."""
        cause = error.__cause__ if type(error).__name__ in ("APIConnectionError", "APITimeoutError") else None
        text = f"{type(error).__name__}: {error}" + (f" ({cause})" if cause and str(cause) else "")
        body = getattr(getattr(error, "response", None), "text", None)
        remedy = "Check the endpoint, the model's name and the key, or raise max_retries or timeout."
        message = (
            f"Model {self.model!r} at {_shown(self.base_url)} failed after {max(attempts, 1)} attempts: "
            f"{' '.join(text.split())[:300]}. {remedy}"
        )
        return ModelError(self._hide(message), reply=self._hide(body) if isinstance(body, str) else None)

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) > 4 else text


def _make_client(key: str, base_url: str, timeout: float, max_retries: int, max_connections: int) -> openai.AsyncOpenAI:
    import openai

    # openai 3 builds on httpx2, earlier versions on httpx; either way its own client's module is the right one.
    base: Any = openai.DefaultAsyncHttpxClient
    http: Any = importlib.import_module(base.__mro__[1].__module__.partition(".")[0])

    class CheckingClient(base):  # type: ignore[misc]
        """Sends a request within its time limit and takes only chat completions for an answer."""

        async def send(self, request: Any, **options: Any) -> Any:
            attempts = _attempts.get()
            if attempts is not None:
                attempts[0] += 1
            try:
                async with asyncio.timeout(timeout):
                    response = await super().send(request, **options)
                    await response.aread()
            except TimeoutError:
                raise http.ReadTimeout(f"no complete answer within {timeout:g} s", request=request) from None
            if response.status_code == 200 and (problem := _unusable(response.content)):
                raise http.RemoteProtocolError(problem, request=request)
            return response

    limits = http.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    client = CheckingClient(base_url=base_url, timeout=timeout, limits=limits)
    return openai.AsyncOpenAI(
        api_key=key, base_url=base_url, timeout=timeout, max_retries=max_retries, http_client=client
    )


def _unusable(body: bytes) -> str | None:
    """Why a body is no chat completion, or None if it is one."""
    try:
        value = json.loads(body)
    except ValueError:
        return f"the answer is not JSON: {body[:60]!r}"
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return "the answer has no choices"
    return None if isinstance(choices[0].get("message"), dict) else "the answer's first choice has no message"


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(url: str) -> str:
    """A URL without user name, password and query, which may hold keys."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


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
_TRANSPORT: dict[str, Callable[[str], Any]] = {"timeout": float, "max_retries": int, "max_connections": int}


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


# --- the scripted twin ------------------------------------------------------------------------------


class ScriptedModel:
    """A model that says what it is told to: for tests of agents, judges and loops.

    Args:
        replies: Texts (or exceptions to raise) given in turn, or a function, sync or async, of the
            messages.
        name: The model's name.

    Attributes:
        calls: The messages of every call so far.

    Example:
        >>> model = ScriptedModel(['{"action_type": "speak", "argument": "hello"}'])
    """

    def __init__(
        self,
        replies: Sequence[str | Exception] | Callable[[list[dict[str, str]]], str | Awaitable[str]],
        *,
        name: str = "scripted-model",
    ) -> None:
        self._replies = replies if callable(replies) else list(replies)
        self.name = name
        self.calls: list[list[dict[str, str]]] = []

    async def complete(self, messages: Messages, *, response_format: dict[str, Any] | None = None) -> Reply:
        """Give the next scripted reply.

        Raises:
            ModelError: If the replies have run out.
        """
        seen = [dict(message) for message in messages]
        self.calls.append(seen)
        usage = {"calls": 1, "prompt_tokens": 0, "completion_tokens": 0, "retries": 0}
        _record(usage)
        if callable(self._replies):
            text = self._replies(seen)
            return Reply(await text if inspect.isawaitable(text) else text, usage)
        if len(self.calls) > len(self._replies):
            raise ModelError(f"Scripted model {self.name!r} has no reply left after {len(self._replies)}.")
        reply = self._replies[len(self.calls) - 1]
        if isinstance(reply, Exception):
            raise reply
        return Reply(reply, usage)
