"""Behavior cloning: fine-tune a language model on the replies of chosen trajectories.

Composed from TRL's `SFTTrainer` (the loop, the loss, accelerate's gradient accumulation and many
GPUs) and PEFT (LoRA and its files). What is here: the rows with their own loss mask, checks before any
work is done, a folder that appears only when it is finished, and runs that go on where they stopped.

    train("HuggingFaceTB/SmolLM2-135M-Instruct", kept, "policies/bc", TrainSettings(learning_rate=1e-3))

The loss is the mean over the target tokens of a whole optimizer step, however they are spread over rows,
micro-batches and devices. For many GPUs start the same script with `accelerate launch`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import random
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from sotopia_env.agents.folders import (
    base_of,
    check_adapter,
    identity,
    is_adapter,
    no_template,
    resolve_model,
    tokenizer_home,
)
from sotopia_env.agents.memory import keep_freed_memory
from sotopia_env.errors import ConfigurationError, MissingExtraError, one_line, unknown
from sotopia_env.trainers.datasets import FORMS, Rows, rows
from sotopia_env.version import __version__

if TYPE_CHECKING:
    from sotopia_env.trainers.filters import Trajectory

METHODS = ("lora", "qlora", "full")
DTYPES = ("auto", "float32", "bfloat16")
ORDERS = ("random", "group_by_length", "sequential")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup", "inverse_sqrt")
"""Those that need no settings of their own."""

RECORD = "training.json"
"""What a finished folder says of its training."""

_CHECKPOINTS = "checkpoints"
_PLAN = "plan.json"
_SMALL_FILES = 20_000_000
"""Bytes for tokenizers and records."""

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        method: "lora" (an adapter), "qlora" (an adapter on a base in 4-bit nf4 with double quantization),
            or "full" (all weights).
        rank, alpha, dropout: LoRA's rank, scale numerator and dropout.
        target_modules: "all-linear" (all linear layers but the output's), or module names. Another text is a regular
            expression for whole names, as in PEFT.
        optimizer: "adamw", or "muon" (see `sotopia_env.trainers.muon`), under which small models that are trained
            whole learn faster. It takes learning rates as AdamW does, and bears higher ones.
        learning_rate: The highest learning rate.
        schedule: What the learning rate does after the warm-up.
        warmup: Share of all steps in which the learning rate rises, 0 to below 1.
        epochs: How often every row is seen, up to a million; may be a fraction. Not used if `max_steps` is given.
        max_steps: Optimizer steps, or `None`.
        batch_size: Rows of one forward pass on one device.
        gradient_accumulation: Forward passes of one optimizer step.
        max_length: Most tokens of a row; never more than the model has positions.
        form: Form of the rows; see `sotopia_env.trainers.datasets`.
        keep_none: False to learn nothing from `none` moves.
        adam_beta2, weight_decay, max_grad_norm: AdamW's settings, and the norm that gradients are cut to.
        dtype: "auto" (bfloat16 on a GPU that has it, else float32), "float32" or "bfloat16". In bfloat16 the
            frozen base of an adapter is kept in it, and weights that are trained stay in float32. Processors
            without instructions for bfloat16 (of AVX512 or AMX) take several times longer with it.
        order: "random", "group_by_length" (rows of like length together, less padding) or "sequential".
        packing: Put several rows into one sequence of `max_length` tokens (best-fit decreasing, document
            masks kept). Best with flash attention.
        gradient_checkpointing: Compute activations twice to save memory; `None`: with "qlora" on a GPU only.
        logging_steps: Optimizer steps between entries of `TrainResult.losses`. Every checkpoint and the last step are
            entries too, so that a training that was interrupted has the same ones.
        save_steps: Optimizer steps between checkpoints; `None`: about a tenth of all; 0: no checkpoints.
    """

    method: Literal["lora", "qlora", "full"] = "lora"
    rank: int = 8
    alpha: float = 16
    dropout: float = 0.05
    target_modules: str | tuple[str, ...] = "all-linear"
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 5e-5
    schedule: str = "cosine"
    warmup: float = 0.03
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 4
    gradient_accumulation: int = 1
    max_length: int = 4096
    form: Literal["conversation", "prefix", "paper"] = "conversation"
    keep_none: bool = True
    adam_beta2: float = 0.999
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    order: Literal["random", "group_by_length", "sequential"] = "random"
    packing: bool = False
    gradient_checkpointing: bool | None = None
    logging_steps: int = 10
    save_steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        choices = {"method": METHODS, "form": FORMS, "dtype": DTYPES, "order": ORDERS, "schedule": SCHEDULES}
        for name, known in {**choices, "optimizer": OPTIMIZERS}.items():
            if getattr(self, name) not in known:
                raise ConfigurationError(unknown(name, getattr(self, name), known))
        for name in ("rank", "batch_size", "gradient_accumulation", "max_length", "logging_steps"):
            check_whole(name, getattr(self, name), 1)
        for name, least in (("max_steps", 1), ("save_steps", 0)):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least)
        for name in ("dropout", "warmup", "adam_beta2"):
            _between(name, getattr(self, name), 0, 1, below=True)
        for name in ("alpha", "learning_rate", "max_grad_norm"):
            _between(name, getattr(self, name), 0, math.inf, above=True)
        _between("epochs", self.epochs, 0, 1e6, above=True)
        _between("weight_decay", self.weight_decay, 0, math.inf)
        for name in ("keep_none", "packing", "gradient_checkpointing"):
            value = getattr(self, name)
            if not isinstance(value, bool) and (name != "gradient_checkpointing" or value is not None):
                raise ConfigurationError(f"{name} is {value!r}, but must be true or false.")
        if isinstance(self.target_modules, str) and self.target_modules:
            try:
                re.compile(self.target_modules)
            except re.error as error:
                raise ConfigurationError(
                    f"target_modules is {self.target_modules!r}, which is no regular expression ({error}). Take "
                    "'all-linear', or a list of module names."
                ) from error
        else:
            object.__setattr__(self, "target_modules", as_texts("target_modules", self.target_modules))

    @classmethod
    def paper(cls, **changes: Any) -> TrainSettings:
        """SOTOPIA-pi's settings: QLoRA, 20 epochs, one row per turn (arXiv 2403.08715, B.3 and B.5).

        Rank 8, alpha 16, dropout 0.05, learning rate 5e-5 with a cosine and 0.03 warm-up, batch 4 and 4,096
        tokens are the defaults. Its self-reinforcement took 5 epochs. The adapter it published says alpha 32
        and dropout 0.1 on q_proj and v_proj: what was run is not certain.
        """
        return cls(**{"method": "qlora", "epochs": 20.0, "form": "paper", **changes})

    def record(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        output: The policy's folder; `hf/<output>` plays it.
        base: The model that was trained: a hub id, or a folder's path.
        method: "lora", "qlora" or "full".
        steps: Optimizer steps.
        seconds: Wall time of the training loop, of the last run if it was resumed.
        resumed_from: The step at which the last run began; 0 if it was never interrupted.
        losses: One mapping per entry, the last step's included: "step", "loss" (mean over the target tokens since
            the entry before), "tokens" (seen until then, without padding), "learning_rate", "epoch".
        data: What the rows were: `Rows.record()`.
        device: "cpu", or the GPU's name.
        versions: Of the libraries that did it.
        is_new: False if the folder was finished before and nothing was trained.
    """

    output: Path
    base: str
    method: str
    steps: int
    seconds: float
    resumed_from: int
    losses: list[dict[str, float]]
    data: dict[str, Any]
    device: str
    versions: dict[str, str]
    is_new: bool = field(default=True, compare=False)

    @property
    def tokens(self) -> int:
        """Tokens seen, without padding."""
        return int(self.losses[-1]["tokens"]) if self.losses else 0

    @property
    def loss(self) -> float:
        """The last entry's loss."""
        return self.losses[-1]["loss"] if self.losses else math.nan


