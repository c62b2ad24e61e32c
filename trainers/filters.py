"""Filters: which agents' parts of which episodes a policy learns from, and why not from the others.

Every filter is a pure function of episodes. It takes a play apart into trajectories, one per seat, and
returns a `Filtered`: what it kept, and every other trajectory with the reason it was dropped. The order of
the episodes changes nothing.

Words that all rules share:

- a *group* is the trajectories of one seat in one task (same id and same content), over all its episodes;
- a trajectory's *value* is what the rule ranks by: by default its goal score, 0 to 10;
- *ranking* is within a group: higher value first; ties by `overall` where the judge scored all seven
  dimensions, then by the episode's repeat, seed and id, lowest first. Rank 1 is the best.

Only *scored* trajectories of the learner have a rank and enter a mean or a share. An episode that failed,
or on which the judge gave no verdict, has no value; it is counted and touches nothing else. The options
`drop_zero`, `drop_parse_failures` and `drop_no_spread` take away what may be kept, and the next in rank
moves up, but means and shares are still those of everything scored: an option never raises a bar.

Rules by name, as presets write them: "paper-bc", "paper-sr", "released", "threshold"; see `make_filter`.
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack, cast
from urllib.parse import parse_qsl

from sotopia_env.dimensions import DIMENSION_NAMES, DIMENSIONS, Dimension, overall
from sotopia_env.episodes import Episode, Verdict
from sotopia_env.errors import ConfigurationError, JudgeError, one_line, unknown
from sotopia_env.judges.base import Judge, Reward, check_reward, needed_dimensions, rewards_from

__all__ = [
    "FILTERS",
    "REASONS",
    "Dropped",
    "Filter",
    "Filtered",
    "Options",
    "Trajectory",
    "make_filter",
    "paper_bc",
    "paper_sr",
    "released",
    "require",
    "threshold",
]

REASONS: dict[str, str] = {
    "another agent": "not played by `learner`",
    "failed": "an agent or the engine failed, and the episode broke off",
    "judge failed": "the judge was asked and gave no verdict",
    "unjudged": "there is no verdict of the judge that counts",
    "no score": "the verdict lacks what the reward needs for some seat",
    "parse failure": "one of its replies could not be read (drop_parse_failures)",
    "zero goal": "its goal score is 0 (drop_zero)",
    "no spread": "all scored trajectories of its group have the same value (drop_no_spread)",
    "rank": "others of its group rank higher",
    "below mean": "its value does not exceed min(local mean, global mean)",
    "other seat below mean": "another seat of its task has nothing of that rank that exceeds its own bar",
    "below threshold": "its value is below the threshold",
}
"""Every word that `Dropped.reason` may be, with its meaning; the first that applies is given."""

_BINS = 10


class Trajectory(NamedTuple):
    """One agent's part of an episode.

    Attributes:
        episode: The whole episode.
        agent: Whose part, such as "agent_0".
    """

    episode: Episode
    agent: str


@dataclass(frozen=True)
class Dropped:
    """A trajectory that was not kept, and why: a word out of `REASONS`."""

    trajectory: Trajectory
    reason: str


@dataclass(frozen=True)
class Filtered:
    """What a filter kept and why it dropped the rest.

    Attributes:
        rule: The rule's name with its options.
        kept: By task id, repeat, seed, episode id, and seat.
        dropped: In the same order. Kept and dropped together are all trajectories of all episodes.
        statistics: JSON values. `episodes` and `trajectories` that came in, `scored` of them, `kept`,
            `kept_episodes`; `dropped` by reason; `judge`; `reward` and `goal`, each with its mean `before`
            (over the scored) and `after` (over the kept), null where there is none; `goal_histogram`,
            counts before and after in ten bins from 0 to 10; `groups` (`count`, `without_spread`, `empty`:
            nothing kept of them); `by_family` and `by_agent` with their own counts and goals;
            `no_score`, the first error behind that reason, or null.
        drop_none: Whether turns in which the learner did nothing (`none`) are no training rows either.
    """

    rule: str
    kept: tuple[Trajectory, ...]
    dropped: tuple[Dropped, ...]
    statistics: dict[str, Any]
    drop_none: bool = False

    def record(self) -> dict[str, Any]:
        """The rule and its statistics as JSON values."""
        return {"rule": self.rule, "drop_none": self.drop_none, **self.statistics}


class Options(TypedDict, total=False):
    """Options that every rule takes.

    Attributes:
        reward: What the value is: a dimension (default "goal"), "overall", {dimension: weight}, or a
            function of one agent's scores; as in `sotopia_env.rollout`.
        judge: Name of the judge whose verdict counts. Default: the only one there.
        learner: Only trajectories played by the agent of this name, or of these names, are candidates. In
            behavior cloning against weaker partners the expert; in self-reinforcement against a pool the
            policy. Default: every seat.
        drop_zero: Drop trajectories whose goal score is 0 or less. One without a goal score stays.
        drop_parse_failures: Drop trajectories in which a reply of the agent's own could not be read.
        drop_no_spread: Drop groups in which every value is the same, those of one trajectory too: the
            best of equals is not better.
    """

    reward: Reward
    judge: str | None
    learner: str | Collection[str] | None
    drop_zero: bool
    drop_parse_failures: bool
    drop_no_spread: bool


class Filter(Protocol):
    """A filter: episodes in, `Filtered` out. Options given in the call go before those it was made with."""

    def __call__(self, episodes: Iterable[Episode], **options: Unpack[Options]) -> Filtered:
        """Filter."""
        ...


# --- the rules ------------------------------------------------------------------------------------


def paper_bc(episodes: Iterable[Episode], *, keep: int = 2, **options: Unpack[Options]) -> Filtered:
    """The paper's rule for behavior cloning (arXiv 2403.08715, appendix B.2: top 2 of 10, and good pairs below).

    Of every group the best `keep` are kept, whatever their value. Below that, rank by rank, the trajectories
    of that rank in *all* seats of a task are kept if each of them *exceeds* (>) its seat's bar, which is
    min(local mean, global mean). They may come from different episodes, as in the paper.

    - Local mean: of the values of the group, that is of this seat in this task.
    - Global mean: of all values of this seat over all tasks, each trajectory counting once. ("Agent" in the
      paper is the seat: agent 1 and agent 2 of a conversation.)
    - Only seats with scored trajectories of the learner in this task are asked. If one of those has fewer
      trajectories than the rank, the rank is not kept for the others either: nothing of its exceeds.
    - A group of `keep` or fewer is kept whole.

    As values fall with rank, no rank is kept below one that was not.

    Args:
        episodes: Episodes of any status.
        keep: How many of each group are kept in any case; 0 or more.
        **options: See `Options`.

    Raises:
        ConfigurationError: If an option cannot be used, or episodes carry several judges and none is chosen.
    """
    _check_whole("keep", keep, 0)
    pool = _Pool(episodes, options)
    global_means = pool.means_by_agent()
    for seats in pool.tasks():
        bars = {agent: min(_mean(group), global_means[agent]) for agent, group in seats.items()}
        ranked = {agent: pool.usable(group) for agent, group in seats.items()}
        for agent, own in ranked.items():
            for rank, one in enumerate(own):
                if rank < keep or all(rank < len(row) and row[rank].value > bars[a] for a, row in ranked.items()):
                    pool.keep(one)
                else:
                    pool.drop(one, "below mean" if not one.value > bars[agent] else "other seat below mean")
    return pool.filtered("paper-bc", {"keep": keep})


def paper_sr(episodes: Iterable[Episode], *, share: float = 0.2, **options: Unpack[Options]) -> Filtered:
    """The paper's rule for self-reinforcement (arXiv 2403.08715, section 2.2): per task the top 20% by goal.

    Of every group of n scored trajectories the best ceil(share * n) are kept: 2 of 10 as in the paper, and at
    least one of a short group. Seats are ranked apart, for in a lopsided task a common ranking would keep
    one seat only. There is no bar, so that hard tasks stay in; ties at the cut are broken as described above.

    Args:
        episodes: Episodes of any status.
        share: Share to keep, above 0 and up to 1.
        **options: See `Options`.

    Raises:
        ConfigurationError: If an option cannot be used, or episodes carry several judges and none is chosen.
    """
    _check_number("share", share, above=0.0, most=1.0)
    # 1e-9: 0.07 * 100 is 7.000000000000001, and its ceiling is not meant to be 8.
    return _best(episodes, lambda n: math.ceil(share * n - 1e-9), "paper-sr", {"share": share}, False, options)


def released(episodes: Iterable[Episode], **options: Unpack[Options]) -> Filtered:
    """The rule of the paper's released code: per task the single best conversation of each seat.

    Ties go by overall. Turns in which the agent did nothing are no training rows: `Filtered.drop_none` is
    True. The released code uses it for behavior cloning and for self-reinforcement, under the name "top_2"
    (one for each of two seats); unlike it, this one never counts a failed judge as a score of 0.

    Args:
        episodes: Episodes of any status.
        **options: See `Options`.

    Raises:
        ConfigurationError: If an option cannot be used, or episodes carry several judges and none is chosen.
    """
    return _best(episodes, lambda n: 1, "released", {}, True, options)


def threshold(episodes: Iterable[Episode], *, at_least: float, **options: Unpack[Options]) -> Filtered:
    """Keep every trajectory whose value is `at_least` so much (>=), in the reward's own units.

    Args:
        episodes: Episodes of any status.
        at_least: The lowest value that is kept.
        **options: See `Options`.

    Raises:
        ConfigurationError: If an option cannot be used, or episodes carry several judges and none is chosen.
    """
    _check_number("at_least", at_least)
    pool = _Pool(episodes, options)
    for group in pool.scored.values():
        for one in pool.usable(group):
            if one.value >= at_least:
                pool.keep(one)
            else:
                pool.drop(one, "below threshold")
    return pool.filtered("threshold", {"at_least": at_least})


def _best(
    episodes: Iterable[Episode],
    count: Callable[[int], int],
    rule: str,
    settings: dict[str, object],
    drop_none: bool,
    options: Options,
) -> Filtered:
    """Keep the best `count(n)` of every group of n."""
    pool = _Pool(episodes, options)
    for group in pool.scored.values():
        most = count(len(group))
        for rank, one in enumerate(pool.usable(group)):
            if rank < most:
                pool.keep(one)
            else:
                pool.drop(one, "rank")
    return pool.filtered(rule, settings, drop_none=drop_none)


FILTERS: dict[str, Callable[..., Filtered]] = {
    "paper-bc": paper_bc,
    "paper-sr": paper_sr,
    "released": released,
    "threshold": threshold,
}
"""Rules by the name that presets use."""


def make_filter(spec: str | Mapping[str, Any]) -> Filter:
    """Make a filter from its name, or from a name with options; everything is checked at once.

    Args:
        spec: "paper-sr", "paper-sr?share=0.3&drop_zero=true", or {"rule": "paper-sr", "share": 0.3, ...}.

    Raises:
        ConfigurationError: For an unknown rule or option, a missing one, or a value that cannot be used.
    """
    rule, options = _read(spec)
    if rule not in FILTERS:
        raise ConfigurationError(unknown("filter", rule, FILTERS))
    function = FILTERS[rule]
    own = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for name in options:
        if name not in own and name not in Options.__annotations__:
            raise ConfigurationError(unknown(f"option of filter {rule!r}", name, [*own, *Options.__annotations__]))
    missing = [name for name, parameter in own.items() if parameter.default is parameter.empty and name not in options]
    if missing:
        raise ConfigurationError(f"Filter {rule!r} needs {missing[0]!r}; write it as {rule}?{missing[0]}=7.")
    made = partial(function, **options)
    made([])  # whatever a value is refused for, it is refused here
    return cast(Filter, made)


def require(filtered: Filtered) -> Filtered:
    """Give back a filter's result that kept something.

    Raises:
        ConfigurationError: If nothing was kept; says in one line why everything was dropped.
    """
    if filtered.kept:
        return filtered
    statistics = filtered.statistics
    if not statistics["trajectories"]:
        raise ConfigurationError(f"Filter {filtered.rule} was given no episodes. Play some first.")
    counts = sorted(statistics["dropped"].items(), key=lambda item: (-item[1], item[0]))
    why = ", ".join(f"{count} {reason} ({REASONS[reason]})" for reason, count in counts)
    if statistics["no_score"]:
        why += f"; {statistics['no_score'].removesuffix('.')}"
    # Others' parts are left out on purpose, unless there is nothing else.
    worst = next((reason for reason, _ in counts if reason != "another agent"), "another agent")
    raise ConfigurationError(
        f"Filter {filtered.rule} kept none of {statistics['trajectories']} trajectories: {why}. "
        + _REMEDIES.get(worst, "Play more episodes, or choose another filter.")
    )


_REMEDIES = {
    "another agent": "Name a learner that played in these episodes.",
    "failed": "Look at their errors (`sotopia-env show --list --status failed`), then play again.",
    "judge failed": "Judge them again (`sotopia-env judge`).",
    "unjudged": "Judge them first (`sotopia-env judge`).",
    "no score": "Choose a reward that this judge scores.",
    "below threshold": "Lower the threshold.",
}


def _read(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, Mapping):
        options = dict(spec)
        if not isinstance(options.get("rule"), str):
            raise ConfigurationError(f"Filter {dict(spec)!r} names no rule. Add rule: one of {', '.join(FILTERS)}.")
        return options.pop("rule"), options
    if not isinstance(spec, str):
        raise ConfigurationError(f"Filter {spec!r} must be a name out of {', '.join(FILTERS)}, or a mapping with one.")
    rule, _, query = spec.partition("?")
    return rule, {name: _value(text) for name, text in parse_qsl(query, keep_blank_values=True)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# --- what the rules stand on ------------------------------------------------------------------------


class _Scored(NamedTuple):
    """A trajectory that has a value."""

    trajectory: Trajectory
    value: float
    scores: dict[str, float]

    @property
    def key(self) -> _Key:
        return _key(self.trajectory)

    @property
    def place(self) -> tuple[float, float, int, int, str]:
        """Sorts the best first, and has no ties within a group."""
        whole = overall(self.scores) if set(DIMENSION_NAMES) <= self.scores.keys() else -math.inf
        episode = self.trajectory.episode
        return -self.value, -whole, episode.repeat, episode.seed, episode.id


_Key = tuple[str, str]
_TaskKey = tuple[str, str]
_Group = tuple[_TaskKey, str]


class _Pool:
    """All trajectories: the scored ones by group, and the fate of each as a rule decides it.

    Raises:
        ConfigurationError: If an option cannot be used.
    """

    def __init__(self, episodes: Iterable[Episode], options: Options) -> None:
        self.options: dict[str, Any] = dict(options)
        self.reward: Reward = self.options.get("reward", "goal")
        self.learners = _learners(self.options.get("learner"))
        self.episodes = _sorted(episodes)
        _check_switches(self.options)
        _check_reward(self.reward, self.episodes)
        self.judge = _judge(self.options.get("judge"), self.episodes)
        self.scored: dict[_Group, list[_Scored]] = {}
        self.no_score: str | None = None
        self._reasons: dict[_Key, str | None] = {}
        for episode in self.episodes:
            self._take(episode)

    def _take(self, episode: Episode) -> None:
        reason, verdict, values = self._judged(episode)
        for agent in episode.task.agents:
            trajectory = Trajectory(episode, agent)
            if self.learners is not None and episode.agents[agent] not in self.learners:
                self._reasons[_key(trajectory)] = "another agent"
            elif verdict is None:
                self._reasons[_key(trajectory)] = reason
            else:
                one = _Scored(trajectory, values[agent], verdict.values(agent))
                self.scored.setdefault((_task_key(episode), agent), []).append(one)

    def _judged(self, episode: Episode) -> tuple[str, Verdict | None, dict[str, float]]:
        """Why an episode has no values; or "", its verdict, and the value of every agent."""
        if episode.status == "failed":
            return "failed", None, {}
        verdict = None if self.judge is None else episode.verdicts.get(self.judge)
        if verdict is None:
            return "judge failed" if episode.status == "judge_failed" else "unjudged", None, {}
        try:
            if not set(episode.task.agents) <= verdict.scores.keys():
                raise JudgeError(f"Judge {verdict.judge!r} scored {sorted(verdict.scores)} only.")
            return "", verdict, rewards_from(verdict, self.reward, episode)
        except JudgeError as error:
            self.no_score = self.no_score or one_line(error)
            return "no score", None, {}

    def tasks(self) -> Iterator[dict[str, list[_Scored]]]:
        """The groups of each task, by agent."""
        for _, groups in itertools.groupby(sorted(self.scored), key=lambda group: group[0]):
            yield {agent: self.scored[task, agent] for task, agent in groups}

    def means_by_agent(self) -> dict[str, float]:
        """The mean value of every seat over all tasks."""
        found: dict[str, list[_Scored]] = defaultdict(list)
        for (_, agent), group in self.scored.items():
            found[agent] += group
        return {agent: _mean(all_of_it) for agent, all_of_it in found.items()}

    def usable(self, group: Sequence[_Scored]) -> list[_Scored]:
        """What of a group may be kept, best first; the rest is dropped for the options' reasons."""
        found = []
        for one in sorted(group, key=lambda one: one.place):
            reason = self._unusable(one, group)
            if reason is None:
                found.append(one)
            else:
                self.drop(one, reason)
        return found

    def _unusable(self, one: _Scored, group: Sequence[_Scored]) -> str | None:
        if self.options.get("drop_parse_failures") and _has_parse_failure(one.trajectory):
            return "parse failure"
        if self.options.get("drop_zero") and one.scores.get("goal", 1.0) <= 0:
            return "zero goal"
        if self.options.get("drop_no_spread") and not _has_spread(group):
            return "no spread"
        return None

    def keep(self, one: _Scored) -> None:
        self._reasons[one.key] = None

    def drop(self, one: _Scored, reason: str) -> None:
        self._reasons[one.key] = reason

    def filtered(self, rule: str, settings: dict[str, object], *, drop_none: bool = False) -> Filtered:
        """The result, once every scored trajectory was kept or dropped."""
        kept: list[Trajectory] = []
        dropped: list[Dropped] = []
        for trajectory in (Trajectory(episode, agent) for episode in self.episodes for agent in episode.task.agents):
            reason = self._reasons[_key(trajectory)]
            if reason is None:
                kept.append(trajectory)
            else:
                dropped.append(Dropped(trajectory, reason))
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in {**settings, **self._chosen()}.items())
        return Filtered(f"{rule}({shown})", tuple(kept), tuple(dropped), self._statistics(kept, dropped), drop_none)

    def _chosen(self) -> dict[str, object]:
        chosen: dict[str, object] = {"reward": self.reward}
        if self.learners is not None:
            chosen["learner"] = " or ".join(sorted(self.learners))
        return chosen | {name: True for name in _SWITCHES if self.options.get(name)}

    # --- counting -------------------------------------------------------------------------------

    def _statistics(self, kept: Sequence[Trajectory], dropped: Sequence[Dropped]) -> dict[str, Any]:
        keys = {_key(trajectory) for trajectory in kept}
        groups = list(self.scored.values())
        before = [one for group in groups for one in group]
        after = [one for one in before if one.key in keys]
        reasons = Counter(one.reason for one in dropped)
        return {
            "episodes": len(self.episodes),
            "trajectories": len(kept) + len(dropped),
            "scored": len(before),
            "kept": len(kept),
            "kept_episodes": len({trajectory.episode.id for trajectory in kept}),
            "dropped": {reason: reasons[reason] for reason in REASONS if reason in reasons},
            "judge": self.judge,
            "reward": {"of": _shown(self.reward), "before": _mean_or_none(before), "after": _mean_or_none(after)},
            "goal": _goals(before, after),
            "goal_histogram": {"before": _histogram(before), "after": _histogram(after)},
            "groups": {
                "count": len(groups),
                "without_spread": sum(not _has_spread(group) for group in groups),
                "empty": sum(all(one.key not in keys for one in group) for group in groups),
            },
            "by_family": _parts(before, after, lambda one: one.trajectory.episode.task.family),
            "by_agent": _parts(before, after, lambda one: one.trajectory.agent),
            "no_score": self.no_score,
        }


