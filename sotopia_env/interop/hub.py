"""A folder for the Hugging Face library `datasets`, with a dataset card.

The folder is what `DatasetDict.save_to_disk` makes, so that `datasets.load_from_disk` opens it, and its card
names the data files, so that `datasets.load_dataset` and the hub understand it as well. A task's own
split is the dataset's split: what is held out stays apart.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.episodes import Episode
from sotopia_env.errors import MissingExtraError
from sotopia_env.interop.columns import SURROGATE, schema
from sotopia_env.interop.parquet import ArrowFile
from sotopia_env.tasks import SPLITS, Record, Task

if TYPE_CHECKING:
    from sotopia_env.interop.export import Job

CARD = "README.md"
_MOST_NAMES = 20
_MOST_COUNTED = 1000
_LONGEST_NAME = 80


class DatasetFolder:
    """A saved dataset that is being written, a record at a time.

    Args:
        job: The export; its place is an empty folder.

    Raises:
        MissingExtraError: If the library `datasets` is not installed.
    """

    def __init__(self, job: Job) -> None:
        self._library = _library()
        self._job = job
        self._folder = job.place
        self._kind = job.kind
        self._files: dict[str, ArrowFile] = {}
        self._facts = _Facts()

    def add(self, record: Task | Episode) -> None:
        """Write one record to its split."""
        split = (record.task if isinstance(record, Episode) else record).split
        if split not in self._files:
            self._files[split] = ArrowFile(self._folder / f"{split}.arrow", self._kind, self._job.files)
        self._files[split].add(record)
        self._job.written["episodes" if isinstance(record, Episode) else "tasks"] += 1
        self._facts.add(record, split)

    def close(self) -> None:
        """Write what waits, the files that `datasets` keeps beside the data, and the card."""
        splits = [split for split in SPLITS if split in self._files]
        for split in splits:
            self._files[split].finish()
        with _silence(self._library):
            self._library.DatasetDict({split: self._stand_in(split) for split in splits}).save_to_disk(self._folder)
        for split in splits:
            (data,) = (self._folder / split).glob("*.arrow")
            os.replace(self._folder / f"{split}.arrow", data)
        text = card(self._facts, splits, self._kind)
        (self._folder / CARD).write_text(text, encoding="utf-8", newline="\n")

    def _stand_in(self, split: str) -> Any:
        """A dataset of one empty row: saving it makes all files that go with the data, which then takes its place."""
        columns = schema(self._kind)
        return self._library.Dataset(
            columns.empty_table().from_pylist([{}], schema=columns),
            split=self._library.NamedSplit(split),
            fingerprint=_fingerprint(self._folder / f"{split}.arrow"),
        )


def _fingerprint(path: Path) -> str:
    """A hash of the data, by which `datasets` knows its caches."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def is_dataset(folder: str | Path) -> bool:
    """Whether a folder is one that `datasets` saved."""
    return (Path(folder) / "dataset_dict.json").is_file()


def read_dataset(folder: str | Path) -> Iterator[Task | Episode]:
    """Iterate over the records of a saved dataset, split after split; errors as `read_parquet`."""
    from sotopia_env.interop.parquet import read_arrow

    for split in SPLITS:
        for file in sorted((Path(folder) / split).glob("*.arrow")):
            yield from read_arrow(file)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            "The format 'datasets' needs the library datasets, which is not installed. Install it with: "
            "pip install 'sotopia-env[data]'"
        ) from error
    return datasets


@contextmanager
def _silence(library: Any) -> Iterator[None]:
    shown = library.are_progress_bars_enabled() if hasattr(library, "are_progress_bars_enabled") else True
    library.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bars()


# --- the card ---------------------------------------------------------------------------------------


class _Facts:
    """What the card says of the records."""

    def __init__(self) -> None:
        self.splits: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.packs: Counter[str] = Counter()
        self.agents: Counter[str] = Counter()
        self.judges: Counter[str] = Counter()

    def add(self, record: Task | Episode, split: str) -> None:
        self.splits[split] += 1
        task = record.task if isinstance(record, Episode) else record
        _count(self.packs, [task.pack])
        if isinstance(record, Episode):
            _count(self.statuses, [record.status])
            _count(self.agents, set(record.agents.values()))
            _count(self.judges, record.verdicts)


def _count(counts: Counter[str], names: Iterable[str]) -> None:
    for name in names:
        if name in counts or len(counts) < _MOST_COUNTED:
            counts[name] += 1


def card(facts: _Facts, splits: list[str], kind: type[Record]) -> str:
    """The dataset card: metadata that the hub reads, and a description.

    Only names and counts of the records are in it, the names as inert code: no text of a scenario, a
    model or a judge.
    """
    from huggingface_hub import DatasetCardData

    files = [{"split": split, "path": f"{split}/*.arrow"} for split in splits]
    data = DatasetCardData(
        tags=["sotopia-env", "social-interaction", "multi-agent", "dialogue"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    what = "episodes" if kind is Episode else "tasks"
    parts = [
        f"---\n{data.to_yaml(line_break=chr(10))}\n---",
        f"# Social {what}",
        f"{facts.splits.total()} {what} of social scenarios, exported by sotopia-env.",
        "\n".join(["| split | " + what + " |", "| --- | ---: |", *(f"| {s} | {facts.splits[s]} |" for s in splits)]),
        _ABOUT_EPISODES if kind is Episode else _ABOUT_TASKS,
        _names("Packs", facts.packs),
    ]
    if kind is Episode:
        parts += [_names("Status", facts.statuses), _names("Agents", facts.agents), _names("Judges", facts.judges)]
    return "\n\n".join(part for part in parts if part) + "\n"


_USE = """## Use

```python
import datasets

data = datasets.load_from_disk("path/of/this/folder")  # or load_dataset, here and from the hub
```

Mappings are lists of `name` and `value`; `terms`, `private` and `details` are JSON text. `exact` is null except
where a record does not fit its columns; there it holds the whole record as JSON. `sotopia-env import` reads
the folder back into equal records.

Each record holds every seat's goal and private facts. Show an agent only what is its own."""

_ABOUT_EPISODES = f"""A row is one play: the task with its cast, who played which seat, every event in order, the
verdicts by judge, and the rewards. A score that is missing was not given; it is not 0. Text of agents and judges may
have been written by language models.

{_USE}"""

_ABOUT_TASKS = f"""A row is one task: a scenario, how well its cast know each other, and for every seat a character,
a private goal and private facts.

{_USE}"""


def _names(title: str, counts: Counter[str]) -> str:
    if not counts:
        return ""
    lines = [f"- {_code(name)}: {count}" for name, count in counts.most_common(_MOST_NAMES)]
    if len(counts) > _MOST_NAMES:
        more = f"{len(counts) - _MOST_NAMES}" + (" or more" if len(counts) == _MOST_COUNTED else "")
        lines.append(f"- and {more} others")
    return f"## {title}\n\n" + "\n".join(lines)


def _code(name: str) -> str:
    """A name as Markdown code on one line, in which nothing is markup."""
    text = SURROGATE.sub("\ufffd", name)
    text = "".join(c if c.isprintable() else " " for c in text).replace("`", "'").strip()
    shown = text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 3] + "..."
    return f"`{shown or ' '}`"
