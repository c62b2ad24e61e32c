"""Language models that transformers runs in this process, with or without a PEFT adapter.

    hf/HuggingFaceTB/SmolLM2-135M-Instruct     a hub id
    hf/runs/pi/bc?temperature=0.7              a model folder, or an adapter folder with its base
    hf/smollm2                                 SmolLM2-135M-Instruct out of its GGUF file

Every episode that waits for a move of the same weights is answered in one batch (see `engine`), whichever agent
asks; adapters share their base. A reply is drawn with uniform numbers that belong to its episode, seat and turn, so
neither batching nor order changes it, up to the rounding of floating-point sums. It ends at the template's
end-of-turn token, at `max_tokens`, or as soon as the text is one complete JSON object.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from sotopia_env.actions import Action
from sotopia_env.agents.folders import (
    Place,
    base_of,
    check_adapter,
    check_installed,
    check_template,
    identity,
    is_adapter,
    resolve_model,
    tokenizer_home,
)
from sotopia_env.agents.llm import LLMAgent
from sotopia_env.chat import render
from sotopia_env.errors import ConfigurationError, ModelError, unknown
from sotopia_env.local import SMOLLM2
from sotopia_env.models import Messages, Reply, canonical_options, record_usage

if TYPE_CHECKING:
    from sotopia_env.agents.engine import Engine, Plan
    from sotopia_env.agents.voices import Voice

__all__ = ["DTYPES", "HFAgent", "hf_agent", "release", "resolve_model", "shortened"]

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Short names of data types; the long ones are understood too."""


