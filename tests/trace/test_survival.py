"""Shares of sentences that are still in the cache, on a toy model."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from skipkv import Engine, presets
from skipkv.errors import InputError
from skipkv.segmenters import FixedLength
from skipkv.testing import toy_model, toy_tokenizer
from skipkv.trace import Recorder, survival

PROMPT = "one.\n\ntwo plus three plus one.\n\nso\n\n"


def decoded(policy, **options):
    engine = Engine(toy_model(), toy_tokenizer(), policy)
    [completion] = engine.generate([PROMPT], max_new_tokens=40, **options)
    return engine, completion


def test_sinks_survive_whole_and_the_middle_is_gone():
    engine, completion = decoded(presets.streaming_llm(8, sinks=2, interval=4), trace=True)
    shares = survival(engine, PROMPT, completion)
    assert shares[:3] == [
        (1.0, "one.\n\n"),
        (0.0, "two plus three plus one.\n\n"),
        (0.0, "so\n\n"),
    ]
    seen = completion.trace[-1].seen
    text = engine.tokenizer.decode([*engine.encode(PROMPT), *completion.tokens][:seen])
    assert text.startswith("".join(sentence for _, sentence in shares))


def test_the_share_over_all_layers_is_the_mean_of_the_layers_shares():
    engine, completion = decoded(presets.rkv(12, window=4, interval=8), trace=True)
    layers = range(engine.model.config.num_hidden_layers)
    alone = [survival(engine, PROMPT, completion, layers=layer) for layer in layers]
    together = survival(engine, PROMPT, completion)
    assert 0 < sum(share for share, _ in together) < len(together)
    for number, (share, sentence) in enumerate(together):
        of_layers = [found[number] for found in alone]
        assert share == pytest.approx(sum(s for s, _ in of_layers) / len(layers))
        assert {sentence} == {text for _, text in of_layers}
    assert survival(engine, PROMPT, completion, layers=slice(0, None)) == together


def word_start_tokenizer():
    """Marks where words start, as Llama's does: a token decoded alone loses its space."""
    vocabulary = ["<unk>", *(f"\u2581w{n}" for n in range(len(toy_tokenizer()) - 1))]
    model = models.WordLevel(dict(zip(vocabulary, range(200), strict=False)), unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_words_are_apart_where_the_tokenizer_marks_their_starts():
    policy = presets.rkv(16, interval=8).with_(segmenter=FixedLength(tokens=4))
    engine = Engine(toy_model(), word_start_tokenizer(), policy)
    recorder = Recorder(engine)
    prompt = "w1 w2 w3 w4 w5"
    decode = engine.generate([prompt], max_new_tokens=40, trace=True, observers=[recorder])
    [completion] = decode
    shares = survival(engine, prompt, completion)
    assert shares[0][1].strip() == "w1 w2 w3 w4"
    assert shares == recorder.traces[0].survival(-1)


def test_without_an_event_every_sentence_is_whole():
    engine, completion = decoded(presets.full(), trace=True)
    shares = survival(engine, PROMPT, completion)
    assert len(shares) >= 3
    assert {share for share, _ in shares} == {1.0}


def test_a_completion_without_a_trace_is_refused():
    engine, completion = decoded(presets.full())
    with pytest.raises(InputError, match=r"trace=True"):
        survival(engine, PROMPT, completion)
