"""One background event loop for the whole package.

`step` is sync but judges and partners may be async; a notebook's own loop is already running. So every
coroutine runs on this one loop thread, and model clients, which belong to a loop, can be shared.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Awaitable
from typing import Any, TypeVar, cast

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The package's event loop; starts its daemon thread on first use, and anew after a fork."""
    global _loop, _thread
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="sotopia-env-loop", daemon=True)
            _thread.start()
        return _loop


def run(value: Awaitable[T] | T) -> T:
    """Wait in sync code for an awaitable; a plain value comes back as it is.

    Ctrl-C cancels the awaitable and waits until its clean-up is done.

    Raises:
        RuntimeError: If called on the package's own loop thread, where waiting would never end.
    """
    if not inspect.isawaitable(value):
        return value  # type: ignore[return-value, unused-ignore]
    if threading.current_thread() is _thread:
        if inspect.iscoroutine(value):
            value.close()
        raise RuntimeError("aio.run was called on the package's event loop; await the value there instead.")
    future = asyncio.run_coroutine_threadsafe(_awaited(value), loop())
    try:
        return cast(T, future.result())
    except KeyboardInterrupt:
        future.cancel()
        concurrent.futures.wait([future], timeout=30)
        raise


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value
