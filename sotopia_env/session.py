"""What the three adapters share: the tasks, the judge, the reward, and the conversation under way.

An adapter asks for a new conversation, plays turns, and hands out what `Session` gives it; every
rule about who sees, who acts, who is scored and what that is worth stands here or in the core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sotopia_env import aio
from sotopia_env.conversation import TURN_ORDERS, Conversation, Observation
from sotopia_env.episodes import ENVIRONMENT, Episode, Event, Status, TurnOrder, Verdict
from sotopia_env.errors import ConfigurationError, JudgeError, ResetNeededError, TaskNotFoundError, one_line, unknown
from sotopia_env.judges.base import Judge, Reward, check_reward, check_verdict, rewards_from
from sotopia_env.spaces import action_space, observation_space
from sotopia_env.specs import make_judge
from sotopia_env.tasks import Task, resolve_tasks
from sotopia_env.version import __version__

RENDER_MODES = ("human", "ansi")
ON_JUDGE_ERROR = ("raise", "mask")
SNAPSHOT_VERSION = 1
UNTOLD = "JudgeError: There is no usable verdict. The environment's episode() says why."
"""What agents are told of a judge's failure whose own words might hold another's score or private facts."""

UNFINISHED = "ResetNeededError: The conversation was not played to its end."
"""Error of an environment's episode that is asked for before the end."""

EXTERNAL = "external"
"""Name of the policy in every seat of an environment's own episodes, which does not know who acts."""

Info = dict[str, Any]


@dataclass(frozen=True)
class Ending:
    """What the end of a conversation brought each agent.

    Attributes:
        rewards: By agent; nan for all where the judge failed and failures are masked.
        scores: The agent's own scores by dimension; {} without a verdict.
        error: Class and one line of the judge's failure, or `None`.
        told: The same for the agents, if the judge worded it itself; what other exceptions say, or a verdict that
            does not fit, may hold another's score or private facts.
    """

    rewards: dict[str, float]
    scores: dict[str, dict[str, float]]
    error: str | None = None
    told: str | None = None


