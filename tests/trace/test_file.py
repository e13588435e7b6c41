"""Files of traces: what is written comes back, and what is no trace is refused."""

import json
import zipfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_traces import made

from skipkv.errors import InputError
from skipkv.trace import Sentences, Trace


def same(one: Trace, other: Trace) -> None:
    for field in attrs.fields(Trace):
        value, back = getattr(one, field.name), getattr(other, field.name)
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, back, equal_nan=value.dtype.kind == "f"), field.name
        elif not isinstance(value, Sentences):
            assert value == back, field.name
    for field in attrs.fields(Sentences):
        value, back = getattr(one.sentences, field.name), getattr(other.sentences, field.name)
        assert np.array_equal(value, back), field.name


@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 3), st.integers(1, 3)),
    events=st.integers(0, 9),
    terms=st.integers(0, 2),
    sentences=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_what_is_written_comes_back(tmp_path_factory, shape, events, terms, sentences, seed):
    tokens, layers, heads = shape
    trace = made(
        tokens=tokens,
        layers=layers,
        heads=heads,
        events=min(events, tokens),
        terms=terms,
        sentences=min(sentences, tokens),
        seed=seed,
    )
    path = tmp_path_factory.mktemp("traces") / "one.npz"
    trace.save(path)
    same(trace, Trace.load(path))
    assert [p.name for p in path.parent.iterdir()] == ["one.npz"]


@given(
    arrays.arrays(
        np.float32,
        st.integers(0, 20),
        elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.just(np.nan),
    )
)
def test_scores_keep_two_digits_and_what_was_not_scored_stays_so(values):
    from skipkv.trace.file import lengthened, shortened

    back = lengthened(shortened(values))
    assert np.array_equal(np.isnan(back), np.isnan(values))
    there = ~np.isnan(values)
    assert back[there] == pytest.approx(values[there], rel=2**-8, abs=1e-38)
    assert np.array_equal(shortened(back), shortened(values))


@pytest.mark.parametrize(("events", "per_entry"), [(1, 1), (200, 1), (300, 2)])
def test_a_trace_takes_a_byte_per_entry_below_256_events_at_most(tmp_path, events, per_entry):
    trace = made(tokens=4000, layers=4, heads=4, events=events)
    trace.save(tmp_path / "one.npz")
    size = (tmp_path / "one.npz").stat().st_size
    # 4 bytes of id, some of text, 4 or 8 where the steerer acted; the rest is names
    assert size <= 1.001 * per_entry * trace.left_at.size + 20 * len(trace.ids) + 3000


def test_the_same_trace_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        made(tokens=20, events=3, sentences=3).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_numpy_reads_the_arrays_alone(tmp_path):
    trace = made(tokens=20, layers=2, events=3)
    trace.save(tmp_path / "one.npz")
    with np.load(tmp_path / "one.npz") as file:
        assert np.array_equal(file["left_at"], trace.left_at)
        assert json.loads(file["header.json"])["version"] == 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made(tokens=40, layers=2, events=3, sentences=4, terms=1).save(tmp_path / "one.npz")
    return tmp_path / "one.npz"


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        Trace.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_that_was_cut_short_is_refused_wherever_it_was_cut(path):
    whole = path.read_bytes()
    for length in [*range(4, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "is incomplete or damaged" in refused(path)


def test_a_file_in_which_a_byte_changed_is_refused_or_reads_the_same(path):
    whole, trace = path.read_bytes(), Trace.load(path)
    for place in range(0, len(whole), 41):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        path.write_bytes(changed)
        try:
            back = Trace.load(path)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017 (most changes are seen, not all matter)
        else:
            same(trace, back)


def test_other_files_are_refused(tmp_path, path):
    assert "No such file" in refused(tmp_path / "none.npz")
    assert "Is a directory" in refused(tmp_path)
    path.write_text("hello")
    assert "is no trace of skipkv" in refused(path)
    path.write_bytes(b"")
    assert "is no trace of skipkv" in refused(path)
    np.savez(path, left_at=np.zeros(3))
    assert "but no trace of skipkv" in refused(path)


def rewritten(path: Path, **changes: Any) -> None:
    """The file with other values in its header, or other arrays."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    header = json.loads(members.pop("header.json"))
    with zipfile.ZipFile(path, "w") as file:
        for name, value in changes.items():
            if isinstance(value, np.ndarray):
                members.pop(f"{name}.npy")
                with file.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, value)
            else:
                header[name] = value
        file.writestr("header.json", json.dumps(header))
        for name, content in members.items():
            file.writestr(name, content)


def test_a_newer_version_is_refused_with_the_way_out(path):
    rewritten(path, version=2)
    assert "has version 2 of the format, and this skipkv reads up to 1. Install" in refused(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "but no trace of skipkv"),
        ({"pieces": ["a"]}, "pieces must hold one text per token"),
        ({"pieces": None}, "TypeError"),
        ({"seen": np.array([5, 5, 6])}, "seen must rise"),
        ({"left_at": np.full((2, 1, 40), 9, dtype=np.uint8)}, "left_at must be below"),
        ({"left_at": np.zeros((2, 1, 40), dtype=np.uint8)}, "an event that had seen the token"),
        ({"left_at": np.zeros((2, 40), dtype=np.uint8)}, "left_at has shape"),
        ({"left_at": np.array([[[{}]]])}, "pickle"),
        ({"twins": np.zeros(4, dtype=np.int32)}, "twins must be later sentences"),
        ({"steered": np.array([80])}, "steered must rise"),
    ],
)
def test_contents_that_cannot_be_a_trace_are_refused(path, changes, message):
    rewritten(path, **changes)
    assert message in refused(path)


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path):
    trace = made(tokens=20)
    with pytest.raises(InputError, match="Cannot write"):
        trace.save(tmp_path / "no folder" / "one.npz")
    assert list(tmp_path.iterdir()) == []


def test_the_tables_of_a_trace_are_data_frames():
    pytest.importorskip("pandas", reason="pandas is not installed: pip install 'skipkv[trace]'")
    trace = made(tokens=40, layers=2, heads=3, events=5, sentences=4, terms=2)
    entries = trace.to_pandas()
    assert list(entries) == ["layer", "head", "position", "left_at", "held", "term 0", "term 1"]
    row = entries[(entries.layer == 1) & (entries["head"] == 2) & (entries.position == 7)].iloc[0]
    assert row.left_at == trace.left_at[1, 2, 7]
    assert row["term 1"] == trace.scores[1, 1, 2, 7]
    assert entries.held.sum() == trace.kept().sum()
    tokens = trace.to_pandas("tokens")
    assert tokens.share.tolist() == trace.share().tolist()
    assert (tokens.steered > 0).sum() == len(trace.steered)
    sentences = trace.to_pandas("sentences")
    assert sentences.end.tolist() == trace.sentences.ends.tolist()
    start, end = int(sentences.start[2]), int(sentences.end[2])
    assert sentences.share[2] == pytest.approx(trace.share()[start:end].mean())
    assert trace.to_pandas("events").held_after.iloc[-1] == pytest.approx(trace.kept(-1).sum() / 6)
    with pytest.raises(InputError, match="must be one of entries, tokens, sentences, events"):
        trace.to_pandas("heads")


def test_without_pandas_the_error_names_the_extra(monkeypatch):
    import sys

    from skipkv.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'skipkv\[trace\]'"):
        made(tokens=4).to_pandas()