class HFAgent:
    """Plays what a transformers model answers to `chat.render(observation)`.

    A reply that cannot be read is asked for once more, with what was wrong; if that cannot be read either, the
    move is a `none` marked `parse_failure`. A prompt that leaves no room for a reply loses its oldest turns,
    never the background or the open message; usage counts them as `cut_turns`. Usage counts as `computed_tokens`
    those of `prompt_tokens` that were not kept from the turns before.

    The weights are loaded by the first move, shared by all agents of this process that use them, and left out of
    copies and pickles. `load` loads them at once.

    Args:
        model: Hub id, folder of a model or of a PEFT adapter, GGUF file, or "smollm2".
        adapter: Folder of a PEFT adapter; `model` is then its base.
        temperature: 0 is greedy.
        max_tokens: Longest reply, in tokens.
        top_p: Draw only from the likeliest tokens that together reach this share, in (0, 1].
        dtype: "bf16", "fp16" or "fp32"; default bf16 on a GPU and fp32 on a CPU.
        device: Such as "cpu" or "cuda:1"; default the GPU if there is one.
        name: Recorded in episodes; default `hf/<hub id>`, or `hf/<folder>@<start of its content's hash>`, with the
            options.
        quantize: "nf4" loads the base in four bits (bitsandbytes).
        batch_size: How many replies are generated at once.
        retry: Whether an unreadable reply is asked for once more.

    Raises:
        ConfigurationError: For an argument out of range, a missing folder, one without chat template, or an adapter
            for another base.
        MissingExtraError: If torch or transformers is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        adapter: str | None = None,
        temperature: float = 1.0,
        max_tokens: int = 256,
        top_p: float = 1.0,
        dtype: str | None = None,
        device: str | None = None,
        name: str | None = None,
        quantize: str | None = None,
        batch_size: int = 64,
        retry: bool = True,
    ) -> None:
        check_installed(f"hf/{model}")
        _check_number("temperature", temperature, 0.0, math.inf)
        _check_number("top_p", top_p, 0.0, 1.0)
        if top_p == 0:
            raise ConfigurationError(
                "top_p is 0, but must be above 0, up to 1. For the likeliest token: temperature 0."
            )
        _check_number("max_tokens", max_tokens, 1, math.inf)
        _check_number("batch_size", batch_size, 1, math.inf)
        check_options(dtype=dtype, quantize=quantize)
        self.temperature, self.top_p, self.max_tokens = float(temperature), float(top_p), max_tokens
        self.dtype, self.device, self.quantize = _dtype(dtype), device, quantize
        self.batch_size, self.retry = batch_size, bool(retry)
        self.model, self.adapter = _model_and_adapter(str(model), adapter)
        voice = tokenizer_home(self.model, self.adapter)
        check_template(voice)
        if self.adapter is not None:
            check_adapter(self.adapter, self.model)
        self._content = identity(self.model)
        self._voice = Place.of(voice)
        self._adapter = None if self.adapter is None else Place.of(self.adapter)
        self.name = name or self._name(str(model))
        self._engine: Engine | None = None

    def _name(self, given: str) -> str:
        place = Path(self.adapter or self.model)
        options: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.max_tokens, "top_p": self.top_p}
        usual = {"temperature": 1.0, "max_tokens": 256, "top_p": 1.0}
        options = {key: value for key, value in options.items() if value != usual[key]}
        options |= {key: value for key in ("dtype", "quantize") if (value := getattr(self, key)) is not None}
        if not self.retry:
            options["retry"] = 0
        if place.is_dir() and (self.adapter or given != SMOLLM2):
            given = f"{place.name}@{identity(self.model, self.adapter)}"
        return f"hf/{given}{canonical_options(options)}"

    async def act(self, observation: dict[str, Any]) -> Action:
        """Ask the model for a move; off turn it does nothing.

        Raises:
            ConfigurationError: If the model, its tokenizer or its adapter cannot be loaded.
            ModelError: If it failed, or the prompt does not fit even without the turns before.
        """
        return await LLMAgent(_Turn(self, observation)).act(observation)

    def load(self) -> None:
        """Load the weights, the tokenizer and the adapter now, and not by the first move.

        Raises:
            ConfigurationError: If one of them cannot be loaded.
        """
        engine = self._ready()
        engine.load_now(self._voice, self._adapter)

    def _ready(self) -> Engine:
        if self._engine is None:
            from sotopia_env.agents.engine import engine_for

            self._engine = engine_for(
                self.model, self._content, dtype=self.dtype, device=self.device, quantize=self.quantize
            )
        return self._engine

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}

    def __repr__(self) -> str:
        return f"HFAgent({self.name!r})"


class _Turn:
    """One turn of one agent as a chat model, so that reading and asking again are those of every `LLMAgent`."""

    def __init__(self, agent: HFAgent, observation: dict[str, Any]) -> None:
        self.agent, self.observation = agent, observation
        self.name = agent.name
        self._asked = 0

    async def complete(self, messages: Messages, *, response_format: dict[str, Any] | None = None) -> Reply:
        agent, observation = self.agent, self.observation
        attempt, self._asked = self._asked, self._asked + 1
        if attempt and not agent.retry:
            return Reply("")  # as unreadable as the first
        seed = json.loads(observation["facts"])["seed"]
        seat = observation["agent"]
        from sotopia_env.agents.engine import Request

        made = await agent._ready().submit(
            Request(
                plan=self._plan(messages),
                voice=agent._voice,
                adapter=agent._adapter,
                opening=(observation["background"],),
                key=(observation["background"], str(seed), seat),
                seed=f"{seed}/{seat}/{observation['turn']}/{attempt}",
                temperature=agent.temperature,
                top_p=agent.top_p,
                max_tokens=agent.max_tokens,
                batch_size=agent.batch_size,
            )
        )
        usage = {"calls": 1, **made._asdict()}
        del usage["text"]
        record_usage(usage)
        return Reply(made.text, usage)

    def _plan(self, messages: Messages) -> Callable[[Voice, int], Plan]:
        """Make the prompt's tokens: all of `messages`, or without the oldest turns."""
        from sotopia_env.agents.engine import Plan

        asked = [dict(message) for message in messages]
        turns = sum(message["role"] == "assistant" for message in render(self.observation))
        extra = asked[2 + 2 * turns :]  # an unreadable reply, and what was wrong with it

        def plan(voice: Voice, longest: int) -> Plan:
            for cut in range(turns + 1):
                if cut or not voice.system_role:
                    shown = render(shortened(self.observation, cut), system_role=voice.system_role) + extra
                else:
                    shown = asked
                ids = voice.ids(shown)
                if len(ids) <= longest:
                    return Plan(ids, cut)
            raise ModelError(
                f"Model {self.name!r} takes prompts of {longest} tokens, but the background and the open message "
                f"alone have {len(ids)}. Lower max_tokens, or use a model with a longer context."
            )

        return plan


