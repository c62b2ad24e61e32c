"""What a run of the loop will take, before it starts: episodes, tokens, money and time, stage by stage.

Tokens come from playing a few of the very tasks with scripted agents and counting what every seat would be shown
and say, at four characters a token. Language models talk longer than scripted agents, by `TALKATIVE`. These
are estimates, good to a factor of two; what hosted models really used stands in every episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sotopia_env
from sotopia_env import chat
from sotopia_env.agents.folders import resolve_model
from sotopia_env.trainers.datasets import conversation_of
from sotopia_env.trainers.pi import casts
from sotopia_env.trainers.settings import SELF, Preset
from sotopia_env.specs import make_agent
from sotopia_env.tasks import Task

CHARACTERS = 4
"""Characters of English text in a token, about."""

TALKATIVE = 2.0
"""How much longer language models talk than scripted agents, about."""

_PLAYED = 4
_SCRIPTED = "scripted/fair"
