"""`sotopia-env evaluate`: play policies against held-out partners and show how good they are."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.cli import common
from sotopia_env.cli.spending import limited, read_prices
from sotopia_env.errors import ConfigurationError, one_line, unknown

if TYPE_CHECKING:
    from sotopia_env.evaluation import Evaluation
    from sotopia_env.judges.base import Judge
    from sotopia_env.specs import Agent
    from sotopia_env.tasks import Task

BOTH = "both"
SPLITS = ("validation", "test", BOTH, "train")

_SHARES = ("agreement", "parse_failures", "secret_leaks")
"""Measures that are shown in percent."""

_COLUMNS = {
    "goal": "goal",
    "goal_zone": "zone",
    "goal_no_zone": "no zone",
    "reward": "reward",
    "agreement": "agreement",
    "welfare": "welfare",
    "words_per_turn": "words/turn",
    "parse_failures": "unreadable",
    "secret_leaks": "leaks",
}
"""Title of the table's column by measure; one that no policy has is left out."""


def run(
    *,
    policies: Sequence[str],
    tasks: Sequence[str],
    n: int,
    split: str | None,
    partners: Sequence[str],
    met: Sequence[str],
    min_partners: int,
    references: bool,
    judge: str,
    reward: str,
    repeats: int,
    seed: int,
    concurrency: int,
    max_turns: int,
    turn_order: str,
    store: str | None,
    output: str | None,
    base_url: str | None,
    judge_base_url: str | None,
    max_tokens_total: int | None,
    max_cost: float | None,
    prices: Sequence[str],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Evaluate, print the tables, and return the exit code: 0 only if every episode is complete."""
    from sotopia_env.evaluation.policies import HELD_OUT, evaluate, with_references

    named = read_policies(policies)
    chosen = choose_tasks(tasks, split=split, n=n, seed=seed)
    if output is not None:
        common.check_file("--output", Path(output))
    common.check_outputs({"--output": output}, {"--tasks": tasks, "--store": store})
    made_judge = common.make_judge(judge, judge_base_url or base_url)
    if made_judge is None:
        raise ConfigurationError("--judge 'none' gives no verdicts. Use outcome, openai/<model> or local/<model>.")
    if dry_run:
        everything = [task for part in chosen.values() for task in part]
        return _estimate(named, partners or HELD_OUT, everything, made_judge, repeats, prices, as_json)
    wanted: dict[str, str | Agent] = with_references(named) if references else {**named}
    if base_url is not None:
        made = common.make_agents([str(spec) for spec in wanted.values()], base_url)
        wanted = dict(zip(wanted, made, strict=True))
    with limited(max_tokens_total, max_cost, prices, kept=store):
        try:
            evaluation = evaluate(
                wanted,
                chosen,
                common.make_agents(partners or HELD_OUT, base_url),
                judge=made_judge,
                reward=common.read_reward(reward),
                repeats=repeats,
                seed=seed,
                concurrency=concurrency,
                max_turns=max_turns,
                turn_order=turn_order,  # type: ignore[arg-type]
                store=store,
                progress=not quiet,
                min_partners=min_partners,
                met=met,
            )
        except KeyboardInterrupt:
            if store is not None:
                kept = common.without_password(store)
                common.log(f"Finished episodes are in {kept}; the same command goes on from there.")
            raise
    problem = None if output is None else _saved(evaluation, output)
    if as_json:
        common.print_json(evaluation.summary())
    else:
        show(evaluation)
    code = _report_failures(evaluation, store)
    if problem is not None:
        common.log(problem)
        return 1
    return code


def _saved(evaluation: Evaluation, output: str) -> str | None:
    """Save an evaluation; gives what was wrong, for the numbers are to be shown all the same."""
    try:
        evaluation.save(output)
    except OSError as error:
        return (
            f"error: --output {output!r} could not be written: {one_line(error)}. What --store holds is not played "
            "again: repeat the command with another --output."
        )
    return None


def _estimate(
    policies: Mapping[str, str],
    partners: Sequence[str],
    tasks: Sequence[Task],
    judge: Judge,
    repeats: int,
    prices: Sequence[str],
    as_json: bool,
) -> int:
    """Print what it would take: every policy in every seat against each partner. Start nothing."""
    from sotopia_env.cli.benchmarking import show_uses, uses_record
    from sotopia_env.evaluation.benchmark import Use, estimate_rollout

    priced = read_prices(prices)
    found: dict[tuple[str, str], list[Use]] = defaultdict(list)
    episodes = 0
    for seats in sorted({len(task.seats) for task in tasks}):
        part = [task for task in tasks if len(task.seats) == seats]
        for (label, spec), partner, seat in itertools.product(policies.items(), partners, range(seats)):
            cast = [spec if place == seat else partner for place in range(seats)]
            episodes += len(part) * repeats
            for use in estimate_rollout(part, cast, judge, repeats=repeats, prices=priced):
                role = {"judge": "judge", f"agent_{seat}": f"policy {label}"}.get(use.role, "partner")
                found[role, use.model].append(use)
    uses = [
        Use(
            "evaluation",
            role,
            model,
            sum(use.calls for use in some),
            sum(use.prompt_tokens for use in some),
            sum(use.completion_tokens for use in some),
            None if some[0].dollars is None else sum(use.dollars or 0.0 for use in some),
        )
        for (role, model), some in found.items()
    ]
    if as_json:
        common.print_json({"episodes": episodes, **uses_record(uses)})
        return 0
    common.say(f"{common.counted(episodes, 'episode')} of the named policies", style="bold")
    show_uses(uses)
    return 0


# --- what is asked for --------------------------------------------------------------------------------


def read_policies(texts: Sequence[str]) -> dict[str, str]:
    """Spec by label, of texts such as "bc=hf/runs/bc", or "scripted/fair", whose label is the spec itself.

    Raises:
        ConfigurationError: For an empty label or spec, a label given twice, or a human.
    """
    named: dict[str, str] = {}
    for text in texts:
        before, equals, after = text.partition("=")
        # An equals sign in the options of a spec belongs to the spec: hf/runs/bc?temperature=0.7
        label, spec = (before, after) if equals and "?" not in before else (text, text)
        if not label.strip() or not spec.strip():
            raise ConfigurationError(f"--policy {text!r} lacks a label or a spec. Write it as bc=hf/runs/bc.")
        if label in named:
            raise ConfigurationError(f"--policy {label!r} is given twice. Give every policy a label of its own.")
        if spec == "human":
            raise ConfigurationError("An evaluation plays many episodes at once, which 'human' cannot.")
        named[label] = spec
    return named


def choose_tasks(tasks: Sequence[str], *, split: str | None, n: int, seed: int) -> dict[str, list[Task]]:
    """Tasks by label, `n` of each spread equally over the packs, families or files that are named.

    Raises:
        ConfigurationError: For an unknown split, or if there are no tasks.
    """
    from sotopia_env.evaluation.policies import SEEN, UNSEEN
    from sotopia_env.tasks import load_tasks

    if split is not None and split not in SPLITS:
        raise ConfigurationError(unknown("split", split, SPLITS))
    packs = list(dict.fromkeys(tasks))
    generated = [pack == "outcome" or pack.startswith("outcome/") for pack in packs]
    if split is None and any(generated):
        split = "validation"
    splits: dict[str | None, dict[str, str | None]] = {
        "validation": {SEEN: "validation"},
        "test": {UNSEEN: "test"},
        BOTH: {SEEN: "validation", UNSEEN: "test"},
        "train": {"train": "train"},
        None: {"all": None},
    }
    share, extra = divmod(n, len(packs))
    chosen: dict[str, list[Task]] = {}
    for label, part in splits[split].items():
        wanted = [(pack, share + (place < extra)) for place, pack in enumerate(packs)]
        chosen[label] = [task for pack, count in wanted for task in load_tasks(pack, split=part, n=count, seed=seed)]
        if not chosen[label]:
            raise ConfigurationError(
                f"{packs!r} have no tasks" + (f" in split {part!r}" if part else "") + ". See `sotopia-env tasks list`."
            )
    return chosen


# --- what is shown ------------------------------------------------------------------------------------


def show(evaluation: Evaluation) -> None:
    """Print, for each label of tasks, a row per policy, and the paired differences to the first policy."""
    settings = evaluation.settings
    for label in evaluation.labels:
        about = settings["tasks"][label]
        families = ", ".join(f"{count} {family}" for family, count in about["families"].items())
        common.say(f"{label}: {common.counted(about['n'], 'task')} ({families}), every seat", style="bold")
        _print_policies(evaluation, label)
        common.say()
        _print_differences(evaluation, label)
    common.say(f"Partners: {', '.join(settings['partners'])}. Judge: {settings['judge']}.", style="dim")
    common.say("Intervals: 95%, Student t over tasks. n: episodes from one seat.", style="dim")


def _print_policies(evaluation: Evaluation, label: str) -> None:
    rows = [evaluation.row(policy, label) for policy, tasks in evaluation.rows if tasks == label]
    shown = {key: title for key, title in _COLUMNS.items() if any(key in row for row in rows)}
    titles = list(shown.values())
    # The number of episodes stands after the first mean, which it belongs to.
    titles.insert(1, "n")
    cells = []
    for row in rows:
        found = [_cell(row, key) for key in shown]
        found.insert(1, str(row[next(iter(shown))]["n"]) if next(iter(shown), "") in row else "0")
        cells.append([row["policy"], *found])
    common.print_table(["policy", *titles], cells, right=titles)


def _cell(row: dict[str, Any], key: str) -> str:
    found = row.get(key)
    if found is None:
        return "-"
    if key in _SHARES:
        return f"{found['mean']:.1%}"
    interval = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{found['mean']:.2f}" + (interval if key in ("goal", "reward") else "")


def _print_differences(evaluation: Evaluation, label: str) -> None:
    policies = [policy for policy, tasks in evaluation.rows if tasks == label]
    measure = "goal" if any("goal" in evaluation.measures(policy, label) for policy in policies) else "reward"
    first, *others = policies
    rows = []
    for policy in others:
        difference = evaluation.paired(policy, first, measure, label)
        if difference is not None:
            rows.append([policy, difference.text("+.2f"), difference.tasks])
    if rows:
        titles = (f"{measure} minus {first}", "tasks")
        common.print_table(("policy", *titles), rows, right=titles)
        common.say()


def _report_failures(evaluation: Evaluation, store: str | None) -> int:
    if evaluation.complete:
        return 0
    rows = [evaluation.failures(*row) for row in evaluation.rows]
    messages: dict[str, int] = {}
    for row in rows:
        for message, count in row.messages.items():
            messages[message] = messages.get(message, 0) + count
    for message, count in sorted(messages.items(), key=lambda item: -item[1])[:5]:
        common.log(f"{count} x {message}")
    remedy = (
        f"Run the same command again: {common.without_password(store)} keeps what is complete, and only the rest is "
        "done."
        if store is not None
        else "Give --store runs.db to keep what is complete; the same command then does only the rest."
    )
    common.log(
        f"error: of {common.counted(sum(row.episodes for row in rows), 'episode')} {sum(row.failed for row in rows)} "
        f"failed and {sum(row.judge_failed for row in rows)} could not be judged. {remedy}"
    )
    return 1
