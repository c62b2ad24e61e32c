"""`sotopia-env generate`: new tasks from a language model, checked, and said honestly how many survive."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.budgets import check_payable
from sotopia_env.cli import common
from sotopia_env.cli.spending import limited
from sotopia_env.errors import ConfigurationError

if TYPE_CHECKING:
    from sotopia_env.generation import Batch, Plan
    from sotopia_env.tasks import Task

REPLY_TOKENS = 250
"""Tokens of a usual reply; measured on replies of 200 to 300."""

LETTERS_PER_TOKEN = 4


def run(
    *,
    model: str,
    n: int,
    output: str,
    inspirations: Sequence[str],
    column: str | None,
    without: str | None,
    examples: str | None,
    shots: int,
    characters: str | None,
    avoid: Sequence[str],
    seed: int,
    concurrency: int,
    base_url: str | None,
    price: str | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    max_tokens_total: int | None = None,
    max_cost: float | None = None,
) -> int:
    """Generate, write tasks and report, and return the exit code: 0 if there are tasks and every call was answered."""
    from sotopia_env.generation import Plan, generate, read_company, read_scenes

    prices = read_price(price)
    path = _checked(output, [*inspirations, *avoid, *(where for where in (without, examples, characters) if where)])
    plan = Plan(
        model,
        n=n,
        inspirations=_sources(inspirations, column, without),
        examples=None if examples is None else _examples(examples),
        shots=shots,
        company=None if characters is None else read_company(characters),
        avoid=[scene for where in avoid for scene in read_scenes(where)],
        seed=seed,
        base_url=base_url,
    )
    if dry_run:
        _show_estimate(plan, prices, as_json)
        return 0
    journal = f"{path}.replies"
    priced = [] if price is None else [f"{model}={price}"]
    try:
        with (
            limited(max_tokens_total, max_cost, priced, kept=journal, where="--output"),
            _bar(n, shown=not quiet) as progress,
        ):
            check_payable([plan])
            batch = generate(plan, journal=journal, concurrency=concurrency, progress=progress)
    except KeyboardInterrupt:
        common.log(f"Replies so far are in {journal}; the same command goes on from there.")
        raise
    report = {**batch.report(), "output": str(path) if batch.tasks else None, "replies": journal}
    report["report"] = f"{path}.report.json"
    if batch.tasks:
        _write(path, lambda file: _write_tasks(file, batch.tasks))
    _write(Path(report["report"]), lambda file: file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8"))
    if as_json:
        common.print_json(report)
    else:
        _show(batch, report)
    return _report_failures(batch, journal)


# --- what is asked for ------------------------------------------------------------------------------


def read_price(text: str | None) -> tuple[float, float] | None:
    """Dollars per million tokens of prompts and of replies, of a text such as "2.5,10".

    Raises:
        ConfigurationError: If it has another form.
    """
    if text is None:
        return None
    try:
        prompt, completion = map(float, text.split(","))
    except ValueError:
        prompt = completion = -1.0
    if not (0 <= prompt < float("inf") and 0 <= completion < float("inf")):
        raise ConfigurationError(
            f"--price {text!r} is no pair of prices. Write dollars per million tokens of prompts and replies: 2.5,10."
        )
    return prompt, completion


def _checked(output: str, read: Sequence[str]) -> Path:
    """Refuse a file that cannot be written, or that is read from, before any model is called."""
    path = Path(output)
    if path.is_dir() or not path.parent.is_dir() or path.suffix != ".jsonl":
        raise ConfigurationError(
            f"--output {output!r} cannot be written: it must end in .jsonl, its folder must exist, and it be no folder."
        )
    written: dict[str, str | Path] = {
        "--output": path,
        "the replies beside it,": f"{path}.replies",
        "the report,": f"{path}.report.json",
    }
    common.check_outputs(written, {"what is read": read})
    return path


def _sources(files: Sequence[str], column: str | None, without: str | None) -> list[Any] | None:
    from sotopia_env.generation import own_inspirations, read_inspirations
    from sotopia_env.generation.inspirations import without as leave_out

    if not files and without is None:
        return None
    found = [read_inspirations(file, column=column) for file in files] or [own_inspirations()]
    if without is not None:
        excluded = read_inspirations(without)
        found = [leave_out(source, excluded) for source in found]
    return found


def _examples(where: str) -> list[Task]:
    """The example tasks of a pack or file; of a built-in pack, those for training."""
    from sotopia_env.tasks import PACKS, load_tasks

    built_in = where.partition("/")[0] in PACKS and not Path(where).exists()
    return load_tasks(where, split="train" if built_in else None)


# --- what is written --------------------------------------------------------------------------------


def _write(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        fill(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_tasks(path: Path, tasks: Sequence[Task]) -> None:
    from sotopia_env.tasks import write_tasks

    write_tasks(path, tasks)


# --- what is shown ----------------------------------------------------------------------------------


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    if not shown:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("replies"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=common.console(stderr=True)) as progress:
        bar = progress.add_task("", total=total)
        yield lambda done, _: progress.update(bar, completed=done)


def _show(batch: Batch, report: dict[str, Any]) -> None:
    rows = [[reason, count, report["evidence"].get(reason, "")[:70]] for reason, count in report["rejected"].items()]
    if rows:
        common.print_table(("rejected", "number", "for example"), rows, right=("number",))
        common.say()
    common.say(f"{common.counted(report['tasks'], 'task')} of {report['asked']} inspirations ({report['yield']:.0%})")
    if len(report["sources"]) > 1:
        parts = [f"{name} {row['tasks']} of {row['asked']}" for name, row in sorted(report["sources"].items())]
        common.say("by list: " + ", ".join(parts))
    usage = batch.usage
    common.say(
        f"model {report['settings']['model']}: {usage.get('prompt_tokens', 0):,} + "
        f"{usage.get('completion_tokens', 0):,} tokens in {common.counted(usage.get('calls', 0), 'call')}"
    )
    if report["output"] is not None:
        common.say(f"Tasks: {report['output']}. Report: {report['report']}. Replies: {report['replies']}.")
        common.say(
            f"Play one: sotopia-env rollout --tasks {report['output']} --agent random --agent random --judge none"
        )


def _report_failures(batch: Batch, journal: str) -> int:
    if batch.unanswered:
        errors = sorted(
            {detail for result in batch.results if result.reason == "no reply" for detail in result.details}
        )
        for error in errors[:3]:
            common.log(error)
        common.log(
            f"error: {batch.unanswered} of {len(batch.results) + batch.not_asked} calls have no reply. Run the same "
            f"command again: {journal} keeps the others, and only these are made again."
        )
        return 1
    if not batch.tasks:
        common.log("error: no reply survived, so there are no tasks. Use a stronger model, or more inspirations.")
        return 1
    return 0


def _show_estimate(plan: Plan, prices: tuple[float, float] | None, as_json: bool) -> None:
    prompt, completion = plan.letters() // LETTERS_PER_TOKEN, REPLY_TOKENS * plan.n
    dollars: float | None = None
    if plan.model.name.startswith("local/"):
        dollars = 0.0
    elif prices is not None:
        dollars = (prompt * prices[0] + completion * prices[1]) / 1e6
    estimate = {
        "calls": plan.n,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "dollars": dollars,
        "settings": plan.settings,
    }
    if as_json:
        common.print_json(estimate)
        return
    cost = "unknown price: give --price" if dollars is None else f"${dollars:,.2f}"
    common.say(f"{common.counted(plan.n, 'call')} to {plan.model.name}")
    common.say(f"about {prompt:,} tokens of prompts and {completion:,} of replies: {cost}")
    common.say("An estimate, good to a factor of two. Nothing was asked.")
