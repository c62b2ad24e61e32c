"""`load_tasks("sotopia")`: SOTOPIA's own tasks, from files or from the Hugging Face hub."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path

from sotopia_env.errors import ConfigurationError, MissingExtraError, TaskNotFoundError, one_line, unknown
from sotopia_env.interop.recognise import found_files, read
from sotopia_env.interop.records import Imported
from sotopia_env.tasks import SPLITS, Task

HARD = "hard"
"""The split of the scenarios that SOTOPIA found hard: those with the tag "hard"."""

DATA_VARIABLE = "SOTOPIA_DATA"
"""Environment variable with the path of SOTOPIA's data; without it, and without a path, the hub is asked."""

HUB_DATASET = "cmu-lti/sotopia"
HUB_FILES = (
    "environment_profiles.jsonl",
    "agent_profiles.jsonl",
    "relationship_profiles.jsonl",
    "env_agent_combo_storages.jsonl",
)
HUB_SPLITS = "splits.json"


def load_sotopia(path: str | Path | None = None, *, family: str | None = None, split: str | None = None) -> list[Task]:
    """Load SOTOPIA's tasks, in the order of their casts.

    Args:
        path: A file or folder with its data in any spelling. `None`: the path in the environment variable
            `SOTOPIA_DATA`, or else the data on the Hugging Face hub.
        family: Only those of this source, such as "craigslist_bargains".
        split: "train", "validation", "test" (the official 90 scenarios), or "hard"; `None` for all.

    Raises:
        TaskNotFoundError: If there is no data, no such family, or no list of the hard scenarios in it.
        MissingExtraError: If the hub's client is not installed.
    """
    if split is not None and split not in (*SPLITS, HARD):
        raise TaskNotFoundError(unknown("split of 'sotopia'", split, (*SPLITS, HARD)))
    data, where = _data(path if path is not None else os.environ.get(DATA_VARIABLE) or None)
    if not data.tasks:
        problem = f" ({data.problems[0]})" if data.problems else ""
        raise TaskNotFoundError(
            f"{where} holds no tasks{problem}. A task needs a scenario, its characters, and a cast: SOTOPIA's "
            "environment_profiles, agent_profiles and env_agent_combo_storages."
        )
    tasks = data.tasks
    if family:
        families = {task.family for task in tasks}
        if family not in families:
            raise TaskNotFoundError(unknown("family of 'sotopia'", family, families))
        tasks = [task for task in tasks if task.family == family]
    if split == HARD:
        if not any("hard" in name.lower() for name in data.splits):
            raise TaskNotFoundError(
                f"{where} does not say which scenarios are hard. Put SOTOPIA-pi's used_env.json beside the other "
                'files, or any JSON file of the form {"sotopia_hard_env": [scenario ids]}.'
            )
        return [task for task in tasks if HARD in task.tags]
    return [task for task in tasks if split is None or task.split == split]


def _data(path: str | Path | None) -> tuple[Imported, str]:
    if path is None:
        return _from_hub(), f"The dataset {HUB_DATASET!r}"
    found = Path(path)
    if not found.exists():
        raise TaskNotFoundError(f"There is no SOTOPIA data at {str(path)!r}. Give a file or folder with its profiles.")
    return _from_files((str(found.resolve()),), _stamp(found)), f"{str(path)!r}"


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when the files do."""
    stats = [(str(file), file.stat()) for file, _ in found_files([path]) if file.exists()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


@lru_cache(maxsize=4)
def _from_files(paths: tuple[str, ...], stamp: object) -> Imported:
    return read(paths)


def _from_hub() -> Imported:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError(
            "SOTOPIA's data is loaded from the Hugging Face hub with huggingface_hub, which is not installed. Install "
            f"it with: pip install 'sotopia-env[data]', or give the path of the data, or set {DATA_VARIABLE} to it."
        ) from error
    from huggingface_hub.utils import logging as hub_logging

    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # what fails for good is said below, in one line
    try:
        paths = [hf_hub_download(HUB_DATASET, name, repo_type="dataset") for name in HUB_FILES]
        try:
            paths.append(hf_hub_download(HUB_DATASET, HUB_SPLITS, repo_type="dataset"))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            pass  # split="hard" says what is missing
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"SOTOPIA's data cannot be loaded from the Hugging Face hub ({HUB_DATASET}): {one_line(error, 160)}. "
            f"Download it where the hub can be reached, and give its path: load_tasks('sotopia', path=...), or set "
            f"{DATA_VARIABLE} to it."
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)
    return _from_files(tuple(map(str, paths)), ())
