"""Tasks by the hundred: inspirations to a model, its replies through the rules, what survives becomes tasks.

Asking and deciding are apart. Every reply is written to a journal as it comes, in any order; what becomes of
the replies is decided from the journal alone, in the order of the inspirations. So a killed run goes on where
it was, and gives the tasks and the report that it would have given.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from sotopia_env import aio
from sotopia_env.errors import BudgetError, ConfigurationError, ModelError, one_line
from sotopia_env.generation import prompts
from sotopia_env.generation.casting import Company, everyday_company
from sotopia_env.generation.drafts import Draft, UnreadableDraftError, read_draft, response_format
from sotopia_env.generation.duplicates import Collection, Scene, evaluation_scenes, scene_of
from sotopia_env.generation.inspirations import Inspiration, draw, own_inspirations
from sotopia_env.generation.validation import RULES, breaches
from sotopia_env.models import ChatModel, encodable
from sotopia_env.tasks import Seat, Task, digest, load_tasks

PACK = "generated"

NO_REPLY = "no reply"
REASONS: tuple[str, ...] = (
    NO_REPLY,
    "empty",
    "refusal",
    "not JSON",
    "several",
    "schema",
    *RULES,
    "copies an example",
    "in the evaluation",
    "in the batch",
    "no cast",
)
"""Why an inspiration gave no task, in the order in which it is checked."""

_GIVE_UP = 20
"""Calls that fail one after another before the rest is no longer tried."""


@dataclass(frozen=True)
class Result:
    """What became of one inspiration.

    Attributes:
        index: Its place in the draw, from 0.
        inspiration: The text.
        source: The list that it comes from.
        task: The task, or None.
        reason: One of `REASONS` if there is no task, else "".
        details: Every rule broken with its evidence, or what went wrong.
    """

    index: int
    inspiration: str
    source: str
    task: Task | None
    reason: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """A finished batch: every result in order, and what it took."""

    results: tuple[Result, ...]
    settings: dict[str, Any]
    usage: dict[str, int] = field(default_factory=dict)
    not_asked: int = 0

    @property
    def tasks(self) -> list[Task]:
        """The tasks that survived."""
        return [result.task for result in self.results if result.task is not None]

    @property
    def unanswered(self) -> int:
        """Inspirations without any reply: calls that failed, and those not tried after too many had."""
        return self.not_asked + sum(result.reason == NO_REPLY for result in self.results)

    def report(self) -> dict[str, Any]:
        """The yield as JSON values: counts by first reason and by every rule broken, by source, and tokens."""
        reasons = Counter(result.reason for result in self.results if result.reason)
        broken = Counter(detail.partition(":")[0] for result in self.results for detail in result.details)
        sources: dict[str, dict[str, int]] = {}
        for result in self.results:
            row = sources.setdefault(result.source, {"asked": 0, "tasks": 0})
            row["asked"] += 1
            row["tasks"] += result.task is not None
        examples: dict[str, str] = {}
        for result in self.results:
            if result.reason and result.details:
                examples.setdefault(result.reason, result.details[0])
        return {
            "asked": len(self.results),
            "tasks": len(self.tasks),
            "yield": round(len(self.tasks) / len(self.results), 4) if self.results else 0.0,
            "not_asked": self.not_asked,
            "rejected": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
            "broken_rules": {rule: broken[rule] for rule in RULES if broken[rule]},
            "evidence": {reason: examples[reason] for reason in REASONS if reason in examples},
            "sources": sources,
            "relationships": dict(sorted(Counter(task.relationship for task in self.tasks).items())),
            "usage": self.usage,
            "settings": self.settings,
        }


class Plan:
    """Everything that decides a batch, checked before any model is called.

    Args:
        model: Whom to ask: "openai/<model>", "local/<model>" with options, or a `ChatModel`.
        n: How many inspirations; each gives at most one task.
        inspirations: Lists of them, from which equal shares are drawn; default our own list.
        examples: Tasks for two whose form is shown to the model, as far as they keep the rules themselves;
            default some scenes of our own and the training tasks that keep them.
        shots: Examples in each prompt, drawn anew for each.
        company: Who may be cast; default the characters of the everyday pack.
        avoid: Further scenes that no task may resemble, such as SOTOPIA's own (`read_scenes`).
        seed: Decides inspirations, examples and casting; what the model does with it is the model's.
        base_url: Endpoint of openai/... models.

    Raises:
        ConfigurationError: If the arguments do not fit together.
        MissingExtraError: If datasketch or what the model needs is not installed.
    """

    def __init__(
        self,
        model: str | ChatModel,
        *,
        n: int = 100,
        inspirations: Sequence[Sequence[Inspiration]] | None = None,
        examples: Iterable[Task] | None = None,
        shots: int = 2,
        company: Company | None = None,
        avoid: Iterable[Scene] = (),
        seed: int = 0,
        base_url: str | None = None,
    ) -> None:
        if n < 1:
            raise ConfigurationError(f"n is {n!r}, but must be at least 1.")
        if shots < 0:
            raise ConfigurationError(f"shots is {shots!r}, but must be 0 or more.")
        self.company = company or everyday_company()
        self.avoided = [_evaluation(), Collection(by_sentence=True)]
        for scene in avoid:
            self.avoided[1].add(scene)
        self.examples = default_examples() if examples is None else fitting_examples(examples)
        if len(self.examples) < shots:
            raise ConfigurationError(
                f"{len(self.examples)} of the example tasks keep the rules of generated ones (two seats, nobody named, "
                f"no gender), but each prompt shows {shots}. Give other examples or fewer shots."
            )
        self.model: ChatModel = _model(model, base_url) if isinstance(model, str) else model
        self.n, self.seed, self.shots = n, seed, shots
        sources = inspirations if inspirations is not None else [own_inspirations()]
        self.drawn = draw(sources, n, seed=seed)
        self.format = response_format(
            with_limits=_is_local(self.model),
            occupations=[character.occupation for character in self.company.characters],
        )
        self.settings = {
            "model": self.model.name,
            "seed": seed,
            "shots": shots,
            "inspirations": digest([list(found) for source in sources for found in source])[:12],
            "examples": digest([draft.model_dump() for draft in self.examples])[:12],
            "prompt": digest([prompts.SYSTEM, prompts.REQUEST, self.format])[:12],
        }
        self.run = digest(self.settings)[:8]

    def messages(self, index: int) -> list[dict[str, str]]:
        """The prompt for one inspiration."""
        chosen = random.Random(f"examples/{self.seed}/{index}").sample(self.examples, self.shots)
        return prompts.messages(self.drawn[index].text, chosen)

    def letters(self) -> int:
        """Characters in all prompts together; about four of them make a token."""
        return sum(len(message["content"]) for index in range(self.n) for message in self.messages(index))

    def decide(self, replies: Mapping[int, Mapping[str, Any]]) -> Batch:
        """What becomes of the replies, by index: tasks and rejections, in the order of the inspirations."""
        shown = Collection(by_sentence=True)
        for place, draft in enumerate(self.examples):
            shown.add(Scene(f"example {place + 1}", draft.scenario, draft.goals))
        accepted = Collection()
        results = []
        for index in sorted(replies):
            result = self._result(index, replies[index], shown, accepted)
            if result.task is not None:
                accepted.add(scene_of(result.task))
            results.append(result)
        usage: Counter[str] = Counter()
        for reply in replies.values():
            usage.update(reply.get("usage") or {})
        return Batch(tuple(results), {**self.settings, "n": self.n}, dict(usage), self.n - len(replies))

    def _result(self, index: int, reply: Mapping[str, Any], shown: Collection, accepted: Collection) -> Result:
        text, source = self.drawn[index]

        def rejected(reason: str, *details: str) -> Result:
            return Result(index, text, source, None, reason, details)

        if "error" in reply:
            return rejected(NO_REPLY, str(reply["error"]))
        try:
            draft = read_draft(str(reply["text"]))
        except UnreadableDraftError as error:
            return rejected(error.reason, str(error))
        broken = breaches(draft, names=self.company.names)
        if broken:
            return rejected(broken[0].rule, *(f"{rule}: {evidence}" for rule, evidence in broken))
        scene = Scene("", draft.scenario, draft.goals)
        for reason, known in (
            ("copies an example", shown),
            *(("in the evaluation", collection) for collection in self.avoided),
            ("in the batch", accepted),
        ):
            match = known.nearest(scene)
            if match is not None:
                return rejected(reason, f"{match.overlap:.0%} of {match.id}")
        cast = self.company.cast(draft, seed=f"cast/{self.seed}/{self.run}/{index}")
        if cast is None:
            wanted = ", ".join(f"{p.youngest}-{p.oldest} {p.occupation}".strip() for p in draft.parts)
            return rejected("no cast", f"{draft.relationship}: {wanted}")
        return Result(index, text, source, self._task(index, draft, cast))

    def _task(self, index: int, draft: Draft, cast: tuple[Any, Any]) -> Task:
        return Task(
            id=f"{PACK}/{self.run}/{index}",
            pack=PACK,
            family=self.drawn[index].source,
            split="train",
            scenario=draft.scenario.strip(),
            relationship=draft.relationship,
            seats=tuple(
                Seat(character=person, goal=goal.strip()) for person, goal in zip(cast, draft.goals, strict=True)
            ),
        )


def generate(
    plan: Plan,
    *,
    journal: str | Path | None = None,
    concurrency: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Batch:
    """Ask for every inspiration of a plan that has no reply yet, and decide on all.

    Args:
        plan: What to do.
        journal: Where replies are kept as they come; a run with the same plan goes on from there. Calls that
            failed are made again.
        concurrency: Calls under way at once; the model has a limit of its own as well.
        progress: Called with replies so far and `plan.n`.

    Returns:
        The batch. Failed calls are results with the reason "no reply", never tasks.

    Raises:
        ConfigurationError: If the journal belongs to another plan; nothing is asked then.
        BudgetError: If a budget around has too little left; the journal has every reply until then.
        KeyboardInterrupt: On Ctrl-C. The journal has every reply until then.
    """
    if concurrency < 1:
        raise ConfigurationError(f"concurrency is {concurrency!r}, but must be at least 1.")
    replies = read_journal(journal, plan) if journal is not None else {}
    # Those of a longer run with the same plan stay in the journal, and out of this batch.
    known = {index: reply for index, reply in replies.items() if index < plan.n}
    missing = [index for index in range(plan.n) if "text" not in known.get(index, {})]
    if missing:
        with _Journal(journal, plan) as kept:
            found: dict[int, dict[str, Any]] = aio.run(_ask(plan, missing, concurrency, kept, progress))
        known = {**{index: known[index] for index in known if index not in missing}, **found}
    return plan.decide(known)


async def _ask(
    plan: Plan,
    missing: Sequence[int],
    concurrency: int,
    journal: _Journal,
    progress: Callable[[int, int], None] | None,
) -> dict[int, dict[str, Any]]:
    waiting = iter(missing)
    found: dict[int, dict[str, Any]] = {}
    failed_in_a_row = 0
    refused: BudgetError | None = None

    async def worker() -> None:
        nonlocal failed_in_a_row, refused
        for index in waiting:
            if failed_in_a_row >= _GIVE_UP or refused is not None:
                return
            try:
                found[index] = reply = await _reply(plan, index)
            except BudgetError as error:
                refused = error  # the calls under way are paid for, and finished
                return
            failed_in_a_row = failed_in_a_row + 1 if "error" in reply else 0
            journal.write({"index": index, **reply})
            if progress is not None:
                progress(plan.n - len(missing) + len(found), plan.n)

    tasks = [asyncio.ensure_future(worker()) for _ in range(min(concurrency, len(missing)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    if refused is not None:
        raise refused
    return found


async def _reply(plan: Plan, index: int) -> dict[str, Any]:
    try:
        reply = await plan.model.complete(plan.messages(index), response_format=plan.format)
    except ModelError as error:
        return {"error": one_line(error)}
    return {"text": encodable(reply.text), "usage": dict(reply.usage)}


# --- the journal ------------------------------------------------------------------------------------


class _Journal:
    """Appends replies to a file, each as one line that is there whole or not at all; or keeps nothing."""

    def __init__(self, path: str | Path | None, plan: Plan) -> None:
        self._path = None if path is None else Path(path)
        self._plan = plan
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Journal:
        if self._path is not None:
            self._file = self._path.open("ab")
            if self._file.tell() == 0:
                self.write({"settings": self._plan.settings})
            elif not _ends_in_newline(self._path):
                self._file.write(b"\n")  # a killed run left half a line; it stands alone now, and is skipped
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record and have it on disk."""
        if self._file is not None:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def read_journal(path: str | Path, plan: Plan) -> dict[int, dict[str, Any]]:
    """The latest reply by index of a journal; none if there is no such file.

    Raises:
        ConfigurationError: If the journal belongs to another plan, and says in what they differ.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    records = [record for record in map(_record, lines) if record is not None]
    if not records:
        if any(line.strip() for line in lines[:-1]):
            raise ConfigurationError(f"{str(path)!r} is no journal of replies. Choose another output.")
        return {}
    settings = records[0].get("settings")
    if settings != plan.settings:
        differ = (
            [key for key, value in plan.settings.items() if settings.get(key) != value]
            if isinstance(settings, dict)
            else ["everything"]
        )
        raise ConfigurationError(
            f"{str(path)!r} holds the replies of another run, which differs in {', '.join(differ)}. "
            "Choose another output, or remove that file."
        )
    replies: dict[int, dict[str, Any]] = {}
    for record in records[1:]:
        index = record.get("index")
        reply: dict[str, Any] = {key: record[key] for key in ("text", "error", "usage") if key in record}
        if type(index) is not int or index < 0 or not isinstance(reply.get("text", reply.get("error")), str):
            continue
        # A reply is never replaced by a failure, nor by another reply: the first run's tasks stay.
        if "text" not in replies.get(index, {}):
            replies[index] = reply
    return replies


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# --- examples and models ----------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _evaluation() -> Collection:
    """The built-in tasks that policies are evaluated on; the same for every plan."""
    known = Collection(by_sentence=True)
    for scene in evaluation_scenes():
        known.add(scene)
    return known


@lru_cache(maxsize=1)
def default_examples() -> list[Draft]:
    """Scenes of our own, and the training tasks of both packs that keep the rules; never one for evaluation."""
    import csv

    with Path(__file__).with_name("examples.csv").open(encoding="utf-8", newline="") as file:
        own = [
            _draft(row["scenario"], row["relationship"], (row["goal_1"], row["goal_2"])) for row in csv.DictReader(file)
        ]
    tasks = [*load_tasks("everyday", split="train"), *load_tasks("outcome", split="train", n=18)]
    return [*own, *fitting_examples(tasks)]


def fitting_examples(tasks: Iterable[Task]) -> list[Draft]:
    """The tasks for two that keep the rules of generated ones, as drafts; the same text only once."""
    found: dict[str, Draft] = {}
    for task in tasks:
        if len(task.seats) == 2:
            draft = _draft(task.scenario, task.relationship, (task.seats[0].goal, task.seats[1].goal))
            if not breaches(draft, names=[seat.character.name for seat in task.seats]):
                found.setdefault(draft.scenario, draft)
    return list(found.values())


def _draft(scenario: str, relationship: str, goals: tuple[str, str]) -> Draft:
    first, second = ({"goal": goal, "youngest": 18, "oldest": 99, "occupation": ""} for goal in goals)
    return Draft.model_validate({"scenario": scenario, "relationship": relationship, "first": first, "second": second})


def _model(spec: str, base_url: str | None) -> ChatModel:
    kind, _, rest = spec.partition("/")
    if kind == "openai" and rest:
        from sotopia_env.models import openai_model

        return openai_model(rest, base_url=base_url)
    if kind == "local" and rest:
        from sotopia_env.local import local_model

        return local_model(rest)
    raise ConfigurationError(
        f"Unknown model {spec!r}. Write it as openai/<model>, such as openai/gpt-4o-mini, or local/smollm2."
    )


def _is_local(model: ChatModel) -> bool:
    from sotopia_env.local import LocalModel

    return isinstance(model, LocalModel)
