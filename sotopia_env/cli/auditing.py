"""`sotopia-env audit`: a judge against computed outcomes and human ratings, and whether it flatters the trained."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sotopia_env.budgets import check_payable
from sotopia_env.cli import common
from sotopia_env.cli.sources import FileSource, Source, StoreSource, open_source
from sotopia_env.cli.spending import limited
from sotopia_env.errors import ConfigurationError, one_line, unknown

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode
    from sotopia_env.evaluation.audit import Audit, Comparison, Row
    from sotopia_env.evaluation.ratings import Rating
    from sotopia_env.evaluation.statistics import Difference, Estimate
    from sotopia_env.judges.base import Judge

OUTCOME = "outcome"


def run(
    *,
    source: str,
    judge: str | None,
    base: str | None,
    trained: Sequence[str],
    policies: Sequence[str],
    ratings: str | None,
    n: int | None,
    plays: int | None,
    ask: bool,
    dimensions: Sequence[str],
    reward: str | None,
    concurrency: int,
    seed: int,
    output: str | None,
    page: str | None,
    base_url: str | None,
    max_tokens_total: int | None,
    max_cost: float | None,
    prices: Sequence[str],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Judge what has no verdict yet, audit, print, and return the exit code: 0 only if every verdict is there."""
    from sotopia_env.evaluation.ratings import read_ratings

    opened, played = _open(source)
    try:
        read = {"the source": _files(source), "--ratings": ratings}
        common.check_outputs({"--output": output, "--page": page}, read)
        given = read_ratings(ratings) if ratings is not None else []
        index = _index(opened)
        who = _who(played, base, trained, policies, index)
        wanted = _wanted(
            opened,
            index,
            who,
            given,
            judge=judge,
            dimensions=dimensions,
            n=n,
            plays=plays,
            ask=ask,
            seed=seed,
            base_url=base_url,
        )
        if dry_run:
            return _estimate(wanted, prices, as_json)
        kept = opened.location if isinstance(opened, StoreSource) else None
        with limited(max_tokens_total, max_cost, prices, kept=kept, where="an episode store as SOURCE"):
            found, complaint = _audit(wanted, who, reward=reward, concurrency=concurrency, seed=seed, quiet=quiet)
    finally:
        if isinstance(opened, StoreSource):
            opened.store.close()
    record = {**found.record(), "labels": who.labels}
    if output is not None:
        _write(output, json.dumps(record, ensure_ascii=True, allow_nan=False, indent=1) + "\n")
    if page is not None:
        _write(page, render(found, who.labels))
    if as_json:
        common.print_json(record)
    else:
        show(found, who.labels)
    if complaint is not None:
        common.log(complaint)
    return 1 if complaint is not None else 0


class _Wanted(NamedTuple):
    """What is to be audited: the chosen episodes, their ratings, whose verdicts, how many are missing, who has some."""

    source: Source
    ratings: list[Rating]
    asked: _Stored | _Asked
    missing: int
    judged: set[str]


def _wanted(
    source: Source,
    index: Sequence[_Entry],
    who: _Who,
    ratings: Sequence[Rating],
    *,
    judge: str | None,
    dimensions: Sequence[str],
    n: int | None,
    plays: int | None,
    ask: bool,
    seed: int,
    base_url: str | None,
) -> _Wanted:
    """Choose, before anybody is asked."""
    from sotopia_env.evaluation.audit import check_policies
    from sotopia_env.evaluation.ratings import check_ratings

    ratings = check_ratings(ratings, {one.id: one.agent_ids for one in index})
    check_policies(who.base, who.trained)
    chosen = _choose(index, who.policies, ratings, n, plays, seed)
    ids = {one.id for one in chosen}
    asked, missing = _whom_to_ask(judge, chosen, ask, base_url, dimensions)
    judged = {name for one in chosen if asked.name in one.judges for name in one.agents}
    kept = [rating for rating in ratings if rating.episode in ids]
    return _Wanted(_only(source, chosen), kept, asked, missing, judged)


def _estimate(wanted: _Wanted, prices: Sequence[str], as_json: bool) -> int:
    from sotopia_env.cli.judging import estimate

    judge = wanted.asked.judge if isinstance(wanted.asked, _Asked) else None
    missing = [one for one in wanted.source.episodes() if judge is not None and judge.name not in one.verdicts]
    return estimate(judge, missing, prices, as_json)


