"""A question with a known answer."""

import attrs

from skipkv._validators import is_a


@attrs.frozen(kw_only=True)
class Problem:
    """One question of a data set.

    Args:
        id: its name in the data set; records refer to it.
        question: the question, without any instruction.
        answer: the final answer alone, as plain text or LaTeX.

    Example:
        >>> Problem(id="0", question="What is 2 + 3?", answer="5").answer
        '5'
    """

    id: str = attrs.field(validator=is_a(str))
    question: str = attrs.field(validator=is_a(str))
    answer: str = attrs.field(validator=is_a(str))
