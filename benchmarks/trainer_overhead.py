"""Learner tokens per second of `trainers.behavior_cloning` against a bare TRL script with the same settings.

Learner tokens are those with loss. The bare script is what one writes by hand with TRL: conversations as messages,
`assistant_only_loss` (the chat template has generation markers), SFTTrainer, `train()`, `save_model()`. Both load
the same weights, see the same rows in the same order and end at the same loss. They are run in turn, in one process.

- whole: from the call to the saved policy; ours also rebuilds the conversations from their episodes, where the bare
  script is given the messages, and writes checkpoints only if asked, as the bare script.
- loop: the training loop alone.

Without --model it trains a Llama of about 2 million weights with random ones.

    python benchmarks/trainer_overhead.py
    python benchmarks/trainer_overhead.py --conversations 8 --repeats 1
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from harness import interval, machine, make_parser, positive, publish, spread, summary
from peft import LoraConfig
from training_tokens import scenes, small_model, trajectories
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from sotopia_env import chat
from sotopia_env.agents.memory import keep_freed_memory
from sotopia_env.trainers.behavior_cloning import TrainSettings, train
from sotopia_env.trainers.datasets import conversation_of
from sotopia_env.trainers.filters import Trajectory

SETTINGS = {
    "full": TrainSettings(method="full", learning_rate=1e-3, dtype="float32", save_steps=0),
    "lora": TrainSettings(method="lora", learning_rate=1e-3, dtype="float32", save_steps=0),
}
BARE, OURS = "bare TRL", "trainers.behavior_cloning"


class Run(NamedTuple):
    """Seconds of one training, whole and in its loop, and the last loss."""

    whole: float
    loop: float
    loss: float


def ours(base: Path, data: Sequence[Trajectory], folder: Path, settings: TrainSettings) -> tuple[Run, int]:
    start = time.perf_counter()
    result = train(base, data, folder, settings)
    whole = time.perf_counter() - start
    return Run(whole, result.seconds, result.loss), result.data["target_tokens"]


def bare(base: Path, messages: Sequence[Any], folder: Path, settings: TrainSettings) -> Run:
    start = time.perf_counter()
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=int(settings.alpha),
        lora_dropout=settings.dropout,
        target_modules="all-linear",
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup,
            num_train_epochs=settings.epochs,
            bf16=False,
            use_cpu=not torch.accelerator.is_available(),
            gradient_checkpointing=False,
            assistant_only_loss=True,
            max_length=None,
            save_strategy="no",
            report_to="none",
            logging_steps=settings.logging_steps,
            disable_tqdm=True,
            seed=0,
            data_seed=0,
        ),
        train_dataset=Dataset.from_dict({"messages": list(messages)}),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=lora if settings.method == "lora" else None,
    )
    trainer.remove_callback(PrinterCallback)
    begun = time.perf_counter()
    trainer.train()
    loop = time.perf_counter() - begun
    trainer.save_model(str(folder))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Run(time.perf_counter() - start, loop, losses[-1])


def measure(
    base: Path, data: Sequence[Trajectory], folder: Path, settings: TrainSettings, repeats: int
) -> tuple[dict[str, list[Run]], int]:
    """Both ways in turn; the first time of each is not counted."""
    messages = [chat.render(conversation_of(episode).view(agent)) for episode, agent in data]
    found: dict[str, list[Run]] = {OURS: [], BARE: []}
    targets = 0
    for repeat in range(repeats + 1):
        one, targets = ours(base, data, folder / "ours", settings)
        other = bare(base, messages, folder / "bare", settings)
        if abs(one.loss - other.loss) > 1e-4 * other.loss:
            raise SystemExit(f"The two trainings differ: they end at a loss of {one.loss} and {other.loss}.")
        if repeat:
            found[OURS].append(one)
            found[BARE].append(other)
        for name in ("ours", "bare"):
            shutil.rmtree(folder / name)
    return found, round(targets * settings.epochs)


def speeds(found: dict[str, list[Run]], targets: int, part: str) -> dict[str, list[float]]:
    return {name: [targets / getattr(run, part) for run in runs] for name, runs in found.items()}


def ratio(values: dict[str, list[float]]) -> str:
    """Bare by ours: the ratio of medians, and an interval over the pairs of runs."""
    pairs = np.array(list(zip(values[BARE], values[OURS], strict=True)))
    low, high = interval([one / other for one, other in pairs])
    return f"{np.median(pairs[:, 0]) / np.median(pairs[:, 1]):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("--model", type=Path, help="folder of a model whose template has generation markers")
    parser.add_argument("--conversations", type=positive, default=48, help="trajectories to train on (default 48)")
    parser.add_argument("--turns", type=positive, default=12, help="turns of each conversation (default 12)")
    parser.add_argument("--repeats", type=positive, default=7, help="timed trainings of each kind (default 7)")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    _silence()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    about = machine()
    about["versions"] |= _versions()
    tasks = scenes(max(2, -(-arguments.conversations // 4)))
    data = trajectories(tasks, arguments.turns)[: arguments.conversations]
    table, record = [], {}
    with tempfile.TemporaryDirectory() as folder:
        base = arguments.model or small_model(Path(folder) / "base", tasks)
        for method, chosen in SETTINGS.items():
            settings = replace(chosen, logging_steps=math.ceil(len(data) / chosen.batch_size))  # one entry, at the end
            found, targets = measure(base, data, Path(folder), settings, arguments.repeats)
            for part in ("whole", "loop"):
                values = speeds(found, targets, part)
                table.append([f"{method}, {part}", spread(values[OURS]), spread(values[BARE]), ratio(values)])
                record[f"{method}, {part}"] = {"values": values, **summary(values)}
    publish(
        "trainer_overhead",
        "Learner tokens per second of training",
        ["weights and time", OURS, BARE, "bare / ours"],
        table,
        [
            f"{len(data)} conversations of {arguments.turns} turns, one epoch in batches of 4, "
            f"{arguments.threads} thread(s); medians over {arguments.repeats} runs of each, taken in turn, with 95% "
            "bootstrap intervals; the ratio is of medians, its interval over pairs of runs.",
            "Whole: from the call to the saved policy. Loop: without loading, making rows and saving.",
            "On a CPU ours has TRL's output layer score the targets alone, where TRL by itself scores every position.",
            "Model: "
            + (arguments.model.name if arguments.model else "a Llama of about 2 million weights, from random ones."),
        ],
        {"rows": record},
        folder=arguments.results,
        about=about,
    )


def _silence() -> None:
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    disable_progress_bars()
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "trl", "peft")}


if __name__ == "__main__":
    main()