def _audit(
    wanted: _Wanted, who: _Who, *, reward: str | None, concurrency: int, seed: int, quiet: bool
) -> tuple[Audit, str | None]:
    """Have judged what is not yet, and audit; also what to complain about."""
    from sotopia_env.evaluation.audit import audit

    complaint: str | None = None
    episodes: Iterable[Episode] = wanted.source.episodes()
    judged = wanted.judged
    if wanted.missing:
        assert isinstance(wanted.asked, _Asked), "only one who can be asked has verdicts missing"
        check_payable([wanted.asked.judge])
        asked, complaint = _ask(wanted.source, wanted.asked.judge, reward, concurrency, quiet)
        episodes = asked
        judged = {name for one in asked if wanted.asked.name in one.verdicts for name in one.agents.values()}
    trained, policies = who.trained, who.policies
    if policies is not None:  # of those that nobody named, a run's own, the ones without a verdict are left out
        policies = [name for name in policies if name in who.named | judged]
        trained = [name for name in trained if name in who.named | judged] or trained
    found = audit(
        episodes,
        wanted.asked.name,
        base=who.base,
        trained=trained,
        policies=policies,
        ratings=wanted.ratings,
        seed=seed,
    )
    return found, complaint


# --- what is audited ----------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """What the choice of episodes needs to know of one."""

    id: str
    key: str
    task: str
    agents: tuple[str, ...]
    agent_ids: tuple[str, ...]
    repeat: int
    judges: frozenset[str]
    has_outcome: bool


@dataclass(frozen=True)
class _Who:
    """Names of agents (no policies: everyone), the short labels a run has for them, and which were asked for."""

    base: str | None
    trained: list[str]
    policies: list[str] | None
    labels: dict[str, str]
    named: set[str]


def _open(location: str) -> tuple[Source, dict[str, Any] | None]:
    """The episodes of a store, a JSONL file, or a run's evaluation; and of a run what its policies are called."""
    folder = Path(location)
    if "://" in location or not folder.is_dir():
        return open_source(location), None
    played = _run_policies(folder)
    return open_source(str(folder / "episodes" / "evaluation.db")), played


def _run_policies(folder: Path) -> dict[str, Any]:
    path = folder / "evaluation.json"
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["settings"]["policies"]
        labels = {str(label): str(name) for label, name in named.items()}
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{str(folder)!r} has no evaluation.json: it is no run folder, or its evaluation has not been played yet. "
            "Finish it with `sotopia-env pi`, or pass an episode store."
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{str(path)!r} is no evaluation of a run ({one_line(error, 80)}).") from error
    made = [label for label in labels if label and Path(label).name == label and (folder / "policies" / label).is_dir()]
    return {"labels": labels, "trained": [label for label in made if label != "base"]}


def _index(source: Source) -> list[_Entry]:
    from sotopia_env.rules import rules_of

    found = [
        _Entry(
            episode.id,
            episode.key,
            episode.task.id,
            tuple(episode.agents[agent] for agent in episode.task.agents),
            episode.task.agents,
            episode.repeat,
            frozenset(episode.verdicts),
            OUTCOME in episode.verdicts or rules_of(episode.task) is not None,
        )
        for episode in source.episodes()
        if episode.ended_by is not None
    ]
    if not found:
        raise ConfigurationError(
            f"{common.without_password(source.location)!r} holds no episode that came to an end. Play some first: "
            "`sotopia-env rollout` or `sotopia-env evaluate`."
        )
    return found


def _who(
    played: Mapping[str, Any] | None,
    base: str | None,
    trained: Sequence[str],
    policies: Sequence[str],
    index: Sequence[_Entry],
) -> _Who:
    """Whole names of the policies that are asked for; of a run its base, its trained ones and all it evaluated."""
    labels: dict[str, str] = dict(played["labels"]) if played else {}
    known = sorted({name for one in index for name in one.agents})
    given = [*([base] if base is not None else []), *trained, *policies]
    named = {_whole_name(name, labels, known) for name in given}
    if played and base is None and not trained and "base" in labels and played["trained"]:
        base, trained = "base", played["trained"]
    whole_base = None if base is None else _whole_name(base, labels, known)
    whole_trained = [_whole_name(name, labels, known) for name in dict.fromkeys(trained)]
    asked = [_whole_name(name, labels, known) for name in policies]
    if not asked and played:
        asked = [name for name in labels.values() if name in known]
    compared = [*([whole_base] if whole_base is not None else []), *whole_trained]
    wanted = list(dict.fromkeys([*compared, *asked])) or None
    shown: dict[str, str] = {}
    for label, name in labels.items():  # SR for which the filter kept nothing is the base: its first label is shown
        if wanted is None or name in wanted:
            shown.setdefault(name, label)
    return _Who(whole_base, whole_trained, wanted, shown, named)


