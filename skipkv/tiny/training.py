"""The recipe that made the embedded reasoner: `python -m skipkv.tiny.training DIR`.

It writes the model, its tokenizer and a report into DIR, and needs torch 2.9 or newer for Muon.

Every step draws its traces from the seed, the step and the shard. So a killed run resumes from its
last checkpoint with the same traces. The batch of a step is cut into shards, which the processes
divide among them. The gradient is the mean over shards, for any number of processes.
"""

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import attrs
import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from skipkv.errors import InputError
from skipkv.models import load
from skipkv.tiny.dropout import NEVER, expiries
from skipkv.tiny.problem import TRAIN, draw, problems
from skipkv.tiny.report import report
from skipkv.tiny.traces import LOOKUP_WEIGHT, Trace, write_trace
from skipkv.tiny.vocabulary import DIGITS, EOS, IDS, NAMES, PAD, TOKENS, USER, save_tokenizer


@attrs.frozen(kw_only=True)
class Recipe:
    """The settings of a training.

    Args:
        steps: updates of the weights.
        shards: parts of a batch; the number of processes is at most as large.
        traces: traces in a shard, once they have their full length.
        drills: share of the steps, at the start, in which recall drills fade from the batch.
        growing: share of the steps during which chains grow to their full length.
        whole: share of the steps after which KV dropout begins.
        muon: peak learning rate of matrices (Muon).
        adamw: peak learning rate of the other weights (AdamW).
        warm_up: steps to the peak.
        decay: share of the steps, at the end, in which the rates fall to 0.
        seed: seed of weights and traces.
        checkpoint: steps between two checkpoints.
    """

    steps: int = 4600
    shards: int = 2
    traces: int = 9
    drills: float = 0.15
    growing: float = 0.12
    whole: float = 0.18
    muon: float = 0.02
    adamw: float = 4e-3
    warm_up: int = 60
    decay: float = 0.6
    seed: int = 0
    checkpoint: int = 250

    def rate(self, step: int) -> float:
        """The share of the peak learning rate at a step."""
        left = (self.steps - step) / (self.decay * self.steps)
        return min(1.0, (step + 1) / self.warm_up, left)


_LAYERS, _HEADS, _KV_HEADS = 4, 4, 2
_LOG, _CHECKPOINT = "training.jsonl", "checkpoint.pt"


def config() -> Qwen2Config:
    """The architecture: Qwen2 with two KV heads for four query heads; 0.8 million parameters."""
    return qwen2(
        vocab_size=len(TOKENS),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KV_HEADS,
    )


def qwen2(**sizes: Any) -> Qwen2Config:
    """The architecture of an embedded reasoner: Qwen2 with these sizes and tied embeddings."""
    # every vocabulary begins with the same special tokens
    return Qwen2Config(
        **sizes,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=IDS[EOS],
        pad_token_id=IDS[PAD],
    )


# ---- the batch of a step


@attrs.frozen
class Batch:
    """A batch of traces, padded to the longest.

    Args:
        ids: token ids, [B, T].
        weights: loss weight of each token as a target, [B, T].
        expiry: the first position that no longer sees a token, [B, layers * KV heads, T].
    """

    ids: Tensor
    weights: Tensor
    expiry: Tensor

    def mask(self) -> Tensor:
        """Whether a query (third axis) may see a key (fourth axis), [B, layers * heads, T, T]."""
        position = torch.arange(self.ids.shape[1], device=self.ids.device)
        causal = position[:, None] >= position[None, :]
        return causal & (position[:, None] < self.expiry[:, :, None, :])


def batch(recipe: Recipe, step: int, shard: int) -> Batch:
    """The batch of one shard of one step."""
    rng = random.Random(f"{TRAIN}/{recipe.seed}/{step}/{shard}")
    done = step / recipe.steps
    grown = min(1.0, done / recipe.growing)
    count = recipe.traces if grown == 1 else 2 * recipe.traces
    traces: list[Trace] = []
    for _ in range(count):
        if rng.random() < 0.6 * (1 - done / recipe.drills):
            traces.append(drill(rng))
            continue
        most = 3 + round(10 * grown)
        traces.append(write_trace(draw(rng, least=min(9, most), most=most), rng))
    lengths = [len(trace.tokens) for trace in traces]
    longest = max(lengths)
    ids = np.full((count, longest), IDS[PAD])
    weights = np.zeros((count, longest), dtype=np.float32)
    stores = _LAYERS * _KV_HEADS
    expiry = np.full((count, stores, longest), NEVER, dtype=np.int32)
    for row, (trace, length) in enumerate(zip(traces, lengths, strict=True)):
        ids[row, :length] = [IDS[token] for token in trace.tokens]
        weights[row, :length] = trace.weights
        if done >= recipe.whole:
            expiry[row, :, :length] = expiries(trace, stores, rng)
    return Batch(torch.from_numpy(ids), torch.from_numpy(weights), torch.from_numpy(expiry))


