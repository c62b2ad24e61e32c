"""Playing policies against held-out partners, in every seat, on held-out tasks.

Every policy meets every partner on every task from every seat, with the same seeds, so that policies can be
compared task by task. An episode that broke off or has no verdict gives no number; it is counted. What a
training run met (its partners, its tasks) has no place here: a policy is to be good with strangers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env import aio
from sotopia_env.conversation import TURN_ORDERS
from sotopia_env.episodes import Episode, TurnOrder, Verdict
from sotopia_env.errors import BudgetError, ConfigurationError, unknown
from sotopia_env.evaluation.measures import has_zone, measure
from sotopia_env.evaluation.results import RESERVED, Evaluation, Failures, Play, Row
from sotopia_env.judges.base import Judge, Reward, check_reward, scales_of
from sotopia_env.rollouts import Interrupted, arollout
from sotopia_env.specs import Agent, make_agent, make_judge
from sotopia_env.store import EpisodeStore
from sotopia_env.tasks import Task, digest, load_tasks, resolve_tasks

if TYPE_CHECKING:
    from rich.progress import Progress

HELD_OUT = ("scripted/stubborn", "scripted/deceptive", "scripted/tough")
"""Partners that no built-in training meets."""

TRIVIAL = ("scripted/leave", "scripted/accept_anything", "scripted/accept_acceptable", "scripted/extreme")
"""Policies without skill. One that does not beat the best of them has learned nothing."""

EXPERT = "scripted/expert"
"""The strongest scripted policy."""

SEEN, UNSEEN = "seen-wording", "unseen-wording"

WORDINGS = {SEEN: "validation", UNSEEN: "test"}
"""Split by label of tasks. Both are unseen in training; validation in numbers and people, test in wording too."""

Tasks = str | Path | Task | Sequence[Task]
"""What `sotopia_env.rollout` takes for tasks."""

_MESSAGES = 5
"""How many different errors of a row are kept."""


def evaluate(
    policies: Mapping[str, str | Agent],
    tasks: Tasks | Mapping[str, Tasks],
    partners: Sequence[str | Agent] = HELD_OUT,
    *,
    judge: str | Judge = "outcome",
    reward: Reward = "goal",
    repeats: int = 1,
    seed: int = 0,
    concurrency: int = 64,
    max_turns: int = 20,
    turn_order: TurnOrder = "round-robin",
    store: EpisodeStore | str | Path | None = None,
    label: str = SEEN,
    progress: bool = False,
    min_partners: int = 3,
    met: Iterable[str] = (),
) -> Evaluation:
    """Play policies against partners and keep every number.

    Args:
        policies: By label, a spec string or an `Agent`. One after the other is played.
        tasks: A pack, "pack/family", a path, or tasks: those that training did not see; or several such,
            each by a label of its own.
        partners: Spec strings or agents that training did not meet. One partner sits in all other seats.
        judge: "outcome" (default), "openai/<model>", "local/<model>" or a `Judge`.
        reward: What the judge must be able to fill, as in `sotopia_env.rollout`. If it is not "goal" it is a
            measure of its own, "reward".
        repeats: How often each task is played from each seat with each partner.
        seed: With a task's id and the repeat it decides an episode's seed, the same for every policy.
        concurrency: How many episodes of a policy are under way at once, over all partners and seats, so
            that an agent that batches finds many waiting.
        max_turns: Turns after which a conversation is truncated.
        turn_order: "round-robin", "simultaneous" or "random".
        store: An `EpisodeStore`, or a path or URL for one: what it holds is not played again.
        label: What the tasks are called in the table, if they have no labels; "seen-wording" for new numbers
            and people in the wordings of training, "unseen-wording" for new wordings too.
        progress: Show a progress bar on stderr.
        min_partners: Fewer are refused. A policy can learn to beat one partner without any skill.
        met: Names of agents that training met: none of them may be a partner.

    Returns:
        An `Evaluation`. Look at `complete`: episodes without numbers are counted in `failed`.

    Raises:
        ConfigurationError: If the arguments do not fit together; nothing has been played then.
        StoreError: If the store cannot be opened or written.
        BudgetError: If a `Budget` around it was too small. What was played is in the store, if there is one.
        KeyboardInterrupt: On Ctrl-C. What had finished is in the store.
    """
    by_label = tasks if isinstance(tasks, Mapping) else {label: tasks}
    return _Run(
        {name: resolve_tasks(chosen) for name, chosen in by_label.items()},
        cast_of(partners, min_partners, met),
        checked_judge(judge),
        reward=reward,
        repeats=repeats,
        seed=seed,
        concurrency=concurrency,
        max_turns=max_turns,
        turn_order=turn_order,
        store=store,
    ).evaluate(policies, progress)


def evaluate_wordings(
    policies: Mapping[str, str | Agent],
    *,
    tasks: str = "outcome",
    families: Sequence[str] = ("bargain", "divide"),
    n: int = 300,
    seed: int = 0,
    partners: Sequence[str | Agent] = HELD_OUT,
    **options: Any,
) -> Evaluation:
    """Evaluate on `n` tasks in the wordings of training and on `n` in new wordings, under a label each.

    Args:
        policies: By label, a spec string or an `Agent`.
        tasks: A pack, as in `held_out_tasks`.
        families: Families of the pack.
        n: How many tasks of each label.
        seed: Decides generated tasks and the episodes' seeds.
        partners: Spec strings or agents that training did not meet.
        **options: Whatever else `evaluate` takes; `concurrency` counts over both labels.

    Returns:
        An `Evaluation` with the labels "seen-wording" (split "validation") and "unseen-wording" ("test").

    Raises:
        ConfigurationError, StoreError, KeyboardInterrupt: As `evaluate`.
    """
    chosen = {label: held_out_tasks(tasks, families, split=split, n=n, seed=seed) for label, split in WORDINGS.items()}
    return evaluate(policies, chosen, partners, seed=seed, **options)


def held_out_tasks(
    tasks: str = "outcome", families: Sequence[str] = ("bargain", "divide"), *, split: str, n: int = 300, seed: int = 0
) -> list[Task]:
    """Load `n` tasks of a split, spread equally over families of a pack.

    Args:
        tasks: A pack, or any that `load_tasks` takes if `families` is empty.
        families: Families of the pack; the first ones get one task more if `n` is no multiple.
        split: "train", "validation" or "test".
        n: How many in all.
        seed: Which tasks a generated pack makes.

    Raises:
        ConfigurationError: If there are no such tasks.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigurationError(f"n is {n!r}, but must be a whole number of 1 or more.")
    packs = [f"{tasks}/{family}" for family in dict.fromkeys(families)] or [tasks]
    share, extra = divmod(n, len(packs))
    wanted = [(pack, share + (place < extra)) for place, pack in enumerate(packs)]
    found = [task for pack, count in wanted for task in load_tasks(pack, split=split, n=count, seed=seed)]
    if not found:
        raise ConfigurationError(f"{packs!r} have no tasks in split {split!r}. See `sotopia-env tasks list`.")
    return found


