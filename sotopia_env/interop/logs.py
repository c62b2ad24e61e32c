"""SOTOPIA's episodes: logs in every shape they ever had to `Episode`s, and back to its messages.

A log names a scenario and agents by id. Where their profiles are at hand, the episode gets the task that they
make; where they are not, the task is read from the texts that the log shows to each agent, and that is reported.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import JsonValue, ValidationError

from sotopia_env.context import first_name, sotopia_biography, sotopia_context
from sotopia_env.conversation import backgrounds
from sotopia_env.dimensions import DIMENSION_NAMES, DIMENSIONS, out_of_range, overall
from sotopia_env.episodes import EndedBy, Episode, Event, Score, TurnOrder, Verdict
from sotopia_env.interop import hints, values
from sotopia_env.interop.profiles import Note, explain
from sotopia_env.interop.records import ProblemKind, UnusableRecordError
from sotopia_env.interop.spelling import (
    CONTEXT,
    ENDINGS,
    ENVIRONMENT_NAME,
    FLAT_EPISODE_NAMES,
    GENDERS,
    NO_GOAL,
    NOTHING,
    OVERALL_SCORE,
    PACK,
    STARTS,
    UNKNOWN_AGENT,
    WORDING,
    action_line,
    judge_name,
    plain,
    read_action,
    turn_line,
)
from sotopia_env.tasks import CharacterProfile, Relationship, Seat, Task, digest
from sotopia_env.version import __version__

MAX_TURNS = 20
"""SOTOPIA's turn limit."""

MOST_TURNS = 2_000
"""Turns of the longest log that is read; SOTOPIA's have up to 22."""

Turn = list[tuple[str, str, str]]
"""What was sent in a turn: (sender, receiver, text)."""


class Known(Protocol):
    """The profiles at hand."""

    def task(self, scenario: str, agents: Sequence[str], note: Note) -> Task | None:
        """The task of a scenario with a cast, or `None` if a profile is missing."""
        ...

    def task_by_text(self, scenario: str, goals: Mapping[str, str], people: Mapping[str, str]) -> Task | None:
        """The only task with these texts and these biographies, or `None`."""
        ...

    def character(self, agent: str) -> CharacterProfile | None:
        """The character of an id, or `None`."""
        ...


@dataclass
class Log:
    """An episode record in one spelling, its fields checked for their types only."""

    id: str
    environment: str = ""
    agents: tuple[str, ...] = ()
    tag: str = ""
    models: tuple[str, ...] = ()
    agent_classes: tuple[str, ...] = ()
    messages: list[Turn] = field(default_factory=list)
    interactions: str | None = None
    reasoning: str = ""
    rewards: list[Any] = field(default_factory=list)
    prompt: str = ""
    scenario: str = ""
    codename: str = ""
    people: dict[str, str] = field(default_factory=dict)
    goals: dict[str, str] = field(default_factory=dict)


def read_episode(record: dict[str, Any], known: Known, note: Note) -> Episode:
    """Read an EpisodeLog, or a row of a flat episode export.

    Args:
        record: The record, in any spelling.
        known: The profiles at hand.
        note: Told of what is repaired, lost, or kept though odd.

    Raises:
        UnusableRecordError: If it cannot be an episode.
    """
    log = _log(record, note)
    task, names = _task(log, known, note)
    order, events = _events(log, names, note)
    verdict, rewards = _verdict(log, len(names), note)
    turns = max((event.turn for event in events), default=-1) + 1
    origin: dict[str, JsonValue] = {}
    if log.tag:
        origin["tag"] = log.tag
    if log.agent_classes:
        origin["agent_classes"] = list(log.agent_classes)
    if verdict is None and log.models:
        origin["evaluator"] = log.models[0]
    try:
        return Episode(
            task=task,
            agents=dict(zip(task.agents, _policies(log, len(names), note), strict=True)),
            turn_order=order,
            max_turns=max(MAX_TURNS, turns),
            seed=int.from_bytes(hashlib.sha256(log.id.encode()).digest()[:4], "big"),
            events=tuple(events),
            ended_by=_ended_by(log, events),
            verdicts={verdict.judge: verdict} if verdict else {},
            rewards=rewards,
            code_version=__version__,
            origin=origin,
            id=log.id,
        )
    except ValidationError as error:
        raise UnusableRecordError(explain(error)) from error


