"""Subjects of the benchmark: policies and baselines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs
import torch

from skipkv import presets
from skipkv.benchmark.case import Job
from skipkv.benchmark.floor import run_floor, run_recorded_floor
from skipkv.benchmark.isolation import Answer
from skipkv.benchmark.memory import meter_for
from skipkv.benchmark.recorder import Recorder
from skipkv.benchmark.schedule import most
from skipkv.errors import ConfigError
from skipkv.evaluation.candidates import Candidate, parse_candidates
from skipkv.policy import Policy
from skipkv.runtime import Engine, Sampling, graph
from skipkv.runtime.seam.compiled import CompiledLayers
from skipkv.steerers import SteeringVector

FLOOR, DYNAMIC, STATIC, KVPRESS = "floor", "generate_dynamic", "generate_static", "kvpress"
BASELINES = (FLOOR, DYNAMIC, STATIC, KVPRESS)
"""The names of the baselines."""


@runtime_checkable
class Subject(Protocol):
    """Something that decodes a job and records the time and memory."""

    @property
    def label(self) -> str:
        """Its name in tables."""
        ...

    @property
    def takes_budget(self) -> bool:
        """Whether it is measured at every budget, instead of once."""
        ...

    @property
    def note(self) -> str | None:
        """A remark for readers of its numbers, or None."""
        ...

    @property
    def in_process(self) -> bool:
        """Whether it decodes in the calling process."""
        ...

    def entries(self, job: Job) -> int | None:
        """The most entries per head that it should hold; None if that is unknown."""
        ...

    def measure(self, job: Job) -> Answer:
        """Decode after a warm-up; returns the record of `Recorder.end`, or why it failed."""
        ...


@attrs.frozen(kw_only=True)
class PolicySubject:
    """A policy, decoded by the engine.

    Args:
        candidate: the policy, without its budget.
        note: the settings that come from the model, or that the vector is random.
        engine: further arguments of the `Engine`.
    """

    candidate: Candidate
    note: str | None = None
    engine: Mapping[str, Any] = attrs.field(factory=dict)
    in_process: bool = attrs.field(default=True, init=False)

    @property
    def label(self) -> str:
        """The label of the candidate."""
        return self.candidate.label

    @property
    def takes_budget(self) -> bool:
        """Whether the candidate takes a budget."""
        return self.candidate.takes_budget

    def policy(self, *, budget: int | None, interval: int) -> Policy:
        """The policy to measure."""
        return self.candidate.policy(budget=budget, interval=interval)

    def entries(self, job: Job) -> int | None:
        """Budget + interval; all tokens without a budget."""
        policy = self.policy(budget=job.budget, interval=job.interval)
        if policy.budget is None:
            return job.prompt_tokens + job.new_tokens - 1
        return policy.budget.capacity

    def measure(self, job: Job) -> Answer:
        """Decode with the engine."""
        policy = self.policy(budget=job.budget, interval=job.interval)
        engine = Engine(
            job.model,
            job.tokenizer,
            policy,
            batch_size=len(job.prompts),
            eos_token_ids=[],
            **self.engine,
        )
        kv_bytes = 0

        def decode(new_tokens: int, recorder: Recorder) -> None:
            nonlocal kv_bytes
            done = list(
                engine.generate(
                    job.prompts,
                    max_new_tokens=new_tokens,
                    sampling=Sampling(),
                    progress=False,
                    observers=[recorder],
                )
            )
            for completion in done:
                if completion.error is not None:
                    raise completion.error
            kv_bytes = sum(completion.stats.peak_kv_bytes for completion in done)

        return recorded(job, decode) | {"kv_bytes": kv_bytes}


@attrs.frozen(kw_only=True)
class FloorSubject:
    """The simplest loop over the same model at the same cache length.

    On CUDA its layers are compiled and its steps are recorded, as under a policy.
    """

    label: str = FLOOR
    takes_budget: bool = True
    note: str | None = None
    in_process: bool = attrs.field(default=True, init=False)

    def entries(self, job: Job) -> int | None:
        """The entries of a policy with this budget."""
        steps = job.new_tokens - 1
        return most(job.prompt_tokens, steps, budget=job.budget, interval=job.interval)

    def measure(self, job: Job) -> Answer:
        """Decode with `run_floor`, on CUDA with `run_recorded_floor`."""
        prompts = torch.tensor(job.prompts, device=job.model.device)
        assert job.budget is not None
        options: dict[str, Any] = {"budget": job.budget, "interval": job.interval}
        run: Callable[..., Any] = run_floor
        if job.model.device.type == "cuda":
            run = run_recorded_floor
            options["record"] = graph.recorder(job.model.device)
            options["layers"] = CompiledLayers(job.model)

        def decode(new_tokens: int, recorder: Recorder) -> None:
            run(job.model, prompts, new_tokens=new_tokens, recorder=recorder, **options)

        return recorded(job, decode)


@attrs.frozen(kw_only=True)
class GenerateSubject:
    """transformers' own `generate()` with its full cache; a sequence never ends early.

    Args:
        label: name in tables.
        static: use a cache that is allocated once, instead of one that grows. On CUDA transformers
            compiles the model for it, during the warm-up.
    """

    label: str
    static: bool
    takes_budget: bool = attrs.field(default=False, init=False)
    note: str | None = None
    in_process: bool = attrs.field(default=True, init=False)

    def entries(self, job: Job) -> int | None:
        """All tokens."""
        return job.prompt_tokens + job.new_tokens - (0 if self.static else 1)

    def measure(self, job: Job) -> Answer:
        """Decode with `generate()`; a streamer receives every token."""
        prompts = torch.tensor(job.prompts, device=job.model.device)

        def decode(new_tokens: int, recorder: Recorder) -> None:
            end = prompts.shape[1] + new_tokens

            def enough(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
                return torch.full((len(ids),), ids.shape[1] >= end, device=ids.device)

            warming_up = new_tokens < job.new_tokens
            with torch.inference_mode():
                job.model.generate(
                    prompts,
                    attention_mask=torch.ones_like(prompts),
                    # The cache has the same size in the warm-up, so that it is compiled once.
                    max_new_tokens=job.new_tokens,
                    stopping_criteria=[enough] if warming_up else None,
                    do_sample=False,
                    # Not min_new_tokens, because its logits processor would take time.
                    eos_token_id=None,
                    pad_token_id=0,
                    cache_implementation="static" if self.static else None,
                    streamer=_Streamer(recorder),
                )

        return recorded(job, decode)


class _Streamer:
    """Records a lap for every token that `generate()` streams; the prompt comes first."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._put = 0

    def put(self, tokens: torch.Tensor) -> None:
        self._put += 1
        if self._put > 1:
            self._recorder.lap("prefill" if self._put == 2 else "step")

    def end(self) -> None:
        pass


