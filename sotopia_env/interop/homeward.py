"""Tasks and episodes in SOTOPIA's own spelling, for its tools to read.

    sotopia-flat      a JSONL file per class, as SOTOPIA publishes its data
    sotopia-native    a folder per class and a file per record, as SOTOPIA keeps it under ~/.sotopia/data

A task becomes an environment profile, a character profile per seat, the relationship of the two, and the
cast; an episode also a log. Before anything is written it is read again by the importer: what it would
refuse is left out, and what would come back otherwise is counted as changed. So nothing is lost in silence
but what SOTOPIA's forms have no field for, which docs/import-export.md lists.
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.context import sotopia_biography
from sotopia_env.dimensions import DIMENSION_NAMES, overall
from sotopia_env.episodes import ENVIRONMENT, Episode, Event, Verdict
from sotopia_env.errors import ConfigurationError
from sotopia_env.interop import hints
from sotopia_env.interop.columns import SURROGATE
from sotopia_env.interop.logs import MOST_TURNS, comments_of, messages_of, read_episode
from sotopia_env.interop.profiles import make_task, read_character, read_scenario
from sotopia_env.interop.records import UnusableRecordError
from sotopia_env.interop.spelling import (
    CLASS_NAMES,
    ENDING_WORDS,
    FLAT,
    NATIVE,
    NOTHING,
    NUMBER_BY_RELATIONSHIP,
    age_text,
    is_id,
    judge_model,
    occupation_text,
    reasoning_text,
    reward_pair,
    split_name,
)
from sotopia_env.rules import brief
from sotopia_env.tasks import CharacterProfile, Task, digest

if TYPE_CHECKING:
    from sotopia_env.interop.export import Job

FLAT_FILES = {
    "environment": "environment_profiles.jsonl",
    "agent": "agent_profiles.jsonl",
    "relationship": "relationship_profiles.jsonl",
    "combo": "env_agent_combo_storages.jsonl",
    "list": "environment_lists.jsonl",
    "episode": "episodes.jsonl",
}
"""The file of each class, named as SOTOPIA names them."""

CLASSES = {kind: name for name, kind in CLASS_NAMES.items()}
LISTS = {"train": "sft", "validation": "dev", "hard": "hard"}
"""Names of the lists that keep a task's split and its tag "hard"; without one, an environment is for testing."""

_LIST_LENGTH = 10_000
_KEPT_TASKS = 512
_MOST_REASONS = 20
_SAFE_ID = re.compile(r"[\w.:@+/ -]{1,180}", re.ASCII)


@dataclass(frozen=True)
class _Home:
    """A task in SOTOPIA's records, with the ids under which they are written.

    Attributes:
        task: The task as it will be read back.
        environment, agents, combo: The records, in native spelling.
    """

    task: Task
    environment: dict[str, Any]
    agents: list[dict[str, Any]]
    combo: dict[str, Any]


