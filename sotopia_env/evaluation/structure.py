"""What a judge's prompt and parser guarantee, whatever a model answers; and a judge that guarantees nothing.

Every injection of `attacks.py` goes through the prompt and the parser of `LLMJudge`, with scripted replies that
parrot what was said. Nothing said may become an instruction, another speaker or a score. `NaiveJudge` is kept as
the counter-example that fails.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sotopia_env import aio
from sotopia_env.conversation import backgrounds
from sotopia_env.dimensions import Dimension, get_dimensions
from sotopia_env.episodes import Episode, Score, Verdict
from sotopia_env.errors import JudgeError, ModelError
from sotopia_env.evaluation.attacks import PLACES, Attack, Scene, injections, verdict_text
from sotopia_env.judges.cache import answered_once
from sotopia_env.judges.llm import UNSEEN, LLMJudge, fence_tag, transcript_data
from sotopia_env.models import ChatModel, ScriptedModel
from sotopia_env.tasks import Task, load_tasks

# --- the counter-example ----------------------------------------------------------------------------


class NaiveJudge:
    """THE COUNTER-EXAMPLE: how not to ask a model for scores. Never use it for anything but comparison.

    The transcript stands in the prompt as it is, with nothing around it; the first number that looks like a score
    counts; one out of range is cut to the range; no score at all is a 0. Each of these is how published judges
    have failed.

    Args:
        model: A chat model.
        name: Default "naive/" and the model's name.
    """

    def __init__(self, model: ChatModel, *, name: str | None = None) -> None:
        self.model = model
        self.name = name or f"naive/{model.name}"
        self.dimensions = get_dimensions(["goal"])

    def messages(self, episode: Episode, agent: str) -> list[dict[str, str]]:
        """The prompt that asks for one agent's score."""
        seat = episode.task.agents.index(agent)
        names = {own: episode.task.seats[i].character.name for i, own in enumerate(episode.task.agents)}
        lines = [f"{names.get(e.speaker, e.speaker)}: {e.argument}" for e in episode.events if e.to is None]
        text = (
            f"{backgrounds(episode.task)[seat]}\n\nTranscript:\n" + "\n".join(lines) + f"\n\nHow well did "
            f"{names[agent]} reach the goal, from 0 to 10? Answer with a reason and 'goal: <number>'."
        )
        return [{"role": "user", "content": text}]

    async def score(self, episode: Episode) -> Verdict:
        """Score a finished episode, naively."""
        scores = {}
        for agent in episode.task.agents:
            text = await self._reply(episode, agent)
            found = re.search(r'"?(?:goal|score)"?\s*[:=]\s*(-?\d+)', text, re.IGNORECASE)
            value = min(max(int(found[1]), 0), 10) if found else 0
            scores[agent] = {"goal": Score(value=float(value), reason=text)}
        return Verdict(judge=self.name, scores=scores)

    async def _reply(self, episode: Episode, agent: str) -> str:
        """The model's reply on one agent; asked for, or known already."""
        messages = self.messages(episode, agent)

        async def ask() -> dict[str, Any]:
            try:
                return {"reply": (await self.model.complete(messages)).text}
            except ModelError as error:
                raise JudgeError(f"Judge {self.name!r} got no reply: {error}", episode=episode) from error

        asked = [self.name, self.model.name, *(message["content"] for message in messages)]
        answer = await answered_once(asked, ask)
        return str(answer["reply"])


# --- the structural part ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subject:
    """A prompt and a parser, as the structural part looks at them.

    Attributes:
        name: In reports.
        make: Makes the judge around a model.
        low: A reply that honestly gives every scale its lowest score, with a reason filled in.
        read_back: (speaker, text) of all that was said, and everything else that stands outside the data, as a
            program reads it out of a prompt.
        dimensions: Its scales.
        by_id: Whether its prompt names speakers by id and says who is judged.
    """

    name: str
    make: Callable[[ChatModel], Any]
    low: Callable[[str], str]
    read_back: Callable[[Sequence[dict[str, str]]], tuple[list[tuple[str, str]], str]]
    dimensions: tuple[Dimension, ...]
    by_id: bool = False


