"""Records on disk, also those of a process that died while writing."""

import attrs
import pytest
from fake_runs import record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipkv.errors import InputError
from skipkv.evaluation import Cell
from skipkv.evaluation.records import RecordFile, read_records


def test_a_record_reads_back_as_it_was(tmp_path):
    file = RecordFile(tmp_path / "r.jsonl")
    file.add(record())
    file.add(record(sample=1, answer=None, text=None, error="broken"))
    # before it is closed: every record is there at once
    assert read_records(tmp_path / "r.jsonl")[0] == file.records
    file.close()
    assert record().cell == Cell(data="sums", policy="rkv", asked="96", budget=96)
    assert record().non_execution == 3


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 10_000))
def test_whatever_is_left_of_a_file_its_whole_records_go_on(cut, tmp_path):
    path = tmp_path / "r.jsonl"
    whole = [record(sample=i) for i in range(3)]
    lines = [r.line().encode() for r in whole]
    content = b"".join(lines)
    cut = cut % (len(content) + 1)
    path.write_bytes(content[:cut])
    file = RecordFile(path)
    left = len(file.records)
    assert file.records == whole[:left]
    assert left == sum(cut >= sum(map(len, lines[: n + 1])) for n in range(3))
    for r in whole[left:]:
        file.add(r)
    file.close()
    assert path.read_bytes() == content


def test_a_broken_line_in_the_middle_is_said(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("nonsense\n" + record().line())
    with pytest.raises(InputError, match=r"r.jsonl:1 is no record"):
        read_records(path)
    path.write_text('{"foreign": 1}\n' + record().line())
    with pytest.raises(InputError, match=r"r.jsonl:1 .*unknown fields"):
        read_records(path)


def test_no_file_is_no_record(tmp_path):
    assert read_records(tmp_path / "none.jsonl") == ([], 0)
    assert attrs.asdict(record())["gold"] == "5"
