"""What tests of the runtime decode: prompts of unlike lengths, and policies of every kind."""

import attrs

from skipkv import Policy
from skipkv.policy import LinearShares

# for the toy tokenizer; the second one ends a paragraph
PROMPTS = ["one plus two", "let me check seven times nine.\n\n", "a"]

# The runtime knows of a policy what it needs, and no more. Of presets with the same needs one or
# two are enough where a test takes seconds; test_presets.py decodes with the others.
PRESETS = ("random", "streaming_llm", "h2o", "tova", "expected_attention", "rkv", "skipkv")


def apart(policy: Policy) -> Policy:
    """The policy with layers that differ in their budgets."""
    assert policy.budget is not None
    return policy.with_(budget=attrs.evolve(policy.budget, layers=LinearShares(beta=4)))