def drill(rng: random.Random) -> Trace:
    """A recall drill: some facts, then questions about them."""
    trace = Trace()
    trace.write(USER, weight=0.0)
    facts = {}
    for name in rng.sample(NAMES, rng.randint(4, 12)):
        digit = rng.choice(DIGITS)
        facts[name] = rng.choice([((), "=" + digit, ", "), ((":",), digit, "; ")])
    for name, (colon, told, comma) in facts.items():
        trace.write(name, *colon, told, comma, weight=0.0)
    trace.prompt = len(trace.tokens)
    for _ in range(40):
        name = rng.choice(list(facts))
        colon, told, comma = facts[name]
        trace.write(name, *colon, weight=0.0)
        trace.write(told, weight=LOOKUP_WEIGHT)
        trace.write(comma, weight=0.0)
    return trace


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """Attention [B, H, T, D] with a mask for every KV head of every layer."""
    first = cast(int, module.layer_idx) * _KV_HEADS
    own = mask[:, first : first + _KV_HEADS].repeat_interleave(_HEADS // _KV_HEADS, dim=1)
    return sdpa_attention_forward(module, query, key, value, own, **options)


# ---- the loop


def train(
    output: Path,
    *,
    recipe: Recipe | None = None,
    processes: int = 2,
    device: str = "cpu",
) -> None:
    """Train from scratch, or from the checkpoint in `output`, and write model and tokenizer there.

    Args:
        output: folder of the model, the tokenizer, the checkpoint and `training.jsonl`, which has a
            line of loss and accuracy for every fiftieth step.
        recipe: the settings.
        processes: number of processes, one thread each; 1 on a GPU.
        device: "cpu" or "cuda".

    Raises:
        InputError: the checkpoint has another recipe, the number of processes does not divide the
            shards, or torch has no Muon.
    """
    recipe = recipe or Recipe()
    if recipe.shards % processes:
        raise InputError(f"processes={processes} must divide the {recipe.shards} shards.")
    if not hasattr(torch.optim, "Muon"):
        raise InputError(f"torch {torch.__version__} has no Muon. Train with torch 2.9 or newer.")
    output.mkdir(parents=True, exist_ok=True)
    begin_or_resume(output, recipe)
    if processes == 1:
        _work(0, 1, output, recipe, device)
        return
    meeting = output / "meeting"  # the file by which the processes find each other
    meeting.unlink(missing_ok=True)
    torch.multiprocessing.spawn(  # type: ignore[no-untyped-call,attr-defined]
        _work, args=(processes, output, recipe, device), nprocs=processes
    )
    meeting.unlink(missing_ok=True)


def _work(rank: int, processes: int, output: Path, recipe: Recipe, device: str) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{output.absolute()}/meeting", rank=rank,
            world_size=processes,
        )  # fmt: skip
    torch.manual_seed(recipe.seed)
    model = Qwen2ForCausalLM(config())
    torch.nn.Module.to(model, device)
    AttentionInterface.register("kv_dropout", _attention)
    model.set_attn_implementation("kv_dropout")
    optimizers = optimizers_of(model, muon=recipe.muon, adamw=recipe.adamw)
    begin, spent = restore(output, model, optimizers)
    since = time.monotonic()
    for step in range(begin, recipe.steps):
        for optimizer, peak in optimizers:
            optimizer.param_groups[0]["lr"] = peak * recipe.rate(step)
        sums = torch.zeros(4)
        for shard in range(rank, recipe.shards, processes):
            sums += _backward(model, batch(recipe, step, shard), device) / recipe.shards
        _average(list(model.parameters()), sums, processes, recipe.shards)
        for optimizer, _ in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        elapsed = spent + time.monotonic() - since
        if rank == 0 and ((step + 1) % 50 == 0 or step + 1 == recipe.steps):
            _log(output, recipe, step + 1, sums, elapsed)
        if rank == 0 and (step + 1) % recipe.checkpoint == 0:
            write_checkpoint(output, model, optimizers, recipe, step + 1, elapsed)
    if rank == 0:
        model.set_attn_implementation("sdpa")
        model.save_pretrained(output)
        save_tokenizer(output)
    if processes > 1:
        torch.distributed.destroy_process_group()


