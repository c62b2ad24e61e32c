"""`sotopia-env show`: a stored episode for human eyes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sotopia_env.cli import common
from sotopia_env.cli.sources import SHORT_ID, Source, find_episode, open_source

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode, Event, Verdict
    from sotopia_env.tasks import Task


def run(
    *,
    source: str,
    episode_id: str | None,
    as_list: bool,
    status: str | None,
    task: str | None,
    private: bool,
    as_json: bool,
) -> None:
    """Print one episode, or with `as_list` a row for each."""
    opened = open_source(source)
    if as_list:
        _list(opened, status, task, as_json)
        return
    episode = find_episode(opened, episode_id)
    if as_json:
        common.print_json(common.as_record(episode))
    else:
        print_episode(episode, private=private)


def _list(source: Source, status: str | None, task: str | None, as_json: bool) -> None:
    chosen = (
        episode
        for episode in source.episodes()
        if (status is None or episode.status == status) and (task is None or episode.task.id == task)
    )
    if as_json:
        common.print_json([_row_record(episode) for episode in chosen])
        return
    rows = [
        (
            episode.id[:SHORT_ID],
            episode.task.id,
            " / ".join(episode.agents.values()),
            episode.status,
            episode.ended_by or "-",
            " / ".join(f"{reward:.2f}" for reward in episode.rewards.values()) or "-",
        )
        for episode in chosen
    ]
    common.print_table(("id", "task", "agents", "status", "ended by", "rewards"), rows)


def _row_record(episode: Episode) -> dict[str, object]:
    return {
        "id": episode.id,
        "task": episode.task.id,
        "agents": episode.agents,
        "status": episode.status,
        "error": episode.error,
        "ended_by": episode.ended_by,
        "rewards": episode.rewards,
        "judges": sorted(episode.verdicts),
    }


# --- one episode ----------------------------------------------------------------------------------


def print_episode(episode: Episode, *, private: bool = False) -> None:
    """Print scenario, cast, transcript, and every verdict with its reasons."""
    print_cast(episode.task, episode.agents, private=private)
    common.say()
    for event in episode.events:
        common.say(event_text(episode.task, event))
    common.say(f"-- {'ended by ' + episode.ended_by if episode.ended_by else 'broke off'} --", style="bold")
    if episode.error is not None:
        common.say(f"{episode.status}: {episode.error}", style="bold")
    for verdict in episode.verdicts.values():
        common.say()
        print_verdict(episode.task, verdict)
    if episode.rewards:
        common.say()
        common.say("rewards: " + ", ".join(f"{agent} {reward:.2f}" for agent, reward in episode.rewards.items()))
    common.say(
        f"episode {episode.id[:SHORT_ID]}, seed {episode.seed}, repeat {episode.repeat}, {episode.turn_order}, "
        f"at most {episode.max_turns} turns",
        style="dim",
    )


def print_cast(task: Task, agents: dict[str, str], *, private: bool) -> None:
    """Print the scenario and who plays whom, with goals and on request all that only they know."""
    common.say(task.id, style="bold")
    common.say(task.scenario)
    common.say(f"The cast know each other as: {task.relationship.replace('_', ' ')}", style="dim")
    for agent, seat in zip(task.agents, task.seats, strict=True):
        common.say()
        played = f", played by {agents[agent]}" if agent in agents else ""
        common.say(f"{agent}: {seat.character.name}{played}", style="bold")
        common.say(f"  goal: {seat.goal}")
        if private:
            for key, value in seat.private.items():
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                common.say(f"  {key.replace('_', ' ')}: {text}")
            if seat.character.secret:
                common.say(f"  secret: {seat.character.secret}")


def event_text(task: Task, event: Event) -> str:
    """One event as a line; a private one says who saw it."""
    from sotopia_env.session import event_line

    seen = "" if event.to is None else f"  (seen by {', '.join(event.to) or 'nobody else'})"
    return event_line(task, event) + seen


def print_verdict(task: Task, verdict: Verdict) -> None:
    """Print a judge's scores with reasons, and its measures."""
    common.say(f"judge {verdict.judge}", style="bold")
    for agent, seat in zip(task.agents, task.seats, strict=True):
        for name, score in verdict.scores.get(agent, {}).items():
            reason = f"  {score.reason}" if score.reason else ""
            common.say(f"  {agent} ({seat.character.name})  {name} {score.value:.2f}{reason}")
    if verdict.measures:
        common.say("  " + ", ".join(f"{name} {value:.2f}" for name, value in verdict.measures.items()))
