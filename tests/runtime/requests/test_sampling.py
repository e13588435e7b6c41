"""Choosing tokens: settings that make sense, streams of their own, and the inverse of a CDF."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replayed_steps import Replayed
from torch import Tensor
from transformers import LogitsProcessorList

from skipkv.errors import ConfigError, SkipKVError, SkipKVWarning
from skipkv.runtime.requests.sampling import NO_TOKEN, Sampling, can_choose, choose, uniforms
from skipkv.testing import toy_model

modest = settings(max_examples=80, deadline=None)
BELOW_ONE = math.nextafter(1.0, 0.0)
# halves, so that adding up in another order changes nothing
LOGITS = st.lists(st.integers(-12, 12).map(lambda x: x / 2), min_size=1, max_size=9)
UNIFORMS = st.floats(0, 1, exclude_max=True)
TEMPERATURES = st.sampled_from([0.3, 1.0, 2.5])


def picked(logits: list[float], sampling: Sampling, uniform: float) -> int:
    row, number = torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64)
    return int(choose(row, sampling.processors(), number))


def distribution(logits: list[float], temperature: float) -> list[float]:
    scaled = [x / temperature for x in logits]
    total = math.fsum(math.exp(x - max(scaled)) for x in scaled)
    return [math.exp(x - max(scaled)) / total for x in scaled]


@modest
@given(logits=LOGITS, uniform=UNIFORMS, temperature=TEMPERATURES)
def test_a_token_is_where_the_uniform_number_falls_in_the_cdf(
    logits: list[float], uniform: float, temperature: float
) -> None:
    token = picked(logits, Sampling(temperature=temperature), uniform)
    probabilities = distribution(logits, temperature)
    before = math.fsum(probabilities[:token])
    assert before - 1e-6 <= uniform <= before + probabilities[token] + 1e-6


@modest
@given(logits=LOGITS, temperature=TEMPERATURES, data=st.data())
def test_a_number_in_the_middle_of_a_token_s_share_picks_that_token(
    logits: list[float], temperature: float, data: Any
) -> None:
    probabilities = distribution(logits, temperature)
    token = data.draw(st.integers(0, len(logits) - 1))
    if probabilities[token] < 1e-5:
        return
    middle = math.fsum(probabilities[:token]) + probabilities[token] / 2
    assert picked(logits, Sampling(temperature=temperature), middle) == token


@modest
@given(
    logits=st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=9),
    top_k=st.integers(0, 5),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
)
def test_no_token_outside_top_k_and_top_p_is_ever_picked(
    logits: list[float], top_k: int, top_p: float
) -> None:
    sampling = Sampling(temperature=1.0, top_k=top_k, top_p=top_p)
    uniforms = torch.linspace(0, BELOW_ONE, 200, dtype=torch.float64)
    rows = torch.tensor(logits).expand(len(uniforms), -1)
    ranked = sorted(logits, reverse=True)
    cut = ranked[min(top_k, len(ranked)) - 1] if top_k else -math.inf
    among = sorted(distribution([x for x in logits if x >= cut], 1.0), reverse=True)
    total = math.fsum(math.exp(x) for x in logits if x >= cut)
    for token in set(choose(rows, sampling.processors(), uniforms).tolist()):
        assert logits[token] >= cut  # ties at the cut stay, as in generate()
        # the tokens more probable than this one do not reach top_p yet
        share = math.exp(logits[token]) / total
        assert math.fsum(p for p in among if p > share * (1 + 1e-6)) < top_p + 1e-6


@modest
@given(logits=LOGITS, uniform=st.sampled_from([0.0, BELOW_ONE, 0.5]), seed=st.integers(0, 99))
def test_tokens_of_no_probability_are_never_picked(
    logits: list[float], uniform: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    banned = torch.rand(len(logits), generator=random) < 0.5
    banned[int(torch.randint(len(logits), (), generator=random))] = False
    masked = [-math.inf if out else x for x, out in zip(logits, banned.tolist(), strict=True)]
    assert not banned[picked(masked, Sampling(temperature=1.0), uniform)]


def test_the_last_number_below_one_stays_inside_wherever_the_cdf_ends() -> None:
    """Its last value is one only up to rounding."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 50, generator=random)
    logits[:, 30:] = -math.inf
    ends = logits.double().softmax(dim=-1).cumsum(dim=-1)[:, -1]
    assert (ends > 1).any()
    assert (ends < 1).any()
    highest = torch.full((400,), BELOW_ONE, dtype=torch.float64)
    assert (choose(logits, Sampling(temperature=1.0).processors(), highest) < 30).all()


