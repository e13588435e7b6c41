"""The recipe that made the rambling reasoner: `python -m skipkv.tiny.rambler.training DIR`.

It writes the model, its tokenizer and a log into DIR. On one H200 it takes six minutes; other
processes write the traces meanwhile. It needs torch 2.9 or newer for Muon.

Every step draws its traces from the seed and the step. So a run that was killed resumes from its
last checkpoint with the same traces.
"""

import json
import random
import time
from pathlib import Path
from typing import Annotated, Any, cast

import attrs
import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM

from skipkv.errors import InputError
from skipkv.models import load
from skipkv.tiny.problem import TRAIN, draw
from skipkv.tiny.rambler.phrases import IDS, TOKENS
from skipkv.tiny.rambler.problem import LEAST, MOST, problems
from skipkv.tiny.rambler.traces import (
    GIVEN,
    LOOKUP,
    LOSS_WEIGHTS,
    NEVER,
    SURE,
    Loss,
    Trace,
    write_trace,
)
from skipkv.tiny.report import RAMBLER, report
from skipkv.tiny.training import (
    begin_or_resume,
    optimizers_of,
    qwen2,
    restore,
    write_checkpoint,
)
from skipkv.tiny.vocabulary import DIGITS, NAMES, PAD, USER, save_tokenizer


@attrs.frozen(kw_only=True)
class Recipe:
    """The settings of a training.

    Args:
        steps: updates of the weights.
        rows: rows of a batch.
        length: tokens of a row; longer traces are cut.
        names: the fewest and the most names of a problem.
        drills: steps, at the start, in which recall drills fade from the batch.
        growing: steps during which chains grow to their full length.
        whole: steps after which entries are lost.
        losing: share of the traces that lose entries after that.
        muon: peak learning rate of matrices (Muon).
        adamw: peak learning rate of the other weights (AdamW).
        warm_up: steps to the peak.
        decay: steps, at the end, in which the rates fall to 0.
        seed: seed of weights and traces.
        checkpoint: steps between two checkpoints.
    """

    steps: int = 7000
    rows: int = 64
    length: int = 1408
    names: tuple[int, int] = (LEAST, MOST)
    drills: int = 1200
    growing: int = 1000
    whole: int = 1500
    losing: float = 0.75
    muon: float = 0.02
    adamw: float = 4e-3
    warm_up: int = 60
    decay: int = 3200
    seed: int = 0
    checkpoint: int = 1000

    def rate(self, step: int) -> float:
        """The share of the peak learning rate at a step."""
        return min(1.0, (step + 1) / self.warm_up, (self.steps - step) / self.decay)


_LAYERS, _HEADS, _KV_HEADS, _HEAD_SIZE = 4, 6, 2, 32
_LOG = "training.jsonl"


def config() -> Qwen2Config:
    """The architecture: Qwen2 with two KV heads for six query heads; 1.6 million parameters."""
    return qwen2(
        vocab_size=len(TOKENS),
        hidden_size=_HEADS * _HEAD_SIZE,
        intermediate_size=512,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KV_HEADS,
    )


# ---- the batch of a step


@attrs.frozen
class Batch:
    """Traces one after the other, in rows of equal length that cut the last trace off.

    Args:
        ids: token ids, [B, T].
        kinds: the kind of each token, [B, T].
        start: the position in the row at which the token's trace begins, [B, T].
        expiry: the first position in the row that no longer sees a token, [B, T].
        spared: the chance that a store keeps a lost token after all, [B, T].
    """

    ids: Tensor
    kinds: Tensor
    start: Tensor
    expiry: Tensor
    spared: Tensor

    @classmethod
    def empty(cls, rows: int, length: int) -> "Batch":
        """A batch of padding."""
        shape = (rows, length)
        return cls(
            ids=torch.full(shape, IDS[PAD], dtype=torch.uint8),
            kinds=torch.full(shape, GIVEN, dtype=torch.uint8),
            start=torch.zeros(shape, dtype=torch.int16),
            expiry=torch.full(shape, NEVER, dtype=torch.int16),
            spared=torch.zeros(shape, dtype=torch.float16),
        )

    def tensors(self) -> list[Tensor]:
        """The fields in order."""
        return [getattr(self, field.name) for field in attrs.fields(Batch)]


def drill(rng: random.Random, length: int = 320) -> Trace:
    """A recall drill: definitions and values told, changed and asked for."""
    words, kinds = [USER], [GIVEN]
    told: dict[tuple[str, str], tuple[str, ...]] = {}
    names = rng.sample(NAMES, rng.randint(4, 12))
    while len(words) < length:
        name = rng.choice(names)
        what = rng.choice(["definition", "value"])
        new = (what, name) not in told or (what == "value" and rng.random() < 0.1)
        if new:
            sum_ = (rng.choice(names), rng.choice("+-"), rng.choice([*names, *DIGITS[1:]]))
            told[what, name] = sum_ if what == "definition" else ("=" + rng.choice(DIGITS),)
        words += [name, *([":"] if what == "definition" else []), *told[what, name], ", "]
        kinds += [GIVEN] * (1 + (what == "definition"))
        kinds += [GIVEN if new else LOOKUP] * len(told[what, name]) + [GIVEN]
    ids = [IDS[word] for word in words]
    never = np.full(len(ids), NEVER, dtype=np.int16)
    return Trace(ids, 1, kinds, never, "", 0, 0)


