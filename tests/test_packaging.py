"""What is built is what is on disk: a package left out of the hand-written list would silently not be installed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import sotopia_env

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
MAPPED = {"sotopia_env.agents": ROOT / "agents", "sotopia_env.trainers": ROOT / "trainers"}


def packages_on_disk() -> set[str]:
    """Every folder with Python or data files, by the name under which it is imported."""
    found = set()
    for name, folder in {"sotopia_env": ROOT / "sotopia_env", **MAPPED}.items():
        for file in folder.rglob("*"):
            parts = file.parent.relative_to(folder).parts
            linked = name == "sotopia_env" and parts[:1] in (("agents",), ("trainers",))
            if file.is_file() and not linked and "__pycache__" not in parts:
                found.add(".".join((name, *parts)))
    return found


def folder_of(package: str) -> Path:
    for name, folder in MAPPED.items():
        if package == name or package.startswith(f"{name}."):
            return folder.joinpath(*package.removeprefix(name).strip(".").split("."))
    return ROOT.joinpath(*package.split("."))


def test_the_list_of_packages_equals_the_folders_on_disk():
    assert sorted(SETUPTOOLS["packages"]) == sorted(packages_on_disk())


@pytest.mark.parametrize("package", SETUPTOOLS["packages"])
def test_every_listed_folder_is_a_package(package):
    assert (folder_of(package) / "__init__.py").is_file()


def test_folders_at_the_top_are_mapped_and_linked():
    assert SETUPTOOLS["package-dir"] == {
        "sotopia_env": "sotopia_env",
        "sotopia_env.agents": "agents",
        "sotopia_env.trainers": "trainers",
    }
    for name in ("agents", "trainers"):
        link = ROOT / "sotopia_env" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name


def test_data_files_are_listed_so_that_they_are_installed():
    listed = SETUPTOOLS["package-data"]
    for package in packages_on_disk():
        for file in folder_of(package).iterdir():
            if file.is_file() and file.suffix not in (".py", ".pyc"):
                assert any(file.match(pattern) for pattern in listed.get(package, [])), f"{package}: {file.name}"


def test_nothing_named_agents_or_trainers_is_installed_at_the_top():
    assert {package.split(".")[0] for package in SETUPTOOLS["packages"]} == {"sotopia_env"}


def test_tests_are_no_package_and_no_conftest_stands_at_the_root():
    assert not (ROOT / "tests" / "__init__.py").exists()
    assert not (ROOT / "conftest.py").exists()


def test_the_version_is_a_release_number_and_heads_the_changelog():
    assert re.fullmatch(r"\d+\.\d+\.\d+", sotopia_env.__version__)
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sotopia_env.version.__version__"}
    changelog = ROOT / "CHANGELOG.md"
    if not changelog.exists():
        pytest.skip("no changelog yet")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog.read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[:1] == [sotopia_env.__version__]


def test_every_pinned_version_satisfies_what_is_required():
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    lowered = {name.lower().replace("_", "-") for name in pinned}
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in [*PROJECT["project"]["dependencies"], *extras["local"], *extras["test"], *extras["dev"]]:
        assert re.match(r"[A-Za-z0-9_-]+", requirement)[0].lower() in lowered, requirement


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "sotopia_env" / "py.typed").exists()
