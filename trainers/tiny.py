"""A tiny language model made from nothing in half an hour, so that the whole loop runs on a laptop.

`build` learns a tokenizer on scripted conversations, then trains a Llama of less than a million weights: on
exercises in reading and counting, and on the play of agents without skill. The result speaks valid actions about the
matter at hand, can tell what an offer would bring it, and deals at random: a base on which every bit of skill is
learned afterwards. It knows nothing but these texts.

The tokenizer is what makes it fast. What is said in the same words in one conversation out of twenty (rules,
phrases, the JSON around an action) becomes one token each; names and things are words, and every digit is a token
of its own. An episode of 20 turns takes about 300 tokens instead of 840. Wording that it never saw falls into many.
The base learns to predict all of a conversation, not only the moves: that is what teaches it to look things up.

The base of the preset `quick` with seed 0 comes with the package, in tiny_base. This makes it anew:

    python -m sotopia_env.trainers.tiny OUTPUT
"""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

import sotopia_env
from sotopia_env import chat
from sotopia_env.actions import ACTION_INDEX, ACTION_TYPES
from sotopia_env.agents.boards import count, points_told, useful
from sotopia_env.agents.memory import keep_freed_memory
from sotopia_env.agents.phrases import PHRASES
from sotopia_env.errors import ConfigurationError, unknown
from sotopia_env.rules import RULES
from sotopia_env.tasks import name_known_to
from sotopia_env.trainers.behavior_cloning import (
    RECORD,
    TrainResult,
    TrainSettings,
    as_texts,
    check_installed,
    check_whole,
    finished,
    load_tokenizer,
    quiet,
    train,
)
from sotopia_env.trainers.datasets import Row, Rows, conversation_of, rows
from sotopia_env.trainers.filters import Trajectory

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode
    from sotopia_env.tasks import Task

_FAMILIES = ("bargain", "divide")
"""Families it has exercises for."""

_REMARKS = 3
"""Remarks in an exercise."""

_OFFERED = 0.7
"""Share of remarks that are about an offer; the others tell what things are worth."""

_NEAR, _CLOSE = 0.5, 10
"""Share of the prices that are close to the own value, which are hardest to tell apart, and how close."""

_RECALLED = 0.4
"""Share of remarks about an offer after which the verdict is said again later on."""

_PAD, _END = "<|pad|>", "<|end|>"

_BYTES = 261
"""Tokens of every vocabulary: the 256 bytes, and five marks."""

_MADE_OF = "tiny.json"

SHIPPED = Path(__file__).parent / "tiny_base"
"""The base that comes with the package."""

_COMMON = 0.05
"""Share of conversations in which a clause stands that becomes a token. Things and names are rarer."""

# The space before a digit goes with the digit: what is to be looked up stands next to what it belongs to.
_CLAUSE = re.compile(r'[^\d\n"]+?(?:[.!?:;,] (?!\d)|(?= ?\d|[\n"])|$)')

