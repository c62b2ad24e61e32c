"""What answers come to: accuracy beside chance, and the change from base to trained, question by question.

Questions are drawn from every subject in proportion to its size. All subjects of the exam are there, so they are
strata and no sample, and an interval speaks of other questions on the same subjects. Right-or-wrong answers have
Wilson's interval for a share and Tango's score interval for a paired difference, whose test of no change is
McNemar's; both hold for rates near 0 and for few or no changed answers, where an interval of Student's t collapses.
Both leave the strata out, which makes them a little wider than need be (`tests/test_qa.py` measures it). Other
numbers have Student's t over questions.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sotopia_env.errors import ConfigurationError, MissingExtraError, one_line

VERSION = 1
"""Of the results file."""

_CONFIDENCE = 0.95
_TOO_FEW = "A single question has no interval. Ask two or more."


class Measure(NamedTuple):
    """One number per question: a task or group, how it is scored, and lm-eval's metric."""

    task: str
    metric: str

    @property
    def label(self) -> str:
        """For tables: "mmlu letter", "mmlu text acc_norm"."""
        return self.task if self.metric == "acc" else f"{self.task} {self.metric}"


class Share(NamedTuple):
    """A mean over questions with its 95% interval; `n` questions."""

    mean: float
    low: float
    high: float
    n: int

    def text(self, form: str = ".1%") -> str:
        """As in 27.3% [24.6%, 30.1%]."""
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


class Change(NamedTuple):
    """A paired change with its 95% interval.

    Attributes:
        mean, low, high: Of the trained policy minus the base.
        n: Questions both answered.
        gained, lost: Questions that only the trained or only the base policy has right; None for other numbers.
        p: Of McNemar's test of no change, or of Student's for other numbers.
    """

    mean: float
    low: float
    high: float
    n: int
    gained: int | None
    lost: int | None
    p: float


@dataclass(frozen=True)
class Answers:
    """What one policy answered on one measure.

    Attributes:
        values: lm-eval's metric by question.
        chance: What guessing gives, by question; None where a task has no choices.
        picks, right: The place of the choice it took, and of the right one, by question; None as above.
    """

    values: Mapping[str, float]
    chance: Mapping[str, float] | None
    picks: Mapping[str, int] | None
    right: Mapping[str, int] | None


