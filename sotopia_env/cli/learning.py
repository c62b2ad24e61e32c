"""`sotopia-env pi`: the whole loop of SOTOPIA-pi in one command."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.cli import common
from sotopia_env.errors import ConfigurationError

if TYPE_CHECKING:
    from sotopia_env.evaluation import Evaluation
    from sotopia_env.trainers.plan import Plan, Step, Use
    from sotopia_env.trainers.settings import Preset

_UNITS = {"h": 60.0, "m": 1.0, "s": 1 / 60, "": 1.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([hms]?)")

_COMPARED = (("bc", "base"), ("sr", "base"), ("bc+sr", "bc"), ("bc+sr", "control"), ("sr+bc", "sr"))
"""Differences below the table: the first policy minus the second."""


def run(
    *,
    preset: str,
    folder: str | None,
    seed: int,
    changes: Mapping[str, Any],
    tasks: Sequence[str],
    budget: str | None,
    settings: Sequence[str],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run the loop, or print its plan, and return the exit code.

    Args:
        preset: A preset's name or file.
        folder: The run folder; default `runs/<preset>-<seed>`.
        seed: Decides tasks, episodes and training.
        changes: Settings by dotted name; those that are `None` stay as they are.
        tasks: Packs, families or paths to play instead of the preset's.
        budget: How long the run may take, such as "30m".
        settings: Further settings as "a.b=VALUE".
        dry_run: Print the plan and start nothing.
        quiet: Nothing on stderr but errors.
        as_json: One JSON document on stdout.
    """
    from sotopia_env.trainers.settings import load_preset

    wanted = {name: value for name, value in changes.items() if value is not None}
    wanted |= read_tasks(tasks) | dict(map(read_setting, settings))
    minutes = read_minutes(budget) if budget is not None else None
    chosen = load_preset(preset, wanted, budget=minutes)
    if dry_run:
        _show_plan(chosen, seed, as_json, wanted if minutes is None else {**wanted, "minutes": f"{minutes:g}"})
        return 0
    return _run(chosen, Path(folder or f"runs/{chosen.name}-{seed}"), seed, quiet=quiet, as_json=as_json)


def _run(preset: Preset, folder: Path, seed: int, *, quiet: bool, as_json: bool) -> int:
    from sotopia_env.evaluation import Evaluation
    from sotopia_env.evaluation.report import read_run
    from sotopia_env.trainers.pi import Run

    try:
        page = Run(preset, folder, seed=seed, tell=None if quiet else common.log).run()
    except KeyboardInterrupt:
        common.log(f"What is finished is in {folder}; the same command goes on from there.")
        raise
    evaluation = Evaluation.load(folder / "evaluation.json")
    if as_json:
        report = {"run": str(folder), "page": str(page), "share_of_expert": shares(evaluation)}
        common.print_json({**report, **read_run(folder).record()})
    else:
        show(evaluation)
        common.say(f"Report: {page}")
    if not evaluation.complete:
        common.log("error: some episodes of the evaluation have no numbers; the report counts them.")
        return 1
    return 0


# --- what is asked for ------------------------------------------------------------------------------


def read_minutes(text: str) -> float:
    """Minutes of a time such as "30m", "1h", "1h30m", "90s", or plain minutes.

    Raises:
        ConfigurationError: If it is none.
    """
    parts = _TIME.findall(text)
    if not parts or _TIME.sub("", text).strip():
        raise ConfigurationError(f"--budget {text!r} is no time. Write it as 30m, 1h, 1h30m, 90s, or plain minutes.")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def read_setting(text: str) -> tuple[str, Any]:
    """Name and value of a setting such as "sr.rounds=2"; the value is TOML, or else a word as it stands.

    Raises:
        ConfigurationError: If it has another form.
    """
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not name or not value:
        raise ConfigurationError(f"--set {text!r} is no setting. Write it as sr.rounds=2.")
    try:
        found = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError as error:
        if value[0] in "\"'[{" or "\n" in value:
            raise ConfigurationError(f"--set {text!r} has a value that is not TOML: {error}.") from error
        return name, value
    if found.keys() != {"value"}:
        raise ConfigurationError(f"--set {text!r} holds more than one value. Give --set once per setting.")
    return name, found["value"]


def read_tasks(tasks: Sequence[str]) -> dict[str, Any]:
    """Settings that have the run play these packs, families or files; none for none.

    Raises:
        ConfigurationError: If they are of more than one pack, or both a whole pack and a part of it.
    """
    if not tasks:
        return {}
    found = [_pack_and_family(text) for text in dict.fromkeys(tasks)]
    packs = list(dict.fromkeys(pack for pack, _ in found))
    families = [family for _, family in found if family]
    if len(packs) > 1 or (families and len(families) < len(found)):
        raise ConfigurationError(
            f"--tasks {', '.join(tasks)}: a run plays one pack, or families of one. Put tasks of your own choice into "
            "one file."
        )
    return {"tasks.pack": packs[0], "tasks.families": families, "tasks.unseen": {}}


def _pack_and_family(text: str) -> tuple[str, str]:
    from sotopia_env.tasks import PACKS

    pack, _, family = text.partition("/")
    return (pack, family) if pack in PACKS else (text, "")


# --- what is shown ----------------------------------------------------------------------------------


