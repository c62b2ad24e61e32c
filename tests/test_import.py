"""Importing the package is cheap, quiet and closed; what is not asked for is not loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "openai", "httpx", "pydantic", "sqlalchemy", "typer", "rich", "xllamacpp")

WATCH = """
import builtins, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError(f"a socket was opened: {args}")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def run(code: str) -> str:
    """Run code in a fresh process with every warning an error; its standard output, if it stayed silent besides."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCH + code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_importing_prints_nothing_and_loads_nothing_heavy():
    loaded = run(f"import sotopia_env; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded == "[]\n"


def test_importing_loads_neither_agents_nor_trainers():
    loaded = run("import sotopia_env; print([name for name in sys.modules if name.startswith('sotopia_env')])")
    assert "agents" not in loaded
    assert "trainers" not in loaded
    assert "sotopia_env.actions" in loaded


def test_naming_every_public_name_loads_no_model_client():
    code = (
        "import sotopia_env\nfor name in sotopia_env.__all__: getattr(sotopia_env, name)\nprint('torch' in sys.modules)"
    )
    assert run(code) == "False\n"


@pytest.mark.parametrize("make", ["parallel_env", "env"])
def test_a_whole_outcome_episode_needs_no_socket_no_key_and_no_model_client(make):
    code = f"""
import sotopia_env
env = sotopia_env.{make}()
env.reset(seed=0)
while env.agents:
    if "{make}" == "env":
        _, _, termination, truncation, _ = env.last()
        env.step(None if termination or truncation else sotopia_env.Action("speak", "hello"))
    else:
        env.step(dict.fromkeys(env.agents, sotopia_env.Action("speak", "hello")))
print(env.episode().status, [name for name in ("torch", "openai", "sqlalchemy") if name in sys.modules])
"""
    assert run(code) == "complete []\n"


def test_importing_twice_registers_once():
    code = """
import importlib, gymnasium, pettingzoo, sotopia_env
importlib.reload(sotopia_env)
print(sum(name == "sotopia_env/Social-v0" for name in gymnasium.registry))
"""
    assert run(code) == "1\n"


def test_an_unknown_name_is_an_attribute_error():
    import sotopia_env

    with pytest.raises(AttributeError, match="module 'sotopia_env' has no attribute 'nothing'"):
        sotopia_env.nothing  # noqa: B018
    assert set(sotopia_env.__all__) <= set(dir(sotopia_env))