def with_references(policies: Mapping[str, str | Agent]) -> dict[str, str | Agent]:
    """The policies, and those that stand in every table beside them: the expert and the trivial ones.

    A reference whose label, or whose agent, is there already is not added.
    """
    names = {policy if isinstance(policy, str) else policy.name for policy in policies.values()}
    references = {spec.partition("/")[2]: spec for spec in (EXPERT, *TRIVIAL)}
    added = {label: spec for label, spec in references.items() if label not in policies and spec not in names}
    return {**policies, **added}


# --- who may play -----------------------------------------------------------------------------------


def cast_of(partners: Sequence[str | Agent], least: int, met: Iterable[str]) -> list[Agent]:
    """Make the partners.

    Raises:
        ConfigurationError: If there are too few, one stands twice, or training met one.
    """
    if isinstance(partners, str) or not isinstance(partners, Sequence):
        raise ConfigurationError(f"partners is {partners!r:.200}, but must be a sequence, such as {list(HELD_OUT)!r}.")
    made = [make_agent(partner) for partner in partners]
    names = [agent.name for agent in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"Partner {twice[0]!r} stands twice. Give every partner once.")
    if len(names) < max(1, least):
        raise ConfigurationError(
            f"There are {len(names)} partners ({names!r:.200}), but at least {max(1, least)} are needed: what holds "
            f"against one may not hold against another. Give more, such as {list(HELD_OUT)!r}, or lower min_partners "
            "(--min-partners)."
        )
    known = {met} if isinstance(met, str) else set(met)
    strangers = [name for name in names if name not in known]
    if strangers != names:
        familiar = [name for name in names if name in known]
        raise ConfigurationError(
            f"Training met {familiar!r}, so playing them again shows nothing. Allowed are partners that it never met, "
            f"such as {[name for name in HELD_OUT if name not in known]!r}."
        )
    return made


