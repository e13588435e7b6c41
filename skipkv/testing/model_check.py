"""Does a model decode under skipkv as it decodes without? A few seconds of comparisons."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import attrs
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skipkv import presets
from skipkv.errors import SkipKVError, SkipKVWarning
from skipkv.models import synthetic_tokenizer
from skipkv.models.architecture import Architecture
from skipkv.policy import Policy
from skipkv.runtime import Engine, Sampling, attach
from skipkv.runtime.seam.hidden import layer_inputs
from skipkv.runtime.seam.lending import ATTACH, evaluating, no_gradient
from skipkv.runtime.seam.wrapped import causal_lm
from skipkv.runtime.support.checks import check_architecture
from skipkv.runtime.support.rounding import agree
from skipkv.runtime.trial import difference
from skipkv.steerers import AdditiveSteerer, SteeringVector

Verdict = Literal["same", "near", "differs", "skipped"]

# A prompt that just fits in budget + interval, and two shorter ones.
_BUDGET, _INTERVAL = 24, 8
_LENGTHS = (_BUDGET + _INTERVAL, 20, 9)
_LONG = 3 * _BUDGET
_NEW = 12


@attrs.frozen(kw_only=True)
class Finding:
    """What one comparison found.

    Args:
        name: what was compared.
        verdict: "same"; "near" where rounding in half precision explains a difference; "differs";
            or "skipped" where the comparison does not apply.
        detail: numbers or a reason, for people.
    """

    name: str
    verdict: Verdict
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.verdict:<8} {self.name}{': ' if self.detail else ''}{self.detail}"


@attrs.frozen(kw_only=True)
class ModelReport:
    """What `check_model` found; printed, it is a table for people.

    Args:
        model: the model's class and type.
        findings: one per comparison.
    """

    model: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing differs."""
        return all(finding.verdict != "differs" for finding in self.findings)

    def __str__(self) -> str:
        said = "decodes as it does by itself" if self.passed else "does not decode as by itself"
        return "\n".join([self.model, *map(str, self.findings), f"Under skipkv the model {said}."])


def check_model(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase | None = None
) -> ModelReport:
    """Compare a model's own decoding with decoding through skipkv, on random prompts.

    With the full cache the logits, and the tokens of `model.generate()`, must be the same: for a
    batch under `attach` with padding on the left, and for prompts of different length under the
    Engine. Under a budget the number of entries must be exact. Also compared are the hidden states
    that sentences and steering read, prompts fed in chunks, and recorded steps on a GPU.

    Args:
        model: a causal language model, or a wrapper around one, as for the Engine.
        tokenizer: its tokenizer; without one, invented words stand in.

    Returns:
        A report. It says where the model's decoding differs; nothing is raised for that.

    Raises:
        UnsupportedModelError: the model's architecture cannot be decoded.
        InputError: `model` is not a causal language model, or is in use.

    Example:
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> report = check_model(toy_model(), toy_tokenizer())
        >>> report.passed
        True
        >>> print(report.findings[0])
        same     logits with the full cache
    """
    inner = causal_lm(model, user="check_model")
    check_architecture(inner)
    text: Any = inner.config.get_text_config(decoder=True)
    check = _Check(inner, tokenizer or synthetic_tokenizer(text.vocab_size))
    with no_gradient(inner), evaluating(inner), warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipKVWarning)
        findings = tuple(check.findings())
    return ModelReport(
        model=f"{type(inner).__name__} ({text.model_type}, {inner.dtype} on {inner.device})",
        findings=findings,
    )


class _Differs(Exception):
    """A comparison failed."""


class _Skipped(Exception):
    """A comparison does not apply."""


class _Near(Exception):
    """A comparison found what rounding explains."""


