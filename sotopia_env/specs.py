"""Spec strings: how a name such as "scripted/fair" or "openai/gpt-4o" becomes an agent or a judge.

This is the door through which the environment reaches `agents` and model clients: lazily, so that
what is not asked for is not imported.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable
from typing import Any, Protocol, runtime_checkable

from sotopia_env.actions import Action
from sotopia_env.errors import ConfigurationError, unknown
from sotopia_env.judges.base import Judge


@runtime_checkable
class Agent(Protocol):
    """A policy in a seat. `act` may be `def` or `async def`, and is a function of its observation alone.

    `name` identifies the behaviour: it is part of an episode's key, so agents that behave differently
    need different names. With `inline = True` rollouts call a sync `act` in place instead of on a
    worker thread; set it for agents that neither wait nor compute for long.
    """

    name: str

    def act(self, observation: dict[str, Any]) -> Action | Awaitable[Action]:
        """Choose a move."""
        ...


AGENT_FORMS = (
    "scripted/<strategy>",
    "random",
    "human",
    "openai/<model>",
    "local/<model>",
    "hf/<hub id or folder>",
    "package.module:attribute",
)
JUDGE_FORMS = ("outcome", "openai/<model>", "local/<model>", "package.module:attribute")


def make_agent(spec: str | Agent, *, base_url: str | None = None, api_key: str | None = None) -> Agent:
    """Make an agent from a spec string; an agent comes back as it is.

    Args:
        spec: One of `AGENT_FORMS`. Model options follow a question mark: `openai/gpt-4o?temperature=0.7`. With
            `json=1` an openai or local model is held to the JSON form of an action by its endpoint.
        base_url: For `openai/...`; default `OPENAI_BASE_URL`, else OpenAI's own.
        api_key: For `openai/...`; default `OPENAI_API_KEY`.

    Raises:
        ConfigurationError: If the spec names nothing known, or its object is no agent.
        MissingExtraError: If it needs an optional dependency that is not installed.
    """
    if not isinstance(spec, str):
        return _checked_agent(spec, repr(spec))
    kind, _, rest = spec.partition("/")
    if spec == "random":
        from sotopia_env.agents.random_agent import RandomAgent

        return RandomAgent()
    if spec == "human":
        from sotopia_env.agents.human import HumanAgent

        return HumanAgent()
    if kind == "scripted" and "/" in spec:
        from sotopia_env.agents.scripted import STRATEGIES, make

        if rest not in STRATEGIES:
            raise ConfigurationError(unknown("strategy", rest, STRATEGIES, "Write it as scripted/<strategy>."))
        return make(rest)
    if kind in ("openai", "local") and rest:
        from sotopia_env.agents.llm import LLMAgent

        rest, force_json = _without_json(rest)
        return LLMAgent(_model(kind, rest, base_url, api_key), force_json=force_json)
    if kind == "hf" and rest:
        from sotopia_env.agents.hf import hf_agent

        return hf_agent(rest)
    if ":" in spec:
        return _checked_agent(_user_object(spec), spec)
    raise ConfigurationError(unknown("agent", spec, AGENT_FORMS, _nearby(spec)))


def make_judge(spec: str | Judge | None, *, base_url: str | None = None, api_key: str | None = None) -> Judge | None:
    """Make a judge from a spec string; a judge, or `None` for no verdict, comes back as it is.

    Raises:
        ConfigurationError: If the spec names nothing known, or its object is no judge.
    """
    if spec is None:
        return None
    if not isinstance(spec, str):
        return _checked_judge(spec, repr(spec))
    kind, _, rest = spec.partition("/")
    if spec == "outcome":
        from sotopia_env.judges.outcome import OutcomeJudge

        return OutcomeJudge()
    if kind in ("openai", "local") and rest:
        from sotopia_env.judges.llm import LLMJudge

        model = _model(kind, rest, base_url, api_key)
        return LLMJudge(model, name=model.name)
    if ":" in spec:
        return _checked_judge(_user_object(spec), spec)
    raise ConfigurationError(unknown("judge", spec, JUDGE_FORMS))


def _without_json(rest: str) -> tuple[str, bool]:
    """Take the option json=1, which is the agent's and not the model's, out of a spec."""
    model, _, query = rest.partition("?")
    pairs = query.split("&") if query else []
    left = [pair for pair in pairs if pair != "json=1"]
    if other := next((pair for pair in left if pair.partition("=")[0] == "json"), None):
        raise ConfigurationError(f"{other!r:.80} is no option of an agent. Write json=1, or leave it out.")
    return model + ("?" + "&".join(left) if left else ""), len(left) < len(pairs)


def _model(kind: str, rest: str, base_url: str | None, api_key: str | None) -> Any:
    if kind == "openai":
        from sotopia_env.models import openai_model

        return openai_model(rest, base_url=base_url, api_key=api_key)
    from sotopia_env.local import local_model

    return local_model(rest)


def _user_object(spec: str) -> Any:
    module_name, _, attribute = spec.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(
            f"Cannot import {module_name!r} for {spec!r}: {error}. Write package.module:attribute, importable from "
            "here."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_")]
            raise ConfigurationError(unknown(f"attribute of {module_name!r}", part, names))
        found = getattr(found, part)
    if inspect.isclass(found) or (inspect.isroutine(found) and not hasattr(found, "act")):
        found = found()  # a class or factory without arguments
    return found


def _checked_agent(agent: Any, where: str) -> Agent:
    _no_class(agent)
    if not isinstance(getattr(agent, "name", None), str) or not callable(getattr(agent, "act", None)):
        raise ConfigurationError(f"{where:.200} is no agent: it needs a string `name` and a method `act(observation)`.")
    return agent  # type: ignore[no-any-return]


def _checked_judge(judge: Any, where: str) -> Judge:
    _no_class(judge)
    if not isinstance(getattr(judge, "name", None), str) or not callable(getattr(judge, "score", None)):
        raise ConfigurationError(f"{where:.200} is no judge: it needs a string `name` and a method `score(episode)`.")
    return judge  # type: ignore[no-any-return]


def _no_class(found: Any) -> None:
    if inspect.isclass(found):
        raise ConfigurationError(f"{found.__name__} is a class, but an instance is needed. Pass {found.__name__}().")


def _nearby(spec: str) -> str:
    from sotopia_env.agents.scripted import STRATEGIES

    return f"Did you mean 'scripted/{spec}'?" if spec in STRATEGIES else ""
