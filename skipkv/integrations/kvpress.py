"""kvpress both ways: one of its presses as a scorer, and a scorer of skipkv as a press.

It needs the extra `kvpress`, whose transformers is older than the newest that skipkv runs with.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, NoReturn

import attrs
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import rotate_half

from skipkv._calls import scores_of
from skipkv._protocols import require
from skipkv._types import CacheView, Needs, Rotation, needs_of
from skipkv.errors import ConfigError, InputError, MissingExtraError
from skipkv.runtime.support.rotary import rotation_of
from skipkv.scorers import Scorer, ScorerAlgebra

try:
    from kvpress import BasePress, ScorerPress
    from kvpress.utils import compute_n_kept, get_prerope_query_states
except ModuleNotFoundError as cause:
    if cause.name != "kvpress":
        raise
    raise MissingExtraError(
        "kvpress is not installed. It comes with the extra `kvpress`, in an environment of its own "
        "(its transformers is an older one): pip install 'skipkv[kvpress]'."
    ) from cause

__all__ = ["PressFromScorer", "ScorerFromPress"]

# Methods in which a press may do more than give scores.
_ACTS = {
    "compress": ScorerPress,
    "forward_hook": BasePress,
    "post_init_from_model": BasePress,
    "__call__": BasePress,
}
_PROBED = (1, 2, 512, 16)  # batch, heads, entries and head size of the entries a press is tried on


@attrs.frozen
class ScorerFromPress(ScorerAlgebra):
    """The score of a kvpress `ScorerPress` that reads keys, values or received attention.

    The press is tried when the scorer is made: it is refused if it reads more, or if its score is
    not a function of what it reads. It sees one row at a time, as a batch of one, with the entries
    that are cached; one head at a time where the heads hold different numbers and do not look at
    each other. Its `compression_ratio` is not used: the policy has a budget.

    Of attention it may read the sum over queries, `attentions.sum(2)`, and nothing else. That is
    `view.attention`, with the query heads of a KV head added up.

    Differs: keys and values are shown in float32, whatever the model's.

    Args:
        press: the press.

    Raises:
        ConfigError: the press does more than give scores, or reads the module, hidden states, the
            forward pass or its compression ratio; or two calls give different scores.
    """

    press: Any
    needs: Needs = attrs.field(init=False, repr=False, eq=False)
    mixes_heads: bool = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        _check_press(self.press)
        generator = torch.Generator().manual_seed(0)
        keys, values = (torch.randn(_PROBED, generator=generator) for _ in range(2))
        received = _Received(self.press, torch.rand(_PROBED[:3], generator=generator))
        answers = []
        for ratio in (0.25, 0.75):
            tried = copy.copy(self.press)
            tried.compression_ratio = ratio
            try:
                answers.append(_asked(tried, keys, values, received))
                last = _asked(tried, keys[:, -1:], values[:, -1:], received.of(-1))
            except ConfigError:
                raise
            except Exception as error:  # of a press that may do anything
                reason = " ".join(str(error).split())
                _refuse(self.press, f"cannot be asked alone: {type(error).__name__}: {reason}")
        if not (isinstance(answers[0], Tensor) and answers[0].shape == _PROBED[:3]):
            _refuse(self.press, "does not return a tensor [batch, KV heads, entries]")
        if not torch.equal(*answers):
            _refuse(
                self.press,
                "gives other scores at another compression_ratio, or at random. Give it a seed if "
                "it takes one",
            )
        alone = torch.allclose(last, answers[-1][:, -1:])
        object.__setattr__(self, "needs", Needs(attention=received.was_read))
        object.__setattr__(self, "mixes_heads", not alone)

    def score(self, view: CacheView) -> Float[Tensor, "R H L"]:
        """The scores of the press, row by row.

        Args:
            view: the view.

        Raises:
            InputError: the heads of a row hold different numbers of entries, and the press looks
                at all heads together.
        """
        scores = torch.zeros(view.positions.shape, device=view.positions.device)
        for row, counts in enumerate(view.occupied.sum(dim=-1).tolist()):
            even = len(set(counts)) == 1
            if not even and self.mixes_heads:
                raise InputError(
                    f"{self!r} looks at all heads together, and here they hold different numbers "
                    "of entries. Take an evictor that keeps as many of each head."
                )
            heads = [slice(None)] if even else [slice(h, h + 1) for h in range(len(counts))]
            for some in heads:
                count = counts[some][0]
                if count:
                    scores[row, some, :count] = self._of(view, row, some, count)
        return scores

    def _of(self, view: CacheView, row: int, heads: slice, count: int) -> Float[Tensor, "h L"]:
        """The scores of heads of a row that hold `count` entries each."""

        def shown(tensor: Tensor) -> Tensor:
            return tensor[row : row + 1, heads, :count]

        received = None
        if view.attention is not None and self.needs.attention:
            received = _Received(self.press, shown(view.attention))
        keys, values = shown(view.keys).float(), shown(view.values).float()
        return _asked(self.press, keys, values, received)[0].float()


def _check_press(press: Any) -> None:
    if isinstance(press, BasePress) and not isinstance(press, ScorerPress):
        within = getattr(press, "base_press", getattr(press, "press", None))
        raise ConfigError(
            f"ScorerFromPress takes a kvpress ScorerPress, and {type(press).__name__} is none: a "
            "press that wraps others or changes entries does more than give scores."
            + (f" Pass the {type(within).__name__} inside." if within is not None else "")
        )
    if not isinstance(press, ScorerPress):
        raise ConfigError(f"ScorerFromPress takes a kvpress ScorerPress, got {press!r}.")
    for name, home in _ACTS.items():
        if getattr(type(press), name) is not getattr(home, name):
            _refuse(press, f"has a {name} of its own, so it does more than give scores")


def _asked(
    press: Any, keys: Tensor, values: Tensor, received: "_Received | None"
) -> Float[Tensor, "1 H L"]:
    """The scores of a press, to which all else that a press is shown is closed."""
    scores: Tensor = press.score(
        _Closed(press, "the module"),
        _Closed(press, "the hidden states"),
        keys,
        values,
        received,
        _Closed(press, "the arguments of the forward pass"),
    )
    return scores


def _refuse(press: Any, reason: str) -> NoReturn:
    raise ConfigError(
        f"ScorerFromPress: {type(press).__name__} {reason}. Take a press whose score reads keys, "
        "values or the sum of the attention alone; docs/methods.md has the methods of skipkv's own."
    )


class _Closed:
    """Stands for what a press cannot be shown; whatever is read of it raises an error."""

    def __init__(self, press: Any, name: str) -> None:
        self._press, self._name = press, name

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        _refuse(self._press, f"reads {self._name} ({name}), which a scorer does not see")

    def __getitem__(self, key: Any) -> NoReturn:
        _refuse(self._press, f"reads {self._name} ({key!r}), which a scorer does not see")


class _Received(_Closed):
    """Stands for attention weights [1, H, T, L], of which only the sum over queries exists."""

    def __init__(self, press: Any, total: Float[Tensor, "1 H L"]) -> None:
        super().__init__(press, "attention weights")
        self._total = total
        self.was_read = False

    def of(self, head: int) -> "_Received":
        return _Received(self._press, self._total[:, head, None])

    @property
    def device(self) -> torch.device:
        return self._total.device

    @property
    def dtype(self) -> torch.dtype:
        return self._total.dtype

    def sum(self, dim: int | None = None) -> Float[Tensor, "1 H L"]:
        if dim not in (2, -2):
            _refuse(
                self._press, f"sums attention weights over dimension {dim}, and not over queries"
            )
        self.was_read = True
        return self._total


@dataclasses.dataclass
class PressFromScorer(ScorerPress):  # type: ignore[misc]
    """A press that compresses a prompt by the scores of a skipkv scorer.

    It has what the scorer needs: the newest queries, worked out from hidden states as kvpress'
    SnapKVPress does; the sum of the attention, of a model with `attn_implementation="eager"`; the
    rotation of positions. It reads a prompt in one pass without padding. While decoding, entries
    that are no longer there have shifted the others, so it refuses DecodingPress: decode with
    skipkv's Engine or attach. `compression_ratio` is that of every press, the share to remove.

    Args:
        scorer: the scorer.
        window: most recent tokens, always kept.
        sinks: first tokens, always kept.

    Raises:
        ConfigError: the scorer needs sentences or records, or more queries than the window keeps.
        ProtocolError: it is not a scorer.
    """

    scorer: Scorer = dataclasses.field(kw_only=True)
    window: int = dataclasses.field(default=8, kw_only=True)
    sinks: int = dataclasses.field(default=0, kw_only=True)
    _rotation: Rotation | None = dataclasses.field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scorer, Scorer, "PressFromScorer.scorer")
        needs = needs_of(self.scorer)
        if needs.sentences or needs.records:
            raise ConfigError(
                f"PressFromScorer: the scorer has {needs}, and a press knows no sentences and no "
                "records. Decode with skipkv's Engine or attach."
            )
        if needs.queries > self.window:
            raise ConfigError(
                f"PressFromScorer(window={self.window}) must be at least {needs.queries}: the "
                "scorer observes so many queries and leaves their entries unscored."
            )

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Read the rotation of the model's positions, if the scorer needs it.

        Args:
            model: the model.

        Raises:
            UnsupportedModelError: the model has none that skipkv knows.
        """
        if needs_of(self.scorer).rotary:
            self._rotation = rotation_of(model, windows=True)  # a press sees all layers

    def score(
        self,
        module: Any,
        hidden_states: Float[Tensor, "B T E"],
        keys: Float[Tensor, "B H L D"],
        values: Float[Tensor, "B H L D"],
        attentions: Float[Tensor, "B Q T L"] | None,
        kwargs: Mapping[str, Any],
    ) -> Float[Tensor, "B H L"]:
        """The scorer's scores; infinite where an entry is protected.

        Args:
            module: the attention layer.
            hidden_states: what enters it.
            keys: keys after RoPE.
            values: values.
            attentions: attention weights, if the model gives them.
            kwargs: the arguments of the layer's forward pass.

        Raises:
            InputError: it is not a whole prompt, it is padded, no more is kept than protected, or
                the scorer needs attention weights and the model gives none.
            PartError: the scorer broke its protocol.
        """
        needs = needs_of(self.scorer)
        batch, heads, length, _ = keys.shape
        _check_prompt(hidden_states, length, kwargs)
        positions = torch.arange(length, device=keys.device).expand(batch, heads, length)
        protected = (positions < self.sinks) | (positions >= length - self.window)
        kept = compute_n_kept(length, self.compression_ratio)
        if kept <= int(protected[0, 0].sum()):
            raise InputError(
                f"PressFromScorer(compression_ratio={self.compression_ratio}) keeps {kept} of "
                f"{length} tokens, no more than the window and sinks it protects ({self.window} + "
                f"{self.sinks}). Lower the ratio or shrink them."
            )
        received = None
        if needs.attention:
            if attentions is None:
                raise InputError(
                    "PressFromScorer: the scorer needs attention weights, and the model gives none."
                    ' Load it with attn_implementation="eager".'
                )
            received = attentions.float().sum(dim=2).view(batch, heads, -1, length).sum(dim=2)
        view = CacheView(
            keys=keys,
            values=values,
            positions=positions,
            protected=protected,
            seen=torch.full((batch,), length, device=keys.device),
            sequences=torch.arange(batch, device=keys.device),
            layers=torch.full((batch,), int(module.layer_idx), device=keys.device),
            depth=int(module.config.num_hidden_layers),
            queries=_queries(module, hidden_states, heads, needs.queries, kwargs),
            attention=received,
            rotation=self._rotation,
        )
        with torch.no_grad():
            return scores_of(self.scorer, view).masked_fill(protected, torch.inf)