# --- reading the fields ---------------------------------------------------------------------------


def _log(record: dict[str, Any], note: Note) -> Log:
    flat = {FLAT_EPISODE_NAMES.get(key, key): value for key, value in record.items() if key != "rewards"}
    rewards = record.get("raw_rewards")
    if values.is_missing(rewards):
        rewards = record.get("rewards")
    if values.is_missing(flat.get("pk")):
        flat["pk"] = f"unnamed-{digest(_jsonable(record))[:16]}"
        note("it has no id; one is made of its content", "repaired")
    return Log(
        id=values.identifier(flat, "pk"),
        environment="" if values.is_missing(flat.get("environment")) else values.identifier(flat, "environment"),
        agents=tuple(values.check_id(agent, "agents") for agent in values.texts(flat, "agents")),
        tag=values.text(flat, "tag"),
        models=tuple(values.texts(flat, "models")),
        agent_classes=tuple(values.texts(flat, "agent_classes")),
        messages=_messages(flat.get("messages")),
        interactions=values.text(flat, "social_interactions") if "social_interactions" in flat else None,
        reasoning=values.text(flat, "reasoning"),
        rewards=_listed(rewards, "rewards"),
        prompt=values.text(flat, "rewards_prompt"),
        scenario=values.text(flat, "scenario"),
        codename=values.text(flat, "codename"),
        people=_by_name(flat, "agents_background"),
        goals=_by_name(flat, "social_goals"),
    )


def _jsonable(value: object) -> str:
    return repr(value)


def _listed(value: Any, name: str) -> list[Any]:
    if values.is_missing(value):
        return []
    found = values.unfolded(value)
    if not isinstance(found, (list, tuple)):
        raise UnusableRecordError(f"field {name!r} must be a list, got {plain(value)}")
    return list(found)


def _by_name(record: dict[str, Any], name: str) -> dict[str, str]:
    value = record.get(name)
    if values.is_missing(value):
        return {}
    found = values.unfolded(value)
    if not isinstance(found, dict) or not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise UnusableRecordError(f"field {name!r} must give a text by name, got {plain(value)}")
    return {values.encodable(key, name): values.encodable(part, name) for key, part in found.items()}


def _messages(value: Any) -> list[Turn]:
    turns = [_listed(turn, "messages") for turn in _listed(value, "messages")]
    if len(turns) > MOST_TURNS:
        raise UnusableRecordError(f"it has {len(turns)} turns; at most {MOST_TURNS} are read")
    read: list[Turn] = []
    for number, turn in enumerate(turns):
        sent: Turn = []
        for message in turn:
            parts = values.unfolded(message)
            if not isinstance(parts, (list, tuple)) or [type(part) for part in parts] != [str, str, str]:
                raise UnusableRecordError(
                    f"message turn {number} holds {plain(message)}, not a [sender, receiver, text]"
                )
            sender, receiver, words = (values.encodable(part, "messages") for part in parts)
            sent.append((sender, receiver, words))
        read.append(sent)
    return read


def _policies(log: Log, seats: int, note: Note) -> list[str]:
    """Names of the policies by seat: SOTOPIA lists the environment's model first, then the agents'."""
    if len(log.models) == seats + 1:
        return [model or UNKNOWN_AGENT for model in log.models[1:]]
    if log.models:
        note(f"its {len(log.models)} models are not one for the environment and one by agent; not taken over", "lost")
    return [UNKNOWN_AGENT] * seats


# --- the task -------------------------------------------------------------------------------------


