"""Multiple-choice questions for policies, asked by lm-eval: what training cost them in general ability.

    from sotopia_env.agents.examinees import hf_examinee
    examinees = {"base": hf_examinee("hf/smollm2"), "bc": hf_examinee("hf/runs/laptop-0/policies/bc")}
    report = examine(examinees, mmlu_exam(read_bank("mmlu.zip"), questions=1000))
    report.change("bc", "base", report.measures[0])

Every policy answers the same questions. Left out of SOTOPIA-pi's protocol: answers in free text with the first letter
taken, or a random one where there is none. Here the probabilities of the answers decide, so nothing is random and no
answer is unreadable.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from sotopia_env.errors import (
    ConfigurationError,
    MissingExtraError,
    ModelError,
    SotopiaEnvError,
    StoreError,
    one_line,
    unknown,
)
from sotopia_env.evaluation.mmlu import Bank, as_rows, proportional
from sotopia_env.evaluation.retention import Answers, Measure, Report
from sotopia_env.version import __version__

MMLU = "mmlu"

SCORINGS = {
    "letter": {
        "name": "mmlu_{subject}",
        "description": "The following are multiple choice questions (with answers) about {title}.\n\n",
        "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "metrics": ("acc",),
    },
    "text": {
        "name": "mmlu_{subject}_continuation",
        "description": "The following are questions (with answers) about {title}.\n\n",
        "doc_to_text": "Question: {{question.strip()}}\nAnswer:",
        "doc_to_choice": "choices",
        "metrics": ("acc", "acc_norm"),
    },
}
"""lm-eval's tasks mmlu and mmlu_continuation: the likeliest letter, and the likeliest text of a choice.

