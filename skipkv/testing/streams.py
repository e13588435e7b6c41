"""Hypothesis strategies for the inputs of segmenters and schedulers."""

from typing import Any

from hypothesis import strategies as st

from skipkv._types import Request, TokenStream

# Pieces of reasoning traces, whole and in halves, so that boundaries fall inside tokens.
_FRAGMENTS = (
    "So", " So", "so ", "Wait", "Alternatively", " again", "x", "y", "n", "Dr", "i.e", " e.g.",
    "etc.", "3", "3.5", "12", "1. ", "a) ", "!", "?", ".", ". ", "...", "…", ",", " ", "  ", "\t",
    "\n", ".\n", ")\n\n", "\n\n", "\r\n", " =", " + ", "\\", "\\[", "\\]", "\\\\[", "$", "$$",
    "\\begin{cases}", "\\end{cases}", "(", ")", '"', "'s correct", "”", "**", "_", "é",
    "等等", "。", "🙂", "\u2028", ". Then ", "done. So we", "x.\ny.\n", "Is it? No. 1", "",
)  # fmt: skip


def token_streams(
    *, min_tokens: int = 0, max_tokens: int = 40, vocabulary: int = 12
) -> st.SearchStrategy[TokenStream]:
    r"""Streams of tokens as in reasoning traces, and of any other text.

    Words and numbers, punctuation, line ends, LaTeX, quotes, scripts without spaces, empty tokens
    and arbitrary characters. Sentences end between tokens and inside them.

    Args:
        min_tokens: least length of the stream, in tokens.
        max_tokens: most length of the stream, in tokens.
        vocabulary: number of token ids; ids and texts are drawn independently.

    Example:
        >>> from hypothesis import given
        >>> from skipkv.segmenters import Newline
        >>> @given(token_streams())
        ... def every_cut_is_after_a_line_end(stream):
        ...     assert all(stream.pieces[cut.end - 1][-1] == "\n" for cut in Newline().cut(stream))
        >>> every_cut_is_after_a_line_end()
    """
    piece = st.sampled_from(_FRAGMENTS) | st.text(max_size=4)
    token = st.tuples(st.integers(0, vocabulary - 1), piece)
    return st.lists(token, min_size=min_tokens, max_size=max_tokens).map(_stream)


def request_queues(
    *,
    min_requests: int = 1,
    max_requests: int = 12,
    max_prompt_tokens: int = 20,
    max_new_tokens: int = 6,
) -> st.SearchStrategy[list[Request]]:
    """Queues of requests in the order they came, often with prompts of equal length.

    Args:
        min_requests: least length of the queue.
        max_requests: most length of the queue.
        max_prompt_tokens: most tokens of a prompt.
        max_new_tokens: most tokens that a request decodes.

    Example:
        >>> from hypothesis import given
        >>> from skipkv.schedulers import Continuous
        >>> @given(request_queues())
        ... def something_starts_when_nothing_runs(queue):
        ...     assert len(Continuous().admit(queue, free=1, running=0)) == 1
        >>> something_starts_when_nothing_runs()
    """
    sizes = st.tuples(st.integers(1, max_prompt_tokens), st.integers(1, max_new_tokens))
    return st.lists(sizes, min_size=min_requests, max_size=max_requests).map(_queue)


# Any: while strategies draw, a type checker that samples containers would disturb Hypothesis
def _stream(tokens: Any) -> TokenStream:
    return TokenStream(ids=[i for i, _ in tokens], pieces=[piece for _, piece in tokens])


def _queue(sizes: Any) -> Any:
    prompts: list[Any] = [[0] * prompt for prompt, _ in sizes]
    return [
        Request(index=index, prompt=prompt, max_new_tokens=new)
        for index, (prompt, (_, new)) in enumerate(zip(prompts, sizes, strict=True))
    ]