def _task(log: Log, known: Known, note: Note) -> tuple[Task, list[str]]:
    """The episode's task, and the names by seat under which its messages were sent."""
    shown = _contexts(log)
    task = known.task(log.environment, log.agents, note) if log.environment and log.agents else None
    if task is None and not shown and log.people:
        task = known.task_by_text(log.scenario, log.goals, log.people)
    if task is not None:
        names = [seat.character.name for seat in task.seats]
        spoken = list(shown or log.people)
        if spoken and spoken != names:
            raise UnusableRecordError(f"it is played by {spoken}, but the profiles of its agents are {names}")
        difference = _difference(log, task, shown)
        if not difference:
            return task, names
        note(f"its {difference} not that of the profile; the task is read from its own texts", "kept")
        return _task_from_texts(log, shown, known, note, task), names
    return _task_from_texts(log, shown, known, note, None), list(shown or log.people)


def _difference(log: Log, task: Task, shown: dict[str, str]) -> str:
    """What of the task the log shows otherwise than the profiles say, or ""."""
    for seat, context in enumerate(shown.values()):
        if context == backgrounds(task)[seat]:
            continue
        parts = _context_parts(context, list(shown))
        mine = _context_parts(sotopia_context(task, seat), list(shown))
        if parts is None or mine is None:
            return ""  # another version's wording: nothing to compare
        if parts.scenario != mine.scenario:
            return "scenario is"
        if parts.goals != mine.goals:
            return "goals are"
    return ""


@dataclass(frozen=True)
class _Context:
    """The parts of a context text."""

    scenario: str
    people: list[str]
    goals: list[str]


def _contexts(log: Log) -> dict[str, str]:
    """What each agent was told at the start, by name, without what SOTOPIA puts around it."""
    found: dict[str, str] = {}
    for sender, receiver, words in log.messages[0] if log.messages else []:
        if sender == ENVIRONMENT_NAME and receiver != ENVIRONMENT_NAME:
            if receiver in found:
                raise UnusableRecordError(f"two agents are named {receiver!r}, so one cannot tell them apart")
            found[receiver] = words.strip().removesuffix(STARTS).rstrip("\n")
    return found


def _context_parts(context: str, names: Sequence[str]) -> _Context | None:
    """Cut a context text at its own headings; `None` if it has not got them."""
    headings = [f"{CONTEXT}\nScenario: ", "\nParticipants: "]
    headings += [f"\n{name}'s background: " for name in names] + [f"\n{name}'s goal: " for name in names]
    pieces = []
    rest = context
    for heading in headings:
        before, found, rest = rest.partition(heading)
        if not found:
            return None
        pieces.append(before)
    pieces.append(rest)
    return _Context(pieces[1], pieces[3 : 3 + len(names)], pieces[3 + len(names) :])


def _task_from_texts(log: Log, shown: dict[str, str], known: Known, note: Note, other: Task | None) -> Task:
    """Make a task of what the log itself shows; `other` is the profiles' task that it differs from."""
    names = list(shown or log.people)
    if len(names) < 2:
        raise UnusableRecordError(
            "its scenario or agents are not among the profiles, and it shows no context to read them from"
        )
    seats = [_seat(log, shown, names, index, known) for index in range(len(names))]
    relationship, how, kind = _relationship(shown, names, seats)
    if other is not None:
        relationship = other.relationship
    else:
        note(f"its profiles are not there, so the task is read from its own texts; {how}", kind)
    scenario = _scenario(log, shown, names)
    origin: dict[str, JsonValue] = {}
    if log.environment:
        origin["environment"] = log.environment
    if log.codename:
        origin["codename"] = log.codename
    goals = [log.goals.get(name, seat.goal) for name, seat in zip(names, seats, strict=True)]
    if goals != [seat.goal for seat in seats]:
        origin["goals"] = list(goals)
    content = [log.environment, scenario, relationship, [seat.model_dump(mode="json") for seat in seats]]
    try:
        return Task(
            id=f"text-{digest(content)[:24]}",
            pack=PACK,
            scenario=scenario,
            relationship=relationship,
            seats=tuple(seats),
            wording=WORDING,
            origin=origin,
        )
    except ValidationError as error:
        raise UnusableRecordError(explain(error)) from error


