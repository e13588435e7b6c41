"""Running a measurement in a process of its own, where that can be had for nothing."""

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

OOM, ERROR = "oom", "error"
"""Keys of an answer that is no measurement."""

Answer = dict[str, Any]


def can_fork(device: torch.device) -> bool:
    """Whether a child process can go on with the model that this one has loaded.

    CUDA does not outlive a fork, and outside Linux neither does all of torch.
    """
    return device.type == "cpu" and sys.platform == "linux"


def in_child(work: Callable[[], Answer]) -> Answer:
    """What `work` returns, done in a child process that ends with it.

    Every run begins with the memory as the model's loading left it, and one that runs out of it
    takes nobody along. The parent must not have computed with more than one thread: OpenMP's
    threads do not outlive a fork, and whoever waits for them waits for ever.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads that compute nothing: tqdm's
        child = os.fork()
    if child == 0:
        _be_child(work, write)
    os.close(write)
    try:
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    if said:
        answer: Answer = json.loads(said)
        return answer
    return _died(os.waitstatus_to_exitcode(status))


def guarded(work: Callable[[], Answer]) -> Answer:
    """What `work` returns; or what kept it from it, as an answer that says so."""
    try:
        return work()
    except Exception as error:
        if is_oom(error):
            return {OOM: str(error).partition("\n")[0] or type(error).__name__}
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return {ERROR: f"{type(error).__name__} at {where}: {' '.join(str(error).split())}"}


def is_oom(error: BaseException) -> bool:
    """Whether it says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )


def _be_child(work: Callable[[], Answer], write: int) -> None:
    """Work, answer and go: nothing of the parent's may run here on the way out."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with suppress(OSError):  # if the machine runs out of memory, this process is to end
            Path("/proc/self/oom_score_adj").write_text("1000")
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(guarded(work)).encode())
    finally:
        os._exit(0)


def _died(code: int) -> Answer:
    if code == -signal.SIGKILL:
        return {OOM: "the process was killed, as Linux does when memory runs out"}
    return {ERROR: f"the process ended with exit code {code} and said nothing"}
