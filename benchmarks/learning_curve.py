"""Goal against training minutes: cloning and self-reinforcement of the quick preset, scaled to budgets.

`sotopia-env pi --preset quick --budget 30m` scales the number of the expert's and the learner's own tasks. Here each
budget trains BC and BC+SR from the same base, and both play unseen validation tasks from both seats against each
held-out partner. Minutes are those of the expert's play, cloning, own play and further training on one core: processor
time, so that other work on the machine hardly counts.

    python benchmarks/learning_curve.py
    python benchmarks/learning_curve.py --minutes 5 --minutes 10 --tasks 40
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from harness import machine, make_parser, positive, publish

import sotopia_env
from sotopia_env.agents.hf import HFAgent
from sotopia_env.evaluation import Evaluation, evaluate
from sotopia_env.evaluation.policies import held_out_tasks
from sotopia_env.specs import make_agent
from sotopia_env.trainers.behavior_cloning import train
from sotopia_env.trainers.casts import dealt
from sotopia_env.trainers.filters import make_filter, require
from sotopia_env.trainers.pi import Run, seat
from sotopia_env.trainers.self_reinforcement import self_reinforcement
from sotopia_env.trainers.settings import Preset, load_preset
from sotopia_env.trainers.tiny import build


def learned(preset: Preset, folder: Path, seed: int) -> dict[str, tuple[Path, float]]:
    """BC and BC+SR with the core minutes that each took from the base on; if both are there they are not made again."""
    known = folder / "minutes.json"
    if known.exists():
        return {name: (Path(place), taken) for name, (place, taken) in json.loads(known.read_text()).items()}
    run = Run(preset, folder, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    base = build(folder / "base", preset.base.tiny, seed=preset.base.seed).output
    begun = time.process_time()
    expert, judge = make_agent(preset.expert.agent), preset.judge.agent
    episodes: list[Any] = []
    for family in run.families:
        tasks = run.training_tasks(0, preset.expert.tasks, family)
        for cast, part in dealt(tasks, seat(expert, preset.expert.partners, tasks)):
            episodes += sotopia_env.rollout(part, cast, judge=judge, seed=seed)
    usual = {"learner": expert.name, "judge": judge, "reward": preset.judge.reward}
    kept = require(make_filter({**usual, **preset.expert.filter})(episodes)).kept
    bc = train(base, kept, folder / "bc", preset.bc.training, seed=seed)
    cloned = time.process_time()
    own = [task for family in run.families for task in run.training_tasks(3, preset.sr.tasks, family)]
    rounds = self_reinforcement(
        bc.output,
        own,
        folder / "sr",
        partner="pool",
        pool=preset.sr.partners,
        filter=preset.sr.filter,
        settings=preset.sr.training,
        repeats=preset.sr.repeats,
        seed=seed,
        acting={"temperature": preset.play.temperature, "max_tokens": preset.play.max_tokens},
    )
    done = time.process_time()
    made = {
        "bc": (bc.output, (cloned - begun) / 60),
        "bc+sr": (rounds[-1].training.output, (done - begun) / 60),
    }
    known.write_text(json.dumps({name: (str(place), taken) for name, (place, taken) in made.items()}) + "\n")
    return made


def detail(found: Evaluation, policy: str, families: Iterable[str]) -> tuple[dict[str, str], str]:
    """The goal in every family, and how many of its deals brought a policy no more than none would have."""
    parts = {}
    for family in families:

        def plays(play: Any, family: str = family) -> bool:
            return bool(play.family == family)

        goal = found.estimate(policy, "goal", "seen-wording", where=plays)
        assert goal is not None
        parts[family] = goal.text()
    deals = [play for play in found.plays[policy, "seen-wording"] if play.measures["agreement"] == 1]
    return parts, f"{sum(play.measures['goal'] <= 1 for play in deals)} of {len(deals)}"


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("--minutes", type=float, action="append", help="budget (default 3, 10, 20 and 30)")
    parser.add_argument("--tasks", type=positive, default=100, help="validation tasks (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="training seed (default 0)")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning-curve"), help="where the policies go")
    arguments = parser.parse_args()
    about = machine()
    torch.set_num_threads(1)  # what each process of the preset has on two cores
    quick = load_preset("quick")
    agents: dict[str, Any] = {"expert": make_agent(quick.expert.agent)}
    taken: dict[str, tuple[float, float]] = {}
    for budget in arguments.minutes or [3.0, 10.0, 20.0, 30.0]:
        preset = load_preset("quick", budget=budget)
        made = learned(preset, arguments.runs / f"{budget:g}m-{arguments.seed}", arguments.seed)
        for name, (folder, minutes) in made.items():
            label = f"{name}, {budget:g} minutes"
            taken[label] = budget, minutes
            play = preset.play
            agents[label] = HFAgent(str(folder), temperature=play.temperature, max_tokens=play.max_tokens)
    tasks = held_out_tasks(quick.tasks.pack, quick.tasks.families, split="validation", n=arguments.tasks, seed=7)
    found = evaluate(
        agents, {"seen-wording": tasks}, quick.evaluation.partners, seed=quick.evaluation.seed, met=quick.met
    )
    expert = found.estimate("expert", "goal", "seen-wording")
    assert expert is not None
    rows: list[list[Any]] = []
    data: dict[str, Any] = {"expert": expert.record()}
    for label, (budget, minutes) in taken.items():
        goal = found.estimate(label, "goal", "seen-wording")
        assert goal is not None
        share = f"{goal.mean / expert.mean:.0%}"
        parts, worthless = detail(found, label, quick.tasks.families)
        rows.append(
            [label.partition(",")[0], f"{budget:g}", f"{minutes:.1f}", goal.text(), share, *parts.values(), worthless]
        )
        data[label] = {"budget": budget, "minutes": minutes, **goal.record(), **parts, "deals without gain": worthless}
    parts, worthless = detail(found, "expert", quick.tasks.families)
    rows.append(["expert", "", "", expert.text(), "100%", *parts.values(), worthless])
    publish(
        "learning_curve",
        "Goal against training minutes",
        [
            *("policy", "budget", "core minutes", "goal", "of the expert"),
            *(f"on {family}" for family in quick.tasks.families),
            "deals without gain",
        ],
        rows,
        [
            f"Training seed {arguments.seed}; {len(tasks)} unseen validation tasks in seen wording, from both seats "
            f"against {', '.join(quick.evaluation.partners)}; intervals: 95%, Student's t over tasks. The expert: "
            f"{expert.text()}. Deals without gain: of those that it made, from which it has a goal of 1 or less.",
            "The budget is for the whole run on two cores, with all its policies and evaluation; core minutes are "
            "the processor time of this policy alone, from the base on, with one thread.",
        ],
        data,
        folder=arguments.results,
        about=about,
    )


if __name__ == "__main__":
    main()