def _scenario(log: Log, shown: dict[str, str], names: Sequence[str]) -> str:
    parts = [_context_parts(context, names) for context in shown.values()]
    seen = {part.scenario for part in parts if part}
    if len(seen) == 1:
        return seen.pop()
    if seen:
        raise UnusableRecordError("its agents were shown different scenarios, and its profile is not there")
    if not log.scenario.strip():
        raise UnusableRecordError("it shows no scenario")
    return hints.shown_to(log.scenario, "nobody").text


def _seat(log: Log, shown: dict[str, str], names: Sequence[str], index: int, known: Known) -> Seat:
    name = names[index]
    context = _context_parts(shown[name], names) if name in shown else None
    biography = context.people[index] if context else log.people.get(name, "")
    agent = log.agents[index] if index < len(log.agents) else ""
    character = known.character(agent) if agent else None
    if character is None or sotopia_biography(character).strip() != biography.strip():
        character = _character(name, biography, agent)
    if context and context.goals[index] != NO_GOAL:
        goal = context.goals[index]
    elif name in log.goals:
        goal = hints.shown_to(log.goals[name], f"agent_{index}").text
    else:
        raise UnusableRecordError(f"it does not show the goal of {name!r}")
    return Seat(character=character, goal=goal)


_BIOGRAPHY = re.compile(
    r"is a (?P<age>\d{1,3})-year-old (?P<work>[^\n]{0,300}?)\. (?P<pronouns>\S{1,40}) pronouns\. (?P<public>.*?) ?"
    r"Personality and values description: (?P<personality>.*)",
    re.DOTALL,
)


def _character(name: str, biography: str, agent: str) -> CharacterProfile:
    """Read a character from the biography that it was shown itself."""
    head, _, secret = biography.rpartition(f" {name.partition(' ')[0]}'s secrets: ")
    found = _BIOGRAPHY.fullmatch(head.removeprefix(name).strip()) if head.startswith(name) else None
    if found is None:
        raise UnusableRecordError(f"the biography of {name!r} is not worded as SOTOPIA's, and its profile is not there")
    gender, occupation = _gender_and_work(found["work"])
    try:
        return CharacterProfile(
            id=agent or f"text-{digest([name, biography])[:24]}",
            name=name,
            age=int(found["age"]) or None,
            gender=gender,
            pronouns=found["pronouns"],
            occupation=occupation,
            public_info=found["public"],
            personality=found["personality"],
            secret=secret,
        )
    except ValidationError as error:
        raise UnusableRecordError(explain(error)) from error


def _gender_and_work(words: str) -> tuple[str, str]:
    first, _, rest = words.partition(" ")
    for gender, adjective in GENDERS.items():
        if first in (adjective, gender):
            return gender, rest
    return "", words


_DEPTHS: dict[int, Relationship] = {0: "stranger", 1: "known_by_name", 3: "acquaintance", 4: "friend"}


def _relationship(
    shown: dict[str, str], names: Sequence[str], seats: Sequence[Seat]
) -> tuple[Relationship, str, ProblemKind]:
    """How well they know each other, by how much of each other they are shown; and what to report of it."""
    found: set[Relationship] = set()
    for viewer, name in enumerate(names):
        parts = _context_parts(shown[name], names) if name in shown else None
        for index, seat in enumerate(seats):
            if parts is not None and index != viewer:
                found |= {
                    relationship
                    for depth, relationship in _DEPTHS.items()
                    if sotopia_biography(seat.character, depth).rstrip() == parts.people[index].rstrip()
                }
    if len(found) != 1:
        return "stranger", "it does not show how they know each other: 'stranger' stands for it", "lost"
    relationship = found.pop()
    more = " (which partner and family would show alike)" if relationship == "friend" else ""
    return relationship, f"by what they see of each other they are taken for {relationship!r}{more}", "repaired"


# --- events ---------------------------------------------------------------------------------------


