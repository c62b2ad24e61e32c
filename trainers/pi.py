"""The whole loop of SOTOPIA-pi in one run: expert play, filter, behavior cloning, self-reinforcement, evaluation.

    base                    a model that speaks
    expert -> filter        episodes of a skilled agent, the good ones kept       (arXiv 2403.08715, section 2)
    bc                      the base, trained on them
    sr, bc+sr               each trained on what a filter kept of its own play
    sr+bc                   the other order
    control                 bc, trained as long on fresh expert episodes instead (if the preset asks for it)
    evaluation, report      every policy on unseen tasks with held-out partners

Everything is in one folder. Each stage is a function of its inputs: the settings it reads and what the
stages before it made. manifest.json keeps their hash, so that a run that is started again skips what is done, goes
on where it was killed, and does again what a changed setting touches.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import operator
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sotopia_env
from sotopia_env.agents.folders import base_of, check_template, identity, is_adapter, resolve_model
from sotopia_env.agents.hf import HFAgent, release
from sotopia_env.agents.memory import share_memory, sharers
from sotopia_env.episodes import dump_json, episode_key
from sotopia_env.errors import ConfigurationError, one_line
from sotopia_env.evaluation import Evaluation, evaluate
from sotopia_env.evaluation.policies import EXPERT, TRIVIAL, cast_of, checked_judge, held_out_tasks
from sotopia_env.evaluation.report import write_report
from sotopia_env.judges.base import check_reward
from sotopia_env.local import LocalModel
from sotopia_env.models import OpenAIModel
from sotopia_env.rollouts import episode_seed
from sotopia_env.specs import make_agent
from sotopia_env.store import EpisodeStore, StoredEpisodes
from sotopia_env.tasks import digest
from sotopia_env.trainers.behavior_cloning import TrainResult, TrainSettings, check_installed, load_tokenizer, train
from sotopia_env.trainers.casts import casts, dealt
from sotopia_env.trainers.datasets import has_target
from sotopia_env.trainers.filters import Filtered, make_filter, require
from sotopia_env.trainers.meanwhile import Other, meanwhile
from sotopia_env.trainers.settings import SELF, Expert, Preset, Reinforcement
from sotopia_env.trainers.stages import Stages
from sotopia_env.trainers.tiny import build
from sotopia_env.version import __version__

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode
    from sotopia_env.judges.base import Judge
    from sotopia_env.specs import Agent
    from sotopia_env.tasks import Task

_logger = logging.getLogger(__name__)

_LOCK = "run.lock"

POLICIES = ("base", "sr", "bc", "bc+sr", "sr+bc", "control", "expert")
"""Labels of the policies of a run, in the order of its table."""

_SAMPLES = 2
"""Held-out tasks of which the report shows what every policy made."""

_MOST_BROKEN = 0.1
"""Share of a stage's episodes that may be missing; filters leave those out and count them."""

# Each use of the training split has task seeds of its own, so that no stage sees the tasks of another.
_EXPERT_TASKS, _FRESH_TASKS, _OWN_TASKS = 0, 1, 2


