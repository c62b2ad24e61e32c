"""`sotopia-env play`: one conversation at the terminal."""

from __future__ import annotations

import random
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sotopia_env import aio
from sotopia_env.cli import common
from sotopia_env.cli.showing import event_text, print_verdict
from sotopia_env.errors import ConfigurationError, JudgeError, one_line
from sotopia_env.version import __version__

if TYPE_CHECKING:
    from sotopia_env.conversation import Conversation
    from sotopia_env.episodes import Episode
    from sotopia_env.judges.base import Judge, Reward
    from sotopia_env.specs import Agent
    from sotopia_env.tasks import Task


def run(
    *,
    tasks: str,
    task_id: str | None,
    agents: Sequence[str],
    seat: int,
    split: str | None,
    judge: str | None,
    reward: str,
    seed: int | None,
    max_turns: int,
    turn_order: str,
    output: str | None,
    base_url: str | None,
    as_json: bool,
) -> int:
    """Play one conversation with a human in `seat`; with `as_json` all that the human reads goes to stderr."""
    common.check_outputs({"--output": output}, {"--tasks": tasks})
    seed = secrets.randbelow(2**31) if seed is None else seed
    task = _draw(tasks, task_id, split, seed, len(agents) + 1 if len(agents) > 1 else None)
    players = _players(task, agents, seat, base_url, as_json)
    scale = common.read_reward(reward)
    made = _judge(task, judge, scale, base_url)
    started = datetime.now(UTC)
    conversation = _play(task, players, seed=seed, max_turns=max_turns, turn_order=turn_order)
    episode = _episode(conversation, players, started)
    if made is not None:
        episode = _judged(episode, made, scale)
    if output is not None:
        from sotopia_env.episodes import write_episodes

        write_episodes(output, [episode])
    if as_json:
        common.print_json(common.as_record(episode))
    else:
        _show_end(episode, task.agents[seat])
    if episode.error is not None:
        common.log(f"error: {episode.error}")
    return 0 if episode.error is None else 1


def _draw(tasks: str, task_id: str | None, split: str | None, seed: int, seats: int | None) -> Task:
    if task_id is not None:
        return common.find_task(task_id, tasks=None if tasks == "outcome" else tasks, split=split, seed=seed)
    found = common.choose_tasks(tasks, split=split, limit=None, seed=seed, seats=seats)
    return random.Random(seed).choice(found)


def _players(task: Task, specs: Sequence[str], seat: int, base_url: str | None, as_json: bool) -> dict[str, Agent]:
    """Who sits where: the human in `seat`, and one agent for all other seats or one for each."""
    from sotopia_env.agents.human import HumanAgent

    if not 0 <= seat < len(task.seats):
        raise ConfigurationError(f"--seat is {seat!r}, but task {task.id!r} has the seats 0 to {len(task.seats) - 1}.")
    others = len(task.seats) - 1
    if len(specs) not in (1, others):
        raise ConfigurationError(
            f"{len(specs)} agents were given, but task {task.id!r} has {others} other seats. Give one --agent for all "
            f"of them or {others} in seat order."
        )
    human: Agent = HumanAgent(ask=_ask_on_stderr, show=common.log) if as_json else HumanAgent(show=common.say)
    players = [human if spec == "human" else common.make_agents([spec], base_url)[0] for spec in specs]
    players = players * others if len(players) == 1 else players
    return dict(zip(task.agents, [*players[:seat], human, *players[seat:]], strict=True))


def _ask_on_stderr(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _judge(task: Task, spec: str | None, reward: Reward, base_url: str | None) -> Judge | None:
    """The judge asked for; by default arithmetic where it can score, else none."""
    from sotopia_env.judges.base import check_reward

    if spec is None:
        spec = "outcome" if "rules" in task.terms else "none"
    made = common.make_judge(spec, base_url)
    check_reward(made, reward, [task])
    return made


def _play(task: Task, players: dict[str, Agent], *, seed: int, max_turns: int, turn_order: str) -> Conversation:
    from sotopia_env.conversation import Conversation

    conversation = Conversation(task, seed=seed, max_turns=max_turns, turn_order=turn_order)  # type: ignore[arg-type]
    while not conversation.is_over:
        moves = {mover: aio.run(players[mover].act(conversation.view(mover))) for mover in conversation.movers}
        conversation.apply(moves)
    return conversation


def _episode(conversation: Conversation, players: dict[str, Agent], started: datetime) -> Episode:
    from sotopia_env.episodes import Episode

    return Episode(
        task=conversation.task,
        agents={agent: player.name for agent, player in players.items()},
        turn_order=conversation.turn_order,
        max_turns=conversation.max_turns,
        seed=conversation.seed,
        events=tuple(conversation.events),
        ended_by=conversation.ended_by,
        started_at=started.isoformat(timespec="milliseconds"),
        seconds=(datetime.now(UTC) - started).total_seconds(),
        code_version=__version__,
    )


def _judged(episode: Episode, judge: Judge, reward: Reward) -> Episode:
    """The episode with its verdict, or marked as one that could not be judged."""
    from sotopia_env.judges.base import check_verdict, rewards_from

    try:
        verdict = check_verdict(aio.run(judge.score(episode)), episode, judge)
        rewards = rewards_from(verdict, reward, episode)
    except JudgeError as error:
        return episode.model_copy(update={"status": "judge_failed", "error": one_line(error)})
    except Exception as foreign:  # a user's judge may raise anything; what was played is kept all the same
        return episode.model_copy(update={"status": "judge_failed", "error": one_line(foreign)})
    return episode.model_copy(update={"verdicts": {judge.name: verdict}, "rewards": rewards})


def _show_end(episode: Episode, human: str) -> None:
    """What happened after the human's last move, and what it was worth."""
    own = [index for index, event in enumerate(episode.events) if event.speaker == human]
    for event in episode.events[own[-1] + 1 if own else 0 :]:
        if event.to is None or human in event.to:
            common.say(event_text(episode.task, event))
    common.say(f"-- ended by {episode.ended_by}; seed {episode.seed} --", style="bold")
    for verdict in episode.verdicts.values():
        print_verdict(episode.task, verdict)
    if not episode.verdicts and episode.error is None:
        common.say("Not scored. Name a judge, such as --judge openai/gpt-4o, to have it scored.", style="dim")
