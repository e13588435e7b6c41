"""The ablation's table compares what the same problems came to, over all their samples."""

import statistics

from ablation import gap, longer
from evaluation.fake_runs import record
from hypothesis import given, settings
from hypothesis import strategies as st

from skipkv.evaluation import Record

Runs = dict[str, list[Record]]


def runs() -> st.SearchStrategy[Runs]:
    sample = st.builds(record, correct=st.booleans(), new_tokens=st.integers(1, 40))
    return st.fixed_dictionaries(
        {problem: st.lists(sample, min_size=1, max_size=3) for problem in "abc"}
    )


@settings(max_examples=20, deadline=None)
@given(own=runs(), rival=runs())
def test_problems_are_compared_by_the_means_of_their_samples(own: Runs, rival: Runs) -> None:
    del own["a"]  # not yet decoded: only what both have is compared
    right = [
        statistics.mean(r.correct for r in own[p]) - statistics.mean(r.correct for r in rival[p])
        for p in "bc"
    ]
    assert abs(gap(own, rival).value - statistics.mean(right)) < 1e-9
    mine, full = (
        statistics.mean(statistics.mean(r.new_tokens for r in of[p]) for p in "bc")
        for of in (own, rival)
    )
    assert abs(longer(own, rival).value - 100 * (mine - full) / full) < 1e-6
