"""A policy as lm-eval examines it: the weights, the adapter and the tokenizer that it plays with.

with hf_examinee("hf/runs/pi/bc").seated(seed=0) as model: ...      # an lm-eval model
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sotopia_env.agents.hf import HFAgent
from sotopia_env.errors import ConfigurationError, MissingExtraError
from sotopia_env.specs import make_agent


class HFExaminee:
    """An `hf/` policy that answers questions.

    Args:
        agent: The policy; its temperature and lengths do not count here.
        batch_size: How many prompts are computed at once.

    Attributes:
        name: As in episodes.

    Raises:
        MissingExtraError: If lm-eval is not installed.
    """

    def __init__(self, agent: HFAgent, *, batch_size: int = 8) -> None:
        if importlib.util.find_spec("lm_eval") is None:
            raise MissingExtraError(
                "Questions are asked by lm-eval, which is not installed. Install it: pip install 'sotopia-env[eval]'."
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size!r}, but must be a whole number of 1 or more.")
        self.agent, self.batch_size = agent, batch_size
        self.name = agent.name

    @contextmanager
    def seated(self, *, seed: int = 0) -> Iterator[Any]:
        """Load what is not loaded yet and hand out the lm-eval model; only one examinee at a time.

        Args:
            seed: For tasks that draw their answers.

        Raises:
            ConfigurationError: If model, adapter or tokenizer cannot be loaded.
        """
        import torch

        from sotopia_env.agents.scoring import SharingLM

        self.agent.load()
        engine = self.agent._ready()
        tokenizer = engine.voice(self.agent._voice).tokenizer
        devices = [engine.model.device] if engine.model.device.type == "cuda" else []
        try:
            with engine.with_adapter(self.agent._adapter), torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                yield SharingLM(
                    share=engine.keeps and not devices,  # a GPU is quicker with lm-eval's large batches
                    pretrained=engine.model,
                    tokenizer=tokenizer,
                    batch_size=self.batch_size,
                )
        finally:
            self.agent._engine = None  # so that a later policy finds room


def hf_examinee(spec: str, *, batch_size: int = 8) -> HFExaminee:
    """The examinee of an `hf/...` spec.

    Raises:
        ConfigurationError: If it is another kind of spec, and as `HFAgent`.
        MissingExtraError: If torch, transformers or lm-eval is not installed.
    """
    if not spec.startswith("hf/"):
        raise ConfigurationError(
            f"{spec!r} cannot be examined. Give hf/<hub id or folder>, such as hf/smollm2: questions are scored with "
            "the probabilities of answers, which only models on this machine show."
        )
    agent = make_agent(spec)
    assert isinstance(agent, HFAgent)
    return HFExaminee(agent, batch_size=batch_size)
