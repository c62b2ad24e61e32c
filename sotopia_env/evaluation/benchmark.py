"""The social benchmark: a fixed protocol, and a results file from which it can be repeated.

    protocol = make_protocol(["outcome"])
    results = run_benchmark({"mine": "openai/gpt-4o-mini"}, protocol, store="benchmark.db")
    results.save("mine.json")

The protocol fixes what must be equal for two numbers to compare: the tasks with every word and number in them, who
sits in the other seats, the judge with its prompt, the prompt of the policies, temperature, lengths, turn order and
seeds. Its hash is over all of it, contents and not names, so a changed task or prompt is a changed protocol. A subset
(`tasks_per_section`) is a protocol of its own too.

A results file is canonical JSON without a date or duration: the same protocol, policies and code give the same bytes
wherever every agent and judge is deterministic. What differs from run to run stands beside it, in a file of timings.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from sotopia_env import budgets, chat
from sotopia_env.actions import Action
from sotopia_env.budgets import Price
from sotopia_env.conversation import Conversation
from sotopia_env.dimensions import DIMENSIONS, OVERALL, overall
from sotopia_env.episodes import Episode
from sotopia_env.errors import ConfigurationError, SotopiaEnvError, StoreError, one_line, unknown
from sotopia_env.evaluation.policies import HELD_OUT, evaluate
from sotopia_env.evaluation.results import SHARES, Evaluation, Row, write_whole
from sotopia_env.judges.base import Judge
from sotopia_env.models import served_scope
from sotopia_env.specs import Agent, make_agent, make_judge
from sotopia_env.store import EpisodeStore
from sotopia_env.tasks import Task, digest, load_tasks

PROTOCOL = "sotopia-env social benchmark"
PROTOCOL_VERSION = "1"
"""Raised when the protocol itself changes; tasks and prompts that change show in its hash."""

FORMAT = "sotopia-env benchmark results"
FORMAT_VERSION = 1

TEMPERATURE, MAX_TOKENS = 0.7, 512
"""Of policies and partners that are models."""

JUDGE_TEMPERATURE, JUDGE_MAX_TOKENS = 0.0, 1536

TURNS, TURN_ORDER = 20, "round-robin"
REWARD = "goal"

_MODELS = ("openai", "local", "hf")
"""Kinds of specs that take a temperature and a longest reply."""

_CHARACTERS = 4.0
"""Characters of English text in a token, about."""

_WORDS, _JUDGE_REPLY = 40, 400
"""Words of a model's move (Sotopia-RL, arXiv 2508.03905, measures 37 to 77), and tokens of a verdict on one agent."""

_SAMPLED = 6
"""Tasks of a section that an estimate looks at."""


class Section(NamedTuple):
    """Tasks of one kind.

    Attributes:
        source: What `load_tasks` takes.
        split: Of the pack.
        n: How many of a generated pack; `None` for all of a written one.
        computed: Whether arithmetic judges; otherwise a judge and a partner must be named.
    """

    source: str
    split: str | None
    n: int | None
    computed: bool


SECTIONS = {
    "outcome": Section("outcome", "test", 120, True),
    "everyday": Section("everyday", "test", None, False),
    "everyday-hard": Section("everyday-hard", "test", None, False),
    "sotopia-hard": Section("sotopia", "hard", None, False),
}
"""The sections of the protocol: computed outcomes, our own scenes, those with opposed goals, SOTOPIA's hard list."""


