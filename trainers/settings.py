"""What a run of the learning loop is made of: presets, read from TOML and checked before any work.

A preset is a file out of `trainers/presets/` or one of your own. `load_preset` merges it with changes such as
`{"bc.training.epochs": 3}` and refuses unknown names, so that a typing error is no silent default.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sotopia_env.agents.hf import check_options
from sotopia_env.errors import ConfigurationError, one_line, unknown
from sotopia_env.evaluation.policies import UNSEEN, WORDINGS
from sotopia_env.trainers.behavior_cloning import TrainSettings
from sotopia_env.trainers.filters import make_filter
from sotopia_env.trainers.tiny import TinySettings

PRESETS = ("laptop", "paper", "quick")
"""Names of the presets that come with the package."""

SELF = "self"
"""As a partner: the same policy in every seat."""


def _train_settings(value: object) -> object:
    return _made(TrainSettings, value) if isinstance(value, Mapping) else value


def _tiny_settings(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    changes = {
        name: _made(TrainSettings, value[name])
        for name in ("exercising", "training")
        if isinstance(value.get(name), Mapping)
    }
    return _made(TinySettings, {**value, **changes})


def _made(kind: type[Any], value: Mapping[str, Any]) -> Any:
    names = [each.name for each in fields(kind)]
    for name in value:
        if name not in names:
            raise ConfigurationError(unknown(f"setting of {kind.__name__}", name, names))
    return kind(**{name: tuple(item) if isinstance(item, list) else item for name, item in value.items()})


Training = Annotated[TrainSettings, BeforeValidator(_train_settings)]
Tiny = Annotated[TinySettings, BeforeValidator(_tiny_settings)]
Count = Annotated[int, Field(ge=1)]
Speed = Annotated[float, Field(gt=0)]
Price = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)


class _Filtering(_Part):
    filter: dict[str, Any]

    @field_validator("filter")
    @classmethod
    def _can_be_made(cls, value: dict[str, Any]) -> dict[str, Any]:
        make_filter(value)
        return value


class Base(_Part):
    """The model that learns.

    Attributes:
        model: "tiny" (made by `trainers.tiny`), "smollm2", a hub id, or a folder.
        tiny: What the tiny one is made of.
        seed: Seed of the tiny one. It is no run's own: runs of other seeds start from the same base, as they do from
            any model of a hub.
        shipped: Take the tiny one that comes with the package, if it was made with these settings and this seed,
            instead of making it again.
        forced: A spec that plays the base with its JSON forced by a grammar, as a row of its own in the
            evaluation: format alone is no social gain. Empty for none.
    """

    model: str = "tiny"
    tiny: Tiny = Field(default_factory=TinySettings)
    seed: int = 0
    shipped: bool = True
    forced: str = ""


class Tasks(_Part):
    """What is played.

    Attributes:
        pack: A pack, or the path of task files.
        families: Families of the pack, each with as many tasks; empty for the whole pack.
        split: The split that training plays.
        unseen: Split of each kind of evaluation tasks; never the one that training plays. Empty: of the outcome
            pack both kinds, of written tasks, whose every scene has a wording of its own, "test" only.
    """

    pack: str = "outcome"
    families: tuple[str, ...] = ("bargain", "divide")
    split: str = "train"
    unseen: dict[str, str] = Field(default_factory=dict, validate_default=True)

    @field_validator("unseen")
    @classmethod
    def _filled_in(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if not value:
            value = dict(WORDINGS) if info.data["pack"] == "outcome" else {UNSEEN: WORDINGS[UNSEEN]}
        if info.data["split"] in value.values():
            raise ValueError(f"training plays split {info.data['split']!r}, so it is not unseen")
        return value


class Expert(_Filtering):
    """Whose episodes are cloned.

    Attributes:
        agent: The expert's spec.
        partners: Whom it plays, in either seat; "self" is the expert in all seats, as in the paper.
        tasks: Training tasks per family.
        repeats: Episodes per task with one cast.
        every_cast: Play every task with every partner from every seat; else the casts share the tasks out.
        filter: What is kept of them: a rule of `trainers.filters` with its options.
    """

    agent: str
    partners: tuple[str, ...] = Field((SELF,), min_length=1)
    tasks: Count
    repeats: Count = 1
    every_cast: bool = False


class Cloning(_Part):
    """Behavior cloning."""

    training: Training


class Reinforcement(_Filtering):
    """Self-reinforcement.

    Attributes:
        partner: "self" (the policy in all seats, as in the paper) or "pool".
        partners: The pool: training partners, which the evaluation must not meet.
        rounds: Rounds of play, filter, train.
        tasks: Tasks per family and round; no round plays the tasks of another, nor those of the expert.
        repeats: Episodes per task.
        filter: What is kept of them.
        training: How each round trains.
        control: Also train BC on as many steps with fresh expert rows, so that SR's gain is seen beside it.
    """

    partner: Literal["self", "pool"]
    partners: tuple[str, ...] = ()
    rounds: Count = 1
    tasks: Count
    repeats: Count
    training: Training
    control: bool = False

    @model_validator(mode="after")
    def _has_a_pool(self) -> Reinforcement:
        if self.partner == "pool" and not self.partners:
            raise ValueError("partner 'pool' needs partners")
        return self


class Play(_Part):
    """How every policy acts, the same for all of them."""

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: Count = 256
    max_turns: Count = 20
    concurrency: Count = 64
    quantize: str = ""
    dtype: str = ""

    @model_validator(mode="after")
    def _can_be_played(self) -> Play:
        check_options(dtype=self.dtype or None, quantize=self.quantize or None)
        return self


class Judging(_Part):
    """Who scores: `agent` is a judge's spec, `reward` what of the verdict filters and tables use."""

    agent: str = "outcome"
    reward: str = "goal"