def _check_prompt(hidden_states: Tensor, length: int, kwargs: Mapping[str, Any]) -> None:
    """Raise unless the pass has read a whole prompt, from its first token, without padding."""
    read = kwargs["cache_position"]
    if hidden_states.shape[1] != length or len(read) != length or int(read[0]) != 0:
        raise InputError(
            f"PressFromScorer sees {length} entries after a pass over {len(read)} tokens, from "
            f"token {int(read[0])} on: it compresses a prompt that is read in one pass, and does "
            "not know the positions of what another press left. Use it alone, and decode under a "
            "policy with skipkv's Engine or attach."
        )
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.dim() == 4:
        last = mask[:, :, -1]  # what the newest token attends to: everything but padding
        mask = last if last.dtype == torch.bool else last >= 0
    if mask is not None and not bool(mask.all()):
        raise InputError(
            "PressFromScorer: the prompts of the batch are padded, so the cache holds entries that "
            "are no tokens. Compress prompts of one length together, or one by one."
        )


def _queries(
    module: Any, hidden_states: Tensor, heads: int, count: int, kwargs: Mapping[str, Any]
) -> Float[Tensor, "B H G W D"] | None:
    """The newest queries after RoPE, grouped by KV head, at the scale that scorers assume."""
    if not count:
        return None
    queries = get_prerope_query_states(module, hidden_states[:, -count:])  # [B Q W D]
    cos, sin = (t[:, None, -count:] for t in kwargs["position_embeddings"])
    queries = queries * cos + rotate_half(queries) * sin
    factor = float(module.scaling) * queries.shape[-1] ** 0.5
    grouped: Tensor = (queries * factor).unflatten(1, (heads, -1))
    return grouped
