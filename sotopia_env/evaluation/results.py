"""What evaluations hold and come to: plays, the table of policies, paired differences, averages over seeds.

A play is one episode from the seat of the policy that is evaluated. An `Evaluation` keeps every number of
every play, so that differences between policies can be computed later, from saved files too; `combine`
averages evaluations of the same tasks over training seeds.
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import stat
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeInt, Strict

from sotopia_env.dimensions import DIMENSION_NAMES, OVERALL
from sotopia_env.errors import ConfigurationError, StoreError, one_line, unknown
from sotopia_env.evaluation.statistics import Estimate, Values, clustered, paired, rate

RECORD_VERSION = 1
"""Version of the record; a reader refuses a newer one instead of guessing."""

FIGURES = (
    "partner_goal",
    "self_minus_partner",
    "welfare",
    "pareto",
    "agreement",
    "secret_leaks",
    "words_per_turn",
    "turns",
    "parse_failures",
)
"""Measures of a play beside a judge's dimensions; docs/evaluation.md says what each is."""

SHARES = ("pareto", "agreement", "secret_leaks", "parse_failures")
"""Measures that lie between 0 and 1."""

_ORDER = (*dict.fromkeys(("goal", *DIMENSION_NAMES)), OVERALL, "reward", *FIGURES)

RESERVED = frozenset((*_ORDER[len(DIMENSION_NAMES) :], "policy", "tasks", "agent", "breakdown", "episodes", "seeds"))
"""Names that a judge's own dimension cannot have, for they mean something else in a row."""

_BY_ZONE = ("goal", "agreement")
"""Measures that stand in a row also for tasks with and without a zone of agreement apart."""


class Play(NamedTuple):
    """One complete episode from the seat of the policy.

    Attributes:
        task: Task id.
        family: Family of the task, or its pack where it has none.
        zone: Whether some agreement is good for all; `None` where nothing is computed.
        partner: Name of the agent in all other seats.
        seat: The policy's seat.
        repeat: Which repeat of the task.
        measures: Every number there is, by name; what does not exist is absent.
    """

    task: str
    family: str
    zone: bool | None
    partner: str
    seat: int
    repeat: int
    measures: dict[str, float]