def checked_judge(judge: str | Judge) -> Judge:
    """Make the judge.

    Raises:
        ConfigurationError: If there is none, or a dimension of it has the name of another figure.
    """
    made = make_judge(judge)
    if made is None:
        raise ConfigurationError("judge is None, but an evaluation needs verdicts. Use judge='outcome' or a model.")
    taken = sorted(RESERVED & scales_of(made).keys())
    if taken:
        raise ConfigurationError(
            f"Judge {made.name!r} has a dimension {taken[0]!r}, which is the name of another figure in the table. "
            "Rename the dimension."
        )
    return made


def _agents(policies: Mapping[str, str | Agent]) -> dict[str, Agent]:
    if not isinstance(policies, Mapping) or not policies:
        raise ConfigurationError(
            f"policies is {policies!r:.200}, but must map labels to spec strings or agents, at least one: "
            "{'fair': 'scripted/fair'}."
        )
    wrong = [label for label in policies if not isinstance(label, str) or not label.strip()]
    if wrong:
        raise ConfigurationError(f"The label {wrong[0]!r} of a policy must be text that is not blank.")
    return {label: make_agent(policy) for label, policy in policies.items()}


# --- playing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """One rollout: a partner in all seats but one, on tasks of one label and number of seats."""

    label: str
    tasks: tuple[Task, ...]
    partner: Agent
    seat: int

    def seated(self, policy: Agent) -> list[Agent]:
        agents = [self.partner] * len(self.tasks[0].seats)
        agents[self.seat] = policy
        return agents


@dataclass(frozen=True, kw_only=True)
class _Options:
    reward: Reward
    repeats: int
    seed: int
    concurrency: int
    max_turns: int
    turn_order: TurnOrder
    store: EpisodeStore | str | Path | None


