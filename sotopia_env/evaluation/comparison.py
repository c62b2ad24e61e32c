"""Comparing benchmark results: paired by task, one test for each comparison, corrected for their number.

    compare([load_results("a.json"), load_results("b.json")], names=["a.json", "b.json"])

Every policy of every file is compared with the baseline, the first policy of the first file, in every section. A
difference is the mean over tasks of the policy's task mean minus the baseline's, on the plays that both have, with
Student's t over tasks (`sotopia_env.evaluation.statistics`). The more one compares the likelier some difference looks
real by chance, so the p-values are corrected by Holm's step-down procedure (S. Holm, Scand. J. Statistics 6, 1979),
which keeps the chance of even one false alarm at 5% under any dependence. It is written here: scipy has only the
false discovery rate, which promises less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sotopia_env.errors import ConfigurationError, unknown
from sotopia_env.evaluation.benchmark import Results
from sotopia_env.evaluation.results import Evaluation
from sotopia_env.evaluation.statistics import Difference, difference

ALPHA = 0.05
"""How often there is even one false alarm where no policy differs from the baseline."""


@dataclass(frozen=True)
class Compared:
    """One comparison.

    Attributes:
        section, measure: What was compared.
        policy, baseline: Labels; with the file's name, or its path, where two files have the same label.
        found: The difference, policy minus baseline, with its p-value; `None` if they have no play in common.
        p_holm: The p-value corrected for all comparisons that were made; `None` if there was nothing to test.
    """

    section: str
    measure: str
    policy: str
    baseline: str
    found: Difference | None
    p_holm: float | None

    @property
    def differs(self) -> bool:
        """Whether the corrected test says so."""
        return self.p_holm is not None and self.p_holm < ALPHA

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        found = self.found.record() if self.found is not None else None
        return {
            "section": self.section,
            "measure": self.measure,
            "policy": self.policy,
            "baseline": self.baseline,
            "difference": found,
            "p_holm": self.p_holm,
            "differs": self.differs,
        }


def compare(
    results: Sequence[Results],
    *,
    names: Sequence[str] | None = None,
    measures: Sequence[str] = ("goal",),
    baseline: str | None = None,
) -> list[Compared]:
    """Compare every policy with the baseline.

    Args:
        results: One or more, of the same protocol, judged and played by the same models.
        names: What the files are called; tells equal labels apart.
        measures: A dimension, or a figure such as "welfare". Each counts as comparisons of its own.
        baseline: Label of the baseline; default the first policy of the first file.

    Raises:
        ConfigurationError: If the results do not compare, there is nothing to compare, or no such baseline.
        MissingExtraError: If scipy is not installed.
    """
    called = list(names or [f"file {number}" for number in range(1, len(results) + 1)])
    check_comparable(results, called)
    if not measures:
        raise ConfigurationError("measures is empty. Name at least one, such as 'goal'.")
    labelled = _with_distinct_labels(results, called)
    policies = [label for one in labelled for label in one.policies]
    base = policies[0] if baseline is None else baseline
    if base not in policies:
        raise ConfigurationError(unknown("baseline", base, policies))
    if len(policies) < 2:
        raise ConfigurationError(f"There is only one policy, {base!r}. Pass another results file to compare it with.")
    found: list[Compared] = []
    for section in labelled[0].evaluations:
        together = _together([one.evaluations[section] for one in labelled])
        for policy in (policy for policy in policies if policy != base):
            for measure in dict.fromkeys(measures):
                if not any(measure in together.measures(one, section) for one in (base, policy)):
                    continue
                ((first, second),) = together._matched((policy, section), (base, section), measure)
                found.append(Compared(section, measure, policy, base, difference(first, second), None))
    if not found:
        each = [
            (one, policy) for results in labelled for one in results.evaluations.values() for policy in one.policies
        ]
        known = sorted({measure for evaluation, policy in each for measure in evaluation.measures(policy)})
        raise ConfigurationError(unknown("measure", measures[0], known))
    return _corrected(found)


def check_comparable(results: Sequence[Results], names: Sequence[str]) -> None:
    """Refuse results of different protocols, or judged or met by different models behind the same name.

    Raises:
        ConfigurationError: Says what differs.
    """
    if not results:
        raise ConfigurationError("There are no results to compare. Pass files that `sotopia-env benchmark` wrote.")
    first, *others = results
    for other, name in zip(others, names[1:], strict=True):
        if first.protocol["hash"] != other.protocol["hash"]:
            where, a, b = _first_difference(first.protocol, other.protocol) or ("hash", "", "")
            raise ConfigurationError(
                f"{names[0]!r} and {name!r} are of different protocols ({where}: {a!r:.80} and {b!r:.80}), so their "
                "numbers do not compare. Run the benchmark again with the same options and version."
            )
        for model in sorted(_shared_models(first) & _shared_models(other)):
            a_ids, b_ids = first.served.get(model, []), other.served.get(model, [])
            if a_ids != b_ids:
                raise ConfigurationError(
                    f"{model!r}, a judge or partner, was served as {a_ids!r:.120} in {names[0]!r} and as "
                    f"{b_ids!r:.120} in {name!r}, so their numbers do not compare. Run both against the same models."
                )


def _shared_models(results: Results) -> set[str]:
    """Names of judges and partners."""
    sections = results.protocol["sections"].values()
    return {name for section in sections for name in (section["judge"], *section["partners"])}


def _first_difference(a: Any, b: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Where two JSON values first differ; options before what follows from them."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}, key=lambda key: (key == "hash", key == "sections", "hash" in key, key)):
            found = _first_difference(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
            if found is not None:
                return found
        return None
    return None if a == b else (where, a, b)


def _with_distinct_labels(results: Sequence[Results], names: Sequence[str]) -> list[Results]:
    counts = Counter(label for one in results for label in one.policies)
    files = [Path(name).name for name in names]
    if len(set(files)) < len(files):
        files = list(names)
    labels = [
        {label: f"{label} ({file})" if counts[label] > 1 else label for label in one.policies}
        for one, file in zip(results, files, strict=True)
    ]
    called = Counter(label for each in labels for label in each.values())
    twice = next((label for label, times in called.items() if times > 1), None)
    if twice is not None:
        raise ConfigurationError(
            f"Two policies would be called {twice!r:.200}. Give every results file once, and labels that differ."
        )
    return [_renamed(one, each) for one, each in zip(results, labels, strict=True)]


def _renamed(results: Results, labels: dict[str, str]) -> Results:
    policies = {labels[label]: about for label, about in results.policies.items()}
    evaluations = {
        section: Evaluation(
            {(labels[policy], tasks): plays for (policy, tasks), plays in evaluation.plays.items()},
            {(labels[policy], tasks): failed for (policy, tasks), failed in evaluation.failed.items()},
            {**evaluation.settings, "policies": {labels[k]: v for k, v in evaluation.settings["policies"].items()}},
        )
        for section, evaluation in results.evaluations.items()
    }
    return replace(results, policies=policies, evaluations=evaluations)


def _together(evaluations: Sequence[Evaluation]) -> Evaluation:
    whole = evaluations[0]
    for other in evaluations[1:]:
        whole = whole + other
    return whole


def _corrected(found: Sequence[Compared]) -> list[Compared]:
    tested = [one.found.p for one in found if one.found is not None and one.found.p is not None]
    corrected = iter(holm(tested))
    return [
        replace(one, p_holm=next(corrected)) if one.found is not None and one.found.p is not None else one
        for one in found
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values such that rejecting those below alpha errs even once with at most that chance.

    Args:
        p_values: From 0 to 1, in any order.

    Returns:
        Corrected values in the same order, never smaller than the given ones.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