# --- the protocol -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One section as it is played.

    Attributes:
        tasks: The tasks themselves.
        partners: Specs or agents that sit in all other seats, one after the other.
        judge: Who scores.
    """

    tasks: tuple[Task, ...]
    partners: tuple[str | Agent, ...]
    judge: Judge

    def record(self) -> dict[str, Any]:
        """What decides its numbers, as JSON values; tasks and prompts by hash."""
        return {
            "tasks": len(self.tasks),
            "tasks_hash": digest([task.digest for task in self.tasks]),
            "prompt_hash": prompt_hash(self.tasks),
            "partners": [make_agent(partner).name for partner in self.partners],
            "judge": self.judge.name,
            "judge_prompt_hash": getattr(self.judge, "prompt_hash", None),
        }


@dataclass(frozen=True)
class Protocol:
    """Everything that must be equal for results to compare.

    Attributes:
        parts: The sections that are played, by name.
        not_run: Why other sections are not played, by name.
        seed: Of generated tasks and of the episodes.
        repeats: How often each task is played from each seat with each partner.
        temperature: Of policies and partners that are models; `None` leaves it to them.
        tasks_per_section: Only the first so many tasks of each section; `None` for all.
    """

    parts: Mapping[str, Part]
    not_run: Mapping[str, str]
    seed: int
    repeats: int
    temperature: float | None
    tasks_per_section: int | None

    def record(self) -> dict[str, Any]:
        """As JSON values, with its hash."""
        record = {
            "name": PROTOCOL,
            "version": PROTOCOL_VERSION,
            "sections": {name: part.record() for name, part in self.parts.items()},
            "seats": "every seat",
            "reward": REWARD,
            "seed": self.seed,
            "repeats": self.repeats,
            "temperature": self.temperature,
            "max_tokens": MAX_TOKENS,
            "judge_temperature": JUDGE_TEMPERATURE,
            "judge_max_tokens": JUDGE_MAX_TOKENS,
            "max_turns": TURNS,
            "turn_order": TURN_ORDER,
            "tasks_per_section": self.tasks_per_section,
        }
        return {**record, "hash": digest(record)}

    @property
    def hash(self) -> str:
        """Hash of the whole record."""
        return str(self.record()["hash"])

    def episodes(self, policies: int = 1) -> dict[str, int]:
        """How many episodes so many policies take, by section."""
        return {
            name: policies * self.repeats * len(part.partners) * sum(len(task.seats) for task in part.tasks)
            for name, part in self.parts.items()
        }


def make_protocol(
    sections: Sequence[str] | None = None,
    *,
    judge: str | Judge | None = None,
    partners: Sequence[str | Agent] = (),
    seed: int = 0,
    repeats: int = 1,
    temperature: float | None = TEMPERATURE,
    tasks_per_section: int | None = None,
    sotopia: str | Path | None = None,
    base_url: str | None = None,
    judge_base_url: str | None = None,
) -> Protocol:
    """Put the protocol together.

    Args:
        sections: Names out of `SECTIONS`. One that cannot be run is an error. By default all that can be run are;
            `not_run` of the protocol says why the others are not.
        judge: Of the sections without computed outcomes: "openai/<model>", "local/<model>" or a `Judge`.
        partners: Of the same sections, one or more. In "outcome" the held-out scripted partners play.
        seed: Of generated tasks and of the episodes.
        repeats: How often each task is played from each seat with each partner.
        temperature: Of models in any seat; `None` leaves it to them.
        tasks_per_section: Only the first so many tasks of each section, for a quick look.
        sotopia: Where SOTOPIA's data is, for "sotopia-hard"; default the Hugging Face hub.
        base_url: Endpoint of openai/... partners.
        judge_base_url: Endpoint of an openai/... judge, if it is another one.

    Raises:
        ConfigurationError: For an unknown section, one that was asked for and cannot be run, or an argument out of
            range.
    """
    for name, value in (("repeats", repeats), ("tasks_per_section", tasks_per_section)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigurationError(f"{name} is {value!r}, but must be a whole number of 1 or more.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ConfigurationError(f"seed is {seed!r}, but must be a whole number.")
    if temperature is not None and not (isinstance(temperature, (int, float)) and 0 <= temperature < math.inf):
        raise ConfigurationError(f"temperature is {temperature!r}, but must be a number of 0 or more, or None.")
    strange = next((name for name in sections or () if name not in SECTIONS), None)
    if strange is not None:
        raise ConfigurationError(unknown("section", strange, SECTIONS))
    if sections is not None and not sections:
        raise ConfigurationError(f"sections is empty. Give at least one of {list(SECTIONS)!r}.")
    made_judge = _judge(judge, judge_base_url or base_url)
    made_partners = tuple(fixed(partner, temperature, MAX_TOKENS, base_url) for partner in partners)
    parts: dict[str, Part] = {}
    not_run: dict[str, str] = {}
    for name, section in SECTIONS.items():
        if sections is not None and name not in sections:
            not_run[name] = "not asked for"
            continue
        try:
            parts[name] = _part(name, section, made_judge, made_partners, seed, tasks_per_section, sotopia)
        except SotopiaEnvError as error:
            if sections is not None:
                raise
            not_run[name] = " ".join(str(error).split())
    return Protocol(parts, not_run, seed, repeats, temperature, tasks_per_section)


def _part(
    name: str,
    section: Section,
    judge: Judge | None,
    partners: tuple[str | Agent, ...],
    seed: int,
    limit: int | None,
    sotopia: str | Path | None,
) -> Part:
    if not section.computed and (judge is None or not partners):
        raise ConfigurationError(
            f"Section {name!r} has no computed outcomes, so it needs a judge and a partner: --judge openai/<model> "
            "--partner openai/<model>. The same ones every time, for numbers move with both."
        )
    tasks = _tasks(name, section, seed, sotopia)[:limit]
    if section.computed:
        computed = make_judge("outcome")
        assert computed is not None
        return Part(tuple(tasks), HELD_OUT, computed)
    assert judge is not None
    return Part(tuple(tasks), partners, judge)


def _tasks(name: str, section: Section, seed: int, sotopia: str | Path | None) -> list[Task]:
    path = sotopia if section.source == "sotopia" else None
    try:
        tasks = load_tasks(section.source, split=section.split, n=section.n, seed=seed, path=path)
    except SotopiaEnvError as error:
        remedy = " Give its data with --sotopia PATH." if section.source == "sotopia" and path is None else ""
        raise ConfigurationError(f"Section {name!r} is not available: {one_line(error, 160)}{remedy}") from error
    if not tasks:
        raise ConfigurationError(f"Section {name!r} has no tasks in {section.source!r}.")
    return tasks


def _judge(judge: str | Judge | None, base_url: str | None) -> Judge | None:
    if isinstance(judge, str) and judge.partition("/")[0] in _MODELS:
        judge = _with_options(judge, JUDGE_TEMPERATURE, JUDGE_MAX_TOKENS)
    return make_judge(judge, base_url=base_url)


def fixed(policy: str | Agent, temperature: float | None, max_tokens: int, base_url: str | None = None) -> str | Agent:
    """A policy as the protocol plays it: a model's spec gets the protocol's temperature and longest reply.

    Raises:
        ConfigurationError: If the spec says another temperature.
    """
    if not isinstance(policy, str) or policy.partition("/")[0] not in _MODELS:
        return policy
    spec = _with_options(policy, temperature, max_tokens)
    # Of an endpoint of its own it must be made here; others are made when they play, and freed after it.
    return make_agent(spec, base_url=base_url) if base_url is not None and spec.startswith("openai/") else spec


def _with_options(spec: str, temperature: float | None, max_tokens: int) -> str:
    model, _, query = spec.partition("?")
    options = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    own = options.get("temperature")
    if own is not None and temperature is not None and not _equals(own, temperature):
        raise ConfigurationError(
            f"{spec!r} has temperature {own!r}, but the protocol plays every model at {temperature:g}. Leave it out, "
            f"or give all of them another one with --temperature {own} (which is another protocol)."
        )
    if temperature is not None:
        options["temperature"] = f"{temperature:g}"
    if not {"max_tokens", "max_completion_tokens"} & options.keys():
        options["max_tokens"] = str(max_tokens)
    return f"{model}?" + "&".join(f"{key}={value}" for key, value in sorted(options.items()))


def _equals(text: str, number: float) -> bool:
    try:
        return float(text) == number
    except ValueError:
        return False


def prompt_hash(tasks: Sequence[Task]) -> str:
    """A hash of what policies are shown: every seat's opening prompt of every task, and how events are told."""
    openings = []
    for task in tasks:
        conversation = Conversation(task, seed=0)
        openings.append([chat.render(conversation.view(agent)) for agent in task.agents])
    return digest([openings, _shown_events(tasks[0]), chat.RETRY])


