"""Episodes as rows for TRL: the chat that an agent saw when it acted, and what it replied.

Every row is rendered by `sotopia_env.chat` from the agent's view, never from the episode's seats, so that
it shows what acting showed and nothing private to others. Rows are for training elsewhere; they cannot be
read back into episodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sotopia_env import chat
from sotopia_env.conversation import conversation_of
from sotopia_env.episodes import Episode
from sotopia_env.errors import ConfigurationError
from sotopia_env.interop.columns import SURROGATE
from sotopia_env.tasks import Task

if TYPE_CHECKING:
    from sotopia_env.interop.export import Job


class _Rows:
    """JSON Lines, ASCII-escaped, so that no text can end a line."""

    def __init__(self, job: Job) -> None:
        self._file = job.files.enter_context(job.place.open("w", encoding="ascii"))
        self._written = job.written
        self._left_out = job.left_out

    def add(self, record: Task | Episode) -> None:
        """Write an episode's rows."""
        assert isinstance(record, Episode)
        if record.status == "failed":
            self._left_out["episodes that failed"] += 1
            return
        try:
            conversation = conversation_of(record)
        except ConfigurationError:
            self._left_out["episodes whose turns cannot be shown"] += 1
            return
        before = self._written["rows"]
        for agent in record.task.agents:
            view = conversation.view(agent)
            messages = [
                {"role": message["role"], "content": _encodable(message["content"])} for message in chat.render(view)
            ]
            seen = sum(event.speaker == agent for event in view["transcript"])  # nothing once it has left
            own = [event for event in conversation.events if event.speaker == agent][:seen]
            if not own:
                self._left_out["agents that never moved"] += 1
                continue
            about = {
                "episode": record.id,
                "agent": agent,
                "name": _encodable(record.agents.get(agent, "")),
                "task": record.task.id,
                "split": record.task.split,
                "reward": record.rewards.get(agent),
            }
            failures = [event.parse_failure for event in own]
            for row in self._made(messages, failures):
                self._file.write(json.dumps({**row, **about}, ensure_ascii=True, allow_nan=False) + "\n")
                self._written["rows"] += 1
        if self._written["rows"] > before:
            self._written["episodes"] += 1

    def _made(self, messages: list[chat.Message], failures: list[bool]) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing waits."""


class MessageLines(_Rows):
    """One row per agent and episode: {"messages": [...], ...}; every reply can carry loss.

    `unreadable` counts the replies that stand for one that could not be read: TRL has no mask for single
    replies, so filter by it.
    """

    def _made(self, messages: list[chat.Message], failures: list[bool]) -> Iterator[dict[str, Any]]:
        yield {"messages": messages, "unreadable": sum(failures)}


class TurnLines(_Rows):
    """One row per own turn: {"prompt": [...], "completion": [one reply], ...}.

    A reply that could not be read is shown in later prompts, for it happened, but is no completion.
    """

    def _made(self, messages: list[chat.Message], failures: list[bool]) -> Iterator[dict[str, Any]]:
        # system, then user and assistant in turn: the reply of own move number n is message 2n + 2.
        for number, unreadable in enumerate(failures):
            if unreadable:
                self._left_out["replies that could not be read"] += 1
                continue
            place = 2 * number + 2
            yield {"prompt": messages[:place], "completion": [messages[place]], "move": number}


def _encodable(text: str) -> str:
    """A lone surrogate, which no tokenizer takes, becomes the replacement character."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)
