"""Loading a model and its tokenizer: by name, from a folder, a hub id, a GGUF file or a config.

The embedded models have names. A config.json gives random weights.
"""

import contextlib
import importlib
import importlib.resources
import json
import os
import pickle
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import jinja2
import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from skipkv._validators import kind_of
from skipkv.errors import (
    InputError,
    MissingExtraError,
    SkipKVError,
    SkipKVWarning,
    UnsupportedModelError,
)
from skipkv.models.architecture import Architecture
from skipkv.models.families import check_model_type, check_sizes
from skipkv.models.placement import check_dtype, find_device
from skipkv.models.random_weights import random_model

EMBEDDED = {"tiny": "tiny/weights", "rambler": "tiny/rambler/weights"}
"""The models that come with the package, and their folders in it."""
RANDOM = "random:"
"""The prefix of a config.json's path that asks for a model with random weights."""
_NAMED = 3  # an error names at most this many of the wrong tensors
_ATTEMPTS, _SECONDS = 2, 10  # to reach the hub: how often, and how long each may take


def load(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model, ready to decode, and its tokenizer.

    A checkpoint whose tensors do not match its config.json is refused. A `tokenizer.json` is read
    as it is, also where transformers has a tokenizer class of its own for the architecture.

    Args:
        name_or_path: "tiny" or "rambler" for an embedded reasoner (`skipkv.tiny`), a folder as
            `save_pretrained` writes it, a folder with one GGUF file, a GGUF file, or an id on the
            model hub. A folder of your own that is called tiny is "./tiny". "random:CONFIG.json"
            is a model of that architecture with random weights (`random_model`).
        dtype: dtype of the weights; "auto" takes the checkpoint's (float32 for GGUF and for the
            embedded models, which a CPU decodes faster in it than in the stored bfloat16).
        device: device of the model; by default a GPU if there is one.
        trust_remote_code: run Python code that comes with the model. By default such code is not
            run, and the user is not asked.

    Raises:
        InputError: the name leads to no model, or to a part of a model only.
        UnsupportedModelError: a model of another architecture.
        MissingExtraError: a GGUF file without the extra `gguf` installed.

    Example:
        >>> model, tokenizer = load("tiny", device="cpu")
        >>> tokenizer.decode(tokenizer("a:7; b:a+5")["input_ids"])
        'a:7; b:a+5'
    """
    check_dtype(dtype)
    place = find_device(device)
    name_or_path = _name(name_or_path)
    if name_or_path.startswith(RANDOM):
        return random_model(name_or_path.removeprefix(RANDOM), dtype=dtype, device=place)
    source, gguf = _source(name_or_path)
    offline = not os.path.isdir(source) and not _hub_answers()
    options: dict[str, Any] = {**gguf, "local_files_only": offline}
    if gguf:
        _require_gguf()
    if dtype == "auto" and (gguf or name_or_path in EMBEDDED):
        dtype = torch.float32
    with _quiet():
        with _named(name_or_path, "config"):
            if offline:
                _check_downloaded(source, name_or_path)
            _refuse_adapter(source, name_or_path, offline)
            config, _ = PretrainedConfig.get_config_dict(source, **options)
            own_code = trust_remote_code and bool(config.get("auto_map"))
            check_model_type(config.get("model_type"), own_code=own_code)
            check_sizes(config)
            if not own_code:
                _check_architecture(source, options)
        with _named(name_or_path, "tokenizer"):
            tokenizer = _tokenizer(source, options, trust_remote_code)
            _check_template(tokenizer)
        with _named(name_or_path, "generation config"):
            settings = None if gguf else _file(source, "generation_config.json", offline)
            if settings is not None:  # transformers goes on without one that it cannot read
                _json(settings)
        with _named(name_or_path, "model"):
            reader: Any = AutoModelForCausalLM
            model, report = reader.from_pretrained(
                source,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, which is checked below
                **options,
            )
            _check_complete(report)
            torch.nn.Module.to(model, place)
    return torch.nn.Module.train(model, False), tokenizer


def folder_of(name_or_path: str | Path) -> Path | None:
    """The folder of a model's files; None for a model on the hub."""
    name_or_path = _name(name_or_path)
    if name_or_path in EMBEDDED:
        return Path(str(importlib.resources.files("skipkv"))) / EMBEDDED[name_or_path]
    path = Path(name_or_path)
    if os.path.isfile(path):  # not path.is_file(), which raises for a name that is too long
        return path.parent
    return path if os.path.isdir(path) else None


