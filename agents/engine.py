"""One set of base weights in this process: all that is asked of it at the same time is generated as one batch.

A wave is a batch of requests for one adapter. Between waves the keys and values of conversations are kept; when a
conversation comes again, its prompt is compared token by token with what is kept, and only what differs is
computed. Conversations that open alike, such as repeats of a task, share their opening.

Models whose cache is not a plain list of keys and values (sliding windows, recurrent states) are found out when
they are loaded, and generate without anything kept, through transformers' own `generate`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import itertools
import logging
import os
import random
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.cache_utils import DynamicCache
from transformers.utils import logging as transformers_logging

from sotopia_env import aio
from sotopia_env.agents.folders import Place
from sotopia_env.agents.memory import keep_freed_memory, sharers
from sotopia_env.agents.voices import Voice
from sotopia_env.agents.waves import Kept, Key, LayerShape, Store, Tensor, Wave, choose, chunks, common
from sotopia_env.errors import ConfigurationError, MissingExtraError, ModelError, SotopiaEnvError, one_line

_logger = logging.getLogger(__name__)

_QUIET_CYCLES = 12
"""Turns of the event loop without a new request after which a wave begins."""

_PASSED_OVER = 4
"""Waves that a request lets go first before its group takes its turn."""

_ROOM = 64
"""Columns by which a wave's buffers grow."""

_CHUNK = {"cpu": 2048, "cuda": 16384}
"""Prompt tokens that are computed at a time."""

_WORTH_SHARING = 32
"""Tokens of a common opening from which on one row waits for another."""


class Plan(NamedTuple):
    """What a reply is generated from; made on the engine's thread."""

    ids: list[int]
    cut_turns: int


@dataclass
class Request:
    """One reply that somebody waits for.

    Attributes:
        plan: Makes the prompt's tokens, given the voice and the longest prompt allowed.
        voice: Where the tokenizer is.
        adapter: Where the PEFT adapter is, or `None` for the base alone.
        opening: Names what the conversation opens with.
        key: Names the conversation: what is kept of it is looked for under this key.
        seed: Seeds the uniform numbers, one a token, that the reply is drawn with.
        abandoned: Set when nobody waits any more: the reply then ends where it is.
    """

    plan: Callable[[Voice, int], Plan]
    voice: Place
    adapter: Place | None
    opening: Key
    key: Key
    seed: str
    temperature: float
    top_p: float
    max_tokens: int
    batch_size: int
    passed_over: int = 0
    abandoned: bool = False


class Generated(NamedTuple):
    """A reply with its counts: tokens of the prompt, those of them that were computed, and of the reply."""

    text: str
    prompt_tokens: int
    computed_tokens: int
    completion_tokens: int
    cut_turns: int


@dataclass(eq=False)
class _Row:
    """A reply in the making."""

    number: int
    request: Request
    voice: Voice
    prompt: list[int]
    cut_turns: int
    limit: int
    found: int = 0
    """Tokens of the prompt that need not be computed."""
    leader: _Row | None = None
    """The row that computes them first, if they are not kept."""
    made: list[int] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self.draws = random.Random(self.request.seed)
        adapter = self.request.adapter or ("", "")
        self.key, self.opening = (*adapter, *self.request.key), (*adapter, *self.request.opening)

    @property
    def missing(self) -> int:
        return len(self.prompt) - self.found

    def take(self, token: int) -> bool:
        """Add a token, or end at it; says whether it has ended now."""
        if self.ended:
            return False
        if token in self.voice.stops or self.request.abandoned:
            self.ended = True
        else:
            self.made.append(token)
            self.ended = len(self.made) >= self.limit or self.voice.is_complete(self.made)
        return self.ended

    def result(self) -> Generated:
        text = self.voice.text(self.made)
        return Generated(text, len(self.prompt), self.missing, len(self.made), self.cut_turns)


def _drawn(rows: Sequence[_Row], logits: Tensor) -> list[int]:
    return choose(
        logits,
        [row.draws.random() for row in rows],
        [row.request.temperature for row in rows],
        [row.request.top_p for row in rows],
    )


