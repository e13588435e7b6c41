"""The folder of a calibration with the results so far, so that a stopped run can resume."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from skipkv._runs import LineFile, RunFolder, writing
from skipkv.calibration.traces import Trace
from skipkv.errors import InputError
from skipkv.steerers import ThoughtStates


class Workspace:
    """A folder with the settings of a calibration, its traces, and their hidden states.

    Use `Workspace.opened`, which locks the folder.

    Args:
        folder: folder of the calibration; it must exist.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._states = folder.path / "states"
        with writing(self._states):
            self._states.mkdir(exist_ok=True)
        self._file = LineFile(folder.path / folder.records, Trace)
        self.traces = {trace.index: trace for trace in self._file}

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, settings: Mapping[str, Any]) -> "Iterator[Workspace]":
        """Open a workspace and lock it against other processes.

        Args:
            folder: made if it does not exist.
            settings: what traces and states depend on; a folder with other settings is refused.

        Raises:
            InputError: the folder belongs to other settings, is in use, or cannot be written.
        """
        there = RunFolder(folder, "calibrate", records="traces.jsonl")
        there.check(settings)
        with there.locked():
            there.check(settings)  # another process may have begun in between
            there.write({"settings": settings})
            work = cls(there)
            try:
                yield work
            finally:
                work._file.close()

    def add(self, trace: Trace) -> None:
        """Store a trace.

        Args:
            trace: the trace, with a new number.
        """
        self._file.add(trace)
        self.traces[trace.index] = trace

    def has_states(self, index: int) -> bool:
        """Whether the states of this trace were stored."""
        return self._path(index).exists()

    def store(self, states: ThoughtStates) -> None:
        """Store a trace's states, atomically."""
        tensors = {"states": states.states.contiguous(), "kinds": states.kinds}
        if states.agreement is not None:
            tensors["agreement"] = states.agreement
        path = self._path(states.question)
        with writing(path):
            try:
                save_file(tensors, path.with_suffix(".partial"))
            except SafetensorError as error:  # safetensors wraps the system's errors in it
                raise OSError(str(error)) from error
            os.replace(path.with_suffix(".partial"), path)

    def states(self) -> "StoredStates":
        """The states of all traces, read from disk one at a time."""
        return StoredStates(sorted(self._states.glob("*.safetensors")))

    def _path(self, index: int) -> Path:
        return self._states / f"{index:06d}.safetensors"


class StoredStates(Sequence[ThoughtStates]):
    """The states of traces in files; each is read on access and not kept."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        """The states of one trace; for a slice, a sequence of them."""
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
