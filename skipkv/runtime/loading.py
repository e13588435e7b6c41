"""Finding a model and its tokenizer: the embedded one, a folder, a hub id, a GGUF file, or none."""

import importlib
import importlib.resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from skipkv.errors import InputError, MissingExtraError
from skipkv.runtime.random_model import random_model

EMBEDDED = "tiny"
"""Name of the model that comes with the package."""
RANDOM = "random:"
"""What stands before a config.json whose model is wanted with random weights."""


def load(
    name_or_path: str,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model, ready to decode, and its tokenizer.

    Args:
        name_or_path: "tiny" for the embedded reasoner (`skipkv.tiny`), a folder as
            `save_pretrained` writes it, a folder with one GGUF file, a GGUF file, or an id on the
            model hub. A folder of your own that is called tiny is "./tiny". "random:CONFIG.json"
            is a model of that architecture with random weights (`random_model`).
        dtype: of the weights; "auto" takes the checkpoint's (float32 for GGUF).
        device: where to; by default a GPU if there is one.

    Raises:
        InputError: nothing loadable there.
        MissingExtraError: a GGUF file without the extra `gguf` installed.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name_or_path.startswith(RANDOM):
        return random_model(name_or_path.removeprefix(RANDOM), dtype=dtype, device=device)
    where: dict[str, Any] = {}
    source = name_or_path
    path = Path(name_or_path)
    if name_or_path == EMBEDDED:
        source = str(folder_of(EMBEDDED))
    elif path.exists():
        gguf = _gguf_file(path)
        if gguf is not None:
            _require_gguf()
            source, where = str(gguf.parent), {"gguf_file": gguf.name}
            dtype = torch.float32 if dtype == "auto" else dtype
    elif path.suffix == ".gguf" or path.is_absolute() or name_or_path.startswith("."):
        raise InputError(f"No model at {name_or_path!r}: there is no such file or folder.")
    part = "tokenizer"
    try:
        tokenizer = _tokenizer_class(source).from_pretrained(source, **where)
        part = "model"
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **where)
    except (ImportError, OSError, ValueError, SafetensorError) as cause:
        # on one line: what matters stands often in the second
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise InputError(f"Cannot load the {part} of {name_or_path!r}: {reason}") from cause
    torch.nn.Module.to(model, device).train(False)
    return model, tokenizer


def folder_of(name_or_path: str) -> Path | None:
    """The folder a model's files lie in; None for one on the hub."""
    if name_or_path == EMBEDDED:
        return Path(str(importlib.resources.files("skipkv"))) / "tiny" / "weights"
    path = Path(name_or_path)
    if path.is_file():
        return path.parent
    return path if path.is_dir() else None


def _tokenizer_class(source: str) -> Any:
    """What reads the tokenizer of a folder or a hub id.

    AutoTokenizer gives some architectures (Qwen2 is one) the tokenizer of their family, whatever
    the folder says; that would rebuild a tokenizer of one's own wrongly, without a word.
    """
    declared = Path(source) / "tokenizer_config.json"
    if declared.is_file() and '"TokenizersBackend"' in declared.read_text(encoding="utf-8"):
        return PreTrainedTokenizerFast
    return AutoTokenizer


def _gguf_file(path: Path) -> Path | None:
    """The GGUF file meant by `path`, if one is."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"{path} is a file, and not a .gguf file. Give the model's folder.")
        return path
    if (path / "config.json").exists():
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise InputError(
            f"{path} has no config.json and not exactly one .gguf file ({names}). Name the file."
        )
    return found[0]


def _require_gguf() -> None:
    try:
        for module in ("gguf", "accelerate"):  # transformers reads GGUF with both
            importlib.import_module(module)
    except ImportError as cause:
        raise MissingExtraError(
            "Reading a GGUF file needs the extra `gguf`: pip install 'skipkv[gguf]'."
        ) from cause
