"""Measures one GPU with a 7B's shape: steps and the bytes they read, events, full caches, capacity.

    python benchmarks/gpu.py --output runs/gpu.json

Weights are random, so none are downloaded. `benchmarks/gpu.sh` runs this after the tests. With a
small config it runs on a CPU too (`--device cpu`), to check that it works.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import DynamicCache

from skipkv import __version__, presets
from skipkv._calls import is_out_of_memory
from skipkv.benchmark import Case, Job, Measurement, Subject, baselines_of, policies_of
from skipkv.benchmark.isolation import guarded
from skipkv.benchmark.prompts import prompts
from skipkv.benchmark.schedule import widths
from skipkv.models import load
from skipkv.runtime import Engine, Sampling
from skipkv.runtime.seam import cache_name
from skipkv.runtime.support import cache_shape

CONFIG = Path(__file__).parent / "configs" / "deepseek-r1-distill-qwen-7b.json"


def main(
    output: Annotated[Path, typer.Option(help="Where the results go, as JSON.")],
    config: Annotated[Path, typer.Option(help="A transformers config.json.")] = CONFIG,
    device: Annotated[str, typer.Option()] = "cuda",
    dtype: Annotated[str, typer.Option()] = "bfloat16",
    batch: Annotated[int, typer.Option(help="Sequences decoded together.")] = 10,
    budget: Annotated[int, typer.Option(help="Entries per KV head.")] = 1024,
    interval: Annotated[int, typer.Option(help="Steps between two events.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens decoded by each policy.")] = 640,
    policies: Annotated[str, typer.Option()] = "streaming_llm,snapkv,rkv,skipkv",
    lengths: Annotated[
        str, typer.Option(help="Cache lengths at which generate() is timed.")
    ] = "1024,2048,4096,8192",
    generate_steps: Annotated[int, typer.Option(help="Steps timed at each of them.")] = 100,
    long: Annotated[int, typer.Option(help="New tokens that generate() is extended to.")] = 8192,
    room: Annotated[int, typer.Option(help="Tokens per sequence in the search for room.")] = 16384,
    trials: Annotated[int, typer.Option(help="Batch sizes tried for each.")] = 5,
) -> None:
    """Measure, and write one JSON file; it is rewritten after every part."""
    started = time.perf_counter()
    results: dict[str, Any] = {"skipkv": __version__, "torch": torch.__version__}

    def done(part: str, found: Any) -> None:
        results[part] = found
        results["seconds"] = round(time.perf_counter() - started, 1)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(results, indent=2) + "\n")
        typer.echo(f"{part}: {json.dumps(found)}")

    done("device", _device(torch.device(device)))
    bandwidth = copy_bandwidth(torch.device(device))
    done("copy_bandwidth_bytes_per_second", bandwidth)
    model, tokenizer = load(f"random:{config}", dtype=dtype, device=device)
    model.config.max_position_embeddings = max(
        model.config.max_position_embeddings, 2 * max(long, room)
    )
    done("model", {"config": config.name, "dtype": dtype, "weight_bytes": weight_bytes(model)})
    job = Job(
        model=model,
        tokenizer=tokenizer,
        prompts=prompts(tokenizer, count=batch, tokens=budget, seed=0),
        new_tokens=new_tokens,
        interval=interval,
        budget=budget,
        every=new_tokens,
    )
    subjects: list[Subject] = [
        *baselines_of(["floor"], kvpress=None),
        *policies_of([policies], settings={}, config=model.config),
    ]
    steps = {s.label: decoded(s, job, bandwidth) for s in subjects}
    done("steps", steps)
    at = [int(length) for length in lengths.split(",")]
    curve = {length: dynamic_step(job, length, generate_steps) for length in at}
    done("generate_dynamic_step_seconds_at", curve)
    done("long", extended(steps, curve, prompt=budget, new_tokens=long))
    done("room", room_for(job, room, trials))
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"name": device.type}
    about = torch.cuda.get_device_properties(device)
    return {"name": about.name, "memory_bytes": about.total_memory}


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
    answer = guarded(lambda: subject.measure(job))
    case = Case(subject=subject.label, batch_size=len(job.prompts), budget=job.budget)
    m = Measurement.of(case, repeat=0, new_tokens=job.new_tokens, answer=answer)
    if not m.ok:
        return {"status": m.status, "reason": m.reason}
    steps = job.new_tokens - 1
    schedule = widths(job.prompt_tokens, steps, budget=job.budget, interval=job.interval)
    read = weight_bytes(job.model) + _entry_bytes(job) * sum(schedule) / steps
    assert m.step_median is not None
    return {
        "status": "ok",
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


def dynamic_step(job: Job, length: int, steps: int) -> float | None:
    """Seconds of a step of generate() with a dynamic cache that already holds `length` entries.

    The cache is filled with zeros, because its content does not change the time of a step. None if
    memory runs out.
    """

    def timed() -> dict[str, Any]:
        times = _continued(job, len(job.prompts), length, steps)
        return {"seconds": statistics.median(times[1:])}

    answer = guarded(timed)
    _tidy(job)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer.get("seconds")


def extended(
    steps: dict[str, Any], curve: dict[int, float | None], *, prompt: int, new_tokens: int
) -> dict[str, Any]:
    """Time of `new_tokens` tokens, from steps timed at a few lengths.

    The time of a step of generate() grows with its cache; it is interpolated and extrapolated
    linearly. The time of a policy's step does not grow, so its mean is used for all steps.
    """
    known = {length: seconds for length, seconds in curve.items() if seconds is not None}
    if len(known) < 2:
        return {"status": "generate() ran out of memory before two lengths were timed"}
    generate = integral(known, prompt, prompt + new_tokens)
    found: dict[str, Any] = {"new_tokens": new_tokens, "generate_dynamic_seconds": generate}
    for label, step in steps.items():
        if step["status"] == "ok":
            seconds = new_tokens * step["decode_step_ms"] / 1e3
            found[label] = {"seconds": seconds, "speedup": generate / seconds}
    return found


def integral(known: dict[int, float], first: int, last: int) -> float:
    """The sum of a piecewise linear function over the lengths `first .. last`, its ends extended.

    Example:
        >>> integral({10: 1.0, 20: 2.0}, 0, 40)
        80.0
    """
    points = sorted(known.items())

    def at(length: float) -> float:
        pairs = list(itertools.pairwise(points))
        (a, va), (b, vb) = next((p for p in pairs if length <= p[1][0]), pairs[-1])
        return va + (vb - va) * (length - a) / (b - a)

    knots = sorted({first, last, *(n for n, _ in points if first < n < last)})
    return sum((b - a) * (at(a) + at(b)) / 2 for a, b in itertools.pairwise(knots))


def room_for(job: Job, tokens: int, trials: int) -> dict[str, Any]:
    """How many sequences of `tokens` tokens fit: computed from their entries, and by trial."""
    per_entry = _entry_bytes(job) // len(job.prompts)
    assert job.budget is not None
    due = {"full": tokens * per_entry, "budget": (job.budget + job.interval) * per_entry}
    free = _free(job)
    found: dict[str, Any] = {"tokens": tokens, "bytes_per_sequence": due, "free_bytes": free}
    by_bytes = {name: None if free is None else free // size for name, size in due.items()}
    found["by_bytes"] = by_bytes
    start = by_bytes["full"] or len(job.prompts)
    full = largest(lambda n: _fits(job, lambda: _continued(job, n, tokens - 3, 2)), start, trials)
    found["full"] = full
    for name in ("rkv", "skipkv"):
        begin = 8 * max(1, full["fits"])
        found[name] = largest(
            lambda n, name=name: _fits(job, lambda: _under(job, name, n)), begin, trials
        )
        found[name]["times_full"] = found[name]["fits"] / max(1, full["fits"])
    return found


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


def _fits(job: Job, work: Callable[[], Any]) -> bool:
    try:
        work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        _tidy(job)
    return True


def _under(job: Job, name: str, sequences: int) -> None:
    """Decode `sequences` sequences past their first event at a full budget."""
    assert job.budget is not None
    policy = presets.get(name)(job.budget, interval=job.interval)
    engine = Engine(job.model, job.tokenizer, policy, batch_size=sequences, eos_token_ids=[])
    rows = [job.prompts[i % len(job.prompts)] for i in range(sequences)]
    list(
        engine.generate(rows, max_new_tokens=job.interval + 2, sampling=Sampling(), progress=False)
    )


def _continued(job: Job, sequences: int, length: int, steps: int) -> list[float]:
    """Seconds of the steps of generate() from a dynamic cache of `length` entries on."""
    model, shape = job.model, cache_shape(job.model.config)
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


def _entry_bytes(job: Job) -> int:
    """Bytes of an entry of all layers, heads and sequences: a key and a value."""
    shape = cache_shape(job.model.config)
    return 2 * shape.layers * shape.heads * shape.dim * job.model.dtype.itemsize * len(job.prompts)


def _free(job: Job) -> int | None:
    device = job.model.device
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _tidy(job: Job) -> None:
    if job.model.device.type == "cuda":
        torch.cuda.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    typer.run(main)
