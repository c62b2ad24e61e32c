"""A scripted OpenAI-compatible server on this machine, for tests, benchmarks and demos.

    with LoopbackServer(reply=lambda request: "Hello.", faults=0.3) as server:
        model = OpenAIModel("any", base_url=server.base_url)

It speaks real HTTP with keep-alive from a thread of its own and can fail in every way an endpoint does,
in a share of its calls that is drawn from a seed. `python -m sotopia_env.loopback --delay 0.2` runs it in
a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from sotopia_env.errors import ConfigurationError, unknown

FAULTS = ("429", "500", "drop", "slow", "truncated", "cut_json", "not_json", "no_choices")
"""Kinds of fault: 429 with Retry-After, 500, a connection closed without an answer, a body that trickles,
a body shorter than its Content-Length, JSON cut off within its Content-Length, a page of HTML with status 200,
and an error object with status 200."""

_REFUSALS = tuple(str(status.value) for status in HTTPStatus if status >= 400)
_NOTHING = '{"action_type": "none", "argument": ""}'
_PAGE = b"<html><body><h1>Bad gateway</h1></body></html>"


class LoopbackServer:
    """Answers POST /v1/chat/completions on 127.0.0.1 while its `with` block runs.

    Args:
        reply: The text of every answer, or a function of the request's JSON body that returns it (or, as a
            dict, the whole message with "content").
        faults: Share of calls that fail, 0 to 1, spread evenly over `FAULTS`; or the share of every kind; or the
            faults of the first calls in order, `None` for a good answer. A kind out of `FAULTS`, or any status
            of 400 and above such as "401".
        delay: Seconds before every answer.
        retry_after: Seconds that a 429 asks to wait.
        slow_seconds: How long the body of a slow answer trickles.
        seed: Decides which calls fail and how, by their order of arrival.

    Attributes:
        base_url: Address for clients, with "/v1".
        requests: Calls so far.
        faulted: Calls that failed so far, by kind.
        most_in_flight: Most calls that were open at the same time.
        bodies: JSON bodies of the latest 10,000 calls.
        headers: Request headers of the latest call, by lower-case name.

    Raises:
        ConfigurationError: For an unknown kind of fault or a share outside 0 to 1.
    """

    def __init__(
        self,
        reply: str | Callable[[dict[str, Any]], str | dict[str, Any]] = _NOTHING,
        *,
        faults: float | Mapping[str, float] | Sequence[str | None] = 0.0,
        delay: float = 0.0,
        retry_after: float = 0.05,
        slow_seconds: float = 30.0,
        seed: int = 0,
    ) -> None:
        self.reply = reply
        self.shares, self._first = _plan(faults)
        self.delay = delay
        self.retry_after = retry_after
        self.slow_seconds = slow_seconds
        self.base_url = ""
        self.requests = 0
        self.faulted: Counter[str] = Counter()
        self.most_in_flight = 0
        self.bodies: deque[dict[str, Any]] = deque(maxlen=10_000)
        self.headers: dict[str, str] = {}
        self._draws = random.Random(seed)
        self._in_flight = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LoopbackServer:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="loopback-server", daemon=True)
        self._thread.start()
        if not self._ready.wait(timeout=30):
            raise RuntimeError("The loopback server did not start within 30 s.")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=30)

    # --- connections ----------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._talk(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests until either side closes it."""
        try:
            # A client that goes away in the middle is what this server provokes; nothing to report.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read and answer one request; says whether the connection stays open."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.headers = {name: _value(lines, name) for name in headers}
        self.requests += 1
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            fault = self._fault()
            if self.delay:
                await asyncio.sleep(self.delay)
            return await self._respond(writer, lines[0], body, fault)
        finally:
            self._in_flight -= 1

    def _fault(self) -> str | None:
        draw = self._draws.random()
        fault = self._first.popleft() if self._first else None
        for kind, share in self.shares.items():
            draw -= share
            if draw < 0:
                fault = kind
                break
        if fault is not None:
            self.faulted[fault] += 1
        return fault

    # --- answers --------------------------------------------------------------------------------

    async def _respond(self, writer: asyncio.StreamWriter, line: str, body: bytes, fault: str | None) -> bool:
        if fault == "drop":
            return False
        if fault is not None and fault.isdigit():
            status = HTTPStatus(int(fault))
            wait = f"retry-after: {self.retry_after:g}\r\n" if status == 429 else ""
            # Some endpoints repeat the key they refuse.
            message = f"{status.description or status.phrase} ({self.headers.get('authorization', 'no key')})"
            return await _send(writer, f"{status.value} {status.phrase}", _error(message), extra=wait)
        if fault == "not_json":
            return await _send(writer, "200 OK", _PAGE, kind="text/html")
        if fault == "no_choices":
            return await _send(writer, "200 OK", _error("the upstream provider failed"))
        if not line.startswith("POST /v1/chat/completions "):
            return await _send(writer, "404 Not Found", _error(f"no such path: {line}"))
        try:
            answer = self._completion(json.loads(body))
        except Exception as error:  # the reply function is the user's, and the server must answer all the same
            return await _send(writer, "500 Internal Server Error", _error(f"reply function: {error!r}"))
        if fault == "cut_json":
            return await _send(writer, "200 OK", answer[: len(answer) // 2])
        if fault == "truncated":
            await _send(writer, "200 OK", answer[: len(answer) // 2], length=len(answer))
            return False
        if fault == "slow":
            return await self._trickle(writer, answer)
        return await _send(writer, "200 OK", answer)

    def _completion(self, request: dict[str, Any]) -> bytes:
        self.bodies.append(request)
        text = self.reply if isinstance(self.reply, str) else self.reply(request)
        prompt = sum(len(str(message["content"]).split()) for message in request["messages"])
        message = {"role": "assistant", "content": text} if isinstance(text, str) else text
        written = len(str(message.get("content")).split())
        answer = {
            "id": f"loopback-{self.requests}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written},
        }
        return json.dumps(answer).encode()

    async def _trickle(self, writer: asyncio.StreamWriter, answer: bytes) -> bool:
        """Send the first half at once and the rest byte by byte: no pause is long, the whole is."""
        half = len(answer) // 2
        await _send(writer, "200 OK", answer[:half], length=len(answer))
        pause = self.slow_seconds / (len(answer) - half)
        for byte in answer[half:]:
            await asyncio.sleep(pause)
            writer.write(bytes([byte]))
            await writer.drain()
        return True


def _plan(
    faults: float | Mapping[str, float] | Sequence[str | None],
) -> tuple[dict[str, float], deque[str | None]]:
    """The share of every kind, and the faults of the first calls."""
    if isinstance(faults, Mapping):
        shares, first = dict(faults), deque[str | None]()
    elif isinstance(faults, Sequence):
        shares, first = {}, deque(faults)
    else:
        shares, first = dict.fromkeys(FAULTS, faults / len(FAULTS)), deque[str | None]()
    for kind in [*shares, *(kind for kind in first if kind is not None)]:
        if kind not in FAULTS and kind not in _REFUSALS:
            raise ConfigurationError(unknown("kind of fault", kind, [*FAULTS, *_REFUSALS]))
    if not all(0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise ConfigurationError(f"faults is {faults!r:.200}, but shares must be from 0 to 1 and sum to at most 1.")
    return {kind: share for kind, share in shares.items() if share}, first


async def _send(
    writer: asyncio.StreamWriter,
    status: str,
    body: bytes,
    *,
    kind: str = "application/json",
    extra: str = "",
    length: int | None = None,
) -> bool:
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\n{extra}\r\n"
    writer.write(head.encode("latin-1") + body)
    await writer.drain()
    return True


def _error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "loopback"}}).encode()


def _value(lines: list[str], name: str) -> str:
    return next(line.split(": ", 1)[1] for line in lines[1:] if line.lower().startswith(f"{name}: "))


def main() -> None:
    """Run a server in this process until its standard input closes; prints its address first."""
    import argparse
    import sys

    parser = argparse.ArgumentParser(prog="python -m sotopia_env.loopback", description=main.__doc__)
    parser.add_argument("--reply", default=_NOTHING, help="text of every answer")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--faults", type=float, default=0.0, help="share of calls that fail, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with LoopbackServer(options.reply, faults=options.faults, delay=options.delay, seed=options.seed) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
