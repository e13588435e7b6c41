"""The beginning that many prompts have in common: read once, then copied."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from skipkv.errors import InputError
from skipkv.runtime.parts.sentences import SentenceTracker
from skipkv.runtime.requests.prompts import chat_text, is_chat, text_ids, token_ids
from skipkv.runtime.results.observers import Observers, SequenceEvent
from skipkv.runtime.store.store import SavedLane


@attrs.frozen(kw_only=True)
class PrefixState:
    """What a sequence had when a prefix had been read and compressed.

    Args:
        tokens: the prefix's length.
        lane: its entries.
        steering: its steering state.
        tracker: its sentences.
        events: its events.
        evicted: entries that they dropped.
        peak_entries: the most entries that a head held before one of them.
        observers: those who were told of the events.
        shared: what they were told.
    """

    tokens: int
    lane: SavedLane
    steering: Sequence[Any] | None
    tracker: SentenceTracker | None
    events: int
    evicted: int
    peak_entries: int
    observers: Observers | None
    shared: Sequence[SequenceEvent]

    def serves(self, observers: Observers | None) -> bool:
        """Whether it can stand for reading the prefix anew.

        Observers that were not told of its events must see them happen.
        """
        return observers is None or not observers.events or observers is self.observers


@attrs.define(eq=False)
class Prefix:
    """The beginning of many prompts. `Engine.prefix` makes one, for several calls.

    It holds the entries that the cache kept of it, from its first use on, as long as it lives.

    Args:
        ids: its token ids.
    """

    ids: tuple[int, ...] = attrs.field(repr=lambda ids: f"<{len(ids)} tokens>")
    # Of a chat, its text and its messages.
    _text: str | None = attrs.field(default=None, repr=False)
    _chat: Sequence[Mapping[str, Any]] | None = attrs.field(default=None, repr=False)
    # What made it: prompts of other engines cannot begin with it.
    _owner: object = attrs.field(default=None, repr=False)
    # What the first sequence had that read it; the loop sets it.
    state: PrefixState | None = attrs.field(default=None, init=False, repr=False)

    @classmethod
    def of(
        cls, content: Any, tokenizer: Any, *, options: Mapping[str, Any], owner: object
    ) -> "Prefix":
        """The prefix of a text, token ids or a chat.

        Args:
            content: as a user gave it.
            tokenizer: the model's tokenizer.
            options: further arguments for its chat template.
            owner: what makes it.

        Raises:
            InputError: it is empty or of another kind.
        """
        name = "The prefix"
        if is_chat(content):
            text = chat_text(content, tokenizer, name, options, answer=False)
            ids = text_ids(text, tokenizer, name, add_special_tokens=False)
            return cls(tuple(ids), text=text, chat=list(content), owner=owner)
        return cls(tuple(token_ids(content, tokenizer, name=name)), owner=owner)

    def check_owner(self, owner: object) -> None:
        """Raise `InputError` if another engine made it."""
        if owner is not self._owner:
            raise InputError(
                "The prefix was made by another engine, whose model or policy may keep something "
                "else of it. Make one with this engine: engine.prefix(...)."
            )

    def followed_by(
        self, content: Any, tokenizer: Any, *, name: str, options: Mapping[str, Any]
    ) -> list[int]:
        """The token ids of a prompt that begins with this prefix.

        The rest is encoded by itself, without the tokens that begin a text.

        Args:
            content: the rest of the prompt: of a chat its further messages, else a text or ids.
            tokenizer: the model's tokenizer.
            name: the prompt's name, for errors.
            options: further arguments for the chat template.

        Raises:
            InputError: the rest is empty, or of another kind than the prefix.
        """
        if is_chat(content) != (self._chat is not None):
            raise InputError(
                f"{name} and the prefix must both be chats, or neither. Give the prefix as "
                "messages where prompts are messages."
            )
        if self._chat is None:
            if isinstance(content, str):
                return [*self.ids, *text_ids(content, tokenizer, name, add_special_tokens=False)]
            return [*self.ids, *token_ids(content, tokenizer, name=name)]
        assert self._text is not None
        whole = chat_text([*self._chat, *content], tokenizer, name, options, answer=True)
        if not whole.startswith(self._text) or whole == self._text:
            raise InputError(
                f"{name}: the chat template does not render the prefix's messages as the beginning "
                "of this chat. Give prefix and prompts as texts."
            )
        rest = whole[len(self._text) :]
        return [*self.ids, *text_ids(rest, tokenizer, name, add_special_tokens=False)]