class Evaluating(_Part):
    """How policies are evaluated.

    Attributes:
        tasks: Tasks per kind (seen and unseen wording), spread over the families.
        partners: Held-out partners: none of them may be met in training.
        seed: Decides the tasks; the same for every training seed.
        trivial: Whether the trivial policies and the expert stand in the table.
        repeats: Episodes per task, partner and seat.
        min_partners: Fewer partners are refused: what holds against one may not hold against another.
    """

    tasks: Count
    partners: tuple[str, ...]
    seed: int = 20240313
    trivial: bool = True
    repeats: Count = 1
    min_partners: Count = 3

    @model_validator(mode="after")
    def _has_partners(self) -> Evaluating:
        # Whether they are enough is asked before a run; a plan can be made with fewer.
        if not self.partners:
            raise ValueError(f"partners are (), but at least {max(1, self.min_partners)} are needed")
        return self


class Needs(_Part):
    """What must be there before anything starts: a GPU, environment variables such as keys."""

    gpu: bool = False
    environment: tuple[str, ...] = ()


class Preset(_Part):
    """A whole run of the learning loop.

    Attributes:
        name: The preset's name, or the file's.
        description: One line for people.
        minutes: Training and evaluation time that the counts are made for, on the machine it is meant for.
        processes: How many processes work at once at what is independent, each with an equal share of the cores; no
            more than there are cores. Policies are trained by two at most, and evaluated by all.
        prices: US dollars per million tokens by model spec: {"openai/gpt-4o": {"prompt": 2.5, "completion": 10}}.
        rates: Speeds for time estimates, of one process: "train", tokens trained per second; "play", tokens that the
            run's own policies write per second over all episodes; "local", the same of local/... models; "call",
            seconds that a call of a hosted model takes.
    """

    name: str
    description: str
    minutes: float = Field(gt=0)
    processes: int = Field(1, ge=1)
    base: Base = Base()
    tasks: Tasks = Tasks()
    expert: Expert
    bc: Cloning
    sr: Reinforcement
    play: Play = Play()
    judge: Judging = Judging()
    evaluation: Evaluating
    needs: Needs = Needs()
    prices: dict[str, dict[str, Price]] = {}
    rates: dict[str, Speed] = {}

    @property
    def met(self) -> tuple[str, ...]:
        """Specs of all agents that training plays with, the expert too."""
        partners = {*self.expert.partners, *(self.sr.partners if self.sr.partner == "pool" else ())}
        if self.base.model == "tiny":
            partners |= {*self.base.tiny.partners, *self.base.tiny.speakers}
        return tuple(sorted(partners - {SELF} | {self.expert.agent}))

    def record(self) -> dict[str, Any]:
        """Every setting as JSON values."""
        record = self.model_dump(mode="json")
        record["bc"]["training"], record["sr"]["training"] = self.bc.training.record(), self.sr.training.record()
        record["base"]["tiny"] = self.base.tiny.record() if self.base.model == "tiny" else None
        return record


