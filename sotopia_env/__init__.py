"""Social scenarios as real PettingZoo environments, with LLM-judge and computed rewards.

    env = sotopia_env.parallel_env()
    observations, infos = env.reset(seed=0)
    while env.agents:
        actions = {agent: policy(observations[agent]) for agent in env.agents}
        observations, rewards, terminations, truncations, infos = env.step(actions)

Importing this module is cheap: it loads neither torch nor a model client, and opens nothing. The
environments are in Gymnasium's and PettingZoo's registries as `sotopia_env/Social-v0`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium
import pettingzoo

from sotopia_env.actions import ACTION_TYPES, Action
from sotopia_env.errors import (
    BudgetError,
    ConfigurationError,
    InvalidActionError,
    JudgeError,
    MissingExtraError,
    ModelError,
    ResetNeededError,
    SotopiaEnvError,
    StoreError,
    TaskFormatError,
    TaskNotFoundError,
)
from sotopia_env.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sotopia_env.budgets import Budget
    from sotopia_env.conversation import Conversation, Observation
    from sotopia_env.dimensions import DIMENSIONS, Dimension
    from sotopia_env.episodes import Episode, Event, Score, TurnOrder, Verdict
    from sotopia_env.judges import Judge, LLMJudge, OutcomeJudge, PanelJudge, ScriptedJudge
    from sotopia_env.judges.base import Reward
    from sotopia_env.parallel import SocialParallelEnv
    from sotopia_env.rollouts import arollout, rollout
    from sotopia_env.specs import Agent, make_agent, make_judge
    from sotopia_env.store import EpisodeStore
    from sotopia_env.tasks import CharacterProfile, Seat, Task, load_tasks

__all__ = [
    "ACTION_TYPES",
    "Action",
    "Agent",
    "Budget",
    "BudgetError",
    "CharacterProfile",
    "ConfigurationError",
    "Conversation",
    "DIMENSIONS",
    "Dimension",
    "Episode",
    "EpisodeStore",
    "Event",
    "InvalidActionError",
    "Judge",
    "JudgeError",
    "LLMJudge",
    "MissingExtraError",
    "ModelError",
    "OutcomeJudge",
    "PanelJudge",
    "ResetNeededError",
    "Score",
    "ScriptedJudge",
    "Seat",
    "SotopiaEnvError",
    "StoreError",
    "Task",
    "TaskFormatError",
    "TaskNotFoundError",
    "Verdict",
    "__version__",
    "arollout",
    "env",
    "load_tasks",
    "make_agent",
    "make_judge",
    "parallel_env",
    "rollout",
]

# Where the lazy names live. Records are pydantic models, whose import costs as much as PettingZoo's.
_HOMES = {
    "Agent": "specs",
    "Budget": "budgets",
    "CharacterProfile": "tasks",
    "Conversation": "conversation",
    "DIMENSIONS": "dimensions",
    "Dimension": "dimensions",
    "Episode": "episodes",
    "EpisodeStore": "store",
    "Event": "episodes",
    "Judge": "judges.base",
    "LLMJudge": "judges.llm",
    "OutcomeJudge": "judges.outcome",
    "PanelJudge": "judges.panel",
    "Score": "episodes",
    "ScriptedJudge": "judges.scripted",
    "Seat": "tasks",
    "Task": "tasks",
    "Verdict": "episodes",
    "arollout": "rollouts",
    "load_tasks": "tasks",
    "make_agent": "specs",
    "make_judge": "specs",
    "rollout": "rollouts",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def parallel_env(
    tasks: str | Path | Task | Sequence[Task] = "outcome",
    judge: str | Judge | None = "outcome",
    reward: Reward = "goal",
    max_turns: int = 20,
    turn_order: TurnOrder = "round-robin",
    on_judge_error: str = "raise",
    render_mode: str | None = None,
) -> SocialParallelEnv:
    """Make the PettingZoo parallel environment.

    Args:
        tasks: A pack ("outcome", "everyday", "everyday-hard"), "pack/family", a path to a JSONL file or
            folder, or a sequence of `Task`. Default "outcome". All must have the same number of seats.
        judge: "outcome" (default, arithmetic), "openai/<model>", "local/<model>", a `Judge`, or `None`
            for no verdict and rewards of 0.0.
        reward: A dimension (default "goal"), "overall", `{dimension: weight}`, or a callable from one
            agent's `{dimension: value}` to a float. Paid on the last step; 0.0 before.
        max_turns: Turns after which the conversation is truncated (default 20).
        turn_order: "round-robin" (default), "simultaneous" or "random".
        on_judge_error: "raise" (default), or "mask": rewards of nan where the judge failed. Never 0.
        render_mode: `None`, "human" (prints as it goes) or "ansi" (`render` returns text).

    Returns:
        A `pettingzoo.ParallelEnv`.

    Raises:
        ConfigurationError: If the arguments do not fit together, for example a reward that the judge
            cannot fill.
    """
    from sotopia_env.parallel import SocialParallelEnv

    return SocialParallelEnv(tasks, judge, reward, max_turns, turn_order, on_judge_error, render_mode)


def env(
    tasks: str | Path | Task | Sequence[Task] = "outcome",
    judge: str | Judge | None = "outcome",
    reward: Reward = "goal",
    max_turns: int = 20,
    turn_order: TurnOrder = "round-robin",
    on_judge_error: str = "raise",
    render_mode: str | None = None,
) -> pettingzoo.AECEnv[str, Observation, object]:
    """Make the PettingZoo AEC environment; arguments and errors as `parallel_env`.

    Returns:
        A `pettingzoo.AECEnv` in PettingZoo's `OrderEnforcingWrapper`; only agents that have the turn are
        asked.
    """
    from sotopia_env.aec import SocialAECEnv, SocialOrderEnforcingWrapper

    return SocialOrderEnforcingWrapper(
        SocialAECEnv(tasks, judge, reward, max_turns, turn_order, on_judge_error, render_mode)
    )


def _register() -> None:
    """Put the ids into Gymnasium's and PettingZoo's registries; once, also if imported twice."""
    name = "sotopia_env/Social-v0"
    if name not in gymnasium.registry:
        gymnasium.register(id=name, entry_point="sotopia_env.single:SocialEnv")
    if hasattr(pettingzoo, "register"):  # the registries came with PettingZoo 1.27
        if name not in pettingzoo.parallel_registry:
            pettingzoo.register("parallel", name, "sotopia_env:parallel_env")
        if name not in pettingzoo.aec_registry:
            pettingzoo.register("aec", name, "sotopia_env:env")


_register()
