"""`sotopia-env judge`: score stored episodes again, and put verdicts side by side."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sotopia_env import aio
from sotopia_env.budgets import check_payable
from sotopia_env.cli import common
from sotopia_env.cli.sources import SHORT_ID, FileSource, Source, StoreSource, open_source
from sotopia_env.cli.spending import limited, read_prices
from sotopia_env.cli.summary import Values
from sotopia_env.errors import ConfigurationError, one_line
from sotopia_env.judges.asking import Patience, ask
from sotopia_env.judges.cache import verdict_cache
from sotopia_env.judges.llm import together

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode, Verdict
    from sotopia_env.judges.base import Judge, Reward

SHOWN_ROWS = 20
"""How many episodes the side-by-side table lists."""


REWARD = "goal"
"""What of a verdict is the reward unless --reward says so."""


@dataclass
class Judged:
    """An episode with all its verdicts, or why this judge gave none."""

    episode: Episode
    error: str | None = None


@dataclass
class Report:
    """What came of it."""

    judged: list[Judged] = field(default_factory=list)
    broken_off: int = 0
    already: int = 0


def run(
    *,
    source: str,
    judge: str,
    dimensions: Sequence[str],
    reward: str | None,
    limit: int | None,
    again: bool,
    concurrency: int,
    seed: int,
    output: str | None,
    base_url: str | None,
    max_tokens_total: int | None,
    max_cost: float | None,
    prices: Sequence[str],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Judge, keep, print, and return the exit code: 0 only if every episode got its verdict."""
    from sotopia_env.judges.base import check_reward

    common.check_outputs({"--output": output}, {"the source": source})
    opened = open_source(source)
    made = common.make_judge(judge, base_url, dimensions)
    if made is None:
        raise ConfigurationError("--judge 'none' gives no verdicts. Name a judge, such as openai/gpt-4o.")
    chosen, broken_off = _chosen(opened, limit)
    if not chosen:
        raise ConfigurationError(
            f"{opened.location!r} holds no episode that came to an end ({broken_off} broke off). Play some first: "
            "`sotopia-env rollout`."
        )
    if dry_run:
        return estimate(made, [one for one in chosen if again or made.name not in one.verdicts], prices, as_json)
    if isinstance(opened, FileSource) and output is None:
        common.log(f"{opened.location} is a file, which stays as it is; give --output to keep the verdicts.")
    kept = opened.location if isinstance(opened, StoreSource) else output
    with limited(max_tokens_total, max_cost, prices, kept=kept, where="--output judged.jsonl"):
        check_payable([made])
        wanted = common.read_reward(reward or (dimensions[0] if len(dimensions) == 1 else REWARD))
        check_reward(made, wanted, [episode.task for episode in chosen])
        report = _judge_all(opened, chosen, made, wanted, reward is not None, again, concurrency, quiet)
    report.broken_off = broken_off
    if output is not None:
        from sotopia_env.episodes import write_episodes

        write_episodes(output, (judged.episode for judged in report.judged))
    if as_json:
        common.print_json(_record(report, made.name, seed))
    else:
        _show(report, made.name, seed)
    failed = [judged for judged in report.judged if judged.error is not None]
    for one in failed[:5]:
        common.log(f"{one.episode.id[:SHORT_ID]}: {one.error}")
    if failed:
        common.log(
            f"error: {made.name} gave no verdict on {len(failed)} of {common.counted(len(report.judged), 'episode')}. "
            "Run the same command again; verdicts that were kept are not asked for twice."
        )
    return 1 if failed else 0


def estimate(judge: Judge | None, episodes: Sequence[Episode], prices: Sequence[str], as_json: bool) -> int:
    """Print what verdicts on these episodes would take, and ask nothing."""
    from sotopia_env.cli.benchmarking import PROMPTS, show_uses, uses_record
    from sotopia_env.evaluation.benchmark import estimate_judging

    uses = estimate_judging(judge, episodes, prices=read_prices(prices)) if judge is not None else []
    if as_json:
        common.print_json({"episodes": len(episodes), **uses_record(uses)})
    else:
        common.say(f"{common.counted(len(episodes), 'episode')} to judge", style="bold")
        show_uses(uses, PROMPTS)
    return 0