def _whole_name(name: str, labels: Mapping[str, str], known: Sequence[str]) -> str:
    """An agent's name, given itself, by its label in a run, or by a beginning that no other has."""
    wanted = labels.get(name, name)
    if wanted in known:
        return wanted
    matching = [other for other in known if wanted and other.startswith(wanted)]
    if len(matching) != 1:
        raise ConfigurationError(unknown("policy", name, [*labels, *known]))
    return matching[0]


def _choose(
    index: Sequence[_Entry],
    policies: Sequence[str] | None,
    ratings: Sequence[Rating],
    n: int | None,
    plays: int | None,
    seed: int,
) -> list[_Entry]:
    """Episodes with a reference in which one of the policies plays (no policies: all); so many tasks and plays of each.

    A play is a seat against certain others in a certain repeat: the same ones are drawn for every policy.
    """
    rated = {rating.episode for rating in ratings}
    wanted = set(policies) if policies is not None else {name for one in index for name in one.agents}
    found = [one for one in index if (one.has_outcome or one.id in rated) and wanted & set(one.agents)]
    if not found:
        raise ConfigurationError(
            "No episode of these policies has a computed outcome, and no rating is of one. Audit episodes of outcome "
            "tasks, or give --ratings."
        )
    tasks = sorted({one.task for one in found})
    if n is not None and n < len(tasks):
        kept = set(random.Random(seed).sample(tasks, n))
        found = [one for one in found if one.task in kept]
    if plays is None:
        return found
    situations: dict[str, set[str]] = {}
    for one in found:
        situations.setdefault(one.task, set()).update(_situations(one, wanted))
    drawn = {
        task: set(random.Random(f"{seed}/{task}").sample(sorted(of), min(plays, len(of))))
        for task, of in situations.items()
    }
    return [one for one in found if drawn[one.task] & _situations(one, wanted)]


def _situations(one: _Entry, policies: set[str]) -> set[str]:
    """From each seat of a policy: the seat, who sits in the others, and the repeat."""
    others = [None if name in policies else name for name in one.agents]
    return {json.dumps([seat, others, one.repeat]) for seat, name in enumerate(one.agents) if name in policies}


class _ChosenFromStore(StoreSource):
    def __init__(self, source: StoreSource, keys: Sequence[str]) -> None:
        super().__init__(source.store)
        self._keys = keys

    def episodes(self) -> Iterator[Episode]:
        """The chosen ones."""
        from sotopia_env.store import StoredEpisodes

        return iter(StoredEpisodes(self.store, self._keys))


class _ChosenFromFile(FileSource):
    def __init__(self, source: FileSource, ids: Iterable[str]) -> None:
        super().__init__(Path(source.location))
        self._ids = set(ids)

    def episodes(self) -> Iterator[Episode]:
        """The chosen ones."""
        return (episode for episode in super().episodes() if episode.id in self._ids)


def _only(source: Source, chosen: Sequence[_Entry]) -> Source:
    if isinstance(source, StoreSource):
        return _ChosenFromStore(source, [one.key for one in chosen])
    assert isinstance(source, FileSource), "a source is a store or a file"
    return _ChosenFromFile(source, [one.id for one in chosen])


# --- whose verdicts -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stored:
    """A judge whose verdicts are all there."""

    name: str


@dataclass(frozen=True)
class _Asked:
    """A judge that can be asked."""

    judge: Judge

    @property
    def name(self) -> str:
        return self.judge.name


