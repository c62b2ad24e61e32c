"""`sotopia-env report`: the page and the JSON on a run of the learning loop."""

from __future__ import annotations

from pathlib import Path

from sotopia_env.cli import common


def run(*, folder: str, output: str | None, as_json: bool) -> None:
    """Write both files, say where they are, and name what the run lacks."""
    from sotopia_env.evaluation.report import write_report

    page = Path(output or "")
    if output is not None and page.suffix != ".json" and Path(folder).is_dir():
        written = {"--output": page, "the JSON beside it,": page.parent / f"{page.stem}.json"}
        common.check_outputs(written, {"the run": [place for place in Path(folder).iterdir() if place.is_dir()]})
    report = write_report(folder, output)
    if as_json:
        common.print_json(report.run.record())
        return
    if report.run.missing:
        common.log(f"The report is not complete: {'; '.join(report.run.missing)}.")
    common.say(str(report.page))
    common.say(str(report.json))
