"""A model's folder whose plain `generate()` decodes under a policy, by transformers' own means.

transformers runs `custom_generate/generate.py` of a folder in the place of `generate()` where the
user trusts its code. `export` writes one that attaches the policy.
"""

import base64
import weakref
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import skipkv
from skipkv import presets
from skipkv._runs import writing
from skipkv.compositions import build, find, model_settings, own_settings, read_name
from skipkv.errors import InputError
from skipkv.models import load
from skipkv.models.loading import folder_of
from skipkv.policy import Policy
from skipkv.runtime import Stats
from skipkv.steerers import SteeringVector

_FILE = '''"""Written by `skipkv export`: generate() decodes under the policy {name}.

transformers runs this file where trust_remote_code=True. It needs skipkv, and nothing else.
"""

from skipkv.integrations.custom_generate import generate_under, policy_of

POLICY = policy_of({name!r}, {options!r}, vector={vector!r}, files={files!r})


def generate(*args, model, **kwargs):
    """model.generate() under the policy."""
    return generate_under(model, POLICY, *args, **kwargs)
'''
_LEARNED = ("gate", "queries")
"""Options of presets that name files."""
_LARGEST = 2**25
"""The most bytes of such a file in a folder's code."""
_tokenizers: weakref.WeakKeyDictionary[Any, PreTrainedTokenizerBase] = weakref.WeakKeyDictionary()
_stats: weakref.WeakKeyDictionary[Any, list[Stats]] = weakref.WeakKeyDictionary()