# --- asking ---------------------------------------------------------------------------------------


def _chosen(source: Source, limit: int | None) -> tuple[list[Episode], int]:
    """Finished episodes, so many as asked for, and how many broke off."""
    chosen: list[Episode] = []
    broken_off = 0
    for episode in source.episodes():
        if episode.ended_by is None:
            broken_off += 1
        elif limit is None or len(chosen) < limit:
            chosen.append(episode)
    return chosen, broken_off


def _judge_all(
    source: Source,
    chosen: Sequence[Episode],
    judge: Judge,
    reward: Reward,
    required: bool,
    again: bool,
    concurrency: int,
    quiet: bool,
) -> Report:
    """Ask about chosen episodes of a source; a verdict that lacks what the reward reads counts unless `required`."""
    report = Report()
    bar = common.verdict_bar(quiet)

    async def all_of_them() -> list[Judged]:
        slots = asyncio.Semaphore(concurrency)
        patience = Patience(judge.name)

        async def one(episode: Episode) -> Judged:
            async with slots:
                if judge.name in episode.verdicts and not again:
                    report.already += 1
                    judged = Judged(episode)
                elif patience.over is not None:
                    judged = Judged(episode, patience.over)
                else:
                    with verdict_cache(source.store if isinstance(source, StoreSource) else None, refresh=again):
                        judged = await _judge_one(source, judge, reward, required, episode, patience)
                bar.advance(task)
                return judged

        return await together(map(one, chosen))

    with bar:
        task = bar.add_task("", total=len(chosen))
        report.judged = aio.run(all_of_them())
    return report


async def _judge_one(
    source: Source, judge: Judge, reward: Reward, required: bool, episode: Episode, patience: Patience
) -> Judged:
    """Ask for one verdict and keep it; a failure is reported and never becomes a score."""
    from sotopia_env.models import usage_scope

    # The judge sees what it would have seen right after the play, no other judge's verdict.
    bare = episode.model_copy(update={"verdicts": {}, "rewards": {}, "status": "complete", "error": None})
    with usage_scope() as used:
        try:
            verdict = await ask(judge, bare)
            patience.note(None)
            rewards = _rewards(verdict, reward, required, bare)
        except Exception as error:  # a user's judge or reward may raise anything; it must not stop the others
            patience.note(error)
            return Judged(episode, one_line(error))
    verdict = verdict.model_copy(update={"judge": judge.name})
    usage = {**episode.usage, judge.name: dict(used)} if any(used.values()) else episode.usage
    done = episode.model_copy(
        update={
            "verdicts": {**episode.verdicts, judge.name: verdict},
            "rewards": episode.rewards or rewards,
            "usage": usage,
            **({"status": "complete", "error": None} if rewards else {}),
        }
    )
    if isinstance(source, StoreSource):
        await asyncio.to_thread(_keep, source, episode, done, verdict, dict(used))
    return Judged(done)


def _rewards(verdict: Verdict, reward: Reward, required: bool, episode: Episode) -> dict[str, float]:
    """The rewards of a verdict; {} if it lacks what they read, and nobody asked for these."""
    from sotopia_env.judges.base import needed_dimensions, rewards_from

    needed = set(needed_dimensions(reward))
    if not required and any(needed - verdict.values(agent).keys() for agent in episode.task.agents):
        return {}
    return rewards_from(verdict, reward, episode)


def _keep(source: StoreSource, before: Episode, done: Episode, verdict: Verdict, used: dict[str, int]) -> None:
    if before.status == "judge_failed" and done.status == "complete":
        source.store.add(done)
    else:
        usage = used if any(used.values()) else None
        source.store.add_verdict(before.key, verdict, usage=usage, rewards=done.rewards)


# --- side by side ---------------------------------------------------------------------------------


