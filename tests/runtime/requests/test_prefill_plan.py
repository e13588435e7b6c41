"""The laws of the plan that brings prompts into the cache."""

from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv.runtime.requests.prefill import Reading, columns, plan

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=4)
SIZES = st.integers(1, 12)
modest = settings(max_examples=100, deadline=None)


def of_prompt(steps: list[list[range]], prompt: int) -> list[range]:
    """The ranges of one prompt, from where it starts."""
    return [step[prompt] for step in steps if len(step[prompt])]


@modest
@given(lengths=LENGTHS, first=SIZES, chunk=SIZES)
def test_the_ranges_of_a_prompt_are_all_its_positions_once_and_in_order(
    lengths: list[int], first: int, chunk: int
) -> None:
    steps = plan(lengths, first, chunk)
    for prompt, length in enumerate(lengths):
        positions = [p for part in of_prompt(steps, prompt) for p in part]
        assert positions == list(range(length))


@modest
@given(lengths=LENGTHS, first=SIZES, chunk=SIZES)
def test_no_pass_is_larger_than_the_room_and_none_but_the_last_is_smaller(
    lengths: list[int], first: int, chunk: int
) -> None:
    steps = plan(lengths, first, chunk)
    for prompt in range(len(lengths)):
        sizes = [len(part) for part in of_prompt(steps, prompt)]
        allowed = [first] + [chunk] * (len(sizes) - 1)
        assert sizes[:-1] == allowed[:-1]
        assert sizes[-1] <= allowed[-1]


@modest
@given(lengths=LENGTHS, first=SIZES, chunk=SIZES)
def test_all_prompts_end_in_the_last_pass_and_once_started_none_pauses(
    lengths: list[int], first: int, chunk: int
) -> None:
    steps = plan(lengths, first, chunk)
    assert all(len(step) == len(lengths) for step in steps)
    for prompt, length in enumerate(lengths):
        takes = [len(step[prompt]) > 0 for step in steps]
        assert takes == sorted(takes)
        assert steps[-1][prompt].stop == length
    # no pass is empty
    assert any(len(part) for part in steps[0])


@modest
@given(lengths=LENGTHS, first=SIZES, chunk=SIZES)
def test_where_a_prompt_is_cut_depends_on_its_own_length_alone(
    lengths: list[int], first: int, chunk: int
) -> None:
    steps = plan(lengths, first, chunk)
    for prompt, length in enumerate(lengths):
        assert of_prompt(steps, prompt) == of_prompt(plan([length], first, chunk), 0)


@modest
@given(lengths=LENGTHS, first=SIZES, chunk=SIZES)
def test_of_prompts_ordered_longest_first_every_pass_takes_a_prefix(
    lengths: list[int], first: int, chunk: int
) -> None:
    for step in plan(sorted(lengths, reverse=True), first, chunk):
        takes = [len(part) > 0 for part in step]
        assert takes == sorted(takes, reverse=True)


def test_a_prompt_that_fits_exactly_goes_in_one_pass() -> None:
    assert plan([6, 7], first=6, chunk=3) == [[range(0), range(6)], [range(6), range(6, 7)]]


@modest
@given(length=st.integers(1, 40), first=SIZES, chunk=SIZES, data=st.data())
def test_chunks_are_a_prompts_positions_once_and_in_order_and_none_crosses_the_end_of_a_pass(
    length: int, first: int, chunk: int, data: st.DataObject
) -> None:
    ends = [part.stop for [part] in plan([length], first, chunk)]
    reading, positions, stops = Reading(ends=ends), [], []
    while not reading.done:
        left = reading.left
        piece = reading.take(data.draw(st.integers(1, 12), label="limit"))
        assert 1 <= len(piece) <= left
        assert reading.at_end == (len(piece) == left)
        positions += piece
        stops += [piece.stop] if reading.at_end else []
    assert positions == list(range(length))
    assert stops == ends


@modest
@given(
    lefts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    chunk=st.integers(1, 40),
    decoding=st.booleans(),
)
def test_more_than_a_chunk_is_fed_at_once_only_where_nobody_waits_and_then_no_padding(
    lefts: list[int], chunk: int, decoding: bool
) -> None:
    limit = columns([Reading(ends=[left]) for left in lefts], chunk, decoding=decoding)
    if decoding:
        assert limit == chunk
    else:
        assert limit >= chunk
        assert any(left <= limit for left in lefts)  # somebody's pass ends
        assert limit == chunk or all(left >= limit for left in lefts)
