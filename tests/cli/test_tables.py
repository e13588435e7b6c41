"""Summaries on a terminal."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from skipkv.cli.tables import narrowed

HEADS = [
    *("policy", "budget", "% of full trace", "accuracy %", "difference", "length", "truncated %"),
    *("non-execution thoughts", "events", "entries evicted", "peak KV MB", "tokens/s"),
]


def markdown(policy: str) -> str:
    cells = [policy, "196", "50", "61.0 [51.2, 70.0]", "-38.8 [-48.6, -29.0]", "315"]
    rows = [HEADS, ["---"] * 2 + ["--:"] * 10, [*cells, "1.0", "7.0", "12.1", "9211", "0.4", "901"]]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    legend = f"{'Every number is a mean. ' * 9}In brackets: 95 % intervals. Memory is measured."
    return f"# Evaluation of tiny\n\n{legend}\n\n{table}\n"


def test_a_table_loses_minor_columns_and_intervals_until_it_fits() -> None:
    text = narrowed(markdown("skipkv:threshold=0.7"), minor=["thoughts", "evicted"], width=80)
    assert max(map(len, text.splitlines())) <= 80
    row = text.splitlines()[-1].split()
    assert row[:5] == ["skipkv:threshold=0.7", "196", "50", "61.0", "-38.8"]
    assert "In brackets" in markdown("rkv")
    assert "In brackets" not in text
    assert "mean. Memory is measured." in " ".join(text.split())
    assert "thoughts" not in text
    assert "evicted" not in text
    assert "tokens/s" not in text  # the last goes when the minor ones were not enough


def test_a_table_that_fits_keeps_all_columns() -> None:
    text = narrowed(markdown("rkv"), minor=["thoughts"], width=200)
    for word in (word for head in HEADS for word in head.split()):
        assert word in text


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1), st.integers(60))
def test_no_line_is_wider_than_it_may_be(policy: str, width: int) -> None:
    text = narrowed(markdown(policy.replace("|", "\\|")), width=min(width, 300))
    assert max(map(len, text.splitlines())) <= min(width, 300)


class Sweep:
    """The summary of no sweep."""

    rows = ()

    def markdown(self) -> str:
        return markdown("skipkv\x1b[2J")


def test_a_terminal_shows_what_fits_and_names_the_file_with_all_of_it(
    on_terminal, run, monkeypatch
) -> None:
    arguments = ("--summarize", "some/folder")
    monkeypatch.setattr("skipkv.evaluation.summarize", lambda *_, **__: Sweep())
    out, _ = on_terminal("eval", *arguments)
    assert max(map(len, out.splitlines())) <= 80
    assert out.endswith(f"All columns and intervals: {Path('some/folder/summary.md')}\n")
    assert "\x1b" not in out
    assert run("eval", *arguments).stdout == Sweep().markdown() + "\n"