def _name(given: object) -> str:
    """A model's name as a text.

    Raises:
        InputError: it is neither a text nor a path, or it is empty.
    """
    if isinstance(given, Path):
        return str(given) if given.is_absolute() else f"./{given}"
    if not isinstance(given, str):
        raise InputError(
            f"A model is named by a text or a path, got {kind_of(given)}. A model object goes to "
            "Engine(model, tokenizer, policy)."
        )
    if not given.strip():
        raise InputError("The model's name is empty. Name a folder, a hub id, tiny or rambler.")
    return given


def _source(name_or_path: str) -> tuple[str, dict[str, str]]:
    """The arguments for transformers: a folder or a hub id, and a GGUF file's name if it is one."""
    if name_or_path in EMBEDDED:
        return str(folder_of(name_or_path)), {}
    path = Path(name_or_path)
    if os.path.exists(path):
        gguf = _gguf_file(path)
        return (name_or_path, {}) if gguf is None else (str(gguf.parent), {"gguf_file": gguf.name})
    if path.suffix == ".gguf" or path.is_absolute() or name_or_path.startswith("."):
        raise InputError(f"No model at {name_or_path!r}: there is no such file or folder.")
    return name_or_path, {}


def _gguf_file(path: Path) -> Path | None:
    """The GGUF file that `path` means; None if it is a folder with a config.json."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"{path} is a file, and not a .gguf file. Give the model's folder.")
        return path
    if any((path / name).exists() for name in ("config.json", "adapter_config.json")):
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise InputError(
            f"{path} has no config.json and not exactly one .gguf file (it has {names}). Give the "
            "path of a .gguf file, or another folder."
        )
    return found[0]


def _check_architecture(source: str, options: dict[str, Any]) -> None:
    """Raise `UnsupportedModelError` for a model that cannot be decoded, before it is downloaded."""
    try:
        Architecture.of(AutoConfig.from_pretrained(source, trust_remote_code=False, **options))
    except UnsupportedModelError:
        raise
    except Exception:  # a config that makes no model: reading the model says why
        return


def _require_gguf() -> None:
    try:
        for module in ("gguf", "accelerate"):  # transformers reads GGUF with both
            importlib.import_module(module)
    except ImportError as cause:
        raise MissingExtraError(
            "Reading a GGUF file needs the extra `gguf`: pip install 'skipkv[gguf]'."
        ) from cause


@contextlib.contextmanager
def _named(name: str, part: str) -> Iterator[None]:
    """Turn any error while a part of a model is read into an `InputError` of one line.

    Unknown files make transformers raise errors of every type.
    """
    try:
        yield
    except SkipKVError as error:
        if not isinstance(error, InputError):
            raise
        raise InputError(f"Cannot load the {part} of {name!r}: {error}") from error
    except Exception as cause:
        raise InputError(f"Cannot load the {part} of {name!r}: {_reason(cause)}") from cause


def _reason(cause: Exception) -> str:
    if isinstance(cause, pickle.UnpicklingError):
        return (
            "the weights are pickled with more than tensors in them, or damaged. Only tensors are "
            "unpickled, for safety. Save the model with save_pretrained."
        )
    said = " ".join(str(cause).split())  # the reason is often in the second line
    if isinstance(cause, ImportError | OSError | RuntimeError | ValueError | SafetensorError):
        return said or type(cause).__name__
    return f"{type(cause).__name__}: {said}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' reports, since errors are raised; show its bars on terminals only."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    transformers_logging.set_verbosity_error()
    if bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _refuse_adapter(source: str, name: str, offline: bool) -> None:
    """Raise `InputError` for an adapter: transformers might decode its base model without it."""
    path = _file(source, "adapter_config.json", offline)
    if path is None:
        return
    base = _json(path).get("base_model_name_or_path")
    raise InputError(
        f"it is an adapter (LoRA) of {base!r}, not a whole model. Merge the two with peft, "
        f"PeftModel.from_pretrained(base, {name!r}).merge_and_unload().save_pretrained(folder), "
        "save the tokenizer there too, and load that folder."
    )


def _tokenizer(source: str, options: dict[str, Any], trusted: bool) -> PreTrainedTokenizerBase:
    """The tokenizer that the files describe.

    AutoTokenizer does not read the files of some architectures (Qwen2, and Llama from a GGUF file
    in transformers 5.0). It builds a tokenizer from the vocabulary alone, with other rules and
    tokens, which splits text in another way than the files say.
    """
    gguf, offline = "gguf_file" in options, options["local_files_only"]
    config = None if gguf else _file(source, "tokenizer_config.json", offline)
    own_code = trusted and config is not None and "auto_map" in _json(config)
    if gguf or (not own_code and _file(source, "tokenizer.json", offline) is not None):
        reader: Any = PreTrainedTokenizerFast
    else:
        reader = AutoTokenizer
    found: PreTrainedTokenizerBase = reader.from_pretrained(
        source, trust_remote_code=trusted, **options
    )
    if not found("a")["input_ids"]:
        raise InputError(
            "its vocabulary is empty. A model comes with tokenizer.json, or another file with its "
            "vocabulary: copy it from the original model."
        )
    return found


def _check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    if not getattr(tokenizer, "chat_template", None):
        return
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except jinja2.TemplateSyntaxError as cause:
        raise InputError(
            f"its chat template is malformed, line {cause.lineno}: {cause.message} Correct "
            "chat_template.jinja (or tokenizer_config.json)."
        ) from cause
    except Exception:  # a template may refuse this chat and accept others: `Engine.encode` checks
        return


def _check_complete(report: Mapping[str, Any]) -> None:
    """Raise `InputError` unless the files hold exactly the model's tensors."""
    wrong = []
    for key, what in (
        ("missing_keys", "tensors are missing and would be random"),
        ("mismatched_keys", "have another size than config.json says"),
        ("unexpected_keys", "have no place in the model that config.json describes"),
    ):
        names = sorted(str(n[0] if isinstance(n, tuple) else n) for n in report.get(key) or ())
        if names:
            more = ", ..." if len(names) > _NAMED else ""
            wrong.append(f"{len(names)} {what} ({', '.join(names[:_NAMED])}{more})")
    if wrong:
        raise InputError(
            f"files and config.json do not belong together: {'; '.join(wrong)}. Get the model's "
            "files again. If they are right, load the model with transformers and use "
            "Engine(model, tokenizer, policy)."
        )


