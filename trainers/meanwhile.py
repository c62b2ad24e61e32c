"""Do part of a work in another process of the same Python, at the same time.

`multiprocessing` would begin by running the caller's script once more, which a script without a guard does not
survive, and a process that is forked hangs in the threads that torch has started. So this starts Python afresh and
talks to it through its pipes, by pickle: both ends are this program.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

from sotopia_env.errors import ConfigurationError, one_line

_BEGIN = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from sotopia_env.trainers.meanwhile import serve; serve()"
)


class Other:
    """Work that another process does.

    Attributes:
        value: What the work came to, once it is done.
    """

    def __init__(
        self,
        work: Callable[..., Any],
        *arguments: Any,
        tell: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.value: Any = None
        self._tell = tell
        self._error: BaseException | None = None
        self._is_done = False
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        assert self._process.stdin is not None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        for asked in (sys.path, (work, arguments)):
            pickle.dump(asked, self._process.stdin)
        self._process.stdin.flush()

    def check(self) -> None:
        """Hear at once what would be heard in the end.

        Raises:
            Exception: What the work has raised so far.
        """
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait until the work is done.

        Raises:
            Exception: What the work raised.
            ConfigurationError: If the process has ended without a word.
        """
        self._listener.join()
        code = self._process.wait()
        self.check()
        if not self._is_done:
            raise ConfigurationError(
                f"A process that worked for this one ended with exit code {code}, maybe for want of memory."
            )

    def stop(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                kind, value = pickle.load(self._process.stdout)
            except (EOFError, pickle.UnpicklingError, OSError, ValueError):
                return  # it has ended, or was ended
            try:
                if kind == "tell":
                    self._tell(value)
            except BaseException as error:  # of the caller's own `tell`: raised where the caller waits
                self._error = error
                self._process.kill()
                return
            if kind == "error":
                self._error = value
            elif kind == "value":
                self.value, self._is_done = value, True


@contextmanager
def meanwhile(
    work: Callable[..., Any],
    *arguments: Any,
    tell: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Other]:
    """Have another process do something while a block runs; the block ends when both are done.

    If the block raises, or this process dies in whatever way, the other one ends too.

    Args:
        work: A function of a module, called with the arguments and with `tell`; all of that is pickled.
        *arguments: Its arguments.
        tell: Gets the lines that the work tells, from another thread.
        environment: Further environment variables of the process.

    Yields:
        The work; its `value` is there after the block.

    Raises:
        Exception: What the work raised, once the block is done.
    """
    other = Other(work, *arguments, tell=tell, environment=environment)
    try:
        yield other
        other.wait()
    finally:
        other.stop()


def serve() -> None:
    """Do the work that is asked for on stdin, and answer on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked is interrupted as well, and ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    work, arguments = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    answer = partial(_answer, answers)
    try:
        answer("value", work(*arguments, tell=partial(answer, "tell")))
    except Exception as error:
        error.add_note(f"In the other process:\n{traceback.format_exc()}")  # a traceback cannot be pickled
        answer("error", error)


def _end_with_stdin() -> None:
    while os.read(0, 1):  # until who asked has gone, which closes the pipe
        pass
    os._exit(1)


def _answer(answers: BinaryIO, kind: str, value: Any) -> None:
    try:
        data = pickle.dumps((kind, value))
        pickle.loads(data)
    except Exception:
        if kind != "error":
            raise
        data = pickle.dumps((kind, RuntimeError(one_line(value))))
    answers.write(data)
    answers.flush()


__all__ = ["Other", "meanwhile", "serve"]