@dataclass(frozen=True)
class Report:
    """All answers, and what follows from them. The first policy is the base.

    Attributes:
        answers: By policy and measure.
        settings: Exam, versions, and what each policy is.
        cut: By policy, prompts that were longer than the model reads and lost their beginning.
    """

    answers: Mapping[tuple[str, Measure], Answers]
    settings: Mapping[str, Any]
    cut: Mapping[str, int]

    @property
    def policies(self) -> list[str]:
        """Labels in the order they were given."""
        return list(dict.fromkeys(policy for policy, _ in self.answers))

    @property
    def measures(self) -> list[Measure]:
        """What was measured."""
        return list(dict.fromkeys(measure for _, measure in self.answers))

    def share(self, policy: str, measure: Measure) -> Share:
        """The mean over questions."""
        return share(list(self.answers[policy, measure].values.values()))

    def chance(self, policy: str, measure: Measure) -> float | None:
        """What guessing gives: the mean of one over the number of choices."""
        found = self.answers[policy, measure].chance
        return None if found is None else math.fsum(found.values()) / len(found)

    def skill(self, policy: str, measure: Measure) -> Share | None:
        """Accuracy above what its habit gives: always saying D is right as often as D is, and shows no knowledge.

        That is the agreement of picks and right places if they were independent. The interval is Student's t on
        each question's influence.
        """
        from sotopia_env.evaluation.statistics import clustered

        found = self.answers[policy, measure]
        if found.picks is None or found.right is None:
            return None
        n = len(found.picks)
        picked, right = Counter(found.picks.values()), Counter(found.right.values())
        by_habit = sum(picked[place] * right[place] for place in picked) / n**2
        influence = {
            key: [value - right[found.picks[key]] / n - picked[found.right[key]] / n + by_habit]
            for key, value in found.values.items()
        }
        made = clustered(influence, confidence=_CONFIDENCE)
        if made is None or made.low is None or made.high is None:
            return None
        return Share(made.mean, made.low, made.high, n)

    def above_chance(self, policy: str, measure: Measure) -> bool | None:
        """Whether a policy is distinguishable from guessing and from its habit; None where there is no chance level."""
        chance, skill = self.chance(policy, measure), self.skill(policy, measure)
        if chance is None:
            return None
        return self.share(policy, measure).low > chance and (skill is None or skill.low > 0)

    def change(self, policy: str, base: str, measure: Measure) -> Change:
        """The change from a base, question by question."""
        now, before = self.answers[policy, measure].values, self.answers[base, measure].values
        both = [key for key in now if key in before]
        return paired_change([before[key] for key in both], [now[key] for key in both])

    def rows(self) -> list[dict[str, Any]]:
        """One record per policy and measure: accuracy, chance level, skill, picks, and the change from the first."""
        first = self.policies[0]
        made = []
        for measure in self.measures:
            for policy in self.policies:
                found, skill = self.answers[policy, measure], self.skill(policy, measure)
                made.append(
                    {
                        "policy": policy,
                        "measure": measure.label,
                        **self.share(policy, measure)._asdict(),
                        "chance": self.chance(policy, measure),
                        "above_habit": None if skill is None else skill._asdict(),
                        "above_chance": self.above_chance(policy, measure),
                        "picks": _counts(found.picks),
                        "change": None if policy == first else self.change(policy, first, measure)._asdict(),
                    }
                )
        return made

    def warnings(self) -> list[str]:
        """What a reader must know before using the numbers, a sentence each."""
        first = self.policies[0]
        lines = [
            f"{first} is not distinguishable from chance on {measure.label}: retention cannot be measured with it."
            for measure in self.measures
            if self.above_chance(first, measure) is False
        ]
        lines += [
            f"{policy}: {count} prompts were longer than the model reads and lost their beginning."
            for policy, count in self.cut.items()
            if count
        ]
        return lines

    def record(self) -> dict[str, Any]:
        """As JSON values: what repeats it, the table, and every answer. Holds no time and no question's text."""
        answers = []
        for (policy, measure), found in self.answers.items():
            answers.append(
                {
                    "policy": policy,
                    "task": measure.task,
                    "metric": measure.metric,
                    "questions": list(found.values),
                    "values": list(found.values.values()),
                    "chance": None if found.chance is None else list(found.chance.values()),
                    "picks": None if found.picks is None else list(found.picks.values()),
                    "right": None if found.right is None else list(found.right.values()),
                }
            )
        return {
            "version": VERSION,
            "settings": dict(self.settings),
            "rows": self.rows(),
            "warnings": self.warnings(),
            "cut": dict(self.cut),
            "answers": answers,
        }

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, whole or not at all."""
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(self.record(), allow_nan=False, indent=1) + "\n", encoding="utf-8")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what `save` wrote.

        Raises:
            ConfigurationError: If it is no such file.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            if record["version"] != VERSION:
                raise ValueError(f"version {record['version']!r}, but this package reads {VERSION}")
            answers = {
                (found["policy"], Measure(found["task"], found["metric"])): Answers(
                    *(
                        None if found[name] is None else dict(zip(found["questions"], found[name], strict=True))
                        for name in ("values", "chance", "picks", "right")
                    )  # type: ignore[arg-type]
                )
                for found in record["answers"]
            }
            return cls(answers, record["settings"], record["cut"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{str(path)!r} holds no answers of `sotopia-env qa` ({one_line(error)})."
            ) from error


def _counts(picks: Mapping[str, int] | None) -> list[int] | None:
    if picks is None:
        return None
    counts = Counter(picks.values())
    return [counts[place] for place in range(max(counts) + 1)]


# --- intervals ------------------------------------------------------------------------------------


def share(values: Sequence[float]) -> Share:
    """A mean with its interval: Wilson's where all values are 0 or 1, else Student's t."""
    from sotopia_env.evaluation.statistics import clustered, rate

    binary = _binary(values)
    found = (rate if binary else clustered)(_each(values), confidence=_CONFIDENCE)
    if found is None:
        raise ConfigurationError("There is no value to take the mean of.")
    if found.low is None or found.high is None:
        if not binary:
            raise ConfigurationError(_TOO_FEW)
        return Share(found.mean, 0.0, 1.0, 1)
    return Share(found.mean, found.low, found.high, len(values))


def paired_change(before: Sequence[float], after: Sequence[float]) -> Change:
    """The mean of `after` minus `before`: Tango's score interval where all are 0 or 1, else Student's t.

    Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    Statistics in Medicine 17 (1998). At 0 its score is that of McNemar's test, so the interval leaves 0 out exactly
    where the test says that there is a change.
    """
    if len(before) != len(after) or not before:
        raise ConfigurationError(f"A change needs pairs, but there are {len(before)} and {len(after)} values.")
    if not (_binary(before) and _binary(after)):
        return _student_change(before, after)
    from scipy.special import ndtr  # type: ignore[import-untyped, unused-ignore]

    gained = sum(new > old for old, new in zip(before, after, strict=True))
    lost = sum(new < old for old, new in zip(before, after, strict=True))
    n = len(before)
    low, high = tango(gained, lost, n)
    score = abs(gained - lost) / math.sqrt(gained + lost) if gained + lost else 0.0
    return Change((gained - lost) / n, low, high, n, gained, lost, float(2 * ndtr(-score)))


def tango(gained: int, lost: int, n: int, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Tango's score interval for (gained - lost) / n."""
    from scipy.optimize import brentq  # type: ignore[import-untyped, unused-ignore]

    bound = _normal(confidence)

    def score(change: float) -> float:
        # The likeliest share of lost ones if the true change were this one.
        half = (2 * n - gained + lost) * change - gained - lost
        root = math.sqrt(max(0.0, half * half + 8 * n * lost * change * (1 - change)))
        rate = (root - half) / (4 * n)
        spread = n * (2 * rate + change * (1 - change))
        off = gained - lost - n * change
        return off / math.sqrt(spread) if spread > 0 else math.copysign(math.inf, off) if off else 0.0

    def end(wanted: float, edge: float) -> float:
        mean = (gained - lost) / n
        return edge if abs(mean - edge) < 1e-12 else float(brentq(lambda at: _finite(score(at)) - wanted, mean, edge))

    return end(bound, -1.0), end(-bound, 1.0)


def _finite(value: float) -> float:
    return math.copysign(min(abs(value), 1e9), value)


def _student_change(before: Sequence[float], after: Sequence[float]) -> Change:
    from sotopia_env.evaluation.statistics import difference

    found = difference(_each(after), _each(before), confidence=_CONFIDENCE)
    assert found is not None, "there are pairs"
    mean, low, high = found.estimate.mean, found.estimate.low, found.estimate.high
    if low is None or high is None or found.p is None:
        raise ConfigurationError(_TOO_FEW)
    return Change(mean, low, high, len(before), None, None, found.p)


def _each(values: Sequence[float]) -> dict[str, list[float]]:
    return {str(number): [value] for number, value in enumerate(values)}


def _binary(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)


def _normal(confidence: float = _CONFIDENCE) -> float:
    try:
        from scipy.special import ndtri
    except ImportError as error:
        raise MissingExtraError(
            "Intervals need scipy, which is not installed. Install it with: pip install 'sotopia-env[eval]'"
        ) from error
    return float(ndtri(0.5 + confidence / 2))
