"""Work in another process: what it gives back, what it says on the way, and that it never outlives who asked."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sotopia_env.errors import ConfigurationError
from sotopia_env.trainers.meanwhile import meanwhile


def add(first: int, second: int, tell) -> int:
    print("what a library prints")
    tell(f"adding {first}")
    tell(f"and {second}")
    return first + second


def fail(kind: str, tell) -> None:
    if kind == "exit":
        os._exit(7)
    if kind == "odd":

        class OddError(Exception):
            pass

        raise OddError("nobody else knows me")
    raise ConfigurationError(f"{kind!r} is not wanted.")


def threads(tell) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def sleep(marker: str, tell) -> None:
    Path(marker).write_text(str(os.getpid()))
    tell("asleep")
    time.sleep(600)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")  # a zombie is dead; its parent may be an init that does not reap
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def until(condition, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def test_the_value_is_there_after_the_block_and_every_line_was_told_in_order():
    told: list[str] = []
    with meanwhile(add, 2, 3, tell=told.append) as other:
        assert other.value is None or told
    assert other.value == 5
    assert told == ["adding 2", "and 3"]


def test_it_has_an_environment_of_its_own():
    with meanwhile(threads, tell=print, environment={"OMP_NUM_THREADS": "3"}) as other:
        pass
    assert other.value == "3"
    assert os.environ.get("OMP_NUM_THREADS") != "3"


def test_what_the_work_raises_can_be_heard_before_the_block_is_done():
    heard: list[str] = []
    with contextlib.suppress(ConfigurationError), meanwhile(fail, "this", tell=print) as other:
        assert until(lambda: other._process.poll() is not None)
        other._listener.join()
        try:
            other.check()
        except ConfigurationError as error:
            heard.append(str(error))
    assert heard == ["'this' is not wanted."]


def test_work_that_has_raised_nothing_is_not_heard_of():
    with meanwhile(add, 2, 3, tell=print) as other:
        other.check()
        assert until(lambda: other.value == 5)
        other.check()


def test_what_the_work_raises_is_raised_when_the_block_is_done():
    done = False
    with pytest.raises(ConfigurationError, match="'this' is not wanted") as raised:  # noqa: SIM117
        with meanwhile(fail, "this", tell=print):
            done = True
    assert done
    assert "in fail" in raised.value.__notes__[0]  # where it came from
    with pytest.raises(RuntimeError, match="OddError: nobody else knows me"), meanwhile(fail, "odd", tell=print):
        pass


def test_a_process_that_ends_without_a_word_is_an_error():
    with pytest.raises(ConfigurationError, match="exit code 7"), meanwhile(fail, "exit", tell=print):
        pass


@pytest.mark.parametrize("kind", [KeyboardInterrupt, BrokenPipeError, ValueError])
def test_a_listener_that_raises_ends_the_process_and_is_heard(tmp_path, kind):
    def tell(line: str) -> None:
        raise kind

    with pytest.raises(kind), meanwhile(sleep, str(tmp_path / "pid"), tell=tell):
        pass
    assert not lives(int((tmp_path / "pid").read_text()))


def test_a_block_that_raises_ends_the_process(tmp_path):
    marker = tmp_path / "pid"
    with pytest.raises(ZeroDivisionError), meanwhile(sleep, str(marker), tell=print):
        _ = 1 / (not until(lambda: marker.exists() and marker.read_text()))
    assert not lives(int(marker.read_text()))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX")
def test_a_killed_process_takes_the_other_with_it(tmp_path):
    marker, script = tmp_path / "pid", tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from sotopia_env.trainers.meanwhile import meanwhile\n"
        "from test_meanwhile import sleep\n"
        f"with meanwhile(sleep, {str(marker)!r}, tell=print): pass\n"  # without `if __name__ == '__main__'`
    )
    asking = subprocess.Popen([sys.executable, str(script)])
    try:
        assert until(lambda: marker.exists() and marker.read_text())
        other = int(marker.read_text())
        assert lives(other)
    finally:
        asking.send_signal(signal.SIGKILL)
        asking.wait()
    assert until(lambda: not lives(other))