def batch(recipe: Recipe, step: int) -> Batch:
    """The batch of a step."""
    rng = random.Random(f"rambler/{TRAIN}/{recipe.seed}/{step}")
    grown = min(1.0, step / recipe.growing)
    least, most = (max(2, round(2 + (full - 2) * grown)) for full in recipe.names)
    made = Batch.empty(recipe.rows, recipe.length)
    ids, kinds, start, expiry, spared = (x.numpy() for x in made.tensors())
    for row in range(recipe.rows):
        at = 0
        while recipe.length - at >= 64:
            loss = None
            if rng.random() < 0.6 * (1 - step / recipe.drills):
                trace = drill(rng)
            else:
                if step >= recipe.whole and rng.random() < recipe.losing:
                    loss = Loss.draw(rng)
                problem = draw(rng, least=least, most=most)
                trace = write_trace(problem, rng, loss=loss, longest=recipe.length)
            length = min(len(trace.tokens), recipe.length - at)
            place = (row, slice(at, at + length))
            ids[place] = trace.tokens[:length]
            kinds[place] = trace.kinds[:length]
            start[place] = at
            lost = trace.expiry[:length].astype(np.int64)
            expiry[place] = np.where(lost == NEVER, NEVER, lost + at)
            if loss and rng.random() < 0.5:
                spared[place] = rng.uniform(0, 0.6)
            at += length
        start[row, at:] = at
    return made


@attrs.frozen
class _Batches(Dataset[list[Tensor]]):
    recipe: Recipe

    def __getitem__(self, step: int) -> list[Tensor]:
        return batch(self.recipe, step).tensors()


# ---- attention under the loss of entries


