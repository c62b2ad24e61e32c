"""`sotopia-env benchmark`, `compare` and `leaderboard`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.cli import common
from sotopia_env.cli.evaluating import read_policies
from sotopia_env.cli.spending import limited, read_prices
from sotopia_env.errors import ConfigurationError

if TYPE_CHECKING:
    from sotopia_env.budgets import Price
    from sotopia_env.evaluation.benchmark import Protocol, Results, Use
    from sotopia_env.evaluation.comparison import Compared


def run_benchmark(
    *,
    policies: Sequence[str],
    sections: Sequence[str],
    judge: str | None,
    partners: Sequence[str],
    sotopia: str | None,
    tasks: int | None,
    seed: int,
    repeats: int,
    temperature: str,
    concurrency: int,
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
    """Play, save, show, and return the exit code: 0 only if every episode is complete."""
    from sotopia_env.evaluation import benchmark

    named = read_policies(policies)
    _check_output(output, sotopia, store)
    protocol = benchmark.make_protocol(
        list(sections) or None,
        judge=judge,
        partners=partners,
        seed=seed,
        repeats=repeats,
        temperature=_read_temperature(temperature),
        tasks_per_section=tasks,
        sotopia=sotopia,
        base_url=base_url,
        judge_base_url=judge_base_url,
    )
    if not protocol.parts:
        raise ConfigurationError("No section can be run: " + "; ".join(protocol.not_run.values()))
    if dry_run:
        _show_estimate(named, protocol, read_prices(prices), as_json)
        return 0
    for name, reason in protocol.not_run.items():
        if reason != "not asked for":
            common.log(f"not run: {name}. {reason}")
    with limited(max_tokens_total, max_cost, prices, kept=store):
        try:
            results = benchmark.run_benchmark(
                named, protocol, store=store, concurrency=concurrency, progress=not quiet, base_url=base_url
            )
        except KeyboardInterrupt:
            if store is not None:
                kept = common.without_password(store)
                common.log(f"Finished episodes are in {kept}; the same command goes on from there.")
            raise
    if output is not None:
        results.save(output)
    if as_json:
        common.print_json(_record(results, output))
    else:
        _show(results, output)
    return _report_failures(results, store)


def run_compare(*, files: Sequence[str], measures: Sequence[str], baseline: str | None, as_json: bool) -> None:
    """Show paired differences with corrected p-values."""
    from sotopia_env.evaluation.benchmark import load_results
    from sotopia_env.evaluation.comparison import ALPHA, compare

    results = [load_results(file) for file in files]
    codes = sorted({one.code["hash"] for one in results})
    found = compare(results, names=files, measures=measures or ["goal"], baseline=baseline)
    if as_json:
        common.print_json(
            {
                "protocol": results[0].protocol["hash"],
                "code": codes,
                "correction": "holm",
                "comparisons": [one.record() for one in found],
            }
        )
        return
    if len(codes) > 1:
        common.log("warning: the files were made by different code of sotopia-env; look at what changed between them.")
    baseline_name = found[0].baseline
    common.say(f"differences to {baseline_name}, paired by task", style="bold")
    columns = ("section", "measure", "policy", "difference", "tasks", "p", "p (Holm)", "")
    common.print_table(columns, [_difference(one) for one in found], right=columns[3:7])
    tested = sum(one.p_holm is not None for one in found)
    common.say(
        f"Intervals: 95%, Student t over tasks, each for itself. Holm: corrected for {common.counted(tested, 'test')}; "
        f"a star where the corrected p is below {ALPHA}.",
        style="dim",
    )


def run_leaderboard(*, files: Sequence[str], output: str, as_json: bool) -> None:
    """Write the page and its Markdown."""
    from sotopia_env.evaluation.leaderboard import write_leaderboard

    page = Path(output)
    beside = page.parent / f"{page.stem}.md"
    if page.suffix == ".html":
        common.check_outputs({"--output": page, "the Markdown beside it,": beside}, {"the results": files})
    written = write_leaderboard(files, output)
    if as_json:
        common.print_json(written)
    else:
        common.say(
            f"{common.counted(written['policies'], 'result')} in {common.counted(written['tables'], 'table')}: "
            f"{written['html']} and {written['markdown']}"
        )


# --- what is asked for --------------------------------------------------------------------------------


def _read_temperature(text: str) -> float | None:
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"--temperature is {text!r}, but must be a number of 0 or more, or none.") from None


def _check_output(output: str | None, sotopia: str | None, store: str | None) -> None:
    from sotopia_env.evaluation.benchmark import timings_of

    if output is None:
        return
    path = Path(output)
    if path.is_dir() or not path.parent.is_dir() or path.suffix != ".json":
        raise ConfigurationError(
            f"--output {output!r} cannot be written: it must end in .json, its folder must exist, and it be no folder."
        )
    written = {"--output": path, "the file of timings beside it,": timings_of(path)}
    common.check_outputs(written, {"--sotopia": sotopia, "--store": store})


# --- what is shown ------------------------------------------------------------------------------------


def _show_estimate(policies: Mapping[str, str], protocol: Protocol, prices: Mapping[str, Price], as_json: bool) -> None:
    from sotopia_env.evaluation.benchmark import estimate

    uses = estimate(policies, protocol, prices)
    episodes = protocol.episodes(len(policies))
    if as_json:
        about = {"protocol": protocol.record(), "not_run": dict(protocol.not_run), "episodes": episodes}
        common.print_json({**about, **uses_record(uses)})
        return
    common.say(f"protocol {protocol.hash[:12]}", style="bold")
    for name, count in episodes.items():
        common.say(f"{name}: {common.counted(len(protocol.parts[name].tasks), 'task')}, {count} episodes")
    for name, reason in protocol.not_run.items():
        common.say(f"not run: {name}. {reason}")
    show_uses(uses)


def uses_record(uses: Sequence[Use]) -> dict[str, Any]:
    """An estimate as JSON values; "dollars" is null if some price is not known."""
    known = [use.dollars for use in uses if use.dollars is not None]
    return {
        "uses": [use._asdict() for use in uses],
        "tokens": sum(use.prompt_tokens + use.completion_tokens for use in uses),
        "dollars": sum(known) if len(known) == len(uses) else None,
    }


TALKS = "every talk to the turn limit, 40 words a move, 4 characters a token, no retries"
PROMPTS = "the prompts as they would be sent, 4 characters a token, 400 tokens a verdict, no retries"
"""What estimates rest on: of talks that nobody has had yet, and of verdicts on episodes that are there."""


def show_uses(uses: Sequence[Use], basis: str = TALKS) -> None:
    """Print an estimate: a row per model, and the sum; and what it rests on."""
    if not uses:
        common.say("No model is called: nothing to pay.")
        return
    columns = ("section", "role", "model", "calls", "prompt tokens", "completion tokens", "cost")
    common.say()
    common.print_table(columns, [_use_row(use) for use in uses], right=columns[3:])
    unpriced = sorted({use.model.partition("?")[0] for use in uses if use.dollars is None})
    if unpriced:
        common.say(f"No price is known of {', '.join(unpriced)}: give it with --price MODEL=PROMPT,COMPLETION.")
    together = uses_record(uses)
    known = sum(use.dollars for use in uses if use.dollars is not None)
    cost = f"${known:,.2f}" if together["dollars"] is not None else f"over ${known:,.2f}" if known else "unknown"
    common.say(f"together about {together['tokens']:,} tokens, cost {cost}")
    common.say(
        f"An estimate: {basis}. Hold the run to a limit with --max-tokens-total or --max-cost.",
        style="dim",
    )


def _use_row(use: Use) -> list[str]:
    cost = "?" if use.dollars is None else f"${use.dollars:,.2f}"
    numbers = (use.calls, use.prompt_tokens, use.completion_tokens)
    return [use.section, use.role, use.model, *(f"{number:,}" for number in numbers), cost]


def _show(results: Results, output: str | None) -> None:
    from sotopia_env.cli.evaluating import show

    for evaluation in results.evaluations.values():
        show(evaluation)
        common.say()
    for name, ids in results.served.items():
        common.say(f"{name} was served as {', '.join(ids)}")
    common.say(f"protocol {results.protocol['version']}, {results.protocol['hash']}", style="dim")
    if output is not None:
        common.say(f"Results: {output}. Compare files with `sotopia-env compare`.", style="dim")


def _record(results: Results, output: str | None) -> dict[str, Any]:
    return {
        "protocol": results.protocol,
        "not_run": results.not_run,
        "code": results.code,
        "served": results.served,
        "complete": results.complete,
        "sections": {name: evaluation.summary() for name, evaluation in results.evaluations.items()},
        "timings": results.timings,
        "output": output,
    }


def _report_failures(results: Results, store: str | None) -> int:
    from sotopia_env.cli.evaluating import _report_failures as report

    return max(report(evaluation, store) for evaluation in results.evaluations.values())


def _difference(one: Compared) -> list[str]:
    if one.found is None:
        return [one.section, one.measure, one.policy, "no play in common", "0", "-", "-", ""]
    return [
        one.section,
        one.measure,
        one.policy,
        one.found.estimate.text("+.2f"),
        str(one.found.estimate.tasks),
        _p(one.found.p),
        _p(one.p_holm),
        "*" if one.differs else "",
    ]


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"