def train(
    base: str | Path,
    trajectories: Iterable[Trajectory] | Rows,
    output: str | Path,
    settings: TrainSettings | None = None,
    *,
    adapter: str | Path | None = None,
    seed: int = 0,
    resume: bool = True,
    progress: bool | Callable[[dict[str, float]], None] = False,
) -> TrainResult:
    """Train a model on trajectories and write it to a folder.

    While it runs, all is in `<output>.partial` with its checkpoints; the folder `output` appears when it
    is complete, and then holds the adapter or the model, the tokenizer with its chat template, and
    training.json. The same seed, rows, settings and number of threads give the same weights. Global
    random state is left as it was.

    Args:
        base: A hub id, the folder of a model, the folder of an adapter to go on with, or "smollm2".
        trajectories: What to learn from, or rows made before (whose form and length then count).
        output: Where to write. If it holds the result of this very training, nothing is done.
        settings: How to train.
        adapter: An adapter of `base` to go on with; its rank and modules stay as they are.
        seed: Decides new weights, the order of rows and the dropout.
        resume: Go on from the last checkpoint of an interrupted run of this very training. False begins anew.
        progress: True for a progress bar on stderr, or a function that gets every entry of `losses`.

    Raises:
        ConfigurationError: Before anything is trained, if the parts do not fit: no rows, no chat template,
            an adapter of another base, a folder that is taken, cannot be written or has too little space.
        MissingExtraError: If a library is not installed.
    """
    settings = settings or TrainSettings()
    check_installed(settings)
    plan = _plan(base, trajectories, Path(output), settings, adapter, seed)
    if (done := finished(plan.output)) is not None:
        if plan.is_of(plan.output):
            return done
        raise ConfigurationError(
            f"{str(plan.output)!r} holds the result of another training. Remove it or choose another folder."
        )
    with quiet(show=progress is True), _random_state_kept():
        args = _arguments(plan, show=progress is True)
        if args.process_index == 0:  # the only one, unless `accelerate launch` started several
            _prepare_place(plan, resume)
        args.distributed_state.wait_for_everyone()
        return _run(plan, args, progress)


