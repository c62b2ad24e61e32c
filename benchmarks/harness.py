"""What the benchmark scripts share: the talk that is played, sotopia's side, intervals, and the published files.

Nothing here is imported by the package. A script is run as `python benchmarks/<name>.py`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

import sotopia_env
from sotopia_env.agents.llm import LLMAgent
from sotopia_env.models import Reply
from sotopia_env.rules import brief
from sotopia_env.tasks import RELATIONSHIPS, Task

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
SOTOPIA = "sotopia 0.1.5"
TURNS = 20

UTTERANCES = (
    "Hello. Thanks for making the time; I know it is late and you must have had a long day as well.",
    "No trouble at all. I would rather talk it through in person than send messages back and forth for a week.",
    "Good. Then let me say plainly where I stand, and you tell me which parts of it are difficult for you.",
    "Please do. I will not promise anything yet, but I do want to understand what matters most to you here.",
    "Mostly the timing. If this drags on past the end of the month it costs me more than it could ever bring.",
    "I see. For me the timing is less of a problem; it is what comes afterwards that I lie awake over.",
    "Afterwards in what sense? If you are worried that I would change my mind, I can put it in writing.",
    "Partly that. I have been left holding the bill before, by people who meant every word when they said it.",
    "That is fair. What would make you feel safe enough to say yes tonight, if there is such a thing?",
    "Something I can hold you to. It need not be large. A first step that costs you a little and me a little.",
    "A little I can do. I could go first, on Monday say, and you would owe me nothing until you have seen it done.",
    "Monday is early. I would have to move two other things, and one of them is not mine to move.",
    "Then Wednesday. I would not go much later than that, for the reason I gave you when we started.",
    "Wednesday could work. Let me think about what I would have to tell the others, and what they would ask.",
    "Tell them the truth. That we spoke, that neither of us got everything, and that nobody was made a fool of.",
    "You make it sound simple. There is one more thing I have not mentioned, and I had better do it now.",
    "Go on. I would sooner hear it from you today than from somebody else when it is too late to help.",
    "I need a part of it earlier than the rest. Not much, about a fifth, and only for this first time.",
    "A fifth I can live with, if we agree right now that it does not become the rule between us.",
    "Agreed on that point, at least. I will write down what we said and send it to you before the morning.",
)
"""One talk of 20 turns, 12 to 24 words an utterance, played on both sides of every comparison."""


class Sample(NamedTuple):
    """One measurement of one variant."""

    amount: int
    """How much was done: steps, calls, ..."""
    wall: float
    """Seconds on the clock."""
    cpu: float
    """Seconds of processor time of the process that did it, all its threads."""


def scene(task: Task) -> dict[str, Any]:
    """A task in the words that sotopia's profiles need, with the same text for every seat."""
    people = []
    for seat in task.seats:
        first, _, last = seat.character.name.partition(" ")
        people.append(
            {
                "first_name": first,
                "last_name": last,
                "age": seat.character.age or 0,
                "occupation": seat.character.occupation,
                "gender": seat.character.gender.capitalize(),
                "gender_pronoun": seat.character.pronouns,
                "public_info": _xml(seat.character.public_info),
                "personality_and_values": _xml(seat.character.personality),
                "secret": _xml(seat.character.secret),
            }
        )
    return {
        "scenario": _xml(task.scenario),
        "relationship": RELATIONSHIPS.index(task.relationship),
        "agent_goals": [_xml(_goal(task, seat)) for seat in range(len(task.seats))],
        "people": people,
    }


def _xml(text: str) -> str:
    """Sotopia reads its texts as XML: an unescaped < would lose what follows it."""
    return escape(text, quote=False)


def _goal(task: Task, seat: int) -> str:
    """Goal, rules and private facts: all that our background tells this seat beyond the people and the scenario."""
    own = task.seats[seat]
    if "rules" in task.terms:
        return "\n".join([own.goal, *brief(task, seat)])
    return "\n".join([own.goal, *(f"- {key}: {value}" for key, value in own.private.items())])


class Recorder:
    """A chat model that says the utterances in turn and keeps what it was asked."""

    name = "recorder"

    def __init__(self, utterances: Sequence[str]) -> None:
        self._replies = [json.dumps({"action_type": "speak", "argument": text}) for text in utterances]
        self.calls: list[dict[str, Any]] = []

    async def complete(self, messages: Sequence[Any], *, response_format: dict[str, Any] | None = None) -> Reply:
        """Answer with the next utterance."""
        reply = self._replies[len(self.calls)]
        self.calls.append({"messages": [dict(message) for message in messages], "reply": reply})
        return Reply(reply)


def recorded(task: Task, utterances: Sequence[str] = UTTERANCES) -> list[dict[str, Any]]:
    """Every call of our two language-model agents in one episode, in order: "messages" and "reply"."""
    recorder = Recorder(utterances)
    episodes = sotopia_env.rollout([task], [LLMAgent(recorder), LLMAgent(recorder)], judge=None)
    assert episodes[0].status == "complete", episodes[0].error
    assert len(recorder.calls) == TURNS
    return recorder.calls


