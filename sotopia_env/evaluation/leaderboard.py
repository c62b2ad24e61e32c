"""The leaderboard: made from results files, never written by hand.

    write_leaderboard(["a.json", "b.json"], "leaderboard.html")      # and leaderboard.md beside it

Every number is computed again from the plays in the files. Results of different protocols, or under different judges
or partners behind one name, never share a table. Labels, names and reasons may have been written by anybody: in the
page they are text (no script, no request, as in `sotopia_env.evaluation.report`), in Markdown every character that
could be markup is escaped.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sotopia_env.errors import ConfigurationError
from sotopia_env.evaluation.benchmark import Results, load_results, sha256
from sotopia_env.evaluation.report import _Html, _join, _note, _page, _section, _table, _tag
from sotopia_env.evaluation.results import Evaluation, write_whole
from sotopia_env.session import printable

TITLE = "sotopia-env social benchmark"

_MEASURES = {"goal": "goal", "overall": "overall", "welfare": "welfare", "agreement": "deals", "secret_leaks": "leaks"}
_SHARES = ("agreement", "secret_leaks")

_NOTE = (
    "Ranked by the mean goal (0 to 10). Intervals: 95%, Student t over tasks. Neighbours whose intervals overlap may "
    "not differ: `sotopia-env compare` tests it. Goals given by a language model as judge may be too high; those of "
    "the section outcome are computed."
)

_COLUMNS = ("rank", "policy", "agent", *_MEASURES.values(), "unreadable", "missing", "file")


class Table(NamedTuple):
    """Policies in one section of one protocol.

    Attributes:
        protocol: Version and start of the hash.
        section: Its name.
        facts: What the numbers were made with, in words.
        rows: Cells as text, the best policy first.
        not_run: Sections that the files lack, with the reason.
    """

    protocol: str
    section: str
    facts: str
    rows: list[list[str]]
    not_run: dict[str, str]


def tables(paths: Sequence[str | Path]) -> list[Table]:
    """The tables of results files: one per protocol, models that served it, and section.

    Raises:
        ConfigurationError: Without any file, or if one is given twice.
        StoreError: If a file holds no results.
        OSError: If one cannot be read.
        MissingExtraError: If scipy is not installed.
    """
    if not paths:
        raise ConfigurationError("There are no results files. Pass what `sotopia-env benchmark --output` wrote.")
    groups: dict[str, list[tuple[Results, str]]] = defaultdict(list)
    seen: set[str] = set()
    for path in paths:
        results, file_hash = load_results(path), sha256(Path(path))
        if file_hash in seen:
            raise ConfigurationError(f"{str(path)!r} is there twice. Give every results file once.")
        seen.add(file_hash)
        groups[json.dumps([results.protocol["hash"], _cast(results)])].append((results, file_hash[:12]))
    return [table for group in groups.values() for table in _tables(group)]


def _cast(results: Results) -> dict[str, list[str]]:
    """What judges and partners were served as."""
    sections = results.protocol["sections"].values()
    names = {name for section in sections for name in (section["judge"], *section["partners"])}
    return {name: results.served[name] for name in sorted(names & results.served.keys())}


def _tables(group: Sequence[tuple[Results, str]]) -> list[Table]:
    first = group[0][0]
    protocol = first.protocol
    found = []
    for section, about in protocol["sections"].items():
        rows = []
        for results, file in group:
            evaluation = results.evaluations[section]
            rows += [_row(results, evaluation, policy, section, file) for policy in evaluation.policies]
        rows.sort(key=lambda row: (-row[0], row[1]))
        cast = "".join(f"; {name} served as {', '.join(ids)}" for name, ids in _cast(first).items())
        facts = ", ".join(
            [
                f"{about['tasks']} tasks ({about['tasks_hash'][:12]})",
                "every seat",
                f"partners {', '.join(about['partners'])}",
                f"judge {about['judge']}",
                f"prompt {about['prompt_hash'][:12]}",
                f"seed {protocol['seed']}",
                f"repeats {protocol['repeats']}",
                f"temperature {protocol['temperature']}{cast}",
            ]
        )
        cells = [[str(rank), *row[2]] for rank, row in enumerate(rows, start=1)]
        name = f"protocol {protocol['version']}, {protocol['hash'][:12]}"
        if protocol["tasks_per_section"] is not None:
            name += f", a subset of {protocol['tasks_per_section']} tasks a section"
        found.append(Table(name, section, facts, cells, first.not_run))
    return found


def _row(
    results: Results, evaluation: Evaluation, policy: str, section: str, file: str
) -> tuple[float, str, list[str]]:
    goal = evaluation.estimate(policy, "goal", section)
    failures = evaluation.failures(policy, section)
    cells = [policy, results.policies[policy]["agent"]]
    cells += [_cell(evaluation, policy, section, measure) for measure in _MEASURES]
    unreadable = evaluation.estimate(policy, "parse_failures", section)
    cells.append("-" if unreadable is None else f"{unreadable.mean:.1%}")
    cells.append(f"{failures.missing} of {failures.episodes}" if failures.missing else "0")
    return (goal.mean if goal is not None else -math.inf), policy, [*cells, file]


def _cell(evaluation: Evaluation, policy: str, section: str, measure: str) -> str:
    found = evaluation.estimate(policy, measure, section)
    if found is None:
        return "-"
    if measure in _SHARES:
        return f"{found.mean:.1%}"
    return found.text() if measure in ("goal", "overall") else f"{found.mean:.2f}"


# --- pages ------------------------------------------------------------------------------------------


def render_html(found: Sequence[Table]) -> str:
    """The page: whole in itself, the same tables, the same bytes."""
    parts: list[_Html] = [_tag("h1", TITLE), _note(_NOTE)]
    for table in found:
        parts.append(
            _section(f"{table.section} ({table.protocol})", _note(table.facts), _table(_COLUMNS, table.rows, text=3))
        )
    parts += [_note(line) for line in _not_run(found)]
    return _page(TITLE, _join(parts))


def render_markdown(found: Sequence[Table]) -> str:
    """The same as Markdown."""
    lines = [f"# {TITLE}", "", _NOTE, ""]
    for table in found:
        lines += [f"## {escaped(table.section)} ({escaped(table.protocol)})", "", escaped(table.facts), ""]
        lines += [_line(_COLUMNS), _line(["---:", "---", "---", *["---:"] * (len(_COLUMNS) - 3)])]
        lines += [_line([escaped(cell) for cell in row]) for row in table.rows]
        lines.append("")
    lines += [escaped(line) for line in _not_run(found)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _not_run(found: Sequence[Table]) -> list[str]:
    """One line for each section that a protocol's files lack."""
    lines = {
        f"Not run ({table.protocol}): {name}, {reason}" for table in found for name, reason in table.not_run.items()
    }
    return sorted(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    r"""Text in which nothing is Markdown or HTML; control characters become visible.

    Example:
        >>> escaped("a|b <i>")
        'a\\|b &lt;i&gt;'
    """
    shown = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = "".join(f"\\{c}" if c in r"\`*_{}[]()#|~!+" else c for c in shown)
    # GitHub makes links of bare addresses.
    return re.sub(r"(?i)\b(www)\.", r"\1&#46;", shown.replace("://", ":&#47;/"))


def write_leaderboard(paths: Sequence[str | Path], output: str | Path) -> dict[str, Any]:
    """Write the page, and the same as Markdown beside it; each whole or not at all.

    Args:
        paths: Results files.
        output: Where the page goes; its name ends in .html.

    Returns:
        What was written: "html", "markdown", and the number of "policies" and "tables".

    Raises:
        ConfigurationError, StoreError, OSError, MissingExtraError: As `tables`; nothing is written then.
    """
    output = Path(output)
    if output.suffix != ".html":
        raise ConfigurationError(f"The leaderboard's page is {str(output)!r}, but its name must end in .html.")
    if not output.parent.is_dir():
        raise ConfigurationError(f"{str(output)!r} cannot be written: its folder does not exist. Make it first.")
    found = tables(paths)
    page, markdown = render_html(found), render_markdown(found)
    beside = output.with_suffix(".md")
    write_whole(output, page)
    write_whole(beside, markdown)
    return {
        "html": str(output),
        "markdown": str(beside),
        "tables": len(found),
        "policies": len({(table.protocol, row[1], row[-1]) for table in found for row in table.rows}),
    }
