"""Runs a measurement in a forked process, where forking works."""

import gc
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from skipkv._calls import is_out_of_memory

OOM, ERROR = "oom", "error"
"""Keys of an answer without a measurement."""

Answer = dict[str, Any]


def can_fork(device: torch.device) -> bool:
    """Whether a forked process can use the model that this process has loaded.

    CUDA does not work after a fork. Outside Linux parts of torch do not either.
    """
    return device.type == "cpu" and sys.platform == "linux"


def in_child(work: Callable[[], Answer]) -> Answer:
    """Run `work` in a child process and return its answer.

    Every run begins with the memory after loading the model. A run that exhausts the memory ends
    alone. The child ends when this process ends, even if it is killed. The parent must not have
    computed with several threads: OpenMP's threads do not exist in a forked child, which would then
    wait for them for ever.

    Args:
        work: the measurement.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    held, holding = os.pipe()  # only this process holds the second end: it closes with the process
    # A collection writes to the header of every object it looks at, and the child copies each page
    # that is written to: without this its first collections copy the parent's memory.
    gc.collect()
    gc.freeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about tqdm's threads, which are safe
        child = os.fork()
    if child == 0:
        os.close(holding)
        _be_child(work, write, held)
    gc.unfreeze()
    os.close(write)
    os.close(held)
    try:
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(child, 0)
        os.close(holding)
    if said:
        answer: Answer = json.loads(said)
        return answer
    return _died(os.waitstatus_to_exitcode(status))


def guarded(work: Callable[[], Answer]) -> Answer:
    """The answer of `work`; if it raised, an answer with the reason."""
    try:
        return work()
    except Exception as error:
        if is_out_of_memory(error):
            return {OOM: str(error).partition("\n")[0] or type(error).__name__}
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return {ERROR: f"{type(error).__name__} at {where}: {' '.join(str(error).split())}"}


def _be_child(work: Callable[[], Answer], write: int, held: int) -> None:
    """Work, answer and exit without running any of the parent's clean-up."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        threading.Thread(target=_end_with_the_parent, args=(held,), daemon=True).start()
        with suppress(OSError):  # Linux shall end this process first if memory runs out
            Path("/proc/self/oom_score_adj").write_text("1000")
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(guarded(work)).encode())
    finally:
        os._exit(0)


def _end_with_the_parent(held: int) -> None:
    """Exit when the parent's end of the pipe closes, because the parent has ended."""
    os.read(held, 1)
    os._exit(1)


def _died(code: int) -> Answer:
    if code == -signal.SIGKILL:
        return {OOM: "the process was killed, as Linux does when memory runs out"}
    return {ERROR: f"the process ended with exit code {code} and without an answer"}