def test_tokens_come_as_often_as_they_are_probable() -> None:
    logits = torch.tensor([1.0, -1.0, 2.0, 0.0]).expand(4000, 4)
    sampling = Sampling(temperature=2.0, seed=3)
    tokens = choose(logits, sampling.processors(), uniforms(0, 0, 4000))
    found = tokens.bincount(minlength=4) / 4000
    assert torch.allclose(found, (logits[0] / 2).softmax(dim=0), atol=0.03)


@modest
@given(rows=st.lists(st.lists(st.integers(-9, 9), min_size=4, max_size=4), min_size=1, max_size=3))
def test_greedy_takes_the_most_probable_token_and_of_equals_the_first(rows: list[Any]) -> None:
    tokens = choose(torch.tensor(rows).float(), Sampling().processors(), None)
    assert tokens.tolist() == [row.index(max(row)) for row in rows]


@modest
@given(rows=st.lists(st.tuples(*[st.integers(-9, 9)] * 4), min_size=2, max_size=4))
def test_a_row_s_token_does_not_depend_on_its_neighbours(rows: list[Any]) -> None:
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=3, seed=1)
    logits = torch.tensor(rows).float()
    drawn = torch.stack([uniforms(seed, 0, 1)[0] for seed in range(len(rows))])
    together = choose(logits, sampling.processors(), drawn)
    for row in range(len(rows)):
        one = slice(row, row + 1)
        assert choose(logits[one], sampling.processors(), drawn[one]) == together[row]


UNFIT = st.sampled_from([math.nan, math.inf])
SETTINGS = [
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=2),
    Sampling(temperature=0.7, top_p=0.5),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=repr)
@modest
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float16]))
def test_a_row_whose_logits_leave_no_token_gets_none_and_the_others_theirs(
    sampling: Sampling, data: Any, dtype: torch.dtype
) -> None:
    rows = data.draw(st.lists(st.tuples(*[st.integers(-9, 9)] * 4), min_size=2, max_size=4))
    logits = torch.tensor(rows).to(dtype)
    logits[:, 3] = -math.inf  # a token ruled out
    row = data.draw(st.integers(0, len(rows) - 1))
    spoiled = logits.clone()
    if data.draw(st.booleans(), label="nothing left"):
        spoiled[row] = -math.inf
    else:
        spoiled[row, data.draw(st.integers(0, 3))] = data.draw(UNFIT)
    drawn = None if sampling.greedy else uniforms(0, 0, len(rows))
    expected = choose(logits, sampling.processors(), drawn)
    assert ((expected >= 0) & (expected < 3)).all()
    expected[row] = NO_TOKEN
    assert torch.equal(choose(spoiled, sampling.processors(), drawn), expected)
    assert can_choose(spoiled).tolist() == [at != row for at in range(len(rows))]
    assert can_choose(logits).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_weighed_in_float32_or_better(dtype: torch.dtype) -> None:
    """A share of 1 in 4096 is lost where probabilities add up in bfloat16."""
    logits = torch.zeros(1, 4096, dtype=dtype)
    number = torch.tensor([1000.5 / 4096], dtype=torch.float64)
    assert choose(logits, Sampling(temperature=1.0).processors(), number) == 1000
    logits = torch.randn(500, 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    processors, drawn = Sampling(temperature=0.7).processors(), uniforms(0, 0, 500)
    expected = choose(logits.float(), processors, drawn)
    assert torch.equal(choose(logits, processors, drawn), expected)


def test_settings_at_their_neutral_values_need_no_processor() -> None:
    assert len(Sampling(temperature=1.0).processors()) == 0
    assert len(Sampling().processors()) == 0
    assert len(Sampling(temperature=0.5, top_k=4, top_p=0.5).processors()) == 3


def numbers(seed: int, sample: int, count: int) -> list[float]:
    values: Tensor = uniforms(seed, sample, count)
    assert values.dtype == torch.float64
    assert values.shape == (count,)
    return values.tolist()


AT = st.tuples(st.integers(0, 9), st.integers(0, 3))


@modest
@given(at=AT, count=st.integers(0, 30), more=st.integers(0, 30))
def test_a_stream_is_the_same_however_much_of_it_is_drawn(
    at: tuple[int, int], count: int, more: int
) -> None:
    longer = numbers(*at, count + more)
    assert longer[:count] == numbers(*at, count)
    assert all(0 <= x < 1 for x in longer)


def test_every_seed_and_sample_has_a_stream_of_its_own() -> None:
    streams = [tuple(numbers(seed, sample, 2)) for seed in range(16) for sample in range(4)]
    assert len(set(streams)) == 64


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("temperature", 1e-45),  # logits divided by it overflow
        pytest.param("temperature", 10**400, id="temperature-no-float"),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", math.nan),
        ("top_k", -1),
        ("n", 0),
        ("seed", -1),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"Sampling\({field}={value}\) must ") as caught:
        Sampling(**{field: value})
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SkipKVError)


