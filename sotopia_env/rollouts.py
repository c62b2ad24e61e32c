"""Rollouts: many episodes at once, judged, stored and resumable.

One engine on the package's event loop serves `rollout` (for sync code and notebooks) and `arollout`.
An episode under way is one coroutine; a bounded number of workers draw them from an iterator, so ten
thousand episodes take the memory of those under way. A failing agent fails its own episode, a failing
judge leaves its episode unjudged; neither touches another episode, and neither becomes a score.
When a budget (`sotopia_env.budgets`) runs out no further episode is begun, and one that it broke off is
kept with its events and goes on from them the next time: a policy is a function of its observation.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sotopia_env import aio, budgets
from sotopia_env.conversation import TURN_ORDERS, Conversation
from sotopia_env.episodes import Episode, TurnOrder, Verdict, episode_key
from sotopia_env.errors import BudgetError, ConfigurationError, one_line, unknown
from sotopia_env.judges.base import Judge, Reward, check_reward, check_verdict, rewards_from
from sotopia_env.judges.cache import verdict_cache
from sotopia_env.models import usage_scope
from sotopia_env.specs import Agent, make_agent, make_judge
from sotopia_env.store import EpisodeStore, StoredEpisodes
from sotopia_env.tasks import Task, digest, resolve_tasks
from sotopia_env.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

ON_ERROR = ("record", "raise")

_logger = logging.getLogger(__name__)

_PLAN_CHUNK = 500
_BACKLOG = 32
"""Finished episodes that may wait for the store before playing pauses."""

_PLAYED = ("complete", "judge_failed")
"""Status of stored episodes that only need a verdict."""

_YIELD_EVERY = 4
"""Turns played in place before other work on the event loop gets its go."""


def rollout(
    tasks: str | Path | Task | Sequence[Task],
    agents: Sequence[str | Agent],
    *,
    judge: str | Judge | None = "outcome",
    reward: Reward = "goal",
    repeats: int = 1,
    concurrency: int = 64,
    seed: int = 0,
    store: EpisodeStore | str | Path | None = None,
    max_turns: int = 20,
    turn_order: TurnOrder = "round-robin",
    progress: bool = False,
    on_error: str = "record",
) -> Sequence[Episode]:
    """Play every task `repeats` times and judge every episode.

    Args:
        tasks: A pack, "pack/family", a path, a `Task` or a sequence of them; each with as many seats as
            there are agents.
        agents: One spec string or `Agent` per seat; `agents[i]` plays `agent_i`. Sync agents act on worker
            threads (those with `inline = True` in place), async ones are awaited.
        judge: "outcome" (default), "openai/<model>", "local/<model>", a `Judge`, or `None` for no verdict
            and no rewards.
        reward: What of a verdict becomes the reward; as in `sotopia_env.parallel_env`.
        repeats: How often each task is played, each time with a seed of its own.
        concurrency: How many episodes are under way at once. Model clients limit their connections
            themselves.
        seed: With a task's id and the number of the repeat it decides an episode's seed.
        store: An `EpisodeStore`, or a path or URL for one. Episodes are written as they finish. Those that it
            holds as complete are not played again, failed ones are, and unjudged ones are only judged;
            a complete one without a verdict of this judge gets that verdict, and keeps its rewards.
        max_turns: Turns after which a conversation is truncated.
        turn_order: "round-robin", "simultaneous" or "random".
        progress: Show a progress bar with rate, remaining time and failures on stderr.
        on_error: "record" keeps a failure in its episode and goes on; "raise" records it, stops all and
            raises it.

    Returns:
        The episodes, task after task and repeat after repeat, whether played now or stored before:
        a list, or with a store a sequence that reads them from it. Look at `status`: "failed" and
        "judge_failed" episodes have an `error` and no rewards.

    Raises:
        ConfigurationError: If the arguments do not fit together; nothing has been played then.
        StoreError: If the store cannot be opened or written.
        BudgetError: If a `Budget` around it was too small for all episodes. What was played is in the store, and
            the same call with a bigger budget goes on from there; without a store the error carries it.
        KeyboardInterrupt: On Ctrl-C. What had finished is in the store; what had not is not.
    """
    engine = _Engine(
        tasks, agents, judge, reward, repeats, concurrency, seed, store, max_turns, turn_order, progress, on_error
    )
    try:
        return aio.run(engine.run())
    except Interrupted:
        raise KeyboardInterrupt from None


async def arollout(
    tasks: str | Path | Task | Sequence[Task],
    agents: Sequence[str | Agent],
    *,
    judge: str | Judge | None = "outcome",
    reward: Reward = "goal",
    repeats: int = 1,
    concurrency: int = 64,
    seed: int = 0,
    store: EpisodeStore | str | Path | None = None,
    max_turns: int = 20,
    turn_order: TurnOrder = "round-robin",
    progress: bool = False,
    on_error: str = "record",
) -> Sequence[Episode]:
    """`rollout` for async code: same arguments, same episodes, and the caller's event loop stays free.

    Async agents and judges run on the package's own event loop, like all model clients. Cancelling it
    leaves the store as clean as Ctrl-C does.
    """
    engine = _Engine(
        tasks, agents, judge, reward, repeats, concurrency, seed, store, max_turns, turn_order, progress, on_error
    )
    if asyncio.get_running_loop() is aio.loop():
        return await engine.run()
    running = asyncio.run_coroutine_threadsafe(engine.run(), aio.loop())
    try:
        return await asyncio.wrap_future(running)
    except asyncio.CancelledError:
        running.cancel()
        await asyncio.to_thread(concurrent.futures.wait, [running])  # until its clean-up is done
        raise
    except Interrupted:
        raise KeyboardInterrupt from None


def episode_seed(seed: int, task_id: str, repeat: int) -> int:
    """The seed of one episode of a rollout: 48 bits, the same in every process."""
    return int(digest([seed, task_id, repeat])[:12], 16)


class _ForeignError(Exception):
    """Carries whatever an agent or judge raised, `SystemExit` too, to where its episode is closed."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Interrupted(BaseException):
    """An agent or judge raised KeyboardInterrupt, which would tear down the event loop as itself."""