def _key(trajectory: Trajectory) -> _Key:
    return trajectory.episode.id, trajectory.agent


def _task_key(episode: Episode) -> _TaskKey:
    return episode.task.id, episode.task.digest


def _has_parse_failure(trajectory: Trajectory) -> bool:
    return any(event.parse_failure and event.speaker == trajectory.agent for event in trajectory.episode.events)


def _has_spread(group: Sequence[_Scored]) -> bool:
    return len({one.value for one in group}) > 1


def _mean(group: Sequence[_Scored]) -> float:
    # Exact until the last step, so that the mean of equal values is that value and none exceeds it.
    return statistics.mean(one.value for one in group)


def _mean_or_none(group: Sequence[_Scored]) -> float | None:
    return _mean(group) if group else None


def _goal_values(group: Sequence[_Scored]) -> list[float]:
    return [one.scores["goal"] for one in group if "goal" in one.scores]


def _goals(before: Sequence[_Scored], after: Sequence[_Scored]) -> dict[str, float | None]:
    values = {"before": _goal_values(before), "after": _goal_values(after)}
    return {name: statistics.mean(goals) if goals else None for name, goals in values.items()}


def _histogram(group: Sequence[_Scored]) -> list[int]:
    counts = Counter(min(max(int(goal), 0), _BINS - 1) for goal in _goal_values(group))
    return [counts[number] for number in range(_BINS)]


