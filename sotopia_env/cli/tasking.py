"""`sotopia-env tasks`: what can be played."""

from __future__ import annotations

from collections import Counter

from sotopia_env.cli import common
from sotopia_env.cli.showing import print_cast


def list_packs(as_json: bool) -> None:
    """Print the built-in packs with their families."""
    rows: list[dict[str, str | int | None]] = [
        {"tasks": f"outcome/{family}", "count": None, "seats": seats, "scored_by": "outcome or a model"}
        for family, seats in _outcome_families().items()
    ]
    for pack in ("everyday", "everyday-hard", "safety"):
        for (family, seats), count in sorted(_written_families(pack).items()):
            rows.append({"tasks": f"{pack}/{family}", "count": count, "seats": str(seats), "scored_by": "a model"})
    if as_json:
        common.print_json(rows)
        return
    cells = [(r["tasks"], "generated" if r["count"] is None else r["count"], r["seats"], r["scored_by"]) for r in rows]
    common.print_table(("tasks", "number", "seats", "scored by"), cells, right=("number", "seats"))


def _outcome_families() -> dict[str, str]:
    from sotopia_env.packs.outcome import FAMILIES
    from sotopia_env.rules import RULES

    spans = {family: RULES[family].seats for family in FAMILIES}
    return {family: str(low) if low == high else f"{low}-{high}" for family, (low, high) in spans.items()}


def _written_families(pack: str) -> Counter[tuple[str, int]]:
    from sotopia_env.tasks import load_tasks

    tasks = [task for seats in (2, 3) for task in load_tasks(pack, seats=seats)]
    return Counter((task.family, len(task.seats)) for task in tasks)


def list_tasks(
    tasks: str, *, split: str | None, limit: int | None, seed: int, seats: int | None, as_json: bool
) -> None:
    """Print a row per task of a pack, family, file or folder."""
    found = common.choose_tasks(tasks, split=split, limit=limit, seed=seed, seats=seats)
    if as_json:
        common.print_json(
            [
                {
                    "id": task.id,
                    "pack": task.pack,
                    "family": task.family,
                    "split": task.split,
                    "seats": len(task.seats),
                    "relationship": task.relationship,
                    "tags": list(task.tags),
                    "scenario": task.scenario,
                }
                for task in found
            ]
        )
        return
    rows = [(t.id, t.family, t.split, len(t.seats), t.relationship, shortened(t.scenario)) for t in found]
    common.print_table(("id", "family", "split", "seats", "relationship", "scenario"), rows, right=("seats",))


def shortened(text: str, limit: int = 60) -> str:
    """The beginning of a text."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def show_task(name: str, *, tasks: str | None, split: str | None, seed: int, as_json: bool) -> None:
    """Print one task whole: cast, goals, and what every seat is told."""
    from sotopia_env.conversation import backgrounds

    task = common.find_task(name, tasks=tasks, split=split, seed=seed)
    if as_json:
        common.print_json(common.as_record(task))
        return
    print_cast(task, {}, private=False)
    for agent, background in zip(task.agents, backgrounds(task), strict=True):
        common.say()
        common.say(f"What {agent} is told", style="bold")
        for line in background.split("\n"):
            common.say(f"  {line}" if line else "")
