"""`sotopia-env qa`: ask policies multiple-choice questions and show what training cost them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.cli import common
from sotopia_env.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sotopia_env.evaluation.qa import Exam
    from sotopia_env.evaluation.retention import Report


def run(
    *,
    policies: Sequence[str],
    tasks: Sequence[str],
    data: str | None,
    subjects: Sequence[str],
    scorings: Sequence[str],
    questions: int,
    shots: int | None,
    apply_chat_template: bool,
    include: str | None,
    batch_size: int,
    seed: int,
    store: str | None,
    output: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Examine, print the tables, and write the results if a file is named."""
    from sotopia_env.agents.examinees import hf_examinee
    from sotopia_env.cli.evaluating import read_policies
    from sotopia_env.evaluation.qa import examine

    read = {"--data": _read(data, "*.csv"), "--include": _read(include, "*.yaml")}
    common.check_outputs({"--output": output, "--store": store}, read)
    examinees = {label: hf_examinee(spec, batch_size=batch_size) for label, spec in read_policies(policies).items()}
    exam = make_exam(tasks, data, subjects, scorings, questions, shots, include, seed)
    try:
        with _bars(quiet) as progress:
            report = examine(
                examinees,
                exam,
                apply_chat_template=apply_chat_template,
                seed=seed,
                store=store,
                progress=progress,
            )
    except KeyboardInterrupt:
        if store is not None:
            common.log(f"Finished answers are in {store}; the same command goes on from there.")
        raise
    if output is not None:
        report.save(output)
    if as_json:
        common.print_json({key: value for key, value in report.record().items() if key != "answers"})
    else:
        show(report)


def make_exam(
    tasks: Sequence[str],
    data: str | None,
    subjects: Sequence[str],
    scorings: Sequence[str],
    questions: int,
    shots: int | None,
    include: str | None,
    seed: int,
) -> Exam:
    """MMLU from a file, folder or the hub, or other tasks that lm-eval knows.

    Raises:
        ConfigurationError: For options that do not go together, and as `mmlu_exam` and `task_exam`.
    """
    from sotopia_env.evaluation import qa
    from sotopia_env.evaluation.mmlu import HUB, read_bank

    if list(tasks) == [qa.MMLU]:
        bank = read_bank(data or HUB, subjects=subjects, shots=shots or 0)
        chosen = list(scorings) or list(qa.SCORINGS)
        return qa.mmlu_exam(bank, questions=questions, scorings=chosen, shots=shots or 0, seed=seed)
    given = [name for name, value in (("--data", data), ("--subject", subjects), ("--scoring", scorings)) if value]
    if qa.MMLU in tasks or given:
        raise ConfigurationError(
            f"{given[0] if given else '--task mmlu'} does not go together with other tasks than mmlu. Ask them in a "
            "second run; one --store serves both."
        )
    return qa.task_exam(tasks, questions=questions, shots=shots, seed=seed, include=include)


def _read(place: str | None, pattern: str) -> list[Path]:
    """The file, or of a folder the files that are read."""
    if place is None:
        return []
    path = Path(place)
    return list(path.rglob(pattern)) if path.is_dir() else [path]


@contextmanager
def _bars(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar for each policy, on stderr."""
    if quiet:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("answers, left"),
        TimeRemainingColumn(),
        console=common.console(stderr=True),
        redirect_stdout=False,
        redirect_stderr=False,
    )
    bars: dict[str, Any] = {}

    def advance(label: str, done: int, of: int) -> None:
        if label not in bars:
            bars[label] = progress.add_task(common.safe(label), total=None)  # being loaded
        if of:
            progress.update(bars[label], completed=done, total=of)

    with progress:
        yield advance


# --- what is shown ------------------------------------------------------------------------------------


def show(report: Report) -> None:
    """Print a row per measure and policy, what was asked, and what must be known before the numbers are used."""
    settings = report.settings
    first = report.policies[0]
    asked = ", ".join(f"{common.counted(count, 'question')} of {part}" for part, count in settings["asked"].items())
    if "subjects" in settings:
        asked += f", drawn from {settings['of']:,} on {common.counted(settings['subjects'], 'subject')}"
    shots = "the task's own number of" if settings["shots"] is None else settings["shots"]
    template = ", chat template" if settings["apply_chat_template"] else ""
    common.say(f"{asked}; {shots} examples each{template}; seed {settings['seed']}", style="bold")
    columns = ("accuracy", "chance", "above habit", f"minus {first}", "gained", "lost", "p")
    rows = []
    for row in report.rows():
        habit, change = row["above_habit"], row["change"]
        rows.append(
            (
                row["measure"],
                row["policy"],
                _interval(row, ".1%"),
                "-" if row["chance"] is None else f"{row['chance']:.1%}",
                "-" if habit is None else _interval(habit, "+.1%"),
                *(
                    ("-",) * 4
                    if change is None
                    else (
                        _interval(change, "+.1%"),
                        "-" if change["gained"] is None else change["gained"],
                        "-" if change["lost"] is None else change["lost"],
                        f"{change['p']:.2g}",
                    )
                ),
            )
        )
    common.print_table(("measure", "policy", *columns), rows, right=columns)
    common.say()
    for line in report.warnings():
        common.say(line, style="bold")
    common.say(
        "Intervals: 95% over questions, Wilson's for accuracy and Tango's for paired changes. Above habit: accuracy "
        "beyond what always favouring the same letters or places gives.",
        style="dim",
    )


def _interval(found: dict[str, Any], form: str) -> str:
    return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"