@dataclass(frozen=True)
class _Job:
    """One episode to be played, or one of the store to be judged."""

    index: int
    task: Task
    repeat: int
    seed: int
    key: str
    status: str | None = None
    """In the store; `None` if it is not there."""


@dataclass(frozen=True)
class _Judgement:
    """What a judge made of an episode: a verdict with its rewards, or an error, and its token counts."""

    verdict: Verdict | None = None
    rewards: dict[str, float] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    error: BaseException | None = None


class _Engine:
    """One rollout. Everything is checked on construction, before anything is played."""

    def __init__(
        self,
        tasks: str | Path | Task | Sequence[Task],
        agents: Sequence[str | Agent],
        judge: str | Judge | None,
        reward: Reward,
        repeats: int,
        concurrency: int,
        seed: int,
        store: EpisodeStore | str | Path | None,
        max_turns: int,
        turn_order: TurnOrder,
        progress: bool,
        on_error: str,
    ) -> None:
        for name, value in (("repeats", repeats), ("concurrency", concurrency), ("max_turns", max_turns)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}, but must be a whole number of 1 or more.")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigurationError(f"seed is {seed!r}, but must be a whole number.")
        if turn_order not in TURN_ORDERS:
            raise ConfigurationError(unknown("turn order", turn_order, TURN_ORDERS))
        if on_error not in ON_ERROR:
            raise ConfigurationError(unknown("on_error", on_error, ON_ERROR))
        self.agents = _seated(agents)
        self.tasks = resolve_tasks(tasks)
        _check_seats(self.tasks, len(self.agents))
        self.judge = make_judge(judge)
        check_reward(self.judge, reward, self.tasks)
        budgets.check_payable([*self.agents, self.judge])
        self.reward = reward
        self.repeats = repeats
        self.concurrency = concurrency
        self.seed = seed
        self.max_turns = max_turns
        self.turn_order: TurnOrder = turn_order
        self.on_error = on_error
        self.store = EpisodeStore(store) if isinstance(store, (str, Path)) else store
        self.names = {f"agent_{seat}": agent.name for seat, agent in enumerate(self.agents)}
        self.keys: list[str] = []
        self.played: dict[int, Episode] = {}
        self.bar = _Bar(len(self.tasks) * repeats, progress)
        self._unwritten: list[Episode] = []
        self._writer: asyncio.Task[None] | None = None
        self._refused: BudgetError | None = None

    # --- the whole ------------------------------------------------------------------------------

    async def run(self) -> Sequence[Episode]:
        """Play, judge and store everything."""
        self._threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="sotopia-env-agent")
        self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="sotopia-env-store")
        jobs = self._jobs()
        count = min(self.concurrency, len(self.tasks) * self.repeats)
        with self.bar:
            workers = [asyncio.create_task(self._work(jobs)) for _ in range(count)]
            try:
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for worker in workers:
                    worker.cancel()
                results = await asyncio.gather(*workers, return_exceptions=True)
                # What has finished is written, also when the rest is called off.
                if self._writer is not None:
                    results += await asyncio.gather(self._writer, return_exceptions=True)
                self._threads.shutdown(wait=False, cancel_futures=True)
                self._store_thread.shutdown(wait=False)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        self._check_finished(jobs)
        if self.store is not None:
            return StoredEpisodes(self.store, self.keys)
        return [self.played[index] for index in range(len(self.played))]

    def _check_finished(self, jobs: Iterator[_Job]) -> None:
        """Raise what a budget refused, or that it was too small for the jobs that nobody took."""
        error = self._refused
        if error is None and next(jobs, None) is not None:
            error = budgets.no_room()
        if error is not None:
            error.episodes = [self.played[index] for index in sorted(self.played)]
            raise error

    def _jobs(self) -> Iterator[_Job]:
        """What is left to do, task after task and repeat after repeat."""
        wanted = enumerate(itertools.product(self.tasks, range(self.repeats)))
        while chunk := [self._job(*item) for item in itertools.islice(wanted, _PLAN_CHUNK)]:
            keys = [job.key for job in chunk]
            if self.store is None:
                yield from chunk
                continue
            self.keys += keys
            statuses = self.store.statuses(keys)
            judged = self.store.judged(keys, self.judge.name) if self.judge is not None else set()
            for job in chunk:
                status = statuses.get(job.key)
                if status in (None, "failed"):
                    yield replace(job, status=status)
                elif self.judge is None or (status == "complete" and job.key in judged):
                    self.bar.advance(failed=status != "complete")
                else:
                    yield replace(job, status=status)

    def _job(self, index: int, item: tuple[Task, int]) -> _Job:
        task, repeat = item
        seed = episode_seed(self.seed, task.id, repeat)
        key = episode_key(
            task, self.names, turn_order=self.turn_order, max_turns=self.max_turns, seed=seed, repeat=repeat
        )
        return _Job(index, task, repeat, seed, key)

    async def _work(self, jobs: Iterator[_Job]) -> None:
        # The last worker goes on as long as there is room for one episode: so the number of episodes under way
        # shrinks with what is left of a budget, and those that were begun can mostly be finished.
        while self._refused is None and budgets.has_room() and (job := next(jobs, None)) is not None:
            with budgets.episode():
                error = await (self._judge_again(job) if job.status in _PLAYED else self._do(job))
            self.bar.advance(failed=error is not None)
            if isinstance(error, BudgetError):
                self._refused = error
            elif error is not None and self.on_error == "raise":
                error.add_note(f"In an episode of task {job.task.id!r}, repeat {job.repeat}, seed {job.seed}.")
                raise error if isinstance(error, Exception) else RuntimeError(one_line(error)) from error
            await asyncio.sleep(0)

    async def _do(self, job: _Job) -> BaseException | None:
        """Play, judge and keep one episode; returns what went wrong in it."""
        episode, error = await self._play(job, await self._begun(job))
        if error is None and self.judge is not None:
            judgement = await self._judge(self.judge, episode)
            episode, error = self._with(episode, judgement), judgement.error
        await self._keep(job, episode)
        return error

    # --- playing --------------------------------------------------------------------------------

    async def _begun(self, job: _Job) -> Episode | None:
        """What a budget broke off in an earlier run."""
        if job.status != "failed" or self.store is None:
            return None
        stored = await self._on_store_thread(self.store.get, job.key)
        broken_off = stored is not None and (stored.error or "").startswith(f"{BudgetError.__name__}:")
        return stored if broken_off else None

    async def _play(self, job: _Job, begun: Episode | None) -> tuple[Episode, BaseException | None]:
        start = time.perf_counter()
        started_at = begun.started_at if begun else datetime.now(UTC).isoformat(timespec="milliseconds")
        conversation = Conversation.replay(
            job.task,
            begun.events if begun else (),
            seed=job.seed,
            max_turns=self.max_turns,
            turn_order=self.turn_order,
        )
        usage: dict[str, dict[str, int]] = dict(begun.usage) if begun else {}
        error: BaseException | None = None
        try:
            while not conversation.is_over:
                conversation.apply(await self._moves(conversation, usage))
                if conversation.turn % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        except _ForeignError as foreign:
            error = foreign.error
        except Exception as own:  # an unusable action, or a bug: it ends this episode, not the others
            error = own
        episode = Episode(
            task=job.task,
            agents=self.names,
            turn_order=self.turn_order,
            max_turns=self.max_turns,
            seed=job.seed,
            repeat=job.repeat,
            events=tuple(conversation.events),
            ended_by=conversation.ended_by,
            status="complete" if error is None else "failed",
            error=None if error is None else one_line(error),
            usage=usage,
            started_at=started_at,
            seconds=time.perf_counter() - start + ((begun.seconds or 0.0) if begun else 0.0),
            code_version=__version__,
            id=job.key,
        )
        return episode, error

    async def _moves(self, conversation: Conversation, usage: dict[str, dict[str, int]]) -> dict[str, object]:
        """Ask everybody who has the turn, all at the same time."""
        movers = conversation.movers
        if len(movers) == 1:
            return {movers[0]: await self._move(movers[0], conversation, usage)}
        asked = [self._move(mover, conversation, usage) for mover in movers]
        moves = await asyncio.gather(*asked, return_exceptions=True)
        errors = [move for move in moves if isinstance(move, BaseException)]
        if errors:
            # An interruption goes before an agent's failure.
            raise min(errors, key=lambda error: isinstance(error, _ForeignError))
        return dict(zip(movers, moves, strict=True))

    async def _move(self, mover: str, conversation: Conversation, usage: dict[str, dict[str, int]]) -> object:
        agent = self.agents[conversation.agents.index(mover)]
        with usage_scope() as used:
            try:
                return await self._ask(agent, agent.act, conversation.view(mover))
            finally:
                _count(usage, mover, used)

    async def _ask(self, who: object, method: Callable[[Any], object], argument: object) -> object:
        """Call a method of an agent or judge in the way that suits it: in place, awaited, or on a thread.

        Raises:
            _ForeignError: With whatever it raised.
        """
        try:
            if getattr(who, "inline", False) or inspect.iscoroutinefunction(method):
                value = method(argument)
            else:
                context = contextvars.copy_context()  # usage is counted in the caller's scope
                call = asyncio.get_running_loop().run_in_executor(self._threads, context.run, _caught, method, argument)
                value, error = await call
                if error is not None:
                    raise error
            return await value if inspect.isawaitable(value) else value
        except KeyboardInterrupt:
            raise Interrupted from None
        except BaseException as error:  # foreign code; whatever it raises is its episode's failure
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            raise _ForeignError(error) from error

    # --- judging --------------------------------------------------------------------------------

    async def _judge(self, judge: Judge, episode: Episode) -> _Judgement:
        with usage_scope() as used, verdict_cache(self.store):
            try:
                verdict = check_verdict(await self._ask(judge, judge.score, episode), episode, judge)
                rewards = rewards_from(verdict, self.reward, episode)
            except _ForeignError as foreign:
                return _Judgement(error=foreign.error, usage=dict(used))
            except Exception as own:  # an unusable verdict, or a reward function that raises
                return _Judgement(error=own, usage=dict(used))
        # The store looks for the name under which the judge was asked.
        return _Judgement(verdict.model_copy(update={"judge": judge.name}), rewards, dict(used))

    def _with(self, episode: Episode, judgement: _Judgement) -> Episode:
        """The episode with a judge's first verdict, or without one."""
        assert self.judge is not None
        usage = {**episode.usage}
        _count(usage, self.judge.name, judgement.usage)
        change: dict[str, object] = {"usage": usage, "status": "judge_failed", "error": None}
        if judgement.error is not None:
            change["error"] = one_line(judgement.error)
        elif judgement.verdict is not None:
            verdicts = {**episode.verdicts, self.judge.name: judgement.verdict}
            change |= {"status": "complete", "verdicts": verdicts, "rewards": judgement.rewards}
        return episode.model_copy(update=change)

    async def _judge_again(self, job: _Job) -> BaseException | None:
        """Judge an episode of the store; returns what went wrong."""
        assert self.store is not None
        assert self.judge is not None
        stored = await self._on_store_thread(self.store.get, job.key)
        if stored is None:
            return await self._do(job)
        # The judge sees what it would have seen right after the play, no other judge's verdict.
        bare = stored.model_copy(update={"status": "complete", "error": None, "verdicts": {}, "rewards": {}})
        judgement = await self._judge(self.judge, bare)
        if stored.status == "judge_failed":
            await self._keep(job, self._with(stored, judgement))
        elif judgement.verdict is not None:
            add = partial(self.store.add_verdict, usage=judgement.usage, rewards=judgement.rewards)
            await self._on_store_thread(add, job.key, judgement.verdict)
        elif judgement.error is not None and not isinstance(judgement.error, BudgetError):  # that one is raised
            problem = one_line(judgement.error)
            _logger.warning("Judge %r gave no verdict on the stored episode %s: %s", self.judge.name, job.key, problem)
        return judgement.error

    # --- keeping --------------------------------------------------------------------------------

    async def _keep(self, job: _Job, episode: Episode) -> None:
        """Hold an episode in memory, or have it written to the store as soon as the commit under way is done."""
        if self.store is None:
            self.played[job.index] = episode
            return
        self._unwritten.append(episode)
        if self._writer is None or self._writer.done():
            if self._writer is not None:
                self._writer.result()  # an earlier write that failed stops the rollout here
            self._writer = asyncio.create_task(self._write(self.store))
        if len(self._unwritten) >= _BACKLOG:
            await asyncio.shield(self._writer)  # being cancelled must not lose finished episodes

    async def _write(self, store: EpisodeStore) -> None:
        # Nothing waits for a full batch: what finishes during a commit shares the next one.
        while self._unwritten:
            batch, self._unwritten = self._unwritten, []
            await self._on_store_thread(store.add_all, batch)

    async def _on_store_thread(self, method: Callable[..., T], *arguments: object) -> T:
        # One thread of its own: commits follow each other anyway, and its memory is not spread over many.
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, method, *arguments)