def finished(output: str | Path) -> TrainResult | None:
    """What a finished training folder says of itself; `None` if there is no such folder."""
    try:
        record = json.loads((Path(output) / RECORD).read_text(encoding="utf-8"))
        names = {each.name for each in fields(TrainResult)} - {"output", "is_new"}
        return TrainResult(output=Path(output), is_new=False, **{name: record[name] for name in names})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigurationError(
            f"{str(output)!r} holds a {RECORD} that cannot be read ({one_line(error)}). Remove the folder, or choose "
            "another."
        ) from error


# --- before the work --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """All that decides a training, checked."""

    base: str
    adapter: str | None
    rows: Rows
    tokenizer: Any
    output: Path
    settings: TrainSettings
    seed: int

    @property
    def partial(self) -> Path:
        return self.output.with_name(f"{self.output.name}.partial")

    @cached_property
    def key(self) -> dict[str, Any]:
        """What has to be equal for an interrupted training to go on; where things lie does not count."""
        settings = self.settings.record()
        del settings["logging_steps"], settings["save_steps"]
        record = {
            "weights": identity(self.base, self.adapter),
            "rows": self.rows.digest,
            "settings": settings,
            "seed": self.seed,
        }
        return cast(dict[str, Any], json.loads(json.dumps(record)))

    def is_of(self, folder: Path) -> bool:
        """Whether a folder, finished or not, is of this very training."""
        for name in (RECORD, _PLAN):
            with contextlib.suppress(OSError, ValueError, LookupError):
                return bool(json.loads((folder / name).read_text(encoding="utf-8"))["key"] == self.key)
        return False


