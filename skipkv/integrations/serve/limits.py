"""What a server allows its users."""

import attrs

from skipkv._validators import is_a


@attrs.frozen(kw_only=True)
class Limits:
    """What a request, and all requests together, may ask of a server.

    Args:
        body: bytes of a request's body.
        queue: sequences that wait for a lane, per policy. At more, a request is answered with 429.
        choices: sequences that one request asks for: its prompts times `n`.
        tokens: tokens decoded per sequence; None for as many as the model has positions for.
        seconds: from the arrival of a request to the last byte of its answer.
        body_seconds: for the body of a request to arrive.
        grace: seconds that running requests have to end after the server was told to stop.

    Raises:
        ConfigError: a value is below 1.
    """

    body: int = attrs.field(default=2**20, validator=is_a(int, least=1))
    queue: int = attrs.field(default=256, validator=is_a(int, least=1))
    choices: int = attrs.field(default=16, validator=is_a(int, least=1))
    tokens: int | None = attrs.field(default=None, validator=is_a(int, least=1, optional=True))
    seconds: float | int = attrs.field(default=600, validator=is_a(float, least=1))
    body_seconds: float | int = attrs.field(default=30, validator=is_a(float, least=1))
    grace: float | int = attrs.field(default=10, validator=is_a(float, least=0))
