"""`check_agent`."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

from sotopia_env import aio
from sotopia_env.actions import Action, as_action
from sotopia_env.conversation import TURN_ORDERS, Conversation
from sotopia_env.episodes import TurnOrder
from sotopia_env.errors import InvalidActionError, one_line
from sotopia_env.specs import Agent, make_agent
from sotopia_env.tasks import Task
from sotopia_env.testing.contract import ContractError, default_tasks, difference, untouched_global_random
from sotopia_env.testing.moves import awkward


def check_agent(agent: str | Agent, tasks: Sequence[Task] | None = None, *, max_turns: int = 8) -> None:
    """Check an agent in every turn order: it plays all seats at once, and then one beside awkward partners.

    Args:
        agent: An agent or a spec string.
        tasks: What is played; default one task of every outcome family and two everyday scenes. A
            language model is asked about `2 * 3 * max_turns * len(tasks)` times: pass fewer if it is slow.
        max_turns: Turn limit of each conversation.

    Raises:
        ContractError: At the first breach.
    """
    name = getattr(agent, "name", None) if not isinstance(agent, str) else agent
    if not isinstance(name, str) or not name:
        raise ContractError(f"The agent's name is {name!r}, but must be a string that is not empty. Set `name`.")
    agent = make_agent(agent)
    twin = _copied(agent)
    for index, task in enumerate(default_tasks() if tasks is None else tasks):
        for order in TURN_ORDERS:
            for own in (set(task.agents), {task.agents[index % len(task.agents)]}):
                _play_with(agent, twin, task, order, own, max_turns)


def _copied(agent: Agent) -> Agent:
    try:
        twin = copy.deepcopy(agent)
    except Exception as error:  # whatever a foreign object's parts raise
        raise ContractError(
            f"copy.deepcopy of agent {agent.name!r} failed: {one_line(error)}. Make clients on first use and leave "
            "them out of copies (__deepcopy__ or __getstate__)."
        ) from error
    if getattr(twin, "name", None) != agent.name:
        raise ContractError(
            f"A deep copy of agent {agent.name!r} has the name {getattr(twin, 'name', None)!r}, but must have the same."
        )
    return twin


def _play_with(agent: Agent, twin: Agent, task: Task, order: TurnOrder, own: set[str], max_turns: int) -> None:
    conversation = Conversation(task, seed=len(own), max_turns=max_turns, turn_order=order)
    draw = random.Random(f"{task.id}/{order}")
    while not conversation.is_over:
        moves: dict[str, Action] = {}
        for seat in conversation.present:
            where = f"on task {task.id!r}, turn {conversation.turn} in {order} order, as {seat!r}"
            if seat in own:
                action = _asked(agent, twin, conversation.view(seat), where)
                if seat in conversation.movers:
                    moves[seat] = action
                elif action.action_type != "none":
                    raise ContractError(
                        f"Agent {agent.name!r} answered {tuple(action)[:2]!r} {where}, without the turn, but must "
                        "answer Action('none'). Look at observation['available_actions'] first."
                    )
            elif seat in conversation.movers:
                moves[seat] = awkward(conversation.view(seat), draw)
        conversation.apply(moves)


def _asked(agent: Agent, twin: Agent, observation: dict[str, Any], where: str) -> Action:
    kept = copy.deepcopy(observation)
    if not getattr(agent, "inline", False):
        action = _answer(agent, observation, where)
    else:
        with untouched_global_random(f"agent {agent.name!r}"):
            action = _answer(agent, observation, where)
        for other in (agent, twin):
            again = _answer(other, copy.deepcopy(kept), where)
            if again != action:
                raise ContractError(
                    f"Agent {agent.name!r} answered the same observation with {tuple(action)!r:.120} and then "
                    f"{tuple(again)!r:.120} {where}. Keep no state between calls and seed every draw with "
                    "facts['seed'] and the turn, or do not set `inline`."
                )
    changed = difference(kept, observation)
    if changed is not None:
        raise ContractError(
            f"Agent {agent.name!r} changed its observation {where}, at {changed}. Copy what you want to change."
        )
    return action


def _answer(agent: Agent, observation: dict[str, Any], where: str) -> Action:
    try:
        return as_action(aio.run(agent.act(observation)), observation["agent"])
    except InvalidActionError as error:
        raise ContractError(f"Agent {agent.name!r} gave no valid action {where}: {error}") from error
    except Exception as error:  # whatever a foreign agent raises, with the place where it did
        raise ContractError(
            f"Agent {agent.name!r} raised {one_line(error)} {where}. Answer every observation with an Action."
        ) from error