class _Run:
    """Policies on the same tasks with the same partners."""

    def __init__(
        self, tasks: Mapping[str, Sequence[Task]], partners: Sequence[Agent], judge: Judge, **options: Any
    ) -> None:
        self.tasks = tasks
        self.partners = partners
        self.judge = judge
        self.options = _Options(**options)
        for name in ("repeats", "concurrency", "max_turns"):
            value = getattr(self.options, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}, but must be a whole number of 1 or more.")
        if isinstance(self.options.seed, bool) or not isinstance(self.options.seed, int):
            raise ConfigurationError(f"seed is {self.options.seed!r}, but must be a whole number.")
        if self.options.turn_order not in TURN_ORDERS:
            raise ConfigurationError(unknown("turn order", self.options.turn_order, TURN_ORDERS))
        wrong = [label for label in tasks if not isinstance(label, str) or not label.strip()]
        if not tasks:
            raise ConfigurationError("tasks is empty. Give at least one label with tasks.")
        if wrong:
            raise ConfigurationError(f"label is {wrong[0]!r}, but must be text that is not blank.")
        for chosen in tasks.values():
            check_reward(judge, self.options.reward, chosen)
        self.store: EpisodeStore | None = None  # opened once all else is known to be right
        self.calls = [
            _Call(label, group, partner, seat)
            for label, chosen in tasks.items()
            for group in _by_size(chosen)
            for partner in partners
            for seat in range(len(group[0].seats))
        ]
        self.episodes = {
            label: self.options.repeats * sum(len(call.tasks) for call in self.calls if call.label == label)
            for label in tasks
        }

    def evaluate(self, policies: Mapping[str, str | Agent], progress: bool) -> Evaluation:
        agents = _agents(policies)
        store = self.options.store
        self.store = EpisodeStore(store) if isinstance(store, (str, Path)) else store
        names = {label: agent.name for label, agent in agents.items()}
        plays: dict[Row, tuple[Play, ...]] = {}
        failures: dict[Row, Failures] = {}
        with _Bar(len(agents) * sum(self.episodes.values()), progress) as bar:
            for policy in list(agents):
                bar.begin(policy)
                # Not kept: a model that has played can be freed before the next one is loaded.
                found = self._play(agents.pop(policy), bar)
                for label in self.tasks:
                    plays[policy, label] = self._in_order(label, found)
                    failures[policy, label] = self._failures(label, found)
                bar.end(sum(self.episodes.values()))
        return Evaluation(plays, failures, self._settings(names))

    def _play(self, policy: Agent, bar: _Bar) -> list[tuple[_Call, _Tally]]:
        """All rollouts of a policy, at the same time.

        Raises:
            KeyboardInterrupt: On Ctrl-C, also inside an agent or judge.
        """
        try:
            tallies: list[_Tally] = aio.run(self._play_all(policy, bar))
        except Interrupted:
            raise KeyboardInterrupt from None
        return list(zip(self.calls, tallies, strict=True))

    async def _play_all(self, policy: Agent, bar: _Bar) -> list[_Tally]:
        at_once = min(len(self.calls), self.options.concurrency)
        slots = asyncio.Semaphore(at_once)
        judge = _Counted(self.judge, bar.advance)

        async def play(call: _Call, concurrency: int) -> _Tally:
            async with slots:
                episodes = await arollout(
                    call.tasks,
                    call.seated(policy),
                    judge=judge,
                    reward=self.options.reward,
                    repeats=self.options.repeats,
                    concurrency=concurrency,
                    seed=self.options.seed,
                    store=self.store,
                    max_turns=self.options.max_turns,
                    turn_order=self.options.turn_order,
                )
            # Elsewhere, for episodes may have to be read from the store while others are being played.
            return await asyncio.to_thread(self._tally, call, episodes)

        share, extra = divmod(self.options.concurrency, at_once)
        running = [
            asyncio.create_task(play(call, share + (place < extra if len(self.calls) == at_once else 0)))
            for place, call in enumerate(self.calls)
        ]
        try:
            return await asyncio.gather(*running)
        except BudgetError:  # what was begun comes as far as the budget reaches, for it is paid for
            await asyncio.gather(*running, return_exceptions=True)
            raise
        finally:  # one that failed takes the others with it; each cleans up first
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _tally(self, call: _Call, episodes: Iterable[Episode]) -> _Tally:
        tally = _Tally([], Counter(), Counter())
        for episode in episodes:
            verdict = episode.verdicts.get(self.judge.name)
            if episode.status == "complete" and verdict is not None:
                measures = measure(episode, verdict, call.seat, self.options.reward)
                tally.plays.append(
                    Play(
                        episode.task.id,
                        episode.task.family or episode.task.pack,
                        has_zone(episode, verdict),
                        call.partner.name,
                        call.seat,
                        episode.repeat,
                        measures,
                    )
                )
                continue
            tally.missing["failed" if episode.status == "failed" else "judge_failed"] += 1
            tally.messages[episode.error or f"no verdict of judge {self.judge.name!r}"] += 1
        return tally

    # --- putting together -----------------------------------------------------------------------

    def _in_order(self, label: str, found: Sequence[tuple[_Call, _Tally]]) -> tuple[Play, ...]:
        """Task after task, partner after partner, seat after seat, whichever was finished first."""
        tasks = {task.id: place for place, task in enumerate(self.tasks[label])}
        partners = {partner.name: place for place, partner in enumerate(self.partners)}
        plays = [play for call, tally in found if call.label == label for play in tally.plays]
        return tuple(sorted(plays, key=lambda p: (tasks[p.task], partners[p.partner], p.seat, p.repeat)))

    def _failures(self, label: str, found: Sequence[tuple[_Call, _Tally]]) -> Failures:
        missing: Counter[str] = Counter()
        messages: Counter[str] = Counter()
        for call, tally in found:
            if call.label == label:
                missing.update(tally.missing)
                messages.update(tally.messages)
        kept = dict(sorted(messages.items(), key=lambda item: (-item[1], item[0]))[:_MESSAGES])
        return Failures(self.episodes[label], missing["failed"], missing["judge_failed"], kept)

    def _settings(self, names: Mapping[str, str]) -> dict[str, Any]:
        options = self.options
        return {
            "policies": dict(names),
            "tasks": {label: _about(tasks) for label, tasks in self.tasks.items()},
            "partners": [partner.name for partner in self.partners],
            "judge": self.judge.name,
            "reward": _reward_name(options.reward),
            "repeats": options.repeats,
            "seed": options.seed,
            "max_turns": options.max_turns,
            "turn_order": options.turn_order,
        }