def _events(log: Log, names: Sequence[str], note: Note) -> tuple[TurnOrder, list[Event]]:
    if log.messages:
        acted = _acted(log.messages, names)
    elif log.interactions is not None:
        acted = _from_interactions(log.interactions, names)
    else:
        raise UnusableRecordError("it has neither messages nor 'social_interactions'")
    order = _order(acted, len(names))
    events = []
    for turn, actions in enumerate(acted):
        for seat in range(len(names)):
            if order == "round-robin" and seat != turn % len(names):
                continue
            events.append(_event(turn, seat, actions.get(seat, NOTHING), names, note))
    return order, events


def _order(acted: Sequence[Mapping[int, str]], seats: int) -> TurnOrder:
    for turn, actions in enumerate(acted):
        for seat, line in actions.items():
            if line.strip() != NOTHING and seat != turn % seats:
                return "simultaneous"
    return "round-robin"


def _event(turn: int, seat: int, line: str, names: Sequence[str], note: Note) -> Event:
    found = read_action(line)
    if found is None:
        note(f"turn {turn}: {plain(line)} is no action that SOTOPIA words; it is kept as an action", "lost")
        found = ("action", line, None)
    kind, argument, private = found
    to = None
    if private is not None:
        strangers = [name for name in private if name not in names]
        if strangers:
            raise UnusableRecordError(f"turn {turn} is private to {strangers[0]!r}, who does not take part")
        to = tuple(f"agent_{names.index(name)}" for name in private)
    return Event(turn=turn, speaker=f"agent_{seat}", action_type=kind, argument=argument, to=to)  # type: ignore[arg-type]


def _acted(messages: list[Turn], names: Sequence[str]) -> list[dict[int, str]]:
    """By turn, what each seat did. The last message turn of a log only tells of the one before."""
    acted: list[dict[int, str]] = []
    for number, turn in enumerate(messages):
        actions: dict[int, str] = {}
        for sender, _, words in turn:
            if sender == ENVIRONMENT_NAME:
                continue
            if sender not in names:
                raise UnusableRecordError(f"message turn {number} is sent by {sender!r}, who does not take part")
            if names.index(sender) in actions:
                raise UnusableRecordError(f"{sender!r} acts twice in message turn {number}")
            actions[names.index(sender)] = words
        if not actions:
            if number == len(messages) - 1:
                break
            actions = _told(messages[number + 1], number, names)
        acted.append(actions)
    return acted


def _told(following: Turn, number: int, names: Sequence[str]) -> dict[int, str]:
    """What was done in a turn whose own messages are not kept, by what the environment tells of it in the next."""
    heading = f"Turn #{number}: "
    told = next((words for sender, _, words in following if sender == ENVIRONMENT_NAME), "")
    if not told.startswith(heading):
        raise UnusableRecordError(f"message turn {number} holds no agent's action, and the next does not tell of it")
    words = told.removeprefix(heading).removesuffix("\n")
    if not words.strip():
        return dict.fromkeys(range(len(names)), NOTHING)
    for seat, name in enumerate(names):
        if words.startswith(f"{name} ") and read_action(words.removeprefix(f"{name} ")) is not None:
            return {seat: words.removeprefix(f"{name} ")}
    raise UnusableRecordError(f"message turn {number + 1} tells {plain(words)}, which is no one's single action")


def _from_interactions(text: str, names: Sequence[str]) -> list[dict[int, str]]:
    """The turns of a flat export's dialogue: "name said: ..." or "name: ...", empty where nobody did anything."""
    turns: list[tuple[int | None, str]] = []
    for piece in text.split("\n\n"):
        seat, line = _speaker(piece, names)
        if seat is not None or (not piece and _over(turns)):
            turns.append((seat, line))
        elif turns:
            last_seat, last = turns[-1]
            while last_seat is None and len(turns) > 1:  # an empty line inside what somebody said
                turns.pop()
                last_seat, before = turns[-1]
                last = f"{before}\n\n{last}"
            if last_seat is None:
                raise UnusableRecordError(f"'social_interactions' begins with {plain(piece)}, not with a speaker")
            turns[-1] = (last_seat, f"{last}\n\n{piece}")
        else:
            raise UnusableRecordError(f"'social_interactions' begins with {plain(piece)}, not with a speaker")
    return [{seat: line} if seat is not None else {} for seat, line in turns]