def _pairs(episodes: Sequence[Judged]) -> Iterator[tuple[Episode, str, str, dict[str, float]]]:
    """Episode, agent, dimension, and the scores on it by judge."""
    for judged in episodes:
        episode = judged.episode
        for agent in episode.task.agents:
            names = {name: None for verdict in episode.verdicts.values() for name in verdict.scores.get(agent, {})}
            for name in names:
                by_judge = {
                    judge: verdict.scores[agent][name].value
                    for judge, verdict in episode.verdicts.items()
                    if name in verdict.scores.get(agent, {})
                }
                yield episode, agent, name, by_judge


def _judges(report: Report, newest: str) -> list[str]:
    known = {judge for judged in report.judged for judge in judged.episode.verdicts}
    return [*sorted(known - {newest}), *([newest] if newest in known else [])]


def _means(report: Report, newest: str) -> dict[str, dict[str, Values]]:
    """By dimension: scores by judge, and for every other judge the newest's minus its, where both scored."""
    found: dict[str, dict[str, Values]] = defaultdict(lambda: defaultdict(Values))
    for episode, _, name, by_judge in _pairs(report.judged):
        rows = [name] if name != "goal" else [name, *_zone_row(episode)]
        for row, (judge, value) in itertools.product(rows, by_judge.items()):
            found[row][judge].add(episode.task.id, value)
            if judge != newest and newest in by_judge:
                found[row][f"{newest} minus {judge}"].add(episode.task.id, by_judge[newest] - value)
    return found


def _zone_row(episode: Episode) -> list[str]:
    """The row for goals of tasks with, or without, a zone of agreement; none where no judge computed it."""
    zones = {verdict.measures["zone"] for verdict in episode.verdicts.values() if "zone" in verdict.measures}
    return ["goal, zone" if zone else "goal, no zone" for zone in zones]


def _show(report: Report, newest: str, seed: int) -> None:
    judges = _judges(report, newest)
    rows = [
        (episode.id[:SHORT_ID], episode.task.id, agent, *(_number(by_judge.get(judge)) for judge in judges))
        for episode, agent, name, by_judge in _pairs(report.judged)
        if name == "goal"
    ]
    asked = sum(judged.error is None for judged in report.judged) - report.already
    common.say(
        f"{common.counted(len(report.judged), 'episode')}: {asked} judged now, "
        f"{report.already} had a verdict of {newest}"
        + (f"; {report.broken_off} broke off and cannot be judged" if report.broken_off else "")
    )
    if rows:
        common.say()
        common.say("goal, side by side", style="bold")
        common.print_table(("episode", "task", "agent", *judges), rows[:SHOWN_ROWS], right=judges)
        if len(rows) > SHOWN_ROWS:
            common.say(f"... and {len(rows) - SHOWN_ROWS} more rows; --json has them all", style="dim")
    means = _means(report, newest)
    differences = [f"{newest} minus {judge}" for judge in judges if judge != newest and newest in judges]
    if means:
        common.say()
        common.say("means", style="bold")
        columns = [*judges, *differences]
        table = [(name, *(_estimate(by.get(column), seed) for column in columns)) for name, by in sorted(means.items())]
        common.print_table(("dimension", *columns), table, right=columns)
        common.say("Intervals: 95%, bootstrap over tasks.", style="dim")


def _record(report: Report, newest: str, seed: int) -> dict[str, Any]:
    means = {
        name: {column: found.record() for column, values in by.items() if (found := values.estimate(seed)) is not None}
        for name, by in _means(report, newest).items()
    }
    return {
        "judge": newest,
        "judges": _judges(report, newest),
        "already_judged": report.already,
        "broken_off": report.broken_off,
        "means": means,
        "episodes": [
            {
                "id": judged.episode.id,
                "task": judged.episode.task.id,
                "error": judged.error,
                "scores": {
                    judge: {agent: verdict.values(agent) for agent in verdict.scores}
                    for judge, verdict in judged.episode.verdicts.items()
                },
            }
            for judged in report.judged
        ],
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _estimate(values: Values | None, seed: int) -> str:
    found = values.estimate(seed) if values is not None else None
    return "-" if found is None else found.text()
