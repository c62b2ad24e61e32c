"""Conformance checks for your own environments, agents and judges.

    from sotopia_env.testing import check_agent, check_env, check_judge

    check_env(lambda: sotopia_env.parallel_env("my_tasks.jsonl", judge=MyJudge()))
    check_agent(MyAgent())
    check_judge(MyJudge())

Each returns nothing if all is well and raises `ContractError` at the first breach. They ask what
docs/environment.md promises: PettingZoo's and Gymnasium's own suites with warnings as errors, and
what these leave out (observations in their space, whole episodes from a seed, privacy, speech that
arrives as it was said). Nothing here needs pytest.
"""

from __future__ import annotations

from sotopia_env.testing.agents import check_agent
from sotopia_env.testing.contract import ContractError, default_tasks
from sotopia_env.testing.environments import check_env
from sotopia_env.testing.judges import check_judge
from sotopia_env.testing.private_facts import with_other_secrets

__all__ = ["ContractError", "check_agent", "check_env", "check_judge", "default_tasks", "with_other_secrets"]
