"""Greedy generation with the published code, reproduced by the engine and under `generate()`.

Cases without padding are targets: the same tokens, and at every event the same kept entries. The published
run with padding (b3pads) keeps the padding in the cache and is no target.

Differs: the published code penalises a redundant sentence only while two of its entries are left in a
head; here one suffices. Where we depart, `CASES` says why and from which event on.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import skipkv
from skipkv import Budget, Policy, presets
from skipkv.evictors import SentencePrimary, TopK
from skipkv.scorers import KeyRedundancy, SentenceRedundancy, Shared, WindowAttention
from skipkv.segmenters import Delimiter
from skipkv.runtime import EventRecord
from skipkv.testing import toy_tokenizer


@pytest.fixture(scope="module")
def settings(golden_path: Callable[[str], Path]) -> dict[str, Any]:
    return json.loads(golden_path("meta_e2e.json").read_text())


@pytest.fixture(scope="module")
def model(golden: Callable[[str], dict[str, Tensor]], settings: dict[str, Any]) -> PreTrainedModel:
    kept = {k: v for k, v in settings["model"].items() if k not in ("architecture", "weights")}
    for name in ("torch", "transformers"):
        del kept[name]
    config = LlamaConfig(**kept, eos_token_id=None, bos_token_id=None, pad_token_id=0)
    model = LlamaForCausalLM(config).eval()
    weights = golden("e2e_model.safetensors")
    model.load_state_dict({name: w.float() for name, w in weights.items()})
    return model


def policy(method: str, case: dict[str, Any]) -> Policy:
    """The published method with the case's settings."""
    budget, interval = case["budget"], case["divide_length"]
    redundancy = KeyRedundancy(keep=case["retain_direction"])
    scorer = 0.1 * WindowAttention() - 0.9 * redundancy
    if method == "fullkv":
        return presets.full()
    if method == "streamingllm":
        return presets.streaming_llm(budget, sinks=case["first_tokens"], interval=interval)
    if method == "snapkv":
        return presets.snapkv(budget, interval=interval)
    if method == "h2o":  # the published baseline of that name looks at the newest query only
        return Policy(
            budget=Budget(tokens=budget, interval=interval, window=1),
            scorer=Shared(scorer=WindowAttention(window=1, pool=1)),
            evictor=TopK(),
        )
    if method == "rkv":
        return Policy(budget=Budget(tokens=budget, interval=interval), scorer=scorer)
    threshold = case["S_threshold"]
    return Policy(
        budget=Budget(tokens=budget, interval=interval),
        scorer=scorer - SentenceRedundancy(threshold=threshold),
        evictor=SentencePrimary(threshold=threshold, whole=False),
        segmenter=Delimiter(ids=frozenset(case["punct_ids"])),
    )


# Case -> published events that are equal here, all tokens before the next one included.
ALL = 99
CASES = {
    "b1.fullkv": ALL,
    "b1.streamingllm": ALL,
    "b1.h2o": ALL,
    # R-KV's code leaves the kept entries in the order of their scores, so its next max-pooling joins
    # strangers; here, as in SkipKV's code, slots stay in the order of positions.
    "b1.rkv": 1,
    "b1first.rkv": 1,
    # At its sixth event a redundant sentence has a single entry left in one head: see above.
    "b1.skipkv": 5,
    "b1first.skipkv": ALL,
    "b1long.fullkv": ALL,
    "b1long.streamingllm": ALL,
    "b1long.h2o": ALL,
    "b1long.rkv": 1,
    # The published code compresses a long prompt before it knows its sentences; here they are known.
    "b1long.skipkv": 0,
}


@pytest.mark.parametrize("frontend", ["engine", "attach"])
@pytest.mark.parametrize("name", CASES)
def test_tokens_and_kept_entries_equal_the_published_run(
    name: str,
    frontend: str,
    model: PreTrainedModel,
    golden: Callable[[str], dict[str, Tensor]],
    settings: dict[str, Any],
) -> None:
    case, data = settings["cases"][name], golden("e2e.safetensors")
    tokens, trace = run(frontend, model, policy(name.split(".")[1], case), data, name, case)
    lengths = data.get(f"{name}.event_length", torch.empty(0)).tolist()
    assert [record.seen for record in trace] == lengths
    equal = min(CASES[name], len(lengths))
    for record, expected in zip(trace, published_kept(data, name, lengths[:equal]), strict=False):
        assert (record.kept == expected).all()
    # the token decoded by the pass before an event is the last that the event cannot touch
    certain = len(tokens) if equal == len(lengths) else lengths[equal] - data[f"{name}.prompt"].shape[1]
    assert tokens[: certain + 1] == data[f"{name}.tokens"][0].tolist()[: certain + 1]


def test_a_long_prompt_is_compressed_with_its_sentences_known(
    model: PreTrainedModel, golden: Callable[[str], dict[str, Tensor]], settings: dict[str, Any]
) -> None:
    name = "b1long.skipkv"
    case = settings["cases"][name]
    _, trace = run("engine", model, policy("skipkv", case), golden("e2e.safetensors"), name, case)
    # positions 0 to 20 are the first sentence, which the second repeats: it pays for all 12 entries
    assert trace[0].evicted == 12 * 3 * 2
    assert (trace[0].kept >= 21).sum(dim=-1).eq(60 - 21).all()


def run(
    frontend: str,
    model: PreTrainedModel,
    composed: Policy,
    data: dict[str, Tensor],
    name: str,
    case: dict[str, Any],
) -> tuple[list[int], tuple[EventRecord, ...]]:
    prompt = data[f"{name}.prompt"].long()
    if frontend == "engine":
        engine = skipkv.Engine(model, toy_tokenizer(), composed, eos_token_ids=[])
        [completion] = engine.generate(
            prompt.tolist(), max_new_tokens=case["new_tokens"], trace=True
        )
        assert completion.trace is not None
        return list(completion.tokens), completion.trace
    with skipkv.attach(model, composed, tokenizer=toy_tokenizer(), trace=True) as attached:
        output = model.generate(prompt, max_new_tokens=case["new_tokens"], do_sample=False)
    return output[0, prompt.shape[1] :].tolist(), attached.trace[0]


def published_kept(data: dict[str, Tensor], name: str, lengths: list[int]) -> Iterator[Tensor]:
    """Positions kept at each published event, [layers, H, budget], in ascending order."""
    positions, seen = None, 0
    for i, length in enumerate(lengths):
        slots = data[f"{name}.event{i}.kept"][:, 0].long()
        new = torch.arange(seen, length).expand(*slots.shape[:2], -1)
        cached = new if positions is None else torch.cat([positions, new], dim=-1)
        positions, seen = cached.gather(-1, slots), length
        yield positions.sort(dim=-1).values