def _plan(
    base: str | Path,
    trajectories: Iterable[Trajectory] | Rows,
    output: Path,
    settings: TrainSettings,
    adapter: str | Path | None,
    seed: int,
) -> _Plan:
    keep_freed_memory()
    model, adapter = model_and_adapter(base, adapter, settings)
    tokenizer = load_tokenizer(tokenizer_home(model, adapter))
    longest = _positions(model)
    if not isinstance(trajectories, Rows):
        trajectories = rows(
            trajectories,
            tokenizer,
            form=settings.form,
            max_length=min(settings.max_length, longest),
            keep_none=settings.keep_none,
        )
    if not trajectories:
        left_out = ", ".join(f"{count} {reason}" for reason, count in trajectories.dropped.items())
        raise ConfigurationError(
            f"There is nothing to train on: {trajectories.trajectories} trajectories gave no rows"
            + (f" ({left_out})." if left_out else ".")
            + " Loosen the filter, or play more episodes."
        )
    if (most := max(len(row.input_ids) for row in trajectories)) > longest:
        raise ConfigurationError(
            f"The longest row has {most} tokens, but {model!r} has {longest} positions. Make the rows with "
            f"max_length={longest}."
        )
    # Through links: what is complete is moved to where they lead, from beside it.
    return _Plan(model, adapter, trajectories, tokenizer, Path(os.path.realpath(output)), settings, seed)


def model_and_adapter(base: str | Path, adapter: str | Path | None, settings: TrainSettings) -> tuple[str, str | None]:
    """The base and the adapter to go on with, each as a folder or hub id.

    Raises:
        ConfigurationError: If one is missing, or they or the method do not fit each other.
    """
    model = resolve_model(base)
    if is_adapter(model):
        if adapter is not None:
            raise ConfigurationError(
                f"{str(base)!r} is an adapter itself. Give its base as `base`, or leave `adapter` out to go on with it."
            )
        adapter, model = model, base_of(model)
    if adapter is None:
        return model, None
    folder = resolve_model(adapter)
    if not is_adapter(folder):
        raise ConfigurationError(f"{str(adapter)!r} is no adapter: it holds no adapter_config.json of its own.")
    if settings.method == "full":
        raise ConfigurationError(
            f"Method 'full' trains all weights, but {str(adapter)!r} is an adapter. Use 'lora' or 'qlora', or merge it "
            "into its base first."
        )
    theirs = base_of(folder)
    if theirs != model:
        raise ConfigurationError(f"The adapter {str(adapter)!r} was made for the base {theirs!r}, not for {model!r}.")
    check_adapter(folder, model)
    return model, folder