def _shown_events(task: Task) -> list[Any]:
    """The prompts of a short talk in which every kind of move comes up."""
    moves = [
        Action("speak", "Good evening."),
        Action("non-verbal communication", "nods"),
        Action("action", "shrugs"),
        Action("none"),
        Action("speak", "Well."),
        Action("leave"),
    ]
    conversation = Conversation(task, seed=0)
    for move in moves:
        if conversation.is_over:
            break
        conversation.apply(dict.fromkeys(conversation.movers, move))
    return [chat.render(conversation.view(agent)) for agent in task.agents]


# --- running ----------------------------------------------------------------------------------------


def run_benchmark(
    policies: Mapping[str, str | Agent],
    protocol: Protocol,
    *,
    store: EpisodeStore | str | Path | None = None,
    concurrency: int = 64,
    progress: bool = False,
    base_url: str | None = None,
) -> Results:
    """Play every policy through every section of a protocol.

    Args:
        policies: By label, a spec string or an `Agent`.
        protocol: What `make_protocol` gave.
        store: An `EpisodeStore`, or a path or URL for one: what it holds is not played or judged again.
        concurrency: How many episodes of a policy are under way at once.
        progress: Show a progress bar on stderr.
        base_url: Endpoint of openai/... policies.

    Returns:
        Results; `complete` says whether every episode has its numbers.

    Raises:
        ConfigurationError: If the arguments do not fit together; nothing has been played then.
        BudgetError: If a `Budget` around it ran out. What was played is in the store, if there is one.
        StoreError: If the store cannot be opened or written.
    """
    chosen = {label: fixed(policy, protocol.temperature, MAX_TOKENS, base_url) for label, policy in policies.items()}
    kept = EpisodeStore(store) if isinstance(store, (str, Path)) else store
    evaluations: dict[str, Evaluation] = {}
    seconds: dict[str, float] = {}
    started = datetime.now(UTC)
    with served_scope() as served:
        try:
            for name, part in protocol.parts.items():
                start = time.perf_counter()
                evaluations[name] = evaluate(
                    chosen,
                    {name: part.tasks},
                    part.partners,
                    judge=part.judge,
                    reward=REWARD,
                    repeats=protocol.repeats,
                    seed=protocol.seed,
                    concurrency=concurrency,
                    max_turns=TURNS,
                    turn_order=TURN_ORDER,  # type: ignore[arg-type]
                    store=kept,
                    progress=progress,
                    min_partners=1,
                )
                seconds[name] = time.perf_counter() - start
        finally:
            _remember(kept, served)
    players = [*chosen.values(), *(who for part in protocol.parts.values() for who in (*part.partners, part.judge))]
    names = next(iter(evaluations.values())).settings["policies"]
    specs = {label: policy if isinstance(policy, str) else policy.name for label, policy in policies.items()}
    return Results(
        protocol=protocol.record(),
        not_run=dict(protocol.not_run),
        code={"version": _version(), "hash": code_hash()},
        policies={label: {"agent": names[label], "spec": specs[label]} for label in policies},
        served=_served_names(players, served),
        evaluations=evaluations,
        timings={
            "started_at": started.isoformat(timespec="seconds"),
            "seconds": {name: round(took, 3) for name, took in seconds.items()},
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "spent": [
                {"limit": budget.limit, "calls": budget.spent.calls, "tokens": budget.spent.tokens}
                | {"dollars": round(budget.spent.dollars, 6)}
                for budget in budgets.active()
            ],
        },
    )


