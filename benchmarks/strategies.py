"""Every scripted strategy against the same partners in both seats, and the expert against itself.

The partners are fair, tough, soft, stubborn and deceptive. Each strategy plays every validation task of the
two-seat outcome families in seat 0 and in seat 1 against each of them. Intervals are bootstrapped over tasks.

    python benchmarks/strategies.py
    python benchmarks/strategies.py --tasks 600
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from harness import interval, machine, make_parser, positive, publish

import sotopia_env
from sotopia_env.agents.scripted import STRATEGIES

PARTNERS = ("fair", "tough", "soft", "stubborn", "deceptive")
TRIVIAL = ("leave", "accept_anything", "accept_acceptable", "extreme")


def goals(name: str, tasks: list[sotopia_env.Task]) -> dict[str, list[float]]:
    """The strategy's goals by task id, over all partners and both seats."""
    found: dict[str, list[float]] = defaultdict(list)
    for partner in PARTNERS:
        for seat in (0, 1):
            pair = [f"scripted/{partner}"] * 2
            pair[seat] = f"scripted/{name}"
            for episode in sotopia_env.rollout(tasks, pair, seed=0):
                if episode.status != "complete":
                    raise SystemExit(f"An episode of {pair} is {episode.status}: {episode.error}")
                found[episode.task.id].append(episode.rewards[f"agent_{seat}"])
    return found


def mean(values: list[float], form: str = "{:.2f}") -> str:
    low, high = interval(values, np.mean)
    return f"{form.format(np.mean(values))} [{form.format(low)}, {form.format(high)}]"


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("--tasks", type=positive, default=120, help="validation tasks (default 120)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the tasks (default 7)")
    arguments = parser.parse_args()
    about = machine()
    tasks = sotopia_env.load_tasks("outcome", split="validation", n=arguments.tasks, seed=arguments.seed)
    families = sorted({task.family for task in tasks})
    by_strategy = {name: goals(name, tasks) for name in STRATEGIES}
    means = {name: [float(np.mean(by_task[t.id])) for t in tasks] for name, by_task in by_strategy.items()}
    order = sorted(means, key=lambda name: -float(np.mean(means[name])))
    best = next(name for name in order if name in TRIVIAL)
    lead = [a - b for a, b in zip(means["expert"], means[best], strict=True)]
    own = sotopia_env.rollout(tasks, ["scripted/expert"] * 2, seed=0)
    zone = [e.verdicts["outcome"].measures for e in own if e.verdicts["outcome"].measures["zone"]]
    deals, welfare = [m["deal"] for m in zone], [m["welfare"] for m in zone]
    rows = []
    for name in order:
        per_family = [
            f"{np.mean([m for m, t in zip(means[name], tasks, strict=True) if t.family == family]):.2f}"
            for family in families
        ]
        rows.append([name, mean(means[name]), *per_family])
    publish(
        "strategies",
        "Mean goal (0 to 10) of every strategy against the same five partners, both seats",
        ["strategy", "all", *families],
        rows,
        [
            f"{len(tasks)} validation tasks, tasks seed {arguments.seed}, rollout seed 0; 95% bootstrap intervals over "
            "tasks; tasks without a zone of agreement included.",
            f"The expert leads the best trivial policy ({best}) by {mean(lead)}.",
            f"The expert against itself on the {len(zone)} tasks with a zone: deals {np.mean(deals):.1%}, mean welfare "
            f"{mean(welfare, '{:.3f}')}.",
        ],
        {"means": {name: float(np.mean(values)) for name, values in means.items()}},
        folder=arguments.results,
        about=about,
    )


if __name__ == "__main__":
    main()