class Run:
    """One run of the loop in a folder.

    Args:
        preset: All settings.
        folder: Where everything goes; what is there already and still fits is not done again.
        seed: Decides tasks, episodes and training.
        tell: Gets a line of text whenever a stage begins, is skipped or ends.

    Attributes:
        stages: The run's folder and manifest.
        policies: By label, the folder or hub id of every policy, once they are trained; `agent` plays one.
    """

    def __init__(
        self, preset: Preset, folder: str | Path, *, seed: int = 0, tell: Callable[[str], None] | None = None
    ) -> None:
        self.preset = preset
        self.folder = Path(folder)
        self.seed = seed
        self._tell = tell or _logger.info
        self.stages = Stages(self.folder, seed, self._tell)
        self.policies: dict[str, Path | str] = {}
        self._threads: int | None = None  # of each process, if there are several

    # --- the whole ------------------------------------------------------------------------------

    def run(self) -> Path:
        """Do all that is left to do.

        Returns:
            The report's HTML page.

        Raises:
            ConfigurationError: Before anything is done if something is missing; later if a filter keeps nothing,
                or a file cannot be written. What is finished stays.
            KeyboardInterrupt: On Ctrl-C. The same call goes on from there.
        """
        self.check()
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / _LOCK, timeout=0):  # the kernel lets go of it when a process is killed
                return self._run()
        except Timeout as error:
            raise ConfigurationError(
                f"Another run is at work in {str(self.folder)!r}. Wait for it, or choose another folder."
            ) from error
        except Exception as error:
            if not _is_of_writing(error):
                raise
            raise ConfigurationError(
                f"The run in {str(self.folder)!r} stopped: {one_line(error)}. What is finished is kept: the same "
                "command goes on from there."
            ) from error

    def _run(self) -> Path:
        self.stages.open(preset=self.preset.name, settings=self.preset.record(), version=__version__)
        with self._shared_cores() as processes:
            base = self._base()
            kept = self._expert("expert", _EXPERT_TASKS)
            # With other processes, what is independent is done first. The pass in order then finds it done.
            if processes > 1:
                with tempfile.TemporaryDirectory() as claims, contextlib.ExitStack() as others:
                    other = others.enter_context(self._meanwhile("_branch", "sr", claims))
                    cloned = self._train_policies(base, kept, "bc")
                    other.check()
                    for _ in range(2, processes):
                        others.enter_context(self._meanwhile("_evaluate", cloned, claims))
                    self._evaluate(cloned, claims)
            folders = self.policies = self._train_policies(base, kept)
            self._evaluate(folders)
            self._samples(folders)
        self.stages.forget_the_rest()
        return write_report(self.folder).page

    def _train_policies(self, base: Path | str, kept: Filtered, branch: str | None = None) -> dict[str, Path | str]:
        """The policies by label; or only those of branch "bc" or "sr", which do not need each other."""
        folders = {"base": base}
        if branch != "sr":
            folders["bc"] = self._train("bc", base, kept, self.preset.bc.training)
        if branch != "bc":
            folders["sr"], learned = self._reinforce("sr", base, may_keep_nothing=True)
        if branch != "sr":
            folders["bc+sr"], steps = self._reinforce("bc+sr", folders["bc"])
        if branch != "bc" and learned:
            folders["sr+bc"] = self._train("sr+bc", folders["sr"], kept, self.preset.bc.training)
        elif branch is None:
            folders["sr+bc"] = self._same("sr+bc", "bc", folders["bc"])
        if branch != "sr" and self.preset.sr.control:
            fresh = self._expert("fresh expert", _FRESH_TASKS)
            settings = replace(self.preset.sr.training, max_steps=steps)
            folders["control"] = self._train("control", folders["bc"], fresh, settings)
        return folders

    def _branch(self, name: str, claims: str) -> None:
        """Make the policies of a branch, then evaluate them and whatever no other process has taken on."""
        self._evaluate(self._train_policies(self._base(), self._expert("expert", _EXPERT_TASKS), name), claims)

    @contextlib.contextmanager
    def _shared_cores(self) -> Iterator[int]:
        """Give every process an equal share of cores and memory; yields how many processes there are to be."""
        if self.preset.processes == 1:
            yield 1
            return
        import torch

        threads = torch.get_num_threads()
        processes = min(self.preset.processes, threads)
        self._threads = threads // processes
        torch.set_num_threads(self._threads)
        share_memory(processes)
        try:
            yield processes
        finally:
            torch.set_num_threads(threads)
            share_memory(1)

    @contextlib.contextmanager
    def _meanwhile(self, part: str, *arguments: Any) -> Iterator[Other]:
        """Have another process do a part of the run, a method of it, while a block does another."""
        run = self.preset, self.folder, self.seed, self.stages.told, sharers()
        threads = {"OMP_NUM_THREADS": str(self._threads)}
        with meanwhile(_do_part, run, part, arguments, tell=self._tell, environment=threads) as other:
            yield other
        self.stages.join(other.value)

    def check(self) -> None:
        """Refuse a run that cannot be finished, before anything is spent.

        Raises:
            ConfigurationError: For a missing key, GPU or model, an unknown agent or judge, or no tasks.
            MissingExtraError: If a library is missing.
        """
        preset, needs = self.preset, self.preset.needs
        for training in (preset.bc.training, preset.sr.training):
            check_installed(training)
        if (preset.bc.training.method == "full") != (preset.sr.training.method == "full"):
            raise ConfigurationError(
                f"bc.training.method is {preset.bc.training.method!r} and sr.training.method "
                f"{preset.sr.training.method!r}, but each goes on from what the other made: all weights ('full') in "
                "both, or adapters in both."
            )
        missing = [name for name in needs.environment if not os.environ.get(name)]
        if missing:
            raise ConfigurationError(
                f"Preset {preset.name!r} needs the environment variable {missing[0]}, which is not set. Export it, or "
                "choose another --expert, --judge and --partner."
            )
        if needs.gpu and not _has_gpu():
            raise ConfigurationError(
                f"Preset {preset.name!r} needs a GPU, and torch sees none here. Use --preset laptop, or "
                "--set needs.gpu=false if you have the patience."
            )
        specs = {preset.expert.agent, *preset.met, *preset.evaluation.partners, preset.base.forced} - {SELF, ""}
        for agent in map(make_agent, sorted(specs)):
            _check_key(agent)
        judge = checked_judge(preset.judge.agent)
        _check_key(judge)
        met = [make_agent(spec).name for spec in preset.met]
        cast_of(preset.evaluation.partners, preset.evaluation.min_partners, met)
        self._check_training_tasks(judge)
        for tasks in self.unseen_tasks().values():
            check_reward(judge, preset.judge.reward, tasks)
        self._check_base()

    def _check_training_tasks(self, judge: Judge) -> None:
        """Refuse what play or its filter would refuse later, and tell of casts that get no task."""
        preset, idle = self.preset, dict[str, None]()
        expert, sr = preset.expert, preset.sr
        me = make_agent(expert.agent).name
        met = [me if spec == SELF else make_agent(spec).name for spec in expert.partners]
        uses: list[tuple[str, int, Expert | Reinforcement]] = [("expert", _EXPERT_TASKS, expert)]
        uses += [("sr", _OWN_TASKS + number, sr) for number in range(1, sr.rounds + 1)]
        if sr.control:
            uses.append(("expert", _FRESH_TASKS, expert))
        generated = preset.tasks.pack == "outcome"
        for (name, use, part), family in itertools.product(uses, self.families):
            tasks = self.training_tasks(use, 1 if generated else part.tasks, family)
            pack = f"{preset.tasks.pack}/{family}" if family else preset.tasks.pack
            sizes = sorted({len(task.seats) for task in tasks})
            if len(sizes) > 1:
                raise ConfigurationError(
                    f"The training tasks of {pack!r} have {' or '.join(map(str, sizes))} seats, but a run trains on "
                    "tasks of one number of seats. Put the others into a file of their own."
                )
            for reward in (preset.judge.reward, part.filter.get("reward", preset.judge.reward)):
                check_reward(judge, reward, tasks)
            seated = casts(me, met, sizes[0]) if part is expert else casts(SELF, self._pool, sizes[0])
            if part is expert and expert.every_cast:
                if twice := next((cast for cast in seated if seated.count(cast) > 1), None):
                    raise ConfigurationError(
                        f"expert.partners is {[*expert.partners]!r}, which gives the cast {twice!r} twice, but with "
                        "expert.every_cast each cast plays every task. Name every partner once."
                    )
                continue
            count = part.tasks if generated else len(tasks)
            if count < len(seated):
                idle[
                    f"{name}.tasks: {count} of {pack} are too few for all {len(seated)} casts (every seat, with every "
                    f"partner), so that {len(seated) - count} of them do not play"
                ] = None
        for line in idle:
            self._tell(line)

    def _check_base(self) -> None:
        if self.preset.base.model == "tiny":
            return
        model = resolve_model(self.preset.base.model)
        if is_adapter(model):
            raise ConfigurationError(
                f"The base {self.preset.base.model!r} is an adapter of {base_of(model)!r}. Give a whole model."
            )
        check_template(model)
        load_tokenizer(model)

    # --- the stages -----------------------------------------------------------------------------

    def _base(self) -> Path | str:
        settings = self.preset.base
        if settings.model != "tiny":
            return resolve_model(settings.model)
        folder = self.folder / "policies" / "base"

        scratch = ["policies/base.new", "policies/base.practised"]

        def work() -> dict[str, Any]:
            result = build(folder, settings.tiny, seed=settings.seed, shipped=settings.shipped)
            for left in scratch:
                self.stages.remove(left)
            self._keep_training("base", result)
            return {"identity": identity(str(folder)), "steps": result.steps, "tokens": result.tokens}

        makes = ["policies/base", "training/base.json"]
        self.stages.do(
            "base", [settings.tiny.record(), settings.seed, settings.shipped], work, makes=makes, scratch=scratch
        )
        return folder

    def _expert(self, name: str, use: int) -> Filtered:
        """The expert's episodes, and what the filter keeps of them."""
        settings, label = self.preset.expert, name.replace(" ", "-")
        agent = make_agent(settings.agent)
        parts = self._dealt(agent, settings.partners, use, settings.tasks, every=settings.every_cast)
        inputs = [settings.model_dump(exclude={"filter"}), *self._conditions(), use]
        played = self._play(f"{name} play", inputs, f"episodes/{label}.db", parts, settings.repeats)
        return self._filter(label, settings.filter, played, agent.name)

    def _dealt(
        self, agent: Agent, partners: Iterable[str], use: int, n: int, *, every: bool = False
    ) -> list[tuple[list[Agent], Sequence[Task]]]:
        """Who plays which training tasks."""
        found: list[tuple[list[Agent], Sequence[Task]]] = []
        for family in self.families:
            tasks = self.training_tasks(use, n, family)
            found += dealt(tasks, seat(agent, partners, tasks), every=every)
        return found

    def _play(
        self,
        stage: str,
        inputs: list[Any],
        place: str,
        parts: Sequence[tuple[Sequence[Agent], Sequence[Task]]],
        repeats: int,
    ) -> list[Episode]:
        """The episodes of a stage of play.

        Once it is done they are read as they are. To play those again that broke off would change what is kept of them.
        """
        keys = [
            episode_key(
                task,
                {f"agent_{number}": agent.name for number, agent in enumerate(cast)},
                turn_order="round-robin",
                max_turns=self.preset.play.max_turns,
                seed=episode_seed(self.seed, task.id, repeat),
                repeat=repeat,
            )
            for cast, tasks in parts
            for task in tasks
            for repeat in range(repeats)
        ]
        episodes: list[Episode] = []

        def work() -> dict[str, Any]:
            with EpisodeStore(self.stages.place(place)) as store:
                for cast, tasks in parts:
                    episodes.extend(self._rollout(tasks, cast, repeats=repeats, store=store))
            return self._counted(episodes)

        self.stages.do(stage, [*inputs, keys], work, makes=[place])
        if not episodes:
            with EpisodeStore(self.folder / place, create=False) as store:
                episodes.extend(StoredEpisodes(store, keys))
        return episodes

    def _filter(
        self,
        name: str,
        rule: dict[str, Any],
        episodes: Iterable[Episode],
        learner: str,
        *,
        may_keep_nothing: bool = False,
    ) -> Filtered:
        """What a rule keeps of the learner's trajectories; the rule's own options go before the run's."""
        usual = {"learner": learner, "judge": self._judge, "reward": self.preset.judge.reward}
        found = make_filter({**usual, **rule})(episodes)
        self.stages.write(f"filters/{name}.json", found.record())
        self.stages.used.add(f"filters/{name}.json")
        return found if may_keep_nothing else require(found)

    def _train(self, name: str, base: Path | str, kept: Filtered, settings: TrainSettings) -> Path:
        folder = self.folder / "policies" / name
        settings = replace(settings, keep_none=settings.keep_none and not kept.drop_none)

        def work() -> dict[str, Any]:
            release()
            result = train(base, kept.kept, folder, settings, seed=self.seed)
            self._keep_training(name, result)
            return {"identity": identity(str(folder)), "steps": result.steps, "tokens": result.tokens}

        inputs = [identity(str(base)), settings.record(), [f"{episode.id}/{agent}" for episode, agent in kept.kept]]
        self.stages.do(name, inputs, work, makes=[f"policies/{name}", f"training/{name}.json"])
        return folder

    def _same(self, name: str, other: str, policy: Path | str) -> Path | str:
        """A policy that is another one, as the filter kept nothing of its own play."""
        if name not in self.stages.told:
            self._tell(f"{name} is {other}: the filter kept nothing for self-reinforcement to learn from")

        def work() -> dict[str, Any]:
            self.stages.remove(f"policies/{name}")  # of other settings
            return {"identity": identity(str(policy)), "same_as": other}

        self.stages.do(name, [identity(str(policy)), "same"], work)
        return policy

    def _reinforce(self, name: str, policy: Path | str, *, may_keep_nothing: bool = False) -> tuple[Path | str, int]:
        """Rounds of play, filter and training.

        Args:
            name: What it makes.
            policy: Where it begins.
            may_keep_nothing: End with the last policy there is when a filter keeps nothing to learn from of its play,
                as it does when a base without any skill is to learn from itself. It is an error otherwise.

        Returns:
            The last policy, and the optimizer steps in all.
        """
        settings, steps = self.preset.sr, 0
        start = "base" if name == "sr" else "bc"
        for number in range(1, settings.rounds + 1):
            stage = f"{name} round {number}" if settings.rounds > 1 else name
            label = stage.replace(" ", "-")
            agent = self.agent(policy)
            parts = self._dealt(agent, self._pool, _OWN_TASKS + number, settings.tasks)
            inputs = [
                agent.name,
                settings.model_dump(include={"partner", "partners", "tasks", "repeats"}),
                *self._conditions(),
                number,
            ]
            played = self._play(f"{stage} play", inputs, f"episodes/{label}.db", parts, settings.repeats)
            kept = self._filter(label, settings.filter, played, agent.name, may_keep_nothing=may_keep_nothing)
            keep_none = settings.training.keep_none and not kept.drop_none
            if may_keep_nothing and not any(has_target(one, keep_none=keep_none) for one in kept.kept):
                return self._same(name, start, policy), steps
            del agent, parts, played  # so that the weights that played can be let go of
            folder = name if number == settings.rounds else label
            policy = self._train(folder, policy, kept, settings.training)
            start = folder
            steps += self.manifest["stages"][folder]["statistics"]["steps"]
        return policy, steps

    @property
    def _pool(self) -> tuple[str, ...]:
        """Specs of whom a policy meets in self-reinforcement."""
        return self.preset.sr.partners if self.preset.sr.partner == "pool" else (SELF,)

    def _evaluate(self, folders: Mapping[str, Path | str], claims: str | None = None) -> None:
        """Every policy, each a stage of its own; or only those that no other process has claimed in a folder before."""
        settings, unseen = self.preset.evaluation, self.unseen_tasks()
        digests = {label: [task.digest for task in tasks] for label, tasks in unseen.items()}
        policies: dict[str, Agent] = {label: self.agent(folder) for label, folder in folders.items()}
        policies |= {label: make_agent(spec) for label, spec in beside(self.preset).items()}
        found: list[Evaluation] = []
        for label, agent in policies.items():
            if claims is not None and not _claim(Path(claims) / digest([agent.name])):
                continue
            place = f"evaluation/{label.replace('/', '-')}.json"
            inputs = [agent.name, settings.model_dump(mode="json"), self.preset.tasks.model_dump(mode="json"), digests]

            def work(label: str = label, agent: Agent = agent, place: str = place) -> dict[str, Any]:
                made = evaluate(
                    {label: agent},
                    unseen,
                    settings.partners,
                    judge=self.preset.judge.agent,
                    reward=self.preset.judge.reward,
                    min_partners=settings.min_partners,
                    repeats=settings.repeats,
                    seed=settings.seed,
                    concurrency=self.preset.play.concurrency,
                    max_turns=self.preset.play.max_turns,
                    store=self.folder / "episodes" / "evaluation.db",
                    met=[make_agent(spec).name for spec in self.preset.met],
                )
                (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
                made.save(self.folder / place)
                return {"complete": made.complete}

            (self.folder / "episodes").mkdir(exist_ok=True)
            self.stages.do(f"evaluation of {label}", [*inputs, *self._conditions()], work, makes=[place])
            found.append(Evaluation.load(self.folder / place))
        if claims is None:
            functools.reduce(operator.add, found).save(self.folder / "evaluation.json")

    def _samples(self, folders: Mapping[str, Path | str]) -> None:
        """What every policy makes of the same tasks, for people to read."""
        tasks = next(iter(self.unseen_tasks().values()))
        step = max(1, len(tasks) // _SAMPLES)
        chosen = tasks[::step][:_SAMPLES]
        partner = make_agent(self.preset.evaluation.partners[0])
        policies: dict[str, Agent] = {label: self.agent(folder) for label, folder in folders.items()}
        policies["expert"] = make_agent(self.preset.expert.agent)
        for label, agent in policies.items():
            place = f"samples/{label}.json"

            def work(agent: Agent = agent, place: str = place) -> dict[str, Any]:
                episodes: list[Episode] = []
                for seats in dict.fromkeys(len(task.seats) for task in chosen):
                    part = [task for task in chosen if len(task.seats) == seats]
                    cast = casts(agent, [partner], seats)[0]
                    episodes += self._rollout(part, cast, seed=self.preset.evaluation.seed)
                self.stages.write(place, [json.loads(dump_json(episode)) for episode in episodes])
                return {"episodes": len(episodes)}

            inputs = [agent.name, partner.name, [task.digest for task in chosen], *self._conditions()]
            self.stages.do(f"samples of {label}", inputs, work, makes=[place])

    @functools.cached_property
    def _judge(self) -> str:
        return checked_judge(self.preset.judge.agent).name

    @property
    def manifest(self) -> dict[str, Any]:
        """What manifest.json holds."""
        return self.stages.manifest

    # --- what the stages share ------------------------------------------------------------------

    def agent(self, policy: Path | str) -> Agent:
        """The agent that plays a policy of this run, in the way all of its policies act."""
        play = self.preset.play
        return HFAgent(
            str(policy),
            temperature=play.temperature,
            top_p=play.top_p,
            max_tokens=play.max_tokens,
            batch_size=play.concurrency,
            dtype=play.dtype or None,
            quantize=play.quantize or None,
        )

    def _rollout(self, tasks: Sequence[Task], pair: Sequence[Agent], **options: Any) -> Sequence[Episode]:
        play, judge = self.preset.play, self.preset.judge
        return sotopia_env.rollout(
            tasks,
            pair,
            judge=judge.agent,
            reward=judge.reward,
            concurrency=play.concurrency,
            max_turns=play.max_turns,
            **{"seed": self.seed, **options},
        )

    def _counted(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """How many episodes there are, and how many of them broke off or have no verdict.

        Raises:
            ConfigurationError: If too many did for the rest to be what was asked for.
        """
        broken = [one for one in episodes if one.status != "complete" or self._judge not in one.verdicts]
        first = (broken[0].error or f"no verdict of {self._judge!r}") if broken else None
        if len(broken) > _MOST_BROKEN * len(episodes):
            raise ConfigurationError(
                f"{len(broken)} of {len(episodes)} episodes failed or could not be judged; the first one: {first}. "
                "What is complete is kept: the same command plays only the others again."
            )
        return {"episodes": len(episodes), "broken": len(broken), "first_error": first}

    def _conditions(self) -> list[Any]:
        """Settings that decide any play."""
        preset = self.preset
        tasks = preset.tasks.model_dump(mode="json", exclude={"unseen"})
        return [tasks, preset.judge.model_dump(), preset.play.max_turns]

    @property
    def families(self) -> tuple[str, ...]:
        """The families that are played, each with as many tasks; ("",) for a whole pack."""
        return tuple(dict.fromkeys(self.preset.tasks.families)) or ("",)

    def training_tasks(self, use: int, n: int, family: str) -> list[Task]:
        """Training tasks of a family, as many as there are up to `n`.

        Every use has tasks of its own: generated ones by a seed, written ones by taking turns, as far as they last.

        Raises:
            ConfigurationError: If there are none.
        """
        tasks = self.preset.tasks
        pack = f"{tasks.pack}/{family}" if family else tasks.pack
        generated = tasks.pack == "outcome"
        count = n if generated else None
        found = sotopia_env.load_tasks(pack, split=tasks.split, n=count, seed=1000 * self.seed + use)
        if not found:
            raise ConfigurationError(
                f"{pack!r} has no tasks in split {tasks.split!r}, which training plays. See `sotopia-env tasks list`."
            )
        if generated:
            return found
        random.Random(self.seed).shuffle(found)
        start = self._tasks_before(use) % len(found)
        return (found[start:] + found[:start])[:n]

    def _tasks_before(self, use: int) -> int:
        """How many written tasks of a family are taken before a use of them: expert, rounds, fresh expert."""
        expert, sr = self.preset.expert.tasks, self.preset.sr
        if use == _EXPERT_TASKS:
            return 0
        return expert + sr.tasks * (sr.rounds if use == _FRESH_TASKS else use - _OWN_TASKS - 1)

    def unseen_tasks(self) -> dict[str, list[Task]]:
        """The evaluation's tasks by label: of splits that training does not play."""
        tasks, settings = self.preset.tasks, self.preset.evaluation
        return {
            label: held_out_tasks(tasks.pack, tasks.families, split=split, n=settings.tasks, seed=settings.seed)
            for label, split in tasks.unseen.items()
        }

    def _keep_training(self, name: str, result: TrainResult) -> None:
        record = {
            "losses": result.losses,
            "steps": result.steps,
            "seconds": round(result.seconds, 1),
            "method": result.method,
            **result.data,
        }
        self.stages.write(f"training/{name}.json", record)


def _do_part(
    run: tuple[Preset, Path, int, set[str], int], part: str, arguments: tuple[Any, ...], tell: Callable[[str], None]
) -> set[str]:
    """Do a part of a run that another process has opened; gives the stages that need not be told of again."""
    preset, folder, seed, told, processes = run
    share_memory(processes)
    found = Run(preset, folder, seed=seed, tell=tell)
    found.stages.join(told)
    getattr(found, part)(*arguments)
    return found.stages.told


def _claim(path: Path) -> bool:
    """Whether this process is the first one to claim something."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def beside(preset: Preset) -> dict[str, str]:
    """Specs of the policies that stand in the table beside those of the run, by label."""
    found = {"expert": preset.expert.agent}
    if preset.base.forced:
        found["base, JSON forced"] = preset.base.forced
    if preset.evaluation.trivial:
        found |= {spec.removeprefix("scripted/"): spec for spec in TRIVIAL}
        if preset.expert.agent != EXPERT:
            found[EXPERT] = EXPERT
    return found


def seat(agent: Agent, partners: Iterable[str], tasks: Sequence[Task]) -> list[list[Agent]]:
    """The casts of an agent with partners given as specs; "self", or what has its name, is the agent itself."""
    others = [agent if spec == SELF else make_agent(spec) for spec in partners]
    return casts(agent, [agent if other.name == agent.name else other for other in others], len(tasks[0].seats))


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _check_key(player: Any) -> None:
    """Have a model client look for its key now."""
    model = getattr(player, "model", None)
    if isinstance(model, OpenAIModel) and not isinstance(model, LocalModel):
        model.check_key()


def _is_of_writing(error: Exception) -> bool:
    """Whether a file could not be read or written; safetensors and torch have errors of their own for a full disk."""
    of_torch = isinstance(error, RuntimeError) and "inline_container" in str(error)
    return isinstance(error, OSError) or type(error).__module__.startswith("safetensors") or of_torch


__all__ = ["POLICIES", "Run", "beside", "seat"]
