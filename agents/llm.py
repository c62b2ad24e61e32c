"""A language model as an agent."""

from __future__ import annotations

from typing import Any

from sotopia_env.actions import NOTHING, Action, UnreadableReplyError, parse_reply
from sotopia_env.chat import RETRY, render
from sotopia_env.models import ChatModel


class LLMAgent:
    """Plays what a chat model answers to `chat.render(observation)`.

    A reply that cannot be read is asked for once more, with what was wrong; if that cannot be read
    either, the move is a `none` marked `parse_failure`, which filters and tables see. Off turn it does
    nothing and calls nothing.

    Args:
        model: What to ask.
        name: Recorded in episodes; default the model's name.
        system_role: False for models without a system role.
    """

    def __init__(self, model: ChatModel, *, name: str | None = None, system_role: bool = True) -> None:
        self.model = model
        self.name = name or model.name
        self.system_role = system_role

    async def act(self, observation: dict[str, Any]) -> Action:
        """Ask the model for a move.

        Raises:
            ModelError: If the model could not be reached; the episode fails, nothing is made up.
        """
        if not observation["available_actions"][1:].any():
            return NOTHING
        messages = render(observation, system_role=self.system_role)
        reply = await self.model.complete(messages)
        try:
            return parse_reply(reply.text)
        except UnreadableReplyError as error:
            again = [
                *messages,
                {"role": "assistant", "content": reply.text or "(empty)"},
                {"role": "user", "content": RETRY.format(problem=error)},
            ]
        reply = await self.model.complete(again)
        try:
            return parse_reply(reply.text)
        except UnreadableReplyError:
            return Action("none", "", parse_failure=True)

    def __repr__(self) -> str:
        return f"LLMAgent({self.name!r})"
