"""The shapes of OpenAI's answers."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

import attrs

from skipkv.integrations.serve.choice import Choice
from skipkv.runtime import Completion
from skipkv.runtime.text.thinking import Part

_FINISHED = {"eos": "stop", "stop_string": "stop", "length": "length"}
_FIELDS: dict[Part, str] = {"thinking": "reasoning_content", "answer": "content"}


def _identity() -> str:
    return secrets.token_hex(12)


def _now() -> int:
    return int(time.time())


@attrs.frozen(kw_only=True)
class Replies:
    """What one request is answered, in OpenAI's shapes.

    Args:
        chat: whether the request was a chat.
        model: name of the model.
        policy: name of the policy that decodes it.
        prompt_tokens: of all its prompts together.
        id: of the answer.
        created: when, in seconds.
    """

    chat: bool
    model: str
    policy: str
    prompt_tokens: int
    id: str = attrs.field(factory=_identity)
    created: int = attrs.field(factory=_now)

    def whole(self, choices: Sequence[Choice], texts: dict[int, dict[Part, str]]) -> dict[str, Any]:
        """The answer in one piece."""
        found = []
        for choice in choices:
            text = texts[choice.number]
            said: dict[str, Any] = {"text": text.get("answer", "")}
            if self.chat:
                message = {"role": "assistant", "content": text.get("answer", "")}
                if "thinking" in text:
                    message["reasoning_content"] = text["thinking"]
                said = {"message": message}
            found.append({"index": choice.number, **said, "logprobs": None, **self._end(choice)})
        return self._around(found, kind="") | {"usage": self.usage(choices)}

    def first(self, choice: Choice) -> dict[str, Any] | None:
        """The piece that a sequence begins with: of a chat, the role."""
        return self._piece(choice, {"role": "assistant", "content": ""}) if self.chat else None

    def piece(self, choice: Choice, part: Part, text: str) -> dict[str, Any]:
        """A piece of text."""
        return self._piece(choice, {_FIELDS[part]: text} if self.chat else text)

    def last(self, choice: Choice) -> dict[str, Any]:
        """The piece that a sequence ends with."""
        return self._piece(choice, {} if self.chat else "", self._end(choice))

    def used(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The piece with the number of tokens."""
        return self._around([], kind=".chunk") | {"usage": self.usage(choices)}

    def usage(self, choices: Sequence[Choice]) -> dict[str, int]:
        """Tokens of the prompts and of all sequences."""
        decoded = sum(c.completion.stats.new_tokens for c in choices if c.completion is not None)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": decoded,
            "total_tokens": self.prompt_tokens + decoded,
        }

    def _piece(
        self, choice: Choice, said: dict[str, str] | str, end: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        one = {
            "index": choice.number,
            "delta" if self.chat else "text": said,
            "logprobs": None,
            **(end or {"finish_reason": None}),
        }
        return self._around([one], kind=".chunk")

    def _around(self, choices: list[dict[str, Any]], *, kind: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": f"chat.completion{kind}" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _end(self, choice: Choice) -> dict[str, Any]:
        """Why a sequence ended, and what its policy did."""
        assert choice.completion is not None
        done: Completion = choice.completion
        return {
            "finish_reason": _FINISHED[done.stop_reason],
            "skipkv": {
                "policy": self.policy,
                "seed": choice.seed,
                "events": done.stats.events,
                "evicted": done.stats.evicted,
                "peak_entries": done.stats.peak_entries,
            },
        }


def encoded(value: Any) -> bytes:
    """JSON in ASCII: some clients end a line at characters beyond it."""
    return json.dumps(value, separators=(",", ":")).encode()


def event(value: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + encoded(value) + b"\n\n"
