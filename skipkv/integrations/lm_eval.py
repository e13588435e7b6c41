"""lm-evaluation-harness: the model "skipkv", which answers generative tasks under a policy.

Import this file, or start `skipkv lm-eval`, and `--model skipkv` is known. It needs the
extra `lm-eval`.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv.compositions import model_settings, resolve_policy
from skipkv.errors import InputError
from skipkv.models import load
from skipkv.policy import Policy
from skipkv.runtime import Completion, Engine, Prompt, Sampling
from skipkv.runtime.text.thinking import TAGS, ThinkingMarks

_log = logging.getLogger(__name__)
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLED = ("temperature", "top_p", "top_k")
# Settings of Hugging Face's generate() that some tasks name, with the values that do nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "repetition_penalty": (1.0,),
    "min_p": (0.0, None),
    "use_cache": (True,),
    "num_return_sequences": (1,),
}


@attrs.frozen(kw_only=True)
class GenerationSettings:
    """What a task says of one generation.

    Args:
        until: strings at which the answer ends.
        max_new_tokens: tokens decoded at most; None for what the model's generation config says.
        sampling: how tokens are chosen, greedy by default.
    """

    until: tuple[str, ...]
    max_new_tokens: int | None
    sampling: Sampling

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "GenerationSettings":
        """Read a task's `generation_kwargs`.

        Args:
            given: the settings.

        Raises:
            InputError: one of them is not supported.
            ConfigError: a value that cannot be.
        """
        known = {"until", "do_sample", *_LENGTHS, *_SAMPLED}
        for name, value in given.items():
            if name not in known and value not in _NEUTRAL.get(name, ()):
                raise InputError(
                    f"skipkv does not know the generation setting {name}={value!r} of the task. It "
                    f"takes {', '.join(sorted(known))}. Replace it with --gen_kwargs, or in the "
                    "task's file."
                )
        sampled = {name: given[name] for name in _SAMPLED if given.get(name) is not None}
        if given.get("do_sample") and "temperature" not in sampled:
            raise InputError("do_sample=True needs a temperature. Add one to --gen_kwargs.")
        if given.get("do_sample") is False or not sampled.get("temperature"):
            sampled = {}  # greedy, as lm-eval's own models take it
        until = given.get("until") or ()
        lengths = [int(given[name]) for name in _LENGTHS if given.get(name) is not None]
        return cls(
            until=(until,) if isinstance(until, str) else tuple(filter(None, until)),
            max_new_tokens=lengths[0] if lengths else None,
            sampling=Sampling(**sampled),
        )


def _unused(given: Mapping[str, Any]) -> Iterator[str]:
    """What a task and --gen_kwargs say in two ways: a sentence on each way that does not count."""
    lengths = {name: given[name] for name in _LENGTHS if given.get(name) is not None}
    first, *others = [f"{name}={value}" for name, value in lengths.items()] or [""]
    if len(set(map(int, lengths.values()))) > 1:
        yield f"{first} counts, as in lm-eval, and {', '.join(others)} does not."
    if given.get("do_sample") is False and given.get("temperature"):
        yield (
            f"do_sample=False decodes greedily: temperature={given['temperature']} does not count. "
            "Add do_sample=True to --gen_kwargs."
        )


@register_model("skipkv")
class SkipKVLM(LM):  # type: ignore[misc]
    """A model that decodes under a policy, for generative tasks.

    Thinking is removed before a task sees the answer, and strings at which the answer ends count
    after the thinking only. A text whose thinking has not ended is an empty answer.

    Args:
        pretrained: tiny or rambler, a folder, a hub id or a GGUF file; or a model.
        tokenizer: the tokenizer of a model that is given as such.
        policy: a preset's name, `package.module:object`, or a `Policy`.
        budget: most entries kept per KV head.
        interval: decode steps between two compression events.
        steering: file with a steering vector.
        strength: of the steering.
        growth: what every thought that is not execution adds to the strength.
        published: give presets their published settings, whatever the model's folder says.
        batch_size: sequences decoded side by side; "auto" is 8.
        max_gen_toks: most tokens to decode where a task says nothing; by default what the model's
            generation config says, or 8192.
        think_end_token: where thinking ends; None or "none" keeps the whole text. "auto" finds it
            in the tokenizer (`ThinkingMarks.of`), and keeps the whole text where nothing is found.
        enable_thinking: passed to the chat template if given.
        seed: of random numbers, where a task samples.
        dtype: of the weights.
        device: where to; by default a GPU if there is one.
        trust_remote_code: run Python code that comes with the model.
        max_batch_size: of no use here; lm-eval always gives it.

    Raises:
        InputError: the model cannot be loaded.
        ConfigError: a policy that cannot be.
    """

    def __init__(
        self,
        pretrained: str | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        policy: str | Policy = "full",
        budget: int | None = None,
        interval: int | None = None,
        steering: str | None = None,
        strength: float | int | None = None,
        growth: float | int | None = None,
        published: bool = False,
        batch_size: int | str | None = 8,
        max_gen_toks: int | None = None,
        think_end_token: str | None = "auto",
        enable_thinking: bool | None = None,
        seed: int = 0,
        dtype: str = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if device == "cuda:0" and not torch.cuda.is_available():
            _log.warning("lm-eval asks for cuda:0 by default; torch finds no GPU here. On the CPU.")
            device = None
        name = pretrained if isinstance(pretrained, str) else None
        if isinstance(policy, str):
            policy = resolve_policy(
                policy,
                settings={} if name is None else model_settings(name, published=published),
                budget=budget,
                interval=interval,
                vector=steering,
                strength=strength,
                growth=growth,
            )
        model: Any = pretrained
        reads: Any = tokenizer
        if name is not None:
            model, reads = load(
                name, dtype=dtype, device=device, trust_remote_code=trust_remote_code
            )
        width = 8 if batch_size in (None, "auto") else int(batch_size)
        asks = think_end_token not in (None, "", "none")
        marks = ThinkingMarks.of(reads) if asks else None
        if asks and think_end_token not in ("auto", marks and marks.closes):
            opens = (marks or TAGS).opens
            marks = ThinkingMarks(opens=opens, closes=str(think_end_token))
        self._cuts = marks is not None
        self.engine = Engine(
            model, reads, policy, batch_size=width, thinking="auto" if marks is None else marks
        )
        self.tokenizer = self.engine.tokenizer
        self._max_gen_toks = max_gen_toks
        self._seed = seed
        self._template: dict[str, Any] = {}
        if enable_thinking is not None:
            self._template["enable_thinking"] = enable_thinking

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__") or "skipkv"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The tokenizer's template, for lm-eval's records.

        Args:
            chat_template: lm-eval's option; names of several templates are not known here.
        """
        if isinstance(chat_template, str):
            raise InputError(f"skipkv knows no chat template by name, as {chat_template!r}.")
        return str(self.tokenizer.chat_template or "") if chat_template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as text.

        Args:
            chat_history: its messages.
            add_generation_prompt: whether the model's answer begins after it.

        Raises:
            InputError: the tokenizer has no chat template.
        """
        if not self.tokenizer.chat_template:
            raise InputError(
                "The model's tokenizer has no chat template: no --apply_chat_template."
            )
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self._template,
            )
        )

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answers to requests, in their order.

        All are decoded together, each with its task's settings. A sampled one has a seed made of
        its context and of how often that came before, so that repeats differ and runs do not.

        Args:
            requests: lm-eval's, with a context and the task's `generation_kwargs`.
            disable_tqdm: show no progress.

        Raises:
            InputError: a setting is not supported, or a context cannot be decoded.
            SkipKVError: a part of the policy broke.
        """
        asked = [(str(r.args[0]), GenerationSettings.read(r.args[1])) for r in requests]
        for said in dict.fromkeys(unused for r in requests for unused in _unused(r.args[1])):
            _log.warning(said)
        repeats: Counter[str] = Counter()
        prompts = []
        for context, settings in asked:
            seed = f"{self._seed}/{repeats[context]}/{context}".encode()
            repeats[context] += 1
            prompts.append(
                Prompt(
                    self._encoded(context),
                    max_new_tokens=settings.max_new_tokens or self._max_gen_toks,
                    sampling=settings.sampling,
                    # a string may come up in the thinking, where it ends nothing
                    stop=() if self._cuts else settings.until,
                    seed=int.from_bytes(hashlib.sha256(seed).digest()[:6], "big"),
                )
            )
        answers: list[str] = [""] * len(requests)
        cut = 0
        progress = False if disable_tqdm else None
        for done in self.engine.generate(prompts, ordered=False, progress=progress):
            if done.error is not None:
                raise done.error
            cut += done.stop_reason == "length"
            answers[done.index] = self._answer(done, asked[done.index][1].until)
            self.cache_hook.add_partial(
                "generate_until", requests[done.index].args, answers[done.index]
            )
        if cut:
            _log.warning(
                "%d of %d completions were cut off at the most tokens that the task or "
                "--gen_kwargs max_gen_toks=N allows. An answer that had not begun is empty.",
                cut,
                len(requests),
            )
        return answers

    def loglikelihood(self, requests: Sequence[Any], **options: Any) -> list[tuple[float, bool]]:
        """Refused: see the error.

        Args:
            requests: lm-eval's.
            options: lm-eval's.

        Raises:
            InputError: always.
        """
        task = getattr(requests[0], "task_name", None) if requests else None
        raise InputError(
            f"The task {task or 'given'} asks for the log-likelihood of given texts. A policy acts "
            "while a model decodes, so it would change nothing there. Take a generative task, or "
            "lm-eval's own --model hf."
        )

    def loglikelihood_rolling(self, requests: Sequence[Any], **options: Any) -> list[float]:
        """Refused: see `loglikelihood`.

        Args:
            requests: lm-eval's.
            options: lm-eval's.

        Raises:
            InputError: always.
        """
        self.loglikelihood(requests)
        raise AssertionError

    def _encoded(self, context: str) -> list[int]:
        """A context's token ids, with the special tokens it lacks: a template may have set them."""
        begin = self.tokenizer.bos_token
        lacks = not (begin and context.startswith(str(begin)))
        if getattr(self.tokenizer, "chat_template", None) and not begin:
            lacks = False
        return list(self.tokenizer(context, add_special_tokens=lacks)["input_ids"])

    def _answer(self, done: Completion, until: Sequence[str]) -> str:
        """What a task sees: the text after the thinking, before the first string that ends it."""
        if not self._cuts:
            return done.text
        answer = done.answer or ""
        for string in until:
            answer = answer.partition(string)[0]
        return answer