class _Files:
    """Writes every record once; what they share is in the two spellings below."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._seen = _Seen(job.place.parent / "seen.db", job)
        self._homes: OrderedDict[str, _Home | None] = OrderedDict()

    def add(self, record: Task | Episode) -> None:
        """Write one task, or one episode with its task."""
        if isinstance(record, Task):
            home = self._home(record)
            if home is not None:
                self._job.written["tasks"] += 1
        else:
            self._episode(record)

    def close(self) -> None:
        """Write the lists of environments, by split."""
        for name, chunk in self._seen.lists():
            record = {"pk": f"list-{name}", "name": name, "environments": chunk, "agent_index": None}
            self._write("list", record, record)

    def _write(self, kind: str, native: dict[str, Any], flat: dict[str, Any]) -> None:
        raise NotImplementedError

    # --- tasks ----------------------------------------------------------------------------------

    def _home(self, task: Task) -> _Home | None:
        key = task.digest
        if key not in self._homes:
            self._homes[key] = self._settled(task)
            if len(self._homes) > _KEPT_TASKS:
                self._homes.popitem(last=False)
        self._homes.move_to_end(key)
        return self._homes[key]

    def _settled(self, task: Task) -> _Home | None:
        """Write the records of a task, if they can be read again."""
        environment = _environment(task, self._job.options.facts_in_goals)
        agents = [_agent(seat.character) for seat in task.seats]
        try:
            made = _read_back(task, environment, agents)
        except UnusableRecordError as error:
            self._leave_out("tasks", error)
            return None
        for what in _differences(task, made, self._job.options.facts_in_goals):
            self._job.changed[f"tasks whose {what} is not exactly the same"] += 1
        if not self._job.options.facts_in_goals and _has_facts(task):
            self._job.left_out["tasks' private facts and rules that bind (see --facts-in-goals)"] += 1
        environment["pk"] = self._place("environment", environment, task)
        for agent in agents:
            agent["pk"] = self._place("agent", agent)
        ids = [agent["pk"] for agent in agents]
        if len(ids) == 2:
            relationship = _relationship(ids, environment["relationship"])
            relationship["pk"] = self._place("relationship", relationship)
        combo = {"pk": task.id, "env_id": environment["pk"], "agent_ids": ids}
        combo["pk"] = self._place("combo", combo)
        seats = tuple(
            seat.model_copy(update={"character": seat.character.model_copy(update={"id": agent})})
            for seat, agent in zip(made.seats, ids, strict=True)
        )
        return _Home(made.model_copy(update={"seats": seats, "id": combo["pk"]}), environment, agents, combo)

    def _place(self, kind: str, record: dict[str, Any], task: Task | None = None) -> str:
        """The id of a record, which is written if it is new."""
        wanted = str(record["pk"])
        content = {name: value for name, value in record.items() if name != "pk"}
        mark = digest([content, task and task.split, task and "hard" in task.tags])
        if not _is_usable(wanted):
            wanted = f"{kind}-{mark[:24]}"
        pk, new = self._seen.place(kind, wanted, mark, task)
        if pk != record["pk"] and record["pk"]:
            self._job.changed["ids that SOTOPIA could not use, or that stood for two things"] += 1
        if new:
            native = {**record, "pk": pk}
            self._write(kind, native, _flat(kind, native))
            self._job.written[_NOUNS[kind]] += 1
        return pk

    def _leave_out(self, things: str, error: UnusableRecordError) -> None:
        reasons = [key for key in self._job.left_out if ": " in key]
        key = f"{things} that SOTOPIA's form cannot hold: {error}"
        if key not in reasons and len(reasons) >= _MOST_REASONS:
            key = f"{things} that SOTOPIA's form cannot hold, for other reasons"
        self._job.left_out[key] += 1

    # --- episodes -------------------------------------------------------------------------------

    def _episode(self, episode: Episode) -> None:
        if episode.status == "failed":
            self._job.left_out["episodes that failed"] += 1
            return
        verdict = _verdict(episode, self._job.options.judge)
        home = self._home(episode.task)
        if home is None:
            self._job.left_out["episodes of tasks that are left out"] += 1
            return
        try:
            record = _log(episode, verdict, home)
            made = read_episode(record, _Known(home.task), lambda reason, kind: None)
        except UnusableRecordError as error:
            self._leave_out("episodes", error)
            return
        for what in _episode_differences(episode, verdict, made):
            self._job.changed[f"episodes whose {what} are not exactly the same"] += 1
        self._count_losses(episode)
        mark = digest(record)
        wanted = episode.id if _is_usable(episode.id) else f"episode-{mark[:24]}"
        record["pk"], new = self._seen.place("episode", wanted, mark, None)
        if record["pk"] != episode.id:
            self._job.changed["ids that SOTOPIA could not use, or that stood for two things"] += 1
        if new:
            self._write("episode", record, _flat_episode(record, home))
            self._job.written["episodes"] += 1
        else:
            self._job.left_out["episodes that stood twice"] += 1

    def _count_losses(self, episode: Episode) -> None:
        for event in episode.events:
            if event.speaker == ENVIRONMENT:
                self._job.left_out["notes of the environment"] += 1
            elif event.action_type in ("none", "leave") and event.argument:
                self._job.left_out["words that came with leaving or doing nothing"] += 1


class FlatFiles(_Files):
    """A JSONL file per class."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._open: dict[str, Any] = {}

    def _write(self, kind: str, native: dict[str, Any], flat: dict[str, Any]) -> None:
        if kind not in self._open:
            made = (self._job.place / FLAT_FILES[kind]).open("w", encoding="ascii")
            self._open[kind] = self._job.files.enter_context(made)
        self._open[kind].write(json.dumps(flat, ensure_ascii=True, allow_nan=False) + "\n")