@dataclass(frozen=True)
class _Tally:
    """What one rollout came to."""

    plays: list[Play]
    missing: Counter[str]
    messages: Counter[str]


def _by_size(tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
    """Tasks by number of seats."""
    sizes = dict.fromkeys(len(task.seats) for task in tasks)
    return [tuple(task for task in tasks if len(task.seats) == size) for size in sizes]


def _about(tasks: Sequence[Task]) -> dict[str, Any]:
    """What tells two sets of tasks apart, and what a reader wants to know of one."""
    return {
        "n": len(tasks),
        "families": dict(Counter(task.family or task.pack for task in tasks)),
        "splits": dict(Counter(task.split for task in tasks)),
        "digest": digest([task.digest for task in tasks])[:16],
    }


def _reward_name(reward: Reward) -> Any:
    if callable(reward):
        return getattr(reward, "__qualname__", repr(reward))
    return dict(reward) if isinstance(reward, Mapping) else reward


# --- progress ---------------------------------------------------------------------------------------


class _Counted:
    """A judge that reports each verdict asked of it, for the progress bar; the same in everything else."""

    def __init__(self, judge: Judge, done: Callable[[], None]) -> None:
        self._judge = judge
        self._done = done
        self.name = judge.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_judge"], name)  # covers, dimensions, inline: where the judge has them

    def score(self, episode: Episode) -> Verdict | Awaitable[Verdict]:
        """Pass on."""
        self._done()
        return self._judge.score(episode)


class _Bar:
    """The progress bar, or nothing."""

    def __init__(self, total: int, shown: bool) -> None:
        self._total = total
        self._shown = shown
        self._before = 0
        self._progress: Progress | None = None

    def __enter__(self) -> _Bar:
        if self._shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.fields[policy]}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("episodes, left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar = self._progress.add_task("", total=self._total, policy="")
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def begin(self, policy: str) -> None:
        """Name the policy that plays."""
        if self._progress is not None:
            from sotopia_env.session import printable

            self._progress.update(self._bar, policy=printable(policy))

    def advance(self) -> None:
        """Count one episode that is over."""
        if self._progress is not None:
            self._progress.update(self._bar, advance=1)

    def end(self, episodes: int) -> None:
        """Count all of a policy's episodes, those too that failed or were in the store."""
        self._before += episodes
        if self._progress is not None:
            self._progress.update(self._bar, completed=self._before)
