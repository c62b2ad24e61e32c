"""Every exception this package raises on purpose.

SotopiaEnvError
├── ConfigurationError (ValueError)     arguments that do not fit together, or an unknown name
│   ├── TaskNotFoundError (LookupError) no such pack, family, split or task id
│   └── MissingExtraError (ImportError) an optional dependency is not installed
├── TaskFormatError (ValueError)        a task or character record that cannot be used
├── InvalidActionError (ValueError)     an action outside its space, or none where one is due
├── ResetNeededError (gymnasium's)      step or observe without a running episode
├── ModelError (RuntimeError)           a model call that failed for good
├── BudgetError (RuntimeError)          a model call that was not made, because a budget has too little left
├── JudgeError (RuntimeError)           no complete verdict; never replaced by a score
└── StoreError (RuntimeError)           an episode store that cannot be opened or read

try:
env.step(actions)
except sotopia_env.JudgeError as error:
keep(error.episode)                  # nothing that was paid for is lost
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import gymnasium.error

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode


class SotopiaEnvError(Exception):
    """Base class of all errors of this package."""


class ConfigurationError(SotopiaEnvError, ValueError):
    """Raised when arguments do not fit together or name something unknown."""


class TaskNotFoundError(ConfigurationError, LookupError):
    """Raised when a task pack, family, split or task id does not exist."""


class MissingExtraError(ConfigurationError, ImportError):
    """Raised when an optional dependency is missing; the message names the extra to install."""


class TaskFormatError(SotopiaEnvError, ValueError):
    """Raised when a task or character record cannot be used; says file, line and field."""


class InvalidActionError(SotopiaEnvError, ValueError):
    """Raised when an agent that has the turn sends no action or one outside the action space."""


class ResetNeededError(SotopiaEnvError, gymnasium.error.ResetNeeded):
    """Raised when an environment is used before `reset` or after its episode ended."""


class ModelError(SotopiaEnvError, RuntimeError):
    """Raised when a model call failed for good, after every retry.

    Attributes:
        reply: What the endpoint sent, if it sent anything; never contains the API key.
    """

    def __init__(self, message: str, *, reply: str | None = None) -> None:
        super().__init__(message)
        self.reply = reply


class BudgetError(SotopiaEnvError, RuntimeError):
    """Raised when a model call was not made, because it might have gone past a budget; nothing was spent on it.

    Attributes:
        episodes: What a rollout without a store had played when it stopped; () otherwise.
    """

    def __init__(self, message: str, *, episodes: Sequence[Episode] = ()) -> None:
        super().__init__(message)
        self.episodes = episodes


class JudgeError(SotopiaEnvError, RuntimeError):
    """Raised when a judge gives no complete verdict. Callers must not put a number in its place.

    Attributes:
        reply: The judge model's raw text, if it replied.
        episode: The finished episode, where the caller had one; it holds every event.
    """

    def __init__(self, message: str, *, reply: str | None = None, episode: Episode | None = None) -> None:
        super().__init__(message)
        self.reply = reply
        self.episode = episode


class StoreError(SotopiaEnvError, RuntimeError):
    """Raised when an episode store cannot be opened, read or written."""


def unknown(kind: str, value: object, known: Iterable[str], remedy: str = "") -> str:
    """Word the message for a name that does not exist: what, the value, what is known, the nearest."""
    names = sorted(known)
    shown = ", ".join(repr(name) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    message = f"Unknown {kind} {value!r:.80}. Known: {shown or 'none'}."
    close = difflib.get_close_matches(str(value), names, n=1)
    if close:
        message += f" Did you mean {close[0]!r}?"
    return f"{message} {remedy}".rstrip()


def one_line(error: BaseException, limit: int = 300) -> str:
    """Shorten an exception to its class and one line of text, for records and tables."""
    text = " ".join(str(error).split())
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
