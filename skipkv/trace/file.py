"""The file of a trace: a zip of a JSON header and numpy arrays, as docs/traces.md describes it."""

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, UInt

from skipkv._runs import writing
from skipkv.errors import InputError
from skipkv.trace.sentences import Sentences, stepped, thought_names, unstepped

FORMAT, VERSION = "skipkv-trace", 1
"""Name and version of the format. A reader refuses versions above its own."""

_T = TypeVar("_T")
_HEADER = "header.json"
_ARRAYS = {
    "left_at": 3,
    "ids": 1,
    "seen": 1,
    "sentence_ends": 1,
    "thoughts": 1,
    "twins": 1,
    "redundancy": 1,
    "redundant_at": 1,
    "similarity": 1,
    "steered": 1,
    "strengths": 1,
    "scores": 4,
}
# zip stores a date: always this one, so that the same trace gives the same bytes
_DATE = (1980, 1, 1, 0, 0, 0)
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError),
    *(NotImplementedError, MemoryError, AttributeError, OverflowError, RuntimeError),
)


def save(trace: Any, path: Path) -> None:
    """Write a trace; a file is there as a whole or not at all.

    Args:
        trace: the trace.
        path: its file.

    Raises:
        InputError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr(_member(_HEADER), json.dumps(_header(trace)))
                for name, array in _arrays(trace).items():
                    with file.open(_member(f"{name}.npy"), "w", force_zip64=True) as member:
                        np.lib.format.write_array(
                            member, np.ascontiguousarray(array), allow_pickle=False
                        )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _DATE)
    member.compress_type = zipfile.ZIP_DEFLATED
    return member


def _header(trace: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "about": dict(trace.about),
        "prompt_tokens": trace.prompt_tokens,
        "layers": list(trace.layers),
        "terms": list(trace.terms),
        "thoughts": thought_names(),
        "threshold": trace.sentences.threshold,
        "pieces": list(trace.pieces),
    }


def _arrays(trace: Any) -> dict[str, Any]:
    own = trace.sentences
    upper = np.triu_indices(len(own.similarity))
    return {
        "left_at": trace.left_at.astype(np.min_scalar_type(trace.events)),
        "ids": trace.ids.astype(np.uint32),
        "seen": trace.seen.astype(np.uint32),
        "sentence_ends": own.ends.astype(np.uint32),
        "thoughts": own.thoughts.astype(np.uint8),
        "twins": own.twins.astype(np.int32),
        "redundancy": own.redundancy.astype(np.float32),
        "redundant_at": own.redundant_at.astype(np.uint32),
        "similarity": stepped(own.similarity)[upper],
        "steered": trace.steered.astype(np.uint32),
        "strengths": trace.strengths.astype(np.float32),
        "scores": shortened(trace.scores),
    }


def load(path: Path, make: Callable[..., _T]) -> _T:
    """Read a trace.

    Args:
        path: its file.
        make: makes it from its fields, by name.

    Raises:
        InputError: there is no such file, or it is no trace, incomplete, damaged, or of a newer
            version of the format.
    """
    try:
        with path.open("rb") as stream:
            zipped = stream.read(4) == b"PK\x03\x04"
            if not zipped:
                raise InputError(
                    f"{path} is no trace of skipkv. Traces are written by `skipkv generate --trace "
                    "DIR` and by skipkv.trace.Recorder."
                )
            with zipfile.ZipFile(stream) as file:
                header = _read_header(file, path)
                arrays = {
                    name: _read_array(file, name, axes=axes) for name, axes in _ARRAYS.items()
                }
        return make(**_fields(header, arrays))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}.") from error
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path} is damaged: {error}") from error
    except _BROKEN as error:
        raise InputError(
            f"{path} is incomplete or damaged ({type(error).__name__}: {error}). Copy or record it "
            "again."
        ) from error


def _read_header(file: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    header = json.loads(file.read(_HEADER)) if _HEADER in file.namelist() else None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is a zip file, but no trace of skipkv: no {_HEADER} says so.")
    version = header.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{path} has version {version} of the format, and this skipkv reads up to {VERSION}. "
            "Install a newer skipkv to read it."
        )
    return header


def _read_array(file: zipfile.ZipFile, name: str, *, axes: int) -> Any:
    with file.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):  # to the end, so that the checksum is looked at
            raise ValueError(f"{name}.npy is longer than its array")
    if array.ndim != axes or array.dtype.kind not in "uif":
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}")
    return array


def _fields(header: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    wide = {
        name: array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        for name, array in arrays.items()
        if name not in ("left_at", "similarity", "scores")
    }
    steps = arrays["similarity"]
    known = round(((1 + 8 * len(steps)) ** 0.5 - 1) / 2)  # K (K + 1) / 2 of them
    similarity = np.zeros((known, known), dtype=np.float32)
    similarity[np.triu_indices(known)] = unstepped(steps)
    similarity += np.triu(similarity, 1).T
    pieces, about = header["pieces"], header["about"]
    if not all(isinstance(piece, str) for piece in pieces) or not isinstance(about, dict):
        raise ValueError("the header's pieces must be texts, and about an object")
    sentences = Sentences(
        ends=wide["sentence_ends"],
        thoughts=wide["thoughts"],
        twins=wide["twins"],
        redundancy=wide["redundancy"],
        redundant_at=wide["redundant_at"],
        threshold=header["threshold"],
        similarity=similarity,
    )
    return {
        "left_at": arrays["left_at"],
        "ids": wide["ids"],
        "pieces": pieces,
        "prompt_tokens": int(header["prompt_tokens"]),
        "seen": wide["seen"],
        "layers": [int(layer) for layer in header["layers"]],
        "sentences": sentences,
        "steered": wide["steered"],
        "strengths": wide["strengths"],
        "terms": [str(term) for term in header["terms"]],
        "scores": lengthened(arrays["scores"]),
        "about": about,
    }


def shortened(scores: Float[np.ndarray, "*axes"]) -> UInt[np.ndarray, "*axes"]:
    """The upper half of the bits of float32 numbers, rounded: bfloat16.

    Args:
        scores: the numbers; NaN stays NaN.
    """
    bits = np.ascontiguousarray(scores, dtype=np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to even
    return np.where(np.isnan(scores), 0x7FC0, rounded >> 16).astype(np.uint16)


def lengthened(halves: UInt[np.ndarray, "*axes"]) -> Float[np.ndarray, "*axes"]:
    """The inverse of `shortened`.

    Args:
        halves: as a file holds them.
    """
    return (halves.astype(np.uint32) << 16).view(np.float32)
