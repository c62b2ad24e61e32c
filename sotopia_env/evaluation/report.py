"""The report on a run of the learning loop: one HTML page that needs nothing else, and report.json.

A run folder holds JSON only, and whatever of it is there is reported; what is missing is named.

    manifest.json           {"preset", "settings", "seed", "version", "stages": {name: {"statistics": {...}, ...}}}
    filters/<stage>.json    `Filtered.record()`
    training/<name>.json    {"losses": [{"step", "tokens", "loss"}], "settings", "rows", "cut_turns", ...}
    evaluation.json         `Evaluation.record()`: {"policies", "paired", "goals", ...}
    samples/<policy>.json   episodes, the same tasks for every policy

Everything in these files, names included, may have been written by a model. So text enters the page only
through `_tag`, which escapes it and makes control characters visible; the page holds no script, and its
Content-Security-Policy forbids scripts and every request. Plots are PNG, so that no name becomes markup
in them either. Neither file holds a time or a duration: a run that was resumed has the same report.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from sotopia_env.episodes import ENVIRONMENT, Episode, Event
from sotopia_env.errors import ConfigurationError, MissingExtraError, one_line
from sotopia_env.session import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPECTED", "Report", "Run", "read_run", "render", "write_report"]

EXPECTED = ("base", "sr", "bc", "bc+sr", "sr+bc", "expert")
"""Policies that a finished run has evaluated; the report names those that are missing."""

_INPUTS = ("manifest.json", "evaluation.json")
_MOST_LEVELS = 60
_MOST_SAMPLES = 12
"""Tasks whose sample episodes stand in the page."""

_CLOCK = re.compile(r"(^|_)(seconds|minutes|hours|time|timestamp|date|elapsed|duration)($|_)|_at$|^resumed_from$")
"""Keys of what differs from run to run without meaning anything for the result."""

_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@/\s]*@")


# --- reading ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        manifest: manifest.json, or {}.
        evaluation: evaluation.json, or {}.
        filters: The records of filters, by stage.
        training: The records of trainings, by name.
        samples: Episodes, by policy.
        missing: What is not there, or cannot be read, in plain words.
    """

    manifest: dict[str, Any]
    evaluation: dict[str, Any]
    filters: dict[str, dict[str, Any]]
    training: dict[str, dict[str, Any]]
    samples: dict[str, list[Episode]]
    missing: tuple[str, ...]

    @property
    def policies(self) -> list[dict[str, Any]]:
        """The evaluation's rows, exactly as they are there."""
        return _records(self.evaluation.get("policies"))

    def record(self) -> dict[str, Any]:
        """report.json: JSON values without any time or duration."""
        return {
            "preset": self.manifest.get("preset"),
            "seed": self.manifest.get("seed"),
            "version": self.manifest.get("version"),
            "missing": list(self.missing),
            "policies": self.policies,
            "paired": _records(self.evaluation.get("paired")),
            "filters": _timeless(self.filters),
            "training": _timeless(self.training),
            "stages": {
                name: _timeless(_mapping(_mapping(stage).get("statistics")))
                for name, stage in _mapping(self.manifest.get("stages")).items()
            },
            "settings": _without_passwords(_mapping(self.manifest.get("settings"))),
            "evaluation": {
                "settings": _without_passwords(_mapping(self.evaluation.get("settings"))),
                "errors": _mapping(self.evaluation.get("errors")),
            },
        }


