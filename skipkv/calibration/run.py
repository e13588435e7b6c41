"""The steps of a calibration: from prompts or traces to hidden states on disk."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import torch

from skipkv._progress import progress_bar
from skipkv._runs import stamp
from skipkv._validators import is_a
from skipkv.calibration.openings import openings
from skipkv.calibration.stability import agreement
from skipkv.calibration.traces import Trace
from skipkv.calibration.workspace import StoredStates, Workspace
from skipkv.errors import ConfigError, InputError
from skipkv.evaluation import fingerprints
from skipkv.models.architecture import text_config
from skipkv.runtime import Engine, Sampling
from skipkv.runtime.seam.hidden import layer_inputs
from skipkv.runtime.text.marks import Marks
from skipkv.runtime.text.token_text import TokenText
from skipkv.segmenters import MarkerWords, ThoughtClassifier
from skipkv.steerers import ThoughtStates


@attrs.frozen(kw_only=True)
class Settings:
    """The settings that traces and states depend on.

    Args:
        model: name of the model, for the vector's file.
        layers: layers whose inputs are collected; None for all.
        max_new_tokens: the most tokens of a trace.
        temperature: temperature of traces and regenerations. 0 decodes traces greedily, and
            regenerations then use 1.
        regenerations: how often each thought is regenerated, to see how stable its kind is; 0
            skips this.
        regenerated_tokens: the most tokens of a regenerated thought.
        seed: seed of all sampling.

    Raises:
        ConfigError: a number out of range.
    """

    model: str = attrs.field(default="", validator=is_a(str))
    layers: tuple[int, ...] | None = None
    max_new_tokens: int = attrs.field(default=4096, validator=is_a(int, least=1))
    temperature: float | int = attrs.field(default=0.0, validator=is_a(float, least=0))
    regenerations: int = attrs.field(default=0, validator=is_a(int, least=0))
    regenerated_tokens: int = attrs.field(default=64, validator=is_a(int, least=1))
    seed: int = attrs.field(default=0, validator=is_a(int, least=0))


def collect(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    folder: Path,
    settings: Settings,
    completions: Sequence[tuple[str, bool]] | None = None,
    classify: ThoughtClassifier | None = None,
    watch: Sequence[Callable[[Trace], None]] = (),
    progress: bool | None = None,
) -> StoredStates:
    """Generate a trace per prompt, and collect the hidden states where its thoughts open.

    Both are stored in the folder as they are made. A stopped run resumes from them with the same
    results: a trace depends only on its prompt, its number and the seed.

    Args:
        engine: decodes the traces, under a policy that keeps everything.
        prompts: token ids of each question's prompt.
        folder: stores traces and states; each calibration needs its own.
        settings: the settings that traces and states depend on.
        completions: existing traces: per prompt the text, and whether it ended by itself. Traces
            are then not generated.
        classify: names the kind of a thought; English marker words by default.
        watch: each is called with every trace, for what else is learned from them.
        progress: whether to show bars on stderr. By default bars on a terminal, and elsewhere a
            line every 30 seconds.

    Raises:
        ConfigError: a layer that the model does not have.
        InputError: the folder belongs to another calibration, is in use or cannot be written; or
            prompts cannot be decoded.
    """
    classify = MarkerWords.english() if classify is None else classify
    there = text_config(engine.model).num_hidden_layers
    layers = range(there) if settings.layers is None else settings.layers
    if wrong := [layer for layer in layers if not 0 <= layer < there]:
        raise ConfigError(
            f"Settings(layers=...) names layer {wrong[0]}, but the model's layers are 0 to "
            f"{there - 1}."
        )
    if completions is not None and len(completions) != len(prompts):
        raise InputError(
            f"There must be a trace for each prompt: {len(prompts)} prompts, {len(completions)} "
            "traces."
        )
    fingerprint = _fingerprint(engine, settings, prompts, completions, classify)
    with Workspace.opened(folder, fingerprint) as work:
        _fill(engine, prompts, completions, work, settings, list(layers), classify, watch, progress)
        return work.states()


def _fill(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[tuple[str, bool]] | None,
    work: Workspace,
    settings: Settings,
    layers: list[int],
    classify: ThoughtClassifier,
    watch: Sequence[Callable[[Trace], None]],
    progress: bool | None,
) -> None:
    """Make the missing traces and states."""
    if completions is None:
        _generate(engine, prompts, work, settings, progress)
    else:
        _read(engine, prompts, completions, work)
    text = TokenText(engine.tokenizer)
    marks = Marks(text, text_config(engine.model).vocab_size, engine.thinking)
    for index in progress_bar(progress, sorted(work.traces), desc="states", unit="trace"):
        trace = work.traces[index]
        for see in watch:
            see(trace)
        if work.has_states(index):
            continue
        opened = openings(trace, marks=marks, text=text, classify=classify)
        shares = None
        if settings.regenerations:
            shares = agreement(
                engine,
                trace,
                opened,
                classify=classify,
                samples=settings.regenerations,
                max_tokens=settings.regenerated_tokens,
                temperature=settings.temperature or 1.0,
                seed=settings.seed,
            )
        ids = [*trace.prompt, *trace.tokens]
        states = layer_inputs(engine.model, ids, [o.position for o in opened], layers)
        kinds = torch.tensor([o.kind for o in opened], dtype=torch.long)
        work.store(ThoughtStates(question=index, states=states, kinds=kinds, agreement=shares))


def _generate(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    work: Workspace,
    settings: Settings,
    progress: bool | None,
) -> None:
    """Generate the missing traces; each is stored as it ends."""
    missing = [i for i in range(len(prompts)) if i not in work.traces]
    completions = engine.generate(
        [prompts[i] for i in missing],
        max_new_tokens=settings.max_new_tokens,
        sampling=Sampling(temperature=settings.temperature),
        seeds=[settings.seed + i for i in missing],
        ordered=False,
        progress=False,
    )
    bar = progress_bar(progress, completions, desc="traces", total=len(missing), unit="trace")
    for completion in bar:
        index = missing[completion.index]
        finished = completion.stop_reason == "eos"
        work.add(
            Trace(
                index=index,
                prompt=prompts[index],
                tokens=completion.tokens[:-1] if finished else completion.tokens,
                finished=finished,
            )
        )


def _read(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[tuple[str, bool]],
    work: Workspace,
) -> None:
    """Store given traces."""
    for index, (prompt, (written, finished)) in enumerate(zip(prompts, completions, strict=True)):
        if index not in work.traces:
            tokens = engine.tokenizer(written, add_special_tokens=False)["input_ids"]
            work.add(Trace(index=index, prompt=prompt, tokens=tokens, finished=finished))


def _fingerprint(
    engine: Engine,
    settings: Settings,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[tuple[str, bool]] | None,
    classify: ThoughtClassifier,
) -> dict[str, object]:
    """What must be the same for a stopped run to resume."""
    return {
        **attrs.asdict(settings),
        "weights": fingerprints.of_model(engine.model)["weights"],
        "prompts": _digest([list(prompt) for prompt in prompts]),
        "traces": None if completions is None else _digest([list(c) for c in completions]),
        "thoughts": stamp(classify),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
