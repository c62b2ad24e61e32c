"""What a set of episodes comes to: counts, means with bootstrap intervals, and the tables that show them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sotopia_env.cli.common import print_table

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode

RESAMPLES = 2000
"""Bootstrap resamples behind every interval."""

ZONE, NO_ZONE = "zone", "no zone"


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval.

    Attributes:
        mean: Mean over tasks of each task's mean.
        low, high: Percentile bootstrap interval over tasks; `None` with fewer than two tasks.
        count: How many values there were.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    def text(self, digits: int = 2) -> str:
        """The mean, and the interval if there is one."""
        if self.low is None or self.high is None:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def record(self) -> dict[str, float | None]:
        """As JSON values."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "count": self.count}


class Values:
    """Numbers by task. Repeats of one task are no independent samples, so intervals are over tasks."""

    def __init__(self) -> None:
        self._by_task: dict[str, list[float]] = defaultdict(list)

    def add(self, task: str, value: float) -> None:
        """Take one number of a task's."""
        self._by_task[task].append(value)

    def estimate(self, seed: int) -> Estimate | None:
        """Mean and interval, or None if there is no number."""
        if not self._by_task:
            return None
        # In the order of the ids, so that the order of episodes does not change the resamples.
        means = np.array([np.mean(self._by_task[task]) for task in sorted(self._by_task)])
        count = sum(map(len, self._by_task.values()))
        if len(means) < 2:
            return Estimate(float(means.mean()), None, None, count)
        draws = np.random.default_rng(seed).integers(len(means), size=(RESAMPLES, len(means)))
        low, high = np.percentile(means[draws].mean(axis=1), [2.5, 97.5])
        return Estimate(float(means.mean()), float(low), float(high), count)


@dataclass
class SeatSummary:
    """One seat over all episodes; `scores` by dimension, `goals` by zone."""

    names: Counter[str] = field(default_factory=Counter)
    moves: int = 0
    parse_failures: int = 0
    rewards: Values = field(default_factory=Values)
    scores: dict[str, Values] = field(default_factory=lambda: defaultdict(Values))
    goals: dict[str, Values] = field(default_factory=lambda: defaultdict(Values))
    usage: Counter[str] = field(default_factory=Counter)


