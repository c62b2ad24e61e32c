"""The PettingZoo AECEnv: only agents that have the turn are asked, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from pettingzoo import AECEnv
from pettingzoo.utils.wrappers import OrderEnforcingWrapper

from sotopia_env.actions import Action, as_action
from sotopia_env.conversation import Observation
from sotopia_env.episodes import Episode, TurnOrder
from sotopia_env.errors import InvalidActionError, ResetNeededError
from sotopia_env.judges.base import Judge, Reward
from sotopia_env.session import RENDER_MODES, Info, Renderer, Session
from sotopia_env.tasks import Task


class SocialAECEnv(AECEnv[str, Observation, object]):
    """Social scenarios as a PettingZoo AEC environment; make it with `sotopia_env.env`.

    In simultaneous order moves are gathered until everybody present has made one, and nobody sees
    another's before.
    """

    metadata: dict[str, Any] = {
        "name": "sotopia_env/Social-v0",
        "render_modes": list(RENDER_MODES),
        "is_parallelizable": False,  # agents that have no turn are not asked; `parallel_env` is the parallel form
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
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = Session(tasks, judge, reward, max_turns, turn_order, on_judge_error, render_mode)
        self._renderer = Renderer(self._session)
        self._generator: np.random.Generator | None = None
        self._moves: dict[str, Action] = {}
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

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin a conversation; arguments and errors as `SocialParallelEnv.reset`."""
        if seed is not None or self._generator is None:
            self._generator, _ = seeding.np_random(seed)
        self._session.begin(self._generator, options)
        self._set_out()
        self._renderer.restart()

    def _set_out(self) -> None:
        """Bring PettingZoo's bookkeeping in line with the session's conversation."""
        conversation = self._session.conversation
        self._moves = {}
        self._skip_agent_selection = None  # type: ignore[assignment]
        self.agents = [] if conversation.is_over else self.possible_agents[:]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, Info] = {agent: self._session.info(agent) for agent in self.agents}
        self.agent_selection = conversation.movers[0] if conversation.movers else self.possible_agents[0]

    def observe(self, agent: str) -> Observation:
        """What one agent sees now; moves gathered in this turn are not part of it."""
        return self._session.observation(agent)

    def step(self, action: object) -> None:
        """Take the action of `agent_selection`; `None` for one whose episode has ended.

        Raises:
            InvalidActionError: If the action is outside the space; nothing changes then.
            JudgeError: As `SocialParallelEnv.step`.
        """
        agent = self.agent_selection
        if agent not in self.agents:
            raise ResetNeededError("The environment has no running episode. Call reset() first.")
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        if action is None:
            raise InvalidActionError(f"{agent!r} has the turn but sent None. Send Action('none') to do nothing.")
        conversation = self._session.conversation
        self._moves[agent] = as_action(action, agent)
        self._cumulative_rewards[agent] = 0.0
        self._clear_rewards()
        waiting = [mover for mover in conversation.movers if mover not in self._moves]
        if waiting:
            self.agent_selection = waiting[0]
            return
        moves, self._moves = self._moves, {}
        conversation.apply_checked(moves)
        if self.render_mode == "human":
            self._renderer.refresh()
        if conversation.ended_by is None:
            self.agent_selection = conversation.movers[0]
        else:
            self._end()
        self.infos = {a: self._session.info(a) for a in self.agents}

    def _end(self) -> None:
        agents, self.agents = self.agents, []
        ended_by = self._session.conversation.ended_by
        try:
            ending = self._session.finish()
        except Exception:
            # The conversation is over; leave nothing behind that looks like an agent to be asked.
            for book in (self.rewards, self._cumulative_rewards, self.terminations, self.truncations, self.infos):
                book.clear()
            raise
        self.agents = agents
        self.rewards = dict(ending.rewards)
        self.terminations = dict.fromkeys(agents, ended_by != "turn_limit")
        self.truncations = dict.fromkeys(agents, ended_by == "turn_limit")
        self._accumulate_rewards()
        self.agent_selection = agents[0]

    def _clear_rewards(self) -> None:
        """PettingZoo's version writes the integer 0; rewards here are floats."""
        for agent in self.rewards:
            self.rewards[agent] = 0.0

    def episode(self) -> Episode:
        """The record of the current or just finished episode; an operator's view, never an agent's."""
        return self._session.episode()

    def state(self) -> dict[str, Observation]:  # type: ignore[override]
        """Every agent's observation; an operator's view."""
        return self._session.state()

    def snapshot(self) -> dict[str, Any]:
        """Plain JSON of the conversation, moves gathered in this turn and the generator; an operator's view."""
        assert self._generator is not None or self._session.conversation
        gathered = {agent: [m.action_type, m.argument, m.parse_failure] for agent, m in self._moves.items()}
        return {**self._session.snapshot(self._generator), "moves": gathered}  # type: ignore[arg-type]

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot, taken from this or an equally configured environment."""
        if self._generator is None:
            self._generator, _ = seeding.np_random(0)
        self._session.restore(snapshot, self._generator)
        self._set_out()
        self._moves = {agent: Action(*move) for agent, move in snapshot.get("moves", {}).items()}
        waiting = [mover for mover in self._session.conversation.movers if mover not in self._moves]
        if waiting:
            self.agent_selection = waiting[0]
        self._renderer.restart()

    def render(self) -> str | None:
        """Public events as text ("ansi"), or print what is new ("human")."""
        return self._renderer.render()

    def close(self) -> None:
        """Nothing to release; safe to call twice."""


class SocialOrderEnforcingWrapper(OrderEnforcingWrapper[str, Observation, object]):
    """PettingZoo's wrapper, which also takes `restore` for a beginning."""

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """As `SocialAECEnv.restore`; no `reset` is needed before it."""
        self.env.restore(snapshot)  # type: ignore[attr-defined]
        self._has_reset = True
        self._has_updated = True