def shortened(observation: dict[str, Any], turns: int) -> dict[str, Any]:
    """An observation without the oldest `turns` turns of its agent and all that was seen before each of them.

    Rendered, it lacks the oldest pairs of user and assistant messages; background and goal stay.
    """
    if not turns:
        return observation
    me = observation["agent"]
    events = sorted(observation["transcript"], key=lambda event: (event[0], event[1] != me))
    own = [number for number, event in enumerate(events) if event[1] == me]
    return {**observation, "transcript": tuple(events[own[turns - 1] + 1 :])}


def check_options(*, dtype: str | None = None, quantize: str | None = None) -> None:
    """Refuse a data type or a quantization that is not known; needs neither torch nor transformers.

    Raises:
        ConfigurationError: If one is not known.
    """
    _dtype(dtype)
    if quantize not in (None, "nf4"):
        raise ConfigurationError(unknown("quantization", quantize, ["nf4"], "Leave it out for none."))


def release() -> None:
    """Let go of the weights that no agent holds, for example before training on the same device.

    Otherwise the two sets that were used last stay loaded for the next agents.
    """
    engines = sys.modules.get("sotopia_env.agents.engine")
    if engines is not None:
        engines.release()


# --- specs ----------------------------------------------------------------------------------------

_OPTIONS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_p": float,
    "max_tokens": int,
    "dtype": str,
    "device": str,
    "batch_size": int,
    "quantize": str,
    "retry": lambda text: bool(("0", "1").index(text)),
}


def hf_agent(spec: str) -> HFAgent:
    """Make the agent of an `hf/...` spec, given without its prefix: `smollm2?temperature=0.7`.

    Raises:
        ConfigurationError: For an unknown option or a value of the wrong form, and as `HFAgent`.
    """
    model, _, query = spec.partition("?")
    options: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in _OPTIONS:
            raise ConfigurationError(unknown(f"option of 'hf/{spec}'", key, _OPTIONS))
        try:
            options[key] = _OPTIONS[key](text)
        except ValueError:
            kind = {"retry": "0 or 1", "max_tokens": "a whole number", "batch_size": "a whole number"}
            raise ConfigurationError(
                f"Option {key}={text!r} of 'hf/{spec}' must be {kind.get(key, 'a number')}."
            ) from None
    if not model:
        raise ConfigurationError("'hf/' names no model. Write it as hf/<hub id or folder>, such as hf/smollm2.")
    return HFAgent(model, **options)


def _model_and_adapter(model: str, adapter: str | None) -> tuple[str, str | None]:
    """The base and the adapter that were meant, each as a folder or hub id."""
    place = resolve_model(model)
    if adapter is None:
        return (base_of(place), place) if is_adapter(place) else (place, None)
    folder = resolve_model(adapter)
    if not is_adapter(folder):
        raise ConfigurationError(f"{adapter!r} is no adapter: it holds no adapter_config.json of its own.")
    base = base_of(folder)
    if base != place:
        raise ConfigurationError(f"The adapter {adapter!r} was made for the base {base!r}, not for {place!r}.")
    return place, folder


def _dtype(name: str | None) -> str | None:
    if name in (None, "auto"):
        return None
    long = DTYPES.get(name, name)
    if long not in DTYPES.values():
        raise ConfigurationError(unknown("dtype", name, ["auto", *DTYPES]))
    return long


def _check_number(name: str, value: float, low: float, high: float) -> None:
    whole = isinstance(low, int)
    fits = isinstance(value, int) or (not whole and isinstance(value, float))
    if not fits or isinstance(value, bool) or not low <= value <= high or math.isinf(value):
        kind = "whole" if whole else "finite"
        above = "" if math.isinf(high) else f" and at most {high:g}"
        raise ConfigurationError(f"{name} is {value!r}, but must be a {kind} number of at least {low:g}{above}.")
