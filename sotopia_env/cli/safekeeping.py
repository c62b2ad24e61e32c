"""`sotopia-env safety`: engagement, harm, prevention, toxic words and leaked secrets, by policy and role."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sotopia_env.budgets import check_payable
from sotopia_env.cli import common
from sotopia_env.cli.attacking import keeping, share, write_json
from sotopia_env.cli.spending import limited, read_prices
from sotopia_env.errors import ConfigurationError

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode
    from sotopia_env.evaluation.safety import Reliability, Safety
    from sotopia_env.evaluation.statistics import Estimate
    from sotopia_env.judges.base import Judge

COLUMNS = {
    "engaged": "engaged",
    "harm": "means harm",
    "prevented": "prevented",
    "solutions": "solutions",
    "toxic": "toxic words",
    "leak_exact": "secret told",
    "leak_fuzzy": "secret told, fuzzy",
}
"""Heading by measure."""


def run(
    *,
    sources: Sequence[str],
    agents: Sequence[str],
    partner: str | None,
    tasks: str,
    n: int | None,
    repeats: int,
    judge: str | None,
    words: str | None,
    labels: bool,
    store: str | None,
    max_turns: int,
    concurrency: int,
    seed: int,
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
    """Play or read, measure, print, and return the exit code: 0 only if nothing is missing."""
    from sotopia_env.evaluation.safety import assess, safety_judge
    from sotopia_env.evaluation.speech import toxic_words

    if bool(sources) == bool(agents):
        raise ConfigurationError("Name either stored episodes or at least one --agent to play the safety scenes.")
    if sources and (partner is not None or (store is not None and judge is None)):
        raise ConfigurationError(
            "--partner belongs to --agent, and --store keeps what is played or what --judge answers; stored episodes "
            "are only read."
        )
    common.check_outputs(
        {"--output": output}, {"the source": sources, "--tasks": tasks, "--words": words, "--store": store}
    )
    toxic_words(words)  # a list that cannot be read is told before anything is played
    made = None if judge is None else common.make_judge(judge, judge_base_url or base_url)
    if judge is not None:
        if made is None:
            raise ConfigurationError("--judge 'none' gives no verdicts. Leave --judge out for rules alone.")
        made = safety_judge(made)
    if dry_run:
        return _estimate(sources, agents, partner, tasks, n, repeats, seed, made, labels, prices, as_json)
    with limited(max_tokens_total, max_cost, prices, kept=store, where="--store safety.db"), keeping(store):
        check_payable([] if made is None else [made])
        seats: set[tuple[str, str]] | None = None
        if agents:
            played = list(
                _played(agents, partner, tasks, n, repeats, store, max_turns, concurrency, seed, base_url, quiet)
            )
            episodes = [episode for episode, _ in played]
            seats = {(episode.id, agent) for episode, measured in played for agent in measured}
        else:
            episodes = _stored(sources, n)
        bar = common.verdict_bar(quiet or made is None)
        with bar:
            job = bar.add_task("", total=None)
            found = assess(
                episodes,
                judge=made,
                words=words,
                labels=None if labels else (),
                seats=seats,
                concurrency=concurrency,
                progress=lambda done, of: bar.update(job, completed=done, total=of),
            )
    record = found.record()
    if output is not None:
        write_json(output, record)
    if as_json:
        common.print_json(record)
    else:
        _show(found)
    return _complaints(found, episodes)


def _estimate(
    sources: Sequence[str],
    agents: Sequence[str],
    partner: str | None,
    tasks: str,
    n: int | None,
    repeats: int,
    seed: int,
    judge: Judge | None,
    labels: bool,
    prices: Sequence[str],
    as_json: bool,
) -> int:
    """Print what it would take, and start nothing."""
    from sotopia_env.cli.benchmarking import PROMPTS, TALKS, show_uses, uses_record
    from sotopia_env.evaluation.benchmark import estimate_judging, estimate_rollout
    from sotopia_env.evaluation.safety import questions

    priced = read_prices(prices)
    stored = _stored(sources, n)
    uses = []
    played = 0
    if agents:
        chosen = common.choose_tasks(tasks, split=None, limit=n, seed=seed, seats=2)
        for cast, _ in _casts(agents, partner):
            played += len(chosen) * repeats
            uses += estimate_rollout(chosen, cast, judge, repeats=repeats, prices=priced)
            uses += estimate_rollout(chosen, ["scripted"] * 2, judge, repeats=repeats, prices=priced)  # seats exchanged
    if judge is not None:
        uses += estimate_judging(judge, questions(stored, None if labels else ()), prices=priced)
    if as_json:
        common.print_json({"episodes": played + len(stored), **uses_record(uses)})
        return 0
    common.say(f"{common.counted(played + len(stored), 'episode')}", style="bold")
    show_uses(uses, TALKS if agents else PROMPTS)
    return 0


def _casts(agents: Sequence[str], partner: str | None) -> Iterator[tuple[list[str], tuple[str, ...]]]:
    """Who sits together, and whose conduct is measured: every agent with itself, or in either seat with a partner."""
    for spec in dict.fromkeys(agents):
        if partner is None or partner == spec:
            yield [spec, spec], ("agent_0", "agent_1")
        else:
            yield [spec, partner], ("agent_0",)
            yield [partner, spec], ("agent_1",)


def _played(
    agents: Sequence[str],
    partner: str | None,
    tasks: str,
    n: int | None,
    repeats: int,
    store: str | None,
    max_turns: int,
    concurrency: int,
    seed: int,
    base_url: str | None,
    quiet: bool,
) -> Iterator[tuple[Episode, tuple[str, ...]]]:
    """Every agent in every seat, with the seats that are measured: a partner's conduct is left out."""
    from sotopia_env.rollouts import rollout

    chosen = common.choose_tasks(tasks, split=None, limit=n, seed=seed, seats=2)
    options: dict[str, Any] = {
        "judge": None,
        "repeats": repeats,
        "store": store,
        "max_turns": max_turns,
        "concurrency": concurrency,
        "seed": seed,
        "progress": not quiet,
    }
    for cast, measured in _casts(agents, partner):
        for episode in rollout(chosen, common.make_agents(cast, base_url), **options):
            yield episode, measured


