"""Decoder layers compiled for decode steps, in which a layer has one column of input.

A layer is some thirty small operations around four matrix products. Compiled, most of these become
a few fused ones. The cache and the attention stay outside the compiler, so that a policy works as
it does without it.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from skipkv._calls import is_out_of_memory
from skipkv.errors import ConfigError, SkipKVError, SkipKVWarning
from skipkv.models.architecture import decoder_layers
from skipkv.runtime.seam.functions import stay_uncompiled

Compile = bool | str
"""Whether decoder layers are compiled; "auto": on CUDA. Another text is a backend of torch's."""

# The largest ||compiled - plain|| / ||plain|| of logits that rounding explains: fused operations
# round less often. A wrong layer or a missing one gives about 1.
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}
_HALF_ROUNDING = 0.2
# Compilations of one piece of code that torch allows. It needs one for every kind of shape, dtype
# and layer; beyond the limit it goes on without compiling.
_LIMIT = 64


def compiled_layers(model: PreTrainedModel, asked: Compile) -> "CompiledLayers | None":
    """The compiled layers of a model, where they are asked for.

    Args:
        model: the model that decodes.
        asked: as `Engine(compile=...)`.

    Raises:
        ConfigError: `asked` is neither a truth value nor "auto" nor a backend.
    """
    if asked == "auto":
        asked = model.device.type == "cuda"
    if isinstance(asked, bool):
        return CompiledLayers(model) if asked else None
    known = torch.compiler.list_backends(exclude_tags=()) if isinstance(asked, str) else ()
    if asked not in known:
        raise ConfigError(
            f"Engine(compile={asked!r}) must be True, False, 'auto' or a backend of "
            f"torch.compile: {', '.join(known) or 'a text'}."
        )
    return CompiledLayers(model, backend=asked)


class CompiledLayers:
    """The decoder layers of a model, compiled when they are first used.

    All layers share their compilations: the first layer's shapes are fixed numbers, and the second
    layer makes the number of the layer a variable. Likewise the second number of sequences makes
    that number a variable.

    The first step of every number of sequences is done twice: compiled, and as the model itself
    does it, whose result counts. If the compiler fails, or if the logits differ by more than
    rounding, a warning says so once, and steps are not compiled from then on.

    The model's classes and weights stay as they are. Only while a compiled step runs, its layers
    have a `forward` of their own.

    Args:
        model: a causal language model with a list of decoder layers.
        backend: of `torch.compile`.
    """

    def __init__(self, model: PreTrainedModel, *, backend: str = "inductor") -> None:
        self._model = model
        self._backend = backend
        self._forwards: list[tuple[dict[str, Any], Callable[..., Any]]] = []
        self._trusted: set[int] = set()
        self.failed = False

    def trusts(self, sequences: int) -> bool:
        """Whether a step of so many sequences has given what the model itself gives."""
        return sequences in self._trusted

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Within this context the layers' `forward` is the compiled one."""
        forwards = self._forwards or self._compile()
        import torch._dynamo.config as config

        # The number of a layer is an attribute, which would otherwise be compiled in.
        with config.patch(allow_unspec_int_on_nn_module=True, recompile_limit=_LIMIT):
            try:
                for attributes, forward in forwards:
                    attributes["forward"] = forward
                yield
            finally:
                for attributes, _ in forwards:
                    attributes.pop("forward", None)

    def attempt(self, logits: Callable[[], Float[Tensor, "B V"]]) -> Float[Tensor, "B V"] | None:
        """The logits of a step with compiled layers; None, after a warning, if that fails.

        Args:
            logits: does the step.
        """
        try:
            with self.exchanged():
                return logits().clone()
        except SkipKVError:
            raise
        except Exception as cause:
            if is_out_of_memory(cause):
                raise
            text = " ".join(str(cause).split())
            self._give_up(f"compiling them raised {type(cause).__name__}: {text[:300]}")
            return None

    def compare(
        self, tried: Float[Tensor, "B V"], plain: Float[Tensor, "B V"], dtype: torch.dtype
    ) -> None:
        """Trust steps of this number of sequences from now on, or none.

        Args:
            tried: the logits of a step with compiled layers.
            plain: the logits that the model itself gives.
            dtype: of the model.
        """
        finite = plain.isfinite().all(dim=-1, keepdim=True)  # other rows end with an error anyway
        expected = torch.where(finite, plain, 0).double()
        apart = (torch.where(finite, tried, 0).double() - expected).norm()
        difference = float(apart / expected.norm().clamp_min(1e-30))
        if difference <= _ROUNDING.get(dtype, _HALF_ROUNDING):  # not so if it is NaN
            self._trusted.add(len(plain))
        else:
            self._give_up(f"they gave other logits, {difference:.2g} apart of the logits' norm")

    def _compile(self) -> list[tuple[dict[str, Any], Callable[..., Any]]]:
        """A compiled `forward` for every layer, beside the attributes of the layer."""
        layers: Any = decoder_layers(self._model)
        if any("forward" in vars(layer) for layer in layers):
            raise RuntimeError(
                "a layer has a forward of its own already, as accelerate gives it to layers that "
                "it moves between devices"
            )
        stay_uncompiled()
        compiled = {
            kind: torch.compile(kind.forward, backend=self._backend)
            for kind in {type(layer) for layer in layers}
        }
        self._forwards = [(vars(layer), partial(compiled[type(layer)], layer)) for layer in layers]
        return self._forwards

    def _give_up(self, why: str) -> None:
        self.failed = True
        warnings.warn(
            f"Decoder layers are not compiled: {why}. Steps are slower without, and decode the "
            "same. Engine(compile=False) does not try.",
            SkipKVWarning,
            stacklevel=2,
        )