@dataclass(frozen=True)
class Failures:
    """What was played and what of it gave no numbers.

    Attributes:
        episodes: How many were to be played.
        failed: How many broke off.
        judge_failed: How many have no verdict.
        messages: Errors in words, with how often each came up.
    """

    episodes: int
    failed: int = 0
    judge_failed: int = 0
    messages: dict[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """How many episodes gave no numbers."""
        return self.failed + self.judge_failed


Where = Callable[[Play], bool]
"""Which plays count."""

Row = tuple[str, str]
"""(policy, label of the tasks)."""


class Table(ABC):
    """Rows of policies: means with intervals, and differences between them."""

    settings: dict[str, Any]

    # --- what the two kinds of table do differently ---------------------------------------------------

    @property
    @abstractmethod
    def rows(self) -> list[Row]:
        """Every (policy, label of tasks), in the order of evaluation."""

    @abstractmethod
    def failures(self, policy: str, tasks: str) -> Failures:
        """What was played for a row and what of it gave no numbers."""

    @abstractmethod
    def _plays(self, policy: str, tasks: str) -> list[Sequence[Play]]:
        """The plays of a row, seed by seed."""

    # --- numbers --------------------------------------------------------------------------------------

    @property
    def policies(self) -> list[str]:
        """Every policy, in the order of evaluation."""
        return list(dict.fromkeys(policy for policy, _ in self.rows))

    @property
    def labels(self) -> list[str]:
        """Every label of tasks, in the order of evaluation."""
        return list(dict.fromkeys(tasks for _, tasks in self.rows))

    @property
    def complete(self) -> bool:
        """Whether every episode gave its numbers."""
        return not any(self.failures(*row).missing for row in self.rows)

    def measures(self, policy: str, tasks: str | None = None) -> list[str]:
        """The measures that a row has, the goal first."""
        row = self._row(policy, tasks)
        names = {name for plays in self._plays(*row) for play in plays for name in play.measures}
        return sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))

    def estimate(
        self, policy: str, measure: str = "goal", tasks: str | None = None, where: Where | None = None
    ) -> Estimate | None:
        """The mean of a measure with its interval clustered by task, or `None` where it does not exist.

        Shares have the interval of `statistics.rate`, which holds near 0 and 1 too; everything else Student's t.

        Args:
            policy: Label of a policy.
            measure: A dimension, or one of `FIGURES`.
            tasks: Label of tasks; may be left out if there is one only.
            where: Only plays for which this is true count.

        Raises:
            ConfigurationError: For an unknown policy or label.
        """
        by_seed = self._values(self._row(policy, tasks), measure, where)
        mean = rate if measure in SHARES else clustered
        found = mean(_over_seeds(by_seed))
        if found is None or len(by_seed) == 1:
            return found
        count = sum(len(values[task]) for values in by_seed for task in _common(by_seed))
        return Estimate(found.mean, found.low, found.high, count, found.tasks)

    def paired(
        self, a: str, b: str, measure: str = "goal", tasks: str | None = None, where: Where | None = None
    ) -> Estimate | None:
        """The mean over tasks of policy `a` minus policy `b`, on the plays both have; `n` counts tasks.

        Args:
            a: Label of a policy.
            b: Label of the one that is taken away.
            measure: A dimension, or one of `FIGURES`.
            tasks: Label of tasks; may be left out if there is one only.
            where: Only plays for which this is true count.

        Raises:
            ConfigurationError: For an unknown policy or label.
        """
        by_seed = self._matched(self._row(a, tasks), self._row(b, tasks), measure, where)
        first, second = (_over_seeds([pair[side] for pair in by_seed]) for side in (0, 1))
        return paired(first, second)

    def by_task(self, policy: str, measure: str = "goal", tasks: str | None = None) -> Values:
        """The values of a measure by task; averaged over seeds, one of each seed."""
        return _over_seeds(self._values(self._row(policy, tasks), measure, None))

    def _row(self, policy: str, tasks: str | None) -> Row:
        if policy not in self.policies:
            raise ConfigurationError(unknown("policy", policy, self.policies, "Evaluate it first."))
        if tasks is None:
            if len(self.labels) != 1:
                raise ConfigurationError(f"tasks is None, but there are several: {self.labels!r}. Name one.")
            tasks = self.labels[0]
        if (policy, tasks) not in self.rows:
            known = [label for name, label in self.rows if name == policy]
            raise ConfigurationError(unknown(f"tasks of policy {policy!r}", tasks, known))
        return policy, tasks

    def _values(self, row: Row, measure: str, where: Where | None) -> list[dict[str, list[float]]]:
        """Values by task, seed by seed."""
        by_seed = []
        for plays in self._plays(*row):
            values: dict[str, list[float]] = defaultdict(list)
            for play in plays:
                if measure in play.measures and (where is None or where(play)):
                    values[play.task].append(play.measures[measure])
            by_seed.append(dict(values))
        return by_seed

    def _matched(self, a: Row, b: Row, measure: str, where: Where | None = None) -> list[tuple[Values, Values]]:
        """Values by task of two rows, seed by seed, of the plays with the same task, partner, seat and repeat.

        Where an episode of one failed, the other's does not count either: it may have been the harder partner.
        """
        by_seed: list[tuple[Values, Values]] = []
        for plays in zip(self._plays(*a), self._plays(*b), strict=True):
            first, second = (
                {play[:6]: play for play in side if measure in play.measures and (where is None or where(play))}
                for side in plays
            )
            values: tuple[dict[str, list[float]], ...] = (defaultdict(list), defaultdict(list))
            for key in (key for key in first if key in second):
                for side, play in zip(values, (first[key], second[key]), strict=True):
                    side[play.task].append(play.measures[measure])
            by_seed.append((values[0], values[1]))
        return by_seed

    # --- records --------------------------------------------------------------------------------------

    def row(self, policy: str, tasks: str | None = None) -> dict[str, Any]:
        """One row as JSON values: every measure, the goal by zone, and its breakdown by partner, family and seat."""
        name, label = self._row(policy, tasks)
        record: dict[str, Any] = {"policy": name, "tasks": label, "agent": self.settings["policies"].get(name, name)}
        measures = self.measures(name, label)
        for measure in measures:
            record |= self._cell(measure, name, label, measure, None)
            if measure in _BY_ZONE:
                record |= self._cell(f"{measure}_zone", name, label, measure, lambda play: play.zone is True)
                record |= self._cell(f"{measure}_no_zone", name, label, measure, lambda play: play.zone is False)
        if "secret_leaks" in measures:
            record["secret_leaks"]["count"] = round(math.fsum(self._all(name, label, "secret_leaks")))
        failures = self.failures(name, label)
        record |= {"episodes": failures.episodes, "failed": failures.failed, "judge_failed": failures.judge_failed}
        record["breakdown"] = self._breakdown(name, label) if "goal" in measures else {}
        return record

    def _cell(self, key: str, policy: str, tasks: str, measure: str, where: Where | None) -> dict[str, Any]:
        found = self.estimate(policy, measure, tasks, where)
        if found is None:
            return {}
        record = found.record()
        by_seed = self._values((policy, tasks), measure, where)
        if len(by_seed) > 1:
            record["seeds"] = [one.mean if (one := clustered(values)) else None for values in by_seed]
        return {key: record}

    def _all(self, policy: str, tasks: str, measure: str) -> list[float]:
        plays = (play for seed in self._plays(policy, tasks) for play in seed)
        return [play.measures[measure] for play in plays if measure in play.measures]

    def _breakdown(self, policy: str, tasks: str) -> dict[str, Any]:
        ways: dict[str, Callable[[Play], str]] = {
            "partner": lambda play: play.partner,
            "family": lambda play: play.family,
            "seat": lambda play: f"agent_{play.seat}",
        }
        plays = [play for seed in self._plays(policy, tasks) for play in seed]
        found: dict[str, Any] = {}
        for way, of in ways.items():
            found[way] = {}
            for group in dict.fromkeys(map(of, plays)):
                cell = self._cell(group, policy, tasks, "goal", lambda play, of=of, group=group: of(play) == group)  # type: ignore[misc]
                found[way] |= cell
        return found

    def pairs(self, measure: str = "goal", tasks: str | None = None) -> list[dict[str, Any]]:
        """The paired differences of a measure between every two policies, later minus earlier, as JSON values.

        "n" counts tasks, and "tasks" is their label.
        """
        found = []
        for label in self.labels if tasks is None else [tasks]:
            names = [policy for policy, of in self.rows if of == label]
            for b, a in combinations(names, 2):
                difference = self.paired(a, b, measure, label)
                if difference is not None:
                    record = {"a": a, "b": b, "measure": measure, **_but(difference.record(), ["tasks"])}
                    found.append({**record, "tasks": label, **self._seeds_of_pair(a, b, measure, label)})
        return found

    def _seeds_of_pair(self, a: str, b: str, measure: str, tasks: str) -> dict[str, Any]:
        by_seed = self._matched((a, tasks), (b, tasks), measure)
        if len(by_seed) == 1:
            return {}
        each = [paired(first, second) for first, second in by_seed]
        return {"seeds": [_but(one.record(), ["tasks"]) if one is not None else None for one in each]}

    def summary(self) -> dict[str, Any]:
        """What it comes to as JSON values: rows, paired differences of the goal, settings, errors."""
        errors: dict[str, dict[str, Any]] = defaultdict(dict)
        for policy, tasks in self.rows:
            failures = self.failures(policy, tasks)
            if failures.missing:
                errors[policy][tasks] = _failures_record(failures)
        return {
            "version": RECORD_VERSION,
            "policies": [self.row(*row) for row in self.rows],
            "paired": self.pairs(),
            "settings": self.settings,
            "errors": dict(errors),
        }

    def record(self) -> dict[str, Any]:
        """The summary, and the goal of every play under "goals", by policy and label."""
        goals: dict[str, dict[str, list[float | None]]] = defaultdict(dict)
        for policy, tasks in self.rows:
            goals[policy][tasks] = [_short(goal) for goal in self._all(policy, tasks, "goal")]
        return {**self.summary(), "goals": dict(goals)}

    def save(self, path: str | Path) -> None:
        """Write the record as a JSON file, whole or not at all."""
        text = json.dumps(self.record(), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        write_whole(Path(path), text + "\n")


@dataclass(frozen=True)
class Evaluation(Table):
    """Policies against held-out partners: what `evaluate` returns.

    Evaluations of other policies, or on other tasks, under the same settings add up: `a + b`.

    Attributes:
        plays: By (policy, label of tasks), every complete play.
        failed: By the same, what was played and what of it gave no numbers.
        settings: Partners, judge, seed and whatever else must be the same for numbers to compare.
    """

    plays: dict[Row, tuple[Play, ...]] = field(repr=False)  # thousands of them
    failed: dict[Row, Failures]
    settings: dict[str, Any]

    @property
    def rows(self) -> list[Row]:
        """Every (policy, label of tasks), in the order of evaluation."""
        return list(self.plays)

    def failures(self, policy: str, tasks: str) -> Failures:
        """What was played for a row and what of it gave no numbers."""
        return self.failed[policy, tasks]

    def _plays(self, policy: str, tasks: str) -> list[Sequence[Play]]:
        return [self.plays[policy, tasks]]

    def __add__(self, other: Evaluation) -> Evaluation:
        """Both together.

        Raises:
            ConfigurationError: If their settings differ, so that their numbers do not compare, or if both
                hold a row and not the same one.
        """
        if not isinstance(other, Evaluation):
            return NotImplemented
        settings = _merged_settings(self.settings, other.settings)
        for row in self.plays.keys() & other.plays.keys():
            if (self.plays[row], self.failed[row]) != (other.plays[row], other.failed[row]):
                raise ConfigurationError(
                    f"Both evaluations hold policy {row[0]!r} on {row[1]!r}, with different results. "
                    "Drop one first: evaluation.without(policy)."
                )
        return Evaluation({**self.plays, **other.plays}, {**self.failed, **other.failed}, settings)

    def without(self, *policies: str) -> Evaluation:
        """All but the rows of some policies."""
        settings = {**self.settings, "policies": _but(self.settings["policies"], policies)}
        kept = [row for row in self.rows if row[0] not in policies]
        return Evaluation({row: self.plays[row] for row in kept}, {row: self.failed[row] for row in kept}, settings)

    def record(self) -> dict[str, Any]:
        """The whole as JSON values; `Evaluation.from_record` reads it back equal."""
        values: dict[str, dict[str, Any]] = defaultdict(dict)
        for policy, tasks in self.rows:
            values[policy][tasks] = _columns(self.plays[policy, tasks], self.failed[policy, tasks])
        return {**super().record(), "values": dict(values)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Evaluation:
        """Read a record back.

        Raises:
            StoreError: If it is no record of an evaluation, or one of a newer version.
        """
        version = record.get("version") if isinstance(record, Mapping) else None
        if isinstance(version, int) and version > RECORD_VERSION:
            raise StoreError(
                f"The evaluation has record version {version}; this package reads up to {RECORD_VERSION}. "
                "Upgrade sotopia-env to read it."
            )
        try:
            rows = [(row["policy"], row["tasks"]) for row in record["policies"]]
            tables = {row: _Columns.model_validate(record["values"][row[0]][row[1]]) for row in rows}
            return cls(
                {row: _plays_of(table) for row, table in tables.items()},
                {row: Failures(**dict(table.failures)) for row, table in tables.items()},
                {**record["settings"], **dict(_Settings.model_validate(record["settings"]))},
            )
        except (LookupError, TypeError, ValueError) as error:
            raise StoreError(
                f"This is no record of an evaluation ({one_line(error, 120)}). Pass what Evaluation.record() gave; one "
                "of combined evaluations holds no plays."
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read a saved evaluation.

        Raises:
            StoreError: If the file holds none.
            OSError: If it cannot be read.
        """
        try:
            return cls.from_record(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise StoreError(f"{str(path)!r} is not valid JSON: {error}.") from error
        except StoreError as error:
            raise StoreError(f"{str(path)!r}: {error}") from error


@dataclass(frozen=True)
class Combined(Table):
    """Evaluations of the same policies on the same tasks, one of each training seed.

    A measure is averaged per task over seeds, and the interval is clustered by task: it speaks of other
    tasks, not of other seeds, whose own means stand beside it. Tasks count that every seed has.

    Attributes:
        evaluations: One of each seed.
        settings: Those of all of them.
    """

    evaluations: tuple[Evaluation, ...]
    settings: dict[str, Any]

    @property
    def rows(self) -> list[Row]:
        """Every (policy, label of tasks) that all seeds have."""
        return [row for row in self.evaluations[0].rows if all(row in other.rows for other in self.evaluations)]

    def failures(self, policy: str, tasks: str) -> Failures:
        """What was played for a row over all seeds and what of it gave no numbers."""
        each = [evaluation.failures(policy, tasks) for evaluation in self.evaluations]
        messages: Counter[str] = Counter()
        for one in each:
            messages.update(one.messages)
        return Failures(
            sum(one.episodes for one in each),
            sum(one.failed for one in each),
            sum(one.judge_failed for one in each),
            dict(messages),
        )

    def _plays(self, policy: str, tasks: str) -> list[Sequence[Play]]:
        return [evaluation.plays[policy, tasks] for evaluation in self.evaluations]


def combine(evaluations: Iterable[Evaluation]) -> Combined:
    """Average evaluations over training seeds: per task first, then over tasks.

    Args:
        evaluations: One of each seed, with the same labels for policies and the same settings; policies
            that not all have are left out. The agents behind a label may differ.

    Raises:
        ConfigurationError: If there is none, their settings differ, or they have no row in common.
    """
    found = tuple(evaluations)
    if not found:
        raise ConfigurationError("combine got no evaluations. Pass one of each training seed.")
    settings = {**found[0].settings, "policies": {}}
    for other in found[1:]:
        settings = _merged_settings(settings, {**other.settings, "policies": {}})
    agents = {policy: [one.settings["policies"].get(policy) for one in found] for policy in found[0].policies}
    names = {policy: each[0] if len(set(each)) == 1 else each for policy, each in agents.items()}
    table = Combined(found, {**settings, "policies": names, "seeds": len(found)})
    if not table.rows:
        raise ConfigurationError(
            f"The evaluations have no policy in common: {[one.policies for one in found]!r:.200}. "
            "Give the same policy the same label in each."
        )
    return table


# --- seeds ------------------------------------------------------------------------------------------


def _common(by_seed: Sequence[Values]) -> list[str]:
    """The tasks that every seed has, in the order of the first."""
    return [task for task in by_seed[0] if all(task in values for values in by_seed)]


def _over_seeds(by_seed: Sequence[Values]) -> Values:
    """Values by task; of several seeds, each seed's mean of the task."""
    if len(by_seed) == 1:
        return by_seed[0]
    return {task: [math.fsum(values[task]) / len(values[task]) for values in by_seed] for task in _common(by_seed)}


# --- settings ---------------------------------------------------------------------------------------


def _merged_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    for name in dict.fromkeys((*a, *b)):
        if name in ("policies", "tasks"):
            known = {key: value for key, value in b.get(name, {}).items() if key in a.get(name, {})}
            wrong = next((key for key, value in known.items() if a[name][key] != value), None)
            if wrong is not None:
                raise ConfigurationError(
                    f"The evaluations differ in settings.{name}.{wrong}: {a[name][wrong]!r:.120} and "
                    f"{b[name][wrong]!r:.120}. Only what was played the same way compares."
                )
        elif a.get(name) != b.get(name):
            raise ConfigurationError(
                f"The evaluations differ in settings.{name}: {a.get(name)!r:.120} and {b.get(name)!r:.120}. "
                "Only what was played the same way compares."
            )
    both = {name: {**a.get(name, {}), **b.get(name, {})} for name in ("policies", "tasks")}
    return {**a, **both}


def _but(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    left_out = set(names)
    return {name: value for name, value in values.items() if name not in left_out}


# --- plays as columns -------------------------------------------------------------------------------


def _columns(plays: Sequence[Play], failures: Failures) -> dict[str, Any]:
    """Plays as one list per field, names by number: a third of the size of one object per play."""
    tasks = list(dict.fromkeys((play.task, play.family, play.zone) for play in plays))
    partners = list(dict.fromkeys(play.partner for play in plays))
    task_at = {task: place for place, task in enumerate(tasks)}
    partner_at = {partner: place for place, partner in enumerate(partners)}
    names = list(dict.fromkeys(name for play in plays for name in play.measures))
    return {
        "tasks": [list(task) for task in tasks],
        "partners": partners,
        "task": [task_at[play.task, play.family, play.zone] for play in plays],
        "partner": [partner_at[play.partner] for play in plays],
        "seat": [play.seat for play in plays],
        "repeat": [play.repeat for play in plays],
        "measures": {name: [_short(play.measures.get(name)) for play in plays] for name in names},
        "failures": _failures_record(failures),
    }


def _short(value: float | None) -> float | None:
    """A number as short as JSON has it: 10 for 10.0."""
    return int(value) if value is not None and value == int(value) else value


class _Kept(BaseModel):
    """What a record must hold: nothing is taken for something of another kind."""

    model_config = ConfigDict(strict=True)


class _Failures(_Kept):
    episodes: NonNegativeInt
    failed: NonNegativeInt
    judge_failed: NonNegativeInt
    messages: dict[str, NonNegativeInt]


class _Columns(_Kept):
    tasks: list[Annotated[tuple[str, str, bool | None], Strict(False)]]  # JSON has no tuples
    partners: list[str]
    task: list[NonNegativeInt]
    partner: list[NonNegativeInt]
    seat: list[NonNegativeInt]
    repeat: list[NonNegativeInt]
    measures: dict[str, list[float | None]]
    failures: _Failures


class _Settings(_Kept):
    policies: dict[str, str]
    tasks: dict[str, Any]


def _plays_of(table: _Columns) -> tuple[Play, ...]:
    columns = zip(table.task, table.partner, table.seat, table.repeat, strict=True)
    measures = [[(name, value) for value in column] for name, column in table.measures.items()]
    plays = []
    for (task, partner, seat, repeat), *values in zip(columns, *measures, strict=True):
        found = {measure: value for measure, value in values if value is not None}
        name, family, zone = table.tasks[task]
        plays.append(Play(name, family, zone, table.partners[partner], seat, repeat, found))
    return tuple(plays)


def _failures_record(failures: Failures) -> dict[str, Any]:
    return {
        "episodes": failures.episodes,
        "failed": failures.failed,
        "judge_failed": failures.judge_failed,
        "messages": failures.messages,
    }


# --- files --------------------------------------------------------------------------------------------


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    part = _beside(path)
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Try whether `write_whole` could write a file, and leave nothing behind.

    Raises:
        OSError: If it could not.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileExistsError("there is something else than a file")
    part = _beside(path)
    part.open("x").close()
    part.unlink()


def _beside(path: Path) -> Path:
    """A short name in the same folder: a name that is allowed must not be too long with something added."""
    return path.with_name(f".{secrets.token_hex(4)}.part")
