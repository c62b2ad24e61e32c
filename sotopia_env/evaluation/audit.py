"""Does a judge say what happened, and does it flatter the policies that were trained?

A judge's scores are held against what can be computed (the verdict of the outcome judge) and against human
ratings, agent by agent. For every policy there is the judge's bias (judge minus reference), how closely the
judge follows the reference, and for a trained policy whether its bias is larger than the base's: the question
that SOTOPIA-pi leaves open about its own scores (arXiv 2403.08715, figure 4: the judge's excess over humans
grows with training). Beside the judge stand two that know nothing, one that always gives the same score and
the judge's own scores dealt out at random: what they come to is what the figures show without any judging.

    found = audit(store.episodes(), "openai/gpt-4o", base="hf/base@1a2b", trained=["hf/bc@3c4d"])
    for comparison in found.comparisons:
        print(comparison.policy, comparison.bias.estimate.text("+.2f"))
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from sotopia_env.dimensions import DIMENSIONS, Dimension
from sotopia_env.episodes import Episode, distinct
from sotopia_env.errors import ConfigurationError, MissingExtraError, unknown
from sotopia_env.evaluation.ratings import Rating, check_ratings
from sotopia_env.evaluation.statistics import (
    Difference,
    Estimate,
    Numbers,
    above_zero,
    bounded,
    clustered,
    difference,
    jackknife,
    rate,
)
from sotopia_env.judges.outcome import OutcomeJudge
from sotopia_env.rules import rules_of

AUDIT_VERSION = 1
"""Version of the record."""

OUTCOME, HUMAN = "outcome", "human"
"""References: what was computed, and the mean of the human ratings."""

JUDGE, CONSTANT, SHUFFLED = "judge", "constant", "shuffled"
"""Whose scores a figure is about: the judge's, the same score always, the judge's own dealt out at random."""

ALL_TRAINED = "all trained"
"""The trained policies together: per task the mean over all their episodes."""

FIGURES = ("bias", "mae", "within_one", "pearson", "spearman", "slope", "kappa", "alpha")
"""Figures of a row, beside the means of judge and reference."""

_SAME = 0.7
"""Where on every scale the constant judge stands: at 7 on a scale from 0 to 10."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One agent of one episode, as far as it has been scored.

    Attributes:
        task, episode, agent: Ids.
        policy: The agent's name.
        judge: Scores of the audited judge by dimension.
        outcome: Computed scores by dimension; {} where the task has no rules that bind.
        ratings: Human scores by rater, then by dimension.
    """

    task: str
    episode: str
    agent: str
    policy: str
    judge: Mapping[str, float]
    outcome: Mapping[str, float] = field(default_factory=dict)
    ratings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def reference(self, name: str) -> dict[str, float]:
        """Computed scores, or the mean over raters."""
        if name == OUTCOME:
            return dict(self.outcome)
        dimensions = dict.fromkeys(dimension for scores in self.ratings.values() for dimension in scores)
        given = {name: [scores[name] for scores in self.ratings.values() if name in scores] for name in dimensions}
        return {name: math.fsum(scores) / len(scores) for name, scores in given.items()}


@dataclass(frozen=True, slots=True)
class Row:
    """How one policy is judged on one dimension.

    Attributes:
        reference: "outcome" or "human".
        scores: "judge", "constant" or "shuffled".
        policy: Name of the policy.
        dimension: Name of the dimension.
        judged, referred: Means of the two.
        figures: By name in `FIGURES`; `None` for one that does not exist, such as a correlation with a constant.
    """

    reference: str
    scores: str
    policy: str
    dimension: str
    judged: Estimate
    referred: Estimate
    figures: Mapping[str, Estimate | None]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "reference": self.reference,
            "scores": self.scores,
            "policy": self.policy,
            "dimension": self.dimension,
            "judged": self.judged.record(),
            "referred": self.referred.record(),
            **{name: found.record() if found else None for name, found in self.figures.items()},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether the judge favours a trained policy over its base.

    Attributes:
        reference, scores, dimension: As in `Row`.
        policy: A trained policy, or "all trained".
        base: The base.
        judged: The policy's mean minus the base's by the judge.
        referred: The same by the reference.
        bias: The difference of the differences: by how much the judge's bias is larger for the policy.
        matched: The judge's mean for the policy minus its mean for the base at equal reference scores (rounded to
            whole points); `None` if they have none in common. It stays at 0 for a judge that knows nothing, whose
            bias falls where a policy gets better.
    """

    reference: str
    scores: str
    dimension: str
    policy: str
    base: str
    judged: Difference
    referred: Difference
    bias: Difference
    matched: Estimate | None

    @property
    def answer(self) -> str:
        """Whether the bias is larger for the policy than for the base: "larger", "smaller" or "not shown"."""
        low, high = self.bias.estimate.low, self.bias.estimate.high
        if low is None or high is None or low <= 0 <= high:
            return "not shown"
        return "larger" if low > 0 else "smaller"

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "reference": self.reference,
            "scores": self.scores,
            "dimension": self.dimension,
            "policy": self.policy,
            "base": self.base,
            "judged": self.judged.record(),
            "referred": self.referred.record(),
            "bias": self.bias.record(),
            "matched": self.matched.record() if self.matched else None,
            "answer": self.answer,
        }


