"""How fast many `hf/` episodes generate at once, against the same replies one by one and in plain batches.

First 64 self-play episodes are played at the same time, and the prompt and the length of every reply are written
down. Then the same prompts are answered with the same number of new tokens in two other ways, by the same model, in
the same process, with the same number of threads:

- one by one: transformers' `model.generate` for one prompt after another;
- plain batches: `model.generate` for the prompts of each of our batches, filled up from the left, each row until it
  is as long as the reply that was written down.

Without --model it builds a small random Llama with a tokenizer of its own whose weights are set so that it says
words inside valid JSON and ends its turn: the replies are nonsense, but as long as real ones.

    python benchmarks/hf_generation.py
    python benchmarks/hf_generation.py --model runs/pi/bc --threads 2
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from harness import machine, make_parser, positive, publish

import sotopia_env
from sotopia_env.agents.hf import HFAgent
from sotopia_env.agents.memory import keep_freed_memory
from sotopia_env.chat import render
from sotopia_env.conversation import Conversation

PACKAGES = ("torch", "transformers")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENINGS = [f'{{"action_type": "{kind}", "argument": "' for kind in ("speak", "action", "non-verbal communication")]
CLOSING = '"}'
WORDS = [f" w{number}" for number in range(200)]


class Asked(NamedTuple):
    """A prompt and how many tokens its reply had."""

    prompt: list[int]
    new: int


class Played(NamedTuple):
    """What our side did."""

    batches: list[list[Asked]]
    computed: int


class Spent(NamedTuple):
    """Seconds on the clock, and of all processors together."""

    seconds: float
    cpu_seconds: float


@contextmanager
def spent(into: list[Spent]) -> Iterator[None]:
    clock, cpu = time.perf_counter(), time.process_time()
    yield
    into.append(Spent(time.perf_counter() - clock, time.process_time() - cpu))


# --- the small model ------------------------------------------------------------------------------


def small_model(folder: Path, words: int, temperature: float) -> None:
    """Save a Llama of 3 layers x 192 that answers with about `words` random words in valid JSON."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens = small_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=4096,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    number = tokens.get_vocab()
    # Each of the first dimensions says what was read last, and makes what may follow the likeliest.
    follows = [(["Ċ"], OPENINGS), ([*OPENINGS, *WORDS], WORDS), (WORDS, [CLOSING]), ([CLOSING], ["<|im_end|>"])]
    strengths = [10.0, 10.0, 10.0 + temperature * math.log(len(WORDS) / words), 20.0]
    with torch.no_grad():
        for place, ((before, after), strength) in enumerate(zip(follows, strengths, strict=True)):
            model.model.embed_tokens.weight[:, place] = 0.0
            model.lm_head.weight[:, place] = 0.0
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight[place] = 0.0
                layer.mlp.down_proj.weight[place] = 0.0
            model.model.embed_tokens.weight[[number[token] for token in before], place] = 10.0
            # After the normalization these dimensions share the length of the vector, the square root of 192.
            shared = 192**0.5 / (2**0.5 if place in (1, 2) else 1)
            model.lm_head.weight[[number[token] for token in after], place] = strength / shared
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)