`acc_norm` divides a text's log-probability by its length in characters.
"""


class Examinee(Protocol):
    """A policy that can be examined; `agents.examinees.hf_examinee` makes those of `hf/` specs."""

    name: str

    def seated(self, *, seed: int) -> AbstractContextManager[Any]:
        """Load it, and hand out an lm-eval model."""
        ...


@dataclass(frozen=True)
class Exam:
    """What is asked.

    Attributes:
        tasks: Makes the lm-eval tasks anew, as (what it is part of, task) pairs.
        draw: Which questions are asked, by the task's name, ascending; None for all that the task holds.
        settings: What repeats it, as JSON values.
    """

    tasks: Callable[[], list[tuple[str, Any]]]
    draw: Callable[[Mapping[str, Any]], dict[str, list[int]] | None]
    settings: Mapping[str, Any]


def mmlu_exam(
    bank: Bank,
    *,
    questions: int = 1000,
    scorings: Sequence[str] = tuple(SCORINGS),
    shots: int = 0,
    seed: int = 0,
) -> Exam:
    """Questions of MMLU's form, with lm-eval's own prompts.

    Args:
        bank: Where they are drawn from.
        questions: How many, over subjects in proportion; more than there are gives all.
        scorings: "letter", "text" or both.
        shots: How many examples of the same subject stand before a question: the first ones, as in MMLU.
        seed: Decides which questions.

    Raises:
        ConfigurationError: For an unknown scoring, too many shots, or no questions.
    """
    for scoring in scorings:
        if scoring not in SCORINGS:
            raise ConfigurationError(unknown("scoring", scoring, SCORINGS))
    short = [subject for subject, examples in bank.dev.items() if len(examples) < shots]
    if shots < 0 or short or not scorings:
        raise ConfigurationError(
            f"shots is {shots!r}, but must be between 0 and {min(map(len, bank.dev.values()))}, the number of examples "
            "of a subject; and there must be a scoring."
        )
    places = bank.draw(questions, seed=seed)

    def tasks() -> list[tuple[str, Any]]:
        return [
            (f"{MMLU} {scoring}", _mmlu_task(bank, subject, places[subject], scoring, shots))
            for scoring in dict.fromkeys(scorings)
            for subject in places
        ]

    settings = {
        "tasks": [MMLU],
        "source": bank.source,
        "source_digest": bank.digest,
        "questions": sum(map(len, places.values())),
        "of": sum(map(len, bank.test.values())),
        "subjects": len(places),
        "scorings": list(dict.fromkeys(scorings)),
        "shots": shots,
        "seed": seed,
    }
    return Exam(tasks, lambda _: None, settings)


def _mmlu_task(bank: Bank, subject: str, places: Sequence[int], scoring: str, shots: int) -> Any:
    import datasets  # type: ignore[import-untyped, unused-ignore]
    from lm_eval.api.task import ConfigurableTask  # type: ignore[import-untyped, unused-ignore]

    asked = [bank.test[subject][place] for place in places]
    rows = [{**row, "place": place} for row, place in zip(as_rows(asked, subject), places, strict=True)]
    splits = {"test": datasets.Dataset.from_list(rows)}
    if shots:
        splits["dev"] = datasets.Dataset.from_list(as_rows(bank.dev[subject], subject))
    form = SCORINGS[scoring]
    return ConfigurableTask(
        config={
            "task": str(form["name"]).format(subject=subject),
            "description": str(form["description"]).format(title=" ".join(subject.split("_"))),
            "custom_dataset": lambda **_: datasets.DatasetDict(splits),
            "test_split": "test",
            "fewshot_split": "dev" if shots else None,
            "fewshot_config": {"sampler": "first_n"},
            "num_fewshot": shots,
            "output_type": "multiple_choice",
            "doc_to_text": form["doc_to_text"],
            "doc_to_choice": form["doc_to_choice"],
            "doc_to_target": "answer",
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in form["metrics"]
            ],
        }
    )


def task_exam(
    names: Sequence[str],
    *,
    questions: int = 1000,
    shots: int | None = None,
    seed: int = 0,
    include: str | Path | None = None,
) -> Exam:
    """Tasks or groups that lm-eval knows by name; their data come from where their YAML says, mostly the hub.

    Args:
        names: Such as "hellaswag" or "arc_easy".
        questions: How many of each name, over its tasks in proportion; more than there are gives all.
        shots: Examples before a question; default the task's own.
        seed: Decides which questions, and which examples where a task draws them.
        include: A folder of lm-eval YAML files of one's own.

    Raises:
        ConfigurationError: For a missing folder.
    """
    if include is not None and not Path(include).is_dir():
        raise ConfigurationError(f"There is no folder {str(include)!r} of lm-eval tasks.")

    def tasks() -> list[tuple[str, Any]]:
        from lm_eval.tasks import TaskManager  # type: ignore[import-untyped, unused-ignore]

        manager = None
        if include is not None:  # without lm-eval's own tasks first, whose index takes many seconds
            manager = TaskManager(include_path=str(include), include_defaults=False)
        if manager is None or not all(name in manager.task_index for name in names):
            manager = TaskManager(include_path=None if include is None else str(include))
        found: list[tuple[str, Any]] = []
        for name in dict.fromkeys(names):
            if name not in manager.task_index:
                raise ConfigurationError(unknown("lm-eval task", name, manager.all_tasks))
            try:
                loaded = manager.load([name])["tasks"]
            except Exception as error:  # OSError, ConnectionError, DatasetNotFoundError, ...: whatever datasets raises
                raise ConfigurationError(f"Task {name!r} cannot be loaded ({one_line(error, 160)}).") from error
            for task in loaded.values():
                if shots is not None and task.get_config("num_fewshot") != 0:
                    task.set_config("num_fewshot", shots)
                elif task.get_config("num_fewshot") is None:
                    task.set_config("num_fewshot", 0)
                task.set_fewshot_seed(seed)
                found.append((name, task))
        return found

    def draw(made: Mapping[str, Any]) -> dict[str, list[int]]:
        drawn: dict[str, list[int]] = {}
        for group in dict.fromkeys(part for part, _ in made.values()):
            sizes = {name: len(task.eval_docs) for name, (part, task) in made.items() if part == group}
            for name, share in proportional(sizes, questions).items():
                order = list(range(sizes[name]))
                random.Random(f"qa/{seed}/{name}").shuffle(order)
                drawn[name] = sorted(order[:share])
        return drawn

    settings = {"tasks": list(dict.fromkeys(names)), "questions": questions, "shots": shots, "seed": seed}
    return Exam(tasks, draw, settings)


# --- asking ---------------------------------------------------------------------------------------


def examine(
    examinees: Mapping[str, Examinee],
    exam: Exam,
    *,
    apply_chat_template: bool = False,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Ask every policy the same questions.

    Args:
        examinees: By label; the first is the base.
        exam: What is asked.
        apply_chat_template: Write prompts with the model's chat template, examples as turns of a conversation, as
            lm-eval's option of that name.
        seed: For tasks that draw their answers.
        store: Keep every answer in this JSONL file, and ask nothing again that it holds.
        progress: Called with a label, and how many answers it has out of how many: 0 of 0 while it is being loaded.

    Raises:
        ConfigurationError: If there is no examinee, or a task has no number per question.
        MissingExtraError: If lm-eval is not installed.
        ModelError: If a model fails, or its probabilities are no numbers.
        StoreError: If the store cannot be read.
    """
    if not examinees:
        raise ConfigurationError("There is nobody to examine. Give at least one policy.")
    try:
        import lm_eval  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingExtraError(
            "Questions are asked by lm-eval, which is not installed. Install it: pip install 'sotopia-env[eval]'."
        ) from error
    kept = _Kept(store)
    with _quiet_tasks():
        made = {task.config.task: (part, task) for part, task in exam.tasks()}
    drawn = exam.draw(made)
    answers: dict[tuple[str, Measure], Answers] = {}
    cut: dict[str, int] = {}
    about: dict[str, Any] = {}
    for label, examinee in examinees.items():
        report = _reporter(progress, label)
        report(0, 0)
        with _quiet_tasks(), examinee.seated(seed=seed) as model:
            asked = _Asked(model, kept, examinee.name, report)
            found = _evaluate(asked, made, drawn, label, apply_chat_template)
            about[label] = {"name": examinee.name, **asked.about()}
        cut[label] = asked.cut
        for measure, values in _by_measure(found, made).items():
            answers[label, measure] = values
    settings = {
        **exam.settings,
        "asked": _counted(made, drawn),
        "apply_chat_template": apply_chat_template,
        "policies": about,
        "sotopia_env": __version__,
        "lm_eval": lm_eval.__version__,
    }
    return Report(answers, settings, cut)