@dataclass(frozen=True, slots=True)
class Raters:
    """How far raters agree with each other on one dimension.

    Attributes:
        dimension: Name of the dimension.
        judge: Whether the judge counts as one more rater.
        raters: How many there are.
        within_one: Share of pairs of scores of the same agent that are at most one point apart.
        kappa: Randolph's free-marginal kappa over the whole scores of the scale.
        alpha: Krippendorff's alpha, level of measurement "interval"; `None` if all scores are the same.
    """

    dimension: str
    judge: bool
    raters: int
    within_one: Estimate
    kappa: Estimate
    alpha: Estimate | None

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "dimension": self.dimension,
            "judge": self.judge,
            "raters": self.raters,
            "within_one": self.within_one.record(),
            "kappa": self.kappa.record(),
            "alpha": self.alpha.record() if self.alpha else None,
        }


class Counts(NamedTuple):
    """What was read.

    Attributes:
        episodes: Episodes with a verdict and a reference.
        broken_off: Episodes that broke off.
        unjudged: Episodes without a verdict of the judge.
        unreferred: Judged episodes that have neither a computed outcome nor a rating.
    """

    episodes: int = 0
    broken_off: int = 0
    unjudged: int = 0
    unreferred: int = 0


@dataclass(frozen=True)
class Audit:
    """What an audit came to.

    Attributes:
        judge: Name of the judge.
        base: Name of the base, if comparisons were asked for.
        trained: Names of the trained policies.
        seed: Of the shuffled judge.
        counts: What was read.
        rows: One of each reference, kind of scores, policy and dimension.
        comparisons: One of each trained policy, reference, kind of scores and dimension.
        raters: How far human raters agree, without and with the judge.
    """

    judge: str
    base: str | None
    trained: tuple[str, ...]
    seed: int
    counts: Counts
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    raters: tuple[Raters, ...]

    def record(self) -> dict[str, Any]:
        """The whole as JSON values; the same episodes and seed give the same."""
        return {
            "version": AUDIT_VERSION,
            "judge": self.judge,
            "base": self.base,
            "trained": list(self.trained),
            "seed": self.seed,
            "counts": self.counts._asdict(),
            "comparisons": [comparison.record() for comparison in self.comparisons],
            "rows": [row.record() for row in self.rows],
            "raters": [raters.record() for raters in self.raters],
        }