def _positions(model: str) -> int:
    """How long a text the model takes, in tokens."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The model {model!r} cannot be loaded: {one_line(error)}.") from error
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or sys.maxsize)


def check_installed(settings: TrainSettings) -> None:
    """Refuse a training whose libraries are missing.

    Raises:
        MissingExtraError: If one is not installed.
    """
    needed = [*_PACKAGES, *(["bitsandbytes"] if settings.method == "qlora" else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"Training needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            "Install it: pip install 'sotopia-env[train]'" + (" bitsandbytes." if missing == ["bitsandbytes"] else ".")
        )


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a hub id or folder.

    Raises:
        ConfigurationError: If there is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The tokenizer of {model!r} cannot be loaded: {one_line(error)}.") from error
    if not tokenizer.chat_template:
        raise ConfigurationError(no_template(model))
    return tokenizer


def _prepare_place(plan: _Plan, resume: bool) -> None:
    """Make the working folder, or keep that of an interrupted run; refuse a place that cannot be written."""
    if plan.output.exists() and (not plan.output.is_dir() or any(plan.output.iterdir())):
        raise ConfigurationError(f"{str(plan.output)!r} exists and is no finished training. Choose another folder.")
    try:
        if plan.partial.exists() and not (resume and plan.is_of(plan.partial)):
            shutil.rmtree(plan.partial)
        plan.partial.mkdir(parents=True, exist_ok=True)
        _write_json(plan.partial / _PLAN, {"key": plan.key})
    except OSError as error:
        raise ConfigurationError(f"{str(plan.output)!r} cannot be written: {one_line(error)}.") from error


def _check_space(plan: _Plan, model: Any) -> None:
    """Refuse a disk too small for the result and, while a new checkpoint is written, two checkpoints."""
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    weights = sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad)
    checkpoints = 0 if plan.settings.save_steps == 0 else 2
    needed = weights + checkpoints * (weights + 2 * 4 * trained) + _SMALL_FILES
    free = shutil.disk_usage(plan.partial).free
    if free < needed:
        raise ConfigurationError(
            f"The disk of {str(plan.output)!r} has {free / 1e6:,.0f} MB free, but the result and its checkpoints may "
            f"take {needed / 1e6:,.0f} MB. Make room, choose another disk, or set save_steps to 0."
        )


# --- the work ---------------------------------------------------------------------------------------


def _run(plan: _Plan, args: Any, progress: bool | Callable[[dict[str, float]], None]) -> TrainResult:
    from transformers import PrinterCallback
    from trl.trainer.sft_trainer import SFTTrainer

    settings = plan.settings
    if args.device.type == "cuda":
        _let_go_of_acting_models()
    model, peft_config = _model(plan, args)
    try:
        trainer: Any = SFTTrainer(
            model=model,
            args=args,
            train_dataset=_dataset(plan.rows),
            processing_class=plan.tokenizer,
            peft_config=peft_config,
            callbacks=[_reporter(progress if callable(progress) else None)],
            optimizer_cls_and_kwargs=_optimizer(settings),
        )
    except ValueError as error:  # peft's and trl's own
        raise ConfigurationError(f"{plan.base!r} cannot be trained with these settings: {one_line(error)}.") from error
    trainer.remove_callback(PrinterCallback)
    _check_space(plan, trainer.model)
    checkpoint = _last_checkpoint(plan.partial / _CHECKPOINTS)
    start = time.perf_counter()
    try:
        with _targets_scored_only():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = time.perf_counter() - start
        result = TrainResult(
            output=plan.output,
            base=plan.base,
            method=settings.method,
            steps=trainer.state.global_step,
            seconds=round(seconds, 3),
            resumed_from=_step_of(checkpoint) if checkpoint else 0,
            losses=_losses(trainer.state.log_history),
            data=plan.rows.record(),
            device=_device_name(args),
            versions={name: importlib.metadata.version(name) for name in _PACKAGES} | {"sotopia-env": __version__},
        )
        _save(plan, trainer, result)
    except OSError as error:
        raise ConfigurationError(
            f"The training stopped: {one_line(error)}. What it had saved is in {str(plan.partial)!r}; once it can be "
            "written, the same call goes on from there."
        ) from error
    return result


@contextlib.contextmanager
def _targets_scored_only() -> Iterator[None]:
    """Have TRL's output layer compute the target positions only, on a CPU too.

    Where it finds no Triton, TRL 1.16 scores every position, so that compiled shapes do not change. Nothing is
    compiled on a CPU, and of a conversation only a fifth is target: the same loss and gradient in 0.6 of the time.
    """
    from trl.trainer import utils

    name = "_use_triton"
    known = getattr(utils, name, None)
    if known is None:  # another version of TRL: it trains as it does
        yield
        return
    setattr(utils, name, lambda device: device.type == "cpu" or known(device))
    try:
        yield
    finally:
        setattr(utils, name, known)


def _arguments(plan: _Plan, *, show: bool) -> Any:
    import torch
    from trl.trainer.sft_config import SFTConfig

    settings = plan.settings
    on_gpu = torch.cuda.is_available()
    checkpointing = settings.gradient_checkpointing
    if checkpointing is None:
        checkpointing = settings.method == "qlora" and on_gpu
    return SFTConfig(
        output_dir=str(plan.partial / _CHECKPOINTS),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        adam_beta2=settings.adam_beta2,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=compute_dtype(settings) == "bfloat16",  # TRL's default is True
        use_cpu=not torch.accelerator.is_available(),  # or bfloat16 is refused on a CPU
        gradient_checkpointing=checkpointing,
        train_sampling_strategy=settings.order,
        packing=settings.packing,
        max_length=settings.max_length if settings.packing else None,  # rows are cut already, from the other end
        dataset_kwargs={"skip_prepare_dataset": not settings.packing},
        save_strategy="no" if settings.save_steps == 0 else "steps",
        save_steps=settings.save_steps or _tenth(plan),
        save_total_limit=1,
        logging_steps=settings.logging_steps,
        include_num_input_tokens_seen="non_padding",
        report_to="none",
        disable_tqdm=not show,
        dataloader_pin_memory=on_gpu,
        seed=plan.seed % 2**32,
        data_seed=plan.seed % 2**32,
    )


def _optimizer(settings: TrainSettings) -> tuple[Any, dict[str, Any]] | None:
    """What makes the optimizer; `None` for the trainer's own AdamW."""
    if settings.optimizer == "adamw":
        return None
    from sotopia_env.trainers.muon import optimizer_of

    options = {
        "lr": settings.learning_rate,
        "betas": (0.9, settings.adam_beta2),
        "weight_decay": settings.weight_decay,
    }
    return optimizer_of, options


