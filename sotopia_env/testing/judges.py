"""`check_judge`."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sotopia_env import aio
from sotopia_env.actions import Action
from sotopia_env.conversation import Conversation
from sotopia_env.episodes import Episode
from sotopia_env.errors import ConfigurationError, JudgeError, one_line
from sotopia_env.judges.base import Judge, check_verdict
from sotopia_env.specs import make_judge
from sotopia_env.tasks import Task
from sotopia_env.testing.contract import ContractError, default_tasks
from sotopia_env.testing.moves import awkward


def check_judge(judge: str | Judge, tasks: Sequence[Task] | None = None, *, max_turns: int = 8) -> None:
    """Check a judge on finished episodes: complete verdicts in range or `JudgeError`, never a stand-in.

    Args:
        judge: A judge or a spec string.
        tasks: What is judged, each once talked through and once left at once; default as for `check_agent`.
        max_turns: Turn limit of each conversation.

    Raises:
        ContractError: At the first breach.
    """
    name = getattr(judge, "name", None) if not isinstance(judge, str) else judge
    if not isinstance(name, str) or not name:
        raise ContractError(f"The judge's name is {name!r}, but must be a string that is not empty. Set `name`.")
    made = make_judge(judge)
    assert made is not None, "only None gives None, and that has no name"
    for task in default_tasks() if tasks is None else tasks:
        promised = _promised(made, task)
        for leaves in (False, True):
            _check_verdict(made, _finished_episode(task, max_turns, leaves), promised)


def _promised(judge: Judge, task: Task) -> set[str] | None:
    """What `covers` promises; None without `covers`; a set with nothing in it if the task is refused."""
    covers = getattr(judge, "covers", None)
    if covers is None:
        return None
    try:
        return set(covers(task))
    except ConfigurationError:
        return set()


def _finished_episode(task: Task, max_turns: int, leaves: bool) -> Episode:
    conversation = Conversation(task, seed=0, max_turns=max_turns)
    draw = random.Random(task.id)
    while not conversation.is_over:
        mover = conversation.movers[0]
        move = Action("leave") if leaves else awkward(conversation.view(mover), draw)
        conversation.apply({mover: move})
    return Episode(
        task=task,
        agents=dict.fromkeys(task.agents, "awkward"),
        max_turns=max_turns,
        seed=0,
        events=tuple(conversation.events),
        ended_by=conversation.ended_by,
    )


def _check_verdict(judge: Judge, episode: Episode, promised: set[str] | None) -> None:
    where = f"on task {episode.task.id!r}"
    before = episode.model_dump_json()
    try:
        verdict = aio.run(judge.score(episode))
    except JudgeError:
        verdict = None
    except Exception as error:  # whatever a foreign judge raises
        raise ContractError(
            f"Judge {judge.name!r} raised {one_line(error)} {where}, but may raise JudgeError only. Raise "
            "JudgeError from it, so that callers know no verdict was given."
        ) from error
    if episode.model_dump_json() != before:
        raise ContractError(f"Judge {judge.name!r} changed the episode {where}. Copy what you want to change.")
    if verdict is None:
        return
    try:
        check_verdict(verdict, episode, judge)
    except JudgeError as error:
        raise ContractError(f"{error} Give a complete verdict in range {where}, or raise JudgeError.") from error
    if verdict.judge != judge.name:
        raise ContractError(
            f"Judge {judge.name!r} signed its verdict {where} as {verdict.judge!r}. Both must be equal: verdicts are "
            "kept by that name."
        )
    _check_filled({agent: set(scores) for agent, scores in verdict.scores.items()}, judge, promised, where)


def _check_filled(filled: dict[str, set[str]], judge: Judge, promised: set[str] | None, where: str) -> None:
    everywhere = set.intersection(*filled.values())
    if promised is not None and everywhere != promised:
        raise ContractError(
            f"Judge {judge.name!r} filled {sorted(everywhere)} for every seat {where}, but its covers(task) says "
            f"{sorted(promised)}. Make them agree, and raise JudgeError where a score is missing."
        )
    lacking = sorted(agent for agent, names in filled.items() if not names)
    uneven = promised is None and any(names != everywhere for names in filled.values())
    if lacking or uneven:
        found = {agent: sorted(names) for agent, names in filled.items()}
        raise ContractError(
            f"Judge {judge.name!r} scored {found} {where}, but every agent must be scored on the same dimensions. "
            "Raise JudgeError where a score is missing, or say what you fill in covers(task)."
        )
