"""From trajectories to training rows: token ids, and a mask with 1 on every token that carries loss.

A row shows exactly what its agent saw when acting: the episode's events are played into a
`Conversation` again and that agent's view is rendered by `sotopia_env.chat`, never the Episode's
seats. Targets are the learner's own replies, each with the end-of-turn token at which generation
stops; headers, the other speakers and the line break after a reply are not.

    form            one row per     shows
    "conversation"  trajectory      the whole conversation, loss on every own turn
    "prefix"        own turn        the exact token prefix of the conversation row, loss on that turn
    "paper"         own turn        the history as one user message (arXiv 2403.08715, B.3), loss on that turn

The tokenizer's chat template decides the text around messages. For every own turn the ids of
`apply_chat_template(messages_before, add_generation_prompt=True)` must be the row's beginning; a
template that rewrites its history (one that strips earlier reasoning, for example) is refused by name.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from sotopia_env import chat
from sotopia_env.agents.hf import shortened
from sotopia_env.conversation import Observation, conversation_of
from sotopia_env.errors import ConfigurationError, unknown

if TYPE_CHECKING:
    from sotopia_env.episodes import Event
    from sotopia_env.trainers.filters import Trajectory

FORMS = ("conversation", "prefix", "paper")

_BATCH = 128
"""Trajectories whose texts are tokenized in one call, which tokenizers spread over threads."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MARKERS = re.compile("[\U000f0000-\U0010ffff]")
"""Characters that transformers marks control tokens inside messages with, and takes out of them."""


@dataclass(frozen=True)
class Row:
    """One training example.

    Attributes:
        input_ids: Token ids, the chat template's own tokens included.
        target_mask: As long as `input_ids`: 1 on tokens with loss, 0 elsewhere.
        episode: The id of the episode it comes from.
        agent: Whose trajectory it is, such as "agent_0".
        turns: The numbers of the turns whose replies are targets.
        cut_turns: How many of the agent's oldest turns are left out so that the row fits.
    """

    input_ids: list[int]
    target_mask: list[int]
    episode: str
    agent: str
    turns: tuple[int, ...]
    cut_turns: int = 0


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Training rows in the order of their trajectories, and the count of what is not among them.

    Attributes:
        rows: The rows.
        form: "conversation", "prefix" or "paper".
        trajectories: How many trajectories were given.
        dropped: Number of rows that were not made, by reason: "no own turn", "no target", "too long".
        masked: Number of own turns that are shown but carry no loss, by reason: "parse failure", "none".
    """

    rows: tuple[Row, ...]
    form: str = "conversation"
    trajectories: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @cached_property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.input_ids) for row in self.rows)

    @cached_property
    def target_tokens(self) -> int:
        """Tokens with loss in all rows."""
        return sum(sum(row.target_mask) for row in self.rows)

    @cached_property
    def cut_turns(self) -> int:
        """Own turns left out of rows because they would not have fitted."""
        return sum(row.cut_turns for row in self.rows)

    @cached_property
    def digest(self) -> str:
        """A hash of every token and every mask, in order."""
        found = hashlib.sha256()
        for row in self.rows:
            found.update(repr((row.input_ids, row.target_mask)).encode())
        return found.hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {
            "form": self.form,
            "trajectories": self.trajectories,
            "rows": len(self.rows),
            "tokens": self.tokens,
            "target_tokens": self.target_tokens,
            "cut_turns": self.cut_turns,
            "cut_rows": sum(1 for row in self.rows if row.cut_turns),
            "dropped": dict(self.dropped),
            "masked": dict(self.masked),
            "digest": self.digest,
        }


def rows(
    trajectories: Iterable[Trajectory],
    tokenizer: Any,
    *,
    form: str = "conversation",
    max_length: int = 4096,
    keep_none: bool = True,
) -> Rows:
    """Make the training rows of trajectories.

    Moves that stand for a reply that could not be read are shown, for they happened, but are never
    targets.

    Args:
        trajectories: Pairs of an episode and an agent id.
        tokenizer: A transformers tokenizer with a chat template.
        form: "conversation", "prefix" or "paper"; see this module's docstring.
        max_length: Most tokens a row may have. Of a longer one the oldest turns are left out, a
            user message with its reply at a time; never the background with the goal, nor the newest turn.
        keep_none: False to give `none` moves no loss, as SOTOPIA-pi's released code drops them
            (its paper does not).

    Returns:
        The rows, with the counts of what was left out. They can be empty.

    Raises:
        ConfigurationError: If the tokenizer has no chat template, or one that a row cannot follow.
    """
    if form not in FORMS:
        raise ConfigurationError(unknown("form of rows", form, FORMS))
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
        raise ConfigurationError(f"max_length is {max_length!r}, but must be a whole number of 1 or more.")
    maker = _Maker(Template(tokenizer), form, max_length, keep_none)
    made: list[Row] = []
    waiting = iter(trajectories)
    count = 0
    while batch := [_Part.of(trajectory) for trajectory in islice(waiting, _BATCH)]:
        count += len(batch)
        made += maker.rows(batch)
    return Rows(tuple(made), form, count, dict(maker.dropped), dict(maker.masked))


def has_target(trajectory: Trajectory, *, keep_none: bool = True) -> bool:
    """Whether there is a move of the agent's own to learn from, so that it gives a row unless that is too long."""
    episode, agent = trajectory.episode, trajectory.agent
    return any(event.speaker == agent and _masked(event, keep_none) is None for event in episode.events)


