"""The social benchmark's section "outcome" for every scripted strategy: what a policy has to beat.

Writes the results file (social.json, the same bytes each time with the same code), its timings beside it, and the
leaderboard made from it (social.html and social.md). `sotopia-env benchmark` does the same for any policy; put its
results file beside this one for a leaderboard of both.

    python benchmarks/social.py
    python benchmarks/social.py --tasks 12 --results /tmp
"""

from __future__ import annotations

import time

from harness import make_parser, positive
from rich.console import Console

from sotopia_env.agents.scripted import STRATEGIES
from sotopia_env.evaluation.benchmark import make_protocol, run_benchmark
from sotopia_env.evaluation.leaderboard import write_leaderboard


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("--tasks", type=positive, default=None, help="only so many tasks (another protocol)")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    protocol = make_protocol(["outcome"], tasks_per_section=arguments.tasks)
    policies = {name: f"scripted/{name}" for name in sorted(STRATEGIES)}
    console.print(f"protocol {protocol.hash}, {protocol.episodes(len(policies))['outcome']} episodes", highlight=False)
    start = time.perf_counter()
    results = run_benchmark(policies, protocol, progress=True)
    if not results.complete:
        raise SystemExit("Some episodes have no numbers; nothing is published.")
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "social.json"
    results.save(path)
    written = write_leaderboard([path], arguments.results / "social.html")
    console.print(f"{path.name} and {written} in {time.perf_counter() - start:.0f} s", highlight=False)


if __name__ == "__main__":
    main()
