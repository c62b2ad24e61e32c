"""sotopia's side of the benchmarks; run by the Python of its own virtual environment, never by ours.

Reads one JSON object a line from standard input and answers each with one line on standard output:

    {"command": "versions"}
    {"command": "scenes", "scenes": [...], "utterances": [...]}   what is played from now on
    {"command": "steps", "seconds": 1.0}                          whole episodes, rule-based evaluator
    {"command": "episodes", "base_url": "...", "count": 64}       concurrent episodes with sotopia's own agents
    {"command": "prompts"}                                        every prompt of one episode per scene
"""

# sotopia is not installed where this file is type-checked.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import sys
import time
from typing import Any

# sotopia prints a banner at import and litellm now and then; only answers may reach the pipe.
_answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

import sotopia.generation_utils.generate as generation  # noqa: E402
from sotopia.agents import Agents, LLMAgent  # noqa: E402
from sotopia.database import AgentProfile, EnvironmentProfile  # noqa: E402
from sotopia.envs import ParallelSotopiaEnv  # noqa: E402
from sotopia.envs.evaluators import RuleBasedTerminatedEvaluator  # noqa: E402
from sotopia.messages import AgentAction  # noqa: E402
from sotopia.server import arun_one_episode  # noqa: E402

TURNS = 20
NOTHING = AgentAction(action_type="none", argument="")


class Evaluator(RuleBasedTerminatedEvaluator):  # type: ignore[misc]
    """The rule-based evaluator; `astep` reads `prompt` off the first terminal evaluator when an episode ends."""

    prompt = ""


class Side:
    """Holds the scenes between commands."""

    def __init__(self) -> None:
        self.scenes: list[dict[str, Any]] = []
        self.moves: list[AgentAction] = []
        self.envs: list[tuple[ParallelSotopiaEnv, Agents]] = []
        self._next = 0

    def load(self, scenes: list[dict[str, Any]], utterances: list[str]) -> dict[str, int]:
        self.scenes = scenes
        self.moves = [AgentAction(action_type="speak", argument=text) for text in utterances]
        self.envs = [self.make(scene) for scene in scenes]
        return {"scenes": len(self.envs)}

    def make(self, scene: dict[str, Any], model: str = "none") -> tuple[ParallelSotopiaEnv, Agents]:
        profile = EnvironmentProfile(
            scenario=scene["scenario"], relationship=scene["relationship"], agent_goals=list(scene["agent_goals"])
        )
        env = ParallelSotopiaEnv(
            env_profile=profile,
            action_order="round-robin",
            evaluators=[RuleBasedTerminatedEvaluator(max_turn_number=TURNS, max_stale_turn=2)],
            terminal_evaluators=[Evaluator(max_turn_number=TURNS)],
        )
        people = [AgentProfile(**person) for person in scene["people"]]
        agents = Agents()
        for person in people:
            agent = LLMAgent(agent_profile=person, model_name=model)
            agents[agent.agent_name] = agent
        return env, agents

    # --- steps --------------------------------------------------------------------------------------

    def steps(self, seconds: float) -> dict[str, float]:
        """Play whole episodes until the time is up; every one has 20 steps."""
        steps = 0
        cpu, start = time.process_time(), time.perf_counter()
        while time.perf_counter() - start < seconds:
            env, agents = self.envs[self._next % len(self.envs)]
            self._next += 1
            steps += self.play(env, agents)
        return {"amount": steps, "wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}

    def play(self, env: ParallelSotopiaEnv, agents: Agents) -> int:
        env.reset(agents=agents)
        first, second = env.agents
        done = False
        step = 0
        while not done:
            move = self.moves[step]
            actions = {first: NOTHING, second: move} if step % 2 else {first: move, second: NOTHING}
            _observations, _rewards, terminated, _truncated, _infos = env.step(actions)
            step += 1
            done = all(terminated.values())
        assert step == TURNS, f"an episode ended after {step} steps"
        return step

    # --- episodes with sotopia's agents -----------------------------------------------------------------

    async def episodes(self, base_url: str, count: int, *, log: bool = False) -> dict[str, float]:
        """Play `count` episodes at once as sotopia's own engine does, against an OpenAI-compatible server."""
        model = f"custom/benchmark@{base_url}"
        made = [self.make(self.scenes[i % len(self.scenes)], model) for i in range(count)]
        generation.log.setLevel(logging.INFO if log else logging.ERROR)
        cpu, start = time.process_time(), time.perf_counter()
        results = await asyncio.gather(*(arun_one_episode(env, list(agents.values())) for env, agents in made))
        wall, used = time.perf_counter() - start, time.process_time() - cpu
        spoken = sum(
            isinstance(message, AgentAction) and message.action_type == "speak"
            for messages in results
            for _sender, _receiver, message in messages
        )
        return {"amount": spoken, "wall": wall, "cpu": used}

    # --- prompts ------------------------------------------------------------------------------------------

    async def prompts(self) -> list[list[dict[str, Any]]]:
        """Every prompt of one episode per scene, in order: what sotopia hands to litellm, caught at that call."""
        caught: list[dict[str, Any]] = []

        async def completion(*, messages: list[dict[str, str]], **_: Any) -> Any:
            text = json.dumps({"action_type": "speak", "argument": self.moves[len(caught)].argument})
            caught.append({"messages": messages, "reply": text})
            return _Completion(text)

        original = generation.acompletion
        generation.acompletion = completion
        generation.log.setLevel(logging.ERROR)
        found = []
        try:
            for scene in self.scenes:
                caught.clear()
                env, agents = self.make(scene, "custom/benchmark@http://unused")
                await arun_one_episode(env, list(agents.values()))
                found.append(list(caught))
        finally:
            generation.acompletion = original
        return found


class _Completion:
    """The part of a completion that sotopia reads."""

    def __init__(self, content: str) -> None:
        self.choices = [self]
        self.message = self
        self.content = content


def versions() -> dict[str, str]:
    names = ("sotopia", "litellm", "openai", "pettingzoo", "gymnasium", "pydantic")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def main() -> None:
    side = Side()
    loop = asyncio.new_event_loop()  # one for all commands: litellm keeps its clients per loop
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("command")
        with contextlib.redirect_stdout(sys.stderr):
            if command == "versions":
                answer: Any = versions()
            elif command == "scenes":
                answer = side.load(**request)
            elif command == "steps":
                answer = side.steps(**request)
            elif command == "episodes":
                answer = loop.run_until_complete(side.episodes(**request))
            elif command == "prompts":
                answer = loop.run_until_complete(side.prompts(**request))
            else:
                raise ValueError(f"unknown command {command!r}")
        _answers.write(json.dumps(answer) + "\n")
        _answers.flush()


if __name__ == "__main__":
    main()
