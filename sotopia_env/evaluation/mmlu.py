"""Multiple-choice questions by subject, in the form MMLU is handed out in: a zip, a folder, or the hub's data set.

    <anything>/dev/<subject>_dev.csv      examples that are shown before a question
    <anything>/test/<subject>_test.csv    questions
                                          both: question, four choices and A, B, C or D, without a head line

A zip is read in memory and never unpacked, so nothing of it reaches the disk, wherever its entries point.
MMLU: Hendrycks et al., Measuring Massive Multitask Language Understanding, ICLR 2021.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import lzma
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sotopia_env.errors import ConfigurationError, MissingExtraError, one_line, unknown

HUB = "hub"
HUB_ID = "cais/mmlu"
LETTERS = "ABCD"

_NAMES = (
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry "
    "college_computer_science college_mathematics college_medicine college_physics computer_security "
    "conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts "
    "high_school_biology high_school_chemistry high_school_computer_science high_school_european_history "
    "high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_mathematics "
    "high_school_microeconomics high_school_physics high_school_psychology high_school_statistics "
    "high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence "
    "logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes "
    "moral_scenarios nutrition philosophy prehistory professional_accounting professional_law professional_medicine "
    "professional_psychology public_relations security_studies sociology us_foreign_policy virology world_religions"
)
SUBJECTS = tuple(_NAMES.split())
"""The 57 subjects of MMLU."""

_SPLITS = ("dev", "test")
_LONGEST_CELL = 100_000
"""Characters; csv's own limit belongs to the process, and others may have raised it."""

_FILE = re.compile(r"(?:.*/)?(?P<split>dev|test)/(?P<subject>[^/]+)_(?P=split)\.csv")
_SUBJECT = re.compile(r"[A-Za-z0-9_]{1,64}")
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, UnicodeError),
    OSError,  # bzip2's for bad data, and of places that are not in the file
    *(RuntimeError, NotImplementedError),  # encrypted, or packed in a way that zipfile does not know
)
"""What zipfile raises for a zip that is damaged or none."""

_MOST_ENTRIES = 10_000
_MOST_BYTES = {"file": 16 << 20, "all": 128 << 20}
"""MMLU's largest file has 1.2 MB and all of them 7 MB; a bomb has gigabytes."""


class Question(NamedTuple):
    """One question: its text, its four choices, and the place of the right one."""

    text: str
    choices: tuple[str, ...]
    answer: int


Questions = Mapping[str, Sequence[Question]]
"""Questions by subject, both in a fixed order."""


@dataclass(frozen=True)
class Bank:
    """All questions there are.

    Attributes:
        test: What can be asked, by subject.
        dev: What can be shown as examples, by subject.
        source: Where it came from: a file's or folder's name, or the hub id.
    """

    test: Questions
    dev: Questions
    source: str

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of everything in it."""
        text = json.dumps([self.test, self.dev], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def draw(self, count: int, *, seed: int = 0) -> dict[str, list[int]]:
        """Choose questions, each subject in proportion to its size (largest remainders).

        Because of the proportion the plain mean over what was drawn estimates the accuracy on all questions. With
        the same seed the questions of a smaller draw are among those of a larger one, but for rounding.

        Args:
            count: How many in all, 1 or more; more than there are gives all.
            seed: Decides which.

        Returns:
            Ascending places in `test` by subject; a subject that gets none is left out.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigurationError(f"questions is {count!r}, but must be a whole number of 1 or more.")
        sizes = {subject: len(questions) for subject, questions in self.test.items()}
        shares = proportional(sizes, count)
        drawn: dict[str, list[int]] = {}
        for subject, share in shares.items():
            order = list(range(sizes[subject]))
            random.Random(f"qa/{seed}/{subject}").shuffle(order)
            drawn[subject] = sorted(order[:share])
        return {subject: places for subject, places in drawn.items() if places}


