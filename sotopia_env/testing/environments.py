"""`check_env`: what PettingZoo's and Gymnasium's own suites ask, and what they leave out."""

from __future__ import annotations

import contextlib
import io
import random
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import pettingzoo

from sotopia_env.actions import ACTION_INDEX, ACTION_TYPES
from sotopia_env.errors import one_line
from sotopia_env.tasks import Task
from sotopia_env.testing.contract import ContractError, difference, untouched_global_random
from sotopia_env.testing.moves import has_turn, is_move, is_social, sampled_move
from sotopia_env.testing.private_facts import with_other_secrets

DICT_SPACE_WARNINGS = (
    "Observation is not a NumPy array",
    "Observation space for each agent probably should be gymnasium.spaces.box or gymnasium.spaces.discrete",
    "Action space for each agent probably should be gymnasium.spaces.box or gymnasium.spaces.discrete",
)
"""What PettingZoo's `api_test` says of every environment with Dict spaces; all other warnings are errors."""

EPISODES = 4
"""Episodes that `check_env` plays, each three times."""

LONGEST_EPISODE = 10_000
"""Steps after which `check_env` gives up waiting for the end of an episode."""

Env = Any
"""A `pettingzoo.ParallelEnv`, `pettingzoo.AECEnv` or `gymnasium.Env`."""


@dataclass
class _Step:
    """What one reset, step or `last()` gave, by agent."""

    observations: dict[str, Any]
    rewards: dict[str, Any]
    terminations: dict[str, Any]
    truncations: dict[str, Any]
    infos: dict[str, Any]


@dataclass
class _Play:
    """One episode from reset to end, and the social moves made in it: (turn, speaker, type, argument)."""

    steps: list[_Step] = field(default_factory=list)
    said: list[tuple[int, str, int, str]] = field(default_factory=list)

    def note(self, agent: str, observation: Any, action: Any) -> None:
        """Remember a move that every other agent present must hear of."""
        if is_social(observation) and is_move(action) and has_turn(observation):
            self.said.append((int(observation["turn"]), agent, int(action["action_type"]), action["argument"]))


def check_env(make_env: Callable[[], Env]) -> None:
    """Check an environment: parallel, AEC or single-agent.

    Args:
        make_env: Makes a new environment at every call, the same one each time.

    Some thirty episodes are played to their end with sampled moves, awkward texts and binding commands,
    so give it a judge that costs nothing. Privacy is checked where `tasks` is the list of
    `sotopia_env.Task` that `reset` draws from, except in the single-agent form, whose partners act on
    what they know.

    Raises:
        ContractError: At the first breach. Errors that the environment itself raises come through.
    """
    if not callable(make_env):
        raise ContractError(
            f"make_env is a {type(make_env).__name__}, but must be a function that makes a new environment at every "
            "call, such as lambda: sotopia_env.parallel_env()."
        )
    env = make_env()
    play = _player(env)
    with untouched_global_random("the environment"):
        first = [play(env, seed) for seed in range(EPISODES)]
        for seed, one in enumerate(first):
            _check_heard(one)
            _compare(one, play(make_env(), seed), f"Two environments reset with seed={seed}")
            _compare(one, play(env, seed), f"An environment reset with seed={seed} twice")
        if not isinstance(env, gymnasium.Env):
            _check_privacy(make_env, play)
    _run_suites(make_env, env)


def _player(env: Env) -> Callable[[Env, int], _Play]:
    if isinstance(env, pettingzoo.ParallelEnv):
        return _play_parallel
    if isinstance(env, pettingzoo.AECEnv):
        return _play_aec
    if isinstance(env, gymnasium.Env):
        return _play_single
    raise ContractError(
        f"make_env() returned {type(env).__name__}, but must return a pettingzoo.ParallelEnv, a pettingzoo.AECEnv "
        "or a gymnasium.Env. Derive from one of them."
    )


def _play_parallel(env: Env, seed: int) -> _Play:
    play, draw = _Play(), random.Random(seed)
    observations, infos = env.reset(seed=seed)
    agents = list(env.agents)
    _seed_actions(env, agents, seed)
    zeros, flags = dict.fromkeys(agents, 0.0), dict.fromkeys(agents, False)
    play.steps.append(_Step(observations, zeros, flags, flags, infos))
    _check_step(env, play.steps[-1], agents, "reset()")
    while env.agents:
        live = list(env.agents)
        step = play.steps[-1]
        actions = {a: sampled_move(env.action_space(a), step.observations[a], step.infos[a], draw) for a in live}
        for agent, action in actions.items():
            play.note(agent, step.observations[agent], action)
        play.steps.append(_Step(*env.step(actions)))
        step = play.steps[-1]
        _check_step(env, step, live, f"step {len(play.steps) - 1}")
        ended = {agent for agent in live if step.terminations[agent] or step.truncations[agent]}
        if set(env.agents) != set(live) - ended:
            raise ContractError(
                f"After step {len(play.steps) - 1} env.agents is {list(env.agents)}, but must hold exactly the agents "
                f"that have not ended: {sorted(set(live) - ended)}. Update `agents` in step()."
            )
        _check_length(len(play.steps))
    return play


