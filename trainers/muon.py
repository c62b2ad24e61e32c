"""Muon, an optimizer under which small models that are trained whole learn from fewer tokens than under AdamW.

Of the gradient's running mean of every hidden weight matrix it takes the nearest orthogonal matrix, so that all
directions of the matrix move alike (Jordan et al. 2024, kellerjordan.github.io/posts/muon). The step is scaled so that
its size is AdamW's at the same learning rate (Liu et al. 2025, arXiv 2502.16982); embeddings, the output layer and
norms are left to AdamW.

`torch.optim.Muon` and other libraries reckon in bfloat16, which a processor without instructions for it does more than
ten times slower than float32. This one reckons in the weights' own type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial whose repetition brings all singular values near 1; Jordan's."""

_REPETITIONS = 5

_MATCHED = 0.2
"""Root mean square of AdamW's usual step at learning rate 1, measured by Liu et al."""


class Muon(torch.optim.AdamW):
    """AdamW in which groups with `orthogonal` take Muon's steps instead.

    Args:
        params: Parameter groups, or parameters. `orthogonal` is true for groups of matrices.
        lr: Learning rate of all groups.
        momentum: Decay of the gradient's running mean of orthogonal groups, with Nesterov's look ahead.
        **options: AdamW's, for the other groups; `weight_decay` holds for all.
    """

    def __init__(self, params: Any, lr: float = 1e-3, *, momentum: float = 0.95, **options: Any) -> None:
        self._momentum = momentum
        super().__init__(params, lr=lr, **options)
        for group in self.param_groups:
            group.setdefault("orthogonal", False)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"] if group["orthogonal"] else ():
                if weight.grad is not None:
                    self._turn(weight, float(group["lr"]), group["weight_decay"])
                    weight.grad = None  # AdamW passes over it
        super().step()
        return loss

    def _turn(self, weight: torch.Tensor, lr: float, decay: float) -> None:
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
            state["mean"] = torch.zeros_like(weight)
        state["step"] += 1
        mean = state["mean"].lerp_(weight.grad, 1 - self._momentum)
        ahead = weight.grad.lerp(mean, self._momentum)
        weight.mul_(1 - lr * decay)
        weight.add_(orthogonal(ahead), alpha=-lr * _MATCHED * float(max(weight.shape)) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly the orthogonal matrix next to one: the same singular vectors, all singular values between 0.7 and 1.2."""
    first, third, fifth = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    found: torch.Tensor = (matrix.T if tall else matrix) / (torch.linalg.matrix_norm(matrix) + 1e-12)
    for _ in range(_REPETITIONS):
        square = found @ found.T
        found = torch.addmm(found, torch.addmm(square, square, square, beta=third, alpha=fifth), found, beta=first)
    return found.T if tall else found


def optimizer_of() -> Callable[..., Muon]:
    """What transformers' `Trainer` takes as `optimizer_cls_and_kwargs` where an optimizer needs the model."""

    def build(model: torch.nn.Module, **options: Any) -> Muon:
        groups = [
            {"params": part, "orthogonal": kind} for kind, part in zip((True, False), divided(model), strict=True)
        ]
        return Muon([group for group in groups if group["params"]], **options)

    return build


def divided(model: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The trained weights of hidden linear layers, and all others (embeddings, output layer, norms, biases)."""
    named: Any = model
    ends = [end.weight for end in (named.get_input_embeddings(), named.get_output_embeddings()) if end is not None]
    hidden = {
        id(layer.weight)
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and not any(layer.weight is end for end in ends)
    }
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return [each for each in trained if id(each) in hidden], [each for each in trained if id(each) not in hidden]


__all__ = ["Muon", "divided", "optimizer_of", "orthogonal"]
