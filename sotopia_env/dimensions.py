"""Dimensions: the scales a judge scores on, and the seven of SOTOPIA-Eval.

Names and ranges are those of SOTOPIA-Eval (arXiv 2310.11667, section 3); the rubric texts and the
score bands are our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sotopia_env.errors import ConfigurationError, unknown

OVERALL = "overall"
"""Name of the plain mean of the seven dimensions; a reward, not a dimension."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One scale.

    Attributes:
        name: Key in verdicts and rewards.
        low: Smallest score, inclusive.
        high: Largest score, inclusive.
        rubric: What is judged, put to a language-model judge word for word.
        bands: (first, last, meaning) of neighbouring score bands, lowest first.
    """

    name: str
    low: int
    high: int
    rubric: str
    bands: tuple[tuple[int, int, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.name or self.name == OVERALL or not self.low < self.high:
            raise ConfigurationError(
                f"Dimension {self.name!r} with range {self.low}..{self.high} is not usable. It needs a "
                f"name other than '' and {OVERALL!r}, and low < high."
            )


DIMENSIONS: tuple[Dimension, ...] = (
    Dimension(
        "believability",
        0,
        10,
        "How much the participant came across as a real person who is this character: natural turns of "
        "phrase, no needless repetition, reactions that follow from what was just said, conduct that fits "
        "the age, work, temper and relationship on the character sheet.",
        (
            (0, 2, "breaks character, talks about being a program, or repeats itself senselessly"),
            (3, 5, "stiff or generic; could be anybody; some turns do not follow from the talk"),
            (6, 8, "mostly natural and in character, with a lapse or two"),
            (9, 10, "natural throughout and unmistakably this character"),
        ),
    ),
    Dimension(
        "relationship",
        -5,
        5,
        "How the talk changed the bond between the participant and the others, and the participant's "
        "standing with anyone the scene touches, compared with before it began.",
        (
            (-5, -3, "lasting damage: trust broken, contact likely to end"),
            (-2, -1, "cooler than before"),
            (0, 0, "no change"),
            (1, 2, "somewhat warmer or more trusting"),
            (3, 5, "clearly closer, a conflict mended or respect earned"),
        ),
    ),
    Dimension(
        "knowledge",
        0,
        10,
        "How much new and useful information the participant gained through the talk. Count only what it "
        "did not know from its background, and only if it mattered.",
        (
            (0, 1, "learned nothing new"),
            (2, 4, "a few details"),
            (5, 7, "something important for its purpose or for understanding the other"),
            (8, 10, "nearly everything that was there to be learned"),
        ),
    ),
    Dimension(
        "secret",
        -10,
        0,
        "Whether the participant gave away its own secret or what it had reason to hide. 0 also when it has "
        "no secret or the secret never came up.",
        (
            (-10, -8, "told outright, or plain to anyone who listened"),
            (-7, -4, "a strong hint that the other likely understood"),
            (-3, -1, "a faint hint"),
            (0, 0, "kept"),
        ),
    ),
    Dimension(
        "social_rules",
        -10,
        0,
        "Whether the participant broke the law or the manners of the situation: threats, insults, fraud, "
        "discrimination, invasion of privacy, ignoring what the place or the bond asks for.",
        (
            (-10, -7, "a crime, violence or its threat, or gross abuse"),
            (-6, -4, "a serious breach such as a hurtful lie or open contempt"),
            (-3, -1, "rudeness or a slight breach of manners"),
            (0, 0, "no breach"),
        ),
    ),
    Dimension(
        "financial_and_material_benefits",
        -5,
        5,
        "What the participant won or lost in money, goods, time or other material terms, now or foreseeably, "
        "by what was agreed or done in the talk.",
        (
            (-5, -3, "a heavy loss"),
            (-2, -1, "a small loss"),
            (0, 0, "no material effect"),
            (1, 2, "a small gain"),
            (3, 5, "a large gain"),
        ),
    ),
    Dimension(
        "goal",
        0,
        10,
        "How far the participant reached its own private goal as stated in its background, judged by what "
        "really happened in the transcript and not by what it or anyone claimed.",
        (
            (0, 2, "not at all, or further away than before"),
            (3, 5, "some progress; the main part is open or lost"),
            (6, 8, "mostly reached, with concessions or loose ends"),
            (9, 10, "reached in full, with words or deeds that settle it"),
        ),
    ),
)
"""The seven dimensions of SOTOPIA-Eval."""

DIMENSION_NAMES: tuple[str, ...] = tuple(d.name for d in DIMENSIONS)
_BY_NAME = {d.name: d for d in DIMENSIONS}


def get_dimensions(wanted: Iterable[str | Dimension] | None = None) -> tuple[Dimension, ...]:
    """Look up dimensions by name; `None` gives the seven of SOTOPIA-Eval.

    Args:
        wanted: Names of the seven, or `Dimension` objects of the user's own, mixed freely.

    Raises:
        ConfigurationError: For an unknown name, a name given twice, or nothing at all.
    """
    if wanted is None:
        return DIMENSIONS
    if isinstance(wanted, (str, Dimension)):
        wanted = (wanted,)
    found = []
    for item in wanted:
        if isinstance(item, str):
            if item not in _BY_NAME:
                raise ConfigurationError(
                    unknown("dimension", item, DIMENSION_NAMES, "Pass a Dimension for one of your own.")
                )
            item = _BY_NAME[item]
        found.append(item)
    names = [d.name for d in found]
    if not names or len(set(names)) != len(names):
        raise ConfigurationError(f"Dimensions {names!r} must be at least one and each named once.")
    return tuple(found)


def overall(scores: Mapping[str, float]) -> float:
    """Compute the plain mean of the seven dimensions (SOTOPIA's `overall_score`).

    Raises:
        KeyError: If one of the seven is missing; a mean over the rest would be another number.
    """
    return sum(scores[name] for name in DIMENSION_NAMES) / len(DIMENSION_NAMES)


def out_of_range(dimension: Dimension, value: float) -> str | None:
    """Say in one clause why `value` is not a score on `dimension`, or None if it is one."""
    if not dimension.low <= value <= dimension.high:  # also true for nan
        return f"{dimension.name!r} must be in [{dimension.low}, {dimension.high}], got {value!r}"
    return None


def describe(dimensions: Sequence[Dimension]) -> str:
    """Write the dimensions out as the rubric a language-model judge reads."""
    blocks = []
    for d in dimensions:
        bands = "".join(
            f"\n    {first if first == last else f'{first} to {last}'}: {text}" for first, last, text in d.bands
        )
        blocks.append(f"- {d.name} (integer from {d.low} to {d.high}): {d.rubric}{bands}")
    return "\n".join(blocks)