def _play_aec(env: Env, seed: int) -> _Play:
    play, draw = _Play(), random.Random(seed)
    env.reset(seed=seed)
    _seed_actions(env, env.agents, seed)
    for agent in env.agent_iter(LONGEST_EPISODE):
        where = f"last() of {agent!r} at call {len(play.steps)}"
        for name in ("rewards", "terminations", "truncations", "infos"):
            if set(getattr(env, name)) != set(env.agents):
                raise ContractError(
                    f"At {where} env.{name} has keys {sorted(getattr(env, name))}, but must have those of env.agents: "
                    f"{sorted(env.agents)}. Fill every dictionary for exactly the agents that are left."
                )
        observation, reward, termination, truncation, info = env.last()
        step = _Step({agent: observation}, {agent: reward}, {agent: termination}, {agent: truncation}, {agent: info})
        play.steps.append(step)
        _check_step(env, step, [agent], where)
        action = None if termination or truncation else sampled_move(env.action_space(agent), observation, info, draw)
        play.note(agent, observation, action)
        env.step(action)
    if env.agents:
        _check_length(LONGEST_EPISODE + 1)
    return play


def _play_single(env: Env, seed: int) -> _Play:
    play, draw = _Play(), random.Random(seed)
    observation, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    agent = str(observation["agent"]) if is_social(observation) else "agent"
    play.steps.append(_Step({agent: observation}, {agent: 0.0}, {agent: False}, {agent: False}, {agent: info}))
    _check_step(env, play.steps[-1], [agent], "reset()")
    ended = False
    while not ended:
        action = sampled_move(env.action_space, observation, info, draw)
        play.note(agent, observation, action)
        observation, reward, termination, truncation, info = env.step(action)
        step = _Step({agent: observation}, {agent: reward}, {agent: termination}, {agent: truncation}, {agent: info})
        play.steps.append(step)
        _check_step(env, step, [agent], f"step {len(play.steps) - 1}")
        ended = termination or truncation
        _check_length(len(play.steps))
    return play


def _check_length(steps: int) -> None:
    if steps > LONGEST_EPISODE:
        raise ContractError(
            f"An episode has not ended after {LONGEST_EPISODE} steps. Every episode must end: set a turn limit that "
            "truncates."
        )


def _seed_actions(env: Env, agents: Sequence[str], seed: int) -> None:
    for index, agent in enumerate(agents):
        env.action_space(agent).seed(seed + index)


def _check_step(env: Env, step: _Step, agents: Sequence[str], where: str) -> None:
    """The five dictionaries of one step: same keys, observations in their space, plain numbers and flags."""
    for name, values in vars(step).items():
        if not isinstance(values, dict) or set(values) != set(agents):
            found = sorted(map(str, values)) if isinstance(values, Mapping) else repr(values)[:80]
            raise ContractError(
                f"At {where} the {name} are for {found}, but must be a dict for exactly {sorted(agents)}. Return the "
                "same keys in all dictionaries."
            )
    for agent in agents:
        space = env.observation_space if isinstance(env, gymnasium.Env) else env.observation_space(agent)
        if not space.contains(step.observations[agent]):
            raise ContractError(
                f"At {where} the observation of {agent!r} lies outside its space"
                f"{_culprit(space, step.observations[agent])}. Make the observation fit the space, or widen the space."
            )
        if type(step.rewards[agent]) is not float:
            raise ContractError(
                f"At {where} the reward of {agent!r} is {step.rewards[agent]!r} of type "
                f"{type(step.rewards[agent]).__name__}, but must be a Python float. Convert it with float()."
            )
        for name, flags in (("termination", step.terminations), ("truncation", step.truncations)):
            if type(flags[agent]) is not bool:
                raise ContractError(
                    f"At {where} the {name} of {agent!r} is {flags[agent]!r} of type {type(flags[agent]).__name__}, "
                    "but must be a Python bool. Convert it with bool()."
                )
        if not isinstance(step.infos[agent], dict):
            raise ContractError(
                f"At {where} the info of {agent!r} is {step.infos[agent]!r:.80}, but must be a dict. Return {{}} "
                "for none."
            )


def _culprit(space: gymnasium.Space[Any], value: Any) -> str:
    """Name the key of a Dict observation that does not fit."""
    if not isinstance(space, gymnasium.spaces.Dict) or not isinstance(value, dict):
        return f": {value!r:.120}"
    if value.keys() != space.spaces.keys():
        return f": its keys are {sorted(value)}, not {sorted(space.spaces)}"
    wrong = next((key for key in space.spaces if not space.spaces[key].contains(value[key])), None)
    return f": {wrong!r} is {value[wrong]!r:.120}, not in {space.spaces[wrong]}" if wrong is not None else ""


