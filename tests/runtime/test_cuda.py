"""What only a GPU can show: the same tokens, exact budgets, no waiting, flat memory.

The new and the telling come first, in case there is no time for all. Engines do not compile layers
unless a test is about that: every shape and dtype would be compiled.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import attrs
import pytest
import torch

import skipkv
from skipkv import Observer, Policy, Sampling, presets
from skipkv._types import CacheView
from skipkv.errors import PartError
from skipkv.evictors import TopK
from skipkv.runtime import ObservedPass, graph
from skipkv.runtime.parts import event
from skipkv.runtime.seam.compiled import CompiledLayers
from skipkv.runtime.store import kernels
from skipkv.runtime.store.slots import CacheShape
from skipkv.runtime.store.store import SlotStore
from skipkv.scorers import KeyRedundancy
from skipkv.steerers import AdaptiveSteerer, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]
PROMPTS = [list(range(5, 25)), list(range(30, 50)), list(range(40, 60))]
BUDGETED = {
    "random": presets.random(32, interval=16),
    "streaming_llm": presets.streaming_llm(32, interval=16),
    "h2o": presets.h2o(32, interval=16),
    "tova": presets.tova(32, interval=16),
    "snapkv": presets.snapkv(32, interval=16),
    "rkv": presets.rkv(32, interval=16),
    "skipkv": presets.skipkv(32, interval=16),
}

Engine = partial(skipkv.Engine, compile=False)
HALF = [torch.bfloat16, torch.float16]


def model_on_gpu(dtype: torch.dtype = torch.float32) -> Any:
    return torch.nn.Module.to(
        toy_model("qwen2", layers=3, heads=2, groups=3, dim=64), "cuda", dtype
    )


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """float32 is float32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def steered(hidden_size: int) -> Policy:
    vector = SteeringVector(vector=torch.linspace(-1, 1, hidden_size), layer=1, model="toy")
    steering = AdaptiveSteerer(vector, strength=2.0, growth=0.5)
    return presets.skipkv(32, threshold=0.5, interval=16, steering=steering)


def decode(engine: Any, new_tokens: int = 60, **options: Any) -> list[Any]:
    completions = list(engine.generate(PROMPTS, max_new_tokens=new_tokens, trace=True, **options))
    assert all(c.error is None for c in completions)
    return [(c.tokens, [e.kept.tolist() for e in c.trace or ()]) for c in completions]


def uneven(
    batch: int, heads: int, groups: int, slots: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Any, ...]:
    """Inputs of a kernel whose heads hold 1 to all entries; what lies in free slots is absurd."""
    random = torch.Generator("cuda").manual_seed(seed)
    place: Any = {"generator": random, "device": "cuda"}
    lengths = torch.randint(1, slots + 1, (batch, heads), **place)
    lengths[0, 0], lengths[-1, -1] = 1, slots
    empty = torch.arange(slots, device="cuda") >= lengths[..., None]
    key, value = (
        torch.randn(batch, heads, slots, 128, **place).masked_fill(empty[..., None], 1e2).to(dtype)
        for _ in range(2)
    )
    query = torch.randn(batch, heads, groups, 128, **place).to(dtype)
    bias = torch.zeros_like(empty, dtype=dtype).masked_fill(empty, -torch.inf)[:, :, None]
    return query, key, value, bias, lengths.int(), 128**-0.5


def in_float64(query: Any, key: Any, value: Any, bias: Any, lengths: Any, scale: float) -> Any:
    logits = query.double() @ key.double().mT * scale + bias.double()
    return logits.softmax(dim=-1) @ value.double()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("slots", [48, 1152])
@pytest.mark.parametrize("name", kernels.CANDIDATES)
def test_every_way_to_attend_reads_what_each_head_holds(
    name: str, slots: int, dtype: torch.dtype
) -> None:
    inputs = uneven(10, 4, 7, slots, dtype)
    expected = in_float64(*inputs)
    try:
        found = kernels.CANDIDATES[name](*inputs).double()
    except (RuntimeError, ImportError, TypeError) as error:
        if name in ("sdpa", "matmul"):
            raise
        pytest.skip(f"not in this torch or not on this device: {error}")
    assert (found - expected).norm() / expected.norm() < 1e-2