class Sotopia:
    """sotopia in a process and a virtual environment of its own; one JSON line asks, one answers.

    Raises:
        SystemExit: If the virtual environment is not there; says how to make it.
    """

    def __init__(self, venv: Path) -> None:
        python = venv.absolute() / "bin" / "python"
        if not python.exists():
            raise SystemExit(
                f"No sotopia in {str(venv)!r}. Run benchmarks/make_sotopia_venv.sh first, or pass --without-sotopia."
            )
        self._home = tempfile.TemporaryDirectory()  # its local storage backend writes into the home folder
        # Its banner, and the traceback if it fails.
        self._chatter = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        environment = {
            **os.environ,
            "HOME": self._home.name,
            "SOTOPIA_STORAGE_BACKEND": "local",  # no Redis
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no download at import
        }
        self._process = subprocess.Popen(
            [str(python), str(FOLDER / "sotopia_side.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._chatter,
            env=environment,
            cwd=self._home.name,
            text=True,
        )
        self.versions: dict[str, str] = self.ask("versions")

    def ask(self, command: str, **fields: Any) -> Any:
        """Have sotopia's side do something and wait for its answer.

        Raises:
            RuntimeError: If it failed or is gone; with the end of what it wrote to standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **fields}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(timeout=30)
            self._chatter.seek(0)
            said = self._chatter.read()[-3000:]
            raise RuntimeError(f"sotopia's side ended while it was asked for {command!r}. It wrote:\n{said}")
        return json.loads(line)

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait(timeout=30)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._chatter.close()
        self._home.cleanup()


# --- command line and published files ---------------------------------------------------------------


def make_parser(description: str | None, *, sotopia: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has; `description` is the script's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and Markdown files")
    if sotopia:
        parser.add_argument(
            "--sotopia-venv",
            type=Path,
            default=FOLDER.parent / ".venv-sotopia",
            help="virtual environment made by make_sotopia_venv.sh (default: .venv-sotopia in the repository)",
        )
        parser.add_argument("--without-sotopia", action="store_true", help="measure only our side")
    return parser


def positive(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be 1 or more")
    return number


def interval(
    values: Sequence[float], statistic: Callable[[np.ndarray[Any, Any]], float] = np.median, *, resamples: int = 10_000
) -> tuple[float, float]:
    """95% percentile bootstrap interval of a statistic over independent values; seeded, so repeatable."""
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(len(array), size=(resamples, len(array)))
    found = np.apply_along_axis(statistic, 1, array[draws])
    return float(np.percentile(found, 2.5)), float(np.percentile(found, 97.5))


def spread(values: Sequence[float], form: str = "{:,.2f}") -> str:
    """The median with its interval, as text for a table."""
    low, high = interval(values)
    return f"{form.format(float(np.median(values)))} [{form.format(low)}, {form.format(high)}]"


def summary(values: dict[str, list[float]]) -> dict[str, Any]:
    """Median and interval of every variant's values, for the JSON file."""
    return {name: {"median": float(np.median(each)), "interval": interval(each)} for name, each in values.items()}


def machine(sotopia: Sotopia | None = None) -> dict[str, Any]:
    """What the numbers were made on; names no host and no path."""
    packages = ("sotopia-env", "gymnasium", "pettingzoo", "numpy", "pydantic", "openai")
    found: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {name: _version(name) for name in packages},
    }
    if sotopia is not None:
        found["sotopia_side"] = sotopia.versions
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def command_line() -> str:
    """The command that is running, with the folders of absolute paths left out."""
    arguments = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])


def publish(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    data: dict[str, Any],
    *,
    folder: Path,
    about: dict[str, Any],
) -> None:
    """Print a table and write `<folder>/<name>.json` and `.md`, both with the command and the machine."""
    table = RichTable(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)
    for note in notes:
        console.print(f"- {note}", highlight=False, markup=False)
    command = command_line()
    day = datetime.now(UTC).date().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    record = {"title": title, "command": command, "date": day, "machine": about, "notes": list(notes), **data}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lines = [f"# {title}", "", f"    {command}", "", f"{day}, {_sentence(about)}", ""]
    lines += [_cells(columns), _cells(["---", *["---:"] * (len(columns) - 1)])]
    lines += [_cells(row) for row in rows]
    lines += ["", *(f"- {note}" for note in notes)]
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cells(values: Sequence[str]) -> str:
    return "| " + " | ".join(values) + " |"


def _sentence(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    text = (
        f"{about['cores']} cores of {about['cpu']}, {about['system']}, load average {about['load_average']} before, "
        f"Python {about['python']}; {versions}."
    )
    if "sotopia_side" in about:
        theirs = ", ".join(f"{name} {version}" for name, version in about["sotopia_side"].items())
        text += f" Beside it, in an environment of its own: {theirs}."
    return text