def export(
    model: str,
    policy: str,
    folder: str | Path,
    *,
    budget: int | None = None,
    interval: int | None = None,
    published: bool = False,
    weights: bool = True,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> None:
    """Write a model's folder whose `generate()` decodes under a policy.

    Args:
        model: tiny or rambler, a folder, a hub id or a GGUF file.
        policy: a preset's name or `package.module:object`, perhaps with options. Who loads the
            folder must be able to import the module.
        folder: where to; it must not exist, or be empty.
        budget: most entries kept per KV head.
        interval: decode steps between two compression events.
        published: give presets their published settings, whatever the model's folder says.
        weights: write model and tokenizer too; without them the folder is for
            `generate(custom_generate=FOLDER)`.
        dtype: of the weights.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        InputError: the model cannot be loaded, the folder has files or cannot be written, or a
            file of learned numbers is too large to be a part of its code.
        ConfigError: a policy that cannot be.
    """
    settings = model_settings(model, published=published)
    _, written = read_name(policy, settings=settings)
    name = ":".join(piece for piece in policy.split(":") if "=" not in piece)
    told = {"budget": budget, "interval": interval}
    options = {**own_settings(policy, settings), **written}
    options |= {key: value for key, value in told.items() if value is not None}
    file = options.pop("vector", None)
    vector = None
    if file is not None:
        # through the class, which refuses a file without a vector in any of its formats
        with TemporaryDirectory() as place:
            SteeringVector.load(file).save(Path(place) / "vector.safetensors")
            raw = (Path(place) / "vector.safetensors").read_bytes()
        vector = base64.b64encode(raw).decode()
    preset = getattr(find(name), "__module__", None) == presets.__name__
    paths = {key: options[key] for key in _LEARNED if preset and isinstance(options.get(key), str)}
    policy_of(name, options, vector=vector)  # raises what loading the folder would
    files = {key: _in_text(Path(file)) for key, file in paths.items()}
    options = {key: value for key, value in options.items() if key not in files}
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already. Choose another folder.")
    loaded = load(model, dtype=dtype, device="cpu", trust_remote_code=trust_remote_code)
    source = folder_of(model)
    with writing(folder):
        (folder / "custom_generate").mkdir(parents=True)
        if weights:
            for part in loaded:
                part.save_pretrained(folder)
            # a tokenizer may name code of its folder, and is saved without it
            for code in () if source is None else source.glob("*.py"):
                (folder / code.name).write_bytes(code.read_bytes())
        text = _FILE.format(name=name, options=options, vector=vector, files=files)
        (folder / "custom_generate" / "generate.py").write_text(text, encoding="utf-8")
        (folder / "custom_generate" / "requirements.txt").write_text("skipkv\n")


def _in_text(file: Path) -> str:
    """The bytes of a file of learned numbers, in base64: transformers moves the code alone."""
    if (size := file.stat().st_size) > _LARGEST:
        raise InputError(
            f"{file} has {size / 2**20:.0f} MB. It would be a part of the folder's code, and must "
            f"have {_LARGEST // 2**20} MB at most. Decode with skipkv's Engine or attach."
        )
    return base64.b64encode(file.read_bytes()).decode()


def policy_of(
    name: str,
    options: dict[str, Any],
    *,
    vector: str | None = None,
    files: Mapping[str, str] | None = None,
) -> Policy:
    """The policy that an exported folder names.

    Args:
        name: a preset's, or `package.module:object`.
        options: of it.
        vector: the bytes of a steering vector's file, in base64.
        files: likewise of other files of learned numbers, by the options that name them.

    Raises:
        ConfigError: there is no such policy, or it does not take these options.
    """
    found = find(name)
    if isinstance(found, Policy):
        if options or vector:
            raise skipkv.errors.ConfigError(
                f"Policy {name} is a finished Policy and takes no options. Export a function that "
                "takes them."
            )
        return found
    if vector is not None:
        with TemporaryDirectory() as place:
            file = Path(place) / "vector.safetensors"
            file.write_bytes(base64.b64decode(vector))
            options = {**options, "vector": SteeringVector.load(file)}
    with TemporaryDirectory() as place:
        for option, text in (files or {}).items():
            path = Path(place) / f"{option}.safetensors"
            path.write_bytes(base64.b64decode(text))
            options = {**options, option: str(path)}
        return build(found, name, dict(options))


def generate_under(model: PreTrainedModel, policy: Policy, *args: Any, **kwargs: Any) -> Any:
    """`model.generate()` with a policy attached to it.

    Args:
        model: the model; its class's own `generate` is called.
        policy: what to keep.
        args: for `generate`.
        kwargs: for `generate`. A `tokenizer` among them is the policy's too; else that of the
            model's folder is loaded where the policy reads text.

    Raises:
        InputError: the policy reads text, and there is no tokenizer.
        SkipKVError: as under `attach`.
    """
    tokenizer = kwargs.get("tokenizer")
    if tokenizer is None and (policy.needs.sentences or policy.steerer.layer is not None):
        tokenizer = _tokenizer(model)
    with skipkv.attach(model, policy, tokenizer=tokenizer) as attached:
        _stats.pop(model, None)  # those of the generation before, should this one fail
        own: Any = type(model)  # `model.generate` is what an exported folder put there
        output = own.generate(model, *args, **kwargs)
        _stats[model] = attached.stats
    return output


def last_stats(model: PreTrainedModel) -> list[Stats]:
    """What the last `generate()` of an exported model cost, one per sequence.

    Args:
        model: the model, as it was loaded.

    Raises:
        InputError: it has generated nothing under a policy, perhaps because it was loaded without
            trust_remote_code=True, or the last generation failed.
    """
    if model not in _stats:
        raise InputError(
            "The model has generated nothing under a policy, or its last generation failed. Load "
            "it with trust_remote_code=True: without, transformers uses its own generate()."
        )
    return _stats[model]


def _tokenizer(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    if model not in _tokenizers:
        name = str(getattr(model.config, "name_or_path", ""))
        try:
            _tokenizers[model] = AutoTokenizer.from_pretrained(name)
        except Exception as cause:  # transformers raises errors of many types
            raise InputError(
                f"The policy reads text, and {name or 'the model'} has no tokenizer. Give one: "
                "model.generate(..., tokenizer=tokenizer)."
            ) from cause
    return _tokenizers[model]