def _file(source: str, name: str, offline: bool) -> Path | None:
    """A file of a folder, or of a model on the hub; None if it does not exist.

    Not by transformers' `cached_file`, which answers None as well where the connection fails.
    """
    if os.path.isdir(source):
        path = Path(source) / name
        return path if path.exists() else None
    try:
        return Path(huggingface_hub.hf_hub_download(source, name, local_files_only=offline))
    except LocalEntryNotFoundError:  # no answer, and not among the files downloaded earlier
        if not offline:
            raise
        return None
    except (EntryNotFoundError, RepositoryNotFoundError):  # reading the config explains the latter
        return None


def _hub_answers() -> bool:
    """Whether the model hub can be reached.

    Its client tries every file for half a minute before it gives up, so this is found out first.
    """
    constants = huggingface_hub.constants
    for attempt in range(0 if constants.HF_HUB_OFFLINE else _ATTEMPTS):
        time.sleep(attempt)
        try:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_SECONDS)
        except Exception:  # its kind depends on the client's version; a status is no exception
            continue
        return True
    return False


def _check_downloaded(source: str, name: str) -> None:
    """Where the hub cannot be asked, say that files downloaded earlier are used, or are missing."""
    constants = huggingface_hub.constants
    reason = f"the model hub ({constants.ENDPOINT}) does not answer"
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    if _file(source, "config.json", offline=True) is None:
        raise InputError(
            f"{reason}, and it was not downloaded earlier. Check its name and the network, or name "
            "a folder with the model."
        )
    if not constants.HF_HUB_OFFLINE:
        warnings.warn(
            f"Loading {name!r} from files that were downloaded earlier: {reason}.",
            SkipKVWarning,
            stacklevel=3,
        )


def _json(path: Path) -> dict[str, Any]:
    held = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(held, dict):
        raise InputError(f"{path.name} must hold an object, got {kind_of(held)}.")
    return held
