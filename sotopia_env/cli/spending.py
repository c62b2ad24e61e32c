"""Budgets at the command line: --max-tokens-total, --max-cost and --price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sotopia_env.budgets import Budget, Price, read_price
from sotopia_env.cli import common
from sotopia_env.errors import BudgetError, ConfigurationError


@contextmanager
def limited(
    tokens: int | None,
    dollars: float | None,
    prices: Sequence[str],
    *,
    kept: str | None,
    where: str = "--store runs.db",
) -> Iterator[Budget | None]:
    """Hold every model call inside to a budget, and say on stderr what was spent; without limits do nothing.

    Args:
        tokens: --max-tokens-total.
        dollars: --max-cost.
        prices: --price, as given.
        kept: Where what is paid for is kept; `None` for nowhere, which is refused.
        where: The option that keeps it.

    Raises:
        ConfigurationError: For a limit or price out of range, or if nothing would be kept.
    """
    priced = read_prices(prices)
    if tokens is None and dollars is None:
        yield None
        return
    budget = Budget(tokens=tokens, dollars=dollars, prices=priced)
    if kept is None:
        raise ConfigurationError(
            f"A budget may stop the command half-way. Give {where}, so that what is paid for is kept and a bigger "
            "budget goes on from there."
        )
    try:
        with budget:
            yield budget
    except BudgetError:
        common.log(f"What was paid for is in {common.without_password(kept)}.")
        raise
    finally:
        common.log(f"spent: {budget.spent.text()}, of {budget.limit}")


def read_prices(texts: Sequence[str]) -> Mapping[str, Price]:
    """Prices by model, of texts such as "openai/gpt-4o=2.5,10".

    Raises:
        ConfigurationError: For one of another form, or a model named twice.
    """
    found: dict[str, Price] = {}
    for text in texts:
        name, price = read_price(text)
        name = name.partition("?")[0]
        if name in found:
            raise ConfigurationError(f"--price names {name!r} twice. Give every model one price.")
        found[name] = price
    return found
