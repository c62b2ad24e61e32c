"""Budgets: limits on tokens and money that no call of a model client can go past.

    with Budget(tokens=2_000_000, dollars=5, prices={"openai/gpt-4o": Price(2.5, 10)}) as budget:
        rollout(tasks, ["openai/gpt-4o?max_tokens=400"] * 2, judge="outcome", store="runs.db")
    print(budget.spent)

Before a request is sent its worst case is set aside: the request's bytes, for no tokenizer makes more tokens than
bytes, and the longest reply that it allows. When the answer is there what it really took is counted, and the rest is
free again. So the sum of what was spent and what is under way never exceeds the limit, however many calls are under
way at once. A call that may fit later waits until others are done; one that cannot fit any more is not made and is a
`BudgetError`. A rollout then begins no new episode, lets those under way come as far as they can, keeps them, and
goes on from there the next time.

What counts are the endpoints' own token counts. An attempt that was refused (a status of 400 or above) or never
reached the endpoint costs nothing; one whose answer did not arrive whole counts with its worst case, for it may be
billed. A budget counts what is spent inside its `with` block, not what earlier runs spent. Models in this process
(`local/`) cost no money; agents that bring no model client (`scripted/`, `hf/`) are not counted.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

from sotopia_env.errors import BudgetError, ConfigurationError, unknown

FREE = "local/"
"""Models in this process cost no money, whatever else is priced."""

_SLACK = 64
"""Tokens that an endpoint's chat template may add to what stands in a request."""

_ENOUGH = 1e-9
"""Dollars by which sums of floats may be off."""


class Price(NamedTuple):
    """US dollars per million tokens."""

    prompt: float
    completion: float


@dataclass(frozen=True, slots=True)
class Spending:
    """What calls took.

    Attributes:
        calls: How many requests were sent, repeated attempts included.
        tokens: Tokens of prompts and completions together.
        dollars: What they cost; 0 without prices.
        unsure: How many of the tokens are worst cases of attempts whose answer did not arrive whole.
    """

    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0
    unsure: int = 0

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            self.calls + other.calls,
            self.tokens + other.tokens,
            self.dollars + other.dollars,
            self.unsure + other.unsure,
        )

    def __sub__(self, other: Spending) -> Spending:
        return Spending(
            self.calls - other.calls,
            self.tokens - other.tokens,
            self.dollars - other.dollars,
            self.unsure - other.unsure,
        )

    def text(self) -> str:
        """In words: 12 calls, 3,456 tokens, $0.0123."""
        money = f", ${self.dollars:.4f}" if self.dollars else ""
        unsure = f" ({self.unsure:,} of them worst cases of lost answers)" if self.unsure else ""
        return f"{self.calls:,} call{'' if self.calls == 1 else 's'}, {self.tokens:,} tokens{unsure}{money}"


