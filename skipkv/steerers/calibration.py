"""A steering vector from hidden states: the difference of means, the layer, the separation."""

import math
import random
from collections.abc import Sequence

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._types import Thought
from skipkv._validators import is_a
from skipkv.errors import ConfigError, InputError
from skipkv.steerers.kind_sums import KindSums
from skipkv.steerers.separation import Separation
from skipkv.steerers.subspace import principal_directions, without
from skipkv.steerers.thought_states import ThoughtStates


@attrs.frozen(kw_only=True)
class Calibration:
    """The result of `calibrate`.

    Args:
        layer: the chosen layer.
        vector: its difference of means, from the questions that were not held out.
        layers: all layers that were compared.
        validated: per layer, the separation of questions by vectors made without them.
        held_out: per layer, the separation of the held-out questions by the vector; empty if no
            questions were held out.
        counts: thoughts of each kind that the vector is made of.
        held_out_counts: thoughts of each kind in the held-out questions.
        unstable: thoughts left out because their regenerations were too often of another kind.
    """

    layer: int
    vector: Float[Tensor, "E"] = attrs.field(repr=False)
    layers: tuple[int, ...]
    validated: tuple[Separation, ...] = attrs.field(repr=False)
    held_out: tuple[Separation, ...] = attrs.field(repr=False)
    counts: tuple[int, int, int]
    held_out_counts: tuple[int, int, int]
    unstable: int


@attrs.frozen(kw_only=True)
class Options:
    """The numeric arguments of `calibrate`. Building one checks them before any state is made.

    Args:
        stable: as in `calibrate`.
        question_directions: as in `calibrate`.
        folds: as in `calibrate`.
        held_out: as in `calibrate`.
        seed: as in `calibrate`.

    Raises:
        ConfigError: a number out of range.
    """

    stable: float | int = attrs.field(default=0.0, validator=is_a(float))
    question_directions: int = attrs.field(default=0, validator=is_a(int, least=0))
    folds: int = attrs.field(default=5, validator=is_a(int, least=2))
    held_out: float | int = attrs.field(default=0.2, validator=is_a(float))
    seed: int = attrs.field(default=0, validator=is_a(int))

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.stable <= 1:
            raise ConfigError(f"calibrate(stable={self.stable}) must be a share, from 0 to 1.")
        if not 0 <= self.held_out < 1:
            raise ConfigError(
                f"calibrate(held_out={self.held_out}) must be a share from 0 to below 1: the "
                "other questions make the vector."
            )


