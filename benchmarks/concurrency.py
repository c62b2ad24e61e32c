"""64 concurrent 20-turn episodes against an OpenAI-compatible server that answers after 200 ms.

The server runs on this machine in a process of its own, so that its processor time is nobody's. Three
clients take turns within one run: a bare AsyncOpenAI loop that sends the very messages of our episodes
(64 tasks with 20 calls in a row), `sotopia_env.rollout` with language-model agents and the outcome judge,
and sotopia's own engine, environment and agents without their LLM evaluator. The ideal wall time is
turns x delay.

    python benchmarks/concurrency.py
    python benchmarks/concurrency.py --episodes 128 --rounds 3
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from harness import (
    SOTOPIA,
    TURNS,
    UTTERANCES,
    Sample,
    Sotopia,
    machine,
    make_parser,
    positive,
    publish,
    recorded,
    scene,
    spread,
    summary,
)
from openai import AsyncOpenAI

import sotopia_env
from sotopia_env.agents.llm import LLMAgent
from sotopia_env.models import OpenAIModel

BARE = "bare AsyncOpenAI loop"
OURS = "sotopia_env.rollout"
THEIRS = f"{SOTOPIA} arun_one_episode"
REPLY = json.dumps({"action_type": "speak", "argument": UTTERANCES[0]})
Messages = list[dict[str, str]]
Play = Callable[[], Sample]


@contextmanager
def server(delay: float) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "sotopia_env.loopback", "--delay", str(delay), "--reply", REPLY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def timed(play: Callable[[], int]) -> Sample:
    cpu, start = time.process_time(), time.perf_counter()
    calls = play()
    return Sample(calls, time.perf_counter() - start, time.process_time() - cpu)


def bare(base_url: str, prompts: list[list[Messages]]) -> Play:
    loop = asyncio.new_event_loop()
    client = AsyncOpenAI(base_url=base_url, api_key="none-needed")

    async def one(turns: list[Messages]) -> int:
        for messages in turns:
            completion = await client.chat.completions.create(model="benchmark", messages=messages)  # type: ignore[arg-type]
            assert completion.choices[0].message.content == REPLY
        return len(turns)

    async def everything() -> int:
        return sum(await asyncio.gather(*map(one, prompts)))

    return lambda: timed(lambda: loop.run_until_complete(everything()))


def ours(base_url: str, tasks: Sequence[sotopia_env.Task]) -> Play:
    agent = LLMAgent(OpenAIModel("benchmark", base_url=base_url, max_connections=len(tasks)))

    def play() -> int:
        episodes = sotopia_env.rollout(tasks, [agent, agent], judge="outcome", concurrency=len(tasks))
        assert all(episode.status == "complete" and len(episode.rewards) == 2 for episode in episodes)
        return sum(usage["calls"] for episode in episodes for name, usage in episode.usage.items() if "agent" in name)

    return lambda: timed(play)


def variants(base_url: str, episodes: int, sotopia: Sotopia | None) -> dict[str, Play]:
    tasks = sotopia_env.load_tasks("outcome", n=episodes)
    prompts = [[call["messages"] for call in recorded(task, UTTERANCES[:1] * TURNS)] for task in tasks]
    plays = {BARE: bare(base_url, prompts), OURS: ours(base_url, tasks)}
    if sotopia is not None:
        sotopia.ask("scenes", scenes=[scene(task) for task in tasks], utterances=UTTERANCES)
        plays[THEIRS] = lambda: Sample(**sotopia.ask("episodes", base_url=base_url, count=episodes))
    return plays


def measure(base_url: str, arguments: Any, sotopia: Sotopia | None) -> list[dict[str, Sample]]:
    plays = variants(base_url, arguments.episodes, sotopia)
    for play in plays.values():
        play()  # clients are made and connections opened
    order = list(plays)
    shuffle = random.Random(0)
    rounds = []
    for _ in range(arguments.rounds):
        shuffle.shuffle(order)
        rounds.append({name: plays[name]() for name in order})
    for samples in rounds:
        for name, sample in samples.items():
            assert sample.amount == arguments.episodes * TURNS, f"{name} made {sample.amount} calls"
    return rounds


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--episodes", type=positive, default=64, help="episodes at once (default 64)")
    parser.add_argument("--delay", type=float, default=0.2, help="seconds before every answer (default 0.2)")
    parser.add_argument("--rounds", type=positive, default=5, help="measurements of every variant (default 5)")
    arguments = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"  # also for sotopia's side
    sotopia = None if arguments.without_sotopia else Sotopia(arguments.sotopia_venv)
    about = machine(sotopia)
    with server(arguments.delay) as base_url:
        rounds = measure(base_url, arguments, sotopia)
        if sotopia is not None:
            sotopia.close()
    names = [name for name in (BARE, OURS, THEIRS) if name in rounds[0]]
    wall = {name: [r[name].wall for r in rounds] for name in names}
    cpu = {name: [1000 * r[name].cpu / r[name].amount for r in rounds] for name in names}
    wall_ratio = {name: [a / b for a, b in zip(wall[name], wall[BARE], strict=True)] for name in names}
    cpu_ratio = {name: [a / b for a, b in zip(cpu[name], cpu[BARE], strict=True)] for name in names}
    calls = arguments.episodes * TURNS
    ideal = TURNS * arguments.delay
    publish(
        "concurrency",
        f"{arguments.episodes} concurrent {TURNS}-turn episodes, answers after {1000 * arguments.delay:.0f} ms",
        ["client", "wall s", "times bare", "CPU ms per call", "times bare"],
        [
            [name, spread(wall[name]), spread(wall_ratio[name]), spread(cpu[name]), spread(cpu_ratio[name])]
            for name in names
        ],
        [
            f"{calls} calls a measurement; ideal wall time {ideal:g} s. Medians over {arguments.rounds} interleaved "
            "rounds after one to warm up, with 95% bootstrap intervals; ratios are taken within a round.",
            "The server runs in a process of its own; CPU is that of the client's process, all threads.",
            "The bare loop sends our episodes' messages and neither renders, parses nor plays anything. sotopia sends "
            "its own prompts, with its logging off and without its LLM evaluator.",
        ],
        {
            "calls": calls,
            "ideal_wall": ideal,
            "wall": wall,
            "cpu_ms_per_call": cpu,
            "wall_ratios_to_bare": summary(wall_ratio),
            "cpu_ratios_to_bare": summary(cpu_ratio),
        },
        folder=arguments.results,
        about=about,
    )


if __name__ == "__main__":
    main()
