"""Policies that plug into the environment.

Scripted strategies and the random agent are pure functions of their observation; language models
and humans answer through the same protocol. Everything here is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sotopia_env.agents.hf import HFAgent
    from sotopia_env.agents.human import HumanAgent
    from sotopia_env.agents.llm import LLMAgent
    from sotopia_env.agents.random_agent import RandomAgent
    from sotopia_env.agents.scripted import STRATEGIES, ScriptedAgent
    from sotopia_env.specs import Agent

__all__ = ["Agent", "HFAgent", "HumanAgent", "LLMAgent", "RandomAgent", "STRATEGIES", "ScriptedAgent"]

_HOMES = {
    "Agent": "sotopia_env.specs",
    "HFAgent": "sotopia_env.agents.hf",
    "HumanAgent": "sotopia_env.agents.human",
    "LLMAgent": "sotopia_env.agents.llm",
    "RandomAgent": "sotopia_env.agents.random_agent",
    "STRATEGIES": "sotopia_env.agents.scripted",
    "ScriptedAgent": "sotopia_env.agents.scripted",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
