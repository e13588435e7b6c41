"""What scorers say of entries when they are written."""

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

import skipkv
from skipkv import Budget, CacheView, Engine, ModelShape, Needs, Policy, Prompt, Written, presets
from skipkv.errors import ConfigError, PartError
from skipkv.runtime.seam.hidden import layer_inputs
from skipkv.scorers import GateScore, Random, Recency, Retention, ScorerAlgebra, WriteGate
from skipkv.steerers import AdditiveSteerer, NoSteering, SteeringVector
from skipkv.testing import toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()
SAID = Written("said")


@attrs.define(eq=False)
class Saying(ScorerAlgebra):
    """Says a component of each key, and checks that it comes back beside that key."""

    checked: int = 0

    @property
    def needs(self) -> Needs:
        return Needs(records=(SAID,))

    def on_write(self, keys: Tensor, values: Tensor, hidden: Tensor, layer: int) -> Any:
        assert values.shape == keys.shape
        assert hidden.shape[:2] == (keys.shape[0], keys.shape[2])
        return {SAID: keys[..., 3] + values[..., 1] + layer}

    def score(self, view: CacheView) -> Tensor:
        layer = view.layers[:, None, None]
        wanted = view.keys[..., 3] + view.values[..., 1] + layer
        held = view.record(SAID)
        assert torch.equal(held[view.occupied], wanted[view.occupied])
        assert (held[~view.occupied] == 0).all()
        self.checked += int(view.occupied.sum())
        return torch.zeros(view.positions.shape)


def prompts(*lengths: int) -> list[Any]:
    return [[5 + (7 * i + row) % 70 for i in range(n)] for row, n in enumerate(lengths)]


@pytest.mark.parametrize("shared", [True, False], ids=["even heads", "uneven heads"])
def test_what_is_said_lies_beside_its_entry_whatever_happens(shared: bool) -> None:
    saying = Saying()
    noise: Any = Recency() if shared else Random(seed=1, fresh=True)
    policy = Policy(budget=Budget(tokens=12, interval=4, window=2), scorer=noise + 2 * saying)
    given = prompts(14, 3, 30, 16)
    asked: list[Any] = [*given, Prompt(given[0], sampling={"temperature": 1.0, "n": 2})]
    engine = Engine(toy_model(layers=3), TOKENIZER, policy, batch_size=2, prefill_chunk=5)
    for options in ({}, {"prefix": given[2][:13]}):
        done = list(engine.generate(asked, max_new_tokens=25, **options))
        assert [one.error for one in done] == [None] * 6
    assert saying.checked > 1000
    model = toy_model(layers=3)
    with skipkv.attach(model, policy):
        batch = TOKENIZER.pad({"input_ids": given}, padding_side="left", return_tensors="pt")
        model.generate(**batch, max_new_tokens=25, do_sample=False)


@attrs.define(eq=False)
class Watching(ScorerAlgebra):
    """Says the first number of the state that enters the layer; notes what comes back."""

    found: dict[int, Tensor] = attrs.field(factory=dict)
    needs = Needs(records=(SAID,))

    def on_write(self, keys: Tensor, values: Tensor, hidden: Tensor, layer: int) -> Any:
        return {SAID: hidden[:, None, :, 0].expand(keys.shape[:3]).float()}

    def score(self, view: CacheView) -> Tensor:
        if not self.found:
            for row, layer in enumerate(view.layers.tolist()):
                self.found[layer] = view.record(SAID)[row].clone()
        return torch.zeros(view.positions.shape)


