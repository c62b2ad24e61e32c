"""lm-eval's transformers model, which does not compute twice what prompts have in common.

The answers to one question share the question, and questions of one subject share their examples. On a processor
that is most of the work, so here prompts are computed in sorted order, each from where it leaves the one before.
Scores are those of lm-eval's own batches up to the rounding of floating-point sums. Import this module on use: it
imports torch and lm-eval.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped, unused-ignore]
from transformers.cache_utils import DynamicCache

Tensor = torch.Tensor
Scored = tuple[float, bool]
"""Log-likelihood of a continuation, and whether it is what greedy decoding writes."""


class SharingLM(HFLM):  # type: ignore[misc, unused-ignore]
    """Scores continuations of sorted prompts with one cache.

    Args:
        share: False for models whose cache is not plain: then all is done as lm-eval does it.
        options: As `HFLM`.
    """

    def __init__(self, *, share: bool, **options: Any) -> None:
        super().__init__(**options)
        self._share = share

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **options: Any
    ) -> list[Scored]:
        """Score (texts, context, continuation) triples; what is too long for the model is left to lm-eval."""
        longest = self.max_length + 1
        fits = [self._share and len(context) + len(more) <= longest for _, context, more in requests]
        answers: dict[int, Scored] = {}
        rest = [number for number, fit in enumerate(fits) if not fit]
        if rest:
            left = [requests[number] for number in rest]
            answers.update(zip(rest, super()._loglikelihood_tokens(left, disable_tqdm, **options), strict=True))
        order = sorted((number for number, fit in enumerate(fits) if fit), key=lambda number: requests[number][1])
        line = _Line(self.model)
        for _, group in groupby(order, key=lambda number: requests[number][1]):
            numbers = list(group)
            scored = line.score(requests[numbers[0]][1], [requests[number][2] for number in numbers])
            for number, answer in zip(numbers, scored, strict=True):
                answers[number] = answer
                if requests[number][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
        return [answers[number] for number in range(len(requests))]


class _Line:
    """One context at a time, with the keys and values of all its tokens."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._ids: list[int] = []
        self._cache = DynamicCache(config=model.config)
        self._name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    @torch.inference_mode()
    def score(self, context: list[int], continuations: Sequence[list[int]]) -> list[Scored]:
        """Score what may follow a context."""
        first = self._go_on(context)
        longer = [number for number, ids in enumerate(continuations) if len(ids) > 1]
        later = self._behind([continuations[number][:-1] for number in longer]) if longer else []
        rows = dict(zip(longer, later, strict=True))
        return [
            _scored(torch.cat([first, rows[number][: len(ids) - 1]]) if number in rows else first, ids)
            for number, ids in enumerate(continuations)
        ]

    def _go_on(self, context: list[int]) -> Tensor:
        """Log-probabilities behind a context, of shape (1, vocabulary)."""
        known = _common(self._ids, context[:-1])
        if not known:
            self._cache = DynamicCache(config=self._model.config)
        elif known < len(self._ids):
            self._cache.crop(known - len(self._ids))  # negative: as many tokens are taken away
        logits = self._logits([context[known:]], self._cache, 1)
        self._ids = list(context)
        return torch.log_softmax(logits[0].float(), dim=-1)

    def _behind(self, rows: Sequence[list[int]]) -> list[Tensor]:
        """Log-probabilities behind each token of each row, all of them behind the context."""
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(len(rows))  # type: ignore[no-untyped-call, unused-ignore]
        width = max(map(len, rows))
        # What fills up stands behind what counts, where no token of it looks.
        logits = self._logits([row + [0] * (width - len(row)) for row in rows], cache, 0)
        return [torch.log_softmax(row.float(), dim=-1) for row in logits]

    def _logits(self, ids: Sequence[Sequence[int]], cache: Any, keep: int) -> Tensor:
        inputs = torch.tensor(ids, device=self._model.device)
        out = self._model(inputs, use_cache=True, logits_to_keep=keep, **{self._name: cache})
        logits: Tensor = out.logits
        return logits


def _scored(logprobs: Tensor, ids: Sequence[int]) -> Scored:
    wanted = torch.tensor(ids, device=logprobs.device)
    total = logprobs.gather(1, wanted[:, None]).sum()
    return float(total), bool((logprobs.argmax(dim=-1) == wanted).all())


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
