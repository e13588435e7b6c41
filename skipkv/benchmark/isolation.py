"""Running a measurement in a process of its own, where that can be had for nothing."""

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
"""Keys of an answer that is no measurement."""

Answer = dict[str, Any]


def can_fork(device: torch.device) -> bool:
    """Whether a child process can go on with the model that this one has loaded.

    CUDA does not outlive a fork, and outside Linux neither does all of torch.
    """
    return device.type == "cpu" and sys.platform == "linux"


def in_child(work: Callable[[], Answer]) -> Answer:
    """Run `work` in a child process and return its answer.

    Every run begins with the memory as the model's loading left it. A run that exhausts the memory
    ends alone. The child ends when this process does, killed or not. The parent must not have
    computed with more than one thread: OpenMP's threads do not outlive a fork, and a child that
    waits for them waits for ever.

    Args:
        work: what is to be done there.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    held, holding = os.pipe()  # this process alone holds the second end: it closes when that dies
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads that compute nothing: tqdm's
        child = os.fork()
    if child == 0:
        os.close(holding)
        _be_child(work, write, held)
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
    """What `work` returns; or what kept it from it, as an answer that says so."""
    try:
        return work()
    except Exception as error:
        if is_out_of_memory(error):
            return {OOM: str(error).partition("\n")[0] or type(error).__name__}
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return {ERROR: f"{type(error).__name__} at {where}: {' '.join(str(error).split())}"}


def _be_child(work: Callable[[], Answer], write: int, held: int) -> None:
    """Work, answer and end; nothing of the parent's may run here on the way out."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        threading.Thread(target=_end_with_the_parent, args=(held,), daemon=True).start()
        with suppress(OSError):  # if the machine runs out of memory, this process is to end
            Path("/proc/self/oom_score_adj").write_text("1000")
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(guarded(work)).encode())
    finally:
        os._exit(0)


def _end_with_the_parent(held: int) -> None:
    """Wait until the parent's end of the pipe closes: the parent is gone then."""
    os.read(held, 1)
    os._exit(1)


def _died(code: int) -> Answer:
    if code == -signal.SIGKILL:
        return {OOM: "the process was killed, as Linux does when memory runs out"}
    return {ERROR: f"the process ended with exit code {code} and said nothing"}
