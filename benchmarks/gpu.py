"""Measures one GPU in parts that can be stopped and resumed, the most telling first.

    python benchmarks/gpu.py --output runs/gpu --seconds 600

Every part appends one line to `gpu.jsonl` in the output's folder. A part that has a line is not
measured again, so the same command goes on where a run was stopped, by whatever: a part that kills
the process, or takes longer than it may, gets a line that says so at the next start.
`benchmarks/gpu_table.py` makes tables of the lines. Weights are random, so none are downloaded.
With small configs it runs on a CPU too (`--device cpu`), to check that it works.
"""

import json
import os
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
import torch
import transformers
import typer
from transformers import DynamicCache

from skipkv import __version__
from skipkv._calls import is_out_of_memory
from skipkv.benchmark import Case, Job, Measurement, Subject, baselines_of, policies_of
from skipkv.benchmark.isolation import guarded
from skipkv.benchmark.prompts import prompts
from skipkv.benchmark.schedule import widths
from skipkv.benchmark.subjects import PolicySubject
from skipkv.models import load
from skipkv.runtime import Engine, Sampling
from skipkv.runtime.results.timing import Timings
from skipkv.runtime.seam.names import cache_name
from skipkv.runtime.store import kernels
from skipkv.runtime.support.checks import cache_shape

CONFIGS = Path(__file__).parent / "configs"
MODELS = {
    "7b": CONFIGS / "deepseek-r1-distill-qwen-7b.json",
    "1.5b": CONFIGS / "deepseek-r1-distill-qwen-1.5b.json",
}
LIMIT = 45.0
"""Seconds that a part may take."""
# Decode steps in a profile.
_PROFILED = 16


@attrs.frozen(kw_only=True)
class Setting:
    """What all parts share.

    Args:
        device: of the models.
        dtype: of their weights.
        configs: a transformers config.json per model's name.
        batch: sequences decoded together, where a part does not say.
        budget: entries per KV head, likewise.
        interval: steps between two events.
        new_tokens: tokens decoded by each policy of the first parts.
        steps: steps timed of a full cache.
        room: tokens per sequence in the search for room.
        trials: batch sizes tried in it.
    """

    device: str = "cuda"
    dtype: str = "bfloat16"
    configs: dict[str, Path] = attrs.field(factory=lambda: dict(MODELS))
    batch: int = 10
    budget: int = 1024
    interval: int = 128
    new_tokens: int = 400
    steps: int = 12
    room: int = 16384
    trials: int = 7


