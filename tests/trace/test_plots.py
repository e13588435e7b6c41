"""Figures of a trace show its numbers."""

import attrs
import numpy as np
import pytest
from made_traces import made

from skipkv.errors import InputError, MissingExtraError


def test_the_heat_map_has_the_share_of_every_position_and_event():
    trace = made(tokens=40, layers=2, heads=3, events=5)
    [mesh] = trace.plot_kept().axes[0].collections
    image = mesh.get_array()
    assert image.shape == (39, 6)
    for column, event in enumerate([*range(5), None]):
        seen = trace.stored if event is None else int(trace.seen[event])
        assert image[:seen, column].tolist() == pytest.approx(trace.share(event)[:seen].tolist())
        assert image.mask[seen:, column].all()
        assert not image.mask[:seen, column].any()


def test_a_long_text_is_shown_as_means_of_some_positions():
    trace = made(tokens=3000, events=3)
    [mesh] = trace.plot_kept().axes[0].collections
    image = mesh.get_array()
    assert image.shape == (1000, 4)
    assert np.average(image[:, 3]) == pytest.approx(trace.share()[:2999].mean(), abs=0.01)


def test_the_line_of_the_size_is_that_of_the_trace():
    trace = made(tokens=40, layers=2, events=5)
    full, line = trace.plot_size().axes[0].lines
    assert full.get_xydata().tolist() == [[0, 0], [trace.stored] * 2]
    assert line.get_xydata().T.tolist() == [values.tolist() for values in trace.sizes()]


def test_similarities_are_those_of_the_sentences_and_repetitions_are_framed():
    trace = made(tokens=40, events=3, sentences=6)
    axes = trace.plot_similarity().axes[0]
    assert np.array_equal(axes.images[0].get_array(), trace.sentences.similarity)
    framed = axes.collections[0].get_offsets().tolist()
    assert framed == [[t, n] for n, t in enumerate(trace.sentences.twins.tolist()) if t >= 0]


def test_without_similarities_the_error_says_who_has_them():
    trace = made(tokens=40, events=3)
    with pytest.raises(InputError, match=r"needs similarities .* presets\.skipkv"):
        trace.plot_similarity()


def test_figures_are_drawn_of_a_trace_without_events(tmp_path):
    trace = made(tokens=3, events=0)
    trace = attrs.evolve(trace, steered=trace.steered[:0], strengths=trace.strengths[:0])
    trace.plot_kept().savefig(tmp_path / "kept.png")
    trace.plot_size().savefig(tmp_path / "size.png")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'skipkv\[trace\]'"):
        made(tokens=4).plot_size()