def _masked(event: Event, keep_none: bool) -> str | None:
    """Why an own move is shown but not learned from; `None` if it is."""
    if event.parse_failure:
        return "parse failure"
    return "none" if event.action_type == "none" and not keep_none else None


# --- one agent's part of an episode ---------------------------------------------------------------


class _Part(NamedTuple):
    """A trajectory with what its agent saw in the end, and its own moves in order."""

    episode: str
    agent: str
    view: Observation
    own: tuple[Event, ...]

    @classmethod
    def of(cls, trajectory: Trajectory) -> _Part:
        episode, agent = trajectory.episode, trajectory.agent
        if agent not in episode.agents:
            raise ConfigurationError(f"Episode {episode.id!r} has no agent {agent!r}. It has {sorted(episode.agents)}.")
        conversation = conversation_of(episode)
        own = tuple(event for event in conversation.events if event.speaker == agent)
        return cls(episode.id, agent, conversation.view(agent), own)

    def messages(self, last: int, cut: int, *, system_role: bool) -> list[chat.Message]:
        """The chat up to and with the reply of own turn number `last`, without the first `cut` own turns."""
        messages = chat.render(shortened(self.view, cut), system_role=system_role)
        return messages[: 2 * (last + 1 - cut) + system_role]

    def flat(self, number: int, cut: int) -> list[chat.Message]:
        """Own turn `number` after its whole history in one message, without the first `cut` own turns."""
        event = self.own[number]
        seen = tuple(each for each in shortened(self.view, cut)["transcript"] if each[0] < event.turn)
        shown = chat.render_flat({**self.view, "transcript": seen, "turn": event.turn})
        return [*shown, {"role": "assistant", "content": chat.canonical(event.action_type, event.argument)}]


# --- the chat template ----------------------------------------------------------------------------


class _Ids(NamedTuple):
    """A tokenized chat that ends with a reply."""

    ids: list[int]
    spans: list[tuple[int, int]]
    """Of every reply with its end-of-turn token, or of the last one alone."""
    marks: list[int] | None
    """1 on what the template's own generation markers enclose, if it has any."""


class _Seam(NamedTuple):
    """What a template writes around the messages after the first: `lead` reply `left` user message `right`."""

    lead: str
    left: str
    right: str


