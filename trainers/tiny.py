"""A tiny language model made from nothing in a minute, so that the whole loop runs on a laptop.

`build` learns a tokenizer on scripted conversations, then trains a Llama of about two million weights on the
moves of agents without skill. The result speaks valid actions about the matter at hand and deals at
random: a base on which every bit of skill is learned afterwards. It knows nothing but these conversations.

The tokenizer is what makes it fast. Its byte-pair merges may run over spaces, so that what every
conversation repeats (rules, phrases, the JSON around an action) becomes a few long tokens, while each digit
stays a token of its own: an episode of 20 turns takes about 200 tokens instead of 840. Its price is that wording it
never saw falls into many short tokens.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sotopia_env
from sotopia_env import chat
from sotopia_env.agents.memory import keep_freed_memory
from sotopia_env.errors import ConfigurationError
from sotopia_env.trainers.behavior_cloning import TrainResult, TrainSettings, check_installed, finished, train
from sotopia_env.trainers.datasets import conversation_of
from sotopia_env.trainers.filters import Trajectory

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode
    from sotopia_env.tasks import Task

_PAD, _END = "<|pad|>", "<|end|>"

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Its chat template, with generation markers."""


@dataclass(frozen=True)
class TinySettings:
    """What the tiny base is made of.

    Attributes:
        layers, width, heads, inner: Size of the Llama: layers, hidden size, attention heads, size of the MLP.
        vocabulary: Most tokens the tokenizer may have.
        context: Positions: the longest conversation it can read, in tokens.
        unskilled: The agent whose moves it learns.
        partners: Whom that agent talks to; their moves are read, not learned.
        speakers: Agents whose talk the tokenizer learns its tokens from. Tokens carry no skill.
        families: Outcome families.
        tasks: Training tasks per family.
        training: How it is trained; `method` must be "full".
    """

    layers: int = 3
    width: int = 192
    heads: int = 6
    inner: int = 512
    vocabulary: int = 4096
    context: int = 1024
    unskilled: str = "scripted/novice"
    partners: tuple[str, ...] = ("scripted/novice", "scripted/fair", "scripted/soft")
    speakers: tuple[str, ...] = ("scripted/expert", "scripted/fair", "scripted/soft", "scripted/novice")
    families: tuple[str, ...] = ("bargain", "divide")
    tasks: int = 1000
    training: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            method="full", learning_rate=2e-3, batch_size=8, adam_beta2=0.98, max_length=1024, dtype="float32"
        )
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.training.method != "full":
            raise ConfigurationError(
                f"The tiny base's training has method {self.training.method!r}, but new weights are trained whole: "
                "'full'."
            )
        if self.width % self.heads:
            raise ConfigurationError(f"width is {self.width!r}, but must be a multiple of heads, {self.heads!r}.")

    def record(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)


def build(output: str | Path, settings: TinySettings | None = None, *, seed: int = 0) -> TrainResult:
    """Make the tiny base in a folder, which `hf/<folder>` plays.

    Args:
        output: Where it goes; `<output>.new` holds the untrained model meanwhile. If it is there, nothing is done.
        settings: What it is made of.
        seed: Decides tasks, episodes, first weights and the order of training.

    Raises:
        MissingExtraError: If torch, transformers or trl is not installed.
    """
    settings = settings or TinySettings()
    check_installed(settings.training)
    output = Path(output)
    if (done := finished(output)) is not None:
        return done
    unskilled = list(unskilled_play(settings, seed=seed))
    untrained = output.with_name(f"{output.name}.new")
    if not (untrained / "config.json").exists():
        texts = _texts(itertools.chain(unskilled, _speakers_play(settings, seed=seed)))
        save_untrained(untrained, learn_tokenizer(texts, settings.vocabulary), settings, seed=seed)
    return train(untrained, unskilled, output, settings.training, seed=seed)


def unskilled_play(settings: TinySettings, *, seed: int) -> Iterator[Trajectory]:
    """The trajectories that the base learns: the unskilled agent's part, in either seat against each partner."""
    for family in settings.families:
        tasks = sotopia_env.load_tasks(f"outcome/{family}", split="train", n=settings.tasks, seed=seed)
        for pair, agent, part in _shared_out(settings.unskilled, settings.partners, tasks):
            for episode in sotopia_env.rollout(part, pair, judge=None, seed=seed):
                yield Trajectory(episode, agent)


def _speakers_play(settings: TinySettings, *, seed: int) -> Iterator[Trajectory]:
    for family in settings.families:
        count = max(1, settings.tasks // 4)
        tasks = sotopia_env.load_tasks(f"outcome/{family}", split="train", n=count, seed=seed)
        for number, speaker in enumerate(settings.speakers):
            part = tasks[number :: len(settings.speakers)]
            for other in settings.speakers if part else ():
                for episode in sotopia_env.rollout(part, [speaker, other], judge=None, seed=seed):
                    yield Trajectory(episode, "agent_0")


def _shared_out(
    agent: str, partners: Sequence[str], tasks: Sequence[Task]
) -> Iterator[tuple[list[str], str, Sequence[Task]]]:
    """Deal the tasks out so that every partner is met equally often from either seat."""
    casts = [(partner, seat) for partner in partners for seat in (0, 1)]
    for number, (partner, seat) in enumerate(casts):
        pair = [partner, partner]
        pair[seat] = agent
        if part := tasks[number :: len(casts)]:
            yield pair, f"agent_{seat}", part


def _texts(trajectories: Iterable[Trajectory]) -> Iterator[str]:
    for episode, agent in trajectories:
        for message in _messages(episode, agent):
            yield message["content"]


def _messages(episode: Episode, agent: str) -> list[chat.Message]:
    return chat.render(conversation_of(episode).view(agent))


def learn_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Learn a byte-level BPE tokenizer whose tokens may run over spaces but not over digits or lines.

    Args:
        texts: What it is to write briefly.
        vocabulary: Most tokens it may have.

    Returns:
        A transformers tokenizer with `TEMPLATE`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|\n"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_PAD, "<|system|>", "<|user|>", "<|assistant|>", _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END)
    wrapped.chat_template = TEMPLATE
    return wrapped


def save_untrained(folder: Path, tokenizer: Any, settings: TinySettings, *, seed: int) -> None:
    """Write a Llama with random weights and its tokenizer; config.json comes last, so a half-written one is seen."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    keep_freed_memory()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.inner,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    made = folder / "made"
    model.save_pretrained(made)
    for file in sorted(made.iterdir(), key=lambda file: file.name == "config.json"):
        file.replace(folder / file.name)
    made.rmdir()
    (folder / "tiny.json").write_text(json.dumps(settings.record(), indent=1) + "\n", encoding="utf-8")


__all__ = ["TEMPLATE", "TinySettings", "build", "learn_tokenizer", "save_untrained", "unskilled_play"]
