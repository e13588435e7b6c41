"""Decodes a job under kvpress' DecodingPress(SnapKVPress), in an interpreter with kvpress.

It does not import skipkv: kvpress needs an older transformers, in an environment of its own. The
job comes as JSON on stdin, and the answer goes as a line of JSON to stdout. `kvpress.py` is the
other end.
"""

import ctypes
import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from kvpress import DecodingPress, SnapKVPress
from transformers import AutoModelForCausalLM

_STATUS = Path("/proc/self/status")


def _kilobytes(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


class _Memory:
    """The same counts as `skipkv.benchmark.memory` makes."""

    def __init__(self, device: torch.device) -> None:
        self.base, self.most, self.marks = 0, 0, False
        self.cuda = device.type == "cuda"

    def start(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.base = torch.cuda.memory_allocated()
            return
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.marks = True
        except OSError:
            self.marks = False
        self.base, self.most = _kilobytes("VmRSS") or 0, 0

    def now(self) -> int | None:
        if self.cuda:
            return torch.cuda.memory_allocated() - self.base
        found = _kilobytes("VmRSS")
        if found is None:
            return None
        self.most = max(self.most, 1024 * (found - self.base))
        return 1024 * (found - self.base)

    def peak(self) -> int | None:
        if self.cuda:
            return torch.cuda.max_memory_allocated() - self.base
        if self.now() is None:
            return None
        mark = _kilobytes("VmHWM") if self.marks else None
        return self.most if mark is None else max(self.most, 1024 * (mark - self.base))


class _Laps:
    """What `skipkv.benchmark.recorder` records, from the tokens that generate() streams.

    Compression happens inside a step, in hooks on its layers, so no events are recorded.
    """

    def __init__(self, memory: _Memory, every: int) -> None:
        self.memory, self.every = memory, every
        self.puts, self.first, self.seconds = 0, 0.0, 0.0
        self.steps: list[float] = []
        self.samples: list[tuple[int, float, int | None]] = []
        self.cpu = self.cpu_begun = 0.0
        self.begun = self.since = time.perf_counter()

    def put(self, tokens: torch.Tensor) -> None:
        now = time.perf_counter()
        self.puts += 1
        if self.puts == 1:  # the prompt
            return
        if self.puts == 2:
            self.first = self.seconds = now - self.begun
            self.look(1)
            self.cpu_begun = time.process_time()
            return
        self.steps.append(now - self.since)
        self.seconds += now - self.since
        if len(self.steps) % self.every == 0:
            cpu = time.process_time()
            self.look(len(self.steps) + 1)
            self.cpu_begun += time.process_time() - cpu
        else:
            self.since = now

    def look(self, tokens: int) -> None:
        self.samples.append((tokens, self.seconds, self.memory.now()))
        self.since = time.perf_counter()

    def end(self) -> None:
        self.cpu = time.process_time() - self.cpu_begun
        if len(self.steps) % self.every:  # no memory sample: the cache may be freed already
            self.samples.append((len(self.steps) + 1, self.seconds, None))


def _end_with_the_benchmark(held: int) -> None:
    """Exit when the other end of the pipe closes, because the benchmark's process has ended."""
    os.read(held, 1)
    os._exit(1)


def main() -> dict[str, Any]:
    """Decode one job and return the answer."""
    job = json.loads(sys.stdin.read())
    threading.Thread(target=_end_with_the_benchmark, args=(job["held"],), daemon=True).start()
    torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    model: Any = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=getattr(torch, job["dtype"]), trust_remote_code=False
    )
    model.to(device).eval()
    prompts = torch.tensor(job["prompts"], device=device)
    press = DecodingPress(
        base_press=SnapKVPress(window_size=job["window"], kernel_size=job["pool"]),
        compression_interval=job["interval"],
        target_size=job["budget"],
    )
    widths: list[int] = []

    def see(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))  # its new and its old name
        widths.append(0 if cache is None else cache.get_seq_length())

    def decode(new_tokens: int, streamer: _Laps | None) -> None:
        with torch.inference_mode(), press(model):
            model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                streamer=streamer,
            )

    memory = _Memory(device)
    decode(2 if device.type == "cpu" else job["interval"] + 2, None)
    memory.start()
    laps = _Laps(memory, job["every"])
    handle = model.register_forward_pre_hook(see, with_kwargs=True)
    decode(job["new_tokens"], laps)
    laps.end()
    handle.remove()
    return {
        "prefill": [laps.first],
        "steps": laps.steps,
        "events": [],
        "first_token": laps.first,
        "seconds": laps.seconds,
        "cpu_seconds": laps.cpu,
        "samples": laps.samples,
        "peak_bytes": memory.peak(),
        "widths": widths,
    }


if __name__ == "__main__":
    try:
        answer = main()
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        short = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
            "allocate memory" in text
        )
        answer = {"oom" if short else "error": text}
    print("\n" + json.dumps(answer))
