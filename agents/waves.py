"""Batches of rows of any length: where their keys and values stand, how tokens are drawn, what is kept.

In the buffers of a wave, key and value of a row's token k stand in column k. So one comparison, column <=
position, is the whole attention mask: no padding between a row's tokens, and whatever stands behind its end is
never seen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

Tensor = torch.Tensor
Ids = np.ndarray[Any, np.dtype[np.int64]]

_SPARE = 128
"""Columns by which what is kept of a conversation grows."""

_IDLE = 64
"""Waves after which a conversation that has not come again is dropped, or more where they come seldom."""


# --- drawing --------------------------------------------------------------------------------------


def choose(logits: Tensor, draws: Sequence[float], temperatures: Sequence[float], top_ps: Sequence[float]) -> list[int]:
    """One token a row: the likeliest at temperature 0, else the one where the distribution passes `draws`.

    Args:
        logits: (rows, vocabulary).
        draws: A uniform number in [0, 1) for every row.
        temperatures: 0 or more, by row.
        top_ps: In (0, 1], by row: only the likeliest tokens that together reach this share are drawn from.
    """
    best: list[int] = logits.argmax(-1).tolist()
    if not any(temperatures):
        return best
    if logits.device.type == "mps":  # which has no float64
        logits = logits.float().cpu()
    heat = torch.tensor([t or 1.0 for t in temperatures], dtype=torch.float64, device=logits.device)
    odds = torch.softmax(logits.double() / heat[:, None], -1)
    if min(top_ps) < 1.0:
        odds = _nucleus(odds, torch.tensor(top_ps, dtype=torch.float64, device=odds.device))
    sums = odds.cumsum(-1)
    aims = torch.tensor(draws, dtype=torch.float64, device=odds.device)[:, None] * sums[:, -1:]
    drawn: list[int] = torch.searchsorted(sums, aims, right=True)[:, 0].clamp(max=odds.shape[-1] - 1).tolist()
    return [a if t else b for a, b, t in zip(drawn, best, temperatures, strict=True)]


def _nucleus(odds: Tensor, shares: Tensor) -> Tensor:
    falling, order = torch.sort(odds, dim=-1, descending=True, stable=True)
    before = falling.cumsum(-1) - falling
    return torch.zeros_like(odds).scatter_(-1, order, falling.where(before < shares[:, None], 0.0))


# --- buffers --------------------------------------------------------------------------------------


class LayerShape(NamedTuple):
    """What one layer keeps of a token."""

    dtype: torch.dtype
    heads: int
    key_size: int
    value_size: int


class Kept:
    """What is kept of a conversation: its tokens and, for each of them, keys and values."""

    def __init__(self, shapes: Sequence[LayerShape], columns: int, device: torch.device) -> None:
        self.ids: Ids = np.zeros(0, dtype=np.int64)
        self.wave = 0
        self.buffers = [
            torch.empty((shape.heads, columns, size), dtype=shape.dtype, device=device)
            for shape in shapes
            for size in (shape.key_size, shape.value_size)
        ]
        self.bytes = sum(each.nbytes for each in self.buffers)

    @property
    def columns(self) -> int:
        """How many tokens there is room for."""
        return int(self.buffers[0].shape[1])

    def common(self, prompt: Sequence[int]) -> int:
        """How many tokens a prompt begins with that are kept."""
        return common(self.ids, np.asarray(prompt[: len(self.ids)], dtype=np.int64))


def common(first: Ids, second: Ids) -> int:
    """Length of the common beginning."""
    size = min(len(first), len(second))
    differs = np.flatnonzero(first[:size] != second[:size])
    return int(differs[0]) if len(differs) else size


class Wave:
    """The buffers of a batch. They begin with anything in them: `fill` or `repeat` every row first."""

    def __init__(self, shapes: Sequence[LayerShape], rows: int, columns: int, device: torch.device) -> None:
        self.shapes, self.device = shapes, device
        self.buffers = [
            torch.empty((rows, shape.heads, columns, size), dtype=shape.dtype, device=device)
            for shape in shapes
            for size in (shape.key_size, shape.value_size)
        ]

    @property
    def columns(self) -> int:
        """Room for tokens; the last column is for what nobody may see."""
        return int(self.buffers[0].shape[2])

    def fill(self, row: int, kept: Kept | None, count: int) -> None:
        """Put the first tokens of what is kept into a row, and zeros behind: what is masked must still be finite."""
        for number, buffer in enumerate(self.buffers):
            if kept is not None and count:
                buffer[row, :, :count] = kept.buffers[number][:, :count]
            buffer[row, :, count:] = 0

    def repeat(self, row: int, source: int, count: int) -> None:
        """Put the first tokens of another row into a row, and zeros behind."""
        for buffer in self.buffers:
            buffer[row, :, :count] = buffer[source, :, :count]
            buffer[row, :, count:] = 0

    def keep(self, row: int, ids: Sequence[int], old: Kept | None) -> Kept:
        """Copy a row out, into what was kept before where that has room: only what differs is copied."""
        count = len(ids)
        if old is None or old.columns < count:
            old = Kept(self.shapes, -(-count // _SPARE) * _SPARE, self.device)
        known = old.common(ids)
        for target, buffer in zip(old.buffers, self.buffers, strict=True):
            target[:, known:count] = buffer[row, :, known:count]
        old.ids = np.asarray(ids, dtype=np.int64)
        return old

    def select(self, rows: Sequence[int], columns: int) -> None:
        """Keep some rows only, and room for `columns` tokens."""
        numbers = torch.tensor(rows, device=self.device)
        self.buffers = [each[:, :, :columns].index_select(0, numbers) for each in self.buffers]

    def grow(self, columns: int) -> None:
        """Make room for more tokens."""
        for number, old in enumerate(self.buffers):
            rows, heads, length, size = old.shape
            new = old.new_zeros((rows, heads, columns, size))
            new[:, :, : length - 1] = old[:, :, :-1]
            self.buffers[number] = new

    def cache(self, rows: slice, columns: Tensor, length: int) -> Cache:
        """A cache for computing some rows' next tokens, each at its column, with `length` columns in sight."""
        place = _Place(columns, length)
        layers: list[Any] = [
            _RowLayer(place, self.buffers[2 * number][rows], self.buffers[2 * number + 1][rows])
            for number in range(len(self.shapes))
        ]
        return Cache(layers=layers)