def proportional(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Share a number out in proportion to sizes, by largest remainders; never more than there are."""
    total = sum(sizes.values())
    if count >= total:
        return dict(sizes)
    exact = {name: count * size / total for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(sizes, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: count - sum(shares.values())]:
        shares[name] += 1
    return shares


def read_bank(source: str | Path, *, subjects: Sequence[str] = (), shots: int = 0) -> Bank:
    """Read questions from a zip, a folder, or the hub.

    Args:
        source: A zip, a folder, or "hub" for `cais/mmlu`.
        subjects: Only these. Without it a source that has one of MMLU's subjects must have all 57.
        shots: How many examples every subject must have.

    Raises:
        ConfigurationError: If it is not there, is no such zip or folder, lacks a subject or examples, or has a line
            that is no question; for a zip, also if it is encrypted, too large, or has entries that lead out of it.
        MissingExtraError: For the hub, if datasets is not installed.
    """
    if str(source) == HUB:
        found = _from_hub()
        name = HUB_ID
    else:
        path = Path(source).expanduser()
        name = path.name or str(source)
        if path.is_dir():
            texts = _folder_texts(path)
        elif path.is_file():
            texts = _zip_texts(path)
        else:
            raise ConfigurationError(
                f"There is no file or folder {str(source)!r}. Give a zip or folder of MMLU's CSV files, or {HUB!r}."
            )
        found = _parse(texts, name)
    return _checked(found, name, subjects, shots)


# --- where the texts are --------------------------------------------------------------------------


class _File(NamedTuple):
    """A CSV file: what it is called in messages, and its bytes."""

    split: str
    subject: str
    name: str
    data: bytes


def _folder_texts(folder: Path) -> Iterator[_File]:
    total = 0
    for split in _SPLITS:
        for path in sorted(folder.rglob(f"{split}/*_{split}.csv")):
            if not path.is_file():
                continue
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES["file"] + 1)
            total += len(data)
            name = path.relative_to(folder).as_posix()
            _check_size(name, len(data), total)
            yield _named(name, split, path.name.removesuffix(f"_{split}.csv"), data)


def _zip_texts(path: Path) -> Iterator[_File]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield from _entries(archive)
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the file itself cannot be opened
        raise ConfigurationError(
            f"{path.name!r} cannot be read as a zip ({one_line(error)}). Give a zip of MMLU's CSV files."
        ) from error


def _entries(archive: zipfile.ZipFile) -> Iterator[_File]:
    entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise ConfigurationError(f"The zip has {len(entries)} entries, but at most {_MOST_ENTRIES} are read.")
    seen: set[str] = set()
    total = 0
    for entry in entries:
        name = entry.filename
        if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
            raise ConfigurationError(f"The zip has an entry {name!r:.120} that leads out of it; it is not read.")
        match = _FILE.fullmatch(name)
        if match is None or entry.is_dir() or name.startswith("__MACOSX/"):
            continue
        total += entry.file_size
        _check_size(name, entry.file_size, total)
        if name in seen:
            raise ConfigurationError(f"The zip has two entries {name!r:.120}. Pack it again.")
        seen.add(name)
        with archive.open(entry) as file:
            data = file.read(_MOST_BYTES["file"] + 1)  # the size above is what the entry says of itself
        _check_size(name, len(data), total)
        yield _named(name, match["split"], match["subject"], data)


def _check_size(name: str, size: int, total: int) -> None:
    if size > _MOST_BYTES["file"] or total > _MOST_BYTES["all"]:
        raise ConfigurationError(
            f"{name!r:.120} is too large: a file may have {_MOST_BYTES['file'] >> 20} MB, all together "
            f"{_MOST_BYTES['all'] >> 20} MB, unpacked."
        )


def _named(name: str, split: str, subject: str, data: bytes) -> _File:
    if not _SUBJECT.fullmatch(subject):
        raise ConfigurationError(
            f"{name!r:.120} names the subject {subject!r:.80}; allowed are letters, digits and _, at most 64."
        )
    return _File(split, subject, name, data)


def _from_hub() -> dict[str, dict[str, list[Question]]]:
    try:
        import datasets  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingExtraError(
            "MMLU from the hub needs datasets, which is not installed. Install it: pip install 'sotopia-env[eval]'."
        ) from error
    found: dict[str, dict[str, list[Question]]] = {split: {} for split in _SPLITS}
    try:
        for split in _SPLITS:
            for row in datasets.load_dataset(HUB_ID, "all", split=split):
                question = Question(row["question"], tuple(row["choices"]), int(row["answer"]))
                found[split].setdefault(row["subject"], []).append(question)
    except Exception as error:  # OSError, ConnectionError, HfHubHTTPError, DatasetNotFoundError, KeyError, ...
        raise ConfigurationError(
            f"{HUB_ID} cannot be loaded from the hub ({one_line(error, 160)}). Give --data a zip or folder of MMLU's "
            "CSV files."
        ) from error
    return found


# --- reading and checking -------------------------------------------------------------------------


def _parse(files: Iterator[_File], source: str) -> dict[str, dict[str, list[Question]]]:
    found: dict[str, dict[str, list[Question]]] = {split: {} for split in _SPLITS}
    for file in files:
        if file.subject in found[file.split]:
            raise ConfigurationError(f"{source!r} has {file.split} questions on {file.subject!r} in two places.")
        found[file.split][file.subject] = _questions(file)
    if not found["test"]:
        raise ConfigurationError(
            f"{source!r} holds no questions. They are looked for in files such as test/anatomy_test.csv."
        )
    return found


def _questions(file: _File) -> list[Question]:
    try:
        text = file.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file.name!r} is not UTF-8 (at byte {error.start}).") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    questions = []
    try:
        for row in reader:
            questions.append(_question(row, f"{file.name!r}, line {reader.line_num}"))
    except csv.Error as error:
        raise ConfigurationError(f"{file.name!r}, line {reader.line_num}: no CSV ({one_line(error)}).") from error
    if not questions:
        raise ConfigurationError(f"{file.name!r} holds no question.")
    return questions


def _question(row: Sequence[str], place: str) -> Question:
    if len(row) != 6:
        raise ConfigurationError(f"{place}: {len(row)} columns, but a question has 6: text, 4 choices, A to D.")
    if any(len(cell) > _LONGEST_CELL for cell in row):
        raise ConfigurationError(f"{place}: a field larger than {_LONGEST_CELL:,} characters.")
    text, *choices, letter = row
    if letter.strip() not in tuple(LETTERS):
        raise ConfigurationError(f"{place}: the answer is {letter!r:.40}, but must be one of {', '.join(LETTERS)}.")
    if not text.strip() or not all(choice.strip() for choice in choices):
        raise ConfigurationError(f"{place}: the question or one of its choices is blank.")
    return Question(text, tuple(choices), LETTERS.index(letter.strip()))


def _checked(found: Mapping[str, Questions], source: str, subjects: Sequence[str], shots: int) -> Bank:
    test, dev = found["test"], found["dev"]
    for subject in subjects:
        if subject not in test:
            raise ConfigurationError(unknown(f"subject in {source!r}", subject, test))
    known = set(SUBJECTS)
    wanted = list(subjects) or sorted({*test, *dev, *(known if known & {*test, *dev} else ())})
    missing = [subject for subject in wanted if subject not in test]
    if missing:
        raise ConfigurationError(
            f"{source!r} lacks the questions on {_list(missing)}. Complete it, or choose with --subject."
        )
    short = [subject for subject in wanted if len(dev.get(subject, ())) < shots]
    if short:
        raise ConfigurationError(
            f"{source!r} has fewer than {shots} examples (dev) on {_list(short)}. Complete it, or ask with fewer shots."
        )
    return Bank({name: test[name] for name in wanted}, {name: dev.get(name, []) for name in wanted}, source)


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown + (f" and {len(names) - 3} more subjects" if len(names) > 3 else "")


def as_rows(questions: Sequence[Question], subject: str) -> list[dict[str, Any]]:
    """Questions in the columns of the hub's data set."""
    return [
        {"question": each.text, "subject": subject, "choices": list(each.choices), "answer": each.answer}
        for each in questions
    ]