def _backward(model: Qwen2ForCausalLM, part: Batch, device: str) -> Tensor:
    """Add the gradient of one shard; returns (loss, words right, lookups right, tokens)."""
    part = Batch(*(getattr(part, field.name).to(device) for field in attrs.fields(Batch)))
    logits = model(input_ids=part.ids, attention_mask=part.mask(), use_cache=False).logits
    predicted, target = logits[:, :-1].flatten(0, 1), part.ids[:, 1:].flatten()
    weights = part.weights[:, 1:].flatten()
    loss = F.cross_entropy(predicted, target, reduction="none")
    loss = (loss * weights).sum() / weights.sum()
    loss.backward()
    sure, lookup = weights >= 1, weights == LOOKUP_WEIGHT
    right = predicted.argmax(-1) == target
    return torch.stack(
        [
            loss.detach(),
            right[sure].float().mean(),
            right[lookup].float().mean(),
            torch.tensor(float(part.ids.numel())),
        ]
    ).cpu()


def _average(parameters: Sequence[Any], sums: Tensor, processes: int, shards: int) -> None:
    """Give every process the mean gradient of all shards, clipped to norm 1."""
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    if processes > 1:
        torch.distributed.all_reduce(flat)
        torch.distributed.all_reduce(sums)
    flat /= shards
    flat *= (1 / (flat.norm() + 1e-6)).clamp(max=1)
    at = 0
    for parameter in parameters:
        parameter.grad.copy_(flat[at : at + parameter.numel()].view_as(parameter))
        at += parameter.numel()


def optimizers_of(
    model: Qwen2ForCausalLM, *, muon: float, adamw: float
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the layers' matrices, AdamW for embeddings, biases and norms; with peak rates."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    return [
        (torch.optim.Muon(matrices, lr=muon, weight_decay=0.01), muon),
        (torch.optim.AdamW(others, lr=adamw, betas=(0.9, 0.95), weight_decay=0), adamw),
    ]


def _log(output: Path, recipe: Recipe, step: int, sums: Tensor, elapsed: float) -> None:
    loss, words, lookups, tokens = sums.tolist()
    line = {
        "step": step,
        "seconds": round(elapsed),
        "loss": round(loss, 4),
        "words_right": round(words, 4),
        "lookups_right": round(lookups, 4),
        "tokens_in_step": round(tokens * recipe.shards),
    }
    with (output / _LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(line, flush=True)


def write_checkpoint(
    output: Path,
    model: Qwen2ForCausalLM,
    optimizers: Sequence[tuple[torch.optim.Optimizer, float]],
    recipe: Any,
    step: int,
    elapsed: float,
) -> None:
    """Write what a training resumes from; a kill while writing leaves the last complete one.

    Args:
        output: folder of the training.
        model: the model.
        optimizers: its optimizers.
        recipe: the attrs class with the training's settings.
        step: number of steps done.
        elapsed: seconds spent.
    """
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer, _ in optimizers],
        "recipe": attrs.asdict(recipe),
        "step": step,
        "seconds": elapsed,
    }
    new = output / "checkpoint.new"
    torch.save(state, new)
    new.replace(output / _CHECKPOINT)


def restore(
    output: Path,
    model: Qwen2ForCausalLM,
    optimizers: Sequence[tuple[torch.optim.Optimizer, float]],
) -> tuple[int, float]:
    """Read the checkpoint, if there is one; the steps done and the seconds spent before it."""
    path = output / _CHECKPOINT
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for (optimizer, _), saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seconds"]


def begin_or_resume(output: Path, recipe: Any, *, free: Sequence[str] = ()) -> int:
    """Cut the log at the step of the checkpoint; returns that step.

    Args:
        output: folder of the training.
        recipe: the attrs class with the training's settings.
        free: settings that may differ from the checkpoint's.

    Raises:
        InputError: the checkpoint was made with other settings.
    """
    log, path = output / _LOG, output / _CHECKPOINT
    step = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        any_value = dict.fromkeys(free)
        if state["recipe"] | any_value != attrs.asdict(recipe) | any_value:
            raise InputError(
                f"{path} was made with another recipe: {state['recipe']}. Give another folder."
            )
        step = state["step"]
    lines = log.read_text().splitlines() if log.exists() else []
    log.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step))
    return step


def main(
    output: Annotated[Path, typer.Argument(help="Folder for model, tokenizer and report.")],
    processes: Annotated[
        int, typer.Option(min=1, help="Processes, one thread each; 1 on a GPU.")
    ] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights and traces.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the weights.")] = Recipe().steps,
) -> None:
    """Train the embedded reasoner; a run that was killed resumes."""
    train(output, recipe=Recipe(seed=seed, steps=steps), processes=processes, device=device)
    print(report(output, *load(str(output)), problems(500)))


if __name__ == "__main__":
    typer.run(main)