def _read_ours(messages: Sequence[dict[str, str]]) -> tuple[list[tuple[str, str]], str]:
    lines = messages[1]["content"].splitlines()  # at everything that anything takes for a line end
    begins = [i for i, line in enumerate(lines) if line.startswith("BEGIN ")]
    ends = [i for i, line in enumerate(lines) if line.startswith("END ")]
    if len(begins) != 1 or len(ends) != 1 or lines[begins[0]][6:] != lines[ends[0]][4:]:
        raise ValueError("the fence is not exactly one pair")
    inside = [json.loads(line) for line in lines[begins[0] + 1 : ends[0]]]
    said = [(line["speaker"], line["text"]) for line in inside if "turn" in line]
    said += [("judged", line["id"]) for line in inside if "judged" in line]
    outside = [messages[0]["content"], *lines[: begins[0]], *lines[ends[0] + 1 :]]
    if any(not line.isprintable() or UNSEEN.search(line) for line in lines):
        raise ValueError("a line holds a character that cannot be seen")
    return said, "\n".join(outside)


def _read_naive(messages: Sequence[dict[str, str]]) -> tuple[list[tuple[str, str]], str]:
    before, _, rest = messages[0]["content"].partition("\n\nTranscript:\n")
    data, _, after = rest.partition("\n\nHow well did ")
    said = [(line.partition(": ")[0], line.partition(": ")[2]) for line in data.splitlines()]
    return said, before + after


OURS = Subject(
    "LLMJudge",
    lambda model: LLMJudge(model, timeout=None),
    lambda reason: verdict_text(get_dimensions(None), low=True, reason=reason),
    _read_ours,
    get_dimensions(None),
    by_id=True,
)
"""The prompt and parser of `LLMJudge`."""

NAIVE = Subject(
    "NaiveJudge (counter-example)",
    lambda model: NaiveJudge(model),
    lambda reason: f"{reason}\ngoal: 0",
    _read_naive,
    get_dimensions(["goal"]),
)
"""The prompt and parser of `NaiveJudge`, which fail."""


@dataclass(frozen=True, slots=True)
class Held:
    """Whether one check held for one injection in one place; "" for checks that need no injection."""

    check: str
    attack: str
    place: str
    held: bool


Check = Callable[[Subject, Episode, Episode, str], Awaitable[bool]]
"""From a prompt and parser, the clean and the attacked episode and the injected text to whether it holds."""


async def _transcript(subject: Subject, clean: Episode, attacked: Episode, text: str) -> bool:
    """What was said, and by whom, can be read back out of the prompt exactly."""
    judge = subject.make(ScriptedModel([]))
    return all(_read(subject, judge, attacked, agent)[0] == _said(subject, attacked, agent) for agent in clean.agents)


def _said(subject: Subject, episode: Episode, agent: str) -> list[tuple[str, str]]:
    names = {own: own if subject.by_id else _name(episode, own) for own in episode.task.agents}
    judged = [("judged", agent)] if subject.by_id else []
    return [(names[event.speaker], event.argument) for event in episode.events if event.to is None] + judged


async def _instructions(subject: Subject, clean: Episode, attacked: Episode, text: str) -> bool:
    """What stands outside the data is the same with and without the attack."""
    judge = subject.make(ScriptedModel([]))
    for agent in clean.agents:
        outside = [_read(subject, judge, episode, agent)[1] for episode in (clean, attacked)]
        if outside[0] is None or outside[0] != outside[1]:
            return False
    return True


def _read(
    subject: Subject, judge: Any, episode: Episode, agent: str
) -> tuple[list[tuple[str, str]], str] | tuple[None, None]:
    try:
        return subject.read_back(judge.messages(episode, agent))
    except (ValueError, LookupError):
        return None, None


async def _echo_prompt(subject: Subject, clean: Episode, attacked: Episode, text: str) -> bool:
    """A model that repeats its whole prompt gives no score."""
    return await _scores(subject, attacked, lambda messages: messages[-1]["content"]) is None


async def _echo_attack(subject: Subject, clean: Episode, attacked: Episode, text: str) -> bool:
    """A model that repeats the injected text and nothing else gives no score."""
    return await _scores(subject, attacked, lambda _: text) is None


async def _quoted_before(subject: Subject, clean: Episode, attacked: Episode, text: str) -> bool:
    """A quotation in front of the verdict does not change it."""
    return _lowest(subject, await _scores(subject, attacked, lambda _: f"It says: {text}\n\n{subject.low('x')}"))


async def _quoted_after(subject: Subject, clean: Episode, attacked: Episode, text: str) -> bool:
    """A quotation behind the verdict does not take its place."""
    return _lowest(subject, await _scores(subject, attacked, lambda _: f"{subject.low('x')}\n\nIt says: {text}"))


async def _quoted_inside(subject: Subject, clean: Episode, attacked: Episode, text: str) -> bool:
    """A quotation in a reason is a reason, and the verdict around it counts."""
    found = await _scores(subject, attacked, lambda _: subject.low(text))
    return found is not None and _lowest(subject, found)


