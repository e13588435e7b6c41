"""Policies of a folder that are described otherwise now: refused, unless the user vouches."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from skipkv._runs.identity import differs
from skipkv._runs.tables import markdown_cell
from skipkv.errors import InputError


def described(
    before: Mapping[str, Any],
    now: Mapping[str, Mapping[str, str]],
    measured: Collection[str],
    folder: Path,
    *,
    same_policies: bool,
) -> dict[str, Any]:
    """The descriptions of policies for `run.json`, with what the user vouched for.

    Args:
        before: those of the folder, by the policies' names.
        now: those of this run.
        measured: names of policies that the folder has a record of. Another one is described anew:
            a run that was interrupted early has measured nothing under it.
        folder: for the error.
        same_policies: whether the user says that policies of one name do the same.

    Raises:
        InputError: a policy differs from that of its name, and the user does not vouch for it.
    """
    found: dict[str, Any] = dict(before)
    for name, stamp in now.items():
        known = before.get(name) if name in measured else None
        earlier = list((known or {}).get("earlier", ()))
        if known is not None and (changed := differs(known, stamp)) is not None:
            if not same_policies:
                raise InputError(
                    f"{folder} holds {name} measured with another policy: {changed}. Where both do "
                    "the same, --same-policies (in Python same_policies=True) goes on, and the "
                    "summary says so. Otherwise choose another folder, or another name for the "
                    "policy."
                )
            earlier.append(changed)
        found[name] = {**stamp, "earlier": earlier} if earlier else dict(stamp)
    return found


def vouched_for(descriptions: Mapping[str, Any]) -> tuple[str, ...]:
    """A note for each policy that the user vouched for.

    Args:
        descriptions: what `described` gave.
    """
    return tuple(
        f"Vouched for: {markdown_cell(name)} was also measured when its policy was described "
        f"otherwise ({markdown_cell(changed)}). --same-policies says that both do the same."
        for name, entry in descriptions.items()
        for changed in entry.get("earlier", ())
    )
