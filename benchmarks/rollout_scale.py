"""Time and peak memory of scripted outcome rollouts with a store, at 1,000 and at 10,000 episodes.

Every measurement is a process of its own. Two ways to ten thousand: 100 tasks played a hundred times, and
10,000 different tasks, which the caller holds in memory (about 5 kB each), whatever plays them.

    python benchmarks/rollout_scale.py
"""

from __future__ import annotations

import json
import subprocess
import sys

from harness import machine, make_parser, publish

CHILD = """
import json, resource, sys, tempfile, time
import sotopia_env
tasks, repeats = int(sys.argv[1]), int(sys.argv[2])
chosen = sotopia_env.load_tasks("outcome", split="test", n=tasks, seed=1)
start = time.perf_counter()
with tempfile.TemporaryDirectory() as folder:
    played = sotopia_env.rollout(
        chosen, ["scripted/fair", "scripted/tough"], judge="outcome", repeats=repeats, seed=1, store=folder + "/runs.db"
    )
    seconds = time.perf_counter() - start
    complete = sum(episode.status == "complete" for episode in played)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"episodes": len(played), "complete": complete, "seconds": seconds, "peak_mib": peak}))
"""

CASES = {
    "100 tasks x 10": (100, 10),
    "100 tasks x 100": (100, 100),
    "1,000 tasks": (1000, 1),
    "10,000 tasks": (10_000, 1),
}


def measure(tasks: int, repeats: int) -> dict[str, float]:
    command = [sys.executable, "-c", CHILD, str(tasks), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    arguments = make_parser(__doc__, sotopia=False).parse_args()
    about = machine()
    found = {name: measure(*case) for name, case in CASES.items()}
    bases = {"100 tasks x 100": "100 tasks x 10", "10,000 tasks": "1,000 tasks"}
    rows = [
        [
            name,
            f"{one['episodes']:,.0f}",
            f"{one['complete']:,.0f}",
            f"{one['seconds']:.1f}",
            f"{one['episodes'] / one['seconds']:,.0f}",
            f"{one['peak_mib']:.0f}",
            f"{one['peak_mib'] / found[bases[name]]['peak_mib']:.2f}" if name in bases else "",
        ]
        for name, one in found.items()
    ]
    publish(
        "rollout_scale",
        "Scripted outcome episodes with a store: time and peak memory",
        ["case", "episodes", "complete", "seconds", "episodes/s", "peak MiB", "times the smaller run's"],
        rows,
        [
            "scripted/fair against scripted/tough, outcome judge, seed 1, SQLite store in a temporary folder; one run "
            "each.",
            "Peak memory of the whole process. Different tasks are held by the caller: their memory is the difference.",
        ],
        {"cases": found},
        folder=arguments.results,
        about=about,
    )


if __name__ == "__main__":
    main()
