"""Training tokens of an episode as one conversation row, as a row per turn, and as the paper's rows; and their time.

Tokens: the same talk is cut off after 4, 8, 12 and 20 turns and put into scenes of both packs; each episode gives
two trajectories. Chat template and tokenizer are those of SmolLM2-135M-Instruct unless --model names others.

Time: a small Llama is trained from the same random weights on the same conversations, the same ones in every
optimizer step: a step has either `--conversations` conversation rows, or all turns of those conversations, with the
loss as the mean over the step's target tokens. Conversation and prefix rows then take the same steps up to rounding,
which the loss on held-out conversations shows; the paper's rows show other text and learn something else.

    python benchmarks/training_tokens.py
    python benchmarks/training_tokens.py --scenes 3 --steps 2 --repeats 1
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import UTTERANCES, machine, make_parser, positive, publish, spread, summary
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import sotopia_env
from sotopia_env import Action, Episode, chat
from sotopia_env.agents.memory import keep_freed_memory
from sotopia_env.conversation import Conversation
from sotopia_env.tasks import Task
from sotopia_env.trainers.behavior_cloning import TrainResult, TrainSettings, load_tokenizer, train
from sotopia_env.trainers.datasets import FORMS, Rows, conversation_of, rows
from sotopia_env.trainers.filters import Trajectory
from sotopia_env.trainers.tiny import TinySettings, learn_tokenizer, save_untrained

LENGTHS = (4, 8, 12, 20)
CONTEXT = 8192


def talk(task: Task, turns: int, first: int = 0) -> Episode:
    """The benchmark's talk in a scene, cut off after some turns; it begins at utterance `first`."""
    conversation = Conversation(task, seed=0, max_turns=turns)
    while not conversation.is_over:
        said = UTTERANCES[(first + conversation.turn) % len(UTTERANCES)]
        conversation.apply({conversation.movers[0]: Action("speak", said)})
    agents = dict.fromkeys(task.agents, "talk")
    return Episode(task=task, agents=agents, max_turns=turns, seed=0, events=tuple(conversation.events))


