"""What a server counts, without a server."""

from skipkv import Engine, presets
from skipkv.integrations.serve.metrics import Meter
from skipkv.testing import toy_model, toy_tokenizer


def test_layers_with_a_window_hold_no_more_than_the_window() -> None:
    model = toy_model("qwen2", sliding_window=8)  # one layer of two; each has two heads
    engine = Engine(model, toy_tokenizer(), presets.full())
    meter = Meter(engine)
    pieces = engine.stream([[9, 10, 11]], max_new_tokens=20, observers=[meter])
    held = [meter.values()["held"] for _ in pieces]
    seen = [4, *range(4, 22)]  # the prompt comes with the first step
    assert held == [2 * count + 2 * min(count, 8) for count in seen] + [0, 0]


def test_an_event_that_drops_nothing_is_not_counted() -> None:
    """Where sentences are read, events come though there is room for everything."""
    engine = Engine(toy_model(), toy_tokenizer(), presets.skipkv(200, interval=8))
    meter = Meter(engine)
    [done] = engine.generate([[9, 10, 11]], max_new_tokens=30, observers=[meter])
    assert (meter.events, meter.evicted) == (done.stats.events, done.stats.evicted) == (0, 0)
    assert (meter.tokens, meter.prompt_tokens, meter.ended) == (30, 3, {"length": 1})
