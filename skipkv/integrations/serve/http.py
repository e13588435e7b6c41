"""Listens: OpenAI's API on a port, until it is told to stop."""

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from skipkv._runs import require_extra
from skipkv.errors import ConfigError, InputError, ServerClosedError
from skipkv.integrations.serve.limits import Limits
from skipkv.runtime import Engine

if TYPE_CHECKING:
    from skipkv.integrations.serve.api import Api


class HttpServer:
    """OpenAI's `/v1/models`, `/v1/chat/completions` and `/v1/completions` for one model.

    It listens from the moment it is made. `run` answers requests in the main thread, until SIGINT
    or SIGTERM; a `with` block answers them in a thread of its own, and stops at its end. Stopping
    takes no further requests, and gives those that run `limits.grace` seconds to end.

    Args:
        engines: an engine, or several of one model by the names of their policies: a request may
            name one of them, and the first is for those that name none. Each has lanes of its own.
        name: of the model, as clients give it.
        host: the address to listen on; by default only this machine can connect.
        port: the port; 0 takes a free one.
        api_key: what clients must send; None for nothing.
        limits: what requests may ask for.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
        ConfigError: there is no engine, their models differ, or the key is blank.
        InputError: the address cannot be listened on.

    Example:
        >>> import json, urllib.request
        >>> from skipkv import Engine, presets
        >>> from skipkv.testing import toy_model, toy_tokenizer
        >>> engine = Engine(toy_model(), toy_tokenizer(), presets.rkv(budget=64, interval=16))
        >>> with HttpServer(engine, name="toy", port=0) as server:
        ...     answer = json.load(urllib.request.urlopen(f"{server.url}/models"))
        >>> answer["data"][0]["id"]
        'toy'
    """

    def __init__(
        self,
        engines: Engine | Mapping[str, Engine],
        *,
        name: str = "skipkv",
        host: str = "127.0.0.1",
        port: int = 8000,
        api_key: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        require_extra("serve", "starlette", "uvicorn")
        self._engines = {"default": engines} if isinstance(engines, Engine) else dict(engines)
        if not self._engines:
            raise ConfigError("HttpServer(engines={}) must hold an engine.")
        if len({id(engine.model) for engine in self._engines.values()}) > 1:
            raise ConfigError(
                "HttpServer(engines=...) must hold engines of one model. Start a server for each."
            )
        if api_key is not None and not api_key.strip():
            raise ConfigError("HttpServer(api_key='') must not be blank. Give a key, or None.")
        self.name = name
        """The model's name for clients."""
        self._key = api_key
        self._limits = limits or Limits()
        self._socket = _listen(host, port)
        self._host = host
        self.port = int(self._socket.getsockname()[1])
        """The port it listens on."""
        self._stack = ExitStack()
        self._api: Api | None = None
        self._http: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The base URL that clients are given."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/v1"

    def run(self) -> None:
        """Answer requests until SIGINT or SIGTERM; a second signal waits for nothing.

        Call it in the main thread.
        """
        with ExitStack() as stack:
            stack.callback(self._close)
            self._open()
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.callback(signal.signal, number, signal.signal(number, self._signalled))
            asyncio.run(self._serve())

    def stop(self) -> None:
        """Take no further requests, and end when those that run have; any thread may."""
        if self._http is None or self._api is None:
            return
        self._api.stop()
        self._http.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            later, cancel = self._loop.call_later, self._api.cancel
            self._loop.call_soon_threadsafe(lambda: later(self._limits.grace, cancel))

    def __enter__(self) -> "HttpServer":
        self._open()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="skipkv http"
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()
        self._close()

    def _open(self) -> None:
        """Start what decodes."""
        from skipkv.integrations.serve.api import Api, Served
        from skipkv.integrations.serve.metrics import Meter

        if self._api is not None:
            raise ServerClosedError("An HttpServer serves once. Make another one.")
        served = {}
        for name, engine in self._engines.items():
            meter = Meter(engine)
            server = engine.serve(queue=self._limits.queue, observers=[meter])
            self._stack.enter_context(server)
            self._stack.callback(server.close, cancel=True)
            served[name] = Served(engine=engine, server=server, meter=meter)
        self._api = Api(self.name, served, self._limits, self._key)
        self._http = _uvicorn(self._api.app, self._limits)

    def _close(self) -> None:
        self._socket.close()
        self._stack.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._http.serve(sockets=[self._socket])

    def _signalled(self, *_: object) -> None:
        assert self._http is not None
        assert self._api is not None
        if self._http.should_exit:  # the second one
            self._http.force_exit = True
            self._api.cancel()
        else:
            self.stop()


def _uvicorn(app: Any, limits: Limits) -> Any:
    """uvicorn's server, which leaves signals and logging to us."""
    import uvicorn

    class Quiet(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Quiet(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # what is cancelled after the grace still has to say so
            timeout_graceful_shutdown=int(limits.grace) + 5,
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"Cannot listen on {host}, port {port}: {reason}. Choose another --port or --host."
        ) from error