class NativeFiles(_Files):
    """A folder per class with a file per record."""

    def _write(self, kind: str, native: dict[str, Any], flat: dict[str, Any]) -> None:
        path = self._job.place / CLASSES[kind] / f"{native['pk']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(native, ensure_ascii=True, allow_nan=False, indent=2), encoding="ascii")


_NOUNS = {
    "environment": "environment profiles",
    "agent": "character profiles",
    "relationship": "relationship profiles",
    "combo": "casts",
}


# --- ids --------------------------------------------------------------------------------------------


def _is_usable(value: str) -> bool:
    """Whether an id can be SOTOPIA's, and the name of a file below a folder on any system."""
    return is_id(value) and _SAFE_ID.fullmatch(value) is not None and ".json/" not in value and value == value.strip()


class _Seen:
    """Which ids have been written with which content; on disk, so that memory does not grow with the export."""

    def __init__(self, path: Path, job: Job) -> None:
        self._base = job.files.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
        self._base.execute("PRAGMA journal_mode=OFF")
        self._base.execute("PRAGMA synchronous=OFF")
        self._base.execute("CREATE TABLE seen (kind, id, mark, list, hard, PRIMARY KEY (kind, id)) WITHOUT ROWID")
        self._base.execute("BEGIN")

    def place(self, kind: str, wanted: str, mark: str, task: Task | None) -> tuple[str, bool]:
        """The id for a content, and whether it is new: the wanted one, or if other content has it, with a suffix."""
        for number in itertools.count():
            pk = wanted if number == 0 else f"{wanted[:120]}-{digest([mark, number])[:24]}"
            found = self._base.execute("SELECT mark FROM seen WHERE kind = ? AND id = ?", (kind, pk)).fetchone()
            if found is None:
                kept = LISTS.get(task.split) if task else None
                hard = bool(task and "hard" in task.tags)
                self._base.execute("INSERT INTO seen VALUES (?, ?, ?, ?, ?)", (kind, pk, mark, kept, hard))
                return pk, True
            if found[0] == mark:
                return pk, False
        raise AssertionError  # count() has no end

    def lists(self) -> Iterator[tuple[str, list[str]]]:
        """The lists of environments by name, long ones in pieces."""
        for name in LISTS.values():
            chosen = "hard" if name == LISTS["hard"] else "list = ?"
            query = f"SELECT id FROM seen WHERE kind = 'environment' AND {chosen} ORDER BY id"
            found = self._base.execute(query, () if chosen == "hard" else (name,))
            number = 0
            while rows := found.fetchmany(_LIST_LENGTH):
                number += 1
                yield name if number == 1 else f"{name}-{number}", [row[0] for row in rows]


# --- profiles ---------------------------------------------------------------------------------------


def _environment(task: Task, facts_in_goals: bool) -> dict[str, Any]:
    origin = task.origin
    record: dict[str, Any] = {
        "pk": origin.get("environment") or "",
        "codename": origin.get("codename") or "",
        "source": task.family,
        "scenario": _scenario_text(task),
        "agent_goals": _goal_texts(task, facts_in_goals),
        "relationship": NUMBER_BY_RELATIONSHIP[task.relationship],
        "age_constraint": age_text(origin.get("age_constraint")),
        "occupation_constraint": occupation_text(origin.get("occupation_constraint")),
        "agent_constraint": origin.get("agent_constraint"),
    }
    return record | {name: origin[name] for name in ("tag", "game_metadata") if name in origin}


def _scenario_text(task: Task) -> str:
    """The scenario with the tags it came with, if they still say what is seen; else as plain text."""
    raw = task.origin.get("scenario")
    if isinstance(raw, str):
        seen = [task.scenario, *(seat.private.get("scenario", task.scenario) for seat in task.seats)]
        viewers = ["nobody", *task.agents]
        if [_shown(raw, viewer) for viewer in viewers] == seen:
            return raw
    return _as_xml(task.scenario)


