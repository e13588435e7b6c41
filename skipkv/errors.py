"""Errors. Every error this library raises on purpose is a `SkipKVError`.

What a user passed in is also a `ValueError`, so that code which knows nothing of skipkv catches it.
A message names the field of the class, the rule, what came, and the remedy.
"""

__all__ = [
    "ConfigError",
    "DecodingError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "ObserverError",
    "PartError",
    "ProtocolError",
    "QueueFullError",
    "ServerClosedError",
    "SkipKVError",
    "SkipKVWarning",
    "UnsupportedModelError",
]


class SkipKVError(Exception):
    """Root of all errors raised by skipkv."""


class ConfigError(SkipKVError, ValueError):
    """A policy, a budget or a part was built with values that cannot work."""


class ProtocolError(SkipKVError, TypeError, ValueError):
    """An object does not have the methods of the protocol it is used as."""


class InputError(SkipKVError, ValueError):
    """A prompt, a file or a generation setting cannot be used; raised before any decoding."""


class UnsupportedModelError(SkipKVError, ValueError):
    """The model has an architecture or a kind of layer that the runtime does not decode."""


class PartError(SkipKVError):
    """A part broke its protocol while decoding: NaN, a wrong shape or dtype, a budget exceeded.

    The sequences that the part was asked about fail with it; all others go on. `part` is the
    part's repr, and `edited` says whether it wrote to a tensor that it was shown. Where the part
    raised an error, that error's traceback is a note of this one.
    """

    part: str | None = None
    edited: bool = False


class ModelError(SkipKVError):
    """The model computed NaN or infinite numbers, from which no token can be chosen.

    The sequence fails with it; all others go on.
    """


class ObserverError(SkipKVError):
    """An observer raised an error while it was told of a decode; the message names it."""


class DecodingError(SkipKVError):
    """Decoding broke in a server with an error that is no single request's, such as one of memory.

    All requests that ran at the time fail with it; the server goes on. The error's traceback is a
    note of this one.
    """


class QueueFullError(SkipKVError):
    """As many requests wait for a server as its queue holds; submit the request later."""


class ServerClosedError(SkipKVError):
    """A request was submitted to a server that is closed, or not open yet."""


class MissingExtraError(SkipKVError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class SkipKVWarning(UserWarning):
    """Something the user should know that is no error: a policy that had nothing to do, say."""