def _whom_to_ask(
    judge: str | None, chosen: Sequence[_Entry], ask: bool, base_url: str | None, dimensions: Sequence[str]
) -> tuple[_Stored | _Asked, int]:
    """The judge, and how many verdicts it has still to give.

    Raises:
        ConfigurationError: If it is neither the name of a judge that gave verdicts nor a judge that can be made.
    """
    known = sorted({name for one in chosen for name in one.judges})
    if judge is None:
        others = [name for name in known if name != OUTCOME]
        if len(others) != 1:
            raise ConfigurationError(
                f"Which judge? Verdicts are there of {known or 'nobody'}. Name one of them, or one that judges now: "
                "--judge openai/gpt-4o."
            )
        judge = others[0]
    if judge in known and not dimensions:
        missing = sum(judge not in one.judges for one in chosen)
        if not missing or not ask:
            return _Stored(judge), 0
    elif not ask and not dimensions:
        raise ConfigurationError(unknown("judge", judge, known, "With --no-ask it must have given verdicts."))
    if judge == "none":
        raise ConfigurationError("--judge 'none' gives no verdicts. Name a judge, such as openai/gpt-4o.")
    try:
        made = common.make_judge(judge, base_url, dimensions)
    except ConfigurationError as error:
        if judge in known and not dimensions:
            raise ConfigurationError(
                f"{missing} of {len(chosen)} episodes have no verdict of {judge!r}, and it cannot be asked: {error} "
                "Add --no-ask to audit the others."
            ) from error
        raise ConfigurationError(f"{error} Verdicts are there of {known or 'nobody'}.") from error
    assert made is not None, "only 'none' makes none"
    if not ask:
        if made.name not in known:
            raise ConfigurationError(unknown("judge", made.name, known, "With --no-ask it must have given verdicts."))
        return _Stored(made.name), 0
    return _Asked(made), sum(made.name not in one.judges for one in chosen)


def _ask(
    source: Source, judge: Judge, reward: str | None, concurrency: int, quiet: bool
) -> tuple[list[Episode], str | None]:
    """Have everything judged that is not yet; a store keeps each verdict at once.

    Raises:
        ConfigurationError: If the judge gave not one verdict.
    """
    from sotopia_env.cli.judging import REWARD, _chosen, _judge_all
    from sotopia_env.judges.base import check_reward

    if isinstance(source, FileSource):
        common.log(f"{source.location} is a file, which stays as it is: verdicts given now are not kept.")
    chosen, _ = _chosen(source, None)
    wanted = common.read_reward(reward or REWARD)
    if reward is not None:
        check_reward(judge, wanted, [episode.task for episode in chosen])
    report = _judge_all(source, chosen, judge, wanted, reward is not None, False, concurrency, quiet)
    failed = [one.error for one in report.judged if one.error is not None]
    if len(failed) == len(report.judged):
        raise ConfigurationError(
            f"Judge {judge.name!r} gave no verdict on any of {common.counted(len(failed), 'episode')}; the first time: "
            f"{failed[0]}"
        )
    complaint = None
    if failed:
        complaint = (
            f"error: {judge.name} gave no verdict on {len(failed)} of {common.counted(len(report.judged), 'episode')}, "
            f"which are left out; the first time: {failed[0]}"
        )
    return [one.episode for one in report.judged], complaint


# --- what is shown ------------------------------------------------------------------------------------


class _Table(NamedTuple):
    """A table of words and, after `words` columns, numbers."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[list[Any]]
    words: int


_QUESTION = "Is the judge's bias larger for trained policies than for the base?"

_COLUMNS = {
    "bias": "bias",
    "mae": "abs. error",
    "within_one": "within 1",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "slope": "slope",
    "kappa": "kappa",
    "alpha": "alpha",
}
"""Title of a figure's column."""


def _tables(found: Audit, labels: Mapping[str, str]) -> list[_Table]:
    """Everything an audit came to; cells are text, estimates or differences."""
    tables = []
    columns: tuple[str, ...]
    for reference in dict.fromkeys(one.reference for one in found.comparisons):
        rows = [_comparison(one, labels) for one in found.comparisons if one.reference == reference]
        columns = (
            "scores", "dimension", "policy", "gain by judge", f"gain by {reference}", "bias larger by", "p",
            f"at equal {reference}", "bias is",
        )  # fmt: skip
        base = labels.get(found.base or "", found.base)
        note = (
            f"Each policy minus {base}, with 95% intervals clustered by task. Judges that know nothing: 'constant' "
            "always gives the same score, 'shuffled' deals out the judge's own scores at random."
        )
        tables.append(_Table(f"{_QUESTION} ({reference})", note, columns, rows, 3))
    for reference in dict.fromkeys(row.reference for row in found.rows):
        rows = [_cells(row, labels) for row in found.rows if row.reference == reference]
        columns = ("scores", "dimension", "policy", "n", "tasks", "judge", reference, *_COLUMNS.values())
        note = f"Bias is judge minus {reference}; slope is the rise of the judge's score with one point of it."
        tables.append(_Table(f"The judge against {reference}", note, columns, rows, 3))
    if found.raters:
        rows = [
            [
                one.dimension,
                "with the judge" if one.judge else "humans",
                str(one.raters),
                str(one.within_one.n),
                one.within_one,
                one.kappa,
                one.alpha,
            ]
            for one in found.raters
        ]
        columns = ("dimension", "among", "raters", "n", "within 1", "kappa", "alpha")
        tables.append(_Table("Agreement of raters", "Of agents with two scores or more.", columns, rows, 2))
    return tables


