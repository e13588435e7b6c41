"""Applying a steerer: the state of each sequence, and the hook that adds the delta."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skipkv._calls import broken
from skipkv._types import SteeringContext, Thought
from skipkv.errors import ConfigError, PartError, SkipKVWarning, UnsupportedModelError
from skipkv.runtime.parts import checked
from skipkv.runtime.results.observers import Steered
from skipkv.runtime.text.marks import Marks, follow
from skipkv.runtime.text.thinking import ThinkingMarks
from skipkv.runtime.text.token_text import TokenText
from skipkv.steerers import Steerer


class Steering:
    """What a steerer needs to know of each sequence: whether it is thinking, and its thoughts.

    This state is updated on the device, so that a step does not wait. If the model does not mark
    its thinking, all generated text counts as thinking. A prompt that ends a paragraph inside an
    open think block is steered at its last token, as in the published code: the next token opens a
    thought.
    """

    def __init__(
        self,
        steerer: Steerer,
        *,
        sequences: int,
        vocabulary: int,
        text: TokenText,
        thinking: ThinkingMarks | None,
        device: torch.device | str,
        watched: bool = False,
    ) -> None:
        self._steerer = steerer
        self._acts: list[Steered] | None = [] if watched else None
        self._act: Steered | None = None  # of the pass under way
        self._looks = False  # whether the host reads what the pass under way computes anyway
        self._asked = False  # whether the layer's hook ran in the pass under way
        self._thoughts = torch.zeros(sequences, len(Thought), dtype=torch.long, device=device)
        self._thinking = torch.zeros(sequences, dtype=torch.bool, device=device)
        self._marks = Marks.of(text, vocabulary, thinking)
        self._ends, self._breaks, self._steps, self._first_places, self._opens, self._closes = (
            part.to(device)
            for part in (
                self._marks.ends,
                self._marks.breaks,
                self._marks.steps,
                self._marks.first,
                self._marks.opens,
                self._marks.closes,
            )
        )
        self._marked = self._marks.thinks
        # The places of marks at which the newest tokens of each sequence end.
        self._progress = torch.zeros(
            sequences, len(self._first_places), dtype=torch.bool, device=device
        )
        # The largest number so far in a delta that was added to finite states, as far as noted.
        self._largest = torch.zeros(sequences, device=device)
        self._context: SteeringContext | None = None
        self._prompt_context: SteeringContext | None = None  # of the last pass over prompts
        self._first = 0  # the lane of the context's first row
        self._failed: dict[int, PartError] = {}

    def start(self, number: int) -> None:
        """Begin a new sequence in a lane."""
        self._thoughts[number] = 0
        self._thinking[number] = not self._marked
        self._progress[number] = False
        self._largest[number] = 0

    def put(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Copy the lanes `sources` to the lanes `targets`; all are read before any is written."""
        for known in self._states():
            known[targets] = known[sources]

    def save(self, lane: int) -> list[Tensor]:
        """A copy of a lane's state, which `load` writes into any lane."""
        return [known[lane].clone() for known in self._states()]

    def load(self, lane: int, saved: Sequence[Tensor]) -> None:
        """Write a saved state into a lane."""
        for known, copy in zip(self._states(), saved, strict=True):
            known[lane] = copy

    def _states(self) -> tuple[Tensor, ...]:
        return self._thoughts, self._thinking, self._progress, self._largest

    def count(self, number: int, thoughts: Int[Tensor, "S"]) -> None:
        """Set the counts of a sequence's thoughts; called at events."""
        kinds = torch.arange(len(Thought), device=thoughts.device)
        self._thoughts[number] = (thoughts[:, None] == kinds).sum(dim=0)  # no wait for the device

    def read_prompt(self, number: int, ids: Sequence[int]) -> None:
        """Take a part of the prompt: it may open or close the think block.

        Another special token closes it as well: a new message begins.
        """
        if not self._marked or not ids:
            return
        tokens = torch.tensor(ids, device=self._ends.device)
        steps, carried = self._steps[tokens], self._progress[number][None]
        progress = torch.zeros_like(steps)
        for _ in range(self._marks.longest):  # one place of a mark further each time
            before = torch.cat([carried, progress[:-1]])
            progress = follow(before, steps, self._first_places)
        opened = (progress & self._opens).any(dim=-1)
        turns = opened | (progress & self._closes).any(dim=-1) | self._breaks[tokens]
        last = (turns * torch.arange(1, len(ids) + 1, device=turns.device)).max()
        opened = torch.cat([self._thinking[number][None], opened])
        self._thinking[number] = opened.index_select(0, last[None])[0]
        self._progress[number] = progress[-1]

    def begin_prompt(
        self,
        first: int,
        stretches: Sequence[Sequence[int]],
        ended: Sequence[bool],
        positions: Int[Tensor, "B"],
    ) -> None:
        """Begin a pass over prompts.

        Args:
            first: the lane of the first row.
            stretches: the tokens of each row; they lie in its last columns.
            ended: whether they end the row's prompt.
            positions: positions of the last column.
        """
        self._looks = False
        for row, ids in enumerate(stretches):
            self.read_prompt(first + row, ids)
        at_delimiter = [
            end and len(ids) > 0 and self._marks.ends_paragraph(ids[-1])
            for ids, end in zip(stretches, ended, strict=True)
        ]
        self._prompt_context = None
        if not any(at_delimiter):  # known on the host
            return
        self._context = self._prompt_context = self._standing(
            first, torch.tensor(at_delimiter, device=self._ends.device), positions
        )

    def ended_thought(self) -> bool:
        """Whether the last pass over prompts was steered as the end of a paragraph of thinking.

        The call waits for the device.
        """
        context = self._prompt_context
        return context is not None and bool((context.at_delimiter & context.thinking).any())

    def begin(
        self,
        first: int,
        ids: Int[Tensor, "B 1"],
        positions: Int[Tensor, "B 1"],
        *,
        known: Sequence[int] | None,
    ) -> None:
        """Begin a decode step of the sequences from `first` on.

        Args:
            first: the lane of the first row.
            ids: the tokens.
            positions: positions of the tokens.
            known: the tokens again, if the host has them. A steerer acts only where a token ends a
                paragraph: without such a token the step skips the steerer.
        """
        self._looks = known is not None
        if self._marked and (known is None or not self._marks.single or self._marks.turn_in(known)):
            rows = slice(first, first + ids.shape[0])
            thinking, progress = self._thinking[rows], self._progress[rows]
            steps = self._steps.index_select(0, ids[:, 0])
            progress.copy_(follow(progress, steps, self._first_places))
            opened, closed = ((progress & at).any(dim=-1) for at in (self._opens, self._closes))
            thinking.copy_((thinking | opened) & ~closed)
        if known is None or self._marks.paragraph_in(known):
            self._context = self._standing(
                first, self._ends.index_select(0, ids[:, 0]), positions[:, 0]
            )

    def _standing(
        self, first: int, at_delimiter: Bool[Tensor, "B"], positions: Int[Tensor, "B"]
    ) -> SteeringContext:
        self._first = first
        self._asked, self._act = False, None  # a pass before may have failed
        rows = slice(first, first + at_delimiter.shape[0])
        return SteeringContext(
            at_delimiter=at_delimiter,
            thinking=self._thinking[rows],
            thoughts=self._thoughts[rows],
            positions=positions,
        )

    def end(self) -> dict[int, PartError]:
        """End the step; returns the steerer's errors in it, by lane.

        Raises:
            UnsupportedModelError: there was something to steer, and the layer's hook was not run.
        """
        context, self._context = self._context, None
        asked, self._asked = self._asked, False
        if context is not None and not asked:
            raise UnsupportedModelError(
                f"Layer {self._steerer.layer} was not steered: the model's own code calls its "
                "layers without their hooks."
            )
        if self._acts is not None and self._act is not None:
            self._acts.append(self._act)
            self._act = None
        failed, self._failed = self._failed, {}
        return failed

    def fault(self, number: int) -> PartError | None:
        """The steerer's error if it made a sequence's hidden state NaN or infinite; else None.

        The call waits for the device.

        Args:
            number: the lane of the sequence.
        """
        if self._largest[number].isfinite():
            return None
        return broken(
            self._steerer,
            ".delta returned NaN or infinite numbers. A delta must be finite where `hidden` is.",
        )

    def hook(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """A forward pre-hook of the steered layer: adds the delta to the newest column."""
        context, self._asked = self._context, True
        if context is None:
            return None
        if args:
            return (self._steered(args[0], context), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._steered(kwargs["hidden_states"], context)}

    def _steered(
        self, hidden: Float[Tensor, "B T E"], context: SteeringContext
    ) -> Float[Tensor, "B T E"]:
        newest = hidden[:, -1]
        delta, faults = checked.delta(self._steerer, newest, context)
        for row, error in faults.items():
            self._failed[self._first + row] = error
        if not self._looks or not math.isfinite(delta.sum(dtype=torch.float32)):
            self._note_largest(newest, delta)
        if self._acts is not None:
            strength = torch.linalg.vector_norm(delta, dim=-1, dtype=torch.float32)
            # a copy: recorded steps count in place
            positions = context.positions.clone()
            self._act = Steered(positions=positions, strength=strength)
        steered = (newest + delta)[:, None]
        return steered if hidden.shape[1] == 1 else torch.cat([hidden[:, :-1], steered], dim=1)

    def _note_largest(self, newest: Float[Tensor, "B E"], delta: Float[Tensor, "B E"]) -> None:
        """Keep the largest number of the deltas, unless the host saw that all are finite."""
        largest = self._largest[self._first : self._first + newest.shape[0]]
        came, added = (
            torch.linalg.vector_norm(states, torch.inf, dim=-1, dtype=torch.float32)
            for states in (newest, delta)
        )
        torch.where(came < torch.inf, torch.maximum(largest, added), largest, out=largest)

    def take(self) -> tuple[Steered, ...]:
        """What the steerer did since the last call, where that is watched."""
        if not self._acts:
            return ()
        acts, self._acts = self._acts, []
        return tuple(acts)

    def take_newest(self) -> list[Steered]:
        """What it did in the newest pass, which was recorded and has not run; it is forgotten."""
        return [self._acts.pop()] if self._acts else []

    def again(self, acts: Sequence[Steered]) -> None:
        """A recorded pass has run, whose results are in these tensors until it runs again."""
        if self._acts is not None:
            self._acts += [
                Steered(positions=act.positions.clone(), strength=act.strength.clone())
                for act in acts
            ]


def warn_if_idle(
    steerer: Steerer, text: TokenText, thinking: ThinkingMarks | None, *, vocabulary: int
) -> None:
    """Warn if a steerer never acts, or acts outside of thinking, because of the vocabulary.

    It waits for a token that ends a paragraph, and for marks of thinking that the model can write.

    Args:
        steerer: the policy's steerer.
        text: the text of tokens.
        thinking: how the model marks its thinking.
        vocabulary: size of the model's vocabulary.
    """
    if steerer.layer is None:
        return
    marks = Marks.of(text, vocabulary, thinking)
    if thinking is not None and not marks.thinks:
        warnings.warn(
            f"{steerer!r} acts wherever this model decodes: its vocabulary cannot write "
            f"{thinking!r}, so nothing says where thinking begins and ends. Give the marks that "
            "the model writes (thinking=), or thinking=None.",
            SkipKVWarning,
            stacklevel=3,
        )
    if marks.has_paragraphs:
        return
    warnings.warn(
        f"{steerer!r} never acts on this model: steering waits for a token whose text holds an "
        "empty line (two newlines), and this tokenizer has no such token. The output is the same "
        "as without steering. Leave the steerer out, or take a model with such a token.",
        SkipKVWarning,
        stacklevel=3,
    )


def check_steerer(steerer: Steerer, *, layers: int, width: int) -> None:
    """Raise `ConfigError` if the model lacks the steerer's layer or has another hidden size.

    Args:
        steerer: any steerer; its `width`, if it has one, is checked too.
        layers: number of layers of the model.
        width: hidden size of the model.
    """
    if steerer.layer is None:
        return
    if not 0 <= steerer.layer < layers:
        raise ConfigError(
            f"{steerer!r} steers layer {steerer.layer}, but the model's layers are 0 to "
            f"{layers - 1}."
        )
    needed = getattr(steerer, "width", None)
    if needed is not None and needed != width:
        raise ConfigError(
            f"{steerer!r} adds a vector of {needed} numbers, but the model's hidden states have "
            f"{width}. Take a vector made with this model; `skipkv calibrate` makes one."
        )