def _goal_texts(task: Task, facts_in_goals: bool) -> list[str]:
    raw = task.origin.get("goals")
    known = list(raw) if isinstance(raw, list) and len(raw) == len(task.seats) else [None] * len(task.seats)
    texts = []
    for index, (seat, given) in enumerate(zip(task.seats, known, strict=True)):
        same = isinstance(given, str) and _shown(given, f"agent_{index}") == seat.goal
        text = given if same and isinstance(given, str) else _as_xml(seat.goal)
        if facts_in_goals and (facts := _facts(task, index)):
            text += f" (<extra_info>{_as_xml(facts)}</extra_info>)"
        texts.append(text)
    return texts


def _shown(text: str, viewer: str) -> str | None:
    try:
        return hints.shown_to(text, viewer).text
    except UnusableRecordError:
        return None


def _as_xml(text: str) -> str:
    """A text that every viewer sees exactly, if XML can say it. A bare & stands as in SOTOPIA's own data."""
    bare = "<" not in text and _shown(text, "nobody") == text
    return text if bare else hints.escape(text)


def _facts(task: Task, seat: int) -> str:
    if "rules" in task.terms:
        return "\n".join(brief(task, seat))
    facts = {key: value for key, value in task.seats[seat].private.items() if key != "scenario"}
    return "\n".join(f"{key}: {value}" for key, value in facts.items())


def _has_facts(task: Task) -> bool:
    return any(_facts(task, seat) for seat in range(len(task.seats)))


def _agent(character: CharacterProfile) -> dict[str, Any]:
    origin = character.origin
    first, last = split_name(character.name)
    given = origin.get("first_name")
    if isinstance(given, str) and given and character.name.startswith(given):
        first, last = given, character.name[len(given) :].removeprefix(" ")
    return {
        "pk": character.id,
        "first_name": first,
        "last_name": last,
        "age": character.age or 0,
        "occupation": character.occupation,
        "gender": character.gender,
        "gender_pronoun": character.pronouns,
        "public_info": character.public_info,
        "big_five": origin.get("big_five", ""),
        "moral_values": origin.get("moral_values", []),
        "schwartz_personal_values": origin.get("schwartz_personal_values", []),
        "personality_and_values": character.personality,
        "decision_making_style": origin.get("decision_making_style", ""),
        "secret": character.secret,
        "model_id": origin.get("model_id", ""),
        "mbti": "",
    } | ({"tag": origin["tag"]} if "tag" in origin else {})


def _relationship(agents: list[str], relationship: int) -> dict[str, Any]:
    pair = {"agent_1_id": agents[0], "agent_2_id": agents[1]}
    return {"pk": "", **pair, "relationship": relationship, "background_story": None}


def _flat(kind: str, native: dict[str, Any]) -> dict[str, Any]:
    """A profile in the flat spelling: other names for ids, the relationship as text."""
    names = dict(zip([n for n in NATIVE[kind] if n != "model_id"], FLAT[kind], strict=True))
    record = {names.get(name, name): value for name, value in native.items() if name != "model_id"}
    if kind in ("environment", "relationship"):
        record["relationship"] = str(record["relationship"])
    if kind == "environment":
        constraint = record["agent_constraint"]
        record["agent_constraint"] = "none" if constraint is None else repr(constraint)
        record["age_constraint"] = record["age_constraint"] or "nan"
    return record


# --- reading it again -------------------------------------------------------------------------------


def _read_back(task: Task, environment: dict[str, Any], agents: list[dict[str, Any]]) -> Task:
    def unused(reason: str, kind: str) -> None:
        """Told of what the importer finds odd; what matters of it shows in the comparison."""

    scenario = read_scenario({**environment, "pk": "environment"}, unused)
    cast = [read_character({**agent, "pk": f"agent-{index}"})[0] for index, agent in enumerate(agents)]
    return make_task(scenario, cast, "task", unused, split=task.split, hard="hard" in task.tags)


