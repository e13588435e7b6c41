"""A request that was submitted to a server, as its users have it."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from skipkv._validators import kind_of
from skipkv.errors import InputError
from skipkv.runtime.requests.sequence import Order
from skipkv.runtime.results.completion import Completion
from skipkv.runtime.results.streaming import TextStream

_log = logging.getLogger(__name__)


class Handle:
    """A request that was submitted to a server. Any thread may use it.

    Iterating over it gives its text in pieces, as they are decoded; they join to the text of its
    completion. Every iteration begins at the first token, and waits for the next ones. It raises
    the request's error where that ends with one.

    Args:
        order: what was asked for.
        tokenizer: the model's tokenizer.
        cancel: tells the server that the request is cancelled.
        thread: the server's thread, which must not wait for itself.
    """

    def __init__(
        self,
        order: Order,
        tokenizer: Any,
        *,
        cancel: Callable[[Order], None],
        thread: threading.Thread,
    ) -> None:
        self._order = order
        self._tokenizer = tokenizer
        self._cancel = cancel
        self._thread = thread
        self._changed = threading.Condition()
        self._tokens: list[int] = []
        self._watchers: list[Callable[[], None]] = []
        self._completion: Completion | None = None

    @property
    def index(self) -> int:
        """Number of the prompt among those submitted to the server, from 0; its completion's."""
        return self._order.index

    @property
    def sample(self) -> int:
        """Which sample of its prompt it is, from 0."""
        return self._order.sample

    def done(self) -> bool:
        """Whether its completion is there."""
        return self._completion is not None

    def cancel(self) -> None:
        """End the request before its next forward pass, if it is not done.

        Its completion then has what was decoded, and `stop_reason="cancelled"`.
        """
        if not self.done():
            self._cancel(self._order)

    def result(self, timeout: float | int | None = None) -> Completion:
        """The completion; waits for it.

        A request on which a part of the policy broke, or which ran when decoding broke, has a
        completion with `stop_reason="error"` and the error.

        Args:
            timeout: seconds to wait at most; None waits for ever.

        Raises:
            InputError: `timeout` is no number of seconds.
            TimeoutError: it is not done yet.
        """
        self._check_thread()
        most = seconds(timeout)
        with self._changed:
            if not self._changed.wait_for(self.done, most):
                raise TimeoutError(
                    f"Request {self.index} is not done after {timeout} seconds; it goes on."
                )
        assert self._completion is not None
        return self._completion

    def since(self, read: int) -> tuple[list[int], Completion | None]:
        """The tokens after the first `read`, and the completion if it is there; waits for nothing.

        Args:
            read: how many tokens the caller has already.
        """
        with self._changed:
            return self._tokens[read:], self._completion

    def watch(self, call: Callable[[], None]) -> None:
        """Have a function called whenever there are more tokens, and when the completion is there.

        It is called in the thread that decodes, which waits for it: it must return at once. If it
        raises, the error is logged and it is not called again. Where the completion is there
        already, it is called here. An event loop is woken this way, without a thread per request.

        Args:
            call: the function.
        """
        with self._changed:
            self._watchers.append(call)
            if self.done():
                self._call(call)

    def __iter__(self) -> Iterator[str]:
        self._check_thread()
        stream = TextStream(self._tokenizer, stop=self._order.stop)
        read = 0
        while True:
            fresh, whole = self._after(read)
            yield from stream.texts(fresh, whole)
            read += len(fresh)
            if whole is None:
                continue
            if rest := stream.rest(whole.text):
                yield rest
            if whole.error is not None:
                raise whole.error
            return

    def __repr__(self) -> str:
        state = self._completion.stop_reason if self._completion is not None else "not done"
        return f"<Handle: prompt {self.index}, sample {self.sample}, {state}>"

    def _check_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise InputError(
                "A handle was waited for in the thread that decodes, which would wait for ever. "
                "Wait in another thread."
            )

    def _after(self, read: int) -> tuple[list[int], Completion | None]:
        """The tokens after the first `read`, and the completion; waits until there are some."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._tokens) > read or self.done())
            return self._tokens[read:], self._completion

    def grow(self, tokens: Sequence[int]) -> None:
        """Add tokens; the server does."""
        with self._changed:
            self._tokens += tokens
            self._tell()

    def finish(self, completion: Completion, tokens: Sequence[int] = ()) -> None:
        """Add the last tokens and set the completion; the server does.

        Args:
            completion: the request's.
            tokens: the last ones, which no reader should see before it.
        """
        with self._changed:
            self._tokens += tokens
            self._completion = completion
            self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        for call in list(self._watchers):
            self._call(call)

    def _call(self, watcher: Callable[[], None]) -> None:
        """Call a watcher. What it breaks on must not end the decoding, others' requests too."""
        try:
            watcher()
        except Exception:
            self._watchers.remove(watcher)
            _log.exception(
                "A function given to Handle.watch raised an error. It is not called again."
            )


def seconds(timeout: Any) -> float | None:
    """How long to wait at most; None for ever.

    Args:
        timeout: as a user gave it.

    Raises:
        InputError: it is no number of seconds.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or timeout != timeout:
        came = repr(timeout) if isinstance(timeout, float) else kind_of(timeout)
        raise InputError(
            f"timeout must be a number of seconds, or None to wait for ever, got {came}."
        )
    return None if timeout > threading.TIMEOUT_MAX else float(timeout)
