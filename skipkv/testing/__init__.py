"""Help for testing your own parts: laws of the protocols, strategies that draw views, toy models.

`strategies`, `streams` and the laws need the extra `skipkv[testing]`. To add a strategy: put it in
`strategies.py`, let it shrink to a small readable case, and test that its values are consistent. To
add a law: see `laws`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipkv.testing.fakes import toy_model, toy_tokenizer
    from skipkv.testing.laws import (
        ConformanceError,
        Law,
        check_evictor,
        check_policy,
        check_scheduler,
        check_scorer,
        check_segmenter,
        check_statistic,
        check_steerer,
        laws_of,
    )
    from skipkv.testing.model_check import Finding, ModelReport, check_model
    from skipkv.testing.pytest_face import conformance
    from skipkv.testing.scripted import scripted_model
    from skipkv.testing.strategies import (
        budgets,
        cache_views,
        hidden_states,
        new_entries,
        rotations,
        scores,
        sentence_tables,
        steering_contexts,
        views_for,
    )
    from skipkv.testing.streams import request_queues, token_streams

__all__ = [
    "ConformanceError",
    "Finding",
    "Law",
    "ModelReport",
    "budgets",
    "cache_views",
    "check_evictor",
    "check_model",
    "check_policy",
    "check_scheduler",
    "check_scorer",
    "check_segmenter",
    "check_statistic",
    "check_steerer",
    "conformance",
    "hidden_states",
    "laws_of",
    "new_entries",
    "request_queues",
    "rotations",
    "scores",
    "scripted_model",
    "sentence_tables",
    "steering_contexts",
    "token_streams",
    "toy_model",
    "toy_tokenizer",
    "views_for",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: the toys need transformers, the rest Hypothesis."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {
        "conformance": "pytest_face",
        "scripted_model": "scripted",
        **dict.fromkeys(["Finding", "ModelReport", "check_model"], "model_check"),
        **dict.fromkeys(["toy_model", "toy_tokenizer"], "fakes"),
        **dict.fromkeys(["request_queues", "token_streams"], "streams"),
        **dict.fromkeys(
            [
                *("budgets", "cache_views", "hidden_states", "new_entries", "rotations", "scores"),
                *("sentence_tables", "steering_contexts", "views_for"),
            ],
            "strategies",
        ),
    }
    try:
        home = import_module(f"{__name__}.{homes.get(name, 'laws')}")
    except ModuleNotFoundError as missing:
        from skipkv.errors import MissingExtraError

        if missing.name not in ("hypothesis", "pytest"):
            raise
        remedy = "skipkv[testing]" if missing.name == "hypothesis" else "pytest"
        raise MissingExtraError(
            f"skipkv.testing.{name} needs {missing.name}, which is not installed. "
            f'Install it: pip install "{remedy}".'
        ) from missing
    return getattr(home, name)