def _parts(
    before: Sequence[_Scored], after: Sequence[_Scored], part: Callable[[_Scored], str]
) -> dict[str, dict[str, Any]]:
    """Counts and mean goals of every part of the scored trajectories."""
    found = {}
    for name in sorted({part(one) for one in before}):
        own_before = [one for one in before if part(one) == name]
        own_after = [one for one in after if part(one) == name]
        found[name] = {"scored": len(own_before), "kept": len(own_after), "goal": _goals(own_before, own_after)}
    return found


def _shown(value: object) -> str:
    """A value as the rule's text shows it: the same in every process."""
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    if isinstance(value, Mapping):
        return " + ".join(f"{weight:g} {name}" for name, weight in sorted(value.items()))
    return json.dumps(value) if isinstance(value, (bool, int, float)) else str(value)


# --- checks ---------------------------------------------------------------------------------------

_SWITCHES = ("drop_zero", "drop_parse_failures", "drop_no_spread")


def _sorted(episodes: Iterable[Episode]) -> list[Episode]:
    found = list(episodes)
    for episode in found:
        if not isinstance(episode, Episode):
            raise ConfigurationError(f"A filter reads sotopia_env.Episode records; got {episode!r:.100}.")
    counts = Counter(episode.id for episode in found)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ConfigurationError(
            f"Episode {twice[0]!r} is there {counts[twice[0]]} times and would count for more than it is. "
            "Pass each episode once; to have more of them, play with another seed or with more repeats."
        )
    return sorted(found, key=lambda episode: (_task_key(episode), episode.repeat, episode.seed, episode.id))