def calibrate(
    traces: Sequence[ThoughtStates],
    *,
    layers: Sequence[int],
    layer: int | None = None,
    stable: float | int = 0.0,
    question_directions: int = 0,
    folds: int = 5,
    held_out: float | int = 0.2,
    seed: int = 0,
) -> Calibration:
    """The steering vector of a model, from hidden states where its thoughts open.

    Per layer the vector is the mean state of execution minus the mean of all other thoughts. With
    thousands of numbers and hundreds of thoughts, a difference of means separates its own thoughts
    even if there is no real difference. So every separation here is measured on questions that the
    vector was not made of: first per layer by cross-validation, which chooses the layer, and then
    on questions held out from that choice too.

    Traces are read one at a time, three times, and only sums and projections are kept. Memory does
    not grow with the states.

    Source: SEAL (arXiv 2504.07986), section 3; options: Zhuang et al. 2026 (arXiv 2604.02113), who
    keep only stable boundaries and remove a content subspace. Differs: they find that subspace in
    states of the question alone. Here it comes from the questions' mean states at thoughts, where
    each state has the mean of its kind subtracted. So the wanted direction does not enter it from
    questions with more reflections.

    Args:
        traces: states of each trace; any sequence, such as files of a folder.
        layers: the layers whose states the traces hold, in order.
        layer: the layer to take; None takes the one that separates best.
        stable: keep only thoughts whose agreement is at least this share; 0 keeps all.
        question_directions: how many principal directions of the questions' mean states to remove
            from the vector; 0 for none. Holds a mean state per question and layer in memory.
        folds: parts into which questions are split to validate.
        held_out: share of the questions that neither makes the vector nor chooses the layer.
        seed: of the split.

    Raises:
        ConfigError: a number is out of range, or the traces do not hold `layer`.
        InputError: there are too few questions, or no thoughts of one kind.

    Example:
        >>> at_layers = torch.tensor([[[0.1, 0.2], [1.0, 0.0]], [[0.2, 0.1], [-1.0, 0.3]]])
        >>> traces = [
        ...     ThoughtStates(
        ...         question=number,
        ...         states=at_layers.repeat(3, 1, 1) + torch.randn(6, 2, 2) / 9,
        ...         kinds=torch.tensor([0, 1] * 3),
        ...     )
        ...     for number in range(10)
        ... ]
        >>> found = calibrate(traces, layers=[4, 5])
        >>> found.layer, found.vector.shape[0], found.counts
        (5, 2, (24, 24, 0))
    """
    options = Options(
        stable=stable,
        question_directions=question_directions,
        folds=folds,
        held_out=held_out,
        seed=seed,
    )
    layers = tuple(layers)
    if layer is not None and layer not in layers:
        raise ConfigError(f"calibrate(layer={layer}) must be one of the layers held: {layers}.")
    split = _split([trace.question for trace in traces], options)
    sums = _Sums(options.folds)
    unstable = 0
    for trace in traces:
        kept = trace.stable(stable)
        unstable += len(trace.kinds) - len(kept.kinds)
        if len(kept.kinds):
            sums.add(split[trace.question], kept, by_question=question_directions > 0)
    ready = sums.ready(options)
    projections, execution, validating = _project(traces, split, ready, stable)
    validated = _separations(projections[validating], execution[validating])
    held = _separations(projections[~validating], execution[~validating])
    if all(math.isnan(row.d_prime) for row in validated):
        raise InputError(
            "No layer can be validated: too few questions hold thoughts that are not execution "
            f"({_counted(ready.counts)} thoughts). Give more questions or longer traces."
        )
    best = max(range(len(layers)), key=lambda i: _ranked(validated[i]))
    chosen = best if layer is None else layers.index(layer)
    return Calibration(
        layer=layers[chosen],
        vector=ready.final[chosen].float(),
        layers=layers,
        validated=validated,
        held_out=held if sums.held_out is not None else (),
        counts=_three(ready.counts),
        held_out_counts=_three(
            torch.zeros(3, dtype=torch.long) if sums.held_out is None else sums.held_out
        ),
        unstable=unstable,
    )


_HELD_OUT = -1


def _split(questions: Sequence[int], options: Options) -> dict[int, int]:
    """The fold of each question, or `_HELD_OUT`."""
    distinct = sorted(set(questions))
    if len(distinct) < 3:
        raise InputError(
            "Calibration needs at least 3 questions, to validate and to hold out; got "
            f"{len(distinct)}. Give more."
        )
    random.Random(options.seed).shuffle(distinct)
    held = min(round(options.held_out * len(distinct)), len(distinct) - 2)
    if options.held_out > 0:
        held = max(held, 1)
    folds = min(options.folds, len(distinct) - held)
    return {
        question: _HELD_OUT if place < held else place % folds
        for place, question in enumerate(distinct)
    }


@attrs.define
class _Ready:
    """Vectors and midpoints, ready to project on."""

    counts: Int[Tensor, "3"]
    final: Float[Tensor, "layers E"]
    vectors: dict[int, Float[Tensor, "layers E"]]
    midpoints: dict[int, Float[Tensor, "layers E"]]


