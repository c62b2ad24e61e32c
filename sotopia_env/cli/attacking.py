"""`sotopia-env robustness`: what prompt and parser guarantee, and how a judge stands up to attacks."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.budgets import check_payable
from sotopia_env.cli import common
from sotopia_env.cli.spending import limited, read_prices
from sotopia_env.errors import ConfigurationError

if TYPE_CHECKING:
    from sotopia_env.evaluation.attacks import Attack
    from sotopia_env.evaluation.robustness import Held, Plan, Robustness, Row
    from sotopia_env.evaluation.statistics import Estimate
    from sotopia_env.judges.base import Judge
    from sotopia_env.tasks import Task

TASKS = ("outcome/bargain", "everyday")
"""What is played unless --tasks says otherwise: with a computed outcome, and without."""

SHOWN = 8
"""How many injections the table of the worst lists."""


def run(
    *,
    judge: str | None,
    tasks: Sequence[str],
    n: int,
    attacks: Sequence[str],
    places: Sequence[str],
    per_attack: int,
    dimension: str | None,
    naive: bool,
    dry_run: bool,
    concurrency: int,
    seed: int,
    store: str | None,
    output: str | None,
    base_url: str | None,
    max_tokens_total: int | None,
    max_cost: float | None,
    prices: Sequence[str],
    quiet: bool,
    as_json: bool,
) -> int:
    """Check, ask, print, and return the exit code: 0 only if the structure held and every verdict came."""
    from sotopia_env.evaluation.attacks import PLACES, choose_attacks
    from sotopia_env.evaluation.robustness import NAIVE, OURS, Plan, structure

    common.check_outputs({"--output": output}, {"--tasks": tasks, "--store": store})
    chosen = choose_attacks(attacks)
    where = tuple(dict.fromkeys(places)) or PLACES
    scenes = _scenes(tasks, n, seed)
    judges = [] if judge is None else _judges(judge, dimension, naive, base_url)
    if not judges and (naive or dimension is not None):
        raise ConfigurationError("--naive and --dimension say how to ask a judge: name one with --judge.")
    if dry_run:
        return _count(judges, Plan(scenes, attacks=chosen, places=where, per_attack=per_attack), prices, as_json)
    structural = {subject.name: structure(subject, chosen, places=where) for subject in (OURS, NAIVE)}
    with limited(max_tokens_total, max_cost, prices, kept=store, where="--store verdicts.db"), keeping(store):
        check_payable(judges)
        found = [_probe(one, scenes, chosen, where, per_attack, dimension, concurrency, seed, quiet) for one in judges]
    record = {
        "structure": {name: _structure_record(held) for name, held in structural.items()},
        "judges": [one.record() for one in found],
    }
    if output is not None:
        write_json(output, record)
    if as_json:
        common.print_json(record)
    else:
        _show_structure(structural)
        for one in found:
            _show(one)
    failed = [trial for one in found for trial in one.trials if trial.error is not None]
    for trial in failed[:5]:
        common.log(f"{trial.test} {trial.name} {trial.place}: {trial.error}".replace("  ", " "))
    if failed:
        common.log(
            f"error: no verdict in {len(failed)} of {common.counted(sum(len(one.trials) for one in found), 'trial')}; "
            "they are counted as that and in no score."
        )
    broken = [held for held in structural[OURS.name] if not held.held]
    for held in broken[:5]:
        common.log(f"error: {held.check} does not hold for {held.attack} {held.place}")
    return 1 if failed or broken else 0


def _scenes(tasks: Sequence[str], n: int, seed: int) -> list[Task]:
    found = {
        task.id: task
        for name in tasks or TASKS
        for task in common.choose_tasks(name, split=None, limit=n, seed=seed, seats=2)
    }
    return list(found.values())


def _judges(spec: str, dimension: str | None, naive: bool, base_url: str | None) -> list[Judge]:
    """The judge, asked for one scale only if one is named; and the same model asked naively."""
    from sotopia_env.evaluation.robustness import NaiveJudge
    from sotopia_env.judges.llm import LLMJudge

    made = common.make_judge(spec, base_url, [] if dimension is None else [dimension])
    if made is None:
        raise ConfigurationError("--judge 'none' gives no verdicts. Name a judge, such as openai/gpt-4o.")
    if not isinstance(made, LLMJudge):
        if naive:
            raise ConfigurationError(f"--naive asks a model without our prompt, but --judge {spec!r} is no model.")
        return [made]
    return [made, NaiveJudge(made.model)] if naive else [made]


def _probe(
    judge: Judge,
    scenes: Sequence[Task],
    chosen: Sequence[Attack],
    places: Sequence[str],
    per_attack: int,
    dimension: str | None,
    concurrency: int,
    seed: int,
    quiet: bool,
) -> Robustness:
    from sotopia_env.evaluation.robustness import NaiveJudge, probe

    bar = common.verdict_bar(quiet)
    with bar:
        job = bar.add_task("", total=None)
        found = probe(
            judge,
            scenes,
            attacks=chosen,
            places=places,
            per_attack=per_attack,
            dimension=None if isinstance(judge, NaiveJudge) else dimension,
            seed=seed,
            concurrency=concurrency,
            progress=lambda done, of: bar.update(job, completed=done, total=of),
        )
    if all(trial.error is not None for trial in found.trials):
        raise ConfigurationError(
            f"Judge {judge.name!r} gave no verdict in any of {common.counted(len(found.trials), 'trial')}; the first "
            f"time: {found.trials[0].error}"
        )
    return found


def _count(judges: Sequence[Judge], plan: Plan, prices: Sequence[str], as_json: bool) -> int:
    """Print what it would take, and ask nothing."""
    from sotopia_env.cli.benchmarking import PROMPTS, show_uses, uses_record
    from sotopia_env.evaluation.benchmark import estimate_judging

    priced = read_prices(prices)
    episodes = plan.episodes.values()
    uses = [use for one in judges for use in estimate_judging(one, episodes, section=one.name, prices=priced)]
    if as_json:
        counts = {"scenes": len(plan.scenes), "episodes": len(episodes), "calls": 2 * len(episodes)}
        common.print_json({**counts, **uses_record(uses)})
        return 0
    common.say(
        f"{common.counted(len(plan.scenes), 'scene')}, {common.counted(len(episodes), 'episode')} to judge: "
        f"{2 * len(episodes)} calls of a model (one for each of the two agents).",
        style="bold",
    )
    if judges:
        show_uses(uses, PROMPTS)
    return 0


@contextmanager
def keeping(store: str | None) -> Iterator[None]:
    """Keep what a judge answers in a store, and ask nothing twice; without one do nothing."""
    if store is None:
        yield
        return
    from sotopia_env.judges.cache import verdict_cache
    from sotopia_env.store import EpisodeStore

    with EpisodeStore(store) as opened, verdict_cache(opened):
        yield


# --- showing ----------------------------------------------------------------------------------------


def _structure_record(held: Sequence[Held]) -> dict[str, Any]:
    checks = Counter(one.check for one in held)
    good = Counter(one.check for one in held if one.held)
    return {
        "checks": {name: {"held": good[name], "of": count} for name, count in checks.items()},
        "failures": [{"check": one.check, "attack": one.attack, "place": one.place} for one in held if not one.held],
    }


def _show_structure(structural: dict[str, list[Held]]) -> None:
    records = {name: _structure_record(held)["checks"] for name, held in structural.items()}
    names = list(records)
    checks = list(records[names[0]])
    rows = [(check, *(f"{records[n][check]['held']} of {records[n][check]['of']}" for n in names)) for check in checks]
    common.say("Prompt and parser, whatever a model answers: how often each check held", style="bold")
    common.print_table(("check", *names), rows, right=names)


def _show(found: Robustness) -> None:
    from sotopia_env.evaluation.robustness import TESTS

    common.say()
    common.say(f"{found.judge}, {found.dimension}", style="bold")
    _table("test", [(test, found.row(test)) for test in TESTS if found.names(test)])
    for title, key in (("kind", "kind"), ("place", "place")):
        groups = dict.fromkeys(getattr(trial, key) for trial in found.trials if trial.test == "injection")
        _table(f"injection by {title}", [(group, found.row("injection", **{key: group})) for group in groups])
    _table("policy without merit", [(name, found.row("policy", name=name)) for name in found.names("policy")])
    worst = sorted(
        ((name, found.row("injection", name=name)) for name in found.names("injection")),
        key=lambda pair: -(pair[1].shift.mean if pair[1].shift is not None else 0),
    )
    _table("injection that gains most", worst[:SHOWN])
    common.say(
        f"Passed: attacks, controls and padding raise the score by no more than {found.tolerance:g}; policies get "
        f"{found.bar:g} or less, the reference more; exchanged seats and names move it by no more than "
        f"{found.tolerance:g}. No verdict is no score. Intervals: 95%, over tasks.",
        style="dim",
    )


def _table(title: str, rows: Sequence[tuple[str, Row]]) -> None:
    columns = ("trials", "no verdict", "passed", "score", "shift")
    cells = [
        (name, row.trials, row.no_verdict, share(row.passed), _number(row.score), _number(row.shift, "+.2f"))
        for name, row in rows
    ]
    common.say()
    common.print_table((title, *columns), cells, right=columns)


def share(estimate: Estimate | None) -> str:
    """A rate as percent with its interval; - if there is none."""
    if estimate is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.0%}"
    return f"{estimate.mean:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"


def _number(estimate: Estimate | None, form: str = ".2f") -> str:
    return "-" if estimate is None else estimate.text(form)


def write_json(path: str, value: object) -> None:
    """Write a JSON document whole or not at all."""
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        partial.write_text(json.dumps(value, ensure_ascii=True, allow_nan=False, indent=2) + "\n", encoding="ascii")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