@pytest.mark.parametrize("field", ["temperature", "top_p", "top_k", "n", "seed"])
def test_values_of_the_wrong_type_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        Sampling(**{field: "1"})  # type: ignore[arg-type]


def test_several_samples_of_a_greedy_decode_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"n=3, temperature=0.*Raise the temperature"):
        Sampling(n=3)
    assert not Sampling(n=3, temperature=0.1).greedy
    assert Sampling().greedy


@pytest.mark.parametrize("given", [{"top_p": 0.9}, {"top_k": 40}, {"top_k": 40, "top_p": 0.5}])
def test_a_top_p_or_top_k_that_a_greedy_decode_would_not_use_is_refused(
    given: dict[str, float],
) -> None:
    with pytest.raises(ConfigError, match=r"Sampling\(top_[pk].*temperature=0.*Give a temperature"):
        Sampling(**given)
    with pytest.raises(ConfigError, match="Give a temperature"):
        Sampling.of(given)
    assert not Sampling(**given, temperature=1.0).greedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bad_words_ids", [[3]]),
        ("suppress_tokens", [4]),
        ("sequence_bias", {(3,): 1.0}),
        ("min_new_tokens", 5),
        ("stop_strings", ["x"]),
        ("forced_eos_token_id", 3),
        ("encoder_repetition_penalty", 1.3),
    ],
)
def test_every_setting_of_a_generation_config_that_is_not_applied_is_warned_of(
    name: str, value: object
) -> None:
    model = toy_model()
    setattr(model.generation_config, name, value)
    with pytest.warns(SkipKVWarning, match=rf"asks for {name}=.*which skipkv does not apply"):
        Sampling.from_model(model)


def test_a_generation_config_that_samples_at_temperature_0_is_greedy() -> None:
    model = toy_model()
    model.generation_config.update(do_sample=True, temperature=0.0, top_p=0.9)
    assert Sampling.from_model(model) == Sampling()


def test_a_recorded_choice_sees_logits_that_become_infinite_later() -> None:
    logits, chosen = torch.eye(2, 5), torch.empty(2, dtype=torch.long)
    tape = Replayed()
    with tape:
        chosen.copy_(choose(logits, LogitsProcessorList(), None))
    logits[1, 3] = torch.nan
    tape()
    assert chosen.tolist() == [0, NO_TOKEN]


@pytest.mark.parametrize("row", [[0.0, 2.0, 1.0], [0.0, torch.nan, 1.0], [-torch.inf] * 3])
def test_who_looks_chooses_the_same(row: list[float]) -> None:
    logits = torch.tensor([row, [3.0, 1.0, 2.0]])
    none = LogitsProcessorList()
    assert choose(logits, none, None, looks=True).tolist() == choose(logits, none, None).tolist()