def read_run(folder: str | Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        ConfigurationError: If it is no folder, or nothing in it belongs to a run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigurationError(f"{str(folder)!r} is no folder. Pass the folder of a run of `sotopia-env pi`.")
    missing: list[str] = []
    manifest, evaluation = (_read_mapping(folder / name, missing) for name in _INPUTS)
    filters, training, samples = (_read_all(folder / name, missing) for name in ("filters", "training", "samples"))
    if not (manifest or evaluation or filters or training or samples):
        raise ConfigurationError(
            f"{str(folder)!r} is no run folder: {'; '.join(missing)}. Pass the folder of a run of `sotopia-env pi`."
        )
    for name, records in (("filters", filters), ("training", training)):
        missing += [f"{name}/{stage}.json is no JSON object" for stage, of in records.items() if not _is_mapping(of)]
    found = {policy: _episodes(policy, value, missing) for policy, value in samples.items()}
    evaluated = {str(row.get("policy")) for row in _records(evaluation.get("policies"))}
    if evaluation:
        missing += [f"the evaluation has no policy {name!r}" for name in EXPECTED if name not in evaluated]
    return Run(
        manifest,
        evaluation,
        {stage: filters[stage] for stage in _in_order(filters, manifest) if _is_mapping(filters[stage])},
        {name: training[name] for name in _in_order(training, manifest) if _is_mapping(training[name])},
        {policy: episodes for policy, episodes in found.items() if episodes},
        tuple(missing),
    )


def _in_order(names: Iterable[str], manifest: Mapping[str, Any]) -> list[str]:
    """Names of stages in the order in which they ran, others after them."""
    stages = list(_mapping(manifest.get("stages")))
    return sorted(names, key=lambda name: (stages.index(name) if name in stages else len(stages), name))


def _read_mapping(path: Path, missing: list[str]) -> dict[str, Any]:
    if not path.is_file():
        missing.append(f"{path.name} is not there")
        return {}
    value = _read(path, path.name, missing)
    if value is not None and not _is_mapping(value):
        missing.append(f"{path.name} is no JSON object")
    return _mapping(value)


def _read_all(folder: Path, missing: list[str]) -> dict[str, Any]:
    paths = sorted(path for path in folder.glob("*.json") if path.is_file())
    if not paths:
        missing.append(f"{folder.name}/ is not there" if not folder.is_dir() else f"{folder.name}/ is empty")
    values = {path.stem: _read(path, f"{folder.name}/{path.name}", missing) for path in paths}
    return {name: value for name, value in values.items() if value is not None}


def _read(path: Path, name: str, missing: list[str]) -> Any:
    """The JSON value of a file, numbers that are not finite as null; or None, and `missing` says why."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)
        if _is_deep(value):
            raise ValueError(f"it is nested more than {_MOST_LEVELS} levels deep")
    except (ValueError, RecursionError) as error:
        missing.append(f"{name} cannot be read as JSON ({one_line(error, 120)})")
        return None
    return value


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _whole(text: str) -> float | None:
    return int(text) if len(text) <= 18 else _finite(text)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MOST_LEVELS):
        level = [of for one in level if isinstance(one, (dict, list)) for of in _items(one)]
    return bool(level)


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _episodes(policy: str, value: Any, missing: list[str]) -> list[Episode]:
    found = []
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        try:
            found.append(Episode.model_validate(item))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            missing.append(f"samples/{policy}.json, entry {index}, is no episode (field {where!r}: {first['msg']})")
    return found


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _records(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _timeless(value: Any) -> Any:
    """A JSON value without times and durations; settings stay whole, for a time limit is a setting."""
    if isinstance(value, dict):
        return {
            key: _without_passwords(of) if key == "settings" else _timeless(of)
            for key, of in value.items()
            if key == "settings" or not _CLOCK.search(key)
        }
    return [_timeless(of) for of in value] if isinstance(value, list) else value


def _without_passwords(value: Any) -> Any:
    """A JSON value in which no URL shows its password and no key is shown."""
    if isinstance(value, dict):
        return {key: "***" if key == "api_key" and of else _without_passwords(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_without_passwords(of) for of in value]
    return _PASSWORD.sub(r"\1:***@", value) if isinstance(value, str) else value


# --- writing ----------------------------------------------------------------------------------------


class Report(NamedTuple):
    """A written report: the run it is about, and where its page and its JSON are."""

    run: Run
    page: Path
    json: Path


def write_report(folder: str | Path, output: str | Path | None = None) -> Report:
    """Write the page and its JSON, each whole or not at all.

    Args:
        folder: A run folder, finished or not.
        output: Where the page goes; the JSON goes beside it, with the ending .json. Default: report.html in
            the run folder.

    Raises:
        ConfigurationError: If the folder holds no run, or the output would overwrite a file of the run.
        MissingExtraError: If matplotlib is not installed.
        OSError: If a file cannot be written.
    """
    folder = Path(folder)
    page = folder / "report.html" if output is None else Path(output)
    beside = page.with_suffix(".json")
    if page.suffix == ".json":
        raise ConfigurationError(f"output is {str(output)!r}, but the page needs another ending, such as .html.")
    if beside.name in _INPUTS and beside.resolve().parent == folder.resolve():
        raise ConfigurationError(f"output is {str(output)!r}: {beside.name} beside it is a file of the run itself.")
    run = read_run(folder)
    text = render(run)
    _write(page, text)
    _write(beside, json.dumps(run.record(), ensure_ascii=True, allow_nan=False, indent=2) + "\n")
    return Report(run, page, beside)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# --- markup -------------------------------------------------------------------------------------------


class _Html(str):
    """Markup. Any other text is escaped before it becomes part of it."""


def _escaped(text: object) -> str:
    lines = str(text).split("\n")
    return html.escape("\n".join(map(printable, lines)), quote=True)


def _tag(name: str, *children: object, **attributes: str) -> _Html:
    """An element; `class_` stands for class. Children that are no `_Html` are text, and None is nothing."""
    shown = "".join(f' {key.rstrip("_")}="{_escaped(value)}"' for key, value in attributes.items())
    inner = "".join(child if isinstance(child, _Html) else _escaped(child) for child in children if child is not None)
    return _Html(f"<{name}{shown}>{inner}</{name}>")


def _join(parts: Iterable[_Html]) -> _Html:
    return _Html("".join(parts))


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, text: int = 1) -> _Html:
    """A table whose first `text` columns are words and the others numbers."""

    def line(kind: str, cells: Sequence[object]) -> _Html:
        classes = ["word" if place < text else "number" for place in range(len(cells))]
        return _tag("tr", *(_tag(kind, cell, class_=of) for cell, of in zip(cells, classes, strict=True)))

    body = _tag("tbody", *(line("td", row) for row in rows))
    return _tag("div", _tag("table", _tag("thead", line("th", columns)), body), class_="scroll")


def _section(title: str, *children: object) -> _Html:
    return _tag("section", _tag("h2", title), *children)


def _note(text: str) -> _Html:
    return _tag("p", text, class_="note")


_STYLE = """
:root { color-scheme: light; --line: #d8dde3; --soft: #5b6673; --tint: #f4f6f8; --mark: #1f5fa8; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a2129; margin: 0 auto; max-width: 1100px; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 8px; }
h3 { font-size: 15px; margin: 18px 0 6px; }
p { margin: 6px 0; } .note, small { color: var(--soft); } small { font-size: 12px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.word { overflow-wrap: anywhere; white-space: pre-wrap; }
.missing { background: #fff6e0; border: 1px solid #ecd9a3; border-radius: 6px; padding: 8px 16px; }
img { max-width: 100%; height: auto; display: block; margin: 8px 0; }
details { border: 1px solid var(--line); border-radius: 6px; padding: 8px 14px; margin: 10px 0; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
.plays { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 20px; }
.event { margin: 4px 0; padding: 4px 10px; background: var(--tint); border-radius: 6px; }
.event, .said { white-space: pre-wrap; overflow-wrap: anywhere; }
.learner { border-left: 3px solid var(--mark); } .environment { background: none; color: var(--soft); }
"""


def render(run: Run) -> str:
    """Make the page: the same run, the same bytes.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    title = f"Run of preset {run.manifest.get('preset') or 'unknown'}"
    body = _join(
        [
            _header(run, title),
            _policies(run),
            _differences(run),
            _curves(run),
            _distributions(run),
            _filters(run),
            _samples(run),
            _settings(run),
        ]
    )
    return _page(title, body)


def _page(title: str, body: _Html) -> str:
    """A page that holds no script and loads nothing."""
    style_hash = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'"
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="referrer" content="no-referrer">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}{_tag("title", title)}<style>{_STYLE}</style></head>\n'
        f"{_tag('body', body)}</html>\n"
    )


def _header(run: Run, title: str) -> _Html:
    facts = [f"seed {run.manifest.get('seed', 'unknown')}", f"sotopia-env {run.manifest.get('version', 'unknown')}"]
    parts = [_tag("h1", title), _note(", ".join(facts))]
    if run.missing:
        items = _tag("ul", *(_tag("li", text) for text in run.missing))
        parts.append(_tag("div", _tag("strong", "This report is not complete."), items, class_="missing"))
    return _tag("header", *parts)


# --- the table of policies ----------------------------------------------------------------------------


class _Estimate(NamedTuple):
    """A mean with its interval, as far as there is one."""

    mean: float
    low: float | None
    high: float | None
    n: float | None
    seeds: tuple[float, ...] = ()

    @classmethod
    def read(cls, value: Any) -> _Estimate | None:
        """What a JSON object of this form holds; None for anything else."""
        found = _mapping(value)
        mean = _number(found.get("mean"))
        if mean is None:
            return None
        each = found.get("seeds") if isinstance(found.get("seeds"), list) else []
        means = [_number(_mapping(one).get("mean") if isinstance(one, dict) else one) for one in each or []]
        low, high, n = (_number(found.get(name)) for name in ("low", "high", "n"))
        return cls(mean, low, high, n, tuple(one for one in means if one is not None))

    def cell(self) -> _Html:
        """The mean; below it, small, the interval and the seeds."""
        below = "" if self.low is None or self.high is None else f"[{self.low:.2f}, {self.high:.2f}]"
        seeds = f"seeds {', '.join(f'{mean:.2f}' for mean in self.seeds)}" if self.seeds else ""
        lines = [_join([_Html("<br>"), _tag("small", text)]) for text in (below, seeds) if text]
        return _tag("span", f"{self.mean:.2f}", *lines)


def _labels(run: Run) -> list[str]:
    return list(dict.fromkeys(str(row.get("tasks", "")) for row in run.policies))


def _measures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name, value in row.items() if _Estimate.read(value) is not None)
    return sorted(names, key=lambda name: name != "goal")


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _policies(run: Run) -> _Html:
    if not run.policies:
        return _section("Policies", _note("No policy has been evaluated."))
    parts: list[_Html] = [
        _note(
            "Mean and 95% interval, clustered by task. Every policy played every seat against every held-out partner, "
            "on tasks that training did not see."
        ),
        *(_note(text) for text in _same_policies(run)),
        _plot(_goal_figure(run), "Mean goal of every policy with its interval"),
    ]
    for label in _labels(run):
        rows = [row for row in run.policies if str(row.get("tasks", "")) == label]
        measures = _measures(rows)
        columns = ["policy", *(name for measure in measures for name in _heads(measure)), "failed"]
        parts += [_tag("h3", label or "tasks"), _table(columns, (_policy_row(row, measures) for row in rows))]
    return _section("Policies", *parts)


def _same_policies(run: Run) -> Iterable[str]:
    for name, stage in _mapping(run.manifest.get("stages")).items():
        other = _mapping(_mapping(stage).get("statistics")).get("same_as")
        if other is not None:
            yield f"{name} is {other}: the filter kept nothing for self-reinforcement to learn from."


def _heads(measure: str) -> tuple[str, ...]:
    return ("goal", "n") if measure == "goal" else (_words(measure),)


def _policy_row(row: Mapping[str, Any], measures: Sequence[str]) -> list[object]:
    cells: list[object] = [row.get("policy", "?")]
    for measure in measures:
        found = _Estimate.read(row.get(measure))
        cells.append("-" if found is None else found.cell())
        if measure == "goal":
            cells.append("-" if found is None or found.n is None else f"{found.n:g}")
    without = [_number(row.get(name)) for name in ("failed", "judge_failed")]
    known = [value for value in without if value is not None]
    return [*cells, f"{sum(known):g}" if known else "-"]


class _Difference(NamedTuple):
    """Policy minus another on one measure."""

    policy: str
    minus: str
    tasks: str
    measure: str
    estimate: _Estimate


def _read_differences(run: Run) -> list[_Difference]:
    """Both forms that evaluations have: {"a", "b", "measure", "mean", ...} and {"policy", "minus", "goal": {...}}."""
    found = []
    for record in _records(run.evaluation.get("paired")):
        flat = "mean" in record
        first, second = (record.get(long, record.get(short, "?")) for long, short in (("policy", "a"), ("minus", "b")))
        each = {str(record.get("measure", "goal")): record} if flat else record
        for measure, value in each.items():
            estimate = _Estimate.read(value)
            if estimate is not None:
                found.append(_Difference(str(first), str(second), str(record.get("tasks", "")), str(measure), estimate))
    return found


def _differences(run: Run) -> _Html:
    found = _read_differences(run)
    if not found:
        return _section("Differences", _note("No paired differences have been computed."))
    scripted = {str(row.get("policy")) for row in run.policies if str(row.get("agent")).startswith("scripted/")}
    trivial = scripted - set(EXPECTED)
    parts = [_note("The first policy minus the second, task by task, with the 95% interval of the mean.")]
    main = [one for one in found if not {one.policy, one.minus} & trivial]
    others = [one for one in found if {one.policy, one.minus} & trivial]
    if main:
        parts.append(_difference_table(main))
    if others:
        summary = _tag("summary", f"Differences to policies without skill ({len(others)})")
        parts.append(_tag("details", summary, _difference_table(others)))
    return _section("Differences", *parts)


def _difference_table(found: Iterable[_Difference]) -> _Html:
    rows = [
        (one.policy, one.minus, one.tasks, _words(one.measure), one.estimate.cell(), _short(one.estimate.n))
        for one in found
    ]
    return _table(("policy", "minus", "tasks", "of", "difference", "n"), rows, text=4)


# --- training and filters -----------------------------------------------------------------------------


def _curves(run: Run) -> _Html:
    if not run.training:
        return _section("Learning curves", _note("Nothing has been trained."))
    keys = {name: _flat(_timeless({k: v for k, v in of.items() if k != "losses"})) for name, of in run.training.items()}
    names = list(dict.fromkeys(key for of in keys.values() for key in of))
    rows = [(key, *(keys[name].get(key, "-") for name in keys)) for key in names]
    return _section(
        "Learning curves",
        _plot(_curve_figure(run), "Training loss against tokens"),
        _tag("h3", "Trainings"),
        _table(("", *keys), rows, text=1 + len(keys)),
    )


def _distributions(run: Run) -> _Html:
    if not _goals(run):
        return _section("Score distributions", _note("The evaluation holds no scores of single episodes."))
    text = "Share of episodes by goal score, 0 to 10, in percent."
    return _section("Score distributions", _note(text), _plot(_distribution_figure(run), text))


def _filters(run: Run) -> _Html:
    if not run.filters:
        return _section("Filters", _note("Nothing has been filtered."))
    rows = []
    for stage, of in run.filters.items():
        dropped = ", ".join(f"{count} {reason}" for reason, count in _mapping(of.get("dropped")).items())
        goal = _mapping(of.get("goal"))
        numbers = (of.get("episodes"), of.get("trajectories"), of.get("kept"), goal.get("before"), goal.get("after"))
        rows.append((stage, of.get("rule", "?"), dropped or "nothing", *map(_short, numbers)))
    columns = ("stage", "rule", "dropped", "episodes", "trajectories", "kept", "goal before", "goal after")
    parts = [_table(columns, rows, text=3)]
    if any(_histograms(of) for of in run.filters.values()):
        parts.append(_plot(_filter_figure(run), "Goal scores before and after every filter"))
    families = [
        (
            stage,
            family or "-",
            *map(_short, (part.get("scored"), part.get("kept"), goal.get("before"), goal.get("after"))),
        )
        for stage, of in run.filters.items()
        for family, value in _mapping(of.get("by_family")).items()
        for part in [_mapping(value)]
        for goal in [_mapping(part.get("goal"))]
    ]
    if families:
        heads = ("stage", "family", "scored", "kept", "goal before", "goal after")
        parts += [_tag("h3", "By family"), _table(heads, families, text=2)]
    return _section("Filters", *parts)


def _short(value: Any) -> str:
    number = _number(value)
    if number is None:
        return "-" if value is None else str(value)
    return f"{number:.2f}" if isinstance(number, float) else str(number)


# --- sample episodes ----------------------------------------------------------------------------------


def _samples(run: Run) -> _Html:
    if not run.samples:
        return _section("Sample episodes", _note("There are no sample episodes."))
    order = list(dict.fromkeys([*(str(row.get("policy")) for row in run.policies), *run.samples]))
    by_task: dict[str, list[tuple[str, Episode]]] = {}
    for policy in order:
        for episode in run.samples.get(policy, []):
            by_task.setdefault(episode.task.id, []).append((policy, episode))
    shown = list(by_task.items())[:_MOST_SAMPLES]
    parts = [
        _tag(
            "details",
            _tag("summary", task),
            _tag("p", plays[0][1].task.scenario, class_="said"),
            _tag("div", *(_play(run, policy, episode) for policy, episode in plays), class_="plays"),
            **({"open": "open"} if place == 0 else {}),
        )
        for place, (task, plays) in enumerate(shown)
    ]
    if len(by_task) > len(shown):
        parts.append(_note(f"{len(by_task) - len(shown)} more tasks are in samples/ of the run folder."))
    return _section("Sample episodes", _note("What everybody heard; the policy's own turns are marked."), *parts)


def _seats(run: Run, policy: str, episode: Episode) -> list[str]:
    """The seats that the policy played; all of them if its agent's name is not known."""
    names = {str(row.get("agent")) for row in run.policies if row.get("policy") == policy}
    found = [agent for agent in episode.task.agents if episode.agents.get(agent) in names]
    return found or list(episode.task.agents)


def _play(run: Run, policy: str, episode: Episode) -> _Html:
    own = _seats(run, policy, episode)
    seats = dict(zip(episode.task.agents, episode.task.seats, strict=True))
    names = {agent: seat.character.name for agent, seat in seats.items()}
    events = [_event(event, names, own) for event in episode.events if event.to is None]
    return _tag(
        "div",
        _tag("h3", policy),
        *(_tag("p", _tag("strong", f"{names[agent]}: "), seats[agent].goal, class_="said") for agent in own),
        *(_note(f"{names[agent]}: {_score(episode, agent)}") for agent in own),
        *events,
        _note(
            f"ended by {_words(episode.ended_by)}" if episode.ended_by else f"broke off: {episode.error or 'unknown'}"
        ),
    )


def _score(episode: Episode, agent: str) -> str:
    scores = {
        name: of.scores[agent]["goal"] for name, of in episode.verdicts.items() if "goal" in of.scores.get(agent, {})
    }
    text = "; ".join(f"goal {score.value:.2f} ({judge})" for judge, score in scores.items())
    return text or f"no score ({_words(episode.status)})"


def _event(event: Event, names: Mapping[str, str], own: Sequence[str]) -> _Html:
    if event.speaker == ENVIRONMENT:
        return _tag("div", event.argument, class_="event environment")
    said = {"speak": event.argument, "none": "does nothing", "leave": f"leaves {event.argument}".rstrip()}
    text = said.get(event.action_type, f"[{event.action_type}] {event.argument}")
    if event.parse_failure:
        text += " (unreadable reply)"
    who = _tag("strong", f"{names.get(event.speaker, event.speaker)}: ")
    return _tag("div", who, text, class_="event learner" if event.speaker in own else "event")


# --- settings -----------------------------------------------------------------------------------------


def _settings(run: Run) -> _Html:
    record = run.record()
    parts = [_flat_table("Settings", record["settings"]), _flat_table("Evaluation", record["evaluation"]["settings"])]
    parts += [_flat_table(f"Stage {name}", statistics) for name, statistics in record["stages"].items()]
    return _section("Settings and stages", *parts)


def _flat_table(title: str, value: Any) -> _Html:
    rows = list(_flat(value).items())
    return _join(
        [_tag("h3", title), _table(("name", "value"), rows, text=2) if rows else _note("Nothing is recorded.")]
    )


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested JSON as dotted names and values; a list is one value."""
    if not isinstance(value, dict):
        return {prefix: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
    found: dict[str, str] = {}
    for key, of in value.items():
        found |= _flat(of, f"{prefix}.{key}" if prefix else str(key))
    return found


# --- plots --------------------------------------------------------------------------------------------

_COLORS = ("#1f5fa8", "#d1701f", "#3b8a4f", "#8a4fa8", "#b03a48", "#5b6673")
_BINS = 10
_MOST_ROWS = 40
"""Rows in a plot; the tables have all."""


def _plot(draw: Callable[[], Figure], alt: str) -> _Html:
    """Draw and embed a figure: the same values, the same bytes."""
    try:
        import matplotlib.style
    except ImportError as error:
        raise MissingExtraError(
            "The report's plots need matplotlib, which is not installed. Install it with: "
            "pip install 'sotopia-env[train]'"
        ) from error
    # The defaults, so that nobody's own configuration shows; without mathtext, so that "$" in a name is a "$".
    with matplotlib.style.context(["default", {"text.parse_math": False, "font.size": 9}]):
        figure = draw()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return _Html(f'<img src="data:image/png;base64,{data}" alt="{_escaped(alt)}">')


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _label(text: object) -> str:
    """A name as a plot can show it: short, in characters that its font has."""
    shown = "".join(c if c.isprintable() and ord(c) < 256 else c.encode("unicode_escape").decode() for c in str(text))
    shown = shown if len(shown) <= 28 else shown[:25] + "..."
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib leaves out names that begin with "_"


def _goal_figure(run: Run) -> Callable[[], Figure]:
    def draw() -> Figure:
        policies = list(dict.fromkeys(str(row.get("policy", "?")) for row in run.policies))[:_MOST_ROWS]
        labels = _labels(run)
        figure = _figure(8, 1.1 + 0.32 * len(policies))
        axes = figure.subplots()
        for number, label in enumerate(labels):
            shift = 0.5 * ((number + 0.5) / len(labels) - 0.5)
            points = [
                (policies.index(str(row.get("policy", "?"))) + shift, estimate)
                for row in run.policies
                if str(row.get("tasks", "")) == label and str(row.get("policy", "?")) in policies
                if (estimate := _Estimate.read(row.get("goal"))) is not None
            ]
            means = [estimate.mean for _, estimate in points]
            low = [max(0.0, e.mean - (e.mean if e.low is None else e.low)) for _, e in points]
            high = [max(0.0, (e.mean if e.high is None else e.high) - e.mean) for _, e in points]
            color = _COLORS[number % len(_COLORS)]
            places = [place for place, _ in points]
            axes.errorbar(means, places, xerr=[low, high], fmt="o", ms=4, capsize=2, color=color, label=_label(label))
        axes.set_yticks(range(len(policies)), [_label(policy) for policy in policies])
        axes.set_ylim(len(policies) - 0.5, -0.5)
        axes.set_xlabel("goal, mean and 95% interval")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(loc="best", frameon=False)
        return figure

    return draw


def _curve_figure(run: Run) -> Callable[[], Figure]:
    def draw() -> Figure:
        figure = _figure(8, 3.4)
        axes = figure.subplots()
        drawn = 0
        for number, (name, of) in enumerate(run.training.items()):
            entries = _records(of.get("losses"))
            points = [(_number(e.get("tokens", e.get("step"))), _number(e.get("loss"))) for e in entries]
            known = [(x, y) for x, y in points if x is not None and y is not None]
            if known:
                color = _COLORS[number % len(_COLORS)]
                axes.plot(*zip(*known, strict=True), color=color, label=_label(name), marker=".", ms=4)
                drawn += 1
        axes.set_xlabel("tokens seen")
        axes.set_ylabel("loss per target token")
        axes.grid(alpha=0.3)
        if drawn:
            axes.legend(frameon=False)
        else:
            axes.text(0.5, 0.5, "no losses were recorded", ha="center", transform=axes.transAxes)
        return figure

    return draw


def _goals(run: Run) -> dict[str, dict[str, list[float]]]:
    """Goals of single episodes by label of tasks, then by policy."""
    found: dict[str, dict[str, list[float]]] = {}
    for policy, by_label in _mapping(run.evaluation.get("goals")).items():
        for label, values in _mapping(by_label).items():
            numbers = [value for value in values if _number(value) is not None] if isinstance(values, list) else []
            if numbers:
                found.setdefault(label, {})[policy] = numbers
    return found


def _shares(values: Sequence[float]) -> list[float]:
    counts = [0] * _BINS
    for value in values:
        counts[min(max(int(value), 0), _BINS - 1)] += 1
    return [count / len(values) for count in counts]


def _bin_names() -> list[str]:
    return [f"{number} to {number + 1}" for number in range(_BINS)]


def _distribution_figure(run: Run) -> Callable[[], Figure]:
    def draw() -> Figure:
        goals = {label: dict(list(of.items())[:_MOST_ROWS]) for label, of in _goals(run).items()}
        figure = _figure(8, sum(1.0 + 0.3 * len(of) for of in goals.values()))
        heights = [3.0 + len(of) for of in goals.values()]
        panels = figure.subplots(len(goals), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes, (label, of) in zip(panels[:, 0], goals.items(), strict=True):
            shares = [_shares(values) for values in of.values()]
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            for row, line in enumerate(shares):
                for column, share in enumerate(line):
                    if share >= 0.005:
                        color = "white" if share > 0.6 else "black"
                        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=color, fontsize=8)
            axes.set_yticks(range(len(of)), [_label(policy) for policy in of])
            axes.set_xticks(range(_BINS), _bin_names())
            axes.set_title(_label(label), fontsize=9)
        return figure

    return draw


def _histograms(record: Mapping[str, Any]) -> dict[str, list[float]]:
    """Counts before and after a filter; {} unless both are there and whole."""
    found = {}
    for name in ("before", "after"):
        counts = _mapping(record.get("goal_histogram")).get(name)
        if not isinstance(counts, list) or len(counts) != _BINS or any(_number(count) is None for count in counts):
            return {}
        found[name] = counts
    return found


def _filter_figure(run: Run) -> Callable[[], Figure]:
    def draw() -> Figure:
        stages = [(stage, counts) for stage, of in run.filters.items() if (counts := _histograms(of))][:_MOST_ROWS]
        rows = math.ceil(len(stages) / 2)
        figure = _figure(8, 0.4 + 1.9 * rows)
        panels = figure.subplots(rows, 2, squeeze=False).flat
        for axes, (stage, counts) in zip(panels, stages, strict=False):
            axes.bar(range(_BINS), counts["before"], color="#c9d6e6", label="before")
            axes.bar(range(_BINS), counts["after"], color=_COLORS[0], width=0.5, label="after")
            axes.set_title(_label(stage), fontsize=9)
            axes.set_xticks(range(_BINS), [str(number) for number in range(_BINS)])
            axes.legend(frameon=False, fontsize=8)
        for axes in list(figure.axes)[len(stages) :]:
            axes.set_visible(False)
        return figure

    return draw
