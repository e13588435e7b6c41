"""kvpress' DecodingPress(SnapKVPress) as a subject, in an interpreter and process of its own."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import torch

from skipkv.benchmark.case import Job
from skipkv.benchmark.isolation import ERROR, OOM, Answer
from skipkv.benchmark.subjects import KVPRESS
from skipkv.errors import InputError

_WORKER = Path(__file__).with_name("kvpress_worker.py")
# SnapKV's window and pooling of the preset `snapkv`, so that both do the same work.
_WINDOW, _POOL = 8, 7


@attrs.frozen(kw_only=True)
class KvpressSubject:
    """DecodingPress(SnapKVPress) under `generate()`, at the same budget and interval.

    Args:
        python: the interpreter of an environment with kvpress.
        folder: folder of the model, as `save_pretrained` writes it.
    """

    python: Path
    folder: Path
    label: str = KVPRESS
    takes_budget: bool = True
    note: str | None = None
    in_process: bool = attrs.field(default=False, init=False)

    def entries(self, job: Job) -> int | None:
        """The budget and the interval: it compresses every `interval` steps."""
        assert job.budget is not None
        return max(job.prompt_tokens, job.budget) + job.interval

    def measure(self, job: Job) -> Answer:
        """Decode in a process of its own; compression happens inside steps and counts as steps."""
        answer = self._asked(
            {
                "model": str(self.folder),
                "prompts": job.prompts,
                "new_tokens": job.new_tokens,
                "interval": job.interval,
                "budget": job.budget,
                "window": _WINDOW,
                "pool": _POOL,
                "every": job.every,
                "threads": torch.get_num_threads() if job.threads is None else job.threads,
                "device": str(job.model.device),
                "dtype": str(job.model.dtype).removeprefix("torch."),
            }
        )
        widths = answer.get("widths", [0])
        steps_over = job.prompt_tokens + job.new_tokens - 1 > (self.entries(job) or 0)
        if steps_over and max(widths) > (self.entries(job) or 0):
            return {ERROR: f"kvpress did not compress: it held up to {max(widths)} entries"}
        return answer

    def _asked(self, question: dict[str, Any]) -> Answer:
        # The worker ends when `holding` closes, so at the latest when this process ends.
        held, holding = os.pipe()
        try:
            done = subprocess.run(  # -I: or our own kvpress.py would be found before theirs
                [str(self.python), "-I", str(_WORKER)],
                input=json.dumps({**question, "held": held}),
                capture_output=True,
                text=True,
                check=False,
                pass_fds=(held,),
            )
        finally:
            os.close(held)
            os.close(holding)
        if done.returncode == -signal.SIGKILL:
            return {OOM: "the process was killed, as Linux does when memory runs out"}
        try:
            answer: Answer = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return {ERROR: f"the kvpress process ended with {done.returncode}: {last}"}
        return answer


def check_interpreter(python: Path) -> str:
    """The version of kvpress that an interpreter has.

    Raises:
        InputError: it is not an interpreter, or has no kvpress.
    """
    script = "import importlib.metadata as m; print(m.version('kvpress'))"
    try:
        done = subprocess.run(
            [str(python), "-c", script], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise InputError(f"--kvpress-python {python}: {error.strerror}.") from error
    if done.returncode:
        raise InputError(
            f"--kvpress-python {python}: this interpreter has no kvpress. Install it there: "
            f"{python} -m pip install kvpress"
        )
    return done.stdout.strip()


@contextmanager
def saved(model: Any, folder: Path | None) -> Iterator[Path]:
    """A folder with the model as `save_pretrained` writes it; if it has none, a temporary one.

    Args:
        model: the model.
        folder: where its files lie, if anywhere.
    """
    if folder is not None and (folder / "config.json").is_file():
        yield folder
        return
    with TemporaryDirectory(prefix="skipkv-bench-") as made:
        with _unquantized(model):
            model.save_pretrained(made)
        yield Path(made)


@contextmanager
def _unquantized(model: Any) -> Iterator[None]:
    """A model read from GGUF holds plain weights, but says that it is quantized and unsavable."""
    quantizer = model.__dict__.pop("hf_quantizer", None)
    config = model.config.__dict__.pop("quantization_config", None)
    try:
        yield
    finally:
        if quantizer is not None:
            model.hf_quantizer = quantizer
        if config is not None:
            model.config.quantization_config = config
