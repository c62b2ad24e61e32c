"""How messages become tokens, and where a reply ends: a tokenizer with its chat template."""

from __future__ import annotations

import inspect
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from sotopia_env.agents.folders import no_template
from sotopia_env.errors import ConfigurationError, one_line
from sotopia_env.models import encodable

_PIECES = 20_000
"""Pieces of prompts whose tokens are remembered."""


_FOUR_ROLES = ("system", "user", "assistant", "user")


class Voice:
    """A tokenizer with its chat template.

    Args:
        home: Folder or hub id of the tokenizer.
        stops: Tokens that end a reply besides the tokenizer's own and the one its template writes.

    Attributes:
        tokenizer: As transformers loaded it.
        system_role: Whether the template shows a system message.
        stops: Tokens that end a reply.

    Raises:
        ConfigurationError: If it cannot be loaded or has no chat template.
    """

    def __init__(self, home: str, stops: Sequence[int] = ()) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(home)
        except Exception as error:  # OSError, ValueError, KeyError, ...: whatever is wrong in the files
            raise ConfigurationError(f"The tokenizer of {home!r} cannot be loaded: {one_line(error)}.") from error
        if not self.tokenizer.chat_template:
            raise ConfigurationError(no_template(home))
        parameters = inspect.signature(self.tokenizer.apply_chat_template).parameters
        self._options: dict[str, Any] = (
            {"sanitize_control_tokens": True} if "sanitize_control_tokens" in parameters else {}
        )
        self._added: dict[str, int] = self.tokenizer.get_added_vocab()
        self.system_role = self._shows_system()
        own = self.tokenizer.eos_token_id
        self.stops = {*stops, *self._end_of_turn(), *([] if own is None else [own])}
        self._braces = {n for token, n in self.tokenizer.get_vocab().items() if "}" in token or token == "<0x7D>"}
        self._split = _pattern(self._added)
        self._control = _pattern(self._control_tokens())
        self._pieces: OrderedDict[str, list[int]] = OrderedDict()
        self._piecewise = self._can_be_piecewise()

    def ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The prompt's tokens, the opening of the reply included.

        Control tokens that stand in messages are encoded as text, so that nobody can forge a turn.
        """
        if self._piecewise and not any(self._control.search(message["content"]) for message in messages):
            return self._by_pieces(messages)
        return self._at_once(messages)

    def text(self, ids: Sequence[int]) -> str:
        """A reply's text, control tokens left out."""
        decoded = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return encodable(decoded)

    def is_complete(self, ids: Sequence[int]) -> bool:
        """Whether a reply is one whole JSON object; looked at only when its last token holds a closing brace."""
        if ids[-1] not in self._braces:
            return False
        text = self.text(ids).strip()
        if not text.startswith("{") or not text.endswith("}"):
            return False
        try:
            return isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            return False

    # --- tokens of prompts ----------------------------------------------------------------------

    def _at_once(self, messages: Sequence[dict[str, str]]) -> list[int]:
        made = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=True, **self._options
        )
        return list(made["input_ids"])

    def _by_pieces(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The same, each piece between control tokens for itself: those of the turns before are remembered."""
        text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        ids: list[int] = []
        for piece in self._split.split(text):
            number = self._added.get(piece)
            if number is not None:
                ids.append(number)
            elif piece:
                ids += self._piece(piece)
        return ids

    def _piece(self, text: str) -> list[int]:
        known = self._pieces.get(text)
        if known is None:
            known = self._pieces[text] = self._encode(text)
            if len(self._pieces) > _PIECES:
                self._pieces.popitem(last=False)
        else:
            self._pieces.move_to_end(text)
        return known

    def _encode(self, text: str) -> list[int]:
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is None:
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        return list(fast.encode(text, add_special_tokens=False).ids)  # without the detour for batches

    def _control_tokens(self) -> list[str]:
        """Added tokens that are special or that the template may write."""
        template = str(self.tokenizer.chat_template)
        kinds = self.tokenizer.added_tokens_decoder.values()
        return [kind.content for kind in kinds if kind.special or kind.content in template]

    def _can_be_piecewise(self) -> bool:
        """Whether pieces have the same tokens alone as in the whole: by the tokenizer's settings, and by trying."""
        kinds = self.tokenizer.added_tokens_decoder.values()
        if not self._added or any(kind.lstrip or kind.rstrip or kind.single_word for kind in kinds):
            return False
        texts = [" a  b\n\n", '\n{"x": "é…😀"}', "Turn 3: go on.", "  ", "x"]
        talk = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 3, texts, strict=False)]
        talks = [talk[:1], talk]
        if self.system_role:
            talks += [[{"role": "system", "content": text}, *talk] for text in texts]
        try:
            return all(self._by_pieces(each) == self._at_once(each) for each in talks)
        except Exception:  # whatever a template raises at such talks
            return False

    # --- what the template does -----------------------------------------------------------------

    def _shows_system(self) -> bool:
        """Whether the template shows the system text, and always in front of the first user message.

        Some move it to the newest one, which would rewrite what the model has read.
        """
        mark, first = "sotopia-env-system-role", "first-words"
        talk = [
            {"role": role, "content": text} for role, text in zip(_FOUR_ROLES, (mark, first, "y", "z"), strict=True)
        ]
        try:
            texts = [self.tokenizer.apply_chat_template(talk[:n], tokenize=False) for n in (2, 4)]
        except Exception:  # jinja2's errors, and whatever else a template raises
            return False
        return all(mark in text.partition(first)[0] for text in texts)

    def _end_of_turn(self) -> list[int]:
        """The control token that the template writes behind a reply."""
        mark = "sotopia-env-reply"
        talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
        try:
            text = self.tokenizer.apply_chat_template(talk, add_generation_prompt=False, tokenize=False)
        except Exception:
            return []
        behind = text.rpartition(mark)[2].lstrip()
        return [number for token, number in self._added.items() if behind.startswith(token)]


def _pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Any of some tokens, the longest first, as a group: splitting by it keeps them."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if longest_first else "(?!)")