class Summary:
    """Counts over episodes that may be too many to hold.

    Args:
        judge: Whose verdicts count; `None` for no verdicts.
        seed: Of the bootstrap.
    """

    def __init__(self, judge: str | None, seed: int = 0) -> None:
        self.judge = judge
        self.seed = seed
        self.statuses: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.seats: dict[str, SeatSummary] = {}
        self.deals: dict[str, Values] = defaultdict(Values)
        self.welfare: dict[str, Values] = defaultdict(Values)
        self.judge_usage: Counter[str] = Counter()

    def add_all(self, episodes: Iterable[Episode]) -> Summary:
        """Take episodes and return self."""
        for episode in episodes:
            self.add(episode)
        return self

    def add(self, episode: Episode) -> None:
        """Take one episode."""
        self.statuses[episode.status] += 1
        if episode.ended_by is not None:
            self.ends[episode.ended_by] += 1
        if episode.error is not None:
            self.errors[episode.error] += 1
        for agent, name in episode.agents.items():
            seat = self.seats.setdefault(agent, SeatSummary())
            seat.names[name] += 1
            seat.usage.update(episode.usage.get(agent, {}))
            if agent in episode.rewards:
                seat.rewards.add(episode.task.id, episode.rewards[agent])
        for event in episode.events:
            if event.speaker in self.seats:
                self.seats[event.speaker].moves += 1
                self.seats[event.speaker].parse_failures += event.parse_failure
        if self.judge is not None:
            self.judge_usage.update(episode.usage.get(self.judge, {}))
            self._add_verdict(episode, self.judge)

    def _add_verdict(self, episode: Episode, judge: str) -> None:
        verdict = episode.verdicts.get(judge)
        if verdict is None:
            return
        zone = {1.0: ZONE, 0.0: NO_ZONE}.get(verdict.measures.get("zone", -1.0))
        for agent in verdict.scores:
            for name, value in verdict.values(agent).items():
                self.seats[agent].scores[name].add(episode.task.id, value)
                if name == "goal" and zone is not None:
                    self.seats[agent].goals[zone].add(episode.task.id, value)
        if zone is not None:
            self.deals[zone].add(episode.task.id, verdict.measures["deal"])
            self.welfare[zone].add(episode.task.id, verdict.measures["welfare"])

    @property
    def count(self) -> int:
        """How many episodes."""
        return sum(self.statuses.values())

    def estimate(self, values: Values) -> Estimate | None:
        """Mean and interval with this summary's bootstrap seed."""
        return values.estimate(self.seed)

    def record(self) -> dict[str, Any]:
        """As JSON values; a mean that does not exist is null, never 0."""
        return {
            "episodes": self.count,
            "status": {name: self.statuses[name] for name in ("complete", "failed", "judge_failed")},
            "ended_by": dict(sorted(self.ends.items())),
            "errors": dict(self.errors.most_common()),
            "judge": self.judge,
            "seats": {agent: self._seat_record(seat) for agent, seat in sorted(self.seats.items())},
            "tasks": {
                zone.replace(" ", "_"): {
                    "deals": self._record(self.deals[zone]),
                    "welfare": self._record(self.welfare[zone]),
                }
                for zone in (ZONE, NO_ZONE)
                if zone in self.deals
            },
            "judge_usage": dict(self.judge_usage),
        }

    def _seat_record(self, seat: SeatSummary) -> dict[str, Any]:
        return {
            "agent": " | ".join(sorted(seat.names)),
            "moves": seat.moves,
            "parse_failures": seat.parse_failures,
            "scores": {name: self._record(values) for name, values in sorted(seat.scores.items())},
            "goal_by_zone": {
                zone.replace(" ", "_"): self._record(seat.goals[zone]) for zone in (ZONE, NO_ZONE) if zone in seat.goals
            },
            "reward": self._record(seat.rewards),
            "usage": dict(seat.usage),
        }

    def _record(self, values: Values) -> dict[str, float | None] | None:
        found = self.estimate(values)
        return found.record() if found is not None else None

    # --- for people -----------------------------------------------------------------------------

    def print_seats(self) -> None:
        """Print a row per seat."""
        zones = [zone for zone in (ZONE, NO_ZONE) if any(zone in seat.goals for seat in self.seats.values())]
        zones = zones if len(zones) == 2 else []  # with one kind of task the goal says it all
        by_zone = [f"goal, {zone}" for zone in zones]
        columns = ["seat", "agent", "moves", "unreadable", "goal", *by_zone, "reward", "tokens"]
        rows = [
            [
                agent,
                " | ".join(sorted(seat.names)),
                seat.moves,
                seat.parse_failures,
                self._cell(seat.scores.get("goal")),
                *(self._cell(seat.goals.get(zone)) for zone in zones),
                self._cell(seat.rewards),
                tokens(seat.usage),
            ]
            for agent, seat in sorted(self.seats.items())
        ]
        print_table(columns, rows, right=columns[2:])

    def print_tasks(self) -> None:
        """Print a row for tasks with a zone of agreement and one for those without, if outcomes were computed."""
        rows = []
        for zone in (ZONE, NO_ZONE):
            deals = self.estimate(self.deals[zone]) if zone in self.deals else None
            if deals is not None:
                rows.append([zone, deals.count, f"{deals.mean:.0%}", self._cell(self.welfare[zone])])
        if rows:
            print_table(("tasks with", "episodes", "deals", "welfare"), rows, right=("episodes", "deals", "welfare"))

    def _cell(self, values: Values | None) -> str:
        found = self.estimate(values) if values is not None else None
        return "-" if found is None else found.text()


def tokens(usage: Mapping[str, int]) -> str:
    """Prompt and completion tokens, or "-" where no model was called."""
    if not usage.get("calls"):
        return "-"
    return f"{usage.get('prompt_tokens', 0):,} + {usage.get('completion_tokens', 0):,}"