def show(evaluation: Evaluation) -> None:
    """Print the table of policies, the differences that tell what learned, and the shares of the expert's goal."""
    labels, share = evaluation.labels, shares(evaluation)
    titles = ["policy", *labels, "of the expert", "agreement", "unreadable", "n"]
    rows = []
    for policy in evaluation.policies:
        found = [evaluation.row(policy, label) for label in labels]
        rows.append(
            [
                policy,
                *(_interval(row.get("goal")) for row in found),
                _side_by_side(share[policy].get(label) for label in labels),
                *(
                    _side_by_side(row[name]["mean"] if name in row else None for row in found)
                    for name in ("agreement", "parse_failures")
                ),
                " / ".join(str(row["goal"]["n"]) if "goal" in row else "0" for row in found),
            ]
        )
    common.say(f"Goal, 0 to 10, on unseen tasks with {', '.join(evaluation.settings['partners'])}", style="bold")
    common.print_table(titles, rows, right=titles[1:])
    common.say()
    _show_differences(evaluation)
    common.say(
        "Intervals: 95%, Student t over tasks. n: episodes from one seat. Where two figures stand side by side: "
        f"{' / '.join(labels)}.",
        style="dim",
    )


def _show_differences(evaluation: Evaluation) -> None:
    labels = evaluation.labels
    rows = []
    for policy, minus in _COMPARED:
        if {policy, minus} <= {*evaluation.policies}:
            differences = [evaluation.paired(policy, minus, "goal", label) for label in labels]
            rows.append([f"{policy} - {minus}", *(one.text("+.2f") if one else "-" for one in differences)])
    if rows:
        common.print_table(["difference", *labels], rows, right=labels)
        common.say()


def shares(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Every policy's mean goal as a share of the expert's, by label of tasks; what does not exist is absent."""
    found: dict[str, dict[str, float]] = {policy: {} for policy in evaluation.policies}
    for policy, label in evaluation.rows:
        if ("expert", label) in evaluation.rows:
            mine, best = (evaluation.estimate(name, "goal", label) for name in (policy, "expert"))
            if mine is not None and best is not None and best.mean > 0:
                found[policy][label] = round(mine.mean / best.mean, 4)
    return found


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    interval = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{found['mean']:.2f}{interval}"


def _side_by_side(values: Iterable[float | None]) -> str:
    return " / ".join("-" if value is None else f"{value:.0%}" for value in values)


# --- the plan -----------------------------------------------------------------------------------------


def _show_plan(preset: Preset, seed: int, as_json: bool, changes: Mapping[str, Any]) -> None:
    from sotopia_env.trainers.plan import plan

    found = plan(preset, seed)
    if as_json:
        common.print_json(found.record())
        return
    common.say(f"Preset {found.preset}, seed {seed}: {found.description}", style="bold")
    if changes:  # which the preset's own words do not know of
        common.say(f"Changed here: {', '.join(f'{name} = {value}' for name, value in changes.items())}", style="bold")
    columns = ("stage", "episodes", "training tokens", "model", "prompt", "completion", "cost", "time")
    rows = [row for step in found.steps for row in _plan_rows(step)]
    rows.append(["in all", f"{found.episodes:,}", f"{found.training_tokens:,}", "", "", "", *_totals(found)])
    common.print_table(columns, rows, right=[name for name in columns if name not in ("stage", "model")])
    common.say()
    if found.unpriced:
        common.say(
            f"No price is known of {', '.join(found.unpriced)}: give it in the preset's [prices], in US dollars per "
            "million tokens."
        )
    if found.minutes is None:
        common.say(
            f"The preset says {found.preset_minutes:g} minutes on the machine that it is meant for; its [rates] lack "
            "what an estimate of the time needs."
        )
    if found.processes > 1:
        common.say(
            f"{found.processes} processes work at once, so the whole takes less time than its stages one by one."
        )
    if found.needs:
        common.say(f"Needs: {', '.join(found.needs)}.")
    common.say("Estimates, good to a factor of two. Tokens of training are at most so many. Nothing was started.")


def _plan_rows(step: Step) -> list[list[str]]:
    """A line for each model of a stage, the stage's own figures on the first."""
    uses = [
        [*_who(use), *_counts(use.prompt_tokens, use.completion_tokens), _dollars(use.dollars)] for use in step.uses
    ]
    uses = uses or [["", "", "", ""]]
    own = [step.stage, *_counts(step.episodes, step.training_tokens)]
    first, *others = uses
    return [[*own, *first, _minutes(step.minutes)], *(["", "", "", *use, ""] for use in others)]


def _who(use: Use) -> list[str]:
    return [use.model if use.model == use.role else f"{use.model} ({use.role})"]


def _counts(*numbers: int) -> list[str]:
    return [f"{number:,}" if number else "" for number in numbers]


def _totals(plan: Plan) -> list[str]:
    cost = _dollars(plan.dollars)
    if plan.dollars is None and plan.known_dollars:
        cost = f"over {_dollars(plan.known_dollars)}"
    return [cost, _minutes(plan.minutes)]


def _dollars(value: float | None) -> str:
    if value is None:
        return "unknown price"
    if 0 < value < 0.01:
        return "under $0.01"
    return f"${value:,.2f}" if value else "free"


def _minutes(value: float | None) -> str:
    if value is None:
        return "unknown"
    if value < 1:
        return f"{60 * value:.0f} s"
    return f"{value:.0f} min" if value < 90 else f"{value / 60:.1f} h"