def audit(
    episodes: Iterable[Episode],
    judge: str,
    *,
    base: str | None = None,
    trained: Sequence[str] = (),
    policies: Sequence[str] | None = None,
    ratings: Sequence[Rating] = (),
    dimensions: Sequence[Dimension] = DIMENSIONS,
    controls: bool = True,
    seed: int = 0,
) -> Audit:
    """Hold a judge's stored verdicts against computed outcomes and human ratings.

    Args:
        episodes: Episodes with verdicts of the judge; those without are counted. An episode without a verdict of
            the outcome judge gets one here if its task has rules that bind. Of equal ids the first counts.
        judge: Name of the judge.
        base: Name of the policy that the trained ones come from.
        trained: Names of trained policies; each is compared with the base.
        policies: Names of the policies to audit. Default: the base and the trained ones if they are given, else
            everyone whose play has a verdict and a reference.
        ratings: What `read_ratings` gave; each must be of one of the episodes.
        dimensions: The scales.
        controls: Also the rows of the constant and of the shuffled judge.
        seed: Of the shuffled judge.

    Returns:
        An `Audit`.

    Raises:
        ConfigurationError: If there is nothing to audit, a policy that is named did not play or has no play with a
            verdict and a reference, or ratings do not fit the episodes.
        MissingExtraError: If scipy or krippendorff is not installed.
    """
    check_policies(base, trained)
    _check_libraries()
    observations, counts, played = observe(episodes, judge, ratings)
    named = tuple(dict.fromkeys(policies or ((base, *trained) if base is not None else ())))
    _check_known(named, observations, played, judge)
    names = named or tuple(_names(observations))
    chosen = [observation for observation in observations if observation.policy in names]
    scales = {dimension.name: dimension for dimension in dimensions}
    rows: list[Row] = []
    comparisons: list[Comparison] = []
    for kind, scored in _kinds(chosen, scales, seed) if controls else [(JUDGE, chosen)]:
        for reference in (OUTCOME, HUMAN):
            for dimension in _shared(scored, reference, scales):
                pairs = _pairs(scored, reference, dimension.name)
                rows += [_row(reference, kind, name, dimension, pairs[name]) for name in names if name in pairs]
                if base is not None and base in pairs:
                    comparisons += _comparisons(reference, kind, dimension, pairs, base, trained)
    if not rows:
        raise ConfigurationError(_nothing_shared(chosen, judge, scales))
    return Audit(
        judge, base, tuple(trained), seed, counts, tuple(rows), tuple(comparisons), tuple(_raters(chosen, scales))
    )


def check_policies(base: str | None, trained: Sequence[str]) -> None:
    """Refuse a choice of base and trained policies that compares nothing.

    Raises:
        ConfigurationError: If one is given without the other, or a policy is its own base.
    """
    if isinstance(trained, str):
        raise ConfigurationError(f"trained is {trained!r}, but must be a sequence of names.")
    if (base is None) != (not trained):
        given, lacking = ("trained", "base") if base is None else ("base", "trained")
        raise ConfigurationError(f"There is a {given} policy but no {lacking} one. Name both, or neither.")
    if base in trained:
        raise ConfigurationError(f"Policy {base!r} is given as its own base. Name the policy it was trained from.")


def observe(
    episodes: Iterable[Episode], judge: str, ratings: Sequence[Rating] = ()
) -> tuple[list[Observation], Counts, set[str]]:
    """Every agent of every judged episode that has a reference, in order of task, episode and agent; who played.

    Raises:
        ConfigurationError: If there is no such episode, or a rating is of none of the episodes.
    """
    found: list[Observation] = []
    agents: dict[str, tuple[str, ...]] = {}
    judged: set[str] = set()
    played: set[str] = set()
    counts = Counts()
    for episode in distinct(episodes):
        agents[episode.id] = episode.task.agents
        played |= set(episode.agents.values())
        if episode.ended_by is None:
            counts = counts._replace(broken_off=counts.broken_off + 1)
        elif judge not in episode.verdicts:
            counts = counts._replace(unjudged=counts.unjudged + 1)
        else:
            judged.add(episode.id)
            found += _observations(episode, judge)
    by_agent: dict[tuple[str, str], dict[str, Mapping[str, float]]] = defaultdict(dict)
    for rating in check_ratings(ratings, agents):
        by_agent[rating.episode, rating.agent][rating.rater] = rating.scores
    found = [replace(one, ratings=by_agent.get((one.episode, one.agent), {})) for one in found]
    kept = [one for one in found if one.outcome or one.ratings]
    referred = {one.episode for one in kept}
    counts = counts._replace(episodes=len(referred), unreferred=len(judged - referred))
    if not kept:
        raise ConfigurationError(_nothing_read(judge, len(agents), counts))
    return sorted(kept, key=lambda one: (one.task, one.episode, one.agent)), counts, played


def _observations(episode: Episode, judge: str) -> list[Observation]:
    verdict = episode.verdicts.get(OUTCOME)
    if verdict is None and rules_of(episode.task) is not None:
        verdict = OutcomeJudge().score(episode)
    given = episode.verdicts[judge]
    return [
        Observation(
            episode.task.id,
            episode.id,
            agent,
            episode.agents[agent],
            given.values(agent) if agent in given.scores else {},
            {} if verdict is None or judge == OUTCOME else verdict.values(agent),
        )
        for agent in episode.task.agents
    ]