def test_the_trial_of_ways_to_attend_says_what_each_takes() -> None:
    keys, values = torch.randn(2, 8, 10, 4, 1152, 128, device="cuda", dtype=torch.bfloat16)
    found = kernels.trial(list(zip(keys, values, strict=True)), groups=7)
    print(
        {k: v if isinstance(v, str) else f"{1e6 * v / 8:.1f} us a layer" for k, v in found.items()}
    )
    assert isinstance(found["sdpa"], float)
    assert isinstance(found["matmul"], float)


@pytest.mark.parametrize("keep", ["last", "first"])
def test_redundancy_of_bfloat16_keys_on_matrix_units_is_that_of_float64(keep: str) -> None:
    """Keys as they are in bfloat16, sums in float32; only true ties at the threshold may differ."""
    random = torch.Generator("cuda").manual_seed(0)
    thoughts = torch.randn(4, 40, 128, generator=random, device="cuda")
    picked = torch.randint(0, 40, (4, 1152), generator=random, device="cuda")
    keys = thoughts.gather(1, picked[..., None].expand(-1, -1, 128))
    keys = (keys + 0.9 * torch.randn(keys.shape, generator=random, device="cuda")).bfloat16()
    positions = torch.arange(1152, device="cuda").repeat(1, 4, 1)
    view = CacheView(
        keys=keys[None],
        values=keys[None],
        positions=positions,
        protected=torch.zeros_like(positions, dtype=torch.bool),
        seen=torch.tensor([1152], device="cuda"),
        sequences=torch.tensor([0], device="cuda"),
    )
    found = KeyRedundancy(threshold=0.5, keep=keep).score(view)[0].double()
    exact = keys.double()
    unit = exact / (exact.norm(dim=-1, keepdim=True) + 1e-8)
    similar = unit @ unit.mT
    similar.diagonal(dim1=-2, dim2=-1).zero_()
    assert 0.005 < float((similar > 0.5).double().mean()) < 0.5  # there is something to forgive
    slots = torch.arange(1152, device="cuda")
    near = similar > 0.5
    copy = (near * (slots if keep == "last" else 1152 - slots)).amax(dim=-1)
    copy = copy if keep == "last" else (1152 - copy) % 1152
    similar.scatter_(-1, copy[..., None], 0.0)
    expected = (similar.sum(dim=1) / 1152).softmax(dim=-1)
    error = (found - expected).norm() / expected.norm()
    print(f"relative error of scores: {float(error):.1e}")
    assert error < 1e-4


def filled(layers: int, sequences: int, width: int, dtype: torch.dtype) -> SlotStore:
    shape = CacheShape(layers=layers, heads=4, groups=7, dim=128)
    store = SlotStore(
        shape,
        sequences=sequences,
        capacity=width,
        needs=presets.rkv(64).needs,
        dtype=dtype,
        device="cuda",
    )
    store.append(0, [width] * sequences)
    random = torch.Generator("cuda").manual_seed(0)
    store.groups[0].keys.normal_(generator=random)
    store.groups[0].values.normal_(generator=random)
    assert store.groups[0].queries is not None
    store.groups[0].queries.normal_(generator=random)
    return store


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("name", ["streaming_llm", "snapkv", "rkv"])
def test_events_in_large_and_small_views_keep_the_same(name: str, dtype: torch.dtype) -> None:
    policy = presets.get(name)(256, interval=64)
    kept = []
    for looking in ({}, {"elements": 1, "check_last": True}, {"elements": 1, "check_last": False}):
        store = filled(6, 5, 320, dtype)
        outcomes = event.compress(
            store, policy, [3, 0, 1, 2, 4], prompts=[9] * 5, tables=None, **looking
        )
        assert all(o.error is None and o.evicted == 6 * 4 * 64 for o in outcomes)
        held = [store.positions(n) for n in (3, 0, 1, 2, 4)]
        kept.append([positions.tolist() for positions in held])
    assert kept[1] == kept[2]
    # Products of other shapes round otherwise, so near-equal scores may change places.
    ours, others = (
        torch.zeros(5, 6, 4, 320, dtype=torch.bool).scatter(-1, torch.tensor(k), True)
        for k in kept[:2]
    )
    assert (ours == others).float().mean() > (0.99 if name != "streaming_llm" else 0.9999)


