"""How a model marks its thinking, and which part of a text is thinking."""

from collections.abc import Sequence
from itertools import permutations, takewhile
from typing import Any, Literal

import attrs

from skipkv.errors import ConfigError
from skipkv.runtime.text.stopping import shown

Part = Literal["thinking", "answer"]


def _mark(marks: object, field: "attrs.Attribute[Any]", value: object) -> None:
    if value is None and field.name == "answers":
        return
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            f"ThinkingMarks({field.name}={value!r}) must be a text, such as "
            f"{getattr(TAGS, field.name) or '<answer>'!r}: what the model writes there."
        )


@attrs.frozen(kw_only=True)
class ThinkingMarks:
    """What a model writes where its thinking begins and ends, special tokens shown.

    A mark may be one token or several. A steerer acts between the marks only, and the marks divide
    a completion into its thinking and its answer.

    Args:
        opens: opens the thinking.
        closes: closes it.
        answers: opens the answer, for models that write messages with headers, as gpt-oss does:
            then `closes` closes the answer too, and text outside of both, such as the headers and
            calls of tools, is neither. By default all that follows the thinking is the answer.

    Raises:
        ConfigError: a mark is not a text, two are the same, or one is a part of another.

    Example:
        >>> ThinkingMarks(opens="[THINK]", closes="[/THINK]").split("[THINK]So 3.[/THINK]It is 3.")
        ('So 3.', 'It is 3.')
    """

    opens: str = attrs.field(validator=_mark)
    closes: str = attrs.field(validator=_mark)
    answers: str | None = attrs.field(default=None, validator=_mark)

    def __attrs_post_init__(self) -> None:
        if len({*self.given}) < len(self.given):
            raise ConfigError(
                f"{self!r} has the same mark twice. Marks must differ: the text would not say "
                "where thinking ends."
            )
        for mark, other in permutations(self.given, 2):
            if mark in other:
                raise ConfigError(
                    f"{self!r} has {mark!r} within {other!r}. No mark may be a part of another: "
                    "the text would not say which of them it holds."
                )

    @classmethod
    def of(cls, tokenizer: Any) -> "ThinkingMarks | None":
        """The marks of a model's tokenizer; None where nothing says that it marks its thinking.

        Of the marks that are known, those count whose tokens are in the vocabulary; of several of
        them, those that the chat template names. Where there are none, marks count that the
        template names.

        Args:
            tokenizer: the model's tokenizer.

        Example:
            >>> from skipkv.testing import toy_tokenizer
            >>> ThinkingMarks.of(toy_tokenizer())
            ThinkingMarks(opens='<think>', closes='</think>', answers=None)
        """
        template = str(getattr(tokenizer, "chat_template", None) or "")
        named = [m for m in _KNOWN if m.opens in template or m.closes in template]
        held = [m for m, tokens in _KNOWN.items() if all(_token(tokenizer, t) for t in tokens)]
        both = [m for m in held if m in named]
        return next(iter(both or held or named), None)

    @property
    def given(self) -> tuple[str, ...]:
        """All marks."""
        return tuple(m for m in (self.opens, self.closes, self.answers) if m is not None)

    def split(self, text: str, *, begun: Part | None = None) -> tuple[str | None, str | None]:
        """The thinking and the answer of a whole text, without white space around them.

        Without headers, thinking ends at the last closing mark, even if no mark opens it.

        Args:
            text: with all marks shown.
            begun: what the prompt has begun.

        Returns:
            The thinking, None where there is none; and the answer, None where thinking has not
            ended. With headers, an answer that came before such thinking counts.
        """
        if self.answers is not None:
            return self._messages(text, begun)
        thought, mark, answer = text.rpartition(self.closes)
        if not mark:
            if begun != "thinking" and self.opens not in text:
                return None, text.strip()
            thought = text
        if begun == "thinking":
            thought = thought.lstrip().removeprefix(self.opens)
        elif self.opens in thought:
            thought = thought.partition(self.opens)[2]
        return thought.strip(), answer.strip() if mark else None

    def _messages(self, text: str, begun: Part | None) -> tuple[str | None, str | None]:
        split = ThinkingSplit(self, begun=begun)
        found = split.feed(text)
        open_ = split.state == "thinking"
        found += split.end()
        thinking, answer = (
            "".join(piece for of, piece in found if of == part).strip()
            for part in ("thinking", "answer")
        )
        return thinking if split.thought else None, None if open_ and not answer else answer