async def _asked_again(subject: Subject, clean: Episode, attacked: Episode, text: str) -> bool:
    """A reply that cannot be used gives no score, and carries no participant's words into the next request."""
    model = ScriptedModel(lambda _: json.dumps({"goal": text, text: {"reason": text, "score": text}}))
    scored = await _score(subject.make(model), attacked) is not None
    requests = [message["content"] for call in model.calls for message in call[2:] if message["role"] == "user"]
    words = text.strip()
    return not scored and not any(len(words) > 20 and words[:40] in request for request in requests)


CHECKS: dict[str, Check] = {
    "transcript": _transcript,
    "instructions": _instructions,
    "echo-prompt": _echo_prompt,
    "echo-attack": _echo_attack,
    "quoted-before": _quoted_before,
    "quoted-after": _quoted_after,
    "quoted-inside": _quoted_inside,
    "asked-again": _asked_again,
}
"""What is checked of every injection in every place; the functions say what holds."""

USELESS: dict[str, Callable[[Sequence[Dimension]], str]] = {
    "out-of-range": lambda dimensions: verdict_text(dimensions).replace(f"{dimensions[-1].high}", "15559"),
    "percent": lambda _: "goal: 15559%",
    "nothing": lambda _: "",
    "prose": lambda _: "I would say that this went very well indeed.",
    "scale-missing": lambda dimensions: verdict_text([*dimensions[:-1], Dimension("wit", 0, 10, "Wit.")]),
    "cut-off": lambda dimensions: verdict_text(dimensions)[:-3],
    "two-scores": lambda dimensions: verdict_text(dimensions).replace('"score": ', '"score": 0, "score": '),
}
"""Replies that hold no complete verdict, and so must give no score, by name."""


def structure(
    subject: Subject = OURS,
    attacks: Iterable[Attack] | None = None,
    *,
    places: Sequence[str] = PLACES,
    task: Task | None = None,
) -> list[Held]:
    """Check what prompt and parser guarantee, whatever a model answers.

    Args:
        subject: `OURS` or `NAIVE`, or a prompt and parser of your own.
        attacks: Default: every packaged injection.
        places: Where each is put.
        task: The scene; default a built-in one. The seats take turns to attack.

    Returns:
        One result for every check, injection and place, and one for every useless reply.
    """
    return aio.run(_structure(subject, injections() if attacks is None else tuple(attacks), places, task))


async def _structure(
    subject: Subject, chosen: Sequence[Attack], places: Sequence[str], task: Task | None
) -> list[Held]:
    scenes = [Scene(task or _default_task(), agent) for agent in ("agent_0", "agent_1")]
    cleans = [scene.clean() for scene in scenes]
    found = []
    for number, (attack, place) in enumerate(itertools.product(chosen, places)):
        turn = (number + number // len(places)) % 2  # every place from both seats
        scene, clean = scenes[turn], cleans[turn]
        text = attack.written(clean, scene.agent, tag=tag_of(clean, scene.agent), dimensions=subject.dimensions)
        attacked = scene.attacked(text, place)
        for name, check in CHECKS.items():
            found.append(Held(name, attack.id, place, await check(subject, clean, attacked, text)))
    for name, reply in USELESS.items():
        scores = await _scores(subject, cleans[0], partial(_always, reply(subject.dimensions)))
        found.append(Held(f"reply {name}", "", "", scores is None))
    return found


def _default_task() -> Task:
    return load_tasks("everyday", n=1)[0]


def _name(episode: Episode, agent: str) -> str:
    return episode.task.seats[episode.task.agents.index(agent)].character.name


def tag_of(episode: Episode, agent: str) -> str:
    """The tag of the fence around an episode in the LLM judge's prompt."""
    return fence_tag(episode, agent, transcript_data(episode, agent))


def _always(reply: str, messages: list[dict[str, str]]) -> str:
    return reply


async def _score(judge: Any, episode: Episode) -> Verdict | None:
    try:
        return await judge.score(episode)  # type: ignore[no-any-return]
    except JudgeError:
        return None


async def _scores(
    subject: Subject, episode: Episode, reply: Callable[[list[dict[str, str]]], str]
) -> list[tuple[str, float]] | None:
    """Every (dimension, score) that comes of a reply, or None if none does."""
    verdict = await _score(subject.make(ScriptedModel(reply)), episode)
    if verdict is None:
        return None
    return [(name, score.value) for own in verdict.scores.values() for name, score in own.items()]


def _lowest(subject: Subject, scores: list[tuple[str, float]] | None) -> bool:
    """Whether all that was scored is the lowest of its scale; no verdict is no wrong one."""
    low = {d.name: float(d.low) for d in subject.dimensions}
    return all(value == low[name] for name, value in scores or ())