def _let_go_of_acting_models() -> None:
    """Free what hf agents that nobody holds any more have left on the GPU."""
    if engine := sys.modules.get("sotopia_env.agents.engine"):
        import torch

        engine.release()
        torch.cuda.empty_cache()


def _tenth(plan: _Plan) -> int:
    """About a tenth of all steps, in whole logging intervals: then no interval is cut in two by resuming."""
    settings = plan.settings
    steps = settings.max_steps
    if steps is None:
        steps = math.ceil(settings.epochs * len(plan.rows) / (settings.batch_size * settings.gradient_accumulation))
    return math.ceil(steps / 10 / settings.logging_steps) * settings.logging_steps


def _dataset(data: Rows) -> Any:
    """The rows as TRL's collator takes them, so that it neither tokenizes nor cuts anything again."""
    from datasets import Dataset

    labels = [
        [token if wanted else -100 for token, wanted in zip(row.input_ids, row.target_mask, strict=True)]
        for row in data
    ]
    return Dataset.from_dict({"input_ids": [row.input_ids for row in data], "labels": labels})


def compute_dtype(settings: TrainSettings) -> str:
    """The data type that "auto" means on this machine: "float32" or "bfloat16"."""
    import torch

    if settings.dtype != "auto":
        return settings.dtype
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def _model(plan: _Plan, args: Any) -> tuple[Any, Any]:
    """The model to train, and the configuration of a new adapter, if there is to be one."""
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = plan.settings
    dtype = getattr(torch, compute_dtype(settings))
    loading: dict[str, Any] = {"dtype": torch.float32 if settings.method == "full" else dtype}
    if settings.method == "qlora":
        loading["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        loading["device_map"] = {"": args.device}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(plan.base, **loading)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The model {plan.base!r} cannot be loaded: {one_line(error)}.") from error
    if plan.adapter is not None:
        return PeftModel.from_pretrained(model, plan.adapter, is_trainable=True), None
    if settings.method == "full":
        return model, None
    modules = settings.target_modules
    _check_modules(modules, model, plan.base)
    return model, LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        bias="none",
    )