# --- what cannot be audited ---------------------------------------------------------------------------


def _nothing_read(judge: str, episodes: int, counts: Counts) -> str:
    if not episodes:
        return "There are no episodes to audit. Play some first: `sotopia-env rollout` or `sotopia-env evaluate`."
    if not counts.unreferred:
        return (
            f"None of {episodes} episodes has a verdict of judge {judge!r} ({counts.broken_off} of them broke off). "
            "Let it judge them first, as `sotopia-env audit` and `sotopia-env judge` do."
        )
    if judge == OUTCOME:
        return (
            "The outcome judge is the reference itself. Name another judge, or give human ratings to hold it against."
        )
    return (
        f"None of {counts.unreferred} judged episodes has a computed outcome, and no ratings are given. Audit episodes "
        "of outcome tasks, or give human ratings."
    )


def _nothing_shared(observations: Sequence[Observation], judge: str, scales: Mapping[str, Dimension]) -> str:
    judged, referred = (
        sorted({name for one in observations for name in of(one) if name in scales})
        for of in (lambda one: one.judge, lambda one: [*one.reference(OUTCOME), *one.reference(HUMAN)])
    )
    return (
        f"Judge {judge!r} scores {judged or 'nothing'}, but what it is held against has {referred or 'nothing'}: there "
        "is no dimension to compare. Name a judge that scores one of these, or give ratings of what it scores."
    )


def _names(observations: Sequence[Observation]) -> list[str]:
    return sorted({one.policy for one in observations})


def _check_known(names: Sequence[str], observations: Sequence[Observation], played: Set[str], judge: str) -> None:
    known = _names(observations)
    for name in names:
        if name in played and name not in known:
            raise ConfigurationError(
                f"Policy {name!r} played, but no play of it has both a verdict of judge {judge!r} and a reference (a "
                f"computed outcome or a rating). These have: {known}."
            )
        if name not in known:
            raise ConfigurationError(unknown("policy", name, known, "A policy is named by its agent's whole name."))


def _check_libraries() -> None:
    try:
        import krippendorff  # noqa: F401
        import scipy.stats  # type: ignore[import-untyped, unused-ignore]  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"An audit needs {error.name}, which is not installed. Install it with: pip install 'sotopia-env[eval]'"
        ) from error


# --- scores -------------------------------------------------------------------------------------------


def _kinds(
    observations: Sequence[Observation], scales: Mapping[str, Dimension], seed: int
) -> list[tuple[str, Sequence[Observation]]]:
    """The observations as the judge, the constant one and the shuffled one score them."""
    constant = {name: scale.low + _SAME * (scale.high - scale.low) for name, scale in scales.items()}
    always = [
        replace(one, judge={name: round(constant[name], 9) for name in one.judge if name in scales})
        for one in observations
    ]
    draw = np.random.default_rng(seed)
    dealt: list[dict[str, float]] = [{} for _ in observations]
    for name in scales:
        having = [place for place, one in enumerate(observations) if name in one.judge]
        for place, source in zip(having, draw.permutation(having), strict=True):
            dealt[place][name] = observations[source].judge[name]
    shuffled = [replace(one, judge=scores) for one, scores in zip(observations, dealt, strict=True)]
    return [(JUDGE, observations), (CONSTANT, always), (SHUFFLED, shuffled)]


def _shared(
    observations: Sequence[Observation], reference: str, scales: Mapping[str, Dimension]
) -> Sequence[Dimension]:
    """The dimensions that both the judge and the reference score, the goal first."""
    found = {name for one in observations for name in one.reference(reference) if name in one.judge}
    return sorted((scale for name, scale in scales.items() if name in found), key=lambda scale: scale.name != "goal")


Pairs = dict[str, Numbers]
"""By task, (n x 2): the judge's score and the reference's."""


