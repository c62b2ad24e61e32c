"""Human ratings of episodes: two plain files, a table for spreadsheets and JSON Lines for programs.

A CSV file has one row for each agent of an episode and rater, with a column for every dimension that was
rated; an empty cell is a score that was not given. JSON Lines hold the same, one object a line.

    episode,agent,rater,goal,believability,comment
    3f9a0c2b71de,agent_0,anna,7,9,reached the price it wanted

    {"episode": "3f9a0c2b71de", "agent": "agent_0", "rater": "anna", "scores": {"goal": 7, "believability": 9}}

A score that is no number, out of its dimension's range, or given twice by one rater is an error that names the
line: nothing is left out or moved into the range.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sotopia_env.dimensions import DIMENSIONS, Dimension, out_of_range
from sotopia_env.errors import ConfigurationError, one_line, unknown

KEYS = ("episode", "agent", "rater")
"""Fields that say whose rating of what it is."""

COMMENT = "comment"
"""A field for remarks, which is not read."""


class Rating(NamedTuple):
    """What one person gave one agent of one episode.

    Attributes:
        episode: Id of the episode, or a beginning of it that no other id has.
        agent: Id of the agent, such as "agent_0".
        rater: Any name for the person; it is only compared with other names.
        scores: By dimension, in the dimension's own range.
        where: File and line.
    """

    episode: str
    agent: str
    rater: str
    scores: dict[str, float]
    where: str = "rating"


def read_ratings(path: str | Path, dimensions: Sequence[Dimension] = DIMENSIONS) -> list[Rating]:
    """Read a CSV file, or JSON Lines if its name ends in .jsonl.

    Args:
        path: The file, in UTF-8.
        dimensions: Scales that may be rated.

    Raises:
        ConfigurationError: For a file that holds no ratings or one that cannot be used; names the line.
        OSError: If it cannot be read.
    """
    path = Path(path)
    lines = _json_lines if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_lines
    scales = {dimension.name: dimension for dimension in dimensions}
    found: dict[tuple[str, str, str], Rating] = {}
    try:
        for number, fields, scores in lines(path, scales):
            rating = _checked(f"{path}, line {number}", fields, scores, scales)
            before = found.setdefault(rating[:3], rating)
            if before is not rating:
                raise ConfigurationError(
                    f"{rating.where}: rater {rating.rater!r} has rated {rating.agent!r} of episode {rating.episode!r} "
                    f"before ({before.where}). Keep one of the two."
                )
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{str(path)!r} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    if not found:
        raise ConfigurationError(f"{str(path)!r} holds no ratings. Give one row for each agent and rater.")
    return list(found.values())


def check_ratings(ratings: Iterable[Rating], agents: Mapping[str, Sequence[str]]) -> list[Rating]:
    """Find the rated episodes, and give every rating its episode's whole id.

    Args:
        ratings: What `read_ratings` gave.
        agents: Ids of agents, by episode id.

    Raises:
        ConfigurationError: For an episode that is unknown or not named clearly, or an agent it does not have.
    """
    found: dict[tuple[str, str, str], Rating] = {}
    resolved: dict[str, str] = {}
    for rating in ratings:
        if rating.episode not in resolved:
            resolved[rating.episode] = _whole_id(rating, agents)
        episode = resolved[rating.episode]
        if rating.agent not in agents[episode]:
            raise ConfigurationError(f"{rating.where}: {unknown('agent', rating.agent, agents[episode])}")
        whole = rating._replace(episode=episode)
        if found.setdefault(whole[:3], whole) is not whole:
            raise ConfigurationError(
                f"{rating.where}: rater {rating.rater!r} has rated {rating.agent!r} of episode {rating.episode!r} "
                f"before ({found[whole[:3]].where}). Keep one of the two."
            )
    return list(found.values())


def _whole_id(rating: Rating, agents: Mapping[str, Sequence[str]]) -> str:
    if rating.episode in agents:
        return rating.episode
    matching = [episode for episode in agents if episode.startswith(rating.episode)]
    if len(matching) == 1:
        return matching[0]
    problem = f"begins {len(matching)} ids; give more of it" if matching else "is not among those that are audited"
    raise ConfigurationError(
        f"{rating.where}: episode {rating.episode!r} {problem}. `sotopia-env show SOURCE --list` lists the ids."
    )


# --- reading ----------------------------------------------------------------------------------------

Line = tuple[int, Mapping[str, Any], Mapping[str, Any]]
"""Number of the line, its keys, and its scores as they stand there."""


def _csv_lines(path: Path, scales: Mapping[str, Dimension]) -> Iterator[Line]:
    # utf-8-sig: spreadsheets put a byte order mark in front.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            columns = next(reader, [])
            _check_columns(path, columns, scales)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(columns):
                    raise ConfigurationError(
                        f"{path}, line {reader.line_num}: there are {len(cells)} cells, but {len(columns)} columns."
                    )
                row = dict(zip(columns, cells, strict=True))
                scores = {name: row[name] for name in scales if row.get(name, "").strip()}
                yield reader.line_num, row, {name: _number(text) for name, text in scores.items()}
        except csv.Error as error:
            raise ConfigurationError(f"{path}, line {reader.line_num}: this is no CSV ({error}).") from error


def _check_columns(path: Path, columns: Sequence[str], scales: Mapping[str, Dimension]) -> None:
    missing = [name for name in KEYS if name not in columns]
    if missing or not scales.keys() & set(columns):
        raise ConfigurationError(
            f"{str(path)!r} has the columns {list(columns)!r:.200}, but needs {list(KEYS)!r} and at least one of "
            f"{list(scales)!r}, separated by commas."
        )
    known = {*KEYS, COMMENT, *scales}
    wrong = [name for name in columns if name not in known]
    if wrong:
        raise ConfigurationError(f"{str(path)!r}: {unknown('column', wrong[0], known)}")
    twice = [name for place, name in enumerate(columns) if name in columns[:place]]
    if twice:
        raise ConfigurationError(f"{str(path)!r} has two columns {twice[0]!r}. Keep one.")


def _number(text: str) -> float | str:
    try:
        return text if "_" in text else float(text)  # Python reads 1_0 as 10
    except ValueError:
        return text


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose keys is there twice, of which JSON would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ConfigurationError(f"{twice!r:.80} is there twice. Keep one.")
    return found


def _json_lines(path: Path, scales: Mapping[str, Dimension]) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                value = json.loads(line, object_pairs_hook=_once)
            except ConfigurationError as error:
                raise ConfigurationError(f"{where}: {error}") from error
            except (ValueError, RecursionError) as error:
                raise ConfigurationError(f"{where} is no JSON ({one_line(error, 100)}).") from error
            scores = value.get("scores") if isinstance(value, dict) else None
            if not isinstance(scores, dict):
                raise ConfigurationError(
                    f"{where} is {line.strip()!r:.100}, but must be an object with {list(KEYS)!r} and 'scores', "
                    'such as {"goal": 7}.'
                )
            wrong = [name for name in value if name not in (*KEYS, "scores", COMMENT)]
            if wrong:
                raise ConfigurationError(f"{where}: {unknown('field', wrong[0], (*KEYS, 'scores', COMMENT))}")
            wrong = [name for name in scores if name not in scales]
            if wrong:
                raise ConfigurationError(f"{where}: {unknown('dimension', wrong[0], scales)}")
            yield number, value, {name: score for name, score in scores.items() if score is not None}


def _checked(
    where: str, fields: Mapping[str, Any], scores: Mapping[str, Any], scales: Mapping[str, Dimension]
) -> Rating:
    for name in KEYS:
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            raise ConfigurationError(f"{where}: {name!r} is {fields.get(name)!r:.80}, but must be text.")
    if not scores:
        raise ConfigurationError(f"{where} has no score. Leave the line out, or give at least one.")
    for name, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise ConfigurationError(f"{where}: {name!r} must be a number, got {score!r:.80}.")
        problem = out_of_range(scales[name], score)
        if problem:
            raise ConfigurationError(f"{where}: {problem}.")
    keys = (fields[name].strip() for name in KEYS)
    return Rating(*keys, {name: float(score) for name, score in scores.items()}, where)  # type: ignore[call-arg]