def _check_switches(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name not in Options.__annotations__:
            raise ConfigurationError(unknown("option of a filter", name, Options.__annotations__))
        if name in _SWITCHES and not isinstance(value, bool):
            raise ConfigurationError(f"{name} is {value!r}, but must be true or false.")


def _learners(learner: object) -> frozenset[str] | None:
    if learner is None:
        return None
    names = (learner,) if isinstance(learner, str) else learner
    if not isinstance(names, Collection) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"learner is {learner!r}, but must be an agent's name, or several names.")
    return frozenset(names)


def _check_reward(reward: Reward, episodes: Sequence[Episode]) -> None:
    """Refuse a reward of the wrong form, or over a dimension that is none of the seven and that no judge scored."""
    seen = {
        name
        for episode in episodes
        for verdict in episode.verdicts.values()
        for scores in verdict.scores.values()
        for name in scores
    }
    if not seen and isinstance(reward, (str, Mapping)):
        seen = {
            name for name in needed_dimensions(reward) if isinstance(name, str)
        }  # nothing to compare it with: a judge may have scales of its own
    # Only the names matter here: the scales themselves were checked when the judge gave its verdict.
    own = [Dimension(name, 0, 1, "") for name in sorted(seen - {*DIMENSION_NAMES, "overall", ""})]
    check_reward(cast(Judge, SimpleNamespace(name="filter", dimensions=(*DIMENSIONS, *own))), reward, ())


def _judge(judge: object, episodes: Sequence[Episode]) -> str | None:
    """The name of the judge whose verdicts count; `None` if there is no verdict at all."""
    known = sorted({name for episode in episodes for name in episode.verdicts})
    if judge is None:
        if len(known) > 1:
            raise ConfigurationError(
                f"The episodes carry verdicts of {len(known)} judges: {', '.join(map(repr, known))}. "
                "Choose one with judge=."
            )
        return known[0] if known else None
    if not isinstance(judge, str):
        raise ConfigurationError(f"judge is {judge!r}, but must be the name of a judge, as its verdicts carry it.")
    if known and judge not in known:
        raise ConfigurationError(unknown("judge in these episodes", judge, known))
    return judge


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} is {value!r}, but must be a whole number of {least} or more.")


def _check_number(name: str, value: object, *, above: float = -math.inf, most: float = math.inf) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not above < cast(float, value) <= most:
        limits = "" if above == -math.inf else f" above {above:g} and at most {most:g}"
        raise ConfigurationError(f"{name} is {value!r}, but must be a finite number{limits}.")
