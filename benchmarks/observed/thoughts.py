"""Observation 5: thoughts that are not execution, in right and in wrong traces."""

from typing import Any

from observed import groups
from observed.setting import Setting
from skipkv.evaluation import Record

COLUMNS = {
    "thoughts": ("thoughts", False),
    "non_execution": ("non-execution thoughts", False),
    "share": ("non-execution", True),
}


def measure(setting: Setting) -> dict[str, Any]:
    """Thoughts of each trace."""
    return groups.measure(setting, _measured)


def _measured(setting: Setting, records: list[Record]) -> list[groups.Values]:
    return [
        {
            "thoughts": float(record.execution + record.non_execution),
            "non_execution": float(record.non_execution),
            "share": record.non_execution / max(1, record.execution + record.non_execution),
        }
        for record in records
    ]


def show(found: dict[str, Any]) -> str:
    """The tables."""
    return groups.show(found, COLUMNS)


def draw(found: dict[str, Any], axes: Any) -> None:
    """Non-execution thoughts by group."""
    groups.draw(found, axes, "non_execution", "non-execution thoughts per trace")