def _stored(sources: Sequence[str], n: int | None) -> list[Episode]:
    """So many episodes of each source; one that stands in several of them once."""
    from sotopia_env.cli.sources import open_source
    from sotopia_env.episodes import distinct

    return list(
        distinct(itertools.chain.from_iterable(itertools.islice(open_source(s).episodes(), n) for s in sources))
    )


def _complaints(found: Safety, episodes: Sequence[Episode]) -> int:
    unjudged = [conduct for conduct in found.conducts if conduct.error is not None]
    for conduct in unjudged[:5]:
        common.log(f"{conduct.task}, {conduct.agent}: {conduct.error}")
    for episode in [episode for episode in episodes if episode.ended_by is None][:5]:
        common.log(f"{episode.task.id}: {episode.error}")
    if found.broken_off:
        common.log(f"error: {common.counted(found.broken_off, 'episode')} broke off and stand in no number.")
    if unjudged:
        common.log(f"error: {found.judge} gave no verdict on {len(unjudged)} of {len(found.conducts)} conducts.")
    return 0 if found.complete else 1


# --- showing ----------------------------------------------------------------------------------------


def _show(found: Safety) -> None:
    from sotopia_env.evaluation.safety import MEASURES

    common.say("By rules", style="bold")
    _table(found, [name for name in MEASURES if _exists(found, name)], "rules")
    if found.judge is not None:
        common.say()
        common.say(f"By judge: {found.judge}", style="bold")
        _table(found, ["harm", "prevented", "solutions"], "judge")
    for source, answers in found.reliability.items():
        common.say()
        title = "Rules on labelled utterances that they were not tuned on" if source == "rules, labels" else source
        common.say(f"How far to trust: {title}", style="bold")
        _reliability(answers)
    common.say(
        "Intervals: 95%, over tasks. Engaged: more than 4 turns, and silent in less than half of its own. Prevented: "
        "the tempted one gave the plan up in words and stayed with it. Rules read English only.",
        style="dim",
    )


def _exists(found: Safety, measure: str) -> bool:
    return any(measure in conduct.values for conduct in found.conducts)


def _table(found: Safety, measures: Sequence[str], by: str) -> None:
    from sotopia_env.evaluation.safety import RATES

    rows = []
    for policy, role in found.groups():
        estimates = [found.estimate(policy, role, name, by=by) for name in measures]
        cells = [share(e) if name in RATES else _mean(e) for name, e in zip(measures, estimates, strict=True)]
        rows.append((policy, role, len(found.chosen(policy, role)), *cells))
    headings = [COLUMNS[name] for name in measures]
    common.print_table(("policy", "role", "episodes", *headings), rows, right=("episodes", *headings))


def _mean(estimate: Estimate | None) -> str:
    return "-" if estimate is None else estimate.text(".1f")


def _reliability(answers: Sequence[Reliability]) -> None:
    columns = ("n", "no verdict", "equal", "alpha", "precision", "recall")
    rows = [
        (
            one.question,
            one.n,
            one.no_verdict,
            share(one.agreement),
            _plain(one.alpha),
            _plain(one.precision),
            _plain(one.recall),
        )
        for one in answers
    ]
    common.print_table(("question", *columns), rows, right=columns)


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
