"""The folder of a calibration: what was made so far, so that a stopped run can go on."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from skipkv.calibration.traces import TraceFile
from skipkv.errors import InputError
from skipkv.steerers import ThoughtStates


class Workspace:
    """A folder with the settings of a calibration, its traces, and their hidden states.

    Args:
        folder: made where it is not there.
        settings: what traces and states depend on; a folder of other settings is refused.

    Raises:
        InputError: the folder belongs to other settings, or cannot be written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._states = folder / "states"
        try:
            self._states.mkdir(parents=True, exist_ok=True)
            self._check(folder / "settings.json", settings)
        except OSError as cause:
            raise InputError(f"Cannot work in the folder {str(folder)!r}: {cause}") from cause
        self.traces = TraceFile(folder / "traces.jsonl")

    def _check(self, file: Path, settings: dict[str, Any]) -> None:
        settings = json.loads(json.dumps(settings))
        if not file.exists():
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(settings, indent=2) + "\n")
            os.replace(partial, file)
            return
        try:
            before = json.loads(file.read_text())
        except ValueError as cause:
            raise InputError(f"{file} is no JSON. Delete the folder to begin anew.") from cause
        changed = sorted(
            name
            for name in settings.keys() | before.keys()
            if settings.get(name) != before.get(name)
        )
        if changed:
            raise InputError(
                f"{file.parent} holds a calibration with other settings ({', '.join(changed)}). "
                "Use them again, name another folder, or delete this one to begin anew."
            )

    def has_states(self, index: int) -> bool:
        """Whether the states of this trace were stored."""
        return self._file(index).exists()

    def store(self, states: ThoughtStates) -> None:
        """Store a trace's states, whole or not at all."""
        tensors = {"states": states.states.contiguous(), "kinds": states.kinds}
        if states.agreement is not None:
            tensors["agreement"] = states.agreement
        partial = self._file(states.question).with_suffix(".partial")
        save_file(tensors, partial)
        os.replace(partial, self._file(states.question))

    def states(self) -> "StoredStates":
        """The states of all traces, read from the disk one at a time."""
        return StoredStates(sorted(self._states.glob("*.safetensors")))

    def _file(self, index: int) -> Path:
        return self._states / f"{index:06d}.safetensors"


class StoredStates(Sequence[ThoughtStates]):
    """Traces' states in files, each read when asked for and then let go."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        """The states of one file; of several, a sequence."""
        if isinstance(index, slice):
            return StoredStates(self._files[index])
        file = self._files[index]
        try:
            tensors = load_file(file)
        except (OSError, SafetensorError) as cause:
            raise InputError(f"{file} is damaged: {cause}. Delete it and run again.") from cause
        return ThoughtStates(
            question=int(file.stem),
            states=tensors["states"],
            kinds=tensors["kinds"],
            agreement=tensors.get("agreement"),
        )
