"""The body of a request, read and checked: every field is used, or refused by its name."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from skipkv._runs.jsonl import kind, parsed
from skipkv.errors import SkipKVError
from skipkv.integrations.serve.refusal import Refusal
from skipkv.runtime import Sampling

# Fields that change no token and are of no use here: nobody is misled if they are not used.
_UNUSED = {"user", "metadata", "safety_identifier", "prompt_cache_key"}
# Fields whose work is not done here, with the values that ask for none of it.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}
_NEUTRAL_CHAT: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "reasoning_effort": (),
    "verbosity": (),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
}
_NEUTRAL_TEXT: dict[str, tuple[Any, ...]] = {
    "logprobs": (),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}
_SAMPLING = ("temperature", "top_p", "top_k")
_USED = {"model", "policy", "n", "stop", "seed", "max_tokens", "stream", "stream_options"}
_USED |= set(_SAMPLING)
_MESSAGE = {"role", "content", "name", "reasoning_content"}


@attrs.frozen(kw_only=True)
class Body:
    """What a request asks for.

    Args:
        chat: whether its prompt is a chat.
        prompts: texts, token ids or a chat.
        model: name of the model; None where it names none.
        policy: name of the policy; None for the server's first.
        n: samples per prompt.
        sampling: the arguments of `Sampling` that it gives.
        seed: of its random numbers.
        stop: strings at which a sequence ends.
        max_tokens: tokens to decode per sequence at most.
        template: further arguments for the chat template.
        stream: whether pieces are sent as they are decoded.
        usage: whether a stream ends with the number of tokens.
    """

    chat: bool
    prompts: tuple[Any, ...]
    model: str | None
    policy: str | None
    n: int
    sampling: Mapping[str, float | int]
    seed: int | None
    stop: tuple[str, ...]
    max_tokens: int | None
    template: Mapping[str, Any]
    stream: bool
    usage: bool

    @classmethod
    def read(cls, raw: bytes, *, chat: bool) -> "Body":
        """Read a body.

        Args:
            raw: as it came.
            chat: whether its fields are those of chat completions, or of completions.

        Raises:
            Refusal: it is not JSON, a field is unknown or cannot be, or asks for what is not done
                here.
        """
        given = _fields(raw)
        used = _USED | (
            {"messages", "max_completion_tokens", "chat_template_kwargs"} if chat else {"prompt"}
        )
        neutral = _NEUTRAL | (_NEUTRAL_CHAT if chat else _NEUTRAL_TEXT)
        for name, value in given.items():
            if name in neutral and value not in neutral[name]:
                raise _not_done(name, neutral[name])
            if name not in used | _UNUSED | neutral.keys():
                raise Refusal(
                    400,
                    f"Unknown field {name!r}. Known are: {', '.join(sorted(used))}.",
                    param=name,
                    code="unknown_parameter",
                )
        return cls(
            chat=chat,
            prompts=(_messages(given),) if chat else _prompts(given),
            model=_take(given, "model", "a string", _is_text),
            policy=_take(given, "policy", "a string", _is_text),
            n=_take(given, "n", "a whole number of at least 1", _is_count, 1),
            sampling={
                name: given[name]
                for name in _SAMPLING
                if _take(given, name, "a number", _is_number) is not None
            },
            seed=_take(given, "seed", "a whole number of at least 0", _is_seed),
            stop=_stop(given),
            max_tokens=_max_tokens(given),
            template=_template(given),
            stream=_take(given, "stream", "true or false", _is_bool, False),
            usage=_usage(given),
        )

    def sampling_of(self, model: Sampling, seed: int) -> Sampling:
        """How its tokens are chosen: what it does not give is the model's.

        Args:
            model: the sampling of the model's generation config.
            seed: where it gives none.

        Raises:
            Refusal: the values do not go together.
        """
        fresh = model.greedy or self.sampling.get("temperature") == 0
        given: dict[str, Any] = {**self.sampling, "n": self.n}
        given["seed"] = seed if self.seed is None else self.seed
        try:
            if fresh and self.sampling:
                return Sampling(**given)
            return attrs.evolve(model, **given)
        except SkipKVError as error:
            raise Refusal.of(error) from error


def _fields(raw: bytes) -> dict[str, Any]:
    """The fields of a body that are not null."""
    try:
        given = parsed(raw)
        json.dumps(
            given, ensure_ascii=False
        ).encode()  # half of a character, as in "\ud800", is no text
    except UnicodeEncodeError:
        raise Refusal(400, "The body holds half of a character (a lone surrogate).") from None
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise Refusal(400, f"The body must be a JSON object, got {kind(given)}.")
    return {name: value for name, value in given.items() if value is not None}


def _not_done(name: str, neutral: tuple[Any, ...]) -> Refusal:
    allowed = " or ".join(repr(value) for value in neutral) or "null"
    return Refusal(
        400,
        f"{name} is not supported: it may be left out, or be {allowed}.",
        param=name,
        code="unsupported_parameter",
    )


def _take(
    given: Mapping[str, Any],
    name: str,
    rule: str,
    fits: Callable[[Any], bool],
    default: Any = None,
) -> Any:
    """A field's value, if it is one that fits."""
    value = given.get(name, default)
    if name in given and not fits(value):
        raise _wrong(name, rule, value)
    return value


