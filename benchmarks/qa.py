"""What a policy still knows of MMLU: a stated subset by letter and by choice text, and the change from the base.

Needs MMLU's zip. Answers are kept in --store, so that a run that was stopped goes on, and a later policy is compared
with a base that is not asked again.

    python benchmarks/qa.py --data ../shared/data/mmlu.zip
    python benchmarks/qa.py --data ../shared/data/mmlu.zip --policy base=hf/smollm2 \
        --policy bc+sr=hf/runs/laptop/seed-0/policies/bc+sr --name qa_laptop
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from pathlib import Path

from harness import machine, make_parser, positive, publish

from sotopia_env.agents.examinees import hf_examinee
from sotopia_env.cli.evaluating import read_policies
from sotopia_env.evaluation.mmlu import read_bank
from sotopia_env.evaluation.qa import examine, mmlu_exam
from sotopia_env.evaluation.retention import Report

PACKAGES = ("torch", "transformers", "lm-eval", "scipy")


def main() -> None:
    parser = make_parser(__doc__, sotopia=False)
    parser.add_argument("--data", required=True, help="zip or folder of MMLU's CSV files, or hub")
    parser.add_argument("--policy", action="append", help="[label=]hf/...; the first is the base (default hf/smollm2)")
    parser.add_argument("--questions", type=positive, default=1000, help="how many (default 1000)")
    parser.add_argument("--shots", type=int, default=0, help="examples before each question (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="decides which questions (default 0)")
    parser.add_argument("--store", default="runs/qa/answers.jsonl", help="where answers are kept")
    parser.add_argument("--name", default="qa", help="name of the result files (default qa)")
    arguments = parser.parse_args()
    about = machine()
    about["versions"] |= {name: importlib.metadata.version(name) for name in PACKAGES}
    examinees = {
        label: hf_examinee(spec) for label, spec in read_policies(arguments.policy or ["base=hf/smollm2"]).items()
    }
    bank = read_bank(arguments.data, shots=arguments.shots)
    exam = mmlu_exam(bank, questions=arguments.questions, shots=arguments.shots, seed=arguments.seed)
    Path(arguments.store).parent.mkdir(parents=True, exist_ok=True)
    begun, cpu = time.perf_counter(), time.process_time()

    kept: dict[str, int] = {}

    def tell(label: str, done: int, of: int) -> None:
        if of:
            kept.setdefault(label, done)
        if done == of or not done % 200:
            print(f"{label}: {done:,} of {of:,} answers", file=sys.stderr, flush=True)

    report = examine(examinees, exam, seed=arguments.seed, store=arguments.store, progress=tell)
    spent = {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "answers_from_store": kept,
    }
    rows = []
    for row in report.rows():
        habit, change = row["above_habit"], row["change"]
        rows.append(
            [
                f"{row['policy']}, {row['measure']}",
                _interval(row, ".1%"),
                f"{row['chance']:.1%}",
                _interval(habit, "+.1%") if habit else "",
                " ".join(f"{letter} {count}" for letter, count in zip("ABCD", row["picks"] or (), strict=False)),
                "yes" if row["above_chance"] else "no",
                f"{_interval(change, '+.1%')}, p {change['p']:.2g}" if change else "",
            ]
        )
    settings = report.settings
    policies = "; ".join(
        f"{label} is {found['name']}, {found['dtype']} on {found['device']}"
        for label, found in settings["policies"].items()
    )
    notes = [
        *report.warnings(),
        f"{settings['questions']:,} of {settings['of']:,} test questions, drawn from {settings['subjects']} subjects "
        f"in proportion to their size with seed {settings['seed']}; {settings['shots']} examples before a question, no "
        "chat template; the likeliest of the four letters, or of the four choices' texts, acc_norm by character.",
        f"{policies}.",
        "Intervals: 95% over questions: Wilson's for accuracy, Tango's for a paired change with McNemar's p, Student's "
        "t for accuracy above what the picks' habit alone gives.",
    ]
    publish(
        arguments.name,
        "MMLU by base and trained policies",
        ["policy, scoring", "accuracy", "chance", "above habit", "picks", "above chance", "minus base"],
        rows,
        notes,
        {"spent": spent, **report.record(), "answers": _compact(report)},
        folder=arguments.results,
        about=about,
    )


def _compact(report: Report) -> list[dict[str, str]]:
    """Every answer in a letter: whether it is right, and the choice; in the order in which questions are drawn."""
    return [
        {
            "policy": policy,
            "measure": measure.label,
            "right": "".join(str(int(value)) for value in found.values.values()),
            "picks": "".join("ABCD"[pick] for pick in (found.picks or {}).values()),
        }
        for (policy, measure), found in report.answers.items()
    ]


def _interval(found: dict[str, float], form: str) -> str:
    return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


if __name__ == "__main__":
    main()