# How `chat` writes an action, and how it begins what others did.
_HEADS = tuple(chat.canonical(kind, "").removesuffix('"}') for kind in ACTION_TYPES)
_FRAMES = (' said: "', ' [action]: "', ' [non-verbal communication]: "')

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
        vocabulary: Most tokens of the byte-pair encoding; 261 are the bytes and the marks between messages.
        context: Positions: the longest conversation it can read, in tokens.
        unskilled: The agent whose moves it learns.
        partners: Whom that agent talks to. All that is said is learned, so they should have no skill either.
        speakers: Agents whose talk the tokenizer learns its tokens from. Tokens carry no skill.
        families: Outcome families.
        tasks: Training tasks per family.
        exercises: How many exercises in reading and counting come first.
        refreshers: How many more are mixed into the unskilled play, so that they are not forgotten over it.
        exercising: How the exercises are trained; `method` must be "full".
        training: How the unskilled play is trained after them, likewise.
    """

    layers: int = 3
    width: int = 128
    heads: int = 4
    inner: int = 320
    vocabulary: int = 1500
    context: int = 1024
    unskilled: str = "scripted/novice"
    partners: tuple[str, ...] = ("scripted/novice",)
    speakers: tuple[str, ...] = ("scripted/expert", "scripted/fair", "scripted/extreme", "scripted/novice")
    families: tuple[str, ...] = ("bargain", "divide")
    tasks: int = 1000
    exercises: int = 16000
    refreshers: int = 4000
    exercising: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            method="full",
            optimizer="muon",
            learning_rate=6e-3,
            batch_size=16,
            adam_beta2=0.98,
            max_length=1024,
            dtype="float32",
        )
    )
    training: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            method="full",
            optimizer="muon",
            learning_rate=4e-3,
            batch_size=8,
            adam_beta2=0.98,
            max_length=1024,
            dtype="float32",
        )
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for name in ("layers", "width", "heads", "inner", "context", "tasks"):
            check_whole(name, getattr(self, name), 1)
        for name, least in (("vocabulary", _BYTES), ("exercises", 0), ("refreshers", 0)):
            check_whole(name, getattr(self, name), least)
        for name in ("partners", "speakers", "families"):
            object.__setattr__(self, name, as_texts(name, getattr(self, name)))
        if not isinstance(self.unskilled, str) or not self.unskilled:
            raise ConfigurationError(f"unskilled is {self.unskilled!r}, but must be the spec of an agent.")
        for training in (self.exercising, self.training):
            if not isinstance(training, TrainSettings):
                raise ConfigurationError(f"The tiny base is to be trained with {training!r}, but needs TrainSettings.")
            if training.method != "full":
                raise ConfigurationError(
                    f"The tiny base is to be trained with method {training.method!r}, but new weights are trained "
                    "whole: 'full'."
                )
        for family in self.families:
            if family not in _FAMILIES:
                raise ConfigurationError(unknown("family of the tiny base", family, _FAMILIES))
        if self.width % (2 * self.heads):
            raise ConfigurationError(
                f"width is {self.width!r}, but must be a multiple of {2 * self.heads}, twice the number of heads."
            )

    def record(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)


def build(
    output: str | Path, settings: TinySettings | None = None, *, seed: int = 0, shipped: bool = True
) -> TrainResult:
    """Make the tiny base in a folder, which `hf/<folder>` plays.

    Args:
        output: Where it goes. If it is there, nothing is done. Meanwhile `<output>.new` holds the untrained model, and
            `<output>.practised` the one after the exercises.
        settings: What it is made of.
        seed: Decides tasks, episodes, first weights and the order of training.
        shipped: Copy the base that comes with the package, if it was made with these settings and this seed.

    Raises:
        MissingExtraError: If torch, transformers or trl is not installed.
    """
    settings = settings or TinySettings()
    check_installed(settings.training)
    output = Path(output)
    if (done := finished(output)) is not None:
        return done
    if shipped and is_shipped(settings, seed):
        return _copied(output)
    unskilled = list(unskilled_play(settings, seed=seed))
    untrained = output.with_name(f"{output.name}.new")
    if not _is_of(untrained, settings, seed):
        save_untrained(untrained, _tokenizer(unskilled, settings, seed=seed), settings, seed=seed)
    tokenizer = load_tokenizer(str(untrained))
    practised = output.with_name(f"{output.name}.practised")
    practice = exercise_rows(settings, tokenizer, seed=seed)
    if settings.exercises:
        first = replace(practice, rows=practice.rows[: settings.exercises])
        train(untrained, first, practised, settings.exercising, seed=seed)
    data = rows(unskilled, tokenizer, max_length=min(settings.context, settings.training.max_length))
    play = (replace(row, target_mask=_all_but_first(row.input_ids)) for row in data)
    data = replace(data, rows=(*play, *practice.rows[settings.exercises :]))
    return train(practised if settings.exercises else untrained, data, output, settings.training, seed=seed)


def _tokenizer(unskilled: Sequence[Trajectory], settings: TinySettings, *, seed: int) -> Any:
    heard = itertools.chain(unskilled[:1000], _speakers_play(settings, seed=seed))
    texts = [[message["content"] for message in _messages(episode, agent)] for episode, agent in heard]
    return learn_tokenizer(texts, settings.vocabulary)


def is_shipped(settings: TinySettings, seed: int) -> bool:
    """Whether the base of these settings and this seed comes with the package."""
    return _is_of(SHIPPED, settings, seed)


def _copied(output: Path) -> TrainResult:
    beside = output.with_name(f"{output.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(SHIPPED, beside, ignore=shutil.ignore_patterns("__*"))
    beside.replace(output)
    done = finished(output)
    assert done is not None, "what is shipped is finished"
    return replace(done, is_new=True)


def _all_but_first(ids: Sequence[int]) -> list[int]:
    return [0] + [1] * (len(ids) - 1)


def exercise_rows(settings: TinySettings, tokenizer: Any, *, seed: int) -> Rows:
    """The exercises and refreshers, in this order, as training rows with loss on all of their text."""
    draw = random.Random(f"exercises/{seed}")
    made = []
    for family in settings.families:
        tasks = sotopia_env.load_tasks(f"outcome/{family}", split="train", n=3 * settings.tasks, seed=seed)
        number = -(-(settings.exercises + settings.refreshers) // len(settings.families))
        made += [exercise(draw.choice(tasks), draw.randrange(2), draw) for _ in range(number)]
    draw.shuffle(made)
    made = made[: settings.exercises + settings.refreshers]
    ids = tokenizer.apply_chat_template(made)["input_ids"] if made else []
    return Rows(
        tuple(
            Row(row, _all_but_first(row), episode=f"exercise-{number}", agent="agent_0", turns=(), cut_turns=0)
            for number, row in enumerate(ids)
        ),
        trajectories=len(ids),
    )


def exercise(task: Task, seat: int, draw: random.Random) -> list[chat.Message]:
    """A text for practice: what a seat is told of its own values, offers drawn at random, and what they would bring it.

    Nothing is decided in it. It is rendered as conversations are, but without scene and rules, so that a short text
    holds many numbers to look up and to reckon with.
    """
    me, other = task.agents[seat], task.agents[1 - seat]
    worths, none = RULES[task.family].values(task)
    transcript: list[tuple[int, str, int, str]] = []
    turn = draw.randrange(2)

    def exchange(theirs: tuple[str, str], mine: tuple[str, str]) -> None:
        for move, (speaker, (kind, argument)) in enumerate(((other, theirs), (me, mine))):
            transcript.append((turn + move, speaker, ACTION_INDEX[kind], argument))

    for _ in range(_REMARKS):
        if draw.random() < _OFFERED:
            result = _drawn(task, seat, list(worths), draw)
            gains = worths[result][seat] >= none[seat]
            remark = _reckoned(task, seat, result, gains, none[seat], draw)
            exchange(("action", f"offer {_offer_text(task, seat, result)}"), ("speak", remark))
            if draw.random() < _RECALLED:
                for _ in range(draw.randint(0, 2)):
                    turn += 2
                    own = f"offer {_offer_text(task, 1 - seat, draw.choice(list(worths)))}"
                    exchange(("speak", _chat(draw)), ("action", own))
                turn += 2
                verdict = "gain" if gains else "lose"
                exchange(("speak", _chat(draw)), ("speak", draw.choice(PHRASES["verdict"]).format(verdict=verdict)))
        else:
            exchange(("speak", _chat(draw)), ("speak", _told(task, seat, none[seat], draw)))
        turn += draw.choice((2, 2, 4, 6))
    observation = {
        "agent": me,
        "background": "\n".join(RULES[task.family].worth(task, seat)),
        "facts": json.dumps({"names": {other: name_known_to(task, seat, 1 - seat)}}),
        "transcript": transcript,
        "turn": turn,
        "available_actions": np.array([1, 0, 0, 0, 0]),
    }
    return chat.render(observation)


def _drawn(task: Task, seat: int, results: list[Any], draw: random.Random) -> Any:
    """A result to reckon with: any, but in a bargain often a price close to the own value."""
    if task.family == "bargain" and draw.random() < _NEAR:
        value = task.seats[seat].private["value"]
        results = [price for price in results if abs(price - value) <= _CLOSE] or results
    return draw.choice(results)


def _chat(draw: random.Random) -> str:
    """Something said that bears on nothing."""
    return draw.choice(PHRASES[draw.choice(("patient", "hold/fair", "hold/tough", "hold/expert"))])


def _offer_text(task: Task, seat: int, result: Any) -> str:
    """A result as the other seat offers it."""
    if task.family == "bargain":
        return str(result)
    return " ".join(f"{item}={number}" for item, number in _kept(task, 1 - seat, result).items())


def _kept(task: Task, seat: int, result: Any) -> dict[str, int]:
    """What a seat keeps of the pool of a division."""
    pool = _pool(task)
    return {item: first if seat == 0 else pool[item] - first for item, first in zip(pool, result, strict=True)}


def _pool(task: Task) -> dict[str, int]:
    return cast("dict[str, int]", task.terms["items"])


def _reckoned(task: Task, seat: int, result: Any, gains: bool, none: float, draw: random.Random) -> str:
    if task.family == "bargain":
        return draw.choice(PHRASES["gaining price" if gains else "losing price"]).format(n=result)
    values = cast("dict[str, float]", task.seats[seat].private["values"])
    return count(_kept(task, seat, result), values, none)


def _told(task: Task, seat: int, none: float, draw: random.Random) -> str:
    private: dict[str, Any] = dict(task.seats[seat].private)
    if task.family == "bargain":
        return draw.choice(PHRASES["naive worth"]).format(n=f"{private['value']:g}")
    if draw.random() < 0.5:
        return useful(private["values"], _pool(task))
    points = points_told(private["values"], _pool(task))
    return draw.choice(PHRASES["points"]).format(points=points, none=f"{none:g}")


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


def _messages(episode: Episode, agent: str) -> list[chat.Message]:
    return chat.render(conversation_of(episode).view(agent))


def learn_tokenizer(conversations: Sequence[Sequence[str]], vocabulary: int) -> Any:
    """Learn a byte-level BPE tokenizer in which every digit, and every wording that is common, is one token.

    Args:
        conversations: The messages' texts of conversations that it is to write briefly.
        vocabulary: Most tokens of the byte-pair encoding; the common wordings come on top, some 150.

    Returns:
        A transformers tokenizer with `TEMPLATE`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    whole = [*_HEADS, *_FRAMES, *chat.REPLY_RULES.split("\n"), *common_wordings(conversations)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_PAD, "<|system|>", "<|user|>", "<|assistant|>", _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    known = re.compile("|".join(sorted(map(re.escape, whole), key=len, reverse=True)))
    texts = (known.sub("\n", text) for conversation in conversations for text in conversation)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in dict.fromkeys(whole)])
    fast: Any = PreTrainedTokenizerFast  # its constructor has no types
    wrapped = fast(tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END)
    wrapped.chat_template = TEMPLATE
    return wrapped


