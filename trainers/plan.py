"""What a run of the loop will take, before it starts: episodes, tokens, money and time, stage by stage.

Tokens come from playing a few of the very tasks with scripted agents, one in place of every model, and counting
what every seat would be shown and say. Language models say more than scripted agents, by `TALKATIVE`, and their
conversations may be longer, so these are estimates, good to a factor of two. What hosted models really used stands in
every episode. Nothing here needs a key, a GPU or torch, and nothing is written.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import sotopia_env
from sotopia_env import chat
from sotopia_env.episodes import Episode
from sotopia_env.judges.llm import LLMJudge
from sotopia_env.models import ScriptedModel
from sotopia_env.specs import make_agent
from sotopia_env.tasks import Task
from sotopia_env.trainers.behavior_cloning import TrainSettings
from sotopia_env.trainers.casts import casts
from sotopia_env.trainers.datasets import conversation_of
from sotopia_env.trainers.pi import _EXPERT_TASKS, _FRESH_TASKS, _OWN_TASKS, _SAMPLES, Run, beside
from sotopia_env.trainers.settings import SELF, Preset
from sotopia_env.trainers.tiny import TinySettings, exercise, is_shipped

CHARACTERS = 4.0
"""Characters of English text in a token, about."""

TINY_CHARACTERS = 10.0
"""The same for the tiny base, whose tokens are whole clauses."""

TALKATIVE = 2.0
"""How much more language models say than scripted agents, about."""

JUDGE_REPLY = 400
"""Tokens of a verdict on one agent: a reason and a score for each of seven dimensions, about."""

SCRIPTED_EPISODES = 350.0
"""Scripted episodes played, judged by arithmetic and stored in a second on one core, about."""

CONNECTIONS = 16
"""Calls of one hosted model that are under way at once, unless its spec says otherwise."""

LEARNER = "learner"
"""Stands for this run's own policies where a spec stands for others."""

_PLAYED = 4
"""Tasks of each kind that are played for an estimate."""

_FREE = ("scripted", "random", "local", "hf", LEARNER)


@dataclass(frozen=True)
class Use:
    """What one model does in a stage.

    Attributes:
        role: "expert", "partner", "judge" or "learner".
        model: Its spec; "learner" for the run's own policy.
        calls: How often it is asked.
        prompt_tokens, completion_tokens: What it reads and writes.
        dollars: What that costs: 0 for what runs on this machine, `None` if the price is not known.
    """

    role: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None


@dataclass(frozen=True)
class Step:
    """One stage of the run.

    Attributes:
        stage: Its name in the manifest.
        episodes: How many it plays.
        training_tokens: How many tokens it trains on at most, repeats over epochs counted.
        uses: What language models do in it.
        minutes: How long it takes; `None` if a rate is not known.
        branch: Of a run of several processes: "bc" and "sr" go on at the same time, stages of "evaluation" too.
    """

    stage: str
    episodes: int = 0
    training_tokens: int = 0
    uses: tuple[Use, ...] = ()
    minutes: float | None = None
    branch: str = ""

    @property
    def dollars(self) -> float | None:
        """What it costs; `None` if a price is not known."""
        return _sum(use.dollars for use in self.uses)


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        preset, description, seed: What is planned.
        preset_minutes: How long the preset says that it takes on the machine that it is meant for.
        processes: How many work at once, each at the preset's rates.
        needs: What must be there: a GPU, environment variables.
        steps: The stages in order.
        unpriced: Hosted models without a price in the preset.
    """

    preset: str
    description: str
    seed: int
    preset_minutes: float
    processes: int
    needs: tuple[str, ...]
    steps: tuple[Step, ...]
    unpriced: tuple[str, ...] = field(default=())

    @property
    def episodes(self) -> int:
        """Episodes of all stages."""
        return sum(step.episodes for step in self.steps)

    @property
    def training_tokens(self) -> int:
        """Tokens of all trainings, at most."""
        return sum(step.training_tokens for step in self.steps)

    @property
    def dollars(self) -> float | None:
        """What the run costs; `None` if a price is not known."""
        return _sum(step.dollars for step in self.steps)

    @property
    def known_dollars(self) -> float:
        """What those models cost of which the price is known."""
        return sum(use.dollars or 0.0 for step in self.steps for use in step.uses)

    @property
    def minutes(self) -> float | None:
        """How long it takes by the preset's rates; `None` if one that is needed is missing."""
        if self.processes == 1 or any(step.minutes is None for step in self.steps):
            return _sum(step.minutes for step in self.steps)
        alone, bc, sr, evaluation = (
            math.fsum(step.minutes or 0.0 for step in self.steps if step.branch == branch)
            for branch in ("", "bc", "sr", "evaluation")
        )
        return alone + max(bc, sr) + evaluation / self.processes

    def record(self) -> dict[str, Any]:
        """The plan as JSON values."""
        steps = [{**asdict(step), "dollars": step.dollars} for step in self.steps]
        totals = {
            name: getattr(self, name) for name in ("episodes", "training_tokens", "dollars", "known_dollars", "minutes")
        }
        return {**asdict(self), "steps": steps, "total": totals}