def _over(turns: Sequence[tuple[int | None, str]]) -> bool:
    # Nothing is open that an empty line could belong to.
    return not turns or turns[-1][0] is None or read_action(turns[-1][1]) is not None


def _speaker(piece: str, names: Sequence[str]) -> tuple[int | None, str]:
    for seat, name in enumerate(names):
        if piece.startswith(f"{name} said:"):
            return seat, piece.removeprefix(f"{name} ")
        if piece.startswith(f"{name}: ") and read_action(piece.removeprefix(f"{name}: ")) is not None:
            return seat, piece.removeprefix(f"{name}: ")
    return None, ""


def _ended_by(log: Log, events: Sequence[Event]) -> EndedBy | None:
    """Why it ended: by the environment's comment, else by what happened."""
    comment = log.reasoning.partition("\n")[0] if log.reasoning.startswith("Environment comments:") else ""
    for words, ending in ENDINGS.items():
        if words in comment:
            return ending  # type: ignore[return-value]
    if any(event.action_type == "leave" for event in events):
        return "departure"
    return None


# --- scores ---------------------------------------------------------------------------------------

_COMMENT = re.compile(
    r"Environment comments:(?: terminated:)?[\s;]*"
    rf"(?:(?:Agent \d{{1,2}} |An agent |The conversation )?(?:{'|'.join(ENDINGS)})|The agents have a deal)?[\s;]*"
)
"""The environment's comment, if it says no more than why it ended."""

_SECTION = re.compile(r"^Agent (\d{1,2}) comments:\n", re.MULTILINE)
_BY_NAME = {dimension.name: dimension for dimension in DIMENSIONS}


def _verdict(log: Log, seats: int, note: Note) -> tuple[Verdict | None, dict[str, float]]:
    """The scores as a verdict, and the rewards: each agent's mean of the seven dimensions."""
    scored = [_scores(entry, note) for entry in log.rewards]
    if scored and len(scored) != seats:
        raise UnusableRecordError(f"it has rewards of {len(scored)} agents, but {seats} take part")
    reasons, rest = _reasons(log.reasoning, seats)
    if not any(each.values or each.overall for each in scored):
        if log.prompt:
            note("it was not scored, so the prompt of its scoring is not taken over", "lost")
        if rest or any(reasons):
            note("it was not scored, so the reasons are not taken over", "lost")
        return None, {}
    agents = [f"agent_{index}" for index in range(seats)]
    scores = {
        agent: {name: Score(value=value, reason=why.get(name, "")) for name, value in each.values.items()}
        for agent, each, why in zip(agents, scored, reasons, strict=True)
    }
    details: dict[str, object] = {}
    if log.prompt:
        details["prompt"] = log.prompt
    if rest:
        details["reasoning"] = rest
    measures = {}
    rewards = {}
    for agent, each in zip(agents, scored, strict=True):
        complete = all(name in each.values for name in DIMENSION_NAMES)
        if complete:
            rewards[agent] = overall(each.values)
        if each.overall is not None and not complete:
            measures[f"overall/{agent}"] = each.overall
        elif each.overall is not None and abs(each.overall - rewards[agent]) > 1e-6:
            note(
                f"{agent}: the overall score {each.overall} is not {rewards[agent]:.6g}, the mean of the seven; "
                "the mean stands",
                "repaired",
            )
    judge = judge_name(log.models[0] if log.models else "")
    verdict = Verdict(judge=judge, scores=scores, measures=measures, details=details)
    return verdict, rewards if len(rewards) == seats else {}


@dataclass(frozen=True)
class _Scored:
    """One agent's scores: by dimension, and overall."""

    values: dict[str, float] = field(default_factory=dict)
    overall: float | None = None


