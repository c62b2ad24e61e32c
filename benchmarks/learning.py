"""What the learning loop teaches: the quick preset over several training seeds, on tasks that no training saw.

For every seed the whole of `sotopia-env pi --preset quick` runs, from the one base that comes with the package, with
the control: BC trained for as many more optimizer steps as BC+SR, on fresh expert episodes. Then every policy plays
`--tasks` validation tasks (new numbers and people) from both seats against each held-out partner, and fewer test tasks
(new wording too). A task's goal is averaged over seeds first; intervals are Student's t over tasks. With `--own` the
tables are made of what the runs themselves evaluated, for presets whose policies take long to play.

    python benchmarks/learning.py
    python benchmarks/learning.py --seeds 1 --tasks 60 --runs runs/learning
    python benchmarks/learning.py --preset laptop --seeds 1 --own --runs runs/laptop --name learning_laptop
"""

from __future__ import annotations

import functools
import json
import operator
import sys
from pathlib import Path
from typing import Any

from harness import machine, make_parser, positive, publish

from sotopia_env.evaluation import Evaluation, combine, evaluate, with_references
from sotopia_env.evaluation.policies import held_out_tasks
from sotopia_env.tasks import digest
from sotopia_env.trainers.pi import Run
from sotopia_env.trainers.settings import Preset, load_preset

LEARNED = ("base", "sr", "bc", "bc+sr", "sr+bc", "control")
FORCED = "base, JSON forced"
PAIRS = (
    ("bc", "base", "at least 0"),
    ("bc+sr", "bc", "lower end at least -0.2"),
    ("bc+sr", "control", ""),
    ("sr", "base", ""),
    ("sr+bc", "bc", ""),
)
FORCED_PAIRS = (("bc+sr", "base", ""), ("bc+sr", FORCED, ""), (FORCED, "base", ""))
"""Of a base that finds the form hard: what is left of the gain when it is held to the form."""
SEEN, UNSEEN = "seen-wording", "unseen-wording"


def run_of(preset: Preset, seed: int, folder: Path) -> Run:
    """A finished run of the loop."""
    run = Run(preset, folder, seed=seed, tell=lambda line: print(f"seed {seed}: {line}", file=sys.stderr, flush=True))
    run.run()
    return run


def judged(run: Run, preset: Preset, tasks: dict[str, Any]) -> Evaluation:
    """Every policy of a run on the benchmark's tasks; each is kept in a file, so that nothing is played twice.

    The files are named by policy, tasks and settings: what was played under others is never taken for it, and what is
    the same policy in several runs (the base, those without skill) is played once.
    """
    played = {label: [task.digest for task in chosen] for label, chosen in tasks.items()}
    settings = preset.evaluation.model_dump(mode="json"), preset.play.model_dump(mode="json")
    found = []
    for label, agent in with_references({label: run.agent(folder) for label, folder in run.policies.items()}).items():
        key = digest([label, agent if isinstance(agent, str) else agent.name, played, settings])
        place = run.folder.parent / "played" / f"{key[:16]}.json"
        if not place.exists():
            made = evaluate(
                {label: agent},
                tasks,
                preset.evaluation.partners,
                seed=preset.evaluation.seed,
                concurrency=preset.play.concurrency,
                met=preset.met,
                progress=True,
            )
            place.parent.mkdir(exist_ok=True)
            made.save(place)
        found.append(Evaluation.load(place))
    return functools.reduce(operator.add, found)


