"""skipkv: reasoning models that think in a bounded KV cache."""

from skipkv.policy import Budget, Policy

__all__ = ["Budget", "Policy"]
__version__ = "0.1.0"