def test_hidden_is_the_state_that_enters_the_layer() -> None:
    watching, model = Watching(), toy_model(layers=3)
    policy = Policy(budget=Budget(tokens=20, interval=8, window=2), scorer=watching)
    [given] = prompts(14)
    [done] = Engine(model, TOKENIZER, policy, prefill_chunk=5, eos_token_ids=[]).generate(
        [given], max_new_tokens=20
    )
    # at the first event nothing has been dropped yet
    count = int((watching.found[0][0] != 0).sum())
    assert count > 20
    ids = [*given, *done.tokens][:count]
    expected = layer_inputs(model, ids, range(count), layers=[0, 1, 2])[..., 0]  # [N layers]
    for layer in range(3):
        for head in watching.found[layer]:
            torch.testing.assert_close(head[:count], expected[:, layer], atol=1e-4, rtol=1e-4)


def test_hidden_holds_what_a_steerer_adds() -> None:
    prompt = "<think>" + "one plus two is three. " * 6 + "\n\n"
    vector = SteeringVector(vector=torch.linspace(1, 2, 64), layer=1, model="toy")
    found = []
    for steerer in (NoSteering(), AdditiveSteerer(vector, strength=3.0)):
        watching = Watching()
        budget = Budget(tokens=20, interval=80, window=2)
        policy = Policy(budget=budget, scorer=watching, steerer=steerer)
        [done] = Engine(toy_model(), TOKENIZER, policy).generate([prompt], max_new_tokens=2)
        assert done.error is None
        found.append({layer: held[0] for layer, held in watching.found.items()})
    plain, steered = found
    last = done.prompt_tokens - 1
    assert torch.equal(plain[0], steered[0])
    assert torch.equal(plain[1][:last], steered[1][:last])
    torch.testing.assert_close(steered[1][last] - plain[1][last], torch.tensor(3.0))


def test_nothing_is_asked_where_no_part_reads_it() -> None:
    class Silent(Recency):
        def on_write(self, *given: Any) -> Any:
            raise AssertionError("asked")

    policy = Policy(budget=Budget(tokens=12, interval=4), scorer=Silent())
    [done] = Engine(toy_model(), TOKENIZER, policy).generate(prompts(20), max_new_tokens=9)
    assert done.error is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda keys: None, r"must return a mapping from each Written.*got None"),
        (lambda keys: [keys[..., 0]], r"must return a mapping[^\n]*, got a list.$"),
        (lambda keys: {}, r"must return a mapping from each Written.*got \[\]"),
        (lambda keys: {Written("other"): keys[..., 0]}, r"got \[Written\(name='other'\)\]"),
        (lambda keys: {SAID: keys[0]}, r"must return \[B, H, T\]"),
        (lambda keys: {SAID: keys[..., 0].double()}, "float64"),
        (lambda keys: {SAID: keys[..., 0].add_(1)}, "edited keys in place"),
        (lambda keys: 1 / 0, "on_write raised ZeroDivisionError"),
        (lambda keys: {SAID: keys[..., 0] / 0.0}, "NaN or infinite"),
    ],
)
@pytest.mark.parametrize("prompt", [20, 3], ids=["in the prompt", "while decoding"])
def test_a_scorer_that_writes_wrongly_is_named(answer: Any, message: str, prompt: int) -> None:
    class Wrong(ScorerAlgebra):
        needs = Needs(records=(SAID,))

        def on_write(self, keys: Tensor, *others: Any) -> Any:
            right = prompt == 3 and keys.shape[2] > 1
            return {SAID: torch.zeros(keys.shape[:3])} if right else answer(keys)

        def score(self, view: CacheView) -> Tensor:
            return view.record(SAID)

    policy = Policy(budget=Budget(tokens=12, interval=4, window=2), scorer=Wrong())
    engine = Engine(toy_model(), TOKENIZER, policy, eos_token_ids=[])
    [done] = engine.generate(prompts(prompt), max_new_tokens=15)
    assert isinstance(done.error, PartError)
    with pytest.raises(PartError, match=f"(?s)Wrong.*{message}"):
        raise done.error


def test_a_record_that_no_part_writes_is_refused() -> None:
    class Reading(Recency):
        needs = Needs(records=(SAID,))

    with pytest.raises(ConfigError, match=r"Written\(name='said'\), which no part writes"):
        Policy(budget=Budget(tokens=12), scorer=Reading())