def test_an_event_of_all_layers_waits_a_fixed_number_of_times() -> None:
    """Not once per group of layers."""
    waits = []
    for layers in (2, 12):
        store = filled(layers, 3, 320, torch.bfloat16)
        policy = presets.rkv(256, interval=64)
        real, count = torch.Tensor.tolist, [0]

        def counted(tensor: Any, real: Any = real, count: list[int] = count) -> Any:
            count[0] += 1
            return real(tensor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "tolist", counted)
            event.compress(store, policy, [0, 1, 2], prompts=[9] * 3, tables=None, elements=1)
        waits.append(count[0])
    assert waits[0] == waits[1] <= 4


def test_an_evictor_that_keeps_too_much_fails_its_sequences_and_not_the_device() -> None:
    class Greedy:
        def keep(self, scores: Any, view: CacheView, budget: int) -> Any:
            return TopK().keep(scores, view, budget + 10)

    policy = Policy(budget=presets.rkv(256, interval=64).budget, evictor=Greedy())
    store = filled(3, 2, 320, torch.bfloat16)
    outcomes = event.compress(store, policy, [0, 1], prompts=[9] * 2, tables=None)
    assert all(isinstance(o.error, PartError) for o in outcomes)
    torch.cuda.synchronize()
    assert store.groups[0].lengths.tolist() == [[[256] * 4] * 2] * 3


def test_what_an_event_looks_at_fits_the_free_memory() -> None:
    free, _ = torch.cuda.mem_get_info()
    elements = event.view_elements(torch.device("cuda"))
    assert 2**21 <= elements <= 2**28
    assert elements == 2**21 or 20 * elements <= free


@pytest.mark.parametrize("graphs", [False, True])
def test_a_row_without_a_token_ends_alone(graphs: bool) -> None:
    """NO_TOKEN is fed to no model, recorded or not; neighbours go on as without it."""

    class Breaking:
        layer = 1

        def delta(self, hidden: Any, context: Any) -> Any:
            late = context.at_delimiter & (context.positions > 60)
            return torch.zeros_like(hidden).masked_fill(late[:, None], torch.nan)

    model, sampling = model_on_gpu(), Sampling(temperature=1.5, seed=1)
    plain = BUDGETED["rkv"]
    said = []
    for policy in (plain, attrs.evolve(plain, steerer=Breaking())):
        engine = Engine(model, toy_tokenizer(), policy, eos_token_ids=[], graphs=graphs)
        said.append(list(engine.generate(PROMPTS, max_new_tokens=100, sampling=sampling)))
    assert {"error", "length"} >= {c.stop_reason for c in said[1]} >= {"error"}
    for completion, expected in zip(said[1], said[0], strict=True):
        assert expected.error is None
        assert completion.tokens == expected.tokens[: len(completion.tokens)]


@pytest.mark.parametrize("name", ["rkv", "steered"])
def test_a_sampled_step_is_recorded(name: str) -> None:
    model = model_on_gpu()
    policy = steered(model.config.hidden_size) if name == "steered" else BUDGETED[name]
    sampling = Sampling(temperature=1.5, top_k=20, seed=1)
    said = []
    for graphs in (False, True):
        engine = Engine(model, toy_tokenizer(), policy, eos_token_ids=[], graphs=graphs)
        said.append(decode(engine, sampling=sampling))
    assert said[0] == said[1]