def plan(preset: Preset, seed: int = 0) -> Plan:
    """Estimate what a run takes. Nothing is started, and nothing but scripted agents plays.

    Args:
        preset: All settings.
        seed: The run's seed.

    Raises:
        ConfigurationError: If there are no tasks, or a scripted agent is not known.
    """
    return _Planner(preset, seed).plan()


# --- what is said in a conversation -------------------------------------------------------------------


class _Talk(NamedTuple):
    """What one seat reads and writes in an episode, in characters on average.

    What the task says is fixed; what people say grows with how much they talk.
    """

    calls: float
    prompt_fixed: float
    prompt_said: float
    reply: float
    row_fixed: float
    row_said: float
    judge_fixed: float
    judge_said: float

    def prompts(self, talk: float) -> float:
        return self.prompt_fixed + talk * self.prompt_said

    def row(self, form: str, talk: float) -> float:
        """Length of the training rows that one trajectory gives."""
        if form == "conversation":
            return self.row_fixed + talk * self.row_said
        return self.prompts(talk) + talk * self.reply  # every turn with all that was before it

    def rows(self, form: str) -> float:
        """How many training rows one trajectory gives."""
        return 1.0 if form == "conversation" else self.calls

    def judged(self, talk: float) -> float:
        return self.judge_fixed + talk * self.judge_said


def _talks(tasks: Sequence[Task], cast: Sequence[str], max_turns: int, *, judged: bool) -> list[_Talk]:
    """Play tasks with scripted agents and measure every seat, and what a judge would be shown of it if asked."""
    episodes = sotopia_env.rollout(tasks, cast, judge=None, max_turns=max_turns)
    by_seat = zip(*(_measured(episode, judged=judged) for episode in episodes), strict=True)
    return [_Talk(*(math.fsum(column) / len(found) for column in zip(*found, strict=True))) for found in by_seat]


def _measured(episode: Episode, *, judged: bool) -> list[_Talk]:
    conversation = conversation_of(episode)
    return [_talk(episode, agent, conversation.view(agent), judged) for agent in episode.task.agents]


def _talk(episode: Episode, agent: str, view: dict[str, Any], judged: bool) -> _Talk:
    # The messages of every turn are a prefix of those of later turns, so the last ones hold them all.
    messages = chat.render(view)
    system = len(messages[0]["content"])
    calls = prompt_said = reply = said = row_said = 0
    for message in messages[1:]:
        if message["role"] == "assistant":
            calls += 1
            prompt_said += said
            reply += len(message["content"])
            row_said = said + len(message["content"])
        said += len(message["content"])
    bare = _judge_prompt(episode.model_copy(update={"events": ()}), agent) if judged else 0
    judge_said = _judge_prompt(episode, agent) - bare if judged else 0
    return _Talk(calls, calls * system, prompt_said, reply, system, row_said, bare, judge_said)


_JUDGE = LLMJudge(ScriptedModel([]))


def _judge_prompt(episode: Episode, agent: str) -> int:
    return sum(len(message["content"]) for message in _JUDGE.messages(episode, agent))


# --- stages -------------------------------------------------------------------------------------------


class _Kind(NamedTuple):
    """Tasks of one kind: a few to measure, and how many are played."""

    played: list[Task]
    tasks: int


class _Count:
    """Calls and characters of one model."""

    def __init__(self) -> None:
        self.calls = self.prompt = self.reply = 0.0

    def add(self, calls: float, prompt: float, reply: float) -> None:
        self.calls += calls
        self.prompt += prompt
        self.reply += reply


class _Data(NamedTuple):
    """Training rows: how many, and how many characters in all."""

    rows: float
    characters: float

    def share(self, kept: float) -> _Data:
        """What is left of them when a share is kept."""
        return _Data(self.rows * kept, self.characters * kept)


