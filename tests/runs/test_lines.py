"""Values on disk, also those of a process that died while writing, or whose disk was full."""

from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipkv._runs import LineFile, read_lines
from skipkv._validators import is_a
from skipkv.errors import InputError


@attrs.frozen(kw_only=True)
class Value:
    name: str = attrs.field(validator=is_a(str))
    number: int = attrs.field(default=0, validator=is_a(int))


def line(value: Value) -> bytes:
    return f'{{"name": "{value.name}", "number": {value.number}}}\n'.encode()


def test_a_value_is_there_at_once_and_reads_back_as_it_was(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "r.jsonl", Value)
    file.add(Value(name="\u2028 \udcff\n", number=3))
    assert read_lines(tmp_path / "r.jsonl", Value)[0] == file.records  # before it is closed
    file.close()
    assert read_lines(tmp_path / "none.jsonl", Value) == ([], 0)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 10_000))
def test_whatever_is_left_of_a_file_its_whole_records_go_on(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    whole = [Value(name=str(i), number=i) for i in range(3)]
    content = b"".join(map(line, whole))
    cut = cut % (len(content) + 1)
    path.write_bytes(content[:cut])
    file = LineFile(path, Value)
    left = len(file.records)
    assert file.records == whole[:left]
    assert left == content[:cut].count(b"\n")
    for value in whole[left:]:
        file.add(value)
    file.close()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense\n{}\n", "r.jsonl:1 is not a record"),
        ('{"name": "a"}\n{"foreign": 1}\n', "r.jsonl:2 .*unknown fields"),
        ('{"name": "a"}\n[1]\n', "r.jsonl:2 .*unknown fields"),
        ('{"name": "a"}\nnonsense\n', "r.jsonl:2 is not a record"),
        ('{"number": 1}\n', "r.jsonl:1 .*name"),
        ('{"name": {"nested": 1}}\n', "r.jsonl:1 .*must be a string"),
        ('{"name": "a", "number": "1"}\n', "r.jsonl:1 .*must be a whole number"),
        ("[" * 100_000 + "\n", "r.jsonl:1 .*nested too deeply"),
    ],
)
def test_a_whole_line_that_is_no_record_is_named(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        LineFile(path, Value)
    assert path.read_text() == content


def test_a_byte_order_mark_and_blank_lines_are_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line(Value(name="a")) + b"\r\n\n")
    file = LineFile(path, Value)
    file.add(Value(name="b"))
    file.close()
    assert [v.name for v in read_lines(path, Value)[0]] == ["a", "b"]


def test_some_values_can_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    file = LineFile(path, Value)
    for name in "abc":
        file.add(Value(name=name))
    file.keep([v for v in file if v.name != "b"])
    file.add(Value(name="d"))
    file.close()
    assert [v.name for v in read_lines(path, Value)[0]] == ["a", "c", "d"]
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_disk_that_is_full_leaves_whole_lines(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "r.jsonl"
    file = LineFile(path, Value)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        for number in range(9):
            file.add(Value(name="a", number=number))

    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(InputError, match=r"Cannot write .*r\.jsonl: File too large\. What was"):
            fill()
        file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"".join(map(line, file.records)) != b""