def test_a_recorder_replays_what_it_recorded() -> None:
    record = graph.recorder(torch.device("cuda"))
    assert record is not None
    number = torch.zeros(3, device="cuda")

    def add() -> None:
        number.add_(1)

    replay = record(add)
    before = number.clone()
    replay()
    replay()
    assert (number - before).tolist() == [2.0] * 3


def test_a_full_cache_grows_by_chunks() -> None:
    shape = CacheShape(layers=2, heads=2, groups=1, dim=64)
    store = SlotStore(shape, sequences=2, capacity=4096, needs=presets.full().needs, device="cuda")
    store.groups[0].keys.normal_()
    keys = store.groups[0].keys.clone()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    store.reserve([4097])
    assert store.groups[0].capacity == 4096 + 1024
    assert torch.equal(store.groups[0].keys[:, :, :, :4096], keys)
    # never both old and both new: the old keys go before the new values come
    assert torch.cuda.max_memory_allocated() - before < 0.75 * store.kv_bytes


@pytest.mark.filterwarnings("error::skipkv.errors.SkipKVWarning")
@pytest.mark.parametrize("graphs", [False, True])
def test_compiled_layers_decode_and_keep_the_same(graphs: bool) -> None:
    model = model_on_gpu()
    expected = decode(Engine(model, toy_tokenizer(), BUDGETED["rkv"], eos_token_ids=[]))
    engine = Engine(
        model, toy_tokenizer(), BUDGETED["rkv"], eos_token_ids=[], graphs=graphs, compile=True
    )
    assert decode(engine) == expected
    assert all("forward" not in vars(layer) for layer in model.base_model.layers)


@pytest.mark.filterwarnings("error::skipkv.errors.SkipKVWarning")
def test_compiled_and_recorded_steps_in_bfloat16_are_trusted() -> None:
    """The first step is compared with the model's own; a difference or a failure would warn."""
    model = model_on_gpu(torch.bfloat16)
    policy = steered(model.config.hidden_size)
    engine = Engine(model, toy_tokenizer(), policy, eos_token_ids=[], compile=True)
    for completion in engine.generate(PROMPTS, max_new_tokens=100):
        assert completion.error is None
        assert completion.stats.peak_entries == 48


@pytest.mark.filterwarnings("error::skipkv.errors.SkipKVWarning")
def test_the_floor_is_recorded_and_compiled() -> None:
    from skipkv.benchmark.floor import run_recorded_floor
    from skipkv.benchmark.memory import meter_for
    from skipkv.benchmark.recorder import Recorder

    model, device = model_on_gpu(), torch.device("cuda")
    said = []
    for record, layers in (
        (None, None),
        (graph.recorder(device), None),
        (graph.recorder(device), CompiledLayers(model)),
    ):
        recorder = Recorder(meter_for(device), every=100)
        recorder.begin()
        tokens, _ = run_recorded_floor(
            model,
            torch.tensor(PROMPTS, device="cuda"),
            new_tokens=40,
            budget=16,
            interval=8,
            recorder=recorder,
            record=record,
            layers=layers,
        )
        said.append(tokens.tolist())
    assert said[0] == said[1] == said[2]


def test_the_full_cache_decodes_greedily_what_generate_does() -> None:
    model = model_on_gpu()
    ids = torch.tensor(PROMPTS, device="cuda")
    expected = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=100,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[:, 20:]
    engine = Engine(model, toy_tokenizer(), presets.full(), eos_token_ids=[])
    assert [list(c.tokens) for c in engine.generate(PROMPTS, max_new_tokens=100)] == (
        expected.tolist()
    )


@pytest.mark.parametrize("name", BUDGETED)
def test_a_policy_decodes_the_same_on_the_gpu_as_on_the_cpu(name: str) -> None:
    said = []
    for model in (toy_model("qwen2", layers=3, heads=2, groups=3, dim=64), model_on_gpu()):
        engine = Engine(model, toy_tokenizer(), BUDGETED[name], eos_token_ids=[])
        said.append([c.tokens for c in engine.generate(PROMPTS, max_new_tokens=60)])
    assert said[0] == said[1]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", BUDGETED)