def _check_modules(wanted: str | tuple[str, ...], model: Any, base: str) -> None:
    """Refuse modules that the model has not; peft would leave them out while it finds another one."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    if wanted == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    if isinstance(wanted, str):
        missing = [] if any(re.fullmatch(wanted, name) for name in names) else [wanted]
    else:
        missing = [each for each in wanted if not any(f".{name}".endswith(f".{each}") for name in names)]
    if missing:
        output = model.get_output_embeddings()
        fitting = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, (Linear, Conv1D)) and module is not output
        }
        raise ConfigurationError(
            f"target_modules names {missing[0]!r}, but {base!r} has no such module. Take 'all-linear', or some of "
            f"{sorted(fitting)}."
        )


def _save(plan: _Plan, trainer: Any, result: TrainResult) -> None:
    """Write the policy beside its place, and move it there in one step."""
    trainer.save_model(str(plan.partial))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        for name in ("training_args.bin", "README.md"):
            (plan.partial / name).unlink(missing_ok=True)
        _name_base(plan)
        record = {
            each.name: getattr(result, each.name) for each in fields(result) if each.name not in ("output", "is_new")
        }
        record |= {"adapter": plan.adapter, "settings": plan.settings.record(), "seed": plan.seed, "key": plan.key}
        _write_json(plan.partial / RECORD, record)
        if plan.output.is_dir():
            plan.output.rmdir()  # it was empty
        os.replace(plan.partial, plan.output)
        # Only now: killed before, the same call goes on from the last checkpoint.
        shutil.rmtree(plan.output / _CHECKPOINTS, ignore_errors=True)
        (plan.output / _PLAN).unlink(missing_ok=True)
    trainer.accelerator.wait_for_everyone()


def _name_base(plan: _Plan) -> None:
    path = plan.partial / "adapter_config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = plan.base
        _write_json(path, config)


def _losses(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [_entry(logs) for logs in history if "loss" in logs]


def _entry(logs: dict[str, float]) -> dict[str, float]:
    names = {"step": "step", "loss": "loss", "num_input_tokens_seen": "tokens", "learning_rate": "learning_rate"}
    return {ours: logs[theirs] for theirs, ours in {**names, "epoch": "epoch"}.items() if theirs in logs}


def _reporter(report: Callable[[dict[str, float]], None] | None) -> Any:
    """Sees to it that the last step and every checkpoint are logged, and passes entries on.

    A loss is a mean since the entry before, of which a checkpoint keeps nothing: an interval must not be cut in two.
    """
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if control.should_save or state.global_step >= state.max_steps:
                control.should_log = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if report is not None and logs and "loss" in logs:
                report(_entry({**logs, "step": state.global_step}))

    return Reporter()


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint: the trainer's state is what it writes last."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(found, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _device_name(args: Any) -> str:
    import torch

    return str(torch.cuda.get_device_name(args.device)) if args.device.type == "cuda" else str(args.device.type)


# --- leaving the process as it was ------------------------------------------------------------------


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    import torch

    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)


@contextlib.contextmanager
def quiet(*, show: bool) -> Iterator[None]:
    """Without the libraries' bars and hints, and without TRL's report of use to the hub."""
    import datasets
    from huggingface_hub import constants
    from transformers.utils import logging as untyped

    logs: Any = untyped
    had_bars = logs.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    level, silent = logs.get_verbosity(), constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    if not show:
        logs.disable_progress_bar()
        datasets.disable_progress_bars()
        logs.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # transformers renamed it, but TRL still sets and peft still reads the old name.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = silent
        logs.set_verbosity(level)
        if had_bars[0]:
            logs.enable_progress_bar()
        if had_bars[1]:
            datasets.enable_progress_bars()


# --- small things -----------------------------------------------------------------------------------


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number, or too small.

    Raises:
        ConfigurationError: If it is.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} is {value!r}, but must be a whole number of {least} or more.")


def _between(name: str, value: object, low: float, high: float, *, above: bool = False, below: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number and low <= value <= high and math.isfinite(value)  # type: ignore[operator,arg-type]
    if not fits or (above and value <= low) or (below and value >= high):  # type: ignore[operator]
        wanted = f"{'above' if above else 'at least'} {low:g}"
        if math.isfinite(high):
            wanted += f" and {'below' if below else 'at most'} {high:g}"
        raise ConfigurationError(f"{name} is {value!r}, but must be a number {wanted}.")


def as_texts(name: str, value: object) -> tuple[str, ...]:
    """Texts, one at least; a list, as a preset's file has it, becomes a tuple.

    Raises:
        ConfigurationError: If it is something else.
    """
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, str) and each.strip() for each in value):
        return tuple(value)
    raise ConfigurationError(f"{name} is {value!r}, but must be a list of one text or more, none of them empty.")


__all__ = [
    "METHODS",
    "RECORD",
    "TrainResult",
    "TrainSettings",
    "as_texts",
    "check_installed",
    "check_whole",
    "compute_dtype",
    "finished",
    "load_tokenizer",
    "model_and_adapter",
    "quiet",
    "train",
]