def test_two_parts_do_not_write_one_record() -> None:
    """Both would read what the second one wrote: the difference of two gates was 0."""
    one, other = GateScore(gate=gate()), GateScore(gate=gate(seed=4))
    with pytest.raises(ConfigError, match=r"both write Written.*Take one scorer in both places"):
        Policy(budget=Budget(tokens=12), scorer=one - 1.0 * other)

    class Other(GateScore):
        RECORD = Written("other gate")

    for scorer in (one - 1.0 * GateScore(gate=gate()), one - 1.0 * Other(gate=gate(seed=4))):
        Policy(budget=Budget(tokens=12), scorer=scorer)


def gate(*, layers: int = 2, width: int = 64, heads: int = 2, seed: int = 3) -> WriteGate:
    random = torch.Generator().manual_seed(seed)
    return WriteGate(
        inner=torch.randn(layers, width, 5, generator=random) / 8,
        inner_bias=torch.randn(layers, 5, generator=random),
        outer=torch.randn(layers, 5, heads, generator=random),
        outer_bias=torch.randn(layers, heads, generator=random),
        model="toy",
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", ["trimkv", "kvzap"])
def test_a_preset_with_a_gate_decodes_alike_under_both_frontends(name: str, family: Any) -> None:
    model = toy_model(family)
    policy = presets.get(name)(16, gate=gate(), window=4, interval=4)
    given = prompts(19, 9)
    engine = Engine(model, TOKENIZER, policy, eos_token_ids=[])
    expected = list(engine.generate(given, max_new_tokens=14, trace=True))
    ids = torch.tensor([[0] * (19 - len(p)) + p for p in given])
    mask = torch.tensor([[0] * (19 - len(p)) + [1] * len(p) for p in given])
    with skipkv.attach(model, policy) as attached:
        output = model.generate(ids, attention_mask=mask, max_new_tokens=14, do_sample=False)
    assert [tuple(row) for row in output[:, 19:].tolist()] == [c.tokens for c in expected]
    assert attached.peak_entries == [20, 20]
    for completion in expected:
        for record in completion.trace:
            assert (record.kept >= 0).sum(dim=-1).unique().tolist() == [16]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"layers": 3}, "made for toy: layers 3 and not 2"),
        ({"width": 65}, "width 65 and not 64"),
        ({"heads": 1}, "heads 1 and not 2"),
    ],
)
def test_a_gate_of_another_model_is_refused_before_any_work(
    sizes: dict[str, int], message: str
) -> None:
    policy = presets.kvzap(64, gate=gate(**sizes))
    with pytest.raises(ConfigError, match=message):
        Engine(toy_model(), TOKENIZER, policy)
    with pytest.raises(ConfigError, match=message), skipkv.attach(toy_model(), policy):
        pass


def test_parts_made_for_two_models_do_not_go_together() -> None:
    one, other = GateScore(gate=gate()), Retention(gate=gate(layers=3))
    with pytest.raises(ConfigError, match="different models, toy and toy: layers 2 and not 3"):
        _ = (one + other).needs
    assert (one + Retention(gate=gate())).needs.model == ModelShape(layers=2, heads=2, width=64)


def test_select_takes_what_was_written() -> None:
    keys = torch.ones(1, 1, 6, 4)
    learned = WriteGate(outer=torch.ones(1, 4, 1), outer_bias=torch.zeros(1, 1))
    policy = Policy(budget=Budget(tokens=3, window=1), scorer=GateScore(gate=learned))
    said = torch.tensor([[[0.0, 3.0, 1.0, 2.0, 0.0, 0.0]]])
    kept = skipkv.select(keys, keys, policy=policy, records={GateScore.RECORD: said})
    assert kept.tolist() == [[[1, 3, 5]]]