_SERVED_NOTE = "served"


def _remember(store: EpisodeStore | None, served: dict[str, set[str]]) -> None:
    """Keep, and take from the store, what endpoints called their models: a resumed run calls only some again."""
    if store is None:
        return
    for name, ids in json.loads(store.note(_SERVED_NOTE) or "{}").items():
        served.setdefault(name, set()).update(ids)
    if served:
        store.add_note(_SERVED_NOTE, json.dumps({name: sorted(ids) for name, ids in sorted(served.items())}))


def _served_names(players: Sequence[object], served: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """By the name of an agent or judge, what its models were served as."""
    found: dict[str, set[str]] = {}
    for player in players:
        who: Any = make_agent(player) if isinstance(player, str) else player
        for model in budgets.models_of([who]):
            found.setdefault(who.name, set()).update(served.get(model.name, ()))
    return {name: sorted(ids) for name, ids in sorted(found.items()) if ids}


def _version() -> str:
    from sotopia_env.version import __version__

    return __version__


@lru_cache(maxsize=1)
def code_hash() -> str:
    """A hash of this package's source, trainers and command line left out: what decides the numbers."""
    root = Path(__file__).parent.parent
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):  # agents/ is a link in a checkout
        folders[:] = [name for name in folders if name not in ("cli", "trainers", "__pycache__")]
        found += [Path(folder) / name for name in files if name.endswith((".py", ".jsonl"))]
    hashed = hashlib.sha256()
    for path in sorted(found, key=lambda path: path.relative_to(root).as_posix()):
        text = path.read_bytes().replace(b"\r\n", b"\n")
        hashed.update(f"{path.relative_to(root).as_posix()} {len(text)}\n".encode() + text)
    return hashed.hexdigest()[:40]


