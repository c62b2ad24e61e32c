"""A person at the terminal as an agent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sotopia_env.actions import ACTION_TYPES, LEAVE, MAX_ARGUMENT_LENGTH, NOTHING, Action, is_text
from sotopia_env.episodes import ENVIRONMENT
from sotopia_env.session import printable

_QUESTIONS = {
    "speak": "Say: ",
    "non-verbal communication": "Gesture or expression: ",
    "action": "Do: ",
    "leave": "Last words (Enter for none): ",
}


class HumanAgent:
    """Shows what is new since the person's last move, and asks for the next one.

    On the first turn the background is shown as well. What others said cannot steer the terminal or forge a
    line: control characters and line ends are shown as escapes, and nothing is read as markup. An action type
    may be given by its number, its name or the beginning of it; Enter alone speaks. Ctrl-D leaves.

    Args:
        ask: Shows a question and returns the line typed; default `input`.
        show: Prints one line of plain text (escape it first if yours reads markup); default `print`.
        name: Recorded in episodes.
    """

    def __init__(
        self,
        *,
        ask: Callable[[str], str] | None = None,
        show: Callable[[str], None] | None = None,
        name: str = "human",
    ) -> None:
        self.name = name
        self._ask = ask or input
        self._show = show or print

    def act(self, observation: dict[str, Any]) -> Action:
        """Show what is new and ask for a move; off turn, do nothing and show nothing."""
        if not observation["available_actions"][1:].any():
            return NOTHING
        for line in news(observation):
            self._show(line)
        try:
            kind = self._kind()
            return NOTHING if kind == "none" else Action(kind, self._argument(kind))
        except EOFError:  # the terminal is closed: nobody is there any more
            return LEAVE

    def _kind(self) -> str:
        choices = ", ".join(f"{number} {name}" for number, name in enumerate(ACTION_TYPES))
        while True:
            typed = self._ask(f"Your move ({choices}; Enter for speak): ").strip().lower()
            if not typed:
                return "speak"
            if typed.isascii() and typed.isdigit() and int(typed) < len(ACTION_TYPES):
                return ACTION_TYPES[int(typed)]
            fitting = [name for name in ACTION_TYPES if name == typed] or [
                name for name in ACTION_TYPES if name.startswith(typed)
            ]
            if len(fitting) == 1:
                return fitting[0]
            self._show(f"{typed!r:.80} is not one of {', '.join(ACTION_TYPES)}.")

    def _argument(self, kind: str) -> str:
        while True:
            typed = self._ask(_QUESTIONS[kind])
            if is_text(typed):
                return typed
            self._show(f"At most {MAX_ARGUMENT_LENGTH} characters that encode as UTF-8, please.")

    def __repr__(self) -> str:
        return f"HumanAgent({self.name!r})"


def news(observation: dict[str, Any]) -> list[str]:
    """The lines a person has not seen yet: all events since its own last move."""
    me: str = observation["agent"]
    names: dict[str, str] = json.loads(observation["facts"])["names"]
    transcript = observation["transcript"]
    own = [index for index, event in enumerate(transcript) if event[1] == me]
    lines = []
    if not own:
        lines += [*map(printable, observation["background"].split("\n")), ""]
    # Others' moves of one's own last turn are new too: in simultaneous order nobody saw them when moving.
    since = transcript[own[-1]][0] if own else 0
    for turn, speaker, kind, argument in transcript:
        if turn >= since and speaker != me:
            lines.append(f"{turn:>3}  {_told(names.get(speaker, speaker), speaker, ACTION_TYPES[kind], argument)}")
    return [*lines, f"Turn {observation['turn']}:"]


def _told(name: str, speaker: str, kind: str, argument: str) -> str:
    who, text = printable(name), printable(argument)
    if speaker == ENVIRONMENT:
        return f"({text})"
    match kind:
        case "speak":
            return f"{who}: {text}"
        case "none":
            return f"{who} does nothing"
        case "leave":
            return f"{who} leaves" + (f": {text}" if text else "")
        case _:
            return f"{who} [{kind}] {text}"