def _counted(made: Mapping[str, tuple[str, Any]], drawn: Mapping[str, Sequence[int]] | None) -> dict[str, int]:
    """How many questions are asked, by what they are part of."""
    counts: Counter[str] = Counter()
    for name, (part, task) in made.items():
        counts[part] += len(task.eval_docs) if drawn is None else len(drawn[name])
    return dict(counts)


def _reporter(progress: Callable[[str, int, int], None] | None, label: str) -> Callable[[int, int], None]:
    shown = sys.stderr  # which is turned off while lm-eval works

    def report(done: int, of: int) -> None:
        if progress is not None:
            with contextlib.redirect_stderr(shown):
                progress(label, done, of)

    return report


def _evaluate(
    asked: _Asked, made: Mapping[str, tuple[str, Any]], drawn: dict[str, list[int]] | None, label: str, template: bool
) -> dict[str, list[dict[str, Any]]]:
    from lm_eval.evaluator import evaluate  # type: ignore[import-untyped, unused-ignore]

    # A task without questions would be asked all of its own.
    tasks = {name: task for name, (_, task) in made.items() if drawn is None or drawn[name]}
    try:
        found = evaluate(
            lm=asked,
            task_dict={"tasks": tasks},
            samples=drawn,
            bootstrap_iters=0,
            apply_chat_template=template,
            fewshot_as_multiturn=template,
        )
    except SotopiaEnvError:
        raise
    except Exception as error:  # whatever a model, a template or a task raises
        raise ModelError(f"{label!r} could not be examined: {one_line(error)}.") from error
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    return samples


def _by_measure(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], made: Mapping[str, tuple[str, Any]]
) -> dict[Measure, Answers]:
    """Answers of all tasks, put together by what they are part of and by metric."""
    found: dict[Measure, dict[str, dict[str, Any]]] = {}
    for name, (part, task) in made.items():
        for sample in samples.get(name, ()):
            choices = _choices(task, sample)
            key = f"{name}/{sample['doc'].get('place', sample['doc_id'])}"
            for metric in sample["metrics"]:
                value = sample[metric]
                if isinstance(value, (int, float)) or hasattr(value, "item"):  # numpy's own kinds too
                    into = found.setdefault(Measure(part, metric), {})
                    into[key] = {"value": float(value), **choices.get(metric, {})}
    lacking = {part for part, _ in made.values()} - {measure.task for measure in found}
    if lacking:
        raise ConfigurationError(
            f"Task {min(lacking)!r} has no number per question that could be paired. Choose another task."
        )
    return {measure: _answers(rows) for measure, rows in found.items()}