TAGS = ThinkingMarks(opens="<think>", closes="</think>")
"""The marks that most models have, for texts of a model of which nothing is known."""
# Marks, and the tokens that a vocabulary with these marks has.
_KNOWN: dict[ThinkingMarks, tuple[str, ...]] = {
    ThinkingMarks(  # gpt-oss
        opens="<|channel|>analysis<|message|>",
        closes="<|end|>",
        answers="<|channel|>final<|message|>",
    ): ("<|channel|>", "<|message|>", "<|end|>"),
    ThinkingMarks(opens="<|channel>thought", closes="<channel|>"): (  # Gemma 4
        "<|channel>",
        "<channel|>",
    ),
    **{
        marks: marks.given
        for marks in (
            TAGS,
            ThinkingMarks(opens="[THINK]", closes="[/THINK]"),  # Magistral
            ThinkingMarks(opens="<|START_THINKING|>", closes="<|END_THINKING|>"),  # Command A
            ThinkingMarks(opens="<seed:think>", closes="</seed:think>"),  # Seed-OSS
            ThinkingMarks(opens="<thought>", closes="</thought>"),  # EXAONE Deep
            ThinkingMarks(opens="<|inner_prefix|>", closes="<|inner_suffix|>"),  # Apertus
            ThinkingMarks(opens="◁think▷", closes="◁/think▷"),  # Kimi
            ThinkingMarks(  # Granite 3
                opens="Here is my thought process:", closes="Here is my response:"
            ),
        )
    },
}


