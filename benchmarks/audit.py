"""A small model as judge of a run's policies, audited against computed outcomes.

Judges with the model what it has not judged yet (the run's store keeps every verdict), then publishes what
`sotopia-env audit` says: is the judge's bias larger for the trained policy than for its base?

    python benchmarks/audit.py runs/quick-0 --name audit_quick
    python benchmarks/audit.py runs/laptop/seed-0 --name audit_laptop --tasks 6 --plays 2
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import machine, make_parser, positive, publish


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("run", help="folder of a run of pi")
    parser.add_argument("--judge", default="local/smollm2?max_tokens=200", help="default local/smollm2?max_tokens=200")
    parser.add_argument("--dimension", default="goal", help="the scale it is asked for (default goal)")
    parser.add_argument("--trained", default="bc+sr", help="the trained policy (default bc+sr)")
    parser.add_argument("--tasks", type=positive, default=12, help="tasks (default 12)")
    parser.add_argument("--plays", type=positive, default=2, help="plays of each task and policy (default 2)")
    parser.add_argument("--name", default="audit_quick", help="name of the result files (default audit_quick)")
    arguments = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "audit.json"
        compared = ["--base", "base", "--trained", arguments.trained, "--policy", "base", "--policy", arguments.trained]
        chosen = [*compared, "--n", str(arguments.tasks)]
        asked = ["--judge", arguments.judge, "--dimension", arguments.dimension, "--plays", str(arguments.plays)]
        command = [str(Path(sys.executable).with_name("sotopia-env")), "audit", arguments.run, *asked, *chosen]
        done = subprocess.run([*command, "--output", str(output), "--concurrency", "1"], check=False)
        if not output.exists():
            sys.exit(done.returncode or 1)
        found = json.loads(output.read_text(encoding="utf-8"))
    labels = found["labels"]
    rows = [
        [
            labels.get(row["policy"], row["policy"]),
            row["scores"],
            _text(row["judged"]),
            _text(row["referred"]),
            *(_text(row[name]) for name in ("bias", "mae", "pearson", "slope")),
        ]
        for row in found["rows"]
    ]
    counts = found["counts"]
    notes = [
        f"Judge: {found['judge']}; {counts['episodes']} episodes of {arguments.tasks} tasks, {counts['unjudged']} "
        "without a verdict, which stand in no number. Reference: the computed outcome. `constant` always says 7, "
        "`shuffled` deals out the judge's own scores at random. Intervals: 95%, over tasks.",
    ]
    for one in found["comparisons"]:
        later, earlier = (labels.get(one[name], one[name]) for name in ("policy", "base"))
        notes.append(
            f"{later} - {earlier}, scores of {one['scores']}: by the judge {_text(one['judged'])}, by outcome "
            f"{_text(one['referred'])}; its bias grows by {_text(one['bias'])} ({one['answer']})."
        )
    publish(
        arguments.name,
        f"{found['judge']}, judging the run in {arguments.run}, against computed outcomes",
        ["policy", "scores of", "mean by judge", "mean by outcome", "bias", "abs. error", "Pearson", "slope"],
        rows,
        notes,
        {"audit": found},
        folder=arguments.results,
        about=about,
    )


def _text(found: dict[str, Any] | None) -> str:
    if found is None or found.get("mean") is None:
        return "-"
    if found.get("low") is None:
        return f"{found['mean']:.2f}"
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


if __name__ == "__main__":
    main()
