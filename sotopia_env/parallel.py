"""The PettingZoo ParallelEnv: a thin adapter over the conversation core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

from sotopia_env.conversation import Observation
from sotopia_env.episodes import Episode, TurnOrder
from sotopia_env.judges.base import Judge, Reward
from sotopia_env.session import RENDER_MODES, Info, Renderer, Session
from sotopia_env.tasks import Task


class SocialParallelEnv(ParallelEnv[str, Observation, object]):
    """Social scenarios as a PettingZoo parallel environment; make it with `sotopia_env.parallel_env`.

    All agents stay until the conversation ends, so that each receives its reward on the last step.
    """

    metadata: dict[str, Any] = {
        "name": "sotopia_env/Social-v0",
        "render_modes": list(RENDER_MODES),
        "is_parallelizable": True,
    }

    def __init__(
        self,
        tasks: str | Path | Task | Sequence[Task] = "outcome",
        judge: str | Judge | None = "outcome",
        reward: Reward = "goal",
        max_turns: int = 20,
        turn_order: TurnOrder = "round-robin",
        on_judge_error: str = "raise",
        render_mode: str | None = None,
    ) -> None:
        self._session = Session(tasks, judge, reward, max_turns, turn_order, on_judge_error, render_mode)
        self._renderer = Renderer(self._session)
        self._generator: np.random.Generator | None = None
        self.render_mode = render_mode
        self.possible_agents: list[str] = self._session.possible_agents
        self.agents: list[str] = []
        self.observation_spaces = self._session.observation_spaces  # type: ignore[assignment]
        self.action_spaces = self._session.action_spaces  # type: ignore[assignment]

    @property
    def tasks(self) -> list[Task]:
        """The tasks that `reset` draws from."""
        return self._session.tasks

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        """The space of observations: one object for all agents."""
        return self._session.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """The space of one agent's actions; always the same object, so that its seed sticks."""
        return self._session.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, Info]]:
        """Begin a conversation.

        Args:
            seed: Seeds the generator that draws tasks and episode seeds; `None` goes on with it.
            options: `{"task": id}` names the task; other keys are accepted and have no effect.

        Raises:
            TaskNotFoundError: If the named task is not among this environment's.
        """
        if seed is not None or self._generator is None:
            self._generator, _ = seeding.np_random(seed)
        self._session.begin(self._generator, options)
        self.agents = self.possible_agents[:]
        self._renderer.restart()
        return self._session.state(), {agent: self._session.info(agent) for agent in self.agents}

    def step(
        self, actions: Mapping[str, object]
    ) -> tuple[dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Info]]:
        """Play one turn.

        Args:
            actions: By agent. Those that have the turn must be there; what others send is ignored
                and `infos[agent]["ignored"]` says so.

        Returns:
            Observations, rewards (0.0 until the last step), terminations, truncations, infos.

        Raises:
            InvalidActionError: If an agent that has the turn sent nothing valid; nothing changes then.
            JudgeError: On the last step, if the judge failed and `on_judge_error` is "raise". The
                episode is over and kept: see `episode()` and the error's `episode`.
        """
        session = self._session
        conversation = session.conversation
        agents = self.agents
        moves = conversation.check(actions)
        ignored = {agent: agent not in moves and session.ignored(agent, actions) for agent in agents}
        conversation.apply_checked(moves)
        if self.render_mode == "human":
            self._renderer.refresh()
        if conversation.ended_by is None:
            rewards = dict.fromkeys(agents, 0.0)
            terminations = dict.fromkeys(agents, False)
            truncations = dict.fromkeys(agents, False)
        else:
            self.agents = []
            rewards = dict(session.finish().rewards)
            terminations = dict.fromkeys(agents, conversation.ended_by != "turn_limit")
            truncations = dict.fromkeys(agents, conversation.ended_by == "turn_limit")
        observations, infos = {}, {}
        for agent in agents:
            observations[agent] = conversation.view(agent)
            infos[agent] = session.info(agent, ignored[agent])
        return observations, rewards, terminations, truncations, infos

    def episode(self) -> Episode:
        """The record of the current or just finished episode; an operator's view, never an agent's."""
        return self._session.episode()

    def state(self) -> dict[str, Observation]:  # type: ignore[override]
        """Every agent's observation; an operator's view."""
        return self._session.state()

    def snapshot(self) -> dict[str, Any]:
        """Plain JSON of the conversation and the generator; an operator's view."""
        assert self._generator is not None or self._session.conversation
        return self._session.snapshot(self._generator)  # type: ignore[arg-type]

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot, taken from this or an equally configured environment."""
        if self._generator is None:
            self._generator, _ = seeding.np_random(0)
        self._session.restore(snapshot, self._generator)
        self.agents = [] if self._session.conversation.is_over else self.possible_agents[:]
        self._renderer.restart()

    def render(self) -> str | None:
        """Public events as text ("ansi"), or print what is new ("human")."""
        return self._renderer.render()

    def close(self) -> None:
        """Nothing to release; safe to call twice."""