def _token(tokenizer: Any, text: str) -> bool:
    """Whether a text is one token, but for white space."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [i for i in ids if shown(tokenizer, [i]).strip()]
    return len(ids) == 1 and shown(tokenizer, ids).strip() == text


class ThinkingSplit:
    """Splits the text of one sequence, in pieces of any size, into its thinking and its answer.

    Without headers, thinking begins where the prompt has begun it or the text begins with its mark,
    and ends at the first closing mark; all else is answer. With headers, every message is what its
    header says, and two of one kind are parted by an empty line; a text without headers is answer.
    White space around the thinking, and before an answer that follows it, is dropped. What may
    still belong to a mark, or be dropped, is held back.

    Args:
        marks: the model's.
        begun: what the prompt has begun.

    Example:
        >>> split = ThinkingSplit(begun="thinking")
        >>> split.feed(" so 3.</th"), split.feed("ink>\\n\\nIt is 3."), split.end()
        ([('thinking', 'so 3.')], [('answer', 'It is 3.')], [])
    """

    def __init__(self, marks: ThinkingMarks = TAGS, *, begun: Part | None = None) -> None:
        self._heads: dict[str, Part] = {marks.opens: "thinking"}
        if marks.answers is not None:
            self._heads[marks.answers] = "answer"
        self._headed = marks.answers is not None
        # How every header begins: a text that begins so has headers, known ones or others.
        pairs = zip(marks.opens, marks.answers or "", strict=False)
        self._lead = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._closes = marks.closes
        self._begun = begun
        self.state: Literal["beginning", "outside"] | Part = "beginning"
        self.thought = begun == "thinking"
        """Whether there is any thinking, though it may be empty."""
        self._held = ""
        self._strips = False  # white space at the beginning of what comes is dropped
        self._said: set[Part] = set()
        self._parts_from = False  # an empty line is due before what comes
        if self._headed and begun is not None:
            self._enter(begun, "")

    def feed(self, text: str) -> list[tuple[Part, str]]:
        """Take the next text; return the parts that are certain."""
        self._held += text
        found: list[tuple[Part, str]] = []
        before = None
        while before != self.state:
            before = self.state
            if before == "beginning":
                self._begin()
            elif before == "outside":
                self._find()
            else:
                found += self._read(before)
        return found

    def end(self) -> list[tuple[Part, str]]:
        """No more text comes; return what was held back."""
        if self.state == "outside":
            return []
        if self.state == "thinking" or (self.state == "beginning" and self._begun == "thinking"):
            self._held = self._held.rstrip()
            return self._part("thinking", len(self._held))
        return self._part("answer", len(self._held))

    def _begin(self) -> None:
        start = self._held.lstrip()
        for head, part in self._heads.items():
            if start.startswith(head):
                return self._enter(part, start.removeprefix(head))
        if any(head.startswith(start) for head in self._heads):
            return None  # not known yet, the empty text included
        if self._begun == "thinking":
            return self._enter("thinking", start)
        if self._lead and start.startswith(self._lead):
            self.state = "outside"
        else:
            self.state = "answer"
        return None

    def _find(self) -> None:
        """Look for the next header; what precedes it is dropped."""
        places = {self._held.find(head): head for head in self._heads if head in self._held}
        if places:
            head = places[min(places)]
            return self._enter(self._heads[head], self._held[min(places) + len(head) :])
        begun = max(_begun(self._held, head) for head in self._heads)
        self._held = self._held[len(self._held) - begun :]
        return None

    def _enter(self, part: Part, rest: str) -> None:
        self.state, self._held, self._strips = part, rest, True
        self.thought = self.thought or part == "thinking"
        self._parts_from = part in self._said

    def _read(self, part: Part) -> list[tuple[Part, str]]:
        if part == "answer" and not self._headed:
            return self._part(part, len(self._held))
        text, mark, after = self._held.partition(self._closes)
        if not mark:
            sure = text[: len(text) - _begun(text, self._closes)]
            return self._part(part, len(sure.rstrip() if part == "thinking" else sure))
        self._held = text.rstrip() if part == "thinking" else text
        found = self._part(part, len(self._held))
        self.state = "outside" if self._headed else "answer"
        self._held, self._strips = after, True
        return found

    def _part(self, part: Part, length: int) -> list[tuple[Part, str]]:
        """The first characters of what is held."""
        text, self._held = self._held[:length], self._held[length:]
        if self._strips:
            text = text.lstrip()
            if not text and part == "thinking" and self._held.isspace():
                self._held = ""
        self._strips = self._strips and not text
        if not text:
            return []
        if self._parts_from:
            self._parts_from, text = False, f"\n\n{text}"
        self._said.add(part)
        return [(part, text)]


def _begun(text: str, mark: str) -> int:
    """How many characters at the end of a text may begin a mark."""
    return next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)


class MarkedText:
    """The text of tokens, with those special tokens in it that belong to marks.

    The text of a completion lacks special tokens. Here each of them that is a part of a mark is one
    character of Unicode's private use, in the text and in `marks`.

    Args:
        tokenizer: the model's tokenizer.
        marks: how the model marks its thinking.
    """

    def __init__(self, tokenizer: Any, marks: ThinkingMarks) -> None:
        self._tokenizer = tokenizer
        self._special = special_tokens(tokenizer)
        texts = {token: shown(tokenizer, [token]).strip() for token in self._special}
        used = [t for t, text in texts.items() if text and any(text in m for m in marks.given)]
        # the end of private use, where no font has icons that a model might write
        self.signs = {token: chr(0x10FF00 + place) for place, token in enumerate(used)}
        """Special tokens of marks -> what stands for them."""
        self._none = {ord(sign): None for sign in self.signs.values()}
        changed = {}
        for field in attrs.fields_dict(ThinkingMarks):
            mark = getattr(marks, field)
            for token in sorted(used, key=lambda t: -len(texts[t])):
                mark = mark and mark.replace(texts[token], self.signs[token])
            changed[field] = mark
        self.marks = ThinkingMarks(**changed)

    def split(
        self, prompt: Sequence[int], tokens: Sequence[int], text: str
    ) -> tuple[str | None, str | None]:
        """The thinking and the answer of a completion: see `Completion`.

        Args:
            prompt: its prompt.
            tokens: what was decoded.
            text: their text, which may end earlier.
        """
        found = self.marks.split(self._marked(tokens, text), begun=self.begun(prompt))
        return tuple(None if part is None else self.plain(part).strip() for part in found)  # type: ignore[return-value]

    def begun(self, prompt: Sequence[int]) -> Part | None:
        """What a prompt has begun: its last mark says so, if no other special token follows.

        A mark in a message of a user, after which the model's turn begins, does not count.
        """
        ids = list(prompt)
        others = self._special - self.signs.keys()
        start = next((i for i in range(len(ids), 0, -1) if ids[i - 1] in others), 0)
        own = ids[start:]
        text = self._marked(own, str(self._tokenizer.decode(own, skip_special_tokens=True)))
        last = max(self.marks.given, key=text.rfind)
        if last not in text or last == self.marks.closes:
            return None
        return "thinking" if last == self.marks.opens else "answer"

    def plain(self, text: str) -> str:
        """A part of marked text as a completion has it."""
        return text.translate(self._none)

    def _marked(self, tokens: Sequence[int], text: str) -> str:
        pieces, at, before = [], 0, -1
        for place, token in enumerate(tokens):
            if token not in self.signs:
                continue
            if place > before + 1:
                own = str(self._tokenizer.decode(tokens[:place], skip_special_tokens=True))
                # Clean-up of spaces may have changed the end of this text since.
                end = max(at, shared_length(own, text))
                pieces.append(text[at:end])
                at = end
            pieces.append(self.signs[token])
            before = place
        return "".join([*pieces, text[at:]])


def shared_length(one: str, other: str) -> int:
    """How many characters two texts share at their beginning."""
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in shared)


def special_tokens(tokenizer: Any) -> frozenset[int]:
    """The tokens that a text without special tokens lacks, but for the unknown one."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {*getattr(tokenizer, "all_special_ids", ()), *(i for i in added if added[i].special)}
    return frozenset(found - {getattr(tokenizer, "unk_token_id", None)})


def thinking_marks(given: object, tokenizer: Any, *, user: str) -> ThinkingMarks | None:
    """The marks that a user gave, or those of the tokenizer.

    Args:
        given: the user's argument `thinking`.
        tokenizer: the model's tokenizer, or None.
        user: the name of the call, for errors.

    Raises:
        ConfigError: the argument is neither marks nor "auto" nor None.
    """
    if given == "auto":
        return None if tokenizer is None else ThinkingMarks.of(tokenizer)
    if given is None or isinstance(given, ThinkingMarks):
        return given
    raise ConfigError(
        f"{user}(thinking={given!r}) must be the marks between which the model thinks, such as "
        'ThinkingMarks(opens="<think>", closes="</think>"), or "auto", or None.'
    )
