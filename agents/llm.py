"""A language model as an agent."""

from __future__ import annotations

from typing import Any

from sotopia_env.actions import ACTION_TYPES, NOTHING, Action, UnreadableReplyError, parse_reply
from sotopia_env.chat import RETRY, Message, render
from sotopia_env.models import ChatModel, Reply

ACTION_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "action",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "action_type": {"type": "string", "enum": list(ACTION_TYPES)},
                "argument": {"type": "string"},
            },
            "required": ["action_type", "argument"],
            "additionalProperties": False,
        },
    },
}
"""The `response_format` under which a model can only reply with an action."""


class LLMAgent:
    """Plays what a chat model answers to `chat.render(observation)`.

    A reply that cannot be read is asked for once more, with what was wrong; if that cannot be read
    either, the move is a `none` marked `parse_failure`, which filters and tables see. Off turn it does
    nothing and calls nothing.

    Args:
        model: What to ask.
        name: Recorded in episodes; default the model's name.
        system_role: False for models without a system role.
        force_json: Send the JSON schema of an action with every call, for endpoints that hold a model to it. What
            a model can do apart from keeping to the form shows then.
    """

    def __init__(
        self, model: ChatModel, *, name: str | None = None, system_role: bool = True, force_json: bool = False
    ) -> None:
        self.model = model
        self.name = name or model.name + (_with_json(model.name) if force_json else "")
        self.system_role = system_role
        self.force_json = force_json

    async def act(self, observation: dict[str, Any]) -> Action:
        """Ask the model for a move.

        Raises:
            ModelError: If the model could not be reached; the episode fails, nothing is made up.
        """
        if not observation["available_actions"][1:].any():
            return NOTHING
        messages = render(observation, system_role=self.system_role)
        reply = await self._complete(messages)
        try:
            return parse_reply(reply.text)
        except UnreadableReplyError as error:
            again = [
                *messages,
                {"role": "assistant", "content": reply.text or "(empty)"},
                {"role": "user", "content": RETRY.format(problem=error)},
            ]
        reply = await self._complete(again)
        try:
            return parse_reply(reply.text)
        except UnreadableReplyError:
            return Action("none", "", parse_failure=True)

    async def _complete(self, messages: list[Message]) -> Reply:
        if self.force_json:
            return await self.model.complete(messages, response_format=ACTION_FORMAT)
        return await self.model.complete(messages)

    def __repr__(self) -> str:
        return f"LLMAgent({self.name!r})"


def _with_json(name: str) -> str:
    return ("&" if "?" in name else "?") + "json=1"