class _Sums:
    """The sums of each fold and, if asked for, of each question."""

    def __init__(self, folds: int) -> None:
        self._folds: list[KindSums | None] = [None] * folds
        self._questions: dict[int, tuple[int, KindSums]] = {}
        self.held_out: Int[Tensor, "3"] | None = None

    def add(self, fold: int, trace: ThoughtStates, *, by_question: bool) -> None:
        sums = KindSums.of(trace.states, trace.kinds)
        if fold == _HELD_OUT:
            self.held_out = sums.counts + (0 if self.held_out is None else self.held_out)
            return
        before = self._folds[fold]
        self._folds[fold] = sums if before is None else before + sums
        if by_question:
            known = self._questions.get(trace.question)
            self._questions[trace.question] = (fold, sums if known is None else known[1] + sums)

    def ready(self, options: Options) -> _Ready:
        total = self._total(None)
        final, middle = self._made(total, None, options.question_directions)
        ready = _Ready(total.counts, final, {_HELD_OUT: final}, {_HELD_OUT: middle})
        for fold, own in enumerate(self._folds):
            if own is None:
                continue
            others = self._total(fold)
            if others.complete:
                vector, middle = self._made(others, fold, options.question_directions)
                ready.vectors[fold], ready.midpoints[fold] = vector, middle
        return ready

    def _total(self, left_out: int | None) -> KindSums:
        """The sums of all folds but one."""
        total = None
        for fold, sums in enumerate(self._folds):
            if sums is not None and fold != left_out:
                total = sums if total is None else total + sums
        if total is None:
            if left_out is None:
                raise InputError(
                    "The traces that are not held out hold no thoughts. Give more questions or "
                    "longer traces."
                )
            own = self._folds[left_out]
            assert own is not None
            return KindSums(counts=own.counts * 0, sums=own.sums * 0)
        return total

    def _made(
        self, sums: KindSums, left_out: int | None, directions: int
    ) -> tuple[Float[Tensor, "layers E"], Float[Tensor, "layers E"]]:
        """The vectors of these sums, and the midpoints between their means."""
        means = sums.means()
        vectors = means[0] - means[1]
        if directions:
            questions = [own for fold, own in self._questions.values() if fold != left_out]
            vectors = without(
                vectors, principal_directions(_residuals(questions, means), directions)
            )
        return vectors, means.mean(dim=0)


def _residuals(
    questions: Sequence[KindSums], means: Float[Tensor, "2 layers E"]
) -> Float[Tensor, "Q layers E"]:
    """Each question's mean state, after the mean of its kind is subtracted from every state."""
    rows = []
    for own in questions:
        execution = own.counts[Thought.EXECUTION]
        others = own.counts.sum() - execution
        expected = execution * means[0] + others * means[1]
        rows.append((own.sums.sum(dim=0) - expected) / own.counts.sum())
    return torch.stack(rows)


def _project(
    traces: Sequence[ThoughtStates], split: dict[int, int], ready: _Ready, stable: float | int
) -> tuple[Float[Tensor, "N layers"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
    """Every state on the vectors made without its question.

    Returns:
        The projections, a mask of those of execution, and a mask of those that are not held out.
    """
    units = {
        fold: vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        for fold, vectors in ready.vectors.items()
    }
    layers = ready.final.shape[0]
    projections, execution = [torch.zeros(0, layers).double()], [torch.zeros(0).bool()]
    validating = [torch.zeros(0).bool()]
    for trace in traces:
        fold, kept = split[trace.question], trace.stable(stable)
        if fold not in units or not len(kept.kinds):
            continue
        centred = kept.states.double() - ready.midpoints[fold]
        projections.append(torch.einsum("nle,le->nl", centred, units[fold]))
        execution.append(kept.kinds == Thought.EXECUTION)
        validating.append(torch.full((len(kept.kinds),), fold != _HELD_OUT))
    return torch.cat(projections), torch.cat(execution), torch.cat(validating)


def _separations(
    projections: Float[Tensor, "N layers"], execution: Bool[Tensor, "N"]
) -> tuple[Separation, ...]:
    return tuple(Separation.of(column, execution) for column in projections.unbind(dim=1))


def _ranked(separation: Separation) -> float:
    """The value that ranks layers; NaN comes last."""
    return -math.inf if math.isnan(separation.d_prime) else separation.d_prime


def _three(counts: Int[Tensor, "3"]) -> tuple[int, int, int]:
    execution, reflection, transition = counts.tolist()
    return execution, reflection, transition


def _counted(counts: Int[Tensor, "3"]) -> str:
    return " + ".join(map(str, counts.tolist()))
