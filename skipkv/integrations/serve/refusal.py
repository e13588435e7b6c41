"""Errors as OpenAI's clients know them."""

from typing import Any

import attrs

from skipkv.errors import ConfigError, InputError, QueueFullError, ServerClosedError, SkipKVError


@attrs.frozen
class Refusal(Exception):
    """What is answered instead of a completion.

    Args:
        status: of the HTTP response.
        message: for the user.
        param: the field of the request at fault.
        code: a word for programs.
        headers: further ones.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, error: SkipKVError) -> "Refusal":
        """What is answered where the runtime raised an error."""
        text = " ".join(str(error).split())
        if isinstance(error, QueueFullError):
            text = "As many requests wait as the server's queue holds. Send it again later."
            return cls(429, text, code="queue_full", headers={"Retry-After": "1"})
        if isinstance(error, ServerClosedError):
            return stopping()
        if isinstance(error, InputError | ConfigError):
            return cls(400, text)
        return cls(500, text, code=type(error).__name__)

    def body(self) -> dict[str, Any]:
        """The JSON object of OpenAI's API."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": kinds.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }


def stopping() -> Refusal:
    """The server stops, or has stopped."""
    return Refusal(503, "The server is stopping.", code="stopping", headers={"Retry-After": "5"})


def too_slow(seconds: float | int) -> Refusal:
    """A request took longer than the server allows."""
    return Refusal(
        408,
        f"The request was not done within the {seconds:g} seconds that the server allows, streamed "
        "or not. Ask for fewer tokens.",
        code="timeout",
        # OpenAI's client would send it twice more
        headers={"x-should-retry": "false"},
    )