def _scores(entry: Any, note: Note) -> _Scored:
    """One agent's rewards: a number, a mapping by dimension, or a pair of both."""
    entry = values.unfolded(entry)
    if values.is_missing(entry):
        return _Scored()
    if (total := values.number(entry)) is not None:
        return _Scored(overall=total or None)  # a bare 0 stands for "not scored"
    by_name: Any = entry
    total = None
    if isinstance(entry, (list, tuple)) and len(entry) == 2:
        total, by_name = values.number(entry[0]), values.unfolded(entry[1])
    if not isinstance(by_name, dict):
        note(f"rewards {plain(entry)} are no number, no mapping and no pair of both; not taken over", "lost")
        return _Scored()
    found = {}
    for name, value in by_name.items():
        score = values.number(value)
        wrong = "no number" if score is None else None
        if score is not None and name in _BY_NAME:
            wrong = out_of_range(_BY_NAME[name], score)
        if wrong or not isinstance(name, str):
            note(f"the score {plain(value)} on {plain(name)} is not taken over: {wrong or 'no name'}", "lost")
        elif score is not None:
            found[name] = score
    in_mapping = found.pop(OVERALL_SCORE, found.pop("overall", None))
    return _Scored(found, in_mapping if total is None else total)


def _reasons(reasoning: str, seats: int) -> tuple[list[dict[str, str]], str]:
    """Reasons by agent and dimension, and what of the text is none of them."""
    pieces = _SECTION.split(reasoning.replace("\r\n", "\n"))
    comment, _, after = pieces[0].partition("\n")
    head = after if _COMMENT.fullmatch(comment) else pieces[0]
    found: list[dict[str, str]] = [{} for _ in range(seats)]
    for number, section in zip(pieces[1::2], pieces[2::2], strict=True):
        if not 1 <= int(number) <= seats or found[int(number) - 1]:
            return [{} for _ in range(seats)], reasoning
        found[int(number) - 1] = _by_dimension(section)
    return found, head.strip()


def _by_dimension(section: str) -> dict[str, str]:
    lines: dict[str, str] = {}
    at = ""
    for line in section.split("\n"):
        name, colon, words = line.partition(": ")
        if colon and name in _BY_NAME and name not in lines:
            at = name
            lines[at] = words
        elif at:
            lines[at] += f"\n{line}"
    return {name: words.rstrip("\n") for name, words in lines.items()}


# --- back to messages -----------------------------------------------------------------------------


def messages_of(episode: Episode) -> list[list[list[str]]]:
    """An episode as SOTOPIA's messages: by turn [sender, receiver, text], the last turn without actions.

    Every agent hears the same of a turn; who did nothing, or had no turn, "did nothing".
    """
    task = episode.task
    names = [seat.character.name for seat in task.seats]
    turns = max((event.turn for event in episode.events), default=-1) + 1
    lines = [[NOTHING] * len(names) for _ in range(turns)]
    for event in episode.events:
        if event.speaker in task.agents:
            to = None if event.to is None else [names[task.agents.index(agent)] for agent in event.to]
            lines[event.turn][task.agents.index(event.speaker)] = action_line(event.action_type, event.argument, to)
    messages: list[list[list[str]]] = []
    for number in range(turns + 1):
        if number == 0:
            told = [f"\n{sotopia_context(task, seat)}\n{STARTS}\n" for seat in range(len(names))]
        else:
            told = [turn_line(number - 1, list(zip(names, lines[number - 1], strict=True)))] * len(names)
        turn = [[ENVIRONMENT_NAME, name, words] for name, words in zip(names, told, strict=True)]
        if number < turns:
            turn += [[name, ENVIRONMENT_NAME, line] for name, line in zip(names, lines[number], strict=True)]
        messages.append(turn)
    return messages


def comments_of(verdict: Verdict, agents: Iterable[str]) -> list[dict[str, str]]:
    """The reasons of a verdict by agent, for `spelling.reasoning_text`."""
    return [{name: score.reason for name, score in verdict.scores.get(agent, {}).items()} for agent in agents]


__all__ = ["Known", "Log", "comments_of", "first_name", "messages_of", "read_episode"]