def scenes(count: int, split: str = "train") -> list[Task]:
    """Scenes of both packs, spread over their families."""
    found: list[Task] = []
    for pack in ("everyday", "outcome"):
        tasks = sotopia_env.load_tasks(pack) if split == "train" else sotopia_env.load_tasks("outcome", split=split)
        found += tasks[:: max(1, len(tasks) // count)][:count]
    return found


def trajectories(tasks: Sequence[Task], turns: int) -> list[Trajectory]:
    episodes = [talk(task, turns, number) for number, task in enumerate(tasks)]
    return [Trajectory(episode, agent) for episode in episodes for agent in episode.agents]


# --- tokens ---------------------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """Tokens of every trajectory, by form of the rows, and its target tokens."""

    by_form: dict[str, list[int]]
    targets: list[int]


def counts(tokenizer: Any, tasks: Sequence[Task], turns: int) -> Counts:
    found: dict[str, list[int]] = {}
    for form in FORMS:
        parts = [rows([each], tokenizer, form=form, max_length=CONTEXT) for each in trajectories(tasks, turns)]
        assert not any(part.cut_turns or part.dropped for part in parts)
        found[form] = [part.tokens for part in parts]
    return Counts(found, [part.target_tokens for part in parts])


def ratios(found: Counts, form: str) -> list[float]:
    return [many / one for many, one in zip(found.by_form[form], found.by_form["conversation"], strict=True)]


# --- time -----------------------------------------------------------------------------------------------------


def small_model(folder: Path, tasks: Sequence[Task]) -> Path:
    """A small Llama with random weights and a tokenizer of the scenes' own words."""
    heard = trajectories(tasks, 20)
    texts = [
        [message["content"] for message in chat.render(conversation_of(episode).view(agent))]
        for episode, agent in heard
    ]
    settings = TinySettings(context=CONTEXT)
    save_untrained(folder, learn_tokenizer(texts, settings.vocabulary), settings, seed=0)
    return folder


def loss_on(folder: Path, held_out: Rows) -> float:
    """Mean loss over the targets of some rows."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total = 0.0
    for row in held_out:
        ids = torch.tensor([row.input_ids])
        labels = torch.tensor([[i if m else -100 for i, m in zip(row.input_ids, row.target_mask, strict=True)]])
        with torch.no_grad():
            total += float(model(ids, labels=labels).loss) * sum(row.target_mask[1:])
    return total / held_out.target_tokens


class Trained(NamedTuple):
    """Trainings of one form: loop seconds of each, tokens seen, and the loss they end at."""

    seconds: list[float]
    tokens: int
    loss: float
    """On held-out conversations."""


def timed(base: Path, turns: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Trained]:
    """Train every form on the same conversations, one form after the other and round again."""
    learned = trajectories(scenes(arguments.conversations * arguments.steps), turns)
    learned = learned[: arguments.conversations * arguments.steps]
    held_out = rows(trajectories(scenes(8, "test"), turns), load_tokenizer(str(base)), max_length=CONTEXT)
    results: dict[str, list[TrainResult]] = {form: [] for form in FORMS}
    for repeat in range(arguments.repeats):
        for form in FORMS:
            settings = TrainSettings(
                method="full",
                form=form,
                learning_rate=1e-3,
                warmup=0.0,
                max_steps=arguments.steps,
                batch_size=arguments.conversations,
                gradient_accumulation=1 if form == "conversation" else turns // 2,  # one's own turns
                max_length=CONTEXT,
                order="sequential",
                dtype="float32",
                save_steps=0,
            )
            results[form].append(train(base, learned, folder / f"{turns}-{form}-{repeat}", settings))
    return {
        form: Trained([each.seconds for each in made], made[0].tokens, loss_on(made[0].output, held_out))
        for form, made in results.items()
    }


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("--model", default="smollm2", help="whose template and tokenizer are counted with")
    parser.add_argument("--scenes", type=positive, default=20, help="scenes of each pack (default 20)")
    parser.add_argument("--steps", type=positive, default=4, help="optimizer steps of every training (default 4)")
    parser.add_argument("--conversations", type=positive, default=4, help="conversations in a step (default 4)")
    parser.add_argument("--repeats", type=positive, default=3, help="trainings of each form and length (default 3)")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    keep_freed_memory()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    about = machine()
    about["versions"] |= {"torch": torch.__version__, "transformers": _version("transformers"), "trl": _version("trl")}
    from sotopia_env.agents.folders import resolve_model

    tokenizer = load_tokenizer(resolve_model(arguments.model))
    tasks = scenes(arguments.scenes)
    table, data = [], {}
    with tempfile.TemporaryDirectory() as folder:
        base = small_model(Path(folder) / "base", tasks)
        warm_up = TrainSettings(method="full", max_steps=1, dtype="float32", save_steps=0)
        train(base, trajectories(tasks[:2], 4), Path(folder) / "warm-up", warm_up)
        for turns in LENGTHS:
            found = counts(tokenizer, tasks, turns)
            made = timed(base, turns, arguments, Path(folder))
            for form in FORMS:
                table.append(_line(turns, form, found, made))
            data[str(turns)] = {
                "tokens": summary({form: list(map(float, each)) for form, each in found.by_form.items()}),
                "target_tokens": float(np.median(found.targets)),
                "times_conversation": summary({form: ratios(found, form) for form in FORMS}),
                "training": {form: each._asdict() for form, each in made.items()},
            }
    publish(
        "training_tokens",
        "Training tokens and time of an episode's two trajectories, by form of the rows",
        [
            "turns and rows",
            "tokens a trajectory",
            "times conversation",
            "seconds to train",
            "times conversation",
            "loss",
        ],
        table,
        [
            f"Tokens: {len(tasks)} scenes of both packs, two trajectories each, medians with 95% bootstrap intervals; "
            f"tokenizer and chat template of {arguments.model}.",
            f"Time: {arguments.steps} optimizer steps of {arguments.conversations} conversations each, the same in "
            f"every form, a Llama of about 2 million weights from the same random ones, {arguments.threads} thread(s), "
            f"forms taken in turn {arguments.repeats} time(s); medians with intervals. Its tokenizer is its own.",
            "Loss: mean over the targets of held-out conversation rows after these steps. Conversation and prefix rows "
            "take the same steps; the paper's rows learn from prompts of another form than these.",
        ],
        {"by_turns": data},
        folder=arguments.results,
        about=about,
    )


def _line(turns: int, form: str, found: Counts, made: dict[str, Trained]) -> list[str]:
    one, other = made["conversation"], made[form]
    slower = float(np.median(other.seconds) / np.median(one.seconds))
    return [
        f"{turns} turns, {form}",
        spread(found.by_form[form], "{:,.0f}"),
        spread(ratios(found, form)),
        spread(other.seconds),
        f"{slower:.2f}",
        f"{other.loss:.4f}",
    ]


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


if __name__ == "__main__":
    main()
