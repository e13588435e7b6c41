"""Memory in use: a process's resident set, or what a device's allocator has allocated."""

import ctypes
import re
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@runtime_checkable
class Meter(Protocol):
    """Memory in bytes, counted from `start`."""

    def start(self) -> None:
        """Count from here."""
        ...

    def now(self) -> int | None:
        """Bytes in use now; None if it cannot be measured."""
        ...

    def peak(self) -> int | None:
        """The most bytes in use at once since the start."""
        ...


class ProcessMemory:
    """Resident memory of this process, as Linux reports it.

    `start` first returns the memory that malloc keeps from earlier work, and resets the kernel's
    high-water mark. So short-lived tensors count too.
    """

    def __init__(self) -> None:
        self._base = 0
        self._marks = False  # whether the kernel's high-water mark counts from the start
        self._most = 0

    def start(self) -> None:
        """Count from here."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        try:
            _CLEAR.write_text("5")
            self._marks = True
        except OSError:
            self._marks = False
        self._base, self._most = _kilobytes("VmRSS") or 0, 0

    def now(self) -> int | None:
        """Bytes in use now."""
        found = _kilobytes("VmRSS")
        if found is None:
            return None
        growth = 1024 * (found - self._base)
        self._most = max(self._most, growth)
        return growth

    def peak(self) -> int | None:
        """The most bytes since the start; without the kernel's mark, the most of all samples."""
        if self.now() is None:
            return None
        mark = _kilobytes("VmHWM") if self._marks else None
        return self._most if mark is None else max(self._most, 1024 * (mark - self._base))


class DeviceMemory:
    """Bytes allocated by torch's allocator on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._base = 0

    def start(self) -> None:
        """Count from here."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._base = torch.cuda.memory_allocated(self._device)

    def now(self) -> int | None:
        """Bytes in use now."""
        return torch.cuda.memory_allocated(self._device) - self._base

    def peak(self) -> int | None:
        """The most bytes since the start."""
        return torch.cuda.max_memory_allocated(self._device) - self._base


def meter_for(device: torch.device) -> Meter:
    """The meter for models on `device`."""
    return DeviceMemory(device) if device.type == "cuda" else ProcessMemory()


def _kilobytes(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:  # not Linux
        return None
    return None if found is None else int(found[1])
