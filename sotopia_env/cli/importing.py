"""`sotopia-env import`: files of SOTOPIA's and of our own formats to tasks and an episode store."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.cli import common
from sotopia_env.errors import ConfigurationError, StoreError, TaskFormatError, one_line

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode
    from sotopia_env.interop import Importer, Problem
    from sotopia_env.store import EpisodeStore
    from sotopia_env.tasks import Task

EPISODES = "episodes.db"
"""The store inside the output folder, if no other is named."""

_SHOWN_PROBLEMS = 20
_KEPT_PROBLEMS = 10_000
_BATCH = 500


def run(
    *,
    paths: Sequence[str],
    out: str | None,
    store: str | None,
    problems: str | None,
    strict: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Import, and say what came along and what did not. Everything is written in the end, or nothing."""
    _check_places(out, store, problems)
    common.check_outputs({"--problems": problems}, {"the source": paths, "--store": store})
    with ExitStack() as stack:
        report = _Report(stack, problems)
        writer = _Writer(stack, out, store)
        importer = _read(paths, report, strict, writer, quiet)
        if not any((writer.counts, importer.characters, importer.ratings, importer.splits, importer.relationships)):
            raise TaskFormatError(f"Nothing could be imported from {', '.join(map(repr, paths))}{report.why()}.")
        writer.finish(importer)
        report.close()
    summary = _summary(importer, writer, report)
    if as_json:
        common.print_json({**summary, "problems": [problem_record(problem) for problem in report.kept]})
    else:
        _print(summary, report, written=out is not None or store is not None)


def _check_places(out: str | None, store: str | None, problems: str | None) -> None:
    if out is not None:
        folder = Path(out)
        if not folder.absolute().parent.is_dir():
            raise ConfigurationError(
                f"{out!r} cannot be made: there is no folder {str(folder.parent)!r}. Make it first."
            )
        if (folder.exists() or folder.is_symlink()) and not (folder.is_dir() and not any(folder.iterdir())):
            raise ConfigurationError(f"{out!r} exists and is not an empty folder. Pass --out the path of a new one.")
    for name, place in (("--store", store), ("--problems", problems)):
        if place is not None and "://" not in place:
            if not Path(place).absolute().parent.is_dir():
                raise ConfigurationError(f"{name} {place!r} cannot be made: its folder does not exist. Make it first.")
            if Path(place).is_dir():
                raise ConfigurationError(f"{name} {place!r} is a folder. Pass the path of a file in it.")


def _read(paths: Sequence[str], report: _Report, strict: bool, writer: _Writer, quiet: bool) -> Importer:
    from sotopia_env.interop import Importer, Problem

    importer = Importer(paths, on_problem=report.add, strict=strict)
    for made in _shown(importer.stream(), quiet):
        reason = writer.add(made)
        if reason is not None:
            importer.report(Problem("", made.id, reason))
    return importer


def _shown(records: Iterator[Any], quiet: bool) -> Iterator[Any]:
    """The records, counted on stderr as they pass."""
    if quiet:
        yield from records
        return
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("imported"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=common.console(stderr=True), transient=True) as progress:
        yield from progress.track(records, total=None)


# --- writing --------------------------------------------------------------------------------------


