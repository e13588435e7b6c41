"""The laws of batch schedulers."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from skipkv._types import Request
from skipkv.schedulers import BatchScheduler
from skipkv.testing.laws.common import protocol_law
from skipkv.testing.laws.law import Broken, Case, Law, hold_all
from skipkv.testing.streams import request_queues


def _asked(scheduler: Any, case: Case, then: str = "") -> tuple[list[Any], Any, int, int]:
    waiting = case.draw(f"{then}waiting", request_queues(max_requests=6))
    free = case.draw(f"{then}free", st.integers(1, 4))
    running = case.draw(f"{then}running", st.integers(0, 3))
    return waiting, scheduler.admit(tuple(waiting), free=free, running=running), free, running


def _answer(scheduler: Any, case: Case) -> None:
    _, admitted, _, _ = _asked(scheduler, case)
    whole = isinstance(admitted, list | tuple | range) and all(
        isinstance(index, int) and not isinstance(index, bool) for index in admitted
    )
    if not whole:
        raise Broken(f"admit returned {admitted!r}.")


def _indices(scheduler: Any, case: Case) -> None:
    waiting, admitted, _, _ = _asked(scheduler, case)
    chosen = list(admitted)
    if len(set(chosen)) < len(chosen) or not all(0 <= i < len(waiting) for i in chosen):
        raise Broken(f"admit returned {chosen} for {len(waiting)} waiting.")


def _free(scheduler: Any, case: Case) -> None:
    _, admitted, free, _ = _asked(scheduler, case)
    if len(list(admitted)) > free:
        raise Broken(f"admit returned {list(admitted)}, {len(list(admitted))} for {free} free.")


def _progress(scheduler: Any, case: Case) -> None:
    _, admitted, _, running = _asked(scheduler, case)
    if not running and not list(admitted):
        raise Broken("nothing is running, and admit chose no request.")


def _deterministic(scheduler: Any, case: Case) -> None:
    waiting, before, free, running = _asked(scheduler, case)
    first = list(before)
    _asked(scheduler, case, "in between, ")
    again = list(scheduler.admit(tuple(waiting), free=free, running=running))
    if first != again:
        raise Broken(f"admit returned {first}, and when asked again {again}.")


def _pure(scheduler: Any, case: Case) -> None:
    waiting = case.draw("waiting", request_queues(max_requests=6))
    before = list(waiting)
    scheduler.admit(waiting, free=2, running=0)
    if waiting != before:
        raise Broken(f"{len(before)} requests waited before admit, and {len(waiting)} after it.")


def _conservation(scheduler: Any, case: Case) -> None:
    queue: list[Request] = case.draw("queue", request_queues(max_requests=6))
    slots = case.draw("slots", st.integers(1, 4))
    waiting = list(queue)
    finished: list[int] = []
    running: list[tuple[Any, int]] = []  # with the tokens still to decode
    while waiting or running:
        free = slots - len(running)
        if waiting and free:
            admitted = list(scheduler.admit(tuple(waiting), free=free, running=len(running)))
            known = all(0 <= index < len(waiting) for index in admitted)
            if not known or len(set(admitted)) < len(admitted) or len(admitted) > free:
                raise Broken(
                    f"with requests {[r.index for r in waiting]} waiting and {free} free, admit "
                    f"returned {admitted}: indices into `waiting` are meant, not Request.index."
                )
            running += [(waiting[index], waiting[index].max_new_tokens) for index in admitted]
            waiting = [r for index, r in enumerate(waiting) if index not in admitted]
        if not running:
            raise Broken(f"{len(waiting)} requests wait for ever; done: {finished}.")
        running = [(request, left - 1) for request, left in running]
        finished += [request.index for request, left in running if not left]
        running = [(request, left) for request, left in running if left]


LAWS = (
    protocol_law(BatchScheduler, "the scheduler"),
    Law(
        name="answer",
        says="admit returns a list or tuple of whole numbers.",
        why="the engine looks requests up by them.",
        check=_answer,
        basic=True,
    ),
    Law(
        name="pure",
        says="admit does not change the queue.",
        why="the engine itself takes admitted requests out; a second removal loses requests.",
        check=_pure,
        basic=True,
    ),
    Law(
        name="indices",
        says="The answer holds distinct indices into `waiting`.",
        why="a request enters one slot, once.",
        check=_indices,
        basic=True,
    ),
    Law(
        name="free",
        says="At most `free` requests are admitted.",
        why="there is no slot for more.",
        check=_free,
    ),
    Law(
        name="progress",
        says="When nothing is running, at least one request is admitted.",
        why="else nothing would ever change, and the engine would wait for ever.",
        check=_progress,
    ),
    Law(
        name="deterministic",
        says="The same queue gets the same answer, whatever was asked before.",
        why="a scheduler may serve many calls of `generate`; with state in it a run could not be "
        "repeated.",
        check=_deterministic,
    ),
    Law(
        name="conservation",
        says="Every request of a queue is decoded, once, while others come and go.",
        why="a lost request is an answer that never comes.",
        check=_conservation,
    ),
)


def check_scheduler(
    scheduler: BatchScheduler, *, claims: Mapping[str, str] | None = None, examples: int = 100
) -> None:
    """Hold a batch scheduler to the laws of its protocol.

    Args:
        scheduler: any batch scheduler.
        claims: laws that it breaks on purpose, each with the reason. A claimed law that it keeps
            is an error too.
        examples: queues tried per law.

    Raises:
        ConformanceError: a law is broken; the message shows the shortest queue on which it is.
        ConfigError: `claims` names something that is not a law, or gives no reason.

    Example:
        >>> from skipkv.schedulers import Continuous
        >>> check_scheduler(Continuous(), examples=10)
    """
    hold_all(LAWS, scheduler, claims, examples)