class _Bar:
    """The progress bar, or nothing."""

    def __init__(self, total: int, shown: bool) -> None:
        self._total = total
        self._shown = shown
        self._failed = 0
        self._progress: Progress | None = None

    def __enter__(self) -> None:
        if not self._shown:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("episodes"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]} failed"),
            console=Console(stderr=True),
        )
        self._bar = self._progress.add_task("", total=self._total, rate="", failed=0)
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, *, failed: bool) -> None:
        """Count one more episode as done."""
        if self._progress is None:
            return
        self._failed += failed
        speed = self._progress.tasks[0].speed
        rate = f"{speed:.1f}/s" if speed else ""
        self._progress.update(self._bar, advance=1, failed=self._failed, rate=rate)


# --- helpers --------------------------------------------------------------------------------------


def _seated(agents: Sequence[str | Agent]) -> list[Agent]:
    """One agent per seat; a spec given twice is one agent, for a policy is a function of its observation."""
    if isinstance(agents, str) or not isinstance(agents, Sequence):
        raise ConfigurationError(
            f"agents is {agents!r:.200}, but must be a sequence with one spec or Agent per seat, such as "
            "['scripted/fair', 'scripted/tough']."
        )
    made: dict[str, Agent] = {}
    for spec in agents:
        if isinstance(spec, str) and spec not in made:
            made[spec] = make_agent(spec)
    return [made[spec] if isinstance(spec, str) else make_agent(spec) for spec in agents]


def _check_seats(tasks: Sequence[Task], count: int) -> None:
    for task in tasks:
        if len(task.seats) != count:
            raise ConfigurationError(
                f"Task {task.id!r} has {len(task.seats)} seats, but {count} agents were given. Pass one agent per "
                f"seat, or only tasks of {count} seats: [task for task in tasks if len(task.seats) == {count}]."
            )


def _caught(method: Callable[[Any], object], argument: object) -> tuple[object, BaseException | None]:
    # Handed over as a value: a future cannot carry StopIteration, and SystemExit would end the loop.
    try:
        return method(argument), None
    except BaseException as error:  # raised again on the event loop
        return None, error


def _count(usage: dict[str, dict[str, int]], name: str, used: Mapping[str, int]) -> None:
    if not any(used.values()):
        return
    so_far = usage.get(name, {})
    usage[name] = {key: so_far.get(key, 0) + used.get(key, 0) for key in {**so_far, **used}}