class _Played(NamedTuple):
    """A stage of play, and what the learner's trajectories of it come to as training rows."""

    step: Step
    data: _Data


class _Planner:
    def __init__(self, preset: Preset, seed: int) -> None:
        self.preset, self.seed = preset, seed
        self.run = Run(preset, "", seed=seed)
        self._known: dict[tuple[str, tuple[str, ...]], list[_Talk]] = {}
        self.per_token = TINY_CHARACTERS if preset.base.model == "tiny" else CHARACTERS

    def plan(self) -> Plan:
        preset = self.preset
        steps = [*self._base(), *self._loop(), *self._evaluations(), self._samples()]
        unpriced = sorted({use.model for step in steps for use in step.uses if use.dollars is None})
        return Plan(
            preset=preset.name,
            description=preset.description,
            seed=self.seed,
            preset_minutes=preset.minutes,
            processes=preset.processes,
            needs=self._needs(),
            steps=tuple(steps),
            unpriced=tuple(unpriced),
        )

    def _needs(self) -> tuple[str, ...]:
        preset = self.preset
        specs = {preset.judge.agent, preset.base.forced, *preset.met, *preset.evaluation.partners}
        keys = ["OPENAI_API_KEY"] if any(_kind(spec) == "openai" for spec in specs) else []
        needed = dict.fromkeys([*(["a GPU"] if preset.needs.gpu else []), *preset.needs.environment, *keys])
        return tuple(needed)

    def _base(self) -> list[Step]:
        base = self.preset.base
        if base.model != "tiny" or (base.shipped and is_shipped(base.tiny, base.seed)):
            return []
        tiny = base.tiny
        kinds = [
            _Kind(sotopia_env.load_tasks(f"outcome/{family}", split="train", n=_PLAYED, seed=self.seed), tiny.tasks)
            for family in tiny.families
        ]
        seat = partial(_seated, tiny.unskilled, tiny.partners)
        played = self._play("base", kinds, seat, tiny.unskilled, max_turns=20)
        tokens = self._training_tokens(tiny.training, played.data)
        tokens += self._training_tokens(tiny.exercising, self._exercised(tiny, kinds))
        episodes = played.step.episodes
        return [Step("base", episodes, tokens, (), self._minutes((), tokens, episodes))]

    def _exercised(self, tiny: TinySettings, kinds: Sequence[_Kind]) -> _Data:
        """The exercises."""
        draw = random.Random(0)
        made = [exercise(task, seat, draw) for kind in kinds for task in kind.played for seat in (0, 1)]
        count = tiny.exercises + tiny.refreshers
        return _Data(count, count * sum(len(message["content"]) for one in made for message in one) / len(made))

    def _loop(self) -> list[Step]:
        preset = self.preset
        expert, bc = preset.expert, preset.bc.training
        play = self._expert_play("expert play", _EXPERT_TASKS)
        cloned = self._training_tokens(bc, play.data.share(_kept(expert.filter, self._group(expert))))
        steps = [play.step, self._training("bc", cloned)]
        reinforced = 0
        for name in ("sr", "bc+sr"):
            own = self._reinforcement(name)
            reinforced = sum(step.training_tokens for step in own)
            steps += own
        steps.append(self._training("sr+bc", cloned))
        if preset.sr.control:
            steps += [self._expert_play("fresh expert play", _FRESH_TASKS).step, self._training("control", reinforced)]
        return [step if step is play.step else replace(step, branch=_branch(step.stage)) for step in steps]

    def _expert_play(self, stage: str, use: int) -> _Played:
        expert = self.preset.expert
        kinds = [self._kind(use, expert.tasks, family) for family in self.run.families]
        seat = partial(_seated, expert.agent, expert.partners)
        every = expert.every_cast
        return self._play(stage, kinds, seat, expert.agent, repeats=expert.repeats, every=every)

    def _reinforcement(self, name: str) -> list[Step]:
        sr, steps = self.preset.sr, []
        partners = sr.partners if sr.partner == "pool" else (SELF,)
        for number in range(1, sr.rounds + 1):
            stage = f"{name} round {number}" if sr.rounds > 1 else name
            kinds = [self._kind(_OWN_TASKS + number, sr.tasks, family) for family in self.run.families]
            seat = partial(_seated, LEARNER, partners)
            played = self._play(f"{stage} play", kinds, seat, LEARNER, repeats=sr.repeats)
            tokens = self._training_tokens(sr.training, played.data.share(_kept(sr.filter, sr.repeats)))
            trained = name if number == sr.rounds else stage.replace(" ", "-")
            steps += [played.step, self._training(trained, tokens)]
        return steps

    def _evaluations(self) -> list[Step]:
        settings = self.preset.evaluation
        own = ["base", "bc", "sr", "bc+sr", "sr+bc", *(["control"] if self.preset.sr.control else [])]
        policies = {**dict.fromkeys(own, LEARNER), **beside(self.preset)}
        kinds = _by_family([task for tasks in self.run.unseen_tasks().values() for task in tasks])
        steps = []
        for label, spec in policies.items():
            seat = partial(_seated, spec, settings.partners)
            stage = f"evaluation of {label}"
            step = self._play(stage, kinds, seat, spec, repeats=settings.repeats, every=True).step
            steps.append(replace(step, branch="evaluation"))
        return steps

    def _samples(self) -> Step:
        own = 5 + self.preset.sr.control
        tasks = next(iter(self.run.unseen_tasks().values()))[:_SAMPLES]
        kinds = [_Kind([task], 1) for task in tasks]
        partner = self.preset.evaluation.partners[0]
        policies = [*([LEARNER] * own), self.preset.expert.agent]

        def seat(seats: int) -> list[list[str]]:
            return [_seated(policy, [partner], seats)[0] for policy in policies]

        return self._play("samples", kinds, seat, LEARNER, every=True).step

    # --- counting -----------------------------------------------------------------------------------

    def _kind(self, use: int, n: int, family: str) -> _Kind:
        generated = self.preset.tasks.pack == "outcome"
        tasks = self.run.training_tasks(use, min(n, _PLAYED) if generated else n, family)
        return _Kind(tasks[:_PLAYED], n if generated else len(tasks))

    def _group(self, expert: Any) -> int:
        """Trajectories of one seat in one task, among which a filter ranks."""
        return int(expert.repeats * (len(expert.partners) if expert.every_cast else 1))

    def _play(
        self,
        stage: str,
        kinds: Sequence[_Kind],
        seat: Callable[[int], Sequence[Sequence[str]]],
        learner: str,
        *,
        repeats: int = 1,
        every: bool = False,
        max_turns: int | None = None,
    ) -> _Played:
        counts: dict[tuple[str, str], _Count] = {}
        episodes, rows, row_characters = 0, 0.0, 0.0
        form = (self.preset.sr if learner == LEARNER else self.preset.bc).training.form
        for kind in kinds:
            seated = seat(len(kind.played[0].seats))
            for number, cast in enumerate(seated):
                n = repeats * len(range(kind.tasks) if every else range(number, kind.tasks, len(seated)))
                talk, talks = self._talkative(cast), self._measured(kind, cast, max_turns)
                episodes += n
                for spec, said in zip(cast, talks, strict=True):
                    reply = said.reply * talk
                    self._count(counts, spec).add(n * said.calls, n * said.prompts(talk), n * reply)
                    verdict = n * CHARACTERS * JUDGE_REPLY
                    self._count(counts, self.preset.judge.agent, "judge").add(n, n * said.judged(talk), verdict)
                    if spec == learner:
                        rows += n * said.rows(form)
                        row_characters += n * said.row(form, talk)
        uses = tuple(self._use(role, spec, count) for (role, spec), count in counts.items() if _is_model(spec))
        step = Step(stage, episodes, 0, uses, self._minutes(uses, 0, episodes))
        return _Played(step, _Data(rows, row_characters))

    def _count(self, counts: dict[tuple[str, str], _Count], spec: str, role: str = "") -> _Count:
        other = "expert" if spec == self.preset.expert.agent else "partner"
        return counts.setdefault((role or (LEARNER if spec == LEARNER else other), spec), _Count())

    def _measured(self, kind: _Kind, cast: Sequence[str], max_turns: int | None) -> list[_Talk]:
        scripted = tuple(map(self._stand_in, cast))
        key = (kind.played[0].id, scripted)
        if key not in self._known:
            turns = max_turns or self.preset.play.max_turns
            self._known[key] = _talks(kind.played, scripted, turns, judged=_is_model(self.preset.judge.agent))
        return self._known[key]

    def _stand_in(self, spec: str) -> str:
        """Who plays in place of a model."""
        if spec == LEARNER:
            return self._stand_in(self.preset.expert.agent)
        if _kind(spec) == "scripted":
            return make_agent(spec).name
        return "scripted/fair"

    def _talkative(self, cast: Sequence[str]) -> float:
        """The learner talks like the expert that it learns from."""
        models = [spec for spec in (*cast, self.preset.expert.agent) if spec != LEARNER and _is_model(spec)]
        return TALKATIVE if models else 1.0

    def _use(self, role: str, spec: str, count: _Count) -> Use:
        per = self.per_token if spec == LEARNER else CHARACTERS
        prompt, completion = round(count.prompt / per), round(count.reply / per)
        return Use(role, spec, round(count.calls), prompt, completion, self._dollars(spec, prompt, completion))

    def _dollars(self, spec: str, prompt: int, completion: int) -> float | None:
        if _kind(spec) in _FREE:
            return 0.0
        price = self.preset.prices.get(spec.partition("?")[0])
        if price is None or not {"prompt", "completion"} <= price.keys():
            return None
        return (prompt * price["prompt"] + completion * price["completion"]) / 1e6

    # --- training and time ----------------------------------------------------------------------------

    def _training_tokens(self, training: TrainSettings, data: _Data) -> int:
        """Tokens of all epochs; or of a given number of steps, each with as many rows as one takes."""
        tokens = data.characters / self.per_token
        if training.max_steps is None or not data.rows:
            return round(tokens * training.epochs)
        rows = training.max_steps * training.batch_size * training.gradient_accumulation
        return round(rows * (training.max_length if training.packing else tokens / data.rows))

    def _training(self, stage: str, tokens: int) -> Step:
        return Step(stage, training_tokens=tokens, minutes=self._minutes((), tokens))

    def _minutes(self, uses: Sequence[Use], training_tokens: int, episodes: int = 0) -> float | None:
        """Play, in which models answer at the same time, so that the slowest decides; and training."""
        rates, seconds = self.preset.rates, episodes / SCRIPTED_EPISODES
        if training_tokens:
            if "train" not in rates:
                return None
            seconds += training_tokens / rates["train"]
        waits = [0.0]
        for use in uses:
            if use.model == LEARNER and "play" in rates:
                waits.append(use.completion_tokens / rates["play"])
            elif _kind(use.model) == "local" and "local" in rates:
                waits.append(use.completion_tokens / rates["local"])
            elif _kind(use.model) == "openai" and "call" in rates:
                waits.append(use.calls * rates["call"] / min(self.preset.play.concurrency, _connections(use.model)))
            else:
                return None
        return (seconds + max(waits)) / 60