def _wrong(name: str, rule: str, value: Any) -> Refusal:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return Refusal(400, f"{name} must be {rule}, got {shown}.", param=name)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_seed(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value >= 0


def _is_count(value: Any) -> bool:
    return _is_seed(value) and value >= 1


def _stop(given: Mapping[str, Any]) -> tuple[str, ...]:
    value = given.get("stop", [])
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(s, str) and s for s in strings):
        raise _wrong("stop", "a string or a list of strings, none of them empty", value)
    return tuple(strings)


def _max_tokens(given: Mapping[str, Any]) -> int | None:
    rule = "a whole number of at least 1"
    names = ("max_tokens", "max_completion_tokens")
    numbers = {_take(given, name, rule, _is_count) for name in names} - {None}
    if len(numbers) > 1:
        raise Refusal(
            400, "max_tokens and max_completion_tokens differ. Give one.", param="max_tokens"
        )
    return next(iter(numbers), None)


def _template(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the server's chat template, which no client may replace.

    A template is a program, and one with long loops would keep all other requests waiting.
    """
    options: dict[str, Any] = _take(given, "chat_template_kwargs", "an object", _is_object, {})
    if "chat_template" in options:
        raise Refusal(
            400,
            "chat_template_kwargs must not hold chat_template: the server has its model's. Apply "
            "yours yourself, and send its text to /v1/completions.",
            param="chat_template_kwargs",
            code="unsupported_parameter",
        )
    return options


def _usage(given: Mapping[str, Any]) -> bool:
    options = _take(given, "stream_options", "an object", _is_object, {})
    if options and not given.get("stream"):
        raise Refusal(400, "stream_options needs stream: true.", param="stream_options")
    if unknown := options.keys() - {"include_usage", "include_obfuscation"}:
        raise Refusal(400, f"stream_options has no {min(unknown)!r}.", param="stream_options")
    if options.get("include_obfuscation"):
        raise Refusal(
            400, "stream_options.include_obfuscation is not supported.", param="stream_options"
        )
    usage = options.get("include_usage", False)
    if not isinstance(usage, bool):
        raise _wrong("stream_options.include_usage", "true or false", usage)
    return usage


def _messages(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages; what is in them, the runtime checks."""
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list of at least one message", messages)
    found = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise _wrong(where, "an object with role and content", message)
        message = {key: value for key, value in message.items() if value not in (None, [])}
        for key in message.keys() - _MESSAGE:
            raise Refusal(
                400,
                f"{where}.{key} is not supported. A message has: {', '.join(sorted(_MESSAGE))}.",
                param=where,
                code="unsupported_parameter",
            )
        found.append(message)
    return found


def _prompts(given: Mapping[str, Any]) -> tuple[Any, ...]:
    """The prompts: one or several texts, or token ids."""
    rule = "a string, a list of strings, token ids, or a list of token ids"
    value = given.get("prompt")
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise _wrong("prompt", rule, value)
    if all(_is_seed(item) for item in value):
        return (value,)
    ids = [isinstance(item, list) and all(map(_is_seed, item)) for item in value]
    if all(ids) or all(isinstance(item, str) for item in value):
        return tuple(value)
    raise _wrong("prompt", rule, value)
