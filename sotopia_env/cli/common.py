"""What the commands share: output that nothing can steer, the choice of tasks, agents and judges."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sotopia_env.errors import ConfigurationError, one_line, unknown

if TYPE_CHECKING:
    from sotopia_env.judges.base import Judge, Reward
    from sotopia_env.specs import Agent
    from sotopia_env.tasks import Task

PIPE_WIDTH = 200
"""Width of tables that do not go to a terminal, in characters."""


def safe(text: object) -> str:
    """Text with its control characters made visible: whatever an agent, model or file says."""
    from sotopia_env.session import printable

    return printable(str(text))


def console(*, stderr: bool = False) -> Console:
    """A console on the present stdout or stderr that reads no markup and highlights nothing."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def verdict_bar(quiet: bool) -> Progress:
    """A progress bar on stderr for a judge's verdicts."""
    return Progress(
        TextColumn("verdicts"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        disable=quiet,
    )


def say(text: str = "", *, style: str = "", stderr: bool = False) -> None:
    """Print one line; the terminal wraps it."""
    console(stderr=stderr).print(Text(safe(text), style=style), soft_wrap=True)


def log(text: str) -> None:
    """Print one line for people on stderr."""
    say(text, stderr=True)


def print_json(value: object) -> None:
    """Print one JSON document on stdout, ASCII only."""
    print(json.dumps(value, ensure_ascii=True, allow_nan=False, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print a plain table on stdout; columns named in `right` are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(Text(safe(name)), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    console().print(table)


# --- what is played -------------------------------------------------------------------------------


def choose_tasks(
    tasks: str, *, split: str | None, limit: int | None, seed: int, seats: int | None = None
) -> list[Task]:
    """Load tasks for `seats` agents.

    Raises:
        ConfigurationError: If there are none, or one of them has another number of seats.
    """
    from sotopia_env.tasks import load_tasks

    wanted = seats
    pack, _, family = tasks.partition("/")
    if pack == "outcome" and family != "committee":
        wanted = None  # their number of seats is fixed; a wrong one is named below
    if pack == "outcome" and family == "committee" and seats is not None and not 3 <= seats <= 9:
        raise ConfigurationError(f"'outcome/committee' has 3 to 9 seats, but --agent was given {times(seats)}.")
    if pack not in ("outcome", "everyday", "everyday-hard", "safety"):
        wanted = None
    found = load_tasks(tasks, split=split, n=limit, seed=seed, seats=wanted)
    if not found:
        what = f" in split {split!r}" if split else ""
        what += f" with {wanted} seats" if wanted else ""
        raise ConfigurationError(f"{tasks!r} has no tasks{what}. See `sotopia-env tasks list {tasks}`.")
    if seats is not None:
        check_cast(found, seats)
    return found


def check_cast(tasks: Sequence[Task], agents: int) -> None:
    """Refuse tasks that do not have one seat for every agent."""
    for task in tasks:
        if len(task.seats) != agents:
            raise ConfigurationError(
                f"Task {task.id!r} has {len(task.seats)} seats, but --agent was given {times(agents)}. "
                "Give one --agent per seat, or choose other --tasks (outcome/committee has 3 to 9 seats)."
            )


def find_task(name: str, *, tasks: str | None, split: str | None, seed: int) -> Task:
    """The task of an id, or the first one of a pack, family or file.

    Raises:
        TaskNotFoundError: If there is none; names the nearest.
    """
    from sotopia_env.errors import TaskNotFoundError
    from sotopia_env.tasks import load_tasks, read_tasks

    if tasks is not None:
        known = {task.id: task for task in _all_tasks(tasks, split=split, seed=seed)}
    elif name.startswith(("everyday/", "safety/")):
        folder = Path(__file__).parent.parent / "packs" / name.partition("/")[0]
        known = {task.id: task for task in read_tasks(folder)}
        families = {task.family for task in known.values()}
        if name.partition("/")[2] in families:
            return load_tasks(name, split=split)[0]
    else:
        generated = _generated(name)
        if generated is not None:
            return generated
        return choose_tasks(name, split=split, limit=None if Path(name).exists() else 1, seed=seed)[0]
    if name not in known:
        raise TaskNotFoundError(unknown("task id", name, known, "List them with `sotopia-env tasks list`."))
    return known[name]


def _all_tasks(tasks: str, *, split: str | None, seed: int) -> list[Task]:
    return choose_tasks(tasks, split=split, limit=None, seed=seed)


def _generated(name: str) -> Task | None:
    """The generated task of an id such as "outcome/bargain/test/1/0", or None for any other text."""
    from sotopia_env.packs.outcome import FAMILIES, make_task
    from sotopia_env.tasks import SPLITS

    parts = name.split("/")
    if len(parts) != 5 or parts[0] != "outcome" or parts[2] not in SPLITS:
        return None
    family, _, count = parts[1].partition("-")
    numbers = [text for text in (parts[3], parts[4]) if text.lstrip("-").isdecimal()]
    if family not in FAMILIES or len(numbers) < 2 or (count and not count.isdecimal()):
        return None
    seed, index = map(int, numbers)
    return make_task(family, split=parts[2], seed=seed, index=index, seats=int(count) if count else None)


# --- who plays and who judges -----------------------------------------------------------------------


def make_agents(specs: Sequence[str], base_url: str | None) -> list[Agent]:
    """One agent per spec; the same spec twice is the same agent, for policies keep no state."""
    from sotopia_env.specs import make_agent

    made: dict[str, Agent] = {}
    for spec in specs:
        if spec not in made:
            made[spec] = make_agent(spec, base_url=base_url)
    return [made[spec] for spec in specs]


def make_judge(spec: str, base_url: str | None, dimensions: Sequence[str] = ()) -> Judge | None:
    """The judge of a spec; "none" for no verdict.

    Args:
        spec: As given.
        base_url: Endpoint of openai/... models.
        dimensions: The scales that a model is asked for, with a name that says so; () for its own.
    """
    from sotopia_env import specs
    from sotopia_env.judges.llm import LLMJudge

    made = None if spec == "none" else specs.make_judge(spec, base_url=base_url)
    if dimensions and isinstance(made, LLMJudge):
        return LLMJudge(
            made.model, dimensions=dimensions, name=f"{made.name} on {', '.join(dimensions)}", timeout=made.timeout
        )
    return made


def read_reward(text: str) -> Reward:
    """A dimension, "overall", or weights written as "goal=1,relationship=0.5"."""
    if "=" not in text:
        return text
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            raise ConfigurationError(
                f"--reward {text!r} has the weight {number!r}, which is no number. Write it as goal=1,relationship=0.5."
            ) from None
    return weights


def counted(count: int, thing: str) -> str:
    """A count with its noun: 1 episode, 2 episodes."""
    return f"{count} {thing}" + ("" if count == 1 else "s")


def without_password(url: str) -> str:
    """A path or database URL as it may be printed."""
    if "://" not in url:
        return url
    from sotopia_env.store import shown

    return shown(url)


# --- files ------------------------------------------------------------------------------------------


def check_outputs(
    outputs: Mapping[str, str | Path | None], inputs: Mapping[str, str | Path | Iterable[str | Path] | None]
) -> None:
    """Refuse files that cannot be written, that are read from or kept in, or that are one and the same.

    Args:
        outputs: Path by option; `None` where it was not given.
        inputs: By option what the command reads, and its stores: paths, folders, URLs, or names of packs.

    Raises:
        ConfigurationError: For the first such file, before anything is done.
    """
    given = {name: Path(path) for name, path in outputs.items() if path is not None}
    for name, path in given.items():
        if os.path.isdir(path) or not os.path.isdir(path.parent):  # which a name that is too long does not break
            raise ConfigurationError(
                f"{name} {str(path)!r} cannot be written: its folder must exist, and it be no folder."
            )
        if os.path.isfile(path) or not os.path.exists(path):  # a pipe or device is written to as it is
            check_file(name, path)
        for what, places in inputs.items():
            listed = [places] if isinstance(places, (str, Path)) else places or ()
            if any(overwrites(path, place) for place in listed):
                raise ConfigurationError(
                    f"{name} {str(path)!r} is a file of {what} itself, which it would replace. Choose another name."
                )
    for (name, path), (other, second) in itertools.combinations(given.items(), 2):
        if overwrites(path, second):
            raise ConfigurationError(f"{name} and {other} are one file, {str(path)!r}. Choose two names.")


def check_file(name: str, path: Path) -> None:
    """Refuse an output that cannot be written, or would replace something else than a file; tries it.

    Raises:
        ConfigurationError: If it is so.
    """
    from sotopia_env.evaluation.results import check_writable

    try:
        check_writable(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise ConfigurationError(
            f"{name} {str(path)!r} cannot be written ({one_line(error)}). Name a file in a folder that you may "
            "write to."
        ) from error


def overwrites(path: Path, place: str | Path) -> bool:
    """Whether writing a file would change what stands in a place: a file, or a folder with all its files."""
    if "://" in str(place):
        from sotopia_env.store import file_of

        file = file_of(str(place))
        if file is None:
            return False
    else:
        file = Path(place)
    if file.is_dir():
        return path.exists() and path.resolve().is_relative_to(file.resolve())
    return path.resolve() == file.resolve() or (path.exists() and file.exists() and path.samefile(file))


def times(count: int) -> str:
    """A count of times: once, 2 times."""
    return "once" if count == 1 else f"{count} times"


def as_record(value: Any) -> Any:
    """A record as JSON values."""
    return value.model_dump(mode="json")
