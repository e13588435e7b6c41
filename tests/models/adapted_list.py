"""Adapted, quantised and placed models: one list, for the tests and for docs/models.md.

What needs a package of its own is checked by `make test-adapted`, and skipped elsewhere.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from skipkv.testing import toy_model

# A hidden size of 64, since kernels of 4 bits work on groups of that many numbers.
SIZES: dict[str, Any] = {"heads": 2, "groups": 2, "dim": 16}


@attrs.frozen
class Case:
    """A way to change a model.

    Args:
        package: what it needs.
        make: makes a changed toy model, given an empty folder.
        refused: what is said where it is refused, a regular expression.
        rounds: whether it rounds by what is decoded beside a sequence, so that tokens may part.
        shown: a note for the table.
    """

    package: str
    make: Callable[[Path], Any]
    refused: str | None = None
    rounds: bool = False
    shown: str = ""


def _peft(kind: str, **options: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        peft = pytest.importorskip("peft")
        torch.manual_seed(1)
        config = getattr(peft, kind)(task_type="CAUSAL_LM", **options)
        model = peft.get_peft_model(toy_model(**SIZES), config).eval()
        for name, weight in model.named_parameters():
            if "adaption_gate" in name or "trainable_tokens_delta" in name:  # they start as nothing
                torch.nn.init.normal_(weight, std=2.0)
        return model

    return make


LORA: dict[str, Any] = {
    "r": 4,
    "target_modules": ["q_proj", "v_proj", "up_proj"],
    "init_lora_weights": False,
}


def _merged(folder: Path) -> Any:
    return _peft("LoraConfig", **LORA)(folder).merge_and_unload()


def _added(folder: Path) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    model = toy_model(**SIZES)
    model.add_adapter(peft.LoraConfig(**LORA))
    return model


def _loaded(**options: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        toy_model(**SIZES).save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, **options)

    return make


def _torchao(kind: str) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        quantization = pytest.importorskip("torchao.quantization")
        model = toy_model(**SIZES)
        quantization.quantize_(model, getattr(quantization, kind)())
        return model

    return make


def _quanto(kind: str) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        quanto = pytest.importorskip("optimum.quanto")
        model = toy_model(**SIZES)
        quanto.quantize(model, weights=getattr(quanto, kind))
        quanto.freeze(model)
        return model

    return make


def _placed(folder: Path) -> PreTrainedModel:
    parts = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
    places = {**dict.fromkeys(parts, "cpu"), "model.layers.1": "disk"}
    model: PreTrainedModel = _loaded(device_map=places, offload_folder=folder / "disk")(folder)
    return model


def _elsewhere(folder: Path) -> Any:
    accelerate = importlib.import_module("accelerate")
    return accelerate.cpu_offload(toy_model(**SIZES), execution_device="cpu")


VIRTUAL = "puts virtual tokens before every prompt"
CASES: dict[str, Case] = {
    "LoRA, wrapped: `PeftModel`": Case("peft", _peft("LoraConfig", **LORA)),
    "LoRA, added: `model.add_adapter(...)`": Case("peft", _added),
    "LoRA, merged: `merge_and_unload()`": Case("peft", _merged),
    "DoRA": Case("peft", _peft("LoraConfig", use_dora=True, **LORA)),
    "IA3": Case(
        "peft",
        _peft(
            "IA3Config",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            init_ia3_weights=False,
        ),
    ),
    "LLaMA-Adapter": Case("peft", _peft("AdaptionPromptConfig", adapter_len=3, adapter_layers=1)),
    "trained tokens": Case("peft", _peft("TrainableTokensConfig", token_indices=[5, 6])),
    "activated LoRA": Case(
        "peft",
        _peft("LoraConfig", alora_invocation_tokens=[7], **LORA),
        refused="acts from its invocation tokens on.*Train a LoRA without",
        shown="refused: train a LoRA without invocation tokens",
    ),
    "prefix tuning": Case(
        "peft",
        _peft("PrefixTuningConfig", num_virtual_tokens=4),
        refused=VIRTUAL,
        shown="refused: its virtual tokens are not in the prompt",
    ),
    "prompt tuning": Case(
        "peft",
        _peft("PromptTuningConfig", num_virtual_tokens=4),
        refused=VIRTUAL,
        shown="refused: its virtual tokens are not in the prompt",
    ),
    "bitsandbytes, 8 bits": Case(
        "bitsandbytes", _loaded(quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    ),
    "bitsandbytes, 4 bits": Case(
        "bitsandbytes", _loaded(quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    ),
    "torchao, weights of 8 bits": Case("torchao", _torchao("Int8WeightOnlyConfig")),
    "torchao, weights and activations of 8 bits": Case(
        "torchao",
        _torchao("Int8DynamicActivationInt8WeightConfig"),
        rounds=True,
        shown="activations are rounded anew in each pass, so tokens may part from those of "
        "`generate()`",
    ),
    "quanto, weights of 8 bits": Case("optimum.quanto", _quanto("qint8")),
    "quanto, weights of 4 bits": Case("optimum.quanto", _quanto("qint4")),
    "accelerate, `device_map` with layers on disk": Case("accelerate", _placed),
    "accelerate, all weights offloaded": Case(
        "accelerate",
        _elsewhere,
        refused=r"Keep the embeddings in memory: device_map=",
        shown="refused: keep the embeddings in memory",
    ),
}
"""Ways to change a model, as the table names them."""