def minutes(run: Run) -> dict[str, float]:
    """Minutes of every stage of a run, as its manifest has them."""
    return {name: stage["seconds"] / 60 for name, stage in run.manifest["stages"].items()}


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("--preset", default="quick", help="preset (default quick)")
    parser.add_argument("--seeds", type=positive, default=3, help="training seeds 0, 1, ... (default 3)")
    parser.add_argument("--tasks", type=positive, default=300, help="tasks in seen wording (default 300)")
    parser.add_argument("--unseen", type=positive, default=100, help="tasks in unseen wording (default 100)")
    parser.add_argument("--own", action="store_true", help="the runs' own evaluations, without a control")
    parser.add_argument("--budget", type=float, help="minutes to plan for (default: the preset's own)")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"), help="where the runs go; kept if there")
    parser.add_argument("--name", default="learning", help="name of the result files (default learning)")
    arguments = parser.parse_args()
    about = machine()
    changes = {} if arguments.own else {"sr.control": True}
    preset = load_preset(arguments.preset, changes, budget=arguments.budget)
    settings = preset.evaluation
    if arguments.own:
        arguments.tasks = arguments.unseen = settings.tasks
    tasks = {
        label: held_out_tasks(preset.tasks.pack, preset.tasks.families, split=preset.tasks.unseen[label], n=n, seed=7)
        for label, n in ((SEEN, arguments.tasks), (UNSEEN, arguments.unseen))
    }
    by_seed, clocks = [], []
    for seed in range(arguments.seeds):
        folder = arguments.runs / f"seed-{seed}"
        run = run_of(preset, seed, folder)
        clocks.append(minutes(run))
        own = run.folder / "evaluation.json"
        by_seed.append(Evaluation.load(own) if arguments.own else judged(run, preset, tasks))
    found = combine(by_seed)
    rows, data = [], {}
    expert = found.estimate("expert", "goal", SEEN)
    assert expert is not None
    for policy in found.policies:
        cells = [found.estimate(policy, "goal", label) for label in (SEEN, UNSEEN)]
        zone = found.estimate(policy, "goal", SEEN, where=lambda play: play.zone is True)
        agreed = found.estimate(policy, "agreement", SEEN)
        unread = found.estimate(policy, "parse_failures", SEEN)
        seeds = [one.estimate(policy, "goal", SEEN) for one in by_seed]
        assert cells[0] is not None
        rows.append(
            [
                policy,
                cells[0].text(),
                f"{cells[0].mean / expert.mean:.0%}",
                ", ".join(f"{one.mean:.2f}" for one in seeds if one) if policy in LEARNED else "",
                zone.text() if zone else "",
                cells[1].text() if cells[1] else "",
                f"{agreed.mean:.0%}" if agreed else "",
                f"{unread.mean:.1%}" if unread and policy in (*LEARNED, FORCED) else "",
            ]
        )
        data[policy] = {label: cell.record() for label, cell in zip((SEEN, UNSEEN), cells, strict=True) if cell}
    notes = [
        f"Training seeds: {arguments.seeds}; {arguments.tasks} tasks in seen wording, {arguments.unseen} in unseen, "
        f"each from both seats against {', '.join(settings.partners)}; intervals: 95%, Student's t over tasks, after "
        "each task's goal was averaged over seeds.",
    ]
    differences = {}
    for later, earlier, wanted in (*PAIRS, *(FORCED_PAIRS if preset.base.forced else ())):
        if not {later, earlier} <= set(found.policies):  # no control among a run's own
            continue
        for label in (SEEN, UNSEEN):
            estimate = found.paired(later, earlier, "goal", label)
            if estimate is None:
                continue
            differences[f"{later} - {earlier}, {label}"] = estimate.record()
            each = [one.paired(later, earlier, "goal", label) for one in by_seed]
            text = ", ".join(f"{one.mean:.2f}" for one in each if one)
            zone = found.paired(later, earlier, "goal", label, where=lambda play: play.zone is True)
            notes.append(
                f"{later} - {earlier}, {label}: {estimate.text()}"
                + (f" (wanted: {wanted})" if wanted else "")
                + (f"; by seed {text}" if len(each) > 1 else "")
                + (f"; where a deal is possible {zone.text()}" if zone and zone.tasks < estimate.tasks else "")
                + "."
            )
    for seed, clock in enumerate(clocks):
        learned = sum(value for name, value in clock.items() if not name.startswith(("evaluation", "samples")))
        notes.append(
            f"Seed {seed}: {learned:.1f} minutes of play and training, {sum(clock.values()):.1f} with evaluation, one "
            f"stage after another; {preset.processes} process{'es' if preset.processes > 1 else ''} at once."
        )
    kept = {
        f"seed-{seed}": {
            path.stem: {key: json.loads(path.read_text())[key] for key in ("rule", "trajectories", "kept", "goal")}
            for path in sorted((arguments.runs / f"seed-{seed}" / "filters").glob("*.json"))
        }
        for seed in range(arguments.seeds)
    }
    publish(
        arguments.name,
        f"What the {preset.name} preset learns: mean goal (0 to 10) against held-out partners",
        ["policy", "goal", "of expert", "by seed", "where a deal is possible", "unseen wording", "deals", "unreadable"],
        rows,
        notes,
        {"policies": data, "differences": differences, "minutes": clocks, "filters": kept},
        folder=arguments.results,
        about=about,
    )


if __name__ == "__main__":
    main()
