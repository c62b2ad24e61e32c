"""`sotopia-env rollout`: play many episodes, judge them, say what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sotopia_env.cli import common
from sotopia_env.cli.spending import limited, read_prices
from sotopia_env.cli.summary import Summary, tokens
from sotopia_env.errors import ConfigurationError

if TYPE_CHECKING:
    from sotopia_env.judges.base import Judge
    from sotopia_env.tasks import Task

SHOWN_ERRORS = 5
"""How many different errors are listed."""


def run(
    *,
    tasks: str,
    agents: Sequence[str],
    split: str | None,
    limit: int | None,
    judge: str,
    reward: str,
    seed: int,
    repeats: int,
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
    """Play, print the summary, and return the exit code: 0 only if every episode is complete."""
    if "human" in agents:
        raise ConfigurationError("A rollout plays many episodes at once, which 'human' cannot. Use `sotopia-env play`.")
    from sotopia_env.episodes import write_episodes
    from sotopia_env.rollouts import rollout

    common.check_outputs({"--output": output}, {"--tasks": tasks, "--store": store})
    chosen = common.choose_tasks(tasks, split=split, limit=limit, seed=seed, seats=len(agents))
    made_judge = common.make_judge(judge, judge_base_url or base_url)
    if dry_run:
        return _estimate(chosen, agents, made_judge, repeats, prices, as_json)
    with limited(max_tokens_total, max_cost, prices, kept=store):
        try:
            episodes = rollout(
                chosen,
                common.make_agents(agents, base_url),
                judge=made_judge,
                reward=common.read_reward(reward),
                repeats=repeats,
                concurrency=concurrency,
                seed=seed,
                store=store,
                max_turns=max_turns,
                turn_order=turn_order,  # type: ignore[arg-type]
                progress=not quiet,
            )
        except KeyboardInterrupt:
            if store is not None:
                kept = common.without_password(store)
                common.log(f"Finished episodes are in {kept}; the same command goes on from there.")
            raise
    store = common.without_password(store) if store is not None else None
    summary = Summary(made_judge.name if made_judge is not None else None, seed).add_all(episodes)
    if output is not None:
        write_episodes(output, episodes)
    if as_json:
        common.print_json({**summary.record(), "seed": seed, "store": store, "output": output})
    else:
        _show(summary, store, output)
    return _report_failures(summary, store)


def _estimate(
    tasks: Sequence[Task],
    agents: Sequence[str],
    judge: Judge | None,
    repeats: int,
    prices: Sequence[str],
    as_json: bool,
) -> int:
    """Say what it would take, and start nothing."""
    from sotopia_env.cli.benchmarking import show_uses, uses_record
    from sotopia_env.evaluation.benchmark import estimate_rollout

    uses = estimate_rollout(tasks, agents, judge, repeats=repeats, prices=read_prices(prices))
    if as_json:
        common.print_json({"episodes": len(tasks) * repeats, **uses_record(uses)})
        return 0
    common.say(f"{common.counted(len(tasks) * repeats, 'episode')}", style="bold")
    show_uses(uses)
    return 0


def _show(summary: Summary, store: str | None, output: str | None) -> None:
    kept = " and ".join(place for place in (store, output) if place is not None)
    common.say(
        f"{common.counted(summary.count, 'episode')}: "
        + ", ".join(f"{summary.statuses[name]} {name}" for name in ("complete", "failed", "judge_failed"))
        + (f"; kept in {kept}" if kept else "")
    )
    if summary.ends:
        common.say("ended by: " + ", ".join(f"{end} {count}" for end, count in summary.ends.most_common()))
    common.say()
    summary.print_seats()
    common.say()
    summary.print_tasks()
    if summary.judge_usage.get("calls"):
        common.say(f"judge {summary.judge}: {tokens(summary.judge_usage)} tokens")
    common.say("Intervals: 95%, bootstrap over tasks. Tokens: prompt + completion.", style="dim")


def _report_failures(summary: Summary, store: str | None) -> int:
    failed, unjudged = summary.statuses["failed"], summary.statuses["judge_failed"]
    if not failed and not unjudged:
        return 0
    for error, count in summary.errors.most_common(SHOWN_ERRORS):
        common.log(f"{count} x {error}")
    if len(summary.errors) > SHOWN_ERRORS:
        common.log(f"and {len(summary.errors) - SHOWN_ERRORS} other errors; see `sotopia-env show ... --list`.")
    remedy = (
        f"Run the same command again: {store} keeps what is complete, and only the rest is done."
        if store is not None
        else "Give --store runs.db to keep what is complete; the same command then does only the rest."
    )
    common.log(
        f"error: of {common.counted(summary.count, 'episode')} {failed} failed and {unjudged} could not be judged. "
        + remedy
    )
    return 1
