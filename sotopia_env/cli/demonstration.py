"""`sotopia-env demo`: watch two scripted agents deal, then see what some pairs come to. No model, no key."""

from __future__ import annotations

from typing import Any

from sotopia_env.cli import common
from sotopia_env.cli.showing import print_episode
from sotopia_env.cli.summary import NO_ZONE, ZONE, Summary

SHOWN = ("scripted/expert", "scripted/tough")
PAIRS = (
    ("scripted/expert", "scripted/expert"),
    ("scripted/expert", "scripted/tough"),
    ("scripted/fair", "scripted/tough"),
    ("scripted/fair", "scripted/deceptive"),
    ("scripted/soft", "scripted/stubborn"),
    ("random", "scripted/fair"),
)
TASKS = 50


def run(*, seed: int, quiet: bool, as_json: bool) -> None:
    """Play and score everything now, and print it."""
    from sotopia_env.rollouts import rollout
    from sotopia_env.tasks import load_tasks

    shown = rollout(load_tasks("outcome/bargain", split="test", n=1, seed=seed), SHOWN, seed=seed)[0]
    if not as_json:
        print_episode(shown, private=True)
        common.say()
        common.say(f"Now {TASKS} test tasks of six families for each of {len(PAIRS)} pairs, scored by arithmetic ...")
    tasks = load_tasks("outcome", split="test", n=TASKS, seed=seed)
    summaries = {}
    for pair in PAIRS:
        if not quiet:
            common.log(f"playing {pair[0]} against {pair[1]}")
        summaries[pair] = Summary("outcome", seed).add_all(rollout(tasks, pair, seed=seed, progress=not quiet))
    if as_json:
        common.print_json(
            {"episode": common.as_record(shown), "seed": seed, "pairs": [summaries[pair].record() for pair in PAIRS]}
        )
    else:
        _show(summaries)


def _show(summaries: dict[tuple[str, str], Summary]) -> None:
    common.say()
    for zone, title in (
        (ZONE, "where both can gain (goal 0 to 10: 1 without a deal, 10 the best there is for oneself)"),
        (NO_ZONE, "where no deal is good for both (goal 10 for staying out of a losing deal, else 0)"),
    ):
        rows = [_row(pair, summary, zone) for pair, summary in summaries.items() if zone in summary.deals]
        if rows:
            common.say(f"{rows[0][0]} tasks {title}", style="bold")
            columns = ("first / second", "goal, first", "goal, second", "deals", "welfare")
            common.print_table(columns, [row[1:] for row in rows], right=columns[1:])
            common.say()
    common.say("Means with 95% intervals (bootstrap over tasks); welfare 1 is the most the two can have together.")


def _row(pair: tuple[str, str], summary: Summary, zone: str) -> list[Any]:
    deals, welfare = summary.estimate(summary.deals[zone]), summary.estimate(summary.welfare[zone])
    goals = [summary.estimate(summary.seats[agent].goals[zone]) for agent in ("agent_0", "agent_1")]
    assert deals is not None, "there is a task with this zone"
    assert welfare is not None, "welfare is measured wherever deals are"
    names = " / ".join(name.removeprefix("scripted/") for name in pair)
    return [deals.count, names, *(goal.text(1) if goal else "-" for goal in goals), f"{deals.mean:.0%}", welfare.text()]