def mask(start: Tensor, expiry: Tensor, spared: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores [B, layers * KV heads, T, T]: 0 or minus infinity."""
    rows, length = expiry.shape
    stores = _LAYERS * _KV_HEADS
    kept = torch.rand(rows, stores, length, device=expiry.device) < spared[:, None]
    own = torch.where(kept, NEVER, expiry[:, None].expand(-1, stores, -1))
    position = torch.arange(length, device=expiry.device, dtype=expiry.dtype)
    # a query sees the tokens before it in its own trace
    outside = (position[:, None] < position) | (position < start[:, :, None])
    hidden = (position[:, None] >= own[:, :, None, :]) | outside[:, None]
    added = torch.zeros(hidden.shape, device=expiry.device, dtype=dtype)
    return added.masked_fill_(hidden, -torch.inf)


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **_: Any
) -> tuple[Tensor, None]:
    """Attention [B, H, T, D] with a mask [B, layers * KV heads, T, T] for every store.

    A KV head counts as a sequence, so that the query heads of its group share its mask without a
    copy.
    """
    rows, heads, length, size = query.shape
    first = cast(int, module.layer_idx) * _KV_HEADS
    own = mask[:, first : first + _KV_HEADS].reshape(rows * _KV_HEADS, 1, length, length)
    group = heads // _KV_HEADS
    query = query.reshape(rows * _KV_HEADS, group, length, size)
    key, value = (
        x.reshape(rows * _KV_HEADS, 1, length, size).expand(-1, group, -1, -1) for x in (key, value)
    )
    # the rotation left queries and keys in float32
    query, key, own = (x.to(value.dtype) for x in (query, key, own))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=own.expand(-1, group, -1, -1))
    return out.reshape(rows, heads, length, size).transpose(1, 2).contiguous(), None


# ---- the gradient of a step


class _Gradient:
    """Works out the gradient of a batch; on a GPU it is recorded once, and replayed.

    Launching the kernels of a model this small takes a GPU's host five times as long as they run.
    """

    def __init__(self, model: Qwen2ForCausalLM, recipe: Recipe, device: str) -> None:
        self._model = model
        self._device = device
        self._inputs = [x.to(device) for x in batch(recipe, 0).tensors()]
        self._scale = torch.tensor(LOSS_WEIGHTS, device=device)
        self.sums = torch.zeros(6, device=device)
        """Sums over steps since they were last set to 0: loss, steps, words right, words, lookups
        right, lookups."""
        self._graph: torch.cuda.CUDAGraph | None = None
        if device != "cpu":
            self._record()

    def __call__(self, inputs: list[Tensor]) -> None:
        """Set the gradient of every weight to that of a batch."""
        for mine, new in zip(self._inputs, inputs, strict=True):
            mine.copy_(new, non_blocking=True)
        if self._graph is None:
            self._model.zero_grad(set_to_none=True)
            self._work()
        else:
            self._graph.replay()

    def _record(self) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self._model.zero_grad(set_to_none=True)
                self._work()
        torch.cuda.current_stream().wait_stream(aside)
        self._model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        # other threads (pinning of batches) may call CUDA meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._work()
        self._graph = graph
        self.sums.zero_()

    def _work(self) -> None:
        ids, kinds, start, expiry, spared = self._inputs
        ids, kinds = ids.long(), kinds.long()
        place = torch.arange(ids.shape[1], device=ids.device)
        dtype = torch.float32 if self._device == "cpu" else torch.bfloat16
        with torch.autocast(
            self._device, dtype=torch.bfloat16, enabled=self._device != "cpu", cache_enabled=False
        ):
            logits = self._model(
                input_ids=ids, attention_mask=mask(start, expiry, spared, dtype),
                position_ids=place - start, use_cache=False,
            ).logits  # fmt: skip
        predicted, target = logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
        kind = kinds[:, 1:].flatten()
        weights = self._scale[kind]
        loss = F.cross_entropy(predicted, target, reduction="none")
        loss = (loss * weights).sum() / weights.sum()
        loss.backward()
        with torch.no_grad():
            right = predicted.argmax(-1) == target
            sure, lookup = kind == SURE, kind == LOOKUP
            counts = [(right & sure).sum(), sure.sum(), (right & lookup).sum(), lookup.sum()]
            self.sums += torch.stack([loss.detach(), torch.ones_like(loss), *counts])


# ---- the loop


def train(output: Path, *, recipe: Recipe | None = None, workers: int = 1, device: str) -> None:
    """Train from scratch, or from the checkpoint in `output`, and write model and tokenizer there.

    Args:
        output: folder of the model, the tokenizer, the checkpoint and `training.jsonl`, which has a
            line of loss and accuracy for every hundredth step.
        recipe: the settings. A checkpoint may be resumed with other `steps` and another `decay`.
        workers: processes that write traces.
        device: "cpu" or "cuda".

    Raises:
        InputError: the checkpoint has another recipe, or torch has no Muon.
    """
    recipe = recipe or Recipe()
    if not hasattr(torch.optim, "Muon"):
        raise InputError(f"torch {torch.__version__} has no Muon. Train with torch 2.9 or newer.")
    output.mkdir(parents=True, exist_ok=True)
    begin = begin_or_resume(output, recipe, free=("steps", "decay", "checkpoint"))
    loader = DataLoader(
        _Batches(recipe), batch_size=None, sampler=range(begin, recipe.steps), num_workers=workers,
        prefetch_factor=8 if workers else None, pin_memory=device != "cpu",
    )  # fmt: skip
    batches = iter(loader)  # before the device is touched, since the processes are forked
    torch.manual_seed(recipe.seed)
    model = Qwen2ForCausalLM(config())
    torch.nn.Module.to(model, device)
    AttentionInterface.register("kv_dropout", _attention)
    model.set_attn_implementation("kv_dropout")
    optimizers = optimizers_of(model, muon=recipe.muon, adamw=recipe.adamw)
    _, spent = restore(output, model, optimizers)
    gradient = _Gradient(model, recipe, device)
    since = time.monotonic()
    for step, inputs in enumerate(batches, start=begin):
        torch.manual_seed((recipe.seed << 32) + step)  # which stores keep a lost token is drawn
        gradient(inputs)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        for optimizer, peak in optimizers:
            optimizer.param_groups[0]["lr"] = peak * recipe.rate(step)
            optimizer.step()
        done, elapsed = step + 1, spent + time.monotonic() - since
        if done % 100 == 0 or done == recipe.steps:
            _log(output, done, gradient.sums, elapsed)
            gradient.sums.zero_()
        if done % recipe.checkpoint == 0 or done == recipe.steps:
            write_checkpoint(
                output, model, optimizers, recipe, done, spent + time.monotonic() - since
            )
    model.set_attn_implementation("sdpa")
    torch.nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(output)
    save_tokenizer(output, TOKENS)


def _log(output: Path, step: int, sums: Tensor, elapsed: float) -> None:
    loss, steps, words, all_words, lookups, all_lookups = sums.tolist()
    line = {
        "step": step,
        "seconds": round(elapsed, 1),
        "loss": round(loss / steps, 4),
        "words_right": round(words / all_words, 4),
        "lookups_right": round(lookups / all_lookups, 4),
    }
    with (output / _LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")
    if step % 500 == 0:
        print(line, flush=True)


def main(
    output: Annotated[Path, typer.Argument(help="Folder for model, tokenizer and log.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
    workers: Annotated[int, typer.Option(min=0, help="Processes that write traces.")] = 14,
    seed: Annotated[int, typer.Option(help="Seed of weights and traces.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the weights.")] = Recipe().steps,
    decay: Annotated[
        int, typer.Option(min=1, help="Steps at the end in which the learning rates fall.")
    ] = Recipe().decay,
) -> None:
    """Train the rambling reasoner; a run that was killed resumes."""
    recipe = Recipe(seed=seed, steps=steps, decay=decay)
    train(output, recipe=recipe, workers=workers, device=device)
    loaded = load(str(output), dtype="float32", device=device)
    command = "python -m skipkv.tiny.rambler.training"
    print(report(output, *loaded, problems(500), RAMBLER, command=command))


if __name__ == "__main__":
    typer.run(main)