def test_budgets_are_exact_in_half_precision(name: str, dtype: torch.dtype) -> None:
    engine = Engine(model_on_gpu(dtype), toy_tokenizer(), BUDGETED[name], eos_token_ids=[])
    for completion in engine.generate(PROMPTS, max_new_tokens=100):
        assert completion.error is None
        assert completion.stats.peak_entries == 48
        # 3 layers, 2 heads, 64 numbers of 2 bytes, keys and values
        assert completion.stats.peak_kv_bytes == 48 * 3 * 2 * 64 * 2 * 2


@pytest.mark.parametrize("name", ["full", *BUDGETED])
def test_a_decode_step_waits_for_nothing(name: str) -> None:
    """The device is waited for between the last step before a reading and the next step only."""
    model = model_on_gpu()
    policy = presets.full() if name == "full" else BUDGETED[name]
    engine = Engine(model, toy_tokenizer(), policy, eos_token_ids=[], graphs=False)
    readings = Readings()
    list(engine.generate(PROMPTS, max_new_tokens=80, observers=[readings]))
    steps = 0

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[1] == 1:
            torch.cuda.set_sync_debug_mode("error")

    def end(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        nonlocal steps
        steps += kwargs["input_ids"].shape[1] == 1
        if steps in readings.after:
            torch.cuda.set_sync_debug_mode("default")

    model.register_forward_pre_hook(begin, with_kwargs=True)
    model.register_forward_hook(end, with_kwargs=True)
    try:
        assert all(c.error is None for c in engine.generate(PROMPTS, max_new_tokens=80))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps == readings.after[-1] == 79


class Readings(Observer):
    """Keeps the numbers of decode steps after which tokens were read."""

    def __init__(self) -> None:
        self.after: list[int] = []

    def on_pass(self, passed: ObservedPass) -> None:
        self.after.append(sum(self.after[-1:]) + passed.steps)


def test_an_engine_that_is_told_so_launches_every_step() -> None:
    model, calls = model_on_gpu(), 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    model.register_forward_pre_hook(count)
    launched = []
    for graphs in (False, True):
        engine = Engine(model, toy_tokenizer(), BUDGETED["snapkv"], eos_token_ids=[], graphs=graphs)
        before = calls
        list(engine.generate(PROMPTS, max_new_tokens=80))
        launched.append(calls - before)
    assert launched[0] == 80  # the prompts, and 79 steps
    assert launched[1] < 10


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.5, seed=1)], ids=repr)
@pytest.mark.filterwarnings("error")  # a step that cannot be recorded warns
def test_a_recorded_graph_decodes_what_steps_one_by_one_do(
    name: str, sampling: Sampling | None
) -> None:
    """Prompts of different lengths in two slots: events, a newcomer, a last one alone."""
    model = model_on_gpu()
    said = []
    for graphs in (False, True):
        engine = Engine(
            model, toy_tokenizer(), BUDGETED[name], batch_size=2, eos_token_ids=[], graphs=graphs
        )
        prompts = [list(range(5, 5 + length)) for length in (20, 9, 41)]
        said.append(
            [c.tokens for c in engine.generate(prompts, max_new_tokens=90, sampling=sampling)]
        )
    assert said[0] == said[1]


@pytest.mark.parametrize("name", BUDGETED)
def test_memory_does_not_grow_with_what_is_decoded(name: str) -> None:
    engine = Engine(model_on_gpu(), toy_tokenizer(), BUDGETED[name], eos_token_ids=[])
    peaks = []
    for new_tokens in (64, 200, 1600):
        torch.cuda.reset_peak_memory_stats()
        list(engine.generate(PROMPTS, max_new_tokens=new_tokens))
        peaks.append(torch.cuda.max_memory_allocated())
    # the first run pays for what CUDA's libraries keep; sentences add a row each
    assert peaks[2] - peaks[1] <= 2**20
