"""How good policies are: held-out partners, held-out tasks, and intervals that hold.

`evaluate` plays policies and returns an `Evaluation`; `combine` averages evaluations over training seeds.
Everything here is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sotopia_env.evaluation.policies import (
        EXPERT,
        HELD_OUT,
        TRIVIAL,
        WORDINGS,
        evaluate,
        evaluate_wordings,
        held_out_tasks,
        with_references,
    )
    from sotopia_env.evaluation.results import Combined, Evaluation, Play, combine
    from sotopia_env.evaluation.statistics import Estimate, clustered, paired

__all__ = [
    "Combined",
    "EXPERT",
    "Estimate",
    "Evaluation",
    "HELD_OUT",
    "Play",
    "TRIVIAL",
    "WORDINGS",
    "clustered",
    "combine",
    "evaluate",
    "evaluate_wordings",
    "held_out_tasks",
    "paired",
    "with_references",
]

_HOMES = {
    "Combined": "results",
    "EXPERT": "policies",
    "Estimate": "statistics",
    "Evaluation": "results",
    "HELD_OUT": "policies",
    "Play": "results",
    "TRIVIAL": "policies",
    "WORDINGS": "policies",
    "clustered": "statistics",
    "combine": "results",
    "evaluate": "policies",
    "evaluate_wordings": "policies",
    "held_out_tasks": "policies",
    "paired": "statistics",
    "with_references": "policies",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"sotopia_env.evaluation.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