def common_wordings(conversations: Sequence[Sequence[str]]) -> list[str]:
    """Clauses of several words, without digits or quotes, that stand in a share `_COMMON` of conversations."""
    counts: Counter[str] = Counter()
    frame = re.compile("|".join(map(re.escape, (*_HEADS, *_FRAMES))))
    for conversation in conversations:
        counts.update({clause for text in conversation for clause in _CLAUSE.findall(frame.sub("\n", text))})
    least = max(2, _COMMON * len(conversations))
    return sorted(text for text, count in counts.items() if count >= least and len(text) >= 4 and " " in text)


def save_untrained(folder: Path, tokenizer: Any, settings: TinySettings, *, seed: int) -> None:
    """Write a Llama with random weights and its tokenizer; tiny.json, which says of what, comes last."""
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
    (folder / _MADE_OF).unlink(missing_ok=True)
    with quiet(show=False):
        model.save_pretrained(folder)
    (folder / _MADE_OF).write_text(_made_of(settings, seed), encoding="utf-8")


def _made_of(settings: TinySettings, seed: int) -> str:
    return json.dumps({"seed": seed, **settings.record()}, indent=1) + "\n"


def _is_of(folder: Path, settings: TinySettings, seed: int) -> bool:
    """Whether the folder holds a whole model of these settings, untrained or shipped."""
    try:
        return (folder / _MADE_OF).read_text(encoding="utf-8") == _made_of(settings, seed)
    except OSError:
        return False


def main(arguments: Sequence[str]) -> int:
    """Make the base that is shipped: `python -m sotopia_env.trainers.tiny OUTPUT`."""
    from sotopia_env.trainers.settings import load_preset

    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m sotopia_env.trainers.tiny OUTPUT", file=sys.stderr)
        return 2
    output, settings = Path(arguments[0]), load_preset("quick").base.tiny
    build(output, settings, shipped=False)
    for left in ("new", "practised"):
        shutil.rmtree(output.with_name(f"{output.name}.{left}"), ignore_errors=True)
    record = json.loads((output / RECORD).read_text(encoding="utf-8"))
    (output / RECORD).write_text(json.dumps({**record, "base": "tiny"}, indent=1) + "\n", encoding="utf-8")
    (output / _MADE_OF).write_text(_made_of(settings, 0), encoding="utf-8")
    return 0


__all__ = [
    "TEMPLATE",
    "TinySettings",
    "SHIPPED",
    "build",
    "is_shipped",
    "exercise",
    "common_wordings",
    "learn_tokenizer",
    "save_untrained",
    "unskilled_play",
]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
