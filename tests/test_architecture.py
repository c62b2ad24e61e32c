"""The arrows between the rooms point one way, and names say what they are; read from the code itself."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import sotopia_env

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sotopia_env"
# The two doors through which the environment reaches agents and trainers; both import on use.
DOORS = ("specs.py", "cli/")
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "openai", "xllamacpp")
ROOMS = {"environment": PACKAGE, "agents": ROOT / "agents", "trainers": ROOT / "trainers"}


def files(folder: Path) -> list[Path]:
    """The Python files of a room; the links from the package to agents and trainers are not followed."""
    inner = {PACKAGE / "agents", PACKAGE / "trainers"} if folder == PACKAGE else set()
    return sorted(p for p in folder.rglob("*.py") if not inner & {p, *p.parents} and "__pycache__" not in p.parts)


def imports(tree: ast.AST, package: str = "") -> Iterator[tuple[str, bool]]:
    """(module, whether it runs when the file is imported) of every import, type checking left out."""
    for node, at_import in walk(tree, True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_import
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], base]).rstrip(".")
            yield base, at_import
            for alias in node.names:
                yield f"{base}.{alias.name}", at_import


def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, at_import
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.orelse:
            yield from walk(child, at_import)
        return
    inside = at_import and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from walk(child, inside)


def imported(path: Path) -> list[tuple[str, bool]]:
    for room, folder in (
        ("sotopia_env", PACKAGE),
        ("sotopia_env.agents", ROOMS["agents"]),
        ("sotopia_env.trainers", ROOMS["trainers"]),
    ):
        if folder in path.parents:
            package = ".".join([room, *path.relative_to(folder).parent.parts])
            return list(imports(ast.parse(path.read_text(encoding="utf-8")), package))
    return list(imports(ast.parse(path.read_text(encoding="utf-8"))))


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def through_a_door(path: Path) -> bool:
    return path.relative_to(PACKAGE).as_posix().startswith(DOORS)


@pytest.mark.parametrize("path", files(PACKAGE), ids=named)
def test_the_environment_reaches_agents_and_trainers_only_through_two_doors_and_on_use(path):
    for module, at_import in imported(path):
        if within(module, "sotopia_env.agents", "sotopia_env.trainers"):
            assert through_a_door(path), f"{named(path)} imports {module}"
            assert not at_import, f"{named(path)} imports {module} when it is imported itself"
        assert not within(module, "benchmarks", "tests")


@pytest.mark.parametrize("path", files(ROOMS["agents"]), ids=named)
def test_agents_import_nothing_from_trainers_or_benchmarks(path):
    for module, _ in imported(path):
        assert not within(module, "sotopia_env.trainers", "benchmarks", "tests"), f"{named(path)} imports {module}"


@pytest.mark.parametrize("path", files(ROOMS["trainers"]), ids=named)
def test_trainers_import_nothing_from_benchmarks(path):
    for module, _ in imported(path):
        assert not within(module, "benchmarks", "tests"), f"{named(path)} imports {module}"


@pytest.mark.parametrize("path", files(PACKAGE), ids=named)
def test_the_environment_never_imports_torch_and_model_clients_only_on_use(path):
    for module, at_import in imported(path):
        assert not within(module, "torch", "transformers", "trl", "peft"), f"{named(path)} imports {module}"
        assert not (at_import and within(module, *HEAVY)), f"{named(path)} imports {module} when it is imported itself"


@pytest.mark.parametrize(
    "path", [p for folder in (*ROOMS.values(), ROOT / "tests", ROOT / "benchmarks") for p in files(folder)], ids=named
)
def test_nobody_imports_the_folders_by_the_names_of_other_packages(path):
    for module, _ in imported(path):
        assert not within(module, "agents", "trainers"), f"{named(path)}: write sotopia_env.{module}"


def test_the_core_knows_nothing_of_the_adapters():
    lower = ("actions", "spaces", "dimensions", "tasks", "episodes", "conversation", "chat", "errors", "rules", "packs")
    upper = ("session", "parallel", "aec", "single", "rollouts", "store", "cli", "testing", "models", "specs", "aio")
    core = [p for p in files(PACKAGE) if p.relative_to(PACKAGE).parts[0].removesuffix(".py") in lower]
    assert len(core) > 12
    for path in core:
        for module, at_import in imported(path):
            if at_import:
                assert not within(module, *(f"sotopia_env.{name}" for name in upper)), f"{named(path)} imports {module}"


def test_the_turn_engine_imports_neither_gymnasium_nor_pettingzoo():
    modules = [module for module, _ in imported(PACKAGE / "conversation.py")]
    assert not [module for module in modules if within(module, "gymnasium", "pettingzoo", "sotopia_env.spaces")]


def test_prompts_are_rendered_in_one_place():
    others = [path for folder in ROOMS.values() for path in files(folder) if path.name != "chat.py"]
    written = [path for path in others if "testing" not in path.parts]
    assert not [named(path) for path in written if "your move." in path.read_text(encoding="utf-8")]


def test_no_module_shares_its_name_with_something_public():
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules.isdisjoint(sotopia_env.__all__)


def packages() -> list[str]:
    found = ["sotopia_env", "sotopia_env.agents", "sotopia_env.trainers"]
    return found + [
        "sotopia_env." + ".".join(path.relative_to(PACKAGE).parent.parts)
        for path in files(PACKAGE)
        if path.name == "__init__.py" and path.parent != PACKAGE
    ]


@pytest.mark.parametrize("name", packages())
def test_public_names_are_listed_once_sorted_and_all_exist(name):
    module = importlib.import_module(name)
    listed = list(getattr(module, "__all__", []))
    assert listed == sorted(set(listed))
    for public in listed:
        assert getattr(module, public, None) is not None, f"{name}.{public}"


def test_the_public_surface_is_complete():
    source = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    defined = {node.name for node in source.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in source.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sotopia_env"):
            defined |= {alias.asname or alias.name for alias in node.names}
    public = {name for name in defined if not name.startswith("_") or name == "__version__"}
    assert public | set(sotopia_env._HOMES) == set(sotopia_env.__all__)


def test_every_error_class_is_public_and_in_the_drawn_tree():
    from sotopia_env import errors

    tree = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.SotopiaEnvError):
            assert name in sotopia_env.__all__
            assert name in tree


def test_the_readers_of_this_test_see_what_is_imported_when():
    code = """
import a
if TYPE_CHECKING:
    import b
def f():
    from c import d
class K:
    from .e import g
"""
    assert dict(imports(ast.parse(code), "pack")) == {
        "a": True,
        "c": False,
        "c.d": False,
        "pack.e": True,
        "pack.e.g": True,
    }
