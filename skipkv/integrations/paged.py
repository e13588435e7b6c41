"""A policy as the object that R-KV's port to serving engines asks which tokens stay.

LMCache's worker for vLLM (experimental) and R-KV's own port ask such an object, one per request.
It sees plain tensors, so it needs neither of them.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skipkv._calls import scores_of
from skipkv._types import CacheView, needs_of
from skipkv.errors import ConfigError, InputError
from skipkv.evictors import Shared, SinkAndRecent, TopK
from skipkv.policy import Policy
from skipkv.runtime import select
from skipkv.runtime.support.checks import check_policy

__all__ = ["TokenDropAlgorithm", "dropped_spans"]


class TokenDropAlgorithm:
    """What a policy keeps of one request, by the questions that an engine with pages asks.

    The engine has one table of pages for all heads and layers, so they keep one set: that of
    `Shared(layers=True)`. It asks in this order, at every step: `should_observe_query`; if so,
    `observe_query` for each layer; `should_compact`; if so, `select_kept_positions`. It answers by
    the place of a token among those that the engine still holds. Where tokens were, this object
    remembers: make one for each request, and another if the engine reads the request anew.

    Differs: R-KV's own object adds up its layers' mean scores and takes the best. This one does the
    same with any scorer, and protects window and sinks as `Budget` says.

    Args:
        policy: with a budget in tokens, `TopK` or `SinkAndRecent`, and a scorer that reads keys,
            positions or recent queries: the engine shows nothing else.
        over: how heads and layers become one: "mean", "max" or "vote".

    Raises:
        ConfigError: a policy that the engine cannot serve.

    Example:
        >>> from skipkv import presets
        >>> algorithm = TokenDropAlgorithm(presets.streaming_llm(4, sinks=1, interval=2))
        >>> algorithm.select_kept_positions({"layer.0": torch.ones(1, 2, 6, 4)})
        tensor([0, 3, 4, 5])
    """

    def __init__(self, policy: Policy, *, over: str = "mean") -> None:
        check_policy(policy, user="TokenDropAlgorithm")
        _check(policy)
        self._policy = policy.with_(evictor=Shared(evictor=policy.evictor, over=over, layers=True))
        assert policy.budget is not None  # checked
        self._budget = policy.budget
        self._window = needs_of(policy.scorer).queries
        self._queries: dict[str, list[Tensor]] = {}
        self._positions: Int[Tensor, "L"] = torch.empty(0, dtype=torch.long)
        self._seen = 0  # tokens; without a window the newest one may go, so positions do not say

    def should_observe_query(
        self, *, num_decoded_tokens: int, num_new_tokens: int, is_genuine_decode: bool
    ) -> bool:
        """Whether the queries of this step are among those the scorer reads at the next event.

        Args:
            num_decoded_tokens: tokens decoded so far, those of this step included.
            num_new_tokens: those of this step.
            is_genuine_decode: whether it decodes, and does not read a prompt.
        """
        if not (self._window and is_genuine_decode and num_new_tokens > 0):
            return False
        interval = self._budget.interval
        before = max(0, num_decoded_tokens - num_new_tokens)
        event = (before // interval + 1) * interval
        return num_decoded_tokens > event - self._window

    def observe_query(
        self,
        layer: str | Mapping[str, Float[Tensor, "T Q D"]],
        query: Float[Tensor, "T Q D"] | None = None,
    ) -> None:
        """Take the queries of a step, of one layer or of all.

        Args:
            layer: name of the layer; or the queries of each layer by name.
            query: queries after RoPE of the step's tokens.

        Raises:
            InputError: they are not [tokens, query heads, head size].
        """
        given = layer if isinstance(layer, Mapping) else {layer: query}
        for name, found in given.items():
            if found is None or found.dim() != 3 or not len(found):
                came = "nothing" if found is None else list(found.shape)
                raise InputError(
                    f"observe_query needs queries [tokens, query heads, head size] of {name}, got "
                    f"{came}."
                )
            kept = [*self._queries.get(name, []), *found.clone().unbind()]
            self._queries[name] = kept[-self._window :]

    def should_compact(
        self,
        *,
        resident_len: int,
        num_decoded_tokens: int,
        num_new_tokens: int,
        is_genuine_decode: bool,
    ) -> bool:
        """Whether an event follows this step: every `interval` decoded tokens, over the budget.

        Args:
            resident_len: tokens that the engine holds.
            num_decoded_tokens: tokens decoded so far, those of this step included.
            num_new_tokens: those of this step.
            is_genuine_decode: whether it decodes, and does not read a prompt.
        """
        assert self._budget.tokens is not None  # checked
        interval = self._budget.interval
        before = max(0, num_decoded_tokens - num_new_tokens)
        held = min(map(len, self._queries.values()), default=0)
        return (
            is_genuine_decode
            and num_decoded_tokens // interval > before // interval
            and resident_len > self._budget.tokens
            and held >= self._window
        )

    def select_kept_positions(
        self, layer_keys: Mapping[str, Float[Tensor, "1 H L D"]]
    ) -> Int[Tensor, "K"]:
        """The places, among the tokens that the engine holds, of those that stay.

        Args:
            layer_keys: keys after RoPE of every layer, by name.

        Returns:
            Places from 0, increasing, on the device of the keys.

        Raises:
            InputError: the layers hold different numbers of tokens, the engine holds fewer than
                stayed at the last event, or queries are missing.
            PartError: the scorer broke its protocol.
        """
        shapes = {name: list(keys.shape) for name, keys in layer_keys.items()}
        first = next(iter(shapes.values()), [])
        if len(first) != 4 or first[0] != 1 or any(shape != first for shape in shapes.values()):
            raise InputError(
                "select_kept_positions needs keys [1, H, L, D] of one shape from every layer, got "
                f"{shapes}. Layers with windows or states of their own are not among them."
            )
        keys = torch.cat(list(layer_keys.values()))  # [layers H L D]
        layers, heads, length, _ = keys.shape
        positions = self._grown(length, keys.device)
        kept = select(
            keys,
            keys.new_zeros(1).expand_as(keys),  # values are not read: see `_check`
            self._observed(list(layer_keys), heads),
            policy=self._policy,
            positions=positions.expand(layers, heads, -1),
            layers=torch.arange(layers),
        )[0, 0]
        self._positions, self._seen = kept, int(positions[-1]) + 1
        return torch.searchsorted(positions, kept)

    def _grown(self, length: int, device: torch.device) -> Int[Tensor, "L"]:
        """The positions of the tokens that the engine holds: those that stayed, and newer ones."""
        known = self._positions.to(device)
        if length < len(known):
            raise InputError(
                f"The engine holds {length} tokens, and {len(known)} stayed at the last event. It "
                "has read the request anew: make another TokenDropAlgorithm for it."
            )
        newer = torch.arange(self._seen, self._seen + length - len(known), device=device)
        return torch.cat([known, newer])

    def _observed(self, names: list[str], heads: int) -> Float[Tensor, "R H G W D"] | None:
        if not self._window:
            return None
        missing = [n for n in names if len(self._queries.get(n, [])) < self._window]
        if missing:
            raise InputError(
                f"select_kept_positions needs the newest {self._window} queries of {missing[0]}. "
                "Call observe_query where should_observe_query says so."
            )
        rows = [torch.stack(self._queries[name], dim=1) for name in names]  # [Q W D]
        if len({row.shape for row in rows}) > 1 or len(rows[0]) % heads:
            came = {name: len(row) for name, row in zip(names, rows, strict=True)}
            raise InputError(
                f"observe_query was given {came} query heads, and the keys have {heads} heads. "
                "Each KV head needs equally many query heads: show all of them, of all layers."
            )
        grouped: Tensor = torch.stack(rows).unflatten(1, (heads, -1))
        return grouped


def dropped_spans(kept: Int[Tensor, "K"], tokens: int) -> list[tuple[int, int]]:
    """What is dropped, as spans [start, end) of places: for engines that are told what goes.

    Args:
        kept: places that stay, increasing.
        tokens: how many there are.

    Example:
        >>> dropped_spans(torch.tensor([0, 3, 4, 7]), 9)
        [(1, 3), (5, 7), (8, 9)]
    """
    places = [-1, *kept.tolist(), tokens]
    return [(a + 1, b) for a, b in pairwise(places) if b > a + 1]


def _check(policy: Policy) -> None:
    """Raise `ConfigError` unless an engine can serve a policy."""
    budget, needs = policy.budget, policy.needs
    if budget is None or budget.tokens is None or budget.prompt or budget.layers:
        raise ConfigError(
            f"TokenDropAlgorithm: the policy has {budget or 'no budget'}. An engine with pages "
            "needs a budget in tokens, the same in all layers, and does not say where the prompt "
            "ends: Budget(tokens=..., prompt=False)."
        )
    if policy.steerer.layer is not None:
        raise ConfigError(
            f"TokenDropAlgorithm: the policy steers with {policy.steerer!r}, and the engine does "
            "not ask for that. Leave it out: policy.with_(steerer=NoSteering())."
        )
    if not isinstance(policy.evictor, TopK | SinkAndRecent):
        raise ConfigError(
            f"TokenDropAlgorithm: the policy's evictor is {policy.evictor!r}. All heads and layers "
            "keep one set here, the best by their joined scores. Take evictor=TopK()."
        )
    unmet = {
        "attention": needs.attention,
        "records": bool(needs.records),
        "rotary": needs.rotary,
        "sentences": needs.sentences,
    }
    if missing := [name for name, needed in unmet.items() if needed]:
        raise ConfigError(
            f"TokenDropAlgorithm: the policy needs {', '.join(missing)}, and the engine shows keys "
            "and recent queries alone. Take a scorer that reads no more, as that of presets.rkv."
        )
    if needs.queries > budget.interval:
        raise ConfigError(
            f"TokenDropAlgorithm: the scorer reads {needs.queries} queries, and an event comes "
            f"every {budget.interval} tokens. Budget(interval=) must be at least as large."
        )
    shape = (1, 1, needs.queries + 24, 8)
    keys, one, other = (torch.randn(shape, generator=_generator(n)) for n in range(3))
    answers = [
        scores_of(policy.scorer, _probe(keys, values, needs.queries)) for values in (one, other)
    ]
    if not torch.equal(*answers):
        raise ConfigError(
            f"TokenDropAlgorithm: {policy.scorer!r} reads values, or is random, and the engine "
            "shows keys and recent queries alone. Take a scorer that reads no more."
        )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _probe(keys: Tensor, values: Tensor, window: int) -> CacheView:
    """Entries of one head, to see what a scorer reads."""
    length = keys.shape[2]
    positions = torch.arange(length).expand(1, 1, -1)
    return CacheView(
        keys=keys,
        values=values,
        positions=positions,
        protected=positions >= length - window,
        seen=torch.tensor([length]),
        sequences=torch.tensor([0]),
        queries=keys[:, :, None, :window] if window else None,
    )