def _pairs(observations: Sequence[Observation], reference: str, dimension: str) -> dict[str, Pairs]:
    """Pairs of scores by policy."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for one in observations:
        scores = one.reference(reference)
        if dimension in one.judge and dimension in scores:
            found[one.policy][one.task].append((one.judge[dimension], scores[dimension]))
    return {
        policy: {task: np.array(pairs, dtype=float) for task, pairs in tasks.items()} for policy, tasks in found.items()
    }


def _values(pairs: Pairs, of: Callable[[Numbers], Numbers]) -> dict[str, list[float]]:
    """One number for each pair, by task."""
    return {task: of(found).tolist() for task, found in pairs.items()}


def _judged(pairs: Numbers) -> Numbers:
    return pairs[:, 0]


def _referred(pairs: Numbers) -> Numbers:
    return pairs[:, 1]


def _error(pairs: Numbers) -> Numbers:
    return pairs[:, 0] - pairs[:, 1]


def _whole(scores: Numbers) -> Numbers:
    """Scores as whole points, halves upwards."""
    return np.floor(scores + 0.5)


# --- one policy ---------------------------------------------------------------------------------------


def _row(reference: str, kind: str, policy: str, dimension: Dimension, pairs: Pairs) -> Row:
    judged, referred = (bounded(_values(pairs, of), dimension.low, dimension.high) for of in (_judged, _referred))
    assert judged is not None, "there is at least one pair"
    assert referred is not None, "there is at least one pair"
    same = rate(_values(pairs, lambda found: (_whole(found[:, 0]) == _whole(found[:, 1])).astype(float)))
    figures = {
        "bias": clustered(_values(pairs, _error)),
        "mae": above_zero(clustered(_values(pairs, lambda found: np.abs(_error(found))))),
        "within_one": rate(_values(pairs, lambda found: (np.abs(_error(found)) <= 1 + 1e-9).astype(float))),
        "pearson": jackknife(pairs, _pearson, scale="correlation"),
        "spearman": jackknife(pairs, _spearman, scale="correlation"),
        "slope": jackknife(pairs, _slope),
        "kappa": _kappa(same, dimension),
        "alpha": jackknife(pairs, _alpha, scale="correlation"),
    }
    return Row(reference, kind, policy, dimension.name, judged, referred, figures)


def _vary(pairs: Numbers) -> bool:
    return len(pairs) > 2 and bool((np.ptp(pairs, axis=0) > 1e-9).all())


def _pearson(pairs: Numbers) -> float:
    return float(np.asarray(np.corrcoef(pairs.T))[0, 1]) if _vary(pairs) else math.nan


def _spearman(pairs: Numbers) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(pairs, axis=0))


def _slope(pairs: Numbers) -> float:
    """By how much the judge's score rises with one point of the reference; 1 for a perfect judge."""
    known = len(pairs) > 2 and np.ptp(pairs[:, 1]) > 1e-9
    if known and not np.ptp(pairs[:, 0]):
        return 0.0  # exactly: rounding errors would be shown as -0.00
    return float(np.polyfit(pairs[:, 1], pairs[:, 0], 1)[0]) if known else math.nan


def _alpha(scores: Numbers) -> float:
    """Krippendorff's alpha of (agents x raters) scores in whole points; nan where one was not given."""
    import krippendorff

    whole = _whole(scores)
    several = whole[np.isfinite(whole).sum(axis=1) > 1]
    if not len(several) or np.nanmin(several) == np.nanmax(several):
        return math.nan
    return float(krippendorff.alpha(reliability_data=several.T, level_of_measurement="interval"))


def _kappa(same: Estimate | None, dimension: Dimension) -> Estimate | None:
    """Randolph's kappa from the share of equal scores: what is above chance, were all scores equally likely."""
    if same is None:
        return None
    chance = 1 / (dimension.high - dimension.low + 1)

    def above(share: float | None) -> float | None:
        return None if share is None else (share - chance) / (1 - chance)

    mean = above(same.mean)
    assert mean is not None, "a mean is a number"
    return replace(same, mean=mean, low=above(same.low), high=above(same.high))


# --- trained against base -----------------------------------------------------------------------------