def _choices(task: Any, sample: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By metric of a multiple-choice task: the chance level, and which choice was taken."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input or task.multiple_target:
        return {}
    texts = task.doc_to_choice(sample["doc"])
    scores = [answer[0] for answer in sample["filtered_resps"]][: len(texts)]
    right = sample["target"]
    right = texts.index(right) if isinstance(right, str) and right in texts else right
    per_character = [score / max(1, len(text)) for score, text in zip(scores, texts, strict=True)]
    places = range(len(texts))
    return {
        metric: {
            "chance": 1 / len(texts),
            "pick": max(places, key=lambda place: by[place]),
            "right": right,
        }
        for metric, by in (("acc", scores), ("acc_norm", per_character))
    }


def _answers(rows: Mapping[str, Mapping[str, Any]]) -> Answers:
    def column(name: str) -> dict[str, Any] | None:
        found = {key: row[name] for key, row in rows.items() if isinstance(row.get(name), (int, float))}
        return found if len(found) == len(rows) else None

    values = column("value")
    assert values is not None
    return Answers(values, column("chance"), column("pick"), column("right"))


class _Kept:
    """Answers in a JSONL file: a line each, written as they come, so that a killed run loses none."""

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path)
        self._answers: dict[str, Any] = {}
        if self._path is not None and self._path.exists():
            whole, end, rest = self._path.read_bytes().rpartition(b"\n")
            for line in whole.splitlines():
                self._read(line)
            if rest:  # a line that was cut off
                if not _BEGUN.match(rest + _BEGINNING[len(rest) :]):
                    self._refuse("no answer")
                os.truncate(self._path, len(whole) + len(end))

    def _read(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            self._answers[record["key"]] = record["answer"]
        except (ValueError, LookupError, TypeError) as error:
            self._refuse(one_line(error), error)

    def _refuse(self, what: str, cause: Exception | None = None) -> NoReturn:
        raise StoreError(f"{str(self._path)!r} has a line that is no answer ({what}). Give another --store.") from cause

    def get(self, key: str) -> Any:
        """The answer, or None."""
        return self._answers.get(key)

    def add(self, key: str, answer: Any) -> None:
        """Keep an answer, on disk too if there is a file."""
        if key in self._answers:
            return
        self._answers[key] = answer
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(json.dumps({"key": key, "answer": answer}).encode() + b"\n")


_BEGINNING = b'{"key": "' + b"0" * 64 + b'", "answer": '
_BEGUN = re.compile(rb'\{"key": "[0-9a-f]{64}", "answer": ')


class _Asked:
    """An lm-eval model whose answers are counted and kept."""

    def __init__(self, model: Any, kept: _Kept, name: str, report: Callable[[int, int], None]) -> None:
        self._model, self._kept, self._report = model, kept, report
        self._who = f"{name} {getattr(getattr(model, 'model', None), 'dtype', '')}"
        self._done = self._of = 0
        self.cut = 0
        if hasattr(model, "set_cache_hook"):
            model.set_cache_hook(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_model"], name)

    def about(self) -> dict[str, Any]:
        """What the model is, as JSON values."""
        inner = getattr(self._model, "model", None)
        if inner is None:
            return {}
        return {"dtype": str(inner.dtype).removeprefix("torch."), "device": str(inner.device.type)}

    def add_partial(self, kind: str, asked: Sequence[Any], answer: Any) -> None:
        """Called by lm-eval with every answer as it is made."""
        if kind == "loglikelihood":
            self._kept.add(self._key(kind, asked), list(_checked(answer)))
        self._done += 1
        self._report(min(self._done, self._of), self._of)

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Score continuations."""
        longest = self._model.max_length + 1
        self.cut += sum(len(self._model.tok_encode("".join(request.args))) > longest for request in requests)
        answers = self._ask("loglikelihood", requests)
        return [(score, greedy) for score, greedy in answers]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[Any]:
        """Score whole texts."""
        return self._ask("loglikelihood_rolling", requests)

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Write answers; drawn ones are not kept."""
        return self._ask("generate_until", requests)

    def _ask(self, kind: str, requests: Sequence[Any]) -> list[Any]:
        keys = [self._key(kind, request.args) for request in requests]
        drawn = [kind == "generate_until" and bool(request.args[1].get("do_sample")) for request in requests]
        answers = [None if free else self._kept.get(key) for key, free in zip(keys, drawn, strict=True)]
        missing = [number for number, answer in enumerate(answers) if answer is None]
        self._of += len(requests)
        self._done += len(requests) - len(missing)
        self._report(self._done, self._of)
        if missing:
            fresh = getattr(self._model, kind)([requests[number] for number in missing], disable_tqdm=True)
            for number, answer in zip(missing, fresh, strict=True):
                answers[number] = answer
                if not drawn[number]:
                    self._kept.add(keys[number], answer if kind == "generate_until" else _json(answer))
        return answers

    def _key(self, kind: str, asked: Sequence[Any]) -> str:
        text = json.dumps([self._who, kind, *asked], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def _json(answer: Any) -> Any:
    return list(answer) if isinstance(answer, tuple) else answer


def _checked(answer: tuple[float, bool]) -> tuple[float, bool]:
    if not math.isfinite(answer[0]):
        raise ModelError(f"The model gives an answer the log-probability {answer[0]!r}. Its weights are broken.")
    return answer


@contextlib.contextmanager
def _quiet_tasks() -> Iterator[None]:
    """Keep lm-eval's bars, which cannot be turned off, and its remarks from stderr."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