def _comparison(one: Comparison, labels: Mapping[str, str]) -> list[Any]:
    p = "-" if one.bias.p is None else "<0.001" if one.bias.p < 0.001 else f"{one.bias.p:.3f}"
    how = one.answer if one.bias.paired else f"{one.answer} (unpaired)"
    policy = labels.get(one.policy, one.policy)
    return [one.scores, one.dimension, policy, one.judged, one.referred, one.bias, p, one.matched, how]


def _cells(row: Row, labels: Mapping[str, str]) -> list[Any]:
    policy = labels.get(row.policy, row.policy)
    counts = (str(row.judged.n), str(row.judged.tasks))
    figures = [row.figures[name] for name in _COLUMNS]
    return [row.scores, row.dimension, policy, *counts, row.judged.mean, row.referred.mean, *figures]


_WITH_INTERVAL = {"gain by judge", "bias larger by", "bias"}


def show(found: Audit, labels: Mapping[str, str]) -> None:
    """Print the tables; of the judges that know nothing only the goal, and few intervals. --json has all."""
    counts = found.counts
    missing = {"broke off": counts.broken_off, f"without a verdict of {found.judge}": counts.unjudged}
    missing["without a reference"] = counts.unreferred
    rest = "; ".join(f"{count} {what}" for what, count in missing.items() if count)
    common.say(f"{found.judge}: {common.counted(counts.episodes, 'episode')}" + (f" ({rest})" if rest else ""))
    for table in _tables(found, labels):
        common.say()
        common.say(table.title, style="bold")
        rows = [row for row in table.rows if row[0] not in ("constant", "shuffled") or row[1] == "goal"]
        cells = [
            [
                _shown(cell, name in _WITH_INTERVAL or name.startswith("at equal"))
                for name, cell in zip(table.columns, row, strict=True)
            ]
            for row in rows
        ]
        common.print_table(table.columns, cells, right=table.columns[table.words :])
        common.say(table.note, style="dim")


def _shown(cell: Any, interval: bool) -> str:
    form = ".2f"
    if isinstance(cell, (str, float)):
        return cell if isinstance(cell, str) else f"{cell:.2f}"
    estimate = _estimate_of(cell)
    if estimate is None:
        return "-"
    return estimate.text(form) if interval else f"{estimate.mean:.2f}"


def _estimate_of(cell: Estimate | Difference | None) -> Estimate | None:
    from sotopia_env.evaluation.statistics import Difference

    return cell.estimate if isinstance(cell, Difference) else cell


def render(found: Audit, labels: Mapping[str, str]) -> str:
    """The audit as an HTML page of its own: every number with its interval, all text escaped."""
    from sotopia_env.evaluation.report import _Estimate, _join, _note, _page, _section, _table, _tag

    def cell(value: Any) -> object:
        if isinstance(value, (str, float)):
            return value if isinstance(value, str) else f"{value:.2f}"
        estimate = _estimate_of(value)
        return "-" if estimate is None else _Estimate(estimate.mean, estimate.low, estimate.high, None).cell()

    title = f"Audit of judge {found.judge}"
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.counts._asdict().items())
    sections = [
        _section(
            table.title,
            _note(table.note),
            _table(table.columns, ([cell(value) for value in row] for row in table.rows), text=table.words),
        )
        for table in _tables(found, labels)
    ]
    return _page(title, _join([_tag("h1", title), _note(counts), *sections]))


# --- files --------------------------------------------------------------------------------------------


def _files(source: str) -> list[str | Path]:
    """What an audit of a source must not replace: the store or file, or the files of a run."""
    folder = Path(source)
    if "://" in source or not folder.is_dir():
        return [source]
    names = ("manifest.json", "evaluation.json", "report.json", "report.html")
    return [*(folder / name for name in names), *(path for path in folder.iterdir() if path.is_dir())]


def _write(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    from sotopia_env.evaluation.report import _write as write_whole

    write_whole(Path(path), text)
