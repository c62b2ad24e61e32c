"""Share of prompt tokens that a prefix cache can reuse over a 20-turn episode, ours and sotopia's.

The same scenes are played with the same 20 utterances on both sides, and every prompt is written out with
one chat template and one tokenizer: those of SmolLM2-135M-Instruct, through llama.cpp (the extra `local`).
The cache begins empty with every episode and keeps every earlier prompt of both agents; a prompt
can reuse its longest common beginning with any of them. Besides,

- in blocks: a cache that keeps whole blocks of 16 tokens, as vLLM's does;
- with replies: a cache that keeps what the model wrote as well, as llama.cpp's and vLLM's do;
- measured: what llama.cpp reports to have reused when it is given the prompts of a few scenes.

    python benchmarks/prefix_reuse.py
    python benchmarks/prefix_reuse.py --measured 1
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Sequence
from itertools import takewhile
from operator import eq
from typing import Any, NamedTuple

import numpy as np
import xllamacpp
from harness import (
    SOTOPIA,
    TURNS,
    UTTERANCES,
    Sotopia,
    interval,
    machine,
    make_parser,
    positive,
    publish,
    recorded,
    scene,
)

import sotopia_env
from sotopia_env.local import smollm2_path

OURS = "sotopia_env"
BLOCK = 16
Tokens = list[int]


class Llama:
    """SmolLM2's chat template, tokenizer and prefix cache."""

    def __init__(self) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(smollm2_path())
        parameters.n_ctx = 2 * 8192
        parameters.n_parallel = 2  # one conversation cache for each agent
        parameters.cache_ram_mib = 512  # its default takes up to 8 GiB
        # A thread that has to share its processor holds up all the others.
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) // 2)
        parameters.verbosity = -1
        self._server = xllamacpp.Server(parameters)

    def _post(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            self._server.listening_address + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=300) as response:
            return json.load(response)

    def text(self, messages: list[dict[str, str]]) -> str:
        """The messages as the model reads them, up to where its reply begins."""
        return str(self._post("/apply-template", messages=messages)["prompt"])

    def tokens(self, text: str) -> Tokens:
        """The text's tokens, the template's special ones included."""
        return list(self._post("/tokenize", content=text, parse_special=True)["tokens"])

    def reused(self, messages: list[dict[str, str]]) -> tuple[int, int]:
        """Tokens of a prompt, and how many of them came out of the cache."""
        answer = self._post("/v1/chat/completions", messages=messages, max_tokens=1, cache_prompt=True)
        timings = answer["timings"]
        return timings["cache_n"] + timings["prompt_n"], timings["cache_n"]


class Reuse(NamedTuple):
    """One episode's prompts, in tokens."""

    total: int
    exact: int
    blocks: int
    with_replies: int


def common(first: Tokens, second: Tokens) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(bool, map(eq, first, second)))


def reuse(llama: Llama, calls: Sequence[dict[str, Any]]) -> Reuse:
    prompts: list[Tokens] = []
    written: list[Tokens] = []
    total = exact = blocks = with_replies = 0
    for call in calls:
        text = llama.text(call["messages"])
        tokens = llama.tokens(text)
        longest = max((common(tokens, other) for other in prompts), default=0)
        total += len(tokens)
        exact += longest
        blocks += longest // BLOCK * BLOCK
        with_replies += max((common(tokens, other) for other in written), default=0)
        prompts.append(tokens)
        written.append(llama.tokens(text + call["reply"]))
    return Reuse(total, exact, blocks, with_replies)


def measured(episodes: Sequence[Sequence[dict[str, Any]]]) -> float | None:
    """Share of the prompts' tokens that llama.cpp reused; `None` without episodes."""
    total = found = 0
    for calls in episodes:
        llama = Llama()  # with an empty cache
        for call in calls:
            size, reused = llama.reused(call["messages"])
            total += size
            found += reused
    return found / total if total else None


def calls_of(pack: str, count: int, sotopia: Sotopia | None) -> dict[str, list[list[dict[str, Any]]]]:
    """Every call of one episode a scene, by side."""
    tasks = sotopia_env.load_tasks(pack)
    tasks = tasks[:: max(1, len(tasks) // count)][:count]  # spread over the pack's families
    found = {OURS: [recorded(task) for task in tasks]}
    if sotopia is not None:
        sotopia.ask("scenes", scenes=[scene(task) for task in tasks], utterances=UTTERANCES)
        found[SOTOPIA] = sotopia.ask("prompts")
    for episodes in found.values():
        assert all(len(calls) == TURNS for calls in episodes)
    return found


def share(values: Sequence[Reuse], field: str) -> str:
    shares = [getattr(value, field) / value.total for value in values]
    low, high = interval(shares)
    return f"{np.median(shares):.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--scenes", type=positive, default=20, help="scenes of each pack (default 20)")
    parser.add_argument(
        "--measured", type=int, default=0, help="scenes of each pack given to llama.cpp (default 0; minutes each)"
    )
    arguments = parser.parse_args()
    sotopia = None if arguments.without_sotopia else Sotopia(arguments.sotopia_venv)
    about = machine(sotopia)
    about["versions"]["xllamacpp"] = xllamacpp.__version__
    llama = Llama()
    rows, data = [], {}
    for pack in ("everyday", "outcome"):
        for side, episodes in calls_of(pack, arguments.scenes, sotopia).items():
            values = [reuse(llama, calls) for calls in episodes]
            seen = measured(episodes[: max(0, arguments.measured)])
            rows.append(
                [
                    f"{pack}: {side}",
                    f"{np.median([v.total / TURNS for v in values]):,.0f}",
                    share(values, "exact"),
                    share(values, "blocks"),
                    share(values, "with_replies"),
                    "not run" if seen is None else f"{seen:.1%}",
                    f"{np.median([v.total - v.exact for v in values]):,.0f}",
                ]
            )
            data[f"{pack}/{side}"] = {"episodes": [value._asdict() for value in values], "measured_share": seen}
    if sotopia is not None:
        sotopia.close()
    publish(
        "prefix_reuse",
        f"Prompt tokens that a prefix cache can reuse, {TURNS}-turn episodes",
        [
            "scenes and prompts",
            "tokens a prompt",
            "reusable",
            "in blocks of 16",
            "with replies",
            "measured",
            "left to compute",
        ],
        rows,
        [
            f"Medians over {arguments.scenes} scenes of each pack with 95% bootstrap intervals; the last column is in "
            "tokens an episode, all 20 prompts together.",
            "Tokenizer and chat template: SmolLM2-135M-Instruct (GGUF), through llama.cpp. Both sides play the same "
            "scenes, goals, private facts and utterances.",
            "Measured: not run (--measured)."
            if arguments.measured < 1
            else f"Measured: llama.cpp's own count over {arguments.measured} scene(s) of each pack, one cache for each "
            "agent, replies cut to one token.",
        ],
        data,
        folder=arguments.results,
        about=about,
    )


if __name__ == "__main__":
    main()
