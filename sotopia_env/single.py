"""The Gymnasium form: one learner, partners of your choice in the other seats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from sotopia_env import aio
from sotopia_env.actions import NOTHING
from sotopia_env.conversation import Observation
from sotopia_env.episodes import Episode, TurnOrder
from sotopia_env.errors import ConfigurationError, ResetNeededError
from sotopia_env.judges.base import Judge, Reward
from sotopia_env.session import RENDER_MODES, Info, Renderer, Session
from sotopia_env.specs import make_agent
from sotopia_env.tasks import Task

if TYPE_CHECKING:
    from sotopia_env.specs import Agent


class SocialEnv(gymnasium.Env[Observation, Any]):
    """One seat of a social scenario; make it with `gymnasium.make("sotopia_env/Social-v0", partner=...)`.

    Partners are played inside `reset` and `step`, so that the learner is asked only when it has the
    turn. A partner that ends the conversation before the learner's first turn is rare; the first
    `step` then ignores its action, says so in `info["ignored"]`, and returns the end.

    Args:
        partner: Who plays the other seats: a spec string or an agent for all of them, or a sequence of
            one per seat in seat order.
        seat: The learner's seat, from 0.
        **options: As `sotopia_env.parallel_env`.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 1}

    def __init__(
        self,
        partner: str | Agent | Sequence[str | Agent] = "scripted/fair",
        seat: int = 0,
        tasks: str | Path | Task | Sequence[Task] = "outcome",
        judge: str | Judge | None = "outcome",
        reward: Reward = "goal",
        max_turns: int = 20,
        turn_order: TurnOrder = "round-robin",
        on_judge_error: str = "raise",
        render_mode: str | None = None,
    ) -> None:
        self._session = Session(tasks, judge, reward, max_turns, turn_order, on_judge_error, render_mode)
        agents = self._session.possible_agents
        if isinstance(seat, bool) or not isinstance(seat, int) or not 0 <= seat < len(agents):
            raise ConfigurationError(f"seat is {seat!r}, but must be a whole number from 0 to {len(agents) - 1}.")
        self.agent = agents[seat]
        others = [agent for agent in agents if agent != self.agent]
        chosen = (
            list(partner) if isinstance(partner, Sequence) and not isinstance(partner, str) else [partner] * len(others)
        )
        if len(chosen) != len(others):
            raise ConfigurationError(
                f"partner names {len(chosen)} agents, but {len(others)} other seats need one: pass one for all or "
                f"{len(others)} in seat order."
            )
        self._partners = {agent: make_agent(spec) for agent, spec in zip(others, chosen, strict=True)}
        self._renderer = Renderer(self._session)
        self._delivered = True
        self.render_mode = render_mode
        self.observation_space = self._session.observation_spaces[self.agent]
        self.action_space = self._session.action_spaces[self.agent]

    @property
    def tasks(self) -> list[Task]:
        """The tasks that `reset` draws from."""
        return self._session.tasks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin a conversation and play partners up to the learner's first turn; else as the parallel form."""
        super().reset(seed=seed)
        self._session.begin(self.np_random, options)
        self._delivered = False
        self._renderer.restart()
        self._play_partners()
        return self._session.observation(self.agent), self._session.info(self.agent)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Play the learner's turn and then partners until it has the turn again or the conversation ends.

        Raises:
            InvalidActionError, JudgeError: As the parallel form.
            ResetNeededError: If the episode has ended.

        An error of a partner comes out too. What was said until then stands, and the next step asks the partner
        again. The learner may not have the turn then: `info["ignored"]` says whether its action counted.
        """
        session = self._session
        conversation = session.conversation
        if self._delivered:
            raise ResetNeededError("The episode has ended. Call reset() to begin another.")
        ignored = self.agent not in conversation.movers and session.ignored(self.agent, {self.agent: action})
        if self.agent in conversation.movers:
            self._turn({self.agent: action})
        self._play_partners()
        if not conversation.is_over:
            return session.observation(self.agent), 0.0, False, False, session.info(self.agent, ignored)
        self._delivered = True
        reward = session.finish().rewards[self.agent]
        truncated = conversation.ended_by == "turn_limit"
        return session.observation(self.agent), reward, not truncated, truncated, session.info(self.agent, ignored)

    def _play_partners(self) -> None:
        conversation = self._session.conversation
        while not conversation.is_over and self.agent not in conversation.movers:
            self._turn({})

    def _turn(self, actions: dict[str, object]) -> None:
        conversation = self._session.conversation
        if actions:
            # Check the learner's move before partners are asked: a bad one must cost and change nothing.
            conversation.check({**dict.fromkeys(conversation.movers, NOTHING), **actions})
        for mover in conversation.movers:
            if mover != self.agent:
                actions[mover] = aio.run(self._partners[mover].act(conversation.view(mover)))
        conversation.apply(actions)
        if self.render_mode == "human":
            self._renderer.refresh()

    def episode(self) -> Episode:
        """The record of the current or just finished episode; an operator's view, never the learner's."""
        return self._session.episode()

    def state(self) -> dict[str, Observation]:
        """Every seat's observation; an operator's view."""
        return self._session.state()

    def snapshot(self) -> dict[str, Any]:
        """Plain JSON of the conversation and the generator; an operator's view."""
        return {**self._session.snapshot(self.np_random), "delivered": self._delivered}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot, taken from this or an equally configured environment."""
        self._session.restore(snapshot, self.np_random)
        self._delivered = bool(snapshot.get("delivered", self._session.ending is not None))
        self._renderer.restart()

    def render(self) -> str | None:
        """Public events as text ("ansi"), or print what is new ("human")."""
        return self._renderer.render()

    def close(self) -> None:
        """Nothing to release; safe to call twice."""
