"""Time to import sotopia_env and to the first reset, in fresh processes.

Four kinds of process take turns, each timed from inside after the interpreter has started (which makes
the ratios stricter than whole process times):

- `import gymnasium, pettingzoo`: what every PettingZoo environment costs at least;
- `import sotopia_env`;
- the same with `sotopia_env.parallel_env().reset(seed=0)`, over the default 120 generated tasks;
- `import gymnasium, pettingzoo, pydantic` with one pydantic model, for scale.

A process of its own checks, through Python's audit events, that importing opens no socket, starts no
process and prints nothing, and that neither it nor a reset loads a heavy module.

    python benchmarks/import_time.py
    python benchmarks/import_time.py --runs 40
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

from harness import machine, make_parser, positive, publish, spread, summary

BASE = "import gymnasium, pettingzoo"
IMPORT = "import sotopia_env"
RESET = "import sotopia_env, parallel_env().reset()"
SNIPPETS = {
    BASE: BASE,
    IMPORT: IMPORT,
    RESET: "import sotopia_env; sotopia_env.parallel_env().reset(seed=0)",
    "import gymnasium, pettingzoo and a pydantic model": (
        f"{BASE}, pydantic; pydantic.create_model('M', number=(int, ...), names=(dict[str, list[str]], ...))"
    ),
}
TARGETS = {IMPORT: 1.3, RESET: 2.5}
FORBIDDEN = ("torch", "transformers", "openai", "httpx", "httpx2", "xllamacpp", "datasets", "pandas", "scipy")
TIMED = "import time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
AUDITED = """
import json, sys
seen = []
watched = ("socket.", "subprocess.", "os.system", "os.fork", "os.exec", "os.posix_spawn", "urllib.")
sys.addaudithook(lambda event, arguments: seen.append(event) if event.startswith(watched) else None)
import sotopia_env
at_import = sorted(sys.modules)
sotopia_env.parallel_env().reset(seed=0)
print(json.dumps({"events": seen, "at_import": at_import, "after_reset": sorted(sys.modules)}))
"""


def fresh(code: str) -> str:
    """What a fresh process prints; anything on standard error is a failure."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    return done.stdout


def audit() -> dict[str, Any]:
    """Check what importing and resetting do besides taking time.

    Raises:
        SystemExit: If something was loaded, opened or printed that must not be.
    """
    assert fresh(IMPORT) == "", "importing sotopia_env prints"
    seen = json.loads(fresh(AUDITED))
    loaded = [name for name in FORBIDDEN if name in seen["after_reset"]]
    if loaded or seen["events"]:
        raise SystemExit(f"Importing and resetting loaded {loaded} and did {sorted(set(seen['events']))}.")
    return {
        "forbidden_modules": list(FORBIDDEN),
        "modules_at_import": len(seen["at_import"]),
        "modules_after_reset": len(seen["after_reset"]),
        "pydantic_at_import": "pydantic" in seen["at_import"],
    }


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("--runs", type=positive, default=21, help="fresh processes of every kind (default 21)")
    arguments = parser.parse_args()
    about = machine()
    checked = audit()
    order = list(SNIPPETS)
    shuffle = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in order}
    for name in order:
        fresh(SNIPPETS[name])  # compiled files and the page cache
    for _ in range(arguments.runs):
        shuffle.shuffle(order)
        for name in order:
            times[name].append(float(fresh(TIMED.format(code=SNIPPETS[name]))))
    ratios = {name: [a / b for a, b in zip(times[name], times[BASE], strict=True)] for name in SNIPPETS}
    rows = []
    for name in SNIPPETS:
        milliseconds = [1000 * value for value in times[name]]
        target = f"at most {TARGETS[name]}" if name in TARGETS else ""
        rows.append([name, spread(milliseconds, "{:,.0f}"), spread(ratios[name]), target])
    publish(
        "import_time",
        "Time to import and to the first reset, in fresh processes",
        ["what", "ms", "times gymnasium and pettingzoo", "target"],
        rows,
        [
            f"Medians over {arguments.runs} interleaved fresh processes of every kind with 95% bootstrap intervals; "
            "ratios are taken within a round.",
            f"Checked in a process of its own: neither importing nor resetting loads {', '.join(FORBIDDEN)}, opens a "
            "socket or starts a process, and importing prints nothing.",
            f"Modules loaded after the import: {checked['modules_at_import']}, pydantic "
            f"{'among' if checked['pydantic_at_import'] else 'not among'} them; after a reset: "
            f"{checked['modules_after_reset']}.",
        ],
        {
            "seconds": times,
            "ratios": summary(ratios),
            "checked": checked,
        },
        folder=arguments.results,
        about=about,
    )


if __name__ == "__main__":
    main()