class _Writer:
    """Writes beside the places that were asked for, and moves everything there in the end."""

    def __init__(self, stack: ExitStack, out: str | None, store: str | None) -> None:
        self.counts: Counter[str] = Counter()
        self.stored = 0
        self._out = Path(out) if out is not None else None
        self._location = store if store is not None else (str(Path(out) / EPISODES) if out is not None else None)
        self._digests: dict[str, str] = {}
        self._waiting: list[Episode] = []
        self._staged: EpisodeStore | None = None
        beside = next((Path(place) for place in (out, store) if place is not None and "://" not in place), None)
        near = stack.enter_context(
            tempfile.TemporaryDirectory(prefix=".import.", dir=beside.absolute().parent if beside else None)
        )
        self._staging = Path(near) / EPISODES
        self._folder = Path(near) / "whole"
        self._folder.mkdir()
        self._tasks = stack.enter_context((self._folder / "tasks.jsonl").open("w", encoding="utf-8"))
        self._stack = stack

    def add(self, made: Task | Episode) -> str | None:
        """Write one record; or say why it cannot stand beside the others."""
        from sotopia_env.tasks import Task

        if not isinstance(made, Task):
            self.counts["episodes"] += 1
            self._waiting.append(made)
            if len(self._waiting) == _BATCH:
                self._flush()
            return None
        if made.id not in self._digests:
            self._digests[made.id] = made.digest
            self.counts["tasks"] += 1
            self._tasks.write(json.dumps(made.model_dump(mode="json"), ensure_ascii=False) + "\n")
        elif self._digests[made.id] != made.digest:
            return f"task {made.id!r} stands twice with different content; the first is kept"
        return None

    def _flush(self) -> None:
        if self._waiting and self._location is not None:
            if self._staged is None:
                from sotopia_env.store import EpisodeStore

                self._staged = self._stack.enter_context(EpisodeStore(self._staging))
            self.stored += self._staged.add_all(self._waiting)
        self._waiting.clear()

    def finish(self, importer: Importer) -> None:
        """Write the rest, and move everything to its place."""
        self._flush()
        self._tasks.close()
        if not self.counts["tasks"]:
            (self._folder / "tasks.jsonl").unlink()
        if importer.characters:
            lines = [json.dumps(common.as_record(each), ensure_ascii=False) for each in importer.characters.values()]
            (self._folder / "characters.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        rest = {
            "splits": importer.splits,
            "relationships": [flat_relation(relation) for relation in importer.relationships],
            "ratings": importer.ratings,
            "extras": importer.extras,
        }
        for name, value in rest.items():
            if value:
                text = json.dumps(value, ensure_ascii=False, indent=1)
                (self._folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        try:
            self._move()
        except OSError as error:
            raise StoreError(f"What was imported cannot be put in its place: {one_line(error)}.") from error

    def _move(self) -> None:
        if self._staged is not None and self._location is not None:
            if self._out is not None and self._location == str(self._out / EPISODES):
                self._staged.close()
                os.replace(self._staging, self._folder / EPISODES)
            elif "://" in self._location or Path(self._location).exists():
                from sotopia_env.store import EpisodeStore

                with EpisodeStore(self._location) as store:
                    self.stored = store.add_all(self._staged.episodes())
            else:
                self._staged.close()
                os.replace(self._staging, self._location)
        if self._out is not None:
            os.replace(self._folder, self._out)


def flat_relation(relation: dict[str, Any]) -> dict[str, Any]:
    """A relationship as SOTOPIA's flat form spells it."""
    from sotopia_env.interop.spelling import NUMBER_BY_RELATIONSHIP

    return {
        "relationship_id": relation["id"],
        "agent1_id": relation["agents"][0],
        "agent2_id": relation["agents"][1],
        "relationship": str(NUMBER_BY_RELATIONSHIP[relation["relationship"]]),
        "background_story": relation["story"],
    }


# --- reporting ------------------------------------------------------------------------------------


class _Report:
    """What went wrong: counted, the first thousands kept, all of it in a file if one was named."""

    def __init__(self, stack: ExitStack, path: str | None) -> None:
        self.counts: Counter[str] = Counter()
        self.kept: list[Problem] = []
        self._path = path
        self._file = None
        if path is not None:
            near = tempfile.TemporaryDirectory(prefix=".problems.", dir=Path(path).absolute().parent)
            self._partial = Path(stack.enter_context(near)) / "problems.jsonl"
            self._file = stack.enter_context(self._partial.open("w", encoding="ascii"))

    def add(self, problem: Problem) -> None:
        """Count and keep one."""
        self.counts[problem.kind] += 1
        if len(self.kept) < _KEPT_PROBLEMS:
            self.kept.append(problem)
        if self._file is not None:
            self._file.write(json.dumps(problem_record(problem)) + "\n")

    def why(self) -> str:
        """The first problem and the number of the others, for an error in one line."""
        if not self.kept:
            return ": no files, or nothing in them"
        first = self.kept[0]
        more = sum(self.counts.values()) - 1
        return f": {first.file}{first.record and f', {first.record}'}: {first.reason}" + (
            f" (and {more} more)" if more else ""
        )

    def close(self) -> None:
        """Put the file in its place."""
        if self._file is not None and self._path is not None:
            self._file.close()
            os.replace(self._partial, self._path)


def problem_record(problem: Problem) -> dict[str, str]:
    """A problem as JSON values."""
    return {"file": problem.file, "record": problem.record, "kind": problem.kind, "reason": problem.reason}


def _summary(importer: Importer, writer: _Writer, report: _Report) -> dict[str, Any]:
    return {
        "tasks": writer.counts["tasks"],
        "episodes": writer.counts["episodes"],
        "stored": writer.stored,
        "characters": len(importer.characters),
        "relationships": len(importer.relationships),
        "ratings": len(importer.ratings),
        "splits": {name: len(ids) for name, ids in importer.splits.items()},
        "problem_counts": dict(report.counts),
    }


def _print(summary: dict[str, Any], report: _Report, *, written: bool) -> None:
    for problem in report.kept[:_SHOWN_PROBLEMS]:
        common.log(str(problem))
    more = sum(report.counts.values()) - _SHOWN_PROBLEMS
    if more > 0:
        common.log(f"... and {common.counted(more, 'line')} more; --problems FILE keeps all of them.")
    nouns = ("task", "episode", "character", "relationship", "rating")
    parts = [common.counted(summary[f"{noun}s"], noun) for noun in nouns if summary[f"{noun}s"]]
    if summary["splits"]:
        parts.append(common.counted(len(summary["splits"]), "list"))
    common.say("Imported: " + ", ".join(parts) + ".")
    if written and summary["stored"] < summary["episodes"]:
        twice = summary["episodes"] - summary["stored"]
        common.say(f"{common.counted(twice, 'episode')} stood twice, or in the store already.")
    if report.counts:
        common.say("Of these and of the rest: " + ", ".join(f"{n} {kind}" for kind, n in report.counts.items()) + ".")
    if not written:
        common.say("Nothing was written. Pass --out FOLDER for everything, or --store FILE for the episodes.")
