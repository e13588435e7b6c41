"""A server: requests come and go, from any thread, while others decode."""

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import attrs

from skipkv._calls import without_frames
from skipkv.errors import (
    DecodingError,
    InputError,
    QueueFullError,
    ServerClosedError,
    SkipKVError,
)
from skipkv.runtime.loop import DecodeLoop
from skipkv.runtime.requests.answer import Answers, refused
from skipkv.runtime.requests.handle import Handle, seconds
from skipkv.runtime.requests.orders import OrderDesk
from skipkv.runtime.requests.prefix import Prefix
from skipkv.runtime.requests.prompts import Content, Prompt
from skipkv.runtime.requests.sampling import Sampling
from skipkv.runtime.requests.sequence import Order
from skipkv.runtime.requests.sequence import Sequence as Decoded
from skipkv.runtime.results.completion import Completion


class Server:
    """Decodes requests in a thread of its own; they come and go while others decode.

    `Engine.serve` makes one. The thread runs inside the `with` block. At its end the server takes
    no further requests and decodes those it has. If an exception ends the block, all requests are
    cancelled instead.

    Args:
        desk: takes the orders.
        tokenizer: the model's tokenizer.
        new_loop: makes the loop that decodes, with a fresh cache.
        answers: makes the completions.
        queue: requests that may wait for a lane before `submit` waits.
    """

    def __init__(
        self,
        desk: OrderDesk,
        tokenizer: Any,
        new_loop: Callable[[], DecodeLoop],
        answers: Answers,
        *,
        queue: int,
    ) -> None:
        self._desk = desk
        self._tokenizer = tokenizer
        self._new_loop = new_loop
        self._answers = answers
        self._queue = queue
        self._thread = threading.Thread(target=self._work, name="skipkv server")
        self._indices = itertools.count()
        self._loop: DecodeLoop | None = None  # the thread's own
        # What follows is exchanged with the thread.
        self._changed = threading.Condition()
        self._handles: dict[Order, Handle] = {}  # of the requests that are not done
        self._arrived: list[Order] = []
        self._cancelled: set[Order] = set()
        self._open = self._aborted = False

    def __enter__(self) -> "Server":
        if self._thread.ident is not None:
            raise ServerClosedError("A server serves once. Make another one: engine.serve().")
        self._open = True
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)

    @property
    def waiting(self) -> int:
        """Requests that have no lane yet."""
        loop = self._loop
        return len(self._arrived) + (0 if loop is None else len(loop.waiting))

    @property
    def takes_requests(self) -> bool:
        """Whether it is open: inside its block, and its thread runs."""
        return self._open

    def submit(
        self,
        prompt: Content | Prompt,
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | Mapping[str, Any] | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        prefix: Content | Prefix | None = None,
        timeout: float | int | None = None,
    ) -> Handle:
        """Ask for a completion. Any thread may.

        The tokens are those of `Engine.generate([prompt], ...)` with the same settings, whatever
        else is decoded.

        Args:
            prompt: a text, token ids, a list of chat messages, or a `Prompt`.
            max_new_tokens: as for `Engine.generate`.
            sampling: as for `Engine.generate`, with one sample.
            stop: as for `Engine.generate`.
            seed: of its random numbers; by default `sampling.seed`.
            chat_template_kwargs: as for `Engine.generate`.
            prefix: the beginning of the prompt; one that `Engine.prefix` made is read once for all.
            timeout: seconds to wait while `queue` requests wait already; None waits for ever, and
                0 not at all.

        Returns:
            A handle, at once.

        Raises:
            InputError: the prompt or a setting cannot be decoded, more than one sample is asked
                for, or `timeout` is no number of seconds.
            ConfigError: a sampling that cannot be.
            QueueFullError: there was no room in the queue within `timeout`.
            ServerClosedError: the server is closed.
        """
        orders = self._orders(
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            seed=seed,
            chat_template_kwargs=chat_template_kwargs,
            prefix=prefix,
        )
        if len(orders) > 1:
            raise InputError(
                f"submit() gives one handle, and the sampling asks for n={len(orders)} samples. "
                "Use submit_samples(), which gives a handle for each."
            )
        return self._enter(orders, timeout)[0]

    def submit_samples(
        self,
        prompt: Content | Prompt,
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | Mapping[str, Any] | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        prefix: Content | Prefix | None = None,
        timeout: float | int | None = None,
    ) -> list[Handle]:
        """Ask for `sampling.n` completions of one prompt.

        They enter the queue together, once it has room for all of them; more samples than it holds
        enter when nothing else waits. Those that start together share one pass over the prompt.

        Args:
            prompt: as for `submit`, and so are the others.
            max_new_tokens: as for `Engine.generate`.
            sampling: as for `Engine.generate`.
            stop: as for `Engine.generate`.
            seed: of the prompt's random numbers; by default `sampling.seed`.
            chat_template_kwargs: as for `Engine.generate`.
            prefix: the beginning of the prompt; one that `Engine.prefix` made is read once for all.
            timeout: seconds to wait for room in the queue.

        Returns:
            A handle per sample.

        Raises:
            InputError: as for `submit`.
            ConfigError: as for `submit`.
            QueueFullError: as for `submit`.
            ServerClosedError: as for `submit`.
        """
        orders = self._orders(
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            seed=seed,
            chat_template_kwargs=chat_template_kwargs,
            prefix=prefix,
        )
        return self._enter(orders, timeout)

    def close(self, *, cancel: bool = False) -> None:
        """Take no further requests, and wait until all are done. A second call does nothing more.

        Args:
            cancel: cancel them all instead of decoding them to their end.
        """
        with self._changed:
            self._open = False
            self._aborted = self._aborted or cancel
            self._changed.notify_all()
        if self._thread.ident is None or threading.current_thread() is self._thread:
            return
        try:
            self._thread.join()
        except BaseException:  # interrupted: what is left must not hold up the caller
            with self._changed:
                self._aborted = True
            self._thread.join()
            raise

    def _orders(self, prompt: Any, *, seed: int | None, **settings: Any) -> list[Order]:
        """The orders of a prompt, checked."""
        self._check_open()
        seeds = None if seed is None else [seed]
        return self._desk.orders_of(
            prompt, self._desk.settings(seeds=seeds, **settings), index=next(self._indices)
        )

    def _enter(self, orders: Sequence[Order], timeout: float | int | None) -> list[Handle]:
        """Let orders into the queue, together, once there is room."""
        most = seconds(timeout)
        handles = [
            Handle(order, self._tokenizer, cancel=self._note_cancelled, thread=self._thread)
            for order in orders
        ]
        end = None if most is None else time.monotonic() + most
        with self._changed:
            while self._open and self._lacks_room(len(orders)):
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise QueueFullError(
                        f"{self.waiting} requests wait already, {len(orders)} more were asked for, "
                        f"and the queue holds {self._queue}. "
                        "Submit it later, give submit() a longer timeout, or the server a longer "
                        "queue: engine.serve(queue=...)."
                    )
                self._changed.wait(left)
            self._check_open()
            self._handles |= zip(orders, handles, strict=True)
            self._arrived += orders
            self._changed.notify_all()
        return handles

    def _lacks_room(self, count: int) -> bool:
        """Whether so many requests cannot enter the queue now; an empty one takes any number."""
        waiting = self.waiting
        return waiting > 0 and waiting + count > self._queue

    def _check_open(self) -> None:
        if not self._open:
            raise ServerClosedError(
                "The server is not open. It takes requests inside its block: "
                "`with engine.serve() as server: server.submit(...)`."
            )

    def _note_cancelled(self, order: Order) -> None:
        with self._changed:
            self._cancelled.add(order)
            self._changed.notify_all()

    # --- in the server's thread -----------------------------------------------------------------

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            while self._wait_for_work():
                try:
                    self._decode()
                except Exception as caught:
                    self._recover(caught)
        except BaseException as caught:
            error = caught
            raise
        finally:
            with self._changed:
                self._open = False
                left, self._handles = self._handles, {}
                self._changed.notify_all()
            for order, handle in left.items():
                handle.finish(_failed(order, _told(error or RuntimeError("its thread ended"))))

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do; false once nothing will ever be."""
        with self._changed:
            self._changed.wait_for(lambda: self._handles or not self._open)
            return bool(self._handles)

    def _is_called(self) -> bool:
        """Whether the inbox must be looked into."""
        return bool(self._arrived or self._cancelled or self._aborted)

    def _decode(self) -> None:
        """Look into the inbox, and decode until something comes of it."""
        if self._loop is None:
            self._loop = self._new_loop()
        loop = self._loop
        with self._changed:
            arrived, self._arrived = self._arrived, []
            loop.add(arrived)
            cancelled, self._cancelled = self._cancelled, set()
            if self._aborted:
                cancelled = set(self._handles)
        if cancelled:
            loop.cancel(cancelled)
        for sequence in loop.advance(self._is_called) if loop.busy else ():
            self._tell(sequence)
        with self._changed:
            self._changed.notify_all()  # there may be room in the queue

    def _tell(self, sequence: Decoded) -> None:
        """Tell a sequence's handle what has come of it.

        The last tokens come with the completion: their text may reach beyond a stop string's, and
        only the completion says where that ends.
        """
        if sequence.reason is None:
            self._handles[sequence.request].grow(sequence.fresh())
        else:
            self._finish(sequence.request, sequence)

    def _finish(self, order: Order, news: Decoded | Completion) -> None:
        """Give a request's handle its completion."""
        try:
            completion = self._answers.of(news)
        except Exception as error:  # of the tokenizer, or an observer
            completion = _failed(order, _told(error))
        with self._changed:
            handle = self._handles.pop(order)
        handle.finish(completion, news.fresh() if isinstance(news, Decoded) else ())

    def _recover(self, error: Exception) -> None:
        """Decoding broke: end the requests it broke on. The others get a new cache.

        These are all that run. If none does, not even a start is possible: all that wait end.
        """
        told = _told(error)
        loop, self._loop = self._loop, None
        waiting: list[Order] = []
        if loop is not None:
            for sequence in loop.take():
                self._tell(sequence)
            waiting = loop.waiting
            for sequence in loop.running:
                if sequence.reason is None:
                    sequence.reason, sequence.error = "error", told
                    sequence.stats = attrs.evolve(
                        sequence.stats, new_tokens=len(sequence.tokens), seconds=sequence.age
                    )
                self._tell(sequence)
        with self._changed:
            ran = loop is not None and bool(loop.running)
            self._arrived[:0] = waiting
            failed = [] if ran else self._arrived
            self._arrived = self._arrived if ran else []
        for order in failed:
            self._finish(order, _failed(order, told))


def _failed(order: Order, error: SkipKVError) -> Completion:
    return refused(order.index, order.sample, order.prompt_tokens, error)


def _told(error: BaseException) -> SkipKVError:
    """What handles are told of an error that ended decoding; without frames, which hold tensors."""
    if isinstance(error, SkipKVError):
        return without_frames(error)
    broke = DecodingError(
        f"Decoding broke on {type(error).__name__}: {error}. All requests that ran end with this "
        "error, and the server goes on with a new cache."
    )
    broke.__cause__ = error
    return without_frames(broke)