class _Check:
    """The comparisons, on one set of prompts."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.architecture = Architecture.of(model.config)
        text: Any = model.config.get_text_config(decoder=True)
        random = torch.Generator().manual_seed(0)
        ids = torch.randint(text.vocab_size, (len(_LENGTHS) + 1, _LONG), generator=random).tolist()
        self.prompts = [row[:n] for row, n in zip(ids, _LENGTHS, strict=False)]
        self.long = ids[-1]

    def findings(self) -> Iterator[Finding]:
        """Run each comparison, whatever the others found."""
        comparisons: dict[str, Callable[[], None]] = {
            "logits with the full cache": self._logits,
            "tokens of a left-padded batch under attach": self._attached,
            "tokens of prompts of different length under the Engine": self._engine,
            "exact budget under attach": self._budget_attached,
            "exact budget under the Engine": self._budget_engine,
            "a prompt in chunks": self._chunks,
            "hidden states that enter a layer, where steering acts": self._layer_inputs,
            "sentences and steering": self._sentences,
            "steps recorded as a graph": self._recorded,
        }
        for name, comparison in comparisons.items():
            verdict: Verdict = "same"
            detail = ""
            try:
                comparison()
            except _Skipped as reason:
                verdict, detail = "skipped", str(reason)
            except _Near as reason:
                verdict, detail = "near", str(reason)
            except (_Differs, SkipKVError) as reason:
                verdict, detail = "differs", str(reason)
            yield Finding(name=name, verdict=verdict, detail=detail)
            if verdict == "differs" and comparison == self._logits:
                return  # all that follows would repeat it

    def _logits(self) -> None:
        if found := difference(self.model, by=ATTACH):
            raise _Differs(found)

    def _attached(self) -> None:
        own = self._own(self.prompts)
        with attach(self.model, presets.full()):
            self._compare(own, self._own(self.prompts))

    def _engine(self) -> None:
        self._compare(
            [self._own([prompt])[0] for prompt in self.prompts],
            self._decoded(presets.full(), self.prompts),
        )

    def _budget_attached(self) -> None:
        policy = presets.snapkv(_BUDGET, interval=_INTERVAL)
        with attach(self.model, policy) as attached:
            self._own(self.prompts)
        self._exact(attached.peak_entries[0])

    def _budget_engine(self) -> None:
        engine = self._of(presets.snapkv(_BUDGET, interval=_INTERVAL))
        done = list(engine.generate(self.prompts, max_new_tokens=_NEW, sampling=Sampling()))
        self._exact(done[0].stats.peak_entries)

    def _chunks(self) -> None:
        policy = presets.snapkv(_BUDGET, interval=_INTERVAL)
        prompts = [self.prompts[2], self.long]
        self._compare(
            self._decoded(policy, prompts), self._decoded(policy, prompts, prefill_chunk=5)
        )

    def _layer_inputs(self) -> None:
        layer = self.architecture.layers - 1
        ids = self.prompts[0]
        found = layer_inputs(self.model, ids, range(len(ids)), [layer])[:, 0]
        states = self.model.base_model(
            input_ids=torch.tensor([ids], device=self.model.device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        if states is None or len(states) <= layer:
            raise _Skipped("the model does not give its hidden states")
        if apart := agree(found.float(), states[layer][0].float().cpu(), self.model.dtype):
            raise _Differs(apart)

    def _sentences(self) -> None:
        vector = SteeringVector(
            vector=torch.ones(self.architecture.hidden_size),
            layer=self.architecture.layers - 1,
            model="a check",
        )
        policy = presets.skipkv(
            _BUDGET, interval=_INTERVAL, steering=AdditiveSteerer(vector, strength=0.1)
        )
        ends = [i for i in range(len(self.tokenizer)) if self.tokenizer.decode([i]) == "\n\n"][:1]
        prompts = [[*prompt[:-1], *(ends or prompt[-1:])] for prompt in self.prompts]
        with attach(self.model, policy, tokenizer=self.tokenizer) as attached:
            self._own(prompts)
        self._exact(attached.peak_entries[0])

    def _recorded(self) -> None:
        if self.model.device.type != "cuda":
            raise _Skipped("there is no GPU")
        policy = presets.snapkv(_BUDGET, interval=_INTERVAL)
        plain = self._decoded(policy, self.prompts, graphs=False)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", SkipKVWarning)
            recorded = self._decoded(policy, self.prompts)
        for warning in said:
            if "replayed" in str(warning.message):
                raise _Differs(str(warning.message))
        self._compare(plain, recorded)

    def _of(self, policy: Policy, **options: Any) -> Engine:
        return Engine(self.model, self.tokenizer, policy, compile=False, **options)

    def _decoded(
        self, policy: Policy, prompts: Sequence[Sequence[int]], **options: Any
    ) -> list[list[int]]:
        engine = self._of(policy, **options)
        decoded = []
        for done in engine.generate(prompts, max_new_tokens=_NEW, sampling=Sampling()):
            if done.error is not None:
                raise _Differs(str(done.error))
            decoded.append(list(done.tokens))
        return decoded

    def _own(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """What `generate()` decodes of a left-padded batch."""
        longest = max(len(prompt) for prompt in prompts)
        ids: Int[Tensor, "B T"] = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        generator: Any = self.model
        output = generator.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=_NEW,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
        )
        rows: list[list[int]] = output[:, longest:].tolist()
        return rows

    def _compare(self, own: list[list[int]], found: list[list[int]]) -> None:
        """Compare tokens row by row; after an end of sequence come only fillers."""
        pairs = [(a[: len(b)], b[: len(a)]) for a, b in zip(own, found, strict=True)]
        if all(a == b for a, b in pairs):
            return
        same = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=True))
        detail = f"{same} of {sum(len(a) for a, _ in pairs)} tokens are the same"
        if self.model.dtype in (torch.float32, torch.float64):
            raise _Differs(detail)
        raise _Near(f"{detail}; {self.model.dtype} rounds, so that near ties are decided otherwise")

    def _exact(self, peak: int) -> None:
        if peak != _BUDGET + _INTERVAL:
            raise _Differs(f"{peak} entries at most, not budget + interval, {_BUDGET + _INTERVAL}")