def _compare(one: _Play, other: _Play, what: str, skip: str = "", without: Sequence[str] = ()) -> None:
    """Raise unless two plays are equal; `skip` leaves an agent out, `without` some keys of the infos."""
    if len(one.steps) != len(other.steps):
        raise ContractError(
            f"{what}, given the same actions, took {len(one.steps)} and {len(other.steps)} steps. {_REMEDY}"
        )
    for number, (a, b) in enumerate(zip(one.steps, other.steps, strict=True)):
        for name in vars(a):
            if name == "rewards" and "scores" in without:
                continue
            left, right = ({k: v for k, v in getattr(s, name).items() if k != skip} for s in (a, b))
            if name == "infos":
                left, right = (
                    {k: {key: x for key, x in v.items() if key not in without} for k, v in side.items()}
                    for side in (left, right)
                )
            path = difference(left, right)
            if path is not None:
                raise ContractError(
                    f"{what}, given the same actions, differ at step {number} in {name}{path}. {_REMEDY}"
                )


_REMEDY = "Draw all randomness from a generator that reset(seed=...) seeds, and keep no state across episodes."


def _check_heard(play: _Play) -> None:
    """What is said is heard: in the last observation of all who were present, character for character."""
    last: dict[str, Any] = {}
    for step in play.steps:
        last.update(step.observations)
    left = {agent: turn for turn, agent, kind, _ in play.said if kind == ACTION_INDEX["leave"]}
    for listener, observation in last.items():
        if not is_social(observation):
            continue
        heard = {(int(e[0]), e[1], int(e[2]), e[3]) for e in observation["transcript"]}
        for event in play.said:
            turn, speaker, kind, argument = event
            if event not in heard and turn <= left.get(listener, turn):
                near = next((e[3] for e in sorted(heard) if e[:2] == (turn, speaker)), None)
                raise ContractError(
                    f"In turn {turn} {speaker!r} made the move {ACTION_TYPES[kind]!r} with {argument!r:.80}, but "
                    f"{listener!r} observed {near if near is None else near[:80]!r}. Pass on what is said character "
                    "for character to all who are present."
                )


def _check_privacy(make_env: Callable[[], Env], play: Callable[[Env, int], _Play]) -> None:
    """Non-interference: another seat's goal, secret and private facts change nothing that an agent gets."""
    tasks = getattr(make_env(), "tasks", None)
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, Task) for task in tasks):
        return
    for seed, task in enumerate(tasks[:EPISODES]):
        one = _with_task(make_env, task, play, seed)
        for agent in task.agents:
            other = _with_task(make_env, with_other_secrets(task, agent, seed=seed), play, seed)
            own = [[s.observations[agent] for s in p.steps if agent in s.observations] for p in (one, other)]
            if difference(*own) is None:
                raise ContractError(
                    f"Task {task.id!r}: another goal, secret and private facts of {agent!r} changed nothing in its own "
                    "observations. Tell every agent its own goal, and let `tasks` be the list that reset() draws from."
                )
            with _reworded(f"Task {task.id!r}: what {agent!r} alone knows shows in another agent's results"):
                _compare(one, other, "Two plays", skip=agent, without=("scores",))


def _with_task(make_env: Callable[[], Env], task: Task, play: Callable[[Env, int], _Play], seed: int) -> _Play:
    env = make_env()
    env.tasks[:] = [task]
    return play(env, seed)


@contextlib.contextmanager
def _reworded(start: str) -> Iterator[None]:
    try:
        yield
    except ContractError as error:
        found = str(error).removesuffix(_REMEDY).rstrip()
        raise ContractError(f"{start}. {found} Build each observation and info from that seat's own facts.") from None


def _run_suites(make_env: Callable[[], Env], env: Env) -> None:
    """PettingZoo's and Gymnasium's own checks, every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what those packages say of themselves when imported
        from gymnasium.utils.env_checker import check_env as gymnasium_check_env
        from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test
    if isinstance(env, pettingzoo.ParallelEnv):
        _suite("PettingZoo's parallel_api_test", lambda: parallel_api_test(make_env()))
        _suite("PettingZoo's parallel_seed_test", lambda: parallel_seed_test(make_env))  # type: ignore[no-untyped-call]
    elif isinstance(env, pettingzoo.AECEnv):
        _suite("PettingZoo's api_test", lambda: api_test(make_env()), DICT_SPACE_WARNINGS)  # type: ignore[no-untyped-call]
        _suite("PettingZoo's seed_test", lambda: seed_test(make_env))  # type: ignore[no-untyped-call]
    else:
        # Its other render modes are made from the spec, which only registered environments have.
        raw = env.unwrapped
        _suite("Gymnasium's check_env", lambda: gymnasium_check_env(raw, skip_render_check=raw.spec is None))


def _suite(name: str, run: Callable[[], object], allowed: Sequence[str] = ()) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("error")
        for message in allowed:
            warnings.filterwarnings("ignore", message=f"{re.escape(message)}$")
        try:
            run()
        except (AssertionError, Warning, gymnasium.error.Error) as error:
            # Also a judge's or agent's error may be one of these; the cause stays attached.
            text = re.sub(r"\x1b\[\d+m", "", one_line(error, limit=600))
            raise ContractError(f"{name} failed: {text} (warnings count as errors).") from error
