"""An agent that does anything the action space allows: the floor of every table, and a fuzzer."""

from __future__ import annotations

import json
import random
from typing import Any

from sotopia_env.actions import NOTHING, Action

_LEAVES = 0.02
"""Share of its turns in which it leaves."""

_KINDS = ("none", "speak", "speak", "speak", "non-verbal communication", "action", "action")
_ALPHABET = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789    .,;:!?'\"()<>&{}[]=+-*/äéñßøžДλ中日한€…”😀"
)


class RandomAgent:
    """Samples a valid action; off turn it does nothing.

    A pure function of its observation: the draws are seeded by the seed in `facts`, the turn and the
    length of the transcript, so that an episode can be replayed. It leaves in 2% of its turns.
    """

    name = "random"
    inline = True

    def act(self, observation: dict[str, Any]) -> Action:
        """Draw an action type, and for all but `none` and `leave` up to 64 printable characters."""
        if not observation["available_actions"][1:].any():
            return NOTHING
        seed = json.loads(observation["facts"])["seed"]
        draw = random.Random(f"{seed}/{observation['turn']}/{len(observation['transcript'])}")
        if draw.random() < _LEAVES:
            return Action("leave")
        kind = draw.choice(_KINDS)
        if kind == "none":
            return NOTHING
        return Action(kind, "".join(draw.choices(_ALPHABET, k=draw.randint(0, 64))))

    def __repr__(self) -> str:
        return "RandomAgent()"