class Template:
    """A tokenizer's chat template, and what has to be known of it to place the loss.

    Attributes:
        system_role: Whether it takes a system message and leaves it where it is.
        marks: Whether it has generation markers, which enclose what an assistant writes.
        stop: The text from a reply's end to the token at which generation stops, that token included.

    Raises:
        ConfigurationError: If the tokenizer has none, or one that closes no reply with a special token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigurationError(
                f"The tokenizer of {self.name!r} has no chat template, so there is no text to train on. Use an "
                "instruction-tuned model, or set tokenizer.chat_template."
            )
        self.marks = bool(_GENERATION.search(tokenizer.get_chat_template()))
        self.system_role = supports_system_role(tokenizer)
        self._control = _any_of(_control_tokens(tokenizer))
        self._sanitizes = "sanitize_control_tokens" in inspect.signature(tokenizer.apply_chat_template).parameters
        self.stop, self._lead = self._ending()
        self._stop_id = tokenizer.convert_tokens_to_ids(self.stop.lstrip())
        self._seam = self._learn_seam()
        self._heads: dict[str, list[int]] = {}

    def encode(self, chats: Sequence[list[chat.Message]], *, every: bool) -> list[_Ids]:
        """Tokenize chats that end with a reply.

        Args:
            chats: The chats.
            every: Whether the spans of all replies are wanted; else the last one's alone.

        Raises:
            ConfigurationError: If the prompt of a wanted reply is not the beginning of the whole, in tokens.
        """
        if not chats:
            return []
        laid = [self._lay_out(messages, every) for messages in chats]
        texts = [each[0] for each in laid if each is not None]
        batch = self.tokenizer(texts, add_special_tokens=False) if texts else None
        found, place = [], 0
        for messages, each in zip(chats, laid, strict=True):
            ids = None
            if each is not None:
                ids = self._aligned(*each, batch, place)
                place += 1
            found.append(ids or self._one_by_one(messages, every))
        return self._marked(chats, found) if self.marks else found

    # Two ways to the same ids. The quick one tokenizes the whole once and knows from the seam where replies
    # begin; whatever does not look exactly as expected goes the slow way, which tokenizes every prompt.

    def _lay_out(self, messages: list[chat.Message], every: bool) -> tuple[str, list[tuple[int, int]]] | None:
        """The text with the character spans of its replies, if it is put together as the seam says."""
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        if any(self._control.search(m["content"]) or _MARKERS.search(m["content"]) for m in messages):
            return None
        prompt = self._text(messages[:-1])
        reply = self._lead + messages[-1]["content"] + self.stop
        spans = [(len(prompt), len(prompt) + len(reply))]
        if every:
            if self._seam is None:
                return None
            first = next(number for number, message in enumerate(messages) if message["role"] == "assistant")
            text = self._text(messages[:first])
            spans = []
            for said, heard in zip(messages[first:-1:2], messages[first + 1 :: 2], strict=False):
                start = len(text)
                text += self._seam.lead + said["content"]
                spans.append((start, len(text) + len(self.stop)))
                text += self._seam.left + heard["content"] + self._seam.right
            if text != prompt:
                return None
            spans.append((len(prompt), len(prompt) + len(reply)))
        return prompt + reply, spans

    def _aligned(self, text: str, spans: list[tuple[int, int]], batch: Any, place: int) -> _Ids | None:
        ids: list[int] = list(batch["input_ids"][place])
        found = []
        for start, end in spans:
            first = self._tokens_before(text, start, ids, batch, place)
            stop = batch.char_to_token(place, end - 1)
            if first is None or stop is None or ids[stop] != self._stop_id:
                return None
            found.append((first, stop + 1))
        return _Ids(ids, found, None)

    def _tokens_before(self, text: str, end: int, ids: list[int], batch: Any, place: int) -> int | None:
        """How many tokens the prompt `text[:end]` has by itself, if they are the first of `ids`.

        What stands left of a special token never changes how the rest is tokenized, so that only the end
        of the prompt, from its last special token on, has to be compared.
        """
        specials = list(self._control.finditer(text, max(0, end - 200), end))
        if not specials:
            return None
        begin = specials[-1].start()
        head = text[begin:end]
        if head not in self._heads:
            if len(self._heads) > 1000:  # templates without a special token before a reply have many heads
                self._heads.clear()
            self._heads[head] = list(self.tokenizer(head, add_special_tokens=False)["input_ids"])
        wanted = self._heads[head]
        first = batch.char_to_token(place, begin)
        if first is None or ids[first : first + len(wanted)] != wanted:
            return None
        return int(first) + len(wanted)

    def _one_by_one(self, messages: list[chat.Message], every: bool) -> _Ids:
        prompt = self._prompt_ids(messages[:-1])
        ids = prompt + self._reply_ids(messages, prompt)
        replies = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        spans: list[tuple[int, int]] = []
        for place in replies if every else replies[-1:]:
            before = prompt if place == len(messages) - 1 else self._prompt_ids(messages[:place])
            if ids[: len(before)] != before:
                raise ConfigurationError(
                    f"With the chat template of {self.name!r} a conversation does not begin with the tokens of its "
                    f"earlier prompts (that of reply {len(spans) + 1} of {len(replies)}): it rewrites its history, or "
                    "joins a prompt's end with the reply. Use form='prefix', which makes one row per turn, or a "
                    "template that keeps what was said as it was."
                )
            spans.append((len(before), ids.index(self._stop_id, len(before)) + 1))
        return _Ids(ids, spans, None)

    def _prompt_ids(self, messages: list[chat.Message]) -> list[int]:
        return self._apply(messages, prompt=True)

    def _apply(self, messages: list[chat.Message], *, prompt: bool) -> list[int]:
        """A chat's ids as an hf agent asks for them: control tokens inside messages are read as text."""
        options = {"sanitize_control_tokens": True} if self._sanitizes else {}
        made = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=prompt, tokenize=True, return_dict=True, **options
        )
        return list(made["input_ids"])

    def _reply_ids(self, messages: list[chat.Message], prompt: list[int]) -> list[int]:
        """The ids of the last reply up to and with its end-of-turn token."""
        text = self._lead + messages[-1]["content"]
        shown = self._text(messages[:-1]) + text + self.stop
        if self._text(messages, prompt=False).startswith(shown):
            ids = self._apply(messages, prompt=False)
            if ids[: len(prompt)] == prompt:
                return ids[len(prompt) : ids.index(self._stop_id, len(prompt)) + 1]
        said: list[int] = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return [*said, *self.tokenizer.encode(self.stop, add_special_tokens=False)]

    def _marked(self, chats: Sequence[list[chat.Message]], found: list[_Ids]) -> list[_Ids]:
        out = self.tokenizer.apply_chat_template(list(chats), return_dict=True, return_assistant_tokens_mask=True)
        made = []
        for each, ids, marks in zip(found, out["input_ids"], out["assistant_masks"], strict=True):
            # Where the template shows a finished chat otherwise than when acting, its markers say nothing here.
            same = list(ids[: len(each.ids)]) == each.ids
            made.append(each._replace(marks=list(marks[: len(each.ids)])) if same else each)
        return made

    # What the template does, learned from what it makes of a few words.

    def _text(self, messages: list[chat.Message], *, prompt: bool = True) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))

    def _opening(self) -> list[chat.Message]:
        system = [{"role": "system", "content": "sotopia-env-rules"}] if self.system_role else []
        return [*system, {"role": "user", "content": "sotopia-env-first"}]

    def _ending(self) -> tuple[str, str]:
        """What follows a reply up to and with the token at which generation stops, and the space before a reply."""
        reply = chat.canonical("speak", "sotopia-env-reply")
        text = self._text([*self._opening(), {"role": "assistant", "content": reply}], prompt=False)
        before, _, rest = text.rpartition(reply)
        found = self._control.search(rest)
        if found is None or rest[: found.start()].strip():
            raise ConfigurationError(
                f"The chat template of {self.name!r} closes a reply with {rest!r}, which holds no special token at "
                "which generation stops, so a trained model would never stop. Use a template that ends every reply "
                "with one."
            )
        prompt = self._text(self._opening())
        lead = before[len(prompt) :] if before.startswith(prompt) else ""
        return rest[: found.end()], lead if not lead.strip() else ""

    def _learn_seam(self) -> _Seam | None:
        said = [chat.canonical("speak", "sotopia-env-reply"), chat.canonical("none", "")]
        heard = ["sotopia-env-second", "sotopia-env-third"]
        talk, prompts = self._opening(), [self._text(self._opening())]
        for reply, answer in zip(said, heard, strict=True):
            talk += [{"role": "assistant", "content": reply}, {"role": "user", "content": answer}]
            prompts.append(self._text(talk))
        lead, own, rest = prompts[1].removeprefix(prompts[0]).partition(said[0])
        left, other, right = rest.partition(heard[0])
        if not prompts[1].startswith(prompts[0]) or not own or not other or lead != self._lead:
            return None
        seam = _Seam(lead, left, right)
        if not left.startswith(self.stop) or prompts[2] != prompts[1] + lead + said[1] + left + heard[1] + right:
            return None
        return seam


