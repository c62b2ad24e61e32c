"""Judges: from a finished episode to a verdict, and from a verdict to rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sotopia_env.judges.base import Judge
    from sotopia_env.judges.llm import LLMJudge
    from sotopia_env.judges.outcome import OutcomeJudge
    from sotopia_env.judges.panel import PanelJudge
    from sotopia_env.judges.scripted import ScriptedJudge

__all__ = ["Judge", "LLMJudge", "OutcomeJudge", "PanelJudge", "ScriptedJudge"]

_HOMES = {
    "Judge": "base",
    "LLMJudge": "llm",
    "OutcomeJudge": "outcome",
    "PanelJudge": "panel",
    "ScriptedJudge": "scripted",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