class Session:
    """Configuration of an environment and the conversation it is playing.

    Raises:
        ConfigurationError: If the arguments do not fit together; see `sotopia_env.parallel_env`.
    """

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
        if turn_order not in TURN_ORDERS:
            raise ConfigurationError(unknown("turn order", turn_order, TURN_ORDERS))
        if isinstance(max_turns, bool) or not isinstance(max_turns, int) or max_turns < 1:
            raise ConfigurationError(f"max_turns is {max_turns!r}, but must be a whole number of 1 or more.")
        if on_judge_error not in ON_JUDGE_ERROR:
            raise ConfigurationError(unknown("on_judge_error", on_judge_error, ON_JUDGE_ERROR))
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ConfigurationError(unknown("render mode", render_mode, RENDER_MODES, "Or None."))
        self.tasks = resolve_tasks(tasks)
        sizes = sorted({len(task.seats) for task in self.tasks})
        if len(sizes) > 1:
            raise ConfigurationError(
                f"The tasks have {sizes} seats, but one environment has one number of agents. Select the tasks of "
                f"one size, for example [task for task in tasks if len(task.seats) == {sizes[0]}]."
            )
        self._by_id = {task.id: task for task in self.tasks}
        self.judge = make_judge(judge)
        check_reward(self.judge, reward, self.tasks)
        self.reward = reward
        self.max_turns = max_turns
        self.turn_order: TurnOrder = turn_order
        self.on_judge_error = on_judge_error
        self.render_mode = render_mode
        self.possible_agents = list(self.tasks[0].agents)
        space = observation_space(max_turns)
        self.observation_spaces = dict.fromkeys(self.possible_agents, space)
        self.action_spaces = {agent: action_space() for agent in self.possible_agents}
        self._conversation: Conversation | None = None
        self.verdict: Verdict | None = None
        self.ending: Ending | None = None

    # --- one conversation after another ---------------------------------------------------------

    @property
    def conversation(self) -> Conversation:
        """The conversation under way or just ended.

        Raises:
            ResetNeededError: Before the first reset.
        """
        if self._conversation is None:
            raise ResetNeededError("The environment has not been reset. Call reset() first.")
        return self._conversation

    def begin(self, generator: np.random.Generator, options: Mapping[str, Any] | None) -> Conversation:
        """Start a conversation: the task of `options["task"]` or one drawn uniformly, and a seed drawn for it."""
        # Both draws are always made, so that naming the task does not shift what follows.
        drawn = int(generator.integers(len(self.tasks)))
        seed = int(generator.integers(2**48))
        wanted = (options or {}).get("task")
        if wanted is None:
            task = self.tasks[drawn]
        elif isinstance(wanted, str) and wanted in self._by_id:
            task = self._by_id[wanted]
        else:
            raise TaskNotFoundError(unknown("task id", wanted, self._by_id))
        self._conversation = Conversation(task, seed=seed, max_turns=self.max_turns, turn_order=self.turn_order)
        self.verdict = None
        self.ending = None
        return self._conversation

    def observation(self, agent: str) -> Observation:
        """What one agent sees now."""
        return self.conversation.view(agent)

    def info(self, agent: str, ignored: bool = False) -> Info:
        """One agent's info: fresh mask, whether its action was ignored, and on the last step how it ended."""
        conversation = self._conversation or self.conversation
        info: Info = {
            "action_mask": {"action_type": conversation.available_actions(agent), "argument": None},
            "ignored": ignored,
        }
        if conversation.ended_by is not None:
            info["ended_by"] = conversation.ended_by
            if self.ending is not None and self.ending.error is not None:
                info["judge_error"] = self.ending.told or UNTOLD
            elif self.ending is not None:
                info["scores"] = dict(self.ending.scores[agent])
        return info

    def ignored(self, agent: str, actions: Mapping[str, object]) -> bool:
        """Whether `agent`, which has no turn, sent something all the same; doing nothing is never ignored."""
        if agent not in actions:
            return False
        sent = actions[agent]
        kind = sent.get("action_type") if isinstance(sent, (dict, Mapping)) else getattr(sent, "action_type", sent)
        if isinstance(kind, (int, np.integer, np.ndarray)):
            return not (np.ndim(kind) == 0 and kind == 0)
        return kind != "none"

    # --- the end ----------------------------------------------------------------------------------

    def finish(self) -> Ending:
        """Judge the finished conversation and work out the rewards.

        Raises:
            JudgeError: If there is no complete verdict and failures are not masked; it carries the episode.
        """
        agents = self.possible_agents
        if self.judge is None:
            self.ending = Ending(dict.fromkeys(agents, 0.0), {agent: {} for agent in agents})
            return self.ending
        episode = self.episode()
        told: str | None = None
        try:
            try:
                given = aio.run(self.judge.score(episode))
            except JudgeError as error:
                told = one_line(error)
                raise
            verdict = check_verdict(given, episode, self.judge)
            rewards = rewards_from(verdict, self.reward, episode)
        except JudgeError as error:
            ending = self._fail(one_line(error), told)
            error.episode = self.episode()
            if self.on_judge_error == "raise":
                raise
            return ending
        except Exception as foreign:
            failure = JudgeError(f"Judge {self.judge.name!r} failed: {one_line(foreign)}")
            ending = self._fail(one_line(failure), None)
            failure.episode = self.episode()
            if self.on_judge_error == "raise":
                raise failure from foreign
            return ending
        self.verdict = verdict
        self.ending = Ending(rewards, {agent: verdict.values(agent) for agent in agents})
        return self.ending

    def _fail(self, error: str, told: str | None) -> Ending:
        agents = self.possible_agents
        self.ending = Ending(dict.fromkeys(agents, math.nan), {agent: {} for agent in agents}, error, told)
        return self.ending

    def episode(self) -> Episode:
        """The record of the conversation so far; with verdict and rewards once it is judged.

        Until the conversation has ended its status is "failed", so that no store takes it for the whole.
        """
        conversation = self.conversation
        ending = self.ending
        judged = self.verdict is not None and ending is not None
        status: Status = "complete"
        error = None
        if conversation.ended_by is None:
            status, error = "failed", UNFINISHED
        elif ending is not None and ending.error is not None:
            status, error = "judge_failed", ending.error
        return Episode(
            task=conversation.task,
            agents=dict.fromkeys(conversation.agents, EXTERNAL),
            turn_order=self.turn_order,
            max_turns=self.max_turns,
            seed=conversation.seed,
            events=tuple(conversation.events),
            ended_by=conversation.ended_by,
            verdicts={self.verdict.judge: self.verdict} if self.verdict is not None else {},
            rewards=ending.rewards if judged and ending is not None else {},
            status=status,
            error=error,
            code_version=__version__,
        )

    # --- the operator's view ------------------------------------------------------------------------

    def state(self) -> dict[str, Observation]:
        """Every agent's observation; together they hold every seat's private facts."""
        return {agent: self.observation(agent) for agent in self.possible_agents}

    def snapshot(self, generator: np.random.Generator) -> dict[str, Any]:
        """Plain JSON from which `restore` branches this conversation."""
        return {
            "version": SNAPSHOT_VERSION,
            "conversation": self.conversation.snapshot(),
            "generator": generator.bit_generator.state,
            "verdict": self.verdict.model_dump(mode="json") if self.verdict is not None else None,
            "error": self.ending.error if self.ending is not None else None,
            "told": self.ending.told if self.ending is not None else None,
        }

    def restore(self, snapshot: Mapping[str, Any], generator: np.random.Generator) -> None:
        """Go back to (or branch off) a snapshot, the generator of later resets included.

        Raises:
            ConfigurationError: If the snapshot is of another version or does not fit this environment.
        """
        version = snapshot.get("version")
        if version != SNAPSHOT_VERSION:
            raise ConfigurationError(f"Snapshot has version {version!r}; this package reads {SNAPSHOT_VERSION}.")
        try:
            inner = snapshot["conversation"]
            known = self._by_id.get(inner["task"]["id"])
            task = Task.model_validate(inner["task"])
            conversation = Conversation.restore(inner, known if known == task else task)
            # A generator refuses a state of another form, so let one that is thrown away try first.
            type(generator.bit_generator)().state = snapshot["generator"]
            verdict = snapshot.get("verdict")
            verdict = Verdict.model_validate(verdict) if verdict is not None else None
        except (LookupError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The snapshot is damaged: {one_line(error)}. Pass what snapshot() gave, whole."
            ) from error
        fits = (
            list(conversation.agents) == self.possible_agents
            and conversation.max_turns == self.max_turns
            and conversation.turn_order == self.turn_order
        )
        if not fits:
            raise ConfigurationError(
                f"Snapshot is of a {conversation.turn_order!r} conversation of {len(conversation.agents)} agents and "
                f"{conversation.max_turns} turns; this environment has {self.turn_order!r}, "
                f"{len(self.possible_agents)} and {self.max_turns}."
            )
        self._conversation = conversation
        generator.bit_generator.state = snapshot["generator"]
        self.verdict = verdict
        self.ending = None
        if self.verdict is not None:
            rewards = rewards_from(self.verdict, self.reward, self.episode())
            self.ending = Ending(rewards, {agent: self.verdict.values(agent) for agent in self.possible_agents})
        elif snapshot.get("error") is not None:
            self._fail(snapshot["error"], snapshot.get("told"))
        elif self.judge is None and conversation.is_over:
            self.finish()

    # --- rendering ------------------------------------------------------------------------------------

    def render_text(self, first_event: int = 0, *, heading: bool = True) -> str:
        """The public scenario and public events from one on, safe to print to a terminal."""
        conversation = self.conversation
        lines = []
        if heading:
            cast = ", ".join(seat.character.name for seat in conversation.task.seats)
            lines += [f"[{conversation.task.id}] {conversation.task.scenario}", f"Cast: {cast}", ""]
        lines += [event_line(conversation.task, e) for e in conversation.events[first_event:] if e.to is None]
        if conversation.ended_by is not None:
            lines.append(f"-- ended by {conversation.ended_by} --")
        return "\n".join(printable(line) for line in lines)