class _Place:
    """Where the tokens now computed stand."""

    def __init__(self, columns: Tensor, length: int) -> None:
        self.columns, self.length = columns, length  # (rows, tokens)
        self.rows = torch.arange(len(columns), device=columns.device)[:, None]


class _RowLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Writes every token to its own column and shows the columns up to the longest row's."""

    def __init__(self, place: _Place, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.place, self.keys, self.values = place, keys, values
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        place = self.place
        assert self.keys is not None
        assert self.values is not None
        self.keys[place.rows, :, place.columns] = key_states.transpose(1, 2)
        self.values[place.rows, :, place.columns] = value_states.transpose(1, 2)
        return self.keys[:, :, : place.length], self.values[:, :, : place.length]

    def get_seq_length(self) -> int:
        return self.place.length - self.place.columns.shape[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.place.length, 0


# --- between waves --------------------------------------------------------------------------------

Key = tuple[str, ...]


class Store:
    """What is kept of conversations between waves, by key; never more than `most_bytes`.

    When it is full, the one that has waited longest makes room, but only if it has waited so long that it has
    probably ended; else the new one is not kept. (Dropping the oldest regardless would drop every conversation
    just before it comes again, as soon as all of them together do not fit.)
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self._latest: dict[Key, Key] = {}  # by what a conversation opens with
        self._wave = 0
        self._gap = 2.0

    def __len__(self) -> int:
        return len(self._kept)

    def next_wave(self) -> None:
        """Count a wave, and drop what has not come again for long."""
        self._wave += 1
        while self._kept and self._wave - next(iter(self._kept.values())).wave > max(_IDLE, 4 * self._gap):
            self._drop(next(iter(self._kept)))

    def find(self, key: Key, opening: Key, prompt: Sequence[int]) -> tuple[Kept | None, int]:
        """What is kept of a conversation, else of another with the same opening, and how much of a prompt it covers."""
        own = self._kept.get(key)
        if own is not None:
            self._gap = max(0.95 * self._gap, self._wave - own.wave)
        best, size = own, own.common(prompt) if own is not None else 0
        other = self._kept.get(self._latest.get(opening, ()))
        if other is not None and other is not own and other.common(prompt) > size:
            best, size = other, other.common(prompt)
        return best, size

    def take(self, key: Key) -> Kept | None:
        """Take a conversation out, to keep it again."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= kept.bytes
        return kept

    def put(self, key: Key, opening: Key, kept: Kept) -> None:
        """Keep a conversation, if there is room."""
        kept.wave = self._wave
        while self.bytes + kept.bytes > self.most_bytes and self._kept:
            oldest = next(iter(self._kept))
            if self._wave - self._kept[oldest].wave <= 2 * self._gap:
                return
            self._drop(oldest)
        if kept.bytes <= self.most_bytes:
            self._kept[key] = kept
            self._latest[opening] = key
            self.bytes += kept.bytes

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()
        self._latest.clear()
        self.bytes = 0

    def _drop(self, key: Key) -> None:
        self.take(key)
        if len(self._latest) > 2 * len(self._kept) + 64:
            self._latest = {opening: key for opening, key in self._latest.items() if key in self._kept}


def chunks(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Split rows, sorted by size, into groups to compute together: not too many tokens, not too unequal."""
    start = 0
    while start < len(sizes):
        stop = start + 1
        while stop < len(sizes) and sizes[stop] * (stop + 1 - start) <= most and sizes[stop] <= 1.5 * sizes[start] + 16:
            stop += 1
        yield slice(start, stop)
        start = stop