def recorded(job: Job, decode: Callable[[int, Recorder], None]) -> Answer:
    """Warm up, then decode the job; returns the record.

    Args:
        job: the job to decode.
        decode: decodes a number of tokens and records their laps.
    """
    device = job.model.device
    # On accelerators the first steps and the first event choose kernels and capture graphs.
    warm_up = 2 if device.type == "cpu" else job.interval + 2
    meter = meter_for(device)
    if job.new_tokens > warm_up:
        decode(warm_up, Recorder(meter, every=job.new_tokens))
    meter.start()
    recorder = Recorder(meter, every=job.every)
    recorder.begin()
    decode(job.new_tokens, recorder)
    return recorder.end()


def policies_of(
    texts: Sequence[str],
    *,
    settings: Mapping[str, Mapping[str, Any]],
    config: Any = None,
    seed: int = 0,
) -> list[PolicySubject]:
    """The named policies; `skipkv` and `seal` steer.

    Options that are not given come from the model's settings, except budget and interval. Without a
    vector from either, `skipkv` and `seal` steer with a random direction at the middle layer, which
    costs the same and has no meaning.

    Args:
        texts: names as for `skipkv eval --policies`.
        settings: a model's own, from `skipkv.compositions.model_settings`; {} uses the published.
        config: config of the model to steer; None only checks that the policies can be built.
        seed: seed of a random vector.
    """
    return [_steering(c, config, seed) for c in parse_candidates(texts, settings=settings)]


def _steering(candidate: Candidate, config: Any, seed: int) -> PolicySubject:
    """The subject of a candidate, with a random vector if the policy steers and has none."""
    steers = candidate.source in (presets.skipkv, presets.seal)
    if not steers or "vector" in {**candidate.own, **candidate.options}:
        return PolicySubject(candidate=candidate, note=candidate.note)
    vector = _random_vector(config, seed)
    told = {**candidate.options, "vector": vector}
    notes = [candidate.note, "steered with a random vector"]
    return PolicySubject(
        candidate=attrs.evolve(candidate, options=told), note="; ".join(n for n in notes if n)
    )


def baselines_of(names: Sequence[str], *, kvpress: Subject | None) -> list[Subject]:
    """The baselines of these names.

    Args:
        names: some of `BASELINES`.
        kvpress: the subject of kvpress, if it can be measured.

    Raises:
        ConfigError: an unknown name, or kvpress without its interpreter.
    """
    found: list[Subject] = []
    for name in names:
        if name == FLOOR:
            found.append(FloorSubject())
        elif name in (DYNAMIC, STATIC):
            found.append(GenerateSubject(label=name, static=name == STATIC))
        elif name == KVPRESS and kvpress is not None:
            found.append(kvpress)
        elif name == KVPRESS:
            raise ConfigError(
                "The baseline kvpress needs --kvpress-python PATH: the interpreter of an "
                "environment where kvpress is installed. docs/performance.md says how to make one."
            )
        else:
            raise ConfigError(f"No baseline is called {name!r}. Known are: {', '.join(BASELINES)}.")
    return found


def _random_vector(config: Any, seed: int) -> SteeringVector:
    width, layers = (1, 1) if config is None else (config.hidden_size, config.num_hidden_layers)
    direction = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(vector=direction / direction.norm(), layer=layers // 2, made="random")