def _control_tokens(tokenizer: Any) -> set[str]:
    """The tokens that messages must not forge: special ones, and added ones that the template writes."""
    template = tokenizer.get_chat_template()
    added = [(str(token.content), bool(token.special)) for token in tokenizer.added_tokens_decoder.values()]
    return {content for content, special in added if content.strip() and (special or content in template)}


def _any_of(texts: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def supports_system_role(tokenizer: Any) -> bool:
    """Say whether a chat template takes a system message and leaves it where it is.

    Some refuse it, some leave it out, and some move it to the newest message, so that no prompt begins
    with an earlier one; without it, the text stands in front of the first user message.
    """
    talk = [
        {"role": "system", "content": "sotopia-env-rules"},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": "z"},
    ]
    try:
        texts = [str(tokenizer.apply_chat_template(talk[:n], tokenize=False)) for n in (2, 4)]
    except Exception:  # jinja2's errors, and whatever else a template raises
        return False
    return all("sotopia-env-rules" in text.partition("x")[0] for text in texts)


# --- rows -----------------------------------------------------------------------------------------


class _Maker:
    """Makes the rows of one call of `rows`, and counts what it leaves out."""

    def __init__(self, template: Template, form: str, max_length: int, keep_none: bool) -> None:
        self.template = template
        self.form = form
        self.max_length = max_length
        self.keep_none = keep_none
        self.dropped: Counter[str] = Counter()
        self.masked: Counter[str] = Counter()

    def rows(self, parts: Sequence[_Part]) -> list[Row]:
        """The rows of some trajectories, in order."""
        wanted = [(part, targets) for part in parts if (targets := self._targets(part))]
        if self.form != "conversation":
            single = self._prefixes(wanted) if self.form == "prefix" else None
            return single if single is not None else self._turns(wanted)
        chats = [self._chat(part, targets[-1], 0) for part, targets in wanted]
        encoded = self.template.encode(chats, every=True)
        made = (self._whole(*each, ids) for each, ids in zip(wanted, encoded, strict=True))
        return [row for row in made if row is not None]

    def _targets(self, part: _Part) -> list[int]:
        """The numbers of the own moves that are learned from."""
        found = []
        for number, event in enumerate(part.own):
            if reason := _masked(event, self.keep_none):
                self.masked[reason] += 1
            else:
                found.append(number)
        if not found:
            self.dropped["no target" if part.own else "no own turn"] += 1
        return found

    def _chat(self, part: _Part, last: int, cut: int) -> list[chat.Message]:
        if self.form == "paper":
            return part.flat(last, cut)
        return part.messages(last, cut, system_role=self.template.system_role)

    def _whole(self, part: _Part, targets: list[int], ids: _Ids) -> Row | None:
        """The row of a whole conversation."""
        cut, fitting = self._fitting(part, targets[-1], ids, every=True)
        if fitting is None:
            return None
        kept = [number for number in targets if number >= cut]
        return _row(part, kept, [fitting.spans[number - cut] for number in kept], fitting, cut)

    def _prefixes(self, wanted: Sequence[tuple[_Part, list[int]]]) -> list[Row] | None:
        """The rows of turns as beginnings of their conversations; `None` if the template forbids that."""
        chats = [self._chat(part, targets[-1], 0) for part, targets in wanted]
        try:
            encoded = self.template.encode(chats, every=True)
        except ConfigurationError:
            return None
        made: list[Row | None] = []
        for (part, targets), whole in zip(wanted, encoded, strict=True):
            for number in targets:
                end = whole.spans[number][1]
                marks = whole.marks[:end] if whole.marks is not None else None
                made.append(self._turn(part, number, _Ids(whole.ids[:end], [whole.spans[number]], marks)))
        return [row for row in made if row is not None]

    def _turns(self, wanted: Sequence[tuple[_Part, list[int]]]) -> list[Row]:
        """The rows of turns, each after a prompt of its own."""
        turns = [(part, number) for part, targets in wanted for number in targets]
        encoded = self.template.encode([self._chat(*turn, 0) for turn in turns], every=False)
        made = (self._turn(*turn, ids) for turn, ids in zip(turns, encoded, strict=True))
        return [row for row in made if row is not None]

    def _turn(self, part: _Part, number: int, ids: _Ids) -> Row | None:
        cut, fitting = self._fitting(part, number, ids, every=False)
        return None if fitting is None else _row(part, [number], fitting.spans, fitting, cut)

    def _fitting(self, part: _Part, last: int, ids: _Ids, *, every: bool) -> tuple[int, _Ids | None]:
        """The smallest number of oldest turns to leave out so that it fits, and what is left; `None` if none does."""
        if len(ids.ids) <= self.max_length:
            return 0, ids
        best: tuple[int, _Ids | None] = (0, None)
        low, high = 1, last
        while low <= high:
            cut = (low + high) // 2
            (shorter,) = self.template.encode([self._chat(part, last, cut)], every=every)
            if len(shorter.ids) <= self.max_length:
                best, high = (cut, shorter), cut - 1
            else:
                low = cut + 1
        if best[1] is None:
            self.dropped["too long"] += 1
        return best


def _row(part: _Part, targets: list[int], spans: list[tuple[int, int]], ids: _Ids, cut: int) -> Row:
    mask = [0] * len(ids.ids)
    for start, end in spans:
        mask[start:end] = [1] * (end - start) if ids.marks is None else ids.marks[start:end]
        mask[end - 1] = 1  # some templates leave the end-of-turn token out of their markers
    return Row(ids.ids, mask, part.episode, part.agent, tuple(part.own[number].turn for number in targets), cut)


__all__ = ["FORMS", "Row", "Rows", "Template", "conversation_of", "has_target", "rows", "supports_system_role"]