def _comparisons(
    reference: str, kind: str, dimension: Dimension, pairs: Mapping[str, Pairs], base: str, trained: Sequence[str]
) -> list[Comparison]:
    groups = {name: pairs[name] for name in trained if name in pairs}
    if len(groups) > 1:
        groups[ALL_TRAINED] = _together(groups.values())
    found = []
    for name, group in groups.items():
        judged, referred, bias = (
            difference(_values(group, of), _values(pairs[base], of)) for of in (_judged, _referred, _error)
        )
        assert judged is not None, "both have pairs"
        assert referred is not None, "both have pairs"
        assert bias is not None, "both have pairs"
        matched = _matched(group, pairs[base])
        found.append(Comparison(reference, kind, dimension.name, name, base, judged, referred, bias, matched))
    return found


def _together(groups: Iterable[Pairs]) -> Pairs:
    found: dict[str, list[Numbers]] = defaultdict(list)
    for group in groups:
        for task, pairs in group.items():
            found[task].append(pairs)
    return {task: np.concatenate(parts) for task, parts in found.items()}


def _matched(trained: Pairs, base: Pairs) -> Estimate | None:
    """The difference at matched outcome, with an interval clustered by task."""
    marked: dict[str, list[Numbers]] = defaultdict(list)
    for group, mark in ((trained, 1.0), (base, 0.0)):
        for task, pairs in group.items():
            marked[task].append(np.column_stack([pairs, np.full(len(pairs), mark)]))
    return jackknife({task: np.concatenate(parts) for task, parts in marked.items()}, _at_equal_outcome)


def _at_equal_outcome(rows: Numbers) -> float:
    """The mean over whole points of the reference of the judge's mean for trained minus that for base.

    A point counts by n m / (n + m) of its n and m scores, as in a regression with an intercept for every point.
    """
    points, place = np.unique(_whole(rows[:, 1]), return_inverse=True)
    of_trained = rows[:, 2] > 0
    n, m = (np.bincount(place[of], minlength=len(points)) for of in (of_trained, ~of_trained))
    sums = (np.bincount(place[of], rows[of, 0], minlength=len(points)) for of in (of_trained, ~of_trained))
    both = (n > 0) & (m > 0)
    if not both.any():
        return math.nan
    high, low = sums
    gaps = high[both] / n[both] - low[both] / m[both]
    return float(np.average(gaps, weights=n[both] * m[both] / (n[both] + m[both])))


# --- raters -------------------------------------------------------------------------------------------


def _raters(observations: Sequence[Observation], scales: Mapping[str, Dimension]) -> list[Raters]:
    """Agreement among human raters, and with the judge as one more, where an agent has two scores or more."""
    rated = {name for of in observations for scores in of.ratings.values() for name in scores}
    each = [
        _agreement(observations, scales[name], judge) for name in scales if name in rated for judge in (False, True)
    ]
    return [one for one in each if one is not None]


def _agreement(observations: Sequence[Observation], scale: Dimension, judge: bool) -> Raters | None:
    names = sorted({rater for one in observations for rater in one.ratings})
    by_task: dict[str, list[list[float]]] = defaultdict(list)
    for one in observations:
        scores = [one.ratings.get(rater, {}).get(scale.name, math.nan) for rater in names]
        if np.isfinite(scores).any():
            by_task[one.task].append([*scores, one.judge.get(scale.name, math.nan)] if judge else scores)
    rows = {task: np.array(scores, dtype=float) for task, scores in by_task.items()}
    if not rows:
        return None
    within = rate(_pairwise(rows, lambda a, b: np.abs(a - b) <= 1 + 1e-9))
    same = _kappa(rate(_pairwise(rows, lambda a, b: _whole(a) == _whole(b))), scale)
    if within is None or same is None:
        return None
    heard = np.isfinite(np.concatenate(list(rows.values()))).any(axis=0).sum()
    return Raters(scale.name, judge, int(heard), within, same, jackknife(rows, _alpha, scale="correlation"))


def _pairwise(rows: Mapping[str, Numbers], agree: Callable[[Numbers, Numbers], Any]) -> dict[str, list[float]]:
    """By task, for each agent with two scores or more, the share of pairs of its scores that agree."""
    found: dict[str, list[float]] = {}
    for task, agents in rows.items():
        shares = []
        for scores in agents:
            given = scores[np.isfinite(scores)]
            if len(given) > 1:
                first, second = (np.array(side) for side in zip(*combinations(given, 2), strict=True))
                shares.append(float(np.mean(agree(first, second))))
        found[task] = shares
    return found