def _branch(stage: str) -> str:
    return "sr" if stage.startswith("sr") else "bc"


# --- helpers ------------------------------------------------------------------------------------------


def _seated(agent: str, partners: Iterable[str], seats: int) -> list[list[str]]:
    return casts(agent, [agent if partner == SELF else partner for partner in partners], seats)


def _by_family(tasks: Sequence[Task]) -> list[_Kind]:
    families: dict[tuple[str, int], list[Task]] = {}
    for task in tasks:
        families.setdefault((task.family, len(task.seats)), []).append(task)
    # A few out of all, so that every kind of wording is among them.
    return [_Kind(found[:: max(1, len(found) // _PLAYED)][:_PLAYED], len(found)) for found in families.values()]


def _kept(rule: dict[str, Any], group: int) -> float:
    """Share of the trajectories that a filter keeps, at most; of a group of so many."""
    match rule["rule"]:
        case "paper-sr":
            return math.ceil(float(rule.get("share", 0.2)) * group - 1e-9) / group
        case "paper-bc":
            # Ranks below the first ones are kept while both seats exceed a mean: about half of all.
            return min(1.0, max(int(rule.get("keep", 2)) / group, 0.5))
        case "released":
            return 1 / group
        case _:
            return 1.0


def _kind(spec: str) -> str:
    return spec.partition("/")[0]


def _is_model(spec: str) -> bool:
    return _kind(spec) not in ("scripted", "random", "outcome")


def _connections(spec: str) -> int:
    _, _, options = spec.partition("?")
    for option in options.split("&"):
        name, _, value = option.partition("=")
        if name == "max_connections" and value.isdecimal():
            return int(value)
    return CONNECTIONS


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if any(value is None for value in found) else math.fsum(value for value in found if value is not None)


__all__ = [
    "CHARACTERS",
    "CONNECTIONS",
    "JUDGE_REPLY",
    "LEARNER",
    "SCRIPTED_EPISODES",
    "TALKATIVE",
    "TINY_CHARACTERS",
    "Plan",
    "Step",
    "Use",
    "plan",
]
