"""Self-reinforcement: a policy learns from the best of what it does itself (arXiv 2403.08715, section 2.2).

Every round plays, filters and trains; the next round plays what the last one trained. Against itself, as in
the paper, every seat's trajectories are candidates; against a pool of training partners the learner takes every
seat equally often and only its own trajectories are. A filter that looks at one side's goal alone keeps
self-play in which the other side gives in; a pool of partners that do not is the remedy tried here.

    <output>/round-1/episodes.db     what was played
                     filter.json     what was kept of it, and why not the rest
                     policy/         what was trained, with its training.json: `hf/<output>/round-1/policy`
            /round-2/...
            /rounds.json             all of that in one file, once everything is done

A run that is started again goes on where it was stopped: episodes that are stored are not played again,
and a training goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sotopia_env.errors import ConfigurationError, one_line, unknown
from sotopia_env.rollouts import rollout
from sotopia_env.specs import make_agent, make_judge
from sotopia_env.store import EpisodeStore
from sotopia_env.tasks import resolve_tasks
from sotopia_env.trainers.behavior_cloning import (
    TrainResult,
    TrainSettings,
    check_installed,
    check_whole,
    model_and_adapter,
    train,
)
from sotopia_env.trainers.casts import casts, dealt
from sotopia_env.trainers.filters import Filter, make_filter, require

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode, TurnOrder
    from sotopia_env.judges.base import Judge, Reward
    from sotopia_env.specs import Agent
    from sotopia_env.tasks import Task

PARTNERS = ("self", "pool")

RECORD = "rounds.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """One round of play, filter, train.

    Attributes:
        number: From 1.
        learner: The name under which the policy played.
        episodes: Number of episodes by status.
        filter: `Filtered.record()`: the rule, what it kept, and what it dropped by reason.
        training: What was made of it; `training.output` is the new policy's folder.
    """

    number: int
    learner: str
    episodes: dict[str, int]
    filter: dict[str, Any]
    training: TrainResult

    def record(self) -> dict[str, Any]:
        """The round as JSON values."""
        training = {
            "steps": self.training.steps,
            "seconds": self.training.seconds,
            "tokens": self.training.tokens,
            "data": self.training.data,
            "losses": self.training.losses,
        }
        return {
            "number": self.number,
            "learner": self.learner,
            "episodes": self.episodes,
            "filter": self.filter,
            "training": training,
        }


def self_reinforcement(
    policy: str | Path,
    tasks: str | Path | Task | Sequence[Task],
    output: str | Path,
    *,
    rounds: int = 1,
    partner: Literal["self", "pool"] = "self",
    pool: Sequence[str | Agent] = (),
    filter: str | Mapping[str, Any] | Filter = "paper-sr",
    settings: TrainSettings | None = None,
    repeats: int = 10,
    seed: int = 0,
    judge: str | Judge = "outcome",
    reward: Reward = "goal",
    max_turns: int = 20,
    turn_order: TurnOrder = "round-robin",
    concurrency: int = 64,
    acting: Mapping[str, Any] | None = None,
    make: Callable[[str], Agent] | None = None,
    progress: bool = False,
) -> list[Round]:
    """Play, filter, train, `rounds` times over, each round from the policy of the one before.

    Args:
        policy: Where to begin: a model's or adapter's folder, a hub id, or "smollm2".
        tasks: Training tasks: a pack, "pack/family", a path, a `Task`, or a sequence of them. The rounds share them
            out: no round plays another's, as in the paper (100 new tasks a round).
        output: The folder for everything.
        rounds: How many rounds.
        partner: "self", as in the paper, or "pool".
        pool: Training partners, for "pool": specs or agents. Evaluate with others.
        filter: What is kept: a rule's name with options, or a filter; see `sotopia_env.trainers.filters`. The paper's
            keeps the best 20% of every seat of every task. Its own `learner`, `judge` and `reward` go before the run's.
        settings: How each round trains; its method must fit the policy: an adapter goes on as an adapter.
        repeats: Episodes of every task in a round (10 in the paper).
        seed: Decides play and training.
        judge: Who scores; as in `sotopia_env.rollout`.
        reward: What the filter ranks by, if it does not say so itself.
        max_turns: Turns after which a conversation is truncated.
        turn_order: "round-robin", "simultaneous" or "random".
        concurrency: Episodes under way at once, and replies generated at once.
        acting: How the policy acts: options of `HFAgent`, such as {"temperature": 0.7, "quantize": "nf4"}.
        make: Makes the agent of a policy's folder instead, for those who serve it elsewhere.
        progress: Show progress bars.

    Returns:
        The rounds. The last one's `training.output` is the final policy.

    Raises:
        ConfigurationError: If the arguments do not fit together, before anything is played; later if a filter keeps
            nothing, or a folder holds the result of other arguments. What is finished stays.
        MissingExtraError: If a library is not installed.
    """
    settings = settings or TrainSettings()
    check_installed(settings)
    for name, count in (("rounds", rounds), ("repeats", repeats)):
        check_whole(name, count, 1)
    model_and_adapter(policy, None, settings)
    scorer = make_judge(judge)
    if scorer is None:
        raise ConfigurationError("judge is None, but self-reinforcement needs scores. Take 'outcome', or a model.")
    playing = _Playing(
        tasks=resolve_tasks(tasks),
        partners=_partners(partner, pool),
        rounds=rounds,
        options={
            "judge": scorer,
            "reward": reward,
            "repeats": repeats,
            "concurrency": concurrency,
            "seed": seed,
            "max_turns": max_turns,
            "turn_order": turn_order,
            "progress": progress,
        },
    )
    playing.check()
    rule = make_filter(filter) if isinstance(filter, (str, Mapping)) else filter
    own: dict[str, Any] = rule.keywords if isinstance(rule, partial) else {}
    make = make or partial(_hf_agent, options={"batch_size": concurrency, **(acting or {})})
    made: list[Round] = []
    for number in range(1, rounds + 1):
        folder = Path(output) / f"round-{number}"
        learner, counts = make(str(policy)), Counter[str]()
        episodes = playing.episodes(learner, number, folder, counts)
        filtered = rule(episodes, **{"learner": learner.name, "judge": scorer.name, "reward": reward, **own})
        _write(folder / "filter.json", filtered.record())
        kept, played_by = require(filtered).kept, learner.name
        _logger.info("round %d: kept %d of %d trajectories", number, len(kept), filtered.statistics["trajectories"])
        del learner, episodes  # so that the weights it acted with can be let go of
        training = train(
            policy,
            kept,
            folder / "policy",
            replace(settings, keep_none=settings.keep_none and not filtered.drop_none),
            seed=seed,
            progress=progress,
        )
        made.append(Round(number, played_by, dict(sorted(counts.items())), filtered.record(), training))
        policy = training.output
    _write(Path(output) / RECORD, {"rounds": [each.record() for each in made]})
    return made


@dataclass(frozen=True)
class _Playing:
    """What is the same in every round's play."""

    tasks: Sequence[Task]
    partners: Sequence[Agent]
    rounds: int
    options: dict[str, Any]

    def check(self) -> None:
        """Refuse what would leave a cast of some round without a task."""
        needed = self.rounds * max(1, len(self.partners) * len(self.tasks[0].seats))
        if len(self.tasks) < needed:
            raise ConfigurationError(
                f"{len(self.tasks)} tasks are too few for {self.rounds} round(s) in which every seat is taken against "
                f"each of {max(1, len(self.partners))} partner(s): at least {needed} are needed. Give more tasks, or "
                "fewer partners or rounds."
            )

    def episodes(self, learner: Agent, number: int, folder: Path, counts: Counter[str]) -> Iterator[Episode]:
        """Play a round's tasks, shared out among its casts."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{str(folder)!r} cannot be written: {one_line(error)}.") from error
        tasks = self.tasks[number - 1 :: self.rounds]
        seated = casts(learner, self.partners, len(tasks[0].seats))
        with EpisodeStore(folder / "episodes.db") as store:
            for cast, part in dealt(tasks, seated):
                for episode in rollout(part, cast, store=store, **self.options):
                    counts[episode.status] += 1
                    yield episode


def _partners(partner: str, pool: Iterable[str | Agent]) -> list[Agent]:
    if partner not in PARTNERS:
        raise ConfigurationError(unknown("partner", partner, PARTNERS))
    agents = [make_agent(each) for each in pool]
    if partner == "pool" and not agents:
        raise ConfigurationError("partner is 'pool', but the pool is empty. Name training partners, or take 'self'.")
    if partner == "self" and agents:
        raise ConfigurationError(
            f"partner is 'self', but a pool is given: {[agent.name for agent in agents]}. Leave it out, or take 'pool'."
        )
    return agents


def _hf_agent(policy: str, options: Mapping[str, Any]) -> Agent:
    from sotopia_env.agents.hf import HFAgent

    return HFAgent(policy, **options)


def _write(path: Path, value: dict[str, Any]) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


__all__ = ["PARTNERS", "Round", "self_reinforcement"]
