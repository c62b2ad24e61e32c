"""Observation to chat messages: the only place that renders prompts, for acting and training alike.

    system     the background and the rules of reply
    user       what happened since, then "Turn k: your move."      } for every own
    assistant  the canonical JSON of the own event of turn k        } event
    user       the open message, if the agent has the turn

Rendered this way, the messages of one observation are a strict prefix of those of every later one in
which the same agent has the turn: servers can reuse the prompt's cache, and a training row shows
exactly what was seen when acting. Nothing that changes while one waits (masks, turns left, retries)
is ever rendered. Text of agents appears as JSON strings, so no speaker can forge another's line.
"""

from __future__ import annotations

import json
from typing import Any

from sotopia_env.actions import ACTION_TYPES, Action
from sotopia_env.episodes import ENVIRONMENT

Message = dict[str, str]

REPLY_RULES = f"""Reply with one JSON object and nothing else:
{{"action_type": "...", "argument": "..."}}
action_type is one of: {", ".join(f'"{name}"' for name in ACTION_TYPES)}.
- "speak": argument is what you say. "non-verbal communication": a gesture or expression. "action": something you do.
- "none": you do nothing this turn. "leave": you leave the conversation for good. Both may have an empty argument.
Stay in character, speak only for yourself, and work towards your private goal.
Leave when it is reached or out of reach."""

RETRY = "Your reply could not be read: {problem}. Reply again with one JSON object of the form asked for, nothing else."
"""Shown once to a model whose reply could not be read; never part of a training row."""


def system_text(observation: dict[str, Any]) -> str:
    """The system message: background, then the rules of reply."""
    return f"{observation['background']}\n\n{REPLY_RULES}"


def render(observation: dict[str, Any], *, system_role: bool = True) -> list[Message]:
    """Render an observation as chat messages; user and assistant alternate.

    Args:
        observation: What `Conversation.view` or an environment gave.
        system_role: False for models without one: the system text then stands in front of the
            first user message.

    Returns:
        Messages with "role" and "content". The last one is the open user message if the agent has
        the turn; otherwise the messages end with the agent's own last move.
    """
    me: str = observation["agent"]
    names: dict[str, str] = json.loads(observation["facts"])["names"]
    messages: list[Message] = [{"role": "system", "content": system_text(observation)}]
    waiting: list[str] = []
    # Own event first within a turn: in simultaneous order nobody saw the others' moves when moving.
    events = sorted(observation["transcript"], key=lambda event: (event[0], event[1] != me))
    for turn, speaker, kind, argument in events:
        if speaker == me:
            messages.append({"role": "user", "content": _open(waiting, turn)})
            messages.append({"role": "assistant", "content": canonical(kind, argument)})
            waiting = []
        else:
            waiting.append(_line(names, speaker, kind, argument))
    if observation["available_actions"][1:].any():
        messages.append({"role": "user", "content": _open(waiting, observation["turn"])})
    if system_role:
        return messages
    return _without_system(messages)


def render_flat(observation: dict[str, Any]) -> list[Message]:
    """Render an observation as one user message that holds the whole history, as SOTOPIA-pi's prompts do.

    Context, all that this agent is told of the people and its own goal, the history with its turn
    numbers, the turn, and the action types (arXiv 2403.08715, appendix B.3, in our words). Only for
    training rows of that form: agents act on `render`.

    Args:
        observation: What an agent saw when it had the turn.
    """
    me: str = observation["agent"]
    names: dict[str, str] = json.loads(observation["facts"])["names"]
    lines = [
        _flat_line(names, turn, "You" if speaker == me else speaker, kind, argument)
        for turn, speaker, kind, argument in observation["transcript"]
    ]
    turn = observation["turn"]
    parts = [
        "This is your part in a social interaction. Only you know your goal and your secrets.",
        observation["background"],
        "The conversation so far:\n" + ("\n".join(lines) or "Nothing has been said yet."),
        f"You are at turn {turn}.\n{REPLY_RULES}",
    ]
    return [{"role": "user", "content": "\n\n".join(parts)}]


def canonical(kind: int | str, argument: str) -> str:
    """The canonical JSON of an action: what a perfect reply looks like, and what training targets are."""
    name = kind if isinstance(kind, str) else ACTION_TYPES[kind]
    return json.dumps({"action_type": name, "argument": argument}, ensure_ascii=False)


def reply_text(action: Action) -> str:
    """The canonical JSON of an `Action`."""
    return canonical(action.action_type, action.argument)


def _open(lines: list[str], turn: int) -> str:
    return "\n".join([*lines, f"Turn {turn}: your move."])


def _line(names: dict[str, str], speaker: str, kind: int, argument: str) -> str:
    if speaker == ENVIRONMENT:
        return f"[{argument}]"
    who = names.get(speaker, speaker)
    text = json.dumps(argument, ensure_ascii=False)
    match ACTION_TYPES[kind]:
        case "speak":
            return f"{who} said: {text}"
        case "non-verbal communication":
            return f"{who} [non-verbal communication]: {text}"
        case "action":
            return f"{who} [action]: {text}"
        case "leave":
            return f"{who} left the conversation" + (f": {text}" if argument else ".")
        case _:
            return f"{who} did nothing."


def _flat_line(names: dict[str, str], turn: int, speaker: str, kind: int, argument: str) -> str:
    return f"Turn {turn}: {_line(names, speaker, kind, argument)}"


def _without_system(messages: list[Message]) -> list[Message]:
    if len(messages) == 1:
        return [{"role": "user", "content": messages[0]["content"]}]
    first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    return [first, *messages[2:]]
