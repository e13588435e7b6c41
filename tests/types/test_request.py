"""Requests, as schedulers see them."""

import pytest

from skipkv._types import Request


def test_the_prompt_is_kept_as_it_was_and_counted() -> None:
    prompt = [5, 6, 7]
    request = Request(index=0, prompt=prompt, max_new_tokens=4)
    prompt.append(8)
    assert list(request.prompt) == [5, 6, 7]
    assert request.prompt_tokens == 3


def test_a_long_prompt_stays_out_of_the_repr() -> None:
    assert repr(Request(index=1, prompt=[9] * 999, max_new_tokens=4)) == (
        "Request(index=1, max_new_tokens=4, seed=0)"
    )


@pytest.mark.parametrize(
    "wrong",
    [{"index": -1}, {"prompt": []}, {"max_new_tokens": 0}, {"max_new_tokens": 1.5}, {"seed": None}],
)
def test_a_request_that_cannot_be_decoded_is_refused(wrong: dict[str, object]) -> None:
    values: dict[str, object] = {"index": 0, "prompt": [1], "max_new_tokens": 1, **wrong}
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        Request(**values)  # type: ignore[arg-type]
