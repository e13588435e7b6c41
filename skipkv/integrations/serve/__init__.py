"""`skipkv serve`: OpenAI's HTTP API on top of `Engine.serve`.

`body` reads a request, `choice` follows its sequences, `replies` has the shapes of what is sent;
`api` answers, `http` listens. A further field of the API goes into the tables of `body`.
"""

from skipkv.integrations.serve.http import HttpServer
from skipkv.integrations.serve.limits import Limits

__all__ = ["HttpServer", "Limits"]
