"""Environment steps per second on 20-turn two-agent episodes, beside sotopia's ParallelSotopiaEnv.

Whole episodes are played: reset, 20 steps in round-robin order with ready-made actions (so that no
policy is timed), and the judging of the end. Ours has the outcome judge, sotopia its rule-based
evaluator, which decides only whether an episode is over. All variants take turns within one run, in
another order each round; ratios are taken within a round, so that a change of the machine's load hits
both sides.

    python benchmarks/steps_per_second.py
    python benchmarks/steps_per_second.py --rounds 20 --seconds 2
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
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
    scene,
    spread,
    summary,
)

import sotopia_env
from sotopia_env.actions import ACTION_INDEX, NOTHING, Action

PARALLEL = "parallel_env(), outcome judge"
Play = Callable[[float], Sample]
"""Plays whole episodes for about so many seconds."""

SPOKEN = [Action("speak", text) for text in UTTERANCES]
# Every second pair of moves is an offer that nobody accepts, so that the rules have work on every turn.
BARGAINED = [Action("action", f"offer {20 + turn}") if turn % 4 > 1 else move for turn, move in enumerate(SPOKEN)]
SAMPLED = [{"action_type": ACTION_INDEX[move.action_type], "argument": move.argument} for move in SPOKEN]
SILENT = {"action_type": 0, "argument": ""}


def until(seconds: float, episode: Callable[[], int]) -> Sample:
    steps = 0
    cpu, start = time.process_time(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        played = episode()
        assert played == TURNS, f"an episode ended after {played} steps"
        steps += played
    return Sample(steps, time.perf_counter() - start, time.process_time() - cpu)


def parallel(moves: list[Any], nothing: Any = NOTHING, **options: Any) -> Play:
    env = sotopia_env.parallel_env(**options)
    env.reset(seed=0)
    first, second = env.possible_agents

    def episode() -> int:
        env.reset()
        step = 0
        while env.agents:
            move = moves[step]
            env.step({first: nothing, second: move} if step % 2 else {first: move, second: nothing})
            step += 1
        return step

    return lambda seconds: until(seconds, episode)


def aec(moves: list[Any], **options: Any) -> Play:
    env = sotopia_env.env(**options)
    env.reset(seed=0)

    def episode() -> int:
        env.reset()
        step = 0
        for _agent in env.agent_iter():
            _observation, _reward, terminated, truncated, _info = env.last()
            if terminated or truncated:
                env.step(None)  # PettingZoo's farewell to an agent whose episode is over; not counted
            else:
                env.step(moves[step])
                step += 1
        return step

    return lambda seconds: until(seconds, episode)


def variants(sotopia: Sotopia | None) -> dict[str, Play]:
    tasks = sotopia_env.load_tasks("outcome")  # what parallel_env() loads by itself
    plays = {
        PARALLEL: parallel(SPOKEN, tasks=tasks),
        "  actions as sampled dicts": parallel(SAMPLED, SILENT, tasks=tasks),
        "  bargain, every other pair an offer": parallel(BARGAINED, tasks="outcome/bargain"),
        "  without a judge": parallel(SPOKEN, tasks=tasks, judge=None),
        "env() (AEC), outcome judge": aec(SPOKEN, tasks=tasks),
    }
    if sotopia is not None:
        scenes = [scene(task) for task in tasks]
        sotopia.ask("scenes", scenes=scenes, utterances=UTTERANCES)
        plays[f"{SOTOPIA} ParallelSotopiaEnv"] = lambda seconds: Sample(**sotopia.ask("steps", seconds=seconds))
    return plays


def measure(plays: dict[str, Play], rounds: int, seconds: float) -> Iterator[dict[str, Sample]]:
    order = list(plays)
    shuffle = random.Random(0)
    for play in plays.values():
        play(0.5)  # caches, imports, the processor's clock
    for _ in range(rounds):
        shuffle.shuffle(order)
        yield {name: plays[name](seconds) for name in order}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=positive, default=15, help="measurements of every variant (default 15)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement (default 1.0)")
    arguments = parser.parse_args()
    sotopia = None if arguments.without_sotopia else Sotopia(arguments.sotopia_venv)
    about = machine(sotopia)
    plays = variants(sotopia)
    rounds = list(measure(plays, arguments.rounds, arguments.seconds))
    if sotopia is not None:
        sotopia.close()
    rates = {name: [r[name].amount / r[name].wall for r in rounds] for name in plays}
    per_cpu = {name: [r[name].amount / r[name].cpu for r in rounds] for name in plays}
    theirs = next((name for name in plays if name.startswith(SOTOPIA)), None)
    rows, ratios, cpu_ratios = [], {}, {}
    for name in plays:
        row = [name, spread(rates[name], "{:,.0f}"), f"{np.median(per_cpu[name]):,.0f}"]
        if theirs is not None:
            ratios[name] = [own / other for own, other in zip(rates[name], rates[theirs], strict=True)]
            cpu_ratios[name] = [own / other for own, other in zip(per_cpu[name], per_cpu[theirs], strict=True)]
            row += [spread(ratios[name], "{:.1f}"), spread(cpu_ratios[name], "{:.1f}")]
        rows.append(row)
    publish(
        "steps_per_second",
        "Environment steps per second, 20-turn two-agent episodes",
        ["variant", "steps/s", "steps per CPU second", *(["times sotopia", "by CPU time"] if theirs else [])],
        rows,
        [
            f"Medians over {arguments.rounds} interleaved rounds of {arguments.seconds:g} s each, with 95% bootstrap "
            "intervals of the median over rounds; ratios are taken within a round; by "
            "CPU time they depend less on what else the machine is doing.",
            "Reset and judging are included. Ours computes goal scores and rewards; sotopia's evaluator only decides "
            "whether the episode is over and its rewards are 0.",
            "Both sides play the same 120 generated tasks (the bargain row: 120 of that family) and the same "
            "utterances, as ready-made actions of their own type.",
        ],
        {
            "rates": rates,
            "per_cpu_second": per_cpu,
            "medians": {name: float(np.median(rates[name])) for name in plays},
            "ratios_to_sotopia": summary(ratios),
            "ratios_to_sotopia_by_cpu_time": summary(cpu_ratios),
        },
        folder=arguments.results,
        about=about,
    )


if __name__ == "__main__":
    main()