class Engine:
    """A base model, its adapters and what is kept of conversations. Made by `engine_for`.

    A wave begins when the event loop has gone round a few times without another request, which is when every
    episode that can move has asked. Generation runs on one thread of the engine's own.

    Attributes:
        model: The base, or `None` before it is loaded.
        keeps: Whether prefixes are kept; False for models whose cache is not plain.
        store: What is kept.
    """

    def __init__(self, source: str, *, dtype: str | None, device: str | None, quantize: str | None) -> None:
        self.source = source
        self._dtype, self._device, self._quantize = dtype, device, quantize
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sotopia-env-hf")
        self._waiting: list[tuple[Request, asyncio.Future[Generated]]] = []
        self._gathering: asyncio.Task[None] | None = None
        self._voices: dict[Place, Voice] = {}
        self._adapters: dict[Place, str] = {}
        self._numbers = itertools.count()
        self._peft: Any = None
        self._shapes: list[LayerShape] = []
        self.model: Any = None
        self.keeps = True
        self.store = Store(0)

    # --- asking, on the event loop ----------------------------------------------------------------

    async def submit(self, request: Request) -> Generated:
        """Wait for a reply.

        Raises:
            ConfigurationError: If model, adapter or tokenizer cannot be loaded.
            ModelError: If the prompt does not fit, or generation failed.
        """
        if asyncio.get_running_loop() is not aio.loop():
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.submit(request), aio.loop()))
        future: asyncio.Future[Generated] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather())
        try:
            return await future
        except asyncio.CancelledError:
            request.abandoned = True
            raise

    async def _gather(self) -> None:
        while self._waiting:
            await self._quiet()
            batch = self._next_batch()
            if not batch:
                continue
            requests = [request for request, _ in batch]
            try:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, requests)
            except Exception as error:  # the thread is gone: the program ends
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    async def _quiet(self) -> None:
        calm = 0
        while calm < _QUIET_CYCLES:
            count = len(self._waiting)
            await asyncio.sleep(0)
            calm = calm + 1 if len(self._waiting) == count else 0

    def _next_batch(self) -> list[tuple[Request, asyncio.Future[Generated]]]:
        """The largest group of one adapter, unless another was passed over some times."""
        self._waiting = [item for item in self._waiting if not item[1].done()]
        if not self._waiting:
            return []
        votes: Counter[Place | None] = Counter()
        for request, _ in self._waiting:
            votes[request.adapter] += 1 if request.passed_over < _PASSED_OVER else len(self._waiting)
        adapter = votes.most_common(1)[0][0]
        group = [item for item in self._waiting if item[0].adapter == adapter]
        batch = group[: min(request.batch_size for request, _ in group)]
        taken = {id(request) for request, _ in batch}
        self._waiting = [item for item in self._waiting if id(item[0]) not in taken]
        for request, _ in self._waiting:
            request.passed_over += 1
        return sorted(batch, key=lambda item: (item[0].key, item[0].seed))

    # --- from elsewhere ---------------------------------------------------------------------------

    def load_now(self, voice: Place, adapter: Place | None) -> None:
        """Load what is not loaded yet, and wait for it."""
        self._thread.submit(self._load, voice, adapter).result()

    def voice(self, home: Place) -> Voice:
        """A tokenizer that was loaded."""
        return self._voices[home]

    def forget(self) -> None:
        """Drop all that is kept of conversations."""
        self._thread.submit(self.store.clear).result()

    # --- loading, on the engine's thread ----------------------------------------------------------

    def _load(self, voice: Place, adapter: Place | None) -> None:
        if self.model is None:
            with _without_bars():
                self._load_model()
        if adapter is not None and adapter not in self._adapters:
            with _without_bars():
                self._load_adapter(adapter)
        if voice not in self._voices:
            self._voices = {place: known for place, known in self._voices.items() if place.path != voice.path}
            self._voices[voice] = Voice(voice.path, self._ends)

    def _load_model(self) -> None:
        keep_freed_memory()
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = getattr(torch, self._dtype) if self._dtype else torch.bfloat16 if "cuda" in device else torch.float32
        options: dict[str, Any] = {"dtype": dtype}
        if self._quantize is not None:
            options |= {"quantization_config": _four_bits(dtype), "device_map": {"": device}}
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(self.source, **options)
            if self._quantize is None:
                model.to(device)
        except Exception as error:  # OSError, ValueError, SafetensorError, RuntimeError, ...: it is not for us to say
            raise ConfigurationError(f"The model {self.source!r} cannot be loaded: {one_line(error)}.") from error
        model.eval().requires_grad_(False)
        ends = getattr(model.generation_config, "eos_token_id", None)
        self._ends: list[int] = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        # Its penalties and cuts are not what was asked for.
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        self._is_exact = dtype == torch.float32 and self._quantize is None
        self._place = next(model.parameters()).device
        self._cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        self._longest = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or 1 << 30
        self._chunk = _CHUNK.get(self._place.type, _CHUNK["cpu"])
        self.model = model
        problem = self._why_not_kept()
        self.keeps = problem is None
        if problem is not None:
            _logger.warning("%s generates without kept prefixes: %s.", self.source, problem)
        part = _spare_bytes(self._place) // (3 * sharers())
        self.store, self._most_bytes = Store(part), part

    def _load_adapter(self, place: Place) -> None:
        adapter = place.path
        if importlib.util.find_spec("peft") is None:
            raise MissingExtraError(
                f"The adapter {adapter!r} needs peft, which is not installed. Install it: "
                "pip install 'sotopia-env[train]'."
            )
        if Place.of(adapter) != place:
            raise ConfigurationError(
                f"The adapter {adapter!r} holds other weights by now than when this agent was made. Make the agent "
                "again, or keep every version in a folder of its own."
            )
        from peft import PeftModel

        name = f"adapter_{next(self._numbers)}"
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self.model, adapter, adapter_name=name)
            loaded = self._peft.load_adapter(adapter, adapter_name=name)
            if lost := [*loaded.missing_keys, *loaded.unexpected_keys]:
                raise ValueError(f"{len(lost)} weights have no counterpart, such as {lost[0]}")
        except Exception as error:  # as with models
            self._unload()  # a part of it may be in the base by now
            raise ConfigurationError(
                f"The adapter {adapter!r} does not fit {self.source!r}: {one_line(error)}."
            ) from error
        for old in [known for known in self._adapters if known.path == adapter]:  # which was written anew since
            self._peft.set_adapter(name)
            self._peft.delete_adapter(self._adapters.pop(old))
            self.store.clear()
        self.model.eval().requires_grad_(False)
        self._adapters[place] = name

    def _unload(self) -> None:
        self.model = self._peft = None
        self._adapters.clear()
        self.store.clear()

    @contextlib.contextmanager
    def with_adapter(self, adapter: Place | None) -> Iterator[None]:
        """Compute with a loaded adapter, or with the base alone."""
        if self._peft is None:
            yield
        elif adapter is None:
            with self._peft.disable_adapter():
                yield
        else:
            self._peft.set_adapter(self._adapters[adapter])
            yield

    def _why_not_kept(self) -> str | None:
        """Why prefixes cannot be kept for this model, or `None`: by its kind of cache, and by trying."""
        accepted = inspect.signature(self.model.forward).parameters
        if not {"position_ids", self._cache_name, "logits_to_keep"} <= accepted.keys():
            return "its forward takes no position ids, cache or logits_to_keep"
        if getattr(self.model, "_is_stateful", False) or self.model.config.is_encoder_decoder:
            return "it has a state of another kind"
        kinds = {type(layer).__name__ for layer in DynamicCache(config=self.model.config).layers}
        if kinds != {"DynamicLayer"}:
            return f"its cache has layers of type {', '.join(sorted(kinds)) or 'none'}"
        try:
            return self._try_rows()
        except Exception as error:  # whatever a model raises that is built otherwise
            return f"a trial failed ({one_line(error)})"

    @torch.inference_mode()
    def _try_rows(self) -> str | None:
        """Compute two rows of different length in one wave, in three steps, and compare them with whole forwards.

        In half precision such logits differ by a few percent anyway: as much as with transformers' own cache.
        """
        draw = random.Random(0)
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        rows = [[draw.randrange(vocabulary) for _ in range(size)] for size in (9, 6)]
        whole, stepped = [], []
        for ids in rows:
            whole.append(self._logits(ids, DynamicCache(config=self.model.config)))
            cache = DynamicCache(config=self.model.config)
            stepped.append([self._logits(part, cache) for part in (ids[:-2], ids[-2:-1], ids[-1:])][-1])
        self._shapes = [
            LayerShape(keys.dtype, keys.shape[1], keys.shape[3], values.shape[3]) for keys, values, _ in cache
        ]
        wave = Wave(self._shapes, 2, 12, self._place)
        for number in range(2):
            wave.fill(number, None, 0)
        self._forward(wave, slice(0, 2), [ids[:-2] for ids in rows], [0, 0])
        self._forward(wave, slice(0, 2), [ids[-2:-1] for ids in rows], [7, 4])
        mine = self._forward(wave, slice(0, 2), [ids[-1:] for ids in rows], [8, 5])
        allowed = 1e-3 if self._is_exact else min(0.25, 3 * max(map(_difference, stepped, whole)) + 0.01)
        worst = max(map(_difference, mine, whole))
        return None if worst <= allowed else f"logits differ by {worst:.2g} from those of a whole forward"

    def _logits(self, ids: Sequence[int], cache: DynamicCache) -> Tensor:
        """The last logits of a plain forward."""
        inputs = torch.tensor([ids], device=self._place)
        logits: Tensor = self.model(inputs, use_cache=True, **{self._cache_name: cache}).logits[0, -1]
        return logits

    # --- answering, on the engine's thread --------------------------------------------------------

    def _answer(self, requests: Sequence[Request]) -> list[Generated | Exception]:
        """Answer a group of requests for one adapter; a failure of one is not the others'."""
        answers: list[Generated | Exception] = [ModelError("Not generated.")] * len(requests)
        rows: list[_Row] = []
        for number, request in enumerate(requests):
            try:
                self._load(request.voice, request.adapter)
                rows.append(self._row(number, request))
            except Exception as error:
                answers[number] = error
        if not rows:
            return answers
        if len(rows) > 1 and self._bytes(rows) > self._most_bytes:
            return self._answer_in_halves(requests)
        try:
            with self.with_adapter(requests[0].adapter), torch.inference_mode():
                (self._generate if self.keeps else self._generate_afresh)(rows)
        except torch.OutOfMemoryError as error:
            return self._answer_by_halves(requests, error)
        except Exception as error:
            for row in rows:
                answers[row.number] = self._failure(error)
            return answers
        for row in rows:
            answers[row.number] = row.result()
        return answers

    def _answer_by_halves(self, requests: Sequence[Request], error: Exception) -> list[Generated | Exception]:
        self.store.clear()
        torch.cuda.empty_cache()
        if len(requests) == 1:
            return [self._failure(error)]
        return self._answer_in_halves(requests)

    def _answer_in_halves(self, requests: Sequence[Request]) -> list[Generated | Exception]:
        half = len(requests) // 2
        return [*self._answer(requests[:half]), *self._answer(requests[half:])]

    def _bytes(self, rows: Sequence[_Row]) -> int:
        """What a wave of these rows may come to. Linux has no error for too much of it, but kills the process."""
        return self._bytes_of(len(rows), max(len(row.prompt) + row.limit for row in rows) + _ROOM)

    def _bytes_of(self, rows: int, columns: int) -> int:
        token = sum(each.heads * (each.key_size + each.value_size) * each.dtype.itemsize for each in self._shapes)
        return token * rows * columns

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, SotopiaEnvError):
            return error
        failure = ModelError(f"Model {self.source!r} failed while it generated: {one_line(error)}.")
        failure.__cause__ = error
        return failure

    def _row(self, number: int, request: Request) -> _Row:
        voice = self._voices[request.voice]
        limit = min(request.max_tokens, self._longest - 1)
        ids, cut = request.plan(voice, self._longest - limit)
        return _Row(number, request, voice, ids, cut, limit)

    def _generate(self, rows: list[_Row]) -> None:
        self.store.next_wave()
        kept = {row: self._find(row) for row in rows}
        self._share_openings(rows)
        rows = sorted(rows, key=lambda row: (row.leader is not None, row.missing))
        longest = max(len(row.prompt) for row in rows)
        wave = Wave(self._shapes, len(rows), longest + _ROOM, self._place)
        firsts = [row for row in rows if row.leader is None]
        for number, row in enumerate(firsts):
            wave.fill(number, kept[row], row.found)
        logits = self._prefill(wave, firsts, 0)
        for number, row in enumerate(rows[len(firsts) :], len(firsts)):
            assert row.leader is not None
            wave.repeat(number, firsts.index(row.leader), row.found)
        logits += self._prefill(wave, rows[len(firsts) :], len(firsts))
        self._decode(wave, rows, torch.cat(logits))

    def _find(self, row: _Row) -> Kept | None:
        """What is kept of a row's conversation; sets how much of the prompt it covers."""
        kept, found = self.store.find(row.key, row.opening, row.prompt)
        row.found = min(found, len(row.prompt) - 1)  # the last token is computed in any case, for its logits
        return kept

    @staticmethod
    def _share_openings(rows: Sequence[_Row]) -> None:
        """Let rows that open alike wait for one of them."""
        leaders: dict[Key, _Row] = {}
        for row in rows:
            leader = leaders.setdefault(row.opening, row)
            if leader is row:
                continue
            alike = min(common(np.asarray(leader.prompt), np.asarray(row.prompt)), len(row.prompt) - 1)
            if alike - row.found >= _WORTH_SHARING:
                row.leader, row.found = leader, alike

    def _prefill(self, wave: Wave, rows: Sequence[_Row], first: int) -> list[Tensor]:
        """Compute what is new of every prompt; rows with about as much to compute go together."""
        logits = []
        for chunk in chunks([row.missing for row in rows], self._chunk):
            group = rows[chunk]
            place = slice(first + chunk.start, first + chunk.stop)
            new = [row.prompt[row.found :] for row in group]
            logits.append(self._forward(wave, place, new, [row.found for row in group]))
        return logits

    def _decode(self, wave: Wave, rows: list[_Row], logits: Tensor) -> None:
        while True:
            for number, (row, token) in enumerate(zip(rows, _drawn(rows, logits), strict=True)):
                if row.take(token):
                    self._keep(wave, number, row)
            going = [number for number, row in enumerate(rows) if not row.ended]
            if not going:
                return
            ends = [0 if row.ended else len(row.prompt) + len(row.made) - 1 for row in rows]
            if len(going) <= 0.6 * len(rows):  # copying pays off after two tokens or three
                wave.select(going, max(ends) + 1 + _ROOM)
                rows, ends = [rows[number] for number in going], [ends[number] for number in going]
            if max(ends) + 2 > wave.columns:
                wave.grow(wave.columns + _ROOM)
            new = [row.made[-1:] or [0] for row in rows]
            logits = self._forward(wave, slice(0, len(rows)), new, ends, [row.ended for row in rows])

    def _keep(self, wave: Wave, number: int, row: _Row) -> None:
        ids = [*row.prompt, *row.made]
        if row.made:
            ids.pop()  # the last token was drawn, but not computed
        old = self.store.take(row.key)
        self.store.put(row.key, row.opening, wave.keep(number, ids, old))

    def _forward(
        self, wave: Wave, rows: slice, new: Sequence[Sequence[int]], found: Sequence[int], idle: Sequence[bool] = ()
    ) -> Tensor:
        """The logits behind the last of every row's new tokens, whose keys and values go into the wave.

        Rows are filled up from the left; what fills, and what idle rows compute, goes to the last column, where
        nobody looks.
        """
        width = max(map(len, new))
        ids = np.zeros((len(new), width), dtype=np.int64)
        positions = np.zeros_like(ids)
        columns = np.full_like(ids, wave.columns - 1)
        for number, (tokens, start) in enumerate(zip(new, found, strict=True)):
            if idle and idle[number]:
                continue
            first = width - len(tokens)
            ids[number, first:] = tokens
            positions[number, first:] = columns[number, first:] = range(start, start + len(tokens))
        length = int(positions.max()) + 1
        places = torch.from_numpy(positions).to(self._place)
        seen = torch.arange(length, device=self._place) <= places[:, None, :, None]  # (rows, 1, tokens, columns)
        mask: Tensor = seen
        if getattr(self.model.config, "_attn_implementation", None) != "sdpa":  # the others add it to the scores
            least = torch.finfo(self._shapes[0].dtype).min
            mask = torch.zeros(seen.shape, dtype=self._shapes[0].dtype, device=self._place).masked_fill_(~seen, least)
        out = self.model(
            torch.from_numpy(ids).to(self._place),
            attention_mask=mask,
            position_ids=places,
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_name: wave.cache(rows, torch.from_numpy(columns).to(self._place), length)},
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def _generate_afresh(self, rows: list[_Row]) -> None:
        """Generate without anything kept, for models of every kind."""
        from transformers import LogitsProcessorList, StoppingCriteriaList

        width = max(len(row.prompt) for row in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, width - len(row.prompt) :] = torch.tensor(row.prompt)
            mask[number, width - len(row.prompt) :] = 1

        def draw(_: Any, scores: Tensor) -> Tensor:
            tokens = _drawn(rows, scores)
            for row, token in zip(rows, tokens, strict=True):
                row.take(token)
            forced = torch.full_like(scores, -torch.inf)
            forced[range(len(rows)), tokens] = 0.0
            return forced

        def ended(ids: Tensor, *_: Any, **__: Any) -> Tensor:
            return torch.tensor([row.ended for row in rows], device=ids.device)

        self.model.generate(
            ids.to(self._place),
            attention_mask=mask.to(self._place),
            do_sample=False,
            max_new_tokens=max(row.limit for row in rows),
            pad_token_id=0,
            eos_token_id=None,
            logits_processor=LogitsProcessorList([draw]),
            stopping_criteria=StoppingCriteriaList([ended]),
        )


