"""The hidden states of one trace, for calibration."""

from typing import Any

import attrs
from jaxtyping import Float, Int
from torch import Tensor

from skipkv._validators import is_a
from skipkv.errors import ConfigError


@attrs.frozen(kw_only=True)
class ThoughtStates:
    """The hidden states at the tokens that open the thoughts of one trace.

    Args:
        question: number of the question that the trace answers. Traces with the same number stay
            in one part when traces are split.
        states: per thought, the input of each layer at the paragraph end before it.
        kinds: the `Thought` of each.
        agreement: share of the regenerations, from the same place, that gave a thought of the same
            kind; None if nothing was regenerated.

    Raises:
        ConfigError: the numbers of states, kinds and agreements differ.
    """

    question: int = attrs.field(validator=is_a(int))
    states: Float[Tensor, "N layers E"] = attrs.field(repr=False)
    kinds: Int[Tensor, "N"] = attrs.field()
    agreement: Float[Tensor, "N"] | None = attrs.field(default=None)

    @kinds.validator
    def _one_per_state(self, _: object, kinds: Any) -> None:
        rows = self.states.shape[0]
        if self.states.ndim != 3 or kinds.shape != (rows,):
            raise ConfigError(
                "ThoughtStates(states=[N, layers, E], kinds=[N]) must agree on N, got "
                f"{list(self.states.shape)} and {list(kinds.shape)}."
            )

    @agreement.validator
    def _one_each(self, _: object, agreement: Any) -> None:
        if agreement is not None and agreement.shape != self.kinds.shape:
            raise ConfigError(
                f"ThoughtStates(agreement=...) must have a number for each of the "
                f"{len(self.kinds)} thoughts, got {len(agreement)}."
            )

    def stable(self, least: float | int) -> "ThoughtStates":
        """The thoughts whose agreement is at least `least`; all of them if that is 0.

        Raises:
            ConfigError: nothing was regenerated.
        """
        if least == 0:
            return self
        if self.agreement is None:
            raise ConfigError(
                f"Thoughts with an agreement of at least {least} are wanted, but "
                "ThoughtStates(agreement=...) is None. Regenerate the thoughts, or use 0."
            )
        kept = self.agreement >= least
        return ThoughtStates(
            question=self.question,
            states=self.states[kept],
            kinds=self.kinds[kept],
            agreement=self.agreement[kept],
        )
