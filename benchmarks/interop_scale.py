"""Rate and peak memory of import and export over ever more episodes, as they stream from file to file.

Two kinds of lines: SOTOPIA's flat episode export at its genuine size (32 kB), and our own episodes at 2 kB. They are
made on the way into a temporary file, every one with an id and words of its own. Every measurement is a process of its
own, which reads the file from its beginning to its end; the peak is that process's own ("VmHWM").

    python benchmarks/interop_scale.py --large 1000 10000 100000 --small 10000 100000 1000000
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import UTTERANCES, machine, make_parser, positive, publish

from sotopia_env import Episode, Event, Score, Verdict, load_tasks
from sotopia_env.dimensions import DIMENSIONS
from sotopia_env.episodes import dump_json
from sotopia_env.interop.export import export_records

CHILD = """
import collections, json, sys, time
from pathlib import Path
what, source, out = sys.argv[1:]
import sotopia_env.interop
from sotopia_env.interop import iterate
from sotopia_env.interop.export import export_records
problems = collections.Counter()
count = 0
def counted(records):
    global count
    for record in records:
        count += isinstance(record, sotopia_env.Episode)
        yield record
episodes = (r for r in counted(iterate(source, on_problem=lambda p: problems.update([p.kind])))
            if isinstance(r, sotopia_env.Episode))
start, cpu = time.perf_counter(), time.process_time()
if what == "import":
    collections.deque(episodes, maxlen=0)
    left_out = changed = 0
else:
    done = export_records(episodes, out, what)
    left_out, changed = sum(done.left_out.values()), sum(done.changed.values())
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")).split()[1]
print(json.dumps({"episodes": count, "seconds": seconds, "cpu": cpu, "peak_mib": int(peak) / 1024,
                  "problems": dict(problems), "left_out": left_out, "changed": changed}))
"""

LARGE = 32_000
SMALL = 2_000
PATHS = {"large": ("import", "sotopia-flat", "parquet"), "small": ("import", "parquet", "jsonl")}


def episode(turns: int, extra: int, words: random.Random) -> Episode:
    """An episode of a written scene, fully scored, with a judge's prompt of `extra` characters."""
    task = load_tasks("everyday", n=1)[0]
    plain = [seat.model_copy(update={"private": {}}) for seat in task.seats]
    if not extra:  # people of few words, so that a line has 2 kB
        brief = {"public_info": "", "personality": "", "secret": ""}
        plain = [seat.model_copy(update={"character": seat.character.model_copy(update=brief)}) for seat in plain]
    events = [
        Event(turn=turn, speaker=f"agent_{turn % 2}", action_type="speak", argument=UTTERANCES[turn % len(UTTERANCES)])
        for turn in range(turns)
    ]
    scores = {
        agent: {
            each.name: Score(value=float(each.low + 1), reason=UTTERANCES[number] if extra else "")
            for number, each in enumerate(DIMENSIONS)
        }
        for agent in task.agents
    }
    details: dict[str, object] = {"prompt": " ".join(words.choices(UTTERANCES, k=extra // 95))} if extra else {}
    return Episode(
        task=task.model_copy(update={"seats": tuple(plain)}),
        agents={"agent_0": "gpt-4", "agent_1": "gpt-3.5-turbo"},
        seed=0,
        events=tuple(events),
        ended_by="turn_limit",
        verdicts={"sotopia/gpt-4": Verdict(judge="sotopia/gpt-4", scores=scores, details=details)} if extra else {},
        id="MARK" * 6,
    )


def lines(kind: str, folder: Path) -> tuple[list[Path], Iterator[str]]:
    """The profiles that go with a kind of lines, and lines of it without end."""
    words = random.Random(0)
    if kind == "small":
        template, files = dump_json(episode(2, 0, words)), []
    else:
        export_records([episode(20, 9_000, words)], folder / "profiles", "sotopia-flat")
        template = (folder / "profiles" / "episodes.jsonl").read_text(encoding="ascii").strip()
        (folder / "profiles" / "episodes.jsonl").unlink()
        files = sorted((folder / "profiles").iterdir())
    return files, _numbered(template)


def _numbered(template: str) -> Iterator[str]:
    number = 0
    while True:
        # Another id and another first utterance a line: nothing can be remembered from one to the next.
        yield template.replace("MARK" * 6, f"{number:024d}").replace("Hello.", f"Hello, number {number}.") + "\n"
        number += 1


def measure(kind: str, count: int) -> list[dict[str, Any]]:
    """Every path over one file of `count` lines."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, made = lines(kind, folder)
        source = folder / "profiles"
        source.mkdir(exist_ok=True)
        with (source / "episodes.jsonl").open("w", encoding="ascii") as file:
            for _ in range(count):
                file.write(next(made))
        size = (source / "episodes.jsonl").stat().st_size
        for what in PATHS[kind]:
            command = [sys.executable, "-c", CHILD, what, str(source), str(folder / "out")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            assert result["episodes"] == count, result
            found.append({"kind": kind, "path": what, "count": count, "bytes": size, **result})
            print(f"{kind} {what} {count:,}: {result}", flush=True)
            _remove(folder / "out")
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        for inner in path.iterdir():
            inner.unlink()
        path.rmdir()
    path.unlink(missing_ok=True)


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("--large", type=positive, nargs="*", default=[1_000, 10_000, 100_000], help="lines of 32 kB")
    parser.add_argument("--small", type=positive, nargs="*", default=[10_000, 100_000, 1_000_000], help="of 2 kB")
    arguments = parser.parse_args()
    about = machine()
    found = [
        one
        for kind, counts in (("large", arguments.large), ("small", arguments.small))
        for count in counts
        for one in measure(kind, count)
    ]
    names = {
        "import": "import",
        "sotopia-flat": "import, export sotopia-flat",
        "parquet": "import, export parquet",
        "jsonl": "import, export jsonl",
    }
    rows = [
        [
            f"{'SOTOPIA flat' if one['kind'] == 'large' else 'our JSONL'}, {one['bytes'] / one['count'] / 1000:.1f} kB",
            names[one["path"]],
            f"{one['count']:,}",
            f"{one['seconds']:.1f}",
            f"{one['cpu']:.1f}",
            f"{one['count'] / one['cpu']:,.0f}",
            f"{one['bytes'] / one['cpu'] / 1e6:.1f}",
            f"{one['peak_mib']:.0f}",
        ]
        for one in found
    ]
    publish(
        "interop_scale",
        "Import and export of many episodes: rate and peak memory",
        ["lines", "path", "episodes", "seconds", "CPU s", "episodes/CPU s", "MB/CPU s", "peak MiB"],
        rows,
        [
            "One process, one run each. An import reads the file twice, once for profiles and once for episodes.",
            "Seconds on the clock include waiting for other programs on the machine; rates are by processor time.",
            "MB: of the file that is read. Peak: of the whole process, libraries included.",
        ],
        {"measurements": found},
        folder=arguments.results,
        about=about,
    )


if __name__ == "__main__":
    main()