def _difference(first: Tensor, second: Tensor) -> float:
    """How far two vectors are apart, as a share of the second's length."""
    return float((first.float() - second.float()).norm() / second.float().norm())


def _four_bits(dtype: torch.dtype) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            "quantize=nf4 needs bitsandbytes, which is not installed. Install it: pip install bitsandbytes."
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def _spare_bytes(device: torch.device) -> int:
    """Free memory where the model is; a guess where it cannot be asked for."""
    try:
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0])
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError, RuntimeError):
        return 6 << 30


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


# --- one engine for the same weights --------------------------------------------------------------

_engines: weakref.WeakValueDictionary[tuple[Any, ...], Engine] = weakref.WeakValueDictionary()
_recent: deque[Engine] = deque(maxlen=2)
_making = threading.Lock()


def engine_for(model: str, content: str, *, dtype: str | None, device: str | None, quantize: str | None) -> Engine:
    """This process's engine for some weights, shared by all agents that use them.

    It lives as long as an agent holds it; the last two live on without one.
    """
    key = (os.getpid(), model, content, dtype, device, quantize)  # a forked child needs one of its own
    with _making:
        engine = _engines.get(key)
        if engine is None:
            engine = _engines[key] = Engine(model, dtype=dtype, device=device, quantize=quantize)
        if engine in _recent:
            _recent.remove(engine)
        _recent.append(engine)
        return engine


def release() -> None:
    """Let go of the engines that no agent holds, for example before training on the same device."""
    with _making:
        _recent.clear()