def event_line(task: Task, event: Event) -> str:
    """One event as a line for human eyes, by character name."""
    if event.speaker == ENVIRONMENT:
        return f"{event.turn:>3}  [{event.argument}]"
    who = task.seats[task.agents.index(event.speaker)].character.name
    match event.action_type:
        case "speak":
            text = f"{who}: {event.argument}"
        case "none":
            text = f"{who} does nothing" + (" (unreadable reply)" if event.parse_failure else "")
        case "leave":
            text = f"{who} leaves" + (f": {event.argument}" if event.argument else "")
        case "action":
            text = f"{who} [action] {event.argument}"
        case _:
            text = f"{who} [gesture] {event.argument}"
    return f"{event.turn:>3}  {text}"


def printable(text: str) -> str:
    """Make control characters visible, so that what an agent says cannot steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Renderer:
    """Prints what is new in "human" mode; gives the whole text in "ansi" mode."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shown = 0
        self._headed = False
        self._closed = False

    def restart(self) -> None:
        """Forget what was printed; a new conversation has begun."""
        self._shown = 0
        self._headed = False
        self._closed = False
        self.refresh()

    def refresh(self) -> None:
        """In "human" mode, print what happened since the last time."""
        if self._session.render_mode != "human" or self._closed:
            return
        text = self._session.render_text(self._shown, heading=not self._headed)
        if text:
            print(text, flush=True)
        self._shown = len(self._session.conversation.events)
        self._headed = True
        self._closed = self._session.conversation.is_over

    def render(self) -> str | None:
        """The environment's `render`: text in "ansi" mode, `None` in "human" mode, which prints as it goes."""
        if self._session.render_mode is None:
            raise ConfigurationError(
                "render() needs a render mode. Make the environment with render_mode='ansi' or 'human'."
            )
        if self._session.render_mode == "ansi":
            return self._session.render_text()
        self.refresh()
        return None