def small_tokenizer() -> Any:
    """A BPE of about 1,000 tokens, learned on the prompts that are played."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = [
        message["content"]
        for task in sotopia_env.load_tasks("outcome", n=50)
        for message in render(Conversation(task, seed=0).view("agent_0"))
    ]
    special = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=800, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    made.add_tokens([*OPENINGS, *WORDS, CLOSING])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|pad|>", chat_template=TEMPLATE
    )


# --- three ways -----------------------------------------------------------------------------------


def play(agent: HFAgent, episodes: int, turns: int, into: list[Spent]) -> Played:
    """Self-play of many episodes at once, with all that was asked of the model."""
    engine = agent._ready()
    engine.forget()
    batches: list[list[Asked]] = []
    generate = engine._generate

    def watched(rows: list[Any]) -> None:
        generate(rows)
        batches.append([Asked(row.prompt, len(row.made) or 1) for row in rows])

    engine._generate = watched  # type: ignore[method-assign]
    tasks = list(itertools.islice(itertools.cycle(sotopia_env.load_tasks("outcome/bargain", n=episodes)), episodes))
    with spent(into):
        played = sotopia_env.rollout(tasks, [agent, agent], concurrency=episodes, max_turns=turns)
    engine._generate = generate  # type: ignore[method-assign]
    failed = [episode.error for episode in played if episode.status != "complete"]
    if failed:
        raise RuntimeError(f"{len(failed)} episodes failed, the first with: {failed[0]}")
    computed = sum(counts.get("computed_tokens", 0) for episode in played for counts in episode.usage.values())
    return Played(batches, computed)


def one_by_one(model: Any, prompts: Sequence[Asked], temperature: float) -> None:
    """`model.generate` for one prompt after another."""
    import torch

    for prompt, new in prompts:
        ids = torch.tensor([prompt], device=model.device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=temperature,
            min_new_tokens=new,
            max_new_tokens=new,
        )
        assert out.shape[1] == len(prompt) + new


def in_batches(model: Any, batches: Sequence[Sequence[Asked]], temperature: float) -> None:
    """`model.generate` for one batch after another, nothing kept in between."""
    import torch
    from transformers import StoppingCriteriaList

    for batch in batches:
        width = max(len(prompt) for prompt, _ in batch)
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in batch], device=model.device)
        mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in batch], device=model.device
        )
        most = torch.tensor([new for _, new in batch], device=model.device)

        def ended(so_far: Any, *_: Any, width: int = width, most: Any = most, **__: Any) -> Any:
            return so_far.shape[1] - width >= most

        model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=temperature,
            min_new_tokens=int(most.max()),
            max_new_tokens=int(most.max()),
            stopping_criteria=StoppingCriteriaList([ended]),
        )


def measure(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    """The three ways, a few times each, in turn."""
    import torch

    agent = HFAgent(model, temperature=arguments.temperature, max_tokens=arguments.max_tokens, retry=False)
    agent.load()
    raw = agent._ready().model
    few = play(agent, 2, 2, []).batches[0]  # warm up, all three of them
    one_by_one(raw, few, arguments.temperature)
    in_batches(raw, [few], arguments.temperature)
    found: dict[str, list[Spent]] = {"ours": [], "plain batches": [], "one by one": []}
    for _ in range(arguments.rounds):
        played = play(agent, arguments.episodes, arguments.turns, found["ours"])
        prompts = [asked for batch in played.batches for asked in batch]
        with spent(found["plain batches"]):
            in_batches(raw, played.batches, arguments.temperature)
        with spent(found["one by one"]):
            one_by_one(raw, prompts, arguments.temperature)
    return {
        "seconds": {way: [each.seconds for each in times] for way, times in found.items()},
        "cpu_seconds": {way: [each.cpu_seconds for each in times] for way, times in found.items()},
        "replies": len(prompts),
        "batches": len(played.batches),
        "prompt_tokens": sum(len(prompt) for prompt, _ in prompts),
        "computed_tokens": played.computed,
        "new_tokens": sum(new for _, new in prompts),
        "parameters": sum(weight.numel() for weight in raw.parameters()),
        "threads": torch.get_num_threads(),
        "device": str(raw.device),
        "dtype": str(raw.dtype).removeprefix("torch."),
    }


def rows_of(found: dict[str, Any], episodes: int) -> Iterator[list[str]]:
    """The table's rows."""
    best = {way: min(seconds) for way, seconds in found["seconds"].items()}
    names = {
        "ours": "hf/ episodes, prefixes kept",
        "plain batches": "plain batches",
        "one by one": "model.generate one by one",
    }
    for way, name in names.items():
        yield [
            name,
            f"{best[way]:,.2f}",
            f"{min(found['cpu_seconds'][way]):,.2f}",
            f"{episodes / best[way]:,.1f}",
            f"{found['new_tokens'] / best[way]:,.0f}",
            f"{found['computed_tokens' if way == 'ours' else 'prompt_tokens']:,}",
            f"{best['one by one'] / best[way]:.2f}",
        ]


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("--model", help="folder, hub id or smollm2 (default: a small random Llama made here)")
    parser.add_argument("--episodes", type=positive, default=64, help="episodes at once (default 64)")
    parser.add_argument("--turns", type=positive, default=10, help="longest episode, in turns of both (default 10)")
    parser.add_argument("--max-tokens", type=positive, default=64, help="longest reply (default 64)")
    parser.add_argument(
        "--words", type=positive, default=20, help="words in a reply of the small model, on average (default 20)"
    )
    parser.add_argument("--temperature", type=float, default=0.7, help="above 0 (default 0.7)")
    parser.add_argument("--rounds", type=positive, default=3, help="how often each way is measured (default 3)")
    parser.add_argument("--threads", type=positive, help="torch threads (default: torch's own)")
    arguments = parser.parse_args()
    keep_freed_memory()
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    about = machine()
    about["versions"] |= {name: __import__(name).__version__ for name in PACKAGES}
    with tempfile.TemporaryDirectory() as temporary:
        model = arguments.model
        if model is None:
            small_model(Path(temporary) / "small", arguments.words, arguments.temperature)
            model = str(Path(temporary) / "small")
        found = measure(arguments, model)
    what = Path(model).name if arguments.model else "a random Llama of 3 layers x 192"
    publish(
        "hf_generation",
        f"Generation of {arguments.episodes} episodes at once by one model on this machine",
        ["way", "seconds", "CPU seconds", "episodes/s", "new tokens/s", "prompt tokens computed", "times one by one"],
        list(rows_of(found, arguments.episodes)),
        [
            f"Model: {what}, {found['parameters'] / 1e6:.1f} M parameters, {found['dtype']} on {found['device']}, "
            f"{found['threads']} thread(s). Self-play of outcome/bargain, {arguments.turns} turns at most, temperature "
            f"{arguments.temperature:g}.",
            f"{found['replies']} replies in {found['batches']} batches, {found['new_tokens'] / found['replies']:.1f} "
            f"tokens each on prompts of {found['prompt_tokens'] / found['replies']:,.0f}; the other ways answer the "
            "same prompts with the same number of tokens.",
            f"Best of {arguments.rounds} rounds in turn, all in one process; our seconds include the episodes "
            "themselves, rendering and tokenizing; the others begin with tokens.",
        ],
        {
            "arguments": {key: value for key, value in vars(arguments).items() if key not in ("results", "model")},
            **found,
        },
        folder=arguments.results,
        about=about,
    )


if __name__ == "__main__":
    main()
