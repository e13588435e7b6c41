"""Answers the requests of OpenAI's API: an ASGI application of starlette."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from skipkv.errors import InputError, SkipKVError
from skipkv.evaluation.prompts import LOST, lost_share
from skipkv.integrations.serve.body import Body
from skipkv.integrations.serve.choice import Choice, follow
from skipkv.integrations.serve.limits import Limits
from skipkv.integrations.serve.metrics import Meter, exposition
from skipkv.integrations.serve.refusal import Refusal, stopping, too_slow
from skipkv.integrations.serve.replies import Replies, encoded, event
from skipkv.models.architecture import text_config
from skipkv.runtime import Engine, Handle, Sampling, Server
from skipkv.runtime.requests.orders import MAX_NEW_TOKENS
from skipkv.runtime.requests.prompts import chat_text
from skipkv.runtime.text.thinking import Part

_DRAINED = 64
"""Of a body that is too large, this many times what is allowed is read before the answer."""


@attrs.frozen(kw_only=True)
class Served:
    """One policy: its engine, the server that decodes under it, and what counts its work."""

    engine: Engine
    server: Server
    meter: Meter


class Api:
    """Answers requests.

    Args:
        name: of the model.
        served: policies by name; the first is for requests that name none.
        limits: what requests may ask for.
        api_key: what they must carry; None for nothing.
    """

    def __init__(
        self, name: str, served: Mapping[str, Served], limits: Limits, api_key: str | None
    ) -> None:
        self._name = name
        self._served = served
        self._limits = limits
        self._key = api_key
        self._sampling = Sampling.from_model(next(iter(served.values())).engine.model)
        self._running: set[Handle] = set()
        self._responses: Counter[int] = Counter()
        self._stopping = False
        routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("/v1/models", "GET", self._models),
            ("/v1/models/{name:path}", "GET", self._model),
            ("/v1/chat/completions", "POST", self._chat),
            ("/v1/completions", "POST", self._completions),
            ("/health", "GET", self._health),
            ("/metrics", "GET", self._metrics),
        ]
        self.app = Starlette(
            routes=[Route(path, call, methods=[method]) for path, method, call in routes],
            exception_handlers={
                Refusal: self._refused,
                HTTPException: self._not_found,
                ClientDisconnect: self._gone,
                Exception: self._broke,
            },
        )

    def stop(self) -> None:
        """Refuse what comes from now on."""
        self._stopping = True

    def cancel(self) -> None:
        """End what runs."""
        self.stop()
        for handle in list(self._running):
            handle.cancel()

    # --- answers --------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        self._check_key(request)
        return self._json({"object": "list", "data": [self._described()]})

    async def _model(self, request: Request) -> Response:
        self._check_key(request)
        self._check_name(request.path_params["name"])
        return self._json(self._described())

    async def _chat(self, request: Request) -> Response:
        return await self._complete(request, chat=True)

    async def _completions(self, request: Request) -> Response:
        return await self._complete(request, chat=False)

    async def _health(self, request: Request) -> Response:
        closed = [n for n, served in self._served.items() if not served.server.takes_requests]
        if self._stopping or closed:
            return self._json({"status": "stopping" if self._stopping else "broken"}, 503)
        return self._json({"status": "ok"})

    async def _metrics(self, request: Request) -> Response:
        meters = {name: (s.meter, s.server.waiting) for name, s in self._served.items()}
        text = exposition(meters, self._responses)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _complete(self, request: Request, *, chat: bool) -> Response:
        arrived = asyncio.get_running_loop().time()
        self._check_key(request)
        body = Body.read(await self._raw(request), chat=chat)
        if self._stopping:
            raise stopping()
        if body.model is not None:
            self._check_name(body.model)
        policy = next(iter(self._served)) if body.policy is None else body.policy
        if policy not in self._served:
            raise Refusal(
                400,
                f"This server has no policy {policy!r}. It has: {', '.join(self._served)}.",
                param="policy",
                code="policy_not_found",
            )
        self._check_size(body)
        choices, replies = await run_in_threadpool(self._submit, body, policy)
        return _Answer(
            choices,
            replies,
            body,
            until=arrived + self._limits.seconds,
            seconds=self._limits.seconds,
            running=self._running,
            count=self._count,
        )

    def _submit(self, body: Body, policy: str) -> tuple[list[Choice], Replies]:
        """Ask for the sequences of a request, all or none."""
        served = self._served[policy]
        sampling = body.sampling_of(self._sampling, secrets.randbits(31))
        choices: list[Choice] = []
        prompt_tokens = 0
        try:
            prompts = [self._encoded(served.engine, p, n, body) for n, p in enumerate(body.prompts)]
            for number, (ids, most) in enumerate(prompts):
                # A seed that was drawn is as good as the next one: equal prompts must not get
                # equal samples.
                seed = sampling.seed + (number if body.seed is None else 0)
                handles = served.server.submit_samples(
                    ids,
                    max_new_tokens=most,
                    sampling=sampling,
                    seed=seed,
                    stop=body.stop,
                    timeout=0,
                )
                prompt_tokens += len(ids)
                for handle in handles:
                    choices.append(
                        Choice(
                            len(choices),
                            handle,
                            served.engine.tokenizer,
                            thinking=served.engine.thinking,
                            prompt=ids,
                            seed=seed,
                            stop=body.stop,
                            chat=body.chat,
                        )
                    )
        except SkipKVError as error:
            for choice in choices:
                choice.handle.cancel()
            raise Refusal.of(error) from error
        return choices, Replies(
            chat=body.chat,
            model=self._name,
            policy=policy,
            prompt_tokens=prompt_tokens,
        )

    def _encoded(
        self, engine: Engine, prompt: Any, number: int, body: Body
    ) -> tuple[list[int], int | None]:
        """A prompt's token ids, and how many tokens to decode at most."""
        _check_known(engine, prompt)
        ids = engine.encode(prompt, index=number, chat_template_kwargs=body.template or None)
        if body.chat:
            _check_read(engine, prompt, body)
        allowed = self._limits.tokens
        if body.max_tokens is not None or allowed is None:
            return ids, body.max_tokens
        configured = getattr(engine.model.generation_config, "max_new_tokens", None)
        positions = getattr(text_config(engine.model), "max_position_embeddings", None)
        room = allowed if positions is None else max(1, positions - len(ids))
        return ids, min(allowed, configured or MAX_NEW_TOKENS, room)

    # --- checks ---------------------------------------------------------------------------------

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        given = request.headers.get("authorization", "").encode("latin-1")  # as it came
        if not secrets.compare_digest(given, f"Bearer {self._key}".encode()):
            raise Refusal(
                401,
                "This server wants its API key in the header 'Authorization: Bearer KEY'.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_name(self, name: str) -> None:
        if name != self._name:
            raise Refusal(
                404,
                f"This server has no model {name!r}. It has {self._name!r}.",
                param="model",
                code="model_not_found",
            )

    def _check_size(self, body: Body) -> None:
        wanted, allowed = len(body.prompts) * body.n, self._limits.choices
        if wanted > allowed:
            raise Refusal(
                400,
                f"The request asks for {wanted} sequences (its prompts times n), and the server "
                f"allows {allowed}.",
                param="n",
                code="too_many_choices",
            )
        queue = self._limits.queue
        if len(body.prompts) > 1 and wanted > queue:  # it would be refused however often it came
            raise Refusal(
                400,
                f"The request asks for {wanted} sequences (its prompts times n), and the server's "
                f"queue holds {queue}. Send fewer prompts at once.",
                param="prompt",
                code="too_many_choices",
            )
        most = self._limits.tokens
        if body.max_tokens is not None and most is not None and body.max_tokens > most:
            raise Refusal(
                400,
                f"max_tokens is {body.max_tokens}, and the server allows {most}.",
                param="max_tokens",
                code="too_many_tokens",
            )

    async def _raw(self, request: Request) -> bytes:
        """The body, if it is JSON by its type and not too large."""
        # A page in a browser can send any other type to this machine without asking first.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != (
            "application/json"
        ):
            raise Refusal(415, "The header 'Content-Type: application/json' is missing.")
        most = self._limits.body
        large = Refusal(
            413,
            f"The body is larger than the {most} bytes that the server allows.",
            code="body_too_large",
            headers={"Connection": "close"},
        )
        raw, size = bytearray(), 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    # Read on for a while: many clients look for an answer at the end only.
                    if size > _DRAINED * most:
                        break
                    if size <= most:
                        raw += chunk
        except TimeoutError:
            raise Refusal(
                408,
                f"The body did not arrive within {self._limits.body_seconds:g} seconds.",
                code="timeout",
                headers={"Connection": "close", "x-should-retry": "false"},
            ) from None
        if size > most:
            raise large
        return bytes(raw)

    # --- small ----------------------------------------------------------------------------------

    def _described(self) -> dict[str, Any]:
        return {
            "id": self._name,
            "object": "model",
            "created": 0,
            "owned_by": "skipkv",
            "policies": list(self._served),
        }

    def _json(
        self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        self._count(status)
        return Response(encoded(value), status, headers, media_type="application/json")

    def _count(self, status: int) -> None:
        self._responses[status] += 1

    async def _refused(self, request: Request, refusal: Any) -> Response:
        return self._json(refusal.body(), refusal.status, refusal.headers)

    async def _not_found(self, request: Request, error: Any) -> Response:
        where = f"{request.method} {request.url.path}"
        refusal = Refusal(error.status_code, f"There is no {where} here.", code="unknown_url")
        return self._json(refusal.body(), refusal.status, error.headers)

    async def _gone(self, request: Request, error: Any) -> Response:
        return self._json({}, 499)  # nobody reads it

    async def _broke(self, request: Request, error: Any) -> Response:
        refusal = Refusal(500, "The server broke on this request; its log says where.")
        return self._json(refusal.body(), 500)


class _Answer(Response):
    """Follows sequences, and sends what comes of them until they end or the client goes away."""

    def __init__(
        self,
        choices: Sequence[Choice],
        replies: Replies,
        body: Body,
        *,
        until: float,
        seconds: float | int,
        running: set[Handle],
        count: Callable[[int], None],
    ) -> None:
        self._choices = choices
        self._replies = replies
        self._body = body
        self._until = until
        self._seconds = seconds
        self._running = running
        self._count = count
        running |= {choice.handle for choice in choices}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = asyncio.ensure_future((self._stream if self._body.stream else self._whole)(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
        finally:
            for choice in self._choices:
                choice.handle.cancel()
                self._running.discard(choice.handle)
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    async def _whole(self, send: Send) -> None:
        texts: dict[int, dict[Part, str]] = {choice.number: {} for choice in self._choices}
        status, headers = 200, dict[str, str]()
        try:
            async with asyncio.timeout_at(self._until):
                async for choice, pieces in follow(self._choices, only_whole=True):
                    _check_ended(choice)
                    for part, text in pieces:
                        texts[choice.number][part] = texts[choice.number].get(part, "") + text
            reply = self._replies.whole(self._choices, texts)
        except TimeoutError:
            refusal = too_slow(self._seconds)
            reply, status, headers = refusal.body(), refusal.status, refusal.headers
        except Refusal as refusal:
            reply, status, headers = refusal.body(), refusal.status, refusal.headers
        await self._begin(send, status, "application/json", headers)
        await send({"type": "http.response.body", "body": encoded(reply)})

    async def _stream(self, send: Send) -> None:
        async def put(raw: bytes) -> None:
            await send({"type": "http.response.body", "body": raw, "more_body": True})

        replies = self._replies
        try:
            async with asyncio.timeout_at(self._until):
                await self._begin(
                    send, 200, "text/event-stream; charset=utf-8", {"Cache-Control": "no-store"}
                )
                for choice in self._choices:
                    if first := replies.first(choice):
                        await put(event(first))
                async for choice, pieces in follow(self._choices):
                    for part, text in pieces:
                        await put(event(replies.piece(choice, part, text)))
                    if choice.completion is not None:
                        _check_ended(choice)
                        await put(event(replies.last(choice)))
                if self._body.usage:
                    await put(event(replies.used(self._choices)))
        except TimeoutError:
            await put(event(too_slow(self._seconds).body()))
        except Refusal as refusal:
            await put(event(refusal.body()))
        await put(b"data: [DONE]\n\n")
        await send({"type": "http.response.body", "body": b""})

    async def _begin(self, send: Send, status: int, kind: str, headers: Mapping[str, str]) -> None:
        self._count(status)
        written = {"Content-Type": kind, **headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in written.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _check_ended(choice: Choice) -> None:
    """Raise a `Refusal` for a sequence that has no end a client asked for."""
    done = choice.completion
    if done is None or done.stop_reason not in ("error", "cancelled"):
        return
    if done.stop_reason == "cancelled":
        raise stopping()
    error = done.error
    text = "Decoding failed." if error is None else " ".join(str(error).split())
    raise Refusal(500, text, code=type(error).__name__)


def _check_known(engine: Engine, prompt: Any) -> None:
    """Raise `InputError` for a prompt that the tokenizer does not know, as prose for `tiny`."""
    for text in _texts(prompt):
        lost = lost_share(engine.tokenizer, text)
        if lost > LOST:
            raise InputError(
                f"The model's tokenizer does not know {lost:.0%} of the prompt's characters: "
                f"{text[:40]!r}. The model is made for other texts."
            )


def _check_read(engine: Engine, messages: list[Any], body: Body) -> None:
    """Raise `InputError` for a message that the chat template leaves out, as some do with system's.

    What assistants said is not looked for: templates rightly leave out their thinking.
    """
    read = chat_text(messages, engine.tokenizer, "The chat", body.template, answer=True)
    for number, message in enumerate(messages):
        for text in _texts(message) if message["role"] != "assistant" else ():
            if text.strip() not in read:
                raise InputError(
                    f"The model's chat template leaves out message {number}, of the role "
                    f"{message['role']!r}, or changes its text. Say it in a message of the role "
                    "'user'."
                )


def _texts(prompt: Any) -> Iterator[str]:
    """The texts of a prompt: itself, or those of its messages and their parts."""
    if isinstance(prompt, str):
        yield prompt
    elif isinstance(prompt, list):
        for part in prompt:
            yield from _texts(part)
    elif isinstance(prompt, dict):
        yield from _texts(prompt.get("content", prompt.get("text")))