def _differences(task: Task, made: Task, facts_in_goals: bool) -> Iterator[str]:
    for name in ("scenario", "relationship", "family"):
        if getattr(task, name) != getattr(made, name):
            yield name
    pairs = list(zip(task.seats, made.seats, strict=True))
    if not facts_in_goals and any(mine.goal != read.goal for mine, read in pairs):
        yield "goal"
    for name in CharacterProfile.model_fields:
        same = all(getattr(mine.character, name) == getattr(read.character, name) for mine, read in pairs)
        if not same and name not in ("id", "origin"):
            yield f"character's {name}"


class _Known:
    """The one task that an episode being read again is of."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def task(self, scenario: str, agents: Sequence[str], note: Callable[..., None]) -> Task | None:
        return self._task

    def task_by_text(self, scenario: str, goals: Any, people: Any) -> Task | None:
        return None

    def character(self, agent: str) -> CharacterProfile | None:
        return next((seat.character for seat in self._task.seats if seat.character.id == agent), None)


def _episode_differences(episode: Episode, verdict: Verdict | None, made: Episode) -> Iterator[str]:
    if _moves(episode.events) != _moves(made.events):
        yield "events"
    if {agent: name or "unknown" for agent, name in episode.agents.items()} != made.agents:
        yield "agents' names"
    read = next(iter(made.verdicts.values()), None)
    for what, part in (("scores", 0), ("reasons", 1)):
        if _judged(verdict, part) != _judged(read, part):
            yield what


def _moves(events: Sequence[Event]) -> list[tuple[object, ...]]:
    """What was done, in the order of turns and seats; SOTOPIA says nothing more of silence and leaving."""
    found = [
        (event.turn, event.speaker, event.action_type, "" if event.action_type == "leave" else event.argument, event.to)
        for event in events
        if event.speaker != ENVIRONMENT and event.action_type != "none"
    ]
    return sorted(found, key=lambda move: move[:2])


def _judged(verdict: Verdict | None, part: int) -> dict[str, dict[str, Any]]:
    scores = verdict.scores.items() if verdict else ()
    found = {
        agent: {
            name: score.reason if part else score.value
            for name, score in each.items()
            if not part or (score.reason and name in DIMENSION_NAMES)
        }
        for agent, each in scores
    }
    return {agent: each for agent, each in found.items() if each}


# --- episodes ---------------------------------------------------------------------------------------


def _verdict(episode: Episode, judge: str | None) -> Verdict | None:
    if judge is not None:
        return episode.verdicts.get(judge)
    if len(episode.verdicts) > 1:
        raise ConfigurationError(
            f"Episode {episode.id!r:.80} has verdicts of {sorted(episode.verdicts)!r:.200}, but SOTOPIA's form holds "
            "one. Say whose with --judge (or judge=...)."
        )
    return next(iter(episode.verdicts.values()), None)


def _log(episode: Episode, verdict: Verdict | None, home: _Home) -> dict[str, Any]:
    """An episode as SOTOPIA's EpisodeLog.

    Raises:
        UnusableRecordError: If SOTOPIA has no way to say what happened.
    """
    turns = [event.turn for event in episode.events]
    if turns and not 0 <= min(turns) <= max(turns) < MOST_TURNS:
        raise UnusableRecordError(f"a turn of a number outside 0 to {MOST_TURNS - 1}")
    agents = episode.task.agents
    if any(seat not in agents for event in episode.events for seat in event.to or ()):
        raise UnusableRecordError("something private to somebody who does not take part")
    moves = [(event.turn, event.speaker) for event in episode.events if event.speaker != ENVIRONMENT]
    if len(set(moves)) != len(moves):
        raise UnusableRecordError("somebody who acts twice in a turn")
    origin = episode.origin
    evaluator = judge_model(verdict.judge) if verdict else str(origin.get("evaluator", ""))
    details = verdict.details if verdict else {}
    record: dict[str, Any] = {
        "pk": "episode",
        "environment": home.environment["pk"],
        "agents": home.combo["agent_ids"],
        "tag": origin.get("tag", ""),
        "models": [evaluator, *(episode.agents.get(agent, "") for agent in agents)],
        "messages": messages_of(episode.model_copy(update={"task": home.task})),
        "reasoning": _reasoning(episode, verdict),
        "rewards": [_reward(verdict, agent) for agent in agents],
        "rewards_prompt": details.get("prompt", "") if isinstance(details.get("prompt", ""), str) else "",
    }
    if "agent_classes" in origin:
        record["agent_classes"] = origin["agent_classes"]
    return _clean(record)


def _clean(record: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        cleaned: dict[str, Any] = _encodable(record)
        return cleaned
    return record


def _encodable(value: Any) -> Any:
    """A record without lone surrogates, which SOTOPIA could not read; the replacement character stands for each."""
    if isinstance(value, str):
        return value if value.isascii() else SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    return value


def _reward(verdict: Verdict | None, agent: str) -> Any:
    """One agent's entry in `rewards`. A bare 0 is SOTOPIA's word for "not scored".

    Without all seven dimensions there is no overall score, and none is made up: the scores then stand as a
    mapping alone, a shape that SOTOPIA's code had for a while.
    """
    scores = verdict.values(agent) if verdict and agent in verdict.scores else {}
    total = verdict.measures.get(f"overall/{agent}") if verdict else None
    if all(name in scores for name in DIMENSION_NAMES):
        return reward_pair(scores, overall(scores))
    if total is not None:
        return reward_pair(scores, total) if scores else total
    return scores or 0.0


_HEADING = re.compile(rf"^(?=(?:{'|'.join(DIMENSION_NAMES)}): |Agent \d{{1,2}} comments:$)", re.MULTILINE)


def _reasoning(episode: Episode, verdict: Verdict | None) -> str:
    comments = comments_of(verdict, episode.task.agents) if verdict else []
    # A reason cannot begin another's: a line that looks like a heading is indented.
    comments = [
        {name: _HEADING.sub(" ", text) for name, text in reasons.items() if name in DIMENSION_NAMES}
        for reasons in comments
    ]
    if not any(text for reasons in comments for text in reasons.values()):
        comments = []
    rest = verdict.details.get("reasoning") if verdict else None
    if isinstance(rest, str) and rest:
        return "\n".join(part for part in (rest, reasoning_text("", comments)) if part)
    return reasoning_text(_ending(episode), comments)


def _ending(episode: Episode) -> str:
    if episode.ended_by == "departure":
        gone = [event.speaker for event in episode.events if event.action_type == "leave"]
        agents = episode.task.agents
        return (
            f"Agent {agents.index(gone[-1]) + 1} is leaving" if gone and gone[-1] in agents else "An agent is leaving"
        )
    if episode.ended_by == "deal":
        return "The agents have a deal"
    return ENDING_WORDS.get(episode.ended_by or "", "")


def _flat_episode(native: dict[str, Any], home: _Home) -> dict[str, Any]:
    characters = [seat.character for seat in home.task.seats]
    names = [character.name for character in characters]
    environment = home.environment
    return {
        "episode_id": native["pk"],
        "environment_id": native["environment"],
        "agent_ids": native["agents"],
        "experiment_tag": native["tag"],
        "experiment_model_name_pairs": native["models"],
        "raw_messages": native["messages"],
        "raw_rewards": native["rewards"],
        "raw_rewards_prompt": native["rewards_prompt"],
        "scenario": environment["scenario"],
        "codename": environment["codename"],
        "agents_background": {each.name: sotopia_biography(each) for each in characters},
        "social_goals": dict(zip(names, environment["agent_goals"], strict=True)),
        "social_interactions": interactions(native["messages"]),
        "reasoning": native["reasoning"],
        "rewards": [_by_dimension(entry) for entry in native["rewards"]],
    }


def interactions(messages: list[list[list[str]]]) -> str:
    """The dialogue of an episode as one text, as SOTOPIA's flat export words it."""
    turns = []
    for turn in messages[:-1]:
        lines = [
            f"{sender} {text}" if "said:" in text else f"{sender}: {text}"
            for sender, _, text in turn
            if sender != "Environment" and NOTHING not in text
        ]
        turns.append("\n".join(lines))
    return "\n\n".join(turns)


def _by_dimension(entry: Any) -> dict[str, float]:
    if isinstance(entry, list):
        return dict(entry[1])
    return dict(entry) if isinstance(entry, dict) else {}
