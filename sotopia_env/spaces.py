"""Gymnasium spaces for conversations.

`gymnasium.spaces.Text` needs its whole character set up front; over all of Unicode that costs
142 MB and 83 ms a sample. `UnicodeText` holds any string that encodes as UTF-8 and samples short
printable ones.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from sotopia_env.actions import ACTION_TYPES, MAX_ARGUMENT_LENGTH, is_text

MAX_BACKGROUND_LENGTH = 1_000_000
"""Longest `background` and `facts` in an observation, in characters."""

_SAMPLE_LENGTH = 64
# Printable text of several scripts and widths, so that sampled actions exercise real Unicode paths.
_ALPHABET = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    "      .,;:!?'\"()<>&{}[]=+-*/\\#%@_|~^$`"
    "äéîõüçñßøłžАБВгдеΑβγδעשאبتث中文字日本語한국어€£→…“”’😀👋🏽❤"
)


class UnicodeText(gymnasium.Space[str]):
    """All strings of at most `max_length` characters that encode as UTF-8, the empty one included.

    `sample` draws 0 to 64 printable characters; a mask is accepted and, as text has no
    categories to mask, has no effect.
    """

    def __init__(self, max_length: int, *, seed: int | np.random.Generator | None = None) -> None:
        self.max_length = int(max_length)
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Always False: text has no fixed-size array form."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Draw a printable string of at most min(64, max_length) characters."""
        length = int(self.np_random.integers(0, min(_SAMPLE_LENGTH, self.max_length) + 1))
        picks = self.np_random.integers(0, len(_ALPHABET), size=length)
        return "".join(_ALPHABET[i] for i in picks)

    def contains(self, x: Any) -> bool:
        """Say whether `x` is a string of this space."""
        return is_text(x, self.max_length)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    __hash__ = None  # type: ignore[assignment]  # spaces are mutable (they hold a generator)

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"


def action_space(seed: int | None = None) -> gymnasium.spaces.Dict:
    """Make the space of one agent's action: a type out of `ACTION_TYPES` and its argument."""
    return gymnasium.spaces.Dict(
        {
            "action_type": gymnasium.spaces.Discrete(len(ACTION_TYPES)),
            "argument": UnicodeText(MAX_ARGUMENT_LENGTH),
        },
        seed=seed,
    )


def observation_space(max_turns: int) -> gymnasium.spaces.Dict:
    """Make the space of one agent's observation; `max_turns` bounds its turn counters."""
    turn = gymnasium.spaces.Discrete(max_turns + 1)
    event = gymnasium.spaces.Tuple(
        (
            gymnasium.spaces.Discrete(max_turns + 1),
            UnicodeText(64),
            gymnasium.spaces.Discrete(len(ACTION_TYPES)),
            UnicodeText(MAX_ARGUMENT_LENGTH),
        )
    )
    return gymnasium.spaces.Dict(
        {
            "agent": UnicodeText(64),
            "background": UnicodeText(MAX_BACKGROUND_LENGTH),
            "facts": UnicodeText(MAX_BACKGROUND_LENGTH),
            "transcript": gymnasium.spaces.Sequence(event),
            "turn": turn,
            "available_actions": gymnasium.spaces.MultiBinary(len(ACTION_TYPES)),
        }
    )
