"""What every check shares: the error, the comparison of results, and the watch on global random state."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from sotopia_env.errors import SotopiaEnvError
from sotopia_env.tasks import Task, load_tasks


class ContractError(SotopiaEnvError, AssertionError):
    """Raised when an environment, agent or judge breaks its contract; says what was expected and found."""


def default_tasks() -> list[Task]:
    """One task of every outcome family, and one everyday scene for two and one for three."""
    from sotopia_env.packs.outcome import FAMILIES

    outcome = [task for family in FAMILIES for task in load_tasks(f"outcome/{family}", split="validation", n=1)]
    return [*outcome, *load_tasks("everyday", n=1), *load_tasks("everyday", seats=3, n=1)]


def difference(a: Any, b: Any) -> str | None:
    """Where two results first differ, as `['key'][0]: one and other`, or None."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        parts: Iterator[tuple[Any, Any, Any]] = ((key, a[key], b[key]) for key in a)
    elif isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)) and len(a) == len(b):
        parts = ((index, x, y) for index, (x, y) in enumerate(zip(a, b, strict=True)))
    else:
        same = type(a) is type(b) and (
            np.array_equal(a, b) if isinstance(a, np.ndarray) else repr(a) == repr(b)  # repr: nan equals nan
        )
        return None if same else f": {a!r:.80} and {b!r:.80}"
    for key, x, y in parts:
        found = difference(x, y)
        if found is not None:
            return f"[{key!r}]{found}"
    return None


@contextlib.contextmanager
def untouched_global_random(who: str) -> Iterator[None]:
    """Raise `ContractError` if what runs inside changes the state of `random` or `numpy.random`."""
    before, numpy_before = random.getstate(), np.random.get_state(legacy=False)
    yield
    changed = []
    if random.getstate() != before:
        changed.append("random")
    if difference(np.random.get_state(legacy=False), numpy_before) is not None:
        changed.append("numpy.random")
    if changed:
        raise ContractError(
            f"The global state of {' and '.join(changed)} was changed by {who}. Use a generator of its own: "
            "random.Random(seed) or numpy.random.default_rng(seed)."
        )