# --- results ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """What a benchmark came to; `load_results` reads it back from its file.

    Attributes:
        protocol: The protocol's record, with its hash.
        not_run: Why sections were not played.
        code: "version" of this package, and "hash" of its source.
        policies: By label, the "agent" that played, by its name, and the "spec" that was given.
        served: By the name of an agent or judge, what its endpoint called the models that answered.
        evaluations: By section, every number of every episode.
        timings: What differs from run to run; saved beside the results.
    """

    protocol: dict[str, Any]
    not_run: dict[str, str]
    code: dict[str, str]
    policies: dict[str, dict[str, str]]
    served: dict[str, list[str]]
    evaluations: dict[str, Evaluation]
    timings: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether every episode gave its numbers."""
        return all(evaluation.complete for evaluation in self.evaluations.values())

    def record(self) -> dict[str, Any]:
        """As JSON values, without timings."""
        sections = {}
        for name, evaluation in self.evaluations.items():
            record = evaluation.record()
            del record["goals"]  # they stand in "values" too
            sections[name] = record
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "protocol": self.protocol,
            "not_run": self.not_run,
            "code": self.code,
            "policies": [{"label": label, **about} for label, about in self.policies.items()],
            "served": self.served,
            "sections": sections,
        }

    def text(self) -> str:
        """The results file: canonical JSON in ASCII, keys sorted, on one line."""
        record = self.record()
        return json.dumps(record, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write the results file, and timings and dates beside it; each whole or not at all.

        Returns:
            The path of the file of timings.
        """
        path = Path(path)
        beside = timings_of(path)
        write_whole(path, self.text())
        write_whole(beside, json.dumps({**self.timings, "results_sha256": sha256(path)}, indent=1) + "\n")
        return beside


def timings_of(path: Path) -> Path:
    """Where the timings of a results file go."""
    return path.with_name(f"{path.stem}.timings.json")


def sha256(path: Path) -> str:
    """Hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_results(path: str | Path) -> Results:
    """Read a results file.

    Raises:
        StoreError: If it is none, is of a newer version, or its protocol was edited after the run.
        OSError: If it cannot be read.
    """
    where = f"Results file {str(path)!r}"
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} is not valid JSON ({one_line(error, 80)}). Pass what `benchmark` wrote.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise StoreError(f"{where} is no benchmark's. Pass what `sotopia-env benchmark --output` wrote.")
    if record.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{where} has format version {record.get('format_version')!r:.40}; this package reads {FORMAT_VERSION}. "
            "Upgrade sotopia-env to read it."
        )
    try:
        return _results_of(record)
    except StoreError as error:
        raise StoreError(f"{where}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StoreError(f"{where} is damaged ({one_line(error, 80)}). Run the benchmark again.") from error


def _results_of(record: dict[str, Any]) -> Results:
    file = _File.model_validate(record)
    protocol = file.protocol
    if protocol["hash"] != digest({key: value for key, value in protocol.items() if key != "hash"}):
        raise StoreError("its protocol does not fit its hash: it was changed after the run. Run the benchmark again.")
    _check_kinds(protocol, _PROTOCOL_KINDS)
    for planned in protocol["sections"].values():
        _check_kinds(planned, _SECTION_KINDS)
        _check_kinds(dict(enumerate(planned["partners"])), dict.fromkeys(range(len(planned["partners"])), str))
    order = {name: place for place, name in enumerate(SECTIONS)}
    sections = sorted(file.sections.items(), key=lambda item: order.get(item[0], len(order)))
    evaluations = {name: Evaluation.from_record(section) for name, section in sections}
    policies = {one.label: {"agent": one.agent, "spec": one.spec} for one in file.policies}
    if len(policies) < len(file.policies):
        raise StoreError("two of its policies have the same label. Run the benchmark again.")
    if not evaluations or evaluations.keys() != protocol["sections"].keys():
        raise StoreError("its sections are not those of its protocol. Run the benchmark again.")
    for name, evaluation in evaluations.items():
        _check_section(name, evaluation, protocol, policies)
    return Results(
        protocol=protocol,
        not_run=file.not_run,
        code=dict(file.code),
        policies=policies,
        served=file.served,
        evaluations=evaluations,
        timings={},
    )


class _Policy(BaseModel):
    label: str
    agent: str
    spec: str


class _Code(BaseModel):
    version: str
    hash: str


class _File(BaseModel):
    """What a results file must hold; sections and the protocol are looked at by themselves."""

    protocol: dict[str, Any]
    not_run: dict[str, str]
    code: _Code
    policies: list[_Policy]
    served: dict[str, list[str]]
    sections: dict[str, Any]


_PROTOCOL_KINDS: dict[Any, Any] = {
    "name": str,
    "version": str,
    "sections": dict,
    "seed": int,
    "repeats": int,
    "temperature": (int, float, type(None)),
    "tasks_per_section": (int, type(None)),
}
_SECTION_KINDS: dict[Any, Any] = {
    "tasks": int,
    "tasks_hash": str,
    "prompt_hash": str,
    "partners": list,
    "judge": str,
}


def _check_kinds(values: Mapping[Any, Any], kinds: Mapping[Any, Any]) -> None:
    """Whoever writes a file can also write a hash that fits: readers may rely on kinds all the same."""
    for key, kind in kinds.items():
        if not isinstance(values[key], kind):
            raise TypeError(f"{key!r} is of another kind")


_BOUNDS = {
    **{dimension.name: (dimension.low, dimension.high) for dimension in DIMENSIONS},
    **dict.fromkeys(SHARES, (0, 1)),
    OVERALL: (
        math.floor(overall({dimension.name: dimension.low for dimension in DIMENSIONS})),
        math.ceil(overall({dimension.name: dimension.high for dimension in DIMENSIONS})),
    ),
    "partner_goal": (0, 10),
    "self_minus_partner": (-10, 10),
    "words_per_turn": (0, 1e6),
    "turns": (0, 1e6),
}
_FAR = 1e6
"""Any other measure lies between its negative and itself."""


def _check_section(name: str, evaluation: Evaluation, protocol: dict[str, Any], policies: dict[str, Any]) -> None:
    planned = protocol["sections"][name]
    if evaluation.labels != [name] or set(evaluation.policies) != set(policies):
        raise StoreError(f"section {name!r} does not hold the policies of the file. Run the benchmark again.")
    if evaluation.settings["judge"] != planned["judge"] or evaluation.settings["partners"] != planned["partners"]:
        raise StoreError(f"section {name!r} was not played as its protocol says. Run the benchmark again.")
    if evaluation.settings["policies"] != {label: about["agent"] for label, about in policies.items()}:
        raise StoreError(f"section {name!r} was not played by the policies of the file. Run the benchmark again.")
    if len({evaluation.failures(*row).episodes for row in evaluation.rows}) > 1:
        raise StoreError(
            f"the policies of section {name!r} have different numbers of episodes. Run the benchmark again."
        )
    for row in evaluation.rows:
        _check_plays(f"policy {row[0]!r:.80} in section {name!r}", evaluation, row, protocol["repeats"], planned)


def _check_plays(who: str, evaluation: Evaluation, row: Row, repeats: int, planned: dict[str, Any]) -> None:
    """Refuse what no run can come to, such as a goal of 11, or plays that are neither there nor counted as missing."""
    plays, failures = evaluation.plays[row], evaluation.failures(*row)
    usual = planned["judge"].partition("/")[0] in ("outcome", "openai", "local")  # another judge's scales are its own
    for play in plays:
        if not all(map(math.isfinite, play.measures.values())):
            raise StoreError(f"{who} has a number that is not finite. Run the benchmark again.")
        for measure, value in play.measures.items():
            low, high = _BOUNDS.get(measure, (-_FAR, _FAR)) if usual or measure in SHARES else (-_FAR, _FAR)
            if not low <= value <= high:
                raise StoreError(
                    f"{who} has {measure!r:.80} {value!r}, out of [{low:g}, {high:g}]. Run the benchmark again."
                )
        if play.partner not in planned["partners"] or play.repeat >= repeats:
            raise StoreError(f"{who} has a play that its protocol does not have. Run the benchmark again.")
    if len({(play.task, play.partner, play.seat, play.repeat) for play in plays}) < len(plays):
        raise StoreError(f"{who} has one play twice. Run the benchmark again.")
    if len({play.task for play in plays}) > planned["tasks"] or len(plays) + failures.missing != failures.episodes:
        raise StoreError(
            f"{who} has {len(plays)} plays and {failures.missing} that failed, of {failures.episodes} on "
            f"{planned['tasks']} tasks. Run the benchmark again."
        )


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


# --- estimates --------------------------------------------------------------------------------------


class Use(NamedTuple):
    """What one model would do in a section: calls, and tokens that it reads and writes.

    `dollars` is `None` where the price is not known, and 0 for what runs on this machine.
    """

    section: str
    role: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None


def estimate(
    policies: Mapping[str, str | Agent], protocol: Protocol, prices: Mapping[str, Price] | None = None
) -> list[Use]:
    """What a benchmark would take, without asking any model: good to a factor of two.

    Conversations are taken to go to the turn limit with 40 words a move, and text to have 4 characters a token;
    conversations that end earlier cost less.

    Args:
        policies: By label, a spec string or an `Agent`.
        protocol: What would be played.
        prices: By model spec without options, US dollars per million tokens.
    """
    found = []
    for name, part in protocol.parts.items():
        seat_calls, seat_prompt = _talk(part.tasks)
        plays = protocol.repeats * sum(len(task.seats) for task in part.tasks)  # from the seats of one policy
        others = protocol.repeats * sum(len(task.seats) * (len(task.seats) - 1) for task in part.tasks)
        spoken = round(_WORDS * 1.4)
        for label, policy in policies.items():
            times = plays * len(part.partners)
            found += _uses(name, f"policy {label}", policy, times * seat_calls, seat_prompt, spoken, prices)
        for partner in part.partners:
            times = others * len(policies)
            found += _uses(name, "partner", partner, times * seat_calls, seat_prompt, spoken, prices)
        verdicts = protocol.episodes(len(policies))[name] * len(part.tasks[0].seats)
        found += _verdict_uses(name, part.judge, verdicts, part.tasks, prices)
    return [use for use in found if use.calls]


def estimate_rollout(
    tasks: Sequence[Task],
    agents: Sequence[str | Agent],
    judge: Judge | None,
    *,
    repeats: int = 1,
    prices: Mapping[str, Price] | None = None,
) -> list[Use]:
    """What a rollout would take, without asking any model; assumptions as in `estimate`.

    Args:
        tasks: Each with as many seats as there are agents.
        agents: One per seat.
        judge: Who would score; `None` for nobody.
        repeats: How often each task would be played.
        prices: By model spec without options, US dollars per million tokens.
    """
    calls, prompt = _talk(tasks)
    episodes = len(tasks) * repeats
    found = [
        use
        for seat, agent in enumerate(agents)
        for use in _uses("rollout", f"agent_{seat}", agent, episodes * calls, prompt, round(_WORDS * 1.4), prices)
    ]
    if judge is not None:
        found += _verdict_uses("rollout", judge, episodes * len(agents), tasks, prices)
    return [use for use in found if use.calls]


def estimate_judging(
    judge: Judge, episodes: Iterable[Episode], *, section: str = "verdicts", prices: Mapping[str, Price] | None = None
) -> list[Use]:
    """What verdicts on episodes would take, without asking: the prompts as they would be sent, no call repeated.

    Args:
        judge: Who would be asked.
        episodes: Finished ones.
        section: What to call it.
        prices: By model spec without options, US dollars per million tokens.
    """
    listed = list(episodes)
    if isinstance(members := getattr(judge, "judges", None), tuple):  # a panel
        return [use for one in members for use in estimate_judging(one, listed, section=section, prices=prices)]
    model = getattr(judge, "model", None)
    if model is None or not hasattr(judge, "messages"):
        return []  # it asks no model, or none that we know
    prompts = [judge.messages(episode, agent) for episode in listed for agent in episode.task.agents]
    characters = sum(len(message["content"]) for prompt in prompts for message in prompt)
    average = characters / max(len(prompts), 1) / _CHARACTERS
    uses = _uses(section, "judge", judge, len(prompts), average, _JUDGE_REPLY, prices)
    return [use for use in uses if use.calls]


def _verdict_uses(
    section: str, judge: Judge, verdicts: int, tasks: Sequence[Task], prices: Mapping[str, Price] | None
) -> list[Use]:
    """What verdicts of a judge, or of every member of a panel, would take."""
    if isinstance(members := getattr(judge, "judges", None), tuple):
        return [use for one in members for use in _verdict_uses(section, one, verdicts, tasks, prices)]
    return _uses(section, "judge", judge, verdicts, _asked(judge, tasks), _JUDGE_REPLY, prices)


def _uses(
    section: str,
    role: str,
    who: str | Agent | Judge,
    calls: float,
    prompt: float,
    reply: float,
    prices: Mapping[str, Price] | None,
) -> list[Use]:
    """What each model of an agent or judge would do; scripted agents, and weights of our own, ask no endpoint."""
    if isinstance(who, str) and who.partition("/")[0] in ("openai", "local"):
        models = [who]
    else:
        player = make_agent(who) if isinstance(who, str) and _is_own(who) else who
        models = [getattr(model, "billed_as", model.name) for model in budgets.models_of([player])]
    return [_use(section, role, model, calls, prompt, reply, prices) for model in models]


def _is_own(spec: str) -> bool:
    """Whether a spec names an object of the user's, package.module:attribute."""
    return ":" in spec and spec.partition("/")[0] not in ("scripted", "hf")


def _use(
    section: str,
    role: str,
    spec: str,
    calls: float,
    prompt: float,
    reply: float,
    prices: Mapping[str, Price] | None,
) -> Use:
    tokens = round(calls * prompt), round(calls * reply)
    price = (prices or {}).get(spec.partition("?")[0])
    if price is None and spec.startswith(budgets.FREE):
        price = Price(0.0, 0.0)
    dollars = None if price is None else (tokens[0] * price.prompt + tokens[1] * price.completion) / 1e6
    return Use(section, role, spec, round(calls), *tokens, dollars)


def _talk(tasks: Sequence[Task]) -> tuple[float, float]:
    """Calls of one seat in an episode, and tokens of its average prompt, in talks to the turn limit."""
    words = " ".join(["word"] * _WORDS)
    calls = characters = 0
    sampled = tasks[:: max(1, len(tasks) // _SAMPLED)][:_SAMPLED]
    for task in sampled:
        conversation = Conversation(task, seed=0, max_turns=TURNS)
        while not conversation.is_over:
            for mover in conversation.movers:
                calls += 1
                characters += sum(len(message["content"]) for message in chat.render(conversation.view(mover)))
            conversation.apply({mover: Action("speak", words) for mover in conversation.movers})
    seats = sum(len(task.seats) for task in sampled)
    return calls / seats, characters / max(calls, 1) / _CHARACTERS


def _asked(judge: Judge, tasks: Sequence[Task]) -> float:
    """Tokens of a judge's prompt on one agent of a talk to the turn limit."""
    if not hasattr(judge, "messages"):
        return 0.0
    words = " ".join(["word"] * _WORDS)
    task = tasks[0]
    conversation = Conversation(task, seed=0, max_turns=TURNS)
    while not conversation.is_over:
        conversation.apply({mover: Action("speak", words) for mover in conversation.movers})
    names = dict.fromkeys(task.agents, "anybody")
    episode = Episode(task=task, agents=names, seed=0, events=tuple(conversation.events), ended_by="turn_limit")
    return sum(len(message["content"]) for message in judge.messages(episode, "agent_0")) / _CHARACTERS