class Budget:
    """A limit on what all model calls inside `with budget:` may take, in any thread or task started inside.

    Budgets nest: a call must fit into every budget around it.

    Args:
        tokens: Prompt and completion tokens together, 1 or more; `None` for no limit.
        dollars: US dollars, above 0; `None` for no limit.
        prices: By model spec without options, such as "openai/gpt-4o": a `Price`, a pair, or a mapping with "prompt"
            and "completion", in US dollars per million tokens. A limit on dollars needs the price of every hosted
            model that is called.

    Attributes:
        spent: What calls have taken so far.
        reached: Whether some call was not made, or some episode not begun, for lack of budget.

    Raises:
        ConfigurationError: For a limit or price out of range, or without any limit.
    """

    def __init__(
        self,
        *,
        tokens: int | None = None,
        dollars: float | None = None,
        prices: Mapping[str, Price | tuple[float, float] | Mapping[str, float]] | None = None,
    ) -> None:
        if tokens is None and dollars is None:
            raise ConfigurationError("A budget needs a limit: tokens=..., dollars=..., or both.")
        if tokens is not None and (type(tokens) is not int or tokens < 1):
            raise ConfigurationError(f"tokens is {tokens!r}, but must be a whole number of 1 or more, or None.")
        if dollars is not None and not _is_number(dollars, above=True):
            raise ConfigurationError(f"dollars is {dollars!r}, but must be a finite number above 0, or None.")
        self.tokens = tokens
        self.dollars = dollars
        self.prices = {name.partition("?")[0]: _price(name, price) for name, price in (prices or {}).items()}
        self.spent = Spending()
        self.reached = False
        self._set_aside = Spending()
        self._under_way = 0
        self._dearest = Spending()
        self._queue = asyncio.Lock()
        self._settled = asyncio.Event()
        self._tokens: list[Token[tuple[Budget, ...]]] = []

    def __enter__(self) -> Budget:
        self._tokens.append(_budgets.set((*_budgets.get(), self)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _budgets.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"Budget(tokens={self.tokens!r}, dollars={self.dollars!r}, spent={self.spent.text()!r})"

    @property
    def limit(self) -> str:
        """The limit in words: 20,000 tokens and $5."""
        parts = [] if self.tokens is None else [f"{self.tokens:,} tokens"]
        return " and ".join(parts + ([] if self.dollars is None else [f"${self.dollars:g}"]))

    def price(self, model: str) -> Price:
        """The price of a model; 0 for models in this process, and without a limit on dollars.

        Raises:
            ConfigurationError: If there is a limit on dollars and no price of a hosted model.
        """
        known = self.prices.get(model.partition("?")[0])
        if known is not None:
            return known
        if self.dollars is None or model.startswith(FREE):
            return Price(0.0, 0.0)
        raise ConfigurationError(
            f"A limit of ${self.dollars:g} needs the price of {model!r} in US dollars per million tokens. Give it for "
            f"prompt and completion, such as --price {model.partition('?')[0]}=2.5,10 (0,0 if it costs nothing)."
        )

    # --- calls ------------------------------------------------------------------------------------

    async def set_aside(self, worst: Spending, model: str) -> None:
        """Reserve the worst case of a call, as soon as it fits.

        Raises:
            BudgetError: If it cannot fit any more, whatever the calls under way will take.
        """
        async with self._queue:  # first come, first served: a large call is not overtaken for ever by small ones
            while True:
                self._check(worst, model)
                if self._fits(self.spent + self._set_aside + worst):
                    break
                self._settled.clear()
                await self._settled.wait()
            self._set_aside += worst

    def settle(self, worst: Spending, really: Spending) -> None:
        """Count what a call really took in place of its worst case."""
        self._set_aside -= worst
        self.spent += really
        self._settled.set()

    def _fits(self, total: Spending) -> bool:
        return (self.tokens is None or total.tokens <= self.tokens) and (
            self.dollars is None or total.dollars <= self.dollars + _ENOUGH
        )

    def _check(self, worst: Spending, model: str) -> None:
        if self._fits(self.spent + worst):
            return
        self.reached = True
        need = f"{worst.tokens:,} tokens" + (f" (${worst.dollars:.4f})" if self.dollars is not None else "")
        raise BudgetError(
            f"The budget of {self.limit} has too little left after {self.spent.text()}: the next call of {model!r} may "
            f"take up to {need}, so it was not made. Run again with a bigger budget to go on."
        )

    # --- episodes ---------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether what is left should do for one more episode and for those under way, going by the dearest so far."""
        each = self._dearest
        total = self.spent
        for _ in range(self._under_way + 1):
            total += each
        return self._fits(total)


_budgets: ContextVar[tuple[Budget, ...]] = ContextVar("sotopia_env_budgets", default=())
_meters: ContextVar[list[Spending] | None] = ContextVar("sotopia_env_meter", default=None)


def active() -> tuple[Budget, ...]:
    """The budgets around this call, the outermost first."""
    return _budgets.get()


def has_room() -> bool:
    """Whether every budget around has room for one more episode."""
    return all(budget.has_room() for budget in active())


def no_room() -> BudgetError:
    """The error of a run that stops because some budget has no room for another episode."""
    short = [budget for budget in active() if not budget.has_room()]
    for budget in short:
        budget.reached = True
    limits = " or ".join(f"{budget.limit} ({budget.spent.text()})" for budget in short)
    return BudgetError(
        f"The budget of {limits} has too little left for another episode. Run again with a bigger budget to go on."
    )


@contextmanager
def episode() -> Iterator[None]:
    """An episode is under way: budgets around learn what it took when it ends well."""
    budgets = active()
    meter = [Spending()]
    token = _meters.set(meter)
    for budget in budgets:
        budget._under_way += 1
    try:
        yield
        for budget in budgets:
            budget._dearest = max(budget._dearest, meter[0], key=lambda spent: (spent.dollars, spent.tokens))
    finally:
        for budget in budgets:
            budget._under_way -= 1
        _meters.reset(token)


# --- what the model client asks -------------------------------------------------------------------------


class Bill:
    """One attempt's bill: `paid` or `free` once that is known; else its worst case counts."""

    def __init__(self) -> None:
        self.usage: tuple[int, int] | None = None
        self.is_free = False

    def paid(self, usage: Mapping[str, int]) -> None:
        """The endpoint told what it took; without both counts the worst case stands."""
        if {"prompt_tokens", "completion_tokens"} <= usage.keys():
            self.usage = usage["prompt_tokens"], usage["completion_tokens"]

    def free(self) -> None:
        """The endpoint refused, or was not reached."""
        self.is_free = True


class billed:  # noqa: N801 - used like a function: `async with billed(...) as bill`
    """Set aside the worst case of an attempt in every budget around, and settle at the end.

    Args:
        model: The model's spec, for its price.
        request_bytes: Size of the request's body.
        longest_reply: Tokens that the reply may have; `None` if the request sets no limit.

    Raises:
        BudgetError: On entering, if it does not fit into some budget.
        ConfigurationError: If a budget cannot bound or price the call.
    """

    def __init__(self, model: str, request_bytes: int, longest_reply: int | None) -> None:
        self.model = model
        self.request_bytes = request_bytes
        self.longest_reply = longest_reply
        self.held: list[tuple[Budget, Spending]] = []
        self.bill = Bill()

    async def __aenter__(self) -> Bill:
        try:
            for budget in active():
                limit = bounded(self.model, self.longest_reply)
                worst = _cost(budget, self.model, self.request_bytes + _SLACK, limit)
                await budget.set_aside(worst, self.model)
                self.held.append((budget, worst))
        except BaseException:
            self.bill.free()
            self._settle()
            raise
        return self.bill

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle()

    def _settle(self) -> None:
        meter = _meters.get()
        for place, (budget, worst) in enumerate(self.held):
            if self.bill.is_free:
                really = Spending()
            elif self.bill.usage is not None:
                really = _cost(budget, self.model, *self.bill.usage)
            else:
                really = Spending(worst.calls, worst.tokens, worst.dollars, unsure=worst.tokens)
            budget.settle(worst, really)
            if meter is not None and place == len(self.held) - 1:
                meter[0] += really
        self.held.clear()


def bounded(model: str, longest_reply: int | None) -> int:
    """The longest reply of a model.

    Raises:
        ConfigurationError: If nothing limits it, so that no budget can be kept.
    """
    if longest_reply is None:
        raise ConfigurationError(
            f"Model {model!r} sets no limit to its replies, so no budget can be kept. Give one: "
            f"{model}{'&' if '?' in model else '?'}max_tokens=500."
        )
    return longest_reply


def check_payable(players: Iterable[object]) -> None:
    """Refuse agents and judges whose model cannot be bounded or priced by the budgets around.

    Raises:
        ConfigurationError: For the first such model.
    """
    for budget in active():
        for model in models_of(players):
            bounded(model.name, model.longest_reply)
            budget.price(model.billed_as)


def models_of(players: Iterable[object]) -> list[Any]:
    """The model clients of agents and judges, those of a panel's members too."""
    found: list[Any] = []
    for player in players:
        members = getattr(player, "judges", None)
        if isinstance(members, (list, tuple)):
            found += models_of(members)
        model = getattr(player, "model", None)
        if hasattr(model, "longest_reply"):
            found.append(model)
    return found


def read_price(text: str) -> tuple[str, Price]:
    """Read "openai/gpt-4o=2.5,10": dollars per million tokens of prompt and completion.

    Raises:
        ConfigurationError: If it is not of that form.
    """
    name, _, numbers = text.rpartition("=")
    prompt, _, completion = numbers.partition(",")
    try:
        found = Price(float(prompt), float(completion))
    except ValueError:
        found = Price(math.nan, math.nan)
    if not name or not _is_number(found.prompt) or not _is_number(found.completion):
        raise ConfigurationError(
            f"--price is {text!r}, but must be MODEL=PROMPT,COMPLETION in US dollars per million tokens, such as "
            "openai/gpt-4o=2.5,10."
        )
    return name, found


def _cost(budget: Budget, model: str, prompt: int, completion: int) -> Spending:
    price = budget.price(model)
    dollars = (prompt * price.prompt + completion * price.completion) / 1e6
    return Spending(1, prompt + completion, dollars)


def _price(name: str, value: Price | tuple[float, float] | Mapping[str, float]) -> Price:
    if isinstance(value, Mapping):
        extra = sorted(value.keys() - {"prompt", "completion"})
        if extra:
            raise ConfigurationError(unknown(f"part of the price of {name!r}", extra[0], ("prompt", "completion")))
        value = (value.get("prompt", math.nan), value.get("completion", math.nan))
    if len(value) != 2 or not all(_is_number(number) for number in value):
        raise ConfigurationError(
            f"The price of {name!r} is {value!r}, but must be two finite numbers of at least 0: US dollars per million "
            "tokens of prompt and completion."
        )
    return Price(float(value[0]), float(value[1]))


def _is_number(value: object, *, above: bool = False) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and (value > 0 if above else value >= 0)