class Bench:
    """The parts, by name, with the models they need. One model at a time is on the device."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.device = torch.device(setting.device)
        self._loaded: tuple[str, Any, Any] | None = None
        self._bandwidth: float | None = None

    def model(self, name: str) -> tuple[Any, Any]:
        """A model and its tokenizer."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            _tidy(self.device)
            model, tokenizer = load(
                f"random:{self.setting.configs[name]}",
                dtype=self.setting.dtype,
                device=self.setting.device,
            )
            model.config.max_position_embeddings = 2**20
            self._loaded = name, model, tokenizer
        return self._loaded[1:]

    @property
    def bandwidth(self) -> float:
        """Bytes per second that a copy within the device moves."""
        if self._bandwidth is None:
            self._bandwidth = copy_bandwidth(self.device)
        return self._bandwidth

    def about(self) -> dict[str, Any]:
        """The device and the versions."""
        found: dict[str, Any] = {
            "skipkv": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": self.device.type,
            "copy_bytes_per_second": self.bandwidth,
        }
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            found |= {"device": properties.name, "memory_bytes": properties.total_memory}
        return found

    def job(self, name: str, *, budget: int | None = None) -> Job:
        """The work of the first parts: prompts as long as the budget."""
        model, tokenizer = self.model(name)
        s, budget = self.setting, budget or self.setting.budget
        return Job(
            model=model,
            tokenizer=tokenizer,
            prompts=prompts(tokenizer, count=s.batch, tokens=budget, seed=0),
            new_tokens=s.new_tokens,
            interval=s.interval,
            budget=budget,
            every=s.new_tokens,
        )

    def warm_up(self) -> dict[str, Any]:
        """Load the first model and compile its layers."""
        job = self.job("7b")
        policy = self.policy("7b", "rkv", self.setting.budget)
        engine = Engine(
            job.model, job.tokenizer, policy, batch_size=len(job.prompts), eos_token_ids=[]
        )
        greedy = Sampling()
        list(engine.generate(job.prompts, max_new_tokens=4, sampling=greedy, progress=False))
        return {}

    def steps(self, name: str, subject: str, **options: Any) -> dict[str, Any]:
        """A subject's steps and events, and the time to read the bytes of a step."""
        job = self.job(name)
        found: Subject
        if subject == "floor":
            [found] = baselines_of(["floor"], kvpress=None)
        else:
            [found] = policies_of([subject], settings={}, config=job.model.config)
            if options:
                found = attrs.evolve(found, engine=options)  # type: ignore[arg-type]
        return decoded(found, job, self.bandwidth)

    def policy(self, name: str, subject: str, budget: int) -> Any:
        """A policy of the table: `skipkv` steers with a random vector."""
        model, _ = self.model(name)
        [found] = policies_of([subject], settings={}, config=model.config)
        assert isinstance(found, PolicySubject)
        return found.policy(budget=budget, interval=self.setting.interval)

    def cell(self, name: str, subject: str, budget: int, batch: int) -> dict[str, Any]:
        """A cell of the table: sampled answers to few prompts, whose passes they share.

        The first event and the steps before it warm up; the rest is timed.
        """
        model, tokenizer = self.model(name)
        s, count = self.setting, min(10, batch)
        policy = self.policy(name, subject, budget)
        engine = Engine(model, tokenizer, policy, batch_size=batch, eos_token_ids=[])
        timings = Timings()
        _reset(self.device)
        done = list(
            engine.generate(
                list(prompts(tokenizer, count=count, tokens=budget, seed=0)),
                max_new_tokens=2 * s.interval + 2,
                sampling=Sampling(temperature=0.6, n=batch // count),
                progress=False,
                observers=[timings],
            )
        )
        for completion in done:
            if completion.error is not None:
                raise completion.error
        step = statistics.median(timings.steps[s.interval :])
        event = statistics.median(timings.events[1:] or timings.events or [0.0])
        whole = step + event / s.interval
        reads = weight_bytes(model) + len(done) * entry_bytes(model) * (budget + s.interval / 2)
        return {
            "batch": len(done),
            "budget": budget,
            "step_ms": 1e3 * step,
            "event_ms": 1e3 * event,
            "bytes_ms": 1e3 * reads / self.bandwidth,
            "tokens_per_second": len(done) / whole,
            "seconds_for_8192_tokens": 8192 * whole,
            "peak_bytes": _peak(self.device),
        }

    def full(self, name: str, length: int, batch: int) -> dict[str, Any]:
        """A step of generate() with a dynamic cache that already holds `length` entries.

        The cache is filled with zeros, because its content does not change the time of a step.
        """
        model, _ = self.model(name)
        _reset(self.device)
        times = _continued(model, batch, length, self.setting.steps)
        step = statistics.median(times[1:])
        return {
            "batch": batch,
            "length": length,
            "step_ms": 1e3 * step,
            "tokens_per_second": batch / step,
            "peak_bytes": _peak(self.device),
        }

    def prefill(self, name: str, batch: int, tokens: int) -> dict[str, Any]:
        """The time to the first tokens of prompts under `rkv`, the second time of two."""
        model, tokenizer = self.model(name)
        policy = self.policy(name, "rkv", self.setting.budget)
        engine = Engine(model, tokenizer, policy, batch_size=batch, eos_token_ids=[])
        given = list(prompts(tokenizer, count=batch, tokens=tokens, seed=0))
        took = []
        for _ in range(2):
            _reset(self.device)
            begun = time.perf_counter()
            greedy = Sampling()
            list(engine.generate(given, max_new_tokens=1, sampling=greedy, progress=False))
            took.append(time.perf_counter() - begun)
        operations = 2 * batch * tokens * weight_bytes(model) / model.dtype.itemsize
        return {
            "batch": batch,
            "prompt_tokens": tokens,
            "seconds": took[-1],
            "tokens_per_second": batch * tokens / took[-1],
            "weights_tflops": operations / took[-1] / 1e12,
            "peak_bytes": _peak(self.device),
        }

    def attention(self, name: str, batch: int) -> dict[str, Any]:
        """The time of each way to attend in a recorded step, for 8 layers; or why not."""
        s, shape = self.setting, cache_shape(self.model(name)[0].config)
        axes = 8, batch, shape.heads, s.budget + s.interval, shape.dim
        dtype = getattr(torch, s.dtype)
        keys, values = (torch.randn(axes, dtype=dtype, device=self.device) for _ in range(2))
        found = kernels.trial(list(zip(keys, values, strict=True)), shape.groups)
        reads = 2 * keys.numel() * keys.element_size()
        return {
            "batch": batch,
            "bytes_ms_per_layer": 1e3 * reads / self.bandwidth / 8,
            "ms_per_layer": {
                way: took if isinstance(took, str) else 1e3 * took / 8
                for way, took in found.items()
            },
        }

    def profile(self, name: str, subject: str) -> dict[str, Any]:
        """The kernels that take most of the time of steps with one event, and of that event."""
        from torch.profiler import ProfilerActivity, profile

        model, tokenizer = self.model(name)
        s = self.setting
        engine = Engine(
            model, tokenizer, self.policy(name, subject, s.budget), batch_size=s.batch,
            eos_token_ids=[],
        )  # fmt: skip
        given = list(prompts(tokenizer, count=s.batch, tokens=s.budget, seed=0))

        def decode(rows: Sequence[Sequence[int]], new_tokens: int) -> None:
            greedy = Sampling()
            list(engine.generate(rows, max_new_tokens=new_tokens, sampling=greedy, progress=False))

        decode(given, 4)
        kinds = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            kinds = [ProfilerActivity.CUDA]
        found: dict[str, Any] = {"steps": _PROFILED}
        # A prompt as long as the budget has an event at its first step, a shorter one has none.
        shorter = [prompt[: -s.interval // 2] for prompt in given]
        for what, rows in (("prompt and steps", shorter), ("and an event", given)):
            with profile(activities=kinds) as profiler:
                decode(rows, _PROFILED + 1)
            found[what] = [
                {"name": e.key[:90], "count": e.count, "ms": _device_ms(e)}
                for e in sorted(profiler.key_averages(), key=_device_ms, reverse=True)[:40]
            ]
        return found

    def room(self, name: str) -> dict[str, Any]:
        """How many sequences fit: computed from their entries, and by trial."""
        model, _ = self.model(name)
        s, per_entry = self.setting, entry_bytes(model)
        due = {"full": s.room * per_entry, "budget": (s.budget + s.interval) * per_entry}
        _tidy(self.device)
        free = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 2**22
        by_bytes = {kind: free // size for kind, size in due.items()}
        full = largest(
            lambda n: self._fits(lambda: _continued(model, n, s.room - 3, 2)),
            max(1, by_bytes["full"]),
            s.trials,
        )
        rkv = largest(
            lambda n: self._fits(lambda: self._decode_few(name, n)),
            max(1, by_bytes["budget"] * 9 // 10),
            s.trials,
        )
        return {
            "tokens": s.room,
            "bytes_per_sequence": due,
            "free_bytes": free,
            "by_bytes": by_bytes,
            "full": full,
            "rkv": rkv | {"times_full": rkv["fits"] / max(1, full["fits"])},
        }

    def _decode_few(self, name: str, sequences: int) -> None:
        """Fill the lanes of `rkv` past their first event; samples share one short prompt."""
        model, tokenizer = self.model(name)
        s = self.setting
        policy = self.policy(name, "rkv", s.budget)
        engine = Engine(
            model, tokenizer, policy, batch_size=sequences, eos_token_ids=[], compile=False
        )
        given = list(prompts(tokenizer, count=1, tokens=s.budget, seed=0))
        sampling = Sampling(temperature=1.0, n=sequences)
        list(
            engine.generate(given, max_new_tokens=s.interval + 2, sampling=sampling, progress=False)
        )

    def _fits(self, work: Callable[[], Any]) -> bool:
        try:
            work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            _tidy(self.device)
        return True

    def parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """All parts, the most telling first."""
        found: dict[str, Callable[[], dict[str, Any]]] = {"device": self.about}

        def add(name: str, method: Callable[..., dict[str, Any]], *args: Any, **kw: Any) -> None:
            found[name] = lambda: method(*args, **kw)

        def cells(model: str, budget: int, *cases: tuple[str, int]) -> None:
            for subject, batch in cases:
                name = f"table/{model}/{budget}/{subject}/{batch}"
                add(name, self.cell, model, subject, budget, batch)

        def full(model: str, *cases: tuple[int, int]) -> None:
            for length, batch in cases:
                add(f"full/{model}/{length}/{batch}", self.full, model, length, batch)

        near, far = self.setting.budget, 2 * self.setting.budget
        add("steps/7b/rkv", self.steps, "7b", "rkv")
        add("steps/7b/streaming_llm", self.steps, "7b", "streaming_llm")
        add("steps/7b/floor", self.steps, "7b", "floor")
        add("steps/7b/skipkv", self.steps, "7b", "skipkv")
        add("uncompiled/7b/rkv", self.steps, "7b", "rkv", compile=False)
        add("attention/7b/10", self.attention, "7b", 10)
        add("profile/7b/rkv", self.profile, "7b", "rkv")
        cells("7b", near, ("rkv", 200), ("skipkv", 200))
        full("7b", (4 * near, 100))
        cells("7b", near, ("rkv", 100))
        add(f"prefill/7b/100x{near}", self.prefill, "7b", 100, near)
        full("7b", (4 * near, 50), (4 * near, 200))
        cells("7b", near, ("rkv", 50), ("skipkv", 100), ("skipkv", 50))
        add("attention/7b/200", self.attention, "7b", 200)
        cells("7b", far, ("rkv", 200), ("rkv", 100), ("rkv", 10))
        cells("1.5b", near, ("rkv", 200), ("skipkv", 200), ("rkv", 10))
        full("1.5b", (4 * near, 200), (4 * near, 10))
        add(f"prefill/7b/10x{4 * near}", self.prefill, "7b", 10, 4 * near)
        add("room/7b", self.room, "7b")
        full("7b", (4 * near, 10), (8 * near, 100), (8 * near, 200))
        cells("7b", near, ("rkv", 140), ("skipkv", 140), ("rkv", 10), ("skipkv", 10))
        cells("7b", far, ("skipkv", 200), ("skipkv", 100), ("skipkv", 10), ("rkv", 50))
        cells("1.5b", near, ("rkv", 100), ("rkv", 50), ("skipkv", 100), ("skipkv", 10))
        cells("1.5b", far, ("rkv", 200), ("skipkv", 200))
        add("steps/7b/snapkv", self.steps, "7b", "snapkv")
        return found


def main(
    output: Annotated[Path, typer.Option(help="The folder of gpu.jsonl.")],
    seconds: Annotated[float, typer.Option(help="Begin no part after so many seconds.")] = 3600.0,
    wait_for: Annotated[
        Path | None, typer.Option(help="A file to wait for, once all is ready to be timed.")
    ] = None,
    only: Annotated[
        str, typer.Option(help="Parts whose names begin so, separated by commas.")
    ] = "",
    device: Annotated[str, typer.Option()] = "cuda",
    dtype: Annotated[str, typer.Option()] = "bfloat16",
) -> None:
    """Measure what has not been measured yet."""
    measure(
        Setting(device=device, dtype=dtype),
        output,
        seconds=seconds,
        wait_for=wait_for,
        only=tuple(only.split(",")) if only else ("",),
    )


def measure(
    setting: Setting,
    output: Path,
    *,
    seconds: float = 3600.0,
    wait_for: Path | None = None,
    only: Sequence[str] = ("",),
    limit: float = LIMIT,
) -> None:
    """Measure the parts that have no line yet, until the time is over."""
    end = time.monotonic() + seconds
    output.mkdir(parents=True, exist_ok=True)
    lines, begun = output / "gpu.jsonl", output / "gpu.begun"
    done = (
        {json.loads(line)["part"] for line in lines.read_text().splitlines()}
        if (lines.exists())
        else set()
    )
    if begun.exists() and begun.read_text() not in done:
        done.add(begun.read_text())
        _append(lines, {"part": begun.read_text(), "status": "the process ended in it"})
    bench = Bench(setting)
    if wait_for is not None:
        answer = guarded(bench.warm_up)  # with the device shared: nothing is timed
        typer.echo(f"warm: {json.dumps(answer)}")
        while not wait_for.exists() and time.monotonic() < end:
            time.sleep(0.1)
    for name, part in bench.parts().items():
        if name in done or not name.startswith(tuple(only)) or time.monotonic() > end:
            continue
        begun.write_text(name)
        _append(lines, {"part": name} | _limited(name, part, lines, limit))
        if setting.device == "cuda":
            _check_device()
    begun.unlink(missing_ok=True)


def _limited(
    name: str, part: Callable[[], dict[str, Any]], lines: Path, limit: float
) -> dict[str, Any]:
    """The result of a part; if it takes too long, the process ends with a line that says so."""

    def stop() -> None:
        _append(lines, {"part": name, "status": f"took longer than {limit:g} s"})
        os._exit(3)

    timer = threading.Timer(limit, stop)
    timer.daemon = True
    timer.start()
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = guarded(lambda: {"status": "ok"} | part())
    timer.cancel()
    if "oom" in answer:
        answer = {"status": "oom", "reason": answer["oom"]}
    elif "error" in answer:
        answer = {"status": "error", "reason": answer["error"]}
    said = sorted({str(w.message)[:300] for w in caught if "skipkv" in type(w.message).__module__})
    took = {"took_seconds": round(time.perf_counter() - started, 2)}
    return answer | took | ({"warnings": said} if said else {})


def _append(lines: Path, result: dict[str, Any]) -> None:
    with lines.open("a") as file:
        file.write(json.dumps(result) + "\n")
    typer.echo(json.dumps(result)[:700])


def _check_device() -> None:
    """End the process if an error has made the device unusable for it; a new one can go on."""
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except RuntimeError as error:
        typer.echo(f"The device is unusable: {error}")
        os._exit(4)
    torch.cuda.empty_cache()


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy within the device reads and writes, a median."""
    count = 2**29 if device.type == "cuda" else 2**27  # larger than any cache
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(12):
        _wait(device)
        begun = time.perf_counter()
        target.copy_(source)
        _wait(device)
        times.append(time.perf_counter() - begun)
    return 2 * count / statistics.median(times[2:])


def weight_bytes(model: Any) -> int:
    """Bytes of weights that a decode step reads: all but the embedding, which it reads by rows."""
    tied = model.config.tie_word_embeddings
    embedding = model.get_input_embeddings().weight
    return sum(
        p.numel() * p.element_size() for p in model.parameters() if tied or p is not embedding
    )


def decoded(subject: Subject, job: Job, bandwidth: float) -> dict[str, Any]:
    """A subject's steps, and the time to read their bytes at this bandwidth."""
    answer = subject.measure(job)
    case = Case(subject=subject.label, batch_size=len(job.prompts), budget=job.budget)
    m = Measurement.of(case, repeat=0, new_tokens=job.new_tokens, answer=answer)
    steps = job.new_tokens - 1
    schedule = widths(job.prompt_tokens, steps, budget=job.budget, interval=job.interval)
    entries = sum(schedule) / steps
    read = weight_bytes(job.model) + len(job.prompts) * entry_bytes(job.model) * entries
    assert m.step_median is not None
    return {
        "batch": len(job.prompts),
        "budget": job.budget,
        "step_ms": 1e3 * m.step_median,
        "step_p95_ms": 1e3 * (m.step_p95 or 0),
        "bytes_ms": 1e3 * read / bandwidth,
        "step_over_bytes": m.step_median * bandwidth / read,
        "events": m.events,
        "event_ms": 1e3 * m.event_median,
        "event_share": m.event_share,
        "decode_step_ms": 1e3 * (m.decode_step or 0),
        "first_token_ms": 1e3 * (m.first_token or 0),
        "peak_bytes": m.peak_bytes,
    }


def largest(fits: Callable[[int], bool], start: int, trials: int) -> dict[str, Any]:
    """The largest batch that fits among those tried, and the smallest that did not."""
    good, bad = 0, None
    size = max(1, start)
    for _ in range(trials):
        if fits(size):
            good = max(good, size)
        else:
            bad = size
        following = 2 * size if bad is None else (good + bad) // 2
        if following in (good, bad) or following == 0:
            break
        size = following
    return {"fits": good, "does_not": bad}


def _continued(model: Any, sequences: int, length: int, steps: int) -> list[float]:
    """Seconds of the steps of generate() from a dynamic cache of `length` entries on."""
    shape = cache_shape(model.config)
    cache = DynamicCache(config=model.config)
    for layer in range(shape.layers):
        zeros = torch.zeros(
            sequences, shape.heads, length, shape.dim, dtype=model.dtype, device=model.device
        )
        cache.update(zeros, zeros, layer)
        del zeros
    ids = torch.zeros(sequences, length + 1, dtype=torch.long, device=model.device)
    laps = _Laps(model.device)
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=steps,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            streamer=laps,
            **{cache_name(model): cache},
        )
    return laps.times


class _Laps:
    """Times between the tokens that generate() streams."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._since: float | None = None
        self.times: list[float] = []

    def put(self, tokens: Sequence[int]) -> None:
        now = time.perf_counter()
        if self._since is not None:
            self.times.append(now - self._since)
        self._since = now

    def end(self) -> None:
        pass


def entry_bytes(model: Any) -> int:
    """Bytes of an entry of all layers and heads: a key and a value."""
    shape = cache_shape(model.config)
    return 2 * shape.layers * shape.heads * shape.dim * int(model.dtype.itemsize)


def _device_ms(event: Any) -> float:
    """The time of a profiled kernel."""
    took = getattr(event, "self_device_time_total", 0) or event.self_cpu_time_total
    return round(took / 1e3, 3)


def _tidy(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _reset(device: torch.device) -> None:
    """Begin to count the peak of memory."""
    _tidy(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    """The most memory allocated since `_reset`, weights included."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    typer.run(main)
