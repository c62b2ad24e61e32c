"""What the documentation shows works: its Python runs, and its commands are understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from sotopia_env.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.is_file()]
NAMES = [page.name for page in PAGES]

MOST_NOT_RUN = 6
"""Python blocks over all pages that may need a key or a network."""


class Block(NamedTuple):
    """A fenced block: its info string, its first line's number in the page, and its text."""

    info: str
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    found = []
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found.append(Block(match[1].strip(), text.count("\n", 0, match.start(2)) + 1, match[2]))
    return found


def commands() -> list[tuple[str, int, str]]:
    """Every `sotopia-env ...` line of the bash blocks, with continued lines joined."""
    found = []
    for page in PAGES:
        for block in blocks(page):
            if block.info.split()[:1] == ["bash"]:
                lines = block.text.replace("\\\n", " ").splitlines()
                found += [(page.name, block.line, line) for line in lines if "sotopia-env " in line and line[0] != "#"]
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_python_of_a_page_runs_in_order(page, tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.info == "python":
            # Blank lines in front, so that a traceback names the line of the page.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            exec(code, namespace)


def test_hardly_any_python_is_left_out_and_all_of_it_compiles():
    python = [block for page in PAGES for block in blocks(page) if block.info.startswith("python")]
    assert {block.info for block in python} <= {"python", "python no-run"}
    assert sum(block.info == "python no-run" for block in python) <= MOST_NOT_RUN
    for block in python:
        compile(block.text, "page", "exec")


def test_every_block_says_what_it_holds():
    known = {"python", "python no-run", "bash", "json", "text"}
    unknown = [
        (page.name, block.line, block.info) for page in PAGES for block in blocks(page) if block.info not in known
    ]
    assert unknown == []


@pytest.mark.parametrize(("page", "line", "command"), commands())
def test_every_command_is_understood(page, line, command):
    words = shlex.split(command, comments=True)
    words = words[words.index("sotopia-env") + 1 :]
    words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "<", "&&", ";")), len(words))]
    group: object = typer.main.get_command(app)
    path = []
    while words and not words[0].startswith("-") and hasattr(group, "commands"):
        assert words[0] in group.commands, f"{page}, line {line}: no command {words[0]!r}"
        group = group.commands[words[0]]
        path.append(words.pop(0))
    assert CliRunner().invoke(app, [*path, "--help"]).exit_code == 0
    options = {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words if word.startswith("-") and not word.lstrip("-").isdecimal()}
    assert used <= options | {"--help", "-h"}, f"{page}, line {line}"
    # Parsed as a whole too: values of the right kind, nothing required left out.
    if not used & {"--help", "-h", "--version"}:
        group.make_context(" ".join(path), list(words))


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