def load_preset(preset: str | Path, changes: Mapping[str, Any] | None = None, *, budget: float | None = None) -> Preset:
    """Read a preset and change parts of it.

    Args:
        preset: "quick", "laptop", "paper", or the path of a TOML file.
        changes: New values by dotted name: {"sr.rounds": 2}. With another "base.model" the file's "base.forced", which
            plays its own, is left out.
        budget: Minutes to plan for instead of the preset's own: the expert's tasks and the self-reinforcement's
            grow or shrink with it, but not below one for each partner and seat.

    Raises:
        ConfigurationError: For an unknown preset or setting, or a value that cannot be used.
    """
    text, name = _text_of(preset)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"The preset {str(preset)!r} is not valid TOML: {error}.") from error
    changes = dict(changes or {})
    base = values.get("base")
    model = base.get("model") if isinstance(base, dict) else None
    if changes.get("base.model", model) != model:
        changes.setdefault("base.forced", "")
    for path, value in changes.items():
        _put(values, path, value)
    try:
        found = Preset.model_validate({"name": name, **values})
    except ValidationError as error:
        raise ConfigurationError(f"Preset {name!r}: {_in_words(error)}") from error
    clash = sorted({*found.evaluation.partners} & {*found.met})
    if clash:
        raise ConfigurationError(
            f"Training meets {clash}, which are held-out partners of the evaluation. Take others for one of the two."
        )
    return found if budget is None else _scaled(found, budget)


def _text_of(preset: str | Path) -> tuple[str, str]:
    if str(preset) in PRESETS:
        file = resources.files("sotopia_env.trainers.presets") / f"{preset}.toml"
        return file.read_text(encoding="utf-8"), str(preset)
    path = Path(preset).expanduser()
    if path.suffix != ".toml" or not path.is_file():
        raise ConfigurationError(unknown("preset", str(preset), PRESETS, "Or give the path of a .toml file."))
    try:
        return path.read_text(encoding="utf-8"), path.stem
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The preset {str(preset)!r} cannot be read as UTF-8 text: {one_line(error)}."
        ) from error


def _in_words(error: ValidationError) -> str:
    """The first thing that is wrong, as a sentence."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    *parts, last = map(str, first["loc"] or ("the preset",))
    where = ".".join((*parts, last))
    if first["type"] == "extra_forbidden":
        known: Any = Preset
        for part in parts:
            known = known.model_fields[part].annotation
        return unknown("setting", where, [".".join((*parts, name)) for name in known.model_fields])
    if first["type"] == "missing":
        return f"The setting {where!r} is missing."
    message = first["msg"].removeprefix("Value error, ")
    return f"Setting {where!r}: {message}" + ("" if message[-1] in ".?" else ".")


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *parts, last = path.split(".")
    for part in parts:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f"Setting {path!r} cannot be set: {part!r} is {inner!r}, not a group of settings.")
        values = inner
    values[last] = value


def _scaled(preset: Preset, budget: float) -> Preset:
    if not math.isfinite(budget) or budget <= 0:
        raise ConfigurationError(f"The budget is {budget!r} minutes, but must be above 0.")
    factor = budget / preset.minutes
    alone, pool = (SELF, preset.expert.agent), preset.sr.partners if preset.sr.partner == "pool" else (SELF,)
    # Nobody is left out, partner or seat, of whom the preset itself leaves nobody out.
    casts = 1 if preset.expert.every_cast else sum(1 if spec in alone else 2 for spec in preset.expert.partners)
    least = min(casts, preset.expert.tasks)
    expert = preset.expert.model_copy(update={"tasks": max(1, least, round(preset.expert.tasks * factor))})
    least = min(sum(1 if spec == SELF else 2 for spec in pool), preset.sr.tasks)
    sr = preset.sr.model_copy(update={"tasks": max(1, least, round(preset.sr.tasks * factor))})
    return preset.model_copy(update={"minutes": budget, "expert": expert, "sr": sr})


__all__ = ["PRESETS", "SELF", "Preset", "load_preset"]
